/* Whole training steps of a small RetroMAE model (the argument: their number): masks are sampled, encoder and
 * decoder run forward and backward, and AdamW updates. A gradient is compared with a difference of losses
 * first. */
#include <string.h>

#include "check.h"

enum { SENTENCES = 8, LENGTH = 16, TOKENS = SENTENCES * LENGTH, WORDS = 60, STEPS = 40 };

static const char config[] =
    "{\"vocab_size\": 60, \"hidden_size\": 64, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, "
    "\"intermediate_size\": 128,"
    " \"max_position_embeddings\": 16, \"hidden_dropout_prob\": 0, \"attention_probs_dropout_prob\": 0,"
    " \"retromae_decoder\": \"enhanced\"}";

/* [CLS] is 1, [SEP] 2, [MASK] 3. Sentence s counts up from 10 + s. */
static int32_t ids[TOKENS], cu_seqlens[SENTENCES + 1];
static uint32_t sentence_indices[SENTENCES], word_starts[TOKENS / 32];

/* The encoder's loss plus the decoder's, whose gradient the model computes; without dropout, and with the
 * masks of a step. */
static float total_loss(rmae_model model, const rmae_batch* batch) {
    const uint64_t seed = 1;
    rmae_outcome outcome;
    CHECK(rmae_model_step(model, NULL, batch, &seed, 0, &outcome));
    return outcome.encoder_loss + outcome.decoder_loss;
}

int main(int argc, char** argv) {
    const int steps = argc > 1 ? atoi(argv[1]) : (int)STEPS;
    rmae_device device;
    CHECK(rmae_device_open("host", 0, &device));

    for (int32_t s = 0; s < SENTENCES; s++) {
        for (int32_t p = 0; p < LENGTH; p++)
            ids[s * LENGTH + p] = p == 0 ? 1 : p == LENGTH - 1 ? 2 : 10 + s + p;
        cu_seqlens[s + 1] = (s + 1) * LENGTH;
        sentence_indices[s] = (uint32_t)s;
    }
    memset(word_starts, 0xff, sizeof word_starts); /* every token is a word */

    rmae_batch batch = RMAE_BATCH_INIT;
    batch.sentences = SENTENCES;
    batch.cu_seqlens = cu_seqlens;
    batch.ids = ids;
    batch.sentence_indices = sentence_indices;
    batch.word_starts = word_starts;
    batch.mask_id = 3;
    batch.encoder_limit.ratio = 0.3;
    batch.decoder_limit.ratio = 0.5;
    batch.pool_rows = 16;

    rmae_model model;
    const rmae_capacity capacity = {TOKENS, SENTENCES, LENGTH};
    CHECK(rmae_model_create(device, config, RMAE_F32, capacity, &model));
    CHECK(rmae_model_initialize(model, 1));

    /* Moves the bias of one word up and down: the slope of the loss is its gradient. */
    float bias[WORDS], gradient[WORDS];
    const float distance = 0.05f;
    CHECK(rmae_model_parameter(model, "cls.predictions.bias", bias, WORDS));
    total_loss(model, &batch);
    CHECK(rmae_model_gradient(model, "cls.predictions.bias", gradient, WORDS));
    bias[20] += distance;
    CHECK(rmae_model_set_parameter(model, "cls.predictions.bias", bias, WORDS));
    const double above = (double)total_loss(model, &batch);
    bias[20] -= 2 * distance;
    CHECK(rmae_model_set_parameter(model, "cls.predictions.bias", bias, WORDS));
    const double below = (double)total_loss(model, &batch);
    bias[20] += distance;
    CHECK(rmae_model_set_parameter(model, "cls.predictions.bias", bias, WORDS));
    const double slope = (above - below) / (2 * (double)distance);
    compare("gradient", gradient + 20, &slope, 1, 1e-2);

    const rmae_adamw_constants constants = RMAE_ADAMW_DEFAULTS;
    rmae_outcome outcome;
    float first = 0;
    memset(&outcome, 0, sizeof outcome);
    for (uint32_t step = 1; step <= (uint32_t)steps; step++) {
        CHECK(rmae_model_train_step(model, NULL, &batch, 1, step, &constants, 3e-3, step));
        CHECK(rmae_model_outcome(model, &outcome));
        if (step == 1) first = outcome.decoder_loss;
    }
    printf("decoder's loss %.3f -> %.3f, encoder's %.3f, gradient norm %.3f\n", (double)first,
           (double)outcome.decoder_loss, (double)outcome.encoder_loss, (double)outcome.gradient_norm);

    CHECK(rmae_model_destroy(model));
    CHECK(rmae_device_close(device));
    return outcome.decoder_loss < (steps < STEPS ? first : 0.8f * first) ? EXIT_SUCCESS : EXIT_FAILURE;
}
