// Which targets are predicted.
#pragma once

#include "../core/kernel.cuh"

namespace retromae {

// Whether a row has a loss. The target of rows without one may be a word's id, too.
RETROMAE_DEVICE bool is_labelled(int32_t target, uint32_t vocabulary, int32_t ignore_index) {
    return target != ignore_index && static_cast<uint32_t>(target) < vocabulary;
}

}  // namespace retromae
