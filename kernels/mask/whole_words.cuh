// Whole-word masks of a sentence, sampled from counters: the kernel sample_masks stores them, attention
// samples its own. The definition is src/reference/mask.rs.
#pragma once

#include "../arch/bits.cuh"
#include "../arch/warp_primitives.cuh"
#include "../core/philox.cuh"
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

// The whole words of a sentence: word w is the tokens starts[w]..starts[w + 1].
struct Words {
    uint16_t* starts;
    uint32_t count;
};

// Parameters of a sentence's masks.
struct MaskSampler {
    RngState rng;
    uint32_t sentence_index;
    uint32_t length;
    uint32_t count_limit;  // tokens that may be chosen
};

// u16 entries between the permutations of two threads in shared memory: an odd number of 4-byte words, so
// that equal entries of 32 permutations lie in 32 banks.
constexpr uint32_t permutation_stride(uint32_t length) {
    return (length + 3u) / 4u * 4u + 2u;
}

// Finds the whole words between the first and the last token of a sentence that begins at `token` of the
// batch, where a set bit starts a word; one more entry is the end of the last. One warp's lanes together; the
// list is visible to others after the next barrier.
RETROMAE_DEVICE void find_words(const uint32_t* word_starts, uint32_t token, uint32_t length, Words& words) {
    const uint32_t lanes_below = (1u << lane_index()) - 1u;
    words.count = 0;
    for (uint32_t base = 0; base < length; base += 32) {
        const uint32_t position = base + lane_index();
        const uint32_t place = token + position;
        const bool starts =
            position > 0 && position + 1 < length && (word_starts[place / 32] >> place % 32 & 1u) != 0;
        const uint32_t ballot = warp_ballot(starts);
        if (starts)
            words.starts[words.count + bit_count(ballot & lanes_below)] = static_cast<uint16_t>(position);
        words.count += bit_count(ballot);
    }
    if (lane_index() == 0) words.starts[words.count] = static_cast<uint16_t>(length > 0 ? length - 1 : 0);
}

// Sets `bits` to one mask, 1 where a token is visible.
RETROMAE_DEVICE void sample_mask(const MaskSampler& sampler, uint32_t stream, uint32_t row,
                                 const Words& words, uint16_t* permutation, uint32_t* bits) {
    const uint32_t length = sampler.length, count = words.count, limit = sampler.count_limit;
    for (uint32_t word = 0; word < length / 32; ++word) bits[word] = 0xffffffffu;
    if (length % 32 != 0) bits[length / 32] = (1u << length % 32) - 1u;
    for (uint32_t word = 0; word < count; ++word) permutation[word] = static_cast<uint16_t>(word);
    uint32_t chosen = 0;
    for (uint32_t first = 0; first < count && chosen < limit; first += 4) {
        const Random4 random = philox(sampler.rng.seed_low, sampler.rng.seed_high, row << 16 | first / 4,
                                      sampler.sentence_index, stream, sampler.rng.step);
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < 4; ++i) {
            const uint32_t k = first + i;
            if (k >= count || chosen == limit) continue;
            const uint32_t other = k + bounded(random.words[i], count - k);
            const uint32_t word = permutation[other];
            permutation[other] = permutation[k];  // the other half of the swap is never read
            const uint32_t start = words.starts[word];
            const uint32_t end = words.starts[word + 1];
            if (chosen + (end - start) > limit) continue;
            chosen += end - start;
            for (uint32_t position = start; position < end; ++position)
                bits[position / 32] &= ~(1u << position % 32);
        }
    }
}

// Samples the pool's row of each token of a sentence; worker `worker` of `workers` takes its share.
RETROMAE_DEVICE void sample_rows(const MaskSampler& sampler, uint32_t pool_rows, uint32_t worker,
                                 uint32_t workers, uint16_t* rows) {
    for (uint32_t first = worker * 4u; first < sampler.length; first += workers * 4u) {
        const Random4 random = philox(sampler.rng.seed_low, sampler.rng.seed_high, first / 4,
                                      sampler.sentence_index, STREAM_POOL_ROW, sampler.rng.step);
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < 4; ++i)
            if (first + i < sampler.length)
                rows[first + i] = static_cast<uint16_t>(bounded(random.words[i], pool_rows));
    }
}

// Count limit of tokens that a mask may choose of `length`, special ones counted: half a token rounds to
// even.
RETROMAE_DEVICE uint32_t mask_count_limit(uint32_t length, const MaskCountLimitParams& count_limit) {
    const double rounded = rint(static_cast<double>(length) * count_limit.ratio);
    const uint32_t tokens = rounded > 1.0 ? static_cast<uint32_t>(rounded) : 1u;
    return tokens < count_limit.cap ? tokens : count_limit.cap;
}

}  // namespace retromae
