// Softmax cross-entropy of rows of logits, forward and backward in one kernel; the logits become their own gradient.
//
//     x = logits + bias,  lse = log Σ exp x,  loss = w·(lse − x[target]),  d_logits = w·(exp(x − lse) − one-hot(target))
//
// One block of 128 threads a row: a thread walks over groups of 8 columns (16 bytes of a 16-bit type), keeping a running maximum and
// sum, so the row is read twice and written once: 3·V·bytes a row, bound by memory. The row is a chunk of the product of hidden rows and
// embeddings (src/ops/cross_entropy.rs): at 1,024 rows × 30,522 columns of bf16 it is 62 MB, of which the L2 keeps a row between the two reads.
// An ignored row costs only the write of its zeros.
#include "../arch/approximate.cuh"
#include "../arch/warp_primitives.cuh"
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kCrossEntropyThreads = 128;
constexpr uint32_t kCrossEntropyWarps = kCrossEntropyThreads / 32;

// Reduces one value over the block; `scratch` has a float for each warp.
template <class Operation>
RETROMAE_DEVICE float reduce_block(float value, float* scratch) {
    float values[1] = {value};
    warp_butterfly<Operation, 32>(values);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = values[0];
    __syncthreads();
    float result = scratch[0];
    RETROMAE_UNROLL
    for (uint32_t warp = 1; warp < kCrossEntropyWarps; ++warp) result = Operation::apply(result, scratch[warp]);
    return result;
}

// x of 8 columns; those beyond the vocabulary are -inf.
template <class T>
RETROMAE_DEVICE void load_biased(const T* logits, const float* bias, uint32_t column, uint32_t vocabulary, float (&x)[8]) {
    load(logits + column, x);
    if (column + 8 <= vocabulary) {
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) x[i] += bias[column + i];
    } else {
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) x[i] = column + i < vocabulary ? x[i] + bias[column + i] : -INFINITY;
    }
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
    // Finite from the start: a thread without columns must not produce -inf - -inf.
    float maximum = -3e38f;
    float sum = 0.0f;
    for (uint32_t column = threadIdx.x * 8; column < vocabulary; column += kCrossEntropyThreads * 8) {
        float x[8];
        load_biased(logits, bias, column, vocabulary, x);
        float group_maximum = x[0];
        RETROMAE_UNROLL
        for (int i = 1; i < 8; ++i) group_maximum = x[i] > group_maximum ? x[i] : group_maximum;
        const float next = group_maximum > maximum ? group_maximum : maximum;
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) x[i] = exp2_approximate((x[i] - next) * kLog2E);
        sum *= exp2_approximate((maximum - next) * kLog2E);
        sum += ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
        maximum = next;
    }
    const float row_maximum = reduce_block<Maximum>(maximum, maxima);
    const float row_sum = reduce_block<Sum>(sum * exp2_approximate((maximum - row_maximum) * kLog2E), sums);
    const float lse = row_maximum + logf(row_sum);
    const float weight = pointer<const float>(params.row_weights)[row];
    if (threadIdx.x == 0) {
        *log_sum_exp = lse;
        // A target beyond the vocabulary is the caller's mistake: it shows, and nothing is read out of bounds.
        const bool valid = static_cast<uint32_t>(target) < vocabulary;
        *loss = valid ? weight * (lse - (to_float(logits[target]) + bias[target])) : NAN;
    }
    __syncthreads();  // the target logit is read before its thread overwrites it
    const float inverse_sum = weight / row_sum;
    // A target between the vocabulary and the padded width must not put a gradient into the padding.
    const uint32_t one_hot = static_cast<uint32_t>(target) < vocabulary ? target : UINT32_MAX;
    for (uint32_t column = threadIdx.x * 8; column < vocabulary; column += kCrossEntropyThreads * 8) {
        float x[8];
        load_biased(logits, bias, column, vocabulary, x);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) {
            x[i] = exp2_approximate((x[i] - row_maximum) * kLog2E) * inverse_sum;
            if (column + i == one_hot) x[i] -= weight;
        }
        store(logits + column, x);
    }
}

RETROMAE_KERNEL(cross_entropy_f32, CrossEntropyParams, kCrossEntropyThreads) { cross_entropy<float>(params); }
RETROMAE_KERNEL(cross_entropy_bf16, CrossEntropyParams, kCrossEntropyThreads) { cross_entropy<bf16>(params); }

}  // namespace retromae
