/* Attention with a mask of one's own, forward and backward, on memory of this program: each query sees itself
 * and every second key. Output and gradients are compared with the formulas in double precision. */
#include "check.h"
#include "reference.h"

enum { SEQUENCES = 2, HEADS = 2, DIM = 32, COLUMNS = HEADS * DIM, TOKENS = 19, LONGEST = 12 };

static const int64_t lengths[SEQUENCES] = {7, 12};
static const int32_t cu_seqlens[SEQUENCES + 1] = {0, 7, 19};

static int sees(int64_t query, int64_t key) {
    return query == key || key % 2 == 0;
}

/* Query, key and value side by side in one projection, as a linear layer gives them; gradients likewise. */
static float projection[TOKENS * 3 * COLUMNS], gradient[TOKENS * 3 * COLUMNS];
static float output[TOKENS * COLUMNS], d_output[TOKENS * COLUMNS], log_sum_exp[HEADS * TOKENS];
static double expected[TOKENS * COLUMNS], expected_gradient[TOKENS * 3 * COLUMNS];

static void reference(int sequence, int number) {
    const size_t start = (size_t)cu_seqlens[sequence] * 3 * COLUMNS + (size_t)number * DIM;
    const size_t out = (size_t)cu_seqlens[sequence] * COLUMNS + (size_t)number * DIM;
    head h;
    h.query = projection + start, h.key = h.query + COLUMNS, h.value = h.key + COLUMNS;
    h.d_query = expected_gradient + start, h.d_key = h.d_query + COLUMNS, h.d_value = h.d_key + COLUMNS;
    h.output = expected + out, h.d_output = d_output + out;
    h.query_stride = h.key_stride = 3 * COLUMNS, h.output_stride = COLUMNS;
    attention_reference(&h, lengths[sequence], DIM, sees);
}

int main(void) {
    rmae_device device;
    CHECK(rmae_device_open("host", 0, &device));

    uint32_t seed = 1;
    for (size_t i = 0; i < TOKENS * 3 * COLUMNS; i++) projection[i] = next_value(&seed);
    for (size_t i = 0; i < TOKENS * COLUMNS; i++) d_output[i] = next_value(&seed);

    /* A byte for each pair of query and key, packed into bits. */
    uint8_t visible[7 * 7 + 12 * 12], *next = visible;
    for (int sequence = 0; sequence < SEQUENCES; sequence++)
        for (int64_t query = 0; query < lengths[sequence]; query++)
            for (int64_t key = 0; key < lengths[sequence]; key++) *next++ = (uint8_t)sees(query, key);
    uint32_t offsets[SEQUENCES + 1];
    CHECK(rmae_mask_bits(lengths, SEQUENCES, visible, offsets, NULL));
    uint32_t* bits = (uint32_t*)malloc(offsets[SEQUENCES] * sizeof *bits);
    if (bits == NULL) return EXIT_FAILURE;
    CHECK(rmae_mask_bits(lengths, SEQUENCES, visible, offsets, bits));

    rmae_attention_desc attention = RMAE_ATTENTION_INIT;
    attention.dtype = RMAE_F32;
    attention.num_heads = HEADS;
    attention.head_dim = DIM;
    attention.batch.cu_seqlens = cu_seqlens;
    attention.batch.sequences = SEQUENCES;
    attention.batch.tokens = TOKENS;
    attention.batch.max_seqlen = LONGEST;
    attention.mask.kind = RMAE_MASK_BITS;
    attention.mask.bits = bits;
    attention.mask.words = offsets[SEQUENCES];
    attention.mask.offsets = offsets;
    attention.query = projection;
    attention.key = projection + COLUMNS;
    attention.value = projection + 2 * COLUMNS;
    attention.query_stride = attention.key_stride = attention.value_stride = 3 * COLUMNS;
    attention.output = output;
    attention.log_sum_exp = log_sum_exp;
    CHECK(rmae_attention_forward(device, NULL, &attention));

    attention.d_output = d_output;
    attention.d_query = gradient;
    attention.d_key = gradient + COLUMNS;
    attention.d_value = gradient + 2 * COLUMNS;
    attention.d_query_stride = attention.d_key_stride = attention.d_value_stride = 3 * COLUMNS;
    CHECK(rmae_attention_backward(device, NULL, &attention));

    for (int sequence = 0; sequence < SEQUENCES; sequence++)
        for (int number = 0; number < HEADS; number++) reference(sequence, number);
    compare("output", output, expected, TOKENS * COLUMNS, 1e-6);
    compare("gradients", gradient, expected_gradient, TOKENS * 3 * COLUMNS, 1e-6);

    /* What is wrong is said, and nothing is done. */
    attention.d_key = gradient;
    if (rmae_attention_backward(device, NULL, &attention) != RMAE_OVERLAP) return EXIT_FAILURE;
    printf("refused: %s\n", rmae_last_error());

    free(bits);
    CHECK(rmae_device_close(device));
    return EXIT_SUCCESS;
}
