"""Dense statements of the operations and of their gradients, in any precision.

Each takes a `Precision`, which rounds the result of every step: `EXACT` is f64, and the precision of a dtype gives the naive
composition whose error the tests hold the kernels against.
"""

import ml_dtypes
import numpy as np

DTYPES = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16), "f16": np.dtype(np.float16)}
# Errors relative to the largest value that no result is blamed for: a rounding of 16-bit types, four of f32, in which the kernels take
# exponentials of base 2 from an approximation.
FLOORS = {"f32": 2.0**-21, "bf16": 2.0**-7, "f16": 2.0**-10}


class Precision:
    """Computes in f64 if `dtype` is None; else in f32, and rounds each step to `dtype`."""

    def __init__(self, dtype=None):
        self.wide = np.float64 if dtype is None else np.float32
        self.narrow = self.wide if dtype is None else dtype

    def __call__(self, array):
        return np.asarray(array).astype(self.narrow).astype(self.wide)


EXACT = Precision()


def attention(query, key, value, d_output, sequences, scale, r):
    """Output, log-sum-exp [A, Tq] and gradients of query, key and value. `sequences` has for each its queries' rows, its keys'
    rows, what each query sees [Lq, L], and the factors [A, Lq, L] of dropout or None."""
    query, key, value, d_output = map(r, (query, key, value, d_output))
    output, d_query = np.zeros_like(query), np.zeros_like(query)
    d_key, d_value = np.zeros_like(key), np.zeros_like(value)
    log_sum_exp = np.full((query.shape[1], query.shape[0]), -np.inf)
    for queries, keys, visible, dropout in sequences:
        for head in range(query.shape[1]):
            q, k, v, d_o = query[queries, head], key[keys, head], value[keys, head], d_output[queries, head]
            scores = np.where(visible, r(q @ k.T * r.wide(scale)), -np.inf)
            highest = np.max(scores, axis=1, keepdims=True, initial=-np.inf)
            seen = np.isfinite(highest)
            exponentials = r(np.exp(scores - np.where(seen, highest, 0)))
            total = exponentials.sum(1, keepdims=True)
            weights = r(exponentials / np.where(seen, total, 1))
            factors = 1 if dropout is None else dropout[head]
            dropped = r(weights * factors)
            output[queries, head] = r(dropped @ v)
            with np.errstate(divide="ignore"):
                log_sum_exp[head, queries] = (np.where(seen, highest, 0) + np.log(total))[:, 0]
            d_value[keys, head] = r(dropped.T @ d_o)
            d_weights = r(r(d_o @ v.T) * factors)
            d_scores = r(weights * (d_weights - (weights * d_weights).sum(1, keepdims=True)))
            d_query[queries, head] = r(d_scores @ k * r.wide(scale))
            d_key[keys, head] = r(d_scores.T @ q * r.wide(scale))
    return output, log_sum_exp, d_query, d_key, d_value


def log_softmax(logits):
    highest = logits.max(-1, keepdims=True)
    log_sum_exp = highest + np.log(np.exp(logits - highest).sum(-1, keepdims=True))
    return logits - log_sum_exp, log_sum_exp[..., 0]


def cross_entropy(
    hidden, weight, bias, targets, row_weights, ignore_index, label_smoothing, z_loss, soft_cap, r
):
    """Losses, log-sum-exp, log-likelihoods and correct [M], and gradients of hidden, weight and bias."""
    hidden, weight = r(hidden), r(weight)
    raw = r(hidden @ weight.T + (0 if bias is None else bias))
    logits = r(soft_cap * np.tanh(raw / soft_cap)) if soft_cap else raw
    logs, log_sum_exp = log_softmax(logits)
    rows, ids = np.arange(len(hidden)), weight.shape[0]
    labeled = targets != ignore_index
    safe = np.where(labeled, targets, 0)
    aims = np.full(logits.shape, label_smoothing / ids)
    aims[rows, safe] += 1 - label_smoothing
    factors = np.where(labeled, 1 if row_weights is None else row_weights, 0)
    losses = factors * (-(aims * logs).sum(1) + z_loss * log_sum_exp**2)
    d_logits = factors[:, None] * (np.exp(logs) * (1 + 2 * z_loss * log_sum_exp[:, None]) - aims)
    if soft_cap:
        d_logits = d_logits * (1 - (logits / soft_cap) ** 2)
    d_logits = r(d_logits)
    likelihoods = np.where(labeled, logs[rows, safe], 0)
    correct = labeled & (logits[rows, safe] >= logits.max(1))
    gradients = r(d_logits @ weight), d_logits.T @ hidden, d_logits.sum(0)
    return losses, np.where(labeled, log_sum_exp, 0), likelihoods, correct, *gradients


def bag_of_words(hidden, weight, bias, starts, bags, bag_weights, sentence_weights, first_position, r):
    """Losses [B], and gradients of hidden, weight and bias. `starts` are the prefix sums; `bags` has the ids of each sentence."""
    hidden, weight = r(hidden), r(weight)
    logits = r(hidden @ weight.T + (0 if bias is None else bias))
    losses, d_logits = np.zeros(len(bags)), np.zeros_like(logits)
    for place, (bag, weights) in enumerate(zip(bags, bag_weights, strict=True)):
        first, end = starts[place] + first_position, starts[place + 1]
        if first >= end or not len(bag):
            continue
        own = logits[first:end]
        logs, _ = log_softmax(own.max(0))
        factor = 1 if sentence_weights is None else sentence_weights[place]
        losses[place] = -factor * (weights * logs[bag]).sum()
        d_maxima = np.exp(logs) * weights.sum()
        np.subtract.at(d_maxima, bag, weights)
        d_logits[first + own.argmax(0), np.arange(len(d_maxima))] = factor * d_maxima
    d_logits = r(d_logits)
    return losses, r(d_logits @ weight), d_logits.T @ hidden, d_logits.sum(0)


def layer_norm(input, gamma, beta, residual, bias, factors, eps, d_output, r):
    """Output, sum, mean, rstd, and gradients of input, residual, gamma, beta and bias. `factors` are those of dropout."""
    total = r((r(input) + (0 if bias is None else bias)) * factors + (0 if residual is None else r(residual)))
    d_output = r(d_output)
    mean = total.mean(1, keepdims=True)
    rstd = 1 / np.sqrt(((total - mean) ** 2).mean(1, keepdims=True) + eps)
    normalized = (total - mean) * rstd
    output = r(normalized * gamma + beta)
    d_normalized = d_output * gamma
    d_total = rstd * (
        d_normalized
        - d_normalized.mean(1, keepdims=True)
        - normalized * (d_normalized * normalized).mean(1, keepdims=True)
    )
    d_input = r(d_total * factors)
    gradients = d_input, r(d_total), (d_output * normalized).sum(0), d_output.sum(0), d_input.sum(0)
    return output, total, mean[:, 0], rstd[:, 0], *gradients


def assert_close(name, actual, exact, naive, dtype):
    """Holds a result against the f64 statement: its largest error is at most twice that of the naive composition in the same
    precision, plus the floor of the dtype."""
    actual = np.asarray(actual, np.float64)
    assert actual.shape == exact.shape, f"{name}: {actual.shape}, {exact.shape}"
    if actual.size == 0:
        return
    error, naive_error = (np.abs(np.asarray(array, np.float64) - exact).max() for array in (actual, naive))
    floor = FLOORS[dtype] * np.abs(exact).max()
    # A comparison that NaN fails.
    assert error <= 2 * naive_error + floor, (
        f"{name}: error {error:.3g}, naive {naive_error:.3g}, floor {floor:.3g}"
    )
