// Whole-word masks of a sentence, drawn from counters: what mask_bank stores and attention draws for itself.
// The definition is src/reference/mask.rs.
#pragma once

#include "../arch/bits.cuh"
#include "../arch/warp_primitives.cuh"
#include "../core/philox.cuh"
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

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

// One warp's lanes together; the lists are visible to others after the next barrier.
RETROMAE_DEVICE void find_words(const uint8_t* word_starts, uint32_t length, Words& words) {
    const uint32_t lanes_below = (1u << lane_index()) - 1u;
    words.count = 0;
    for (uint32_t base = 0; base < length; base += 32) {
        const uint32_t token = base + lane_index();
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

// The bank rows of a sentence's tokens; worker `worker` of `workers` draws its share.
RETROMAE_DEVICE void draw_rows(const RngState& rng, uint32_t sentence_index, uint32_t length,
                               uint32_t bank_rows, uint32_t worker, uint32_t workers, uint16_t* rows) {
    for (uint32_t first = worker * 4u; first < length; first += workers * 4u) {
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

}  // namespace retromae
