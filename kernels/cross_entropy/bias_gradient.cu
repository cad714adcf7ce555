// Gradient of the bias: d_bias[v] += Σ over rows of scale[row]·matrix[row, v], the matrix being the gradient
// of the logits, or that over a number of each row, which is its scale.
//
// Two launches: sums over slabs of rows, 16 bytes of columns a thread, then the slabs' sums, in the same
// order every time. Bound by memory: each element is read once with one multiplication, bytes + 0.125 of it
// for the slabs' sums.
#include "../core/packed.cuh"

namespace retromae {

constexpr uint32_t kBiasThreads = 128;
// The rows of a slab, which one sum a column is of.
constexpr uint32_t kBiasRows = CROSS_ENTROPY_SLAB_ROWS;
// Rows whose loads a thread issues before it uses the first.
constexpr uint32_t kBiasBatch = 8;

template <class T>
RETROMAE_DEVICE void slab_sums(const CrossEntropyBiasParams& params) {
    constexpr uint32_t kColumns = kPackedElements<T>;
    const uint32_t column = (blockIdx.y * kBiasThreads + threadIdx.x) * kColumns;
    if (column >= params.stride) return;
    const uint32_t first = blockIdx.x * kBiasRows;
    const uint32_t end = first + kBiasRows < params.rows ? first + kBiasRows : params.rows;
    const T* matrix = pointer<const T>(params.matrix) + column;
    const float* scales = pointer<const float>(params.scales);
    float sums[kColumns] = {};
    for (uint32_t start = first; start < end; start += kBiasBatch) {
        Packed words[kBiasBatch] = {};
        float factors[kBiasBatch];
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < kBiasBatch; ++i) {
            const uint32_t row = start + i;
            if (row < end) words[i] = load_packed(matrix + static_cast<uint64_t>(row) * params.stride);
            factors[i] = scales != nullptr && row < end ? scales[row] : 1.0f;
        }
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < kBiasBatch; ++i) {
            float values[kColumns];
            widen(T{}, words[i], values);
            RETROMAE_UNROLL
            for (uint32_t j = 0; j < kColumns; ++j) sums[j] = fmaf(factors[i], values[j], sums[j]);
        }
    }
    store(pointer<float>(params.slab_sums) + static_cast<uint64_t>(blockIdx.x) * params.stride + column,
          sums);
}

template <class T>
struct BiasSlabsLaunch : Launch<kBiasThreads> {
    static Grid grid(const CrossEntropyBiasParams& params) {
        return {ceil_div(params.rows, kBiasRows), ceil_div(params.stride, kBiasThreads * kPackedElements<T>)};
    }
};
// One thread per token id.
struct BiasLaunch : Launch<kBiasThreads> {
    static Grid grid(const CrossEntropyBiasParams& params) {
        return {ceil_div(params.vocabulary, kBiasThreads)};
    }
};

RETROMAE_KERNEL(cross_entropy_bias_slabs_f32, CrossEntropyBiasParams, BiasSlabsLaunch<float>) {
    slab_sums<float>(params);
}
RETROMAE_KERNEL(cross_entropy_bias_slabs_bf16, CrossEntropyBiasParams, BiasSlabsLaunch<bf16>) {
    slab_sums<bf16>(params);
}
RETROMAE_KERNEL(cross_entropy_bias_slabs_f16, CrossEntropyBiasParams, BiasSlabsLaunch<f16>) {
    slab_sums<f16>(params);
}

RETROMAE_KERNEL(cross_entropy_bias, CrossEntropyBiasParams, BiasLaunch) {
    const uint32_t column = blockIdx.x * kBiasThreads + threadIdx.x;
    if (column >= params.vocabulary) return;
    const float* sums = pointer<const float>(params.slab_sums) + column;
    const uint32_t slabs = (params.rows + kBiasRows - 1) / kBiasRows;
    float total = 0.0f;
    for (uint32_t start = 0; start < slabs; start += kBiasBatch) {
        float batch[kBiasBatch];
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < kBiasBatch; ++i)
            batch[i] = start + i < slabs ? sums[static_cast<uint64_t>(start + i) * params.stride] : 0.0f;
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < kBiasBatch; ++i) total += batch[i];
    }
    pointer<float>(params.d_bias)[column] += total;
}

}  // namespace retromae
