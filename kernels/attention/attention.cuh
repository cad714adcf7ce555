// What the attention kernels share: tiles, masks, and moving rows into shared memory.
#pragma once

#include "../arch/approximate.cuh"
#include "../arch/warp_primitives.cuh"
#include "../core/philox.cuh"
#include "../core/shared_memory.cuh"
#include "../core/strip.cuh"
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kAttentionThreads = 128;
// A thread scores this many consecutive keys: one Philox call decides their dropout, half a mask word their
// visibility.
constexpr int kKeysPerThread = kDropoutGroup;
constexpr int kKeyTile = 64;
// Threads that share a query row, hence the width of the row reductions: consecutive lanes of one warp.
constexpr int kThreadsPerRow = kKeyTile / kKeysPerThread;
// Shared rows are padded by one 16-byte access, so that a column of a tile spreads over the banks.
constexpr int kPad = 4;

// Queries of a tile. A thread has `rows` of them; with d = 128 the backward holds two [2, 32] gradients in
// registers and four tiles of 128 columns in shared memory, so its query tile is halved.
template <int QueryTile>
struct QueryRows {
    static constexpr int tile = QueryTile;
    static constexpr int rows = QueryTile * kThreadsPerRow / static_cast<int>(kAttentionThreads);
    static_assert(rows * static_cast<int>(kAttentionThreads) == QueryTile * kThreadsPerRow,
                  "whole rows a thread");
};

// The sentence, head and tile of a block.
struct AttentionBlock {
    uint32_t head;
    uint32_t sentence;
    uint32_t start;   // first packed token of the sentence
    uint32_t length;  // its tokens
    uint32_t tile_start;

    RETROMAE_DEVICE AttentionBlock locate(const AttentionForwardParams& params, uint32_t tile) {
        const int32_t* cu_seqlens = pointer<const int32_t>(params.cu_seqlens);
        AttentionBlock block;
        block.head = blockIdx.y;
        block.sentence = blockIdx.z;
        block.start = static_cast<uint32_t>(cu_seqlens[block.sentence]);
        block.length = static_cast<uint32_t>(cu_seqlens[block.sentence + 1]) - block.start;
        block.tile_start = blockIdx.x * tile;
        return block;
    }
    // Whether the tile lies beyond the sentence: the grid is made for the longest one.
    RETROMAE_MEMBER bool empty() const { return tile_start >= length; }
};

// Every token sees every token of its sentence.
struct FullMask {
    RETROMAE_DEVICE FullMask make(const AttentionForwardParams&, const AttentionBlock&) { return {}; }
    // Bit c: whether the query at `slot` sees key `first_key + c`; `first_key` is a multiple of 16.
    RETROMAE_MEMBER uint32_t visible(uint32_t, uint32_t) const { return 0xffffu; }
};

// Position-specific: slot i sees slot 0 and the bits of its bank row, never itself.
struct BankMask {
    const uint32_t* bits;
    const uint16_t* rows;
    uint32_t words_per_row;

    RETROMAE_DEVICE BankMask make(const AttentionForwardParams& params, const AttentionBlock& block) {
        const uint32_t offset = pointer<const uint32_t>(params.bank_offsets)[block.sentence];
        return {pointer<const uint32_t>(params.bank_bits) + offset,
                pointer<const uint16_t>(params.bank_rows) + block.start, (block.length + 31) / 32};
    }
    RETROMAE_MEMBER uint32_t visible(uint32_t slot, uint32_t first_key) const {
        const uint32_t word = bits[rows[slot] * words_per_row + first_key / 32];
        uint32_t visible = word >> (first_key % 32) & 0xffffu;
        if (first_key == 0) visible |= 1u;
        const uint32_t diagonal = slot - first_key;
        return diagonal < 16 ? visible & ~(1u << diagonal) : visible;
    }
};

// The keys of a tile that exist, as bits from `first_key` on.
RETROMAE_DEVICE uint32_t existing_keys(uint32_t first_key, uint32_t length) {
    const uint32_t count = length > first_key ? length - first_key : 0;
    return count >= 16 ? 0xffffu : (1u << count) - 1u;
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

// The same transposed, into shared [D, Rows + kPad]. Neighbouring threads take neighbouring rows, so their
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
