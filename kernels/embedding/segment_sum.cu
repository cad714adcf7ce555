// Segment sums: output[rows[s]] += Σ input[indices[k]] over k in offsets[s]..offsets[s + 1]: the gradient of
// a table, gathered by the tokens that read each of its rows, so no atomics and the same order of additions
// every time.
//
// A block takes 8 segments and 256 columns, a lane 8 of them (16 bytes of a 16-bit type). A short segment is
// one warp's work. A long one, such as the [MASK] token's, which holds up to a quarter of a batch, is shared
// by all eight warps of its block, or the launch would wait for one warp. Each row of input is read once,
// with one addition an element: bound by memory; four rows are in flight.
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kSegmentWarps = 8;
constexpr uint32_t kSegmentThreads = 32 * kSegmentWarps;
constexpr uint32_t kSegmentColumns = 256;
constexpr int32_t kSegmentRowsInFlight = 4;
// From here on sharing saves more than its two barriers cost.
constexpr int32_t kLongSegment = 64;

// A segment's part of the indices. Offsets that fall, or leave the indices, are the caller's mistake: it
// shows.
struct Segment {
    int32_t begin;
    int32_t end;
    bool valid;

    RETROMAE_DEVICE Segment at(const SegmentSumParams& params, uint32_t index) {
        const int32_t* offsets = pointer<const int32_t>(params.offsets) + index;
        const int32_t begin = offsets[0], end = offsets[1];
        const bool valid = begin >= 0 && begin <= end && static_cast<uint32_t>(end) <= params.count;
        return {valid ? begin : 0, valid ? end : 0, valid};
    }
};

// The sum over every `step`-th k in begin..end, for this lane's columns from `column` on.
template <class T>
RETROMAE_DEVICE void sum_segment(const SegmentSumParams& params, int32_t begin, int32_t end, int32_t step,
                                 uint32_t column, float (&total)[8]) {
    const T* input = pointer<const T>(params.input) + column;
    const int32_t* indices = pointer<const int32_t>(params.indices);
    for (int32_t k = begin; k < end; k += step * kSegmentRowsInFlight) {
        float values[kSegmentRowsInFlight][8] = {};
        RETROMAE_UNROLL
        for (int32_t j = 0; j < kSegmentRowsInFlight; ++j) {
            const int32_t next = k + j * step;
            if (next >= end) continue;
            const uint32_t row = indices != nullptr ? indices[next] : next;
            if (row < params.input_rows)
                load(input + static_cast<uint64_t>(row) * params.columns, values[j]);
            else
                fill(values[j], NAN);
        }
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) total[i] += (values[0][i] + values[1][i]) + (values[2][i] + values[3][i]);
    }
}

template <class Output>
RETROMAE_DEVICE void add_to_output(const SegmentSumParams& params, uint32_t segment, uint32_t column,
                                   const float (&total)[8]) {
    const int32_t* rows = pointer<const int32_t>(params.rows);
    const uint32_t row = rows != nullptr ? rows[segment] : segment;
    if (row >= params.output_rows) return;
    Output* output = pointer<Output>(params.output) + static_cast<uint64_t>(row) * params.columns + column;
    float result[8];
    load(output, result);
    RETROMAE_UNROLL
    for (int i = 0; i < 8; ++i) result[i] += total[i];
    store(output, result);
}

// One segment by all warps of the block; warp 0 adds their sums up.
template <class T, class Output>
RETROMAE_DEVICE void sum_long_segment(const SegmentSumParams& params, uint32_t segment, int32_t begin,
                                      int32_t end, uint32_t column, float* totals) {
    const uint32_t warp = threadIdx.x / 32u, lane = threadIdx.x % 32u;
    float total[8] = {};
    if (column < params.columns)
        sum_segment<T>(params, begin + static_cast<int32_t>(warp), end, kSegmentWarps, column, total);
    store(totals + warp * kSegmentColumns + lane * 8u, total);
    __syncthreads();
    if (warp == 0 && column < params.columns) {
        RETROMAE_UNROLL
        for (uint32_t other = 1; other < kSegmentWarps; ++other) {
            float part[8];
            load(totals + other * kSegmentColumns + lane * 8u, part);
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) total[i] += part[i];
        }
        add_to_output<Output>(params, segment, column, total);
    }
    __syncthreads();  // before the next long segment overwrites the sums
}

template <class T, class Output>
RETROMAE_DEVICE void segment_sum(const SegmentSumParams& params) {
    SharedMemory memory = SharedMemory::begin();
    float* totals = memory.take<float>(kSegmentWarps * kSegmentColumns);
    const uint32_t column = blockIdx.y * kSegmentColumns + threadIdx.x % 32u * 8u;
    const uint32_t first = blockIdx.x * kSegmentWarps;
    for (uint32_t index = first; index < first + kSegmentWarps && index < params.segments; ++index) {
        const Segment segment = Segment::at(params, index);
        if (segment.end - segment.begin >= kLongSegment)
            sum_long_segment<T, Output>(params, index, segment.begin, segment.end, column, totals);
    }
    const uint32_t index = first + threadIdx.x / 32u;
    if (index >= params.segments || column >= params.columns) return;
    const Segment segment = Segment::at(params, index);
    if (segment.valid && (segment.begin == segment.end || segment.end - segment.begin >= kLongSegment))
        return;
    float total[8];
    fill(total, segment.valid ? 0.0f : NAN);
    sum_segment<T>(params, segment.begin, segment.end, 1, column, total);
    add_to_output<Output>(params, index, column, total);
}

RETROMAE_KERNEL(segment_sum_f32, SegmentSumParams, kSegmentThreads) {
    segment_sum<float, float>(params);
}
RETROMAE_KERNEL(segment_sum_bf16, SegmentSumParams, kSegmentThreads) {
    segment_sum<bf16, float>(params);
}
// The output in the type of the input.
RETROMAE_KERNEL(segment_sum_narrow_bf16, SegmentSumParams, kSegmentThreads) {
    segment_sum<bf16, bf16>(params);
}

}  // namespace retromae
