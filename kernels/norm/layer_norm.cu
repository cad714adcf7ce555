// LayerNorm at the end of a transformer block: with s = residual + dropout(input + bias), rounded to T,
//
//   output = gamma·x̂ + beta,   x̂ = (s - mean(s))·rstd,   rstd = 1/√(variance(s) + eps)
//
// and backward, with g = gamma·d_output: d_residual = rstd·(g - mean(g) - x̂·mean(g·x̂)), d_input = dropout
// factor·d_residual, d_gamma = Σ d_output·x̂, d_beta = Σ d_output, d_bias = Σ d_input over the rows.
//
// One warp a row, held in registers (row.cuh), so every array is moved once: forward reads 2 and writes 2
// elements, backward reads 2 and writes 2, about 15 FLOPs an element (and 10 integer operations of Philox):
// bound by memory. The normalized quantity is rounded before its statistics are taken, so that the backward,
// which reads it, differentiates exactly what the forward computed. A block of the backward sums its rows in
// shared memory and writes [3, columns] partial sums: at most 256 of them, 1 % of the traffic of 32,768 rows
// of bf16, where one for each 32 rows was 5 %.
//
// nvcc 13.0's code for sm_90a in bf16, where 16-bit elements had a register each → where two share one:
//
//              registers   warps an SM   loads in flight   instructions an element (1024 columns, dropout)
//   forward    129 → 110   12 → 16       4 → 12            41 → 35
//   backward   166 → 111   12 → 16       8 → 10            40 → 39, widened twice to hold packs, not floats
#include "../core/philox.cuh"
#include "row.cuh"

namespace retromae {

template <class T>
RETROMAE_DEVICE void layer_norm_forward_row(const LayerNormForwardParams& params, uint32_t row) {
    const uint32_t columns = params.columns;
    const uint64_t start = static_cast<uint64_t>(row) * columns;
    RawRow<T> input = {}, residual = {};
    RowStart<T> input_start, residual_start = {};
    input.load(pointer<const T>(params.input) + start, columns);
    input_start.load(pointer<const T>(params.input) + start);
    if (params.residual != 0) {
        residual.load(pointer<const T>(params.residual) + start, columns);
        residual_start.load(pointer<const T>(params.residual) + start);
    }

    LaneRow sum;
    for_chunks(columns, [&](int index, uint32_t column) {
        input.widen(index, sum[index]);
        if (params.bias != 0) {
            float bias[8];
            load(pointer<const float>(params.bias) + column, bias);
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) sum[index][i] += bias[i];
        }
        apply_dropout(params.dropout, 0, row, column / 8u, sum[index]);
        float added[8];
        residual.widen(index, added);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) sum[index][i] += added[i];
        round_chunk(T{}, sum[index]);
        if (params.sum != 0) store(pointer<T>(params.sum) + start + column, sum[index]);
    });

    const float shift = input_start.mean() + residual_start.mean();
    const RowStatistics statistics = row_statistics(sum, shift, columns, params.eps);
    if (threadIdx.x % 32u == 0) {
        pointer<float>(params.mean)[row] = statistics.mean;
        pointer<float>(params.rstd)[row] = statistics.rstd;
    }
    for_chunks(columns, [&](int index, uint32_t column) {
        float output[8];
        normalize(sum[index], statistics, pointer<const float>(params.gamma),
                  pointer<const float>(params.beta), column, output);
        store(pointer<T>(params.output) + start + column, output);
    });
}

template <class T>
RETROMAE_DEVICE void layer_norm_forward(const LayerNormForwardParams& params) {
    const uint32_t first = blockIdx.x * kForwardRows;
    const uint32_t end = first + kForwardRows < params.rows ? first + kForwardRows : params.rows;
    for (uint32_t row = first + threadIdx.x / 32u; row < end; row += kRowWarps)
        layer_norm_forward_row<T>(params, row);
}

template <class T>
RETROMAE_DEVICE void layer_norm_backward_row(const LayerNormBackwardParams& params, uint32_t row,
                                             ColumnTotals<3, kBackwardWarps>& totals) {
    const uint32_t columns = params.columns;
    const uint64_t start = static_cast<uint64_t>(row) * columns;
    RawRow<T> d_output = {}, sum = {};
    d_output.load(pointer<const T>(params.d_output) + start, columns);
    sum.load(pointer<const T>(params.sum) + start, columns);
    const float mean = pointer<const float>(params.mean)[row];
    const float rstd = pointer<const float>(params.rstd)[row];

    const auto chunk = [&](int index, float (&normalized)[8], float (&gradient)[8]) {
        d_output.widen(index, gradient);
        sum.widen(index, normalized);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) normalized[i] = (normalized[i] - mean) * rstd;
    };
    const auto emit = [&](int, uint32_t column, float (&gradient)[8]) {
        if (params.d_residual != 0) store(pointer<T>(params.d_residual) + start + column, gradient);
        apply_dropout(params.dropout, 0, row, column / 8u, gradient);
        store(pointer<T>(params.d_input) + start + column, gradient);
        totals.add(2, column, gradient);
    };
    normalize_backward(pointer<const float>(params.gamma), rstd, columns, totals, chunk, emit);
}

template <class T>
RETROMAE_DEVICE void layer_norm_backward(const LayerNormBackwardParams& params) {
    ColumnTotals<3, kBackwardWarps> totals(params.columns);
    for_backward_rows(params.rows, [&](uint32_t row) { layer_norm_backward_row<T>(params, row, totals); });
    totals.finish(pointer<float>(params.partials) + static_cast<uint64_t>(blockIdx.x) * 3u * params.columns);
}

struct LayerNormForwardLaunch : ForwardRowsLaunch {
    static Grid grid(const LayerNormForwardParams& params) { return grid_of(params.rows); }
};
// Sums for gamma, beta and the bias.
struct LayerNormBackwardLaunch : BackwardRowsLaunch<3> {
    static Grid grid(const LayerNormBackwardParams& params) { return grid_of(params.rows); }
    static uint64_t shared_bytes(const LayerNormBackwardParams& params) {
        return shared_bytes_of(params.columns);
    }
};

RETROMAE_KERNEL(layer_norm_forward_f32, LayerNormForwardParams, LayerNormForwardLaunch) {
    layer_norm_forward<float>(params);
}
RETROMAE_KERNEL(layer_norm_forward_bf16, LayerNormForwardParams, LayerNormForwardLaunch) {
    layer_norm_forward<bf16>(params);
}
RETROMAE_KERNEL(layer_norm_forward_f16, LayerNormForwardParams, LayerNormForwardLaunch) {
    layer_norm_forward<f16>(params);
}
RETROMAE_KERNEL(layer_norm_backward_f32, LayerNormBackwardParams, LayerNormBackwardLaunch) {
    layer_norm_backward<float>(params);
}
RETROMAE_KERNEL(layer_norm_backward_bf16, LayerNormBackwardParams, LayerNormBackwardLaunch) {
    layer_norm_backward<bf16>(params);
}
RETROMAE_KERNEL(layer_norm_backward_f16, LayerNormBackwardParams, LayerNormBackwardLaunch) {
    layer_norm_backward<f16>(params);
}

}  // namespace retromae
