// Cross-entropy as a framework composes it: log-softmax of all logits, the targets' negative log-likelihood,
// its gradient scattered into a matrix of zeros, and from that the gradient of the logits.
//
// With M rows of V columns: log-softmax reads 2 and writes 1 times M·V elements, its backward reads 3 and
// writes 1; the two passes over the targets touch one element a row. Bound by memory.
#include "long_row.cuh"
#include "pass.cuh"

namespace retromae {

// output = input - log Σ exp input, a block a row
template <class T>
RETROMAE_DEVICE void log_softmax_forward(const BaselineSoftmaxParams& params) {
    float* scratch = SharedMemory::begin().take<float>(kLongRowWarps);
    const uint64_t start = static_cast<uint64_t>(blockIdx.x) * params.columns;
    const T* input = pointer<const T>(params.input) + start;
    const RowSoftmax row = row_softmax(input, params.columns, scratch);
    const float log_sum_exp = row.maximum + logf(row.sum);
    for (uint32_t column = threadIdx.x * 8; column < params.columns; column += kLongRowThreads * 8) {
        float x[8];
        load(input + column, x);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) x[i] -= log_sum_exp;
        store(pointer<T>(params.output) + start + column, x);
    }
}

// output = gradient - exp(result)·Σ gradient, a block a row
template <class T>
RETROMAE_DEVICE void log_softmax_backward(const BaselineSoftmaxParams& params) {
    float* scratch = SharedMemory::begin().take<float>(kLongRowWarps);
    const uint64_t start = static_cast<uint64_t>(blockIdx.x) * params.columns;
    const T* gradients = pointer<const T>(params.input) + start;
    float sum = 0.0f;
    for (uint32_t column = threadIdx.x * 8; column < params.columns; column += kLongRowThreads * 8) {
        float gradient[8];
        load(gradients + column, gradient);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) sum += gradient[i];
    }
    sum = block_reduce<Sum, kLongRowWarps>(sum, scratch);
    for (uint32_t column = threadIdx.x * 8; column < params.columns; column += kLongRowThreads * 8) {
        float gradient[8], result[8];
        load(gradients + column, gradient);
        load(pointer<const T>(params.result) + start + column, result);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) gradient[i] -= exp2_approximate(result[i] * kLog2E) * sum;
        store(pointer<T>(params.output) + start + column, gradient);
    }
}

// Index of a row's target logit; false for an ignored row.
RETROMAE_DEVICE bool target_place(const BaselineLikelihoodParams& params, uint32_t row, uint64_t& place) {
    const int32_t target = row < params.rows ? pointer<const int32_t>(params.targets)[row] : -1;
    place = static_cast<uint64_t>(row) * params.columns + static_cast<uint32_t>(target);
    return target >= 0 && static_cast<uint32_t>(target) < params.columns;
}

// losses = -weight·log-probability of the target, a thread a row
template <class T>
RETROMAE_DEVICE void likelihood_forward(const BaselineLikelihoodParams& params) {
    const uint32_t row = blockIdx.x * kPassThreads + threadIdx.x;
    if (row >= params.rows) return;
    uint64_t place;
    const bool labeled = target_place(params, row, place);
    const float weight = pointer<const float>(params.row_weights)[row];
    pointer<float>(params.losses)[row] =
        labeled ? -weight * to_float(pointer<const T>(params.log_probabilities)[place]) : 0.0f;
}

template <class T>
RETROMAE_DEVICE void likelihood_backward(const BaselineLikelihoodParams& params) {
    const uint32_t row = blockIdx.x * kPassThreads + threadIdx.x;
    uint64_t place;
    if (!target_place(params, row, place)) return;
    pointer<T>(params.d_log_probabilities)[place] =
        from_float<T>(-pointer<const float>(params.row_weights)[row]);
}

RETROMAE_KERNEL(baseline_log_softmax_forward_f32, BaselineSoftmaxParams, LongRowLaunch) {
    log_softmax_forward<float>(params);
}
RETROMAE_KERNEL(baseline_log_softmax_forward_bf16, BaselineSoftmaxParams, LongRowLaunch) {
    log_softmax_forward<bf16>(params);
}
RETROMAE_KERNEL(baseline_log_softmax_backward_f32, BaselineSoftmaxParams, LongRowLaunch) {
    log_softmax_backward<float>(params);
}
RETROMAE_KERNEL(baseline_log_softmax_backward_bf16, BaselineSoftmaxParams, LongRowLaunch) {
    log_softmax_backward<bf16>(params);
}
// One thread per row.
struct LikelihoodLaunch : Launch<kPassThreads> {
    static Grid grid(const BaselineLikelihoodParams& params) { return {ceil_div(params.rows, kPassThreads)}; }
};

RETROMAE_KERNEL(baseline_likelihood_forward_f32, BaselineLikelihoodParams, LikelihoodLaunch) {
    likelihood_forward<float>(params);
}
RETROMAE_KERNEL(baseline_likelihood_forward_bf16, BaselineLikelihoodParams, LikelihoodLaunch) {
    likelihood_forward<bf16>(params);
}
RETROMAE_KERNEL(baseline_likelihood_backward_f32, BaselineLikelihoodParams, LikelihoodLaunch) {
    likelihood_backward<float>(params);
}
RETROMAE_KERNEL(baseline_likelihood_backward_bf16, BaselineLikelihoodParams, LikelihoodLaunch) {
    likelihood_backward<bf16>(params);
}

}  // namespace retromae
