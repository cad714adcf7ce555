// A strip of consecutive floats that a thread keeps in registers and accumulates into.
#pragma once

#include "kernel.cuh"

#if !defined(__CUDACC__) && defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define RETROMAE_STRIP_AVX2 1
#endif

namespace retromae {

// On the GPU an array of registers. On the host an array of vector registers: compilers do not reliably keep
// a float array out of memory across a loop, and the loop over `fma` is where an emulated kernel spends its
// time.
template <int Count>
struct Strip {
    static_assert(Count % 8 == 0, "a strip is a whole number of 8-float vectors");
#ifdef RETROMAE_STRIP_AVX2
    __m256 vectors[Count / 8];

    RETROMAE_MEMBER void fill(float value) {
        for (int i = 0; i < Count / 8; ++i) vectors[i] = _mm256_set1_ps(value);
    }
    RETROMAE_MEMBER void load(const float* source) {
        for (int i = 0; i < Count / 8; ++i) vectors[i] = _mm256_loadu_ps(source + 8 * i);
    }
    // this += scale · source[0..Count]
    RETROMAE_MEMBER void fma(float scale, const float* source) {
        const __m256 broadcast = _mm256_set1_ps(scale);
        for (int i = 0; i < Count / 8; ++i)
            vectors[i] = _mm256_fmadd_ps(broadcast, _mm256_loadu_ps(source + 8 * i), vectors[i]);
    }
    RETROMAE_MEMBER void multiply(float factor) {
        for (int i = 0; i < Count / 8; ++i) vectors[i] = _mm256_mul_ps(vectors[i], _mm256_set1_ps(factor));
    }
    RETROMAE_MEMBER void get(float (&values)[Count]) const {
        for (int i = 0; i < Count / 8; ++i) _mm256_storeu_ps(values + 8 * i, vectors[i]);
    }
#else
    float values_[Count];

    RETROMAE_MEMBER void fill(float value) {
        RETROMAE_UNROLL
        for (int i = 0; i < Count; ++i) values_[i] = value;
    }
    RETROMAE_MEMBER void load(const float* source) {
        RETROMAE_UNROLL
        for (int i = 0; i < Count; ++i) values_[i] = source[i];
    }
    // this += scale · source[0..Count]
    RETROMAE_MEMBER void fma(float scale, const float* source) {
        RETROMAE_UNROLL
        for (int i = 0; i < Count; ++i) values_[i] = fmaf(scale, source[i], values_[i]);
    }
    RETROMAE_MEMBER void multiply(float factor) {
        RETROMAE_UNROLL
        for (int i = 0; i < Count; ++i) values_[i] *= factor;
    }
    RETROMAE_MEMBER void get(float (&values)[Count]) const {
        RETROMAE_UNROLL
        for (int i = 0; i < Count; ++i) values[i] = values_[i];
    }
#endif
};

}  // namespace retromae
