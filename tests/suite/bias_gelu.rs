//! Bias + GELU against the f64 reference.

use crate::common::{assert_close, devices, rounded, values, widened};
use retromae::device::{Buffer, Device, ModelFloat, bf16};
use retromae::ops::bias_gelu;
use retromae::reference::gelu;

/// The naive composition: each step in f32, rounded to `T` where a framework would store it.
fn naive<T: ModelFloat>(input: &[T], bias: &[f32], d_output: &[T]) -> (Vec<f64>, Vec<f64>) {
    let round = |value: f32| T::from_f32(value).to_f32();
    let erf = |x: f32| gelu::erf(f64::from(x)) as f32;
    let step = |(i, x): (usize, &T)| {
        let x = round(x.to_f32() + bias[i % bias.len()]);
        let cdf = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
        let pdf = (-0.5 * x * x).exp() * 0.398_942_3;
        (f64::from(round(x * cdf)), f64::from(round(d_output[i].to_f32() * round(cdf + x * pdf))))
    };
    input.iter().enumerate().map(step).unzip()
}

fn check<T: ModelFloat>(device: &Device, rows: usize, columns: usize, spread: f64) {
    let scaled = |seed, count| values(seed, count).iter().map(|v| v * spread).collect::<Vec<_>>();
    let input: Vec<T> = rounded(&scaled(1, rows * columns));
    let bias: Vec<f32> = rounded(&values(2, columns));
    let d_output: Vec<T> = rounded(&values(3, rows * columns));
    let exact = gelu::forward(&widened(&input), &widened(&bias));
    let (exact_gradient, _) = gelu::backward(&widened(&input), &widened(&bias), &widened(&d_output));
    let (naive_output, naive_gradient) = naive(&input, &bias, &d_output);

    let (stream, input) = (device.stream(), device.upload(&input).unwrap());
    let (bias, d_output) = (device.upload(&bias).unwrap(), device.upload(&d_output).unwrap());
    let mut output: Buffer<T> = device.zeros(rows * columns).unwrap();
    let mut d_input: Buffer<T> = device.zeros(rows * columns).unwrap();
    let forward = bias_gelu::Forward {
        input: input.matrix(rows, columns).unwrap(),
        bias: bias.view(),
        output: output.matrix_mut(rows, columns).unwrap(),
    };
    bias_gelu::forward(&stream, forward).unwrap();
    let backward = bias_gelu::Backward {
        input: input.matrix(rows, columns).unwrap(),
        bias: bias.view(),
        d_output: d_output.matrix(rows, columns).unwrap(),
        d_input: d_input.matrix_mut(rows, columns).unwrap(),
    };
    bias_gelu::backward(&stream, backward).unwrap();
    assert_close::<T>("output", &widened(&output.read().unwrap()), &naive_output, &exact);
    assert_close::<T>("d_input", &widened(&d_input.read().unwrap()), &naive_gradient, &exact_gradient);
}

#[test]
fn matches_the_reference() {
    for device in devices() {
        for (rows, columns) in [(1, 8), (2, 16), (3, 1024), (17, 512), (129, 96), (0, 32)] {
            for spread in [1.0, 5.0, 40.0] {
                check::<f32>(&device, rows, columns, spread);
                check::<bf16>(&device, rows, columns, spread);
            }
        }
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let device = &devices()[0];
    let (input, bias) = (device.zeros::<f32>(48).unwrap(), device.zeros::<f32>(16).unwrap());
    let mut output: Buffer<f32> = device.zeros(48).unwrap();
    let mut refuse = |columns: usize, biases: usize, outputs: usize| {
        let (input, output) = (input.slice(0..24), output.slice_mut(0..outputs * columns));
        let arguments = bias_gelu::Forward {
            input: input.rows_of(columns).unwrap(),
            bias: bias.slice(0..biases),
            output: output.rows_of(columns).unwrap(),
        };
        bias_gelu::forward(&device.stream(), arguments).unwrap_err().to_string()
    };
    assert_eq!(refuse(12, 12, 2), "input is [2, 12]; it should be of a positive multiple of 8 columns");
    assert_eq!(refuse(8, 16, 3), "bias is 16 elements long; it should be 8 (columns)");
    assert_eq!(refuse(8, 8, 1), "output is [1, 8]; it should be [3, 8] (as input)");
    let [_, right] = input.matrix(3, 16).unwrap().split_columns();
    let output = output.slice_mut(0..24).rows_of(8).unwrap();
    let arguments = bias_gelu::Forward { input: right, bias: bias.slice(0..8), output };
    let message = bias_gelu::forward(&device.stream(), arguments).unwrap_err().to_string();
    assert_eq!(message, "input is strided by 16 elements; it should be contiguous rows of 8 columns");
}
