// Sums: output[block] = Σ x or Σ x² over the elements of a block, in an order that never changes.
//
// Reads 4 bytes and does 1 or 2 FLOPs an element, so bound by memory. A thread adds 8 consecutive elements
// (two 16-byte loads) to 8 sums of its own and has 4 such groups in flight; 256 threads make the tile 8192
// elements, and a block walks whole tiles. The first launch leaves one partial a block, the second, of one
// block, adds the partials. No atomics: the grouping depends on the count alone, so equal inputs give equal
// bits. Each sum has few terms, then a tree, so the error grows with about count / 2048 at worst and with its
// logarithm in a long reduction's tree.
#include "../arch/warp_primitives.cuh"
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kReduceThreads = 256;
constexpr uint32_t kReduceWarps = kReduceThreads / 32;
constexpr uint32_t kReduceGroups = 4;
constexpr uint32_t kReduceTile = kReduceThreads * kReduceGroups * 8;

struct Identity {
    RETROMAE_DEVICE float apply(float x) { return x; }
};
struct Square {
    RETROMAE_DEVICE float apply(float x) { return x * x; }
};

// Adds the elements of [start, end), at most 8, to `sums`.
template <class Term>
RETROMAE_DEVICE void add_group(const float* input, uint64_t start, uint64_t end, float (&sums)[8]) {
    if (start + 8 <= end) {
        float x[8];
        load(input + start, x);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) sums[i] += Term::apply(x[i]);
    } else {
        for (uint64_t element = start; element < end; ++element) sums[0] += Term::apply(input[element]);
    }
}

template <class Term>
RETROMAE_DEVICE void reduce(const ReduceParams& params) {
    const float* input = pointer<const float>(params.input);
    const uint64_t start = static_cast<uint64_t>(blockIdx.x) * params.elements_per_block;
    const uint64_t block_end = start + params.elements_per_block;
    const uint64_t end = block_end < params.count ? block_end : params.count;
    float sums[8] = {};
    for (uint64_t tile = start; tile < end; tile += kReduceTile) {
        RETROMAE_UNROLL
        for (uint32_t group = 0; group < kReduceGroups; ++group)
            add_group<Term>(input, tile + (group * kReduceThreads + threadIdx.x) * 8u, end, sums);
    }
    float sum[1] = {((sums[0] + sums[1]) + (sums[2] + sums[3])) +
                    ((sums[4] + sums[5]) + (sums[6] + sums[7]))};
    warp_butterfly<Sum, 32>(sum);

    float* warp_sums = SharedMemory::begin().take<float>(kReduceWarps);
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum[0];
    __syncthreads();
    if (threadIdx.x == 0) {
        float* output = pointer<float>(params.output) + blockIdx.x;
        float total = 0.0f;
        RETROMAE_UNROLL
        for (uint32_t warp = 0; warp < kReduceWarps; ++warp) total += warp_sums[warp];
        *output = params.accumulate != 0 ? *output + total : total;
    }
}

RETROMAE_KERNEL(reduce_sum_f32, ReduceParams, kReduceThreads) {
    reduce<Identity>(params);
}
RETROMAE_KERNEL(reduce_squares_f32, ReduceParams, kReduceThreads) {
    reduce<Square>(params);
}

}  // namespace retromae
