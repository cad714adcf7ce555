// cvt.rn of f32 to bf16 and f16, alone and in pairs, and the ways back (PTX ISA, "cvt"; bf16 needs sm_80).
#pragma once

#include "../base/kernel.cuh"

#if !defined(__CUDACC__) && defined(__F16C__)
#include <immintrin.h>
#endif

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

struct f16 {
    uint16_t bits;
};

RETROMAE_DEVICE f16 f16_from_float(float value) {
    f16 result;
#if defined(__CUDACC__)
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
#else
#if defined(__F16C__)
    const uint16_t rounded = static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT));
#else
    const _Float16 half = static_cast<_Float16>(value);
    uint16_t rounded;
    memcpy(&rounded, &half, sizeof rounded);
#endif
    // A NaN becomes the canonical one, as the instruction has it.
    result.bits = value == value ? rounded : 0x7fff;
#endif
    return result;
}

RETROMAE_DEVICE float f16_to_float(f16 value) {
#if defined(__CUDACC__)
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
#elif defined(__F16C__)
    return _cvtsh_ss(value.bits);
#else
    _Float16 half;
    memcpy(&half, &value.bits, sizeof half);
    return static_cast<float>(half);
#endif
}

// Two floats rounded into one register, `low` in its lower half.
RETROMAE_DEVICE uint32_t bf16_pair(float low, float high) {
#ifdef __CUDACC__
    uint32_t result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
#else
    return bf16_from_float(low).bits | static_cast<uint32_t>(bf16_from_float(high).bits) << 16;
#endif
}

// The same in f16.
RETROMAE_DEVICE uint32_t f16_pair(float low, float high) {
#ifdef __CUDACC__
    uint32_t result;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
#else
    return f16_from_float(low).bits | static_cast<uint32_t>(f16_from_float(high).bits) << 16;
#endif
}

}  // namespace retromae
