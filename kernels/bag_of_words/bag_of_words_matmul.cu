// Each token id's largest logit among a sentence's tokens, and the token that has it, from a GEMM whose
// logits are never stored.
//
// A block takes 128 token ids and one sentence. Ids are the rows of its tiles and tokens their columns, 128
// at a time (core/gemm.cuh), so that a maximum runs along a row: over a lane's 16 columns in registers,
// tile after tile, and once, at the end, over the eight lanes that share a row.
//
// 2·T·V·H FLOPs, 6·B·V bytes written; hidden rows are read V / 128 times and weights once a sentence, from
// L2. A sentence costs as much as the next multiple of 128 tokens: against a cuBLASLt GEMM, whose logits
// are written and read, 4·T·V bytes, this is for sentences that nearly fill their tiles.
//
// 57 KB shared memory, 230 registers on sm_80, 233 on sm_90, so two blocks an SM; no spills, no stack.
// Bank conflicts: none; see SharedTile, and the shares' stride.
#include "../core/gemm.cuh"
#include "maximum.cuh"

namespace retromae {

// A row's eight shares are this far apart: the four lanes of a quad meet different groups of 8 banks.
constexpr uint32_t kShareStride = kGemmTile + 8;
constexpr uint32_t kShares = 8;

// The largest logit of each of a lane's rows, and the token position that has it.
struct RunningMaxima {
    float values[kLaneRows];
    uint32_t positions[kLaneRows];

    // Adds logits whose first column is the token at `position`; those from `end` on do not exist.
    RETROMAE_MEMBER void add(const WarpAccumulators& accumulators, uint32_t position, uint32_t end) {
        for_each_accumulator(accumulators, [&](int row, int column, float x) {
            const uint32_t own = position + lane_column(column);
            if (own < end && exceeds(x, values[row])) {
                values[row] = x;
                positions[row] = own;
            }
        });
    }
};

// The maxima of a block's rows from eight lanes each, in shared memory.
struct SharedMaxima {
    float* values;        // [kShares, kShareStride]
    uint32_t* positions;  // [kShares, kShareStride]

    RETROMAE_DEVICE SharedMaxima take(SharedMemory& memory) {
        return {memory.take<float>(kShares * kShareStride), memory.take<uint32_t>(kShares * kShareStride)};
    }
    RETROMAE_MEMBER void put(const RunningMaxima& running) const {
        const uint32_t share = threadIdx.x / 32 % 2 * 4 + lane_index() % 4;
        RETROMAE_UNROLL
        for (int row = 0; row < kLaneRows; ++row) {
            const uint32_t index = share * kShareStride + warp_row() + lane_row(row);
            values[index] = running.values[row];
            positions[index] = running.positions[row];
        }
    }
    // The maximum of row `threadIdx.x`, and the first position that has it.
    RETROMAE_MEMBER float reduce(uint32_t& position) const {
        float maximum = values[threadIdx.x];
        position = positions[threadIdx.x];
        for (uint32_t i = 1; i < kShares; ++i) {
            const float x = values[i * kShareStride + threadIdx.x];
            const uint32_t x_position = positions[i * kShareStride + threadIdx.x];
            if (exceeds(x, maximum) || (x == maximum && x_position < position)) {
                maximum = x;
                position = x_position;
            }
        }
        return maximum;
    }
};

template <class T>
RETROMAE_DEVICE void matmul(const BagOfWordsParams& params) {
    const uint32_t sentence = blockIdx.y;
    const TokenRange tokens = tokens_of(params, sentence);
    const uint32_t first = tokens.start + params.first_position;
    const uint32_t end = tokens.start + tokens.count;
    if (!tokens.valid || first >= end) return;
    const uint32_t first_token_id = blockIdx.x * kGemmTile;
    const uint32_t tiles = (end - first + kGemmTile - 1) / kGemmTile;
    SharedMemory memory = SharedMemory::begin();
    auto stream = GemmStream<T>::begin(
        memory, {pointer<const T>(params.weight), params.hidden_size, first_token_id, params.vocabulary},
        {pointer<const T>(params.hidden), params.hidden_size, first, end}, tiles);
    const SharedMaxima shared = SharedMaxima::take(memory);
    RunningMaxima running;
    RETROMAE_UNROLL
    for (int row = 0; row < kLaneRows; ++row) {
        running.values[row] = -INFINITY;
        running.positions[row] = params.first_position;
    }
    RETROMAE_NO_UNROLL
    for (uint32_t tile = 0; tile < tiles; ++tile) {
        WarpAccumulators accumulators;
        stream.multiply(accumulators);
        running.add(accumulators, params.first_position + tile * kGemmTile + warp_column(), tokens.count);
    }
    copy_async_wait<0>();
    shared.put(running);
    __syncthreads();
    const uint32_t token_id = first_token_id + threadIdx.x;
    if (token_id >= params.vocabulary) return;
    uint32_t position;
    const float maximum = shared.reduce(position);
    const uint64_t index = static_cast<uint64_t>(sentence) * params.stride + token_id;
    pointer<float>(params.maxima)[index] = maximum + element_or(params.bias, token_id, 0.0f);
    pointer<uint16_t>(params.positions)[index] = static_cast<uint16_t>(position);
}

// One block per tile of the vocabulary and sentence.
template <class T>
struct BagMatmulLaunch : Launch<kGemmThreads> {
    static Grid grid(const BagOfWordsParams& params) {
        return {ceil_div(params.vocabulary, kGemmTile), params.sentences};
    }
    static uint64_t shared_bytes(const BagOfWordsParams&) {
        return gemm_bytes<T>() + taken_bytes<float>(kShares * kShareStride) +
               taken_bytes<uint32_t>(kShares * kShareStride);
    }
};

RETROMAE_KERNEL(bag_of_words_matmul_bf16, BagOfWordsParams, BagMatmulLaunch<bf16>) {
    matmul<bf16>(params);
}
RETROMAE_KERNEL(bag_of_words_matmul_f16, BagOfWordsParams, BagMatmulLaunch<f16>) {
    matmul<f16>(params);
}

}  // namespace retromae
