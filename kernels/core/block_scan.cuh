// Counts a thread, summed over the threads before it.
#pragma once

#include "../arch/warp_primitives.cuh"

namespace retromae {

// The sum of the values of the block's earlier threads; `total` becomes that of all. `scratch` holds an
// integer a warp; it may be used again at once.
template <uint32_t Warps>
RETROMAE_DEVICE uint32_t block_exclusive_sum(uint32_t value, uint32_t* scratch, uint32_t& total) {
    uint32_t sum = value;
    RETROMAE_UNROLL
    for (uint32_t distance = 1; distance < 32; distance *= 2) {
        const uint32_t earlier = warp_shuffle(sum, lane_index() - distance);
        if (lane_index() >= distance) sum += earlier;
    }
    if (lane_index() == 31) scratch[threadIdx.x / 32] = sum;
    __syncthreads();
    total = 0;
    uint32_t before = 0;
    RETROMAE_UNROLL
    for (uint32_t warp = 0; warp < Warps; ++warp) {
        if (warp == threadIdx.x / 32) before = total;
        total += scratch[warp];
    }
    __syncthreads();
    return before + sum - value;
}

}  // namespace retromae
