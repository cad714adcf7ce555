// Gradients of the embeddings: with g = gamma·dropout factor·d_output and x̂ the normalized sum of table rows,
//
//   d_sum = rstd·(g - mean(g) - x̂·mean(g·x̂)),   d_gamma = Σ factor·d_output·x̂,   d_beta = Σ factor·d_output
//
// where a row is normalized; in QUERY_POSITION d_sum = d_output. The raw sentence row of CONTENT gets d_sum =
// 0: its d_output belongs to the sentence vector alone, and so segment sums of d_sum by token id and by
// position need not skip it.
//
// One warp a token; x̂ is gathered again from the tables. Two rows read, one written, about 20 FLOPs an
// element: bound by memory. A block sums its tokens for gamma and beta in shared memory and writes [2,
// columns] partial sums; no atomics. The tables' gradients are segment sums of d_sum (segment_sum.cu).
//
// nvcc 13.0's code for sm_90a in bf16, before and after 16-bit elements shared registers: 182 → 128
// registers, 8 → 16 warps an SM, 8 → 16 loads of 16 bytes in flight, 52 → 51 instructions an element (1024
// columns, dropout).
#include "embedding.cuh"

namespace retromae {

template <class T>
RETROMAE_DEVICE void embedding_backward_row(const EmbeddingBackwardParams& params, uint32_t token,
                                            ColumnTotals<2, kBackwardWarps>& totals) {
    const EmbeddingForwardParams& forward = params.forward;
    const uint32_t columns = forward.columns;
    const uint64_t start = static_cast<uint64_t>(token) * columns;
    const EmbeddingRows<T> rows(forward, token);
    RawRow<T> d_output = {};
    d_output.load(pointer<const T>(params.d_output) + start, columns);
    T* d_sum = pointer<T>(params.d_sum) + start;
    if (!rows.normalized) {
        if (rows.raw) d_output = {};
        d_output.store(d_sum, columns);
        return;
    }
    const float mean = pointer<const float>(forward.mean)[token];
    const float rstd = pointer<const float>(forward.rstd)[token];
    LaneRow sum;
    rows.normalized_sum(columns, sum);
    // A chunk's gradient is widened and dropped twice, but sampled once: a bit for each element that is kept.
    uint32_t kept = 0;
    for_chunks(columns, [&](int index, uint32_t column) {
        const uint32_t group = column / kDropoutGroup, shift = column % kDropoutGroup;
        const uint32_t bits =
            forward.dropout.threshold == 0 ? ~0u : dropout_kept(forward.dropout, 0, token, group);
        kept |= (bits >> shift & 0xffu) << (8 * index);
    });
    const auto chunk = [&](int index, float (&normalized)[8], float (&gradient)[8]) {
        d_output.widen(index, gradient);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) {
            normalized[i] = (sum[index][i] - mean) * rstd;
            gradient[i] *= kept >> (8 * index + i) & 1u ? forward.dropout.scale : 0.0f;
        }
    };
    const auto emit = [&](int, uint32_t column, float (&gradient)[8]) { store(d_sum + column, gradient); };
    normalize_backward(pointer<const float>(forward.gamma), rstd, columns, totals, chunk, emit);
}

template <class T>
RETROMAE_DEVICE void embedding_backward(const EmbeddingBackwardParams& params) {
    const uint32_t columns = params.forward.columns;
    ColumnTotals<2, kBackwardWarps> totals(columns);
    for_backward_rows(params.forward.tokens,
                      [&](uint32_t token) { embedding_backward_row<T>(params, token, totals); });
    totals.finish(pointer<float>(params.partials) + static_cast<uint64_t>(blockIdx.x) * 2u * columns);
}

// Sums for gamma and beta.
struct EmbeddingBackwardLaunch : BackwardRowsLaunch<2> {
    static Grid grid(const EmbeddingBackwardParams& params) { return grid_of(params.forward.tokens); }
    static uint64_t shared_bytes(const EmbeddingBackwardParams& params) {
        return shared_bytes_of(params.forward.columns);
    }
};

RETROMAE_KERNEL(embedding_backward_f32, EmbeddingBackwardParams, EmbeddingBackwardLaunch) {
    embedding_backward<float>(params);
}
RETROMAE_KERNEL(embedding_backward_bf16, EmbeddingBackwardParams, EmbeddingBackwardLaunch) {
    embedding_backward<bf16>(params);
}

}  // namespace retromae
