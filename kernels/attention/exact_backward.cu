// Masked attention over packed sentences, backward. With P = softmax(scale · Q Kᵀ + mask), F the dropout
// factors and δ = rowsum(dO ∘ O):
//     dV = (P ∘ F)ᵀ dO,   dS = P ∘ (dO Vᵀ ∘ F − δ),   dQ = scale · dS K,   dK = scale · dSᵀ Q
//
// Two kernels, so that every gradient is summed in one place and in one order, without atomics or workspace:
// `key_value` owns 64 keys and walks over the queries; `query` owns a query tile and walks over the keys.
// Both recompute P from the saved log-sum-exp, and δ from O. 14·L²·d FLOPs a head against 10 for one fused
// kernel: the price of determinism at any length.
//
// Tiles: 64 queries × 64 keys (32 × 64 from d = 96 on), 128 threads; a thread scores 2 (1) queries × 16 keys,
// then accumulates 2 keys × d/4 of dK and dV, or 2 (1) queries × d/4 of dQ. Shared memory: Q, dO, Kᵀ, Vᵀ and
// two score tiles: 106 KB at d = 64, 121 KB at d = 128.
#include "exact.cuh"

namespace retromae {

template <int D>
using BackwardRows = ExactRows<(D > 64) ? 32 : 64>;

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

    static constexpr uint64_t kBytes = 2 * taken_bytes<float>(kQueryTile * (D + kPad)) +
                                       2 * taken_bytes<float>(kExactKeyFloats<D>) +
                                       2 * taken_bytes<float>(kQueryTile * kScoreStride);

    RETROMAE_DEVICE BackwardTiles take(SharedMemory memory) {
        BackwardTiles tiles;
        tiles.queries = memory.take<float>(kQueryTile * (D + kPad));
        tiles.d_outputs = memory.take<float>(kQueryTile * (D + kPad));
        tiles.keys = memory.take<float>(kExactKeyFloats<D>);
        tiles.values = memory.take<float>(kExactKeyFloats<D>);
        tiles.probabilities = memory.take<float>(kQueryTile * kScoreStride);
        tiles.d_scores = memory.take<float>(kQueryTile * kScoreStride);
        return tiles;
    }
};

// δ and the log-sum-exp of this thread's rows. A row beyond the sentence or without a visible key gets +inf,
// which makes its probabilities 0.
template <int Rows, int D>
RETROMAE_DEVICE void load_row_statistics(const BackwardTiles<D>& tiles,
                                         const BackwardOperands<float>& operands, uint32_t output_stride,
                                         uint32_t tile_start, uint32_t row, uint32_t queries,
                                         float (&delta)[Rows], float (&log_sums)[Rows]) {
    constexpr int kColumns = D / kThreadsPerRow;
    const uint32_t column = threadIdx.x % kThreadsPerRow * kColumns;
    RETROMAE_UNROLL
    for (int r = 0; r < Rows; ++r) {
        const uint32_t query = tile_start + row + r;
        delta[r] = 0.0f;
        log_sums[r] = INFINITY;
        if (query >= queries) continue;
        const float log_sum_exp = operands.log_sum_exp[query];
        if (log_sum_exp != -INFINITY) log_sums[r] = log_sum_exp;
        const float* output = operands.output + static_cast<uint64_t>(query) * output_stride + column;
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
RETROMAE_DEVICE void score_tile(const AttentionForwardParams& params, const Sentence& sentence, uint32_t head,
                                const Mask& mask, const BackwardTiles<D>& tiles, uint32_t query_start,
                                uint32_t key_start, uint32_t row, const float (&delta)[Rows],
                                const float (&log_sums)[Rows]) {
    constexpr int kScoreStride = BackwardTiles<D>::kScoreStride;
    const uint32_t key_offset = threadIdx.x % kThreadsPerRow * kKeysPerThread;
    const uint32_t first_key = key_start + key_offset;
    const bool existing = query_start + row < sentence.queries && first_key < sentence.keys;
    float scores[Rows][16] = {}, d_probabilities[Rows][16] = {};
    if (existing) {
        multiply<Rows, D>(tiles.queries + row * (D + kPad), tiles.keys + key_offset, scores);
        multiply<Rows, D>(tiles.d_outputs + row * (D + kPad), tiles.values + key_offset, d_probabilities);
    }
    RETROMAE_UNROLL
    for (int r = 0; r < Rows; ++r) {
        const uint32_t query = query_start + row + r;
        const bool exists = existing && query < sentence.queries;
        const uint32_t slot = exists ? sentence.slot(params, query) : 0;
        const uint32_t visible = exists ? visible_keys(mask, slot, first_key) : 0u;
        float factors[16], d_scores[16];
        RETROMAE_UNROLL
        for (int c = 0; c < 16; ++c) {
            const float probability =
                exp2_approximate(fmaf(scores[r][c], params.scale, -log_sums[r]) * kLog2E);
            scores[r][c] = visible >> c & 1u ? probability : 0.0f;
            factors[c] = 1.0f;
        }
        if (visible != 0) apply_dropout(params.dropout, head, sentence.token(slot), first_key / 16, factors);
        RETROMAE_UNROLL
        for (int c = 0; c < 16; ++c) {
            d_scores[c] = scores[r][c] * fmaf(d_probabilities[r][c], factors[c], -delta[r]);
            scores[r][c] *= factors[c];
        }
        store(tiles.probabilities + (row + r) * kScoreStride + key_offset, scores[r]);
        store(tiles.d_scores + (row + r) * kScoreStride + key_offset, d_scores);
    }
}

template <int D, class Mask>
RETROMAE_DEVICE void exact_backward_key_value(const AttentionBackwardParams& params) {
    using Rows = BackwardRows<D>;
    constexpr int kColumns = D / kThreadsPerRow;
    constexpr int kKeys = kKeyTile * kThreadsPerRow / static_cast<int>(kAttentionThreads);
    constexpr int kScoreStride = BackwardTiles<D>::kScoreStride;
    const AttentionForwardParams& forward = params.forward;
    const SentenceTile tile = SentenceTile::locate<kKeyTile>(forward.key_cu_seqlens, forward.keys, forward);
    const Sentence sentence = Sentence::at(forward, tile.sentence);
    if (tile.start >= sentence.keys) return;
    const uint32_t head = block_head(forward);
    if (!sentence.exists) return write_absent_keys<float, D>(params, sentence, head, tile.start, kKeyTile);
    SharedMemory memory = SharedMemory::begin();
    const Mask mask = Mask::make(forward, sentence, memory);
    const auto operands = BackwardOperands<float>::locate(params, sentence, head, D);
    const BackwardTiles<D> tiles = BackwardTiles<D>::take(memory);

    const uint32_t row = threadIdx.x / kThreadsPerRow * Rows::rows;
    const uint32_t owned_key = threadIdx.x / kThreadsPerRow * kKeys;
    const uint32_t column = threadIdx.x % kThreadsPerRow * kColumns;
    Strip<kColumns> d_key[kKeys], d_value[kKeys];
    RETROMAE_UNROLL
    for (int k = 0; k < kKeys; ++k) {
        d_key[k].fill(0.0f);
        d_value[k].fill(0.0f);
    }

    load_transposed<kKeyTile, D>(tiles.keys, operands.key, forward.key_stride, tile.start, sentence.keys);
    load_transposed<kKeyTile, D>(tiles.values, operands.value, forward.value_stride, tile.start,
                                 sentence.keys);
    for (uint32_t query_start = 0; query_start < sentence.queries; query_start += Rows::tile) {
        if (query_start > 0) __syncthreads();  // the last tile is still being read
        load_rows<Rows::tile, D>(tiles.queries, operands.query, forward.query_stride, query_start,
                                 sentence.queries);
        load_rows<Rows::tile, D>(tiles.d_outputs, operands.d_output, forward.output_stride, query_start,
                                 sentence.queries);
        __syncthreads();
        float delta[Rows::rows], log_sums[Rows::rows];
        load_row_statistics<Rows::rows, D>(tiles, operands, forward.output_stride, query_start, row,
                                           sentence.queries, delta, log_sums);
        score_tile<Rows::rows, D>(forward, sentence, head, mask, tiles, query_start, tile.start, row, delta,
                                  log_sums);
        __syncthreads();
        const uint32_t queries_left = sentence.queries - query_start;
        const uint32_t count = queries_left < Rows::tile ? queries_left : Rows::tile;
        if (tile.start + owned_key < sentence.keys) {
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
        const uint32_t slot = tile.start + owned_key + k;
        if (slot >= sentence.keys) continue;
        const uint32_t head_column = head * D + column;
        store_strip(sentence.key_rows<float>(params.d_key, params.d_key_stride, head_column, slot), d_key[k],
                    forward.scale);
        store_strip(sentence.key_rows<float>(params.d_value, params.d_value_stride, head_column, slot),
                    d_value[k], 1.0f);
    }
}

template <int D, class Mask>
RETROMAE_DEVICE void exact_backward_query(const AttentionBackwardParams& params) {
    using Rows = BackwardRows<D>;
    constexpr int kColumns = D / kThreadsPerRow;
    constexpr int kScoreStride = BackwardTiles<D>::kScoreStride;
    const AttentionForwardParams& forward = params.forward;
    const SentenceTile tile =
        SentenceTile::locate<Rows::tile>(forward.query_cu_seqlens, forward.queries, forward);
    const Sentence sentence = Sentence::at(forward, tile.sentence);
    if (tile.start >= sentence.queries) return;
    const uint32_t head = block_head(forward);
    if (!sentence.exists)
        return write_absent_queries<float, D>(params, sentence, head, tile.start, Rows::tile);
    SharedMemory memory = SharedMemory::begin();
    const Mask mask = Mask::make(forward, sentence, memory);
    const auto operands = BackwardOperands<float>::locate(params, sentence, head, D);
    const BackwardTiles<D> tiles = BackwardTiles<D>::take(memory);

    const uint32_t row = threadIdx.x / kThreadsPerRow * Rows::rows;
    const uint32_t column = threadIdx.x % kThreadsPerRow * kColumns;
    const bool active = tile.start + row < sentence.queries;
    Strip<kColumns> d_query[Rows::rows];
    RETROMAE_UNROLL
    for (int r = 0; r < Rows::rows; ++r) d_query[r].fill(0.0f);

    load_rows<Rows::tile, D>(tiles.queries, operands.query, forward.query_stride, tile.start,
                             sentence.queries);
    load_rows<Rows::tile, D>(tiles.d_outputs, operands.d_output, forward.output_stride, tile.start,
                             sentence.queries);
    __syncthreads();
    float delta[Rows::rows], log_sums[Rows::rows];
    load_row_statistics<Rows::rows, D>(tiles, operands, forward.output_stride, tile.start, row,
                                       sentence.queries, delta, log_sums);
    for (uint32_t key_start = 0; key_start < sentence.keys; key_start += kKeyTile) {
        if (key_start > 0) __syncthreads();  // the last tile is still being read
        load_transposed<kKeyTile, D>(tiles.keys, operands.key, forward.key_stride, key_start, sentence.keys);
        load_transposed<kKeyTile, D>(tiles.values, operands.value, forward.value_stride, key_start,
                                     sentence.keys);
        __syncthreads();
        score_tile<Rows::rows, D>(forward, sentence, head, mask, tiles, tile.start, key_start, row, delta,
                                  log_sums);
        __syncthreads();
        float* key_rows = tiles.values;
        load_rows<kKeyTile, D>(key_rows, operands.key, forward.key_stride, key_start, sentence.keys);
        __syncthreads();
        const uint32_t keys_left = sentence.keys - key_start;
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
        const uint32_t query = tile.start + row + r;
        if (query >= sentence.queries) continue;
        store_strip(
            sentence.query_rows<float>(params.d_query, params.d_query_stride, head * D + column, query),
            d_query[r], forward.scale);
    }
}

template <int D, class Mask>
struct ExactBackwardLaunch : Launch<kAttentionThreads> {
    static uint64_t shared_bytes(const AttentionBackwardParams& params) {
        return bytes_with_mask<Mask>(params.forward, BackwardTiles<D>::kBytes);
    }
};
// A tile of keys a block.
template <int D, class Mask>
struct exact_backward_key_value_launch : ExactBackwardLaunch<D, Mask> {
    static Grid grid(const AttentionBackwardParams& params) {
        return tiles_grid(params.forward, params.forward.keys, kKeyTile);
    }
};
// A tile of queries a block.
template <int D, class Mask>
struct exact_backward_query_launch : ExactBackwardLaunch<D, Mask> {
    static Grid grid(const AttentionBackwardParams& params) {
        return tiles_grid(params.forward, params.forward.queries, BackwardRows<D>::tile);
    }
};

#define RETROMAE_EXACT_BACKWARD(part, mask_name, Mask, T, d)                                       \
    RETROMAE_KERNEL(attention_backward_##part##_##mask_name##_##T##_d##d, AttentionBackwardParams, \
                    exact_backward_##part##_launch<d, Mask>) {                                     \
        exact_backward_##part<d, Mask>(params);                                                    \
    }

RETROMAE_ATTENTION_DIMS(RETROMAE_EXACT_BACKWARD, key_value, full, FullMask, f32)
RETROMAE_ATTENTION_DIMS(RETROMAE_EXACT_BACKWARD, key_value, masked, AnyMask, f32)
RETROMAE_ATTENTION_DIMS(RETROMAE_EXACT_BACKWARD, query, full, FullMask, f32)
RETROMAE_ATTENTION_DIMS(RETROMAE_EXACT_BACKWARD, query, masked, AnyMask, f32)

}  // namespace retromae
