// The launch that a kernel declares: a type with its threads, its grid and its shared memory, which stands
// beside the tile that they follow from. Host code; the device layer asks it before every launch.
#pragma once

#include <stdint.h>

namespace retromae {

// Blocks of a launch. Wider than a grid may be, so that the device layer sees what is too large.
struct Grid {
    uint64_t x = 1, y = 1, z = 1;
};

// The base of a declaration: `Threads` threads a block, and registers for `ResidentBlocks` blocks at a time
// on an SM. A kernel's own type hides `grid` and `shared_bytes` by what its params ask for.
template <uint32_t Threads, uint32_t ResidentBlocks = 1>
struct Launch {
    static constexpr uint32_t kThreads = Threads;
    static constexpr uint32_t kResidentBlocks = ResidentBlocks;

    template <class Params>
    static Grid grid(const Params&) {
        return {};
    }
    // Dynamic shared memory of a block, in bytes.
    template <class Params>
    static uint64_t shared_bytes(const Params&) {
        return 0;
    }
};

// Tiles of `size` that cover `count`.
constexpr uint64_t ceil_div(uint64_t count, uint64_t size) {
    return (count + size - 1) / size;
}

// Bytes of `count` elements as SharedMemory::take hands them out.
template <class T>
constexpr uint64_t taken_bytes(uint64_t count) {
    return ceil_div(count * sizeof(T), 16) * 16;
}

}  // namespace retromae
