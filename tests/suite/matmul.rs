//! Matmuls of dense matrices against plain f64 sums: types, layouts, batches, addends, and sizes without common divisors.

use crate::common::{assert_close_to_scale, devices, rounded, values, widened};
use retromae::device::{Buffer, Device, Float, Matrix, MatrixMut, Stream, bf16, f16};
use retromae::ops;
use retromae::ops::matmul::{Addend, Factor, Matmul, matmul};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Added {
    Zero,
    Output,
    Bias,
}

const ADDED: [Added; 3] = [Added::Zero, Added::Output, Added::Bias];

/// Number of matmuls, and their sizes.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
}

/// A factor that is `[rows, columns]` when multiplied, of each matmul.
fn factor<T: Float>(
    buffer: &Buffer<T>,
    batch: usize,
    [rows, columns]: [usize; 2],
    transposed: bool,
) -> Factor<'_, T> {
    if transposed {
        Factor::Transposed(buffer.matrix(batch * columns, rows).unwrap())
    } else {
        Factor::Plain(buffer.matrix(batch * rows, columns).unwrap())
    }
}

/// Sizes, layouts and addend of a batch of matmuls.
#[derive(Clone, Copy, Debug)]
struct Case {
    sizes: Sizes,
    /// Left, right
    transposed: [bool; 2],
    added: Added,
}

impl Case {
    fn left_index(&self, i: usize, row: usize, l: usize) -> usize {
        let Sizes { m, k, .. } = self.sizes;
        i * m * k + if self.transposed[0] { l * m + row } else { row * k + l }
    }

    fn right_index(&self, i: usize, l: usize, column: usize) -> usize {
        let Sizes { n, k, .. } = self.sizes;
        i * k * n + if self.transposed[1] { column * k + l } else { l * n + column }
    }

    fn check<T: Float, O: Float>(&self, devices: &[Device]) {
        let Sizes { batch, m, n, k } = self.sizes;
        let left: Vec<T> = rounded(&values(1, batch * m * k));
        let right: Vec<T> = rounded(&values(2, batch * k * n));
        let before: Vec<O> = rounded(&values(3, batch * m * n));
        let bias: Vec<O> = rounded(&values(4, n));
        let (left_f64, right_f64) = (widened(&left), widened(&right));
        let (mut exact, mut naive, mut scale) = (Vec::new(), Vec::new(), 0.0f64);
        for (index, before) in before.iter().enumerate() {
            let (i, row, column) = (index / (m * n), index / n % m, index % n);
            let added = match self.added {
                Added::Zero => 0.0,
                Added::Output => before.to_f32(),
                Added::Bias => bias[column].to_f32(),
            };
            let (mut sum, mut sum_f32, mut magnitude) = (f64::from(added), 0.0f32, f64::from(added.abs()));
            for l in 0..k {
                let (a, b) = (self.left_index(i, row, l), self.right_index(i, l, column));
                sum += left_f64[a] * right_f64[b];
                sum_f32 += left[a].to_f32() * right[b].to_f32();
                magnitude += (left_f64[a] * right_f64[b]).abs();
            }
            exact.push(sum);
            naive.push(f64::from(O::from_f32(O::from_f32(sum_f32).to_f32() + added).to_f32()));
            scale = scale.max(magnitude);
        }
        for device in devices {
            let actual = self.run(device, &left, &right, &before, &bias);
            let what = format!("{self:?}, {} to {}", T::DTYPE.name(), O::DTYPE.name());
            assert_close_to_scale::<O>(&what, &widened(&actual), &naive, &exact, scale);
        }
    }

    fn run<T: Float, O: Float>(
        &self,
        device: &Device,
        left: &[T],
        right: &[T],
        before: &[O],
        bias: &[O],
    ) -> Vec<O> {
        let (left, right) = (device.upload(left).unwrap(), device.upload(right).unwrap());
        let bias = device.upload(bias).unwrap();
        // Overwritten values must not be read.
        let poison = vec![O::from_f32(f32::NAN); before.len()];
        let output = if self.added == Added::Output { before } else { &poison };
        let mut output = device.upload(output).unwrap();
        let Sizes { batch, m, n, k } = self.sizes;
        let arguments = Matmul::new(
            factor(&left, batch, [m, k], self.transposed[0]),
            factor(&right, batch, [k, n], self.transposed[1]),
            output.matrix_mut(batch * m, n).unwrap(),
        );
        let addend = match self.added {
            Added::Zero => Addend::Zero,
            Added::Output => Addend::Output,
            Added::Bias => Addend::Bias(bias.view()),
        };
        matmul(&device.stream(), arguments.addend(addend).batch(batch)).unwrap();
        output.read().unwrap()
    }
}

/// Batch, m, n, k.
const SIZES: [[usize; 4]; 11] = [
    [1, 1, 1, 1],
    [1, 17, 63, 65],
    [1, 129, 17, 1],
    [2, 65, 129, 17],
    [3, 63, 1, 129],
    [12, 33, 33, 64],
    [65, 2, 3, 5],
    // Large enough that each matmul of the batch is spread over all cores of a host.
    [2, 129, 257, 127],
    [3, 5, 7, 0],
    [0, 5, 7, 9],
    [2, 0, 7, 9],
];

fn sweep<T: Float, O: Float>() {
    let devices = devices();
    for [batch, m, n, k] in SIZES {
        for (index, transposed) in
            [[false, false], [false, true], [true, false], [true, true]].into_iter().enumerate()
        {
            let case = |added| Case { sizes: Sizes { batch, m, n, k }, transposed, added };
            // Every addend with the layouts of a linear layer, one addend with each other layout.
            if transposed == [false, true] {
                ADDED.into_iter().for_each(|added| case(added).check::<T, O>(&devices));
            } else {
                case(ADDED[index % ADDED.len()]).check::<T, O>(&devices);
            }
        }
    }
}

#[test]
fn f32_matches_f64_sums() {
    sweep::<f32, f32>();
}

#[test]
fn bf16_matches_f64_sums() {
    sweep::<bf16, bf16>();
    sweep::<bf16, f32>();
}

#[test]
fn f16_matches_f64_sums() {
    sweep::<f16, f16>();
    sweep::<f16, f32>();
}

/// A view may begin anywhere in its buffer.
#[test]
fn operands_need_no_alignment_but_their_own() {
    for device in devices() {
        let left: Vec<bf16> = rounded(&values(1, 1 + 3 * 9));
        let right: Vec<bf16> = rounded(&values(2, 3 + 5 * 9));
        let bias: Vec<bf16> = rounded(&values(3, 1 + 5));
        let run = |offsets: [usize; 3]| {
            let [left, right, bias] =
                [(&left[1..], offsets[0]), (&right[3..], offsets[1]), (&bias[1..], offsets[2])].map(
                    |(values, offset)| {
                        let padded = [vec![bf16::NAN; offset], values.to_vec()].concat();
                        (device.upload(&padded).unwrap(), offset)
                    },
                );
            let mut output = device.zeros::<bf16>(15).unwrap();
            let arguments = Matmul::new(
                Factor::Plain(left.0.slice(left.1..left.0.len()).matrix(3, 9).unwrap()),
                Factor::Transposed(right.0.slice(right.1..right.0.len()).matrix(5, 9).unwrap()),
                output.matrix_mut(3, 5).unwrap(),
            );
            let addend = Addend::Bias(bias.0.slice(bias.1..bias.0.len()));
            matmul(&device.stream(), arguments.addend(addend)).unwrap();
            output.read().unwrap()
        };
        let aligned = widened(&run([0, 0, 0]));
        for offsets in [[1, 3, 1], [8, 1, 0], [0, 0, 3]] {
            let shifted = widened(&run(offsets));
            let scale = aligned.iter().fold(0.0f64, |max, value| max.max(value.abs()));
            assert_close_to_scale::<bf16>(&format!("{offsets:?}"), &shifted, &aligned, &aligned, scale);
        }
    }
}

/// A bias may begin at any element, also if cuBLASLt cannot add it: for thin matmuls it never can.
fn check_bias_anywhere<T: Float>() {
    const OFFSETS: usize = 9;
    for device in devices() {
        for [m, n, k] in [[130, 136, 64], [3, 1, 5], [19, 13, 1], [1, 2, 9], [5, 3, 0]] {
            let (left, right, bias) = (values(1, m * k), values(2, k * n), values(3, n));
            let [left, right, bias] = [left, right, bias].map(|values| rounded::<T>(&values));
            let [left_there, right_there] = [&left, &right].map(|values| device.upload(values).unwrap());
            let wide = [&left, &right, &bias].map(|values| widened(values));
            let sum = |row: usize, column: usize, term: &dyn Fn(f64) -> f64| {
                let terms = (0..k).map(|l| wide[0][row * k + l] * wide[1][l * n + column]);
                terms.map(term).sum::<f64>() + term(wide[2][column])
            };
            let all = |term: &dyn Fn(f64) -> f64| -> Vec<f64> {
                (0..m * n).map(|index| sum(index / n, index % n, term)).collect()
            };
            let (exact, magnitudes) = (all(&|value| value), all(&f64::abs));
            let scale = magnitudes.into_iter().fold(0.0, f64::max);
            for offset in 0..OFFSETS {
                let mut padded = vec![T::from_f32(f32::NAN); OFFSETS + n];
                padded[offset..offset + n].copy_from_slice(&bias);
                let padded = device.upload(&padded).unwrap();
                let mut output = device.upload(&vec![T::from_f32(f32::NAN); m * n]).unwrap();
                let arguments = Matmul::new(
                    factor(&left_there, 1, [m, k], false),
                    factor(&right_there, 1, [k, n], false),
                    output.matrix_mut(m, n).unwrap(),
                );
                let addend = Addend::Bias(padded.slice(offset..offset + n));
                matmul(&device.stream(), arguments.addend(addend)).unwrap();
                let what = format!("{m} x {k} x {n}, a bias from element {offset} on");
                let output = widened(&output.read().unwrap());
                assert_close_to_scale::<T>(&what, &output, &exact, &exact, scale);
            }
        }
    }
}

#[test]
fn a_bias_may_begin_anywhere() {
    check_bias_anywhere::<f32>();
    check_bias_anywhere::<bf16>();
    check_bias_anywhere::<f16>();
}

/// The factors of one matmul, which is computed many times.
struct Factors {
    left: Buffer<f32>,
    right: Buffer<f32>,
}

impl Factors {
    const SIZES: Sizes = Sizes { batch: 1, m: 65, n: 72, k: 40 };

    /// Allocates the factors, and outputs for `count` results.
    fn with_outputs(device: &Device, count: usize) -> (Self, Vec<Buffer<f32>>) {
        let Sizes { m, n, k, .. } = Self::SIZES;
        let upload = |seed, count| device.upload(&rounded::<f32>(&values(seed, count))).unwrap();
        let outputs = (0..count).map(|_| device.zeros(m * n).unwrap()).collect();
        (Self { left: upload(1, m * k), right: upload(2, k * n) }, outputs)
    }

    fn multiply(&self, stream: &Stream, output: &mut Buffer<f32>) -> ops::Result<()> {
        let Sizes { batch, m, n, k } = Self::SIZES;
        let (left, right) =
            (factor(&self.left, batch, [m, k], false), factor(&self.right, batch, [k, n], false));
        matmul(stream, Matmul::new(left, right, output.matrix_mut(m, n)?))
    }
}

/// A graph's matmuls, and unordered ones on the stream that it was recorded on, share only their inputs.
#[test]
fn matmuls_of_a_graph_and_of_its_stream_do_not_meet() {
    const ROUNDS: usize = 4;
    for device in devices() {
        let [stream, first, second] = [(); 3].map(|()| device.new_stream().unwrap());
        let (factors, mut outputs) = Factors::with_outputs(&device, 2 + ROUNDS);
        let (recorded, direct) = outputs.split_at_mut(2);
        // The algorithm is chosen here, for all.
        factors.multiply(&stream, &mut direct[0]).unwrap();
        let mut graphs = Vec::new();
        for output in recorded {
            graphs.push(stream.capture(|stream| factors.multiply(stream, output)).unwrap());
        }
        for output in direct {
            factors.multiply(&stream, output).unwrap();
            // SAFETY: all buffers are alive, and the reads wait.
            unsafe {
                graphs[0].launch(&first).unwrap();
                graphs[1].launch(&second).unwrap();
            }
        }
        drop((graphs, stream, first, second));
        let read: Vec<Vec<f32>> = outputs.iter().map(|output| output.read().unwrap()).collect();
        assert!(read.iter().all(|values| *values == read[0] && values.iter().all(|value| value.is_finite())));
    }
}

/// Unordered matmuls on two streams share only their inputs.
#[test]
fn matmuls_of_two_streams_do_not_meet() {
    const ROUNDS: usize = 4;
    for device in devices() {
        let streams = [(); 2].map(|()| device.new_stream().unwrap());
        let (factors, mut outputs) = Factors::with_outputs(&device, 2 * ROUNDS);
        for (output, stream) in outputs.iter_mut().zip(streams.iter().cycle()) {
            factors.multiply(stream, output).unwrap();
        }
        let results: Vec<Vec<f32>> = outputs.iter().map(|output| output.read().unwrap()).collect();
        assert!(results[0].iter().any(|&value| value != 0.0));
        assert!(results.iter().all(|result| *result == results[0]));
    }
}

/// Returns the second of three equal parts of every row.
fn middle<T: Copy>(values: &[T], width: usize) -> Vec<T> {
    values.chunks(3 * width).flat_map(|row| row[width..2 * width].to_vec()).collect()
}

/// Matrices that are columns of wider ones; what lies between the rows of the output stays as it was.
fn check_strided<T: Float + PartialEq>(device: &Device, batch: usize, with_bias: bool) {
    const M: usize = 33;
    const N: usize = 24;
    const K: usize = 40;
    let rows = batch * M;
    let left: Vec<T> = rounded(&values(1, rows * 3 * K));
    let right: Vec<T> = rounded(&values(2, batch * K * 3 * N));
    let before: Vec<T> = rounded(&values(3, rows * 3 * N));
    let bias = device.upload(&rounded::<T>(&values(4, N))).unwrap();
    let multiply = |left: Matrix<'_, T>, right: Matrix<'_, T>, output: MatrixMut<'_, T>| {
        let addend = if with_bias { Addend::Bias(bias.view()) } else { Addend::Zero };
        let arguments = Matmul::new(Factor::Plain(left), Factor::Plain(right), output);
        matmul(&device.stream(), arguments.addend(addend).batch(batch)).unwrap();
    };
    let [wide_left, wide_right] = [&left, &right].map(|values| device.upload(values).unwrap());
    let mut wide = device.upload(&before).unwrap();
    let [_, strided_left, _] = wide_left.matrix(rows, 3 * K).unwrap().split_columns();
    let [_, strided_right, _] = wide_right.matrix(batch * K, 3 * N).unwrap().split_columns();
    let [_, output, _] = wide.matrix_mut(rows, 3 * N).unwrap().split_columns();
    multiply(strided_left, strided_right, output);

    let [left, right] =
        [(&left, K), (&right, N)].map(|(values, width)| device.upload(&middle(values, width)));
    let (left, right, mut dense) = (left.unwrap(), right.unwrap(), device.zeros(rows * N).unwrap());
    let output = dense.matrix_mut(rows, N).unwrap();
    multiply(left.matrix(rows, K).unwrap(), right.matrix(batch * K, N).unwrap(), output);
    let (actual, expected) = (wide.read().unwrap(), widened(&dense.read().unwrap()));
    let scale = expected.iter().fold(0.0f64, |max, value| max.max(value.abs()));
    let what = format!("{batch} strided, bias {with_bias}");
    assert_close_to_scale::<T>(&what, &widened(&middle(&actual, N)), &expected, &expected, scale);
    for (actual, before) in actual.chunks(3 * N).zip(before.chunks(3 * N)) {
        assert!(actual[..N] == before[..N] && actual[2 * N..] == before[2 * N..], "between the rows");
    }
}

#[test]
fn rows_may_be_strided() {
    for device in devices() {
        for (batch, with_bias) in [(1, false), (1, true), (3, false), (3, true)] {
            check_strided::<f32>(&device, batch, with_bias);
            check_strided::<bf16>(&device, batch, with_bias);
            check_strided::<f16>(&device, batch, with_bias);
        }
    }
}

#[test]
fn shapes_that_do_not_agree_are_refused() {
    let device = &devices()[0];
    let buffer = device.zeros::<f16>(64).unwrap();
    let bias = device.zeros::<f16>(8).unwrap();
    let matrix = |[rows, columns]: [usize; 2]| buffer.slice(0..rows * columns).matrix(rows, columns).unwrap();
    let refuse = |left, right, bias_length: usize, [rows, columns]: [usize; 2], batch| {
        let mut output = device.zeros::<f16>(rows * columns).unwrap();
        let arguments = Matmul::new(left, right, output.matrix_mut(rows, columns).unwrap());
        let arguments = arguments.addend(Addend::Bias(bias.slice(0..bias_length))).batch(batch);
        matmul(&device.stream(), arguments).unwrap_err().to_string()
    };
    let plain = |shape| Factor::Plain(matrix(shape));
    let transposed = |shape| Factor::Transposed(matrix(shape));
    let mut cases = vec![
        // m = 2, n = 3, k = 4, twice.
        (plain([5, 4]), transposed([6, 4]), 3, [4, 3], "left is [5, 4]; it should be [4, 4] (batch · m, k)"),
        (transposed([8, 3]), plain([8, 3]), 3, [4, 3], "left is [8, 3]; it should be [8, 2] (batch · k, m)"),
        (plain([4, 4]), transposed([4, 4]), 3, [4, 3], "right is [4, 4]; it should be [6, 4] (batch · n, k)"),
        (plain([4, 4]), plain([8, 4]), 3, [4, 3], "right is [8, 4]; it should be [8, 3] (batch · k, n)"),
        (plain([4, 4]), transposed([6, 4]), 6, [4, 3], "bias is 6 elements long; it should be 3 (n)"),
        (
            plain([4, 4]),
            transposed([6, 4]),
            3,
            [5, 3],
            "output is [5, 3]; it should be [4, 3] (batch · m, n)",
        ),
    ];
    for (left, right, bias, output, expected) in cases.drain(..) {
        assert_eq!(refuse(left, right, bias, output, 2), expected);
    }
    let huge = refuse(plain([4, 4]), transposed([6, 4]), 3, [4, 3], usize::MAX);
    assert!(huge.starts_with("left is [4, 4]; it should be [0, 4]"), "{huge}");
    let none = refuse(plain([4, 4]), transposed([6, 4]), 3, [4, 3], 0);
    assert_eq!(none, "output is [4, 3]; it should be [0, 3] (batch · m, n)");
}

#[test]
fn a_third_type_is_refused() {
    let device = &devices()[0];
    let factor = device.zeros::<f16>(1).unwrap();
    let mut output = device.zeros::<bf16>(1).unwrap();
    let factor = || Factor::Plain(factor.matrix(1, 1).unwrap());
    let arguments = Matmul::new(factor(), factor(), output.matrix_mut(1, 1).unwrap());
    let message = matmul(&device.stream(), arguments).unwrap_err().to_string();
    assert_eq!(message, "output is bf16; it should be f32, or f16 as the factors");
}
