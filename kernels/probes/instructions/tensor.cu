// Twins of what feeds the tensor cores, and of their products.
#include "../../arch/ldmatrix.cuh"
#include "../../arch/mma.cuh"
#include "../../core/shared_memory.cuh"
#include "twins.cuh"

namespace retromae {

// input[thread]: the fragments a[4], b[Pairs][4] and c[2·Pairs][4]; output[thread]: c, to which the products
// have been added.
template <class T, int Pairs>
RETROMAE_DEVICE void twin_products(const ProbeParams& params) {
    constexpr int kSums = 8 * Pairs;
    constexpr int kOperands = 4 + 4 * Pairs;
    const uint32_t* operands = pointer<const uint32_t>(params.input) + (kOperands + kSums) * twin_index();
    const float* addends =
        pointer<const float>(params.input) + (kOperands + kSums) * twin_index() + kOperands;
    uint32_t a[4], b[Pairs][4];
    float c[2 * Pairs][4];
    RETROMAE_UNROLL
    for (int i = 0; i < 4; ++i) a[i] = operands[i];
    RETROMAE_UNROLL
    for (int i = 0; i < 4 * Pairs; ++i) b[i / 4][i % 4] = operands[4 + i];
    RETROMAE_UNROLL
    for (int i = 0; i < kSums; ++i) c[i / 4][i % 4] = addends[i];
    mma<T, Pairs>(c, a, b);
    RETROMAE_UNROLL
    for (int i = 0; i < kSums; ++i) pointer<float>(params.output)[kSums * twin_index() + i] = c[i / 4][i % 4];
}

RETROMAE_KERNEL(twin_mma_bf16_1, ProbeParams, Launch<kTwinThreads>) {
    twin_products<bf16, 1>(params);
}
RETROMAE_KERNEL(twin_mma_bf16_2, ProbeParams, Launch<kTwinThreads>) {
    twin_products<bf16, 2>(params);
}
RETROMAE_KERNEL(twin_mma_bf16_4, ProbeParams, Launch<kTwinThreads>) {
    twin_products<bf16, 4>(params);
}
RETROMAE_KERNEL(twin_mma_f16_1, ProbeParams, Launch<kTwinThreads>) {
    twin_products<f16, 1>(params);
}
RETROMAE_KERNEL(twin_mma_f16_2, ProbeParams, Launch<kTwinThreads>) {
    twin_products<f16, 2>(params);
}
RETROMAE_KERNEL(twin_mma_f16_4, ProbeParams, Launch<kTwinThreads>) {
    twin_products<f16, 4>(params);
}

// A thread stores 4 rows of 8 elements to shared memory.
constexpr uint32_t kTwinRowWords = 4;
constexpr uint32_t kTwinOwnWords = 4 * kTwinRowWords;

// input[thread]: its words of shared memory, and the numbers of the rows, of the whole block's, that it
// brings to each of `Count` loads; output[thread][Count][4]: the fragments.
template <bool Transposed, int Count>
RETROMAE_DEVICE void twin_matrices(const ProbeParams& params) {
    SharedMemory memory = SharedMemory::begin();
    uint32_t* words = memory.take<uint32_t>(kTwinThreads * kTwinOwnWords);
    const uint32_t* input = pointer<const uint32_t>(params.input) + (kTwinOwnWords + Count) * twin_index();
    for (uint32_t i = 0; i < kTwinOwnWords; ++i) words[threadIdx.x * kTwinOwnWords + i] = input[i];
    __syncthreads();
    SharedAddress rows[Count];
    RETROMAE_UNROLL
    for (int i = 0; i < Count; ++i)
        rows[i] = shared_address(words + input[kTwinOwnWords + i] * kTwinRowWords);
    uint32_t fragments[Count][4];
    load_matrices<Transposed>(rows, fragments);
    RETROMAE_UNROLL
    for (int i = 0; i < 4 * Count; ++i)
        pointer<uint32_t>(params.output)[4 * Count * twin_index() + i] = fragments[i / 4][i % 4];
}

RETROMAE_KERNEL(twin_load_matrices_plain_1, ProbeParams, Launch<kTwinThreads>) {
    twin_matrices<false, 1>(params);
}
RETROMAE_KERNEL(twin_load_matrices_plain_2, ProbeParams, Launch<kTwinThreads>) {
    twin_matrices<false, 2>(params);
}
RETROMAE_KERNEL(twin_load_matrices_plain_4, ProbeParams, Launch<kTwinThreads>) {
    twin_matrices<false, 4>(params);
}
RETROMAE_KERNEL(twin_load_matrices_transposed_1, ProbeParams, Launch<kTwinThreads>) {
    twin_matrices<true, 1>(params);
}
RETROMAE_KERNEL(twin_load_matrices_transposed_2, ProbeParams, Launch<kTwinThreads>) {
    twin_matrices<true, 2>(params);
}
RETROMAE_KERNEL(twin_load_matrices_transposed_4, ProbeParams, Launch<kTwinThreads>) {
    twin_matrices<true, 4>(params);
}

}  // namespace retromae
