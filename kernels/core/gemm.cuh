// Matmul of rows with rows, A · Bᵀ, tile after tile by one block on tensor cores.
#pragma once

#include "shared_memory.cuh"
#include "tile.cuh"

namespace retromae {

// A tile is 128 rows of A by 128 of B. Four warps take a quarter each, 64 × 64: per step of 16 columns 4 KB
// of operands for 32 mma, which is half of what shared memory delivers in their time on an A100, and all of
// it on an H100.
constexpr uint32_t kGemmThreads = 128;
constexpr uint32_t kGemmTile = VOCABULARY_TILE;
constexpr uint32_t kWarpTile = 64;
// Columns that are multiplied between two barriers, and how many such slices are in shared memory: one is
// read, two are on their way. 48 KB let two blocks (as many as registers do) run on an SM of either kind.
constexpr uint32_t kGemmSlice = 32;
constexpr uint32_t kGemmStages = 3;
constexpr uint32_t kSliceElements = kGemmTile * kGemmSlice;

// Shared memory of the two operands' slices, in bytes.
template <class T>
constexpr uint64_t gemm_bytes() {
    return 2 * taken_bytes<T>(kGemmStages * kSliceElements);
}

// Rows of a row-major matrix from `first` on; those from `end` on, and columns from `columns` on, are zero.
template <class T>
struct GemmRows {
    const T* elements;
    uint32_t columns;
    uint32_t first;
    uint32_t end;

    // Starts the block's copy of a tile's rows, columns `column..column + kGemmSlice`.
    RETROMAE_MEMBER void copy(const SharedTile<T, kGemmSlice>& tile, uint32_t row, uint32_t column) const {
        constexpr uint32_t kChunks = kGemmSlice / 8;
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < kGemmTile * kChunks / kGemmThreads; ++i) {
            const uint32_t item = i * kGemmThreads + threadIdx.x;
            const uint32_t from = first + row + item / kChunks;
            const uint32_t at = column + item % kChunks * 8;
            const bool exists = from < end && at < columns;
            const uint64_t offset = exists ? static_cast<uint64_t>(from) * columns + at : 0;
            copy_async_16(tile.chunk(item / kChunks, item % kChunks), elements + offset, exists);
        }
    }
};

// A warp's quarter of a tile, of which a lane has 8 rows and 16 columns (`for_each_accumulator`).
using WarpAccumulators = float[4][8][4];
constexpr int kLaneRows = 8;
constexpr int kLaneColumns = 16;

// The first row and column of the warp's quarter.
RETROMAE_DEVICE uint32_t warp_row() {
    return threadIdx.x / 64 * kWarpTile;
}
RETROMAE_DEVICE uint32_t warp_column() {
    return threadIdx.x / 32 % 2 * kWarpTile;
}

// One tile of A and, one after the other, `tiles` tiles of B; copies run ahead across their ends.
template <class T>
class GemmStream {
  public:
    RETROMAE_DEVICE GemmStream begin(SharedMemory& memory, const GemmRows<T>& a, const GemmRows<T>& b,
                                     uint32_t tiles) {
        GemmStream stream;
        stream.a_ = a;
        stream.b_ = b;
        stream.rows_left_ = tiles * kGemmTile;
        stream.a_tiles_ = {memory.take<T>(kGemmStages * kSliceElements)};
        stream.b_tiles_ = {memory.take<T>(kGemmStages * kSliceElements)};
        for (uint32_t stage = 0; stage + 1 < kGemmStages; ++stage) stream.copy_next();
        return stream;
    }

    // Computes the next tile.
    RETROMAE_MEMBER void multiply(WarpAccumulators& accumulators) {
        fill(accumulators, 0.0f);
        RETROMAE_NO_UNROLL
        for (uint32_t column = 0; column < a_.columns; column += kGemmSlice) {
            copy_async_wait<kGemmStages - 2>();
            __syncthreads();
            copy_next();
            const uint32_t slice = read_stage_ * kGemmTile;
            // Views, so that the compiler sees that rows before the warp's do not change its swizzle.
            const auto a = a_tiles_.from(slice + warp_row());
            const auto b = b_tiles_.from(slice + warp_column());
            read_stage_ = after(read_stage_);
            RETROMAE_UNROLL
            for (uint32_t step = 0; step < kGemmSlice / 16; ++step) {
                uint32_t b_fragments[4][4];
                b.template load_b_transposed<4>(0, step, b_fragments);
                RETROMAE_UNROLL
                for (int m = 0; m < 4; ++m) {
                    uint32_t a_fragment[4];
                    a.load_a(16 * m, step, a_fragment);
                    mma<T, 4>(accumulators[m], a_fragment, b_fragments);
                }
            }
        }
    }

  private:
    RETROMAE_DEVICE uint32_t after(uint32_t stage) { return stage + 1 == kGemmStages ? 0 : stage + 1; }

    // Starts the copies of the next slice, over those that were read before the last barrier.
    RETROMAE_MEMBER void copy_next() {
        if (rows_left_ > 0) {
            const uint32_t row = write_stage_ * kGemmTile;
            a_.copy(a_tiles_.from(row), 0, column_);
            b_.copy(b_tiles_.from(row), b_row_, column_);
            write_stage_ = after(write_stage_);
            column_ += kGemmSlice;
            if (column_ >= a_.columns) {
                column_ = 0;
                b_row_ += kGemmTile;
                rows_left_ -= kGemmTile;
            }
        }
        copy_async_commit();
    }

    GemmRows<T> a_;
    GemmRows<T> b_;
    SharedTile<T, kGemmSlice> a_tiles_;
    SharedTile<T, kGemmSlice> b_tiles_;
    uint32_t rows_left_;
    uint32_t b_row_ = 0;
    uint32_t column_ = 0;
    uint32_t read_stage_ = 0;
    uint32_t write_stage_ = 0;
};

}  // namespace retromae
