//! Sentence vectors, the operation of `docs/kernels.md`, against the f64 reference.

use crate::common::{assert_close, devices, garbage, integers, rounded, run_on, values, widened};
use retromae::device::{Buffer, Device, ModelFloat, bf16};
use retromae::ops::tutorial::{SentenceVectors, sentence_vectors};

const INPUT_ROWS: usize = 40;
const EPS: f32 = 1e-12;

/// Inputs on the host.
struct Data<T> {
    columns: usize,
    input: Vec<T>,
    rows: Vec<i32>,
    center: Vec<f32>,
}

impl<T: ModelFloat> Data<T> {
    fn new(count: usize, columns: usize, scale: f64) -> Self {
        let scaled = |seed, count| values(seed, count).iter().map(|value| value * scale).collect::<Vec<_>>();
        Self {
            columns,
            input: rounded(&scaled(1, INPUT_ROWS * columns)),
            rows: integers(2, count, INPUT_ROWS as u32),
            center: rounded(&scaled(3, columns)),
        }
    }

    fn row(&self, row: usize) -> &[T] {
        &self.input[row * self.columns..][..self.columns]
    }
}

/// Output and norms.
type Results = [Vec<f64>; 2];

/// The reference: the formula in f64.
fn exact<T: ModelFloat>(data: &Data<T>) -> Results {
    let mut results = Results::default();
    for &row in &data.rows {
        let x: Vec<f64> = widened(data.row(row as usize))
            .iter()
            .zip(&data.center)
            .map(|(x, c)| x - f64::from(*c))
            .collect();
        let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
        results[0].extend(x.iter().map(|x| x / norm.max(f64::from(EPS))));
        results[1].push(norm);
    }
    results
}

/// The naive composition: each step in f32, rounded to `T` where a framework would store it.
fn naive<T: ModelFloat>(data: &Data<T>) -> Results {
    let round = |value: f32| T::from_f32(value).to_f32();
    let mut results = Results::default();
    for &row in &data.rows {
        let x: Vec<f32> =
            data.row(row as usize).iter().zip(&data.center).map(|(x, c)| round(x.to_f32() - c)).collect();
        let norm = x.iter().map(|x| x * x).sum::<f32>().sqrt();
        results[0].extend(x.iter().map(|x| f64::from(round(x / norm.max(EPS)))));
        results[1].push(f64::from(norm));
    }
    results
}

/// Runs the operation; with `capture`, also returns the names of its kernels.
fn run<T: ModelFloat>(device: &Device, data: &Data<T>, capture: bool) -> (Results, Vec<String>) {
    let (count, columns) = (data.rows.len(), data.columns);
    let (input, rows) = (device.upload(&data.input).unwrap(), device.upload(&data.rows).unwrap());
    let center = device.upload(&data.center).unwrap();
    let (mut output, mut norms): (Buffer<T>, Buffer<f32>) =
        (device.zeros(count * columns).unwrap(), device.zeros(count).unwrap());
    let arguments = SentenceVectors {
        input: input.matrix(INPUT_ROWS, columns).unwrap(),
        rows: rows.view(),
        center: center.view(),
        eps: EPS,
        output: output.matrix_mut(count, columns).unwrap(),
        norms: norms.view_mut(),
    };
    let kernels = run_on(device, capture, |stream| sentence_vectors(stream, arguments));
    ([widened(&output.read().unwrap()), widened(&norms.read().unwrap())], kernels)
}

/// Names the operation's kernel by launching it.
pub fn kernels<T: ModelFloat>(device: &Device) -> Vec<String> {
    run(device, &Data::<T>::new(5, 24, 1.0), true).1
}

#[test]
fn matches_the_reference() {
    fn check<T: ModelFloat>(device: &Device, [count, columns]: [usize; 2], scale: f64) {
        let data = Data::<T>::new(count, columns, scale);
        let [output, norms] = run(device, &data, false).0;
        let ([exact_output, exact_norms], [naive_output, naive_norms]) = (exact(&data), naive(&data));
        let what = |array| format!("{array} of {count} × {columns}, scale {scale}");
        assert_close::<T>(&what("output"), &output, &naive_output, &exact_output);
        assert_close::<f32>(&what("norms"), &norms, &naive_norms, &exact_norms);
    }
    for device in devices() {
        for shape in [[0, 16], [1, 8], [5, 24], [33, 128], [17, 264], [9, 768], [3, 1024]] {
            for scale in [1.0, 1e-6, 1e6] {
                check::<f32>(&device, shape, scale);
                check::<bf16>(&device, shape, scale);
            }
        }
    }
}

#[test]
fn the_order_of_threads_changes_no_bit() {
    fn check<T: ModelFloat>(devices: &[Device]) {
        let data = Data::<T>::new(20, 768, 1.0);
        let all = devices.iter().map(|device| run(device, &data, false).0);
        all.reduce(|one, other| {
            assert_eq!(one, other);
            one
        });
    }
    check::<f32>(&devices());
    check::<bf16>(&devices());
}

/// Rows that are not in the input, and one that holds a NaN, are NaN; all others are as if these were not there.
#[test]
fn rows_out_of_range_are_nan_and_disturb_no_other() {
    fn check<T: ModelFloat>(device: &Device, seed: u64) {
        let columns = 24;
        let mut data = Data::<T>::new(60, columns, 1.0);
        let [clean, clean_norms] = run(device, &data, false).0;
        let (rows, poisoned) = (data.rows.clone(), 7);
        data.input[poisoned * columns + 20] = T::from_f32(f32::NAN);
        for (i, &value) in garbage(seed, 60, INPUT_ROWS).iter().enumerate().step_by(2) {
            data.rows[i] = value;
        }
        let [output, norms] = run(device, &data, false).0;
        for (i, (&before, &row)) in rows.iter().zip(&data.rows).enumerate() {
            let own = i * columns..(i + 1) * columns;
            let valid = usize::try_from(row).is_ok_and(|row| row < INPUT_ROWS && row != poisoned);
            if !valid {
                assert!(output[own].iter().all(|value| value.is_nan()) && norms[i].is_nan(), "row {row}");
            } else if row == before {
                assert_eq!((&output[own.clone()], norms[i]), (&clean[own], clean_norms[i]), "row {row}");
            }
        }
    }
    for device in devices() {
        for seed in 0..8 {
            check::<f32>(&device, seed);
            check::<bf16>(&device, seed);
        }
    }
}

#[test]
fn the_center_itself_gives_zeros() {
    for device in devices() {
        let mut data = Data::<f32>::new(4, 40, 1.0);
        for row in data.input.chunks_mut(40) {
            row.copy_from_slice(&data.center);
        }
        assert_eq!(run(&device, &data, false).0, [vec![0.0; 4 * 40], vec![0.0; 4]]);
    }
}

/// Sizes of a call, and its eps.
#[derive(Clone, Copy)]
struct Sizes {
    columns: usize,
    center: usize,
    output_rows: usize,
    norms: usize,
    eps: f32,
}

#[test]
fn wrong_arguments_are_refused() {
    const RIGHT: Sizes = Sizes { columns: 16, center: 16, output_rows: 3, norms: 3, eps: EPS };
    let device = &devices()[0];
    let (floats, rows) = (device.zeros::<f32>(4096).unwrap(), device.zeros::<i32>(3).unwrap());
    let refuse = |sizes: Sizes| {
        let Sizes { columns, center, output_rows, norms, eps } = sizes;
        let (mut outputs, mut all_norms) =
            (device.zeros::<f32>(output_rows * columns).unwrap(), device.zeros::<f32>(norms).unwrap());
        let arguments = SentenceVectors {
            input: floats.slice(0..2 * columns).matrix(2, columns).unwrap(),
            rows: rows.view(),
            center: floats.slice(0..center),
            eps,
            output: outputs.matrix_mut(output_rows, columns).unwrap(),
            norms: all_norms.view_mut(),
        };
        sentence_vectors(&device.stream(), arguments).unwrap_err().to_string()
    };
    let cases = [
        (
            Sizes { columns: 12, ..RIGHT },
            "input is [2, 12]; it should be of a positive multiple of 8 columns",
        ),
        (Sizes { columns: 1032, ..RIGHT }, "input is [2, 1032]; it should be of at most 1024 columns"),
        (Sizes { center: 8, ..RIGHT }, "center is 8 elements long; it should be 16 (columns)"),
        (Sizes { output_rows: 2, ..RIGHT }, "output is [2, 16]; it should be [3, 16] (rows, columns)"),
        (Sizes { norms: 2, ..RIGHT }, "norms is 2 elements long; it should be 3 (rows)"),
        (Sizes { eps: 0.0, ..RIGHT }, "eps is 0; it should be positive and finite"),
    ];
    for (sizes, expected) in cases {
        assert_eq!(refuse(sizes), expected);
    }
}
