// What the twin kernels share.
//
// A twin kernel dumps what one wrapper of kernels/arch or kernels/core gives each lane, so that a test can
// compare the GPU with the CPU emulator and both with an exact computation. Every launch fills whole blocks.
#pragma once

#include "../../core/types.cuh"

namespace retromae {

// Two warps: enough to see one take the other's value.
constexpr uint32_t kTwinThreads = 64;

RETROMAE_DEVICE uint32_t twin_index() {
    return blockIdx.x * kTwinThreads + threadIdx.x;
}

}  // namespace retromae
