// Twins of the wrappers that look at one lane alone: conversions, bit counts, approximations.
#include "../../arch/approximate.cuh"
#include "../../arch/bits.cuh"
#include "../../arch/convert.cuh"
#include "twins.cuh"

namespace retromae {

RETROMAE_KERNEL(twin_bf16_from_float, ProbeParams, Launch<kTwinThreads>) {
    const uint32_t i = twin_index();
    pointer<uint32_t>(params.output)[i] = bf16_from_float(pointer<const float>(params.input)[i]).bits;
}

// The low half of each word.
RETROMAE_KERNEL(twin_bf16_to_float, ProbeParams, Launch<kTwinThreads>) {
    const uint32_t i = twin_index();
    const bf16 value = {static_cast<uint16_t>(pointer<const uint32_t>(params.input)[i])};
    pointer<float>(params.output)[i] = bf16_to_float(value);
}

RETROMAE_KERNEL(twin_f16_from_float, ProbeParams, Launch<kTwinThreads>) {
    const uint32_t i = twin_index();
    pointer<uint32_t>(params.output)[i] = f16_from_float(pointer<const float>(params.input)[i]).bits;
}

// The low half of each word.
RETROMAE_KERNEL(twin_f16_to_float, ProbeParams, Launch<kTwinThreads>) {
    const uint32_t i = twin_index();
    const f16 value = {static_cast<uint16_t>(pointer<const uint32_t>(params.input)[i])};
    pointer<float>(params.output)[i] = f16_to_float(value);
}

// input[thread][2]: low and high.
RETROMAE_KERNEL(twin_bf16_pair, ProbeParams, Launch<kTwinThreads>) {
    const float* input = pointer<const float>(params.input) + 2 * twin_index();
    pointer<uint32_t>(params.output)[twin_index()] = bf16_pair(input[0], input[1]);
}

RETROMAE_KERNEL(twin_f16_pair, ProbeParams, Launch<kTwinThreads>) {
    const float* input = pointer<const float>(params.input) + 2 * twin_index();
    pointer<uint32_t>(params.output)[twin_index()] = f16_pair(input[0], input[1]);
}

RETROMAE_KERNEL(twin_bit_count, ProbeParams, Launch<kTwinThreads>) {
    const uint32_t i = twin_index();
    pointer<uint32_t>(params.output)[i] = bit_count(pointer<const uint32_t>(params.input)[i]);
}

RETROMAE_KERNEL(twin_exp2_approximate, ProbeParams, Launch<kTwinThreads>) {
    const uint32_t i = twin_index();
    pointer<float>(params.output)[i] = exp2_approximate(pointer<const float>(params.input)[i]);
}

RETROMAE_KERNEL(twin_reciprocal_approximate, ProbeParams, Launch<kTwinThreads>) {
    const uint32_t i = twin_index();
    pointer<float>(params.output)[i] = reciprocal_approximate(pointer<const float>(params.input)[i]);
}

}  // namespace retromae
