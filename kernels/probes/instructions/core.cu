// Tests of functions of kernels/core that a compiler may see differently: random values, GELU,
// strips, the order of memory accesses, the layout of shared memory.
#include "../../core/gelu.cuh"
#include "../../core/philox.cuh"
#include "../../core/shared_memory.cuh"
#include "../../base/strip.cuh"
#include "instructions.cuh"

namespace retromae {

// input[thread][6]: key and counter; output[thread][4].
RETROMAE_KERNEL(instruction_philox, ProbeParams, Launch<kInstructionThreads>) {
    const uint32_t* input = pointer<const uint32_t>(params.input) + 6 * thread_index();
    const Random4 random = philox(input[0], input[1], input[2], input[3], input[4], input[5]);
    uint32_t* output = pointer<uint32_t>(params.output) + 4 * thread_index();
    RETROMAE_UNROLL
    for (int i = 0; i < 4; ++i) output[i] = random.words[i];
}

// input[thread][2]: random bits and bound.
RETROMAE_KERNEL(instruction_bounded, ProbeParams, Launch<kInstructionThreads>) {
    const uint32_t* input = pointer<const uint32_t>(params.input) + 2 * thread_index();
    pointer<uint32_t>(params.output)[thread_index()] = bounded(input[0], input[1]);
}

// The input of the tests of dropout begins with an RngState, threshold, scale, site and head.
constexpr uint32_t kHead = 7;
constexpr uint32_t kDropoutWords = 8;

RETROMAE_DEVICE DropoutParams dropout_params(const ProbeParams& params) {
    const uint32_t* words = pointer<const uint32_t>(params.input);
    return {params.input, words[4], pointer<const float>(params.input)[5], words[6], 0};
}

// Then come, for each thread, row, group and 16 values, of which `Count` are used.
template <int Count>
RETROMAE_DEVICE void dropout(const ProbeParams& params) {
    const uint32_t* words = pointer<const uint32_t>(params.input);
    const float* floats = pointer<const float>(params.input);
    const DropoutParams dropout = dropout_params(params);
    const uint32_t own = kDropoutWords + 18 * thread_index();
    float values[Count];
    RETROMAE_UNROLL
    for (int i = 0; i < Count; ++i) values[i] = floats[own + 2 + i];
    apply_dropout<Count>(dropout, words[kHead], words[own], words[own + 1], values);
    RETROMAE_UNROLL
    for (int i = 0; i < Count; ++i) pointer<float>(params.output)[Count * thread_index() + i] = values[i];
}

RETROMAE_KERNEL(instruction_apply_dropout_8, ProbeParams, Launch<kInstructionThreads>) {
    dropout<8>(params);
}

RETROMAE_KERNEL(instruction_apply_dropout_16, ProbeParams, Launch<kInstructionThreads>) {
    dropout<16>(params);
}

// Then come, for each thread, row and group.
RETROMAE_KERNEL(instruction_dropout_kept, ProbeParams, Launch<kInstructionThreads>) {
    const uint32_t* words = pointer<const uint32_t>(params.input);
    const uint32_t* own = words + kDropoutWords + 2 * thread_index();
    pointer<uint32_t>(params.output)[thread_index()] =
        dropout_kept(dropout_params(params), words[kHead], own[0], own[1]);
}

// output[thread][2]: GELU and its derivative.
RETROMAE_KERNEL(instruction_gelu, ProbeParams, Launch<kInstructionThreads>) {
    const float x = pointer<const float>(params.input)[thread_index()];
    float* output = pointer<float>(params.output) + 2 * thread_index();
    output[0] = gelu(x);
    output[1] = gelu_derivative(x);
}

// input[thread][36]: start, two scales, factor, two sources of 16; output[thread][16]: factor · (start +
// scale0 · source0 + scale1 · source1).
RETROMAE_KERNEL(instruction_strip, ProbeParams, Launch<kInstructionThreads>) {
    const float* input = pointer<const float>(params.input) + 36 * thread_index();
    Strip<16> strip;
    strip.fill(input[0]);
    strip.fma(input[1], input + 4);
    strip.fma(input[2], input + 20);
    strip.multiply(input[3]);
    float values[16];
    strip.get(values);
    RETROMAE_UNROLL
    for (int i = 0; i < 16; ++i) pointer<float>(params.output)[16 * thread_index() + i] = values[i];
}

// output[thread][5]: where this thread's groups of 4 elements lie.
RETROMAE_KERNEL(instruction_group_offset, ProbeParams, Launch<kInstructionThreads>) {
    uint32_t* output = pointer<uint32_t>(params.output) + 5 * thread_index();
    for (uint32_t group = 0; group < 5; ++group)
        output[group] = group_offset(threadIdx.x, kInstructionThreads, group, 5, 4);
}

// output[thread][4]: the first array's address modulo 16, and how far from it the others begin, in bytes.
RETROMAE_KERNEL(instruction_shared_memory, ProbeParams, Launch<kInstructionThreads>) {
    SharedMemory memory = SharedMemory::begin();
    const uintptr_t first = reinterpret_cast<uintptr_t>(memory.take<uint16_t>(1));
    const uintptr_t second = reinterpret_cast<uintptr_t>(memory.take<float>(5));
    const uintptr_t third = reinterpret_cast<uintptr_t>(memory.take<uint32_t>(4));
    const uintptr_t fourth = reinterpret_cast<uintptr_t>(memory.take<uint32_t>(1));
    uint32_t* output = pointer<uint32_t>(params.output) + 4 * thread_index();
    output[0] = static_cast<uint32_t>(first % 16);
    output[1] = static_cast<uint32_t>(second - first);
    output[2] = static_cast<uint32_t>(third - first);
    output[3] = static_cast<uint32_t>(fourth - first);
}

}  // namespace retromae
