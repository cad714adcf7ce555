// What the forward and the backward of the embeddings share: the sum of table rows that makes a token.
#pragma once

#include "../core/philox.cuh"
#include "../norm/row.cuh"

namespace retromae {

// The rows that are added up for a token; an absent one is null.
template <class T>
struct EmbeddingRows {
    const T* content;  // of the word table or of the sentence vectors
    const T* position;
    const T* type;
    bool normalised;  // LayerNorm and dropout follow

    RETROMAE_MEMBER EmbeddingRows(const EmbeddingForwardParams& params, uint32_t token) {
        const uint64_t columns = params.columns;
        const int32_t slot = pointer<const int32_t>(params.slots)[token];
        const bool raw = params.mode == EMBEDDING_CONTENT && slot == 0;
        if (params.mode == EMBEDDING_WORD || (params.mode == EMBEDDING_CONTENT && !raw)) {
            const int32_t id = pointer<const int32_t>(params.ids)[token];
            content = pointer<const T>(params.word) + static_cast<uint64_t>(id) * columns;
        } else {
            const int32_t sentence = pointer<const int32_t>(params.sentences)[token];
            content = pointer<const T>(params.sentence_vectors) + static_cast<uint64_t>(sentence) * columns;
        }
        normalised = !raw && params.mode != EMBEDDING_QUERY_POSITION;
        position = raw ? nullptr : pointer<const T>(params.position) + static_cast<uint64_t>(slot) * columns;
        type = normalised ? pointer<const T>(params.type) : nullptr;
    }

    // The mean of the first 8 columns of a normalised row's sum.
    RETROMAE_MEMBER float leading_mean() const {
        return retromae::leading_mean(content) + retromae::leading_mean(position) +
               retromae::leading_mean(type);
    }

    RETROMAE_MEMBER void sum(uint32_t columns, LaneRow& row) const {
        RawRow<T> contents = {}, positions = {}, types = {};
        contents.load(content, columns);
        if (position != nullptr) positions.load(position, columns);
        if (type != nullptr) types.load(type, columns);
        for_chunks(columns, [&](int slot, uint32_t) {
            float added[8];
            contents.widen(slot, row[slot]);
            positions.widen(slot, added);
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) row[slot][i] += added[i];
            types.widen(slot, added);
            RETROMAE_UNROLL
            for (int i = 0; i < 8; ++i) row[slot][i] += added[i];
        });
    }
};

}  // namespace retromae
