// The gradient of an embedding table by atomic additions: table[ids[t]] += rows[t].
//
// Reads T·H elements and adds 4 bytes for each to the table, in place: bound by memory, and by the L2 where
// many tokens share a row.
#include "../arch/atomic_add.cuh"
#include "pass.cuh"

namespace retromae {

template <class T>
RETROMAE_DEVICE void embedding_backward(const BaselineEmbeddingParams& params) {
    for_pass(static_cast<uint64_t>(params.tokens) * params.columns, [&](uint64_t element) {
        float row[8];
        load(pointer<const T>(params.rows) + element, row);
        const int32_t id = pointer<const int32_t>(params.ids)[element / params.columns];
        float* table = pointer<float>(params.table) + static_cast<uint64_t>(id) * params.columns +
                       element % params.columns;
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) atomic_add(table + i, row[i]);
    });
}

RETROMAE_KERNEL(baseline_embedding_backward_f32, BaselineEmbeddingParams, PassLaunch) {
    embedding_backward<float>(params);
}
RETROMAE_KERNEL(baseline_embedding_backward_bf16, BaselineEmbeddingParams, PassLaunch) {
    embedding_backward<bf16>(params);
}

}  // namespace retromae
