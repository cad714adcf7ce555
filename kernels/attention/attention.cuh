// Helpers of all attention kernels: the work of a block, and the keys that a query sees.
#pragma once

#include "../arch/approximate.cuh"
#include "../arch/bits.cuh"
#include "../arch/block.cuh"
#include "../arch/warp_primitives.cuh"
#include "../core/philox.cuh"
#include "../core/shared_memory.cuh"
#include "../core/token_range.cuh"
#include "../core/types.cuh"
#include "../mask/whole_words.cuh"

namespace retromae {

constexpr uint32_t kAttentionThreads = 128;
constexpr int kKeyTile = 64;

// One sentence of a packed batch: its queries and keys are consecutive tokens, each of their own packed
// batch. Or tokens of no sentence: those behind the last one, and those of prefix sums that are out of range.
struct Sentence {
    uint32_t index;
    uint32_t query_start;
    uint32_t queries;
    uint32_t key_start;
    uint32_t keys;
    bool exists;
    bool valid;

    RETROMAE_DEVICE Sentence at(const AttentionForwardParams& params, uint32_t index) {
        const TokenRange queries = TokenRange::of(params.query_cu_seqlens, index, params.sentences,
                                                  params.queries, params.query_seqlen_max);
        const TokenRange keys = TokenRange::of(params.key_cu_seqlens, index, params.sentences, params.keys,
                                               params.key_seqlen_max);
        Sentence sentence;
        sentence.index = index;
        sentence.query_start = queries.start;
        sentence.queries = queries.count;
        sentence.key_start = keys.start;
        sentence.keys = keys.count;
        sentence.valid = queries.valid && keys.valid;
        sentence.exists = sentence.valid && index < params.sentences;
        return sentence;
    }
    // The value of rows that no sentence has.
    RETROMAE_MEMBER float absent() const { return valid ? 0.0f : NAN; }
    // Column `column` of the rows from `query` or `key` on.
    template <class T>
    RETROMAE_MEMBER T* query_rows(DevicePointer address, uint32_t stride, uint32_t column,
                                  uint32_t query = 0) const {
        return pointer<T>(address) + static_cast<uint64_t>(query_start + query) * stride + column;
    }
    template <class T>
    RETROMAE_MEMBER T* key_rows(DevicePointer address, uint32_t stride, uint32_t column,
                                uint32_t key = 0) const {
        return pointer<T>(address) + static_cast<uint64_t>(key_start + key) * stride + column;
    }
    // Offset of the sentence's queries of one head in an array [heads, queries].
    RETROMAE_MEMBER uint64_t head_queries(const AttentionForwardParams& params, uint32_t head) const {
        return static_cast<uint64_t>(head) * params.queries + query_start;
    }
    // The query's position among the keys.
    RETROMAE_MEMBER uint32_t position(const AttentionForwardParams& params, uint32_t query) const {
        const int32_t* positions = pointer<const int32_t>(params.query_positions);
        return positions == nullptr ? query : static_cast<uint32_t>(positions[query_start + query]);
    }
    // The query's token among the keys: its row for dropout.
    RETROMAE_MEMBER uint32_t token(uint32_t position) const { return key_start + position; }
};

// The head of a block: heads are neighbors, for they share the mask and lie side by side in memory.
RETROMAE_DEVICE uint32_t block_head(const AttentionForwardParams& params) {
    return blockIdx.x % params.heads;
}

// A sentence and a tile of it, of a grid of tokens / `Tile` + sentences + 1 blocks for each head, whatever
// the lengths. Sentence b has the blocks from cu_seqlens[b] / Tile + b on: enough for its tiles, and at most
// one more. So the grid does not depend on the lengths, which only the device knows, nor does a long sentence
// leave the others idle blocks. The tokens of no sentence follow as one more.
struct SentenceTile {
    uint32_t sentence;
    uint32_t start;  // of the tile, within the sentence

    // All threads of a warp together: each round divides the sentences that are left by 32.
    template <int Tile>
    RETROMAE_DEVICE SentenceTile locate(DevicePointer cu_seqlens, uint32_t tokens,
                                        const AttentionForwardParams& params) {
        const int32_t* bounds = pointer<const int32_t>(cu_seqlens);
        const uint32_t block = blockIdx.x / params.heads;
        uint32_t low = 0, count = params.sentences + 1;
        while (count > 1) {
            const uint32_t step = (count + 31) / 32;
            const uint32_t offset = lane_index() * step;
            const bool reached = offset < count && first_block<Tile>(bounds, low + offset, tokens) <= block;
            const uint32_t lanes = bit_count(warp_ballot(reached));
            // None where the prefix sums do not rise.
            const uint32_t last = lanes == 0 ? 0 : (lanes - 1) * step;
            low += last;
            count = count - last < step ? count - last : step;
        }
        return {low, (block - first_block<Tile>(bounds, low, tokens)) * Tile};
    }

  private:
    template <int Tile>
    RETROMAE_DEVICE uint32_t first_block(const int32_t* bounds, uint32_t sentence, uint32_t tokens) {
        return sentence == 0 ? 0 : TokenRange::clamp(bounds[sentence], tokens) / Tile + sentence;
    }
};

// Fills rows `first..end` of one head.
template <int D, class T>
RETROMAE_DEVICE void fill_rows(T* rows, uint32_t stride, uint32_t first, uint32_t end, float value) {
    float values[8];
    fill(values, value);
    for (uint32_t row = first + threadIdx.x; row < end; row += kAttentionThreads)
        for (uint32_t column = 0; column < D; column += 8)
            store(rows + static_cast<uint64_t>(row) * stride + column, values);
}

// The end of the tile of `rows` rows from `first` on.
RETROMAE_DEVICE uint32_t tile_end(uint32_t first, uint32_t rows, uint32_t end) {
    return end - first < rows ? end : first + rows;
}

// Output and log-sum-exp of a tile of queries that are of no sentence: they see nothing.
template <class T, int D>
RETROMAE_DEVICE void write_absent(const AttentionForwardParams& params, const Sentence& sentence,
                                  uint32_t head, uint32_t first, uint32_t tile) {
    const uint32_t end = tile_end(first, tile, sentence.queries);
    fill_rows<D>(sentence.query_rows<T>(params.output, params.output_stride, head * D), params.output_stride,
                 first, end, sentence.absent());
    float* log_sum_exp = pointer<float>(params.log_sum_exp) + sentence.head_queries(params, head);
    for (uint32_t query = first + threadIdx.x; query < end; query += kAttentionThreads)
        log_sum_exp[query] = sentence.valid ? -INFINITY : NAN;
}

// Gradients of queries that are of no sentence, from `first` on.
template <class T, int D>
RETROMAE_DEVICE void write_absent_queries(const AttentionBackwardParams& params, const Sentence& sentence,
                                          uint32_t head, uint32_t first, uint32_t tile) {
    fill_rows<D>(sentence.query_rows<T>(params.d_query, params.d_query_stride, head * D),
                 params.d_query_stride, first, tile_end(first, tile, sentence.queries), sentence.absent());
}

// Gradients of keys and values that are of no sentence, from `first` on.
template <class T, int D>
RETROMAE_DEVICE void write_absent_keys(const AttentionBackwardParams& params, const Sentence& sentence,
                                       uint32_t head, uint32_t first, uint32_t tile) {
    const uint32_t end = tile_end(first, tile, sentence.keys);
    fill_rows<D>(sentence.key_rows<T>(params.d_key, params.d_key_stride, head * D), params.d_key_stride,
                 first, end, sentence.absent());
    fill_rows<D>(sentence.key_rows<T>(params.d_value, params.d_value_stride, head * D), params.d_value_stride,
                 first, end, sentence.absent());
}

// The lowest `count` bits, all 32 from 32 on.
RETROMAE_DEVICE uint32_t lowest_bits(uint32_t count) {
    return count >= 32 ? 0xffffffffu : (1u << count) - 1u;
}

// The keys of a group of 32 that exist.
RETROMAE_DEVICE uint32_t existing_keys(uint32_t first_key, uint32_t keys) {
    return lowest_bits(keys > first_key ? keys - first_key : 0);
}

// Every query sees every key of its sentence.
struct FullMask {
    static constexpr bool kMasked = false;
    uint32_t keys;

    RETROMAE_DEVICE FullMask make(const AttentionForwardParams&, const Sentence& sentence, SharedMemory&) {
        return {sentence.keys};
    }
    // Bit c is set if the query at `position` sees key `first_key + c`; `first_key` is a multiple of 32.
    RETROMAE_MEMBER uint32_t visible(uint32_t, uint32_t first_key) const {
        return existing_keys(first_key, keys);
    }
};

// A pool of whole-word masks in shared memory, as the kernel sample_masks would write it for the sentence.
struct SampledPool {
    const uint32_t* bits;
    const uint16_t* rows;

    // By the whole block, with barriers. Only the pool stays in `memory`; scratch space of the sampling lies
    // where the next arrays will.
    RETROMAE_DEVICE SampledPool sample(const AttentionMaskParams& mask, const Sentence& sentence,
                                       SharedMemory& memory) {
        const uint32_t length = sentence.keys;
        const MaskSampler sampler = {*pointer<const RngState>(mask.rng),
                                     pointer<const uint32_t>(mask.sentence_indices)[sentence.index], length,
                                     mask_count_limit(length, mask.count_limit)};
        const uint32_t words_per_row = (length + 31) / 32;
        const uint32_t pool_rows = length < mask.pool_rows_max ? length : mask.pool_rows_max;
        uint32_t* bits = memory.take<uint32_t>(pool_rows * words_per_row);
        uint16_t* rows = memory.take<uint16_t>(length);
        SharedMemory scratch = memory;
        uint32_t* count = scratch.take<uint32_t>(1);
        Words words;
        words.starts = scratch.take<uint16_t>(length + 1);
        uint16_t* permutation = scratch.take<uint16_t>(kAttentionThreads * permutation_stride(length)) +
                                threadIdx.x * permutation_stride(length);
        sample_rows(sampler, pool_rows, threadIdx.x, kAttentionThreads, rows);
        if (threadIdx.x < 32) {
            find_words(pointer<const uint32_t>(mask.word_starts), sentence.key_start, length, words);
            if (threadIdx.x == 0) *count = words.count;
        }
        __syncthreads();
        words.count = *count;
        for (uint32_t row = threadIdx.x; row < pool_rows; row += kAttentionThreads)
            sample_mask(sampler, STREAM_MASK_POOL, row, words, permutation, bits + row * words_per_row);
        __syncthreads();
        return {bits, rows};
    }
};

// Shared memory of SampledPool::sample for the longest sentence.
struct SampledPoolBytes {
    uint64_t kept;     // bits and rows
    uint64_t passing;  // until the block's own arrays lie there

    static SampledPoolBytes of(const AttentionForwardParams& params) {
        const uint32_t length = params.key_seqlen_max, most = params.mask.pool_rows_max;
        const uint64_t pool_rows = length < most ? length : most;
        return {taken_bytes<uint32_t>(pool_rows * ceil_div(length, 32)) + taken_bytes<uint16_t>(length),
                taken_bytes<uint32_t>(1) + taken_bytes<uint16_t>(uint64_t{length} + 1) +
                    taken_bytes<uint16_t>(uint64_t{kAttentionThreads} * permutation_stride(length))};
    }
};

// A sentence's part of AttentionMaskParams. One kernel serves all kinds: what the kind decides is 32 bits of
// visibility at a time, which each thread makes once a tile, against 32 scores a thread.
struct AnyMask {
    static constexpr bool kMasked = true;
    const uint32_t* bits;
    const uint16_t* rows;
    const uint16_t* order;
    SampledPool pool;     // not in `bits` and `rows`: the compiler must know which memory it reads
    uint32_t first_word;  // 32-bit words: the sentence's first
    uint32_t words;       // those of all sentences
    uint32_t words_per_row;
    uint32_t keys;
    uint32_t kind;
    uint32_t rules;
    uint32_t left;
    uint32_t right;

    // By the whole block.
    RETROMAE_DEVICE AnyMask make(const AttentionForwardParams& params, const Sentence& sentence,
                                 SharedMemory& memory) {
        const AttentionMaskParams& mask = params.mask;
        AnyMask result;
        result.bits = pointer<const uint32_t>(mask.bits);
        // Not added to the address, so that both it and the bound stay in the constant bank.
        result.first_word = 0;
        if (mask.kind == ATTENTION_MASK_BITS) {
            const uint32_t offset = pointer<const uint32_t>(mask.offsets)[sentence.index];
            result.first_word = offset < mask.words ? offset : mask.words;
        }
        result.words = mask.words;
        result.rows = mask.rows == 0 ? nullptr : pointer<const uint16_t>(mask.rows) + sentence.key_start;
        result.order = pointer<const uint16_t>(mask.order) + sentence.key_start;
        result.pool = {nullptr, nullptr};
        if (mask.kind == ATTENTION_MASK_SAMPLED) result.pool = SampledPool::sample(mask, sentence, memory);
        result.words_per_row = (sentence.keys + 31) / 32;
        result.keys = sentence.keys;
        result.kind = mask.kind;
        result.rules = mask.rules;
        result.left = mask.left;
        result.right = mask.right;
        return result;
    }

    // A query at a position that is no key's sees nothing.
    RETROMAE_MEMBER uint32_t visible(uint32_t position, uint32_t first_key) const {
        if (first_key >= keys || position >= keys) return 0;
        uint32_t visible;
        if (kind == ATTENTION_MASK_BITS)
            visible = stored((rows == nullptr ? position : rows[position]) * words_per_row + first_key / 32);
        else if (kind == ATTENTION_MASK_SAMPLED)
            visible = pool.bits[pool.rows[position] * words_per_row + first_key / 32];
        else if (kind == ATTENTION_MASK_WINDOW)
            visible = in_window(position, first_key);
        else
            visible = earlier_in_order(position, first_key);
        if (rules & ATTENTION_FIRST_VISIBLE && first_key == 0 && position != 0) visible |= 1u;
        const uint32_t diagonal = position - first_key < 32 ? 1u << (position - first_key) : 0u;
        if (rules & ATTENTION_SELF_HIDDEN) visible &= ~diagonal;
        if (rules & ATTENTION_SELF_VISIBLE) visible |= diagonal;
        return visible & existing_keys(first_key, keys);
    }

  private:
    RETROMAE_MEMBER uint32_t stored(uint32_t word) const {
        return word < words - first_word ? bits[first_word + word] : 0;
    }
    RETROMAE_MEMBER uint32_t in_window(uint32_t position, uint32_t first_key) const {
        const uint32_t begin = position > left ? position - left : 0;
        const uint32_t last = right < keys ? position + right : keys;
        const uint32_t below = begin > first_key ? begin - first_key : 0;
        const uint32_t count = last >= first_key ? last - first_key + 1 : 0;
        return lowest_bits(count) & ~lowest_bits(below);
    }
    RETROMAE_MEMBER uint32_t earlier_in_order(uint32_t position, uint32_t first_key) const {
        const uint32_t count = keys - first_key < 32 ? keys - first_key : 32;
        const uint32_t own = order[position];
        uint32_t visible = 0;
        for (uint32_t i = 0; i < count; ++i)
            visible |= static_cast<uint32_t>(order[first_key + i] < own) << i;
        return visible;
    }
};

// The operands of one head of the block's sentence, in the backward.
template <class T>
struct BackwardOperands {
    const T* query;
    const T* key;
    const T* value;
    const T* output;
    const T* d_output;
    const float* log_sum_exp;
    T* d_query;
    uint32_t d_query_stride;

    RETROMAE_DEVICE BackwardOperands locate(const AttentionBackwardParams& params, const Sentence& sentence,
                                            uint32_t head, int d) {
        const AttentionForwardParams& forward = params.forward;
        const uint32_t column = head * d;
        return {sentence.query_rows<const T>(forward.query, forward.query_stride, column),
                sentence.key_rows<const T>(forward.key, forward.key_stride, column),
                sentence.key_rows<const T>(forward.value, forward.value_stride, column),
                sentence.query_rows<const T>(forward.output, forward.output_stride, column),
                sentence.query_rows<const T>(params.d_output, forward.output_stride, column),
                pointer<const float>(forward.log_sum_exp) + sentence.head_queries(forward, head),
                sentence.query_rows<T>(params.d_query, params.d_query_stride, column),
                params.d_query_stride};
    }
    // log2 of the sum of a query's exponentials. That of one that does not exist, or sees nothing, is +inf,
    // which makes its probabilities 0.
    RETROMAE_MEMBER float log_sum(uint32_t query, uint32_t queries) const {
        const float log_sum = query < queries ? log_sum_exp[query] : -INFINITY;
        return log_sum == -INFINITY ? INFINITY : log_sum * kLog2E;
    }
    // A query's δ, stored in the first bytes of its gradient until that is written.
    RETROMAE_MEMBER float* delta_place(uint32_t query) const {
        return reinterpret_cast<float*>(d_query + static_cast<uint64_t>(query) * d_query_stride);
    }
    RETROMAE_MEMBER float delta(uint32_t query, uint32_t queries) const {
        return query < queries ? *delta_place(query) : 0.0f;
    }
};

// Enough blocks of `tile` tokens for any lengths of the sentences, and for the tokens that are of none, for
// each head: see SentenceTile.
inline Grid tiles_grid(const AttentionForwardParams& params, uint64_t tokens, uint64_t tile) {
    return {(tokens / tile + params.sentences + 1) * params.heads};
}

// Shared memory of a block that needs `own` bytes beside what the mask keeps, after the mask has been made.
template <class Mask>
uint64_t bytes_with_mask(const AttentionForwardParams& params, uint64_t own) {
    if (!Mask::kMasked || params.mask.kind != ATTENTION_MASK_SAMPLED) return own;
    const SampledPoolBytes pool = SampledPoolBytes::of(params);
    return pool.kept + (own > pool.passing ? own : pool.passing);
}

// The head sizes that kernels are made for: X(part, mask's name, Mask, T, d).
#define RETROMAE_ATTENTION_DIMS(X, part, mask_name, Mask, T) \
    X(part, mask_name, Mask, T, 32)                          \
    X(part, mask_name, Mask, T, 64)                          \
    X(part, mask_name, Mask, T, 96)                          \
    X(part, mask_name, Mask, T, 128)

}  // namespace retromae
