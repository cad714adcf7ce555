// Launch configurations. Each kernel names a type with its threads, grid and shared memory, which stands
// beside the tile that determines them. The functions are host code, called before every launch on either
// device.
#pragma once

#include <stdint.h>

namespace retromae {

// Blocks of a launch in 64 bits, so that a grid that is too large is seen and refused.
struct Grid {
    uint64_t x = 1, y = 1, z = 1;
};

// Base of a configuration: `Threads` threads per block, and few enough registers for `ResidentBlocks` blocks
// at a time on an SM. A kernel's own type replaces `grid` and `shared_bytes`.
template <uint32_t Threads, uint32_t ResidentBlocks = 1>
struct Launch {
    static constexpr uint32_t kThreads = Threads;
    static constexpr uint32_t kResidentBlocks = ResidentBlocks;

    template <class Params>
    static Grid grid(const Params&) {
        return {};
    }
    // Dynamic shared memory per block, in bytes.
    template <class Params>
    static uint64_t shared_bytes(const Params&) {
        return 0;
    }
};

// Number of tiles of `size` that cover `count`.
constexpr uint64_t ceil_div(uint64_t count, uint64_t size) {
    return (count + size - 1) / size;
}

// Shared memory that SharedMemory::take uses for `count` elements, in bytes.
template <class T>
constexpr uint64_t taken_bytes(uint64_t count) {
    return ceil_div(count * sizeof(T), 16) * 16;
}

}  // namespace retromae
