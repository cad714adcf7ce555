// From packed rows [tokens, heads·head_dim] to a padded matrix [length, head_dim] for each sentence and head,
// and back: what lets one batched GEMM handle all heads, and what a framework's transposition copies.
//
// Reads and writes each element once, in runs of head_dim: bound by memory. Padding is written as zeros.
#include "pass.cuh"

namespace retromae {

// The packed element that belongs to `element` of the padded matrices; false in the padding.
RETROMAE_DEVICE bool packed_element(const BaselineHeadsParams& params, uint64_t element, uint64_t& packed) {
    const uint32_t column = static_cast<uint32_t>(element % params.head_dim);
    const uint64_t row = element / params.head_dim;
    const uint32_t position = static_cast<uint32_t>(row % params.length);
    const uint32_t matrix = static_cast<uint32_t>(row / params.length);
    const uint32_t head = matrix % params.num_heads;
    const int32_t* starts = pointer<const int32_t>(params.cu_seqlens) + matrix / params.num_heads;
    const uint32_t token = static_cast<uint32_t>(starts[0]) + position;
    packed = static_cast<uint64_t>(token) * params.stride + head * params.head_dim + column;
    return token < static_cast<uint32_t>(starts[1]);
}

RETROMAE_DEVICE uint64_t padded_elements(const BaselineHeadsParams& params) {
    return static_cast<uint64_t>(params.sentences) * params.num_heads * params.length * params.head_dim;
}

template <class T>
RETROMAE_DEVICE void split_heads(const BaselineHeadsParams& params) {
    for_pass(padded_elements(params), [&](uint64_t element) {
        uint64_t packed;
        float x[8] = {};
        if (packed_element(params, element, packed)) load(pointer<const T>(params.packed) + packed, x);
        store(pointer<T>(params.heads) + element, x);
    });
}

template <class T>
RETROMAE_DEVICE void merge_heads(const BaselineHeadsParams& params) {
    for_pass(padded_elements(params), [&](uint64_t element) {
        uint64_t packed;
        if (!packed_element(params, element, packed)) return;
        float x[8];
        load(pointer<const T>(params.heads) + element, x);
        store(pointer<T>(params.packed) + packed, x);
    });
}

RETROMAE_KERNEL(baseline_split_heads_f32, BaselineHeadsParams, PassLaunch) {
    split_heads<float>(params);
}
RETROMAE_KERNEL(baseline_split_heads_bf16, BaselineHeadsParams, PassLaunch) {
    split_heads<bf16>(params);
}
RETROMAE_KERNEL(baseline_merge_heads_f32, BaselineHeadsParams, PassLaunch) {
    merge_heads<float>(params);
}
RETROMAE_KERNEL(baseline_merge_heads_bf16, BaselineHeadsParams, PassLaunch) {
    merge_heads<bf16>(params);
}

}  // namespace retromae
