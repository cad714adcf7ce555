//! Arguments that are refused, and the messages.

use super::*;
use crate::common::devices;
use retromae::device::bf16;

/// One call with 4 rows, 10 words and 8 columns, to be spoiled in one place.
#[derive(Clone, Copy)]
struct Call {
    hidden: usize,
    weight: usize,
    bias: usize,
    /// Elements before the bias.
    bias_offset: usize,
    row_weights: usize,
    losses: usize,
    log_sum_exp: usize,
    log_likelihoods: usize,
    correct: usize,
    d_hidden: usize,
    d_weight: usize,
    d_bias: usize,
    totals: usize,
    workspace: usize,
    hidden_size: usize,
    group_ends: &'static [usize],
    options: Options,
    algorithm: Algorithm,
}

fn right() -> Call {
    Call {
        hidden: 32,
        weight: 80,
        bias: 10,
        bias_offset: 0,
        row_weights: 4,
        losses: 4,
        log_sum_exp: 4,
        log_likelihoods: 4,
        correct: 4,
        d_hidden: 32,
        d_weight: 80,
        d_bias: 10,
        totals: 1,
        workspace: 128,
        hidden_size: 8,
        group_ends: &[4],
        options: Options::default(),
        algorithm: Algorithm::Library,
    }
}

fn attempt<T: Float>(call: Call) -> retromae::ops::Result<()> {
    let device = &devices()[0];
    let floats = |length: usize| device.zeros::<f32>(length).unwrap();
    let typed = |length: usize| device.zeros::<T>(length).unwrap();
    let [hidden, weight, mut d_hidden] = [call.hidden, call.weight, call.d_hidden].map(typed);
    let targets = device.zeros::<i32>(4).unwrap();
    let [bias, row_weights] = [call.bias_offset + call.bias, call.row_weights].map(floats);
    let [mut losses, mut log_sum_exp, mut log_likelihoods] =
        [call.losses, call.log_sum_exp, call.log_likelihoods].map(floats);
    let [mut d_weight, mut d_bias] = [call.d_weight, call.d_bias].map(floats);
    let [mut correct, mut workspace] = [call.correct, call.workspace].map(|n| device.zeros(n).unwrap());
    let mut totals = device.zeros(call.totals).unwrap();
    let arguments = ForwardBackward {
        hidden: hidden.view(),
        weight: weight.view(),
        bias: bias.slice(call.bias_offset..bias.len()),
        targets: targets.view(),
        row_weights: row_weights.view(),
        options: call.options,
        algorithm: call.algorithm,
        losses: losses.view_mut(),
        log_sum_exp: log_sum_exp.view_mut(),
        log_likelihoods: log_likelihoods.view_mut(),
        correct: correct.view_mut(),
        d_hidden: d_hidden.view_mut(),
        d_weight: d_weight.view_mut(),
        d_bias: d_bias.view_mut(),
        group_ends: call.group_ends,
        totals: totals.view_mut(),
        workspace: workspace.view_mut(),
        hidden_size: call.hidden_size,
    };
    let stream = device.stream();
    cross_entropy::forward_backward(&stream, arguments)?;
    Ok(stream.synchronize()?)
}

#[test]
fn wrong_shapes_are_refused() {
    attempt::<f32>(right()).unwrap();
    for (call, message) in [
        (
            Call { hidden: 24, ..right() },
            "hidden is 24 elements long; it should be 32 (targets · hidden size)",
        ),
        (
            Call { weight: 72, ..right() },
            "weight is 72 elements long; it should be 80 (vocabulary · hidden size)",
        ),
        (Call { bias: 0, ..right() }, "bias is empty; it should be as long as the vocabulary"),
        (Call { row_weights: 3, ..right() }, "row_weights is 3 elements long; it should be 4 (targets)"),
        (Call { losses: 5, ..right() }, "losses is 5 elements long; it should be 4 (targets)"),
        (Call { log_sum_exp: 3, ..right() }, "log_sum_exp is 3 elements long; it should be 4 (targets)"),
        (
            Call { log_likelihoods: 0, ..right() },
            "log_likelihoods is 0 elements long; it should be 4 (targets)",
        ),
        (Call { correct: 8, ..right() }, "correct is 8 elements long; it should be 4 (targets)"),
        (
            Call { d_hidden: 31, ..right() },
            "d_hidden is 31 elements long; it should be 32 (targets · hidden size)",
        ),
        (
            Call { d_weight: 81, ..right() },
            "d_weight is 81 elements long; it should be 80 (vocabulary · hidden size)",
        ),
        (Call { d_bias: 16, ..right() }, "d_bias is 16 elements long; it should be 10 (vocabulary)"),
        (Call { totals: 2, ..right() }, "totals is 2 elements long; it should be 1 (groups)"),
        (
            Call { group_ends: &[], ..right() },
            "group_ends is []; it should be ascending, the last 4 (targets)",
        ),
        (
            Call { group_ends: &[3, 2, 4], totals: 3, ..right() },
            "group_ends is [3, 2, 4]; it should be ascending, the last 4 (targets)",
        ),
        (
            Call { workspace: 127, ..right() },
            "workspace is 127 bytes long; it should be at least 128 (a chunk of one row)",
        ),
        (Call { hidden_size: 0, ..right() }, "hidden_size is 0; it should be positive"),
        (
            Call { bias_offset: 1, ..right() },
            "bias is at an address of 4 modulo 16 bytes; it should be aligned to 16 bytes",
        ),
    ] {
        assert_eq!(attempt::<f32>(call).unwrap_err().to_string(), message);
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let plain = Options::default();
    for (options, message) in [
        (
            Options { label_smoothing: 1.0, ..plain },
            "label_smoothing is 1; it should be at least 0 and below 1",
        ),
        (
            Options { label_smoothing: f32::NAN, ..plain },
            "label_smoothing is NaN; it should be at least 0 and below 1",
        ),
        (Options { z_loss: -0.5, ..plain }, "z_loss is -0.5; it should be at least 0 and finite"),
        (Options { soft_cap: Some(0.0), ..plain }, "soft_cap is 0; it should be positive and finite"),
        (
            Options { soft_cap: Some(f32::INFINITY), ..plain },
            "soft_cap is inf; it should be positive and finite",
        ),
    ] {
        assert_eq!(attempt::<f32>(Call { options, ..right() }).unwrap_err().to_string(), message);
    }
}

#[test]
fn the_fused_algorithm_refuses_what_it_does_not_take() {
    let bytes = cross_entropy::workspace(Algorithm::Fused, bf16::DTYPE, 1, 8, 10).bytes();
    let fused = Call { algorithm: Algorithm::Fused, workspace: bytes, ..right() };
    attempt::<bf16>(fused).unwrap();
    let error = attempt::<f32>(fused).unwrap_err().to_string();
    assert_eq!(error, "algorithm is Fused; it should be Library for other types than bf16");
    for options in [
        Options { label_smoothing: 0.1, ..Options::default() },
        Options { z_loss: 0.1, ..Options::default() },
        Options { soft_cap: Some(1.0), ..Options::default() },
    ] {
        let error = attempt::<bf16>(Call { options, ..fused }).unwrap_err().to_string();
        let expected = "algorithm is Fused; it should be Library with label smoothing, z-loss or a soft cap";
        assert_eq!(error, expected);
    }
    let narrow = Call { hidden: 16, weight: 40, d_hidden: 16, d_weight: 40, hidden_size: 4, ..fused };
    let error = attempt::<bf16>(narrow).unwrap_err().to_string();
    assert_eq!(error, "hidden_size is 4; it should be a positive multiple of 8");
    let error = attempt::<bf16>(Call { workspace: bytes - 1, ..fused }).unwrap_err().to_string();
    assert!(error.ends_with(&format!("it should be at least {bytes} (a chunk of one row)")), "{error}");
}

#[test]
fn workspace_grows_with_the_rows_and_stays_in_its_bounds() {
    for algorithm in [Algorithm::Library, Algorithm::Fused] {
        let bytes = |rows| cross_entropy::workspace(algorithm, bf16::DTYPE, rows, 768, 30_522).bytes();
        assert!((0..300).all(|rows| bytes(rows) <= bytes(rows + 1)), "{algorithm:?}");
        // A chunk of 3,840 rows is enough for fast matmuls, and with BERT's vocabulary takes less than 256 MiB.
        assert!(bytes(3840) <= 256 << 20, "{algorithm:?}: {}", bytes(3840));
    }
}
