//! Masked attention over packed sentences: `O = dropout(softmax(scale · Q Kᵀ + mask)) V`, a head and a sentence at a time.
//!
//! Queries may come from another stream than keys and values (RetroMAE's enhanced decoding, arXiv 2205.12035, section 3.3), and may be fewer or
//! more; each operand is a view with its own row stride, so a packed projection is read in place. bf16 and f16 run on tensor cores with sums in
//! f32; f32 is exact, on the FMA units.

mod backward;
mod mask;

pub use backward::{Backward, backward, workspace};
pub use mask::Mask;

use super::dropout::{Dropout, dropout_params};
use super::error::{aligned, require, require_length};
use super::{Error, Result};
use crate::device::params::AttentionForwardParams;
use crate::device::{self, DType, Family, Float, Kernel, Stream, View, ViewMut, kernels};

/// Head sizes that the kernels are built for.
pub const HEAD_DIMS: [usize; 4] = kernels::ATTENTION_FORWARD_FULL.head_dims(DType::F32);
/// Maximum sentence length: ranks and rows are 16-bit numbers, and dropout has 16 bits for a group of 16 keys.
pub const LENGTH_MAX: usize = 65_536;

/// Shape of a packed batch of sentences, and parameters of the scores.
///
/// Values in device memory cannot be checked without waiting for them. In builds with debug assertions the operations do wait, and refuse values
/// out of range, unless the stream is being captured. In all builds nothing outside the arguments is read or written, whatever the values: the
/// rows of a sentence whose prefix sums decrease, exceed the batch or exceed `max_seqlen` come out as NaN, and so do their gradients.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// `[B + 1]` prefix sums of the sentence lengths, from 0 to at most T; rows after the last one belong to no sentence: they see nothing, and
    /// no query sees them.
    pub cu_seqlens: View<'a, i32>,
    /// T, the tokens of the packed batch: rows of keys and values. Below 2^31.
    pub tokens: usize,
    /// Length of the longest sentence, at most [`LENGTH_MAX`].
    pub max_seqlen: usize,
    /// Queries that are packed separately; `None` for one query per token.
    pub queries: Option<Queries<'a>>,
    /// Number of heads A.
    pub num_heads: usize,
    /// Head size d: one of [`HEAD_DIMS`].
    pub head_dim: usize,
    /// Factor of the scores, usually `1 / √d`; above 0.
    pub scale: f32,
    pub mask: Mask<'a>,
    /// Dropout on the probabilities. A decision belongs to a head, the query's token (its sentence's first token plus its slot) and the key's
    /// slot.
    pub dropout: Option<Dropout<'a>>,
}

/// Queries that are packed separately: some tokens of each sentence, or another sequence altogether.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// `[B + 1]` prefix sums of the numbers of queries of each sentence, from 0 to at most `tokens`.
    pub cu_seqlens: View<'a, i32>,
    /// Rows of queries and outputs. Below 2^31.
    pub tokens: usize,
    /// Maximum number of queries of a sentence.
    pub max_seqlen: usize,
    /// `[tokens]`: slot of each query in its sentence, which masks and dropout use; 0, 1, … where `None`. Under a mask, a query at a slot that
    /// has no key sees nothing.
    pub slots: Option<View<'a, i32>>,
}

/// `[rows, A·d]` within rows of `stride` elements; head `h` begins at column `h·d`. Rows are aligned to 16 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, T: Float> {
    pub view: View<'a, T>,
    pub stride: usize,
}

/// As [`Rows`], mutable.
#[derive(Debug)]
pub struct RowsMut<'a, T: Float> {
    pub view: ViewMut<'a, T>,
    pub stride: usize,
}

impl<'a, T: Float> Rows<'a, T> {
    /// Splits a packed projection `[T, N·columns]` into its operands, each `columns` wide.
    #[must_use]
    pub fn packed<const N: usize>(view: View<'a, T>, columns: usize) -> [Self; N] {
        std::array::from_fn(|i| {
            let start = (i * columns).min(view.len());
            Self { view: view.slice(start..view.len()), stride: N * columns }
        })
    }
}

impl<'a, T: Float> RowsMut<'a, T> {
    /// Splits the gradients of a packed projection `[T, N·columns]`, each `columns` wide: their rows interleave and never overlap.
    #[must_use]
    pub fn packed<const N: usize>(view: ViewMut<'a, T>, columns: usize) -> [Self; N] {
        std::array::from_fn(|i| {
            let start = (i * columns).min(view.len());
            Self { view: view.interleaved(start), stride: N * columns }
        })
    }
}

/// Arguments of [`forward`]. Tq is the number of queries, T unless [`Attention::queries`] says otherwise.
#[derive(Debug)]
pub struct Forward<'a, T: Float> {
    pub attention: Attention<'a>,
    /// Tq rows.
    pub query: Rows<'a, T>,
    pub key: Rows<'a, T>,
    pub value: Rows<'a, T>,
    /// Tq rows; zero for a query that sees nothing.
    pub output: RowsMut<'a, T>,
    /// `[A, Tq]`, natural logarithm of the sum of the exponentials of a row's scores; −∞ for a query that sees nothing
    pub log_sum_exp: ViewMut<'a, f32>,
}

/// Enqueues the forward pass.
///
/// # Errors
/// When the head size is not built, or a length, stride or alignment does not fit. With debug assertions also when values in device memory
/// (`cu_seqlens`, slots, rows of a mask) are out of range, see [`Attention`].
pub fn forward<T: Float>(stream: &Stream, arguments: Forward<'_, T>) -> Result<()> {
    let Forward { attention, query, key, value, output, log_sum_exp } = arguments;
    let mut params = forward_params(stream, &attention, [query, key, value], log_sum_exp.len())?;
    params.output = rows_address(
        stream,
        "output",
        &output.view.as_view(),
        output.stride,
        attention.query_tokens(),
        &attention,
    )?;
    params.output_stride = output.stride as u32;
    params.log_sum_exp = stream.address("log_sum_exp", &log_sum_exp)?;
    let kernel = variant(&attention, kernels::ATTENTION_FORWARD_FULL, kernels::ATTENTION_FORWARD_MASKED);
    let kernel = kernel.of_head(T::DTYPE, attention.head_dim)?;
    // SAFETY: every array was checked for the rows of its stride; the kernel checks the indices that it reads from device memory.
    unsafe { launch(stream, &attention, kernel, &params) }
}

impl Attention<'_> {
    fn query_tokens(&self) -> usize {
        self.queries.map_or(self.tokens, |queries| queries.tokens)
    }

    fn query_seqlen_max(&self) -> usize {
        self.queries.map_or(self.max_seqlen, |queries| queries.max_seqlen)
    }

    fn is_masked(&self) -> bool {
        !matches!(self.mask, Mask::Full)
    }

    fn sentences(&self) -> usize {
        self.cu_seqlens.len() - 1
    }
}

/// Returns the kernels of attention without a mask, or of masked attention.
fn variant<P>(attention: &Attention<'_>, full: Family<P>, masked: Family<P>) -> Family<P> {
    if attention.is_masked() { masked } else { full }
}

/// Launches a kernel; refuses arguments that make its launch too large for a device.
///
/// # Safety
/// As [`Stream::launch`].
unsafe fn launch<P: Copy>(
    stream: &Stream,
    attention: &Attention<'_>,
    kernel: Kernel<P>,
    params: &P,
) -> Result<()> {
    let shape = match kernel.shape(params) {
        Err(device::Error::Launch { argument: "grid", actual, .. }) => {
            return require(
                false,
                "tokens",
                attention.tokens,
                format_args!("fewer: {actual} blocks are too many for one launch"),
            );
        }
        shape => shape?,
    };
    let granted = stream.device().shared_bytes_max();
    require(
        shape.shared_bytes <= granted || !matches!(attention.mask, Mask::Generated { .. }),
        "max_seqlen",
        attention.max_seqlen,
        format_args!(
            "shorter: a generated mask would need {} bytes of shared memory, of {granted} that a block may have",
            shape.shared_bytes
        ),
    )?;
    // SAFETY: passed on to the caller.
    unsafe { stream.launch_shape(kernel.name(), shape, params)? };
    Ok(())
}

/// Checks everything that does not depend on an operand's type.
fn check_shape(attention: &Attention<'_>, log_sum_exp: usize) -> Result<()> {
    let Attention { tokens, max_seqlen, num_heads, .. } = *attention;
    require((1..=usize::from(u16::MAX)).contains(&num_heads), "num_heads", num_heads, "in 1..=65535")?;
    let built = HEAD_DIMS.contains(&attention.head_dim);
    require(built, "head_dim", attention.head_dim, format_args!("one of {HEAD_DIMS:?}"))?;
    require(!attention.cu_seqlens.is_empty(), "cu_seqlens", "empty", "B + 1 prefix sums")?;
    for (argument, tokens) in [("tokens", tokens), ("queries.tokens", attention.query_tokens())] {
        require(i32::try_from(tokens).is_ok(), argument, tokens, "below 2^31")?;
    }
    let positive = attention.scale.is_finite() && attention.scale > 0.0;
    require(positive, "scale", attention.scale, "finite and above 0")?;
    check_length("max_seqlen", max_seqlen, tokens)?;
    if let Some(queries) = attention.queries {
        require_length(
            "queries.cu_seqlens",
            queries.cu_seqlens.len(),
            attention.cu_seqlens.len(),
            "sentences + 1",
        )?;
        check_length("queries.max_seqlen", queries.max_seqlen, queries.tokens)?;
        if let Some(slots) = queries.slots {
            require_length("queries.slots", slots.len(), queries.tokens, "queries")?;
        }
    }
    let rows = num_heads * attention.query_tokens();
    require_length("log_sum_exp", log_sum_exp, rows, "heads · queries")
}

fn check_length(argument: &'static str, longest: usize, tokens: usize) -> Result<()> {
    let most = tokens.min(LENGTH_MAX);
    require(
        longest <= most,
        argument,
        longest,
        format_args!("at most {most} ({tokens} tokens, and never above {LENGTH_MAX})"),
    )
}

/// Returns the params without output and log-sum-exp.
fn forward_params<T: Float>(
    stream: &Stream,
    attention: &Attention<'_>,
    [query, key, value]: [Rows<'_, T>; 3],
    log_sum_exp: usize,
) -> Result<AttentionForwardParams> {
    check_shape(attention, log_sum_exp)?;
    let (tokens, query_tokens) = (attention.tokens, attention.query_tokens());
    let address = |argument, rows: Rows<'_, T>, count| {
        rows_address(stream, argument, &rows.view, rows.stride, count, attention)
    };
    let cu_seqlens = stream.address("cu_seqlens", &attention.cu_seqlens)?;
    let mut params = AttentionForwardParams {
        query: address("query", query, query_tokens)?,
        key: address("key", key, tokens)?,
        value: address("value", value, tokens)?,
        query_cu_seqlens: cu_seqlens,
        key_cu_seqlens: cu_seqlens,
        query_stride: query.stride as u32,
        key_stride: key.stride as u32,
        value_stride: value.stride as u32,
        queries: query_tokens as u32,
        sentences: attention.sentences() as u32,
        heads: attention.num_heads as u32,
        scale: attention.scale,
        keys: tokens as u32,
        query_seqlen_max: attention.query_seqlen_max() as u32,
        key_seqlen_max: attention.max_seqlen as u32,
        mask: mask::mask_params(stream, attention)?,
        dropout: dropout_params(stream, attention.dropout)?,
        ..AttentionForwardParams::default()
    };
    if let Some(queries) = attention.queries {
        params.query_cu_seqlens = stream.address("queries.cu_seqlens", &queries.cu_seqlens)?;
        if let Some(slots) = queries.slots {
            params.query_slots = stream.address("queries.slots", &slots)?;
        }
    }
    // A stream that is being captured has no values yet.
    if cfg!(debug_assertions) && !stream.is_capturing()? {
        stream.synchronize()?;
        check_values(attention)?;
    }
    Ok(params)
}

/// Reads back the values in device memory, and refuses those that a kernel cannot use.
fn check_values(attention: &Attention<'_>) -> Result<()> {
    let keys = check_bounds("cu_seqlens", attention.cu_seqlens, attention.tokens, attention.max_seqlen)?;
    if let Some(Queries { cu_seqlens, tokens, max_seqlen, slots }) = attention.queries {
        let queries = check_bounds("queries.cu_seqlens", cu_seqlens, tokens, max_seqlen)?;
        let slots = slots.map(|slots| slots.read()).transpose()?;
        let mut start = 0;
        for (sentence, (&queries, &keys)) in queries.iter().zip(&keys).enumerate() {
            let highest = slots.as_ref().map_or(queries, |slots| {
                let own = &slots[start..start + queries];
                own.iter().map(|&slot| slot as u32 as usize + 1).max().unwrap_or(0)
            });
            require(
                highest <= keys || !attention.is_masked(),
                "queries.slots",
                format_args!("up to {} in sentence {sentence}", highest.wrapping_sub(1)),
                format_args!("below {keys} (its length)"),
            )?;
            start += queries;
        }
    }
    mask::check(attention, &keys)
}

/// Returns the lengths that prefix sums in device memory stand for.
fn check_bounds(
    argument: &'static str,
    bounds: View<'_, i32>,
    tokens: usize,
    longest: usize,
) -> Result<Vec<usize>> {
    let bounds = bounds.read()?;
    let mut lengths = Vec::with_capacity(bounds.len() - 1);
    for (sentence, pair) in bounds.windows(2).enumerate() {
        let rises = pair[0] >= 0 && pair[1] >= pair[0] && (pair[1] - pair[0]) as usize <= longest;
        require(
            rises,
            argument,
            format_args!("{} to {} in sentence {sentence}", pair[0], pair[1]),
            format_args!("rising by 0 to {longest} (the longest sentence)"),
        )?;
        lengths.push((pair[1] - pair[0]) as usize);
    }
    let ends = (bounds[0], bounds[bounds.len() - 1]);
    require(
        ends.0 == 0 && ends.1 as usize <= tokens,
        argument,
        format_args!("from {} to {}", ends.0, ends.1),
        format_args!("from 0 to at most {tokens} (tokens)"),
    )?;
    Ok(lengths)
}

/// Returns the address of rows that a kernel may read or write in pieces of 16 bytes.
fn rows_address<T: Float>(
    stream: &Stream,
    argument: &'static str,
    view: &View<'_, T>,
    stride: usize,
    rows: usize,
    attention: &Attention<'_>,
) -> Result<u64> {
    let columns = attention.num_heads * attention.head_dim;
    if stride < columns || !stride.is_multiple_of(8) || stride > u32::MAX as usize {
        return Err(Error::Argument {
            argument,
            actual: format!("strided by {stride} elements"),
            expected: format!("strided by a multiple of 8 from {columns} (heads · head size) up"),
        });
    }
    // The last row may end with its columns, before its stride.
    let needed = if rows == 0 { 0 } else { (rows - 1) * stride + columns };
    require(
        view.len() >= needed,
        argument,
        format_args!("{} elements long", view.len()),
        format_args!("at least {needed} ({rows} rows)"),
    )?;
    aligned(stream, argument, view)
}
