// Shared by the forward and the backward of the embeddings: the sum of table rows that makes a token.
#pragma once

#include "../core/philox.cuh"
#include "../norm/row.cuh"

namespace retromae {

// The rows that are added up for a token. An index that is no row of its table stands for row 0, so that
// there is one to read, and makes the sum not `valid`.
template <class T>
struct EmbeddingRows {
    const T* content;  // of the word table or of the sentence vectors
    const T* position;
    const T* type;
    bool raw;         // the sentence vector alone
    bool normalized;  // LayerNorm and dropout follow, and the type is added
    bool valid;

    RETROMAE_MEMBER EmbeddingRows(const EmbeddingForwardParams& params, uint32_t token) {
        const uint32_t index = pointer<const int32_t>(params.positions)[token];
        const uint32_t id = params.ids != 0 ? pointer<const int32_t>(params.ids)[token] : 0;
        const uint32_t sentence = params.sentences != 0 ? pointer<const int32_t>(params.sentences)[token] : 0;
        raw = params.mode == EMBEDDING_CONTENT && index == 0;
        normalized = !raw && params.mode != EMBEDDING_QUERY_POSITION;
        valid = true;
        if (params.mode == EMBEDDING_WORD || (params.mode == EMBEDDING_CONTENT && !raw))
            content = row(params.word, id, params.vocabulary, params.columns);
        else
            content = row(params.sentence_vectors, sentence, params.vectors, params.columns);
        position = row(params.position_table, raw ? 0 : index, params.max_positions, params.columns);
        // Made anew: a loop-invariant would wait in registers that the other rows need.
        type = pointer<const T>(params.type_table) + recomputed(0);
    }

    // The sum of a normalized row, and the mean of its first columns: NaN, as then mean and rstd are, where
    // an index is no row. All rows are loaded before any is added.
    RETROMAE_MEMBER float normalized_sum(uint32_t columns, LaneRow& row) const {
        RawRow<T> contents = {}, positions = {}, types = {};
        contents.load(content, columns);
        positions.load(position, columns);
        types.load(type, columns);
        RowStart<T> content_start, position_start, type_start;
        content_start.load(content);
        position_start.load(position);
        type_start.load(type);
        for_chunks(columns, [&](int index, uint32_t) {
            contents.widen(index, row[index]);
            add(positions, index, row[index]);
            add(types, index, row[index]);
        });
        const float mean = content_start.mean() + position_start.mean() + type_start.mean();
        return valid ? mean : NAN;
    }

    // Any other row's: NaN where an index is no row.
    RETROMAE_MEMBER void plain_sum(uint32_t columns, LaneRow& row) const {
        RawRow<T> contents = {}, positions = {};
        contents.load(content, columns);
        if (!raw) positions.load(position, columns);
        for_chunks(columns, [&](int index, uint32_t) {
            contents.widen(index, row[index]);
            add(positions, index, row[index]);
            if (!valid) fill(row[index], NAN);
        });
    }

  private:
    static RETROMAE_MEMBER void add(const RawRow<T>& raw_row, int index, float (&row)[8]) {
        float added[8];
        raw_row.widen(index, added);
        RETROMAE_UNROLL
        for (int i = 0; i < 8; ++i) row[i] += added[i];
    }
    RETROMAE_MEMBER const T* row(DevicePointer table, uint32_t index, uint32_t rows, uint32_t columns) {
        valid = valid && index < rows;
        return pointer<const T>(table) + static_cast<uint64_t>(index < rows ? index : 0) * columns;
    }
};

}  // namespace retromae
