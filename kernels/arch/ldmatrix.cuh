// ldmatrix: 8 × 8 matrices of 16-bit elements from shared memory into the fragments of mma (PTX ISA,
// "ldmatrix"; sm_75).
#pragma once

#include "../base/kernel.cuh"

namespace retromae {

// An address in shared memory: 32 bits on the GPU, half of a pointer.
#ifdef __CUDACC__
using SharedAddress = uint32_t;
#else
using SharedAddress = const unsigned char*;
#endif

RETROMAE_DEVICE SharedAddress shared_address(const void* pointer) {
#ifdef __CUDACC__
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
#else
    return static_cast<const unsigned char*>(pointer);
#endif
}

// Loads `Count` times four matrices. Lane l brings the address of row l % 8 of matrix l / 8, 16 bytes aligned
// to 16; register m of lane l = (g, t) = (l / 4, l % 4) receives elements [g][2t] and [g][2t + 1] of matrix m
// or, `Transposed`, [2t][g] and [2t + 1][g].
template <bool Transposed, int Count>
RETROMAE_DEVICE void load_matrices(const SharedAddress (&rows)[Count],
                                   uint32_t (&fragments)[Count][4] RETROMAE_SITE_PARAMETER) {
#ifdef __CUDACC__
#pragma unroll
    for (int i = 0; i < Count; ++i) {
        uint32_t (&fragment)[4] = fragments[i];
        if constexpr (Transposed)
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                         : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                         : "r"(rows[i])
                         : "memory");
        else
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                         : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                         : "r"(rows[i])
                         : "memory");
    }
#else
    // Each lane reads its own row, so that the sanitizer sees who reads what.
    struct alignas(16) Row {
        uint16_t elements[8];
    };
    struct Lane {
        Row rows[Count];
        uint32_t (*fragments)[4];
    };
    Lane lane;
    for (int i = 0; i < Count; ++i) lane.rows[i] = *reinterpret_cast<const Row*>(rows[i]);
    lane.fragments = fragments;
    host::warp_together(lane, site, [](Lane* const* lanes) {
        for (int l = 0; l < 32; ++l) {
            const int g = l / 4, t = l % 4;
            for (int i = 0; i < Count; ++i)
                for (int m = 0; m < 4; ++m) {
                    const uint16_t low = Transposed ? lanes[8 * m + 2 * t]->rows[i].elements[g]
                                                    : lanes[8 * m + g]->rows[i].elements[2 * t];
                    const uint16_t high = Transposed ? lanes[8 * m + 2 * t + 1]->rows[i].elements[g]
                                                     : lanes[8 * m + g]->rows[i].elements[2 * t + 1];
                    lanes[l]->fragments[i][m] = low | static_cast<uint32_t>(high) << 16;
                }
        }
    });
#endif
}

}  // namespace retromae
