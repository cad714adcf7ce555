//! A call whose arguments were checked, as sizes and addresses.

use std::ops::Range;

use super::{Algorithm, Forward, Gradients, Options};
use crate::device::{DType, Float, MatrixMut, Stream, ViewMut};
use crate::ops::error::{
    optional, require, require_aligned, require_contiguous, require_count, require_length, require_rows,
    require_shape,
};
use crate::ops::{Error, Result};

/// Sizes of a call, and the addresses of its arguments; 0 of those that are absent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub dtype: DType,
    pub rows: usize,
    pub hidden_size: usize,
    pub vocabulary: usize,
    pub options: Options,
    /// False where only losses are wanted.
    pub has_gradients: bool,
    pub hidden: u64,
    pub weight: u64,
    pub bias: u64,
    pub targets: u64,
    pub row_weights: u64,
    pub losses: u64,
    pub log_sum_exp: u64,
    pub log_likelihoods: u64,
    pub correct: u64,
    pub totals: u64,
    pub d_hidden: u64,
    pub d_weight: u64,
    pub d_bias: u64,
    pub workspace: u64,
}

impl Call {
    /// Checks all arguments, except the workspace's size.
    pub fn new<T: Float>(
        stream: &Stream,
        forward: &Forward<'_, T>,
        gradients: &Gradients<'_, T>,
    ) -> Result<Self> {
        forward.options.check()?;
        check_inputs(forward)?;
        check_outputs(forward)?;
        gradients.check(&forward.hidden, &forward.weight)?;
        check_algorithm(forward, gradients)?;
        let Gradients { d_hidden, d_weight, d_bias } = gradients;
        Ok(Self {
            dtype: T::DTYPE,
            rows: forward.targets.len(),
            hidden_size: forward.weight.columns(),
            vocabulary: forward.weight.rows(),
            options: forward.options,
            has_gradients: !gradients.is_empty(),
            hidden: stream.address("hidden", &forward.hidden)?,
            weight: stream.address("weight", &forward.weight)?,
            bias: optional(stream, "bias", forward.bias.as_ref())?,
            targets: stream.address("targets", &forward.targets)?,
            row_weights: optional(stream, "row_weights", forward.row_weights.as_ref())?,
            losses: stream.address("losses", &forward.losses)?,
            log_sum_exp: optional(stream, "log_sum_exp", forward.log_sum_exp.as_ref())?,
            log_likelihoods: optional(stream, "log_likelihoods", forward.log_likelihoods.as_ref())?,
            correct: optional(stream, "correct", forward.correct.as_ref())?,
            totals: optional(stream, "totals", forward.totals.as_ref())?,
            d_hidden: optional(stream, "d_hidden", d_hidden.as_ref())?,
            d_weight: optional(stream, "d_weight", d_weight.as_ref())?,
            d_bias: optional(stream, "d_bias", d_bias.as_ref())?,
            workspace: stream.address("workspace", &forward.workspace)?,
        })
    }

    /// Returns the same call for the rows of `range` alone.
    pub fn slice_rows(&self, range: Range<usize>) -> Self {
        let from = |address: u64, row_bytes: usize| match address {
            0 => 0,
            address => address + (range.start * row_bytes) as u64,
        };
        let hidden_bytes = self.hidden_size * self.dtype.bytes();
        Self {
            rows: range.len(),
            hidden: from(self.hidden, hidden_bytes),
            targets: from(self.targets, size_of::<i32>()),
            row_weights: from(self.row_weights, size_of::<f32>()),
            losses: from(self.losses, size_of::<f32>()),
            log_sum_exp: from(self.log_sum_exp, size_of::<f32>()),
            log_likelihoods: from(self.log_likelihoods, size_of::<f32>()),
            correct: from(self.correct, size_of::<u8>()),
            d_hidden: from(self.d_hidden, hidden_bytes),
            ..*self
        }
    }
}

impl Options {
    /// Returns whether the loss is the cross-entropy alone.
    pub(super) fn is_plain(&self) -> bool {
        self.label_smoothing == 0.0 && self.z_loss == 0.0 && self.soft_cap.is_none()
    }

    fn check(&self) -> Result<()> {
        let Self { label_smoothing, z_loss, soft_cap, .. } = *self;
        require(
            (0.0..1.0).contains(&label_smoothing),
            "label_smoothing",
            label_smoothing,
            "at least 0 and below 1",
        )?;
        require(z_loss >= 0.0 && z_loss.is_finite(), "z_loss", z_loss, "at least 0 and finite")?;
        let cap = soft_cap.unwrap_or(1.0);
        require(cap > 0.0 && cap.is_finite(), "soft_cap", cap, "positive and finite")
    }
}

fn check_inputs<T: Float>(forward: &Forward<'_, T>) -> Result<()> {
    let Forward { hidden, weight, bias, targets, row_weights, workspace, .. } = forward;
    let (rows, vocabulary, hidden_size) = (targets.len(), weight.rows(), weight.columns());
    require(
        vocabulary > 0 && hidden_size > 0 && vocabulary.max(hidden_size) <= i32::MAX as usize,
        "weight",
        format_args!("[{vocabulary}, {hidden_size}]"),
        "[vocabulary, hidden size], both positive and below 2^31",
    )?;
    require_count("targets", rows)?;
    require_shape("hidden", hidden, [rows, hidden_size], "targets, columns of weight")?;
    require_contiguous("hidden", hidden)?;
    require_contiguous("weight", weight)?;
    if let Some(bias) = bias {
        require_length("bias", bias.len(), vocabulary, "rows of weight")?;
        require_aligned("bias", bias.address())?;
    }
    if let Some(row_weights) = row_weights {
        require_length("row_weights", row_weights.len(), rows, "targets")?;
    }
    require_aligned("workspace", workspace.address())
}

fn check_outputs<T: Float>(forward: &Forward<'_, T>) -> Result<()> {
    let Forward { losses, log_sum_exp, log_likelihoods, correct, totals, group_ends: ends, .. } = forward;
    let rows = forward.targets.len();
    for (name, length) in [
        ("losses", Some(losses.len())),
        ("log_sum_exp", log_sum_exp.as_ref().map(ViewMut::len)),
        ("log_likelihoods", log_likelihoods.as_ref().map(ViewMut::len)),
        ("correct", correct.as_ref().map(ViewMut::len)),
    ] {
        require_length(name, length.unwrap_or(rows), rows, "targets")?;
    }
    require(
        ends.is_empty() || ends.is_sorted() && ends.last() == Some(&rows),
        "group_ends",
        format_args!("{ends:?}"),
        format_args!("ascending, the last {rows} (targets)"),
    )?;
    let Some(totals) = totals else { return Ok(()) };
    require_length("totals", totals.len(), ends.len().max(1), "groups")?;
    let addends = [("log_likelihoods", log_likelihoods.is_some()), ("correct", correct.is_some())];
    for (name, given) in addends {
        require(given, name, "absent", "given, as totals are")?;
    }
    Ok(())
}

/// Refuses types and options that the fused algorithm does not support.
fn check_algorithm<T: Float>(forward: &Forward<'_, T>, gradients: &Gradients<'_, T>) -> Result<()> {
    if forward.algorithm == Algorithm::Library {
        return Ok(());
    }
    let refuse = |reason: &str| {
        Err(Error::Unsupported {
            argument: "algorithm",
            actual: format!("{:?}", forward.algorithm),
            expected: format!("{:?} {reason}", Algorithm::Library),
        })
    };
    if T::DTYPE != DType::Bf16 {
        return refuse("for other types than bf16");
    }
    if !forward.options.is_plain() {
        return refuse("with label smoothing, z-loss or a soft cap");
    }
    require_rows("weight", &forward.weight)?;
    require_aligned("hidden", forward.hidden.address())?;
    require_aligned("weight", forward.weight.address())?;
    let d_hidden = gradients.d_hidden.as_ref();
    require_aligned("d_hidden", d_hidden.map_or(0, MatrixMut::address))
}
