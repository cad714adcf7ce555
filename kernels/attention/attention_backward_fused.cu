// Masked attention on tensor cores, backward, of sentences whose queries fit one block: one block a
// (sentence, head). With P = softmax(scale · Q Kᵀ + mask), F the dropout factors and δ = rowsum(dO ∘ O):
//     dV = (P ∘ F)ᵀ dO,   dS = P ∘ (dO Vᵀ ∘ F − δ),   dQ = scale · dS K,   dK = scale · dSᵀ Q
//
// Q and dO of the sentence stay in shared memory, as does dQ in f32; δ is made in the prologue. Keys come in
// tiles of 64, 16 a warp, whose dK and dV are in registers. A warp computes Sᵀ = K Qᵀ, so that Pᵀ and dSᵀ are
// operands of dV and dK as they are; dSᵀ goes through shared memory (transposed by ldmatrix) to dQ, of which
// each warp owns 16 queries. So every gradient is summed in one place and in one order, without atomics or
// workspace, and each operand is read, each gradient written, once.
//
// Work, a head: 10·L²·d FLOPs (5 matmuls), L² exponentials; 16·L·d bytes. At L = 128 the floor is HBM (H100,
// d = 64: 0.12 ms for B = 256 × 12 heads), which two blocks an SM, one loading while the other multiplies,
// are there to reach.
//
// d     shared memory: a query, and besides   registers sm_80, sm_90 (full; masked)   L = 128, 256
// 32    264 B    16.5 KB                      168; 203    205; 210                    50 KB, 82 KB
// 64    520 B    24.5 KB                      210; 244    254; 252                    90 KB, 155 KB
// 96    776 B    28.3 KB                      247; 255    255; 255                    125 KB, 222 KB
// Two blocks an SM by registers; by shared memory two at L = 128 with 228 KB (H100) up to d = 64, one with
// 164 KB (A100) at d = 64. Up to 256 queries where they fit: with 163 KB a block, 256 at d = 64 and 160 at d
// = 96. Beyond, and at d = 128, see attention_backward_tiled.cu.
//
// Queries are scored 64 at once, from d = 96 on 16: otherwise the compiler spills. For the same reason
// addresses are made anew in each step (`recomputed`): hoisted out of the loop they took 20 registers.
//
// Bank conflicts: none on the hot accesses. Sᵀ and dPᵀ: see the forward. dSᵀ is stored in 4-byte pieces, 8
// rows × 4 lanes into 32 banks by the swizzle; dQ lies in the order of the fragments, 16 bytes a lane, and
// only that lane touches it.
//
// Weighed and not taken: K and V a tile ahead (256 queries at d = 64 would no longer fit 163 KB); dQ by rows
// (8 conflicts a store).
#include "backward.cuh"

namespace retromae {

// `Rows` rows of the output, in registers between their loads and their use: a quad of threads a row.
template <class T, int D, int Rows>
struct OutputRows {
    static constexpr int kPasses = Rows * 4 / static_cast<int>(kAttentionThreads);
    static constexpr int kChunks = D / 32;
    Pack<T, 8> chunks[kPasses][kChunks];

    RETROMAE_DEVICE uint32_t row(int pass) { return pass * kAttentionThreads / 4 + threadIdx.x / 4; }
    // Neighboring rows read different halves of 128 bytes, so that 8 threads meet 8 groups of 4 banks.
    RETROMAE_DEVICE uint32_t column(int pass, int j) {
        const uint32_t turned = SharedTile<T, D>::kChunks % 8 == 0 ? j ^ (row(pass) & 1) : j;
        return threadIdx.x % 4 + 4 * turned;
    }

    RETROMAE_MEMBER void load(const T* output, uint32_t stride, uint32_t first, uint32_t end) {
        RETROMAE_UNROLL
        for (int pass = 0; pass < kPasses; ++pass) {
            const bool exists = first + row(pass) < end;
            RETROMAE_UNROLL
            for (int j = 0; j < kChunks; ++j) {
                chunks[pass][j] = {};
                if (exists)
                    chunks[pass][j] = *reinterpret_cast<const Pack<T, 8>*>(
                        output + static_cast<uint64_t>(first + row(pass)) * stride + 8 * column(pass, j));
            }
        }
    }

    // Needs a barrier before others read the statistics.
    RETROMAE_MEMBER void reduce(const SharedTile<T, D>& d_outputs, const BackwardOperands<T>& operands,
                                uint32_t first, uint32_t end, const QueryStatistics& statistics) const {
        float deltas[kPasses] = {};
        RETROMAE_UNROLL
        for (int pass = 0; pass < kPasses; ++pass) {
            RETROMAE_UNROLL
            for (int j = 0; j < kChunks; ++j) {
                float d_output[8];
                retromae::load(d_outputs.chunk(row(pass), column(pass, j)), d_output);
                RETROMAE_UNROLL
                for (int i = 0; i < 8; ++i)
                    deltas[pass] = fmaf(to_float(chunks[pass][j].values[i]), d_output[i], deltas[pass]);
            }
        }
        warp_butterfly<Sum, 4>(deltas);
        RETROMAE_UNROLL
        for (int pass = 0; pass < kPasses; ++pass) {
            if (threadIdx.x % 4 != 0) continue;
            statistics.log_sums[row(pass)] = operands.log_sum(first + row(pass), end);
            statistics.deltas[row(pass)] = deltas[pass];
        }
    }
};

// Shared memory of a block; the first four grow with the sentence.
template <class T, int D>
struct FusedTiles {
    static constexpr int kQueries = kQueryTile<D>;

    SharedTile<T, D> queries;
    SharedTile<T, D> d_outputs;
    QueryStatistics statistics;
    float* d_query;                    // f32, in fragments: [rows / 16, d / 8, 32 lanes, 4]
    SharedTile<T, D> keys;             // 64 rows
    SharedTile<T, D> values;           // 64 rows
    SharedTile<T, kQueries> d_scores;  // 64 keys
    uint32_t* visible;                 // [queries / 32, 64 keys]

    // Shared memory that `take` uses, in bytes.
    static uint64_t bytes(uint64_t rows, bool masked) {
        return 2 * taken_bytes<T>(rows * D) + 2 * taken_bytes<float>(rows) + taken_bytes<float>(rows * D) +
               2 * taken_bytes<T>(kKeyTile * D) + taken_bytes<T>(kKeyTile * kQueries) +
               (masked ? taken_bytes<uint32_t>(kTileRows * kQueries / 32) : 0);
    }
    RETROMAE_DEVICE FusedTiles take(SharedMemory memory, uint32_t rows, bool masked) {
        FusedTiles tiles;
        tiles.queries.elements = memory.take<T>(rows * D);
        tiles.d_outputs.elements = memory.take<T>(rows * D);
        tiles.statistics = QueryStatistics::take(memory, rows);
        tiles.d_query = memory.take<float>(rows * D);
        tiles.keys.elements = memory.take<T>(kKeyTile * D);
        tiles.values.elements = memory.take<T>(kKeyTile * D);
        tiles.d_scores.elements = memory.take<T>(kKeyTile * kQueries);
        tiles.visible = masked ? memory.take<uint32_t>(kTileRows * kQueries / 32) : nullptr;
        return tiles;
    }
    // The keys in shared memory, the sentence's from `key` on, and its queries from `query` on.
    RETROMAE_MEMBER ScoreTile<T, D> at(uint32_t key, uint32_t query) const {
        return {key,
                query,
                keys,
                values,
                queries.from(query),
                d_outputs.from(query),
                statistics.from(query),
                visible,
                d_scores};
    }
};

// A warp's share of dQ in shared memory; a lane reads and writes its own values alone.
template <class T, int D>
struct FusedQueryGradient {
    static constexpr int kQueries = kQueryTile<D>;
    using Share = QueryShare<T, D>;
    using Sums = float[Share::kTiles][4];

    float* d_query;  // in fragments
    Share share;

    RETROMAE_MEMBER float* fragment(uint32_t query_tile, int n) const {
        const uint32_t block = (query_tile + share.row) / 16 * (D / 8) + share.chunk + n;
        return d_query + (block * 32 + lane_index()) * 4;
    }
    RETROMAE_MEMBER void read(uint32_t query_tile, Sums& sums) const {
        RETROMAE_UNROLL
        for (int n = 0; n < Share::kTiles; ++n) load(fragment(query_tile, n), sums[n]);
    }
    RETROMAE_MEMBER void write(uint32_t query_tile, const Sums& sums) const {
        RETROMAE_UNROLL
        for (int n = 0; n < Share::kTiles; ++n) store(fragment(query_tile, n), sums[n]);
    }
    RETROMAE_MEMBER void clear(uint32_t rows) const {
        const Sums zeros = {};
        for (uint32_t query = 0; query < rows; query += kQueries) write(query, zeros);
    }
    // Adds what a tile of keys gives a tile of queries.
    RETROMAE_MEMBER void add(const ScoreTile<T, D>& tile) const {
        Sums sums;
        read(tile.first_query, sums);
        share.add_keys(tile.d_scores, tile.keys, sums);
        write(tile.first_query, sums);
    }
    // Writes dQ to global memory by way of the queries' tile, which nobody reads any more.
    RETROMAE_MEMBER void finish(const AttentionBackwardParams& params, const Sentence& sentence,
                                uint32_t head, const SharedTile<T, D>& queries) const {
        const float factors[2] = {params.forward.scale, params.forward.scale};
        for (uint32_t query = share.row; query < sentence.queries; query += kQueries) {
            Sums sums;
            read(query - share.row, sums);
            queries.store(query, share.chunk, sums, factors);
            warp_barrier();
            queries.template write_rows<Share::kTiles>(
                query, share.chunk,
                sentence.query_rows<T>(params.d_query, params.d_query_stride, head * D + 8 * share.chunk,
                                       query),
                params.d_query_stride, sentence.queries - query);
        }
    }
};

// A block at work: one head of a sentence.
template <class T, int D, class Mask>
struct FusedBlock {
    static constexpr int kQueries = kQueryTile<D>;

    const AttentionBackwardParams& params;
    const Sentence& sentence;
    const Mask& mask;
    uint32_t head;
    uint32_t rows;  // queries, in whole tiles
    BackwardOperands<T> operands;
    FusedTiles<T, D> tiles;
    FusedQueryGradient<T, D> d_query;

    // Starts the copies of all queries and output gradients, as one group.
    RETROMAE_MEMBER void copy_queries() const {
        for (uint32_t query = 0; query < rows; query += kQueries) {
            tiles.queries.from(query).template copy_rows<kQueries, kAttentionThreads>(
                operands.query, params.forward.query_stride, query, sentence.queries);
            tiles.d_outputs.from(query).template copy_rows<kQueries, kAttentionThreads>(
                operands.d_output, params.forward.output_stride, query, sentence.queries);
        }
        copy_async_commit();
    }
    // Starts the copies of a tile of keys and values, as one group.
    RETROMAE_MEMBER void copy_keys(uint32_t first) const {
        tiles.keys.template copy_rows<kKeyTile, kAttentionThreads>(operands.key, params.forward.key_stride,
                                                                   first, sentence.keys);
        tiles.values.template copy_rows<kKeyTile, kAttentionThreads>(
            operands.value, params.forward.value_stride, first, sentence.keys);
        copy_async_commit();
    }
    // Makes the statistics of all queries; waits for their copies, after which one group may have begun.
    RETROMAE_MEMBER void make_statistics() const {
        for (uint32_t query = 0; query < rows; query += kQueries) {
            OutputRows<T, D, kQueries> outputs;
            outputs.load(operands.output, params.forward.output_stride, query, sentence.queries);
            if (query == 0) {
                copy_async_wait<1>();
                __syncthreads();
            }
            outputs.reduce(tiles.d_outputs.from(query), operands, query, sentence.queries,
                           tiles.statistics.from(query));
        }
    }
    // Adds the gradients of a tile of keys, which is in shared memory, and all queries. With barriers.
    RETROMAE_MEMBER void add_keys(uint32_t first) const {
        KeyRows<T, D, Mask> key_rows;
        key_rows.clear();
        for (uint32_t query = 0; query < rows; query += kQueries) {
            if constexpr (Mask::kMasked) {
                if (!block_any(transposed_visibility<kQueries / 32>(params.forward, sentence, mask, query,
                                                                    first, tiles.visible)))
                    continue;
            } else if (query > 0) {
                __syncthreads();  // the last dS is still being read
            }
            const ScoreTile<T, D> tile = tiles.at(first, query);
            key_rows.template add_queries<true>(params.forward, sentence, head, tile);
            __syncthreads();
            d_query.add(tile);
        }
        __syncthreads();  // keys are still being read
        key_rows.write(params, sentence, head, tiles.at(first, 0));
    }
};

template <class T, int D, class Mask>
RETROMAE_DEVICE void attention_backward_fused(const AttentionBackwardParams& params) {
    constexpr int kQueries = kQueryTile<D>;
    const AttentionForwardParams& forward = params.forward;
    Sentence sentence = Sentence::at(forward, blockIdx.x / forward.heads);
    const uint32_t head = block_head(forward);
    if (!sentence.exists) {
        write_absent_queries<T, D>(params, sentence, head, 0, sentence.queries);
        write_absent_keys<T, D>(params, sentence, head, 0, sentence.keys);
        return;
    }
    if (sentence.queries > params.fused_queries_max) return;
    // Or what the checks made of it stays in registers, and one is spilled at d = 96.
    sentence.queries = recomputed(sentence.queries);
    SharedMemory memory = SharedMemory::begin();
    const Mask mask = Mask::make(forward, sentence, memory);
    const uint32_t rows = (sentence.queries + kQueries - 1) / kQueries * kQueries;
    const FusedTiles<T, D> tiles = FusedTiles<T, D>::take(memory, rows, Mask::kMasked);
    const FusedBlock<T, D, Mask> block = {params, sentence,
                                          mask,   head,
                                          rows,   BackwardOperands<T>::locate(params, sentence, head, D),
                                          tiles,  {tiles.d_query, QueryShare<T, D>::of_warp()}};
    block.copy_queries();
    block.copy_keys(0);
    block.d_query.clear(rows);
    block.make_statistics();
    for (uint32_t key = 0; key < sentence.keys; key += kKeyTile) {
        if (key > 0) {
            __syncthreads();  // the last tile's gradients are still being written
            block.copy_keys(key);
        }
        copy_async_wait<0>();
        __syncthreads();
        block.add_keys(key);
    }
    copy_async_wait<0>();
    __syncthreads();
    block.d_query.finish(params, sentence, head, tiles.queries);
}

// One block per sentence and head, and one more per head for the tokens outside all sentences.
template <class T, int D, class Mask>
struct attention_backward_fused_launch : Launch<kAttentionThreads> {
    static Grid grid(const AttentionBackwardParams& params) {
        return {(uint64_t{params.forward.sentences} + 1) * params.forward.heads};
    }
    static uint64_t shared_bytes(const AttentionBackwardParams& params) {
        const uint32_t longest = params.forward.query_seqlen_max, most = params.fused_queries_max;
        const uint64_t rows = ceil_div(longest < most ? longest : most, kQueryTile<D>) * kQueryTile<D>;
        return bytes_with_mask<Mask>(params.forward, FusedTiles<T, D>::bytes(rows, Mask::kMasked));
    }
};

// Not for d = 128, whose gradients would not fit the registers, nor more than 96 queries the shared memory of
// sm_80.
#define RETROMAE_ATTENTION_FUSED(part, mask_name, Mask, T)           \
    RETROMAE_ATTENTION_BACKWARD_KERNEL(part, mask_name, Mask, T, 32) \
    RETROMAE_ATTENTION_BACKWARD_KERNEL(part, mask_name, Mask, T, 64) \
    RETROMAE_ATTENTION_BACKWARD_KERNEL(part, mask_name, Mask, T, 96)

RETROMAE_ATTENTION_TYPES(RETROMAE_ATTENTION_FUSED, fused)

}  // namespace retromae
