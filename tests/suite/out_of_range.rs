//! Whatever the index arrays of an operation hold, nothing beyond its arguments is read or written, and what is wrong shows. Attention has its own
//! tests of this.
//!
//! Buffers lie between guard pages, so that a kernel that leaves them ends in an error.

use retromae::device::{Buffer, Device, ModelFloat, Stream, View, bf16};
use retromae::model::IGNORE_INDEX;
use retromae::ops::bag_of_words::{self, Algorithm};
use retromae::ops::cross_entropy::{MeanWeights, mean_weights};
use retromae::ops::embedding::{self, Embedding, Sentences, Source, Words};
use retromae::ops::group_by_key::{self, Keys, group_by_key};
use retromae::ops::masks::{self, Bank, Budget, Corruption, Replacement};
use retromae::ops::rows::{self, Gather, ScatterAdd};
use retromae::ops::segment_sum::{SegmentSum, segment_sum};
use retromae::ops::{self, rng_state};

use crate::common::{devices, garbage, rounded, values};

const COLUMNS: usize = 16;
/// Different garbage.
const ROUNDS: u64 = 8;

fn matrix<T: ModelFloat>(device: &Device, seed: u64, rows: usize) -> Buffer<T> {
    device.upload(&rounded::<T>(&values(seed, rows * COLUMNS))).unwrap()
}

/// A result before it is written.
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
            input: table.view(),
            rows: uploaded.view(),
            output: output.view_mut(),
            columns: COLUMNS,
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
        // Each row of the table once, and rows that it has not.
        let indices = [3, -1, 6, i32::MAX, 0, i32::MIN, 5, 7, 1 << 28];
        let (input, mut output) =
            (matrix::<f32>(&device, 1, indices.len()), stale::<f32>(&device, 6 * COLUMNS));
        let uploaded = device.upload(&indices).unwrap();
        let scatter = ScatterAdd {
            input: input.view(),
            rows: uploaded.view(),
            output: output.view_mut(),
            columns: COLUMNS,
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

/// The sum of a segment is NaN where its offsets or one of its indices are out of range; one for a row out of range goes nowhere.
#[test]
fn segments_out_of_range_are_nan() {
    const INPUT_ROWS: usize = 9;
    const OUTPUT_ROWS: usize = 40;
    fn check(device: &Device, seed: u64, indexed: bool) {
        let count = if indexed { 300 } else { INPUT_ROWS };
        let (indices, mut offsets) = (garbage(seed, count, INPUT_ROWS), garbage(seed + 1, 30, count + 1));
        // Some that rise, short and long.
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
        let arguments = SegmentSum {
            input: input.view(),
            indices: indexed.then(|| device_indices.view()),
            offsets: device_offsets.view(),
            rows: Some(device_rows.view()),
            output: output.view_mut(),
            columns: COLUMNS,
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
            let equal = (actual - expected).abs() < 1e-4 || (actual.is_nan() && expected.is_nan());
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

/// Rows whose key is none are of no segment that a table of the keys has a row for.
#[test]
fn keys_out_of_range_are_grouped_behind_all_others() {
    fn check(device: &Device, keys: &[i32], key_count: usize) {
        let segments = group_by_key::segments(keys.len(), key_count);
        let uploaded = device.upload(keys).unwrap();
        let [mut segment_keys, mut offsets, mut indices] =
            [segments, segments + 1, keys.len()].map(|length| device.upload(&vec![-7; length]).unwrap());
        let mut workspace = device.zeros::<u32>(group_by_key::workspace(keys.len())).unwrap();
        let arguments = Keys {
            keys: uploaded.view(),
            key_count,
            segment_keys: segment_keys.view_mut(),
            offsets: offsets.view_mut(),
            indices: indices.view_mut(),
        };
        group_by_key(&device.stream(), &mut [arguments], workspace.view_mut()).unwrap();
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

/// What the embeddings of one source are made of.
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

    fn embedding<'a>(&'a self, source: Source<'a, T>, slots: View<'a, i32>) -> Embedding<'a, T> {
        Embedding {
            source,
            slots,
            position: self.position.view(),
            token_type: self.token_type.view(),
            gamma: self.gamma.view(),
            beta: self.beta.view(),
            eps: 1e-6,
            dropout: None,
        }
    }
}

/// Output and gradient of the sum of table rows.
fn embed<T: ModelFloat>(
    device: &Device,
    tables: &Tables<T>,
    source: usize,
    arrays: [&[i32]; 3],
) -> [Vec<f32>; 2] {
    let tokens = arrays[0].len();
    let [ids, slots, sentences] = arrays.map(|array| device.upload(array).unwrap());
    let words = Words { ids: ids.view(), table: tables.word.view() };
    let vectors = Sentences { indices: sentences.view(), vectors: tables.vectors.view() };
    let source = match source {
        0 => Source::Word(words),
        1 => Source::Content(words, vectors),
        2 => Source::Query(vectors),
        _ => Source::QueryPosition(vectors),
    };
    let embedding = tables.embedding(source, slots.view());
    let stream = device.stream();
    let [mut output, mut d_sum] = [0, 1].map(|_| stale::<T>(device, tokens * COLUMNS));
    let [mut mean, mut rstd] = [0, 1].map(|_| stale::<f32>(device, tokens));
    let forward = embedding::Forward {
        embedding,
        output: output.view_mut(),
        mean: mean.view_mut(),
        rstd: rstd.view_mut(),
    };
    embedding::forward(&stream, forward).unwrap();
    let [mut d_gamma, mut d_beta] = [0, 1].map(|_| device.zeros::<f32>(COLUMNS).unwrap());
    let mut workspace = device.zeros::<f32>(embedding::backward_workspace(tokens, COLUMNS)).unwrap();
    let d_output = matrix::<T>(device, 7, tokens);
    let backward = embedding::Backward {
        embedding,
        mean: mean.view(),
        rstd: rstd.view(),
        d_output: d_output.view(),
        d_sum: d_sum.view_mut(),
        d_gamma: d_gamma.view_mut(),
        d_beta: d_beta.view_mut(),
        workspace: workspace.view_mut(),
    };
    embedding::backward(&stream, backward).unwrap();
    [output, d_sum].map(|buffer| buffer.read().unwrap().into_iter().map(T::to_f32).collect())
}

#[test]
fn tokens_out_of_range_are_embedded_as_nan() {
    const TOKENS: usize = 70;
    fn check<T: ModelFloat>(device: &Device, seed: u64) {
        let tables = Tables::<T>::new(device);
        let ids = garbage(seed, TOKENS, WORDS);
        let slots = garbage(seed + 1, TOKENS, POSITIONS);
        let sentences = garbage(seed + 2, TOKENS, VECTORS);
        let within = |array: &[i32], count| -> Vec<i32> {
            array.iter().map(|&v| if is_index(v, count) { v } else { 0 }).collect()
        };
        let valid = [within(&ids, WORDS), within(&slots, POSITIONS), within(&sentences, VECTORS)];
        for source in 0..4 {
            let expected = embed(device, &tables, source, [&valid[0], &valid[1], &valid[2]]);
            let actual = embed(device, &tables, source, [&ids, &slots, &sentences]);
            for token in 0..TOKENS {
                let is_first = source == 1 && slots[token] == 0;
                let content_fits = if source == 0 || (source == 1 && !is_first) {
                    is_index(ids[token], WORDS)
                } else {
                    is_index(sentences[token], VECTORS)
                };
                let fits = content_fits && is_index(slots[token], POSITIONS);
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

/// Losses and gradients of the hidden rows.
fn bag<T: ModelFloat>(
    device: &Device,
    algorithm: Algorithm,
    tokens: usize,
    [cu_seqlens, bag_offsets, bag_ids]: [&[i32]; 3],
) -> [Vec<f32>; 2] {
    const VOCABULARY: usize = 50;
    let sentences = cu_seqlens.len() - 1;
    let [hidden, weight] = [(1, tokens), (2, VOCABULARY)].map(|(seed, rows)| matrix::<T>(device, seed, rows));
    let bias = device.zeros::<f32>(VOCABULARY).unwrap();
    let ones = |count: usize| device.upload(&vec![1.0f32; count]).unwrap();
    let (bag_weights, sentence_weights) = (ones(bag_ids.len()), ones(sentences));
    let [cu_seqlens, bag_offsets, bag_ids] =
        [cu_seqlens, bag_offsets, bag_ids].map(|array| device.upload(array).unwrap());
    let (mut losses, mut d_hidden) = (stale::<f32>(device, sentences), stale::<T>(device, tokens * COLUMNS));
    let (mut d_weight, mut d_bias) =
        (stale::<f32>(device, VOCABULARY * COLUMNS), stale::<f32>(device, VOCABULARY));
    let bytes = bag_of_words::workspace(algorithm, T::DTYPE, sentences, 3, VOCABULARY);
    // Bytes of large slots.
    let mut workspace = device.upload(&vec![0x7fu8; bytes]).unwrap();
    let arguments = bag_of_words::ForwardBackward {
        hidden: hidden.view(),
        weight: weight.view(),
        bias: bias.view(),
        cu_seqlens: cu_seqlens.view(),
        bag_offsets: bag_offsets.view(),
        bag_ids: bag_ids.view(),
        bag_weights: bag_weights.view(),
        sentence_weights: sentence_weights.view(),
        losses: losses.view_mut(),
        d_hidden: d_hidden.view_mut(),
        d_weight: d_weight.view_mut(),
        d_bias: d_bias.view_mut(),
        algorithm,
        workspace: workspace.view_mut(),
        hidden_size: COLUMNS,
        first_slot: 1,
    };
    bag_of_words::forward_backward(&device.stream(), arguments).unwrap();
    let widen = |values: Vec<T>| values.into_iter().map(T::to_f32).collect();
    [losses.read().unwrap(), widen(d_hidden.read().unwrap())]
}

#[test]
fn bags_and_sentences_out_of_range_have_a_loss_of_nan() {
    fn check<T: ModelFloat>(device: &Device, algorithm: Algorithm) {
        let valid = bag::<T>(device, algorithm, 12, [&[0, 5, 12], &[0, 2, 4], &[3, 4, 5, 6]]);
        assert!(valid.iter().flatten().all(|value| value.is_finite()));
        // The second sentence leaves the pack, falls, or has a bag that does; the third begins before it ends.
        for (cu_seqlens, bag_offsets) in [
            ([0, 5, 90], [0, 2, 4]),
            ([0, 5, 3], [0, 2, 4]),
            ([0, 5, -1], [0, 2, 4]),
            ([0, 5, 12], [0, 2, 5]),
            ([0, 5, 12], [0, 2, 1]),
        ] {
            let [losses, d_hidden] =
                bag::<T>(device, algorithm, 12, [&cu_seqlens, &bag_offsets, &[3, 4, 5, 6]]);
            let what = format!("{cu_seqlens:?}, {bag_offsets:?}, {algorithm:?}");
            assert_eq!(losses[0], valid[0][0], "{what}");
            assert!(losses[1].is_nan(), "{what}: {losses:?}");
            assert_eq!(d_hidden[..3 * COLUMNS], valid[1][..3 * COLUMNS], "{what}");
            assert!(d_hidden[5 * COLUMNS..].iter().all(|&value| value == 0.0), "{what}");
        }
        for seed in 0..ROUNDS {
            let arrays = [garbage(seed, 9, 13), garbage(seed + 1, 9, 5), garbage(seed + 2, 4, 50)];
            bag::<T>(device, algorithm, 12, [&arrays[0], &arrays[1], &arrays[2]]);
        }
    }
    for device in devices() {
        check::<f32>(&device, Algorithm::Library);
        check::<bf16>(&device, Algorithm::Library);
        check::<bf16>(&device, Algorithm::Fused);
    }
}

/// A drawing of banks and inputs of encoder and decoder.
struct Drawing {
    tokens: usize,
    length_max: usize,
    cu_seqlens: Vec<i32>,
    bank_offsets: Vec<u32>,
    bits: usize,
    labelled_offsets: Vec<i32>,
    labelled: usize,
}

#[derive(Debug, PartialEq)]
struct Drawn {
    bits: Vec<u32>,
    bank_rows: Vec<u16>,
    input_ids: Vec<i32>,
    labelled_rows: Vec<i32>,
    targets: Vec<i32>,
    counts: Vec<i32>,
}

impl Drawing {
    fn new(lengths: &[i32]) -> Self {
        let budget = Budget::of(0.5);
        let mut cu_seqlens = vec![0];
        lengths.iter().for_each(|length| cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length));
        let bank_offsets = masks::bank_offsets(&cu_seqlens, 8).unwrap();
        let labelled_offsets = masks::labelled_offsets(&cu_seqlens, budget).unwrap();
        Self {
            tokens: cu_seqlens[lengths.len()] as usize,
            length_max: lengths.iter().copied().max().unwrap_or(1) as usize,
            bits: bank_offsets[lengths.len()] as usize,
            labelled: labelled_offsets[lengths.len()] as usize,
            cu_seqlens,
            bank_offsets,
            labelled_offsets,
        }
    }

    fn run(&self, device: &Device) -> Drawn {
        let sentences = self.cu_seqlens.len() - 1;
        let budget = Budget::of(0.5);
        let rng = device.upload(&rng_state(3, 4)).unwrap();
        let [cu_seqlens, labelled_offsets] =
            [&self.cu_seqlens, &self.labelled_offsets].map(|array| device.upload(array).unwrap());
        let bank_offsets = device.upload(&self.bank_offsets).unwrap();
        let indices = device.upload(&(0..sentences as u32).collect::<Vec<_>>()).unwrap();
        let word_starts = device.upload(&vec![u32::MAX; self.tokens.div_ceil(32)]).unwrap();
        let ids = device.upload(&(100..100 + self.tokens as i32).collect::<Vec<_>>()).unwrap();
        let mut bits = device.upload(&vec![7u32; self.bits]).unwrap();
        let mut bank_rows = device.upload(&vec![7u16; self.tokens]).unwrap();
        let mut workspace =
            device.zeros::<u16>(masks::bank_workspace(self.tokens, self.length_max, 8)).unwrap();
        let sevens = |count: usize| device.upload(&vec![7i32; count]).unwrap();
        let mut input_ids = sevens(self.tokens);
        let (mut labelled_rows, mut targets, mut counts) =
            (sevens(self.labelled), sevens(self.labelled), sevens(sentences));
        let sentences = masks::Sentences {
            rng: rng.view(),
            cu_seqlens: cu_seqlens.view(),
            indices: indices.view(),
            word_starts: word_starts.view(),
            tokens: self.tokens,
            length_max: self.length_max,
        };
        let bank = Bank {
            budget,
            rows_max: 8,
            offsets: bank_offsets.view(),
            bits: bits.view_mut(),
            rows: Some(bank_rows.view_mut()),
            workspace: workspace.view_mut(),
        };
        let corruption = Corruption {
            budget,
            replacement: Replacement::bert(4, 1000),
            ids: ids.view(),
            input_ids: input_ids.view_mut(),
            offsets: labelled_offsets.view(),
            labelled_rows: labelled_rows.view_mut(),
            targets: targets.view_mut(),
            counts: counts.view_mut(),
        };
        masks::draw(&device.stream(), sentences, Some(bank), Some(corruption), None).unwrap();
        Drawn {
            bits: bits.read().unwrap(),
            bank_rows: bank_rows.read().unwrap(),
            input_ids: input_ids.read().unwrap(),
            labelled_rows: labelled_rows.read().unwrap(),
            targets: targets.read().unwrap(),
            counts: counts.read().unwrap(),
        }
    }
}

#[test]
fn sentences_out_of_range_are_not_masked() {
    for device in devices() {
        let valid = Drawing::new(&[40, 30]).run(&device);
        for end in [90, 3, -1, i32::MAX] {
            let mut drawing = Drawing::new(&[40, 30]);
            drawing.cu_seqlens[2] = end;
            let actual = drawing.run(&device);
            assert_eq!(actual.input_ids[..40], valid.input_ids[..40], "to {end}");
            assert!(actual.input_ids[40..].iter().all(|&id| id == -1), "to {end}: {:?}", actual.input_ids);
            let own = drawing.labelled_offsets[1] as usize;
            assert_eq!(actual.labelled_rows[..own], valid.labelled_rows[..own], "to {end}");
            assert!(actual.labelled_rows[own..].iter().all(|&row| row == -1), "to {end}");
            assert!(actual.targets[own..].iter().all(|&id| id == IGNORE_INDEX), "to {end}");
            assert_eq!(actual.counts, [valid.counts[0], 0], "to {end}");
        }
    }
}

/// Tokens behind the last sentence stay as they are.
#[test]
fn tokens_of_no_sentence_are_not_masked() {
    for device in devices() {
        let valid = Drawing::new(&[40, 30]).run(&device);
        let mut drawing = Drawing::new(&[40, 30]);
        drawing.tokens = 75;
        drawing.labelled += 3;
        let actual = drawing.run(&device);
        assert_eq!(actual.input_ids[..70], valid.input_ids);
        assert_eq!(actual.input_ids[70..], [170, 171, 172, 173, 174]);
        assert_eq!(actual.bank_rows[70..], [0; 5]);
        let labelled = valid.labelled_rows.len();
        assert_eq!(actual.labelled_rows[labelled..], [-1; 3]);
        assert_eq!(actual.targets[labelled..], [IGNORE_INDEX; 3]);
        assert_eq!((actual.bits, actual.counts), (valid.bits, valid.counts));
    }
}

#[test]
fn drawn_masks_stay_within_their_arguments() {
    for device in devices() {
        for lengths in [&[40, 30, 1, 9][..], &[1100, 50]] {
            for seed in 0..ROUNDS {
                let mut drawing = Drawing::new(lengths);
                let count = drawing.cu_seqlens.len();
                match seed % 4 {
                    0 => drawing.cu_seqlens = garbage(seed, count, drawing.tokens + 1),
                    1 => {
                        let draws = garbage(seed, count, drawing.bits);
                        drawing.bank_offsets = draws.into_iter().map(|draw| draw as u32).collect();
                    }
                    2 => drawing.labelled_offsets = garbage(seed, count, drawing.labelled),
                    // Too little room.
                    _ => (drawing.bits, drawing.labelled) = (drawing.bits / 2, drawing.labelled / 2),
                }
                drawing.run(&device);
            }
        }
    }
}

/// Counts are added up, whatever they are.
#[test]
fn garbage_counts_touch_nothing() {
    for device in devices() {
        let (labelled, counts) = (garbage(1, 300, 9), garbage(2, 50, 9));
        let [labelled, counts] = [labelled, counts].map(|array| device.upload(&array).unwrap());
        let mut row_weights = stale::<f32>(&device, 300);
        let arguments = MeanWeights {
            labelled_rows: labelled.view(),
            counts: counts.view(),
            row_weights: row_weights.view_mut(),
            weight: 1.0,
        };
        mean_weights(&device.stream(), arguments).unwrap();
        assert!(row_weights.read().unwrap().iter().all(|&weight| weight != 7.0));
    }
}

/// Every array that is accessed 16 bytes at a time is refused where it does not lie so.
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
    let (good, bad) = (floats.slice(0..32), floats.slice(1..33));

    let gather =
        Gather { input: bad, rows: indices.view(), output: output.slice_mut(0..32), columns: COLUMNS };
    assert_eq!(refused(rows::gather(stream, gather)), message("input"));
    let gather =
        Gather { input: good, rows: indices.view(), output: output.slice_mut(1..33), columns: COLUMNS };
    assert_eq!(refused(rows::gather(stream, gather)), message("output"));
    let sum = SegmentSum {
        input: bad,
        indices: None,
        offsets: indices.view(),
        rows: None,
        output: output.slice_mut(0..32),
        columns: COLUMNS,
    };
    assert_eq!(refused(segment_sum(stream, sum)), message("input"));
    let vector = |start: usize| floats.slice(start..start + COLUMNS);
    let mut gelu = |input, bias, start: usize| {
        let output = output.slice_mut(start..start + 32);
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
            bias: None,
            residual: None,
            gamma,
            beta,
            eps: 1e-6,
            dropout: None,
            output: output.slice_mut(start..start + 32),
            sum: None,
            mean: mean.view_mut(),
            rstd: rstd.view_mut(),
        };
        ops::layer_norm::forward(stream, forward)
    };
    assert_eq!(refused(norm(bad, vector(0), vector(0), 0)), message("input"));
    assert_eq!(refused(norm(good, vector(1), vector(0), 0)), message("gamma"));
    assert_eq!(refused(norm(good, vector(0), vector(1), 0)), message("beta"));
    assert_eq!(refused(norm(good, vector(0), vector(0), 1)), message("output"));
    let mut workspace = device.zeros::<f32>(8).unwrap();
    let sums = ops::column_sum::ColumnSum {
        input: bad,
        output: output.slice_mut(0..COLUMNS),
        accumulate: false,
        workspace: workspace.view_mut(),
    };
    assert_eq!(refused(ops::column_sum::column_sum(stream, sums)), message("input"));
}
