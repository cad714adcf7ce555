// Gradients of the embeddings: with g = gamma·dropout factor·d_output and x̂ the normalised sum of table rows,
//
//   d_sum = rstd·(g - mean(g) - x̂·mean(g·x̂)),   d_gamma = Σ factor·d_output·x̂,   d_beta = Σ factor·d_output
//
// where a row is normalised; in QUERY_POSITION d_sum = d_output. The raw sentence row of CONTENT gets d_sum =
// 0: its d_output belongs to the sentence vector alone, and so segment sums of d_sum by word and by position
// need not skip it.
//
// One warp a token; x̂ is gathered again from the tables. Two rows read, one written, about 20 FLOPs an
// element: bound by memory. A block sums 32 tokens for gamma and beta in shared memory and writes [2,
// columns] partial sums; no atomics. The tables' gradients are segment sums of d_sum (segment_sum.cu).
#include "embedding.cuh"

namespace retromae {

template <class T>
RETROMAE_DEVICE void embedding_backward_row(const EmbeddingBackwardParams& params, uint32_t token,
                                            ColumnTotals<2>& totals) {
    const EmbeddingForwardParams& forward = params.forward;
    const uint32_t columns = forward.columns;
    const uint64_t start = static_cast<uint64_t>(token) * columns;
    const EmbeddingRows<T> rows(forward, token);
    RawRow<T> d_output = {};
    d_output.load(pointer<const T>(params.d_output) + start, columns);
    LaneRow gradient;
    for_chunks(columns, [&](int slot, uint32_t) { d_output.widen(slot, gradient[slot]); });
    if (rows.normalised) {
        const float mean = pointer<const float>(forward.mean)[token];
        const float rstd = pointer<const float>(forward.rstd)[token];
        LaneRow normalised;
        rows.sum(columns, normalised);
        for_chunks(columns, [&](int slot, uint32_t column) {
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) normalised[slot][i] = (normalised[slot][i] - mean) * rstd;
            apply_dropout(forward.dropout, 0, token, column / 8u, gradient[slot]);
        });
        normalise_backward(normalised, gradient, pointer<const float>(forward.gamma), rstd, columns, totals);
    }
    const bool raw_sentence = !rows.normalised && forward.mode == EMBEDDING_CONTENT;
    for_chunks(columns, [&](int slot, uint32_t column) {
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) gradient[slot][i] = raw_sentence ? 0.0f : gradient[slot][i];
        store(pointer<T>(params.d_sum) + start + column, gradient[slot]);
    });
}

template <class T>
RETROMAE_DEVICE void embedding_backward(const EmbeddingBackwardParams& params) {
    const uint32_t columns = params.forward.columns, tokens = params.forward.tokens;
    ColumnTotals<2> totals(columns);
    const uint32_t first = blockIdx.x * kBackwardRows;
    const uint32_t end = first + kBackwardRows < tokens ? first + kBackwardRows : tokens;
    for (uint32_t token = first + threadIdx.x / 32u; token < end; token += kRowWarps)
        embedding_backward_row<T>(params, token, totals);
    totals.finish(pointer<float>(params.partials) + static_cast<uint64_t>(blockIdx.x) * 2u * columns);
}

RETROMAE_KERNEL(embedding_backward_f32, EmbeddingBackwardParams, kRowThreads) {
    embedding_backward<float>(params);
}
RETROMAE_KERNEL(embedding_backward_bf16, EmbeddingBackwardParams, kRowThreads) {
    embedding_backward<bf16>(params);
}

}  // namespace retromae
