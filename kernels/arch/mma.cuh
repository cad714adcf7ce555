// mma.sync.m16n8k16 with 16-bit operands and f32 sums (PTX ISA, "mma"; sm_80).
//
// Fragments, with lane l = (g, t) = (l / 4, l % 4): register r of A [16, 16] holds row g + 8·(r % 2), columns
// 2t + 8·(r / 2) and the next; register r of B [16, 8] holds column g, rows 2t + 8r and the next; value i of
// C [16, 8] is row g + 8·(i / 2), column 2t + i % 2.
#pragma once

#include "../base/kernel.cuh"
#include "../base/strip.cuh"
#include "convert.cuh"

namespace retromae {

#ifdef __CUDACC__

RETROMAE_DEVICE void mma_m16n8k16(bf16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

RETROMAE_DEVICE void mma_m16n8k16(f16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#else

namespace host {

// One lane's accumulators and operands of a row of mma.
template <int Pairs>
struct MmaLane {
    float (*c)[4];
    const uint32_t* a;
    const uint32_t (*b)[4];
};

static inline float mma_operand(bf16 value) {
    return bf16_to_float(value);
}
static inline float mma_operand(f16 value) {
    return f16_to_float(value);
}

// The two elements of a register.
template <class T>
static inline void unpack(uint32_t bits, float& low, float& high) {
    low = mma_operand(T{static_cast<uint16_t>(bits)});
    high = mma_operand(T{static_cast<uint16_t>(bits >> 16)});
}

// The mma of a warp, two tiles of C at a time, in vectors of a row of 8: 4 rows of both tiles stay in
// registers while one element of A after the other meets a row of B.
template <class T, int Pairs>
__attribute__((noinline, no_sanitize("thread"))) static void mma_of_warp(MmaLane<Pairs>* const* lanes) {
    float a[16][16];
    for (int l = 0; l < 32; ++l)
        for (int r = 0; r < 4; ++r) {
            float* place = &a[l / 4 + 8 * (r % 2)][2 * (l % 4) + 8 * (r / 2)];
            unpack<T>(lanes[l]->a[r], place[0], place[1]);
        }
    for (int pair = 0; pair < Pairs; ++pair) {
        float b[2][16][8], c[2][16][8];
        for (int l = 0; l < 32; ++l) {
            const int g = l / 4, t = l % 4;
            for (int tile = 0; tile < 2; ++tile)
                for (int r = 0; r < 2; ++r) {
                    float* place = &b[tile][2 * t + 8 * r][g];
                    unpack<T>(lanes[l]->b[pair][2 * tile + r], place[0], place[8]);
                    memcpy(&c[tile][g + 8 * r][2 * t], &lanes[l]->c[2 * pair + tile][2 * r], 8);
                }
        }
        for (int row = 0; row < 16; row += 4) {
            Strip<8> sums[2][4];
            for (int tile = 0; tile < 2; ++tile)
                for (int i = 0; i < 4; ++i) sums[tile][i].load(c[tile][row + i]);
            for (int k = 0; k < 16; ++k)
                for (int tile = 0; tile < 2; ++tile)
                    for (int i = 0; i < 4; ++i) sums[tile][i].fma(a[row + i][k], b[tile][k]);
            for (int tile = 0; tile < 2; ++tile)
                for (int i = 0; i < 4; ++i) sums[tile][i].get(c[tile][row + i]);
        }
        for (int l = 0; l < 32; ++l)
            for (int tile = 0; tile < 2; ++tile)
                for (int r = 0; r < 2; ++r)
                    memcpy(&lanes[l]->c[2 * pair + tile][2 * r], &c[tile][l / 4 + 8 * r][2 * (l % 4)], 8);
    }
}

}  // namespace host

#endif

// c[n] += A · B[n] for 2·`Pairs` tiles of 8 columns; `b` holds the registers of two tiles after one another,
// as ldmatrix loads them. The emulation makes one collective of them all.
template <class T, int Pairs>
RETROMAE_DEVICE void mma(float (&c)[2 * Pairs][4], const uint32_t (&a)[4],
                         const uint32_t (&b)[Pairs][4] RETROMAE_SITE_PARAMETER) {
#ifdef __CUDACC__
#pragma unroll
    for (int pair = 0; pair < Pairs; ++pair) {
        mma_m16n8k16(T{}, c[2 * pair], a, b[pair][0], b[pair][1]);
        mma_m16n8k16(T{}, c[2 * pair + 1], a, b[pair][2], b[pair][3]);
    }
#else
    host::MmaLane<Pairs> lane{c, a, b};
    host::warp_together(lane, site,
                        [](host::MmaLane<Pairs>* const* lanes) { host::mma_of_warp<T, Pairs>(lanes); });
#endif
}

}  // namespace retromae
