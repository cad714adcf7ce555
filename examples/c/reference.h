/* Attention of one head of one sequence in double precision, forward and backward. */
#ifndef REFERENCE_H
#define REFERENCE_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

/* Rows of one head: `stride` elements from one to the next. */
typedef struct head {
    const float *query, *key, *value, *d_output;
    double *output, *d_query, *d_key, *d_value;
    size_t query_stride, key_stride, output_stride;
} head;

/* softmax(Q K^T / sqrt(dim)) V over the keys that a query sees, and the gradients, which are added to. */
static inline void attention_reference(const head* h, int64_t length, size_t dim,
                                       int (*sees)(int64_t query, int64_t key)) {
    double *p = (double*)calloc((size_t)length * 2, sizeof *p), *dp = p + length;
    if (p == NULL) exit(EXIT_FAILURE);
    for (int64_t i = 0; i < length; i++) {
        const float *q = h->query + (size_t)i * h->query_stride,
                    *d_out = h->d_output + (size_t)i * h->output_stride;
        double *out = h->output + (size_t)i * h->output_stride,
               *d_q = h->d_query + (size_t)i * h->query_stride;
        double sum = 0, delta = 0;
        for (int64_t j = 0; j < length; j++) {
            const float* k = h->key + (size_t)j * h->key_stride;
            double score = 0;
            for (size_t c = 0; c < dim; c++) score += (double)q[c] * (double)k[c];
            p[j] = sees(i, j) ? exp(score / sqrt((double)dim)) : 0;
            sum += p[j];
        }
        for (int64_t j = 0; j < length && sum > 0; j++) {
            const float* v = h->value + (size_t)j * h->key_stride;
            double* d_v = h->d_value + (size_t)j * h->key_stride;
            p[j] /= sum;
            dp[j] = 0;
            for (size_t c = 0; c < dim; c++) {
                out[c] += p[j] * (double)v[c];
                dp[j] += (double)d_out[c] * (double)v[c];
                d_v[c] += p[j] * (double)d_out[c];
            }
            delta += p[j] * dp[j];
        }
        for (int64_t j = 0; j < length && sum > 0; j++) {
            const float* k = h->key + (size_t)j * h->key_stride;
            double* d_k = h->d_key + (size_t)j * h->key_stride;
            const double d_score = p[j] * (dp[j] - delta) / sqrt((double)dim);
            for (size_t c = 0; c < dim; c++) {
                d_q[c] += d_score * (double)k[c];
                d_k[c] += d_score * (double)q[c];
            }
        }
    }
    free(p);
}

#endif
