// Included first by every kernel file: one vocabulary for nvcc and for the CPU emulator.
//
// A kernel is written once. nvcc compiles it for the GPU; a C++ compiler compiles the same text against
// host/simt.h, where blocks, warps and threads are emulated.
#pragma once

#include <stdint.h>

#include "../params.h"
#include "launch.cuh"

#ifdef __CUDACC__

#define RETROMAE_DEVICE static __device__ __forceinline__
#define RETROMAE_MEMBER __device__ __forceinline__
#define RETROMAE_UNROLL _Pragma("unroll")
#define RETROMAE_NO_UNROLL _Pragma("unroll 1")
// Only the emulator's instrumented build needs to be told.
#define RETROMAE_WHOLE(pack) (void)0

// Kernel `name` takes one params struct by value; the last argument is the type that declares its launch.
#define RETROMAE_KERNEL(name, Params, ...)                                                                \
    extern "C" __global__ void __launch_bounds__((__VA_ARGS__::kThreads), (__VA_ARGS__::kResidentBlocks)) \
        name(const __grid_constant__ Params params)

// The source line that calls a collective; only the emulator records it.
#define RETROMAE_SITE_PARAMETER
#define RETROMAE_SITE_ONLY_PARAMETER
#define RETROMAE_SITE_ARGUMENT

#elif defined RETROMAE_LIST_KERNELS

// The build script reads the kernels' names and params behind the preprocessor.
#define RETROMAE_KERNEL(name, Params, ...) LISTED_KERNEL name Params

#else

#include "../host/simt.h"

#endif

namespace retromae {

// Offset of group `group` of the `groups` that `thread` of `threads` handles, among their threads·groups
// consecutive groups of `size` elements. On the GPU neighboring threads take neighboring groups, so that a
// warp's access is one run of memory; on the host one core runs the threads one after the other, so a
// thread's own groups are the run.
RETROMAE_DEVICE uint32_t group_offset(uint32_t thread, uint32_t threads, uint32_t group, uint32_t groups,
                                      uint32_t size) {
#ifdef __CUDACC__
    (void)groups;
    return (group * threads + thread) * size;
#else
    (void)threads;
    return (thread * groups + group) * size;
#endif
}

RETROMAE_DEVICE uint32_t lane_index() {
    return threadIdx.x % 32;
}

// The same value, which the compiler takes for another: what is computed from it in a loop is computed in the
// loop, instead of waiting in registers from before it.
RETROMAE_DEVICE uint32_t recomputed(uint32_t value) {
#ifdef __CUDACC__
    asm volatile("" : "+r"(value));
#endif
    return value;
}

}  // namespace retromae
