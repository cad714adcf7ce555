//! Gathering and scattering rows.

use crate::common::{devices, integers, rounded, values};
use retromae::device::{Device, MatrixMut, ModelFloat, bf16};
use retromae::ops::rows;

const TABLE_ROWS: usize = 150;

/// Returns `count` different rows of the table, out of order.
fn distinct(count: usize) -> Vec<i32> {
    (0..count).map(|i| (i * 7 + 3) as i32 % TABLE_ROWS as i32).collect()
}

fn check<T: ModelFloat + PartialEq>(device: &Device, count: usize, columns: usize) {
    let stream = device.stream();
    let table: Vec<T> = rounded(&values(1, TABLE_ROWS * columns));
    let device_table = device.upload(&table).unwrap();

    // Every fifth index is no row.
    let none = |(i, row): (usize, i32)| if i % 5 == 4 { -1 - row } else { row };
    let indices: Vec<i32> = integers(2, count, TABLE_ROWS as u32).into_iter().enumerate().map(none).collect();
    let device_indices = device.upload(&indices).unwrap();
    let mut output = device.zeros::<T>(count * columns).unwrap();
    let gather = rows::Gather {
        input: device_table.matrix(TABLE_ROWS, columns).unwrap(),
        rows: device_indices.view(),
        output: output.matrix_mut(count, columns).unwrap(),
    };
    rows::gather(&stream, gather).unwrap();
    let zeros = vec![T::from_f32(0.0); columns];
    let row = |&row: &i32| usize::try_from(row).map_or(&zeros[..], |row| &table[row * columns..][..columns]);
    let expected = indices.iter().map(row).collect::<Vec<_>>().concat();
    assert_eq!(output.read().unwrap(), expected, "gather of {count} × {columns}");

    let indices: Vec<i32> = distinct(count).into_iter().enumerate().map(none).collect();
    let device_indices = device.upload(&indices).unwrap();
    let added: Vec<T> = rounded(&values(3, count * columns));
    let (device_added, mut sums) = (device.upload(&added).unwrap(), device.upload(&table).unwrap());
    let scatter = rows::ScatterAdd {
        input: device_added.matrix(count, columns).unwrap(),
        rows: device_indices.view(),
        output: sums.matrix_mut(TABLE_ROWS, columns).unwrap(),
    };
    rows::scatter_add(&stream, scatter).unwrap();
    let mut expected = table;
    for (i, &row) in indices.iter().enumerate().filter(|&(_, &row)| row >= 0) {
        for c in 0..columns {
            let sum = &mut expected[row as usize * columns + c];
            *sum = T::from_f32(sum.to_f32() + added[i * columns + c].to_f32());
        }
    }
    // One addition and one rounding: the same bits.
    assert_eq!(sums.read().unwrap(), expected, "scatter of {count} × {columns}");
}

#[test]
fn rows_move_exactly() {
    for device in devices() {
        for (count, columns) in [(0, 8), (1, 8), (2, 16), (17, 1000), (33, 128), (129, 384), (2, 1024)] {
            check::<f32>(&device, count, columns);
            check::<bf16>(&device, count, columns);
        }
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let device = &devices()[0];
    let input = device.zeros::<f32>(96).unwrap();
    let indices = device.zeros::<i32>(2).unwrap();
    let refuse = |columns: usize, output_rows: usize, output_columns: usize| {
        let mut output = device.zeros::<f32>(output_rows * output_columns).unwrap();
        let arguments = rows::Gather {
            input: input.view().rows_of(columns).unwrap(),
            rows: indices.view(),
            output: output.matrix_mut(output_rows, output_columns).unwrap(),
        };
        rows::gather(&device.stream(), arguments).unwrap_err().to_string()
    };
    assert_eq!(refuse(12, 2, 12), "input is [8, 12]; it should be of a positive multiple of 8 columns");
    assert_eq!(refuse(16, 1, 16), "output is [1, 16]; it should be [2, 16] (rows, columns)");
    assert_eq!(refuse(16, 2, 8), "output is [2, 8]; it should be [2, 16] (rows, columns)");
    let mut output = device.zeros::<f32>(96).unwrap();
    let scatter = |output_columns: usize, output: MatrixMut<'_, f32>| {
        let input = input.slice(0..2 * output_columns).matrix(2, output_columns).unwrap();
        let arguments = rows::ScatterAdd { input, rows: indices.view(), output };
        rows::scatter_add(&device.stream(), arguments).unwrap_err().to_string()
    };
    let message = scatter(8, output.matrix_mut(6, 16).unwrap());
    assert_eq!(message, "input is [2, 8]; it should be [2, 16] (rows, columns)");
    let [left, _] = output.matrix_mut(6, 16).unwrap().split_columns();
    assert_eq!(
        scatter(8, left),
        "output is strided by 16 elements; it should be contiguous rows of 8 columns"
    );
}
