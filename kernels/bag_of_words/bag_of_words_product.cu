// Each word's largest logit among a sentence's tokens, and the token that has it, from a product whose logits
// are never stored.
//
// A block takes 128 words of one sentence. Words are the rows of its tiles and tokens their columns, 128 at a
// time (core/product.cuh), so that a maximum runs along a row: over a lane's 16 columns in registers, tile
// after tile, and once, at the end, over the eight lanes that share a row.
//
// 2·T·V·H FLOPs, 6·B·V bytes written; hidden rows are read V / 128 times and weights once a sentence, from
// L2. A sentence costs as much as the next multiple of 128 tokens: against a library's product, whose logits
// are written and read, 4·T·V bytes, this is for sentences that nearly fill their tiles.
//
// 57 KB shared memory, 216 registers on sm_80, 219 on sm_90, so two blocks an SM; no spills, no stack.
// Bank conflicts: none; see SharedTile, and the shares' stride.
#include "../core/product.cuh"
#include "maximum.cuh"

namespace retromae {

// A row's eight shares are this far apart: the four lanes of a quad meet different groups of 8 banks.
constexpr uint32_t kShareStride = kProductTile + 8;
constexpr uint32_t kShares = 8;

template <class T>
RETROMAE_DEVICE void product(const BagOfWordsParams& params) {
    const uint32_t sentence = blockIdx.y;
    const TokenRange tokens = tokens_of(params, sentence);
    const uint32_t first = tokens.start + params.first_slot;
    const uint32_t end = tokens.start + tokens.count;
    if (!tokens.valid || first >= end) return;
    const uint32_t first_word = blockIdx.x * kProductTile;
    const uint32_t tiles = (end - first + kProductTile - 1) / kProductTile;
    SharedMemory memory = SharedMemory::begin();
    auto stream = ProductStream<T>::begin(
        memory, {pointer<const T>(params.weight), params.hidden_size, first_word, params.vocabulary},
        {pointer<const T>(params.hidden), params.hidden_size, first, end}, tiles);
    float* values = memory.take<float>(kShares * kShareStride);
    uint32_t* slots = memory.take<uint32_t>(kShares * kShareStride);

    const uint32_t warp = threadIdx.x / 32;
    // Of the first column of this lane.
    const uint32_t lane_slot = params.first_slot + warp % 2 * kWarpTile + lane_index() % 4 * 2;
    const uint32_t end_slot = tokens.count;
    float best[4][2];
    uint32_t best_slots[4][2];
    RETROMAE_UNROLL
    for (int m = 0; m < 4; ++m) {
        RETROMAE_UNROLL
        for (int half = 0; half < 2; ++half) {
            best[m][half] = -INFINITY;
            best_slots[m][half] = params.first_slot;
        }
    }
    RETROMAE_NO_UNROLL
    for (uint32_t tile = 0; tile < tiles; ++tile) {
        WarpProducts products;
        stream.multiply(products);
        RETROMAE_UNROLL
        for (int n = 0; n < 8; ++n) {
            RETROMAE_UNROLL
            for (int i = 0; i < 2; ++i) {
                const uint32_t slot = tile * kProductTile + lane_slot + 8 * n + i;
                RETROMAE_UNROLL
                for (int m = 0; m < 4; ++m) {
                    RETROMAE_UNROLL
                    for (int half = 0; half < 2; ++half) {
                        const float x = products[m][n][2 * half + i];
                        if (slot < end_slot && exceeds(x, best[m][half])) {
                            best[m][half] = x;
                            best_slots[m][half] = slot;
                        }
                    }
                }
            }
        }
    }
    copy_async_wait<0>();

    RETROMAE_UNROLL
    for (int m = 0; m < 4; ++m) {
        RETROMAE_UNROLL
        for (int half = 0; half < 2; ++half) {
            const uint32_t row = warp / 2 * kWarpTile + 16 * m + 8 * half + lane_index() / 4;
            const uint32_t share = (warp % 2 * 4 + lane_index() % 4) * kShareStride + row;
            values[share] = best[m][half];
            slots[share] = best_slots[m][half];
        }
    }
    __syncthreads();
    const uint32_t word = first_word + threadIdx.x;
    if (word >= params.vocabulary) return;
    float maximum = values[threadIdx.x];
    uint32_t slot = slots[threadIdx.x];
    for (uint32_t i = 1; i < kShares; ++i) {
        const float x = values[i * kShareStride + threadIdx.x];
        const uint32_t x_slot = slots[i * kShareStride + threadIdx.x];
        if (exceeds(x, maximum) || (x == maximum && x_slot < slot)) {
            maximum = x;
            slot = x_slot;
        }
    }
    const uint64_t place = static_cast<uint64_t>(sentence) * params.stride + word;
    pointer<float>(params.maxima)[place] = maximum + pointer<const float>(params.bias)[word];
    pointer<uint16_t>(params.slots)[place] = static_cast<uint16_t>(slot);
}

// A block a tile of words and sentence.
template <class T>
struct BagProductLaunch : Launch<kProductThreads> {
    static Grid grid(const BagOfWordsParams& params) {
        return {ceil_div(params.vocabulary, kProductTile), params.sentences};
    }
    static uint64_t shared_bytes(const BagOfWordsParams&) {
        return product_bytes<T>() + taken_bytes<float>(kShares * kShareStride) +
               taken_bytes<uint32_t>(kShares * kShareStride);
    }
};

RETROMAE_KERNEL(bag_of_words_product_bf16, BagOfWordsParams, BagProductLaunch<bf16>) {
    product<bf16>(params);
}
RETROMAE_KERNEL(bag_of_words_product_f16, BagOfWordsParams, BagProductLaunch<f16>) {
    product<f16>(params);
}

}  // namespace retromae
