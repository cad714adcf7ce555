// A row that is spread over the registers of a warp, and what LayerNorm does with it.
#pragma once

#include "../arch/warp_primitives.cuh"
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

// One warp a row: no barrier between the load of a row and its end. Four warps share a block, so that the
// backward's column sums leave the SM once for four rows in flight, and 1024 columns of them fit into 48 KiB.
constexpr uint32_t kRowWarps = 4;
constexpr uint32_t kRowThreads = 32 * kRowWarps;

// A lane holds the chunks lane, lane + 32, … of 8 columns each. Four of them are 1024 columns, BERT-large. A
// backward, which holds two rows, then needs 130 to 185 registers a thread: 8 to 12 warps an SM, each with
// two or three rows of loads in flight.
constexpr int kRowChunks = 4;

// Rows that a block of a backward kernel sums up before it writes its partial sums: at 32 they are a tenth of
// the traffic.
constexpr uint32_t kBackwardRows = 32;

// Rows of a block of a forward kernel: eight for each warp, one after the other, so that starting a block
// costs little beside them.
constexpr uint32_t kForwardRows = 32;

using LaneRow = float[kRowChunks][8];

// Calls `body(slot, first column)` for each chunk of this lane.
template <class Body>
RETROMAE_DEVICE void for_chunks(uint32_t columns, Body body) {
    RETROMAE_UNROLL
    for (int slot = 0; slot < kRowChunks; ++slot) {
        const uint32_t column = (static_cast<uint32_t>(slot) * 32u + threadIdx.x % 32u) * 8u;
        if (column < columns) body(slot, column);
    }
}

// Elements as they lie in memory. Loading a row whole, before any arithmetic, keeps all its loads in flight.
template <class T>
struct RawRow {
    Pack<T, 8> chunks[kRowChunks];

    RETROMAE_MEMBER void load(const T* row, uint32_t columns) {
        for_chunks(columns, [&](int slot, uint32_t column) {
            chunks[slot] = *reinterpret_cast<const Pack<T, 8>*>(row + column);
        });
    }

    RETROMAE_MEMBER void widen(int slot, float (&values)[8]) const {
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) values[i] = to_float(chunks[slot].values[i]);
    }
};

RETROMAE_DEVICE float sum_of_8(const float (&values)[8]) {
    return ((values[0] + values[4]) + (values[1] + values[5])) +
           ((values[2] + values[6]) + (values[3] + values[7]));
}

// The mean of a row's first 8 elements.
template <class T>
RETROMAE_DEVICE float leading_mean(const T* row) {
    float values[8];
    load(row, values);
    return sum_of_8(values) * 0.125f;
}

struct RowStatistics {
    float mean;
    float rstd;
};

// Mean and 1/√(variance + eps). Both sums are taken about `shift`, so that one reduction gives both and the
// variance stays sound where the mean is far above it. The mean of a few elements will do: it lies within a
// fraction of the deviation of the row's own.
RETROMAE_DEVICE RowStatistics row_statistics(const LaneRow& row, float shift, uint32_t columns, float eps) {
    float sums[2] = {0.0f, 0.0f};
    for_chunks(columns, [&](int slot, uint32_t) {
        float shifted[8], square[8];
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) shifted[i] = row[slot][i] - shift;
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) square[i] = shifted[i] * shifted[i];
        sums[0] += sum_of_8(shifted);
        sums[1] += sum_of_8(square);
    });
    warp_butterfly<Sum, 32>(sums);
    const float mean = sums[0] / static_cast<float>(columns);
    const float variance = sums[1] / static_cast<float>(columns) - mean * mean;
    return {shift + mean, 1.0f / sqrtf((variance > 0.0f ? variance : 0.0f) + eps)};
}

// gamma·(x - mean)·rstd + beta for the chunk at `column`.
RETROMAE_DEVICE void normalise(const float (&x)[8], RowStatistics statistics, const float* gamma,
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
template <int Sums>
class ColumnTotals {
  public:
    RETROMAE_MEMBER explicit ColumnTotals(uint32_t columns) : columns_(columns) {
        SharedMemory memory = SharedMemory::begin();
        totals_ = memory.take<float>(kRowWarps * Sums * columns);
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
        for (uint32_t index = threadIdx.x; index < Sums * quads; index += kRowThreads) {
            float total[4] = {};
            RETROMAE_UNROLL
            for (uint32_t warp = 0; warp < kRowWarps; ++warp) {
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

// With x̂ = `normalised` and g = gamma·`gradient`: replaces the gradient of the output by that of what was
// normalised, rstd·(g - mean(g) - x̂·mean(g·x̂)), and adds gradient·x̂ to total 0 (gamma) and gradient to total
// 1 (beta).
template <class Totals>
RETROMAE_DEVICE void normalise_backward(const LaneRow& normalised, LaneRow& gradient, const float* gamma,
                                        float rstd, uint32_t columns, Totals& totals) {
    float sums[2] = {0.0f, 0.0f};
    for_chunks(columns, [&](int slot, uint32_t column) {
        float gammas[8], products[8];
        load(gamma + column, gammas);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) products[i] = gradient[slot][i] * normalised[slot][i];
        totals.add(0, column, products);
        totals.add(1, column, gradient[slot]);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) {
            gradient[slot][i] *= gammas[i];
            products[i] *= gammas[i];
        }
        sums[0] += sum_of_8(gradient[slot]);
        sums[1] += sum_of_8(products);
    });
    warp_butterfly<Sum, 32>(sums);
    const float mean = sums[0] / static_cast<float>(columns);
    const float projection = sums[1] / static_cast<float>(columns);
    for_chunks(columns, [&](int slot, uint32_t) {
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i)
            gradient[slot][i] = rstd * (gradient[slot][i] - mean - normalised[slot][i] * projection);
    });
}

}  // namespace retromae
