// AdamW (Loshchilov and Hutter, arXiv 1711.05101) with clipping by the global norm, over a flat arena of f32
// master weights:
//
//   g ← g · min(1, max_norm / (‖g‖ + 1e-6))
//   m ← β1·m + (1 − β1)·g          v ← β2·v + (1 − β2)·g²
//   p ← p·(1 − lr·decay) − lr/c1 · m / (√v / √c2 + ε)          c1 = 1 − β1ᵗ, c2 = 1 − β2ᵗ
//
// and g is set to 0, for the next step's gradients to be added to. If the norm is not finite, nothing
// else changes: the step is skipped.
//
// Reads 16 and writes 16 bytes an element (18 with the bf16 copy), about 15 FLOPs, so bound by memory: one
// pass does all, and the norm, the learning rate and the corrections come from device memory, so nothing
// waits for the host and a captured graph can be replayed. A thread takes four quads of each of the four
// arrays, all loaded before any is used: 16 loads of 16 bytes, the neighboring lane's beside them.
// nvcc 13.0's code for sm_90a in bf16, where 8 elements a thread were two loads with a gap each: 60 → 96
// registers, 4 → 2 blocks an SM, 8 → 16 loads in flight.
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kAdamWThreads = 256;
constexpr uint32_t kAdamWQuads = 4;
constexpr uint32_t kAdamWElements = kAdamWThreads * kAdamWQuads * 4;
constexpr float kFloatMax = 3.402823466e38f;

// The factors that all elements share.
struct AdamWStep {
    const AdamWParams& params;
    float gradient_scale;
    float step_size;
    float inverse_root_correction2;
    float decay_factor;

    RETROMAE_DEVICE AdamWStep of(const AdamWParams& params, const AdamWSchedule& schedule,
                                 float squared_norm) {
        const float clip = params.max_norm / (sqrtf(squared_norm) + 1e-6f);
        return {
            params,
            params.max_norm > 0.0f && clip < 1.0f ? clip : 1.0f,
            schedule.learning_rate / schedule.bias_correction1,
            1.0f / sqrtf(schedule.bias_correction2),
            1.0f - schedule.learning_rate * params.weight_decay,
        };
    }
    RETROMAE_MEMBER void update(float gradient, bool decays, float& parameter, float& first,
                                float& second) const {
        const float g = gradient * gradient_scale;
        first = fmaf(params.beta1, first, params.one_minus_beta1 * g);
        second = fmaf(params.beta2, second, params.one_minus_beta2 * g * g);
        const float denominator = fmaf(sqrtf(second), inverse_root_correction2, params.eps);
        const float decayed = decays ? parameter * decay_factor : parameter;
        parameter = decayed - step_size * (first / denominator);
    }
};

RETROMAE_DEVICE void store_copy(DevicePointer, uint64_t, const float (&)[4], float) {}
RETROMAE_DEVICE void store_copy(DevicePointer copy, uint64_t element, const float (&values)[4], bf16) {
    store(pointer<bf16>(copy) + element, values);
}
RETROMAE_DEVICE void store_copy(DevicePointer, uint64_t, float, float) {}
RETROMAE_DEVICE void store_copy(DevicePointer copy, uint64_t element, float value, bf16) {
    pointer<bf16>(copy)[element] = bf16_from_float(value);
}

// The first element of a thread's quad.
RETROMAE_DEVICE uint64_t adamw_quad(uint32_t quad) {
    return static_cast<uint64_t>(blockIdx.x) * kAdamWElements +
           group_offset(threadIdx.x, kAdamWThreads, quad, kAdamWQuads, 4);
}

// The whole block, where none of its elements lies beyond the last.
template <class Copy>
RETROMAE_DEVICE void adamw_whole_block(const AdamWParams& params, const AdamWStep& step) {
    float g[kAdamWQuads][4], p[kAdamWQuads][4], m[kAdamWQuads][4], v[kAdamWQuads][4];
    RETROMAE_UNROLL
    for (uint32_t quad = 0; quad < kAdamWQuads; ++quad) {
        const uint64_t start = adamw_quad(quad);
        load(pointer<const float>(params.gradients) + start, g[quad]);
        load(pointer<const float>(params.parameters) + start, p[quad]);
        load(pointer<const float>(params.first_moments) + start, m[quad]);
        load(pointer<const float>(params.second_moments) + start, v[quad]);
    }
    const float zeros[4] = {};
    RETROMAE_UNROLL
    for (uint32_t quad = 0; quad < kAdamWQuads; ++quad) {
        const uint64_t start = adamw_quad(quad);
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < 4; ++i)
            step.update(g[quad][i], start + i < params.decayed, p[quad][i], m[quad][i], v[quad][i]);
        store(pointer<float>(params.gradients) + start, zeros);
        store(pointer<float>(params.parameters) + start, p[quad]);
        store(pointer<float>(params.first_moments) + start, m[quad]);
        store(pointer<float>(params.second_moments) + start, v[quad]);
        store_copy(params.compute_parameters, start, p[quad], Copy{});
    }
}

// Calls `body(element)` for each element of this thread that is there.
template <class Body>
RETROMAE_DEVICE void for_adamw_elements(const AdamWParams& params, Body body) {
    RETROMAE_NO_UNROLL
    for (uint32_t quad = 0; quad < kAdamWQuads; ++quad) RETROMAE_NO_UNROLL
    for (uint64_t element = adamw_quad(quad), end = element + 4; element < end; ++element)
        if (element < params.count) body(element);
}

// `Copy` is the type of the rounded copy; float: there is none.
template <class Copy>
RETROMAE_DEVICE void adamw(const AdamWParams& params) {
    const float squared_norm = *pointer<const float>(params.squared_norm);
    const AdamWSchedule schedule = *pointer<const AdamWSchedule>(params.schedule);
    float* gradients = pointer<float>(params.gradients);
    if (!(squared_norm <= kFloatMax)) {  // infinite or NaN
        for_adamw_elements(params, [&](uint64_t element) { gradients[element] = 0.0f; });
        return;
    }
    const AdamWStep step = AdamWStep::of(params, schedule, squared_norm);
    if ((static_cast<uint64_t>(blockIdx.x) + 1) * kAdamWElements <= params.count) {
        adamw_whole_block<Copy>(params, step);
        return;
    }
    float* parameters = pointer<float>(params.parameters);
    for_adamw_elements(params, [&](uint64_t element) {
        step.update(gradients[element], element < params.decayed, parameters[element],
                    pointer<float>(params.first_moments)[element],
                    pointer<float>(params.second_moments)[element]);
        store_copy(params.compute_parameters, element, parameters[element], Copy{});
        gradients[element] = 0.0f;
    });
}

struct AdamWLaunch : Launch<kAdamWThreads> {
    static Grid grid(const AdamWParams& params) { return {ceil_div(params.count, kAdamWElements)}; }
};

RETROMAE_KERNEL(adamw_f32, AdamWParams, AdamWLaunch) {
    adamw<float>(params);
}
RETROMAE_KERNEL(adamw_bf16, AdamWParams, AdamWLaunch) {
    adamw<bf16>(params);
}

}  // namespace retromae
