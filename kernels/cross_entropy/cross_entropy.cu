// Softmax cross-entropy of rows of logits, forward and backward in one kernel; the logits become their own
// gradient.
//
//     x = logits + bias,  lse = log Σ exp x,  loss = w·(lse − x[target]),  d_logits = w·(exp(x − lse) −
//     one-hot(target))
//
// and in the general variant, with smoothing e, a penalty z·lse² and y = c·tanh(x / c) in place of x
// (params.h):
//
//     d_logits = w·((1 + 2·z·lse)·exp(y − lse) − (1 − e)·one-hot(target) − e / V)·(1 − (y / c)²)
//
// One block a row. In steps of 64 bytes of logits, a thread updates its maximum and sum, and keeps the
// exponentials relative to its maximum in shared memory, where nobody else looks: of 16-bit logits in f16,
// times 2^15, else in f32. When the row's sum is known, they become the gradient by one factor a step. So a
// row is read once and written once, 2·V·bytes, and its bias read once, 4·V. Steps beyond those kept, and all
// of the general variant, whose gradient needs y itself, are read and computed again. Where no gradient is
// wanted, a row is read once, and nothing is kept.
//
// By count, not by measurement, for 32,768 rows × 30,522 columns of bf16 on an H100 (132 SMs, 1.755 GHz, 3.0
// TB/s of HBM, 5.5 TB/s of L2):
//     HBM             4.0 GB                                                        1.33 ms
//     L2              4.0 GB and 4.0 GB of bias                                     1.45 ms
//     L1 and shared   32 wavefronts of 128 bytes a warp and 256 columns             0.54 ms
//     instructions    10.8 an element in the first loop, 7.9 in the second          0.63 ms
//     exponentials    1 an element, 16 a cycle and SM                               0.27 ms
#include "../arch/approximate.cuh"
#include "../arch/warp_primitives.cuh"
#include "../core/shared_memory.cuh"
#include "../core/packed.cuh"
#include "target.cuh"

namespace retromae {

constexpr uint32_t kCrossEntropyThreads = 256;
constexpr uint32_t kCrossEntropyWarps = kCrossEntropyThreads / 32;
// Accesses of 16 bytes of a thread's step.
constexpr uint32_t kPacks = 4;
// 68 KiB a block, so that three fit the 227 KiB of an H100's SM; 32,768 columns of a 16-bit type.
constexpr uint32_t kKeptSteps = 4;
constexpr uint32_t kCrossEntropyBlocks = 3;

template <class T>
constexpr uint32_t kStepColumns = kCrossEntropyThreads * kPacks * kPackedElements<T>;

// The type of kept exponentials, and the power of two that they are multiplied by. The largest is 1.
template <class T>
struct Kept {
    using Type = f16;
    static constexpr float kExponent = 15.0f, kFactor = 32768.0f;
};
template <>
struct Kept<float> {
    using Type = float;
    static constexpr float kExponent = 0.0f, kFactor = 1.0f;
};

// A thread's columns of a step.
template <class T>
using StepValues = float[kPacks][kPackedElements<T>];

// Calls `f(i, value)` for each of a thread's columns of a step, value `i` of a pack.
template <uint32_t Elements, class F>
RETROMAE_DEVICE void for_each_value(float (&values)[kPacks][Elements], F f) {
    RETROMAE_UNROLL
    for (uint32_t pack = 0; pack < kPacks; ++pack) {
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < Elements; ++i) f(i, values[pack][i]);
    }
}

// The first column of a thread's first pack, from the step's start, and the distance of the others.
template <class T>
RETROMAE_DEVICE uint32_t first_column() {
    return group_offset(threadIdx.x, kCrossEntropyThreads, 0, kPacks, kPackedElements<T>);
}
template <class T>
RETROMAE_DEVICE uint32_t pack_distance() {
    return group_offset(0, kCrossEntropyThreads, 1, kPacks, kPackedElements<T>);
}

// Calls `body(step, start, whole)` for each step from `first` on; `whole` says in its type whether all
// columns of the step are of the vocabulary.
struct Whole {
    static constexpr bool kValue = true;
};
struct Partial {
    static constexpr bool kValue = false;
};
template <class T, class Body>
RETROMAE_DEVICE void for_steps(uint32_t first, uint32_t vocabulary, Body body) {
    uint32_t step = first, start = first * kStepColumns<T>;
    RETROMAE_NO_UNROLL
    for (; start + kStepColumns<T> <= vocabulary; start += kStepColumns<T>) body(step++, start, Whole{});
    if (start < vocabulary) body(step, start, Partial{});
}

// The soft cap of a row's logits, if there is one.
template <bool General>
RETROMAE_DEVICE float capped(float x, const CrossEntropyParams& params) {
    if constexpr (General)
        if (params.soft_cap > 0.0f) return params.soft_cap * tanhf(x / params.soft_cap);
    return x;
}

// y of this thread's columns; those beyond the vocabulary are -inf. Every load is issued before the first
// value is used.
template <bool General, class T, class Extent>
RETROMAE_DEVICE void load_step(const CrossEntropyParams& params, const T* logits, uint32_t start, Extent,
                               StepValues<T>& y) {
    constexpr uint32_t kColumns = kPackedElements<T>;
    const uint32_t first = start + first_column<T>(), distance = pack_distance<T>();
    const T* own_logits = logits + first;
    const float* own_bias = pointer<const float>(params.bias) + first;
    const auto exists = [&](uint32_t column) { return Extent::kValue || first + column < params.vocabulary; };
    Packed packs[kPacks];
    RETROMAE_UNROLL
    for (uint32_t pack = 0; pack < kPacks; ++pack)
        if (exists(pack * distance)) packs[pack] = load_packed(own_logits + pack * distance);
    fill(y, 0.0f);
    if (params.bias != 0) {
        RETROMAE_UNROLL
        for (uint32_t pack = 0; pack < kPacks; ++pack) {
            const uint32_t column = pack * distance;
            // The row's last pack is padded, the bias is not.
            if (exists(column + kColumns - 1)) {
                load(own_bias + column, y[pack]);
            } else {
                RETROMAE_UNROLL
                for (uint32_t i = 0; i < kColumns; ++i)
                    if (exists(column + i)) y[pack][i] = own_bias[column + i];
            }
        }
    }
    RETROMAE_UNROLL
    for (uint32_t pack = 0; pack < kPacks; ++pack) {
        float x[kColumns];
        widen(T{}, packs[pack], x);
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < kColumns; ++i)
            y[pack][i] = exists(pack * distance + i) ? capped<General>(x[i] + y[pack][i], params) : -INFINITY;
    }
}

// The columns of a row that a thread has seen: maximum, Σ exp(y − maximum) times the kept factor, Σ y.
struct Seen {
    // Finite from the start: a thread without columns must not produce -inf - -inf.
    float maximum = -3e38f;
    float sum = 0.0f;
    float total = 0.0f;
};

// Adds a step, whose values become their exponentials relative to the new maximum, times the kept factor.
template <bool General, class T>
RETROMAE_DEVICE void add_step(StepValues<T>& y, Seen& seen) {
    constexpr uint32_t kColumns = kPackedElements<T>;
    float maxima[kColumns];
    fill(maxima, seen.maximum);
    for_each_value(y, [&](uint32_t i, float value) {
        maxima[i] = Maximum::apply(value, maxima[i]);
        if constexpr (General) seen.total += value == -INFINITY ? 0.0f : value;
    });
    float next = maxima[0];
    RETROMAE_UNROLL
    for (uint32_t i = 1; i < kColumns; ++i) next = Maximum::apply(maxima[i], next);
    float sums[kColumns] = {};
    for_each_value(y, [&](uint32_t i, float& value) {
        value = exp2_approximate(fmaf(value - next, kLog2E, Kept<T>::kExponent));
        sums[i] += value;
    });
    seen.sum *= exp2_approximate((seen.maximum - next) * kLog2E);
    RETROMAE_UNROLL
    for (uint32_t i = 0; i < kColumns; ++i) seen.sum += sums[i];
    seen.maximum = next;
}

// Exponentials in shared memory; each thread reads its own alone.
template <class T>
struct KeptSteps {
    Packed* packs;
    float* maxima;
    uint32_t count;

    RETROMAE_DEVICE KeptSteps take(SharedMemory& memory, uint32_t vocabulary) {
        const uint32_t steps = (vocabulary + kStepColumns<T> - 1) / kStepColumns<T>;
        const uint32_t count = steps < kKeptSteps ? steps : kKeptSteps;
        return {memory.take<Packed>(count * kPacks * kCrossEntropyThreads),
                memory.take<float>(count * kCrossEntropyThreads), count};
    }

    RETROMAE_MEMBER void put(uint32_t step, const StepValues<T>& values, float maximum) const {
        RETROMAE_UNROLL
        for (uint32_t pack = 0; pack < kPacks; ++pack)
            store_packed(pack_at(step, pack), narrow(typename Kept<T>::Type{}, values[pack]));
        maxima[step * kCrossEntropyThreads + threadIdx.x] = maximum;
    }

    // Returns the maximum that the values are relative to.
    RETROMAE_MEMBER float get(uint32_t step, StepValues<T>& values) const {
        RETROMAE_UNROLL
        for (uint32_t pack = 0; pack < kPacks; ++pack)
            widen(typename Kept<T>::Type{}, load_packed(pack_at(step, pack)), values[pack]);
        return maxima[step * kCrossEntropyThreads + threadIdx.x];
    }

    RETROMAE_MEMBER Packed* pack_at(uint32_t step, uint32_t pack) const {
        return packs + (step * kPacks + pack) * kCrossEntropyThreads + threadIdx.x;
    }
};

// The same of the whole row, without the kept factor; every thread has it.
struct RowSums {
    float maximum;
    float sum;
    float total;
};

RETROMAE_DEVICE RowSums reduce_row(const Seen& seen, float* scratch, float kept_factor) {
    float maximum[1] = {seen.maximum};
    warp_butterfly<Maximum, 32>(maximum);
    float sums[2] = {seen.sum * exp2_approximate((seen.maximum - maximum[0]) * kLog2E), seen.total};
    warp_butterfly<Sum, 32>(sums);
    if (lane_index() == 0) {
        float* own = scratch + threadIdx.x / 32 * 3;
        own[0] = maximum[0];
        own[1] = sums[0];
        own[2] = sums[1];
    }
    __syncthreads();
    RowSums row = {scratch[0], 0.0f, 0.0f};
    RETROMAE_UNROLL
    for (uint32_t warp = 1; warp < kCrossEntropyWarps; ++warp)
        row.maximum = Maximum::apply(row.maximum, scratch[warp * 3]);
    RETROMAE_UNROLL
    for (uint32_t warp = 0; warp < kCrossEntropyWarps; ++warp) {
        row.sum += scratch[warp * 3 + 1] * exp2_approximate((scratch[warp * 3] - row.maximum) * kLog2E);
        row.total += scratch[warp * 3 + 2];
    }
    row.sum /= kept_factor;
    return row;
}

RETROMAE_DEVICE void write_row(const CrossEntropyParams& params, uint32_t row, float loss, float log_sum_exp,
                               float log_likelihood, bool correct) {
    pointer<float>(params.losses)[row] = loss;
    store_optional(params.log_sum_exp, row, log_sum_exp);
    store_optional(params.log_likelihoods, row, log_likelihood);
    store_optional(params.correct, row, static_cast<uint8_t>(correct));
}

// Writes the results of a row without a loss.
template <class T>
RETROMAE_DEVICE void clear_row(const CrossEntropyParams& params, uint32_t row, T* logits, bool ignored) {
    const float zeros[kPackedElements<T>] = {};
    constexpr uint32_t kStride = kCrossEntropyThreads * kPackedElements<T>;
    const uint32_t end = params.has_gradient != 0 ? params.vocabulary : 0;
    for (uint32_t column = threadIdx.x * kPackedElements<T>; column < end; column += kStride)
        store(logits + column, zeros);
    // A target that is neither a token id nor ignored is the caller's mistake: it shows.
    const float value = ignored ? 0.0f : NAN;
    if (threadIdx.x == 0) write_row(params, row, value, value, value, false);
}

// Writes the results of a row with a loss; one thread.
template <bool General>
RETROMAE_DEVICE void write_labeled_row(const CrossEntropyParams& params, uint32_t row, const RowSums& sums,
                                       float log_sum_exp, float target_logit) {
    float loss = log_sum_exp - target_logit;
    if constexpr (General) {
        const float mean = sums.total / static_cast<float>(params.vocabulary);
        // Not at 0, where an infinite logit would make it NaN.
        if (params.label_smoothing > 0.0f) loss += params.label_smoothing * (target_logit - mean);
        loss += params.z_loss * log_sum_exp * log_sum_exp;
    }
    loss *= element_or(params.row_weights, row, 1.0f);
    write_row(params, row, loss, log_sum_exp, target_logit - log_sum_exp, target_logit >= sums.maximum);
}

// The terms and factors that turn exponentials into a row's gradient.
struct RowGradient {
    float maximum;
    float inverse_sum;
    float on_target;
    float everywhere;
    uint32_t target;

    template <bool General>
    RETROMAE_DEVICE RowGradient of(const CrossEntropyParams& params, const RowSums& sums, float log_sum_exp,
                                   float weight, int32_t target) {
        const float smoothing = General ? params.label_smoothing : 0.0f;
        const float z_loss = General ? params.z_loss : 0.0f;
        return {sums.maximum, weight * (1.0f + 2.0f * z_loss * log_sum_exp) / sums.sum,
                weight * (1.0f - smoothing), weight * smoothing / static_cast<float>(params.vocabulary),
                static_cast<uint32_t>(target)};
    }

    template <uint32_t kColumns>
    RETROMAE_MEMBER void subtract_target(uint32_t column, float (&gradient)[kColumns]) const {
        if (target - column >= kColumns) return;
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < kColumns; ++i)
            if (column + i == target) gradient[i] -= on_target;
    }
};

// The gradient of the steps whose exponentials were kept.
template <class T>
RETROMAE_DEVICE void write_kept(const KeptSteps<T>& kept, const RowGradient& row, uint32_t vocabulary,
                                T* logits) {
    RETROMAE_NO_UNROLL
    for (uint32_t step = 0; step < kept.count; ++step) {
        StepValues<T> values;
        const float relative_to = kept.get(step, values);
        const float factor = exp2_approximate((relative_to - row.maximum) * kLog2E) *
                             (row.inverse_sum * (1.0f / Kept<T>::kFactor));
        const uint32_t first = step * kStepColumns<T> + first_column<T>(), distance = pack_distance<T>();
        RETROMAE_UNROLL
        for (uint32_t pack = 0; pack < kPacks; ++pack) {
            const uint32_t column = first + pack * distance;
            if (column >= vocabulary) continue;
            RETROMAE_UNROLL
            for (uint32_t i = 0; i < kPackedElements<T>; ++i) values[pack][i] *= factor;
            row.subtract_target(column, values[pack]);
            store(logits + first + pack * distance, values[pack]);
        }
    }
}

// The gradient of a pack of logits y from `column` on.
template <bool General, uint32_t kColumns>
RETROMAE_DEVICE void differentiate(const CrossEntropyParams& params, const RowGradient& row, uint32_t column,
                                   const float (&y)[kColumns], float (&gradient)[kColumns]) {
    RETROMAE_UNROLL
    for (uint32_t i = 0; i < kColumns; ++i)
        gradient[i] = exp2_approximate((y[i] - row.maximum) * kLog2E) * row.inverse_sum;
    row.subtract_target(column, gradient);
    if constexpr (General) {
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < kColumns; ++i) {
            gradient[i] -= row.everywhere;
            if (params.soft_cap > 0.0f) {
                const float ratio = y[i] / params.soft_cap;
                gradient[i] *= 1.0f - ratio * ratio;
            }
            // In the padding, which a GEMM may read.
            if (y[i] == -INFINITY) gradient[i] = 0.0f;
        }
    }
}

// The gradient of the steps from `first` on, which are read again.
template <bool General, class T>
RETROMAE_DEVICE void write_others(const CrossEntropyParams& params, uint32_t first, const RowGradient& row,
                                  T* logits) {
    for_steps<T>(first, params.vocabulary, [&](uint32_t, uint32_t start, auto extent) {
        StepValues<T> y;
        load_step<General>(params, logits, start, extent, y);
        const uint32_t first = start + first_column<T>(), distance = pack_distance<T>();
        RETROMAE_UNROLL
        for (uint32_t pack = 0; pack < kPacks; ++pack) {
            const uint32_t column = first + pack * distance;
            float gradient[kPackedElements<T>];
            differentiate<General>(params, row, column, y[pack], gradient);
            if (column < params.vocabulary) store(logits + column, gradient);
        }
    });
}

// Copies the hidden states of a row with a label, if wanted; others become 0, as what is multiplied by a
// gradient of 0 must be finite.
template <class T>
RETROMAE_DEVICE void copy_labeled_hidden(const CrossEntropyParams& params, uint32_t row, bool labeled) {
    const uint64_t start = static_cast<uint64_t>(row) * params.hidden_size;
    const uint32_t end = params.labeled_hidden != 0 ? params.hidden_size : 0;
    for (uint32_t column = threadIdx.x; column < end; column += kCrossEntropyThreads)
        pointer<T>(params.labeled_hidden)[start + column] =
            labeled ? pointer<const T>(params.hidden)[start + column] : from_float<T>(0.0f);
}

template <bool General, class T>
RETROMAE_DEVICE void cross_entropy(const CrossEntropyParams& params) {
    const uint32_t row = blockIdx.x;
    const uint32_t vocabulary = params.vocabulary;
    T* logits = pointer<T>(params.logits) + static_cast<uint64_t>(row) * params.stride;
    const int32_t target = pointer<const int32_t>(params.targets)[row];
    const bool labeled = is_labeled(target, vocabulary, params.ignore_index);
    copy_labeled_hidden<T>(params, row, labeled);
    if (!labeled) return clear_row(params, row, logits, target == params.ignore_index);

    SharedMemory memory = SharedMemory::begin();
    float* scratch = memory.take<float>(3 * kCrossEntropyWarps);
    const KeptSteps<T> kept =
        General || params.has_gradient == 0 ? KeptSteps<T>{} : KeptSteps<T>::take(memory, vocabulary);
    // Read before the barrier, after which the gradient stands there.
    const float target_logit =
        threadIdx.x == 0
            ? capped<General>(to_float(logits[target]) + element_or(params.bias, target, 0.0f), params)
            : 0.0f;
    Seen seen;
    for_steps<T>(0, vocabulary, [&](uint32_t step, uint32_t start, auto extent) {
        StepValues<T> y;
        load_step<General>(params, logits, start, extent, y);
        add_step<General, T>(y, seen);
        if (step < kept.count) kept.put(step, y, seen.maximum);
    });
    const RowSums sums = reduce_row(seen, scratch, Kept<T>::kFactor);
    const float log_sum_exp = sums.maximum + logf(sums.sum);
    if (threadIdx.x == 0) write_labeled_row<General>(params, row, sums, log_sum_exp, target_logit);
    if (params.has_gradient == 0) return;
    const float weight = element_or(params.row_weights, row, 1.0f);
    const auto gradient = RowGradient::of<General>(params, sums, log_sum_exp, weight, target);
    if constexpr (!General) write_kept<T>(kept, gradient, vocabulary, logits);
    write_others<General, T>(params, kept.count, gradient, logits);
}

// One block per row. The plain variant keeps steps in shared memory; the general one reads its logits again.
template <bool General, class T>
struct CrossEntropyLaunch : Launch<kCrossEntropyThreads, General ? 1 : kCrossEntropyBlocks> {
    static Grid grid(const CrossEntropyParams& params) { return {params.rows}; }
    static uint64_t shared_bytes(const CrossEntropyParams& params) {
        const uint64_t steps = ceil_div(params.vocabulary, kStepColumns<T>);
        const uint64_t most = General || params.has_gradient == 0 ? 0 : kKeptSteps;
        const uint64_t kept = steps < most ? steps : most;
        return taken_bytes<float>(3 * kCrossEntropyWarps) +
               taken_bytes<Packed>(kept * kPacks * kCrossEntropyThreads) +
               taken_bytes<float>(kept * kCrossEntropyThreads);
    }
};

#define RETROMAE_CROSS_ENTROPY(T)                                                                 \
    RETROMAE_KERNEL(cross_entropy_##T, CrossEntropyParams, CrossEntropyLaunch<false, T>) {        \
        cross_entropy<false, T>(params);                                                          \
    }                                                                                             \
    RETROMAE_KERNEL(cross_entropy_general_##T, CrossEntropyParams, CrossEntropyLaunch<true, T>) { \
        cross_entropy<true, T>(params);                                                           \
    }

using f32 = float;
RETROMAE_CROSS_ENTROPY(f32)
RETROMAE_CROSS_ENTROPY(bf16)
RETROMAE_CROSS_ENTROPY(f16)

}  // namespace retromae
