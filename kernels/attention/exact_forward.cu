// Masked attention over packed sentences, forward: O = dropout(softmax(scale · Q Kᵀ + mask)) V, one block a
// (sentence, head, 64 queries).
//
// Tiles: 64 queries × 64 keys, 128 threads. A thread scores 2 queries × 16 keys from Q [64, d] and Kᵀ [d, 64]
// in shared memory, keeps the running maximum and sum of its rows (online softmax; Milakov and Gimelshein,
// arXiv 1805.02867; Dao et al., arXiv 2205.14135), and accumulates 2 × d/4 of the output. V takes Kᵀ's place
// once the scores are done, so shared memory is Q + K + P: (2·64·(d + 4) + 64·68) · 4 bytes = 52 KB at d = 64
// and 85 KB at d = 128.
//
// Work: 4·L²·d FLOPs a head in f32 FMA; bytes: Q and O once, K and V once a query tile. Bound by FMA
// throughput from L = 64 on. This is the plain path for f32, which tensor cores would round; 16-bit operands
// go to attention_forward.cu.
#include "exact.cuh"

namespace retromae {

using ForwardRows = ExactRows<64>;
constexpr int kForwardRows = ForwardRows::rows;
using ForwardScores = float[kForwardRows][kKeysPerThread];

// Shared memory of a block.
template <int D>
struct ForwardTiles {
    static constexpr int kScoreStride = kKeyTile + kPad;
    float* queries;        // [64, D + kPad]
    float* keys;           // [D, kKeyTile + kPad]
    float* values;         // [kKeyTile, D + kPad], in place of the keys
    float* probabilities;  // [64, kScoreStride], dropped

    static constexpr uint64_t kBytes = taken_bytes<float>(ForwardRows::tile * (D + kPad)) +
                                       taken_bytes<float>(kExactKeyFloats<D>) +
                                       taken_bytes<float>(ForwardRows::tile * kScoreStride);

    RETROMAE_DEVICE ForwardTiles take(SharedMemory& memory) {
        ForwardTiles tiles;
        tiles.queries = memory.take<float>(ForwardRows::tile * (D + kPad));
        tiles.keys = memory.take<float>(kExactKeyFloats<D>);
        tiles.values = tiles.keys;
        tiles.probabilities = memory.take<float>(ForwardRows::tile * kScoreStride);
        return tiles;
    }
};

// A thread's rows of the block's queries.
struct ThreadQueries {
    uint32_t row;    // its first, within the tile
    uint32_t query;  // the same, within the sentence
    uint32_t positions[kForwardRows];
    bool exists[kForwardRows];

    RETROMAE_DEVICE ThreadQueries of(const AttentionForwardParams& params, const Sentence& sentence,
                                     uint32_t tile_start) {
        ThreadQueries own;
        own.row = threadIdx.x / kThreadsPerRow * kForwardRows;
        own.query = tile_start + own.row;
        RETROMAE_UNROLL
        for (int r = 0; r < kForwardRows; ++r) {
            own.exists[r] = own.query + r < sentence.queries;
            own.positions[r] = own.exists[r] ? sentence.position(params, own.query + r) : 0;
        }
        return own;
    }
};

// Scales a thread's scores; those of keys that a query does not see, or that do not exist, become -inf.
template <class Mask>
RETROMAE_DEVICE void scale_and_hide(const Mask& mask, const ThreadQueries& own, uint32_t first_key,
                                    bool existing, float scale, ForwardScores& scores) {
    RETROMAE_UNROLL
    for (int r = 0; r < kForwardRows; ++r) {
        const uint32_t visible =
            existing && own.exists[r] ? visible_keys(mask, own.positions[r], first_key) : 0u;
        RETROMAE_UNROLL
        for (int c = 0; c < kKeysPerThread; ++c)
            scores[r][c] = visible >> c & 1u ? scores[r][c] * scale : -INFINITY;
    }
}

// The running softmax of a thread's rows, and its columns of their output.
template <int D>
struct ExactRunningRows {
    static constexpr int kColumns = D / kThreadsPerRow;

    Strip<kColumns> output[kForwardRows];
    float maximum[kForwardRows];
    float sum[kForwardRows];

    RETROMAE_DEVICE uint32_t first_column() { return threadIdx.x % kThreadsPerRow * kColumns; }

    RETROMAE_MEMBER void clear() {
        RETROMAE_UNROLL
        for (int r = 0; r < kForwardRows; ++r) output[r].fill(0.0f);
        fill(maximum, -INFINITY);
        fill(sum, 0.0f);
    }

    // Turns a tile of scores, -inf where hidden, into exponentials, and brings what was summed so far to the
    // new maximum.
    RETROMAE_MEMBER void exponentiate(ForwardScores& scores) {
        float highest[kForwardRows];
        RETROMAE_UNROLL
        for (int r = 0; r < kForwardRows; ++r) {
            highest[r] = maximum[r];
            RETROMAE_UNROLL
            for (int c = 0; c < kKeysPerThread; ++c) highest[r] = Maximum::apply(scores[r][c], highest[r]);
        }
        warp_butterfly<Maximum, kThreadsPerRow>(highest);
        RETROMAE_UNROLL
        for (int r = 0; r < kForwardRows; ++r) {
            // A row that has seen no key yet keeps a finite reference, so that -inf - -inf never happens.
            const float reference = highest[r] == -INFINITY ? 0.0f : highest[r];
            const float correction = exp2_approximate((maximum[r] - reference) * kLog2E);
            maximum[r] = highest[r];
            float tile_sum = 0.0f;
            RETROMAE_UNROLL
            for (int c = 0; c < kKeysPerThread; ++c)
                scores[r][c] = exp2_approximate((scores[r][c] - reference) * kLog2E);
            RETROMAE_UNROLL
            for (int c = 0; c < kKeysPerThread; ++c) tile_sum += scores[r][c];
            sum[r] = fmaf(sum[r], correction, tile_sum);
            output[r].multiply(correction);
        }
    }

    // Adds `count` values, weighted by their keys' probabilities in the rows from `row` on.
    RETROMAE_MEMBER void add(const ForwardTiles<D>& tiles, uint32_t row, uint32_t count) {
        for (uint32_t j = 0; j < count; ++j) {
            RETROMAE_UNROLL
            for (int r = 0; r < kForwardRows; ++r)
                output[r].fma(tiles.probabilities[(row + r) * ForwardTiles<D>::kScoreStride + j],
                              tiles.values + j * (D + kPad) + first_column());
        }
    }

    // Writes the output and the log-sum-exp.
    RETROMAE_MEMBER void write(const AttentionForwardParams& params, const Sentence& sentence, uint32_t head,
                               const ThreadQueries& own) {
        warp_butterfly<Sum, kThreadsPerRow>(sum);
        RETROMAE_UNROLL
        for (int r = 0; r < kForwardRows; ++r) {
            if (!own.exists[r]) continue;
            const uint32_t query = own.query + r;
            // A row that sees nothing: output 0, log-sum-exp -inf.
            const float inverse = sum[r] == 0.0f ? 0.0f : 1.0f / sum[r];
            store_strip(sentence.query_rows<float>(params.output, params.output_stride,
                                                   head * D + first_column(), query),
                        output[r], inverse);
            if (first_column() == 0)
                pointer<float>(params.log_sum_exp)[sentence.head_queries(params, head) + query] =
                    maximum[r] + logf(sum[r]);
        }
    }
};

template <int D, class Mask>
RETROMAE_DEVICE void exact_forward(const AttentionForwardParams& params) {
    const SentenceTile tile =
        SentenceTile::locate<ForwardRows::tile>(params.query_cu_seqlens, params.queries, params);
    const Sentence sentence = Sentence::at(params, tile.sentence);
    if (tile.start >= sentence.queries) return;
    const uint32_t head = block_head(params);
    if (!sentence.exists)
        return write_absent<float, D>(params, sentence, head, tile.start, ForwardRows::tile);
    const float* query = sentence.query_rows<const float>(params.query, params.query_stride, head * D);
    const float* key = sentence.key_rows<const float>(params.key, params.key_stride, head * D);
    const float* value = sentence.key_rows<const float>(params.value, params.value_stride, head * D);
    SharedMemory memory = SharedMemory::begin();
    const Mask mask = Mask::make(params, sentence, memory);
    const ForwardTiles<D> tiles = ForwardTiles<D>::take(memory);
    const ThreadQueries own = ThreadQueries::of(params, sentence, tile.start);
    const uint32_t key_offset = threadIdx.x % kThreadsPerRow * kKeysPerThread;
    const bool active = own.exists[0];
    ExactRunningRows<D> rows;
    rows.clear();

    load_rows<ForwardRows::tile, D>(tiles.queries, query, params.query_stride, tile.start, sentence.queries);
    for (uint32_t key_start = 0; key_start < sentence.keys; key_start += kKeyTile) {
        if (key_start > 0) __syncthreads();  // the last tile's values are still being read
        load_transposed<kKeyTile, D>(tiles.keys, key, params.key_stride, key_start, sentence.keys);
        __syncthreads();
        const uint32_t first_key = key_start + key_offset;
        const bool existing = active && first_key < sentence.keys;
        ForwardScores scores;
        if (existing)
            multiply<kForwardRows, D>(tiles.queries + own.row * (D + kPad), tiles.keys + key_offset, scores);
        scale_and_hide(mask, own, first_key, existing, params.scale, scores);
        rows.exponentiate(scores);
        RETROMAE_UNROLL
        for (int r = 0; r < kForwardRows; ++r) {
            if (existing)
                apply_dropout(params.dropout, head, sentence.token(own.positions[r]),
                              first_key / kDropoutGroup, scores[r]);
            store(tiles.probabilities + (own.row + r) * tiles.kScoreStride + key_offset, scores[r]);
        }
        __syncthreads();
        load_rows<kKeyTile, D>(tiles.values, value, params.value_stride, key_start, sentence.keys);
        __syncthreads();
        if (active) rows.add(tiles, own.row, tile_end(key_start, kKeyTile, sentence.keys) - key_start);
    }
    rows.write(params, sentence, head, own);
}

// One block per tile of queries and head.
template <int D, class Mask>
struct ExactForwardLaunch : Launch<kAttentionThreads> {
    static Grid grid(const AttentionForwardParams& params) {
        return tiles_grid(params, params.queries, ForwardRows::tile);
    }
    static uint64_t shared_bytes(const AttentionForwardParams& params) {
        return bytes_with_mask<Mask>(params, ForwardTiles<D>::kBytes);
    }
};

#define RETROMAE_EXACT_FORWARD(part, mask_name, Mask, T, d)                              \
    RETROMAE_KERNEL(attention_##part##_##mask_name##_##T##_d##d, AttentionForwardParams, \
                    ExactForwardLaunch<d, Mask>) {                                       \
        exact_##part<d, Mask>(params);                                                   \
    }

RETROMAE_ATTENTION_DIMS(RETROMAE_EXACT_FORWARD, forward, full, FullMask, f32)
RETROMAE_ATTENTION_DIMS(RETROMAE_EXACT_FORWARD, forward, masked, AnyMask, f32)

}  // namespace retromae
