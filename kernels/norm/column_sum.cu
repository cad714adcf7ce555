// Column sums: outputs[m][column] += Σ over rows of input[row, m·columns + column], as gradients of biases need them.
//
// A warp spans 128 columns, 4 a lane (16 bytes of f32), and eight warps of a block take every eighth of its rows; their sums meet in
// shared memory. Each element is read once, with one addition: bound by memory, so a warp keeps four rows in flight. Where there
// are several blocks of rows, a second launch adds their sums up, in the same order every time: no atomics.
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kColumnSumWarps = 8;
constexpr uint32_t kColumnSumThreads = 32 * kColumnSumWarps;
constexpr uint32_t kColumnSumColumns = 128;
constexpr uint32_t kColumnSumRowsInFlight = 4;

// The sum of every eighth row from `row` on.
template <class T>
RETROMAE_DEVICE void warp_column_sum(const T* column, uint32_t stride, uint32_t row, uint32_t end,
                                     float (&total)[4]) {
    constexpr uint32_t kStep = kColumnSumWarps * kColumnSumRowsInFlight;
    for (; row < end; row += kStep) {
        float values[kColumnSumRowsInFlight][4] = {};
        RETROMAE_UNROLL
        for (uint32_t k = 0; k < kColumnSumRowsInFlight; ++k) {
            const uint64_t next = row + k * kColumnSumWarps;
            if (next < end) load(column + next * stride, values[k]);
        }
        RETROMAE_UNROLL
        for (int i = 0; i < 4; ++i) total[i] += (values[0][i] + values[1][i]) + (values[2][i] + values[3][i]);
    }
}

template <class T>
RETROMAE_DEVICE void column_sum(const ColumnSumParams& params) {
    const uint32_t warp = threadIdx.x / 32u, lane = threadIdx.x % 32u;
    const uint32_t column = blockIdx.y * kColumnSumColumns + lane * 4u;
    const uint64_t first = static_cast<uint64_t>(blockIdx.x) * params.rows_per_block;
    const uint64_t end = first + params.rows_per_block < params.rows ? first + params.rows_per_block : params.rows;
    if (params.outputs[blockIdx.z] == 0) return;

    SharedMemory memory = SharedMemory::begin();
    float* totals = memory.take<float>(kColumnSumWarps * kColumnSumColumns);
    float total[4] = {};
    if (column < params.columns) {
        const T* input = pointer<const T>(params.input) + static_cast<uint64_t>(blockIdx.z) * params.columns + column;
        warp_column_sum(input, params.input_stride, static_cast<uint32_t>(first) + warp, static_cast<uint32_t>(end), total);
    }
    store(totals + warp * kColumnSumColumns + lane * 4u, total);
    __syncthreads();
    if (warp != 0 || column >= params.columns) return;
    float* output =
        pointer<float>(params.outputs[blockIdx.z]) + static_cast<uint64_t>(blockIdx.x) * params.output_stride + column;
    float result[4] = {};
    if (params.accumulate != 0) load(output, result);
    RETROMAE_UNROLL
    for (uint32_t other = 1; other < kColumnSumWarps; ++other) {
        float part[4];
        load(totals + other * kColumnSumColumns + lane * 4u, part);
        RETROMAE_UNROLL
        for (int i = 0; i < 4; ++i) total[i] += part[i];
    }
    RETROMAE_UNROLL
    for (int i = 0; i < 4; ++i) result[i] += total[i];
    store(output, result);
}

RETROMAE_KERNEL(column_sum_f32, ColumnSumParams, kColumnSumThreads) { column_sum<float>(params); }
RETROMAE_KERNEL(column_sum_bf16, ColumnSumParams, kColumnSumThreads) { column_sum<bf16>(params); }

}  // namespace retromae
