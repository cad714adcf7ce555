// cp.async: global to shared memory without registers (PTX ISA, "cp.async"; sm_80).
//
// The emulation performs a copy when it is waited for, never earlier, so a missing wait reads poison.
#pragma once

#include "../base/kernel.cuh"

namespace retromae {

// Starts a copy of 16 bytes, of zeros where the source does not `exist`: then it is not read. Both addresses
// are aligned to 16.
RETROMAE_DEVICE void copy_async_16(void* shared_destination, const void* global_source,
                                   bool exists RETROMAE_SITE_PARAMETER) {
#ifdef __CUDACC__
    const uint32_t destination = static_cast<uint32_t>(__cvta_generic_to_shared(shared_destination));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(global_source),
                 "r"(exists ? 16 : 0)
                 : "memory");
#else
    retromae_simt_copy_async(shared_destination, exists ? global_source : nullptr, 16, site.file,
                             static_cast<uint32_t>(site.line));
#endif
}

// Closes the group of copies that this thread has started since the last commit.
RETROMAE_DEVICE void copy_async_commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    retromae_simt_copy_commit();
#endif
}

// Waits until at most `GroupsLeft` of this thread's groups are unfinished. Other threads see the data after a
// barrier.
template <int GroupsLeft>
RETROMAE_DEVICE void copy_async_wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(GroupsLeft) : "memory");
#else
    retromae_simt_copy_wait(GroupsLeft);
#endif
}

}  // namespace retromae
