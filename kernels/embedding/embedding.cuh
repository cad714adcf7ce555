// What the forward and the backward of the embeddings share: the sum of table rows that makes a token.
#pragma once

#include "../core/philox.cuh"
#include "../norm/row.cuh"

namespace retromae {

// The rows that are added up for a token; an absent one is null. An index that is no row of its table stands
// for row 0, so that there is one to read, and makes the sum not `valid`.
template <class T>
struct EmbeddingRows {
    const T* content;  // of the word table or of the sentence vectors
    const T* position;
    const T* type;
    bool normalised;  // LayerNorm and dropout follow
    bool valid;

    RETROMAE_MEMBER EmbeddingRows(const EmbeddingForwardParams& params, uint32_t token) {
        valid = true;
        const uint32_t slot = pointer<const int32_t>(params.slots)[token];
        const bool raw = params.mode == EMBEDDING_CONTENT && slot == 0;
        if (params.mode == EMBEDDING_WORD || (params.mode == EMBEDDING_CONTENT && !raw))
            content = row(params.word, pointer<const int32_t>(params.ids)[token], params.vocabulary,
                          params.columns);
        else
            content = row(params.sentence_vectors, pointer<const int32_t>(params.sentences)[token],
                          params.vectors, params.columns);
        normalised = !raw && params.mode != EMBEDDING_QUERY_POSITION;
        position = raw ? nullptr : row(params.position, slot, params.positions, params.columns);
        type = normalised ? pointer<const T>(params.type) : nullptr;
    }

    // The mean of the first 8 columns of a normalised row's sum; NaN, as then mean and rstd are, where an
    // index is no row.
    RETROMAE_MEMBER float leading_mean() const {
        if (!valid) return NAN;
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

  private:
    RETROMAE_MEMBER const T* row(DevicePointer table, uint32_t index, uint32_t rows, uint32_t columns) {
        valid = valid && index < rows;
        return pointer<const T>(table) + static_cast<uint64_t>(index < rows ? index : 0) * columns;
    }
};

}  // namespace retromae
