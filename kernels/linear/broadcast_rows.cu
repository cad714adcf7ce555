// output[row, column] = bias[column]: what a product is accumulated onto, so that a linear layer's bias needs
// no pass of its own after the product. Elementwise, bound by memory: writes rows·columns elements.
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kBroadcastThreads = 256;
constexpr uint32_t kBroadcastGroups = 4;

template <class T>
RETROMAE_DEVICE void broadcast_rows(const BroadcastRowsParams& params) {
    const uint64_t elements = static_cast<uint64_t>(params.rows) * params.columns;
    const uint64_t block_start = static_cast<uint64_t>(blockIdx.x) * kBroadcastThreads * kBroadcastGroups * 8;
    RETROMAE_UNROLL
    for (uint32_t group = 0; group < kBroadcastGroups; ++group) {
        const uint64_t element =
            block_start + group_offset(threadIdx.x, kBroadcastThreads, group, kBroadcastGroups, 8);
        if (element >= elements) continue;
        float values[8];
        load(pointer<const float>(params.bias) + element % params.columns, values);
        store(pointer<T>(params.output) + element, values);
    }
}

RETROMAE_KERNEL(broadcast_rows_f32, BroadcastRowsParams, kBroadcastThreads) {
    broadcast_rows<float>(params);
}
RETROMAE_KERNEL(broadcast_rows_bf16, BroadcastRowsParams, kBroadcastThreads) {
    broadcast_rows<bf16>(params);
}

}  // namespace retromae
