// Helpers of the tensor-core backward kernels.
#pragma once

#include "fragments.cuh"

namespace retromae {

// Queries of a tile where keys are owned.
template <int D>
constexpr int kQueryTile = D > 64 ? 32 : 64;
// Queries that are scored at once: from d = 96 on the gradients of a warp's 16 keys leave few registers.
template <int D>
constexpr int kQueryStep = D > 64 ? 16 : 64;

// Two values for each query of a tile: log2 of the sum of its exponentials, and δ = dot(dO, O).
struct QueryStatistics {
    float* log_sums;
    float* deltas;

    RETROMAE_DEVICE QueryStatistics take(SharedMemory& memory, uint32_t rows) {
        QueryStatistics statistics;
        statistics.log_sums = memory.take<float>(rows);
        statistics.deltas = memory.take<float>(rows);
        return statistics;
    }
    RETROMAE_MEMBER QueryStatistics from(uint32_t row) const { return {log_sums + row, deltas + row}; }
    // Copies the results of the `delta` kernels from global memory.
    template <class T>
    RETROMAE_MEMBER void put(uint32_t row, const BackwardOperands<T>& operands, uint32_t query,
                             uint32_t queries) const {
        log_sums[row] = operands.log_sum(query, queries);
        deltas[row] = operands.delta(query, queries);
    }
};

// 64 keys and one tile of queries in shared memory: the operands of a block's five matmuls, and dSᵀ.
template <class T, int D>
struct ScoreTile {
    static constexpr int kQueries = kQueryTile<D>;

    uint32_t first_key;  // within the sentence
    uint32_t first_query;
    SharedTile<T, D> keys;
    SharedTile<T, D> values;
    SharedTile<T, D> queries;
    SharedTile<T, D> d_outputs;
    QueryStatistics statistics;
    uint32_t* visible;                 // [queries / 32, 64 keys]
    SharedTile<T, kQueries> d_scores;  // 64 keys; dSᵀ without the factor `scale`

    // The same with queries `query..` of the tile, of which `query` is a multiple of 8.
    RETROMAE_MEMBER ScoreTile from_query(uint32_t query) const {
        ScoreTile tile = *this;
        tile.queries = queries.from(query);
        tile.d_outputs = d_outputs.from(query);
        tile.statistics = statistics.from(query);
        return tile;
    }
};

// Which keys of a tile of 64 see a tile of queries, transposed: [32-bit words of queries, 64 keys]. A warp
// makes 32 × 32 bits; returns whether there is any of its own.
template <int Words, class Mask>
RETROMAE_DEVICE bool transposed_visibility(const AttentionForwardParams& params, const Sentence& sentence,
                                           const Mask& mask, uint32_t query_tile, uint32_t key_tile,
                                           uint32_t* visible) {
    const uint32_t warp = threadIdx.x / 32, lane = lane_index();
    if (warp >= 2 * Words) return false;
    const uint32_t word = warp % Words, half = warp / Words;
    const uint32_t query = query_tile + 32 * word + lane;
    const uint32_t keys =
        query < sentence.queries ? mask.visible(sentence.position(params, query), key_tile + 32 * half) : 0;
    visible[word * kTileRows + 32 * half + lane] = warp_transpose_bits(keys);
    return keys != 0;
}

// The dropout of 16 keys, which one group of 16 columns is, against a tile of queries.
template <int Words>
RETROMAE_DEVICE FragmentBits<Words> transposed_kept(const AttentionForwardParams& params,
                                                    const Sentence& sentence, uint32_t head,
                                                    uint32_t query_tile, uint32_t first_key) {
    const uint32_t lane = lane_index();
    uint32_t own = 0;
    RETROMAE_UNROLL
    for (int w = 0; w < Words; ++w) {
        const uint32_t query = query_tile + 32 * w + lane;
        const uint32_t position = query < sentence.queries ? sentence.position(params, query) : 0;
        own |= dropout_kept(params.dropout, head, sentence.token(position), first_key / kDropoutGroup)
               << (16 * w);
    }
    // Lane 16w + k now has key k's bits of word w.
    const uint32_t transposed = warp_transpose_bits(own);
    FragmentBits<Words> kept;
    RETROMAE_UNROLL
    for (int half = 0; half < 2; ++half) {
        RETROMAE_UNROLL
        for (int w = 0; w < Words; ++w)
            kept.words[half][w] = warp_shuffle(transposed, 16 * w + lane / 4 + 8 * half) >> lane % 4 * 2;
    }
    return kept;
}

// A warp's 16 keys and their gradients.
template <class T, int D, class Mask>
struct KeyRows {
    static constexpr bool kMasked = Mask::kMasked;
    static constexpr int kQueries = kQueryTile<D>;
    static constexpr int kWords = kQueries / 32;

    float d_key[D / 8][4];
    float d_value[D / 8][4];

    RETROMAE_MEMBER void clear() {
        fill(d_key, 0.0f);
        fill(d_value, 0.0f);
    }

    // Adds the contributions of a tile of queries, and with `KeepScores` leaves dSᵀ. With Sᵀ = K Qᵀ in
    // registers, Pᵀ and dSᵀ are operands as they are.
    template <bool KeepScores>
    RETROMAE_MEMBER void add_queries(const AttentionForwardParams& params, const Sentence& sentence,
                                     uint32_t head, const ScoreTile<T, D>& tile) {
        const uint32_t row = warp_row();
        const uint32_t first_key = tile.first_key + row;
        if (first_key >= sentence.keys) {
            const float zeros[kQueries / 8][4] = {};
            if constexpr (KeepScores) tile.d_scores.store(row, 0, zeros);
            return;
        }
        ScoreBits bits;
        // Without a mask, only the last tiles need bits.
        bits.masked =
            kMasked || tile.first_query + kQueries > sentence.queries || first_key + 16 > sentence.keys;
        if (bits.masked) bits.shown = visible_queries(sentence, tile, first_key);
        bits.dropped = params.dropout.threshold != 0;
        if (bits.dropped)
            bits.kept = transposed_kept<kWords>(params, sentence, head, tile.first_query, first_key);
        RETROMAE_NO_UNROLL
        for (uint32_t step = 0; step < kQueries; step += kStep) {
            float d_scores[kStep / 8][4];
            add_step(params, tile.from_query(step), bits, d_scores);
            if constexpr (KeepScores) tile.d_scores.store(row, step / 8, d_scores);
            bits.shown.skip(kStep);
            bits.kept.skip(kStep);
        }
    }

    // Writes the gradients to global memory by way of the keys' and values' own tiles, which nobody reads any
    // more.
    RETROMAE_MEMBER void write(const AttentionBackwardParams& params, const Sentence& sentence, uint32_t head,
                               const ScoreTile<T, D>& tile) const {
        const uint32_t row = warp_row();
        const uint32_t first = tile.first_key + row;
        if (first >= sentence.keys) return;
        const AttentionForwardParams& forward = params.forward;
        const float key_factors[2] = {forward.scale, forward.scale};
        const float value_factors[2] = {forward.dropout.scale, forward.dropout.scale};
        tile.keys.store(row, 0, d_key, key_factors);
        tile.values.store(row, 0, d_value, value_factors);
        warp_barrier();
        tile.keys.template write_rows<D / 8>(
            row, 0, sentence.key_rows<T>(params.d_key, params.d_key_stride, head * D, first),
            params.d_key_stride, sentence.keys - first);
        tile.values.template write_rows<D / 8>(
            row, 0, sentence.key_rows<T>(params.d_value, params.d_value_stride, head * D, first),
            params.d_value_stride, sentence.keys - first);
    }

  private:
    static constexpr int kStep = kQueryStep<D>;
    using StepProducts = float[kStep / 8][4];

    // The bits of a warp's scores: of those that are seen, where some are not, and of those that dropout
    // keeps, where it drops any.
    struct ScoreBits {
        bool masked;
        bool dropped;
        FragmentBits<kWords> shown;
        FragmentBits<kWords> kept;
    };

    // The first of the warp's 16 keys, within the tile.
    RETROMAE_DEVICE uint32_t warp_row() { return threadIdx.x / 32 * 16; }

    // Queries that do not exist are hidden: their scores are those of zeros, which an infinite key makes NaN.
    RETROMAE_DEVICE FragmentBits<kWords> visible_queries(const Sentence& sentence,
                                                         const ScoreTile<T, D>& tile, uint32_t first_key) {
        if constexpr (kMasked) return FragmentBits<kWords>::load(tile.visible, warp_row());
        FragmentBits<kWords> bits = FragmentBits<kWords>::below(tile.first_query, sentence.queries);
        RETROMAE_UNROLL
        for (int half = 0; half < 2; ++half) {
            if (first_key + lane_row(half) < sentence.keys) continue;
            RETROMAE_UNROLL
            for (int w = 0; w < kWords; ++w) bits.words[half][w] = 0;
        }
        return bits;
    }

    // Adds the tile's first `kStep` queries; `d_scores` becomes their dSᵀ.
    RETROMAE_MEMBER void add_step(const AttentionForwardParams& params, const ScoreTile<T, D>& tile,
                                  const ScoreBits& bits, StepProducts& d_scores) {
        const uint32_t lane = recomputed(lane_index());
        StepProducts probabilities = {};
        multiply_transposed(probabilities, tile.keys, warp_row(), tile.queries, 0, lane);
        exponentiate(tile.statistics, base2_scale(params), lane, probabilities);
        if (bits.masked) select(bits.shown, 0.0f, probabilities);
        RETROMAE_UNROLL
        for (int k = 0; k < kStep / 16; ++k) {
            uint32_t weights[4];
            if (bits.dropped)
                selected_as_a<T>(bits.kept, probabilities, k, weights);
            else
                accumulators_as_a<T>(probabilities, k, weights);
            multiply_rows(d_value, weights, tile.d_outputs, 16 * k, 0, lane);
        }
        fill(d_scores, 0.0f);
        multiply_transposed(d_scores, tile.values, warp_row(), tile.d_outputs, 0, lane);
        if (bits.dropped) drop(bits.kept, params.dropout, d_scores);
        differentiate(tile.statistics, probabilities, lane, d_scores);
        RETROMAE_UNROLL
        for (int k = 0; k < kStep / 16; ++k) {
            uint32_t d_score[4];
            accumulators_as_a<T>(d_scores, k, d_score);
            multiply_rows(d_key, d_score, tile.queries, 16 * k, 0, lane);
        }
    }

    // A lane's two columns of tile `n`, of an array with a value a query.
    RETROMAE_DEVICE Pack<float, 2> column_pair(const float* of_queries, int n, uint32_t lane) {
        return *reinterpret_cast<const Pack<float, 2>*>(of_queries + 8 * n + lane % 4 * 2);
    }

    // P = exp2(scale · S − log2 of the sum) of transposed scores.
    RETROMAE_DEVICE void exponentiate(const QueryStatistics& statistics, float scale, uint32_t lane,
                                      StepProducts& scores) {
        RETROMAE_UNROLL
        for (int n = 0; n < kStep / 8; ++n) {
            const Pack<float, 2> log_sums = column_pair(statistics.log_sums, n, lane);
            RETROMAE_UNROLL
            for (int i = 0; i < 4; ++i)
                scores[n][i] = exp2_approximate(fmaf(scores[n][i], scale, -log_sums.values[i % 2]));
        }
    }

    // dS = P ∘ (dP − δ), in place of dP, transposed.
    RETROMAE_DEVICE void differentiate(const QueryStatistics& statistics, const StepProducts& probabilities,
                                       uint32_t lane, StepProducts& d_scores) {
        RETROMAE_UNROLL
        for (int n = 0; n < kStep / 8; ++n) {
            const Pack<float, 2> deltas = column_pair(statistics.deltas, n, lane);
            RETROMAE_UNROLL
            for (int i = 0; i < 4; ++i)
                d_scores[n][i] = probabilities[n][i] * (d_scores[n][i] - deltas.values[i % 2]);
        }
    }
};

// A warp's part of dQ of a query tile: 16 queries, and all columns or, where the tile has fewer rows than the
// block has warps, a share of them.
template <class T, int D>
struct QueryShare {
    static constexpr int kRowBlocks = kQueryTile<D> / 16;
    static constexpr int kTiles = D / 8 * kRowBlocks / (static_cast<int>(kAttentionThreads) / 32);

    uint32_t row;    // within the query tile
    uint32_t chunk;  // first tile of 8 columns

    RETROMAE_DEVICE QueryShare of_warp() {
        const uint32_t warp = threadIdx.x / 32;
        return {warp % kRowBlocks * 16, warp / kRowBlocks * kTiles};
    }
    // sums += dS K over the 64 keys of a tile, dSᵀ in shared memory.
    RETROMAE_MEMBER void add_keys(const SharedTile<T, kQueryTile<D>>& d_scores, const SharedTile<T, D>& keys,
                                  float (&sums)[kTiles][4]) const {
        RETROMAE_UNROLL
        for (int k = 0; k < kKeyTile / 16; ++k) {
            uint32_t d_score[4];
            d_scores.load_a_transposed(16 * k, row / 8, d_score);
            multiply_rows(sums, d_score, keys, 16 * k, chunk);
        }
    }
};

// `attention_backward_…_launch` declares the launch of `attention_backward_…`.
#define RETROMAE_ATTENTION_BACKWARD_KERNEL(part, mask_name, Mask, T, d)                            \
    RETROMAE_KERNEL(attention_backward_##part##_##mask_name##_##T##_d##d, AttentionBackwardParams, \
                    attention_backward_##part##_launch<T, d, Mask>) {                              \
        attention_backward_##part<T, d, Mask>(params);                                             \
    }
#define RETROMAE_ATTENTION_BACKWARD(part, mask_name, Mask, T) \
    RETROMAE_ATTENTION_DIMS(RETROMAE_ATTENTION_BACKWARD_KERNEL, part, mask_name, Mask, T)

}  // namespace retromae
