// Linear layer and softmax cross-entropy without logits: the GEMM's tiles become exponentials in
// registers.
//
//     E = exp(hidden · weightᵀ + bias − reference),  S = Σ E,  log-sum-exp = reference + log S
//     d_hidden = w/S · (E − S·one-hot(target)) · weight,  d_weight = (E − S·one-hot)ᵀ · (w/S · hidden)
//
// E is all that is kept of a chunk of rows, in bf16; as the softmax is E times a number of its row, the two
// GEMMs of the backward take E as it is, and cuBLASLt computes them (src/ops/cross_entropy/fused.rs).
// A row's reference has to be known before its logits are. It is the target's own logit, so that S is one
// over the target's probability, and E has room in the exponents of bf16 as long as no logit is e^30 times
// more likely; where one is, the row tile is computed once more with the row's largest logit for reference.
//
// Kernels, for a chunk of M rows, H columns, a vocabulary of V:
// - references: the target's logit, a warp a row; 4·M·H bytes.
// - exponentials: a block takes 8 vocabulary tiles of one row tile, 128 × 128 each. 2·M·V·H FLOPs, M·V
//   exponentials, 2·M·V bytes written. Sums, maxima and the target's logit are of the f32 accumulators, never
//   of rounded logits.
// - rows: the loss, the scale w/S, the target's column of E, w/S · hidden; a warp a row.
// - rescale: E · weight in f32, times w/S; 6·M·H bytes.
//
// Against a cuBLASLt GEMM and a kernel over its logits (cross_entropy.cu), by counting, for 4096 rows ×
// 30522 token ids × 768 on an A100: 250 MB of logits are neither read nor written again, 0.33 ms of 2.8, if
// this GEMM keeps within 10 % of cuBLASLt's. On an H100 cuBLASLt uses wgmma, which is 1.6 times as fast as
// mma: 0.43 ms here against 0.27 + 0.17 there, no difference. So the other one, which also knows label
// smoothing, soft caps and other types, is the default until a card says otherwise.
//
// Weighed and not taken, by counting:
// - Recomputing the logits in the backward: a third GEMM of 4, for no memory but a chunk of gradients.
// - A scale for every tile instead of a reference for every row: the backward's GEMMs would be ours.
//
// exponentials: 57 KB shared memory, 254 registers on sm_80 and sm_90, so two blocks an SM; no spills.
// Bank conflicts: none; see SharedTile.
#include "../arch/approximate.cuh"
#include "../arch/block.cuh"
#include "../core/gemm.cuh"
#include "target.cuh"

namespace retromae {

// A logit that is this much above the reference makes a row be computed again.
constexpr float kExcessMax = 30.0f;

// A row's target, or -1 where it has no loss.
RETROMAE_DEVICE int32_t valid_target(const CrossEntropyFusedParams& params, uint32_t row) {
    const int32_t target = pointer<const int32_t>(params.targets)[row];
    return is_labeled(target, params.vocabulary, params.ignore_index) ? target : -1;
}

constexpr uint32_t kRowThreads = 128;

template <class T>
RETROMAE_DEVICE void references(const CrossEntropyFusedParams& params) {
    const uint32_t row = blockIdx.x * (kRowThreads / 32) + threadIdx.x / 32;
    if (row >= params.rows) return;
    const int32_t target = valid_target(params, row);
    if (target < 0) return;
    const T* hidden = pointer<const T>(params.hidden) + static_cast<uint64_t>(row) * params.hidden_size;
    const T* weight = pointer<const T>(params.weight) + static_cast<uint64_t>(target) * params.hidden_size;
    float sums[1] = {0.0f};
    for (uint32_t column = lane_index() * 8; column < params.hidden_size; column += 32 * 8) {
        float x[8], w[8];
        load(hidden + column, x);
        load(weight + column, w);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) sums[0] = fmaf(x[i], w[i], sums[0]);
    }
    warp_butterfly<Sum, 32>(sums);
    if (lane_index() == 0)
        pointer<float>(params.references)[row] = sums[0] + element_or(params.bias, target, 0.0f);
}

// Sums of exponentials and largest logits of a lane's rows, over the tiles so far.
struct RunningExponentials {
    float sums[kLaneRows];
    float maxima[kLaneRows];
};

// Shared memory of a block beside its operands.
template <class T>
struct ExponentialTiles {
    int32_t* targets;                 // [kGemmTile]
    float* references;                // [kGemmTile]
    SharedTile<T, kWarpTile> staged;  // 16 rows a warp

    RETROMAE_DEVICE ExponentialTiles take(SharedMemory& memory) {
        return {memory.take<int32_t>(kGemmTile),
                memory.take<float>(kGemmTile),
                {memory.take<T>(kGemmThreads / 32 * 16 * kWarpTile)}};
    }
    // The logits of a row without a target do not matter: its exponentials are set to 0.
    RETROMAE_MEMBER void load_row(const CrossEntropyFusedParams& params, uint32_t row) const {
        const int32_t target = row < params.rows ? valid_target(params, row) : -1;
        targets[threadIdx.x] = target;
        references[threadIdx.x] = target < 0 ? 0.0f : pointer<const float>(params.references)[row];
    }
};

// Turns accumulators into logits; those beyond the vocabulary become -inf, whose exponential is 0.
RETROMAE_DEVICE void add_bias(const CrossEntropyFusedParams& params, uint32_t first_column,
                              WarpAccumulators& accumulators) {
    float bias[kLaneColumns];
    RETROMAE_UNROLL
    for (int column = 0; column < kLaneColumns; ++column) {
        const uint32_t token_id = first_column + lane_column(column);
        const bool exists = token_id < params.vocabulary;
        bias[column] = exists ? 0.0f : -INFINITY;
        if (params.bias != 0 && exists) bias[column] = pointer<const float>(params.bias)[token_id];
    }
    for_each_accumulator(accumulators, [&](int, int column, float& x) { x += bias[column]; });
}

// Turns the 16 rows `16·block..` of the warp's logits into exponentials, and stores the targets' logits.
template <class T>
RETROMAE_DEVICE void exponentiate(const CrossEntropyFusedParams& params, const ExponentialTiles<T>& tiles,
                                  int block, uint32_t first_column, float (&logits)[8][4],
                                  RunningExponentials& running) {
    float* target_logits = pointer<float>(params.target_logits);
    uint32_t rows[2], target_columns[2];
    float references[2];
    bool labeled[2];
    RETROMAE_UNROLL
    for (int half = 0; half < 2; ++half) {
        rows[half] = warp_row() + lane_row(2 * block + half);
        const int32_t target = tiles.targets[rows[half]];
        labeled[half] = target >= 0;
        target_columns[half] = static_cast<uint32_t>(target) - first_column - lane_column(0);
        references[half] = tiles.references[rows[half]];
    }
    for_each_accumulator(logits, [&](int half, int column, float& x) {
        const int row = 2 * block + half;
        if (target_columns[half] == lane_column(column) - lane_column(0))
            target_logits[blockIdx.x * kGemmTile + rows[half]] = x;
        running.maxima[row] = fmaxf(running.maxima[row], x);
        x = labeled[half] ? exp2_approximate((x - references[half]) * kLog2E) : 0.0f;
        running.sums[row] += x;
    });
}

// Writes 16 rows of the warp's exponentials by way of its own rows of shared memory.
template <class T>
RETROMAE_DEVICE void write_exponentials(const CrossEntropyFusedParams& params,
                                        const SharedTile<T, kWarpTile>& staged, uint32_t row, uint32_t column,
                                        const float (&exponentials)[8][4]) {
    const uint32_t staged_row = threadIdx.x / 32 * 16;
    warp_barrier();
    staged.store(staged_row, 0, exponentials);
    warp_barrier();
    if (params.exponentials != 0 && row < params.rows && column < params.stride)
        staged.template write_rows<kWarpTile / 8>(
            staged_row, 0,
            pointer<T>(params.exponentials) + static_cast<uint64_t>(row) * params.stride + column,
            params.stride, params.rows - row, (params.stride - column) / 8);
}

// Writes the split's sum and maximum of each row of the block, of which two warps have a part each;
// `partials` is shared memory [2 warps, 2, kGemmTile].
RETROMAE_DEVICE void write_partials(const CrossEntropyFusedParams& params, RunningExponentials& running,
                                    float* partials) {
    __syncthreads();
    warp_butterfly<Sum, 4>(running.sums);
    warp_butterfly<Maximum, 4>(running.maxima);
    if (lane_index() % 4 == 0) {
        RETROMAE_UNROLL
        for (int row = 0; row < kLaneRows; ++row) {
            float* partial = partials + threadIdx.x / 32 % 2 * 2 * kGemmTile + warp_row() + lane_row(row);
            partial[0] = running.sums[row];
            partial[kGemmTile] = running.maxima[row];
        }
    }
    __syncthreads();
    const uint32_t own = blockIdx.x * kGemmTile + threadIdx.x;
    if (own >= params.rows) return;
    const float* partial = partials + threadIdx.x;
    const uint64_t index = static_cast<uint64_t>(blockIdx.y) * params.rows + own;
    pointer<float>(params.sums)[index] = partial[0] + partial[2 * kGemmTile];
    pointer<float>(params.maxima)[index] = fmaxf(partial[kGemmTile], partial[3 * kGemmTile]);
}

template <class T>
RETROMAE_DEVICE void exponentials(const CrossEntropyFusedParams& params) {
    const uint32_t first_row = blockIdx.x * kGemmTile;
    if (params.retry != 0 && pointer<const uint32_t>(params.retries)[blockIdx.x] == 0) return;
    const uint32_t count = (params.vocabulary + kGemmTile - 1) / kGemmTile;
    const uint32_t first_tile = blockIdx.y * count / params.splits;
    const uint32_t end_tile = (blockIdx.y + 1) * count / params.splits;
    SharedMemory memory = SharedMemory::begin();
    auto stream = GemmStream<T>::begin(
        memory, {pointer<const T>(params.hidden), params.hidden_size, first_row, params.rows},
        {pointer<const T>(params.weight), params.hidden_size, first_tile * kGemmTile, params.vocabulary},
        end_tile - first_tile);
    const auto tiles = ExponentialTiles<T>::take(memory);
    tiles.load_row(params, first_row + threadIdx.x);
    RunningExponentials running;
    fill(running.sums, 0.0f);
    fill(running.maxima, -INFINITY);

    RETROMAE_NO_UNROLL
    for (uint32_t tile = first_tile; tile < end_tile; ++tile) {
        WarpAccumulators accumulators;
        stream.multiply(accumulators);
        const uint32_t column = tile * kGemmTile + warp_column();
        add_bias(params, column, accumulators);
        RETROMAE_UNROLL
        for (int block = 0; block < 4; ++block) {
            exponentiate(params, tiles, block, column, accumulators[block], running);
            write_exponentials(params, tiles.staged, first_row + warp_row() + 16 * block, column,
                               accumulators[block]);
        }
    }
    copy_async_wait<0>();
    write_partials(params, running, reinterpret_cast<float*>(tiles.staged.elements));
}

// A warp's sum and maximum of the splits' shares of a row.
RETROMAE_DEVICE void gather_statistics(const CrossEntropyFusedParams& params, uint32_t row, float (&sum)[1],
                                       float (&maximum)[1]) {
    sum[0] = 0.0f;
    maximum[0] = -INFINITY;
    for (uint32_t split = lane_index(); split < params.splits; split += 32) {
        const uint64_t place = static_cast<uint64_t>(split) * params.rows + row;
        sum[0] += pointer<const float>(params.sums)[place];
        maximum[0] = fmaxf(maximum[0], pointer<const float>(params.maxima)[place]);
    }
    warp_butterfly<Sum, 32>(sum);
    warp_butterfly<Maximum, 32>(maximum);
}

// Finds the row tiles that have to be computed again, and sets the references of their rows.
template <class T>
RETROMAE_DEVICE void retries(const CrossEntropyFusedParams& params) {
    bool any = false;
    for (uint32_t i = threadIdx.x / 32; i < kGemmTile; i += kRowThreads / 32) {
        const uint32_t row = blockIdx.x * kGemmTile + i;
        if (row >= params.rows) break;
        float sum[1], maximum[1];
        gather_statistics(params, row, sum, maximum);
        float* reference = pointer<float>(params.references) + row;
        if (valid_target(params, row) < 0 || !(maximum[0] - *reference > kExcessMax)) continue;
        any = true;
        warp_barrier();
        if (lane_index() == 0) *reference = maximum[0];
    }
    any = block_any(any);
    if (threadIdx.x == 0) pointer<uint32_t>(params.retries)[blockIdx.x] = any;
}

template <class T>
RETROMAE_DEVICE void rows(const CrossEntropyFusedParams& params) {
    const uint32_t row = blockIdx.x * (kRowThreads / 32) + threadIdx.x / 32;
    if (row >= params.rows) return;
    const int32_t target = valid_target(params, row);
    float sum[1], maximum[1];
    gather_statistics(params, row, sum, maximum);
    const float weight = element_or(params.row_weights, row, 1.0f);
    const float scale = target < 0 ? 0.0f : weight / sum[0];
    if (lane_index() == 0) {
        float loss = 0.0f, log_sum_exp = 0.0f, log_likelihood = 0.0f;
        bool correct = false;
        if (target >= 0) {
            const float logit = pointer<const float>(params.target_logits)[row];
            const float reference = pointer<const float>(params.references)[row];
            const float log_sum = logf(sum[0]);
            log_sum_exp = reference + log_sum;
            log_likelihood = (logit - reference) - log_sum;
            loss = weight * -log_likelihood;
            correct = !(maximum[0] > logit) && logit == logit;
            const float own = exp2_approximate((logit - reference) * kLog2E);
            const uint64_t index = static_cast<uint64_t>(row) * params.stride + target;
            store_optional(params.exponentials, index, from_float<T>(own - sum[0]));
        } else if (pointer<const int32_t>(params.targets)[row] != params.ignore_index) {
            loss = log_sum_exp = log_likelihood = NAN;
        }
        pointer<float>(params.losses)[row] = loss;
        store_optional(params.log_sum_exp, row, log_sum_exp);
        store_optional(params.log_likelihoods, row, log_likelihood);
        store_optional(params.correct, row, static_cast<uint8_t>(correct));
        store_optional(params.scales, row, scale);
    }
    if (params.scaled_hidden == 0) return;
    const uint64_t start = static_cast<uint64_t>(row) * params.hidden_size;
    for (uint32_t column = lane_index() * 8; column < params.hidden_size; column += 32 * 8) {
        float x[8] = {};
        if (target >= 0) {
            load(pointer<const T>(params.hidden) + start + column, x);
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) x[i] *= scale;
        }
        store(pointer<T>(params.scaled_hidden) + start + column, x);
    }
}

template <class T>
RETROMAE_DEVICE void rescale(const CrossEntropyFusedParams& params) {
    const uint32_t row = blockIdx.x * (kRowThreads / 32) + threadIdx.x / 32;
    if (row >= params.rows) return;
    const float scale = pointer<const float>(params.scales)[row];
    const uint64_t start = static_cast<uint64_t>(row) * params.hidden_size;
    for (uint32_t column = lane_index() * 8; column < params.hidden_size; column += 32 * 8) {
        float x[8];
        load(pointer<const float>(params.unscaled_d_hidden) + start + column, x);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) x[i] *= scale;
        store(pointer<T>(params.d_hidden) + start + column, x);
    }
}

// One warp per row.
struct FusedRowsLaunch : Launch<kRowThreads> {
    static Grid grid(const CrossEntropyFusedParams& params) {
        return {ceil_div(params.rows, kRowThreads / 32)};
    }
};
// One block per row tile.
struct FusedRetriesLaunch : Launch<kRowThreads> {
    static Grid grid(const CrossEntropyFusedParams& params) { return {ceil_div(params.rows, kGemmTile)}; }
};
// One block per row tile and split of the vocabulary.
template <class T>
struct ExponentialsLaunch : Launch<kGemmThreads> {
    static Grid grid(const CrossEntropyFusedParams& params) {
        return {ceil_div(params.rows, kGemmTile), params.splits};
    }
    static uint64_t shared_bytes(const CrossEntropyFusedParams&) {
        return gemm_bytes<T>() + taken_bytes<int32_t>(kGemmTile) + taken_bytes<float>(kGemmTile) +
               taken_bytes<T>(kGemmThreads / 32 * 16 * kWarpTile);
    }
};

#define RETROMAE_CROSS_ENTROPY_FUSED_KERNEL(part, ...)                                   \
    RETROMAE_KERNEL(cross_entropy_##part##_bf16, CrossEntropyFusedParams, __VA_ARGS__) { \
        part<bf16>(params);                                                              \
    }

RETROMAE_CROSS_ENTROPY_FUSED_KERNEL(references, FusedRowsLaunch)
RETROMAE_CROSS_ENTROPY_FUSED_KERNEL(exponentials, ExponentialsLaunch<bf16>)
RETROMAE_CROSS_ENTROPY_FUSED_KERNEL(retries, FusedRetriesLaunch)
RETROMAE_CROSS_ENTROPY_FUSED_KERNEL(rows, FusedRowsLaunch)
RETROMAE_CROSS_ENTROPY_FUSED_KERNEL(rescale, FusedRowsLaunch)

}  // namespace retromae
