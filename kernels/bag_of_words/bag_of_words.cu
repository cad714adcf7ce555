// The bag-of-words head (DupMAE, Liu et al., arXiv 2305.02564) after a GEMM that makes logits: each
// token id's largest logit among a sentence's tokens, the loss of the sentence's bag, and the gradients,
// which go to the one token that had it.
//
//     m[b, v] = max over tokens t of x[t, v],  loss[b] = −s[b]·Σ w·log softmax(m[b])[id]
//     g[b, v] = s[b]·(Σ w·softmax(m[b])[v] − w[v])
//     d_weight[v] += Σ_b g[b, v]·hidden[token(b, v)],  d_hidden[t] = Σ_{v of t} g[b, v]·weight[v]
//
// A chunk of logits (src/ops/bag_of_words.rs) leaves only maxima and their tokens, 6 bytes a sentence
// and token id. All sums are f32 and in an order that depends on the shapes alone; no atomics.
//
// With B sentences, T tokens, a vocabulary of V and H columns:
// - maximum: reads the logits once, T·V·e bytes; 8 token ids a thread. Bound by memory. Instead of it and the
//   GEMM before it there is bag_of_words_matmul.cu, without logits.
// - loss: a block a sentence, 12·B·V bytes read, 4·B·V written.
// - weight_gradient: 512 token ids × 64 columns a block, over all sentences. B·V·H·e bytes pass through L1,
// at
//   256 × 30,522 × 768 of bf16 12 GB, 0.4 ms of an H100. As the ids of a block meet in the same rows of a
//   sentence, 16 KB of 128 tokens, only a quarter of that comes from L2.
// - hidden_gradient: a block a token and 256 columns, each warp an eighth of the ids: 2·T·V bytes to find
//   the token's ids, B·V·H·e bytes of their embeddings, out of L2: two or three milliseconds, as much as
//   the GEMM. Ids sorted by their token would be found once, not for each 256 columns.
#include "../arch/approximate.cuh"
#include "../arch/bits.cuh"
#include "../core/block_reduce.cuh"
#include "../core/shared_memory.cuh"
#include "../core/types.cuh"
#include "maximum.cuh"

namespace retromae {

constexpr uint32_t kMaximumThreads = 64;
constexpr uint32_t kBagThreads = 256;
constexpr uint32_t kBagWarps = kBagThreads / 32;

// Index of the lowest set bit.
RETROMAE_DEVICE uint32_t lowest_bit(uint32_t bits) {
    return bit_count((bits & (0u - bits)) - 1u);
}

template <class T>
RETROMAE_DEVICE void maximum(const BagOfWordsParams& params) {
    const uint32_t sentence = blockIdx.y;
    const TokenRange tokens = tokens_of(params, sentence);
    if (!tokens.valid) return;
    const uint32_t first = tokens.start + params.first_position;
    const uint32_t end = tokens.start + tokens.count;
    // The rows that are both the sentence's and the chunk's.
    const uint32_t chunk_end = params.first_row + params.rows;
    const uint32_t from = first > params.first_row ? first : params.first_row;
    const uint32_t to = end < chunk_end ? end : chunk_end;
    const uint32_t column = (blockIdx.x * kMaximumThreads + threadIdx.x) * 8;
    if (from >= to || column >= params.vocabulary) return;

    const uint64_t place = static_cast<uint64_t>(sentence) * params.stride + column;
    float* maxima = pointer<float>(params.maxima) + place;
    Pack<uint16_t, 8>* positions =
        reinterpret_cast<Pack<uint16_t, 8>*>(pointer<uint16_t>(params.positions) + place);
    float best[8];
    Pack<uint16_t, 8> best_positions = {};
    if (from > first) {
        load(maxima, best);
        best_positions = *positions;
    } else {
        fill(best, -INFINITY);
    }
    const T* logits = pointer<const T>(params.logits) + column;
    for (uint32_t row = from; row < to; ++row) {
        float x[8];
        load(logits + static_cast<uint64_t>(row - params.first_row) * params.stride, x);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) {
            if (exceeds(x[i], best[i])) {
                best[i] = x[i];
                best_positions.values[i] = static_cast<uint16_t>(row - tokens.start);
            }
        }
    }
    // The bias is the same for all tokens. Columns beyond the vocabulary were never written.
    if (to == end) {
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i)
            best[i] = column + i < params.vocabulary ? best[i] + element_or(params.bias, column + i, 0.0f)
                                                     : -INFINITY;
    }
    store(maxima, best);
    store_whole(positions, best_positions);
}

// A sentence's bag: token ids and their weights.
struct Bag {
    const int32_t* ids;
    DevicePointer weights;
    uint32_t first;
    uint32_t last;
    bool valid;

    RETROMAE_DEVICE Bag of(const BagOfWordsParams& params, uint32_t sentence) {
        const TokenRange range = TokenRange::of(params.bag_offsets, sentence, params.sentences,
                                                params.bag_words, params.bag_words);
        return {pointer<const int32_t>(params.bag_ids), params.bag_weights, range.start,
                range.start + range.count, range.valid};
    }
    // Calls `f(id, weight)` for each entry of this thread.
    template <class F>
    RETROMAE_MEMBER void for_each(F f) const {
        for (uint32_t i = first + threadIdx.x; i < last; i += kBagThreads) f(ids[i], weight(i));
    }
    // The weight of entry `index`.
    RETROMAE_MEMBER float weight(uint32_t index) const { return element_or(weights, index, 1.0f); }
};

// Calls `f(maximum)` for each of the thread's columns.
template <class F>
RETROMAE_DEVICE void for_each_maximum(float* maxima, uint32_t vocabulary, F f) {
    for (uint32_t column = threadIdx.x; column < vocabulary; column += kBagThreads) f(maxima[column]);
}

// Turns maxima into their gradients, with their largest and the sum of their exponentials relative to it.
RETROMAE_DEVICE void differentiate(float* maxima, uint32_t vocabulary, const Bag& bag, float highest,
                                   float sentence_weight, float scale) {
    // A token id is its thread's, so that ids that are twice in a bag need no atomics.
    for_each_maximum(maxima, vocabulary,
                     [&](float& x) { x = exp2_approximate((x - highest) * kLog2E) * scale; });
    for (uint32_t i = bag.first; i < bag.last; ++i) {
        const uint32_t id = bag.ids[i];
        if (id % kBagThreads == threadIdx.x) maxima[id] -= sentence_weight * bag.weight(i);
    }
}

// The loss of a sentence; its maxima become their own gradients, if these are wanted.
RETROMAE_DEVICE void loss(const BagOfWordsParams& params) {
    const uint32_t sentence = blockIdx.x;
    const uint32_t vocabulary = params.vocabulary;
    float* maxima = pointer<float>(params.maxima) + static_cast<uint64_t>(sentence) * params.stride;
    float* partials = SharedMemory::begin().take<float>(kBagWarps);
    const TokenRange tokens = tokens_of(params, sentence);
    const Bag bag = Bag::of(params, sentence);

    float invalid = tokens.valid && bag.valid ? 0.0f : 1.0f;
    float bag_weight = 0.0f;
    bag.for_each([&](int32_t id, float weight) {
        if (static_cast<uint32_t>(id) >= vocabulary) invalid = 1.0f;
        bag_weight += weight;
    });
    invalid = block_reduce<Maximum, kBagWarps>(invalid, partials);
    if (tokens.count <= params.first_position || bag.first == bag.last || invalid != 0.0f) {
        // The loss is 0 without tokens or without a bag, and NaN if an id or a range is out of bounds.
        for_each_maximum(maxima, vocabulary, [](float& x) { x = 0.0f; });
        if (threadIdx.x == 0) pointer<float>(params.losses)[sentence] = invalid != 0.0f ? NAN : 0.0f;
        return;
    }
    bag_weight = block_reduce<Sum, kBagWarps>(bag_weight, partials);
    float highest = -INFINITY;
    for_each_maximum(maxima, vocabulary, [&](float x) { highest = fmaxf(highest, x); });
    highest = block_reduce<Maximum, kBagWarps>(highest, partials);
    float sum = 0.0f;
    for_each_maximum(maxima, vocabulary, [&](float x) { sum += exp2_approximate((x - highest) * kLog2E); });
    sum = block_reduce<Sum, kBagWarps>(sum, partials);

    const float sentence_weight = element_or(params.sentence_weights, sentence, 1.0f);
    const float log_sum_exp = highest + logf(sum);
    float loss = 0.0f;
    bag.for_each([&](int32_t id, float weight) { loss += weight * (log_sum_exp - maxima[id]); });
    loss = block_reduce<Sum, kBagWarps>(loss, partials);
    if (threadIdx.x == 0) pointer<float>(params.losses)[sentence] = sentence_weight * loss;
    if (params.has_gradient != 0)
        differentiate(maxima, vocabulary, bag, highest, sentence_weight, sentence_weight * bag_weight / sum);
}

// One block per sentence.
struct BagLossLaunch : Launch<kBagThreads> {
    static Grid grid(const BagOfWordsParams& params) { return {params.sentences}; }
    static uint64_t shared_bytes(const BagOfWordsParams&) { return taken_bytes<float>(kBagWarps); }
};

RETROMAE_KERNEL(bag_of_words_loss, BagOfWordsParams, BagLossLaunch) {
    loss(params);
}

// sums += factor · 8 elements of a row from `column` on.
template <class T>
RETROMAE_DEVICE void add_scaled(float (&sums)[8], float factor, const T* row, uint32_t column) {
    float x[8];
    load(row + column, x);
    RETROMAE_UNROLL
    for (int i = 0; i < 8; ++i) sums[i] = fmaf(factor, x[i], sums[i]);
}

// A thread keeps 8 token ids × 8 columns, and 8 neighbors 64 columns of the same ids.
constexpr uint32_t kWeightThreads = 512;
constexpr uint32_t kWeightIds = 8;
constexpr uint32_t kWeightColumns = 64;
constexpr uint32_t kWeightGroups = kWeightColumns / 8;

template <class T>
RETROMAE_DEVICE void weight_gradient(const BagOfWordsParams& params) {
    const uint32_t first_id =
        (blockIdx.x * (kWeightThreads / kWeightGroups) + threadIdx.x / kWeightGroups) * kWeightIds;
    const uint32_t column = blockIdx.y * kWeightColumns + threadIdx.x % kWeightGroups * 8;
    if (first_id >= params.vocabulary || column >= params.hidden_size) return;
    const int32_t* cu_seqlens = pointer<const int32_t>(params.cu_seqlens);
    const T* hidden = pointer<const T>(params.hidden);
    float sums[kWeightIds][8] = {};
    float bias[kWeightIds] = {};
    for (uint32_t sentence = 0; sentence < params.sentences; ++sentence) {
        const uint64_t place = static_cast<uint64_t>(sentence) * params.stride + first_id;
        float gradients[kWeightIds];
        load(pointer<const float>(params.maxima) + place, gradients);
        const Pack<uint16_t, 8> positions =
            *reinterpret_cast<const Pack<uint16_t, 8>*>(pointer<const uint16_t>(params.positions) + place);
        const uint32_t start = cu_seqlens[sentence];
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < kWeightIds; ++i) {
            // 0 where there is no token, or the sentence is out of range, too; what is beyond the vocabulary
            // was never written.
            if (gradients[i] == 0.0f || first_id + i >= params.vocabulary) continue;
            const uint64_t row = start + positions.values[i];
            add_scaled(sums[i], gradients[i], hidden + row * params.hidden_size, column);
            bias[i] += gradients[i];
        }
    }
    RETROMAE_UNROLL
    for (uint32_t i = 0; i < kWeightIds; ++i) {
        const uint32_t id = first_id + i;
        if (id >= params.vocabulary) continue;
        if (params.d_weight != 0) {
            float* d_weight =
                pointer<float>(params.d_weight) + static_cast<uint64_t>(id) * params.hidden_size + column;
            float total[8];
            load(d_weight, total);
            RETROMAE_UNROLL
            for (int k = 0; k < 8; ++k) total[k] += sums[i][k];
            store(d_weight, total);
        }
        if (column == 0 && params.d_bias != 0) pointer<float>(params.d_bias)[id] += bias[i];
    }
}

// The sentence of a row; `sentences` where it is in none.
RETROMAE_DEVICE uint32_t sentence_of(const BagOfWordsParams& params, uint32_t row) {
    const int32_t* cu_seqlens = pointer<const int32_t>(params.cu_seqlens);
    uint32_t low = 0;
    uint32_t high = params.sentences;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (static_cast<uint32_t>(cu_seqlens[middle + 1]) <= row)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// sums += the weights of the token ids whose maximum the token at `position` has, times their gradients; a
// warp's share of the ids, 256 at a time.
template <class T>
RETROMAE_DEVICE void add_weights(const BagOfWordsParams& params, uint32_t sentence, uint32_t position,
                                 uint32_t column, float (&sums)[8]) {
    const uint64_t start = static_cast<uint64_t>(sentence) * params.stride;
    const uint16_t* positions = pointer<const uint16_t>(params.positions) + start;
    const float* gradients = pointer<const float>(params.maxima) + start;
    for (uint32_t base = threadIdx.x / 32 * 256; base < params.vocabulary; base += kBagWarps * 256) {
        // A bit for each of the lane's 8 ids whose maximum this token has.
        const uint32_t own = base + lane_index() * 8;
        uint32_t bits = 0;
        if (own < params.vocabulary) {
            const Pack<uint16_t, 8> of = *reinterpret_cast<const Pack<uint16_t, 8>*>(positions + own);
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i)
                if (of.values[i] == position && own + i < params.vocabulary) bits |= 1u << i;
        }
        for (uint32_t lanes = warp_ballot(bits != 0); lanes != 0; lanes &= lanes - 1) {
            const uint32_t lane = lowest_bit(lanes);
            for (uint32_t found = warp_shuffle(bits, lane); found != 0; found &= found - 1) {
                const uint32_t id = base + lane * 8 + lowest_bit(found);
                if (column < params.hidden_size)
                    add_scaled(
                        sums, gradients[id],
                        pointer<const T>(params.weight) + static_cast<uint64_t>(id) * params.hidden_size,
                        column);
            }
        }
    }
}

template <class T>
RETROMAE_DEVICE void hidden_gradient(const BagOfWordsParams& params) {
    const uint32_t row = blockIdx.x;
    const uint32_t sentence = sentence_of(params, row);
    float sums[8] = {};
    if (sentence < params.sentences) {
        const uint32_t position = row - pointer<const int32_t>(params.cu_seqlens)[sentence];
        add_weights<T>(params, sentence, position, (blockIdx.y * 32 + lane_index()) * 8, sums);
    }
    // The warps' partial sums, added in their order.
    float* partials = SharedMemory::begin().take<float>(kBagWarps * 256);
    store(partials + threadIdx.x * 8, sums);
    __syncthreads();
    const uint32_t column = blockIdx.y * 256 + threadIdx.x;
    if (column >= params.hidden_size) return;
    float total = 0.0f;
    RETROMAE_UNROLL
    for (uint32_t i = 0; i < kBagWarps; ++i) total += partials[i * 256 + threadIdx.x];
    pointer<T>(params.d_hidden)[static_cast<uint64_t>(row) * params.hidden_size + column] =
        from_float<T>(total);
}

// Each thread handles 8 token ids.
struct BagMaximumLaunch : Launch<kMaximumThreads> {
    static Grid grid(const BagOfWordsParams& params) {
        return {ceil_div(params.vocabulary, 8 * kMaximumThreads), params.sentences};
    }
};
struct BagWeightLaunch : Launch<kWeightThreads> {
    static Grid grid(const BagOfWordsParams& params) {
        return {ceil_div(params.vocabulary, kWeightThreads / kWeightGroups * kWeightIds),
                ceil_div(params.hidden_size, kWeightColumns)};
    }
};
// One block per row and 256 columns, 8 per lane.
struct BagHiddenLaunch : Launch<kBagThreads> {
    static Grid grid(const BagOfWordsParams& params) {
        return {params.tokens, ceil_div(params.hidden_size, 256)};
    }
    static uint64_t shared_bytes(const BagOfWordsParams&) { return taken_bytes<float>(kBagWarps * 256); }
};

#define RETROMAE_BAG_OF_WORDS(name, T)                                                 \
    RETROMAE_KERNEL(bag_of_words_maximum_##name, BagOfWordsParams, BagMaximumLaunch) { \
        maximum<T>(params);                                                            \
    }                                                                                  \
    RETROMAE_KERNEL(bag_of_words_weight_##name, BagOfWordsParams, BagWeightLaunch) {   \
        weight_gradient<T>(params);                                                    \
    }                                                                                  \
    RETROMAE_KERNEL(bag_of_words_hidden_##name, BagOfWordsParams, BagHiddenLaunch) {   \
        hidden_gradient<T>(params);                                                    \
    }

RETROMAE_BAG_OF_WORDS(f32, float)
RETROMAE_BAG_OF_WORDS(bf16, bf16)
RETROMAE_BAG_OF_WORDS(f16, f16)

}  // namespace retromae
