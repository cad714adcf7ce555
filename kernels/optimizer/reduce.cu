// Sums: output[block] = Σ x or Σ x² over the elements of a block, in an order that never changes.
//
// Reads 4 bytes and does 1 or 2 FLOPs an element, so bound by memory. A thread adds quads (16-byte loads, the
// neighboring lane's beside them) to 4 sums of its own and loads 8 of them before it adds them; 256 threads
// make the tile 8192 elements, and a block walks whole tiles. The first launch leaves one partial a block,
// the second, of one block, adds the partials. No atomics: the grouping depends on the count alone, so equal
// inputs give equal bits. Each sum has few terms, then a tree, so the error grows with about count / 1024 at
// worst and with its logarithm in a long reduction's tree. nvcc 13.0's code for sm_90a, where a thread's two
// loads left a gap each and were waited for: 48 → 75 registers, 5 → 3 blocks an SM, 2 → 8 loads in flight.
#include "../arch/warp_primitives.cuh"
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kReduceThreads = 256;
constexpr uint32_t kReduceWarps = kReduceThreads / 32;
constexpr uint32_t kReduceQuads = 8;
constexpr uint32_t kReduceTile = kReduceThreads * kReduceQuads * 4;

struct Identity {
    RETROMAE_DEVICE float apply(float x) { return x; }
};
struct Square {
    RETROMAE_DEVICE float apply(float x) { return x * x; }
};

// Adds this thread's elements of the tile that begins at `tile`, as far as they are before `end`.
template <class Term>
RETROMAE_DEVICE void add_tile(const float* input, uint64_t tile, uint64_t end, float (&sums)[4]) {
    const auto quad_start = [&](uint32_t quad) { return tile + (quad * kReduceThreads + threadIdx.x) * 4u; };
    float x[kReduceQuads][4] = {};
    if (tile + kReduceTile <= end) {
        RETROMAE_UNROLL
        for (uint32_t quad = 0; quad < kReduceQuads; ++quad) load(input + quad_start(quad), x[quad]);
    } else {
        RETROMAE_UNROLL
        for (uint32_t quad = 0; quad < kReduceQuads; ++quad) {
            RETROMAE_UNROLL
            for (uint32_t i = 0; i < 4; ++i)
                if (quad_start(quad) + i < end) x[quad][i] = input[quad_start(quad) + i];
        }
    }
    RETROMAE_UNROLL
    for (uint32_t quad = 0; quad < kReduceQuads; ++quad) {
        RETROMAE_UNROLL
        for (int i = 0; i < 4; ++i) sums[i] += Term::apply(x[quad][i]);
    }
}

template <class Term>
RETROMAE_DEVICE void reduce(const ReduceParams& params) {
    const float* input = pointer<const float>(params.input);
    const uint64_t start = static_cast<uint64_t>(blockIdx.x) * params.elements_per_block;
    const uint64_t block_end = start + params.elements_per_block;
    const uint64_t end = block_end < params.count ? block_end : params.count;
    float sums[4] = {};
    for (uint64_t tile = start; tile < end; tile += kReduceTile) add_tile<Term>(input, tile, end, sums);
    float sum[1] = {(sums[0] + sums[1]) + (sums[2] + sums[3])};
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

// An empty array still has one block, which writes a zero.
struct ReduceLaunch : Launch<kReduceThreads> {
    static Grid grid(const ReduceParams& params) {
        const uint64_t blocks = ceil_div(params.count, params.elements_per_block);
        return {blocks > 0 ? blocks : 1};
    }
    static uint64_t shared_bytes(const ReduceParams&) { return taken_bytes<float>(kReduceWarps); }
};

RETROMAE_KERNEL(reduce_sum, ReduceParams, ReduceLaunch) {
    reduce<Identity>(params);
}
RETROMAE_KERNEL(reduce_squares, ReduceParams, ReduceLaunch) {
    reduce<Square>(params);
}

}  // namespace retromae
