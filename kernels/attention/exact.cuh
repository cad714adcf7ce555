// Helpers of the exact attention kernels: every matmul in f32, on the FMA units.
#pragma once

#include "../base/strip.cuh"
#include "attention.cuh"

namespace retromae {

// A thread scores this many consecutive keys: one Philox call decides their dropout, half a mask word their
// visibility.
constexpr int kKeysPerThread = kDropoutGroup;
// Threads that share a query row, hence the width of the row reductions: consecutive lanes of one warp.
constexpr int kThreadsPerRow = kKeyTile / kKeysPerThread;
// Shared rows are padded by one 16-byte access, so that a column of a tile spreads over the banks.
constexpr int kPad = 4;

// Queries of a tile. A thread has `rows` of them; with d = 128 the backward holds two [2, 32] gradients in
// registers and four tiles of 128 columns in shared memory, so its query tile is halved.
template <int QueryTile>
struct ExactRows {
    static constexpr int tile = QueryTile;
    static constexpr int rows = QueryTile * kThreadsPerRow / static_cast<int>(kAttentionThreads);
    static_assert(rows * static_cast<int>(kAttentionThreads) == QueryTile * kThreadsPerRow,
                  "whole rows a thread");
};

// Floats of a tile of 64 keys, as rows or transposed.
template <int D>
constexpr int kExactKeyFloats = kKeyTile * D + kPad * (D > kKeyTile ? D : kKeyTile);

// The 16 keys from `first_key` on that the query at `position` sees.
template <class Mask>
RETROMAE_DEVICE uint32_t visible_keys(const Mask& mask, uint32_t position, uint32_t first_key) {
    return mask.visible(position, first_key / 32 * 32) >> first_key % 32 & 0xffffu;
}

// Copies rows `first..first + Rows` of one head into shared [Rows, D + kPad]; rows from `length` on are zero.
template <int Rows, int D, class T>
RETROMAE_DEVICE void load_rows(float* tile, const T* source, uint32_t stride, uint32_t first,
                               uint32_t length) {
    constexpr uint32_t chunks = D / 8;
    for (uint32_t item = threadIdx.x; item < Rows * chunks; item += kAttentionThreads) {
        const uint32_t row = item / chunks;
        const uint32_t column = item % chunks * 8;
        float values[8] = {};
        if (first + row < length) load(source + static_cast<uint64_t>(first + row) * stride + column, values);
        store(tile + row * (D + kPad) + column, values);
    }
}

// The same transposed, into shared [D, Rows + kPad]. Neighboring threads take neighboring rows, so their
// stores fall into different banks.
template <int Rows, int D, class T>
RETROMAE_DEVICE void load_transposed(float* tile, const T* source, uint32_t stride, uint32_t first,
                                     uint32_t length) {
    for (uint32_t item = threadIdx.x; item < Rows * (D / 8); item += kAttentionThreads) {
        const uint32_t row = item % Rows;
        const uint32_t column = item / Rows * 8;
        float values[8] = {};
        if (first + row < length) load(source + static_cast<uint64_t>(first + row) * stride + column, values);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) tile[(column + i) * (Rows + kPad) + row] = values[i];
    }
}

// products[r] = the dot products of `Rows` consecutive rows of `left` [., D + kPad] with 16 columns of
// `right_transposed` [D, kKeyTile + kPad].
template <int Rows, int D>
RETROMAE_DEVICE void multiply(const float* left, const float* right_transposed, float (&products)[Rows][16]) {
    Strip<16> strips[Rows];
    RETROMAE_UNROLL
    for (int r = 0; r < Rows; ++r) strips[r].fill(0.0f);
    for (int k = 0; k < D; ++k) {
        RETROMAE_UNROLL
        for (int r = 0; r < Rows; ++r)
            strips[r].fma(left[r * (D + kPad) + k], right_transposed + k * (kKeyTile + kPad));
    }
    RETROMAE_UNROLL
    for (int r = 0; r < Rows; ++r) strips[r].get(products[r]);
}

// Writes a strip, times `factor`, to a row of global memory.
template <int Count, class T>
RETROMAE_DEVICE void store_strip(T* destination, const Strip<Count>& strip, float factor) {
    float values[Count];
    strip.get(values);
    RETROMAE_UNROLL
    for (int first = 0; first < Count; first += 8) {
        float part[8];
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) part[i] = values[first + i] * factor;
        store(destination + first, part);
    }
}

}  // namespace retromae
