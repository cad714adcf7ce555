/* The parameter structs of the baseline's kernels. benches/baseline/params.rs mirrors them; each launch
 * compares the sizes. Conventions are those of ../params.h. */
#pragma once

#include "../params.h"

/* One pass over an array: output[i] = f(input[i], other[i]). */
struct BaselineElementwiseParams {
    DevicePointer input;  /* T [count] */
    DevicePointer other;  /* second operand, where there is one */
    DevicePointer output; /* T [count] */
    uint64_t count;       /* a multiple of 8 */
    uint32_t columns;     /* of a row, for a bias */
    float factor;
};

/* A dense mask, added to the scores of every head of its sentence. */
struct BaselineMaskParams {
    DevicePointer scores; /* T [sentences, heads, length, length] */
    DevicePointer mask;   /* T [sentences, length, length]: 0 or -inf */
    uint64_t count;       /* of scores */
    uint32_t heads;
    uint32_t length; /* a multiple of 8 */
};

/* forward: output = input·factor and kept = (factor != 0); backward: output = input·kept·scale. */
struct BaselineDropoutParams {
    DevicePointer input;      /* T [count] */
    DevicePointer output;     /* T [count] */
    DevicePointer kept;       /* u8 [count] */
    DevicePointer cu_seqlens; /* i32, where rows are queries: [sentences, heads, columns, columns] */
    uint64_t count;           /* a multiple of 8 */
    uint32_t columns;         /* a multiple of 8 */
    uint32_t heads;           /* 1 where cu_seqlens is absent */
    DropoutParams dropout;
};

/* Between packed rows and one padded matrix a head. */
struct BaselineHeadsParams {
    DevicePointer packed;     /* T [tokens, stride] */
    DevicePointer heads;      /* T [sentences, num_heads, length, head_dim] */
    DevicePointer cu_seqlens; /* i32 [sentences + 1] */
    uint32_t sentences;
    uint32_t num_heads;
    uint32_t head_dim; /* a multiple of 8 */
    uint32_t length;   /* of the longest sentence, or more */
    uint32_t stride;
    uint32_t reserved;
};

/* Softmax or its logarithm over rows. */
struct BaselineSoftmaxParams {
    DevicePointer input;  /* T [rows, columns]: forward input; backward gradient of the result */
    DevicePointer result; /* T [rows, columns]: of the forward, for the backward */
    DevicePointer output; /* T [rows, columns] */
    uint64_t rows;
    uint32_t columns; /* a multiple of 8 */
    uint32_t reserved;
};

/* Negative log-likelihood of the targets. */
struct BaselineLikelihoodParams {
    DevicePointer log_probabilities;   /* T [rows, columns] */
    DevicePointer targets;             /* i32 [rows] */
    DevicePointer row_weights;         /* f32 [rows] */
    DevicePointer losses;              /* f32 [rows], forward */
    DevicePointer d_log_probabilities; /* T [rows, columns], zero before the backward */
    uint32_t rows;
    uint32_t columns;
};

struct BaselineLayerNormParams {
    DevicePointer input;    /* T [rows, columns] */
    DevicePointer d_output; /* T [rows, columns], backward */
    DevicePointer gamma;    /* f32 [columns] */
    DevicePointer beta;     /* f32 [columns] */
    DevicePointer mean;     /* f32 [rows] */
    DevicePointer rstd;     /* f32 [rows] */
    DevicePointer output;   /* T [rows, columns]: forward result; backward gradient of input */
    DevicePointer partials; /* f32 [blocks, 2, columns]: sums for gamma and beta */
    uint32_t rows;
    uint32_t columns; /* a multiple of 8, at most 1024 */
    float eps;
    uint32_t rows_per_block; /* of the kernel of the partial sums */
};

/* table[ids[t]] += rows[t]. */
struct BaselineEmbeddingParams {
    DevicePointer rows;  /* T [tokens, columns] */
    DevicePointer table; /* f32 [vocabulary, columns] */
    DevicePointer ids;   /* i32 [tokens] */
    uint32_t tokens;
    uint32_t columns; /* a multiple of 8 */
};

/* The passes of AdamW over a flat arena; each reads what it needs. */
struct BaselineAdamWParams {
    DevicePointer parameters;     /* f32 [count] */
    DevicePointer gradients;      /* f32 [count] */
    DevicePointer first_moments;  /* f32 [count] */
    DevicePointer second_moments; /* f32 [count] */
    DevicePointer squared_norm;   /* f32 [1] */
    DevicePointer schedule;       /* AdamWSchedule */
    uint64_t count;               /* a multiple of 8 */
    float one_minus_beta1;
    float one_minus_beta2;
    float eps;
    float weight_decay;
    float max_norm;
    uint32_t reserved;
};
