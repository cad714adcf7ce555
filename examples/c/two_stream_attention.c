/* Two-stream attention of RetroMAE's enhanced decoder, forward and backward: queries come from another matrix
 * than keys and values, and each position has a mask of its own, sampled here. A query sees position 0 and
 * the set bits of its row, never itself. */
#include "check.h"
#include "reference.h"

enum { LENGTH = 21, HEADS = 2, DIM = 32, COLUMNS = HEADS * DIM };

static const int32_t cu_seqlens[2] = {0, LENGTH};
static const uint32_t offsets[2] = {0, LENGTH};

/* One word a position, as there are at most 32 of them; bit j is position j. */
static uint32_t bits[LENGTH];

static int sees(int64_t query, int64_t key) {
    return query != key && (key == 0 || (bits[query] >> key & 1));
}

static float query[LENGTH * COLUMNS], key_value[LENGTH * 2 * COLUMNS], d_query[LENGTH * COLUMNS],
    d_key_value[LENGTH * 2 * COLUMNS];
static float output[LENGTH * COLUMNS], d_output[LENGTH * COLUMNS], log_sum_exp[HEADS * LENGTH];
static double expected[LENGTH * COLUMNS], expected_d_query[LENGTH * COLUMNS],
    expected_d_key_value[LENGTH * 2 * COLUMNS];

int main(void) {
    rmae_device device;
    CHECK(rmae_device_open("host", 0, &device));

    uint32_t seed = 2;
    for (size_t i = 0; i < LENGTH * COLUMNS; i++)
        query[i] = next_value(&seed), d_output[i] = next_value(&seed);
    for (size_t i = 0; i < LENGTH * 2 * COLUMNS; i++) key_value[i] = next_value(&seed);
    for (size_t i = 0; i < LENGTH; i++)
        for (uint32_t j = 0; j < LENGTH; j++) bits[i] |= (uint32_t)(next_value(&seed) < 0) << j;

    rmae_attention_desc attention = RMAE_ATTENTION_INIT;
    attention.dtype = RMAE_F32;
    attention.num_heads = HEADS;
    attention.head_dim = DIM;
    attention.batch.cu_seqlens = cu_seqlens;
    attention.batch.sequences = 1;
    attention.batch.tokens = attention.batch.max_seqlen = LENGTH;
    attention.mask.kind = RMAE_MASK_INDEPENDENT;
    attention.mask.bits = bits;
    attention.mask.words = LENGTH;
    attention.mask.offsets = offsets;
    attention.query = query;
    attention.key = key_value;
    attention.value = key_value + COLUMNS;
    attention.key_stride = attention.value_stride = 2 * COLUMNS;
    attention.output = output;
    attention.log_sum_exp = log_sum_exp;
    CHECK(rmae_attention_forward(device, NULL, &attention));

    attention.d_output = d_output;
    attention.d_query = d_query;
    attention.d_key = d_key_value;
    attention.d_value = d_key_value + COLUMNS;
    attention.d_key_stride = attention.d_value_stride = 2 * COLUMNS;
    CHECK(rmae_attention_backward(device, NULL, &attention));

    for (size_t number = 0; number < HEADS; number++) {
        head h;
        h.query = query + number * DIM, h.key = key_value + number * DIM, h.value = h.key + COLUMNS;
        h.d_query = expected_d_query + number * DIM, h.d_key = expected_d_key_value + number * DIM,
        h.d_value = h.d_key + COLUMNS;
        h.output = expected + number * DIM, h.d_output = d_output + number * DIM;
        h.query_stride = h.output_stride = COLUMNS, h.key_stride = 2 * COLUMNS;
        attention_reference(&h, LENGTH, DIM, sees);
    }
    compare("output", output, expected, LENGTH * COLUMNS, 1e-6);
    compare("d_query", d_query, expected_d_query, LENGTH * COLUMNS, 1e-6);
    compare("d_key_value", d_key_value, expected_d_key_value, LENGTH * 2 * COLUMNS, 1e-6);

    CHECK(rmae_device_close(device));
    return EXIT_SUCCESS;
}
