// Elementwise passes: scale, sum, bias, dense mask, GELU and its gradient, rounding.
//
// Each reads its operands and writes its result once; all are bound by memory. A bias and a mask are read
// again for every row and head, from the L2.
#include "../core/gelu.cuh"
#include "pass.cuh"

namespace retromae {

// output = factor·input
template <class T>
RETROMAE_DEVICE void scale(const BaselineElementwiseParams& params) {
    for_pass(params.count, [&](uint64_t element) {
        float x[8];
        load(pointer<const T>(params.input) + element, x);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) x[i] *= params.factor;
        store(pointer<T>(params.output) + element, x);
    });
}

// output = input + other
template <class T>
RETROMAE_DEVICE void add(const BaselineElementwiseParams& params) {
    for_pass(params.count, [&](uint64_t element) {
        float x[8], other[8];
        load(pointer<const T>(params.input) + element, x);
        load(pointer<const T>(params.other) + element, other);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) x[i] += other[i];
        store(pointer<T>(params.output) + element, x);
    });
}

// output = input + other[column], other being f32
template <class T>
RETROMAE_DEVICE void add_bias(const BaselineElementwiseParams& params) {
    for_pass(params.count, [&](uint64_t element) {
        float x[8], bias[8];
        load(pointer<const T>(params.input) + element, x);
        load(pointer<const float>(params.other) + element % params.columns, bias);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) x[i] += bias[i];
        store(pointer<T>(params.output) + element, x);
    });
}

// scores += mask of their sentence
template <class T>
RETROMAE_DEVICE void add_mask(const BaselineMaskParams& params) {
    const uint64_t plane = static_cast<uint64_t>(params.length) * params.length;
    for_pass(params.count, [&](uint64_t element) {
        const uint64_t sentence = element / plane / params.heads;
        float x[8], mask[8];
        load(pointer<const T>(params.scores) + element, x);
        load(pointer<const T>(params.mask) + sentence * plane + element % plane, mask);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) x[i] += mask[i];
        store(pointer<T>(params.scores) + element, x);
    });
}

// output = x·Φ(x)
template <class T>
RETROMAE_DEVICE void gelu_forward(const BaselineElementwiseParams& params) {
    for_pass(params.count, [&](uint64_t element) {
        float x[8];
        load(pointer<const T>(params.input) + element, x);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) x[i] = gelu(x[i]);
        store(pointer<T>(params.output) + element, x);
    });
}

// output = other·(Φ(x) + x·φ(x)), other being the gradient of the result
template <class T>
RETROMAE_DEVICE void gelu_backward(const BaselineElementwiseParams& params) {
    for_pass(params.count, [&](uint64_t element) {
        float x[8], gradient[8];
        load(pointer<const T>(params.input) + element, x);
        load(pointer<const T>(params.other) + element, gradient);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) gradient[i] *= gelu_derivative(x[i]);
        store(pointer<T>(params.output) + element, gradient);
    });
}

RETROMAE_KERNEL(baseline_scale_f32, BaselineElementwiseParams, PassLaunch) {
    scale<float>(params);
}
RETROMAE_KERNEL(baseline_scale_bf16, BaselineElementwiseParams, PassLaunch) {
    scale<bf16>(params);
}
RETROMAE_KERNEL(baseline_add_f32, BaselineElementwiseParams, PassLaunch) {
    add<float>(params);
}
RETROMAE_KERNEL(baseline_add_bf16, BaselineElementwiseParams, PassLaunch) {
    add<bf16>(params);
}
RETROMAE_KERNEL(baseline_add_bias_f32, BaselineElementwiseParams, PassLaunch) {
    add_bias<float>(params);
}
RETROMAE_KERNEL(baseline_add_bias_bf16, BaselineElementwiseParams, PassLaunch) {
    add_bias<bf16>(params);
}
RETROMAE_KERNEL(baseline_add_mask_f32, BaselineMaskParams, PassLaunch) {
    add_mask<float>(params);
}
RETROMAE_KERNEL(baseline_add_mask_bf16, BaselineMaskParams, PassLaunch) {
    add_mask<bf16>(params);
}
RETROMAE_KERNEL(baseline_gelu_forward_f32, BaselineElementwiseParams, PassLaunch) {
    gelu_forward<float>(params);
}
RETROMAE_KERNEL(baseline_gelu_forward_bf16, BaselineElementwiseParams, PassLaunch) {
    gelu_forward<bf16>(params);
}
RETROMAE_KERNEL(baseline_gelu_backward_f32, BaselineElementwiseParams, PassLaunch) {
    gelu_backward<float>(params);
}
RETROMAE_KERNEL(baseline_gelu_backward_bf16, BaselineElementwiseParams, PassLaunch) {
    gelu_backward<bf16>(params);
}

// The copy of f32 master weights that kernels compute with.
RETROMAE_KERNEL(baseline_narrow_bf16, BaselineElementwiseParams, PassLaunch) {
    for_pass(params.count, [&](uint64_t element) {
        float x[8];
        load(pointer<const float>(params.input) + element, x);
        store(pointer<bf16>(params.output) + element, x);
    });
}

}  // namespace retromae
