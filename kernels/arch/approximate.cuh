// ex2.approx and rcp.approx: one instruction each, and no branch.
#pragma once

#include "../base/kernel.cuh"

namespace retromae {

// 2^x with a relative error below 2^-22 (PTX ISA, "ex2"); 0 below the smallest normal result, infinity above
// the largest, NaN for NaN. The emulation is a branch-free polynomial, so that loops over it vectorize;
// between 2^127.5 and 2^128, where softmax never goes, it overflows early.
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

// 1/x with a relative error of at most 2^-23 (PTX ISA, "rcp"); 0 where that is below the smallest normal
// number, infinity for 0 and what is below it. The emulation divides.
RETROMAE_DEVICE float reciprocal_approximate(float x) {
#ifdef __CUDACC__
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#else
    return 1.0f / x;
#endif
}

}  // namespace retromae
