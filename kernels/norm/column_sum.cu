// Column sums: outputs[m][column] += Σ over rows of input[row, m·columns + column], as gradients of biases
// need them.
//
// A warp spans 512 columns, four groups of 4 a lane (16 bytes of f32 each), and eight warps of a block take
// every eighth of its rows; their sums meet in shared memory. Each element is read once, with one addition:
// bound by memory, so a lane keeps four loads in flight. Where there are several blocks of rows, a second
// launch adds their sums up, in the same order every time: no atomics.
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kColumnSumWarps = 8;
constexpr uint32_t kColumnSumThreads = 32 * kColumnSumWarps;
constexpr uint32_t kColumnSumGroups = 4;
constexpr uint32_t kColumnSumColumns = 32 * kColumnSumGroups * 4;

template <class T>
RETROMAE_DEVICE void column_sum(const ColumnSumParams& params) {
    const uint32_t warp = threadIdx.x / 32u, lane = threadIdx.x % 32u;
    const uint64_t first = static_cast<uint64_t>(blockIdx.x) * params.rows_per_block;
    const uint64_t end =
        first + params.rows_per_block < params.rows ? first + params.rows_per_block : params.rows;
    if (params.outputs[blockIdx.z] == 0) return;
    const T* input = pointer<const T>(params.input) + static_cast<uint64_t>(blockIdx.z) * params.columns;

    uint32_t columns[kColumnSumGroups];
    float totals[kColumnSumGroups][4];
    RETROMAE_UNROLL
    for (uint32_t group = 0; group < kColumnSumGroups; ++group) {
        columns[group] = blockIdx.y * kColumnSumColumns + group_offset(lane, 32, group, kColumnSumGroups, 4);
        RETROMAE_UNROLL
        for (int i = 0; i < 4; ++i) totals[group][i] = 0.0f;
    }
    for (uint64_t row = first + warp; row < end; row += kColumnSumWarps) {
        float values[kColumnSumGroups][4] = {};
        RETROMAE_UNROLL
        for (uint32_t group = 0; group < kColumnSumGroups; ++group)
            if (columns[group] < params.columns)
                load(input + row * params.input_stride + columns[group], values[group]);
        RETROMAE_UNROLL
        for (uint32_t group = 0; group < kColumnSumGroups; ++group) RETROMAE_UNROLL
        for (int i = 0; i < 4; ++i) totals[group][i] += values[group][i];
    }

    SharedMemory memory = SharedMemory::begin();
    float* shared = memory.take<float>(kColumnSumWarps * kColumnSumColumns);
    RETROMAE_UNROLL
    for (uint32_t group = 0; group < kColumnSumGroups; ++group)
        store(shared + warp * kColumnSumColumns + group * 128u + lane * 4u, totals[group]);
    __syncthreads();
    // Warp g adds up group g of every lane.
    if (warp >= kColumnSumGroups) return;
    const uint32_t column =
        blockIdx.y * kColumnSumColumns + group_offset(lane, 32, warp, kColumnSumGroups, 4);
    if (column >= params.columns) return;
    float* output = pointer<float>(params.outputs[blockIdx.z]) +
                    static_cast<uint64_t>(blockIdx.x) * params.output_stride + column;
    float total[4] = {}, result[4] = {};
    RETROMAE_UNROLL
    for (uint32_t other = 0; other < kColumnSumWarps; ++other) {
        float part[4];
        load(shared + other * kColumnSumColumns + warp * 128u + lane * 4u, part);
        RETROMAE_UNROLL
        for (int i = 0; i < 4; ++i) total[i] += part[i];
    }
    if (params.accumulate != 0) load(output, result);
    RETROMAE_UNROLL
    for (int i = 0; i < 4; ++i) result[i] += total[i];
    store(output, result);
}

RETROMAE_KERNEL(column_sum_f32, ColumnSumParams, kColumnSumThreads) {
    column_sum<float>(params);
}
RETROMAE_KERNEL(column_sum_bf16, ColumnSumParams, kColumnSumThreads) {
    column_sum<bf16>(params);
}

}  // namespace retromae
