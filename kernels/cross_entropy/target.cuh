// The targets that are predicted.
#pragma once

#include "../base/kernel.cuh"

namespace retromae {

// True where a row has a loss. `ignore_index` may be a token id.
RETROMAE_DEVICE bool is_labeled(int32_t target, uint32_t vocabulary, int32_t ignore_index) {
    return target != ignore_index && static_cast<uint32_t>(target) < vocabulary;
}

}  // namespace retromae
