// Dropout as a pass of its own: forward writes the result and a byte an element that says what was kept, as
// frameworks store it for the backward. The decisions are those of the fused kernels (core/philox.cuh), so
// that both compute the same.
//
// Forward reads 1 and writes 1 element and 1 byte, backward reads 1 element and 1 byte and writes 1 element:
// bound by memory.
#include "../core/philox.cuh"
#include "pass.cuh"

namespace retromae {

// Row and head of an element as the decisions count them: for scores the packed token of the query.
RETROMAE_DEVICE void locate(const BaselineDropoutParams& params, uint64_t element, uint32_t& head,
                            uint32_t& row) {
    const uint64_t matrix_row = element / params.columns;
    head = 0;
    row = static_cast<uint32_t>(matrix_row);
    if (params.cu_seqlens == 0) return;
    const uint32_t matrix = static_cast<uint32_t>(matrix_row / params.columns);
    head = matrix % params.heads;
    const int32_t start = pointer<const int32_t>(params.cu_seqlens)[matrix / params.heads];
    row = static_cast<uint32_t>(start) + static_cast<uint32_t>(matrix_row % params.columns);
}

template <class T>
RETROMAE_DEVICE void dropout_forward(const BaselineDropoutParams& params) {
    for_pass(params.count, [&](uint64_t element) {
        uint32_t head, row;
        locate(params, element, head, row);
        float x[8], factors[8];
        load(pointer<const T>(params.input) + element, x);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) factors[i] = 1.0f;
        apply_dropout(params.dropout, head, row, static_cast<uint32_t>(element % params.columns) / 8u,
                      factors);
        Pack<uint8_t, 8> kept;
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) {
            x[i] *= factors[i];
            kept.values[i] = factors[i] != 0.0f;
        }
        store(pointer<T>(params.output) + element, x);
        *reinterpret_cast<Pack<uint8_t, 8>*>(pointer<uint8_t>(params.kept) + element) = kept;
    });
}

template <class T>
RETROMAE_DEVICE void dropout_backward(const BaselineDropoutParams& params) {
    for_pass(params.count, [&](uint64_t element) {
        float gradient[8];
        load(pointer<const T>(params.input) + element, gradient);
        const Pack<uint8_t, 8> kept =
            *reinterpret_cast<const Pack<uint8_t, 8>*>(pointer<const uint8_t>(params.kept) + element);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) gradient[i] *= kept.values[i] != 0 ? params.dropout.scale : 0.0f;
        store(pointer<T>(params.output) + element, gradient);
    });
}

RETROMAE_KERNEL(baseline_dropout_forward_f32, BaselineDropoutParams, PassLaunch) {
    dropout_forward<float>(params);
}
RETROMAE_KERNEL(baseline_dropout_forward_bf16, BaselineDropoutParams, PassLaunch) {
    dropout_forward<bf16>(params);
}
RETROMAE_KERNEL(baseline_dropout_backward_f32, BaselineDropoutParams, PassLaunch) {
    dropout_backward<float>(params);
}
RETROMAE_KERNEL(baseline_dropout_backward_bf16, BaselineDropoutParams, PassLaunch) {
    dropout_backward<bf16>(params);
}

}  // namespace retromae
