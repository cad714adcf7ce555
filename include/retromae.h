/* RetroMAE pre-training as a library of kernels: the C interface.
 *
 * Every operation takes a descriptor, which the caller fills in, a device and a stream:
 *
 *     rmae_device device;
 *     rmae_device_open("auto", 0, &device);
 *     rmae_attention_desc attention = RMAE_ATTENTION_INIT;
 *     attention.dtype = RMAE_F32;
 *     ...
 *     if (rmae_attention_forward(device, stream, &attention) != RMAE_OK) puts(rmae_last_error());
 *
 * Memory. All arrays are the caller's, in memory of the device (on the host device: of this process).
 * Matrices are row-major. A stride is the number of elements from a row to the next; 0 stands for contiguous
 * rows. Rows, vectors with an element for each column, and workspaces begin at multiples of 16 bytes, other
 * arrays and those of linear layers and matmuls at multiples of their element; a workspace that is used for
 * matmuls on a CUDA device begins at a multiple of 256. A pointer that is marked `optional` may be NULL, as
 * may one to an array without elements; fields that a call does not use are not read. An array that a call
 * writes overlaps no other array of the call. Each output says whether it is overwritten or added to.
 *
 * Workspaces. rmae_X_workspace writes the bytes that a call with this descriptor needs; it reads sizes, types
 * and flags alone. They do not shrink as a size grows. The content is irrelevant before a call and undefined
 * after it.
 *
 * Streams. `stream` is a CUstream of the device's primary context; NULL is CUDA's legacy default stream, and
 * the only one of the host device. Operations neither allocate nor wait: they are enqueued, may be captured
 * by the stream's owner, and read and write the arrays later, when the stream comes to them. The host device
 * has finished when a call returns.
 *
 * Errors. A call returns RMAE_OK or a status of one of the ranges below, and rmae_last_error the text of the
 * calling thread's last failure: it names the field, what it was, and what it should be. A call that failed
 * has enqueued nothing, unless the status is from RMAE_OUT_OF_MEMORY on. Nothing is written to stdout or
 * stderr, nothing aborts.
 *
 * Threads. Every function may be called by any thread at any time. Calls with the same model wait for each
 * other.
 *
 * Numbers. f32 is IEEE single precision, bf16 the upper half of it, f16 IEEE half precision; sums are
 * accumulated in f32. In comments, T is tokens (rows of a packed batch), B sequences, H hidden size, A heads,
 * d head size, V token ids; `T` as a type is the descriptor's dtype.
 */
#ifndef RETROMAE_H
#define RETROMAE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RMAE_VERSION_MAJOR 0
#define RMAE_VERSION_MINOR 1
#define RMAE_VERSION_PATCH 0

/* ---- Statuses ---- */

typedef int32_t rmae_status;
enum {
    RMAE_OK = 0,
    /* 1000: the caller's mistakes. */
    RMAE_INVALID_ARGUMENT = 1000,   /* a value that can never be right */
    RMAE_INVALID_DESCRIPTOR = 1001, /* NULL, or of another size or version than this library's */
    RMAE_NULL_POINTER = 1002,       /* a mandatory pointer is NULL */
    RMAE_MISALIGNED = 1003,         /* an address or a stride */
    RMAE_OVERLAP = 1004,            /* an output overlaps another array */
    RMAE_WORKSPACE_TOO_SMALL = 1005,
    RMAE_INVALID_HANDLE = 1006, /* of a device or a model that was closed or never opened */
    RMAE_WRONG_DEVICE = 1007,   /* memory, or a stream, of another device or context */
    /* 2000: right, but not here: the caller may fall back to other code. */
    RMAE_UNSUPPORTED_SHAPE = 2000,    /* sizes or types that no kernel was built for */
    RMAE_UNSUPPORTED_HARDWARE = 2001, /* no such device, driver, library, or kernels for it */
    /* 3000: the stream is being captured, and what was asked for cannot be. */
    RMAE_CAPTURING = 3000,
    /* 4000: the device. */
    RMAE_OUT_OF_MEMORY = 4000,
    RMAE_DEVICE_ERROR = 4001, /* a kernel, the driver or a library failed */
    RMAE_DEVICE_LOST = 4002,  /* after such a failure; the device does no more work in this process */
    /* 5000: files. */
    RMAE_FILE_ERROR = 5000,
    /* 9000: a fault of this library. */
    RMAE_INTERNAL = 9000
};

/* Name of a status, such as "RMAE_MISALIGNED"; "unknown" for a number that is none. */
const char* rmae_status_name(rmae_status status);

/* Text of the calling thread's last failure, "" if there was none; valid until its next failure. */
const char* rmae_last_error(void);

/* Writes the version of the library, which may differ from the header's. */
void rmae_version(int32_t* major, int32_t* minor, int32_t* patch);

/* ---- Types ---- */

/* Initial value of a descriptor: its size, its version, and zeros. */
#ifdef __cplusplus
} /* extern "C" */
template <typename Desc>
inline Desc rmae_init(uint32_t version) {
    Desc desc = Desc();
    desc.size = (uint32_t)sizeof(Desc);
    desc.version = version;
    return desc;
}
extern "C" {
#define RMAE_INIT(desc, version_) rmae_init<desc>(version_)
#else
#define RMAE_INIT(desc, version_) {.size = (uint32_t)sizeof(desc), .version = version_}
#endif

typedef int32_t rmae_dtype;
enum { RMAE_F32 = 1, RMAE_BF16 = 2, RMAE_F16 = 3 };

/* Opaque numbers that are checked and never dereferenced; NULL is none. */
typedef struct rmae_device_s* rmae_device;
typedef struct rmae_model_s* rmae_model;

/* Sequences one after the other without padding: row `cu_seqlens[b] + p` is position p of sequence b. */
typedef struct rmae_packed {
    const int32_t* cu_seqlens; /* [sequences + 1]: prefix sums of the lengths, from 0 to at most `tokens` */
    int64_t sequences;
    int64_t tokens;     /* rows; below 2^31 */
    int64_t max_seqlen; /* of the longest sequence, or more */
} rmae_packed;

/* Dropout; without `rng` there is none. */
typedef struct rmae_dropout {
    const uint32_t* rng; /* optional [4]: words of rmae_rng_state in device memory */
    float rate;          /* in [0, 1), in steps of 1/256 */
    uint32_t site;       /* number of the place in a model; each decides on its own */
} rmae_dropout;

/* Limit on the tokens of a sentence that a mask chooses: min(cap, max(1, round(ratio * length))). */
typedef struct rmae_count_limit {
    double ratio; /* in [0, 1] */
    int64_t cap;  /* at least 1; 0: none */
} rmae_count_limit;

/* ---- Devices ---- */

/* Flag of rmae_device_open: the host device installs no handlers of SIGSEGV, SIGBUS, SIGFPE and SIGILL. A
 * fault of a kernel is then the process'. */
#define RMAE_DEVICE_NO_FAULT_HANDLERS 1u

/* Opens "host" (the CPU emulator), "cuda:N", or "auto" (the first CUDA device if it works, else the host
 * device). */
rmae_status rmae_device_open(const char* name, uint64_t flags, rmae_device* device);
/* Forgets the handle. Enqueued work goes on. */
rmae_status rmae_device_close(rmae_device device);
/* Writes a text that names the device, at most `bytes` bytes with the final NUL. */
rmae_status rmae_device_description(rmae_device device, char* text, size_t bytes);
/* Waits for all work of a stream. */
rmae_status rmae_stream_synchronize(rmae_device device, void* stream);

/* Writes the four words of a step's random state, to be copied to device memory before the step. */
void rmae_rng_state(uint64_t seed, uint32_t step, uint32_t words[4]);

/* ---- Attention: O = dropout(softmax(scale * Q K^T + mask)) V, a head and a sequence at a time ---- */

typedef int32_t rmae_mask_kind;
enum {
    RMAE_MASK_FULL = 0, /* every key */
    RMAE_MASK_POOL =
        1, /* RetroMAE: position 0, and the set bits of the pool row of the query's token, never itself */
    RMAE_MASK_INDEPENDENT = 2, /* as RMAE_MASK_POOL, with a bit row for each position */
    RMAE_MASK_BITS = 3,        /* the set bits, in one row for each position (rmae_mask_bits) */
    RMAE_MASK_GENERATED = 4,   /* the pool that rmae_masks_sample would sample, anew in each block */
    RMAE_MASK_WINDOW = 5,      /* keys from `left` positions before the query to `right` after it */
    RMAE_MASK_PERMUTATION = 6  /* keys that come earlier in `order` */
};

/* Flags of a mask. */
#define RMAE_MASK_FIRST 1u        /* RMAE_MASK_WINDOW: position 0 is visible, however far it is */
#define RMAE_MASK_INCLUDE_SELF 2u /* RMAE_MASK_PERMUTATION: the query's own position is visible */

/* Keys of its sequence that a query sees. Bits lie in rows of ceil(L / 32) words, lowest bit first, 1 is
 * visible. Only the fields of its kind are read. */
typedef struct rmae_mask {
    rmae_mask_kind kind;
    uint32_t flags;
    const uint32_t* bits;             /* [words]: POOL, INDEPENDENT, BITS */
    int64_t words;                    /* length of `bits` */
    const uint32_t* offsets;          /* [B + 1]: first word of each sequence: POOL, INDEPENDENT, BITS */
    const uint16_t* rows;             /* [T]: pool row of each token: POOL */
    const uint16_t* order;            /* [T]: place of each token in the order of its sequence: PERMUTATION */
    int64_t left;                     /* WINDOW; -1: all */
    int64_t right;                    /* WINDOW; -1: all */
    const uint32_t* rng;              /* [4]: GENERATED */
    const uint32_t* sentence_indices; /* [B]: indices in the corpus: GENERATED */
    const uint32_t* word_starts;      /* [ceil(T / 32)]: a bit a token, 1 where a word starts: GENERATED */
    int64_t pool_rows_max;            /* in 1..65536: GENERATED */
    rmae_count_limit count_limit;     /* tokens that each mask hides: GENERATED */
} rmae_mask;

/* Queries that are packed separately; without `cu_seqlens` there is one query for each token of the batch. */
typedef struct rmae_queries {
    const int32_t* cu_seqlens; /* optional [sequences + 1], with the sequences of the batch */
    int64_t tokens;            /* Tq */
    int64_t max_seqlen;
    const int32_t* positions; /* optional [Tq]: position of each query in its sequence; 0, 1, ... */
} rmae_queries;

/* Flag of rmae_attention_desc: the backward pass of 16-bit types adds query gradients by atomics, in the
 * workspace. Faster for long sequences, but each run rounds differently. */
#define RMAE_ATTENTION_ATOMIC 1u

/* Head h of a row begins at column h*d. Queries, if packed separately, may be fewer or more than keys; Tq is
 * their number. */
typedef struct rmae_attention_desc {
    uint32_t size;
    uint32_t version;
    uint64_t flags;
    rmae_dtype dtype;
    float scale; /* of the scores; 0: 1 / sqrt(d) */
    int64_t num_heads;
    int64_t head_dim;  /* 32, 64, 96 or 128 */
    rmae_packed batch; /* of keys and values */
    rmae_queries queries;
    rmae_mask mask;
    rmae_dropout dropout;
    const void* query; /* T [Tq, A*d] */
    int64_t query_stride;
    const void* key; /* T [T, A*d] */
    int64_t key_stride;
    const void* value; /* T [T, A*d] */
    int64_t value_stride;
    void* output; /* T [Tq, A*d]: overwritten by forward, read by backward; zero for a query that sees nothing
                   */
    int64_t output_stride;
    float* log_sum_exp; /* [A, Tq]: overwritten by forward, read by backward */
    /* Of the backward pass alone. */
    const void* d_output;    /* T [Tq, A*d] */
    int64_t d_output_stride; /* that of `output` */
    void* d_query;           /* T [Tq, A*d], overwritten */
    int64_t d_query_stride;
    void* d_key; /* T [T, A*d], overwritten */
    int64_t d_key_stride;
    void* d_value; /* T [T, A*d], overwritten */
    int64_t d_value_stride;
    void* workspace; /* with RMAE_ATTENTION_ATOMIC */
    size_t workspace_bytes;
} rmae_attention_desc;

#define RMAE_ATTENTION_VERSION 1
#define RMAE_ATTENTION_INIT RMAE_INIT(rmae_attention_desc, RMAE_ATTENTION_VERSION)

rmae_status rmae_attention_workspace(rmae_device device, const rmae_attention_desc* desc, size_t* bytes);
rmae_status rmae_attention_forward(rmae_device device, void* stream, const rmae_attention_desc* desc);
rmae_status rmae_attention_backward(rmae_device device, void* stream, const rmae_attention_desc* desc);

/* Packs a mask of one's own, on the host: `visible` has [L, L] bytes for each sequence of `lengths`, not 0
 * where a query (row) sees a key. Writes B + 1 offsets, whose last is the number of words, and the words;
 * with `bits` NULL only the offsets. */
rmae_status rmae_mask_bits(const int64_t* lengths, int64_t sequences, const uint8_t* visible,
                           uint32_t* offsets, uint32_t* bits);

/* ---- Linear + cross-entropy over labeled rows, without all logits in memory ---- */

typedef int32_t rmae_algorithm;
enum {
    RMAE_ALGORITHM_LIBRARY = 0, /* logits a chunk of rows at a time, by the GEMM library */
    RMAE_ALGORITHM_FUSED = 1    /* no logit is stored; bf16 without options (bag of words also f16) */
};

/* Totals of a group of rows. */
typedef struct rmae_totals {
    float loss;           /* sum of the weighted losses */
    float log_likelihood; /* sum of the log-probabilities of the targets */
    uint32_t labeled;     /* rows with a target */
    uint32_t correct;     /* of them, those whose target has the largest logit */
    uint32_t invalid;     /* rows whose target is neither a token id nor ignored */
    uint32_t first_invalid;
} rmae_totals;

/* Flag of rmae_cross_entropy_desc: `ignore_index` is read, which may also be a token id. */
#define RMAE_CROSS_ENTROPY_IGNORE_INDEX 1u

typedef struct rmae_cross_entropy_desc {
    uint32_t size;
    uint32_t version;
    uint64_t flags;
    rmae_dtype dtype;
    int32_t ignore_index; /* target of rows without a loss; -100 without the flag */
    rmae_algorithm algorithm;
    float label_smoothing; /* in [0, 1) */
    float z_loss;          /* factor of the squared log-sum-exp; at least 0 */
    float soft_cap;        /* bound that large logits approach; 0: none */
    int64_t rows;          /* M */
    int64_t hidden_size;   /* H */
    int64_t vocab_size;    /* V */
    const void* hidden;    /* T [M, H], contiguous */
    const void* weight;    /* T [V, H], contiguous: the word embeddings */
    const float* bias;     /* optional [V], aligned to 16 bytes */
    const int32_t*
        targets; /* [M]: in [0, V), or ignore_index; any other gives a loss of NaN and no gradient */
    const float* row_weights; /* optional [M]: factor of loss and gradient; 1 */
    float* losses;            /* [M], overwritten */
    float* log_sum_exp;       /* optional [M], overwritten */
    float* log_likelihoods;   /* optional [M], overwritten: log-probability of the target */
    uint8_t* correct;         /* optional [M], overwritten: 1 where no logit exceeds the target's */
    rmae_totals* totals;      /* optional [groups], overwritten; needs log_likelihoods and correct */
    const int64_t*
        group_ends; /* optional [groups], in host memory: end of each group of rows, the last M; one group */
    int64_t groups;
    /* Of forward_backward alone. */
    void* d_hidden;     /* optional T [M, H], overwritten */
    float* d_weight;    /* optional [V, H], added to */
    float* d_bias;      /* optional [V], added to */
    int64_t chunk_rows; /* of rmae_cross_entropy_workspace: rows whose logits fit the workspace; 0: all */
    void* workspace;    /* larger is faster */
    size_t workspace_bytes;
} rmae_cross_entropy_desc;

#define RMAE_CROSS_ENTROPY_VERSION 1
#define RMAE_CROSS_ENTROPY_INIT RMAE_INIT(rmae_cross_entropy_desc, RMAE_CROSS_ENTROPY_VERSION)

/* The workspace of forward_backward, which is enough for forward. */
rmae_status rmae_cross_entropy_workspace(rmae_device device, const rmae_cross_entropy_desc* desc,
                                         size_t* bytes);
/* Losses, and what else is given, without gradients. */
rmae_status rmae_cross_entropy_forward(rmae_device device, void* stream, const rmae_cross_entropy_desc* desc);
/* As forward, and the gradients that are given. */
rmae_status rmae_cross_entropy_forward_backward(rmae_device device, void* stream,
                                                const rmae_cross_entropy_desc* desc);

/* row_weights[i] = weight / sum(counts), 0 for an unused entry: the sum of the losses is then `weight` times
 * their mean. */
typedef struct rmae_mean_weights_desc {
    uint32_t size;
    uint32_t version;
    uint64_t flags; /* 0 */
    int64_t rows;
    int64_t sentences;
    const int32_t* labeled_rows; /* [rows]: negative for an unused entry */
    const int32_t* counts;       /* [sentences]: their sum is the number of labeled rows */
    float* row_weights;          /* [rows], overwritten */
    float weight;
} rmae_mean_weights_desc;

#define RMAE_MEAN_WEIGHTS_VERSION 1
#define RMAE_MEAN_WEIGHTS_INIT RMAE_INIT(rmae_mean_weights_desc, RMAE_MEAN_WEIGHTS_VERSION)

rmae_status rmae_mean_weights(rmae_device device, void* stream, const rmae_mean_weights_desc* desc);

/* ---- Bag of words (DupMAE): a sentence predicts the words that are in it ---- */

/* The token ids that each sentence must predict. */
typedef struct rmae_bags {
    const int32_t* offsets; /* [B + 1]: prefix sums of the sizes of the bags */
    const int32_t* ids;     /* [length]: in [0, V); any other gives a loss of NaN and no gradient */
    const float* weights;   /* optional [length]; 1 */
    int64_t length;         /* ids of all bags, or more */
} rmae_bags;

typedef struct rmae_bag_of_words_desc {
    uint32_t size;
    uint32_t version;
    uint64_t flags; /* 0 */
    rmae_dtype dtype;
    rmae_algorithm algorithm;
    int64_t hidden_size; /* H */
    int64_t vocab_size;  /* V */
    rmae_packed batch;
    const void* hidden; /* T [T, H], contiguous */
    const void* weight; /* T [V, H], contiguous */
    const float* bias;  /* optional [V] */
    rmae_bags bags;
    const float* sentence_weights; /* optional [B]: factor of loss and gradient; 1 */
    int64_t first_position;        /* tokens at the start of each sentence that are left out; at most 65535 */
    float* losses;                 /* [B], overwritten */
    /* Of forward_backward alone. */
    void* d_hidden;     /* optional T [T, H], overwritten */
    float* d_weight;    /* optional [V, H], added to */
    float* d_bias;      /* optional [V], added to */
    int64_t chunk_rows; /* of rmae_bag_of_words_workspace: rows whose logits fit the workspace; 0: all */
    void* workspace;
    size_t workspace_bytes;
} rmae_bag_of_words_desc;

#define RMAE_BAG_OF_WORDS_VERSION 1
#define RMAE_BAG_OF_WORDS_INIT RMAE_INIT(rmae_bag_of_words_desc, RMAE_BAG_OF_WORDS_VERSION)

rmae_status rmae_bag_of_words_workspace(rmae_device device, const rmae_bag_of_words_desc* desc,
                                        size_t* bytes);
rmae_status rmae_bag_of_words_forward(rmae_device device, void* stream, const rmae_bag_of_words_desc* desc);
rmae_status rmae_bag_of_words_forward_backward(rmae_device device, void* stream,
                                               const rmae_bag_of_words_desc* desc);

/* ---- Linear layer: output = input * weight^T + bias ---- */

/* Flag of rmae_linear_desc: the backward pass adds to d_input. */
#define RMAE_LINEAR_ACCUMULATE 1u

typedef struct rmae_linear_desc {
    uint32_t size;
    uint32_t version;
    uint64_t flags;
    rmae_dtype dtype;
    int64_t rows;
    int64_t in_features;
    int64_t out_features;
    const void* input; /* T [rows, in]; of forward, and of d_weight */
    int64_t input_stride;
    const void* weight; /* T [out, in]; of forward, and of d_input */
    int64_t weight_stride;
    const void* bias; /* optional T [out] */
    void* output;     /* T [rows, out], overwritten */
    int64_t output_stride;
    /* Of the backward pass alone, which computes the gradients that are given. rmae_column_sum of d_output is
     * the gradient of the bias. */
    const void* d_output; /* T [rows, out] */
    int64_t d_output_stride;
    void* d_input; /* optional T [rows, in], overwritten unless RMAE_LINEAR_ACCUMULATE */
    int64_t d_input_stride;
    float* d_weight; /* optional [out, in], added to */
    int64_t d_weight_stride;
    void* workspace;
    size_t workspace_bytes;
} rmae_linear_desc;

#define RMAE_LINEAR_VERSION 1
#define RMAE_LINEAR_INIT RMAE_INIT(rmae_linear_desc, RMAE_LINEAR_VERSION)

rmae_status rmae_linear_workspace(rmae_device device, const rmae_linear_desc* desc, size_t* bytes);
rmae_status rmae_linear_forward(rmae_device device, void* stream, const rmae_linear_desc* desc);
rmae_status rmae_linear_backward(rmae_device device, void* stream, const rmae_linear_desc* desc);

/* ---- Matmul: output = left * right, `batch` times ---- */

#define RMAE_MATMUL_LEFT_TRANSPOSED 1u  /* left is stored as [batch * k, m] */
#define RMAE_MATMUL_RIGHT_TRANSPOSED 2u /* right is stored as [batch * n, k] */
#define RMAE_MATMUL_ACCUMULATE 4u       /* the output is added to; excludes a bias */

typedef struct rmae_matmul_desc {
    uint32_t size;
    uint32_t version;
    uint64_t flags;
    rmae_dtype dtype;        /* T, of the factors */
    rmae_dtype output_dtype; /* O: T or f32 */
    int64_t m;
    int64_t n;
    int64_t k;
    int64_t batch;    /* at least 1 */
    const void* left; /* T [batch * m, k] */
    int64_t left_stride;
    const void* right; /* T [batch * k, n] */
    int64_t right_stride;
    const void* bias; /* optional O [n], added to every row */
    void* output;     /* O [batch * m, n], overwritten unless RMAE_MATMUL_ACCUMULATE */
    int64_t output_stride;
    void* workspace;
    size_t workspace_bytes;
} rmae_matmul_desc;

#define RMAE_MATMUL_VERSION 1
#define RMAE_MATMUL_INIT RMAE_INIT(rmae_matmul_desc, RMAE_MATMUL_VERSION)

rmae_status rmae_matmul_workspace(rmae_device device, const rmae_matmul_desc* desc, size_t* bytes);
rmae_status rmae_matmul(rmae_device device, void* stream, const rmae_matmul_desc* desc);

/* ---- LayerNorm of residual + dropout(input + bias) ---- */

/* Matrices are contiguous; columns are a multiple of 8 up to 1024. */
typedef struct rmae_layer_norm_desc {
    uint32_t size;
    uint32_t version;
    uint64_t flags; /* 0 */
    rmae_dtype dtype;
    float eps; /* added to the variance; positive */
    int64_t rows;
    int64_t columns;
    rmae_dropout dropout;
    const void* input;    /* T [rows, columns]; of forward alone */
    const float* bias;    /* optional [columns]; of forward alone */
    const void* residual; /* optional T [rows, columns]; of forward alone */
    const float* gamma;   /* [columns] */
    const float* beta;    /* [columns]; of forward alone */
    void* sum; /* optional T [rows, columns]: residual + dropout(input + bias), overwritten by forward; read
                  by backward, there the input if nothing was added */
    void* output; /* T [rows, columns], overwritten by forward */
    float* mean;  /* [rows], overwritten by forward, read by backward */
    float* rstd;  /* [rows], overwritten by forward, read by backward */
    /* Of the backward pass alone. */
    const void* d_output; /* T [rows, columns] */
    void* d_input;        /* T [rows, columns], overwritten */
    void* d_residual;     /* optional T [rows, columns], overwritten */
    float* d_gamma;       /* [columns], added to */
    float* d_beta;        /* [columns], added to */
    float* d_bias;        /* optional [columns], added to */
    void* workspace;
    size_t workspace_bytes;
} rmae_layer_norm_desc;

#define RMAE_LAYER_NORM_VERSION 1
#define RMAE_LAYER_NORM_INIT RMAE_INIT(rmae_layer_norm_desc, RMAE_LAYER_NORM_VERSION)

rmae_status rmae_layer_norm_workspace(rmae_device device, const rmae_layer_norm_desc* desc, size_t* bytes);
rmae_status rmae_layer_norm_forward(rmae_device device, void* stream, const rmae_layer_norm_desc* desc);
rmae_status rmae_layer_norm_backward(rmae_device device, void* stream, const rmae_layer_norm_desc* desc);

/* ---- GELU(input + bias) ---- */

/* Matrices are contiguous; columns are a multiple of 8. f32 and bf16. */
typedef struct rmae_bias_gelu_desc {
    uint32_t size;
    uint32_t version;
    uint64_t flags; /* 0 */
    rmae_dtype dtype;
    int64_t rows;
    int64_t columns;
    const void* input; /* T [rows, columns] */
    const float* bias; /* [columns] */
    void* output;      /* T [rows, columns], overwritten by forward */
    /* Of the backward pass alone. */
    const void* d_output; /* T [rows, columns] */
    void* d_input;        /* T [rows, columns], overwritten; its column sums are the gradient of the bias */
} rmae_bias_gelu_desc;

#define RMAE_BIAS_GELU_VERSION 1
#define RMAE_BIAS_GELU_INIT RMAE_INIT(rmae_bias_gelu_desc, RMAE_BIAS_GELU_VERSION)

rmae_status rmae_bias_gelu_forward(rmae_device device, void* stream, const rmae_bias_gelu_desc* desc);
rmae_status rmae_bias_gelu_backward(rmae_device device, void* stream, const rmae_bias_gelu_desc* desc);

/* ---- Sums ---- */

/* Flag: the output is added to. */
#define RMAE_SUM_ACCUMULATE 1u

/* Sum of each column; columns and stride are multiples of 8. f32 and bf16. */
typedef struct rmae_column_sum_desc {
    uint32_t size;
    uint32_t version;
    uint64_t flags;
    rmae_dtype dtype;
    int64_t rows;
    int64_t columns;
    const void* input; /* T [rows, columns] */
    int64_t input_stride;
    float* output; /* [columns], overwritten unless RMAE_SUM_ACCUMULATE */
    void* workspace;
    size_t workspace_bytes;
} rmae_column_sum_desc;

#define RMAE_COLUMN_SUM_VERSION 1
#define RMAE_COLUMN_SUM_INIT RMAE_INIT(rmae_column_sum_desc, RMAE_COLUMN_SUM_VERSION)

rmae_status rmae_column_sum_workspace(rmae_device device, const rmae_column_sum_desc* desc, size_t* bytes);
rmae_status rmae_column_sum(rmae_device device, void* stream, const rmae_column_sum_desc* desc);

/* Sum of all elements, or of their squares. */
typedef struct rmae_reduce_desc {
    uint32_t size;
    uint32_t version;
    uint64_t flags;
    int64_t count;
    const float* input; /* [count], aligned to 16 bytes */
    float* output;      /* [1], overwritten unless RMAE_SUM_ACCUMULATE */
    void* workspace;
    size_t workspace_bytes;
} rmae_reduce_desc;

#define RMAE_REDUCE_VERSION 1
#define RMAE_REDUCE_INIT RMAE_INIT(rmae_reduce_desc, RMAE_REDUCE_VERSION)

rmae_status rmae_reduce_workspace(rmae_device device, const rmae_reduce_desc* desc, size_t* bytes);
rmae_status rmae_reduce_sum(rmae_device device, void* stream, const rmae_reduce_desc* desc);
rmae_status rmae_reduce_squares(rmae_device device, void* stream, const rmae_reduce_desc* desc);

/* Rows of a segment: offsets[s]..offsets[s + 1] of `indices`, or of the rows themselves. */
typedef struct rmae_segments {
    const int32_t* offsets; /* [count + 1]: never decreasing */
    const int32_t* indices; /* optional [indices_length]: rows, segment by segment; consecutive ones */
    const int32_t* keys; /* optional [count]: output row of each segment, none twice; row s for segment s */
    int64_t count;
    int64_t indices_length;
} rmae_segments;

/* output[key] += sum of the segment's rows of input. Columns are a multiple of 8. f32 and bf16. */
typedef struct rmae_segment_sum_desc {
    uint32_t size;
    uint32_t version;
    uint64_t flags; /* 0 */
    rmae_dtype dtype;
    rmae_dtype output_dtype; /* O: T or f32 */
    int64_t rows;            /* of the input */
    int64_t output_rows;
    int64_t columns;
    const void* input; /* T [rows, columns], contiguous */
    rmae_segments segments;
    void* output; /* O [output_rows, columns], contiguous, added to */
    void* workspace;
    size_t workspace_bytes;
} rmae_segment_sum_desc;

#define RMAE_SEGMENT_SUM_VERSION 1
#define RMAE_SEGMENT_SUM_INIT RMAE_INIT(rmae_segment_sum_desc, RMAE_SEGMENT_SUM_VERSION)

rmae_status rmae_segment_sum_workspace(rmae_device device, const rmae_segment_sum_desc* desc, size_t* bytes);
rmae_status rmae_segment_sum(rmae_device device, void* stream, const rmae_segment_sum_desc* desc);

/* ---- Rows ---- */

/* gather: output[i] = input[rows[i]]; scatter_add: output[rows[i]] += input[i]. Columns are a multiple of 8.
 * f32 and bf16. */
typedef struct rmae_rows_desc {
    uint32_t size;
    uint32_t version;
    uint64_t flags; /* 0 */
    rmae_dtype dtype;
    int64_t input_rows;
    int64_t output_rows;
    int64_t columns;
    const int32_t* rows; /* gather [output_rows]: negative gives zeros, beyond the last NaN. scatter_add
                            [input_rows]: none twice, others dropped */
    const void* input;   /* T [input_rows, columns], contiguous */
    void* output; /* T [output_rows, columns], contiguous; overwritten by gather, added to by scatter_add */
} rmae_rows_desc;

#define RMAE_ROWS_VERSION 1
#define RMAE_ROWS_INIT RMAE_INIT(rmae_rows_desc, RMAE_ROWS_VERSION)

rmae_status rmae_rows_gather(rmae_device device, void* stream, const rmae_rows_desc* desc);
rmae_status rmae_rows_scatter_add(rmae_device device, void* stream, const rmae_rows_desc* desc);

/* ---- Rows grouped by key, without atomics ---- */

/* An array of keys, and its groups: what rmae_segments takes, with `segment_keys` as keys. */
typedef struct rmae_keys {
    const int32_t*
        keys; /* [rows]: in 0..key_count; rows of any other key are in the last segment, or in none */
    int64_t key_count;     /* at least 1, at most 2^31 */
    int32_t* segment_keys; /* [segments], overwritten: distinct keys, ascending, then 0 */
    int32_t* offsets;      /* [segments + 1], overwritten */
    int32_t* indices;      /* [rows], overwritten: the rows of each key, ascending */
} rmae_keys;

typedef struct rmae_group_by_key_desc {
    uint32_t size;
    uint32_t version;
    uint64_t flags; /* 0 */
    int64_t rows;
    int64_t array_count; /* used of the three below, at least 1 */
    rmae_keys arrays[3];
    void* workspace;
    size_t workspace_bytes;
} rmae_group_by_key_desc;

#define RMAE_GROUP_BY_KEY_VERSION 1
#define RMAE_GROUP_BY_KEY_INIT RMAE_INIT(rmae_group_by_key_desc, RMAE_GROUP_BY_KEY_VERSION)

/* Number of segments that an array of `rows` keys below `key_count` has room for. */
rmae_status rmae_group_by_key_segments(int64_t rows, int64_t key_count, int64_t* segments);
rmae_status rmae_group_by_key_workspace(rmae_device device, const rmae_group_by_key_desc* desc,
                                        size_t* bytes);
rmae_status rmae_group_by_key(rmae_device device, void* stream, const rmae_group_by_key_desc* desc);

/* ---- Embedding of tokens ---- */

typedef int32_t rmae_embedding_source;
enum {
    RMAE_EMBEDDING_WORD = 0,    /* dropout(LN(word[id] + position[p] + type[0])): the encoder's input */
    RMAE_EMBEDDING_CONTENT = 1, /* the same, but position 0 is the sentence vector: the decoder's content */
    RMAE_EMBEDDING_QUERY = 2,   /* dropout(LN(sentence + position[p] + type[0])): the decoder's query */
    RMAE_EMBEDDING_QUERY_POSITION = 3 /* sentence + position[p]: the decoder's query of the paper */
};

/* Gradient of a table, and the tokens by the row that they read. */
typedef struct rmae_table_gradient {
    rmae_segments segments; /* at most as many indices as tokens */
    void* d_table;          /* [rows of the table, columns], contiguous, added to */
} rmae_table_gradient;

/* Matrices are contiguous; columns are a multiple of 8 up to 1024. f32 and bf16. Arrays that are marked by
 * sources are read and written for these alone; all others are given for every source, those of the
 * normalization for QUERY_POSITION, too, which has none. A token whose id, position or sentence is no row of
 * its table comes out as NaN, and so do its gradients. */
typedef struct rmae_embedding_desc {
    uint32_t size;
    uint32_t version;
    uint64_t flags; /* 0 */
    rmae_dtype dtype;
    rmae_embedding_source source;
    float eps;
    int64_t tokens;
    int64_t columns;
    int64_t vocab_size;
    int64_t sentences; /* rows of sentence_vectors */
    int64_t max_positions;
    int64_t token_types; /* at least 1; type 0 is used */
    rmae_dropout dropout;
    const int32_t* ids;              /* [tokens]: WORD, CONTENT */
    const void* word_table;          /* T [vocab_size, columns]: WORD, CONTENT */
    const int32_t* sentence_indices; /* [tokens]: CONTENT, QUERY, QUERY_POSITION */
    const void* sentence_vectors;    /* T [sentences, columns]: CONTENT, QUERY, QUERY_POSITION */
    const int32_t* positions;        /* [tokens] */
    const void* position_table;      /* T [max_positions, columns] */
    const void* token_type_table;    /* T [token_types, columns] */
    const float* gamma;              /* [columns] */
    const float* beta;               /* [columns] */
    void* output;                    /* T [tokens, columns], overwritten by forward */
    float* mean;                     /* [tokens], overwritten by forward, read by backward */
    float* rstd;                     /* [tokens], overwritten by forward, read by backward */
    /* Of the backward pass alone. */
    const void* d_output;            /* T [tokens, columns] */
    float* d_gamma;                  /* [columns], added to */
    float* d_beta;                   /* [columns], added to */
    rmae_table_gradient d_position;  /* f32 */
    rmae_table_gradient d_word;      /* f32: WORD, CONTENT */
    float* d_token_type;             /* [token_types, columns], row 0 added to: WORD, CONTENT, QUERY */
    rmae_table_gradient d_sentences; /* T [d_sentences_rows, columns]: CONTENT (the first token of each
                                        sentence), QUERY and QUERY_POSITION (all tokens) */
    int64_t d_sentences_rows;        /* rows of d_sentences.d_table */
    void* workspace;
    size_t workspace_bytes;
} rmae_embedding_desc;

#define RMAE_EMBEDDING_VERSION 1
#define RMAE_EMBEDDING_INIT RMAE_INIT(rmae_embedding_desc, RMAE_EMBEDDING_VERSION)

rmae_status rmae_embedding_workspace(rmae_device device, const rmae_embedding_desc* desc, size_t* bytes);
rmae_status rmae_embedding_forward(rmae_device device, void* stream, const rmae_embedding_desc* desc);
rmae_status rmae_embedding_backward(rmae_device device, void* stream, const rmae_embedding_desc* desc);

/* ---- Masks sampled on the device ---- */

/* Replacement of chosen tokens. */
typedef struct rmae_replacement {
    int32_t mask_id;     /* in 0..vocab_size */
    int64_t vocab_size;  /* in 1..2^31 */
    double mask_share;   /* of the chosen tokens, those that become mask_id; BERT's is 0.8 */
    double random_share; /* those that become a random id, 0.1; the rest stays */
} rmae_replacement;

/* A corrupted input, and its rows with a loss; without `ids` there is none. */
typedef struct rmae_corruption {
    const int32_t* ids;           /* optional [tokens]: the original ids */
    rmae_count_limit count_limit; /* chosen tokens of each sentence */
    rmae_replacement replacement;
    int32_t* input_ids;     /* [tokens], overwritten */
    const int32_t* offsets; /* [sentences + 1]: of rmae_masks_labeled_offsets */
    int32_t* labeled_rows;  /* [labeled], overwritten: the chosen rows, then negative numbers */
    int32_t* targets;       /* [labeled], overwritten: their original ids, then -100 */
    int32_t* counts;        /* [sentences], overwritten: number of chosen tokens */
    int64_t labeled;        /* length of labeled_rows */
} rmae_corruption;

/* Pools of position-specific masks; without `bits` there are none. */
typedef struct rmae_pool {
    rmae_count_limit count_limit; /* tokens that each mask hides */
    int64_t rows_max;             /* masks of a sentence, 1 to 65536; without `rows` at least length_max */
    const uint32_t* offsets;      /* [sentences + 1]: of rmae_masks_pool_offsets */
    uint32_t* bits;               /* optional [words], overwritten */
    int64_t words;
    uint16_t* rows; /* optional [tokens], overwritten: pool row of each token; each token its own */
} rmae_pool;

/* At least one of pool, encoder and decoder is sampled. */
typedef struct rmae_masks_desc {
    uint32_t size;
    uint32_t version;
    uint64_t flags;              /* 0 */
    const uint32_t* rng;         /* [4] */
    const int32_t* cu_seqlens;   /* [sentences + 1] */
    const uint32_t* indices;     /* [sentences]: indices in the corpus, which the samples depend on */
    const uint32_t* word_starts; /* [ceil(tokens / 32)]: a bit a token, lowest first, 1 where a word starts */
    int64_t sentences;
    int64_t tokens;
    int64_t length_max; /* of a sentence; 1 to 8192 */
    rmae_pool pool;
    rmae_corruption encoder;
    rmae_corruption decoder;
    void* workspace;
    size_t workspace_bytes;
} rmae_masks_desc;

#define RMAE_MASKS_VERSION 1
#define RMAE_MASKS_INIT RMAE_INIT(rmae_masks_desc, RMAE_MASKS_VERSION)

/* On the host: first word of each sentence's pool, [sentences + 1]; the last is the number of words. */
rmae_status rmae_masks_pool_offsets(const int32_t* cu_seqlens, int64_t sentences, int64_t rows_max,
                                    uint32_t* offsets);
/* On the host: first labeled row of each sentence, [sentences + 1]; the last is their number. */
rmae_status rmae_masks_labeled_offsets(const int32_t* cu_seqlens, int64_t sentences,
                                       rmae_count_limit count_limit, int32_t* offsets);
rmae_status rmae_masks_workspace(rmae_device device, const rmae_masks_desc* desc, size_t* bytes);
rmae_status rmae_masks_sample(rmae_device device, void* stream, const rmae_masks_desc* desc);

/* ---- AdamW ---- */

/* Constants of AdamW; RMAE_ADAMW_DEFAULTS are PyTorch's, with gradients clipped to a norm of 1. */
typedef struct rmae_adamw_constants {
    double beta1;
    double beta2;
    double eps;
    double weight_decay;
    double max_norm; /* of all gradients, to which larger ones are scaled down; 0: never */
} rmae_adamw_constants;

#define RMAE_ADAMW_DEFAULTS {0.9, 0.999, 1e-8, 0.01, 1.0}

typedef struct rmae_adamw_desc {
    uint32_t size;
    uint32_t version;
    uint64_t flags;                 /* 0 */
    rmae_adamw_constants constants; /* those of RMAE_ADAMW_DEFAULTS, or others */
    int64_t count;
    int64_t decayed;           /* leading elements that weight decay applies to */
    float* parameters;         /* [count], overwritten; aligned to 16 bytes as the others */
    float* gradients;          /* [count]: read, then set to 0 */
    float* first_moments;      /* [count], overwritten; 0 at first */
    float* second_moments;     /* [count], overwritten; 0 at first */
    void* compute_parameters;  /* optional bf16 [count], overwritten: the updated weights */
    const float* squared_norm; /* [1]: squared norm of all gradients (rmae_reduce_squares) */
    const float* schedule;     /* [4]: words of rmae_adamw_schedule in device memory */
} rmae_adamw_desc;

#define RMAE_ADAMW_VERSION 1
#define RMAE_ADAMW_INIT RMAE_INIT(rmae_adamw_desc, RMAE_ADAMW_VERSION)

/* On the host: what depends on the update, which counts from 1. `learning_rate` is in [0, 1]. */
rmae_status rmae_adamw_schedule(const rmae_adamw_constants* constants, double learning_rate, uint32_t update,
                                float schedule[4]);
rmae_status rmae_adamw_step(rmae_device device, void* stream, const rmae_adamw_desc* desc);

/* ---- The model: encoder, decoder, head, and their training step ---- */

/* The largest batch; all memory is allocated for it when a model is made. */
typedef struct rmae_capacity {
    int64_t tokens;
    int64_t sentences;
    int64_t sentence_length;
} rmae_capacity;

/* A parameter, by its Hugging Face name: bert.*, cls.*, and decoder.* */
typedef struct rmae_parameter_info {
    const char* name; /* as long as the model */
    int64_t rows;
    int64_t columns; /* 1 for a vector */
    int64_t offset;  /* of its first element in the arrays of rmae_model_parameters_arena */
    int64_t length;  /* elements */
} rmae_parameter_info;

/* All parameters in device memory, as long as the model: for an optimizer or an all-reduce of one's own. What
 * is between parameters is 0. */
typedef struct rmae_arena {
    float* parameters;        /* [length]: master values */
    void* compute_parameters; /* bf16 [length]: their copy that the kernels read, which whoever changes the
                                 master values renews; NULL for f32 */
    float* gradients;         /* [length] */
    float* first_moments;     /* [length]: of AdamW */
    float* second_moments;    /* [length]: of AdamW */
    int64_t length;
    int64_t decayed; /* leading elements that weight decay applies to */
} rmae_arena;

/* The sentences of a step, in host memory, which may be reused when the call returns. Either all of inputs,
 * labels and masks are given, or `ids` alone, from which the device samples them. */
typedef struct rmae_batch {
    uint32_t size;
    uint32_t version;
    uint64_t flags; /* 0 */
    int64_t sentences;
    const int32_t* cu_seqlens; /* [B + 1]: from 0 to T */
    /* Sampled on the device. */
    const int32_t* ids; /* optional [T]; the first and the last of a sentence are never masked */
    const uint32_t* sentence_indices; /* [B]: indices in the corpus */
    const uint32_t* word_starts;      /* [ceil(T / 32)] */
    int32_t mask_id;
    rmae_count_limit encoder_limit;
    rmae_count_limit decoder_limit;
    int64_t pool_rows; /* masks of a sentence; 0: each token its own */
    /* Explicit, without `ids`. */
    const int32_t* encoder_input_ids; /* [T] */
    const int32_t* encoder_labels;    /* [T]: -100 where there is none */
    const int32_t* decoder_input_ids; /* [T] */
    const int32_t* decoder_labels;    /* [T] */
    const uint32_t* visibility_bits;  /* optional [visibility_words]: the enhanced decoder's masks */
    int64_t visibility_words;
    const uint32_t* visibility_offsets; /* [B + 1] */
    const uint16_t* visibility_rows;    /* [T] */
} rmae_batch;

#define RMAE_BATCH_VERSION 1
#define RMAE_BATCH_INIT RMAE_INIT(rmae_batch, RMAE_BATCH_VERSION)

/* Results of a step. */
typedef struct rmae_outcome {
    float encoder_loss; /* mean cross-entropy, in nats */
    float decoder_loss;
    float bag_of_words_loss; /* NaN without that head */
    float encoder_accuracy;
    float decoder_accuracy;
    float encoder_perplexity;
    float decoder_perplexity;
    float gradient_norm; /* before clipping; NaN without an update */
} rmae_outcome;

/* Makes a model whose parameters are 0. `config` is the text of BERT's config.json, with the options of the
 * objective: retromae_decoder, retromae_query and the weights of the losses. f32 and bf16. */
rmae_status rmae_model_create(rmae_device device, const char* config, rmae_dtype dtype,
                              rmae_capacity capacity, rmae_model* model);
/* Frees the model when its enqueued work is done. */
rmae_status rmae_model_destroy(rmae_model model);
/* Bytes of device memory that rmae_model_create would allocate. */
rmae_status rmae_model_memory(rmae_device device, const char* config, rmae_dtype dtype,
                              rmae_capacity capacity, size_t* bytes);
/* BERT's initialization; moments and gradients are 0. */
rmae_status rmae_model_initialize(rmae_model model, uint64_t seed);

rmae_status rmae_model_parameter_count(rmae_model model, int64_t* count);
rmae_status rmae_model_parameter_info(rmae_model model, int64_t index, rmae_parameter_info* info);
/* Copy `length` elements between host memory and a parameter's master values, or from its gradient. They wait
 * for the model's work. */
rmae_status rmae_model_parameter(rmae_model model, const char* name, float* values, int64_t length);
rmae_status rmae_model_set_parameter(rmae_model model, const char* name, const float* values, int64_t length);
rmae_status rmae_model_gradient(rmae_model model, const char* name, float* values, int64_t length);
rmae_status rmae_model_parameters_arena(rmae_model model, rmae_arena* arena);
/* Enqueues the zeroing of all gradients, as after an update: the next batch's are the first ones. */
rmae_status rmae_model_zero_gradients(rmae_model model, void* stream);

/* Losses and gradients of one batch; waits for them. Without `seed` there is no dropout, and nothing can be
 * sampled. */
rmae_status rmae_model_step(rmae_model model, void* stream, const rmae_batch* batch, const uint64_t* seed,
                            uint32_t step, rmae_outcome* outcome);
/* Enqueues the gradients of one batch, times `weight`, which are added to those since the last update. */
rmae_status rmae_model_accumulate(rmae_model model, void* stream, const rmae_batch* batch, uint64_t seed,
                                  uint32_t step, float weight);
/* Enqueues a whole training step: gradients of the batch, added to the accumulated ones, and an update, which
 * counts from 1. */
rmae_status rmae_model_train_step(rmae_model model, void* stream, const rmae_batch* batch, uint64_t seed,
                                  uint32_t step, const rmae_adamw_constants* constants, double learning_rate,
                                  uint32_t update);
/* Updates with the gradients that there are and sets them to 0; waits, and writes their norm before clipping.
 */
rmae_status rmae_model_update(rmae_model model, void* stream, const rmae_adamw_constants* constants,
                              double learning_rate, uint32_t update, float* gradient_norm);
/* Waits for the last rmae_model_accumulate or rmae_model_train_step, and writes its results. */
rmae_status rmae_model_outcome(rmae_model model, rmae_outcome* outcome);

/* Sentence vectors f32 [sentences, H] of packed ids, all in host memory, without dropout; waits for them.
 * With `mean` 0 those of [CLS], else the means over all tokens. */
rmae_status rmae_model_embed(rmae_model model, void* stream, int64_t sentences, const int32_t* cu_seqlens,
                             const int32_t* ids, int32_t mean, float* vectors);

/* Writes model.safetensors (encoder and head) and config.json, as Hugging Face reads them, into a directory
 * that exists. */
rmae_status rmae_model_save(rmae_model model, const char* directory);
/* Takes every parameter that the directory's model.safetensors has; the encoder's must all be there. */
rmae_status rmae_model_load(rmae_model model, const char* directory);
/* Every parameter, the decoder's too, and their moments: a file to resume from. */
rmae_status rmae_model_save_state(rmae_model model, const char* file);
rmae_status rmae_model_load_state(rmae_model model, const char* file);

#ifdef __cplusplus
}
#endif

#endif
