//! Linear layers against the f64 reference: every dtype, ragged shapes, with and without bias, added or overwritten.

use crate::common::{assert_close_to_scale, devices, rounded, values, widened};
use retromae::device::{Device, Float, bf16, f16};
use retromae::ops::linear;
use retromae::reference::linear as reference;

#[derive(Clone, Copy, Debug)]
struct Shape {
    rows: usize,
    in_features: usize,
    out_features: usize,
}

struct Operands<T> {
    input: Vec<T>,
    weight: Vec<T>,
    bias: Vec<T>,
    d_output: Vec<T>,
    /// Initial values of the gradients, which are added to.
    d_input: Vec<T>,
    d_weight: Vec<f32>,
}

impl Shape {
    fn operands<T: Float>(self) -> Operands<T> {
        let Self { rows, in_features, out_features } = self;
        Operands {
            input: rounded(&values(1, rows * in_features)),
            weight: rounded(&values(2, out_features * in_features)),
            bias: rounded(&values(3, out_features)),
            d_output: rounded(&values(4, rows * out_features)),
            d_input: rounded(&values(5, rows * in_features)),
            d_weight: rounded(&values(6, out_features * in_features)),
        }
    }
}

fn plus(left: &[f64], right: &[f64]) -> Vec<f64> {
    left.iter().zip(right).map(|(l, r)| l + r).collect()
}

/// Expected matmul: exact, naive, and the largest sum of magnitudes.
struct Expected {
    exact: Vec<f64>,
    naive: Vec<f64>,
    scale: f64,
}

/// Computes the naive matmul of `left [m, k]` and `right [k, n]`, given by their elements: accumulated in f32 and rounded to `T`, then `addend` added
/// and rounded again.
fn expect<T: Float>(
    exact: Vec<f64>,
    [m, n, k]: [usize; 3],
    left: impl Fn(usize, usize) -> f32,
    right: impl Fn(usize, usize) -> f32,
    addend: Option<&dyn Fn(usize, usize) -> f32>,
) -> Expected {
    let round = |value: f32| T::from_f32(value).to_f32();
    let (mut naive, mut scale) = (Vec::with_capacity(m * n), 0.0f32);
    for i in 0..m {
        for j in 0..n {
            let terms = || (0..k).map(|l| left(i, l) * right(l, j));
            let extra = addend.map_or(0.0, |addend| addend(i, j));
            naive.push(f64::from(round(round(terms().sum()) + extra)));
            scale = scale.max(terms().map(f32::abs).sum::<f32>() + extra.abs());
        }
    }
    Expected { exact, naive, scale: f64::from(scale) }
}

#[track_caller]
fn compare<T: Float>(what: &str, shape: Shape, actual: &[T], expected: &Expected) {
    let Expected { exact, naive, scale } = expected;
    assert_close_to_scale::<T>(&format!("{what} of {shape:?}"), &widened(actual), naive, exact, *scale);
}

fn check_forward<T: Float>(devices: &[Device], shape: Shape, with_bias: bool) {
    let Shape { rows, in_features, out_features } = shape;
    let operands = shape.operands::<T>();
    let bias = with_bias.then(|| widened(&operands.bias));
    let exact = reference::forward(
        &widened(&operands.input),
        &widened(&operands.weight),
        bias.as_deref(),
        in_features,
    );
    let expected = expect::<T>(
        exact,
        [rows, out_features, in_features],
        |i, l| operands.input[i * in_features + l].to_f32(),
        |l, j| operands.weight[j * in_features + l].to_f32(),
        with_bias.then_some(&|_, j| operands.bias[j].to_f32()),
    );
    for device in devices {
        let [input, weight] = [&operands.input, &operands.weight].map(|v| device.upload(v).unwrap());
        let bias = device.upload(&operands.bias).unwrap();
        let mut output = device.upload(&vec![T::from_f32(f32::NAN); rows * out_features]).unwrap();
        let arguments = linear::Forward {
            input: input.view(),
            weight: weight.view(),
            bias: with_bias.then(|| bias.view()),
            output: output.view_mut(),
            in_features,
            out_features,
        };
        linear::forward(&device.stream(), arguments).unwrap();
        compare("output", shape, &output.read().unwrap(), &expected);
    }
}

fn check_backward_input<T: Float>(devices: &[Device], shape: Shape, accumulate: bool) {
    let Shape { rows, in_features, out_features } = shape;
    let operands = shape.operands::<T>();
    let [input, weight, d_output] =
        [&operands.input, &operands.weight, &operands.d_output].map(|v| widened(v));
    let (mut exact, _, _) = reference::backward(&input, &weight, &d_output, in_features);
    if accumulate {
        exact = plus(&exact, &widened(&operands.d_input));
    }
    let expected = expect::<T>(
        exact,
        [rows, in_features, out_features],
        |i, l| operands.d_output[i * out_features + l].to_f32(),
        |l, j| operands.weight[l * in_features + j].to_f32(),
        accumulate.then_some(&|i, j| operands.d_input[i * in_features + j].to_f32()),
    );
    for device in devices {
        let [d_output, weight] = [&operands.d_output, &operands.weight].map(|v| device.upload(v).unwrap());
        let mut d_input = device.upload(&operands.d_input).unwrap();
        let arguments = linear::BackwardInput {
            d_output: d_output.view(),
            weight: weight.view(),
            d_input: d_input.view_mut(),
            in_features,
            out_features,
            accumulate,
        };
        linear::backward_input(&device.stream(), arguments).unwrap();
        compare("d_input", shape, &d_input.read().unwrap(), &expected);
    }
}

fn check_backward_weight<T: Float>(devices: &[Device], shape: Shape) {
    let Shape { rows, in_features, out_features } = shape;
    let operands = shape.operands::<T>();
    let [input, weight, d_output] =
        [&operands.input, &operands.weight, &operands.d_output].map(|v| widened(v));
    let (_, exact, _) = reference::backward(&input, &weight, &d_output, in_features);
    let expected = expect::<f32>(
        plus(&exact, &widened(&operands.d_weight)),
        [out_features, in_features, rows],
        |i, l| operands.d_output[l * out_features + i].to_f32(),
        |l, j| operands.input[l * in_features + j].to_f32(),
        Some(&|i, j| operands.d_weight[i * in_features + j]),
    );
    for device in devices {
        let [input, d_output] = [&operands.input, &operands.d_output].map(|v| device.upload(v).unwrap());
        let mut d_weight = device.upload(&operands.d_weight).unwrap();
        let arguments = linear::BackwardWeight {
            input: input.view(),
            d_output: d_output.view(),
            d_weight: d_weight.view_mut(),
            in_features,
            out_features,
        };
        linear::backward_weight(&device.stream(), arguments).unwrap();
        compare("d_weight", shape, &d_weight.read().unwrap(), &expected);
    }
}

const SHAPES: [Shape; 12] = [
    Shape { rows: 0, in_features: 16, out_features: 8 },
    Shape { rows: 1, in_features: 1, out_features: 8 },
    Shape { rows: 1, in_features: 384, out_features: 24 },
    Shape { rows: 2, in_features: 7, out_features: 1000 },
    Shape { rows: 17, in_features: 33, out_features: 96 },
    Shape { rows: 130, in_features: 64, out_features: 136 },
    Shape { rows: 3, in_features: 5, out_features: 1 },
    Shape { rows: 19, in_features: 1, out_features: 13 },
    Shape { rows: 129, in_features: 31, out_features: 67 },
    Shape { rows: 1, in_features: 1, out_features: 1 },
    Shape { rows: 63, in_features: 65, out_features: 17 },
    Shape { rows: 65, in_features: 129, out_features: 63 },
];

fn sweep<T: Float>() {
    let devices = devices();
    for shape in SHAPES {
        check_forward::<T>(&devices, shape, false);
        check_forward::<T>(&devices, shape, true);
        check_backward_input::<T>(&devices, shape, false);
        check_backward_input::<T>(&devices, shape, true);
        check_backward_weight::<T>(&devices, shape);
    }
}

#[test]
fn f32_matches_the_reference() {
    sweep::<f32>();
}

#[test]
fn bf16_matches_the_reference() {
    sweep::<bf16>();
}

#[test]
fn f16_matches_the_reference() {
    sweep::<f16>();
}

/// The sum of products lies halfway between 1 and the next number and the bias is the other half: rounded before the bias is added, both would be
/// lost.
fn check_one_rounding<T: Float>(epsilon: f32) {
    let half: Vec<T> = rounded(&[f64::from(epsilon) / 2.0]);
    let one: Vec<T> = rounded(&[1.0]);
    for device in devices() {
        let input = device.upload(&[one[0], half[0]]).unwrap();
        let weight = device.upload(&[one[0]; 2]).unwrap();
        let bias = device.upload(&half).unwrap();
        let mut output = device.zeros::<T>(1).unwrap();
        let arguments = linear::Forward {
            input: input.view(),
            weight: weight.view(),
            bias: Some(bias.view()),
            output: output.view_mut(),
            in_features: 2,
            out_features: 1,
        };
        linear::forward(&device.stream(), arguments).unwrap();
        assert_eq!(output.read().unwrap()[0].to_f32(), 1.0 + epsilon, "{}", T::DTYPE.name());
    }
}

#[test]
fn the_bias_is_added_before_the_one_rounding() {
    check_one_rounding::<bf16>(bf16::EPSILON.to_f32());
    check_one_rounding::<f16>(f16::EPSILON.to_f32());
}

#[test]
fn wrong_shapes_are_refused() {
    let device = &devices()[0];
    let buffer = device.zeros::<f32>(96).unwrap();
    let refuse = |lengths: [usize; 4], [in_features, out_features]: [usize; 2]| {
        let mut output = device.zeros::<f32>(96).unwrap();
        let [input, weight, bias, outputs] = lengths;
        let arguments = linear::Forward {
            input: buffer.slice(0..input),
            weight: buffer.slice(0..weight),
            bias: Some(buffer.slice(0..bias)),
            output: output.slice_mut(0..outputs),
            in_features,
            out_features,
        };
        linear::forward(&device.stream(), arguments).unwrap_err().to_string()
    };
    assert_eq!(
        refuse([13, 32, 8, 24], [4, 8]),
        "input is 13 elements long; it should be a multiple of 4 (features)"
    );
    assert_eq!(refuse([12, 32, 8, 24], [0, 8]), "in_features is 0; it should be positive");
    // A size whose product overflows matches no view's length.
    let error = refuse([0, 0, 0, 0], [8, 1 << 61]);
    assert!(error.starts_with("weight is 0 elements long; it should be 18446744073709551615"), "{error}");
    assert_eq!(refuse([12, 33, 8, 24], [4, 8]), "weight is 33 elements long; it should be 32 (out · in)");
    assert_eq!(refuse([12, 32, 8, 32], [4, 8]), "output is 32 elements long; it should be 24 (rows · out)");
    assert_eq!(refuse([12, 32, 16, 24], [4, 8]), "bias is 16 elements long; it should be 8 (out)");
    assert_eq!(refuse([12, 20, 4, 15], [4, 5]), "bias is 4 elements long; it should be 5 (out)");
}

#[test]
fn wrong_gradient_shapes_are_refused() {
    let device = &devices()[0];
    let stream = device.stream();
    let buffer = device.zeros::<f32>(96).unwrap();
    let mut gradient = device.zeros::<f32>(96).unwrap();
    let mut backward_input = |d_output: usize, d_input: usize| {
        let arguments = linear::BackwardInput {
            d_output: buffer.slice(0..d_output),
            weight: buffer.slice(0..32),
            d_input: gradient.slice_mut(0..d_input),
            in_features: 4,
            out_features: 8,
            accumulate: false,
        };
        linear::backward_input(&stream, arguments).unwrap_err().to_string()
    };
    assert_eq!(
        backward_input(20, 12),
        "d_output is 20 elements long; it should be a multiple of 8 (features)"
    );
    assert_eq!(backward_input(24, 16), "d_input is 16 elements long; it should be 12 (rows · in)");
    let mut backward_weight = |d_output: usize, d_weight: usize| {
        let arguments = linear::BackwardWeight {
            input: buffer.slice(0..12),
            d_output: buffer.slice(0..d_output),
            d_weight: gradient.slice_mut(0..d_weight),
            in_features: 4,
            out_features: 8,
        };
        linear::backward_weight(&stream, arguments).unwrap_err().to_string()
    };
    assert_eq!(backward_weight(16, 32), "d_output is 16 elements long; it should be 24 (rows · out)");
    assert_eq!(backward_weight(24, 31), "d_weight is 31 elements long; it should be 32 (out · in)");
}
