// ex2.approx, and functions built on it that both compilers turn into straight-line code.
//
// The host twins are branch-free polynomials, so loops over them vectorise; their relative error is below
// 2^-22, as is that of ex2.approx (PTX ISA, "ex2"). Between 2^127.5 and 2^128 the host overflows early, where
// softmax never goes.
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
    // x = n + f with f in [-1/2, 1/2]; 2^f = 1 + f·q(f), q our own fit of degree 5 (relative error 2e-9), and
    // 2^n by adding n to the exponent.
    const float magic =
        12582912.0f;  // 1.5 · 2^23: adding it rounds to the nearest integer, which the low bits then hold
    const float shifted = x + magic;
    const float fraction = x - (shifted - magic);
    float p = 1.5353359e-4f;
    p = fmaf(p, fraction, 1.3398875e-3f);
    p = fmaf(p, fraction, 9.61843692e-3f);
    p = fmaf(p, fraction, 5.55033237e-2f);
    p = fmaf(p, fraction, 2.40226477e-1f);
    p = fmaf(p, fraction, 6.93147182e-1f);
    p = fmaf(p, fraction, 1.0f);
    uint32_t exponent, bits;
    memcpy(&exponent, &shifted, sizeof exponent);
    memcpy(&bits, &p, sizeof bits);
    bits += exponent << 23;
    float result;
    memcpy(&result, &bits, sizeof result);
    // Beyond the exponent's range the bits above are meaningless. At 127.5 and more n would be 128.
    result = x < -126.0f ? 0.0f : result;
    result = x >= 127.5f ? INFINITY : result;
    return x == x ? result : x;
#endif
}

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// e^x = 2^(x·log2 e), with a relative error below 1.5 · 2^-22. One float holds a large exponent too coarsely:
// what rounding takes from the product, and from log2 e, is made good by the factor 2^low = 1 + low·ln 2.
RETROMAE_DEVICE float exp_approximate(float x) {
    const float high = x * kLog2E;
    const float low = fmaf(x, kLog2E, -high) + x * 1.925963033e-8f;
    const float power = exp2_approximate(high);
    // An infinite product has no low part (inf - inf), and needs none.
    return power > 0.0f && power < INFINITY ? fmaf(power, low * kLn2, power) : power;
}

}  // namespace retromae
