// The embeddings of the encoder's tokens and of the decoder's two streams (RetroMAE, arXiv 2205.12035), by
// EmbeddingMode:
//
//   WORD            dropout(LN(word[id] + position[p] + type[0]))
//   CONTENT         the same, but position 0 is the sentence vector itself
//   QUERY           dropout(LN(sentence + position[p] + type[0]))
//   QUERY_POSITION  sentence + position[p]
//
// One warp a token, its row in registers (norm/row.cuh). Positions, types and sentence vectors are less than
// 2 MB, so the traffic that counts is one word row read and one row written, with about 12 FLOPs an element:
// bound by memory. Only the mean and rstd are saved: gathering the rows again in the backward costs no more
// than reading a stored sum.
//
// nvcc 13.0's code for sm_90a in bf16, before and after 16-bit elements shared registers: 163 → 126
// registers, 12 → 16 warps an SM, 4 → 15 loads of 16 bytes in flight, 45 → 41 instructions an element (1024
// columns, dropout). A token's indices are loaded together, and then all of its rows.
#include "embedding.cuh"

namespace retromae {

template <class T>
RETROMAE_DEVICE void embedding_forward_row(const EmbeddingForwardParams& params, uint32_t token) {
    const uint32_t columns = params.columns;
    const EmbeddingRows<T> rows(params, token);
    LaneRow row;
    if (rows.normalized) {
        const float shift = rows.normalized_sum(columns, row);
        const RowStatistics statistics = row_statistics(row, shift, columns, params.eps);
        if (threadIdx.x % 32u == 0) {
            pointer<float>(params.mean)[token] = statistics.mean;
            pointer<float>(params.rstd)[token] = statistics.rstd;
        }
        for_chunks(columns, [&](int index, uint32_t column) {
            normalize(row[index], statistics, pointer<const float>(params.gamma),
                      pointer<const float>(params.beta), column, row[index]);
            apply_dropout(params.dropout, 0, token, column / 8u, row[index]);
        });
    } else {
        rows.plain_sum(columns, row);
    }
    T* output = pointer<T>(params.output) + static_cast<uint64_t>(token) * columns;
    for_chunks(columns, [&](int index, uint32_t column) { store(output + column, row[index]); });
}

template <class T>
RETROMAE_DEVICE void embedding_forward(const EmbeddingForwardParams& params) {
    const uint32_t first = blockIdx.x * kForwardRows;
    const uint32_t end = first + kForwardRows < params.tokens ? first + kForwardRows : params.tokens;
    for (uint32_t token = first + threadIdx.x / 32u; token < end; token += kRowWarps)
        embedding_forward_row<T>(params, token);
}

struct EmbeddingForwardLaunch : ForwardRowsLaunch {
    static Grid grid(const EmbeddingForwardParams& params) { return grid_of(params.tokens); }
};

RETROMAE_KERNEL(embedding_forward_f32, EmbeddingForwardParams, EmbeddingForwardLaunch) {
    embedding_forward<float>(params);
}
RETROMAE_KERNEL(embedding_forward_bf16, EmbeddingForwardParams, EmbeddingForwardLaunch) {
    embedding_forward<bf16>(params);
}

}  // namespace retromae
