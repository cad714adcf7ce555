// Bit counting (PTX ISA, "popc").
#pragma once

#include "../base/kernel.cuh"

namespace retromae {

// The number of ones.
RETROMAE_DEVICE uint32_t bit_count(uint32_t bits) {
#ifdef __CUDACC__
    return static_cast<uint32_t>(__popc(bits));
#else
    return static_cast<uint32_t>(__builtin_popcount(bits));
#endif
}

}  // namespace retromae
