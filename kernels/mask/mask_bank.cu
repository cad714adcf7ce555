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
#include "../arch/bits.cuh"
#include "../arch/warp_primitives.cuh"
#include "../core/philox.cuh"
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kMaskBankThreads = 32;
constexpr uint32_t kMaskBankStream = 0x80000002u;
constexpr uint32_t kBankRowStream = 0x80000003u;
constexpr uint8_t kContinuation = 0;
constexpr uint8_t kWordStart = 1;

// The words of a sentence: word w is the tokens starts[w]..ends[w].
struct Words {
    uint16_t* starts;
    uint16_t* ends;
    uint32_t count;
};

// u16 entries between the permutations of two threads in shared memory: an odd number of 4-byte words, so
// that equal places of 32 permutations lie in 32 banks.
RETROMAE_DEVICE uint32_t permutation_stride(uint32_t length) {
    return (length + 3u) / 4u * 4u + 2u;
}

// All lanes together; the lists are visible to all lanes after the next barrier.
RETROMAE_DEVICE void find_words(const uint8_t* word_starts, uint32_t length, Words& words) {
    const uint32_t lanes_below = (1u << threadIdx.x) - 1u;
    words.count = 0;
    for (uint32_t base = 0; base < length; base += 32) {
        const uint32_t token = base + threadIdx.x;
        const bool starts = token < length && word_starts[token] == kWordStart;
        const uint32_t ballot = warp_ballot(starts);
        if (starts) {
            uint32_t end = token + 1;
            while (end < length && word_starts[end] == kContinuation) ++end;
            const uint32_t word = words.count + bit_count(ballot & lanes_below);
            words.starts[word] = static_cast<uint16_t>(token);
            words.ends[word] = static_cast<uint16_t>(end);
        }
        words.count += bit_count(ballot);
    }
}

// Sets `bits` to one mask, 1 where a token is visible.
RETROMAE_DEVICE void draw_mask(const RngState& rng, uint32_t sentence_index, uint32_t row, const Words& words,
                               uint32_t length, uint32_t budget, uint16_t* permutation, uint32_t* bits) {
    for (uint32_t word = 0; word < length / 32; ++word) bits[word] = 0xffffffffu;
    if (length % 32 != 0) bits[length / 32] = (1u << length % 32) - 1u;
    for (uint32_t word = 0; word < words.count; ++word) permutation[word] = static_cast<uint16_t>(word);
    uint32_t chosen = 0;
    for (uint32_t first = 0; first < words.count && chosen < budget; first += 4) {
        const Random4 random = philox(rng.seed_low, rng.seed_high, row << 16 | first / 4, sentence_index,
                                      kMaskBankStream, rng.step);
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < 4; ++i) {
            const uint32_t k = first + i;
            if (k >= words.count || chosen == budget) continue;
            const uint32_t other = k + bounded(random.words[i], words.count - k);
            const uint32_t word = permutation[other];
            permutation[other] = permutation[k];  // the other half of the swap is never read
            const uint32_t start = words.starts[word];
            const uint32_t end = words.ends[word];
            if (chosen + (end - start) > budget) continue;
            chosen += end - start;
            for (uint32_t token = start; token < end; ++token) bits[token / 32] &= ~(1u << token % 32);
        }
    }
}

// The bank row of every token; the blocks of a sentence share the work.
RETROMAE_DEVICE void draw_rows(const RngState& rng, uint32_t sentence_index, uint32_t length,
                               uint32_t bank_rows, uint16_t* rows) {
    const uint32_t stride = gridDim.y * kMaskBankThreads * 4u;
    for (uint32_t first = (blockIdx.y * kMaskBankThreads + threadIdx.x) * 4u; first < length;
         first += stride) {
        const Random4 random =
            philox(rng.seed_low, rng.seed_high, first / 4, sentence_index, kBankRowStream, rng.step);
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < 4; ++i)
            if (first + i < length)
                rows[first + i] = static_cast<uint16_t>(bounded(random.words[i], bank_rows));
    }
}

RETROMAE_DEVICE uint32_t mask_budget(uint32_t length, uint32_t ratio_q32) {
    const uint64_t rounded = (static_cast<uint64_t>(length) * ratio_q32 + (1ull << 31)) >> 32;
    return rounded > 1 ? static_cast<uint32_t>(rounded) : 1u;
}

RETROMAE_KERNEL(mask_bank, MaskBankParams, kMaskBankThreads) {
    const RngState rng = *pointer<const RngState>(params.rng);
    const int32_t* cu_seqlens = pointer<const int32_t>(params.cu_seqlens);
    const uint32_t sentence = blockIdx.x;
    const uint32_t sentence_index = pointer<const uint32_t>(params.sentence_indices)[sentence];
    const uint32_t token = static_cast<uint32_t>(cu_seqlens[sentence]);
    const uint32_t length = static_cast<uint32_t>(cu_seqlens[sentence + 1]) - token;
    const uint32_t bank_rows = length < params.bank_rows_max ? length : params.bank_rows_max;
    draw_rows(rng, sentence_index, length, bank_rows, pointer<uint16_t>(params.rows) + token);

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
