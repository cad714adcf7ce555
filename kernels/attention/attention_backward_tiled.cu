// Masked attention on tensor cores, backward, of sentences that are too long for one block (formulas: see
// attention_backward_fused.cu).
//
// Two kernels, so that every gradient is summed in one place and in one order: `key_value` owns 64 keys and
// walks over the queries (Sᵀ in registers, as in the fused kernel), `query` owns 64 queries and walks over
// the keys (S in registers, dS the operand A of dQ as it is). Both recompute P from the saved log-sum-exp:
// 14·L²·d FLOPs a head (7 matmuls) instead of 10, no workspace. Before them `delta` reads O and dO once and
// leaves each query's δ where its dQ will be, in the first 4 bytes. `atomic` is `key_value` that
// also adds each tile's dQ to an f32 accumulator in global memory, 10·L²·d FLOPs and 8·L·d bytes of traffic a
// head and key tile in L2; `convert` rounds it. The order of those additions changes from run to run.
//
// Operands come by cp.async, one tile ahead; tiles without a visible score are left out, as in
// the forward.
//
// Shared memory in KB and registers (sm_80, sm_90; masked):
// d      key_value              query                 atomic
// 32     27   202; 200          26   162; 162         35   204; 208
// 64     51   246; 246          50   202; 214         59   244; 254
// 96     50   240; 242          74   247; 244         54   240; 244
// 128    66   255; 255          98   255; 255         70   255; 255
// Two blocks an SM each, by registers; `query` at d = 128 one on parts with 100 KB. No spills, no stack.
#include "../arch/atomic_add.cuh"
#include "../core/packed.cuh"
#include "backward.cuh"

namespace retromae {

// True where the fused kernel writes the sentence's gradients. If it is launched, it also writes those of
// tokens of no sentence.
RETROMAE_DEVICE bool is_fused(const AttentionBackwardParams& params, const Sentence& sentence) {
    return params.fused_queries_max > 0 && (!sentence.exists || sentence.queries <= params.fused_queries_max);
}

// Shared memory of a block that owns keys. Queries are loaded a tile ahead; for the bits see the forward.
template <class T, int D>
struct KeyTiles {
    static constexpr int kQueries = kQueryTile<D>;
    static constexpr int kVisible = kTileRows * kQueries / 32;

    SharedTile<T, D> keys;             // 64 rows
    SharedTile<T, D> values;           // 64 rows
    SharedTile<T, D> queries;          // 2 tiles
    SharedTile<T, D> d_outputs;        // 2 tiles
    QueryStatistics statistics;        // 2 tiles
    uint32_t* visible;                 // [3, queries / 32, 64 keys]
    SharedTile<T, kQueries> d_scores;  // 64 keys

    // Shared memory that `take` uses, in bytes.
    static uint64_t bytes(bool masked, bool atomic) {
        return 2 * taken_bytes<T>(kKeyTile * D) + 2 * taken_bytes<T>(2 * kQueries * D) +
               2 * taken_bytes<float>(2 * kQueries) + (masked ? taken_bytes<uint32_t>(3 * kVisible) : 0) +
               (atomic ? taken_bytes<T>(kKeyTile * kQueries) : 0);
    }
    RETROMAE_DEVICE KeyTiles take(SharedMemory memory, bool masked, bool atomic) {
        KeyTiles tiles;
        tiles.keys.elements = memory.take<T>(kKeyTile * D);
        tiles.values.elements = memory.take<T>(kKeyTile * D);
        tiles.queries.elements = memory.take<T>(2 * kQueries * D);
        tiles.d_outputs.elements = memory.take<T>(2 * kQueries * D);
        tiles.statistics = QueryStatistics::take(memory, 2 * kQueries);
        tiles.visible = masked ? memory.take<uint32_t>(3 * kVisible) : nullptr;
        tiles.d_scores.elements = atomic ? memory.take<T>(kKeyTile * kQueries) : nullptr;
        return tiles;
    }
    RETROMAE_MEMBER uint32_t* visible_in(uint32_t iteration) const {
        return visible + iteration % 3 * kVisible;
    }
    // The keys, the sentence's from `key` on, and the queries of an iteration, the sentence's from `query`
    // on.
    RETROMAE_MEMBER ScoreTile<T, D> at(uint32_t key, uint32_t query, uint32_t iteration) const {
        const uint32_t row = iteration % 2 * kQueries;
        return {key,
                query,
                keys,
                values,
                queries.from(row),
                d_outputs.from(row),
                statistics.from(row),
                visible_in(iteration),
                d_scores};
    }
};

// Adds a warp's share of dQ of a query tile, of one tile of keys, to global memory [queries, D].
template <class T, int D>
RETROMAE_DEVICE void add_query_gradient(const ScoreTile<T, D>& tile, uint32_t queries, float* accumulator) {
    const QueryShare<T, D> share = QueryShare<T, D>::of_warp();
    float sums[QueryShare<T, D>::kTiles][4] = {};
    share.add_keys(tile.d_scores, tile.keys, sums);
    RETROMAE_UNROLL
    for (int half = 0; half < 2; ++half) {
        const uint32_t query = tile.first_query + share.row + lane_row(half);
        if (query >= queries) continue;
        float* row = accumulator + static_cast<uint64_t>(query) * D + 8 * share.chunk + lane_column(0);
        RETROMAE_UNROLL
        for (int n = 0; n < QueryShare<T, D>::kTiles; ++n) {
            atomic_add(row + 8 * n, sums[n][2 * half]);
            atomic_add(row + 8 * n + 1, sums[n][2 * half + 1]);
        }
    }
}

// A block that owns 64 keys of one head, and walks over the queries.
template <class T, int D, class Mask>
struct KeyBlock {
    static constexpr int kQueries = kQueryTile<D>;

    const AttentionForwardParams& params;
    const Sentence& sentence;
    const Mask& mask;
    uint32_t first;  // key
    BackwardOperands<T> operands;
    KeyTiles<T, D> tiles;

    // Starts the copies of the keys and values.
    RETROMAE_MEMBER void copy_keys() const {
        tiles.keys.template copy_rows<kKeyTile, kAttentionThreads>(operands.key, params.key_stride, first,
                                                                   sentence.keys);
        tiles.values.template copy_rows<kKeyTile, kAttentionThreads>(operands.value, params.value_stride,
                                                                     first, sentence.keys);
    }
    // The first tile of queries from `query` on that sees some key of the block; a barrier.
    RETROMAE_MEMBER uint32_t find_queries(uint32_t query, uint32_t iteration) const {
        if constexpr (Mask::kMasked) {
            for (; query < sentence.queries; query += kQueries)
                if (block_any(transposed_visibility<kQueries / 32>(params, sentence, mask, query, first,
                                                                   tiles.visible_in(iteration))))
                    break;
        } else {
            __syncthreads();
        }
        return query;
    }
    // Starts the copies of a tile of queries, or of none beyond the last; always one group.
    RETROMAE_MEMBER void copy_queries(uint32_t query, uint32_t iteration) const {
        if (query < sentence.queries) {
            const uint32_t row = iteration % 2 * kQueries;
            tiles.queries.from(row).template copy_rows<kQueries, kAttentionThreads>(
                operands.query, params.query_stride, query, sentence.queries);
            tiles.d_outputs.from(row).template copy_rows<kQueries, kAttentionThreads>(
                operands.d_output, params.output_stride, query, sentence.queries);
        }
        copy_async_commit();
    }
    // Calls `f(tile)` for each tile of queries that sees some key, when it is in shared memory. With
    // barriers.
    template <class F>
    RETROMAE_MEMBER void for_each_tile(F f) const {
        uint32_t iteration = 0;
        uint32_t query = find_queries(0, 0);
        copy_queries(query, 0);
        while (query < sentence.queries) {
            const ScoreTile<T, D> tile = tiles.at(first, query, iteration);
            // Two tiles take turns, as a slow warp may still read the statistics of the last one.
            if (threadIdx.x < kQueries)
                tile.statistics.put(threadIdx.x, operands, query + threadIdx.x, sentence.queries);
            const uint32_t next = find_queries(query + kQueries, iteration + 1);
            copy_queries(next, iteration + 1);
            copy_async_wait<1>();
            __syncthreads();
            f(tile);
            query = next;
            ++iteration;
        }
        copy_async_wait<0>();
        __syncthreads();
    }
};

// With `Atomic` it also adds dQ in global memory; else the kernel that owns queries makes it.
template <class T, int D, class Mask, bool Atomic>
RETROMAE_DEVICE void attention_backward_keys(const AttentionBackwardParams& params) {
    const AttentionForwardParams& forward = params.forward;
    const SentenceTile tile = SentenceTile::locate<kKeyTile>(forward.key_cu_seqlens, forward.keys, forward);
    const Sentence sentence = Sentence::at(forward, tile.sentence);
    if (tile.start >= sentence.keys || is_fused(params, sentence)) return;
    const uint32_t head = block_head(forward);
    if (!sentence.exists) return write_absent_keys<T, D>(params, sentence, head, tile.start, kKeyTile);
    SharedMemory memory = SharedMemory::begin();
    const Mask mask = Mask::make(forward, sentence, memory);
    const KeyBlock<T, D, Mask> block = {forward,
                                        sentence,
                                        mask,
                                        tile.start,
                                        BackwardOperands<T>::locate(params, sentence, head, D),
                                        KeyTiles<T, D>::take(memory, Mask::kMasked, Atomic)};
    KeyRows<T, D, Mask> key_rows;
    key_rows.clear();
    block.copy_keys();
    block.for_each_tile([&](const ScoreTile<T, D>& queries) {
        key_rows.template add_queries<Atomic>(forward, sentence, head, queries);
        if constexpr (Atomic) {
            __syncthreads();
            float* accumulator =
                pointer<float>(params.accumulator) + sentence.head_queries(forward, head) * D;
            add_query_gradient(queries, sentence.queries, accumulator);
        }
    });
    key_rows.write(params, sentence, head, block.tiles.at(tile.start, 0, 0));
}

template <class T, int D, class Mask>
RETROMAE_DEVICE void attention_backward_key_value(const AttentionBackwardParams& params) {
    attention_backward_keys<T, D, Mask, false>(params);
}

template <class T, int D, class Mask>
RETROMAE_DEVICE void attention_backward_atomic(const AttentionBackwardParams& params) {
    attention_backward_keys<T, D, Mask, true>(params);
}

// The queries of a warp of a block that owns 64 of them, and dQ of a lane's two.
template <class T, int D>
struct QueryGradient {
    SharedTile<T, D> queries;    // 64 rows
    SharedTile<T, D> d_outputs;  // 64 rows
    QueryRows own;
    float log_sums[2];
    float deltas[2];
    float d_query[D / 8][4];

    // Starts the copies of the block's queries and output gradients.
    RETROMAE_DEVICE QueryGradient begin(SharedMemory& memory, const AttentionForwardParams& params,
                                        const Sentence& sentence, const BackwardOperands<T>& operands,
                                        uint32_t first) {
        QueryGradient rows;
        rows.queries.elements = memory.take<T>(kTileRows * D);
        rows.d_outputs.elements = memory.take<T>(kTileRows * D);
        rows.queries.template copy_rows<kTileRows, kAttentionThreads>(operands.query, params.query_stride,
                                                                      first, sentence.queries);
        rows.d_outputs.template copy_rows<kTileRows, kAttentionThreads>(
            operands.d_output, params.output_stride, first, sentence.queries);
        rows.own = QueryRows::of(params, sentence, first);
        RETROMAE_UNROLL
        for (int half = 0; half < 2; ++half) {
            rows.log_sums[half] = operands.log_sum(rows.own.query + 8 * half, sentence.queries);
            rows.deltas[half] = operands.delta(rows.own.query + 8 * half, sentence.queries);
        }
        fill(rows.d_query, 0.0f);
        return rows;
    }

    // Adds what a tile of keys gives.
    template <class Mask>
    RETROMAE_MEMBER void add(const AttentionForwardParams& params, uint32_t head,
                             const KeyStream<T, D, Mask>& stream, StreamedTile tile) {
        const float scale = base2_scale(params);
        float probabilities[8][4] = {}, d_scores[8][4] = {};
        multiply_transposed(probabilities, queries, own.row, stream.keys, tile.row());
        for_each_accumulator(probabilities, [&](int row, int, float& x) {
            x = exp2_approximate(fmaf(x, scale, -log_sums[row]));
        });
        stream.hide(tile, own.row, 0.0f, probabilities);
        multiply_transposed(d_scores, d_outputs, own.row, stream.values, tile.row());
        if (params.dropout.threshold != 0)
            drop(kept_keys(params.dropout, head, own.tokens, tile.key), params.dropout, d_scores);
        for_each_accumulator(d_scores, [&](int row, int column, float& x) {
            x = accumulator_at(probabilities, row, column) * (x - deltas[row]);
        });
        RETROMAE_UNROLL
        for (int k = 0; k < kKeyTile / 16; ++k) {
            uint32_t d_score[4];
            accumulators_as_a<T>(d_scores, k, d_score);
            multiply_rows(d_query, d_score, stream.keys, tile.row() + 16 * k, 0);
        }
    }

    // Writes dQ by way of the warp's own rows of the queries' tile, which nobody else reads.
    RETROMAE_MEMBER void write(const AttentionBackwardParams& params, const Sentence& sentence, uint32_t head,
                               uint32_t first) const {
        const float factors[2] = {params.forward.scale, params.forward.scale};
        warp_barrier();
        queries.store(own.row, 0, d_query, factors);
        warp_barrier();
        queries.template write_rows<D / 8>(
            own.row, 0,
            sentence.query_rows<T>(params.d_query, params.d_query_stride, head * D, first + own.row),
            params.d_query_stride, own.left);
    }
};

template <class T, int D, class Mask>
RETROMAE_DEVICE void attention_backward_query(const AttentionBackwardParams& params) {
    const AttentionForwardParams& forward = params.forward;
    const SentenceTile block =
        SentenceTile::locate<kTileRows>(forward.query_cu_seqlens, forward.queries, forward);
    const Sentence sentence = Sentence::at(forward, block.sentence);
    if (block.start >= sentence.queries || is_fused(params, sentence)) return;
    const uint32_t head = block_head(forward);
    if (!sentence.exists) return write_absent_queries<T, D>(params, sentence, head, block.start, kTileRows);
    const BackwardOperands<T> operands = BackwardOperands<T>::locate(params, sentence, head, D);
    SharedMemory memory = SharedMemory::begin();
    const auto stream = KeyStream<T, D, Mask>::begin(memory, forward, sentence, head, block.start);
    auto rows = QueryGradient<T, D>::begin(memory, forward, sentence, operands, block.start);
    stream.for_each_tile([&](StreamedTile tile) {
        if (rows.own.left > 0) rows.add(forward, head, stream, tile);
    });
    if (rows.own.left > 0) rows.write(params, sentence, head, block.start);
}

// δ of 64 queries, where dQ will be: a quad of threads a row, whose loads are all issued before the first
// use.
template <class T, int D>
RETROMAE_DEVICE void attention_backward_delta(const AttentionBackwardParams& params) {
    constexpr int kPasses = kTileRows * 4 / static_cast<int>(kAttentionThreads);
    constexpr int kChunks = D / 32;
    const AttentionForwardParams& forward = params.forward;
    const SentenceTile tile =
        SentenceTile::locate<kTileRows>(forward.query_cu_seqlens, forward.queries, forward);
    const Sentence sentence = Sentence::at(forward, tile.sentence);
    if (tile.start >= sentence.queries || is_fused(params, sentence) || !sentence.exists) return;
    const BackwardOperands<T> operands =
        BackwardOperands<T>::locate(params, sentence, block_head(forward), D);
    Packed outputs[kPasses][kChunks] = {}, d_outputs[kPasses][kChunks] = {};
    const uint32_t first = tile.start + threadIdx.x / 4;
    RETROMAE_UNROLL
    for (int pass = 0; pass < kPasses; ++pass) {
        const uint32_t query = first + pass * (kAttentionThreads / 4);
        if (query >= sentence.queries) continue;
        RETROMAE_UNROLL
        for (int j = 0; j < kChunks; ++j) {
            const uint64_t element =
                static_cast<uint64_t>(query) * forward.output_stride + 8 * (threadIdx.x % 4 + 4 * j);
            outputs[pass][j] = load_packed(operands.output + element);
            d_outputs[pass][j] = load_packed(operands.d_output + element);
        }
    }
    float deltas[kPasses] = {};
    RETROMAE_UNROLL
    for (int pass = 0; pass < kPasses; ++pass) {
        RETROMAE_UNROLL
        for (int j = 0; j < kChunks; ++j) {
            float output[8], d_output[8];
            widen(T{}, outputs[pass][j], output);
            widen(T{}, d_outputs[pass][j], d_output);
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) deltas[pass] = fmaf(output[i], d_output[i], deltas[pass]);
        }
    }
    warp_butterfly<Sum, 4>(deltas);
    RETROMAE_UNROLL
    for (int pass = 0; pass < kPasses; ++pass) {
        const uint32_t query = first + pass * (kAttentionThreads / 4);
        if (threadIdx.x % 4 == 0 && query < sentence.queries) *operands.delta_place(query) = deltas[pass];
    }
}

// dQ = scale · accumulator, for the sentences that are not fused.
template <class T, int D>
RETROMAE_DEVICE void attention_backward_convert(const AttentionBackwardParams& params) {
    const AttentionForwardParams& forward = params.forward;
    const SentenceTile tile =
        SentenceTile::locate<kTileRows>(forward.query_cu_seqlens, forward.queries, forward);
    const Sentence sentence = Sentence::at(forward, tile.sentence);
    if (tile.start >= sentence.queries || is_fused(params, sentence)) return;
    const uint32_t head = block_head(forward);
    if (!sentence.exists) return write_absent_queries<T, D>(params, sentence, head, tile.start, kTileRows);
    const float* sums = pointer<const float>(params.accumulator) + sentence.head_queries(forward, head) * D;
    T* d_query = sentence.query_rows<T>(params.d_query, params.d_query_stride, head * D);
    for (uint32_t item = threadIdx.x; item < kTileRows * (D / 8); item += kAttentionThreads) {
        const uint32_t query = tile.start + item / (D / 8);
        const uint32_t column = item % (D / 8) * 8;
        if (query >= sentence.queries) break;
        float values[8];
        load(sums + static_cast<uint64_t>(query) * D + column, values);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) values[i] *= forward.scale;
        store(d_query + static_cast<uint64_t>(query) * params.d_query_stride + column, values);
    }
}

// One block per tile of keys and head.
template <class T, int D, class Mask, bool Atomic = false>
struct attention_backward_key_value_launch : Launch<kAttentionThreads> {
    static Grid grid(const AttentionBackwardParams& params) {
        return tiles_grid(params.forward, params.forward.keys, kKeyTile);
    }
    static uint64_t shared_bytes(const AttentionBackwardParams& params) {
        return bytes_with_mask<Mask>(params.forward, KeyTiles<T, D>::bytes(Mask::kMasked, Atomic));
    }
};
template <class T, int D, class Mask>
using attention_backward_atomic_launch = attention_backward_key_value_launch<T, D, Mask, true>;

// One block per tile of queries and head.
struct QueryRowsLaunch : Launch<kAttentionThreads> {
    static Grid grid(const AttentionBackwardParams& params) {
        return tiles_grid(params.forward, params.forward.queries, kTileRows);
    }
};
template <class T, int D, class Mask>
struct attention_backward_query_launch : QueryRowsLaunch {
    static uint64_t shared_bytes(const AttentionBackwardParams& params) {
        return bytes_with_mask<Mask>(params.forward,
                                     KeyStream<T, D, Mask>::kBytes + 2 * taken_bytes<T>(kTileRows * D));
    }
};

// Kernels that no mask concerns.
#define RETROMAE_ATTENTION_ROWS(part, mask_name, Mask, T, d)                                            \
    RETROMAE_KERNEL(attention_backward_##part##_##T##_d##d, AttentionBackwardParams, QueryRowsLaunch) { \
        attention_backward_##part<T, d>(params);                                                        \
    }

RETROMAE_ATTENTION_TYPES(RETROMAE_ATTENTION_BACKWARD, key_value)
RETROMAE_ATTENTION_TYPES(RETROMAE_ATTENTION_BACKWARD, query)
RETROMAE_ATTENTION_TYPES(RETROMAE_ATTENTION_BACKWARD, atomic)
RETROMAE_ATTENTION_DIMS(RETROMAE_ATTENTION_ROWS, delta, any, AnyMask, bf16)
RETROMAE_ATTENTION_DIMS(RETROMAE_ATTENTION_ROWS, delta, any, AnyMask, f16)
RETROMAE_ATTENTION_DIMS(RETROMAE_ATTENTION_ROWS, convert, any, AnyMask, bf16)
RETROMAE_ATTENTION_DIMS(RETROMAE_ATTENTION_ROWS, convert, any, AnyMask, f16)

}  // namespace retromae
