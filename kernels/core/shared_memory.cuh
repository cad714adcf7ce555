// Dynamic shared memory, handed out in order.
#pragma once

#include "../base/kernel.cuh"

namespace retromae {

class SharedMemory {
  public:
    RETROMAE_DEVICE SharedMemory begin(RETROMAE_SITE_ONLY_PARAMETER) {
        SharedMemory memory;
#ifdef __CUDACC__
        extern __shared__ __align__(128) unsigned char shared_bytes[];
        memory.next_ = shared_bytes;
#else
        memory.next_ = retromae_context.shared_memory;
        memory.site_ = site;
#endif
        return memory;
    }

    // The next `count` elements; every array starts at a multiple of 16 bytes.
    template <class T>
    RETROMAE_MEMBER T* take(uint32_t count) {
        T* array = reinterpret_cast<T*>(next_);
        next_ += (count * static_cast<uint32_t>(sizeof(T)) + 15u) / 16u * 16u;
#ifndef __CUDACC__
        const uint32_t used = static_cast<uint32_t>(next_ - retromae_context.shared_memory);
        if (used > retromae_context.shared_bytes)
            retromae_simt_fail(RETROMAE_SHARED_MEMORY_TOO_SMALL, nullptr, site_.file,
                               static_cast<uint32_t>(site_.line), used, -1);
#endif
        return array;
    }

  private:
    unsigned char* next_;
#ifndef __CUDACC__
    host::Site site_;
#endif
};

}  // namespace retromae
