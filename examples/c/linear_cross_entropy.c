/* Linear + cross-entropy inside a training loop of one's own (its argument: the number of steps): a bigram
 * model, whose hidden states are rows of a table, learns a text by gradient descent that is written here. The
 * logits are never in memory as a whole. The first losses and gradients are compared with double precision.
 */
#include <string.h>

#include "check.h"

enum { WORDS = 128, HIDDEN = 32, STEPS = 60 };

static const char text[] =
    "a bigram model predicts each letter from the letter before it; it knows nothing else, and still learns "
    "that q is followed by u, that a comma is "
    "followed by a blank, and that most words end in e, s, t or d";

enum { ROWS = (int)sizeof text - 2 };

static float table[WORDS * HIDDEN], weight[WORDS * HIDDEN], bias[WORDS];
static float hidden[ROWS * HIDDEN], losses[ROWS], row_weights[ROWS];
static float d_hidden[ROWS * HIDDEN], d_weight[WORDS * HIDDEN], d_bias[WORDS];
static int32_t targets[ROWS];

static double expected_losses[ROWS], expected_d_hidden[ROWS * HIDDEN], expected_d_weight[WORDS * HIDDEN];

static void reference(void) {
    for (size_t row = 0; row < ROWS; row++) {
        double logits[WORDS], sum = 0;
        for (size_t word = 0; word < WORDS; word++) {
            logits[word] = (double)bias[word];
            for (size_t c = 0; c < HIDDEN; c++)
                logits[word] += (double)hidden[row * HIDDEN + c] * (double)weight[word * HIDDEN + c];
            sum += exp(logits[word]);
        }
        expected_losses[row] = (log(sum) - logits[targets[row]]) / ROWS;
        for (size_t word = 0; word < WORDS; word++) {
            const double d_logit = (exp(logits[word]) / sum - (word == (size_t)targets[row])) / ROWS;
            for (size_t c = 0; c < HIDDEN; c++) {
                expected_d_hidden[row * HIDDEN + c] += d_logit * (double)weight[word * HIDDEN + c];
                expected_d_weight[word * HIDDEN + c] += d_logit * (double)hidden[row * HIDDEN + c];
            }
        }
    }
}

int main(int argc, char** argv) {
    const int steps = argc > 1 ? atoi(argv[1]) : (int)STEPS;
    rmae_device device;
    CHECK(rmae_device_open("host", 0, &device));

    uint32_t seed = 1;
    for (size_t i = 0; i < WORDS * HIDDEN; i++)
        table[i] = next_value(&seed), weight[i] = 0.1f * next_value(&seed);
    for (size_t row = 0; row < ROWS; row++) {
        targets[row] = text[row + 1];
        row_weights[row] = 1.0f / ROWS;
    }

    rmae_cross_entropy_desc desc = RMAE_CROSS_ENTROPY_INIT;
    desc.dtype = RMAE_F32;
    desc.rows = ROWS;
    desc.hidden_size = HIDDEN;
    desc.vocab_size = WORDS;
    desc.hidden = hidden;
    desc.weight = weight;
    desc.bias = bias;
    desc.targets = targets;
    desc.row_weights = row_weights;
    desc.losses = losses;
    desc.d_hidden = d_hidden;
    desc.d_weight = d_weight;
    desc.d_bias = d_bias;
    /* Logits of 64 rows at a time. */
    desc.chunk_rows = 64;
    CHECK(rmae_cross_entropy_workspace(device, &desc, &desc.workspace_bytes));
    desc.workspace = aligned_alloc(256, (desc.workspace_bytes + 255) / 256 * 256);
    if (desc.workspace == NULL) return EXIT_FAILURE;

    float first = 0, last = 0;
    for (int step = 0; step < steps; step++) {
        for (size_t row = 0; row < ROWS; row++)
            memcpy(hidden + row * HIDDEN, table + (size_t)text[row] * HIDDEN, HIDDEN * sizeof *hidden);
        memset(d_weight, 0, sizeof d_weight);
        memset(d_bias, 0, sizeof d_bias);
        CHECK(rmae_cross_entropy_forward_backward(device, NULL, &desc));

        last = 0;
        for (size_t row = 0; row < ROWS; row++) last += losses[row];
        if (step == 0) {
            first = last;
            reference();
            compare("losses", losses, expected_losses, ROWS, 1e-6);
            compare("d_hidden", d_hidden, expected_d_hidden, ROWS * HIDDEN, 1e-5);
            compare("d_weight", d_weight, expected_d_weight, WORDS * HIDDEN, 1e-5);
        }
        for (size_t i = 0; i < WORDS * HIDDEN; i++) weight[i] -= 2.0f * d_weight[i];
        for (size_t i = 0; i < WORDS; i++) bias[i] -= 2.0f * d_bias[i];
        for (size_t row = 0; row < ROWS; row++)
            for (size_t c = 0; c < HIDDEN; c++)
                table[(size_t)text[row] * HIDDEN + c] -= 2.0f * d_hidden[row * HIDDEN + c];
    }
    printf("loss %.3f -> %.3f in %d steps\n", (double)first, (double)last, steps);

    free(desc.workspace);
    CHECK(rmae_device_close(device));
    return last < (steps < STEPS ? first : 0.5f * first) ? EXIT_SUCCESS : EXIT_FAILURE;
}
