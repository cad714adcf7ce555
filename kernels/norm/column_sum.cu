// Column sums: outputs[m][column] += Σ over rows of input[row, m·columns + column], as gradients of biases
// need them.
//
// A block takes 256 bytes of columns: sixteen lanes of 16 bytes a row, 16 rows at once, and a thread loads
// eight rows of its own before it adds them. So narrow a block makes enough of them where there are few rows,
// such as the 256 of LayerNorm's partial sums (36 blocks for three sums of 768 columns, where 512 columns a
// block made 6). Each element is read once, with one addition: bound by memory. The threads' sums meet in
// shared memory; where there are several blocks of rows, a second launch adds their sums up, in the same
// order every time: no atomics.
//
// nvcc 13.0's code for sm_90a in bf16, where four loads of 8 bytes were in flight → eight of 16: 58 → 64
// registers, 4 blocks an SM, 4.6 → 3.2 instructions an element.
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kColumnSumThreads = 256;
constexpr uint32_t kColumnSumLanes = 16;  // of a row
constexpr uint32_t kColumnSumRows = kColumnSumThreads / kColumnSumLanes;

// Adds `Count` rows, all of them loaded first.
template <int Count, int Width, class T>
RETROMAE_DEVICE void add_rows(const T* input, uint64_t stride, float (&totals)[Width]) {
    Pack<T, Width> rows[Count];
    RETROMAE_UNROLL
    for (int row = 0; row < Count; ++row)
        rows[row] = *reinterpret_cast<const Pack<T, Width>*>(input + static_cast<uint64_t>(row) * stride);
    RETROMAE_UNROLL
    for (int row = 0; row < Count; ++row) RETROMAE_UNROLL
    for (int i = 0; i < Width; ++i) totals[i] += to_float(rows[row].values[i]);
}

// The sums of all threads of a block, in shared memory: each four columns of a lane lie in a plane of their
// own, in which consecutive threads have consecutive 16 bytes.
template <int Width>
struct ColumnPlanes {
    static constexpr uint32_t kPlane = kColumnSumRows * kColumnSumLanes * 4;
    float* sums;

    RETROMAE_MEMBER void put(const float (&totals)[Width]) const {
        RETROMAE_UNROLL
        for (uint32_t quad = 0; quad < Width / 4; ++quad) {
            float part[4];
            RETROMAE_UNROLL
            for (int i = 0; i < 4; ++i) part[i] = totals[quad * 4 + i];
            store(sums + quad * kPlane + threadIdx.x * 4u, part);
        }
    }
    // Adds the sums of four of a lane's columns up.
    RETROMAE_MEMBER void reduce(uint32_t quad, uint32_t lane, float (&total)[4]) const {
        fill(total, 0.0f);
        RETROMAE_UNROLL
        for (uint32_t row = 0; row < kColumnSumRows; ++row) {
            float part[4];
            load(sums + quad * kPlane + (row * kColumnSumLanes + lane) * 4u, part);
            RETROMAE_UNROLL
            for (int i = 0; i < 4; ++i) total[i] += part[i];
        }
    }
};

template <class T>
RETROMAE_DEVICE void column_sum(const ColumnSumParams& params) {
    constexpr int kWidth = 16 / sizeof(T);
    constexpr uint32_t kColumns = kColumnSumLanes * kWidth;
    if (params.outputs[blockIdx.z] == 0) return;
    const uint32_t lane = threadIdx.x % kColumnSumLanes;
    const uint32_t column = blockIdx.y * kColumns + lane * kWidth;
    const uint64_t first = static_cast<uint64_t>(blockIdx.x) * params.rows_per_block;
    const uint64_t block_end =
        first + params.rows_per_block < params.rows ? first + params.rows_per_block : params.rows;
    const uint64_t end = column < params.columns ? block_end : 0;
    const T* input =
        pointer<const T>(params.input) + static_cast<uint64_t>(blockIdx.z) * params.columns + column;
    float totals[kWidth] = {};
    const uint64_t stride = static_cast<uint64_t>(kColumnSumRows) * params.input_stride;
    uint64_t row = first + threadIdx.x / kColumnSumLanes;
    for (; row + 7 * kColumnSumRows < end; row += 8 * kColumnSumRows)
        add_rows<8>(input + row * params.input_stride, stride, totals);
    if (row + 3 * kColumnSumRows < end) {
        add_rows<4>(input + row * params.input_stride, stride, totals);
        row += 4 * kColumnSumRows;
    }
    for (; row < end; row += kColumnSumRows) add_rows<1>(input + row * params.input_stride, stride, totals);

    const ColumnPlanes<kWidth> planes = {SharedMemory::begin().take<float>(kColumnSumRows * kColumns)};
    planes.put(totals);
    __syncthreads();
    // A thread adds up four columns.
    const uint32_t quad = threadIdx.x / kColumnSumLanes;
    const uint32_t own = column + quad * 4u;
    if (quad >= kWidth / 4 || own >= params.columns) return;
    float total[4], result[4] = {};
    planes.reduce(quad, lane, total);
    float* output = pointer<float>(params.outputs[blockIdx.z]) +
                    static_cast<uint64_t>(blockIdx.x) * params.output_stride + own;
    if (params.accumulate != 0) load(output, result);
    RETROMAE_UNROLL
    for (int i = 0; i < 4; ++i) result[i] += total[i];
    store(output, result);
}

template <class T>
struct ColumnSumLaunch : Launch<kColumnSumThreads> {
    static constexpr uint32_t kColumns = kColumnSumLanes * 16 / sizeof(T);
    // A matrix a layer. Without rows there is still one block, which writes zeros.
    static Grid grid(const ColumnSumParams& params) {
        const uint64_t blocks = params.rows == 0 ? 1 : ceil_div(params.rows, params.rows_per_block);
        return {blocks, ceil_div(params.columns, kColumns), params.matrices};
    }
    static uint64_t shared_bytes(const ColumnSumParams&) {
        return taken_bytes<float>(kColumnSumRows * kColumns);
    }
};

RETROMAE_KERNEL(column_sum_f32, ColumnSumParams, ColumnSumLaunch<float>) {
    column_sum<float>(params);
}
RETROMAE_KERNEL(column_sum_bf16, ColumnSumParams, ColumnSumLaunch<bf16>) {
    column_sum<bf16>(params);
}

}  // namespace retromae
