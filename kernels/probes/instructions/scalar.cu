// Tests of the wrappers that look at one lane alone: conversions, bit counts, approximations.
#include "../../arch/approximate.cuh"
#include "../../arch/bits.cuh"
#include "../../arch/convert.cuh"
#include "instructions.cuh"

namespace retromae {

RETROMAE_KERNEL(instruction_bf16_from_float, ProbeParams, Launch<kInstructionThreads>) {
    const uint32_t i = thread_index();
    pointer<uint32_t>(params.output)[i] = bf16_from_float(pointer<const float>(params.input)[i]).bits;
}

// The low half of each word.
RETROMAE_KERNEL(instruction_bf16_to_float, ProbeParams, Launch<kInstructionThreads>) {
    const uint32_t i = thread_index();
    const bf16 value = {static_cast<uint16_t>(pointer<const uint32_t>(params.input)[i])};
    pointer<float>(params.output)[i] = bf16_to_float(value);
}

RETROMAE_KERNEL(instruction_f16_from_float, ProbeParams, Launch<kInstructionThreads>) {
    const uint32_t i = thread_index();
    pointer<uint32_t>(params.output)[i] = f16_from_float(pointer<const float>(params.input)[i]).bits;
}

// The low half of each word.
RETROMAE_KERNEL(instruction_f16_to_float, ProbeParams, Launch<kInstructionThreads>) {
    const uint32_t i = thread_index();
    const f16 value = {static_cast<uint16_t>(pointer<const uint32_t>(params.input)[i])};
    pointer<float>(params.output)[i] = f16_to_float(value);
}

// input[thread][2]: low and high.
RETROMAE_KERNEL(instruction_bf16_pair, ProbeParams, Launch<kInstructionThreads>) {
    const float* input = pointer<const float>(params.input) + 2 * thread_index();
    pointer<uint32_t>(params.output)[thread_index()] = bf16_pair(input[0], input[1]);
}

RETROMAE_KERNEL(instruction_f16_pair, ProbeParams, Launch<kInstructionThreads>) {
    const float* input = pointer<const float>(params.input) + 2 * thread_index();
    pointer<uint32_t>(params.output)[thread_index()] = f16_pair(input[0], input[1]);
}

RETROMAE_KERNEL(instruction_bit_count, ProbeParams, Launch<kInstructionThreads>) {
    const uint32_t i = thread_index();
    pointer<uint32_t>(params.output)[i] = bit_count(pointer<const uint32_t>(params.input)[i]);
}

RETROMAE_KERNEL(instruction_exp2_approximate, ProbeParams, Launch<kInstructionThreads>) {
    const uint32_t i = thread_index();
    pointer<float>(params.output)[i] = exp2_approximate(pointer<const float>(params.input)[i]);
}

RETROMAE_KERNEL(instruction_reciprocal_approximate, ProbeParams, Launch<kInstructionThreads>) {
    const uint32_t i = thread_index();
    pointer<float>(params.output)[i] = reciprocal_approximate(pointer<const float>(params.input)[i]);
}

}  // namespace retromae
