// The loop of the baseline's elementwise kernels: a pass over an array in groups of 8 elements.
//
// The baseline is what a framework does in eager mode: one elementary operation a launch, every intermediate
// in memory. Its kernels are plain, but not slow on purpose: wide accesses and several of them in flight.
#pragma once

#include "../core/types.cuh"
#include "baseline_params.h"

namespace retromae {

constexpr uint32_t kPassThreads = 256;
constexpr uint32_t kPassGroups = 4;
constexpr uint32_t kPassElements = kPassThreads * kPassGroups * 8;

// Calls `body(first element)` for each of this thread's groups of 8; `count` is a multiple of 8.
template <class Body>
RETROMAE_DEVICE void for_pass(uint64_t count, Body body) {
    const uint64_t start = static_cast<uint64_t>(blockIdx.x) * kPassElements;
    RETROMAE_UNROLL
    for (uint32_t group = 0; group < kPassGroups; ++group) {
        const uint64_t element = start + group_offset(threadIdx.x, kPassThreads, group, kPassGroups, 8);
        if (element < count) body(element);
    }
}

// Launch of a pass over all elements.
struct PassLaunch : Launch<kPassThreads> {
    template <class Params>
    static Grid grid(const Params& params) {
        return {ceil_div(params.count, kPassElements)};
    }
    static Grid grid(const BaselineHeadsParams& params) {
        const uint64_t rows = uint64_t{params.sentences} * params.num_heads * params.length;
        return {ceil_div(rows * params.head_dim, kPassElements)};
    }
    static Grid grid(const BaselineEmbeddingParams& params) {
        return {ceil_div(uint64_t{params.tokens} * params.columns, kPassElements)};
    }
};

}  // namespace retromae
