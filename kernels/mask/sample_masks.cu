// Whole-word masks, sampled on the device: the pools of position-specific masks of the enhanced decoder
// (RetroMAE, arXiv 2205.12035, section 3.2), and the inputs of encoder and basic decoder, corrupted.
//
// A sentence of L tokens has K = min(L, pool_rows_max) independent masks. Each visits the whole words in a
// random order (Fisher-Yates, sample k of row r is value k % 4 of philox([r << 16 | k / 4, sentence, pool
// stream, step])) and hides a word unless that would exceed the count limit max(1, round(L · ratio)). Output:
// K bit rows of ceil(L / 32) 32-bit words, 1 = visible, and for each token the pool's row that it reads.
// `reference::mask` has the definition; the result agrees bit for bit.
//
// Work: K · L samples at most, each a dependent access to the row's permutation, so bound by latency; written
// are K · L / 8 bytes, a 4096th of the dense int64 masks of a CPU collator at L = 512, K = 128. Rows are not
// expanded to a mask a token, transposed or put in the order of a matrix instruction: a batch of 64 · 512
// tokens would have 4 MB of them in place of 0.6, for attention to save a shift a 32-bit word. One thread
// makes one row; a block is one warp, 32 rows of one sentence, so that a sentence spreads over several
// multiprocessors and 32 permutations of u16 fit shared memory up to L = 1024 (66 KB); longer sentences keep
// theirs in the workspace. The bits are gathered in shared memory and written coalesced.
//
// One more block a sentence corrupts its inputs: two lanes sample the two masks, the warp writes. The chosen
// tokens of a sentence go, in order, to as many rows as its count limit has, so that rows are known before
// anything is sampled.
#include "../core/token_range.cuh"
#include "whole_words.cuh"

namespace retromae {

constexpr uint32_t kSampleMasksThreads = MASK_ROWS_PER_BLOCK;
constexpr int32_t kNoRow = -1;
constexpr int32_t kNoId = -1;

// 32-bit words between the masks of two threads in shared memory: odd, so that equal words of 32 masks lie in
// 32 banks.
constexpr uint32_t mask_stride(uint32_t words_per_row) {
    return words_per_row | 1u;
}

// The input and the labeled rows of tokens without a mask: the ids as they are behind the last sentence, and
// none where the prefix sums are out of range. One warp.
RETROMAE_DEVICE void leave(const CorruptionParams& params, const TokenRange& tokens, uint32_t sentence,
                           uint32_t sentences) {
    for (uint32_t token = tokens.start + lane_index(); token < tokens.start + tokens.count; token += 32)
        pointer<int32_t>(params.input_ids)[token] =
            tokens.valid ? pointer<const int32_t>(params.ids)[token] : kNoId;
    const TokenRange places =
        TokenRange::of(params.offsets, sentence, sentences, params.labeled, params.labeled);
    for (uint32_t place = places.start + lane_index(); place < places.start + places.count; place += 32) {
        pointer<int32_t>(params.rows)[place] = kNoRow;
        pointer<int32_t>(params.targets)[place] = IGNORE_INDEX;
    }
    if (sentence < sentences && lane_index() == 0) pointer<int32_t>(params.counts)[sentence] = 0;
}

// Writes what `visible`, one mask of the sentence at `token`, leaves of its input. One warp.
RETROMAE_DEVICE void corrupt(const CorruptionParams& params, const MaskSampler& sampler, uint32_t sentence,
                             uint32_t sentences, uint32_t token, const uint32_t* visible) {
    const TokenRange own =
        TokenRange::of(params.offsets, sentence, sentences, params.labeled, params.labeled);
    int32_t* rows = pointer<int32_t>(params.rows) + own.start;
    int32_t* targets = pointer<int32_t>(params.targets) + own.start;
    const uint32_t places = own.count;
    uint32_t count = 0;
    for (uint32_t base = 0; base < sampler.length; base += 32) {
        const uint32_t position = base + lane_index();
        const uint32_t existing =
            sampler.length - base < 32 ? (1u << (sampler.length - base)) - 1u : 0xffffffffu;
        const uint32_t chosen = ~visible[base / 32] & existing;
        if (position < sampler.length) {
            int32_t id = pointer<const int32_t>(params.ids)[token + position];
            if (chosen >> lane_index() & 1u) {
                const uint32_t place = count + bit_count(chosen & ((1u << lane_index()) - 1u));
                if (place < places) {
                    rows[place] = static_cast<int32_t>(token + position);
                    targets[place] = id;
                }
                const Random4 random = philox(sampler.rng.seed_low, sampler.rng.seed_high, position,
                                              sampler.sentence_index, STREAM_CORRUPTION, sampler.rng.step);
                if (random.words[0] < params.mask_below)
                    id = params.mask_id;
                else if (random.words[0] < params.random_below)
                    id = static_cast<int32_t>(bounded(random.words[1], params.vocab_size));
            }
            pointer<int32_t>(params.input_ids)[token + position] = id;
        }
        count += bit_count(chosen);
    }
    for (uint32_t place = count + lane_index(); place < places; place += 32) {
        rows[place] = kNoRow;
        targets[place] = IGNORE_INDEX;
    }
    if (lane_index() == 0) pointer<int32_t>(params.counts)[sentence] = static_cast<int32_t>(count);
}

// The block of tokens without a mask: those behind the last sentence, and those of prefix sums that are out
// of range.
RETROMAE_DEVICE void leave_sentence(const SampleMasksParams& params, const TokenRange& tokens,
                                    uint32_t sentence) {
    if (blockIdx.y == params.pool_blocks) {
        if (params.encoder.input_ids != 0) leave(params.encoder, tokens, sentence, params.sentences);
        if (params.decoder.input_ids != 0) leave(params.decoder, tokens, sentence, params.sentences);
    } else if (blockIdx.y == 0 && params.rows != 0) {
        for (uint32_t i = threadIdx.x; i < tokens.count; i += kSampleMasksThreads)
            pointer<uint16_t>(params.rows)[tokens.start + i] = 0;
    }
}

// A block at work: one warp, for a sentence that begins at `token`.
struct MaskBlock {
    const SampleMasksParams& params;
    MaskSampler sampler;
    uint32_t sentence;
    uint32_t token;
    uint32_t words_per_row;
    Words words;     // shared memory
    uint32_t* bits;  // shared memory: a mask a thread, `mask_stride` apart

    RETROMAE_DEVICE MaskBlock begin(SharedMemory& memory, const SampleMasksParams& params, uint32_t sentence,
                                    const TokenRange& tokens) {
        MaskBlock block = {
            params,
            {*pointer<const RngState>(params.rng), pointer<const uint32_t>(params.sentence_indices)[sentence],
             tokens.count, mask_count_limit(tokens.count, params.count_limit)},
            sentence,
            tokens.start,
            (tokens.count + 31u) / 32u,
            {},
            nullptr};
        block.words.starts = memory.take<uint16_t>(params.length_max + 1);
        block.bits =
            memory.take<uint32_t>(kSampleMasksThreads * mask_stride((params.length_max + 31u) / 32u));
        return block;
    }
    RETROMAE_MEMBER void find_words() {
        retromae::find_words(pointer<const uint32_t>(params.word_starts), token, sampler.length, words);
        warp_barrier();
    }
    // The mask of a thread, in shared memory.
    RETROMAE_MEMBER uint32_t* mask_of(uint32_t thread) const {
        return bits + thread * mask_stride(words_per_row);
    }

    // Corrupts the sentence's inputs of encoder and decoder: two lanes sample their masks.
    RETROMAE_MEMBER void corrupt_inputs(SharedMemory& memory) {
        find_words();
        uint16_t* permutations = memory.take<uint16_t>(2u * permutation_stride(params.length_max));
        const bool encoder = threadIdx.x == 0;
        const CorruptionParams& own = encoder ? params.encoder : params.decoder;
        sampler.count_limit = mask_count_limit(sampler.length, own.count_limit);
        if (threadIdx.x < 2 && own.input_ids != 0)
            sample_mask(sampler, encoder ? STREAM_ENCODER_MASK : STREAM_DECODER_MASK, 0, words,
                        permutations + threadIdx.x * permutation_stride(sampler.length),
                        mask_of(threadIdx.x));
        warp_barrier();
        if (params.encoder.input_ids != 0)
            corrupt(params.encoder, sampler, sentence, params.sentences, token, mask_of(0));
        if (params.decoder.input_ids != 0)
            corrupt(params.decoder, sampler, sentence, params.sentences, token, mask_of(1));
    }

    // Makes this block's share of the sentence's masks, a thread a row.
    RETROMAE_MEMBER void sample_pool(SharedMemory& memory) {
        const uint32_t pool_rows =
            sampler.length < params.pool_rows_max ? sampler.length : params.pool_rows_max;
        if (params.rows != 0)
            sample_rows(sampler, pool_rows, blockIdx.y * kSampleMasksThreads + threadIdx.x,
                        params.pool_blocks * kSampleMasksThreads, pointer<uint16_t>(params.rows) + token);
        const uint32_t first_row = blockIdx.y * kSampleMasksThreads;
        if (first_row >= pool_rows) return;
        const uint32_t rows =
            pool_rows - first_row < kSampleMasksThreads ? pool_rows - first_row : kSampleMasksThreads;
        uint16_t* permutation = permutation_of(memory, first_row + threadIdx.x);
        find_words();
        if (threadIdx.x < rows)
            sample_mask(sampler, STREAM_MASK_POOL, first_row + threadIdx.x, words, permutation,
                        mask_of(threadIdx.x));
        warp_barrier();
        write_rows(first_row, rows);
    }

  private:
    // Memory for the permutation of a row: shared, or the workspace of long sentences.
    RETROMAE_MEMBER uint16_t* permutation_of(SharedMemory& memory, uint32_t row) const {
        if (params.workspace == 0)
            return memory.take<uint16_t>(kSampleMasksThreads * permutation_stride(params.length_max)) +
                   threadIdx.x * permutation_stride(sampler.length);
        const uint32_t rows_max = (params.pool_rows_max + 31u) / 32u * 32u;
        return pointer<uint16_t>(params.workspace) + static_cast<uint64_t>(token) * rows_max +
               static_cast<uint64_t>(row) * sampler.length;
    }
    // Writes the first `rows` masks to the sentence's rows from `first_row` on.
    RETROMAE_MEMBER void write_rows(uint32_t first_row, uint32_t rows) const {
        const uint64_t first_word = pointer<const uint32_t>(params.pool_offsets)[sentence] +
                                    static_cast<uint64_t>(first_row) * words_per_row;
        for (uint32_t word = threadIdx.x; word < rows * words_per_row; word += kSampleMasksThreads)
            if (first_word + word < params.pool_words)
                pointer<uint32_t>(params.bits)[first_word + word] =
                    mask_of(word / words_per_row)[word % words_per_row];
    }
};

// One warp per 32 rows of a sentence's pool, and one more for the sentence's corrupted inputs.
struct SampleMasksLaunch : Launch<kSampleMasksThreads> {
    static bool corrupts(const SampleMasksParams& params) {
        return params.encoder.input_ids != 0 || params.decoder.input_ids != 0;
    }
    // One more than there are sentences, for the tokens behind them.
    static Grid grid(const SampleMasksParams& params) {
        return {uint64_t{params.sentences} + 1, uint64_t{params.pool_blocks} + corrupts(params)};
    }
    // The whole words, the bits of 32 rows, and the permutations that are not in the workspace: of 32 rows,
    // or two.
    static uint64_t shared_bytes(const SampleMasksParams& params) {
        const uint64_t pool_rows = params.pool_blocks > 0 && params.workspace == 0 ? kSampleMasksThreads : 0;
        const uint64_t rows = pool_rows > 0 ? pool_rows : corrupts(params) ? 2 : 0;
        return taken_bytes<uint16_t>(uint64_t{params.length_max} + 1) +
               taken_bytes<uint32_t>(kSampleMasksThreads * mask_stride((params.length_max + 31u) / 32u)) +
               taken_bytes<uint16_t>(rows * permutation_stride(params.length_max));
    }
};

RETROMAE_KERNEL(sample_masks, SampleMasksParams, SampleMasksLaunch) {
    const uint32_t sentence = blockIdx.x;
    const TokenRange tokens =
        TokenRange::of(params.cu_seqlens, sentence, params.sentences, params.tokens, params.length_max);
    if (!tokens.valid || sentence == params.sentences) return leave_sentence(params, tokens, sentence);
    SharedMemory memory = SharedMemory::begin();
    MaskBlock block = MaskBlock::begin(memory, params, sentence, tokens);
    if (blockIdx.y == params.pool_blocks)
        block.corrupt_inputs(memory);
    else
        block.sample_pool(memory);
}

}  // namespace retromae
