//! Arguments that are refused, and the messages.

use super::*;
use crate::common::devices;
use retromae::device::bf16;

/// One call with 4 rows, 10 words and 8 columns, to be spoiled in one place.
#[derive(Clone, Copy)]
struct Call {
    hidden: [usize; 2],
    weight: [usize; 2],
    bias: usize,
    /// Elements before the bias.
    bias_offset: usize,
    row_weights: usize,
    losses: usize,
    log_sum_exp: usize,
    log_likelihoods: usize,
    correct: usize,
    d_hidden: [usize; 2],
    d_weight: [usize; 2],
    d_bias: usize,
    totals: usize,
    workspace: usize,
    /// Name of a matrix with gaps between its rows
    gaps: &'static str,
    /// Name of an argument that is not given
    absent: &'static str,
    group_ends: &'static [usize],
    options: Options,
    algorithm: Algorithm,
}

fn right() -> Call {
    Call {
        hidden: [4, 8],
        weight: [10, 8],
        bias: 10,
        bias_offset: 0,
        row_weights: 4,
        losses: 4,
        log_sum_exp: 4,
        log_likelihoods: 4,
        correct: 4,
        d_hidden: [4, 8],
        d_weight: [10, 8],
        d_bias: 10,
        totals: 1,
        workspace: 128,
        gaps: "",
        absent: "",
        group_ends: &[4],
        options: Options::default(),
        algorithm: Algorithm::Library,
    }
}

fn attempt<T: Float>(call: Call) -> retromae::ops::Result<()> {
    let device = &devices()[0];
    let floats = |length: usize| device.zeros::<f32>(length).unwrap();
    // Twice as much as needed, for gaps.
    let typed = |[rows, columns]: [usize; 2]| device.zeros::<T>(2 * rows * columns).unwrap();
    let stride = |name, [_, columns]: [usize; 2]| if call.gaps == name { 2 * columns } else { columns };
    let [hidden, weight, mut d_hidden] = [call.hidden, call.weight, call.d_hidden].map(typed);
    let targets = device.zeros::<i32>(4).unwrap();
    let [bias, row_weights] = [call.bias_offset + call.bias, call.row_weights].map(floats);
    let [mut losses, mut log_sum_exp, mut log_likelihoods] =
        [call.losses, call.log_sum_exp, call.log_likelihoods].map(floats);
    let [mut d_weight, mut d_bias] = [2 * call.d_weight[0] * call.d_weight[1], call.d_bias].map(floats);
    let [mut correct, mut workspace] = [call.correct, call.workspace].map(|n| device.zeros(n).unwrap());
    let mut totals = device.zeros(call.totals).unwrap();
    let absent = |name| call.absent == name;
    let arguments = Forward {
        hidden: hidden.view().strided(call.hidden[0], call.hidden[1], stride("hidden", call.hidden))?,
        weight: weight.view().strided(call.weight[0], call.weight[1], stride("weight", call.weight))?,
        bias: Some(bias.slice(call.bias_offset..bias.len())),
        targets: targets.view(),
        row_weights: Some(row_weights.view()),
        options: call.options,
        algorithm: call.algorithm,
        losses: losses.view_mut(),
        log_sum_exp: Some(log_sum_exp.view_mut()),
        log_likelihoods: (!absent("log_likelihoods")).then(|| log_likelihoods.view_mut()),
        correct: (!absent("correct")).then(|| correct.view_mut()),
        totals: Some(totals.view_mut()),
        group_ends: call.group_ends,
        workspace: workspace.view_mut(),
    };
    let (d_hidden, d_weight) = (d_hidden.view_mut(), d_weight.view_mut());
    let gradients = Gradients {
        d_hidden: Some(d_hidden.strided(
            call.d_hidden[0],
            call.d_hidden[1],
            stride("d_hidden", call.d_hidden),
        )?),
        d_weight: Some(d_weight.strided(
            call.d_weight[0],
            call.d_weight[1],
            stride("d_weight", call.d_weight),
        )?),
        d_bias: Some(d_bias.view_mut()),
    };
    let stream = device.stream();
    cross_entropy::forward_backward(&stream, arguments, gradients)?;
    Ok(stream.synchronize()?)
}

#[test]
fn wrong_shapes_are_refused() {
    attempt::<f32>(right()).unwrap();
    attempt::<f32>(Call { group_ends: &[], ..right() }).unwrap();
    for (call, message) in [
        (
            Call { hidden: [3, 8], ..right() },
            "hidden is [3, 8]; it should be [4, 8] (targets, columns of weight)",
        ),
        (
            Call { hidden: [4, 9], ..right() },
            "hidden is [4, 9]; it should be [4, 8] (targets, columns of weight)",
        ),
        (
            Call { weight: [0, 8], ..right() },
            "weight is [0, 8]; it should be [vocabulary, hidden size], both positive and below 2^31",
        ),
        (
            Call { weight: [10, 0], ..right() },
            "weight is [10, 0]; it should be [vocabulary, hidden size], both positive and below 2^31",
        ),
        (Call { bias: 9, ..right() }, "bias is 9 elements long; it should be 10 (rows of weight)"),
        (Call { row_weights: 3, ..right() }, "row_weights is 3 elements long; it should be 4 (targets)"),
        (Call { losses: 5, ..right() }, "losses is 5 elements long; it should be 4 (targets)"),
        (Call { log_sum_exp: 3, ..right() }, "log_sum_exp is 3 elements long; it should be 4 (targets)"),
        (
            Call { log_likelihoods: 0, ..right() },
            "log_likelihoods is 0 elements long; it should be 4 (targets)",
        ),
        (Call { correct: 8, ..right() }, "correct is 8 elements long; it should be 4 (targets)"),
        (Call { d_hidden: [5, 8], ..right() }, "d_hidden is [5, 8]; it should be [4, 8] (as hidden)"),
        (Call { d_weight: [10, 7], ..right() }, "d_weight is [10, 7]; it should be [10, 8] (as weight)"),
        (Call { d_bias: 16, ..right() }, "d_bias is 16 elements long; it should be 10 (rows of weight)"),
        (Call { totals: 2, ..right() }, "totals is 2 elements long; it should be 1 (groups)"),
        (
            Call { group_ends: &[3], ..right() },
            "group_ends is [3]; it should be ascending, the last 4 (targets)",
        ),
        (
            Call { group_ends: &[], totals: 0, ..right() },
            "totals is 0 elements long; it should be 1 (groups)",
        ),
        (
            Call { absent: "log_likelihoods", ..right() },
            "log_likelihoods is absent; it should be given, as totals are",
        ),
        (Call { absent: "correct", ..right() }, "correct is absent; it should be given, as totals are"),
        (
            Call { group_ends: &[3, 2, 4], totals: 3, ..right() },
            "group_ends is [3, 2, 4]; it should be ascending, the last 4 (targets)",
        ),
        (
            Call { workspace: 127, ..right() },
            "workspace is 127 bytes long; it should be at least 128 (a chunk of one row)",
        ),
        (
            Call { bias_offset: 1, ..right() },
            "bias is at an address of 4 modulo 16 bytes; it should be aligned to 16 bytes",
        ),
    ] {
        assert_eq!(attempt::<f32>(call).unwrap_err().to_string(), message);
    }
}

#[test]
fn gaps_between_rows_are_refused() {
    for name in ["hidden", "weight", "d_hidden", "d_weight"] {
        let error = attempt::<f32>(Call { gaps: name, ..right() }).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("{name} is strided by 16 elements; it should be contiguous rows of 8 columns")
        );
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
    let narrow = Call { hidden: [4, 4], weight: [10, 4], d_hidden: [4, 4], d_weight: [10, 4], ..fused };
    let error = attempt::<bf16>(narrow).unwrap_err().to_string();
    assert_eq!(error, "weight is [10, 4]; it should be of a positive multiple of 8 columns");
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
