// Softmax over rows of scores, and its gradient p·(dp - Σ dp·p).
//
// Rows of up to 1024 columns stay in the registers of 4 to 32 lanes, so every element is moved once: forward
// reads 1 and writes 1, backward reads 2 and writes 1. Longer rows take a block each, which reads its row
// twice, the second time from the L2. Bound by memory. A row whose scores are all -inf becomes zeros.
#include "../arch/approximate.cuh"
#include "long_row.cuh"
#include "pass.cuh"

namespace retromae {

constexpr uint32_t kSoftmaxThreads = 256;

// A row held by `Width` lanes, each `Chunks` groups of 8 columns.
template <class T, int Width, int Chunks>
struct SoftmaxRow {
    float values[Chunks][8];

    RETROMAE_DEVICE uint32_t column(int chunk) {
        return (static_cast<uint32_t>(chunk) * Width + threadIdx.x % Width) * 8u;
    }
    RETROMAE_DEVICE uint64_t row() {
        return static_cast<uint64_t>(blockIdx.x) * (kSoftmaxThreads / Width) + threadIdx.x / Width;
    }
    RETROMAE_DEVICE bool exists(const BaselineSoftmaxParams& params, int chunk) {
        return row() < params.rows && column(chunk) < params.columns;
    }
    // Columns that do not exist are `absent`.
    RETROMAE_MEMBER void load_row(const BaselineSoftmaxParams& params, DevicePointer array, float absent) {
        RETROMAE_UNROLL
        for (int chunk = 0; chunk < Chunks; ++chunk) {
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) values[chunk][i] = absent;
            if (exists(params, chunk))
                load(pointer<const T>(array) + row() * params.columns + column(chunk), values[chunk]);
        }
    }
    RETROMAE_MEMBER void store_row(const BaselineSoftmaxParams& params) const {
        RETROMAE_UNROLL
        for (int chunk = 0; chunk < Chunks; ++chunk)
            if (exists(params, chunk))
                store(pointer<T>(params.output) + row() * params.columns + column(chunk), values[chunk]);
    }
};

template <class T, int Width, int Chunks>
RETROMAE_DEVICE void softmax_forward_rows(const BaselineSoftmaxParams& params) {
    SoftmaxRow<T, Width, Chunks> x;
    x.load_row(params, params.input, -INFINITY);
    float maximum[1] = {-INFINITY};
    RETROMAE_UNROLL
    for (int chunk = 0; chunk < Chunks; ++chunk) RETROMAE_UNROLL
    for (int i = 0; i < 8; ++i) maximum[0] = Maximum::apply(x.values[chunk][i], maximum[0]);
    warp_butterfly<Maximum, Width>(maximum);
    const float shift = maximum[0] == -INFINITY ? 0.0f : maximum[0];
    float sum[1] = {0.0f};
    RETROMAE_UNROLL
    for (int chunk = 0; chunk < Chunks; ++chunk) RETROMAE_UNROLL
    for (int i = 0; i < 8; ++i) {
        x.values[chunk][i] = exp2_approximate((x.values[chunk][i] - shift) * kLog2E);
        sum[0] += x.values[chunk][i];
    }
    warp_butterfly<Sum, Width>(sum);
    const float inverse = sum[0] > 0.0f ? 1.0f / sum[0] : 0.0f;
    RETROMAE_UNROLL
    for (int chunk = 0; chunk < Chunks; ++chunk) RETROMAE_UNROLL
    for (int i = 0; i < 8; ++i) x.values[chunk][i] *= inverse;
    x.store_row(params);
}

template <class T, int Width, int Chunks>
RETROMAE_DEVICE void softmax_backward_rows(const BaselineSoftmaxParams& params) {
    SoftmaxRow<T, Width, Chunks> gradient, result;
    gradient.load_row(params, params.input, 0.0f);
    result.load_row(params, params.result, 0.0f);
    float sum[1] = {0.0f};
    RETROMAE_UNROLL
    for (int chunk = 0; chunk < Chunks; ++chunk) RETROMAE_UNROLL
    for (int i = 0; i < 8; ++i) sum[0] += gradient.values[chunk][i] * result.values[chunk][i];
    warp_butterfly<Sum, Width>(sum);
    RETROMAE_UNROLL
    for (int chunk = 0; chunk < Chunks; ++chunk) RETROMAE_UNROLL
    for (int i = 0; i < 8; ++i)
        gradient.values[chunk][i] = result.values[chunk][i] * (gradient.values[chunk][i] - sum[0]);
    gradient.store_row(params);
}

// As few lanes a row as hold it in one group of 8 columns each.
constexpr uint32_t row_lanes(uint32_t columns) {
    return columns <= 32 ? 4 : columns <= 64 ? 8 : columns <= 128 ? 16 : 32;
}

template <class T>
RETROMAE_DEVICE void softmax_forward(const BaselineSoftmaxParams& params) {
    switch (row_lanes(params.columns)) {
        case 4:
            return softmax_forward_rows<T, 4, 1>(params);
        case 8:
            return softmax_forward_rows<T, 8, 1>(params);
        case 16:
            return softmax_forward_rows<T, 16, 1>(params);
    }
    if (params.columns <= 256) return softmax_forward_rows<T, 32, 1>(params);
    softmax_forward_rows<T, 32, 4>(params);
}

template <class T>
RETROMAE_DEVICE void softmax_backward(const BaselineSoftmaxParams& params) {
    switch (row_lanes(params.columns)) {
        case 4:
            return softmax_backward_rows<T, 4, 1>(params);
        case 8:
            return softmax_backward_rows<T, 8, 1>(params);
        case 16:
            return softmax_backward_rows<T, 16, 1>(params);
    }
    if (params.columns <= 256) return softmax_backward_rows<T, 32, 1>(params);
    softmax_backward_rows<T, 32, 4>(params);
}

template <class T>
RETROMAE_DEVICE void softmax_forward_long(const BaselineSoftmaxParams& params) {
    float* scratch = SharedMemory::begin().take<float>(kLongRowWarps);
    const T* input = pointer<const T>(params.input) + static_cast<uint64_t>(blockIdx.x) * params.columns;
    T* output = pointer<T>(params.output) + static_cast<uint64_t>(blockIdx.x) * params.columns;
    const RowSoftmax row = row_softmax(input, params.columns, scratch);
    const float inverse = row.sum > 0.0f ? 1.0f / row.sum : 0.0f;
    for (uint32_t column = threadIdx.x * 8; column < params.columns; column += kLongRowThreads * 8) {
        float x[8];
        load(input + column, x);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) x[i] = exp2_approximate((x[i] - row.maximum) * kLog2E) * inverse;
        store(output + column, x);
    }
}

template <class T>
RETROMAE_DEVICE void softmax_backward_long(const BaselineSoftmaxParams& params) {
    float* scratch = SharedMemory::begin().take<float>(kLongRowWarps);
    const uint64_t start = static_cast<uint64_t>(blockIdx.x) * params.columns;
    const T* gradients = pointer<const T>(params.input) + start;
    const T* results = pointer<const T>(params.result) + start;
    float sum = 0.0f;
    for (uint32_t column = threadIdx.x * 8; column < params.columns; column += kLongRowThreads * 8) {
        float gradient[8], result[8];
        load(gradients + column, gradient);
        load(results + column, result);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) sum += gradient[i] * result[i];
    }
    sum = block_reduce<Sum, kLongRowWarps>(sum, scratch);
    for (uint32_t column = threadIdx.x * 8; column < params.columns; column += kLongRowThreads * 8) {
        float gradient[8], result[8];
        load(gradients + column, gradient);
        load(results + column, result);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) gradient[i] = result[i] * (gradient[i] - sum);
        store(pointer<T>(params.output) + start + column, gradient);
    }
}

struct SoftmaxLaunch : Launch<kSoftmaxThreads> {
    static Grid grid(const BaselineSoftmaxParams& params) {
        return {ceil_div(params.rows, kSoftmaxThreads / row_lanes(params.columns))};
    }
};

RETROMAE_KERNEL(baseline_softmax_forward_f32, BaselineSoftmaxParams, SoftmaxLaunch) {
    softmax_forward<float>(params);
}
RETROMAE_KERNEL(baseline_softmax_forward_bf16, BaselineSoftmaxParams, SoftmaxLaunch) {
    softmax_forward<bf16>(params);
}
RETROMAE_KERNEL(baseline_softmax_backward_f32, BaselineSoftmaxParams, SoftmaxLaunch) {
    softmax_backward<float>(params);
}
RETROMAE_KERNEL(baseline_softmax_backward_bf16, BaselineSoftmaxParams, SoftmaxLaunch) {
    softmax_backward<bf16>(params);
}
RETROMAE_KERNEL(baseline_softmax_forward_long_f32, BaselineSoftmaxParams, LongRowLaunch) {
    softmax_forward_long<float>(params);
}
RETROMAE_KERNEL(baseline_softmax_forward_long_bf16, BaselineSoftmaxParams, LongRowLaunch) {
    softmax_forward_long<bf16>(params);
}
RETROMAE_KERNEL(baseline_softmax_backward_long_f32, BaselineSoftmaxParams, LongRowLaunch) {
    softmax_backward_long<float>(params);
}
RETROMAE_KERNEL(baseline_softmax_backward_long_bf16, BaselineSoftmaxParams, LongRowLaunch) {
    softmax_backward_long<bf16>(params);
}

}  // namespace retromae
