//! Dense layer: `out = x Wᵀ + b`, with the weight stored `[out_features, in_features]` as in torch.

use super::tensor::{add_scaled, dot};

/// `x Wᵀ + b`.
///
/// Shapes: `x [m, k]`, `weight [n, k]`, `bias [n]`, result `[m, n]`, where `k = in_features`.
#[must_use]
pub fn forward(x: &[f64], weight: &[f64], bias: Option<&[f64]>, in_features: usize) -> Vec<f64> {
    let out_features = weight.len() / in_features;
    let mut out = Vec::with_capacity(x.len() / in_features * out_features);
    for row in x.chunks_exact(in_features) {
        for (n, weight_row) in weight.chunks_exact(in_features).enumerate() {
            out.push(dot(row, weight_row) + bias.map_or(0.0, |bias| bias[n]));
        }
    }
    out
}

/// Gradients `(d_x [m, k], d_weight [n, k], d_bias [n])` of [`forward`] under `d_out [m, n]`.
///
/// `d_x = d_out W`, `d_weight = d_outᵀ x`, `d_bias` is the column sum of `d_out`.
#[must_use]
pub fn backward(
    x: &[f64],
    weight: &[f64],
    d_out: &[f64],
    in_features: usize,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let out_features = weight.len() / in_features;
    let (mut d_x, mut d_weight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
    let mut d_bias = vec![0.0; out_features];
    for (m, d_out_row) in d_out.chunks_exact(out_features).enumerate() {
        let row = m * in_features..(m + 1) * in_features;
        for (n, &d) in d_out_row.iter().enumerate() {
            let weight_row = n * in_features..(n + 1) * in_features;
            add_scaled(&mut d_x[row.clone()], d, &weight[weight_row.clone()]);
            add_scaled(&mut d_weight[weight_row], d, &x[row.clone()]);
            d_bias[n] += d;
        }
    }
    (d_x, d_weight, d_bias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplies_by_the_transpose() {
        let (x, weight, bias) = ([1.0, 2.0], [3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [0.5, 0.25, 0.0]);
        assert_eq!(forward(&x, &weight, Some(&bias), 2), [11.5, 17.25, 23.0]);
        assert_eq!(forward(&x, &weight, None, 2), [11.0, 17.0, 23.0]);
    }

    #[test]
    fn no_rows_give_zero_weight_gradients() {
        let (d_x, d_weight, d_bias) = backward(&[], &[1.0; 6], &[], 2);
        assert_eq!((d_x.len(), d_weight, d_bias), (0, vec![0.0; 6], vec![0.0; 3]));
    }
}
