// Softmax cross-entropy of rows of logits, forward and backward in one kernel; the logits become their own
// gradient.
//
//     x = logits + bias,  lse = log Σ exp x,  loss = w·(lse − x[target]),  d_logits = w·(exp(x − lse) −
//     one-hot(target))
//
// One block of 64 threads a row: a thread walks over groups of 8 columns (16 bytes of a 16-bit type), keeping
// a running maximum and sum, so the row is read twice and written once: 3·V·bytes a row, bound by memory. The
// row is a chunk of the product of hidden rows and embeddings (src/ops/cross_entropy.rs): at 1,024 rows ×
// 30,522 columns of bf16 it is 62 MB, of which the L2 keeps a row between the two reads. An ignored row costs
// only the write of its zeros.
#include "../arch/approximate.cuh"
#include "../arch/warp_primitives.cuh"
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

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

// x of 8 columns; those beyond the vocabulary are -inf.
template <class T>
RETROMAE_DEVICE void load_biased(const T* logits, const float* bias, uint32_t column, uint32_t vocabulary,
                                 float (&x)[8]) {
    if (column + 8 <= vocabulary) {
        load(logits + column, x);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) x[i] += bias[column + i];
    } else {
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i)
            x[i] = column + i < vocabulary ? to_float(logits[column + i]) + bias[column + i] : -INFINITY;
    }
}

RETROMAE_DEVICE float largest_of_8(const float (&x)[8]) {
    return Maximum::apply(Maximum::apply(Maximum::apply(x[0], x[1]), Maximum::apply(x[2], x[3])),
                          Maximum::apply(Maximum::apply(x[4], x[5]), Maximum::apply(x[6], x[7])));
}

template <class T>
RETROMAE_DEVICE void cross_entropy(const CrossEntropyParams& params) {
    const uint32_t row = blockIdx.x;
    const uint32_t vocabulary = params.vocabulary;
    T* logits = pointer<T>(params.logits) + static_cast<uint64_t>(row) * params.stride;
    const float* bias = pointer<const float>(params.bias);
    const int32_t target = pointer<const int32_t>(params.targets)[row];
    float* loss = pointer<float>(params.losses) + row;
    float* log_sum_exp = pointer<float>(params.log_sum_exp) + row;

    if (target < 0) {
        const float zeros[8] = {};
        for (uint32_t column = threadIdx.x * 8; column < vocabulary; column += kCrossEntropyThreads * 8)
            store(logits + column, zeros);
        if (threadIdx.x == 0) {
            *loss = 0.0f;
            *log_sum_exp = 0.0f;
        }
        return;
    }

    SharedMemory memory = SharedMemory::begin();
    float* maxima = memory.take<float>(kCrossEntropyWarps);
    float* sums = memory.take<float>(kCrossEntropyWarps);
    // Read before the barrier, after which its place holds the gradient.
    const bool valid = static_cast<uint32_t>(target) < vocabulary;
    const float target_logit = threadIdx.x == 0 && valid ? to_float(logits[target]) + bias[target] : 0.0f;
    // Finite from the start: a thread without columns must not produce -inf - -inf.
    float maximum[1] = {-3e38f};
    float sum[1] = {0.0f};
    for (uint32_t start = 0; start < vocabulary; start += kStepColumns) {
        float x[kGroups][8];
        float group_maximum[8];
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) group_maximum[i] = -3e38f;
        RETROMAE_UNROLL
        for (uint32_t group = 0; group < kGroups; ++group) {
            load_biased(logits, bias, group_column(start, group), vocabulary, x[group]);
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) group_maximum[i] = Maximum::apply(x[group][i], group_maximum[i]);
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
    if (threadIdx.x % 32 == 0) {
        maxima[threadIdx.x / 32] = maximum[0];
        sums[threadIdx.x / 32] = sum[0];
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
    if (threadIdx.x == 0) {
        *log_sum_exp = lse;
        // A target beyond the vocabulary is the caller's mistake: it shows, and nothing is read out of
        // bounds.
        *loss = valid ? weight * (lse - target_logit) : NAN;
    }
    const float inverse_sum = weight / row_sum;
    // A target between the vocabulary and the padded width must not put a gradient into the padding.
    const uint32_t one_hot = valid ? static_cast<uint32_t>(target) : UINT32_MAX;
    for (uint32_t start = 0; start < vocabulary; start += kStepColumns) {
        float x[kGroups][8];
        RETROMAE_UNROLL
        for (uint32_t group = 0; group < kGroups; ++group)
            load_biased(logits, bias, group_column(start, group), vocabulary, x[group]);
        RETROMAE_UNROLL
        for (uint32_t group = 0; group < kGroups; ++group) {
            const uint32_t column = group_column(start, group);
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) {
                x[group][i] = exp2_approximate((x[group][i] - row_maximum) * kLog2E) * inverse_sum;
                if (column + i == one_hot) x[group][i] -= weight;
            }
            if (column < vocabulary) store(logits + column, x[group]);
        }
    }
}

RETROMAE_KERNEL(cross_entropy_f32, CrossEntropyParams, kCrossEntropyThreads) {
    cross_entropy<float>(params);
}
RETROMAE_KERNEL(cross_entropy_bf16, CrossEntropyParams, kCrossEntropyThreads) {
    cross_entropy<bf16>(params);
}

}  // namespace retromae
