// A tile of rows of 16-bit elements in shared memory, the operands of mma that are read from it, and the
// accumulators that are written to it.
#pragma once

#include "../arch/async_copy.cuh"
#include "../arch/ldmatrix.cuh"
#include "../arch/mma.cuh"
#include "../arch/warp_primitives.cuh"
#include "../base/kernel.cuh"
#include "types.cuh"

namespace retromae {

// A lane's accumulators in the layout of mma: tiles [n] of 8 columns, or [m][n] of 16 rows and 8 columns. Its
// rows and columns are counted from 0; `lane_row` and `lane_column` give their indices in the matrix.
RETROMAE_DEVICE uint32_t lane_row(int row) {
    return lane_index() / 4 + 8 * row;
}
RETROMAE_DEVICE uint32_t lane_column(int column) {
    return lane_index() % 4 * 2 + column / 2 * 8 + column % 2;
}

// One of a lane's accumulators.
template <class X, int Tiles>
RETROMAE_DEVICE X& accumulator_at(X (&accumulators)[Tiles][4], int row, int column) {
    return accumulators[column / 2][2 * row + column % 2];
}

// Calls `f(row, column, x)` for each of a lane's accumulators, in each row column after column.
template <class X, int Tiles, class F>
RETROMAE_DEVICE void for_each_accumulator(X (&accumulators)[Tiles][4], F f) {
    RETROMAE_UNROLL
    for (int n = 0; n < Tiles; ++n) {
        RETROMAE_UNROLL
        for (int i = 0; i < 4; ++i) f(i / 2, 2 * n + i % 2, accumulators[n][i]);
    }
}
template <class X, int Blocks, int Tiles, class F>
RETROMAE_DEVICE void for_each_accumulator(X (&accumulators)[Blocks][Tiles][4], F f) {
    RETROMAE_UNROLL
    for (int column = 0; column < 2 * Tiles; ++column) {
        RETROMAE_UNROLL
        for (int row = 0; row < 2 * Blocks; ++row)
            f(row, column, accumulator_at(accumulators[row / 2], row % 2, column));
    }
}

// Rows of `D` elements, in chunks of 16 bytes that are swizzled: the chunks that the 8 lanes of an ldmatrix
// phase read (one column of 8 rows), or that 8 neighboring lanes copy (8 neighbors in row order), lie in 8
// different groups of 4 banks. For rows of a multiple of 128 bytes the row number modulo 8 is added to the
// chunk (without carry); for an odd multiple of 64 bytes neighboring rows lie in different halves already,
// and half the row number, modulo 4, is added.
template <class T, int D>
struct SharedTile {
    static_assert(sizeof(T) == 2 && D % 32 == 0, "16-bit elements, rows of a multiple of 64 bytes");
    static constexpr int kChunks = D / 8;

    T* elements;

    // Elements before chunk `column_chunk` of a row.
    RETROMAE_DEVICE uint32_t offset(uint32_t row, uint32_t column_chunk) {
        const uint32_t swizzle = kChunks % 8 == 0 ? row % 8 : row / 2 % 4;
        return (row * kChunks + (column_chunk ^ swizzle)) * 8;
    }
    RETROMAE_MEMBER T* chunk(uint32_t row, uint32_t column_chunk) const {
        return elements + offset(row, column_chunk);
    }
    RETROMAE_MEMBER SharedAddress address(uint32_t row, uint32_t column_chunk) const {
        return shared_address(elements) + offset(row, column_chunk) * static_cast<uint32_t>(sizeof(T));
    }

    // The tile from row `row` on; `row` is a multiple of 8, so that the swizzle stays.
    RETROMAE_MEMBER SharedTile from(uint32_t row) const { return {elements + row * D}; }

    // Starts the block's copy of rows `first..first + Rows` of global memory; rows from `end` on become
    // zeros.
    template <int Rows, int Threads>
    RETROMAE_MEMBER void copy_rows(const T* source, uint32_t stride, uint32_t first, uint32_t end) const {
        RETROMAE_UNROLL
        for (int i = 0; i < (Rows * kChunks + Threads - 1) / Threads; ++i) {
            const uint32_t item = i * Threads + threadIdx.x;
            if (Rows * kChunks % Threads != 0 && item >= Rows * kChunks) break;
            const uint32_t row = item / kChunks;
            const uint32_t column = item % kChunks;
            const bool exists = first + row < end;
            const uint64_t offset = exists ? static_cast<uint64_t>(first + row) * stride + column * 8 : 0;
            copy_async_16(chunk(row, column), source + offset, exists);
        }
    }

    // The operand A [16, 16] at rows `row..`, columns `16·step..`.
    RETROMAE_MEMBER void load_a(uint32_t row, uint32_t step, uint32_t (&a)[4],
                                uint32_t lane = lane_index()) const {
        const SharedAddress rows[1] = {address(row + lane % 16, 2 * step + lane / 16)};
        uint32_t fragments[1][4];
        load_matrices<false>(rows, fragments);
        RETROMAE_UNROLL
        for (int i = 0; i < 4; ++i) a[i] = fragments[0][i];
    }

    // The operand A [16, 16] whose row m and column k are column `8·column_chunk + m` and row `row + k` of
    // the tile.
    RETROMAE_MEMBER void load_a_transposed(uint32_t row, uint32_t column_chunk, uint32_t (&a)[4],
                                           uint32_t lane = lane_index()) const {
        const SharedAddress rows[1] = {address(row + lane / 16 * 8 + lane % 8, column_chunk + lane / 8 % 2)};
        uint32_t fragments[1][4];
        load_matrices<true>(rows, fragments);
        RETROMAE_UNROLL
        for (int i = 0; i < 4; ++i) a[i] = fragments[0][i];
    }

    // The operand B [16, 16·Pairs] whose row k and column n are column `16·step + k` and row `row + n` of the
    // tile.
    template <int Pairs>
    RETROMAE_MEMBER void load_b_transposed(uint32_t row, uint32_t step, uint32_t (&b)[Pairs][4],
                                           uint32_t lane = lane_index()) const {
        SharedAddress rows[Pairs];
        RETROMAE_UNROLL
        for (int p = 0; p < Pairs; ++p)
            rows[p] = address(row + 16 * p + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2);
        load_matrices<false>(rows, b);
    }

    // The operand B [16, 16·Pairs] at rows `row..`, columns `8·column_chunk..`.
    template <int Pairs>
    RETROMAE_MEMBER void load_b(uint32_t row, uint32_t column_chunk, uint32_t (&b)[Pairs][4],
                                uint32_t lane = lane_index()) const {
        SharedAddress rows[Pairs];
        RETROMAE_UNROLL
        for (int p = 0; p < Pairs; ++p) rows[p] = address(row + lane % 16, column_chunk + 2 * p + lane / 16);
        load_matrices<true>(rows, b);
    }

    // Writes accumulators [16, 8·Tiles] to rows `row..`, columns `8·column_chunk..`; row g is multiplied by
    // `factors[0]`, row g + 8 by `factors[1]`.
    template <int Tiles>
    RETROMAE_MEMBER void store(uint32_t row, uint32_t column_chunk, const float (&accumulators)[Tiles][4],
                               const float (&factors)[2]) const {
        RETROMAE_UNROLL
        for (int n = 0; n < Tiles; ++n) {
            const float (&tile)[4] = accumulators[n];
            RETROMAE_UNROLL
            for (int half = 0; half < 2; ++half)
                store_pair(row + 8 * half, column_chunk + n, tile[2 * half] * factors[half],
                           tile[2 * half + 1] * factors[half]);
        }
    }
    template <int Tiles>
    RETROMAE_MEMBER void store(uint32_t row, uint32_t column_chunk,
                               const float (&accumulators)[Tiles][4]) const {
        const float ones[2] = {1.0f, 1.0f};
        store(row, column_chunk, accumulators, ones);
    }

    // Copies 16 rows, `Chunks` chunks of each, by one warp to global memory, whose first row and column
    // `destination` is; only the first `rows` rows and `chunks` chunks exist.
    template <int Chunks>
    RETROMAE_MEMBER void write_rows(uint32_t row, uint32_t column_chunk, T* destination, uint32_t stride,
                                    uint32_t rows, uint32_t chunks = Chunks) const {
        RETROMAE_UNROLL
        for (int i = 0; i < Chunks / 2; ++i) {
            const ChunkIndex index = chunk_of_lane<Chunks>(i);
            if (index.row >= rows || index.column >= chunks) continue;
            *reinterpret_cast<Pack<T, 8>*>(destination + static_cast<uint64_t>(index.row) * stride +
                                           index.column * 8) =
                *reinterpret_cast<const Pack<T, 8>*>(chunk(row + index.row, column_chunk + index.column));
        }
    }

  private:
    struct ChunkIndex {
        uint32_t row;
        uint32_t column;
    };

    // The chunk that a lane moves in pass `i` over 16 rows of `Chunks` chunks, so that 8 neighboring lanes
    // meet 8 different groups of 4 banks: whole rows in order.
    template <int Chunks>
    RETROMAE_DEVICE ChunkIndex chunk_of_lane(int i) {
        const uint32_t lane = lane_index();
        if constexpr (Chunks % 4 == 0) {
            const uint32_t item = 32 * i + lane;
            return {item / Chunks, item % Chunks};
        } else {
            // Half of an odd row: four chunks of two rows, and at last two of rows r, r + 1, r + 4 and r + 5,
            // whose swizzles differ by 2.
            static_assert(Chunks == 6 && kChunks == 12, "the only share of a row that is not whole");
            if (i < 2) return {8 * i + lane / 4, lane % 4};
            const uint32_t row = lane / 2;
            return {(row & 9) | (row & 2) << 1 | (row & 4) >> 1, 4 + lane % 2};
        }
    }

    // A lane's two neighbors of a row of accumulators.
    RETROMAE_MEMBER void store_pair(uint32_t row, uint32_t column_chunk, float low, float high) const {
        T* pair = chunk(row + lane_row(0), column_chunk) + lane_column(0);
        *reinterpret_cast<uint32_t*>(pair) = rounded_pair(T{}, low, high);
    }
};

// Accumulators as an operand A: the [16, 16] at tiles 2·step and 2·step + 1, rounded to T.
template <class T, int Tiles>
RETROMAE_DEVICE void accumulators_as_a(const float (&accumulators)[Tiles][4], int step, uint32_t (&a)[4]) {
    RETROMAE_UNROLL
    for (int i = 0; i < 4; ++i) {
        const float (&tile)[4] = accumulators[2 * step + i / 2];
        a[i] = rounded_pair(T{}, tile[2 * (i % 2)], tile[2 * (i % 2) + 1]);
    }
}

// sums += A · Bᵀ, with 16 rows of `a` from `a_row` on, and of `b` from `b_row` on as many as `sums` has
// columns.
template <class T, int D, int Tiles>
RETROMAE_DEVICE void multiply_transposed(float (&sums)[Tiles][4], const SharedTile<T, D>& a, uint32_t a_row,
                                         const SharedTile<T, D>& b, uint32_t b_row,
                                         uint32_t lane = lane_index()) {
    RETROMAE_UNROLL
    for (int step = 0; step < D / 16; ++step) {
        uint32_t a_fragment[4], b_fragments[Tiles / 2][4];
        a.load_a(a_row, step, a_fragment, lane);
        b.template load_b_transposed<Tiles / 2>(b_row, step, b_fragments, lane);
        mma<T, Tiles / 2>(sums, a_fragment, b_fragments);
    }
}

// sums += A · (rows `row..row + 16` of the tile, columns `8·column_chunk..`); 128 columns in four parts, as
// the operands of all would wait in registers.
template <class T, int D, int Tiles>
RETROMAE_DEVICE void multiply_rows(float (&sums)[Tiles][4], const uint32_t (&a)[4],
                                   const SharedTile<T, D>& tile, uint32_t row, uint32_t column_chunk,
                                   uint32_t lane = lane_index()) {
    constexpr int kStep = Tiles > 12 ? 4 : Tiles;
    RETROMAE_UNROLL
    for (int n = 0; n < Tiles; n += kStep) {
        uint32_t b[kStep / 2][4];
        tile.template load_b<kStep / 2>(row, column_chunk + n, b, lane);
        mma<T, kStep / 2>(*reinterpret_cast<float (*)[kStep][4]>(&sums[n]), a, b);
    }
}

}  // namespace retromae
