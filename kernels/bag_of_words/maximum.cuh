// Which logit is a word's largest.
#pragma once

#include "../core/kernel.cuh"

namespace retromae {

// Whether `x` takes the place of `maximum`: so does NaN, which then stays. The first of equals stays as well.
RETROMAE_DEVICE bool exceeds(float x, float maximum) {
    return x > maximum || x != x;
}

}  // namespace retromae
