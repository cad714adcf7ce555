// GELU in its exact form, x·Φ(x), and its derivative, Φ(x) + x·φ(x), without a branch or a division.
//
// With a = |x| and s = 1/(a + k): Φ(-a) = e^(-x²/2)·q(s), q a polynomial of degree 7. Its coefficients and k
// are our own fit of least relative error (2.5e-7) over a in [0, 13.3], beyond which the exponential is below
// the smallest normal float. Written so, nothing cancels in the negative tail, as 1 + erf(x/√2) would. Both
// are NaN where x is infinite.
#pragma once

#include "../arch/approximate.cuh"

namespace retromae {

constexpr float kGeluShift = 3.875f;
constexpr float kGeluConstant = 5.69728982e-5f;
constexpr float kNormalDensity = 0.398942280f;  // φ(0)

// q(s) with `constant` for its first coefficient.
RETROMAE_DEVICE float gelu_polynomial(float s, float constant) {
    float q = -1063.34106f;
    q = fmaf(q, s, 907.409912f);
    q = fmaf(q, s, -145.480850f);
    q = fmaf(q, s, 48.6346169f);
    q = fmaf(q, s, 2.85648894f);
    q = fmaf(q, s, 1.69515824f);
    q = fmaf(q, s, 0.394456178f);
    return fmaf(q, s, constant);
}

// e^(-x²/2)
RETROMAE_DEVICE float gelu_exponential(float x) {
    return exp2_approximate(x * (-0.5f * kLog2E) * x);
}

// With a relative error below 1.6e-6 + 7e-8·x². The second term is the rounding of x² in the exponent, as
// large as what half a unit in the last place of x does.
RETROMAE_DEVICE float gelu(float x) {
    const float q = gelu_polynomial(reciprocal_approximate(fabsf(x) + kGeluShift), kGeluConstant);
    return fmaf(-(fabsf(x) * q), gelu_exponential(x), x > 0.0f ? x : 0.0f);
}

// With the same error relative to Φ(x) + |x|·φ(x).
RETROMAE_DEVICE float gelu_derivative(float x) {
    const float shifted = fabsf(x) + kGeluShift;
    // q - a·φ(0) is q + k·φ(0) - (a + k)·φ(0).
    const float q =
        gelu_polynomial(reciprocal_approximate(shifted), kGeluConstant + kGeluShift * kNormalDensity);
    const float negative = fmaf(-kNormalDensity, shifted, q) * gelu_exponential(x);
    return x < 0.0f ? negative : 1.0f - negative;
}

}  // namespace retromae
