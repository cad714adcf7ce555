/* The parameter struct of every kernel: plain C, with constants.h the only thing that CUDA C++ and Rust
 * share.
 *
 * Addresses are 64-bit integers, 0 where an optional array is absent; arrays are row-major; strides and sizes
 * count elements. `src/device/params.rs` is generated from this file. */
#pragma once

#include "constants.h"

typedef uint64_t DevicePointer;

/* The randomness of a step, in device memory, so that a replayed launch sees the step's own values. */
struct RngState {
    uint32_t seed_low;
    uint32_t seed_high;
    uint32_t step;
    uint32_t reserved;
};

/* Sizes of tiles that arrays are made for, or that the host's side cuts its work by. */
enum TileSize : uint32_t {
    VOCABULARY_TILE = 128,        /* rows, and token ids, of a tile of logits */
    CROSS_ENTROPY_SLAB_ROWS = 64, /* rows that one partial sum of the bias's gradient is of */
    SEGMENT_SLICE = 64,           /* indices of a slice of a long segment */
    GROUP_TILE = 2048,            /* keys that one count of digits is of */
    GROUP_DIGIT_BITS = 8,
    MASK_ROWS_PER_BLOCK = 32, /* pool rows that one block makes */
    ROW_COLUMNS_MAX = 1024,   /* of a row that a warp holds in registers */
};

/* One dropout site. `threshold` of 256 byte values drop an element; the others scale it by `scale`. */
struct DropoutParams {
    DevicePointer rng; /* RngState */
    uint32_t threshold;
    float scale;
    uint32_t site;
    uint32_t reserved;
};

/* Source of a query's visible keys. */
enum AttentionMaskKind : uint32_t {
    ATTENTION_MASK_BITS = 0,        /* a bit row a query */
    ATTENTION_MASK_WINDOW = 1,      /* keys from position - left to position + right */
    ATTENTION_MASK_PERMUTATION = 2, /* keys that come earlier in a permutation of the sentence */
    ATTENTION_MASK_SAMPLED = 3, /* a pool of whole-word masks, sampled in each block: see SampleMasksParams */
};

/* Flags that modify every query's visibility. */
enum AttentionMaskRule : uint32_t {
    ATTENTION_FIRST_VISIBLE = 1, /* every query but the first sees the first key */
    ATTENTION_SELF_HIDDEN = 2,   /* no token sees itself */
    ATTENTION_SELF_VISIBLE = 4,  /* every token sees itself */
};

/* Limit of the tokens that a mask may choose of a sentence: min(cap, max(1, round(ratio · length))). */
struct MaskCountLimitParams {
    double ratio;
    uint32_t cap;
    uint32_t unused;
};

/* The keys that a query sees, in `masked` variants. L is the number of its sentence's keys. */
struct AttentionMaskParams {
    DevicePointer bits;    /* u32: rows of ceil(L / 32) elements, sentence after sentence; 1 is visible */
    DevicePointer offsets; /* u32 [sentences + 1]: first element of each sentence in `bits` */
    DevicePointer rows;    /* u16 [keys], optional: the bit row of each token; else its position */
    DevicePointer order;   /* u16 [keys]: order of each key in the permutation */
    uint32_t kind;         /* AttentionMaskKind */
    uint32_t rules;        /* AttentionMaskRule */
    uint32_t left;
    uint32_t right;
    DevicePointer rng;              /* RngState */
    DevicePointer sentence_indices; /* u32 [sentences] */
    DevicePointer word_starts;      /* u32 [ceil(keys / 32)]: a bit a token */
    MaskCountLimitParams count_limit;
    uint32_t pool_rows_max;
    uint32_t words; /* elements of `bits`; any beyond are 0 */
};

/* Masked attention over packed sentences. Head h of a row begins at column h·head_dim. Rows that the prefix
 * sums give to no sentence come out as 0, those of a sentence that leaves the batch or is too long as NaN. */
struct AttentionForwardParams {
    DevicePointer query;            /* T [queries, query_stride] */
    DevicePointer key;              /* T [keys, key_stride] */
    DevicePointer value;            /* T [keys, value_stride] */
    DevicePointer output;           /* T [queries, output_stride] */
    DevicePointer log_sum_exp;      /* f32 [heads, queries], natural logarithm */
    DevicePointer query_cu_seqlens; /* i32 [sentences + 1] */
    DevicePointer key_cu_seqlens;   /* i32 [sentences + 1] */
    DevicePointer query_positions;  /* i32 [queries], optional: else 0, 1, … in each sentence */
    uint32_t query_stride;
    uint32_t key_stride;
    uint32_t value_stride;
    uint32_t output_stride;
    uint32_t queries;
    uint32_t sentences;
    uint32_t heads;
    float scale;
    uint32_t keys;
    uint32_t query_seqlen_max;
    uint32_t key_seqlen_max;
    uint32_t reserved;
    AttentionMaskParams mask;
    DropoutParams dropout; /* row: the query's token among the keys; column: the key's position */
};

/* Gradients of the above. `fused` kernels write those of sentences of at most `fused_queries_max` queries; of
 * the others, `delta` kernels leave δ in d_query for the next ones, `key_value` kernels write d_key and
 * d_value, `query` kernels d_query; `atomic` kernels write d_key and d_value and add to `accumulator`, which
 * `convert` kernels turn into d_query. */
struct AttentionBackwardParams {
    AttentionForwardParams forward;
    DevicePointer d_output;    /* T [queries, forward.output_stride] */
    DevicePointer d_query;     /* T [queries, d_query_stride] */
    DevicePointer d_key;       /* T [keys, d_key_stride] */
    DevicePointer d_value;     /* T [keys, d_value_stride] */
    DevicePointer accumulator; /* f32 [heads, queries, head_dim] */
    uint32_t d_query_stride;
    uint32_t d_key_stride;
    uint32_t d_value_stride;
    uint32_t fused_queries_max; /* 0 where no kernel is fused */
};

/* output = LayerNorm(residual + dropout(input + bias)). */
struct LayerNormForwardParams {
    DevicePointer input;    /* T [rows, columns] */
    DevicePointer bias;     /* f32 [columns], optional */
    DevicePointer residual; /* T [rows, columns], optional */
    DevicePointer gamma;    /* f32 [columns] */
    DevicePointer beta;     /* f32 [columns] */
    DevicePointer output;   /* T [rows, columns] */
    DevicePointer sum;      /* T [rows, columns], optional: the normalized quantity, for the backward */
    DevicePointer mean;     /* f32 [rows] */
    DevicePointer rstd;     /* f32 [rows] */
    uint32_t rows;
    uint32_t columns;
    float eps;
    uint32_t reserved;
    DropoutParams dropout;
};

struct LayerNormBackwardParams {
    DevicePointer d_output;   /* T [rows, columns] */
    DevicePointer sum;        /* T [rows, columns] */
    DevicePointer mean;       /* f32 [rows] */
    DevicePointer rstd;       /* f32 [rows] */
    DevicePointer gamma;      /* f32 [columns] */
    DevicePointer d_residual; /* T [rows, columns], optional */
    DevicePointer d_input;    /* T [rows, columns] */
    DevicePointer partials;   /* f32 [blocks, 3, columns]: sums for gamma, beta, bias */
    uint32_t rows;
    uint32_t columns;
    DropoutParams dropout;
};

/* output = gelu(input + bias), exact erf form; the backward needs the input again. */
struct BiasGeluParams {
    DevicePointer input;    /* T [rows, columns] */
    DevicePointer bias;     /* f32 [columns] */
    DevicePointer output;   /* T [rows, columns], forward */
    DevicePointer d_output; /* T [rows, columns], backward */
    DevicePointer d_input;  /* T [rows, columns], backward */
    uint32_t rows;
    uint32_t columns;
};

/* Column sums of an input that is up to three matrices side by side, each with its own output:
 * outputs[m][block, column] = (accumulate ? itself : 0) + the sum over the block's rows of input[row,
 * m·columns + column]. */
struct ColumnSumParams {
    DevicePointer input;      /* T [rows, input_stride] */
    DevicePointer outputs[3]; /* f32 [blocks over rows, output_stride], 0 where a matrix is not wanted */
    uint32_t rows;
    uint32_t columns; /* of one matrix */
    uint32_t input_stride;
    uint32_t output_stride;
    uint32_t rows_per_block;
    uint32_t accumulate;
    uint32_t matrices; /* side by side */
    uint32_t reserved;
};

/* Source of a row of an embedding. */
enum EmbeddingMode : uint32_t {
    EMBEDDING_WORD = 0,           /* dropout(LN(word[id] + position[p] + type[0])) */
    EMBEDDING_CONTENT = 1,        /* the same, but position 0 is the sentence vector itself */
    EMBEDDING_QUERY = 2,          /* dropout(LN(sentence + position[p] + type[0])) */
    EMBEDDING_QUERY_POSITION = 3, /* sentence + position[p] */
};

/* A token whose id, position or sentence is no row of its table comes out as NaN. */
struct EmbeddingForwardParams {
    DevicePointer ids;              /* i32 [tokens] */
    DevicePointer positions;        /* i32 [tokens]: position of each token in its sentence */
    DevicePointer sentences;        /* i32 [tokens]: sentence of each token */
    DevicePointer word;             /* T [vocabulary, columns] */
    DevicePointer position_table;   /* T [max_positions, columns] */
    DevicePointer type_table;       /* T [types, columns] */
    DevicePointer sentence_vectors; /* T [vectors, columns] */
    DevicePointer gamma;            /* f32 [columns] */
    DevicePointer beta;             /* f32 [columns] */
    DevicePointer output;           /* T [tokens, columns] */
    DevicePointer mean;             /* f32 [tokens], not written where nothing is normalized */
    DevicePointer rstd;             /* f32 [tokens], as mean */
    uint32_t tokens;
    uint32_t columns;
    uint32_t mode; /* EmbeddingMode */
    float eps;
    uint32_t vocabulary;
    uint32_t max_positions;
    uint32_t vectors;
    uint32_t reserved;
    DropoutParams dropout;
};

struct EmbeddingBackwardParams {
    EmbeddingForwardParams forward; /* output is not read */
    DevicePointer d_output;         /* T [tokens, columns] */
    DevicePointer d_sum; /* T [tokens, columns]: gradient of what was normalized; 0 for a raw sentence row */
    DevicePointer partials; /* f32 [blocks, 2, columns]: sums for gamma, beta */
};

/* output[rows[s]] += sum of input[indices[k]] over k in offsets[s]..offsets[s + 1]. No row appears twice in
 * `rows` but those of empty segments. A row that `input` has not counts as NaN; what goes to a row that
 * `output` has not is dropped. */
struct SegmentSumParams {
    DevicePointer input;    /* T [input_rows, columns] */
    DevicePointer output;   /* f32 or T [output_rows, columns] */
    DevicePointer rows;     /* i32 [segments], optional: segment s itself */
    DevicePointer offsets;  /* i32 [segments + 1] */
    DevicePointer indices;  /* i32 [count], optional: k itself */
    DevicePointer owners;   /* u32 [slices, 2]: the long segment of each partial sum */
    DevicePointer partials; /* f32 [slices, 2, columns]: one for the segment that goes on at a slice's start,
                               one for that which begins in it */
    uint32_t segments;
    uint32_t columns;
    uint32_t input_rows;
    uint32_t output_rows;
    uint32_t count; /* the end of the last segment, or more; input_rows without indices */
    uint32_t reserved;
};

/* gather: output[i] = input[rows[i]]; scatter: output[rows[i]] += input[i], no row twice. A negative row is
 * none: gathered as zeros, scattered nowhere. One that is beyond the last is gathered as NaN, scattered
 * nowhere. */
struct RowsParams {
    DevicePointer input;  /* T: gather [indexed_rows, columns], scatter [count, columns] */
    DevicePointer output; /* T: gather [count, columns], scatter [indexed_rows, columns] */
    DevicePointer rows;   /* i32 [count] */
    uint32_t count;
    uint32_t columns;
    uint32_t indexed_rows;
    uint32_t reserved;
};

/* Softmax cross-entropy of rows of logits, replaced in place by their gradient. With x = logits + bias, y = x
 * or soft_cap·tanh(x / soft_cap), p = softmax(y) and L = log-sum-exp of y, a row's loss is weight·(L − (1 −
 * label_smoothing)·y[target] − label_smoothing·mean y + z_loss·L²). */
struct CrossEntropyParams {
    DevicePointer logits;          /* T [rows, stride]: in, without bias; out, the gradient, if wanted */
    DevicePointer bias;            /* f32 [vocabulary], aligned to 16 bytes; optional: 0 */
    DevicePointer targets;         /* i32 [rows] */
    DevicePointer row_weights;     /* f32 [rows], optional: 1 */
    DevicePointer losses;          /* f32 [rows] */
    DevicePointer log_sum_exp;     /* f32 [rows], optional */
    DevicePointer log_likelihoods; /* f32 [rows], optional: log p[target] */
    DevicePointer correct;         /* u8 [rows], optional: 1 if no logit exceeds the target's */
    DevicePointer hidden;          /* T [rows, hidden_size] */
    DevicePointer labeled_hidden;  /* T [rows, hidden_size], optional: set to hidden, or 0 without a target */
    uint32_t rows;
    uint32_t vocabulary;
    uint32_t stride;
    uint32_t hidden_size;
    int32_t ignore_index; /* the target of a row without a loss */
    float label_smoothing;
    float z_loss;
    float soft_cap;        /* 0: none */
    uint32_t has_gradient; /* 0: the logits stay */
    uint32_t reserved;
};

/* Totals of a group of rows. */
struct CrossEntropyTotals {
    float loss;           /* sum */
    float log_likelihood; /* sum, unweighted */
    uint32_t labeled;     /* rows whose target is a token id of the vocabulary */
    uint32_t correct;
    uint32_t invalid;       /* rows whose target is neither a token id nor ignored */
    uint32_t first_invalid; /* the first of them; 0 where there is none */
};

/* d_bias[v] += Σ over rows of scales[row]·matrix[row, v], by way of sums over slabs of 64 rows. */
struct CrossEntropyBiasParams {
    DevicePointer matrix;    /* T [rows, stride] */
    DevicePointer scales;    /* f32 [rows], optional: 1 */
    DevicePointer slab_sums; /* f32 [ceil(rows / CROSS_ENTROPY_SLAB_ROWS), stride] */
    DevicePointer d_bias;    /* f32 [vocabulary] */
    uint32_t rows;
    uint32_t vocabulary;
    uint32_t stride;
    uint32_t reserved;
};

struct CrossEntropyTotalsParams {
    DevicePointer targets;         /* i32 [rows] */
    DevicePointer losses;          /* f32 [rows] */
    DevicePointer log_likelihoods; /* f32 [rows] */
    DevicePointer correct;         /* u8 [rows] */
    DevicePointer totals;          /* CrossEntropyTotals */
    uint32_t rows;
    uint32_t vocabulary;
    int32_t ignore_index;
    uint32_t reserved;
};

/* Exponentials of logits relative to a reference of each row, from a GEMM whose logits are never stored, and
 * the loss and gradients made of them: rows of a chunk, in tiles of 128 rows and 128 columns of the
 * vocabulary; a block takes some column tiles of one row tile. */
struct CrossEntropyFusedParams {
    DevicePointer hidden;        /* T [rows, hidden_size] */
    DevicePointer weight;        /* T [vocabulary, hidden_size] */
    DevicePointer bias;          /* f32 [vocabulary], optional: 0 */
    DevicePointer targets;       /* i32 [rows] */
    DevicePointer row_weights;   /* f32 [rows], optional: 1 */
    DevicePointer references;    /* f32 [rows]: subtracted from the row's logits */
    DevicePointer target_logits; /* f32 [rows] */
    DevicePointer sums;          /* f32 [splits, rows]: sums of the exponentials */
    DevicePointer maxima;        /* f32 [splits, rows]: largest logits */
    DevicePointer retries;       /* u32 [row tiles]: 1 if a reference was too small */
    /* T [rows, stride], optional: exp(logit − reference), later less the one-hot target */
    DevicePointer exponentials;
    DevicePointer scales;            /* f32 [rows], as exponentials: row weight over sum */
    DevicePointer scaled_hidden;     /* T [rows, hidden_size], optional: hidden, times scale */
    DevicePointer unscaled_d_hidden; /* f32 [rows, hidden_size]: exponentials · weight */
    DevicePointer d_hidden;          /* T [rows, hidden_size]: unscaled_d_hidden, times scale */
    DevicePointer losses;            /* f32 [rows] */
    DevicePointer log_sum_exp;       /* f32 [rows], optional */
    DevicePointer log_likelihoods;   /* f32 [rows], optional */
    DevicePointer correct;           /* u8 [rows], optional */
    uint32_t rows;
    uint32_t vocabulary;
    uint32_t hidden_size;
    uint32_t stride;
    uint32_t splits;
    int32_t ignore_index;
    uint32_t retry; /* 1: computes only row tiles with a reference too small */
    uint32_t reserved;
};

/* The bag-of-words head: each token id's largest logit among the tokens of each sentence, the loss of these
 * and its gradients. */
struct BagOfWordsParams {
    DevicePointer hidden;           /* T [tokens, hidden_size] */
    DevicePointer weight;           /* T [vocabulary, hidden_size] */
    DevicePointer bias;             /* f32 [vocabulary], optional: 0 */
    DevicePointer cu_seqlens;       /* i32 [sentences + 1]; tokens behind the last belong to no sentence */
    DevicePointer bag_offsets;      /* i32 [sentences + 1] */
    DevicePointer bag_ids;          /* i32 [bag_words] */
    DevicePointer bag_weights;      /* f32 [bag_words], optional: 1 */
    DevicePointer sentence_weights; /* f32 [sentences], optional: 1 */
    DevicePointer logits;           /* T [rows, stride]: rows from first_row on, without bias */
    DevicePointer maxima;           /* f32 [sentences, stride]; then the loss's gradient by them, if wanted */
    DevicePointer positions;        /* u16 [sentences, stride]: positions of the tokens that have them */
    DevicePointer losses;           /* f32 [sentences] */
    DevicePointer d_hidden;         /* T [tokens, hidden_size], optional */
    DevicePointer d_weight;         /* f32 [vocabulary, hidden_size], optional, added to */
    DevicePointer d_bias;           /* f32 [vocabulary], optional, added to */
    uint32_t sentences;
    uint32_t vocabulary;
    uint32_t hidden_size;
    uint32_t stride;
    uint32_t first_position; /* position of the first token of a sentence that takes part */
    uint32_t first_row;
    uint32_t rows;
    uint32_t tokens;
    uint32_t bag_words;
    uint32_t has_gradient;
};

/* A sentence's tokens, corrupted where a mask of its own chooses them, and the chosen ones' rows. */
struct CorruptionParams {
    DevicePointer ids;       /* i32 [tokens]: the sentences' own */
    DevicePointer input_ids; /* i32 [tokens]: corrupted; 0 where nothing is to be corrupted */
    DevicePointer offsets;   /* i32 [sentences + 1]: first labeled row of each sentence */
    DevicePointer rows;      /* i32 [labeled]: chosen tokens of the batch, ascending, then -1 */
    DevicePointer targets;   /* i32 [labeled]: their ids, then IGNORE_INDEX */
    DevicePointer counts;    /* i32 [sentences]: chosen tokens */
    MaskCountLimitParams count_limit;
    uint64_t mask_below;   /* of 2^32 random values, those that become mask_id */
    uint64_t random_below; /* … those that become mask_id or a random id; the others stay */
    int32_t mask_id;
    uint32_t vocab_size;
    uint32_t labeled;
    uint32_t reserved;
};

/* Keys that are sorted with their rows, by one digit from input to output; then their runs. */
struct GroupedKeys {
    DevicePointer input_keys;     /* u32 [count]: sorted, in `segments`; any above key_count are it */
    DevicePointer input_indices;  /* u32 [count], optional: else each key has its own row's */
    DevicePointer output_keys;    /* u32 [count] */
    DevicePointer output_indices; /* u32 [count] */
    DevicePointer counts;         /* u32 [ceil(count / GROUP_TILE), 256]: keys of each tile with each digit */
    DevicePointer rows;           /* i32 [segments]: the key of each run, then 0 */
    DevicePointer offsets;        /* i32 [segments + 1]: begin of each run, then count */
    uint32_t segments;            /* not below the number of different keys below key_count */
    uint32_t key_count;           /* no key: sorted behind all keys, in no segment if there is none left */
};

/* Some arrays of keys, one a row of blocks. */
struct GroupByKeyParams {
    GroupedKeys arrays[3];
    uint32_t array_count;
    uint32_t count; /* rows of each */
    uint32_t shift; /* the lowest bit of the digit */
    uint32_t reserved;
};

/* weights[i] = weight / (sum of the counts) for the rows that are not negative, and 0 for the others. */
struct MeanWeightsParams {
    DevicePointer labeled_rows; /* i32 [rows] */
    DevicePointer counts;       /* i32 [sentences] */
    DevicePointer row_weights;  /* f32 [rows] */
    uint32_t rows;
    uint32_t sentences;
    float weight;
    uint32_t unused;
};

/* Whole-word masks: a pool of bit rows for each sentence, each token's row of it, and corrupted inputs. */
struct SampleMasksParams {
    DevicePointer rng;              /* RngState */
    DevicePointer cu_seqlens;       /* i32 [sentences + 1] */
    DevicePointer sentence_indices; /* u32 [sentences]: the sentences' numbers in the corpus */
    DevicePointer word_starts;      /* u32 [ceil(tokens / 32)]: a bit a token, 1 where a word starts */
    DevicePointer pool_offsets;     /* u32 [sentences + 1] */
    DevicePointer bits;             /* u32 [pool_words]: 1 is visible */
    DevicePointer rows;             /* u16 [tokens], optional: else each token has the row of its position */
    DevicePointer workspace; /* u16 [tokens, pool_rows_max rounded up to 32], optional: else shared memory */
    MaskCountLimitParams count_limit; /* of the pool's masks */
    uint32_t pool_rows_max;
    uint32_t pool_blocks; /* for each sentence, before the block of its corruption */
    uint32_t length_max;  /* of the longest sentence; sizes the arrays in shared memory */
    uint32_t sentences;
    uint32_t tokens;
    uint32_t pool_words;
    CorruptionParams encoder;
    CorruptionParams decoder;
};

/* output[block] = sum of the block's elements, or in `squares` variants of their squares. */
struct ReduceParams {
    DevicePointer input;  /* f32 [count] */
    DevicePointer output; /* f32 [blocks] */
    uint64_t count;
    uint32_t elements_per_block; /* a multiple of 8192 */
    uint32_t accumulate;         /* 1: added to what output holds */
};

/* One AdamW step (Loshchilov and Hutter, arXiv 1711.05101) over a flat arena. */
struct AdamWParams {
    DevicePointer parameters;         /* f32 [count] */
    DevicePointer gradients;          /* f32 [count]: read, then set to 0 */
    DevicePointer first_moments;      /* f32 [count] */
    DevicePointer second_moments;     /* f32 [count] */
    DevicePointer compute_parameters; /* T [count], optional: the rounded copy for the kernels */
    DevicePointer squared_norm;       /* f32 [1]: squared norm of all gradients */
    DevicePointer schedule;           /* AdamWSchedule */
    uint64_t count;
    uint64_t decayed; /* weight decay acts on the first `decayed` elements */
    float beta1;
    float one_minus_beta1; /* rounded from the exact difference, which 1.0f - beta1 is not */
    float beta2;
    float one_minus_beta2;
    float eps;
    float weight_decay;
    float max_norm; /* 0: no clipping */
    uint32_t reserved;
};

/* Factors that change from step to step, in device memory. */
struct AdamWSchedule {
    float learning_rate;
    float bias_correction1; /* 1 − beta1^step */
    float bias_correction2; /* 1 − beta2^step */
    float reserved;
};

/* For kernels that only tests run: the operation of docs/kernels.md. x = input[rows[i]] − center, output[i] =
 * x / max(‖x‖, eps). A row that is not in the input gives NaN. */
struct SentenceVectorsParams {
    DevicePointer input;  /* T [input_rows, columns] */
    DevicePointer rows;   /* i32 [count] */
    DevicePointer center; /* f32 [columns] */
    DevicePointer output; /* T [count, columns] */
    DevicePointer norms;  /* f32 [count]: ‖x‖ */
    uint32_t count;
    uint32_t columns;
    uint32_t input_rows;
    float eps;
};

/* For kernels that only tests run: probes of the emulator, and instruction tests. */
struct ProbeParams {
    DevicePointer input;
    DevicePointer output;
    uint64_t count;
};
