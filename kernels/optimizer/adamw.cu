// AdamW (Loshchilov and Hutter, arXiv 1711.05101) with clipping by the global norm, over a flat arena of f32
// master weights:
//
//   g ← g · min(1, max_norm / (‖g‖ + 1e-6))
//   m ← β1·m + (1 − β1)·g          v ← β2·v + (1 − β2)·g²
//   p ← p·(1 − lr·decay) − lr/c1 · m / (√v / √c2 + ε)          c1 = 1 − β1ᵗ, c2 = 1 − β2ᵗ
//
// Reads 16 and writes 12 bytes an element (14 with the bf16 copy), about 15 FLOPs, so bound by memory: one
// pass does all, and the norm, the learning rate and the corrections come from device memory, so nothing
// waits for the host and a captured graph can be replayed. A thread moves 8 elements at a time and 2 such
// groups: four arrays are 16 loads of 16 bytes in flight, more would only cost registers. Where the norm is
// not finite nothing is written: the step is skipped.
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kAdamWThreads = 256;
constexpr uint32_t kAdamWGroups = 2;
constexpr uint32_t kAdamWElements = kAdamWThreads * kAdamWGroups * 8;
constexpr float kFloatMax = 3.402823466e38f;

// What is the same for all elements.
struct AdamWStep {
    float gradient_scale;
    float step_size;
    float inverse_root_correction2;
    float decay_factor;
};

RETROMAE_DEVICE AdamWStep adamw_step(const AdamWParams& params, float squared_norm) {
    const AdamWSchedule schedule = *pointer<const AdamWSchedule>(params.schedule);
    const float clip = params.max_norm / (sqrtf(squared_norm) + 1e-6f);
    return {
        params.max_norm > 0.0f && clip < 1.0f ? clip : 1.0f,
        schedule.learning_rate / schedule.bias_correction1,
        1.0f / sqrtf(schedule.bias_correction2),
        1.0f - schedule.learning_rate * params.weight_decay,
    };
}

RETROMAE_DEVICE void adamw_element(const AdamWParams& params, const AdamWStep& step, float gradient,
                                   bool decays, float& parameter, float& first, float& second) {
    const float g = gradient * step.gradient_scale;
    first = fmaf(params.beta1, first, params.one_minus_beta1 * g);
    second = fmaf(params.beta2, second, params.one_minus_beta2 * g * g);
    const float denominator = fmaf(sqrtf(second), step.inverse_root_correction2, params.eps);
    const float decayed = decays ? parameter * step.decay_factor : parameter;
    parameter = decayed - step.step_size * (first / denominator);
}

RETROMAE_DEVICE void store_copy(DevicePointer, uint64_t, const float (&)[8], float) {}
RETROMAE_DEVICE void store_copy(DevicePointer copy, uint64_t element, const float (&values)[8], bf16) {
    store(pointer<bf16>(copy) + element, values);
}
RETROMAE_DEVICE void store_copy(DevicePointer, uint64_t, float, float) {}
RETROMAE_DEVICE void store_copy(DevicePointer copy, uint64_t element, float value, bf16) {
    pointer<bf16>(copy)[element] = bf16_from_float(value);
}

// `Copy` is the type of the rounded copy; float: there is none.
template <class Copy>
RETROMAE_DEVICE void adamw(const AdamWParams& params) {
    const float squared_norm = *pointer<const float>(params.squared_norm);
    if (!(squared_norm <= kFloatMax)) return;  // infinite or NaN
    const AdamWStep step = adamw_step(params, squared_norm);
    const float* gradients = pointer<const float>(params.gradients);
    float* parameters = pointer<float>(params.parameters);
    float* first_moments = pointer<float>(params.first_moments);
    float* second_moments = pointer<float>(params.second_moments);
    const uint64_t block_start = static_cast<uint64_t>(blockIdx.x) * kAdamWElements;
    RETROMAE_UNROLL
    for (uint32_t group = 0; group < kAdamWGroups; ++group) {
        const uint64_t start = block_start + (group * kAdamWThreads + threadIdx.x) * 8u;
        if (start + 8 <= params.count) {
            float g[8], p[8], m[8], v[8];
            load(gradients + start, g);
            load(parameters + start, p);
            load(first_moments + start, m);
            load(second_moments + start, v);
            RETROMAE_UNROLL
            for (uint32_t i = 0; i < 8; ++i)
                adamw_element(params, step, g[i], start + i < params.decayed, p[i], m[i], v[i]);
            store(parameters + start, p);
            store(first_moments + start, m);
            store(second_moments + start, v);
            store_copy(params.compute_parameters, start, p, Copy{});
        } else {
            for (uint64_t i = start; i < params.count; ++i) {
                adamw_element(params, step, gradients[i], i < params.decayed, parameters[i], first_moments[i],
                              second_moments[i]);
                store_copy(params.compute_parameters, i, parameters[i], Copy{});
            }
        }
    }
}

RETROMAE_KERNEL(adamw_f32, AdamWParams, kAdamWThreads) {
    adamw<float>(params);
}
RETROMAE_KERNEL(adamw_bf16, AdamWParams, kAdamWThreads) {
    adamw<bf16>(params);
}

}  // namespace retromae
