// What the tensor-core backward kernels share.
#pragma once

#include "fragments.cuh"

namespace retromae {

// Queries of a tile where keys are owned.
template <int D>
constexpr int kQueryTile = D > 64 ? 32 : 64;
// How many of them are scored at once: from d = 96 on the gradients of a warp's 16 keys leave few registers.
template <int D>
constexpr int kQueryStep = D > 64 ? 16 : 64;

// The statistics of a query for its row of scores: log2 of the sum of exponentials, and δ = dot(dO, O).
struct RowStatistics {
    float* log_sums;
    float* deltas;

    RETROMAE_DEVICE RowStatistics take(SharedMemory& memory, uint32_t rows) {
        RowStatistics statistics;
        statistics.log_sums = memory.take<float>(rows);
        statistics.deltas = memory.take<float>(rows);
        return statistics;
    }
    RETROMAE_MEMBER RowStatistics from(uint32_t row) const { return {log_sums + row, deltas + row}; }
    // Copies what the `delta` kernels have left in global memory.
    template <class T>
    RETROMAE_MEMBER void put(uint32_t row, const BackwardOperands<T>& operands, uint32_t query,
                             uint32_t queries) const {
        log_sums[row] = operands.log_sum(query, queries);
        deltas[row] = operands.delta(query, queries);
    }
};

// Which keys of a tile of 64 see a tile of queries, transposed: [words of queries, 64 keys]. A warp makes 32
// × 32 bits; returns whether there is any of its own.
template <int Words, class Mask>
RETROMAE_DEVICE bool transposed_visibility(const AttentionForwardParams& params, const Sentence& sentence,
                                           const Mask& mask, uint32_t query_tile, uint32_t key_tile,
                                           uint32_t* visible) {
    const uint32_t warp = threadIdx.x / 32, lane = lane_index();
    if (warp >= 2 * Words) return false;
    const uint32_t word = warp % Words, half = warp / Words;
    const uint32_t query = query_tile + 32 * word + lane;
    const uint32_t keys =
        query < sentence.queries ? mask.visible(sentence.slot(params, query), key_tile + 32 * half) : 0;
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
        const uint32_t slot = query < sentence.queries ? sentence.slot(params, query) : 0;
        own |= dropout_kept(params.dropout, head, sentence.token(slot), first_key / kDropoutGroup)
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
        RETROMAE_UNROLL
        for (int n = 0; n < D / 8; ++n) {
            RETROMAE_UNROLL
            for (int i = 0; i < 4; ++i) d_key[n][i] = d_value[n][i] = 0.0f;
        }
    }

    // Adds what a tile of queries gives, and with `KeepScores` leaves dSᵀ, without the factor `scale`, in
    // `d_scores`. With Sᵀ = K Qᵀ in registers, Pᵀ and dSᵀ are operands as they are.
    template <bool KeepScores>
    RETROMAE_MEMBER void add_queries(const AttentionForwardParams& params, const Sentence& sentence,
                                     uint32_t head, const SharedTile<T, D>& keys,
                                     const SharedTile<T, D>& values, uint32_t key_tile,
                                     const SharedTile<T, D>& queries, const SharedTile<T, D>& d_outputs,
                                     const RowStatistics& statistics, const uint32_t* visible,
                                     uint32_t query_tile, const SharedTile<T, kQueries>& d_scores) {
        const uint32_t row = threadIdx.x / 32 * 16;
        const uint32_t first_key = key_tile + row;
        if (first_key >= sentence.keys) {
            const float zeros[kQueries / 8][4] = {};
            if constexpr (KeepScores) d_scores.store(row, 0, zeros);
            return;
        }
        // Where all is visible, bits are for the last tiles alone.
        const bool masked =
            kMasked || query_tile + kQueries > sentence.queries || first_key + 16 > sentence.keys;
        FragmentBits<kWords> shown, kept;
        if (masked) shown = visible_queries(sentence, query_tile, first_key, visible, row);
        const bool dropped = params.dropout.threshold != 0;
        if (dropped) kept = transposed_kept<kWords>(params, sentence, head, query_tile, first_key);
        RETROMAE_NO_UNROLL
        for (uint32_t step = 0; step < kQueries; step += kStep) {
            float products[kStep / 8][4];
            add_step(params, keys, values, queries.from(step), d_outputs.from(step), statistics.from(step),
                     masked, shown, dropped, kept, products);
            if constexpr (KeepScores) d_scores.store(row, step / 8, products);
            shown.skip(kStep);
            kept.skip(kStep);
        }
    }

    // Writes the gradients to global memory by way of the keys' and values' own tiles, which nobody reads any
    // more.
    RETROMAE_MEMBER void write(const AttentionBackwardParams& params, const Sentence& sentence, uint32_t head,
                               const SharedTile<T, D>& keys, const SharedTile<T, D>& values,
                               uint32_t key_tile) const {
        const uint32_t row = threadIdx.x / 32 * 16;
        const uint32_t first = key_tile + row;
        if (first >= sentence.keys) return;
        const AttentionForwardParams& forward = params.forward;
        const float key_factors[2] = {forward.scale, forward.scale};
        const float value_factors[2] = {forward.dropout.scale, forward.dropout.scale};
        keys.store(row, 0, d_key, key_factors);
        values.store(row, 0, d_value, value_factors);
        warp_barrier();
        keys.template write_rows<D / 8>(
            row, 0, sentence.key_rows<T>(params.d_key, params.d_key_stride, head * D, first),
            params.d_key_stride, sentence.keys - first);
        values.template write_rows<D / 8>(
            row, 0, sentence.key_rows<T>(params.d_value, params.d_value_stride, head * D, first),
            params.d_value_stride, sentence.keys - first);
    }

  private:
    static constexpr int kStep = kQueryStep<D>;

    // Queries that do not exist are hidden: their scores are those of zeros, which an infinite key makes NaN.
    RETROMAE_DEVICE FragmentBits<kWords> visible_queries(const Sentence& sentence, uint32_t query_tile,
                                                         uint32_t first_key, const uint32_t* visible,
                                                         uint32_t row) {
        if constexpr (kMasked) return FragmentBits<kWords>::load(visible, row);
        FragmentBits<kWords> bits = FragmentBits<kWords>::below(query_tile, sentence.queries);
        RETROMAE_UNROLL
        for (int half = 0; half < 2; ++half) {
            if (first_key + lane_index() / 4 + 8 * half < sentence.keys) continue;
            RETROMAE_UNROLL
            for (int w = 0; w < kWords; ++w) bits.words[half][w] = 0;
        }
        return bits;
    }

    // `d_scores` is the result for `kStep` queries.
    RETROMAE_MEMBER void add_step(const AttentionForwardParams& params, const SharedTile<T, D>& keys,
                                  const SharedTile<T, D>& values, const SharedTile<T, D>& queries,
                                  const SharedTile<T, D>& d_outputs, const RowStatistics& statistics,
                                  bool masked, const FragmentBits<kWords>& shown, bool dropped,
                                  const FragmentBits<kWords>& kept, float (&d_scores)[kStep / 8][4]) {
        const uint32_t lane = recomputed(lane_index());
        const uint32_t row = threadIdx.x / 32 * 16;
        const float scale = base2_scale(params);
        float probabilities[kStep / 8][4] = {};
        RETROMAE_UNROLL
        for (int k = 0; k < D / 16; ++k) {
            uint32_t key[4], query[kStep / 16][4];
            keys.load_a(row, k, key, lane);
            queries.template load_b_transposed<kStep / 16>(0, k, query, lane);
            mma<T, kStep / 16>(probabilities, key, query);
        }
        RETROMAE_UNROLL
        for (int n = 0; n < kStep / 8; ++n) {
            const Pack<float, 2> log_sums =
                *reinterpret_cast<const Pack<float, 2>*>(statistics.log_sums + 8 * n + lane % 4 * 2);
            RETROMAE_UNROLL
            for (int i = 0; i < 4; ++i)
                probabilities[n][i] =
                    exp2_approximate(fmaf(probabilities[n][i], scale, -log_sums.values[i % 2]));
        }
        if (masked) select(shown, 0.0f, probabilities);

        RETROMAE_UNROLL
        for (int k = 0; k < kStep / 16; ++k) {
            uint32_t weights[4];
            if (dropped) {
                float kept_weights[2][4];
                RETROMAE_UNROLL
                for (int n = 0; n < 2; ++n) {
                    RETROMAE_UNROLL
                    for (int i = 0; i < 4; ++i)
                        kept_weights[n][i] = kept.test(2 * k + n, i) ? probabilities[2 * k + n][i] : 0.0f;
                }
                products_as_a<T>(kept_weights, 0, weights);
            } else {
                products_as_a<T>(probabilities, k, weights);
            }
            multiply_rows(d_value, weights, d_outputs, 16 * k, 0, lane);
        }

        RETROMAE_UNROLL
        for (int n = 0; n < kStep / 8; ++n) {
            RETROMAE_UNROLL
            for (int i = 0; i < 4; ++i) d_scores[n][i] = 0.0f;
        }
        RETROMAE_UNROLL
        for (int k = 0; k < D / 16; ++k) {
            uint32_t value[4], d_output[kStep / 16][4];
            values.load_a(row, k, value, lane);
            d_outputs.template load_b_transposed<kStep / 16>(0, k, d_output, lane);
            mma<T, kStep / 16>(d_scores, value, d_output);
        }
        if (dropped) drop(kept, params.dropout, d_scores);
        RETROMAE_UNROLL
        for (int n = 0; n < kStep / 8; ++n) {
            const Pack<float, 2> deltas =
                *reinterpret_cast<const Pack<float, 2>*>(statistics.deltas + 8 * n + lane % 4 * 2);
            RETROMAE_UNROLL
            for (int i = 0; i < 4; ++i)
                d_scores[n][i] = probabilities[n][i] * (d_scores[n][i] - deltas.values[i % 2]);
        }
        RETROMAE_UNROLL
        for (int k = 0; k < kStep / 16; ++k) {
            uint32_t d_score[4];
            products_as_a<T>(d_scores, k, d_score);
            multiply_rows(d_key, d_score, queries, 16 * k, 0, lane);
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
