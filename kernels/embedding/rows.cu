// Rows by index: gather_rows copies output[i] = input[rows[i]], scatter_add_rows adds output[rows[i]] +=
// input[i], no row twice. A negative row is none: gathered as zeros, scattered nowhere; it fills up lists
// whose length is that of a recorded launch. A row beyond the last is the caller's mistake, which shows: it
// is gathered as NaN.
//
// A warp takes 256 columns of a row, a lane 8 of them (16 bytes of a 16-bit type). Gather reads and writes
// each element once, scatter reads two and writes one: bound by memory.
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kRowsWarps = 8;
constexpr uint32_t kRowsThreads = 32 * kRowsWarps;
constexpr uint32_t kRowsColumns = 256;

// Calls `body(row rows[i], element of it, element of row i)` for this lane's group of 8.
template <class Body>
RETROMAE_DEVICE void for_row_group(const RowsParams& params, Body body) {
    const uint32_t index = blockIdx.x * kRowsWarps + threadIdx.x / 32u;
    const uint32_t column = blockIdx.y * kRowsColumns + lane_index() * 8u;
    if (index >= params.count || column >= params.columns) return;
    const int32_t row = pointer<const int32_t>(params.rows)[index];
    body(row, static_cast<uint64_t>(row) * params.columns + column,
         static_cast<uint64_t>(index) * params.columns + column);
}

template <class T>
RETROMAE_DEVICE void gather_rows(const RowsParams& params) {
    for_row_group(params, [&](int32_t row, uint64_t indexed, uint64_t consecutive) {
        using Group = Pack<T, 8>;
        Group& output = *reinterpret_cast<Group*>(pointer<T>(params.output) + consecutive);
        if (static_cast<uint32_t>(row) < params.indexed_rows) {
            output = *reinterpret_cast<const Group*>(pointer<const T>(params.input) + indexed);
        } else {
            float values[8];
            fill(values, row < 0 ? 0.0f : NAN);
            store(output.values, values);
        }
    });
}

template <class T>
RETROMAE_DEVICE void scatter_add_rows(const RowsParams& params) {
    for_row_group(params, [&](int32_t row, uint64_t indexed, uint64_t consecutive) {
        if (static_cast<uint32_t>(row) >= params.indexed_rows) return;
        float sum[8], added[8];
        load(pointer<const T>(params.output) + indexed, sum);
        load(pointer<const T>(params.input) + consecutive, added);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) sum[i] += added[i];
        store(pointer<T>(params.output) + indexed, sum);
    });
}

struct RowsLaunch : Launch<kRowsThreads> {
    static Grid grid(const RowsParams& params) {
        return {ceil_div(params.count, kRowsWarps), ceil_div(params.columns, kRowsColumns)};
    }
};

RETROMAE_KERNEL(gather_rows_f32, RowsParams, RowsLaunch) {
    gather_rows<float>(params);
}
RETROMAE_KERNEL(gather_rows_bf16, RowsParams, RowsLaunch) {
    gather_rows<bf16>(params);
}
RETROMAE_KERNEL(scatter_add_rows_f32, RowsParams, RowsLaunch) {
    scatter_add_rows<float>(params);
}
RETROMAE_KERNEL(scatter_add_rows_bf16, RowsParams, RowsLaunch) {
    scatter_add_rows<bf16>(params);
}

}  // namespace retromae
