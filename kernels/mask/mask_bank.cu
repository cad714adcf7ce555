// The banks of position-specific whole-word masks, drawn where they are used (RetroMAE, arXiv 2205.12035,
// section 3.2).
//
// A sentence of L tokens has K = min(L, bank_rows_max) independent masks. Each visits the words in a random
// order (Fisher-Yates, draw k of row r is word k % 4 of philox([r << 16 | k / 4, sentence, bank stream,
// step])) and hides a word unless that would exceed the budget max(1, round(L · ratio)). Output: K bit rows
// of ceil(L / 32) words, 1 = visible, and for each token the bank row that it reads. `reference::mask` has
// the definition; the result agrees bit for bit.
//
// Work: K · L draws at most, each a dependent access to the row's permutation, so bound by latency; written
// are K · L / 8 bytes, a 4096th of the dense int64 masks of a CPU collator at L = 512, K = 128. One thread
// makes one row; a block is one warp, 32 rows of one sentence, so that a sentence spreads over several
// multiprocessors and 32 permutations of u16 fit shared memory up to L = 1024 (66 KB); longer sentences keep
// theirs in the workspace. The bits are gathered in shared memory and written coalesced.
#include "whole_words.cuh"

namespace retromae {

constexpr uint32_t kMaskBankThreads = 32;

RETROMAE_KERNEL(mask_bank, MaskBankParams, kMaskBankThreads) {
    const RngState rng = *pointer<const RngState>(params.rng);
    const int32_t* cu_seqlens = pointer<const int32_t>(params.cu_seqlens);
    const uint32_t sentence = blockIdx.x;
    const uint32_t sentence_index = pointer<const uint32_t>(params.sentence_indices)[sentence];
    const uint32_t token = static_cast<uint32_t>(cu_seqlens[sentence]);
    const uint32_t length = static_cast<uint32_t>(cu_seqlens[sentence + 1]) - token;
    const uint32_t bank_rows = length < params.bank_rows_max ? length : params.bank_rows_max;
    draw_rows(rng, sentence_index, length, bank_rows, blockIdx.y * kMaskBankThreads + threadIdx.x,
              gridDim.y * kMaskBankThreads, pointer<uint16_t>(params.rows) + token);

    const uint32_t first_row = blockIdx.y * kMaskBankThreads;
    if (first_row >= bank_rows) return;
    const uint32_t rows = bank_rows - first_row < kMaskBankThreads ? bank_rows - first_row : kMaskBankThreads;
    SharedMemory memory = SharedMemory::begin();
    Words words;
    words.starts = memory.take<uint16_t>(params.length_max);
    words.ends = memory.take<uint16_t>(params.length_max);
    uint32_t* bits = memory.take<uint32_t>(kMaskBankThreads * ((params.length_max + 31u) / 32u));
    uint16_t* permutation;
    if (params.workspace != 0) {
        const uint32_t rows_max = (params.bank_rows_max + 31u) / 32u * 32u;
        permutation = pointer<uint16_t>(params.workspace) + static_cast<uint64_t>(token) * rows_max +
                      static_cast<uint64_t>(first_row + threadIdx.x) * length;
    } else {
        permutation = memory.take<uint16_t>(kMaskBankThreads * permutation_stride(params.length_max)) +
                      threadIdx.x * permutation_stride(length);
    }
    find_words(pointer<const uint8_t>(params.word_starts) + token, length, words);
    warp_barrier();

    const uint32_t words_per_row = (length + 31u) / 32u;
    if (threadIdx.x < rows)
        draw_mask(rng, sentence_index, first_row + threadIdx.x, words, length,
                  mask_budget(length, params.ratio_q32), permutation, bits + threadIdx.x * words_per_row);
    warp_barrier();
    uint32_t* output = pointer<uint32_t>(params.bits) +
                       pointer<const uint32_t>(params.bank_offsets)[sentence] +
                       static_cast<uint64_t>(first_row) * words_per_row;
    for (uint32_t word = threadIdx.x; word < rows * words_per_row; word += kMaskBankThreads)
        output[word] = bits[word];
}

}  // namespace retromae
