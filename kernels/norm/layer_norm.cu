// LayerNorm at the end of a transformer block: with s = residual + dropout(input + bias), rounded to T,
//
//   output = gamma·x̂ + beta,   x̂ = (s - mean(s))·rstd,   rstd = 1/√(variance(s) + eps)
//
// and backward, with g = gamma·d_output: d_residual = rstd·(g - mean(g) - x̂·mean(g·x̂)), d_input = dropout
// factor·d_residual, d_gamma = Σ d_output·x̂, d_beta = Σ d_output, d_bias = Σ d_input over the rows.
//
// One warp a row, held in registers (row.cuh), so every array is moved once: forward reads 2 and writes 2
// elements, backward reads 2 and writes 2, about 15 FLOPs an element (and 10 integer operations of Philox):
// bound by memory. The normalised quantity is rounded before its statistics are taken, so that the backward,
// which reads it, differentiates exactly what the forward computed. A block of the backward sums 32 rows in
// shared memory and writes [3, columns] partial sums, 10 % of its traffic in bf16.
#include "../core/philox.cuh"
#include "row.cuh"

namespace retromae {

template <class T>
RETROMAE_DEVICE void layer_norm_forward_row(const LayerNormForwardParams& params, uint32_t row) {
    const uint32_t columns = params.columns;
    const uint64_t start = static_cast<uint64_t>(row) * columns;
    RawRow<T> input = {}, residual = {};
    input.load(pointer<const T>(params.input) + start, columns);
    if (params.residual != 0) residual.load(pointer<const T>(params.residual) + start, columns);

    LaneRow sum;
    for_chunks(columns, [&](int slot, uint32_t column) {
        input.widen(slot, sum[slot]);
        if (params.bias != 0) {
            float bias[8];
            load(pointer<const float>(params.bias) + column, bias);
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) sum[slot][i] += bias[i];
        }
        apply_dropout(params.dropout, 0, row, column / 8u, sum[slot]);
        float added[8];
        residual.widen(slot, added);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) sum[slot][i] = to_float(from_float<T>(sum[slot][i] + added[i]));
        if (params.sum != 0) store(pointer<T>(params.sum) + start + column, sum[slot]);
    });

    float shift = leading_mean(pointer<const T>(params.input) + start);
    if (params.residual != 0) shift += leading_mean(pointer<const T>(params.residual) + start);
    const RowStatistics statistics = row_statistics(sum, shift, columns, params.eps);
    if (threadIdx.x % 32u == 0) {
        pointer<float>(params.mean)[row] = statistics.mean;
        pointer<float>(params.rstd)[row] = statistics.rstd;
    }
    for_chunks(columns, [&](int slot, uint32_t column) {
        float output[8];
        normalise(sum[slot], statistics, pointer<const float>(params.gamma),
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
                                             ColumnTotals<3>& totals) {
    const uint32_t columns = params.columns;
    const uint64_t start = static_cast<uint64_t>(row) * columns;
    RawRow<T> d_output = {}, sum = {};
    d_output.load(pointer<const T>(params.d_output) + start, columns);
    sum.load(pointer<const T>(params.sum) + start, columns);
    const float mean = pointer<const float>(params.mean)[row];
    const float rstd = pointer<const float>(params.rstd)[row];

    LaneRow normalised, gradient;
    for_chunks(columns, [&](int slot, uint32_t) {
        d_output.widen(slot, gradient[slot]);
        sum.widen(slot, normalised[slot]);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) normalised[slot][i] = (normalised[slot][i] - mean) * rstd;
    });
    normalise_backward(normalised, gradient, pointer<const float>(params.gamma), rstd, columns, totals);
    for_chunks(columns, [&](int slot, uint32_t column) {
        if (params.d_residual != 0) store(pointer<T>(params.d_residual) + start + column, gradient[slot]);
        apply_dropout(params.dropout, 0, row, column / 8u, gradient[slot]);
        store(pointer<T>(params.d_input) + start + column, gradient[slot]);
        totals.add(2, column, gradient[slot]);
    });
}

template <class T>
RETROMAE_DEVICE void layer_norm_backward(const LayerNormBackwardParams& params) {
    ColumnTotals<3> totals(params.columns);
    const uint32_t first = blockIdx.x * kBackwardRows;
    const uint32_t end = first + kBackwardRows < params.rows ? first + kBackwardRows : params.rows;
    for (uint32_t row = first + threadIdx.x / 32u; row < end; row += kRowWarps)
        layer_norm_backward_row<T>(params, row, totals);
    totals.finish(pointer<float>(params.partials) + static_cast<uint64_t>(blockIdx.x) * 3u * params.columns);
}

RETROMAE_KERNEL(layer_norm_forward_f32, LayerNormForwardParams, kRowThreads) {
    layer_norm_forward<float>(params);
}
RETROMAE_KERNEL(layer_norm_forward_bf16, LayerNormForwardParams, kRowThreads) {
    layer_norm_forward<bf16>(params);
}
RETROMAE_KERNEL(layer_norm_backward_f32, LayerNormBackwardParams, kRowThreads) {
    layer_norm_backward<float>(params);
}
RETROMAE_KERNEL(layer_norm_backward_bf16, LayerNormBackwardParams, kRowThreads) {
    layer_norm_backward<bf16>(params);
}

}  // namespace retromae
