//! Row weights of a mean: the weight divided by the number of rows.

use retromae::ops::cross_entropy::{MeanWeights, mean_weights};

use crate::common::devices;

#[test]
fn weights_make_a_mean_of_the_rows_that_there_are() {
    for device in devices() {
        // Whole and partial blocks, more sentences than threads, and none at all.
        for counts in [vec![3], vec![0, 2, 0, 5], vec![1; 700], vec![0, 0], vec![256; 3]] {
            // Each sentence has one unused row.
            let rows: Vec<i32> = counts.iter().flat_map(|&count| (0..count).chain([-1])).collect();
            let total: i32 = counts.iter().sum();
            let expected: Vec<f32> =
                rows.iter().map(|&row| if row < 0 { 0.0 } else { 0.75 / total as f32 }).collect();
            let (labeled_rows, counts) = (device.upload(&rows).unwrap(), device.upload(&counts).unwrap());
            let mut row_weights = device.upload(&vec![f32::NAN; rows.len()]).unwrap();
            let arguments = MeanWeights {
                labeled_rows: labeled_rows.view(),
                counts: counts.view(),
                row_weights: row_weights.view_mut(),
                weight: 0.75,
            };
            mean_weights(&device.stream(), arguments).unwrap();
            assert_eq!(row_weights.read().unwrap(), expected);
        }
    }
}

#[test]
fn weights_are_as_many_as_rows() {
    let device = &devices()[0];
    let (rows, counts) = (device.upload(&[1, 2]).unwrap(), device.upload(&[2]).unwrap());
    let mut row_weights = device.zeros::<f32>(3).unwrap();
    let arguments = MeanWeights {
        labeled_rows: rows.view(),
        counts: counts.view(),
        row_weights: row_weights.view_mut(),
        weight: 1.0,
    };
    let refusal = mean_weights(&device.stream(), arguments).unwrap_err().to_string();
    assert_eq!(refusal, "row_weights is 3 elements long; it should be 2 (as labeled_rows)");
}
