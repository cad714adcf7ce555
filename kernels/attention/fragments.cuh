// Helpers of the tensor-core attention kernels: a bit for each score, in the layout of mma's accumulators.
#pragma once

#include "../core/tile.cuh"
#include "attention.cuh"

namespace retromae {

// 4 warps of 16 rows of scores.
constexpr int kTileRows = 64;
static_assert(kTileRows * 2 == kAttentionThreads, "16 rows a warp");

// A bit for each of a lane's scores in accumulators [16, 32·Words]: lane (g, t) has rows g and g + 8, and of
// them columns 8n + 2t and the next. The rows are kept in natural order and shifted by 2t, so that a score's
// bit is at a place that the compiler knows.
template <int Words>
struct FragmentBits {
    uint32_t words[2][Words];

    // Reads rows `row..row + 16` of a tile of bits in shared memory, [Words, 64]: word w of all rows, then
    // word w + 1.
    RETROMAE_DEVICE FragmentBits load(const uint32_t* tile, uint32_t row) {
        const uint32_t lane = lane_index();
        FragmentBits bits;
        RETROMAE_UNROLL
        for (int half = 0; half < 2; ++half) {
            RETROMAE_UNROLL
            for (int w = 0; w < Words; ++w)
                bits.words[half][w] = tile[w * kTileRows + row + lane / 4 + 8 * half] >> lane % 4 * 2;
        }
        return bits;
    }
    // Columns from `first` on, of which those below `end` are set, in every row.
    RETROMAE_DEVICE FragmentBits below(uint32_t first, uint32_t end) {
        FragmentBits bits;
        RETROMAE_UNROLL
        for (int w = 0; w < Words; ++w)
            bits.words[0][w] = bits.words[1][w] = existing_keys(first + 32 * w, end) >> threadIdx.x % 4 * 2;
        return bits;
    }
    // The bit of one of the lane's scores.
    RETROMAE_MEMBER bool test(int row, int column) const {
        return words[row][column / 8] & 1u << (column / 2 % 4 * 8 + column % 2);
    }
    // Goes on to the columns from `columns` on within each word.
    RETROMAE_MEMBER void skip(int columns) {
        RETROMAE_UNROLL
        for (int half = 0; half < 2; ++half) {
            RETROMAE_UNROLL
            for (int w = 0; w < Words; ++w) words[half][w] = columns < 32 ? words[half][w] >> columns : 0u;
        }
    }
};

// Replaces the accumulators whose bit is not set.
template <int Tiles, int Words>
RETROMAE_DEVICE void select(const FragmentBits<Words>& bits, float otherwise,
                            float (&accumulators)[Tiles][4]) {
    for_each_accumulator(accumulators, [&](int row, int column, float& x) {
        if (!bits.test(row, column)) x = otherwise;
    });
}

// Accumulators as an operand A, those whose bit is not set as 0: the [16, 16] at columns `16·step..`.
template <class T, int Tiles, int Words>
RETROMAE_DEVICE void selected_as_a(const FragmentBits<Words>& bits, const float (&accumulators)[Tiles][4],
                                   int step, uint32_t (&a)[4]) {
    float selected[2][4];
    for_each_accumulator(selected, [&](int row, int column, float& x) {
        const int of = 4 * step + column;
        x = bits.test(row, of) ? accumulator_at(accumulators, row, of) : 0.0f;
    });
    accumulators_as_a<T>(selected, 0, a);
}

// Applies dropout to accumulators.
template <int Tiles, int Words>
RETROMAE_DEVICE void drop(const FragmentBits<Words>& kept, const DropoutParams& dropout,
                          float (&accumulators)[Tiles][4]) {
    select(kept, 0.0f, accumulators);
    for_each_accumulator(accumulators, [&](int, int, float& x) { x *= dropout.scale; });
}

// log2(e), times the scale of the scores: exponentials are taken to base 2.
RETROMAE_DEVICE float base2_scale(const AttentionForwardParams& params) {
    return params.scale * kLog2E;
}

// The dropout of 64 keys against a lane's two rows of scores, which are queries. The four lanes of a quad
// share the rows, of 4 groups of 16 keys: each samples one group of both rows for all.
RETROMAE_DEVICE FragmentBits<2> kept_keys(const DropoutParams& dropout, uint32_t head,
                                          const uint32_t (&tokens)[2], uint32_t key_tile) {
    const uint32_t quad_lane = threadIdx.x % 4;
    const uint32_t group = key_tile / kDropoutGroup + quad_lane;
    const uint32_t own =
        dropout_kept(dropout, head, tokens[0], group) | dropout_kept(dropout, head, tokens[1], group) << 16;
    uint32_t groups[4];
    quad_gather(own, groups);
    FragmentBits<2> kept;
    RETROMAE_UNROLL
    for (int w = 0; w < 2; ++w) {
        const uint32_t low = groups[2 * w], high = groups[2 * w + 1];
        kept.words[0][w] = ((low & 0xffffu) | high << 16) >> quad_lane * 2;
        kept.words[1][w] = (low >> 16 | (high & 0xffff0000u)) >> quad_lane * 2;
    }
    return kept;
}

// The rows of a block that owns 64 queries, a lane's two of them.
struct QueryRows {
    uint32_t row;        // the warp's first of 16, within the tile
    uint32_t left;       // of the warp's queries and those after them; 0 where there are none
    uint32_t query;      // the lane's first, within the sentence; the other is 8 further
    uint32_t tokens[2];  // among the keys, for dropout

    RETROMAE_DEVICE QueryRows of(const AttentionForwardParams& params, const Sentence& sentence,
                                 uint32_t tile_start) {
        QueryRows rows;
        rows.row = threadIdx.x / 32 * 16;
        const uint32_t first = tile_start + rows.row;
        rows.left = first < sentence.queries ? sentence.queries - first : 0;
        rows.query = first + lane_row(0);
        RETROMAE_UNROLL
        for (int half = 0; half < 2; ++half) {
            const uint32_t query = rows.query + 8 * half;
            rows.tokens[half] =
                sentence.token(query < sentence.queries ? sentence.position(params, query) : 0);
        }
        return rows;
    }
};

// A tile of keys in shared memory.
struct StreamedTile {
    uint32_t key;  // its first, within the sentence
    uint32_t iteration;

    // Its first row in shared memory.
    RETROMAE_MEMBER uint32_t row() const { return iteration % 2 * kKeyTile; }
};

// The keys and values that a block of 64 queries walks over, a tile of 64 after the other: copied a tile
// ahead, tiles that the block does not see left out. While a tile's bits are read those of the next are
// written, and a slow warp may still read those of the last: three in turn.
template <class T, int D, class Mask>
struct KeyStream {
    static constexpr bool kMasked = Mask::kMasked;
    static constexpr int kVisible = kTileRows * 2;
    // Shared memory that `begin` uses after the mask, in bytes.
    static constexpr uint64_t kBytes =
        2 * taken_bytes<T>(2 * kKeyTile * D) + (kMasked ? taken_bytes<uint32_t>(3 * kVisible) : 0);

    SharedTile<T, D> keys;    // 2 times 64 rows
    SharedTile<T, D> values;  // 2 times 64 rows
    uint32_t* visible;        // [3, 2, 64]: 64 bits of keys a query
    const T* key;
    const T* value;
    uint32_t key_stride;
    uint32_t value_stride;
    uint32_t count;
    Mask mask;
    // This thread makes the visibility of 32 keys of one query.
    uint32_t position;
    bool exists;

    RETROMAE_DEVICE KeyStream begin(SharedMemory& memory, const AttentionForwardParams& params,
                                    const Sentence& sentence, uint32_t head, uint32_t tile_start) {
        KeyStream stream;
        stream.mask = Mask::make(params, sentence, memory);
        stream.keys.elements = memory.take<T>(2 * kKeyTile * D);
        stream.values.elements = memory.take<T>(2 * kKeyTile * D);
        stream.visible = kMasked ? memory.take<uint32_t>(3 * kVisible) : nullptr;
        stream.key = sentence.key_rows<const T>(params.key, params.key_stride, head * D);
        stream.value = sentence.key_rows<const T>(params.value, params.value_stride, head * D);
        stream.key_stride = params.key_stride;
        stream.value_stride = params.value_stride;
        stream.count = sentence.keys;
        const uint32_t query = tile_start + threadIdx.x % kTileRows;
        stream.exists = query < sentence.queries;
        stream.position = kMasked && stream.exists ? sentence.position(params, query) : 0;
        return stream;
    }

    // Calls `f(tile)` for each tile that some query of the block sees, when it and everything that the block
    // has copied before is in shared memory. By the whole block, with barriers; at its end nothing is on its
    // way.
    template <class F>
    RETROMAE_MEMBER void for_each_tile(F f) const {
        StreamedTile tile = find({0, 0});
        copy(tile);
        while (tile.key < count) {
            const StreamedTile next = find({tile.key + kKeyTile, tile.iteration + 1});
            copy(next);
            copy_async_wait<1>();
            __syncthreads();
            f(tile);
            tile = next;
        }
        copy_async_wait<0>();
        if (tile.iteration == 0)
            __syncthreads();  // nothing is seen: no barrier has followed the block's copies
    }
    // Sets the scores of keys that a query does not see, or that do not exist.
    RETROMAE_MEMBER void hide(StreamedTile tile, uint32_t row, float hidden, float (&scores)[8][4]) const {
        if (!kMasked && tile.key + kKeyTile <= count) return;
        const FragmentBits<2> bits = kMasked
                                         ? FragmentBits<2>::load(visible + tile.iteration % 3 * kVisible, row)
                                         : FragmentBits<2>::below(tile.key, count);
        select(bits, hidden, scores);
    }

  private:
    // The first tile from `tile` on that some query of the block sees, or one beyond the last key; a barrier.
    RETROMAE_MEMBER StreamedTile find(StreamedTile tile) const {
        if constexpr (kMasked) {
            for (; tile.key < count; tile.key += kKeyTile) {
                const uint32_t bits =
                    exists ? mask.visible(position, tile.key + threadIdx.x / kTileRows * 32) : 0;
                visible[tile.iteration % 3 * kVisible + threadIdx.x] = bits;
                if (block_any(bits != 0)) break;
            }
        } else {
            __syncthreads();
        }
        return tile;
    }
    // Starts the copies of a tile, or of none beyond the last key; always one group.
    RETROMAE_MEMBER void copy(StreamedTile tile) const {
        if (tile.key < count) {
            keys.from(tile.row())
                .template copy_rows<kKeyTile, kAttentionThreads>(key, key_stride, tile.key, count);
            values.from(tile.row())
                .template copy_rows<kKeyTile, kAttentionThreads>(value, value_stride, tile.key, count);
        }
        copy_async_commit();
    }
};

// The masks and types that kernels on tensor cores are made for: X(part, mask's name, Mask, T).
#define RETROMAE_ATTENTION_TYPES(X, part) \
    X(part, full, FullMask, bf16)         \
    X(part, full, FullMask, f16)          \
    X(part, masked, AnyMask, bf16)        \
    X(part, masked, AnyMask, f16)

}  // namespace retromae
