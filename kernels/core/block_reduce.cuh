// One value a thread, reduced over the block.
#pragma once

#include "../arch/warp_primitives.cuh"

namespace retromae {

// Every thread of the `Warps` warps gets the result, in an order that never changes. `scratch` holds a float
// a warp; it may be used again at once.
template <class Operation, uint32_t Warps>
RETROMAE_DEVICE float block_reduce(float value, float* scratch) {
    float reduced[1] = {value};
    warp_butterfly<Operation, 32>(reduced);
    if (lane_index() == 0) scratch[threadIdx.x / 32] = reduced[0];
    __syncthreads();
    float total = scratch[0];
    RETROMAE_UNROLL
    for (uint32_t warp = 1; warp < Warps; ++warp) total = Operation::apply(total, scratch[warp]);
    __syncthreads();
    return total;
}

}  // namespace retromae
