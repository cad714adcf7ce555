//! Column sums against sums in f64.

use crate::common::{assert_close, devices, rounded, values, widened};
use retromae::device::{Device, ModelFloat, bf16};
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
    assert_eq!(refuse(513 * 16, 16, 16), "workspace is 127 bytes long; it should be at least 128 bytes");
}
