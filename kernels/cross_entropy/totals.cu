// Sums over the rows of a cross-entropy: one block, 256 rows at a time, then a tree, so that equal inputs
// give equal bits. Reads 13 bytes a row.
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"
#include "target.cuh"

namespace retromae {

constexpr uint32_t kTotalsThreads = 256;

RETROMAE_DEVICE void add(CrossEntropyTotals& totals, const CrossEntropyTotals& others) {
    totals.loss += others.loss;
    totals.log_likelihood += others.log_likelihood;
    totals.labeled += others.labeled;
    totals.correct += others.correct;
    const bool first =
        totals.invalid == 0 || (others.invalid != 0 && others.first_invalid < totals.first_invalid);
    if (first) totals.first_invalid = others.first_invalid;
    totals.invalid += others.invalid;
}

struct TotalsLaunch : Launch<kTotalsThreads> {
    static uint64_t shared_bytes(const CrossEntropyTotalsParams&) {
        return taken_bytes<CrossEntropyTotals>(kTotalsThreads);
    }
};

RETROMAE_KERNEL(cross_entropy_totals, CrossEntropyTotalsParams, TotalsLaunch) {
    CrossEntropyTotals totals = {};
    for (uint32_t row = threadIdx.x; row < params.rows; row += kTotalsThreads) {
        const int32_t target = pointer<const int32_t>(params.targets)[row];
        const bool labeled = is_labeled(target, params.vocabulary, params.ignore_index);
        const bool invalid = !labeled && target != params.ignore_index;
        add(totals,
            {pointer<const float>(params.losses)[row], pointer<const float>(params.log_likelihoods)[row],
             labeled, pointer<const uint8_t>(params.correct)[row], invalid, invalid ? row : 0});
    }
    CrossEntropyTotals* all = SharedMemory::begin().take<CrossEntropyTotals>(kTotalsThreads);
    all[threadIdx.x] = totals;
    for (uint32_t distance = kTotalsThreads / 2; distance > 0; distance /= 2) {
        __syncthreads();
        if (threadIdx.x < distance) add(all[threadIdx.x], all[threadIdx.x + distance]);
    }
    if (threadIdx.x == 0) *pointer<CrossEntropyTotals>(params.totals) = all[0];
}

}  // namespace retromae
