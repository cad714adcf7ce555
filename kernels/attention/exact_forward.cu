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

template <int D, class Mask>
RETROMAE_DEVICE void exact_forward(const AttentionForwardParams& params) {
    using Rows = ForwardRows;
    constexpr int kRows = Rows::rows;
    constexpr int kColumns = D / kThreadsPerRow;
    constexpr int kKeyStride = kKeyTile + kPad;
    constexpr int kValueStride = D + kPad;

    const SentenceTile tile =
        SentenceTile::locate<Rows::tile>(params.query_cu_seqlens, params.queries, params);
    const Sentence sentence = Sentence::at(params, tile.sentence);
    if (tile.start >= sentence.queries) return;
    const uint32_t head = block_head(params);
    if (!sentence.exists) return write_absent<float, D>(params, sentence, head, tile.start, Rows::tile);
    const float* query = sentence.query_rows<const float>(params.query, params.query_stride, head * D);
    const float* key = sentence.key_rows<const float>(params.key, params.key_stride, head * D);
    const float* value = sentence.key_rows<const float>(params.value, params.value_stride, head * D);

    SharedMemory memory = SharedMemory::begin();
    const Mask mask = Mask::make(params, sentence, memory);
    float* queries = memory.take<float>(Rows::tile * (D + kPad));
    float* keys = memory.take<float>(kExactKeyFloats<D>);
    float* values = keys;
    float* probabilities = memory.take<float>(Rows::tile * kKeyStride);

    const uint32_t row = threadIdx.x / kThreadsPerRow * kRows;
    const uint32_t key_offset = threadIdx.x % kThreadsPerRow * kKeysPerThread;
    const uint32_t column = threadIdx.x % kThreadsPerRow * kColumns;
    uint32_t slots[kRows];
    bool exists[kRows];
    RETROMAE_UNROLL
    for (int r = 0; r < kRows; ++r) {
        const uint32_t query_index = tile.start + row + r;
        exists[r] = query_index < sentence.queries;
        slots[r] = exists[r] ? sentence.slot(params, query_index) : 0;
    }
    const bool active = exists[0];

    Strip<kColumns> output[kRows];
    float maximum[kRows], sum[kRows];
    RETROMAE_UNROLL
    for (int r = 0; r < kRows; ++r) {
        output[r].fill(0.0f);
        maximum[r] = -INFINITY;
        sum[r] = 0.0f;
    }

    load_rows<Rows::tile, D>(queries, query, params.query_stride, tile.start, sentence.queries);
    for (uint32_t key_start = 0; key_start < sentence.keys; key_start += kKeyTile) {
        if (key_start > 0) __syncthreads();  // the last tile's values are still being read
        load_transposed<kKeyTile, D>(keys, key, params.key_stride, key_start, sentence.keys);
        __syncthreads();

        const uint32_t first_key = key_start + key_offset;
        const bool existing = active && first_key < sentence.keys;
        float scores[kRows][16];
        float tile_maximum[kRows];
        if (existing) multiply<kRows, D>(queries + row * (D + kPad), keys + key_offset, scores);
        RETROMAE_UNROLL
        for (int r = 0; r < kRows; ++r) {
            const uint32_t visible = existing && exists[r] ? visible_keys(mask, slots[r], first_key) : 0u;
            tile_maximum[r] = maximum[r];
            RETROMAE_UNROLL
            for (int c = 0; c < 16; ++c) {
                scores[r][c] = visible >> c & 1u ? scores[r][c] * params.scale : -INFINITY;
                tile_maximum[r] = scores[r][c] > tile_maximum[r] ? scores[r][c] : tile_maximum[r];
            }
        }
        warp_butterfly<Maximum, kThreadsPerRow>(tile_maximum);
        RETROMAE_UNROLL
        for (int r = 0; r < kRows; ++r) {
            // A row that has seen no key yet keeps a finite reference, so that -inf - -inf never happens.
            const float reference = tile_maximum[r] == -INFINITY ? 0.0f : tile_maximum[r];
            const float correction = exp2_approximate((maximum[r] - reference) * kLog2E);
            maximum[r] = tile_maximum[r];
            float tile_sum = 0.0f;
            RETROMAE_UNROLL
            for (int c = 0; c < 16; ++c) scores[r][c] = exp2_approximate((scores[r][c] - reference) * kLog2E);
            RETROMAE_UNROLL
            for (int c = 0; c < 16; ++c) tile_sum += scores[r][c];
            sum[r] = fmaf(sum[r], correction, tile_sum);
            output[r].multiply(correction);
            if (existing)
                apply_dropout(params.dropout, head, sentence.token(slots[r]), first_key / 16, scores[r]);
            store(probabilities + (row + r) * kKeyStride + key_offset, scores[r]);
        }
        __syncthreads();
        load_rows<kKeyTile, D>(values, value, params.value_stride, key_start, sentence.keys);
        __syncthreads();
        const uint32_t keys_left = sentence.keys - key_start;
        const uint32_t count = keys_left < kKeyTile ? keys_left : kKeyTile;
        if (active) {
            for (uint32_t j = 0; j < count; ++j) {
                RETROMAE_UNROLL
                for (int r = 0; r < kRows; ++r)
                    output[r].fma(probabilities[(row + r) * kKeyStride + j],
                                  values + j * kValueStride + column);
            }
        }
    }

    warp_butterfly<Sum, kThreadsPerRow>(sum);
    RETROMAE_UNROLL
    for (int r = 0; r < kRows; ++r) {
        if (!exists[r]) continue;
        const uint32_t query_index = tile.start + row + r;
        // A row that sees nothing: output 0, log-sum-exp -inf.
        const float inverse = sum[r] == 0.0f ? 0.0f : 1.0f / sum[r];
        store_strip(
            sentence.query_rows<float>(params.output, params.output_stride, head * D + column, query_index),
            output[r], inverse);
        if (column == 0)
            pointer<float>(params.log_sum_exp)[sentence.head_queries(params, head) + query_index] =
                maximum[r] + logf(sum[r]);
    }
}

// A tile of queries a block.
template <int D, class Mask>
struct ExactForwardLaunch : Launch<kAttentionThreads> {
    static Grid grid(const AttentionForwardParams& params) {
        return tiles_grid(params, params.queries, ForwardRows::tile);
    }
    static uint64_t shared_bytes(const AttentionForwardParams& params) {
        return bytes_with_mask<Mask>(params, taken_bytes<float>(ForwardRows::tile * (D + kPad)) +
                                                 taken_bytes<float>(kExactKeyFloats<D>) +
                                                 taken_bytes<float>(ForwardRows::tile * (kKeyTile + kPad)));
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
