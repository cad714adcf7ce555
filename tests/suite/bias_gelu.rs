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
    let forward = bias_gelu::Forward { input: input.view(), bias: bias.view(), output: output.view_mut() };
    bias_gelu::forward(&stream, forward).unwrap();
    let backward = bias_gelu::Backward {
        input: input.view(),
        bias: bias.view(),
        d_output: d_output.view(),
        d_input: d_input.view_mut(),
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
    let (input, bias) = (device.zeros::<f32>(24).unwrap(), device.zeros::<f32>(16).unwrap());
    let mut output: Buffer<f32> = device.zeros(24).unwrap();
    let mut refuse = |columns: usize, outputs: usize| {
        let (bias, output) = (bias.slice(0..columns), output.slice_mut(0..outputs));
        let arguments = bias_gelu::Forward { input: input.view(), bias, output };
        bias_gelu::forward(&device.stream(), arguments).unwrap_err().to_string()
    };
    assert_eq!(refuse(16, 24), "input is 24 elements long; it should be a multiple of 16 (columns)");
    assert_eq!(refuse(12, 24), "bias is 12 elements long; it should be a positive multiple of 8");
    assert_eq!(refuse(8, 8), "output is 8 elements long; it should be 24 (as input)");
}
