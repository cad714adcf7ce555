//! The benches' baseline, composed of plain kernels and matmuls of the GEMM backend, agrees with the fused operations.
//!
//! The two sides round intermediates at different points, so they agree up to a few roundings of the largest value.

mod step;
#[path = "../../../benches/baseline/mod.rs"]
mod unfused;

use retromae::device::{Buffer, DType, Device, ModelFloat, Stream, bf16};
use retromae::model::MaskPool;
use retromae::model::PoolRows;
use retromae::ops::PackedBatch;
use retromae::ops::attention::{self, Attention, BackwardOptions, Mask};
use retromae::ops::cross_entropy::{self, Algorithm};
use retromae::ops::segment_sum::{self, SegmentSum, Segments, segment_sum};
use retromae::ops::{adamw, layer_norm};
use retromae::reference::mask::{MaskCountLimit, MaskedSentence, mask_pool};
use unfused::attention::Shape;

use crate::common::{devices, integers, rounded, values};

/// Up to 1040 tokens, so that a row of scores may take a block of threads.
const PACKS: [&[usize]; 4] = [&[16, 16, 16], &[1, 2, 17, 40, 33], &[130, 7, 256], &[1040, 3]];
const DROPOUT: f32 = 0.1;

fn upload<T: ModelFloat>(device: &Device, seed: u64, count: usize) -> Buffer<T> {
    device.upload(&rounded::<T>(&values(seed, count))).unwrap()
}

fn floats(seed: u64, count: usize) -> Vec<f32> {
    rounded(&values(seed, count))
}

#[track_caller]
fn assert_same<T: ModelFloat>(what: &str, actual: &Buffer<T>, expected: &Buffer<T>) {
    let widen = |buffer: &Buffer<T>| buffer.read().unwrap().into_iter().map(T::to_f32).collect::<Vec<f32>>();
    let (actual, expected) = (widen(actual), widen(expected));
    assert_eq!(actual.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f32, |max, value| max.max(value.abs()));
    let allowed = largest * if T::DTYPE == DType::F32 { 2e-5 } else { 3e-2 };
    assert!(largest > 0.0, "{what}: nothing but zeros");
    for (i, (a, e)) in actual.iter().zip(&expected).enumerate() {
        assert!((a - e).abs() <= allowed, "{what} ({}): element {i} is {a}, not {e}", T::DTYPE.name());
    }
}

fn pool(lengths: &[usize]) -> MaskPool {
    let starts: Vec<Vec<bool>> = lengths.iter().map(|&length| vec![true; length]).collect();
    let sentence = |(index, word_starts)| MaskedSentence { index: index as u32, word_starts };
    let sentences: Vec<_> = starts.iter().map(Vec::as_slice).enumerate().map(sentence).collect();
    mask_pool(5, 1, &sentences, MaskCountLimit { ratio: 0.5, cap: None }, PoolRows::AtMost(128))
}

fn attention_agrees<T: ModelFloat>(
    stream: &Stream,
    lengths: &[usize],
    head_dim: usize,
    masked: bool,
    drops: bool,
) {
    const HEADS: usize = 2;
    let device = stream.device();
    let (tokens, columns) = (lengths.iter().sum::<usize>(), HEADS * head_dim);
    let [query, key, value, d_output] = [1, 2, 3, 4].map(|seed| upload::<T>(device, seed, tokens * columns));
    let pool = masked.then(|| pool(lengths));
    let shape = Shape { lengths: lengths.to_vec(), num_heads: HEADS, head_dim };
    let dropout = || unfused::Dropout::new(stream, shape.score_elements(), DROPOUT, 8).unwrap();
    let place = drops.then(dropout);
    let fused_place = drops.then(dropout);
    let mut plain = unfused::attention::Attention::new(stream, shape, pool.as_ref(), place).unwrap();
    let zeros = || device.zeros::<T>(tokens * columns).unwrap();
    let (mut output, [mut d_query, mut d_key, mut d_value]) = (zeros(), [zeros(), zeros(), zeros()]);
    let rows = |buffer| Buffer::matrix(buffer, tokens, columns).unwrap();
    let rows_mut = |buffer| Buffer::matrix_mut(buffer, tokens, columns).unwrap();
    plain.forward(stream, [&query, &key, &value].map(rows), rows_mut(&mut output)).unwrap();
    let d_inputs = [&mut d_query, &mut d_key, &mut d_value].map(rows_mut);
    plain.backward(stream, rows(&d_output), d_inputs).unwrap();

    let batch = PackedBatch::new(device, lengths).unwrap();
    let uploaded = pool.map(|pool| {
        let [bits, offsets] = [&pool.bits, &pool.offsets].map(|words| device.upload(words).unwrap());
        (bits, offsets, device.upload(&pool.rows).unwrap())
    });
    let mask = uploaded.as_ref().map_or(Mask::Full, |(bits, offsets, rows)| Mask::Pool {
        bits: bits.view(),
        offsets: offsets.view(),
        rows: rows.view(),
    });
    let attention = Attention::new(batch.view(), HEADS, head_dim)
        .mask(mask)
        .dropout(fused_place.as_ref().map(unfused::Dropout::fused));
    let (mut fused_output, mut fused) = (zeros(), [zeros(), zeros(), zeros()]);
    let mut log_sum_exp = device.zeros(tokens * HEADS).unwrap();
    let forward = attention::Forward {
        attention,
        query: rows(&query),
        key: rows(&key),
        value: rows(&value),
        output: fused_output.matrix_mut(tokens, columns).unwrap(),
        log_sum_exp: log_sum_exp.view_mut(),
    };
    attention::forward(stream, forward).unwrap();
    let [fused_query, fused_key, fused_value] = fused.each_mut().map(rows_mut);
    let backward = attention::Backward {
        attention,
        query: rows(&query),
        key: rows(&key),
        value: rows(&value),
        output: rows(&fused_output),
        log_sum_exp: log_sum_exp.view(),
        d_output: rows(&d_output),
        d_query: fused_query,
        d_key: fused_key,
        d_value: fused_value,
        options: BackwardOptions::default(),
    };
    attention::backward(stream, backward).unwrap();
    let case = format!("{lengths:?}, d {head_dim}, masked {masked}, dropout {drops}");
    assert_same(&format!("output of {case}"), &output, &fused_output);
    for (what, plain, fused) in
        [("d_query", &d_query, &fused[0]), ("d_key", &d_key, &fused[1]), ("d_value", &d_value, &fused[2])]
    {
        assert_same(&format!("{what} of {case}"), plain, fused);
    }
}

#[test]
fn attention_computes_what_the_fused_kernels_do() {
    for device in devices() {
        let stream = device.stream();
        for (lengths, head_dim) in PACKS.into_iter().zip([96, 64, 128, 32]) {
            // On the emulator a long sentence takes seconds: its kernels differ only in the softmax.
            let long = lengths.iter().any(|&length| length > 1024);
            let kinds = [(true, false), (false, false), (true, true)];
            for &(masked, drops) in &kinds[..if long { 1 } else { 3 }] {
                attention_agrees::<f32>(&stream, lengths, head_dim, masked, drops);
                attention_agrees::<bf16>(&stream, lengths, head_dim, masked, drops);
            }
        }
    }
}

fn cross_entropy_agrees<T: ModelFloat>(stream: &Stream, rows: usize, vocabulary: usize) {
    const HIDDEN: usize = 24;
    let device = stream.device();
    let hidden = upload::<T>(device, 1, rows * HIDDEN);
    let weight: Vec<T> = rounded(&values(2, vocabulary * HIDDEN));
    let bias = floats(3, vocabulary);
    let mut targets = integers(4, rows, vocabulary as u32);
    targets[0] = -100;
    let row_weights: Vec<f32> = values(5, rows).into_iter().map(|value| value.abs() as f32).collect();
    let padded = unfused::cross_entropy::padded(vocabulary);
    let mut plain =
        unfused::cross_entropy::CrossEntropy::new(stream, HIDDEN, padded, &targets, &row_weights).unwrap();
    let (mut padded_weight, mut padded_bias) = (weight.clone(), bias.clone());
    padded_weight.resize(padded * HIDDEN, T::from_f32(0.0));
    padded_bias.resize(padded, f32::NEG_INFINITY);
    let (padded_weight, padded_bias) =
        (device.upload(&padded_weight).unwrap(), device.upload(&padded_bias).unwrap());
    let (mut plain_d_weight, mut plain_d_bias) =
        (device.zeros(padded * HIDDEN).unwrap(), device.zeros(padded).unwrap());
    let weights = unfused::cross_entropy::Weights { weight: padded_weight.view(), bias: padded_bias.view() };
    let gradients = unfused::cross_entropy::Gradients {
        weight: plain_d_weight.view_mut(),
        bias: plain_d_bias.view_mut(),
    };
    plain.forward_backward(stream, weights, hidden.view(), gradients).unwrap();

    let weight = device.upload(&weight).unwrap();
    let (bias, targets) = (device.upload(&bias).unwrap(), device.upload(&targets).unwrap());
    let row_weights = device.upload(&row_weights).unwrap();
    let needed = cross_entropy::workspace(Algorithm::Library, T::DTYPE, rows, HIDDEN, vocabulary);
    let mut d_hidden = device.zeros(hidden.len()).unwrap();
    let zeros = |count| device.zeros::<f32>(count).unwrap();
    let [mut losses, mut d_weight, mut d_bias] = [rows, weight.len(), vocabulary].map(zeros);
    let mut workspace = needed.allocate(device).unwrap();
    let arguments = cross_entropy::Forward {
        bias: Some(bias.view()),
        row_weights: Some(row_weights.view()),
        ..cross_entropy::Forward::new(
            hidden.matrix(rows, HIDDEN).unwrap(),
            weight.matrix(vocabulary, HIDDEN).unwrap(),
            targets.view(),
            losses.view_mut(),
            workspace.view_mut(),
        )
    };
    let gradients = cross_entropy::Gradients {
        d_hidden: Some(d_hidden.matrix_mut(rows, HIDDEN).unwrap()),
        d_weight: Some(d_weight.matrix_mut(vocabulary, HIDDEN).unwrap()),
        d_bias: Some(d_bias.view_mut()),
    };
    cross_entropy::forward_backward(stream, arguments, gradients).unwrap();
    let first = |buffer: &Buffer<f32>, count| {
        let values = buffer.read().unwrap();
        let rest_is_zero = values[count..].iter().all(|&value| value == 0.0);
        assert!(rest_is_zero, "the padding has a gradient");
        device.upload(&values[..count]).unwrap()
    };
    assert_same("d_hidden", &plain.d_hidden, &d_hidden);
    // Sums over rows of values rounded to T: compared with that precision.
    for (what, plain, fused) in [
        ("losses", first(&plain.losses, rows), losses),
        ("d_weight", first(&plain_d_weight, vocabulary * HIDDEN), d_weight),
        ("d_bias", first(&plain_d_bias, vocabulary), d_bias),
    ] {
        let round = |buffer: Buffer<f32>| {
            let rounded: Vec<T> = buffer.read().unwrap().into_iter().map(T::from_f32).collect();
            device.upload(&rounded).unwrap()
        };
        assert_same(what, &round(plain), &round(fused));
    }
}

#[test]
fn cross_entropy_computes_what_the_fused_operation_does() {
    for device in devices() {
        for (rows, vocabulary) in [(5, 40), (33, 1003), (3, 5000)] {
            cross_entropy_agrees::<f32>(&device.stream(), rows, vocabulary);
            cross_entropy_agrees::<bf16>(&device.stream(), rows, vocabulary);
        }
    }
}

fn layer_norm_agrees<T: ModelFloat>(stream: &Stream, rows: usize, columns: usize, whole: bool) {
    const EPS: f32 = 1e-12;
    let device = stream.device();
    let elements = rows * columns;
    let [input, residual, d_output] = [1, 2, 3].map(|seed| upload::<T>(device, seed, elements));
    let [bias, gamma, beta] = [4, 5, 6].map(|seed| floats(seed, columns));
    let dropout = || unfused::Dropout::new(stream, elements, DROPOUT, 9).unwrap();
    let place = whole.then(dropout);
    let [bias, gamma, beta] = [bias, gamma, beta].map(|values| device.upload(&values).unwrap());
    let plain_bias = whole.then(|| bias.view());
    let parameters =
        unfused::layer_norm::Parameters { bias: plain_bias, gamma: gamma.view(), beta: beta.view() };
    let mut plain = unfused::layer_norm::LayerNorm::new(stream, rows, columns, place, EPS).unwrap();
    plain.forward(stream, parameters, input.view(), whole.then(|| residual.view())).unwrap();
    plain.backward(stream, parameters, d_output.view()).unwrap();

    let matrix = || device.zeros::<T>(elements).unwrap();
    let floats = |count| device.zeros::<f32>(count).unwrap();
    let (mut output, mut sum, mut d_input, mut d_residual) = (matrix(), matrix(), matrix(), matrix());
    let (mut mean, mut rstd) = (floats(rows), floats(rows));
    let (mut d_parameters, mut d_bias) = (floats(2 * columns), floats(columns));
    let place = whole.then(dropout);
    let dropout = place.as_ref().map(unfused::Dropout::fused);
    let forward = layer_norm::Forward {
        input: input.matrix(rows, columns).unwrap(),
        gamma: gamma.view(),
        beta: beta.view(),
        eps: EPS,
        output: output.matrix_mut(rows, columns).unwrap(),
        mean: mean.view_mut(),
        rstd: rstd.view_mut(),
        fused: layer_norm::Fused {
            bias: whole.then(|| bias.view()),
            dropout,
            residual: whole.then(|| residual.matrix(rows, columns).unwrap()),
            sum: Some(sum.matrix_mut(rows, columns).unwrap()),
        },
    };
    layer_norm::forward(stream, forward).unwrap();
    let mut workspace = layer_norm::workspace(rows, columns).allocate(device).unwrap();
    let (d_gamma, d_beta) = d_parameters.view_mut().split_at(columns);
    let backward = layer_norm::Backward {
        d_output: d_output.matrix(rows, columns).unwrap(),
        sum: sum.matrix(rows, columns).unwrap(),
        mean: mean.view(),
        rstd: rstd.view(),
        gamma: gamma.view(),
        d_input: d_input.matrix_mut(rows, columns).unwrap(),
        d_gamma,
        d_beta,
        workspace: workspace.view_mut(),
        fused: layer_norm::FusedGradients {
            dropout,
            d_residual: Some(d_residual.matrix_mut(rows, columns).unwrap()),
            d_bias: whole.then(|| d_bias.view_mut()),
        },
    };
    layer_norm::backward(stream, backward).unwrap();
    assert_same("output", &plain.output, &output);
    assert_same("d_input", plain.d_input(), &d_input);
    assert_same("d_residual", &plain.d_residual, &d_residual);
    let round = |buffer: &Buffer<f32>| {
        let rounded: Vec<T> = buffer.read().unwrap().into_iter().map(T::from_f32).collect();
        device.upload(&rounded).unwrap()
    };
    assert_same("d_gamma and d_beta", &round(&plain.d_parameters), &round(&d_parameters));
    if whole {
        assert_same("d_bias", &round(&plain.d_bias), &round(&d_bias));
    }
}

#[test]
fn layer_norm_computes_what_the_fused_kernels_do() {
    for device in devices() {
        for (rows, columns) in [(1, 8), (70, 264), (600, 768)] {
            for whole in [false, true] {
                layer_norm_agrees::<f32>(&device.stream(), rows, columns, whole);
                layer_norm_agrees::<bf16>(&device.stream(), rows, columns, whole);
            }
        }
    }
}

fn embedding_agrees<T: ModelFloat>(stream: &Stream) {
    const TOKENS: usize = 90;
    const COLUMNS: usize = 40;
    const VOCABULARY: usize = 17;
    let device = stream.device();
    let rows = upload::<T>(device, 1, TOKENS * COLUMNS);
    let ids = integers(2, TOKENS, VOCABULARY as u32);
    let start = floats(3, VOCABULARY * COLUMNS);
    let [mut plain, mut fused] = [0, 1].map(|_| device.upload(&start).unwrap());
    let plain_ids = device.upload(&ids).unwrap();
    unfused::embedding::backward(stream, rows.view(), plain_ids.view(), plain.view_mut(), COLUMNS).unwrap();
    let mut order: Vec<i32> = (0..TOKENS as i32).collect();
    order.sort_by_key(|&token| ids[token as usize]);
    let below = |id: usize| ids.iter().filter(|&&other| (other as usize) < id).count() as i32;
    let offsets: Vec<i32> = (0..=VOCABULARY).map(below).collect();
    let (order, offsets) = (device.upload(&order).unwrap(), device.upload(&offsets).unwrap());
    let mut workspace = segment_sum::workspace(order.len(), COLUMNS).allocate(device).unwrap();
    let arguments = SegmentSum {
        input: rows.matrix(TOKENS, COLUMNS).unwrap(),
        segments: Segments { indices: Some(order.view()), ..Segments::consecutive(offsets.view()) },
        output: fused.matrix_mut(VOCABULARY, COLUMNS).unwrap(),
        workspace: workspace.view_mut(),
    };
    segment_sum(stream, arguments).unwrap();
    assert_same("table", &plain, &fused);
}

#[test]
fn the_embedding_gradient_is_that_of_the_sorted_segments() {
    for device in devices() {
        embedding_agrees::<f32>(&device.stream());
        embedding_agrees::<bf16>(&device.stream());
    }
}

#[test]
fn adamw_takes_the_step_of_the_fused_kernel() {
    const COUNT: usize = 20_008;
    const DECAYED: usize = 12_000;
    let hyperparameters = adamw::Hyperparameters { weight_decay: 0.1, ..adamw::Hyperparameters::default() };
    for device in devices() {
        let stream = device.stream();
        let array = |seed| device.upload(&floats(seed, COUNT)).unwrap();
        let positive: Vec<f32> = floats(4, COUNT).into_iter().map(f32::abs).collect();
        let make = || unfused::adamw::AdamW::<bf16> {
            parameters: array(1),
            gradients: array(2),
            first_moments: array(3),
            second_moments: device.upload(&positive).unwrap(),
            compute_parameters: Some(device.zeros(COUNT).unwrap()),
            squared_norm: device.upload(&[9.0]).unwrap(),
            schedule: device.upload(&hyperparameters.schedule(1e-2, 3).unwrap()).unwrap(),
            decayed: DECAYED,
            hyperparameters,
        };
        let (mut plain, mut fused) = (make(), make());
        plain.step(&stream).unwrap();
        let step = adamw::Step {
            parameters: fused.parameters.view_mut(),
            gradients: fused.gradients.view_mut(),
            first_moments: fused.first_moments.view_mut(),
            second_moments: fused.second_moments.view_mut(),
            compute_parameters: fused.compute_parameters.as_mut().map(Buffer::view_mut),
            squared_norm: fused.squared_norm.view(),
            schedule: fused.schedule.view(),
            decayed: DECAYED,
            hyperparameters,
        };
        adamw::step(&stream, step).unwrap();
        assert_same("parameters", &plain.parameters, &fused.parameters);
        assert_same("first_moments", &plain.first_moments, &fused.first_moments);
        assert_same("second_moments", &plain.second_moments, &fused.second_moments);
        let copies = [&plain, &fused].map(|state| state.compute_parameters.as_ref().unwrap());
        assert_same("compute_parameters", copies[0], copies[1]);
    }
}

fn gelu_agrees<T: ModelFloat>(device: &Device) {
    let stream = device.stream();
    let (rows, columns) = (37, 24);
    let input = upload::<T>(device, 1, rows * columns);
    let mut gradient = upload::<T>(device, 2, rows * columns);
    let d_output = upload::<T>(device, 2, rows * columns);
    let bias = device.zeros::<f32>(columns).unwrap();
    let zeros = || device.zeros::<T>(rows * columns).unwrap();
    let (mut plain, mut fused, mut d_input) = (zeros(), zeros(), zeros());
    unfused::passes::gelu(&stream, input.view(), plain.view_mut()).unwrap();
    unfused::passes::gelu_backward(&stream, input.view(), gradient.view_mut()).unwrap();
    let forward = retromae::ops::bias_gelu::Forward {
        input: input.matrix(rows, columns).unwrap(),
        bias: bias.view(),
        output: fused.matrix_mut(rows, columns).unwrap(),
    };
    retromae::ops::bias_gelu::forward(&stream, forward).unwrap();
    let backward = retromae::ops::bias_gelu::Backward {
        input: input.matrix(rows, columns).unwrap(),
        bias: bias.view(),
        d_output: d_output.matrix(rows, columns).unwrap(),
        d_input: d_input.matrix_mut(rows, columns).unwrap(),
    };
    retromae::ops::bias_gelu::backward(&stream, backward).unwrap();
    assert_same("gelu", &plain, &fused);
    assert_same("gelu's gradient", &gradient, &d_input);
    unfused::passes::add_to(&stream, fused.view_mut(), plain.view()).unwrap();
    unfused::passes::scale(&stream, plain.view_mut(), 2.0).unwrap();
    assert_same("sum", &fused, &plain);
}

#[test]
fn gelu_is_that_of_the_fused_kernel() {
    for device in devices() {
        gelu_agrees::<f32>(&device);
        gelu_agrees::<bf16>(&device);
    }
}
