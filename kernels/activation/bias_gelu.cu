// Bias + GELU: output = x·Φ(x) with x = input + bias, and d_input = d_output·(Φ(x) + x·φ(x)).
//
// Elementwise: reads and writes each element once (forward 2·bytes, backward 3·bytes an element), about 40
// FLOPs an element, so bound by memory. A thread moves 8 columns at a time (16 bytes of a 16-bit type) and
// eight such groups a launch, so that several loads are in flight. Φ is recomputed in the backward: cheaper
// than storing it.
#include "../core/normal.cuh"
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kBiasGeluThreads = 256;
constexpr uint32_t kBiasGeluGroups = 8;
constexpr uint32_t kBiasGeluElements = kBiasGeluThreads * kBiasGeluGroups * 8;

// Calls `body(first element, first column)` for each of this thread's groups of 8.
template <class Body>
RETROMAE_DEVICE void for_groups(const BiasGeluParams& params, Body body) {
    const uint64_t elements = static_cast<uint64_t>(params.rows) * params.columns;
    const uint64_t block_start = static_cast<uint64_t>(blockIdx.x) * kBiasGeluElements;
    RETROMAE_UNROLL
    for (uint32_t group = 0; group < kBiasGeluGroups; ++group) {
        const uint64_t element =
            block_start + group_offset(threadIdx.x, kBiasGeluThreads, group, kBiasGeluGroups, 8);
        if (element < elements) body(element, static_cast<uint32_t>(element % params.columns));
    }
}

template <class T>
RETROMAE_DEVICE void bias_gelu_forward(const BiasGeluParams& params) {
    for_groups(params, [&](uint64_t element, uint32_t column) {
        float x[8], bias[8], output[8];
        load(pointer<const T>(params.input) + element, x);
        load(pointer<const float>(params.bias) + column, bias);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) {
            const float biased = x[i] + bias[i];
            output[i] = biased * standard_normal(biased).cdf;
        }
        store(pointer<T>(params.output) + element, output);
    });
}

template <class T>
RETROMAE_DEVICE void bias_gelu_backward(const BiasGeluParams& params) {
    for_groups(params, [&](uint64_t element, uint32_t column) {
        float x[8], bias[8], d_output[8], d_input[8];
        load(pointer<const T>(params.input) + element, x);
        load(pointer<const float>(params.bias) + column, bias);
        load(pointer<const T>(params.d_output) + element, d_output);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) {
            const float biased = x[i] + bias[i];
            const Normal normal = standard_normal(biased);
            d_input[i] = d_output[i] * fmaf(biased, normal.pdf, normal.cdf);
        }
        store(pointer<T>(params.d_input) + element, d_input);
    });
}

RETROMAE_KERNEL(bias_gelu_forward_f32, BiasGeluParams, kBiasGeluThreads) {
    bias_gelu_forward<float>(params);
}
RETROMAE_KERNEL(bias_gelu_forward_bf16, BiasGeluParams, kBiasGeluThreads) {
    bias_gelu_forward<bf16>(params);
}
RETROMAE_KERNEL(bias_gelu_backward_f32, BiasGeluParams, kBiasGeluThreads) {
    bias_gelu_backward<float>(params);
}
RETROMAE_KERNEL(bias_gelu_backward_bf16, BiasGeluParams, kBiasGeluThreads) {
    bias_gelu_backward<bf16>(params);
}

}  // namespace retromae
