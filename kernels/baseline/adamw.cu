// AdamW as passes over the arena: clipping, moments, decay, update (the maths is in optimizer/adamw.cu).
//
// 8 to 16 bytes an element and pass, 56 in all where the fused kernel moves 28: bound by memory. A
// framework's list-wise implementation has a few passes more.
#include "pass.cuh"

namespace retromae {

// gradients *= min(1, max_norm / (norm + 1e-6))
RETROMAE_KERNEL(baseline_adamw_clip, BaselineAdamWParams, PassLaunch) {
    const float clip = params.max_norm / (sqrtf(*pointer<const float>(params.squared_norm)) + 1e-6f);
    const float factor = clip < 1.0f ? clip : 1.0f;
    for_pass(params.count, [&](uint64_t element) {
        float g[8];
        load(pointer<const float>(params.gradients) + element, g);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) g[i] *= factor;
        store(pointer<float>(params.gradients) + element, g);
    });
}

RETROMAE_KERNEL(baseline_adamw_first_moment, BaselineAdamWParams, PassLaunch) {
    for_pass(params.count, [&](uint64_t element) {
        float g[8], m[8];
        load(pointer<const float>(params.gradients) + element, g);
        load(pointer<const float>(params.first_moments) + element, m);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) m[i] += params.one_minus_beta1 * (g[i] - m[i]);
        store(pointer<float>(params.first_moments) + element, m);
    });
}

RETROMAE_KERNEL(baseline_adamw_second_moment, BaselineAdamWParams, PassLaunch) {
    for_pass(params.count, [&](uint64_t element) {
        float g[8], v[8];
        load(pointer<const float>(params.gradients) + element, g);
        load(pointer<const float>(params.second_moments) + element, v);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) v[i] += params.one_minus_beta2 * (g[i] * g[i] - v[i]);
        store(pointer<float>(params.second_moments) + element, v);
    });
}

RETROMAE_KERNEL(baseline_adamw_decay, BaselineAdamWParams, PassLaunch) {
    const float rate = pointer<const AdamWSchedule>(params.schedule)->learning_rate;
    for_pass(params.count, [&](uint64_t element) {
        float p[8];
        load(pointer<const float>(params.parameters) + element, p);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) p[i] *= 1.0f - rate * params.weight_decay;
        store(pointer<float>(params.parameters) + element, p);
    });
}

RETROMAE_KERNEL(baseline_adamw_update, BaselineAdamWParams, PassLaunch) {
    const AdamWSchedule schedule = *pointer<const AdamWSchedule>(params.schedule);
    const float step_size = schedule.learning_rate / schedule.bias_correction1;
    const float inverse_root = 1.0f / sqrtf(schedule.bias_correction2);
    for_pass(params.count, [&](uint64_t element) {
        float p[8], m[8], v[8];
        load(pointer<const float>(params.parameters) + element, p);
        load(pointer<const float>(params.first_moments) + element, m);
        load(pointer<const float>(params.second_moments) + element, v);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) p[i] -= step_size * (m[i] / fmaf(sqrtf(v[i]), inverse_root, params.eps));
        store(pointer<float>(params.parameters) + element, p);
    });
}

}  // namespace retromae
