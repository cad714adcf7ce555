// Shared by the kernels of instruction tests.
//
// Each kernel dumps the result of one wrapper of kernels/arch or kernels/core in every lane, so that a test
// can compare the GPU with the CPU emulator and both with an exact computation. Every launch fills whole
// blocks.
#pragma once

#include "../../core/types.cuh"

namespace retromae {

// Two warps: enough to see one take the other's value.
constexpr uint32_t kInstructionThreads = 64;

RETROMAE_DEVICE uint32_t thread_index() {
    return blockIdx.x * kInstructionThreads + threadIdx.x;
}

}  // namespace retromae
