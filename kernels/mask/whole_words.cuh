// Whole-word masks of a sentence, drawn from counters: what draw_masks stores and attention draws for itself.
// The definition is src/reference/mask.rs.
#pragma once

#include "../arch/bits.cuh"
#include "../arch/warp_primitives.cuh"
#include "../core/philox.cuh"
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

// The words of a sentence: word w is the tokens starts[w]..starts[w + 1].
struct Words {
    uint16_t* starts;
    uint32_t count;
};

// One mask to draw: of which sentence, for what, and how much of it.
struct MaskDraw {
    RngState rng;
    uint32_t sentence_index;
    uint32_t length;
    uint32_t budget;  // tokens that may be chosen
};

// u16 entries between the permutations of two threads in shared memory: an odd number of 4-byte words, so
// that equal places of 32 permutations lie in 32 banks.
constexpr uint32_t permutation_stride(uint32_t length) {
    return (length + 3u) / 4u * 4u + 2u;
}

// The words between the first and the last token of a sentence that begins at `token` of the pack, of whose
// bits a set one starts a word; one more entry is the end of the last. One warp's lanes together; the list
// is visible to others after the next barrier.
RETROMAE_DEVICE void find_words(const uint32_t* word_starts, uint32_t token, uint32_t length, Words& words) {
    const uint32_t lanes_below = (1u << lane_index()) - 1u;
    words.count = 0;
    for (uint32_t base = 0; base < length; base += 32) {
        const uint32_t slot = base + lane_index();
        const uint32_t place = token + slot;
        const bool starts =
            slot > 0 && slot + 1 < length && (word_starts[place / 32] >> place % 32 & 1u) != 0;
        const uint32_t ballot = warp_ballot(starts);
        if (starts) words.starts[words.count + bit_count(ballot & lanes_below)] = static_cast<uint16_t>(slot);
        words.count += bit_count(ballot);
    }
    if (lane_index() == 0) words.starts[words.count] = static_cast<uint16_t>(length > 0 ? length - 1 : 0);
}

// Sets `bits` to one mask, 1 where a token is visible.
RETROMAE_DEVICE void draw_mask(const MaskDraw& draw, uint32_t stream, uint32_t row, const Words& words,
                               uint16_t* permutation, uint32_t* bits) {
    const uint32_t length = draw.length, count = words.count, budget = draw.budget;
    for (uint32_t word = 0; word < length / 32; ++word) bits[word] = 0xffffffffu;
    if (length % 32 != 0) bits[length / 32] = (1u << length % 32) - 1u;
    for (uint32_t word = 0; word < count; ++word) permutation[word] = static_cast<uint16_t>(word);
    uint32_t chosen = 0;
    for (uint32_t first = 0; first < count && chosen < budget; first += 4) {
        const Random4 random = philox(draw.rng.seed_low, draw.rng.seed_high, row << 16 | first / 4,
                                      draw.sentence_index, stream, draw.rng.step);
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < 4; ++i) {
            const uint32_t k = first + i;
            if (k >= count || chosen == budget) continue;
            const uint32_t other = k + bounded(random.words[i], count - k);
            const uint32_t word = permutation[other];
            permutation[other] = permutation[k];  // the other half of the swap is never read
            const uint32_t start = words.starts[word];
            const uint32_t end = words.starts[word + 1];
            if (chosen + (end - start) > budget) continue;
            chosen += end - start;
            for (uint32_t slot = start; slot < end; ++slot) bits[slot / 32] &= ~(1u << slot % 32);
        }
    }
}

// The bank rows of a sentence's tokens; worker `worker` of `workers` draws its share.
RETROMAE_DEVICE void draw_rows(const MaskDraw& draw, uint32_t bank_rows, uint32_t worker, uint32_t workers,
                               uint16_t* rows) {
    for (uint32_t first = worker * 4u; first < draw.length; first += workers * 4u) {
        const Random4 random = philox(draw.rng.seed_low, draw.rng.seed_high, first / 4, draw.sentence_index,
                                      STREAM_BANK_ROW, draw.rng.step);
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < 4; ++i)
            if (first + i < draw.length)
                rows[first + i] = static_cast<uint16_t>(bounded(random.words[i], bank_rows));
    }
}

// Count limit of tokens that a mask may choose of `length`, special ones counted: half a token rounds to
// even.
RETROMAE_DEVICE uint32_t mask_budget(uint32_t length, const MaskBudget& budget) {
    const double rounded = rint(static_cast<double>(length) * budget.ratio);
    const uint32_t tokens = rounded > 1.0 ? static_cast<uint32_t>(rounded) : 1u;
    return tokens < budget.cap ? tokens : budget.cap;
}

}  // namespace retromae
