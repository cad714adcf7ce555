// Consecutive tokens of a packed batch, by prefix sums that lie in device memory, where only a kernel can
// check them.
#pragma once

#include "types.cuh"

namespace retromae {

// The tokens of sentence `index`, or those behind the last sentence where `index` is the number of sentences.
// Prefix sums that do not rise from 0 to at most `tokens`, or make a sentence longer than `longest`, are the
// caller's mistake: the range is then not valid, and cut to the batch's tokens behind the sentence before.
struct TokenRange {
    uint32_t start;
    uint32_t count;
    bool valid;

    RETROMAE_DEVICE TokenRange of(DevicePointer cu_seqlens, uint32_t index, uint32_t sentences,
                                  uint32_t tokens, uint32_t longest) {
        const int32_t* bounds = pointer<const int32_t>(cu_seqlens) + index;
        const bool rest = index == sentences;
        const int32_t before = index == 0 ? 0 : bounds[-1];
        const int32_t start = bounds[0];
        const int32_t end = rest ? static_cast<int32_t>(tokens) : bounds[1];
        TokenRange range;
        const uint32_t first = index == 0 ? 0 : clamp(start, tokens);
        const uint32_t before_first = clamp(before, tokens);
        range.start = first > before_first ? first : before_first;
        const uint32_t last = clamp(end, tokens);
        range.count = last > range.start ? last - range.start : 0;
        range.valid = static_cast<uint32_t>(start) == range.start && static_cast<uint32_t>(end) == last &&
                      before <= start && start <= end && (rest || range.count <= longest);
        return range;
    }
    // A prefix sum as a token of the batch, or its end.
    RETROMAE_DEVICE uint32_t clamp(int32_t bound, uint32_t tokens) {
        const uint32_t inside = bound > 0 ? static_cast<uint32_t>(bound) : 0;
        return inside < tokens ? inside : tokens;
    }
};

}  // namespace retromae
