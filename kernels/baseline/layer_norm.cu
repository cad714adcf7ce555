// LayerNorm alone, without bias, dropout and residual: forward; gradient of the input; gradients of gamma and
// beta, in a pass of their own over the same arrays, as frameworks do.
//
// A warp holds a row in registers (norm/row.cuh). Forward reads 1 and writes 1 element, each backward pass
// reads 2 and the first writes 1: bound by memory.
#include "../norm/row.cuh"
#include "baseline_params.h"

namespace retromae {

// Calls `body(row)` for each row of this warp; a block's rows are consecutive.
template <class Body>
RETROMAE_DEVICE void for_rows(const BaselineLayerNormParams& params, Body body) {
    const uint32_t first = blockIdx.x * params.rows_per_block;
    const uint32_t end =
        first + params.rows_per_block < params.rows ? first + params.rows_per_block : params.rows;
    for (uint32_t row = first + threadIdx.x / 32u; row < end; row += kRowWarps) body(row);
}

template <class T>
RETROMAE_DEVICE void layer_norm_forward(const BaselineLayerNormParams& params) {
    for_rows(params, [&](uint32_t row) {
        const uint64_t start = static_cast<uint64_t>(row) * params.columns;
        const T* input = pointer<const T>(params.input) + start;
        RawRow<T> raw = {};
        raw.load(input, params.columns);
        RowStart<T> row_start;
        row_start.load(input);
        LaneRow x;
        for_chunks(params.columns, [&](int index, uint32_t) { raw.widen(index, x[index]); });
        const RowStatistics statistics = row_statistics(x, row_start.mean(), params.columns, params.eps);
        if (threadIdx.x % 32u == 0) {
            pointer<float>(params.mean)[row] = statistics.mean;
            pointer<float>(params.rstd)[row] = statistics.rstd;
        }
        for_chunks(params.columns, [&](int index, uint32_t column) {
            float output[8];
            normalize(x[index], statistics, pointer<const float>(params.gamma),
                      pointer<const float>(params.beta), column, output);
            store(pointer<T>(params.output) + start + column, output);
        });
    });
}

// The input and the gradient of the output of a row.
template <class T>
struct LoadedRows {
    RawRow<T> input, d_output;
    float mean, rstd;

    RETROMAE_MEMBER LoadedRows(const BaselineLayerNormParams& params, uint32_t row) : input{}, d_output{} {
        const uint64_t start = static_cast<uint64_t>(row) * params.columns;
        input.load(pointer<const T>(params.input) + start, params.columns);
        d_output.load(pointer<const T>(params.d_output) + start, params.columns);
        mean = pointer<const float>(params.mean)[row];
        rstd = pointer<const float>(params.rstd)[row];
    }

    RETROMAE_MEMBER void chunk(int index, float (&normalized)[8], float (&gradient)[8]) const {
        input.widen(index, normalized);
        d_output.widen(index, gradient);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) normalized[i] = (normalized[i] - mean) * rstd;
    }
};

// Column sums are another kernel's.
struct NoTotals {
    RETROMAE_MEMBER void add(int, uint32_t, const float (&)[8]) {}
};

template <class T>
RETROMAE_DEVICE void layer_norm_backward_input(const BaselineLayerNormParams& params) {
    for_rows(params, [&](uint32_t row) {
        const LoadedRows<T> rows(params, row);
        T* output = pointer<T>(params.output) + static_cast<uint64_t>(row) * params.columns;
        NoTotals totals;
        normalize_backward(
            pointer<const float>(params.gamma), rows.rstd, params.columns, totals,
            [&](int index, float (&normalized)[8], float (&gradient)[8]) {
                rows.chunk(index, normalized, gradient);
            },
            [&](int, uint32_t column, float (&gradient)[8]) { store(output + column, gradient); });
    });
}

template <class T>
RETROMAE_DEVICE void layer_norm_backward_parameters(const BaselineLayerNormParams& params) {
    ColumnTotals<2, kRowWarps> totals(params.columns);
    for_rows(params, [&](uint32_t row) {
        const LoadedRows<T> rows(params, row);
        for_chunks(params.columns, [&](int index, uint32_t column) {
            float normalized[8], gradient[8];
            rows.chunk(index, normalized, gradient);
            totals.add(1, column, gradient);
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) gradient[i] *= normalized[i];
            totals.add(0, column, gradient);
        });
    });
    totals.finish(pointer<float>(params.partials) + static_cast<uint64_t>(blockIdx.x) * 2u * params.columns);
}

// `Sums` sums of every column in shared memory.
template <int Sums>
struct BaselineRowsLaunch : Launch<kRowThreads> {
    static Grid grid(const BaselineLayerNormParams& params) {
        return {ceil_div(params.rows, params.rows_per_block)};
    }
    static uint64_t shared_bytes(const BaselineLayerNormParams& params) {
        return taken_bytes<float>(uint64_t{kRowWarps} * Sums * params.columns);
    }
};

RETROMAE_KERNEL(baseline_layer_norm_forward_f32, BaselineLayerNormParams, BaselineRowsLaunch<0>) {
    layer_norm_forward<float>(params);
}
RETROMAE_KERNEL(baseline_layer_norm_forward_bf16, BaselineLayerNormParams, BaselineRowsLaunch<0>) {
    layer_norm_forward<bf16>(params);
}
RETROMAE_KERNEL(baseline_layer_norm_backward_input_f32, BaselineLayerNormParams, BaselineRowsLaunch<0>) {
    layer_norm_backward_input<float>(params);
}
RETROMAE_KERNEL(baseline_layer_norm_backward_input_bf16, BaselineLayerNormParams, BaselineRowsLaunch<0>) {
    layer_norm_backward_input<bf16>(params);
}
RETROMAE_KERNEL(baseline_layer_norm_backward_parameters_f32, BaselineLayerNormParams, BaselineRowsLaunch<2>) {
    layer_norm_backward_parameters<float>(params);
}
RETROMAE_KERNEL(baseline_layer_norm_backward_parameters_bf16, BaselineLayerNormParams,
                BaselineRowsLaunch<2>) {
    layer_norm_backward_parameters<bf16>(params);
}

}  // namespace retromae
