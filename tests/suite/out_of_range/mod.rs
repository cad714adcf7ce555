//! Whatever the index arrays of an operation hold, no access leaves its arguments, and wrong input is visible in the results. Attention has its own
//! such tests.
//!
//! Buffers lie between guard pages, so that a kernel that leaves them ends in an error.

mod bags;
mod sampled_masks;

use approx::abs_diff_eq;
use retromae::device::{Buffer, Device, ModelFloat, Stream, View, bf16};
use retromae::ops;
use retromae::ops::cross_entropy::{MeanWeights, mean_weights};
use retromae::ops::embedding::{self, Embedding, Sentences, Source, Words};
use retromae::ops::group_by_key::{self, GroupByKey, Keys, group_by_key};
use retromae::ops::rows::{self, Gather, ScatterAdd};
use retromae::ops::segment_sum::{self, SegmentSum, Segments, segment_sum};

use crate::common::{devices, garbage, rounded, values};

const COLUMNS: usize = 16;
/// Rounds of different garbage.
const ROUNDS: u64 = 8;

fn matrix<T: ModelFloat>(device: &Device, seed: u64, rows: usize) -> Buffer<T> {
    device.upload(&rounded::<T>(&values(seed, rows * COLUMNS))).unwrap()
}

/// Returns a result buffer before it is written.
fn stale<T: ModelFloat>(device: &Device, elements: usize) -> Buffer<T> {
    device.upload(&vec![T::from_f32(7.0); elements]).unwrap()
}

fn row<T: Copy>(matrix: &[T], row: usize) -> &[T] {
    &matrix[row * COLUMNS..][..COLUMNS]
}

fn is_index(value: i32, count: usize) -> bool {
    usize::try_from(value).is_ok_and(|value| value < count)
}

#[test]
fn gathered_rows_beyond_the_last_are_nan() {
    fn check<T: ModelFloat + PartialEq>(device: &Device, seed: u64) {
        let (table, indices) = (matrix::<T>(device, 1, 6), garbage(seed, 40, 6));
        let (uploaded, mut output) = (device.upload(&indices).unwrap(), stale::<T>(device, 40 * COLUMNS));
        let gather = Gather {
            input: table.matrix(6, COLUMNS).unwrap(),
            rows: uploaded.view(),
            output: output.matrix_mut(40, COLUMNS).unwrap(),
        };
        rows::gather(&device.stream(), gather).unwrap();
        let (table, output) = (table.read().unwrap(), output.read().unwrap());
        for (i, &index) in indices.iter().enumerate() {
            let actual = row(&output, i);
            if is_index(index, 6) {
                assert!(actual == row(&table, index as usize), "row {index}");
            } else if index < 0 {
                assert!(actual.iter().all(|value| value.to_f32() == 0.0), "row {index}");
            } else {
                assert!(actual.iter().all(|value| value.to_f32().is_nan()), "row {index}");
            }
        }
    }
    for device in devices() {
        for seed in 0..ROUNDS {
            check::<f32>(&device, seed);
            check::<bf16>(&device, seed);
        }
    }
}

#[test]
fn rows_scattered_out_of_range_go_nowhere() {
    for device in devices() {
        // Each row of the table once, and rows outside the table.
        let indices = [3, -1, 6, i32::MAX, 0, i32::MIN, 5, 7, 1 << 28];
        let (input, mut output) =
            (matrix::<f32>(&device, 1, indices.len()), stale::<f32>(&device, 6 * COLUMNS));
        let uploaded = device.upload(&indices).unwrap();
        let scatter = ScatterAdd {
            input: input.matrix(indices.len(), COLUMNS).unwrap(),
            rows: uploaded.view(),
            output: output.matrix_mut(6, COLUMNS).unwrap(),
        };
        rows::scatter_add(&device.stream(), scatter).unwrap();
        let (input, output) = (input.read().unwrap(), output.read().unwrap());
        for target in 0..6 {
            let added = indices.iter().position(|&index| index == target).map(|i| row(&input, i).to_vec());
            let expected: Vec<f32> =
                added.unwrap_or(vec![0.0; COLUMNS]).iter().map(|value| 7.0 + value).collect();
            assert_eq!(row(&output, target as usize), expected, "row {target}");
        }
    }
}

/// The sum of a segment is NaN if its offsets or one of its indices are out of range; a sum for a row out of range is not written.
#[test]
fn segments_out_of_range_are_nan() {
    const INPUT_ROWS: usize = 9;
    const OUTPUT_ROWS: usize = 40;
    fn check(device: &Device, seed: u64, indexed: bool) {
        let count = if indexed { 300 } else { INPUT_ROWS };
        let (indices, mut offsets) = (garbage(seed, count, INPUT_ROWS), garbage(seed + 1, 30, count + 1));
        // Some rising offsets, of short and long segments.
        offsets.extend([0, 3, 3, count as i32, count as i32 + 1]);
        let segments = offsets.len() - 1;
        // No row twice.
        let mut rows: Vec<i32> = (0..segments as i32).map(|s| (s * 7) % OUTPUT_ROWS as i32).collect();
        rows[2] = -1;
        rows[5] = OUTPUT_ROWS as i32;
        rows[9] = i32::MAX;
        let input = matrix::<f32>(device, 1, INPUT_ROWS);
        let mut output = stale::<f32>(device, OUTPUT_ROWS * COLUMNS);
        let [device_indices, device_offsets, device_rows] =
            [&indices, &offsets, &rows].map(|array| device.upload(array).unwrap());
        let mut workspace = segment_sum::workspace(count, COLUMNS).allocate(device).unwrap();
        let arguments = SegmentSum {
            input: input.matrix(INPUT_ROWS, COLUMNS).unwrap(),
            segments: Segments {
                offsets: device_offsets.view(),
                indices: indexed.then(|| device_indices.view()),
                keys: Some(device_rows.view()),
            },
            output: output.matrix_mut(OUTPUT_ROWS, COLUMNS).unwrap(),
            workspace: workspace.view_mut(),
        };
        segment_sum(&device.stream(), arguments).unwrap();
        let (input, output) = (input.read().unwrap(), output.read().unwrap());
        let mut expected = vec![7.0f64; OUTPUT_ROWS];
        for (segment, pair) in offsets.windows(2).enumerate().filter(|&(s, _)| is_index(rows[s], OUTPUT_ROWS))
        {
            let sum = &mut expected[rows[segment] as usize];
            if !(0 <= pair[0] && pair[0] <= pair[1] && pair[1] as usize <= count) {
                *sum = f64::NAN;
                continue;
            }
            for k in pair[0]..pair[1] {
                let index = if indexed { indices[k as usize] } else { k };
                *sum += if is_index(index, INPUT_ROWS) {
                    f64::from(input[index as usize * COLUMNS])
                } else {
                    f64::NAN
                };
            }
        }
        for (target, expected) in expected.iter().enumerate() {
            let actual = f64::from(output[target * COLUMNS]);
            let equal =
                abs_diff_eq!(actual, *expected, epsilon = 1e-4) || (actual.is_nan() && expected.is_nan());
            assert!(equal, "row {target}: {actual} for {expected}");
        }
    }
    for device in devices() {
        for seed in 0..ROUNDS {
            check(&device, 10 * seed, true);
            check(&device, 10 * seed, false);
        }
    }
}

/// Rows with an invalid key belong to no segment of a table's row.
#[test]
fn keys_out_of_range_are_grouped_behind_all_others() {
    fn check(device: &Device, keys: &[i32], key_count: usize) {
        let segments = group_by_key::segments(keys.len(), key_count);
        let uploaded = device.upload(keys).unwrap();
        let [mut segment_keys, mut offsets, mut indices] =
            [segments, segments + 1, keys.len()].map(|length| device.upload(&vec![-7; length]).unwrap());
        let mut workspace = group_by_key::workspace(1, keys.len()).allocate(device).unwrap();
        let arguments = Keys {
            keys: uploaded.view(),
            key_count,
            segment_keys: segment_keys.view_mut(),
            offsets: offsets.view_mut(),
            indices: indices.view_mut(),
        };
        group_by_key(
            &device.stream(),
            GroupByKey { arrays: &mut [arguments], workspace: workspace.view_mut() },
        )
        .unwrap();
        let [segment_keys, offsets, indices] =
            [segment_keys, offsets, indices].map(|buffer| buffer.read().unwrap());
        let mut sorted = indices.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..keys.len() as i32).collect::<Vec<_>>(), "each row once");
        let mut seen = vec![];
        for (segment, pair) in offsets.windows(2).enumerate() {
            assert!(0 <= pair[0] && pair[0] <= pair[1] && pair[1] as usize <= keys.len());
            let rows = &indices[pair[0] as usize..pair[1] as usize];
            let key = segment_keys[segment];
            if rows.is_empty() || !is_index(key, key_count) {
                continue;
            }
            let expected: Vec<i32> =
                (0..keys.len() as i32).filter(|&row| keys[row as usize] == key).collect();
            assert_eq!(rows, expected, "key {key}");
            seen.push(key);
        }
        let mut expected: Vec<i32> = keys.iter().copied().filter(|&key| is_index(key, key_count)).collect();
        expected.sort_unstable();
        expected.dedup();
        assert_eq!(seen, expected);
    }
    for device in devices() {
        for seed in 0..ROUNDS {
            for (rows, key_count) in [(3000, 200), (3000, 256), (40, 65_536), (2100, 1), (5, 9)] {
                check(&device, &garbage(seed, rows, key_count), key_count);
            }
        }
        check(&device, &[-1; 50], 3);
        check(&device, &[2, 1, 0, i32::MAX, 3], 3);
    }
}

/// Tables and index arrays of one source's embeddings.
struct Tables<T: ModelFloat> {
    word: Buffer<T>,
    position: Buffer<T>,
    token_type: Buffer<T>,
    vectors: Buffer<T>,
    gamma: Buffer<f32>,
    beta: Buffer<f32>,
}

const WORDS: usize = 11;
const POSITIONS: usize = 6;
const VECTORS: usize = 4;

impl<T: ModelFloat> Tables<T> {
    fn new(device: &Device) -> Self {
        Self {
            word: matrix(device, 1, WORDS),
            position: matrix(device, 2, POSITIONS),
            token_type: matrix(device, 3, 1),
            vectors: matrix(device, 4, VECTORS),
            gamma: matrix(device, 5, 1),
            beta: matrix(device, 6, 1),
        }
    }

    fn embedding<'a>(&'a self, source: Source<'a, T>, positions: View<'a, i32>) -> Embedding<'a, T> {
        Embedding {
            source,
            positions,
            position_table: self.position.matrix(POSITIONS, COLUMNS).unwrap(),
            token_type_table: self.token_type.matrix(1, COLUMNS).unwrap(),
            gamma: self.gamma.view(),
            beta: self.beta.view(),
            eps: 1e-6,
            dropout: None,
        }
    }
}

/// Computes output and gradient of the sum of table rows.
fn embed<T: ModelFloat>(
    device: &Device,
    tables: &Tables<T>,
    source: usize,
    arrays: [&[i32]; 3],
) -> [Vec<f32>; 2] {
    let tokens = arrays[0].len();
    let [ids, positions, sentences] = arrays.map(|array| device.upload(array).unwrap());
    let words = Words { ids: ids.view(), table: tables.word.matrix(WORDS, COLUMNS).unwrap() };
    let vectors =
        Sentences { indices: sentences.view(), vectors: tables.vectors.matrix(VECTORS, COLUMNS).unwrap() };
    let source = match source {
        0 => Source::Word(words),
        1 => Source::Content(words, vectors),
        2 => Source::Query(vectors),
        _ => Source::QueryPosition(vectors),
    };
    let embedding = tables.embedding(source, positions.view());
    let stream = device.stream();
    let [mut output, mut d_sum] = [0, 1].map(|_| stale::<T>(device, tokens * COLUMNS));
    let [mut mean, mut rstd] = [0, 1].map(|_| stale::<f32>(device, tokens));
    let forward = embedding::Forward {
        embedding,
        output: output.matrix_mut(tokens, COLUMNS).unwrap(),
        mean: mean.view_mut(),
        rstd: rstd.view_mut(),
    };
    embedding::forward(&stream, forward).unwrap();
    let [mut d_gamma, mut d_beta] = [0, 1].map(|_| device.zeros::<f32>(COLUMNS).unwrap());
    let mut workspace = embedding::sum::workspace(tokens, COLUMNS).allocate(device).unwrap();
    let d_output = matrix::<T>(device, 7, tokens);
    let backward = embedding::sum::Backward {
        embedding,
        mean: mean.view(),
        rstd: rstd.view(),
        d_output: d_output.matrix(tokens, COLUMNS).unwrap(),
        d_sum: d_sum.matrix_mut(tokens, COLUMNS).unwrap(),
        d_gamma: d_gamma.view_mut(),
        d_beta: d_beta.view_mut(),
        workspace: workspace.view_mut(),
    };
    embedding::sum::backward(&stream, backward).unwrap();
    [output, d_sum].map(|buffer| buffer.read().unwrap().into_iter().map(T::to_f32).collect())
}

#[test]
fn tokens_out_of_range_are_embedded_as_nan() {
    const TOKENS: usize = 70;
    fn check<T: ModelFloat>(device: &Device, seed: u64) {
        let tables = Tables::<T>::new(device);
        let ids = garbage(seed, TOKENS, WORDS);
        let positions = garbage(seed + 1, TOKENS, POSITIONS);
        let sentences = garbage(seed + 2, TOKENS, VECTORS);
        let within = |array: &[i32], count| -> Vec<i32> {
            array.iter().map(|&v| if is_index(v, count) { v } else { 0 }).collect()
        };
        let valid = [within(&ids, WORDS), within(&positions, POSITIONS), within(&sentences, VECTORS)];
        for source in 0..4 {
            let expected = embed(device, &tables, source, [&valid[0], &valid[1], &valid[2]]);
            let actual = embed(device, &tables, source, [&ids, &positions, &sentences]);
            for token in 0..TOKENS {
                let is_first = source == 1 && positions[token] == 0;
                let content_fits = if source == 0 || (source == 1 && !is_first) {
                    is_index(ids[token], WORDS)
                } else {
                    is_index(sentences[token], VECTORS)
                };
                let fits = content_fits && is_index(positions[token], POSITIONS);
                // The gradient of a sum without LayerNorm does not depend on it.
                let has_gradient = !is_first && source != 3;
                let what = format!("source {source}, token {token}");
                if fits {
                    assert_eq!(row(&actual[0], token), row(&expected[0], token), "{what}");
                    assert_eq!(row(&actual[1], token), row(&expected[1], token), "{what}");
                } else {
                    assert!(row(&actual[0], token).iter().all(|value| value.is_nan()), "{what}");
                    assert!(
                        !has_gradient || row(&actual[1], token).iter().all(|value| value.is_nan()),
                        "{what}"
                    );
                }
            }
        }
    }
    for device in devices() {
        for seed in 0..ROUNDS {
            check::<f32>(&device, 10 * seed);
            check::<bf16>(&device, 10 * seed);
        }
    }
}

/// Counts are added up, whatever their values.
#[test]
fn garbage_counts_touch_nothing() {
    for device in devices() {
        let (labeled, counts) = (garbage(1, 300, 9), garbage(2, 50, 9));
        let [labeled, counts] = [labeled, counts].map(|array| device.upload(&array).unwrap());
        let mut row_weights = stale::<f32>(&device, 300);
        let arguments = MeanWeights {
            labeled_rows: labeled.view(),
            counts: counts.view(),
            row_weights: row_weights.view_mut(),
            weight: 1.0,
        };
        mean_weights(&device.stream(), arguments).unwrap();
        assert!(row_weights.read().unwrap().iter().all(|&weight| weight != 7.0));
    }
}

/// Every array that is accessed 16 bytes at a time is refused if it is not aligned to 16 bytes.
#[test]
fn misaligned_arrays_are_refused() {
    let device = &devices()[0];
    let floats = device.zeros::<f32>(129).unwrap();
    let indices = device.zeros::<i32>(2).unwrap();
    let mut output = device.zeros::<f32>(129).unwrap();
    let message = |argument: &str| {
        format!("{argument} is at an address of 4 modulo 16 bytes; it should be aligned to 16 bytes")
    };
    let refused = |result: ops::Result<()>| result.unwrap_err().to_string();
    let stream: &Stream = &device.stream();
    let [good, bad] = [0, 1].map(|start| floats.slice(start..start + 32).rows_of(COLUMNS).unwrap());

    let (rows, dense) = (indices.view(), output.slice_mut(0..32).rows_of(COLUMNS).unwrap());
    let gather = Gather { input: bad, rows, output: dense };
    assert_eq!(refused(rows::gather(stream, gather)), message("input"));
    let shifted = output.slice_mut(1..33).rows_of(COLUMNS).unwrap();
    let gather = Gather { input: good, rows, output: shifted };
    assert_eq!(refused(rows::gather(stream, gather)), message("output"));
    let mut workspace = device.zeros(0).unwrap();
    let sum = SegmentSum {
        input: bad,
        segments: Segments::consecutive(indices.view()),
        output: output.slice_mut(0..32).rows_of(COLUMNS).unwrap(),
        workspace: workspace.view_mut(),
    };
    assert_eq!(refused(segment_sum(stream, sum)), message("input"));
    let vector = |start: usize| floats.slice(start..start + COLUMNS);
    let mut gelu = |input, bias, start: usize| {
        let output = output.slice_mut(start..start + 32).rows_of(COLUMNS).unwrap();
        ops::bias_gelu::forward(stream, ops::bias_gelu::Forward { input, bias, output })
    };
    assert_eq!(refused(gelu(bad, vector(0), 0)), message("input"));
    assert_eq!(refused(gelu(good, vector(1), 0)), message("bias"));
    assert_eq!(refused(gelu(good, vector(0), 1)), message("output"));
    let mut statistics = [0, 1].map(|_| device.zeros::<f32>(2).unwrap());
    let mut norm = |input, gamma, beta, start: usize| {
        let [mean, rstd] = &mut statistics;
        let forward = ops::layer_norm::Forward {
            input,
            gamma,
            beta,
            eps: 1e-6,
            output: output.slice_mut(start..start + 32).rows_of(COLUMNS).unwrap(),
            mean: mean.view_mut(),
            rstd: rstd.view_mut(),
            fused: ops::layer_norm::Fused::default(),
        };
        ops::layer_norm::forward(stream, forward)
    };
    assert_eq!(refused(norm(bad, vector(0), vector(0), 0)), message("input"));
    assert_eq!(refused(norm(good, vector(1), vector(0), 0)), message("gamma"));
    assert_eq!(refused(norm(good, vector(0), vector(1), 0)), message("beta"));
    assert_eq!(refused(norm(good, vector(0), vector(0), 1)), message("output"));
    let mut workspace = device.zeros(32).unwrap();
    let sums = ops::column_sum::ColumnSum {
        input: bad,
        output: output.slice_mut(0..COLUMNS),
        accumulate: false,
        workspace: workspace.view_mut(),
    };
    assert_eq!(refused(ops::column_sum::column_sum(stream, sums)), message("input"));
}
