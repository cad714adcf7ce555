//! Linear layer and cross-entropy in one operation: from hidden rows and the tied embedding matrix to the loss and every gradient, a chunk of
//! rows at a time. Arrays as large as the logits exist for one chunk only.
//!
//! With `x = hidden · weightᵀ + bias`, `y = x` or, where logits are capped, `c·tanh(x / c)`, `p = softmax(y)` and `L` the log-sum-exp of `y`,
//! the loss of a row is `w · ((1 − ε)·(L − y[target]) + ε·(L − mean y) + z·L²)` with row weight `w`, label smoothing `ε` (Szegedy et al., arXiv
//! 1512.00567) and z-loss `z` (Chowdhery et al., arXiv 2204.02311).

mod fused;
mod gradients;
mod library;
mod mean_weights;
mod totals;

pub use mean_weights::{MeanWeights, mean_weights};
pub use totals::Totals;

use super::error::{
    require, require_aligned, require_columns, require_contiguous, require_count, require_length,
    require_shape,
};
use super::workspace::largest;
use super::{Error, Result, Workspace};
pub use crate::common::loss::Options;
use crate::device::{DType, Float, Matrix, MatrixMut, Stream, View, ViewMut};

impl Options {
    /// Returns whether the loss is the cross-entropy alone.
    fn is_plain(&self) -> bool {
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

/// Method for the product with the word embeddings and the handling of its logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// The GEMM library computes a chunk's logits, and a kernel reads them. Supports every type and option.
    #[default]
    Library,
    /// A hand-written product reduces its tiles to what is needed of the logits (exponentials, maxima), and no logit is stored: losses are those
    /// of f32 logits. It saves memory traffic. The cross-entropy supports bf16 without options; the bag of words bf16 and f16.
    Fused,
}

/// Arguments of [`forward_backward`].
#[derive(Debug)]
pub struct ForwardBackward<'a, T: Float> {
    /// `[M, H]`, contiguous like all matrices here
    pub hidden: Matrix<'a, T>,
    /// `[V, H]`: the word embeddings
    pub weight: Matrix<'a, T>,
    /// `[V]`, aligned to 16 bytes
    pub bias: View<'a, f32>,
    /// `[M]`: ids in `[0, V)`, or [`Options::ignore_index`]. As they are in device memory, any other id is not refused: it makes its row's loss
    /// NaN and its gradient 0, and is counted, see [`Totals::check`].
    pub targets: View<'a, i32>,
    /// `[M]`: factor of each row's loss and gradient, such as one over the number of labeled rows; in f16 times a loss scale, as gradients below
    /// 6e-8 vanish.
    pub row_weights: View<'a, f32>,
    pub options: Options,
    pub algorithm: Algorithm,
    /// `[M]`: weighted loss of each row, 0 where ignored
    pub losses: ViewMut<'a, f32>,
    /// `[M]`: 0 where ignored
    pub log_sum_exp: ViewMut<'a, f32>,
    /// `[M]`: log-probability of the target, unweighted and without smoothing; 0 where ignored
    pub log_likelihoods: ViewMut<'a, f32>,
    /// `[M]`: 1 where no word's logit exceeds the target's, else 0
    pub correct: ViewMut<'a, u8>,
    /// `[M, H]`, overwritten
    pub d_hidden: MatrixMut<'a, T>,
    /// `[V, H]`, added to
    pub d_weight: MatrixMut<'a, f32>,
    /// `[V]`, added to
    pub d_bias: ViewMut<'a, f32>,
    /// End of each group of rows, ascending; the last one is M. The encoder's rows and the decoder's are two groups of one call.
    pub group_ends: &'a [usize],
    /// Totals of each group
    pub totals: ViewMut<'a, Totals>,
    /// [`workspace`] bytes for the rows of a chunk, aligned to 16. A larger one is faster, up to all M rows.
    pub workspace: ViewMut<'a, u8>,
}

/// Returns the workspace for chunks of `rows` rows, of `hidden_size` columns each, over a vocabulary of `vocab_size` words.
#[must_use]
pub fn workspace(
    algorithm: Algorithm,
    dtype: DType,
    rows: usize,
    hidden_size: usize,
    vocab_size: usize,
) -> Workspace {
    match algorithm {
        Algorithm::Library => library::workspace(dtype, rows, vocab_size),
        Algorithm::Fused => fused::workspace(rows, hidden_size, vocab_size),
    }
}

/// Enqueues the loss of every row, all gradients of their sum, and each group's totals.
///
/// # Errors
/// When a shape does not fit, an option is out of range, the algorithm does not support the type or the options, or the workspace has no room
/// for one row.
pub fn forward_backward<T: Float>(stream: &Stream, arguments: ForwardBackward<'_, T>) -> Result<()> {
    let (rows, vocabulary) = check(&arguments)?;
    let chunk = chunk_rows(&arguments, rows, vocabulary)?;
    let mut start = 0;
    while start < rows {
        let count = chunk.min(rows - start);
        match arguments.algorithm {
            Algorithm::Library => library::chunk(stream, &arguments, start, count, vocabulary)?,
            Algorithm::Fused => fused::chunk(stream, &arguments, start, count, vocabulary)?,
        }
        start += count;
    }
    totals::enqueue(stream, &arguments, vocabulary)
}

/// Returns the maximum number of rows that the workspace has room for, at most `rows`.
fn chunk_rows<T: Float>(arguments: &ForwardBackward<'_, T>, rows: usize, vocabulary: usize) -> Result<usize> {
    let bytes = arguments.workspace.len();
    let hidden_size = arguments.weight.columns();
    let needed = |rows| workspace(arguments.algorithm, T::DTYPE, rows, hidden_size, vocabulary).bytes();
    require(
        rows == 0 || bytes >= needed(1),
        "workspace",
        format_args!("{bytes} bytes long"),
        format_args!("at least {} (a chunk of one row)", needed(1)),
    )?;
    Ok(largest(rows, |rows| needed(rows) <= bytes))
}

fn check<T: Float>(arguments: &ForwardBackward<'_, T>) -> Result<(usize, usize)> {
    let (rows, vocabulary) = (arguments.targets.len(), arguments.weight.rows());
    let hidden_size = arguments.weight.columns();
    arguments.options.check()?;
    require(
        vocabulary > 0 && hidden_size > 0 && vocabulary.max(hidden_size) <= i32::MAX as usize,
        "weight",
        format_args!("[{vocabulary}, {hidden_size}]"),
        "[vocabulary, hidden size], both positive and below 2^31",
    )?;
    require_count("targets", rows)?;
    require_shape("hidden", &arguments.hidden, [rows, hidden_size], "targets, columns of weight")?;
    require_length("bias", arguments.bias.len(), vocabulary, "rows of weight")?;
    for (name, length) in [
        ("row_weights", arguments.row_weights.len()),
        ("losses", arguments.losses.len()),
        ("log_sum_exp", arguments.log_sum_exp.len()),
        ("log_likelihoods", arguments.log_likelihoods.len()),
        ("correct", arguments.correct.len()),
    ] {
        require_length(name, length, rows, "targets")?;
    }
    require_shape("d_hidden", &arguments.d_hidden, [rows, hidden_size], "as hidden")?;
    require_shape("d_weight", &arguments.d_weight, [vocabulary, hidden_size], "as weight")?;
    require_length("d_bias", arguments.d_bias.len(), vocabulary, "rows of weight")?;
    require_contiguous("hidden", &arguments.hidden)?;
    require_contiguous("weight", &arguments.weight)?;
    require_contiguous("d_hidden", &arguments.d_hidden)?;
    require_contiguous("d_weight", &arguments.d_weight)?;
    let ends = arguments.group_ends;
    require(
        ends.is_sorted() && ends.last() == Some(&rows),
        "group_ends",
        format_args!("{ends:?}"),
        format_args!("ascending, the last {rows} (targets)"),
    )?;
    require_length("totals", arguments.totals.len(), ends.len(), "groups")?;
    require_aligned("bias", arguments.bias.address())?;
    require_aligned("workspace", arguments.workspace.address())?;
    check_algorithm(arguments)?;
    Ok((rows, vocabulary))
}

/// Refuses types and options that the fused algorithm does not support.
fn check_algorithm<T: Float>(arguments: &ForwardBackward<'_, T>) -> Result<()> {
    if arguments.algorithm == Algorithm::Library {
        return Ok(());
    }
    let refuse = |reason: &str| {
        Err(Error::Argument {
            argument: "algorithm",
            actual: format!("{:?}", arguments.algorithm),
            expected: format!("{:?} {reason}", Algorithm::Library),
        })
    };
    if T::DTYPE != DType::Bf16 {
        return refuse("for other types than bf16");
    }
    if !arguments.options.is_plain() {
        return refuse("with label smoothing, z-loss or a soft cap");
    }
    require_columns("columns of weight", arguments.weight.columns())?;
    require_aligned("hidden", arguments.hidden.address())?;
    require_aligned("weight", arguments.weight.address())?;
    require_aligned("d_hidden", arguments.d_hidden.address())
}
