// cvt.rn.bf16.f32 and its way back (PTX ISA, "cvt"; bf16 needs sm_80).
#pragma once

#include "../core/kernel.cuh"

namespace retromae {

struct bf16 {
    uint16_t bits;
};

RETROMAE_DEVICE bf16 bf16_from_float(float value) {
    bf16 result;
#ifdef __CUDACC__
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
#else
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    // Round to nearest, ties to even; a NaN becomes the canonical one, as the instruction has it.
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    result.bits = (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fff : static_cast<uint16_t>(rounded);
#endif
    return result;
}

RETROMAE_DEVICE float bf16_to_float(bf16 value) {
    const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
#ifdef __CUDACC__
    return __uint_as_float(bits);
#else
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
#endif
}

}  // namespace retromae
