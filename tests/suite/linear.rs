//! Linear layers against the f64 reference: every dtype, ragged shapes, with and without bias, added or overwritten.

use crate::common::{assert_close_to_scale, devices, rounded, values, widened};
use retromae::device::{Buffer, Device, Float, Matrix, MatrixMut, bf16, f16};
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

/// Place of matrices in memory: on their own, or as the second of three parts of wider rows, such as the keys of a packed projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storage {
    Dense,
    Packed,
}

impl Storage {
    /// Uploads rows of `columns`; the other parts are NaN, so nothing of them must be read.
    fn upload<T: Float>(self, device: &Device, values: &[T], columns: usize) -> Buffer<T> {
        if self == Self::Dense {
            return device.upload(values).unwrap();
        }
        let other = vec![T::from_f32(f32::NAN); columns];
        let rows = values.chunks(columns).flat_map(|row| [&other, row, &other].concat());
        device.upload(&rows.collect::<Vec<_>>()).unwrap()
    }

    fn matrix<T: Float>(self, buffer: &Buffer<T>, columns: usize) -> Matrix<'_, T> {
        match self {
            Self::Dense => buffer.view().rows_of(columns).unwrap(),
            Self::Packed => buffer.view().rows_of(3 * columns).unwrap().split_columns::<3>()[1],
        }
    }

    fn matrix_mut<T: Float>(self, buffer: &mut Buffer<T>, columns: usize) -> MatrixMut<'_, T> {
        match self {
            Self::Dense => buffer.view_mut().rows_of(columns).unwrap(),
            Self::Packed => {
                let [_, middle, _] = buffer.view_mut().rows_of(3 * columns).unwrap().split_columns();
                middle
            }
        }
    }

    /// Reads what [`upload`](Self::upload) wrote; nothing else may have been written.
    fn read<T: Float>(self, buffer: &Buffer<T>, columns: usize) -> Vec<T> {
        let values = buffer.read().unwrap();
        if self == Self::Dense {
            return values;
        }
        let untouched = |part: &[T]| part.iter().all(|value| value.to_f32().is_nan());
        let own = |row: &[T]| {
            assert!(untouched(&row[..columns]) && untouched(&row[2 * columns..]), "written between the rows");
            row[columns..2 * columns].to_vec()
        };
        values.chunks(3 * columns).flat_map(own).collect()
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

fn check_forward<T: Float>(devices: &[Device], shape: Shape, storage: Storage, with_bias: bool) {
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
        let [input, weight] =
            [&operands.input, &operands.weight].map(|values| storage.upload(device, values, in_features));
        let bias = device.upload(&operands.bias).unwrap();
        let poison = vec![T::from_f32(f32::NAN); rows * out_features];
        let mut output = storage.upload(device, &poison, out_features);
        let arguments = linear::Forward::new(
            storage.matrix(&input, in_features),
            storage.matrix(&weight, in_features),
            storage.matrix_mut(&mut output, out_features),
        );
        let arguments = if with_bias { arguments.bias(bias.view()) } else { arguments };
        linear::forward(&device.stream(), arguments).unwrap();
        compare("output", shape, &storage.read(&output, out_features), &expected);
    }
}

fn check_backward_input<T: Float>(devices: &[Device], shape: Shape, storage: Storage, accumulate: bool) {
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
        let d_output = storage.upload(device, &operands.d_output, out_features);
        let weight = storage.upload(device, &operands.weight, in_features);
        let mut d_input = storage.upload(device, &operands.d_input, in_features);
        let arguments = linear::BackwardInput {
            d_output: storage.matrix(&d_output, out_features),
            weight: storage.matrix(&weight, in_features),
            d_input: storage.matrix_mut(&mut d_input, in_features),
            accumulate,
        };
        linear::backward_input(&device.stream(), arguments).unwrap();
        compare("d_input", shape, &storage.read(&d_input, in_features), &expected);
    }
}

fn check_backward_weight<T: Float>(devices: &[Device], shape: Shape, storage: Storage) {
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
        let input = storage.upload(device, &operands.input, in_features);
        let d_output = storage.upload(device, &operands.d_output, out_features);
        let mut d_weight = storage.upload(device, &operands.d_weight, in_features);
        let arguments = linear::BackwardWeight {
            input: storage.matrix(&input, in_features),
            d_output: storage.matrix(&d_output, out_features),
            d_weight: storage.matrix_mut(&mut d_weight, in_features),
        };
        linear::backward_weight(&device.stream(), arguments).unwrap();
        compare("d_weight", shape, &storage.read(&d_weight, in_features), &expected);
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
    for storage in [Storage::Dense, Storage::Packed] {
        for shape in SHAPES {
            check_forward::<T>(&devices, shape, storage, false);
            check_forward::<T>(&devices, shape, storage, true);
            check_backward_input::<T>(&devices, shape, storage, false);
            check_backward_input::<T>(&devices, shape, storage, true);
            check_backward_weight::<T>(&devices, shape, storage);
        }
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

/// The matmul's sum lies halfway between 1 and the next number and the bias is the other half: rounded before the bias is added, both would be
/// lost.
fn check_one_rounding<T: Float>(epsilon: f32) {
    let half: Vec<T> = rounded(&[f64::from(epsilon) / 2.0]);
    let one: Vec<T> = rounded(&[1.0]);
    for device in devices() {
        let input = device.upload(&[one[0], half[0]]).unwrap();
        let weight = device.upload(&[one[0]; 2]).unwrap();
        let bias = device.upload(&half).unwrap();
        let mut output = device.zeros::<T>(1).unwrap();
        let arguments = linear::Forward::new(
            input.matrix(1, 2).unwrap(),
            weight.matrix(1, 2).unwrap(),
            output.matrix_mut(1, 1).unwrap(),
        );
        linear::forward(&device.stream(), arguments.bias(bias.view())).unwrap();
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
    let matrix = |[rows, columns]: [usize; 2]| buffer.slice(0..rows * columns).matrix(rows, columns).unwrap();
    let refuse = |input, weight, bias: usize, [rows, columns]: [usize; 2]| {
        let mut output = device.zeros::<f32>(rows * columns).unwrap();
        let output = output.matrix_mut(rows, columns).unwrap();
        let arguments = linear::Forward::new(matrix(input), matrix(weight), output);
        let arguments = arguments.bias(buffer.slice(0..bias));
        linear::forward(&device.stream(), arguments).unwrap_err().to_string()
    };
    assert_eq!(refuse([3, 4], [8, 5], 8, [3, 8]), "weight is [8, 5]; it should be [8, 4] (out, in)");
    assert_eq!(refuse([3, 4], [8, 4], 8, [4, 8]), "output is [4, 8]; it should be [3, 8] (rows, out)");
    assert_eq!(refuse([3, 4], [8, 4], 8, [3, 6]), "output is [3, 6]; it should be [3, 8] (rows, out)");
    assert_eq!(refuse([3, 4], [8, 4], 16, [3, 8]), "bias is 16 elements long; it should be 8 (out)");
    assert_eq!(refuse([3, 4], [5, 4], 4, [3, 5]), "bias is 4 elements long; it should be 5 (out)");
    // A size that overflows is no view's.
    let error = buffer.matrix(8, 1 << 61).unwrap_err().to_string();
    assert!(error.starts_with("matrix is 96 elements long; it should be 18446744073709551615"), "{error}");
}

#[test]
fn wrong_gradient_shapes_are_refused() {
    let device = &devices()[0];
    let stream = device.stream();
    let buffer = device.zeros::<f32>(96).unwrap();
    let mut gradient = device.zeros::<f32>(96).unwrap();
    let matrix = |[rows, columns]: [usize; 2]| buffer.slice(0..rows * columns).matrix(rows, columns).unwrap();
    let mut backward_input = |d_output, [rows, columns]: [usize; 2]| {
        let arguments = linear::BackwardInput {
            d_output: matrix(d_output),
            weight: matrix([8, 4]),
            d_input: gradient.slice_mut(0..rows * columns).matrix(rows, columns).unwrap(),
            accumulate: false,
        };
        linear::backward_input(&stream, arguments).unwrap_err().to_string()
    };
    assert_eq!(backward_input([3, 7], [3, 4]), "weight is [8, 4]; it should be [7, 4] (out, in)");
    assert_eq!(backward_input([3, 8], [4, 4]), "d_input is [4, 4]; it should be [3, 4] (rows, in)");
    let mut backward_weight = |d_output, [rows, columns]: [usize; 2]| {
        let arguments = linear::BackwardWeight {
            input: matrix([3, 4]),
            d_output: matrix(d_output),
            d_weight: gradient.slice_mut(0..rows * columns).matrix(rows, columns).unwrap(),
        };
        linear::backward_weight(&stream, arguments).unwrap_err().to_string()
    };
    assert_eq!(backward_weight([2, 8], [8, 4]), "d_output is [2, 8]; it should be [3, 8] (rows, out)");
    assert_eq!(backward_weight([3, 8], [8, 3]), "d_weight is [8, 3]; it should be [8, 4] (out, in)");
}
