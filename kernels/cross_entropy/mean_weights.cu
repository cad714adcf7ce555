// The weights that make a sum of losses a mean, where only the device knows how many rows are labeled. Each
// block adds up the counts anew, B integers out of L2, so that one launch does.
#include "../core/block_scan.cuh"
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"

namespace retromae {

constexpr uint32_t kMeanWeightsThreads = 256;

struct MeanWeightsLaunch : Launch<kMeanWeightsThreads> {
    static Grid grid(const MeanWeightsParams& params) { return {ceil_div(params.rows, kMeanWeightsThreads)}; }
    static uint64_t shared_bytes(const MeanWeightsParams&) {
        return taken_bytes<uint32_t>(kMeanWeightsThreads / 32);
    }
};

RETROMAE_KERNEL(mean_weights, MeanWeightsParams, MeanWeightsLaunch) {
    uint32_t* scratch = SharedMemory::begin().take<uint32_t>(kMeanWeightsThreads / 32);
    uint32_t count = 0;
    for (uint32_t sentence = threadIdx.x; sentence < params.sentences; sentence += kMeanWeightsThreads)
        count += static_cast<uint32_t>(pointer<const int32_t>(params.counts)[sentence]);
    uint32_t total;
    block_exclusive_sum<kMeanWeightsThreads / 32>(count, scratch, total);
    const uint32_t row = blockIdx.x * kMeanWeightsThreads + threadIdx.x;
    if (row >= params.rows) return;
    const bool labeled = pointer<const int32_t>(params.labeled_rows)[row] >= 0;
    pointer<float>(params.row_weights)[row] = labeled ? params.weight / static_cast<float>(total) : 0.0f;
}

}  // namespace retromae
