//! Linear layer and cross-entropy in one operation: from hidden rows and the tied embedding matrix to the losses and, by [`forward_backward`],
//! their gradients, a chunk of rows at a time. Arrays as large as the logits exist for one chunk only.
//!
//! With `x = hidden · weightᵀ + bias`, `y = x` or, where logits are capped, `c·tanh(x / c)`, `p = softmax(y)` and `L` the log-sum-exp of `y`,
//! the loss of a row is `w · ((1 − ε)·(L − y[target]) + ε·(L − mean y) + z·L²)` with row weight `w`, label smoothing `ε` (Szegedy et al., arXiv
//! 1512.00567) and z-loss `z` (Chowdhery et al., arXiv 2204.02311).
//!
//! ```
//! use retromae::device::{DType, Device};
//! use retromae::ops::cross_entropy::{self, Algorithm, Forward, Gradients};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let device = Device::host()?;
//! // Two rows of 8 columns, and 3 token ids of which the layer knows nothing yet.
//! let hidden = device.upload(&[1.0f32; 2 * 8])?;
//! let weight = device.zeros::<f32>(3 * 8)?;
//! let targets = device.upload(&[2, 0])?;
//! let mut losses = device.zeros(2)?;
//! let (mut d_hidden, mut d_weight) = (device.zeros(2 * 8)?, device.zeros(3 * 8)?);
//! let mut workspace = cross_entropy::workspace(Algorithm::default(), DType::F32, 2, 8, 3).allocate(&device)?;
//!
//! let (hidden, weight) = (hidden.matrix(2, 8)?, weight.matrix(3, 8)?);
//! let forward = Forward::new(hidden, weight, targets.view(), losses.view_mut(), workspace.view_mut());
//! let gradients = Gradients {
//!     d_hidden: Some(d_hidden.matrix_mut(2, 8)?),
//!     d_weight: Some(d_weight.matrix_mut(3, 8)?),
//!     ..Gradients::default()
//! };
//! cross_entropy::forward_backward(&device.stream(), forward, gradients)?;
//! assert!(losses.read()?.iter().all(|loss| (loss - 3f32.ln()).abs() < 1e-6));
//! # Ok(())
//! # }
//! ```

mod call;
mod fused;
mod gradients;
mod library;
mod mean_weights;
mod totals;

pub use mean_weights::{MeanWeights, mean_weights};
pub use totals::Totals;

use super::error::require;
pub use super::logits::Gradients;
use super::workspace::largest;
use super::{Result, Workspace};
pub use crate::common::loss::Options;
use crate::device::{DType, Float, Matrix, Stream, View, ViewMut};
use call::Call;

/// Method for the matmul with the word embeddings and the handling of its logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// The GEMM library computes a chunk's logits, and a kernel reads them. Supports every type and option.
    #[default]
    Library,
    /// A hand-written matmul reduces its tiles to what is needed of the logits (exponentials, maxima), and no logit is stored: losses are those
    /// of f32 logits. It saves memory traffic. The cross-entropy supports bf16 without options; the bag of words bf16 and f16.
    Fused,
}

/// Arguments of [`forward`] and [`forward_backward`]. [`Forward::new`] takes the mandatory ones; `Forward { bias: Some(bias), ..Forward::new(…) }`
/// adds others. Matrices are contiguous.
#[derive(Debug)]
pub struct Forward<'a, T: Float> {
    /// `[M, H]`
    pub hidden: Matrix<'a, T>,
    /// `[V, H]`: the word embeddings
    pub weight: Matrix<'a, T>,
    /// `[V]`, aligned to 16 bytes; by default 0.
    pub bias: Option<View<'a, f32>>,
    /// `[M]`: ids in `[0, V)`, or [`Options::ignore_index`]. As they are in device memory, any other id is not refused: it makes its row's loss
    /// NaN and its gradient 0, and is counted, see [`Totals::check`].
    pub targets: View<'a, i32>,
    /// `[M]`: factor of each row's loss and gradient, such as one over the number of labeled rows; in f16 times a loss scale, as gradients below
    /// 6e-8 vanish. By default 1.
    pub row_weights: Option<View<'a, f32>>,
    /// Loss beyond plain cross-entropy, by default none.
    pub options: Options,
    /// Method, by default [`Algorithm::Library`].
    pub algorithm: Algorithm,
    /// `[M]`: weighted loss of each row, 0 where ignored
    pub losses: ViewMut<'a, f32>,
    /// `[M]`: log-sum-exp of the row's logits, 0 where ignored
    pub log_sum_exp: Option<ViewMut<'a, f32>>,
    /// `[M]`: log-probability of the target, unweighted and without smoothing; 0 where ignored
    pub log_likelihoods: Option<ViewMut<'a, f32>>,
    /// `[M]`: 1 where no token id's logit exceeds the target's, else 0
    pub correct: Option<ViewMut<'a, u8>>,
    /// Totals of each group. They are sums of `log_likelihoods` and `correct`, too, which must be given with them.
    pub totals: Option<ViewMut<'a, Totals>>,
    /// End of each group of rows, ascending; the last one is M. By default all rows are one group. The encoder's rows and the decoder's are two
    /// groups of one call.
    pub group_ends: &'a [usize],
    /// [`workspace`] bytes, or [`forward_workspace`] bytes, for the rows of a chunk, aligned to 16. A larger one is faster, up to all M rows.
    pub workspace: ViewMut<'a, u8>,
}

impl<'a, T: Float> Forward<'a, T> {
    /// The losses of all rows, and nothing else.
    #[must_use]
    pub fn new(
        hidden: Matrix<'a, T>,
        weight: Matrix<'a, T>,
        targets: View<'a, i32>,
        losses: ViewMut<'a, f32>,
        workspace: ViewMut<'a, u8>,
    ) -> Self {
        Self {
            hidden,
            weight,
            bias: None,
            targets,
            row_weights: None,
            options: Options::default(),
            algorithm: Algorithm::default(),
            losses,
            log_sum_exp: None,
            log_likelihoods: None,
            correct: None,
            totals: None,
            group_ends: &[],
            workspace,
        }
    }
}

/// Returns the workspace of [`forward_backward`] for chunks of `rows` rows, of `hidden_size` columns each, over a vocabulary of `vocab_size`
/// token ids.
#[must_use]
pub fn workspace(
    algorithm: Algorithm,
    dtype: DType,
    rows: usize,
    hidden_size: usize,
    vocab_size: usize,
) -> Workspace {
    match algorithm {
        Algorithm::Library => library::workspace(dtype, rows, hidden_size, vocab_size),
        Algorithm::Fused => fused::workspace(rows, hidden_size, vocab_size),
    }
}

/// Returns the workspace of [`forward`]: at most that of [`forward_backward`], see [`workspace`]. The fused algorithm takes about 250
/// bytes a row over the vocabulary of BERT.
#[must_use]
pub fn forward_workspace(
    algorithm: Algorithm,
    dtype: DType,
    rows: usize,
    hidden_size: usize,
    vocab_size: usize,
) -> Workspace {
    match algorithm {
        Algorithm::Library => library::forward_workspace(dtype, rows, vocab_size),
        Algorithm::Fused => fused::forward_workspace(rows, hidden_size, vocab_size),
    }
}

/// Enqueues the loss of every row and what else of [`Forward`] is given, without gradients.
///
/// # Errors
/// When a shape does not fit, an option is out of range, the algorithm does not support the type or the options, or the workspace has no room
/// for one row.
pub fn forward<T: Float>(stream: &Stream, forward: Forward<'_, T>) -> Result<()> {
    forward_backward(stream, forward, Gradients::default())
}

/// As [`forward`], and enqueues the gradients that are given.
///
/// # Errors
/// As [`forward`].
pub fn forward_backward<T: Float>(
    stream: &Stream,
    forward: Forward<'_, T>,
    gradients: Gradients<'_, T>,
) -> Result<()> {
    let call = Call::new(stream, &forward, &gradients)?;
    let chunk = chunk_rows(&call, forward.algorithm, forward.workspace.len())?;
    for start in (0..call.rows).step_by(chunk.max(1)) {
        let rows = call.slice_rows(start..call.rows.min(start + chunk));
        match forward.algorithm {
            Algorithm::Library => library::enqueue(stream, &rows)?,
            Algorithm::Fused => fused::enqueue(stream, &rows)?,
        }
    }
    totals::enqueue(stream, &call, forward.group_ends)
}

/// Returns the maximum number of rows that the workspace has room for, at most all of them.
fn chunk_rows(call: &Call, algorithm: Algorithm, bytes: usize) -> Result<usize> {
    let workspace = if call.has_gradients { workspace } else { forward_workspace };
    let needed = |rows| workspace(algorithm, call.dtype, rows, call.hidden_size, call.vocabulary).bytes();
    require(
        call.rows == 0 || bytes >= needed(1),
        "workspace",
        format_args!("{bytes} bytes long"),
        format_args!("at least {} (a chunk of one row)", needed(1)),
    )?;
    Ok(largest(call.rows, |rows| needed(rows) <= bytes))
}
