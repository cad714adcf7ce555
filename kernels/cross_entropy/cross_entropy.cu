// Softmax cross-entropy of rows of logits, forward and backward in one kernel; the logits become their own
// gradient.
//
//     x = logits + bias,  lse = log Σ exp x,  loss = w·(lse − x[target]),  d_logits = w·(exp(x − lse) −
//     one-hot(target))
//
// and in the general variant, with smoothing e, a penalty z·lse² and y = c·tanh(x / c) in place of x
// (params.h):
//
//     d_logits = w·((1 + 2·z·lse)·exp(y − lse) − (1 − e)·one-hot(target) − e / V)·(1 − (y / c)²)
//
// One block of 64 threads a row: a thread walks over groups of 8 columns (16 bytes of a 16-bit type), keeping
// a running maximum and sum, so the row is read twice and written once: 3·V·bytes a row, bound by memory. The
// row is a chunk of the product of hidden rows and embeddings (src/ops/cross_entropy/library.rs): at 1,024
// rows × 30,522 columns of bf16 it is 62 MB, of which the L2 keeps a row between the two reads. A row without
// a target costs only the write of its zeros.
#include "../arch/approximate.cuh"
#include "../arch/warp_primitives.cuh"
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"
#include "target.cuh"

namespace retromae {

constexpr uint32_t kCrossEntropyThreads = 64;
constexpr uint32_t kCrossEntropyWarps = kCrossEntropyThreads / 32;
// A thread takes four groups of 8 columns before it updates its maximum and sum: four loads in flight, one
// reduction.
constexpr uint32_t kGroups = 4;
constexpr uint32_t kStepColumns = kCrossEntropyThreads * kGroups * 8;

// The first column of this thread's group `group` in the step of the block that begins at `start`.
RETROMAE_DEVICE uint32_t group_column(uint32_t start, uint32_t group) {
    return start + group_offset(threadIdx.x, kCrossEntropyThreads, group, kGroups, 8);
}

// Where all of a row's logits are soft-capped.
template <bool General>
RETROMAE_DEVICE float capped(float x, const CrossEntropyParams& params) {
    if constexpr (General)
        if (params.soft_cap > 0.0f) return params.soft_cap * tanhf(x / params.soft_cap);
    return x;
}

// y of 8 columns; those beyond the vocabulary are -inf.
template <bool General, class T>
RETROMAE_DEVICE void load_capped(const T* logits, const float* bias, uint32_t column,
                                 const CrossEntropyParams& params, float (&x)[8]) {
    const uint32_t vocabulary = params.vocabulary;
    if (column + 8 <= vocabulary) {
        load(logits + column, x);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) x[i] = capped<General>(x[i] + bias[column + i], params);
    } else {
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i)
            x[i] = column + i < vocabulary
                       ? capped<General>(to_float(logits[column + i]) + bias[column + i], params)
                       : -INFINITY;
    }
}

RETROMAE_DEVICE float largest_of_8(const float (&x)[8]) {
    return Maximum::apply(Maximum::apply(Maximum::apply(x[0], x[1]), Maximum::apply(x[2], x[3])),
                          Maximum::apply(Maximum::apply(x[4], x[5]), Maximum::apply(x[6], x[7])));
}

RETROMAE_DEVICE void write_row(const CrossEntropyParams& params, uint32_t row, float loss, float log_sum_exp,
                               float log_likelihood, bool correct) {
    pointer<float>(params.losses)[row] = loss;
    pointer<float>(params.log_sum_exp)[row] = log_sum_exp;
    pointer<float>(params.log_likelihoods)[row] = log_likelihood;
    pointer<uint8_t>(params.correct)[row] = correct;
}

template <bool General, class T>
RETROMAE_DEVICE void cross_entropy(const CrossEntropyParams& params) {
    const uint32_t row = blockIdx.x;
    const uint32_t vocabulary = params.vocabulary;
    T* logits = pointer<T>(params.logits) + static_cast<uint64_t>(row) * params.stride;
    const float* bias = pointer<const float>(params.bias);
    const int32_t target = pointer<const int32_t>(params.targets)[row];
    const bool labelled = is_labelled(target, vocabulary, params.ignore_index);
    if (threadIdx.x == 0) pointer<T>(params.ones)[row] = from_float<T>(1.0f);
    // What is multiplied by a gradient of 0 must be finite.
    const uint64_t hidden_row = static_cast<uint64_t>(row) * params.hidden_size;
    for (uint32_t column = threadIdx.x; column < params.hidden_size; column += kCrossEntropyThreads)
        pointer<T>(params.labelled_hidden)[hidden_row + column] =
            labelled ? pointer<const T>(params.hidden)[hidden_row + column] : from_float<T>(0.0f);

    if (!labelled) {
        const float zeros[8] = {};
        for (uint32_t column = threadIdx.x * 8; column < vocabulary; column += kCrossEntropyThreads * 8)
            store(logits + column, zeros);
        // A target that is neither a word nor ignored is the caller's mistake: it shows.
        const float value = target == params.ignore_index ? 0.0f : NAN;
        if (threadIdx.x == 0) write_row(params, row, value, value, value, false);
        return;
    }

    SharedMemory memory = SharedMemory::begin();
    float* maxima = memory.take<float>(kCrossEntropyWarps);
    float* sums = memory.take<float>(kCrossEntropyWarps);
    float* totals = memory.take<float>(kCrossEntropyWarps);
    // Read before the barrier, after which its place holds the gradient.
    const float target_logit =
        threadIdx.x == 0 ? capped<General>(to_float(logits[target]) + bias[target], params) : 0.0f;
    // Finite from the start: a thread without columns must not produce -inf - -inf.
    float maximum[1] = {-3e38f};
    // Of the exponentials, and of y itself.
    float sum[1] = {0.0f};
    float total[1] = {0.0f};
    for (uint32_t start = 0; start < vocabulary; start += kStepColumns) {
        float x[kGroups][8];
        float group_maximum[8];
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) group_maximum[i] = -3e38f;
        RETROMAE_UNROLL
        for (uint32_t group = 0; group < kGroups; ++group) {
            load_capped<General>(logits, bias, group_column(start, group), params, x[group]);
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) {
                group_maximum[i] = Maximum::apply(x[group][i], group_maximum[i]);
                if constexpr (General) total[0] += x[group][i] == -INFINITY ? 0.0f : x[group][i];
            }
        }
        const float next = Maximum::apply(largest_of_8(group_maximum), maximum[0]);
        float group_sum[8] = {};
        RETROMAE_UNROLL
        for (uint32_t group = 0; group < kGroups; ++group) {
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) group_sum[i] += exp2_approximate((x[group][i] - next) * kLog2E);
        }
        sum[0] *= exp2_approximate((maximum[0] - next) * kLog2E);
        sum[0] += ((group_sum[0] + group_sum[1]) + (group_sum[2] + group_sum[3])) +
                  ((group_sum[4] + group_sum[5]) + (group_sum[6] + group_sum[7]));
        maximum[0] = next;
    }
    const float own_maximum = maximum[0];
    warp_butterfly<Maximum, 32>(maximum);
    sum[0] *= exp2_approximate((own_maximum - maximum[0]) * kLog2E);
    warp_butterfly<Sum, 32>(sum);
    if constexpr (General) warp_butterfly<Sum, 32>(total);
    if (threadIdx.x % 32 == 0) {
        maxima[threadIdx.x / 32] = maximum[0];
        sums[threadIdx.x / 32] = sum[0];
        totals[threadIdx.x / 32] = total[0];
    }
    __syncthreads();
    float row_maximum = maxima[0];
    RETROMAE_UNROLL
    for (uint32_t warp = 1; warp < kCrossEntropyWarps; ++warp)
        row_maximum = Maximum::apply(row_maximum, maxima[warp]);
    float row_sum = 0.0f;
    RETROMAE_UNROLL
    for (uint32_t warp = 0; warp < kCrossEntropyWarps; ++warp)
        row_sum += sums[warp] * exp2_approximate((maxima[warp] - row_maximum) * kLog2E);
    const float lse = row_maximum + logf(row_sum);
    const float weight = pointer<const float>(params.row_weights)[row];
    const float smoothing = General ? params.label_smoothing : 0.0f;
    const float z_loss = General ? params.z_loss : 0.0f;
    if (threadIdx.x == 0) {
        float loss = lse - target_logit;
        if constexpr (General) {
            float row_total = 0.0f;
            RETROMAE_UNROLL
            for (uint32_t warp = 0; warp < kCrossEntropyWarps; ++warp) row_total += totals[warp];
            const float mean = row_total / static_cast<float>(vocabulary);
            // Not at 0, where an infinite logit would make it NaN.
            if (smoothing > 0.0f) loss += smoothing * (target_logit - mean);
            loss += z_loss * lse * lse;
        }
        write_row(params, row, weight * loss, lse, target_logit - lse, target_logit >= row_maximum);
    }
    const float inverse_sum = weight * (1.0f + 2.0f * z_loss * lse) / row_sum;
    const float on_target = weight * (1.0f - smoothing);
    const float everywhere = weight * smoothing / static_cast<float>(vocabulary);
    const uint32_t one_hot = static_cast<uint32_t>(target);
    for (uint32_t start = 0; start < vocabulary; start += kStepColumns) {
        float x[kGroups][8];
        RETROMAE_UNROLL
        for (uint32_t group = 0; group < kGroups; ++group)
            load_capped<General>(logits, bias, group_column(start, group), params, x[group]);
        RETROMAE_UNROLL
        for (uint32_t group = 0; group < kGroups; ++group) {
            const uint32_t column = group_column(start, group);
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) {
                const float y = x[group][i];
                x[group][i] = exp2_approximate((y - row_maximum) * kLog2E) * inverse_sum;
                if (column + i == one_hot) x[group][i] -= on_target;
                if constexpr (General) {
                    x[group][i] -= everywhere;
                    if (params.soft_cap > 0.0f) {
                        const float ratio = y / params.soft_cap;
                        x[group][i] *= 1.0f - ratio * ratio;
                    }
                    // In the padding, which a library's product may read.
                    if (y == -INFINITY) x[group][i] = 0.0f;
                }
            }
            if (column < vocabulary) store(logits + column, x[group]);
        }
    }
}

#define RETROMAE_CROSS_ENTROPY(T)                                                          \
    RETROMAE_KERNEL(cross_entropy_##T, CrossEntropyParams, kCrossEntropyThreads) {         \
        cross_entropy<false, T>(params);                                                   \
    }                                                                                      \
    RETROMAE_KERNEL(cross_entropy_general_##T, CrossEntropyParams, kCrossEntropyThreads) { \
        cross_entropy<true, T>(params);                                                    \
    }

using f32 = float;
RETROMAE_CROSS_ENTROPY(f32)
RETROMAE_CROSS_ENTROPY(bf16)
RETROMAE_CROSS_ENTROPY(f16)

}  // namespace retromae
