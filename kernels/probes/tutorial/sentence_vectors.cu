// Sentence vectors of length one, the operation of docs/kernels.md: with x = input[rows[i]] − center,
//
//   norms[i] = ‖x‖ = √(Σ x²),   output[i] = x / max(‖x‖, eps)
//
// A block takes a row, a thread 8 columns of it: 16 bytes of a 16-bit type, and with 128 threads 1024
// columns, BERT-large. The row stays in registers between its norm and the division, so each element is read
// and written once, and with about 4 FLOPs an element the kernel is bound by memory. A thread has few loads
// in flight, but 16 blocks fit an SM: one of them loads while another waits at its barrier.
#include "../../base/strip.cuh"
#include "../../core/block_reduce.cuh"
#include "../../core/shared_memory.cuh"
#include "../../core/types.cuh"

namespace retromae {

constexpr uint32_t kVectorColumns = 8;
constexpr uint32_t kVectorThreads = ROW_COLUMNS_MAX / kVectorColumns;
constexpr uint32_t kVectorWarps = kVectorThreads / 32;

// This thread's columns of input[row] − center; of a row that is not in the input, NaN.
template <class T>
RETROMAE_DEVICE Strip<kVectorColumns> centered(const SentenceVectorsParams& params, uint32_t row,
                                               uint32_t column) {
    float values[kVectorColumns], center[kVectorColumns];
    fill(values, NAN);
    if (row < params.input_rows)
        load(pointer<const T>(params.input) + static_cast<uint64_t>(row) * params.columns + column, values);
    load(pointer<const float>(params.center) + column, center);
    Strip<kVectorColumns> x;
    x.load(values);
    x.fma(-1.0f, center);
    return x;
}

RETROMAE_DEVICE float sum_of_squares(const Strip<kVectorColumns>& x) {
    float values[kVectorColumns], sum = 0.0f;
    x.get(values);
    RETROMAE_UNROLL
    for (uint32_t i = 0; i < kVectorColumns; ++i) sum = fmaf(values[i], values[i], sum);
    return sum;
}

template <class T>
RETROMAE_DEVICE void sentence_vectors(const SentenceVectorsParams& params) {
    float* warp_sums = SharedMemory::begin().take<float>(kVectorWarps);
    const uint32_t index = blockIdx.x, column = threadIdx.x * kVectorColumns;
    // A negative row is a large one.
    const uint32_t row = static_cast<uint32_t>(pointer<const int32_t>(params.rows)[index]);

    Strip<kVectorColumns> x;
    x.fill(0.0f);
    if (column < params.columns) x = centered<T>(params, row, column);
    const float norm = sqrtf(block_reduce<Sum, kVectorWarps>(sum_of_squares(x), warp_sums));
    if (threadIdx.x == 0) pointer<float>(params.norms)[index] = norm;

    // Not before the reduction, for which the whole block must be there.
    if (column >= params.columns) return;
    float values[kVectorColumns];
    // By this comparison a NaN stays.
    x.multiply(1.0f / (norm < params.eps ? params.eps : norm));
    x.get(values);
    store(pointer<T>(params.output) + static_cast<uint64_t>(index) * params.columns + column, values);
}

struct SentenceVectorsLaunch : Launch<kVectorThreads> {
    static Grid grid(const SentenceVectorsParams& params) { return {params.count}; }
    static uint64_t shared_bytes(const SentenceVectorsParams&) { return taken_bytes<float>(kVectorWarps); }
};

RETROMAE_KERNEL(sentence_vectors_f32, SentenceVectorsParams, SentenceVectorsLaunch) {
    sentence_vectors<float>(params);
}
RETROMAE_KERNEL(sentence_vectors_bf16, SentenceVectorsParams, SentenceVectorsLaunch) {
    sentence_vectors<bf16>(params);
}

}  // namespace retromae
