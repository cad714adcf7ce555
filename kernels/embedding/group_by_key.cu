// Rows grouped by key, so that segment_sum can add up what goes to one place: a stable radix sort by digits
// of 8 bits from the lowest up, then the runs of equal keys. Several arrays of keys are grouped at once, one
// a row of blocks.
//
// A pass is two launches. group_count counts the digits of each tile of 2048 keys; group_scatter adds up the
// counts of the tiles before it, ranks its keys and moves them. Every place is a sum of counts, in the order
// of the tiles, so there are no atomics, and equal inputs give equal results. A warp ranks 32 keys by
// matching their digits; the first lane of each digit keeps the warp's count of it.
//
// A pass reads keys twice and indices once and writes both, 20 bytes a row: nothing beside a step, as is the
// square of the tiles that read each other's counts (1 KB a tile). The time goes into the launches, two a
// pass and one at the end, so the arrays share them.
#include "../arch/bits.cuh"
#include "../core/block_scan.cuh"
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kGroupThreads = 256;
constexpr uint32_t kGroupWarps = kGroupThreads / 32;
constexpr uint32_t kGroupItems = 8;
constexpr uint32_t kGroupTile = kGroupThreads * kGroupItems;
constexpr uint32_t kDigits = 1u << GROUP_DIGIT_BITS;
static_assert(kGroupTile == GROUP_TILE, "as the workspace is made for");
static_assert(kDigits == kGroupThreads, "a thread adds up one digit");

// The row of a thread's item: a warp's items are consecutive.
RETROMAE_DEVICE uint32_t group_row(uint32_t item) {
    return blockIdx.x * kGroupTile + (threadIdx.x / 32 * kGroupItems + item) * 32 + lane_index();
}

// A key of the input; one that is out of range counts as the number of keys, behind all others.
RETROMAE_DEVICE uint32_t key_of(const GroupedKeys& keys, uint32_t row) {
    const uint32_t key = pointer<const uint32_t>(keys.input_keys)[row];
    return key < keys.key_count ? key : keys.key_count;
}

// Counts the digits of the warp's keys in its 256 counters of `counts`, and says for each key how many of its
// digit come before it. Rows beyond the end have a digit of their own, above all others.
RETROMAE_DEVICE void rank_digits(const GroupByKeyParams& params, const GroupedKeys& keys, uint32_t* counts,
                                 uint32_t (&digits)[kGroupItems], uint32_t (&ranks)[kGroupItems]) {
    for (uint32_t digit = lane_index(); digit < kDigits; digit += 32) counts[digit] = 0;
    warp_barrier();
    RETROMAE_UNROLL
    for (uint32_t item = 0; item < kGroupItems; ++item) {
        const uint32_t row = group_row(item);
        if (row - lane_index() >= params.count) break;  // for the whole warp
        const bool exists = row < params.count;
        const uint32_t key = exists ? key_of(keys, row) : 0;
        digits[item] = exists ? key >> params.shift & (kDigits - 1) : kDigits;
        const uint32_t same = warp_match(digits[item]);
        const uint32_t before = bit_count(same & ((1u << lane_index()) - 1u));
        ranks[item] = exists ? counts[digits[item]] + before : 0;
        warp_barrier();
        if (exists && before == 0) counts[digits[item]] += bit_count(same);
        warp_barrier();
    }
}

// One block per tile of keys. Shared memory holds the counts of all warps, the scratch of a scan, or both.
template <bool Counts, bool Scan>
struct GroupLaunch : Launch<kGroupThreads> {
    // Without rows there is still one tile, whose block ends the segments.
    static Grid grid(const GroupByKeyParams& params) {
        const uint64_t tiles = ceil_div(params.count, kGroupTile);
        return {tiles > 0 ? tiles : 1, params.array_count};
    }
    static uint64_t shared_bytes(const GroupByKeyParams&) {
        return (Counts ? taken_bytes<uint32_t>(kGroupWarps * kDigits) : 0) +
               (Scan ? taken_bytes<uint32_t>(kGroupWarps) : 0);
    }
};

RETROMAE_KERNEL(group_count, GroupByKeyParams, GroupLaunch<true, false>) {
    const GroupedKeys& keys = params.arrays[blockIdx.y];
    uint32_t* counts = SharedMemory::begin().take<uint32_t>(kGroupWarps * kDigits);
    uint32_t digits[kGroupItems], ranks[kGroupItems];
    rank_digits(params, keys, counts + threadIdx.x / 32 * kDigits, digits, ranks);
    __syncthreads();
    uint32_t total = 0;
    RETROMAE_UNROLL
    for (uint32_t warp = 0; warp < kGroupWarps; ++warp) total += counts[warp * kDigits + threadIdx.x];
    pointer<uint32_t>(keys.counts)[blockIdx.x * kDigits + threadIdx.x] = total;
}

RETROMAE_KERNEL(group_scatter, GroupByKeyParams, GroupLaunch<true, true>) {
    const GroupedKeys& keys = params.arrays[blockIdx.y];
    SharedMemory memory = SharedMemory::begin();
    uint32_t* counts = memory.take<uint32_t>(kGroupWarps * kDigits);
    uint32_t* scratch = memory.take<uint32_t>(kGroupWarps);
    uint32_t digits[kGroupItems], ranks[kGroupItems];
    rank_digits(params, keys, counts + threadIdx.x / 32 * kDigits, digits, ranks);

    // Counts of this thread's digit: in all tiles, and in those before.
    uint32_t total = 0, earlier = 0;
    for (uint32_t tile = 0; tile < gridDim.x; ++tile) {
        const uint32_t count = pointer<const uint32_t>(keys.counts)[tile * kDigits + threadIdx.x];
        total += count;
        if (tile < blockIdx.x) earlier += count;
    }
    uint32_t all;
    uint32_t place = block_exclusive_sum<kGroupWarps>(total, scratch, all) + earlier;
    // First index of each warp's keys of the digit.
    RETROMAE_UNROLL
    for (uint32_t warp = 0; warp < kGroupWarps; ++warp) {
        const uint32_t count = counts[warp * kDigits + threadIdx.x];
        counts[warp * kDigits + threadIdx.x] = place;
        place += count;
    }
    __syncthreads();
    RETROMAE_UNROLL
    for (uint32_t item = 0; item < kGroupItems; ++item) {
        const uint32_t row = group_row(item);
        if (row >= params.count) continue;
        const uint32_t to = counts[threadIdx.x / 32 * kDigits + digits[item]] + ranks[item];
        pointer<uint32_t>(keys.output_keys)[to] = key_of(keys, row);
        const uint32_t* indices = pointer<const uint32_t>(keys.input_indices);
        pointer<uint32_t>(keys.output_indices)[to] = indices != nullptr ? indices[row] : row;
    }
}

// True for a sorted key that differs from the one before.
RETROMAE_DEVICE bool begins_segment(const uint32_t* keys, uint32_t place) {
    return place == 0 || keys[place] != keys[place - 1];
}

// Each block counts again the segments before its tile: half the square of the tiles in reads (16 tiles and
// 128 KB of keys for 32,768 rows), for one launch less.
RETROMAE_KERNEL(group_segments, GroupByKeyParams, GroupLaunch<false, true>) {
    const GroupedKeys& array = params.arrays[blockIdx.y];
    const uint32_t* keys = pointer<const uint32_t>(array.input_keys);
    uint32_t* rows = pointer<uint32_t>(array.rows);
    uint32_t* offsets = pointer<uint32_t>(array.offsets);
    uint32_t* scratch = SharedMemory::begin().take<uint32_t>(kGroupWarps);
    const uint32_t tile = blockIdx.x * kGroupTile;
    uint32_t earlier = 0;
    for (uint32_t place = threadIdx.x; place < tile; place += kGroupThreads)
        earlier += begins_segment(keys, place) ? 1 : 0;
    uint32_t segments_before;
    block_exclusive_sum<kGroupWarps>(earlier, scratch, segments_before);

    const uint32_t first = tile + threadIdx.x * kGroupItems;
    const uint32_t last = first + kGroupItems < params.count ? first + kGroupItems : params.count;
    uint32_t own = 0;
    for (uint32_t place = first; place < last; ++place) own += begins_segment(keys, place) ? 1 : 0;
    uint32_t in_tile;
    uint32_t segment = segments_before + block_exclusive_sum<kGroupWarps>(own, scratch, in_tile);
    for (uint32_t place = first; place < last; ++place) {
        if (!begins_segment(keys, place)) continue;
        // Keys out of range, the last, may be one segment more than there is room for.
        if (segment < array.segments) rows[segment] = keys[place];
        offsets[segment] = place;
        ++segment;
    }
    if (blockIdx.x + 1 < gridDim.x) return;
    // Empty segments, up to as many as there is room for.
    for (uint32_t empty = segments_before + in_tile + threadIdx.x; empty <= array.segments;
         empty += kGroupThreads) {
        offsets[empty] = params.count;
        if (empty < array.segments) rows[empty] = 0;
    }
}

}  // namespace retromae
