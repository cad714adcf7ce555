//! Inputs that lie side by side, under the defaults of attention.

use retromae::device::{Device, Float, bf16, f16};
use retromae::ops::PackedBatch;
use retromae::ops::attention::{self, Attention, BackwardOptions};

use super::cases::{Case, Kind, Variant};
use super::passes::run;
use crate::cases::attention::Inputs;
use crate::common::{devices, widened};

/// Returns matrices of `columns` columns as one, row by row.
fn side_by_side<T: Copy>(columns: usize, matrices: &[&[T]]) -> Vec<T> {
    let rows = 0..matrices[0].len() / columns;
    let row = |i: usize| matrices.iter().flat_map(move |matrix| &matrix[i * columns..(i + 1) * columns]);
    rows.flat_map(row).copied().collect()
}

fn check<T: Float>(device: &Device) {
    let case = Case::new(&[5, 1, 70], 64, Kind::Full);
    let (tokens, columns) = (case.tokens(), case.columns());
    let operands = case.inputs::<T>();
    let expected = run(device, &case, &operands, Variant::Default);

    let Inputs { query, key, value, d_output } = &operands;
    let unused = &vec![T::from_f32(-3.0); tokens * columns][..];
    let upload = |matrices: &[&[T]]| device.upload(&side_by_side(columns, matrices)).unwrap();
    let (inputs, d_outputs) = (upload(&[query, key, value]), upload(&[unused, d_output]));
    let (mut outputs, mut gradients) = (upload(&[unused; 2]), upload(&[unused; 3]));
    let mut log_sum_exp = device.zeros(tokens).unwrap();
    let [query, key, value] = inputs.matrix(tokens, 3 * columns).unwrap().split_columns();

    let (stream, batch) = (device.stream(), PackedBatch::new(device, &case.lengths).unwrap());
    let attention = Attention::new(batch.view(), case.heads, case.head_dim);
    let [output, _] = outputs.matrix_mut(tokens, 2 * columns).unwrap().split_columns();
    let log_sum_exps = log_sum_exp.view_mut();
    let forward = attention::Forward { attention, query, key, value, output, log_sum_exp: log_sum_exps };
    attention::forward(&stream, forward).unwrap();
    let [output, _] = outputs.matrix(tokens, 2 * columns).unwrap().split_columns();
    let [_, d_output] = d_outputs.matrix(tokens, 2 * columns).unwrap().split_columns();
    let [d_query, d_key, d_value] = gradients.matrix_mut(tokens, 3 * columns).unwrap().split_columns();
    let backward = attention::Backward {
        attention,
        query,
        key,
        value,
        output,
        log_sum_exp: log_sum_exp.view(),
        d_output,
        d_query,
        d_key,
        d_value,
        options: BackwardOptions::default(),
    };
    attention::backward(&stream, backward).unwrap();

    let unused = widened(unused);
    let [d_query, d_key, d_value] = &expected.gradients;
    assert_eq!(widened(&outputs.read().unwrap()), side_by_side(columns, &[&expected.output, &unused]));
    assert_eq!(widened(&log_sum_exp.read().unwrap()), expected.log_sum_exp);
    assert_eq!(widened(&gradients.read().unwrap()), side_by_side(columns, &[d_query, d_key, d_value]));
}

/// The results are those of separate operands whose scale is given, to the bit, and nothing between the rows is written.
#[test]
fn rows_of_packed_operands_are_read_and_written_in_place() {
    for device in devices() {
        check::<f32>(&device);
        check::<bf16>(&device);
        check::<f16>(&device);
    }
}
