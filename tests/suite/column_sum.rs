//! Column sums against sums in f64.

use crate::common::{assert_close, devices, rounded, values, widened};
use retromae::device::{Device, Matrix, ModelFloat, bf16};
use retromae::ops::column_sum::{ColumnSum, column_sum, workspace};

fn check<T: ModelFloat>(device: &Device, rows: usize, columns: usize, accumulate: bool) {
    let input: Vec<T> = rounded(&values(1, rows * columns));
    let before: Vec<f32> = rounded(&values(2, columns));
    let start = |c: usize| if accumulate { before[c] } else { 0.0 };
    let column = |c: usize| (0..rows).map(move |row| row * columns + c);
    let exact: Vec<f64> = (0..columns)
        .map(|c| f64::from(start(c)) + column(c).map(|i| f64::from(input[i].to_f32())).sum::<f64>())
        .collect();
    let naive: Vec<f64> = (0..columns)
        .map(|c| f64::from(column(c).map(|i| input[i].to_f32()).fold(start(c), |sum, x| sum + x)))
        .collect();

    let device_input = device.upload(&input).unwrap();
    let mut output = device.upload(&before).unwrap();
    let mut scratch = workspace(rows, columns).allocate(device).unwrap();
    let arguments = ColumnSum {
        input: device_input.matrix(rows, columns).unwrap(),
        output: output.view_mut(),
        accumulate,
        workspace: scratch.view_mut(),
    };
    column_sum(&device.stream(), arguments).unwrap();
    let what = format!("{rows} × {columns}, accumulate {accumulate}");
    // The result is f32 for every input type.
    assert_close::<f32>(&what, &widened(&output.read().unwrap()), &naive, &exact);
}

#[test]
fn matches_f64_sums() {
    for device in devices() {
        let shapes =
            [(0, 8), (1, 8), (2, 16), (17, 128), (33, 136), (128, 32), (129, 384), (300, 768), (1000, 24)];
        for (rows, columns) in shapes {
            for accumulate in [false, true] {
                check::<f32>(&device, rows, columns, accumulate);
                check::<bf16>(&device, rows, columns, accumulate);
            }
        }
    }
}

/// The columns of one of several matrices side by side; the others are NaN.
fn check_strided<T: ModelFloat>(device: &Device, rows: usize, matrices: usize, own: usize) {
    const COLUMNS: usize = 72;
    let values: Vec<T> = rounded(&values(1, rows * COLUMNS));
    let mut wide = vec![T::from_f32(f32::NAN); rows * matrices * COLUMNS];
    for (row, values) in values.chunks(COLUMNS).enumerate() {
        wide[(row * matrices + own) * COLUMNS..][..COLUMNS].copy_from_slice(values);
    }
    let sums = |input: Matrix<'_, T>| {
        let mut output = device.zeros::<f32>(COLUMNS).unwrap();
        let mut scratch = workspace(rows, COLUMNS).allocate(device).unwrap();
        let (output_view, workspace) = (output.view_mut(), scratch.view_mut());
        let arguments = ColumnSum { input, output: output_view, accumulate: false, workspace };
        column_sum(&device.stream(), arguments).unwrap();
        output.read().unwrap()
    };
    let [dense, wide] = [&values, &wide].map(|values| device.upload(values).unwrap());
    let strided = wide.matrix(rows, matrices * COLUMNS).unwrap();
    let strided = strided.slice_columns(own * COLUMNS..(own + 1) * COLUMNS);
    // The same sums in the same order.
    assert_eq!(sums(strided), sums(dense.matrix(rows, COLUMNS).unwrap()), "{own} of {matrices}");
}

#[test]
fn rows_may_be_strided() {
    for device in devices() {
        for (rows, matrices, own) in [(1, 3, 0), (17, 3, 1), (1000, 3, 2), (1500, 7, 5)] {
            check_strided::<f32>(&device, rows, matrices, own);
            check_strided::<bf16>(&device, rows, matrices, own);
        }
    }
}

#[test]
fn the_workspace_never_shrinks() {
    assert!((0..5000).all(|rows| workspace(rows, 64) <= workspace(rows + 1, 64)));
    assert!((0..500).all(|columns| workspace(300, columns) <= workspace(300, columns + 1)));
}

#[test]
fn wrong_shapes_are_refused() {
    let device = &devices()[0];
    let input = device.zeros::<f32>(513 * 16).unwrap();
    let refuse = |input_length: usize, columns: usize, outputs: usize| {
        let mut output = device.zeros::<f32>(outputs).unwrap();
        let mut scratch = device.zeros::<u8>(127).unwrap();
        let arguments = ColumnSum {
            input: input.slice(0..input_length).rows_of(columns).unwrap(),
            output: output.view_mut(),
            accumulate: true,
            workspace: scratch.view_mut(),
        };
        column_sum(&device.stream(), arguments).unwrap_err().to_string()
    };
    assert_eq!(refuse(24, 12, 12), "input is [2, 12]; it should be of a positive multiple of 8 columns");
    assert_eq!(refuse(32, 16, 24), "output is 24 elements long; it should be 16 (columns)");
    let mut output = device.zeros::<f32>(8).unwrap();
    let mut scratch = device.zeros::<u8>(0).unwrap();
    let arguments = ColumnSum {
        input: input.view().strided(2, 8, 12).unwrap(),
        output: output.view_mut(),
        accumulate: false,
        workspace: scratch.view_mut(),
    };
    let message = column_sum(&device.stream(), arguments).unwrap_err().to_string();
    assert_eq!(
        message,
        "input is strided by 12 elements; it should be strided by a multiple of 8 below 2^32"
    );
    assert_eq!(refuse(513 * 16, 16, 16), "workspace is 127 bytes long; it should be at least 128 bytes");
}
