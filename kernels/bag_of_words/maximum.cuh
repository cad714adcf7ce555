// The token range of a sentence, and the order of logits.
#pragma once

#include "../core/token_range.cuh"

namespace retromae {

// The tokens of a sentence, whose positions fit a u16.
RETROMAE_DEVICE TokenRange tokens_of(const BagOfWordsParams& params, uint32_t sentence) {
    return TokenRange::of(params.cu_seqlens, sentence, params.sentences, params.tokens, 65536);
}

// True if `x` replaces `maximum`. NaN does, and then stays; of equals the first stays.
RETROMAE_DEVICE bool exceeds(float x, float maximum) {
    return x > maximum || x != x;
}

}  // namespace retromae
