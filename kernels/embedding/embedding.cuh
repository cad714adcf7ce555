// What the forward and the backward of the embeddings share: the sum of table rows that makes a token.
#pragma once

#include "../core/philox.cuh"
#include "../norm/row.cuh"

namespace retromae {

// The rows that are added up for a token; an absent one is null. Where an index is no row of its table none
// is read, and the sum is NaN.
template <class T>
struct EmbeddingRows {
    const T* content;  // of the word table or of the sentence vectors
    const T* position;
    const T* type;
    bool normalised;  // LayerNorm and dropout follow
    bool valid;

    RETROMAE_MEMBER EmbeddingRows(const EmbeddingForwardParams& params, uint32_t token) {
        const uint32_t slot = pointer<const int32_t>(params.slots)[token];
        const bool raw = params.mode == EMBEDDING_CONTENT && slot == 0;
        uint32_t index, rows;
        if (params.mode == EMBEDDING_WORD || (params.mode == EMBEDDING_CONTENT && !raw)) {
            index = pointer<const int32_t>(params.ids)[token];
            rows = params.vocabulary;
            content = row(params.word, index, params.columns);
        } else {
            index = pointer<const int32_t>(params.sentences)[token];
            rows = params.vectors;
            content = row(params.sentence_vectors, index, params.columns);
        }
        normalised = !raw && params.mode != EMBEDDING_QUERY_POSITION;
        position = raw ? nullptr : row(params.position, slot, params.columns);
        type = normalised ? pointer<const T>(params.type) : nullptr;
        valid = index < rows && (raw || slot < params.positions);
        if (!valid) content = position = type = nullptr;
    }

    // The mean of the first 8 columns of a normalised row's sum.
    RETROMAE_MEMBER float leading_mean() const {
        if (!valid) return NAN;
        return retromae::leading_mean(content) + retromae::leading_mean(position) +
               retromae::leading_mean(type);
    }

    RETROMAE_MEMBER void sum(uint32_t columns, LaneRow& row) const {
        RawRow<T> contents = {}, positions = {}, types = {};
        if (content != nullptr) contents.load(content, columns);
        if (position != nullptr) positions.load(position, columns);
        if (type != nullptr) types.load(type, columns);
        for_chunks(columns, [&](int slot, uint32_t) {
            float added[8];
            contents.widen(slot, row[slot]);
            if (!valid) fill(row[slot], NAN);
            positions.widen(slot, added);
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) row[slot][i] += added[i];
            types.widen(slot, added);
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) row[slot][i] += added[i];
        });
    }

  private:
    RETROMAE_DEVICE const T* row(DevicePointer table, uint32_t index, uint32_t columns) {
        return pointer<const T>(table) + static_cast<uint64_t>(index) * columns;
    }
};

}  // namespace retromae
