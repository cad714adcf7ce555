// A long row, reduced by a block of 256 threads.
#pragma once

#include "../arch/approximate.cuh"
#include "../core/block_reduce.cuh"
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kLongRowThreads = 256;
constexpr uint32_t kLongRowWarps = kLongRowThreads / 32;

struct RowSoftmax {
    float maximum; /* 0 where all are -inf */
    float sum;     /* of exp(x - maximum) */
};

// Reads a row once; `columns` is a multiple of 8.
template <class T>
RETROMAE_DEVICE RowSoftmax row_softmax(const T* row, uint32_t columns, float* scratch) {
    // Finite from the start: a thread without columns must not produce -inf - -inf.
    constexpr float kLowest = -3e38f;
    float maximum = kLowest;
    float sum = 0.0f;
    for (uint32_t column = threadIdx.x * 8; column < columns; column += kLongRowThreads * 8) {
        float x[8];
        load(row + column, x);
        float next = maximum;
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) next = Maximum::apply(x[i], next);
        sum *= exp2_approximate((maximum - next) * kLog2E);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) sum += exp2_approximate((x[i] - next) * kLog2E);
        maximum = next;
    }
    const float row_maximum = block_reduce<Maximum, kLongRowWarps>(maximum, scratch);
    sum = block_reduce<Sum, kLongRowWarps>(sum * exp2_approximate((maximum - row_maximum) * kLog2E), scratch);
    return {row_maximum == kLowest ? 0.0f : row_maximum, sum};
}

// One block per row.
struct LongRowLaunch : Launch<kLongRowThreads> {
    template <class Params>
    static Grid grid(const Params& params) {
        return {params.rows};
    }
    template <class Params>
    static uint64_t shared_bytes(const Params&) {
        return taken_bytes<float>(kLongRowWarps);
    }
};

}  // namespace retromae
