// Votes of a block (PTX ISA, "barrier.red").
#pragma once

#include "../base/kernel.cuh"

namespace retromae {

// A barrier of the block that returns whether any of its threads came with `predicate`.
RETROMAE_DEVICE bool block_any(bool predicate RETROMAE_SITE_PARAMETER) {
#ifdef __CUDACC__
    return __syncthreads_or(predicate) != 0;
#else
    return retromae_simt_barrier(site.file, static_cast<uint32_t>(site.line), predicate);
#endif
}

}  // namespace retromae
