//! Segment sums against sums in f64.

use crate::common::{assert_close, devices, integers, prefix_sums, rounded, values, widened};
use approx::abs_diff_eq;
use retromae::device::{Device, ModelFloat, bf16};
use retromae::ops::segment_sum::{SegmentSum, Segments, segment_sum, workspace};

/// Empty, short and long segments, ordered so that a block gets several of each.
const LENGTHS: [usize; 19] = [0, 1, 2, 63, 64, 65, 200, 3, 0, 129, 5, 17, 1, 1, 700, 0, 4, 64, 33];
const INPUT_ROWS: usize = 90;

/// Checks a sum; `indexed`: rows of input and output by index; otherwise consecutive.
fn check<T: ModelFloat, O: ModelFloat>(device: &Device, lengths: &[usize], columns: usize, indexed: bool) {
    let (segments, offsets) = (lengths.len(), prefix_sums(lengths));
    let terms = offsets[segments] as usize;
    let input_rows = if indexed { INPUT_ROWS } else { terms };
    let indices: Vec<i32> =
        if indexed { integers(3, terms, INPUT_ROWS as u32) } else { (0..terms as i32).collect() };
    let output_rows = 2 * LENGTHS.len() + 1;
    let row = |segment: usize| if indexed { (segment * 5 + 2) % output_rows } else { segment };
    let rows: Vec<i32> = (0..segments).map(|segment| row(segment) as i32).collect();
    let input: Vec<T> = rounded(&values(1, input_rows * columns));
    let before: Vec<O> = rounded(&values(2, output_rows * columns));

    let mut exact = widened(&before);
    let mut naive: Vec<f32> = before.iter().map(|value| value.to_f32()).collect();
    for segment in 0..segments {
        for k in offsets[segment] as usize..offsets[segment + 1] as usize {
            for c in 0..columns {
                let value = input[indices[k] as usize * columns + c].to_f32();
                let place = row(segment) * columns + c;
                exact[place] += f64::from(value);
                naive[place] += value;
            }
        }
    }
    let naive: Vec<f64> = naive.iter().map(|&value| f64::from(O::from_f32(value).to_f32())).collect();

    let (device_input, mut output) = (device.upload(&input).unwrap(), device.upload(&before).unwrap());
    let [offsets, indices, rows] = [&offsets, &indices, &rows].map(|array| device.upload(array).unwrap());
    let count = if indexed { terms } else { input_rows };
    // Bytes of a NaN.
    let mut scratch = device.upload(&vec![0xffu8; workspace(count, columns).bytes()]).unwrap();
    let arguments = SegmentSum {
        input: device_input.matrix(input_rows, columns).unwrap(),
        segments: Segments {
            offsets: offsets.view(),
            indices: indexed.then(|| indices.view()),
            keys: indexed.then(|| rows.view()),
        },
        output: output.matrix_mut(output_rows, columns).unwrap(),
        workspace: scratch.view_mut(),
    };
    segment_sum(&device.stream(), arguments).unwrap();
    let what = format!("{segments} segments × {columns}, indexed {indexed}");
    assert_close::<O>(&what, &widened(&output.read().unwrap()), &naive, &exact);
}

#[test]
fn matches_f64_sums() {
    for device in devices() {
        for (segments, columns) in [(0, 8), (1, 8), (4, 16), (8, 264), (9, 128), (19, 32), (19, 768)] {
            for indexed in [false, true] {
                check::<f32, f32>(&device, &LENGTHS[..segments], columns, indexed);
                check::<bf16, f32>(&device, &LENGTHS[..segments], columns, indexed);
                check::<bf16, bf16>(&device, &LENGTHS[..segments], columns, indexed);
            }
        }
    }
}

/// Segments of many slices begin at a slice's start or within one, end at a slice's end or within one, adjacent to each other and apart.
#[test]
fn a_frequent_row_is_summed_by_many_blocks() {
    for device in devices() {
        for lengths in [&[64, 128, 2000, 63, 65, 5][..], &[1, 191, 64, 1000], &[30, 64, 70, 3000], &[4999]] {
            check::<f32, f32>(&device, lengths, 264, true);
            check::<bf16, f32>(&device, lengths, 264, true);
        }
    }
}

/// If offsets fall, the partial sums of a long segment may not be found; another segment's are never taken instead.
#[test]
fn a_long_segment_among_falling_offsets_is_right_or_nan() {
    const ROWS: usize = 1000;
    for device in devices() {
        let input: Vec<f32> = rounded(&values(1, ROWS * 8));
        for seed in 0..20 {
            let offsets: Vec<i32> = integers(seed, 40, ROWS as u32);
            let segments = offsets.len() - 1;
            let (input_view, offset_array) =
                (device.upload(&input).unwrap(), device.upload(&offsets).unwrap());
            let mut output = device.zeros::<f32>(segments * 8).unwrap();
            let mut scratch = workspace(ROWS, 8).allocate(&device).unwrap();
            let arguments = SegmentSum {
                input: input_view.matrix(ROWS, 8).unwrap(),
                segments: Segments::consecutive(offset_array.view()),
                output: output.matrix_mut(segments, 8).unwrap(),
                workspace: scratch.view_mut(),
            };
            segment_sum(&device.stream(), arguments).unwrap();
            let output = output.read().unwrap();
            for (segment, pair) in offsets.windows(2).enumerate() {
                let sum: f64 = (pair[0]..pair[1]).map(|row| f64::from(input[row as usize * 8])).sum();
                let actual = output[segment * 8];
                let nan_is_allowed = pair[0] > pair[1] || pair[1] - pair[0] >= 64;
                let close = abs_diff_eq!(f64::from(actual), sum, epsilon = 1e-3);
                assert!(
                    if actual.is_nan() { nan_is_allowed } else { close },
                    "{pair:?}: {actual}, not {sum}"
                );
            }
        }
    }
}

#[test]
fn the_workspace_never_shrinks() {
    assert!((0..5000).all(|count| workspace(count, 64) <= workspace(count + 1, 64)));
    assert!((0..500).all(|columns| workspace(300, columns) <= workspace(300, columns + 1)));
}

#[test]
fn wrong_shapes_are_refused() {
    let device = &devices()[0];
    let input = device.zeros::<f32>(64 * 8).unwrap();
    let offsets = device.zeros::<i32>(3).unwrap();
    let refuse = |input_shape: [usize; 2], output_shape: [usize; 2], offset_count: usize, keys| {
        let [input_length, output_length] = [input_shape, output_shape].map(|[rows, columns]| rows * columns);
        let mut output = device.zeros::<f32>(output_length).unwrap();
        let mut scratch = device.zeros(0).unwrap();
        let arguments = SegmentSum {
            input: input.slice(0..input_length).matrix(input_shape[0], input_shape[1]).unwrap(),
            segments: Segments {
                keys: Option::map(keys, |count| offsets.slice(0..count)),
                ..Segments::consecutive(offsets.slice(0..offset_count))
            },
            output: output.matrix_mut(output_shape[0], output_shape[1]).unwrap(),
            workspace: scratch.view_mut(),
        };
        segment_sum(&device.stream(), arguments).unwrap_err().to_string()
    };
    assert_eq!(
        refuse([2, 12], [2, 12], 3, None),
        "input is [2, 12]; it should be of a positive multiple of 8 columns"
    );
    assert_eq!(
        refuse([3, 8], [2, 16], 3, None),
        "output is [2, 16]; it should be [2, 8] (rows, columns of input)"
    );
    assert_eq!(
        refuse([2, 16], [2, 16], 0, None),
        "segments.offsets is empty; it should be one element longer than the number of segments"
    );
    assert_eq!(refuse([2, 16], [1, 16], 3, None), "output is 1 rows; it should be at least 2 (segments)");
    assert_eq!(refuse([64, 8], [2, 8], 3, None), "workspace is 0 bytes long; it should be at least 80 bytes");
    assert_eq!(
        refuse([2, 16], [2, 16], 3, Some(1)),
        "segments.keys is 1 elements long; it should be 2 (segments)"
    );
    let mut output = device.zeros::<bf16>(32).unwrap();
    let mut scratch = device.zeros(0).unwrap();
    let arguments = SegmentSum {
        input: input.slice(0..32).rows_of(16).unwrap(),
        segments: Segments::consecutive(offsets.view()),
        output: output.matrix_mut(2, 16).unwrap(),
        workspace: scratch.view_mut(),
    };
    let refusal = segment_sum(&device.stream(), arguments).unwrap_err().to_string();
    assert_eq!(refusal, "output is bf16; it should be f32, as input");
}
