// Tests of the instructions that feed the tensor cores, and of mma.
#include "../../arch/ldmatrix.cuh"
#include "../../arch/mma.cuh"
#include "../../core/shared_memory.cuh"
#include "instructions.cuh"

namespace retromae {

// input[thread]: the fragments a[4], b[Pairs][4] and c[2·Pairs][4]; output[thread]: c, to which the products
// have been added.
template <class T, int Pairs>
RETROMAE_DEVICE void multiply(const ProbeParams& params) {
    constexpr int kSums = 8 * Pairs;
    constexpr int kOperands = 4 + 4 * Pairs;
    const uint32_t* operands = pointer<const uint32_t>(params.input) + (kOperands + kSums) * thread_index();
    const float* addends =
        pointer<const float>(params.input) + (kOperands + kSums) * thread_index() + kOperands;
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
    for (int i = 0; i < kSums; ++i)
        pointer<float>(params.output)[kSums * thread_index() + i] = c[i / 4][i % 4];
}

RETROMAE_KERNEL(instruction_mma_bf16_1, ProbeParams, Launch<kInstructionThreads>) {
    multiply<bf16, 1>(params);
}
RETROMAE_KERNEL(instruction_mma_bf16_2, ProbeParams, Launch<kInstructionThreads>) {
    multiply<bf16, 2>(params);
}
RETROMAE_KERNEL(instruction_mma_bf16_4, ProbeParams, Launch<kInstructionThreads>) {
    multiply<bf16, 4>(params);
}
RETROMAE_KERNEL(instruction_mma_f16_1, ProbeParams, Launch<kInstructionThreads>) {
    multiply<f16, 1>(params);
}
RETROMAE_KERNEL(instruction_mma_f16_2, ProbeParams, Launch<kInstructionThreads>) {
    multiply<f16, 2>(params);
}
RETROMAE_KERNEL(instruction_mma_f16_4, ProbeParams, Launch<kInstructionThreads>) {
    multiply<f16, 4>(params);
}

// A thread stores 4 rows of 8 elements to shared memory.
constexpr uint32_t kRowWords = 4;
constexpr uint32_t kOwnWords = 4 * kRowWords;

// input[thread]: its words of shared memory, and the numbers of the rows, of the whole block's, that it
// brings to each of `Count` loads; output[thread][Count][4]: the fragments.
template <bool Transposed, int Count>
RETROMAE_DEVICE void matrices(const ProbeParams& params) {
    SharedMemory memory = SharedMemory::begin();
    uint32_t* words = memory.take<uint32_t>(kInstructionThreads * kOwnWords);
    const uint32_t* input = pointer<const uint32_t>(params.input) + (kOwnWords + Count) * thread_index();
    for (uint32_t i = 0; i < kOwnWords; ++i) words[threadIdx.x * kOwnWords + i] = input[i];
    __syncthreads();
    SharedAddress rows[Count];
    RETROMAE_UNROLL
    for (int i = 0; i < Count; ++i) rows[i] = shared_address(words + input[kOwnWords + i] * kRowWords);
    uint32_t fragments[Count][4];
    load_matrices<Transposed>(rows, fragments);
    RETROMAE_UNROLL
    for (int i = 0; i < 4 * Count; ++i)
        pointer<uint32_t>(params.output)[4 * Count * thread_index() + i] = fragments[i / 4][i % 4];
}

RETROMAE_KERNEL(instruction_load_matrices_plain_1, ProbeParams, Launch<kInstructionThreads>) {
    matrices<false, 1>(params);
}
RETROMAE_KERNEL(instruction_load_matrices_plain_2, ProbeParams, Launch<kInstructionThreads>) {
    matrices<false, 2>(params);
}
RETROMAE_KERNEL(instruction_load_matrices_plain_4, ProbeParams, Launch<kInstructionThreads>) {
    matrices<false, 4>(params);
}
RETROMAE_KERNEL(instruction_load_matrices_transposed_1, ProbeParams, Launch<kInstructionThreads>) {
    matrices<true, 1>(params);
}
RETROMAE_KERNEL(instruction_load_matrices_transposed_2, ProbeParams, Launch<kInstructionThreads>) {
    matrices<true, 2>(params);
}
RETROMAE_KERNEL(instruction_load_matrices_transposed_4, ProbeParams, Launch<kInstructionThreads>) {
    matrices<true, 4>(params);
}

}  // namespace retromae
