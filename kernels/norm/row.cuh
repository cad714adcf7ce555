// A row that is spread over the registers of a warp, and what LayerNorm does with it.
#pragma once

#include "../arch/warp_primitives.cuh"
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

// One warp a row: no barrier between the load of a row and its end.
constexpr uint32_t kRowWarps = 4;
constexpr uint32_t kRowThreads = 32 * kRowWarps;

// A lane holds the chunks lane, lane + 32, … of 8 columns each. Four of them are 1024 columns, BERT-large.
constexpr int kRowChunks = ROW_COLUMNS_MAX / (32 * 8);

// Rows of a block of a forward kernel: eight for each warp, one after the other, so that starting a block
// costs little beside them.
constexpr uint32_t kForwardRows = 32;

// A block of a backward kernel leaves a row of partial sums, so there are few and large ones: eight warps,
// whose sums of 1024 columns are 96 KiB, two such blocks an SM of an H100. There are at most 256, which is
// one wave of the 264 that fit its 132 SMs; fewer would leave SMs idle. A warp takes every so many-th row,
// eight of them at least.
constexpr uint32_t kBackwardWarps = 8;
constexpr uint32_t kBackwardThreads = 32 * kBackwardWarps;
constexpr uint32_t kBackwardBlocksMax = 256;
constexpr uint32_t kBackwardRowsMin = 8 * kBackwardWarps;

// One warp per row, each warp taking its rows in turn.
struct ForwardRowsLaunch : Launch<kRowThreads> {
    static Grid grid_of(uint64_t rows) { return {ceil_div(rows, kForwardRows)}; }
};

// One row of partial sums per block, with `Sums` sums for every column.
template <int Sums>
struct BackwardRowsLaunch : Launch<kBackwardThreads> {
    static Grid grid_of(uint64_t rows) {
        const uint64_t blocks = ceil_div(rows, kBackwardRowsMin);
        return {blocks < kBackwardBlocksMax ? blocks : kBackwardBlocksMax};
    }
    static uint64_t shared_bytes_of(uint64_t columns) {
        return taken_bytes<float>(kBackwardWarps * Sums * columns);
    }
};

// Calls `body(row)` for each row of this warp of a backward kernel.
template <class Body>
RETROMAE_DEVICE void for_backward_rows(uint32_t rows, Body body) {
    for (uint32_t row = blockIdx.x * kBackwardWarps + threadIdx.x / 32u; row < rows;
         row += gridDim.x * kBackwardWarps)
        body(row);
}

using LaneRow = float[kRowChunks][8];

// Calls `body(index, first column)` for each chunk of this lane.
template <class Body>
RETROMAE_DEVICE void for_chunks(uint32_t columns, Body body) {
    RETROMAE_UNROLL
    for (int index = 0; index < kRowChunks; ++index) {
        const uint32_t column = (static_cast<uint32_t>(index) * 32u + threadIdx.x % 32u) * 8u;
        if (column < columns) body(index, column);
    }
}

// The elements of a word of 32 bits.
RETROMAE_DEVICE void widen_word(float, uint32_t word, float* value) {
    memcpy(value, &word, sizeof word);
}
template <class T>
RETROMAE_DEVICE void widen_word(T, uint32_t word, float* values) {
    values[0] = to_float(T{static_cast<uint16_t>(word)});
    values[1] = to_float(T{static_cast<uint16_t>(word >> 16)});
}

// Rounds to a type and back, two elements at a time.
RETROMAE_DEVICE void round_chunk(float, float (&)[8]) {}
template <class T>
RETROMAE_DEVICE void round_chunk(T type, float (&values)[8]) {
    RETROMAE_UNROLL
    for (int i = 0; i < 8; i += 2) widen_word(type, rounded_pair(type, values[i], values[i + 1]), values + i);
}

// 8 columns as they lie in memory, in words of 32 bits: two 16-bit elements share a register until they are
// widened.
template <class T>
struct RawChunk {
    static constexpr int kQuads = 8 * sizeof(T) / 16;
    Pack<uint32_t, 4> quads[kQuads];

    RETROMAE_MEMBER void load(const T* source) {
        RETROMAE_UNROLL
        for (int quad = 0; quad < kQuads; ++quad)
            quads[quad] = reinterpret_cast<const Pack<uint32_t, 4>*>(source)[quad];
    }

    RETROMAE_MEMBER void store(T* destination) const {
        RETROMAE_UNROLL
        for (int quad = 0; quad < kQuads; ++quad)
            store_whole(reinterpret_cast<Pack<uint32_t, 4>*>(destination) + quad, quads[quad]);
    }

    RETROMAE_MEMBER void widen(float (&values)[8]) const {
        constexpr int kElements = 4 / sizeof(T);  // of a word
        RETROMAE_UNROLL
        for (int i = 0; i < 8 / kElements; ++i)
            widen_word(T{}, quads[i / 4].values[i % 4], values + i * kElements);
    }
};

// A row as it lies in memory. Loading it whole, before any arithmetic, keeps all its loads in flight.
template <class T>
struct RawRow {
    RawChunk<T> chunks[kRowChunks];

    RETROMAE_MEMBER void load(const T* row, uint32_t columns) {
        for_chunks(columns, [&](int index, uint32_t column) { chunks[index].load(row + column); });
    }

    RETROMAE_MEMBER void store(T* row, uint32_t columns) const {
        for_chunks(columns, [&](int index, uint32_t column) { chunks[index].store(row + column); });
    }

    RETROMAE_MEMBER void widen(int index, float (&values)[8]) const { chunks[index].widen(values); }
};

RETROMAE_DEVICE float sum_of_8(const float (&values)[8]) {
    return ((values[0] + values[4]) + (values[1] + values[5])) +
           ((values[2] + values[6]) + (values[3] + values[7]));
}

// The first 16 bytes of a row, of which each lane has its own copy.
template <class T>
struct RowStart {
    static constexpr int kElements = 16 / sizeof(T);
    Pack<uint32_t, 4> words;

    RETROMAE_MEMBER void load(const T* row) { words = *reinterpret_cast<const Pack<uint32_t, 4>*>(row); }

    RETROMAE_MEMBER float mean() const {
        float values[kElements], sum = 0.0f;
        RETROMAE_UNROLL
        for (int i = 0; i < 4; ++i) widen_word(T{}, words.values[i], values + i * kElements / 4);
        RETROMAE_UNROLL
        for (int i = 0; i < kElements; ++i) sum += values[i];
        return sum * (1.0f / kElements);
    }
};

struct RowStatistics {
    float mean;
    float rstd;
};

// Mean and 1/√(variance + eps). Both sums are taken about `shift`, so that one reduction gives both and the
// variance stays sound where the mean is far above it. The mean of a few elements will do: it lies within a
// fraction of the deviation of the row's own.
RETROMAE_DEVICE RowStatistics row_statistics(const LaneRow& row, float shift, uint32_t columns, float eps) {
    float sums[2] = {0.0f, 0.0f};
    for_chunks(columns, [&](int index, uint32_t) {
        float shifted[8], square[8];
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) shifted[i] = row[index][i] - shift;
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) square[i] = shifted[i] * shifted[i];
        sums[0] += sum_of_8(shifted);
        sums[1] += sum_of_8(square);
    });
    warp_butterfly<Sum, 32>(sums);
    const float share = 1.0f / static_cast<float>(columns);
    const float mean = sums[0] * share;
    const float variance = sums[1] * share - mean * mean;
    return {shift + mean, 1.0f / sqrtf((variance > 0.0f ? variance : 0.0f) + eps)};
}

// gamma·(x - mean)·rstd + beta for the chunk at `column`.
RETROMAE_DEVICE void normalize(const float (&x)[8], RowStatistics statistics, const float* gamma,
                               const float* beta, uint32_t column, float (&output)[8]) {
    float gammas[8], betas[8];
    load(gamma + column, gammas);
    load(beta + column, betas);
    RETROMAE_UNROLL
    for (int i = 0; i < 8; ++i)
        output[i] = fmaf(gammas[i], (x[i] - statistics.mean) * statistics.rstd, betas[i]);
}

// `Sums` sums over the rows of a block for every column, in shared memory: each warp adds to its own copy, in
// which a lane only touches its own columns; `finish` adds the copies up.
//
// A chunk's halves lie in two planes, so that consecutive lanes access consecutive 16 bytes.
template <int Sums, uint32_t Warps>
class ColumnTotals {
  public:
    RETROMAE_MEMBER explicit ColumnTotals(uint32_t columns) : columns_(columns) {
        SharedMemory memory = SharedMemory::begin();
        totals_ = memory.take<float>(Warps * Sums * columns);
        const float zeros[4] = {};
        for_chunks(columns, [&](int, uint32_t column) {
            RETROMAE_UNROLL
            for (int which = 0; which < Sums; ++which) {
                store(place(which, column, 0), zeros);
                store(place(which, column, 1), zeros);
            }
        });
    }

    RETROMAE_MEMBER void add(int which, uint32_t column, const float (&values)[8]) {
        RETROMAE_UNROLL
        for (int half = 0; half < 2; ++half) {
            float totals[4];
            load(place(which, column, half), totals);
            RETROMAE_UNROLL
            for (int i = 0; i < 4; ++i) totals[i] += values[half * 4 + i];
            store(place(which, column, half), totals);
        }
    }

    // Writes the block's sums [Sums, columns].
    RETROMAE_MEMBER void finish(float* partials) {
        __syncthreads();
        const uint32_t quads = columns_ / 4u;
        for (uint32_t index = threadIdx.x; index < Sums * quads; index += 32 * Warps) {
            float total[4] = {};
            RETROMAE_UNROLL
            for (uint32_t warp = 0; warp < Warps; ++warp) {
                float part[4];
                load(totals_ + warp * Sums * columns_ + index * 4u, part);
                RETROMAE_UNROLL
                for (int i = 0; i < 4; ++i) total[i] += part[i];
            }
            const uint32_t which = index / quads, half = index % quads / (quads / 2u),
                           chunk = index % (quads / 2u);
            store(partials + which * columns_ + chunk * 8u + half * 4u, total);
        }
    }

  private:
    RETROMAE_MEMBER float* place(int which, uint32_t column, int half) {
        const uint32_t plane =
            (threadIdx.x / 32u * Sums + static_cast<uint32_t>(which)) * 2u + static_cast<uint32_t>(half);
        return totals_ + plane * (columns_ / 2u) + column / 2u;
    }

    uint32_t columns_;
    float* totals_;
};

// With g = gamma·d_output, the gradient of what was normalized is rstd·(g - mean(g) - x̂·mean(g·x̂)):
// `chunk(index, x̂, d_output)` gives 8 columns of both, once for the means and once for the gradient, which
// goes to `emit(index, column, gradient)`. Adds d_output·x̂ to total 0 (gamma) and d_output to total 1 (beta).
template <class Totals, class Chunk, class Emit>
RETROMAE_DEVICE void normalize_backward(const float* gamma, float rstd, uint32_t columns, Totals& totals,
                                        Chunk chunk, Emit emit) {
    float sums[2] = {0.0f, 0.0f};
    for_chunks(columns, [&](int index, uint32_t column) {
        float normalized[8], gradient[8], products[8], gammas[8];
        chunk(index, normalized, gradient);
        load(gamma + column, gammas);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) products[i] = gradient[i] * normalized[i];
        totals.add(0, column, products);
        totals.add(1, column, gradient);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) {
            gradient[i] *= gammas[i];
            products[i] *= gammas[i];
        }
        sums[0] += sum_of_8(gradient);
        sums[1] += sum_of_8(products);
    });
    warp_butterfly<Sum, 32>(sums);
    // Anew for each row: a register more in the loop would cost the embeddings' backward a block an SM.
    const float share = 1.0f / static_cast<float>(recomputed(columns));
    const float mean = sums[0] * share, projection = sums[1] * share;
    for_chunks(columns, [&](int index, uint32_t column) {
        float normalized[8], gradient[8], gammas[8];
        chunk(index, normalized, gradient);
        load(gamma + column, gammas);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i)
            gradient[i] = rstd * (gradient[i] * gammas[i] - mean - normalized[i] * projection);
        emit(index, column, gradient);
    });
}

}  // namespace retromae
