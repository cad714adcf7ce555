// Masked attention over packed sentences, backward. With P = softmax(scale · Q Kᵀ + mask), F the dropout
// factors and δ = rowsum(dO ∘ O):
//     dV = (P ∘ F)ᵀ dO,   dS = P ∘ (dO Vᵀ ∘ F − δ),   dQ = scale · dS K,   dK = scale · dSᵀ Q
//
// Two kernels, so that every gradient is summed in one place and in one order, without atomics or workspace:
// `key_value` owns 64 keys and walks over the queries; `query` owns a query tile and walks over the keys.
// Both recompute P from the saved log-sum-exp, and δ from O. 14·L²·d FLOPs a head against 10 for one fused
// kernel: the price of determinism at any length.
//
// Tiles: 64 queries × 64 keys (32 × 64 at d = 128), 128 threads; a thread scores 2 (1) queries × 16 keys,
// then accumulates 2 keys × d/4 of dK and dV, or 2 (1) queries × d/4 of dQ. Shared memory: Q, dO, Kᵀ, Vᵀ and
// two score tiles: 106 KB at d = 64, 121 KB at d = 128.
#include "attention.cuh"

namespace retromae {

template <int D>
using BackwardRows = QueryRows<D == 128 ? 32 : 64>;

// Shared memory of both kernels.
template <int D>
struct BackwardTiles {
    static constexpr int kQueryTile = BackwardRows<D>::tile;
    static constexpr int kScoreStride = kKeyTile + kPad;
    float* queries;        // [kQueryTile, D + kPad]
    float* d_outputs;      // [kQueryTile, D + kPad]
    float* keys;           // [D, kKeyTile + kPad]
    float* values;         // [D, kKeyTile + kPad], or keys again as [kKeyTile, D + kPad]
    float* probabilities;  // [kQueryTile, kScoreStride], dropped
    float* d_scores;       // [kQueryTile, kScoreStride]

    RETROMAE_DEVICE BackwardTiles take(SharedMemory memory) {
        constexpr int key_floats = kKeyTile * D + kPad * (D > kKeyTile ? D : kKeyTile);
        BackwardTiles tiles;
        tiles.queries = memory.take<float>(kQueryTile * (D + kPad));
        tiles.d_outputs = memory.take<float>(kQueryTile * (D + kPad));
        tiles.keys = memory.take<float>(key_floats);
        tiles.values = memory.take<float>(key_floats);
        tiles.probabilities = memory.take<float>(kQueryTile * kScoreStride);
        tiles.d_scores = memory.take<float>(kQueryTile * kScoreStride);
        return tiles;
    }
};

// The operands of one head of the block's sentence.
template <class T>
struct BackwardOperands {
    const T* query;
    const T* key;
    const T* value;
    const T* output;
    const T* d_output;
    const float* log_sum_exp;

    RETROMAE_DEVICE BackwardOperands locate(const AttentionBackwardParams& params,
                                            const AttentionBlock& block, int d) {
        const AttentionForwardParams& forward = params.forward;
        const uint64_t first = block.start;
        const uint32_t head = block.head * d;
        return {pointer<const T>(forward.query) + first * forward.query_stride + head,
                pointer<const T>(forward.key) + first * forward.key_stride + head,
                pointer<const T>(forward.value) + first * forward.value_stride + head,
                pointer<const T>(forward.output) + first * forward.output_stride + head,
                pointer<const T>(params.d_output) + first * forward.output_stride + head,
                pointer<const float>(forward.log_sum_exp) +
                    static_cast<uint64_t>(block.head) * forward.tokens + first};
    }
};

// δ and the log-sum-exp of this thread's rows. A row beyond the sentence or without a visible key gets +inf,
// which makes its probabilities 0.
template <int Rows, int D, class T>
RETROMAE_DEVICE void load_row_statistics(const BackwardTiles<D>& tiles, const BackwardOperands<T>& operands,
                                         uint32_t output_stride, uint32_t tile_start, uint32_t row,
                                         uint32_t length, float (&delta)[Rows], float (&log_sums)[Rows]) {
    constexpr int kColumns = D / kThreadsPerRow;
    const uint32_t column = threadIdx.x % kThreadsPerRow * kColumns;
    RETROMAE_UNROLL
    for (int r = 0; r < Rows; ++r) {
        const uint32_t slot = tile_start + row + r;
        delta[r] = 0.0f;
        log_sums[r] = INFINITY;
        if (slot >= length) continue;
        const float log_sum_exp = operands.log_sum_exp[slot];
        if (log_sum_exp != -INFINITY) log_sums[r] = log_sum_exp;
        const T* output = operands.output + static_cast<uint64_t>(slot) * output_stride + column;
        const float* d_output = tiles.d_outputs + (row + r) * (D + kPad) + column;
        RETROMAE_UNROLL
        for (int first = 0; first < kColumns; first += 8) {
            float values[8];
            load(output + first, values);
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) delta[r] = fmaf(values[i], d_output[first + i], delta[r]);
        }
    }
    warp_butterfly<Sum, kThreadsPerRow>(delta);
}

// Fills the score tiles for this thread's rows × 16 keys: P ∘ F and dS, without the factor `scale`.
template <int Rows, int D, class Mask>
RETROMAE_DEVICE void score_tile(const AttentionForwardParams& params, const AttentionBlock& block,
                                const Mask& mask, const BackwardTiles<D>& tiles, uint32_t query_start,
                                uint32_t key_start, uint32_t row, const float (&delta)[Rows],
                                const float (&log_sums)[Rows]) {
    constexpr int kScoreStride = BackwardTiles<D>::kScoreStride;
    const uint32_t key_offset = threadIdx.x % kThreadsPerRow * kKeysPerThread;
    const uint32_t first_key = key_start + key_offset;
    const uint32_t existing = query_start + row < block.length ? existing_keys(first_key, block.length) : 0u;
    float scores[Rows][16] = {}, d_probabilities[Rows][16] = {};
    if (existing != 0) {
        multiply<Rows, D>(tiles.queries + row * (D + kPad), tiles.keys + key_offset, scores);
        multiply<Rows, D>(tiles.d_outputs + row * (D + kPad), tiles.values + key_offset, d_probabilities);
    }
    RETROMAE_UNROLL
    for (int r = 0; r < Rows; ++r) {
        const uint32_t slot = query_start + row + r;
        const uint32_t visible =
            existing != 0 && slot < block.length ? existing & mask.visible(slot, first_key) : 0u;
        float factors[16], d_scores[16];
        RETROMAE_UNROLL
        for (int c = 0; c < 16; ++c) {
            const float probability =
                exp2_approximate(fmaf(scores[r][c], params.scale, -log_sums[r]) * kLog2E);
            scores[r][c] = visible >> c & 1u ? probability : 0.0f;
            factors[c] = 1.0f;
        }
        if (visible != 0)
            apply_dropout(params.dropout, block.head, block.start + slot, first_key / 16, factors);
        RETROMAE_UNROLL
        for (int c = 0; c < 16; ++c) {
            d_scores[c] = scores[r][c] * fmaf(d_probabilities[r][c], factors[c], -delta[r]);
            scores[r][c] *= factors[c];
        }
        store(tiles.probabilities + (row + r) * kScoreStride + key_offset, scores[r]);
        store(tiles.d_scores + (row + r) * kScoreStride + key_offset, d_scores);
    }
}

template <class T, int D, class Mask>
RETROMAE_DEVICE void attention_backward_key_value(const AttentionBackwardParams& params) {
    using Rows = BackwardRows<D>;
    constexpr int kColumns = D / kThreadsPerRow;
    constexpr int kKeys = kKeyTile * kThreadsPerRow / static_cast<int>(kAttentionThreads);
    constexpr int kScoreStride = BackwardTiles<D>::kScoreStride;
    const AttentionForwardParams& forward = params.forward;
    const AttentionBlock block = AttentionBlock::locate(forward, kKeyTile);
    if (block.empty()) return;
    const Mask mask = Mask::make(forward, block);
    const BackwardOperands<T> operands = BackwardOperands<T>::locate(params, block, D);
    const BackwardTiles<D> tiles = BackwardTiles<D>::take(SharedMemory::begin());

    const uint32_t row = threadIdx.x / kThreadsPerRow * Rows::rows;
    const uint32_t owned_key = threadIdx.x / kThreadsPerRow * kKeys;
    const uint32_t column = threadIdx.x % kThreadsPerRow * kColumns;
    Strip<kColumns> d_key[kKeys], d_value[kKeys];
    RETROMAE_UNROLL
    for (int k = 0; k < kKeys; ++k) {
        d_key[k].fill(0.0f);
        d_value[k].fill(0.0f);
    }

    load_transposed<kKeyTile, D>(tiles.keys, operands.key, forward.key_stride, block.tile_start,
                                 block.length);
    load_transposed<kKeyTile, D>(tiles.values, operands.value, forward.value_stride, block.tile_start,
                                 block.length);
    for (uint32_t query_start = 0; query_start < block.length; query_start += Rows::tile) {
        if (query_start > 0) __syncthreads();  // the last tile is still being read
        load_rows<Rows::tile, D>(tiles.queries, operands.query, forward.query_stride, query_start,
                                 block.length);
        load_rows<Rows::tile, D>(tiles.d_outputs, operands.d_output, forward.output_stride, query_start,
                                 block.length);
        __syncthreads();
        float delta[Rows::rows], log_sums[Rows::rows];
        load_row_statistics<Rows::rows, D>(tiles, operands, forward.output_stride, query_start, row,
                                           block.length, delta, log_sums);
        score_tile<Rows::rows, D>(forward, block, mask, tiles, query_start, block.tile_start, row, delta,
                                  log_sums);
        __syncthreads();
        const uint32_t queries_left = block.length - query_start;
        const uint32_t count = queries_left < Rows::tile ? queries_left : Rows::tile;
        if (block.tile_start + owned_key < block.length) {
            for (uint32_t i = 0; i < count; ++i) {
                const float* probabilities = tiles.probabilities + i * kScoreStride + owned_key;
                const float* d_scores = tiles.d_scores + i * kScoreStride + owned_key;
                RETROMAE_UNROLL
                for (int k = 0; k < kKeys; ++k) {
                    d_value[k].fma(probabilities[k], tiles.d_outputs + i * (D + kPad) + column);
                    d_key[k].fma(d_scores[k], tiles.queries + i * (D + kPad) + column);
                }
            }
        }
    }

    RETROMAE_UNROLL
    for (int k = 0; k < kKeys; ++k) {
        const uint32_t slot = block.tile_start + owned_key + k;
        if (slot >= block.length) continue;
        const uint64_t token = block.start + slot;
        const uint32_t head_column = block.head * D + column;
        store_strip(pointer<T>(params.d_key) + token * params.d_key_stride + head_column, d_key[k],
                    forward.scale);
        store_strip(pointer<T>(params.d_value) + token * params.d_value_stride + head_column, d_value[k],
                    1.0f);
    }
}

template <class T, int D, class Mask>
RETROMAE_DEVICE void attention_backward_query(const AttentionBackwardParams& params) {
    using Rows = BackwardRows<D>;
    constexpr int kColumns = D / kThreadsPerRow;
    constexpr int kScoreStride = BackwardTiles<D>::kScoreStride;
    const AttentionForwardParams& forward = params.forward;
    const AttentionBlock block = AttentionBlock::locate(forward, Rows::tile);
    if (block.empty()) return;
    const Mask mask = Mask::make(forward, block);
    const BackwardOperands<T> operands = BackwardOperands<T>::locate(params, block, D);
    const BackwardTiles<D> tiles = BackwardTiles<D>::take(SharedMemory::begin());

    const uint32_t row = threadIdx.x / kThreadsPerRow * Rows::rows;
    const uint32_t column = threadIdx.x % kThreadsPerRow * kColumns;
    const bool active = block.tile_start + row < block.length;
    Strip<kColumns> d_query[Rows::rows];
    RETROMAE_UNROLL
    for (int r = 0; r < Rows::rows; ++r) d_query[r].fill(0.0f);

    load_rows<Rows::tile, D>(tiles.queries, operands.query, forward.query_stride, block.tile_start,
                             block.length);
    load_rows<Rows::tile, D>(tiles.d_outputs, operands.d_output, forward.output_stride, block.tile_start,
                             block.length);
    __syncthreads();
    float delta[Rows::rows], log_sums[Rows::rows];
    load_row_statistics<Rows::rows, D>(tiles, operands, forward.output_stride, block.tile_start, row,
                                       block.length, delta, log_sums);
    for (uint32_t key_start = 0; key_start < block.length; key_start += kKeyTile) {
        if (key_start > 0) __syncthreads();  // the last tile is still being read
        load_transposed<kKeyTile, D>(tiles.keys, operands.key, forward.key_stride, key_start, block.length);
        load_transposed<kKeyTile, D>(tiles.values, operands.value, forward.value_stride, key_start,
                                     block.length);
        __syncthreads();
        score_tile<Rows::rows, D>(forward, block, mask, tiles, block.tile_start, key_start, row, delta,
                                  log_sums);
        __syncthreads();
        float* key_rows = tiles.values;
        load_rows<kKeyTile, D>(key_rows, operands.key, forward.key_stride, key_start, block.length);
        __syncthreads();
        const uint32_t keys_left = block.length - key_start;
        const uint32_t count = keys_left < kKeyTile ? keys_left : kKeyTile;
        if (active) {
            for (uint32_t j = 0; j < count; ++j) {
                RETROMAE_UNROLL
                for (int r = 0; r < Rows::rows; ++r)
                    d_query[r].fma(tiles.d_scores[(row + r) * kScoreStride + j],
                                   key_rows + j * (D + kPad) + column);
            }
        }
    }

    RETROMAE_UNROLL
    for (int r = 0; r < Rows::rows; ++r) {
        const uint32_t slot = block.tile_start + row + r;
        if (slot >= block.length) continue;
        const uint64_t token = block.start + slot;
        store_strip(pointer<T>(params.d_query) + token * params.d_query_stride + block.head * D + column,
                    d_query[r], forward.scale);
    }
}

#define RETROMAE_ATTENTION_BACKWARD(part, mask_name, Mask, dtype, T, d)                                \
    RETROMAE_KERNEL(attention_backward_##part##_##mask_name##_##dtype##_d##d, AttentionBackwardParams, \
                    kAttentionThreads) {                                                               \
        attention_backward_##part<T, d, Mask>(params);                                                 \
    }
#define RETROMAE_ATTENTION_BACKWARD_PARTS(mask_name, Mask, dtype, T, d)  \
    RETROMAE_ATTENTION_BACKWARD(key_value, mask_name, Mask, dtype, T, d) \
    RETROMAE_ATTENTION_BACKWARD(query, mask_name, Mask, dtype, T, d)
#define RETROMAE_ATTENTION_BACKWARD_ALL(mask_name, Mask)                \
    RETROMAE_ATTENTION_BACKWARD_PARTS(mask_name, Mask, f32, float, 32)  \
    RETROMAE_ATTENTION_BACKWARD_PARTS(mask_name, Mask, f32, float, 64)  \
    RETROMAE_ATTENTION_BACKWARD_PARTS(mask_name, Mask, f32, float, 128) \
    RETROMAE_ATTENTION_BACKWARD_PARTS(mask_name, Mask, bf16, bf16, 32)  \
    RETROMAE_ATTENTION_BACKWARD_PARTS(mask_name, Mask, bf16, bf16, 64)  \
    RETROMAE_ATTENTION_BACKWARD_PARTS(mask_name, Mask, bf16, bf16, 128)

RETROMAE_ATTENTION_BACKWARD_ALL(full, FullMask)
RETROMAE_ATTENTION_BACKWARD_ALL(bank, BankMask)

}  // namespace retromae
