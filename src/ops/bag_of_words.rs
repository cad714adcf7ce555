//! The bag-of-words head of DupMAE (Liu et al., arXiv 2305.02564): each token id's largest logit among a sentence's tokens must predict which
//! ids the sentence has.
//!
//! With `x = hidden · weightᵀ + bias` and `m[b, v]` the maximum of `x[t, v]` over the tokens of sentence b, the loss of the sentence is
//! `s[b] · Σ −w · log softmax(m[b])[id]` over its bag of ids and weights. The gradient of `m[b, v]` goes to the token that has the maximum, the
//! first of them where several have. Logits exist for a chunk of rows only.

pub use super::cross_entropy::Algorithm;
use super::error::{
    aligned, contiguous, optional, optional_aligned, require, require_count, require_length, require_rows,
    require_shape, require_supported,
};
pub use super::logits::Gradients;
use super::logits::{self, ALIGNMENT, padded};
use super::workspace::round_up;
use super::{Packed, Result, Workspace};
use crate::device::params::BagOfWordsParams;
use crate::device::{DType, Family, Float, Matrix, Stream, View, ViewMut, kernels};

/// Maximum number of sentences of one call.
pub const SENTENCES_MAX: usize = 65_535;

/// A bag of weighted token ids for each of B sentences.
#[derive(Clone, Copy, Debug)]
pub struct Bags<'a> {
    /// `[B + 1]`: prefix sums of the sizes of the bags, from 0 to at most the length of `ids`. Invalid ones make their sentence's loss NaN and its
    /// gradient 0.
    pub offsets: View<'a, i32>,
    /// Ids in `[0, V)`; any other makes its sentence's loss NaN and its gradient 0. An id that is twice in a bag counts twice.
    pub ids: View<'a, i32>,
    /// Weight of each of `ids`; by default 1.
    pub weights: Option<View<'a, f32>>,
}

/// Arguments of [`forward`] and [`forward_backward`]. [`Forward::new`] takes the mandatory ones; `Forward { bias: Some(bias), ..Forward::new(…) }`
/// adds others. Matrices are contiguous.
#[derive(Debug)]
pub struct Forward<'a, T: Float> {
    /// `[T, H]`: the tokens, sentence after sentence
    pub hidden: Matrix<'a, T>,
    /// `[V, H]`: the word embeddings
    pub weight: Matrix<'a, T>,
    /// `[V]`; by default 0.
    pub bias: Option<View<'a, f32>>,
    /// B sentences of T tokens. A sentence may be empty, and has at most 65,536 tokens. Prefix sums out of range are not refused, in no build: they
    /// make their sentence's loss NaN and its gradient 0.
    pub batch: Packed<'a>,
    /// The token ids that each sentence must predict
    pub bags: Bags<'a>,
    /// `[B]`: factor of each sentence's loss and gradient, such as one over the number of sentences. By default 1.
    pub sentence_weights: Option<View<'a, f32>>,
    /// Tokens at the start of each sentence that are left out, by default 0: 1 leaves `[CLS]` out. At most 65,535.
    pub first_position: usize,
    /// Method, by default [`Algorithm::Library`].
    pub algorithm: Algorithm,
    /// `[B]`: weighted loss; 0 where a sentence or its bag is empty
    pub losses: ViewMut<'a, f32>,
    /// [`workspace`] bytes, aligned to 16. A larger one is faster, up to logits of all T rows.
    pub workspace: ViewMut<'a, u8>,
}

impl<'a, T: Float> Forward<'a, T> {
    /// The losses of all sentences.
    #[must_use]
    pub fn new(
        hidden: Matrix<'a, T>,
        weight: Matrix<'a, T>,
        batch: Packed<'a>,
        bags: Bags<'a>,
        losses: ViewMut<'a, f32>,
        workspace: ViewMut<'a, u8>,
    ) -> Self {
        Self {
            hidden,
            weight,
            bias: None,
            batch,
            bags,
            sentence_weights: None,
            first_position: 0,
            algorithm: Algorithm::default(),
            losses,
            workspace,
        }
    }
}

/// Byte offsets of the workspace's arrays; the logits take the rest.
struct Arrays {
    positions: usize,
    logits: usize,
}

impl Arrays {
    fn new(sentences: usize, vocab_size: usize) -> Self {
        let array = |bytes| Workspace::of::<u8>(&[sentences, padded(vocab_size), bytes]).bytes();
        let positions = round_up(array(4), ALIGNMENT);
        Self { positions, logits: round_up(positions.saturating_add(array(2)), ALIGNMENT) }
    }
}

/// Returns the workspace for `sentences` sentences and chunks of `rows` rows of logits, if the algorithm stores any, over a vocabulary of
/// `vocab_size` token ids.
#[must_use]
pub fn workspace(
    algorithm: Algorithm,
    dtype: DType,
    sentences: usize,
    rows: usize,
    vocab_size: usize,
) -> Workspace {
    let logits = match algorithm {
        Algorithm::Library => Workspace::of::<u8>(&[rows, padded(vocab_size), dtype.bytes()]).bytes(),
        Algorithm::Fused => 0,
    };
    Workspace::of::<u8>(&[Arrays::new(sentences, vocab_size).logits.saturating_add(logits)])
}

/// Enqueues the loss of every sentence.
///
/// # Errors
/// When a shape does not fit, the algorithm does not support the type, or the workspace has no room for one row.
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
    check(&forward)?;
    gradients.check(&forward.hidden, &forward.weight)?;
    let params = params(stream, &forward, &gradients)?;
    match forward.algorithm {
        Algorithm::Library => maxima_of_logits::<T>(stream, &params, forward.workspace.len())?,
        Algorithm::Fused => launch::<T>(stream, kernels::BAG_OF_WORDS_MATMUL, &params)?,
    }
    // SAFETY: the lengths were checked.
    unsafe { stream.launch(kernels::BAG_OF_WORDS_LOSS, &params)? };
    if gradients.d_weight.is_some() || gradients.d_bias.is_some() {
        launch::<T>(stream, kernels::BAG_OF_WORDS_WEIGHT, &params)?;
    }
    if gradients.d_hidden.is_some() {
        launch::<T>(stream, kernels::BAG_OF_WORDS_HIDDEN, &params)?;
    }
    Ok(())
}

fn launch<T: Float>(
    stream: &Stream,
    family: Family<BagOfWordsParams>,
    params: &BagOfWordsParams,
) -> Result<()> {
    // SAFETY: the lengths were checked, and the workspace has room for a chunk.
    unsafe { stream.launch(family.of(T::DTYPE)?, params)? };
    Ok(())
}

/// Enqueues the maxima and their tokens, a chunk of logits at a time, in a workspace of this size.
fn maxima_of_logits<T: Float>(
    stream: &Stream,
    params: &BagOfWordsParams,
    workspace_bytes: usize,
) -> Result<()> {
    let (vocabulary, stride) = (params.vocabulary as usize, params.stride as usize);
    let (tokens, hidden_size) = (params.tokens as usize, params.hidden_size as usize);
    let room = workspace_bytes - Arrays::new(params.sentences as usize, vocabulary).logits;
    let chunk = (room / (stride * T::DTYPE.bytes())).min(tokens);
    for start in (0..tokens).step_by(chunk.max(1)) {
        let rows = chunk.min(tokens - start);
        let matmul = logits::Matmul {
            dtype: T::DTYPE,
            hidden: params.hidden + (start * hidden_size * T::DTYPE.bytes()) as u64,
            weight: params.weight,
            logits: params.logits,
            rows,
            vocabulary,
            hidden_size,
        };
        // SAFETY: the lengths were checked, and the workspace has room for the rows.
        unsafe { logits::matmul(stream, matmul)? };
        let part = BagOfWordsParams { first_row: start as u32, rows: rows as u32, ..*params };
        launch::<T>(stream, kernels::BAG_OF_WORDS_MAXIMUM, &part)?;
    }
    Ok(())
}

fn check<T: Float>(forward: &Forward<'_, T>) -> Result<()> {
    let Forward { hidden, weight, batch, bags, algorithm, first_position, workspace, .. } = forward;
    let (vocabulary, hidden_size) = (weight.rows(), weight.columns());
    require_supported(
        *algorithm == Algorithm::Library || T::DTYPE != DType::F32,
        "algorithm",
        format_args!("{algorithm:?}"),
        format_args!("{:?} for f32", Algorithm::Library),
    )?;
    require(
        vocabulary > 0 && vocabulary <= i32::MAX as usize,
        "weight",
        format_args!("[{vocabulary}, {hidden_size}]"),
        "[vocabulary, hidden size], with a vocabulary of at least 1 and below 2^31",
    )?;
    require_rows("weight", weight)?;
    require_count("bags.ids", bags.ids.len())?;
    require(*first_position <= usize::from(u16::MAX), "first_position", first_position, "at most 65535")?;
    require(
        !batch.cu_seqlens.is_empty(),
        "batch.cu_seqlens",
        "empty",
        "one longer than there are sentences",
    )?;
    let sentences = batch.sequences();
    // Each sentence is a row of blocks, and a grid has no more rows.
    require_supported(
        sentences <= SENTENCES_MAX,
        "batch.cu_seqlens",
        format_args!("of {sentences} sentences"),
        format_args!("of at most {SENTENCES_MAX}"),
    )?;
    require(i32::try_from(batch.tokens).is_ok(), "batch.tokens", batch.tokens, "below 2^31")?;
    require_shape("hidden", hidden, [batch.tokens, hidden_size], "tokens, columns of weight")?;
    let optional = |view: &Option<View<'_, f32>>| view.map(|view| view.len());
    for (name, length, expected, meaning) in [
        ("bias", optional(&forward.bias), vocabulary, "rows of weight"),
        ("bags.offsets", Some(bags.offsets.len()), sentences + 1, "sentences + 1"),
        ("bags.weights", optional(&bags.weights), bags.ids.len(), "bags.ids"),
        ("sentence_weights", optional(&forward.sentence_weights), sentences, "sentences"),
        ("losses", Some(forward.losses.len()), sentences, "sentences"),
    ] {
        require_length(name, length.unwrap_or(expected), expected, meaning)?;
    }
    let needed = self::workspace(*algorithm, T::DTYPE, sentences, batch.tokens.min(1), vocabulary).bytes();
    require(
        workspace.len() >= needed,
        "workspace",
        format_args!("{} bytes long", workspace.len()),
        format_args!("at least {needed} (a chunk of one row)"),
    )
}

fn params<T: Float>(
    stream: &Stream,
    forward: &Forward<'_, T>,
    gradients: &Gradients<'_, T>,
) -> Result<BagOfWordsParams> {
    let Forward { weight, batch, bags, .. } = forward;
    let Gradients { d_hidden, d_weight, d_bias } = gradients;
    let (sentences, vocabulary) = (batch.sequences(), weight.rows());
    let arrays = Arrays::new(sentences, vocabulary);
    let workspace = aligned(stream, "workspace", &forward.workspace)?;
    Ok(BagOfWordsParams {
        hidden: contiguous(stream, "hidden", &forward.hidden)?,
        weight: contiguous(stream, "weight", weight)?,
        bias: optional(stream, "bias", forward.bias.as_ref())?,
        cu_seqlens: stream.address("batch.cu_seqlens", &batch.cu_seqlens)?,
        bag_offsets: stream.address("bags.offsets", &bags.offsets)?,
        bag_ids: stream.address("bags.ids", &bags.ids)?,
        bag_weights: optional(stream, "bags.weights", bags.weights.as_ref())?,
        sentence_weights: optional(stream, "sentence_weights", forward.sentence_weights.as_ref())?,
        logits: workspace + arrays.logits as u64,
        maxima: workspace,
        positions: workspace + arrays.positions as u64,
        losses: stream.address("losses", &forward.losses)?,
        d_hidden: optional(stream, "d_hidden", d_hidden.as_ref())?,
        d_weight: optional_aligned(stream, "d_weight", d_weight.as_ref())?,
        d_bias: optional(stream, "d_bias", d_bias.as_ref())?,
        sentences: sentences as u32,
        vocabulary: vocabulary as u32,
        hidden_size: weight.columns() as u32,
        stride: padded(vocabulary) as u32,
        first_position: forward.first_position as u32,
        first_row: 0,
        rows: 0,
        tokens: batch.tokens as u32,
        bag_words: bags.ids.len() as u32,
        has_gradient: u32::from(!gradients.is_empty()),
    })
}
