// What every kernel file includes first: one vocabulary for nvcc and for the host device.
//
// A kernel is written once. nvcc compiles it for the GPU; a C++ compiler compiles the same text against
// host/simt.h, where blocks, warps and threads are emulated.
#pragma once

#include <stdint.h>

#include "../params.h"

#ifdef __CUDACC__

#define RETROMAE_DEVICE static __device__ __forceinline__
#define RETROMAE_MEMBER __device__ __forceinline__
#define RETROMAE_UNROLL _Pragma("unroll")

// Kernel `name` takes one params struct by value and is launched with exactly `threads` threads a block.
#define RETROMAE_KERNEL(name, Params, threads) \
    extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ Params params)

// Where a collective was called from; only the host device wants to know.
#define RETROMAE_SITE_PARAMETER
#define RETROMAE_SITE_ONLY_PARAMETER
#define RETROMAE_SITE_ARGUMENT

#else

#include "../host/simt.h"

#endif
