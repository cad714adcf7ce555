// Segment sums: output[rows[s]] += Σ input[indices[k]] over k in offsets[s]..offsets[s + 1]: the gradient of
// a table, gathered by the tokens that read each of its rows, so no atomics and the same order of additions
// every time.
//
// A short segment is one warp's work; a lane takes two quads of a block's 256 columns, each beside that of
// the neighboring lane, in the input as in the output. A long one, such as the [MASK] token's, which holds
// up to a quarter of a batch, would keep the launch waiting for one block. So segment_slices, which runs
// before, cuts the places k, not the segments, into slices of 64, a block each: it sums what a slice holds of
// the long segment that goes on at its start and of the one that begins in it, if they are there, and
// segment_sum adds these partial sums up, an eighth of them a warp. Long is what has at least a slice's
// places: no slice holds parts of three such segments, so two sums a slice are enough.
//
// Each row of input is read once, with one addition an element, and a long segment's sums are 1/32 of its
// bytes in bf16: bound by memory. Of 8,192 rows that are one token id's, 128 slices of 768 columns are 384
// blocks, where the id had 3.
//
// nvcc 13.0's code for sm_90a in bf16, where each of four loads was in a branch of its own → where eight are
// in flight: 69 → 68 registers, 3 blocks an SM, 2 → 8 rows in flight, 6.5 → 4.9 instructions an element.
#include "../arch/bits.cuh"
#include "../arch/warp_primitives.cuh"
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kSegmentWarps = 8;
constexpr uint32_t kSegmentThreads = 32 * kSegmentWarps;
constexpr uint32_t kSegmentsPerBlock = 16;
constexpr uint32_t kSegmentColumns = 256;
constexpr uint32_t kSecondQuad = kSegmentColumns / 2;
// Places of a slice, and of the shortest segment that is sliced.
constexpr uint32_t kSlice = SEGMENT_SLICE;
constexpr uint32_t kNoSegment = ~0u;
// A segment of more slices is summed by all warps of its block; else one warp's loads are few enough to wait
// for.
constexpr uint32_t kWarpSlices = 16;

// A segment's part of the indices. Offsets that fall, or leave the indices, are the caller's mistake: it
// shows.
struct Segment {
    uint32_t begin;
    uint32_t end;
    bool valid;

    RETROMAE_DEVICE Segment at(const SegmentSumParams& params, uint32_t index) {
        const int32_t* offsets = pointer<const int32_t>(params.offsets) + index;
        const int32_t begin = offsets[0], end = offsets[1];
        const bool valid = begin >= 0 && begin <= end && static_cast<uint32_t>(end) <= params.count;
        return {valid ? static_cast<uint32_t>(begin) : 0u, valid ? static_cast<uint32_t>(end) : 0u, valid};
    }

    RETROMAE_MEMBER bool is_long() const { return end - begin >= kSlice; }
    // The slices that a long segment touches.
    RETROMAE_MEMBER uint32_t slices() const { return (end - 1) / kSlice - begin / kSlice + 1; }
    RETROMAE_MEMBER bool is_shared() const { return is_long() && slices() > kWarpSlices; }
};

// The first column of this lane's first quad; the second one begins kSecondQuad later, where there are so
// many.
RETROMAE_DEVICE uint32_t lane_column() {
    return blockIdx.y * kSegmentColumns + lane_index() * 4u;
}

// The row of input of each place. One that is out of range stands for row 0, so that there is one to read,
// and makes the sum not `valid`.
template <class T>
struct IndexedRows {
    using Element = T;
    const T* input;
    const int32_t* indices;
    uint32_t columns;
    uint32_t input_rows;
    bool valid;

    RETROMAE_MEMBER IndexedRows(const SegmentSumParams& params, uint32_t column)
        : input(pointer<const T>(params.input) + column),
          indices(pointer<const int32_t>(params.indices)),
          columns(params.columns),
          input_rows(params.input_rows),
          valid(true) {}

    RETROMAE_MEMBER const T* row(uint32_t place) {
        const uint32_t index = indices != nullptr ? static_cast<uint32_t>(indices[place]) : place;
        valid = valid && index < input_rows;
        return input + static_cast<uint64_t>(index < input_rows ? index : 0) * columns;
    }
};

// The partial sums of a long segment, slice by slice. Those of another segment, which are found where offsets
// fall, make the sum not `valid`.
struct PartialRows {
    using Element = float;
    const float* partials;
    const uint32_t* owners;
    uint32_t columns;
    uint32_t segment;
    uint32_t first_slice;
    bool begins_inside;  // the first slice
    bool valid;

    RETROMAE_MEMBER PartialRows(const SegmentSumParams& params, uint32_t segment, uint32_t begin,
                                uint32_t column)
        : partials(pointer<const float>(params.partials) + column),
          owners(pointer<const uint32_t>(params.owners)),
          columns(params.columns),
          segment(segment),
          first_slice(begin / kSlice),
          begins_inside(begin % kSlice != 0),
          valid(true) {}

    RETROMAE_MEMBER const float* row(uint32_t place) {
        const uint32_t sum = (first_slice + place) * 2u + (place == 0 && begins_inside ? 1u : 0u);
        valid = valid && owners[sum] == segment;
        return partials + static_cast<uint64_t>(sum) * columns;
    }
};

// Adds this lane's two quads of `Count` rows, each `step` places after the one before, all of them loaded
// first. `Whole` is true if all places are below `end`; the first always is.
template <int Count, bool Whole, class Rows>
RETROMAE_DEVICE void add_rows(Rows& rows, uint32_t place, uint32_t end, uint32_t step, float (&total)[8]) {
    using T = typename Rows::Element;
    using Quad = Pack<T, 4>;
    // A quad beyond the columns is read where the first is; nobody wants its sum.
    const uint32_t second = lane_column() + kSecondQuad < rows.columns ? kSecondQuad : 0;
    const T* sources[Count];
    Quad values[Count][2];
    RETROMAE_UNROLL
    for (int j = 0; j < Count; ++j) {
        const uint32_t next = place + static_cast<uint32_t>(j) * step;
        sources[j] = rows.row(Whole || next < end ? next : place);
    }
    RETROMAE_UNROLL
    for (int j = 0; j < Count; ++j) {
        values[j][0] = *reinterpret_cast<const Quad*>(sources[j]);
        values[j][1] = *reinterpret_cast<const Quad*>(sources[j] + second);
    }
    RETROMAE_UNROLL
    for (int j = 0; j < Count; ++j) {
        const bool counts = Whole || place + static_cast<uint32_t>(j) * step < end;
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) total[i] += counts ? to_float(values[j][i / 4].values[i % 4]) : 0.0f;
    }
}

// Adds every `step`-th row from `place` to `end`.
template <class Rows>
RETROMAE_DEVICE void sum_rows(Rows& rows, uint32_t place, uint32_t end, uint32_t step, float (&total)[8]) {
    constexpr uint32_t kInFlight = 16 / sizeof(typename Rows::Element);  // 128 bytes a lane
    for (; place + (kInFlight - 1) * step < end; place += kInFlight * step)
        add_rows<kInFlight, true>(rows, place, end, step, total);
    for (; place < end; place += kInFlight / 2 * step)
        add_rows<kInFlight / 2, false>(rows, place, end, step, total);
    if (!rows.valid) fill(total, NAN);
}

// Adds up the eight warps' sums of the block's columns. A thread below 64 gets those of a quad, which begins
// at `column`; false: it has none.
RETROMAE_DEVICE bool block_total(const SegmentSumParams& params, const float (&total)[8], float* shared,
                                 float (&result)[4], uint32_t& column) {
    RETROMAE_UNROLL
    for (uint32_t quad = 0; quad < 2; ++quad) {
        const float part[4] = {total[quad * 4], total[quad * 4 + 1], total[quad * 4 + 2],
                               total[quad * 4 + 3]};
        store(shared + threadIdx.x / 32u * kSegmentColumns + quad * kSecondQuad + lane_index() * 4u, part);
    }
    __syncthreads();
    fill(result, 0.0f);
    if (threadIdx.x < kSegmentColumns / 4u) {
        RETROMAE_UNROLL
        for (uint32_t warp = 0; warp < kSegmentWarps; ++warp) {
            float part[4];
            load(shared + warp * kSegmentColumns + threadIdx.x * 4u, part);
            RETROMAE_UNROLL
            for (int i = 0; i < 4; ++i) result[i] += part[i];
        }
    }
    __syncthreads();  // before the next sums overwrite these
    column = blockIdx.y * kSegmentColumns + threadIdx.x * 4u;
    return threadIdx.x < kSegmentColumns / 4u && column < params.columns;
}

// Adds to the row of a segment, if it is one, from `column` on.
template <class Output, int Quads>
RETROMAE_DEVICE void add_to_output(const SegmentSumParams& params, uint32_t segment, uint32_t column,
                                   const float (&total)[4 * Quads]) {
    const int32_t* rows = pointer<const int32_t>(params.rows);
    const uint32_t row = rows != nullptr ? static_cast<uint32_t>(rows[segment]) : segment;
    if (row >= params.output_rows) return;
    Output* output = pointer<Output>(params.output) + static_cast<uint64_t>(row) * params.columns + column;
    RETROMAE_UNROLL
    for (uint32_t quad = 0; quad < Quads; ++quad) {
        if (column + quad * kSecondQuad >= params.columns) continue;
        float result[4];
        load(output + quad * kSecondQuad, result);
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < 4; ++i) result[i] += total[quad * 4 + i];
        store(output + quad * kSecondQuad, result);
    }
}

// The last segment that begins at `place` or before, which is the one that holds it; the first if there is
// none. A warp looks at 32 offsets at a time.
RETROMAE_DEVICE uint32_t segment_of(const SegmentSumParams& params, uint32_t place) {
    const int32_t* offsets = pointer<const int32_t>(params.offsets);
    // The number of segments that begin there or before lies in first..=first + range.
    uint32_t first = 0, range = params.segments;
    while (range > 0) {
        const uint32_t step = (range + 31u) / 32u, end = first + range;
        const uint32_t probe = first + lane_index() * step + step - 1u;
        const bool begun = probe < end && offsets[probe] <= static_cast<int32_t>(place);
        first += bit_count(warp_ballot(begun)) * step;
        range = step - 1u < end - first ? step - 1u : end - first;
    }
    return first > 0 ? first - 1u : 0u;
}

template <class T>
RETROMAE_DEVICE void segment_slices(const SegmentSumParams& params) {
    SharedMemory memory = SharedMemory::begin();
    float* shared = memory.take<float>(kSegmentWarps * kSegmentColumns);
    uint32_t* found = memory.take<uint32_t>(2);
    const uint32_t warp = threadIdx.x / 32u;
    const uint32_t slice = blockIdx.x * kSlice;
    const uint32_t slice_end = slice + kSlice < params.count ? slice + kSlice : params.count;
    if (warp < 2) {
        const uint32_t segment = segment_of(params, warp == 0 ? slice : slice_end - 1);
        if (lane_index() == 0) found[warp] = segment;
    }
    __syncthreads();
    const uint32_t column = lane_column();
    for (uint32_t which = 0; which < 2; ++which) {
        const uint32_t index = found[which];
        const Segment segment = Segment::at(params, index);
        const bool here = which == 0 ? segment.begin <= slice && slice < segment.end
                                     : slice < segment.begin && segment.begin < slice_end;
        const bool owned = segment.is_long() && here;
        const uint64_t sum = static_cast<uint64_t>(blockIdx.x) * 2u + which;
        if (threadIdx.x == 0 && blockIdx.y == 0)
            pointer<uint32_t>(params.owners)[sum] = owned ? index : kNoSegment;
        if (!owned) continue;
        const uint32_t begin = segment.begin > slice ? segment.begin : slice;
        const uint32_t end = segment.end < slice_end ? segment.end : slice_end;
        float total[8] = {};
        IndexedRows<T> rows(params, column);
        if (column < params.columns) sum_rows(rows, begin + warp, end, kSegmentWarps, total);
        float result[4];
        uint32_t own;
        if (block_total(params, total, shared, result, own))
            store(pointer<float>(params.partials) + sum * params.columns + own, result);
    }
}

// Adds up the partial sums of a long segment by all warps of the block.
template <class Output>
RETROMAE_DEVICE void add_slices(const SegmentSumParams& params, uint32_t index, float* shared) {
    const Segment segment = Segment::at(params, index);
    const uint32_t column = lane_column();
    float total[8] = {};
    PartialRows rows(params, index, segment.begin, column);
    if (column < params.columns) sum_rows(rows, threadIdx.x / 32u, segment.slices(), kSegmentWarps, total);
    float result[4];
    uint32_t own;
    if (block_total(params, total, shared, result, own)) add_to_output<Output, 1>(params, index, own, result);
}

// A segment by one warp.
template <class T, class Output>
RETROMAE_DEVICE void sum_segment(const SegmentSumParams& params, uint32_t index, const Segment& segment) {
    const uint32_t column = lane_column();
    float total[8];
    fill(total, segment.valid ? 0.0f : NAN);
    if (segment.is_long()) {
        PartialRows rows(params, index, segment.begin, column);
        sum_rows(rows, 0, segment.slices(), 1, total);
    } else {
        IndexedRows<T> rows(params, column);
        sum_rows(rows, segment.begin, segment.end, 1, total);
    }
    add_to_output<Output, 2>(params, index, column, total);
}

template <class T, class Output>
RETROMAE_DEVICE void segment_sum(const SegmentSumParams& params) {
    float* shared = SharedMemory::begin().take<float>(kSegmentWarps * kSegmentColumns);
    const uint32_t first = blockIdx.x * kSegmentsPerBlock;
    const uint32_t own = first + lane_index();
    const bool is_shared =
        lane_index() < kSegmentsPerBlock && own < params.segments && Segment::at(params, own).is_shared();
    const uint32_t shared_segments = warp_ballot(is_shared);
    for (uint32_t i = 0; i < kSegmentsPerBlock; ++i)
        if (shared_segments >> i & 1u) add_slices<Output>(params, first + i, shared);
    if (lane_column() >= params.columns) return;
    for (uint32_t i = threadIdx.x / 32u; i < kSegmentsPerBlock; i += kSegmentWarps) {
        const uint32_t index = first + i;
        if (index >= params.segments || (shared_segments >> i & 1u)) continue;
        const Segment segment = Segment::at(params, index);
        if (segment.valid && segment.begin == segment.end) continue;
        sum_segment<T, Output>(params, index, segment);
    }
}

struct SegmentSlicesLaunch : Launch<kSegmentThreads> {
    static Grid grid(const SegmentSumParams& params) {
        return {ceil_div(params.count, kSlice), ceil_div(params.columns, kSegmentColumns)};
    }
    static uint64_t shared_bytes(const SegmentSumParams&) {
        return taken_bytes<float>(kSegmentWarps * kSegmentColumns) + taken_bytes<uint32_t>(2);
    }
};
struct SegmentSumLaunch : Launch<kSegmentThreads> {
    static Grid grid(const SegmentSumParams& params) {
        return {ceil_div(params.segments, kSegmentsPerBlock), ceil_div(params.columns, kSegmentColumns)};
    }
    static uint64_t shared_bytes(const SegmentSumParams&) {
        return taken_bytes<float>(kSegmentWarps * kSegmentColumns);
    }
};

RETROMAE_KERNEL(segment_slices_f32, SegmentSumParams, SegmentSlicesLaunch) {
    segment_slices<float>(params);
}
RETROMAE_KERNEL(segment_slices_bf16, SegmentSumParams, SegmentSlicesLaunch) {
    segment_slices<bf16>(params);
}
RETROMAE_KERNEL(segment_sum_f32, SegmentSumParams, SegmentSumLaunch) {
    segment_sum<float, float>(params);
}
RETROMAE_KERNEL(segment_sum_bf16, SegmentSumParams, SegmentSumLaunch) {
    segment_sum<bf16, float>(params);
}
// The output in the type of the input.
RETROMAE_KERNEL(segment_sum_narrow_bf16, SegmentSumParams, SegmentSumLaunch) {
    segment_sum<bf16, bf16>(params);
}

}  // namespace retromae
