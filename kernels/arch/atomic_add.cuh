// atomicAdd on a float in global memory (CUDA C++ Programming Guide, "Atomic Functions").
//
// The baseline alone uses it: the order of additions, and so the last bits of a sum, change from run to run.
#pragma once

#include "../base/kernel.cuh"

namespace retromae {

#ifdef __CUDACC__
RETROMAE_DEVICE void atomic_add(float* sum, float value) {
    atomicAdd(sum, value);
}
#else
// Blocks run on several cores, so the emulation is atomic too. The sanitizer has no hook for atomics, and
// nothing to find in global memory.
__attribute__((noinline, no_sanitize("thread"))) static void atomic_add(float* sum, float value) {
    uint32_t* word = reinterpret_cast<uint32_t*>(sum);
    uint32_t expected = __atomic_load_n(word, __ATOMIC_RELAXED);
    uint32_t desired;
    do {
        float current;
        memcpy(&current, &expected, sizeof current);
        current += value;
        memcpy(&desired, &current, sizeof desired);
    } while (
        !__atomic_compare_exchange_n(word, &expected, desired, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}
#endif

}  // namespace retromae
