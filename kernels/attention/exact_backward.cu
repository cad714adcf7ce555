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

// A thread's rows of a tile of queries, with their statistics.
template <int D>
struct StatisticsRows {
    static constexpr int kRows = BackwardRows<D>::rows;
    static constexpr int kColumns = D / kThreadsPerRow;

    uint32_t query;         // its first, within the sentence
    float deltas[kRows];    // δ
    float log_sums[kRows];  // log-sum-exp; +inf, which makes its probabilities 0, of a row beyond the
                            // sentence or without a visible key

    // The first row, within the tile.
    RETROMAE_DEVICE uint32_t row() { return threadIdx.x / kThreadsPerRow * kRows; }

    // With the queries from `tile_start` on in shared memory.
    RETROMAE_DEVICE StatisticsRows load(const BackwardTiles<D>& tiles,
                                        const BackwardOperands<float>& operands, uint32_t output_stride,
                                        uint32_t tile_start, uint32_t queries) {
        StatisticsRows rows;
        rows.query = tile_start + row();
        const uint32_t column = threadIdx.x % kThreadsPerRow * kColumns;
        RETROMAE_UNROLL
        for (int r = 0; r < kRows; ++r) {
            const uint32_t query = rows.query + r;
            rows.deltas[r] = 0.0f;
            rows.log_sums[r] = INFINITY;
            if (query >= queries) continue;
            const float log_sum_exp = operands.log_sum_exp[query];
            if (log_sum_exp != -INFINITY) rows.log_sums[r] = log_sum_exp;
            const float* output = operands.output + static_cast<uint64_t>(query) * output_stride + column;
            const float* d_output = tiles.d_outputs + (row() + r) * (D + kPad) + column;
            RETROMAE_UNROLL
            for (int first = 0; first < kColumns; first += 8) {
                float values[8];
                retromae::load(output + first, values);
                RETROMAE_UNROLL
                for (int i = 0; i < 8; ++i)
                    rows.deltas[r] = fmaf(values[i], d_output[first + i], rows.deltas[r]);
            }
        }
        warp_butterfly<Sum, kThreadsPerRow>(rows.deltas);
        return rows;
    }
};

// A block of either kernel: one head of a sentence.
template <int D, class Mask>
struct ExactBackwardBlock {
    static constexpr int kQueryTile = BackwardRows<D>::tile;
    static constexpr int kRows = BackwardRows<D>::rows;
    static constexpr int kScoreStride = BackwardTiles<D>::kScoreStride;

    const AttentionForwardParams& params;
    const Sentence& sentence;
    const Mask& mask;
    uint32_t head;
    BackwardOperands<float> operands;
    BackwardTiles<D> tiles;

    RETROMAE_MEMBER void load_queries(uint32_t first) const {
        load_rows<kQueryTile, D>(tiles.queries, operands.query, params.query_stride, first, sentence.queries);
        load_rows<kQueryTile, D>(tiles.d_outputs, operands.d_output, params.output_stride, first,
                                 sentence.queries);
    }
    RETROMAE_MEMBER void load_keys(uint32_t first) const {
        load_transposed<kKeyTile, D>(tiles.keys, operands.key, params.key_stride, first, sentence.keys);
        load_transposed<kKeyTile, D>(tiles.values, operands.value, params.value_stride, first, sentence.keys);
    }
    RETROMAE_MEMBER StatisticsRows<D> load_statistics(uint32_t first_query) const {
        return StatisticsRows<D>::load(tiles, operands, params.output_stride, first_query, sentence.queries);
    }

    // Fills the score tiles for this thread's rows × 16 keys: P ∘ F and dS, without the factor `scale`.
    RETROMAE_MEMBER void score(const StatisticsRows<D>& rows, uint32_t key_start) const {
        const uint32_t row = StatisticsRows<D>::row();
        const uint32_t key_offset = threadIdx.x % kThreadsPerRow * kKeysPerThread;
        const uint32_t first_key = key_start + key_offset;
        const bool existing = rows.query < sentence.queries && first_key < sentence.keys;
        float scores[kRows][16] = {}, d_probabilities[kRows][16] = {};
        if (existing) {
            multiply<kRows, D>(tiles.queries + row * (D + kPad), tiles.keys + key_offset, scores);
            multiply<kRows, D>(tiles.d_outputs + row * (D + kPad), tiles.values + key_offset,
                               d_probabilities);
        }
        RETROMAE_UNROLL
        for (int r = 0; r < kRows; ++r) {
            const uint32_t query = rows.query + r;
            const bool exists = existing && query < sentence.queries;
            const uint32_t position = exists ? sentence.position(params, query) : 0;
            const uint32_t visible = exists ? visible_keys(mask, position, first_key) : 0u;
            float factors[16], d_scores[16];
            RETROMAE_UNROLL
            for (int c = 0; c < 16; ++c) {
                const float probability =
                    exp2_approximate(fmaf(scores[r][c], params.scale, -rows.log_sums[r]) * kLog2E);
                scores[r][c] = visible >> c & 1u ? probability : 0.0f;
                factors[c] = 1.0f;
            }
            if (visible != 0)
                apply_dropout(params.dropout, head, sentence.token(position), first_key / 16, factors);
            RETROMAE_UNROLL
            for (int c = 0; c < 16; ++c) {
                d_scores[c] = scores[r][c] * fmaf(d_probabilities[r][c], factors[c], -rows.deltas[r]);
                scores[r][c] *= factors[c];
            }
            store(tiles.probabilities + (row + r) * kScoreStride + key_offset, scores[r]);
            store(tiles.d_scores + (row + r) * kScoreStride + key_offset, d_scores);
        }
    }
};

// Gradients of a tile of keys and of their values. A thread has a few keys, and a quarter of their columns.
template <int D>
struct exact_gradient_key_value {
    // The batch that is split into tiles, and a sentence's length in it.
    static constexpr int kTile = kKeyTile;
    static constexpr auto kTokens = &AttentionForwardParams::keys;
    static constexpr auto kCuSeqlens = &AttentionForwardParams::key_cu_seqlens;
    static constexpr auto kLength = &Sentence::keys;

    static constexpr int kColumns = D / kThreadsPerRow;
    static constexpr int kKeys = kKeyTile * kThreadsPerRow / static_cast<int>(kAttentionThreads);
    static constexpr int kScoreStride = BackwardTiles<D>::kScoreStride;

    Strip<kColumns> d_key[kKeys];
    Strip<kColumns> d_value[kKeys];

    RETROMAE_DEVICE uint32_t first_key() { return threadIdx.x / kThreadsPerRow * kKeys; }
    RETROMAE_DEVICE uint32_t first_column() { return threadIdx.x % kThreadsPerRow * kColumns; }
    RETROMAE_DEVICE void write_absent(const AttentionBackwardParams& params, const Sentence& sentence,
                                      uint32_t head, uint32_t tile_start) {
        write_absent_keys<float, D>(params, sentence, head, tile_start, kTile);
    }

    // Walks over the queries.
    template <class Mask>
    RETROMAE_MEMBER void compute(const ExactBackwardBlock<D, Mask>& block, uint32_t tile_start) {
        constexpr int kQueryTile = BackwardRows<D>::tile;
        const Sentence& sentence = block.sentence;
        clear();
        block.load_keys(tile_start);
        for (uint32_t query = 0; query < sentence.queries; query += kQueryTile) {
            if (query > 0) __syncthreads();  // the last tile is still being read
            block.load_queries(query);
            __syncthreads();
            block.score(block.load_statistics(query), tile_start);
            __syncthreads();
            if (tile_start + first_key() < sentence.keys)
                add(block.tiles, tile_end(query, kQueryTile, sentence.queries) - query);
        }
    }
    RETROMAE_MEMBER void clear() {
        RETROMAE_UNROLL
        for (int k = 0; k < kKeys; ++k) {
            d_key[k].fill(0.0f);
            d_value[k].fill(0.0f);
        }
    }
    // Adds what the first `count` queries of a tile give.
    RETROMAE_MEMBER void add(const BackwardTiles<D>& tiles, uint32_t count) {
        for (uint32_t i = 0; i < count; ++i) {
            const float* probabilities = tiles.probabilities + i * kScoreStride + first_key();
            const float* d_scores = tiles.d_scores + i * kScoreStride + first_key();
            RETROMAE_UNROLL
            for (int k = 0; k < kKeys; ++k) {
                d_value[k].fma(probabilities[k], tiles.d_outputs + i * (D + kPad) + first_column());
                d_key[k].fma(d_scores[k], tiles.queries + i * (D + kPad) + first_column());
            }
        }
    }
    RETROMAE_MEMBER void write(const AttentionBackwardParams& params, const Sentence& sentence, uint32_t head,
                               uint32_t tile_start) const {
        RETROMAE_UNROLL
        for (int k = 0; k < kKeys; ++k) {
            const uint32_t key = tile_start + first_key() + k;
            if (key >= sentence.keys) continue;
            const uint32_t column = head * D + first_column();
            store_strip(sentence.key_rows<float>(params.d_key, params.d_key_stride, column, key), d_key[k],
                        params.forward.scale);
            store_strip(sentence.key_rows<float>(params.d_value, params.d_value_stride, column, key),
                        d_value[k], 1.0f);
        }
    }
};

// Gradients of a tile of queries. A thread has one or two queries, and a quarter of their columns.
template <int D>
struct exact_gradient_query {
    // The batch that is split into tiles, and a sentence's length in it.
    static constexpr int kTile = BackwardRows<D>::tile;
    static constexpr auto kTokens = &AttentionForwardParams::queries;
    static constexpr auto kCuSeqlens = &AttentionForwardParams::query_cu_seqlens;
    static constexpr auto kLength = &Sentence::queries;

    static constexpr int kColumns = D / kThreadsPerRow;
    static constexpr int kRows = BackwardRows<D>::rows;

    Strip<kColumns> d_query[kRows];

    RETROMAE_DEVICE uint32_t first_row() { return threadIdx.x / kThreadsPerRow * kRows; }
    RETROMAE_DEVICE uint32_t first_column() { return threadIdx.x % kThreadsPerRow * kColumns; }
    RETROMAE_DEVICE void write_absent(const AttentionBackwardParams& params, const Sentence& sentence,
                                      uint32_t head, uint32_t tile_start) {
        write_absent_queries<float, D>(params, sentence, head, tile_start, kTile);
    }

    // Walks over the keys.
    template <class Mask>
    RETROMAE_MEMBER void compute(const ExactBackwardBlock<D, Mask>& block, uint32_t tile_start) {
        const Sentence& sentence = block.sentence;
        clear();
        block.load_queries(tile_start);
        __syncthreads();
        const StatisticsRows<D> rows = block.load_statistics(tile_start);
        for (uint32_t key = 0; key < sentence.keys; key += kKeyTile) {
            if (key > 0) __syncthreads();  // the last tile is still being read
            block.load_keys(key);
            __syncthreads();
            block.score(rows, key);
            __syncthreads();
            float* key_rows = block.tiles.values;
            load_rows<kKeyTile, D>(key_rows, block.operands.key, block.params.key_stride, key, sentence.keys);
            __syncthreads();
            if (rows.query < sentence.queries)
                add(block.tiles, key_rows, tile_end(key, kKeyTile, sentence.keys) - key);
        }
    }
    RETROMAE_MEMBER void clear() {
        RETROMAE_UNROLL
        for (int r = 0; r < kRows; ++r) d_query[r].fill(0.0f);
    }
    // Adds what the first `count` keys of a tile give, of which `keys` are the rows [kKeyTile, D + kPad].
    RETROMAE_MEMBER void add(const BackwardTiles<D>& tiles, const float* keys, uint32_t count) {
        for (uint32_t j = 0; j < count; ++j) {
            RETROMAE_UNROLL
            for (int r = 0; r < kRows; ++r)
                d_query[r].fma(tiles.d_scores[(first_row() + r) * tiles.kScoreStride + j],
                               keys + j * (D + kPad) + first_column());
        }
    }
    RETROMAE_MEMBER void write(const AttentionBackwardParams& params, const Sentence& sentence, uint32_t head,
                               uint32_t tile_start) const {
        RETROMAE_UNROLL
        for (int r = 0; r < kRows; ++r) {
            const uint32_t query = tile_start + first_row() + r;
            if (query >= sentence.queries) continue;
            store_strip(sentence.query_rows<float>(params.d_query, params.d_query_stride,
                                                   head * D + first_column(), query),
                        d_query[r], params.forward.scale);
        }
    }
};

// One block per tile and head.
template <template <int> class Gradient, int D, class Mask>
struct ExactBackwardLaunch : Launch<kAttentionThreads> {
    static Grid grid(const AttentionBackwardParams& params) {
        return tiles_grid(params.forward, params.forward.*Gradient<D>::kTokens, Gradient<D>::kTile);
    }
    static uint64_t shared_bytes(const AttentionBackwardParams& params) {
        return bytes_with_mask<Mask>(params.forward, BackwardTiles<D>::kBytes);
    }
};

template <template <int> class Gradient, int D, class Mask>
RETROMAE_DEVICE void exact_backward(const AttentionBackwardParams& params) {
    using Tile = Gradient<D>;
    const AttentionForwardParams& forward = params.forward;
    const SentenceTile tile =
        SentenceTile::locate<Tile::kTile>(forward.*Tile::kCuSeqlens, forward.*Tile::kTokens, forward);
    const Sentence sentence = Sentence::at(forward, tile.sentence);
    if (tile.start >= sentence.*Tile::kLength) return;
    const uint32_t head = block_head(forward);
    if (!sentence.exists) return Tile::write_absent(params, sentence, head, tile.start);
    SharedMemory memory = SharedMemory::begin();
    const Mask mask = Mask::make(forward, sentence, memory);
    const ExactBackwardBlock<D, Mask> block = {forward,
                                               sentence,
                                               mask,
                                               head,
                                               BackwardOperands<float>::locate(params, sentence, head, D),
                                               BackwardTiles<D>::take(memory)};
    Gradient<D> gradient;
    gradient.compute(block, tile.start);
    gradient.write(params, sentence, head, tile.start);
}

#define RETROMAE_EXACT_BACKWARD(part, mask_name, Mask, T, d)                                       \
    RETROMAE_KERNEL(attention_backward_##part##_##mask_name##_##T##_d##d, AttentionBackwardParams, \
                    ExactBackwardLaunch<exact_gradient_##part, d, Mask>) {                         \
        exact_backward<exact_gradient_##part, d, Mask>(params);                                    \
    }

RETROMAE_ATTENTION_DIMS(RETROMAE_EXACT_BACKWARD, key_value, full, FullMask, f32)
RETROMAE_ATTENTION_DIMS(RETROMAE_EXACT_BACKWARD, key_value, masked, AnyMask, f32)
RETROMAE_ATTENTION_DIMS(RETROMAE_EXACT_BACKWARD, query, full, FullMask, f32)
RETROMAE_ATTENTION_DIMS(RETROMAE_EXACT_BACKWARD, query, masked, AnyMask, f32)

}  // namespace retromae
