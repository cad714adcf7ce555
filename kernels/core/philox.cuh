// Philox-4x32-10 and the dropout decisions sampled from it, as defined in src/common/random.rs.
//
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include "../base/kernel.cuh"

namespace retromae {

struct Random4 {
    uint32_t words[4];
};

RETROMAE_DEVICE Random4 philox(uint32_t key0, uint32_t key1, uint32_t c0, uint32_t c1, uint32_t c2,
                               uint32_t c3) {
    RETROMAE_UNROLL
    for (int round = 0; round < 10; ++round) {
        const uint64_t product0 = static_cast<uint64_t>(0xD2511F53u) * c0;
        const uint64_t product1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
        const uint32_t next0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
        const uint32_t next2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
        c1 = static_cast<uint32_t>(product1);
        c3 = static_cast<uint32_t>(product0);
        c0 = next0;
        c2 = next2;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// Maps 32 random bits to 0..bound.
RETROMAE_DEVICE uint32_t bounded(uint32_t random, uint32_t bound) {
    return static_cast<uint32_t>((static_cast<uint64_t>(random) * bound) >> 32);
}

constexpr int kDropoutGroup = DROPOUT_GROUP;

// Multiplies `Count` (8 or 16) consecutive columns by their dropout factors; `group` is the first column /
// Count. One Philox call decides 16 columns, of which 8 use one half. `rng` is not read when nothing is
// dropped.
template <int Count>
RETROMAE_DEVICE void apply_dropout(const DropoutParams& dropout, uint32_t head, uint32_t row, uint32_t group,
                                   float (&values)[Count]) {
    static_assert(Count == kDropoutGroup || Count == kDropoutGroup / 2,
                  "the bytes of one Philox call, or half of them");
    if (dropout.threshold == 0) return;
    constexpr uint32_t kParts = kDropoutGroup / Count;
    const RngState& rng = *reinterpret_cast<const RngState*>(dropout.rng);
    const Random4 random =
        philox(rng.seed_low, rng.seed_high, group / kParts | head << 16, row, dropout.site, rng.step);
    const bool upper = group % kParts != 0;
    RETROMAE_UNROLL
    for (int i = 0; i < Count; ++i) {
        const uint32_t word = upper ? random.words[(i / 4 + 2) % 4] : random.words[i / 4];
        const uint32_t decision = word >> (8 * (i % 4)) & 0xffu;
        values[i] *= decision < dropout.threshold ? 0.0f : dropout.scale;
    }
}

// The decisions of one group of 16 columns as bits, 1 for kept.
RETROMAE_DEVICE uint32_t dropout_kept(const DropoutParams& dropout, uint32_t head, uint32_t row,
                                      uint32_t group) {
    const RngState& rng = *reinterpret_cast<const RngState*>(dropout.rng);
    const Random4 random =
        philox(rng.seed_low, rng.seed_high, group | head << 16, row, dropout.site, rng.step);
    // Four bytes at a time: their lower 7 bits carry into bit 7 from the threshold's lower 7 bits on. Of a
    // threshold up to 128 that or the byte's own bit 7 keeps an element, of a greater one both do.
    const bool either = dropout.threshold <= 128;
    const uint32_t complement = ((either ? 128 : 256) - dropout.threshold) * 0x01010101u;
    const uint32_t one_is_enough = either ? 0xffffffffu : 0u;
    uint32_t kept = 0;
    RETROMAE_UNROLL
    for (int i = 3; i >= 0; --i) {
        const uint32_t word = random.words[i];
        const uint32_t carry = (word & 0x7f7f7f7fu) + complement;
        const uint32_t top = ((word & carry) | ((word | carry) & one_is_enough)) & 0x80808080u;
        // The product moves the bits 7, 15, 23 and 31 to 28 to 31; its other terms do not meet.
        kept = kept << 4 | top * 0x00204081u >> 28;
    }
    return kept;
}

}  // namespace retromae
