// ex2.approx, and functions built on it that both compilers turn into straight-line code.
//
// The host twins are branch-free polynomials, so loops over them vectorise; their relative error is below 2^-22, as is that of
// ex2.approx (PTX ISA, "ex2").
#pragma once

#include "../core/kernel.cuh"

namespace retromae {

// 2^x; 0 below the smallest normal result, infinity above the largest, NaN for NaN.
RETROMAE_DEVICE float exp2_approximate(float x) {
#ifdef __CUDACC__
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#else
    // x = n + f with f in [-1/2, 1/2]; 2^f by its Taylor polynomial of degree 7 (error 2^-26), 2^n by exponent bits.
    const float clamped = x < -127.0f ? -127.0f : (x > 129.0f ? 129.0f : x);
    const float magic = 12582912.0f;  // 1.5 · 2^23: adding it rounds to the nearest integer
    const float shifted = clamped + magic;
    const float fraction = clamped - (shifted - magic);
    float p = 1.5252734e-5f;
    p = fmaf(p, fraction, 1.5403530e-4f);
    p = fmaf(p, fraction, 1.3333558e-3f);
    p = fmaf(p, fraction, 9.6181291e-3f);
    p = fmaf(p, fraction, 5.5504109e-2f);
    p = fmaf(p, fraction, 2.4022651e-1f);
    p = fmaf(p, fraction, 6.9314718e-1f);
    p = fmaf(p, fraction, 1.0f);
    int32_t integer;
    memcpy(&integer, &shifted, sizeof integer);
    integer -= 0x4b400000;  // the bits of `magic`
    // 2^n as 2^(n/2) · 2^(n - n/2), so that neither factor leaves the exponent's range.
    const int32_t half = integer >> 1;
    const int32_t first_bits = (half + 127) << 23;
    const int32_t second_bits = (integer - half + 127) << 23;
    float first, second;
    memcpy(&first, &first_bits, sizeof first);
    memcpy(&second, &second_bits, sizeof second);
    const float result = p * first * second;
    const float flushed = x < -126.0f ? 0.0f : result;
    return x == x ? flushed : x;
#endif
}

constexpr float kLog2E = 1.4426950408889634f;

// e^x through 2^(x·log2 e); the product is split so that large |x| keeps its accuracy.
RETROMAE_DEVICE float exp_approximate(float x) {
    const float high = x * kLog2E;
    const float low = fmaf(x, kLog2E, -high) + x * 1.925963033e-8f;
    // ±infinity has no low part: inf - inf above.
    const float exponent = low == low ? high + low : high;
    return exp2_approximate(exponent);
}

}  // namespace retromae
