/* What the examples share: the end of a program on a failed call, and a comparison with a reference in double
 * precision. */
#ifndef CHECK_H
#define CHECK_H

#include <math.h>
#include <retromae.h>
#include <stdio.h>
#include <stdlib.h>

/* Ends the program with the library's text if a call failed. */
#define CHECK(call)                                                                           \
    do {                                                                                      \
        rmae_status status_ = (call);                                                         \
        if (status_ != RMAE_OK) {                                                             \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, rmae_status_name(status_), \
                    rmae_last_error());                                                       \
            exit(EXIT_FAILURE);                                                               \
        }                                                                                     \
    } while (0)

/* A number in [-1, 1) from a seed, the same on every machine. */
static inline float next_value(uint32_t* seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(*seed >> 8) / 8388608.0f - 1.0f;
}

/* Ends the program unless |actual - expected| <= bound * |expected| in the Euclidean norm. */
static inline void compare(const char* what, const float* actual, const double* expected, size_t count,
                           double bound) {
    double error = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        error += ((double)actual[i] - expected[i]) * ((double)actual[i] - expected[i]);
        norm += expected[i] * expected[i];
    }
    error = sqrt(error / norm);
    printf("%-12s off by %.1e (at most %.0e)\n", what, error, bound);
    if (!(error <= bound)) exit(EXIT_FAILURE);
}

#endif
