//! Masked attention over packed sentences: `O = dropout(softmax(scale · Q Kᵀ + mask)) V`, a head and a sentence at a time.
//!
//! Queries may come from another stream than keys and values (RetroMAE's enhanced decoding, arXiv 2205.12035, section 3.3), and may be fewer or
//! more; each operand is a matrix with its own row stride, so a packed projection is read in place. bf16 and f16 run on tensor cores with sums in
//! f32; f32 is exact, on the FMA units.
//!
//! `examples/02_attention_with_your_own_mask.rs` and `examples/03_two_stream_attention.rs` run it.

mod backward;
mod mask;
mod mask_bits;

pub use backward::{Backward, BackwardOptions, backward, workspace};
pub use mask::Mask;
pub use mask_bits::{MaskBits, MaskBuffer};

use super::dropout::{Dropout, dropout_params};
use super::error::{
    COLUMN_GROUP, aligned, optional, require, require_alignment, require_length, require_shape,
    require_supported,
};
use super::{Packed, Result};
use crate::device::params::AttentionForwardParams;
use crate::device::{
    self, DType, Family, Float, Kernel, Matrix, MatrixMemory, MatrixMut, Stream, View, ViewMut, kernels,
};

/// Head sizes that the kernels are built for.
pub const HEAD_DIMS: [usize; 4] = kernels::ATTENTION_FORWARD_FULL.head_dims(DType::F32);
/// Maximum sentence length: orders and rows are 16-bit numbers, and dropout has 16 bits for a group of 16 keys.
pub const LENGTH_MAX: usize = 65_536;

/// A packed batch of keys and values, the queries that read them, and parameters of the scores.
///
/// ```
/// use retromae::device::Device;
/// use retromae::ops::PackedBatch;
/// use retromae::ops::attention::{self, Attention, Mask};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Device::host()?;
/// // Two sentences of 3 and 2 tokens, 2 heads of 32 columns; queries, keys and values side by side, as a linear layer gives them.
/// let batch = PackedBatch::new(&device, &[3, 2])?;
/// let projection = device.upload(&[0.5f32; 5 * 3 * 64])?;
/// let [query, key, value] = projection.matrix(5, 3 * 64)?.split_columns();
/// let (mut output, mut log_sum_exp) = (device.zeros::<f32>(5 * 64)?, device.zeros(2 * 5)?);
/// let forward = attention::Forward {
///     attention: Attention::new(batch.view(), 2, 32).mask(Mask::CAUSAL),
///     query,
///     key,
///     value,
///     output: output.matrix_mut(5, 64)?,
///     log_sum_exp: log_sum_exp.view_mut(),
/// };
/// attention::forward(&device.stream(), forward)?;
/// // Equal values have themselves as their mean.
/// assert!(output.read()?.iter().all(|value| (value - 0.5).abs() < 1e-6));
/// # Ok(())
/// # }
/// ```
///
/// Values in device memory (prefix sums, positions, masks) are checked as [`Packed`] says. In all builds the rows of a sentence whose prefix sums
/// decrease, exceed the batch or exceed `max_seqlen` come out as NaN, and so do their gradients.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Sentences of keys and values, each of at most [`LENGTH_MAX`] tokens; rows after the last sentence see nothing, and no query sees them.
    pub batch: Packed<'a>,
    /// Queries that are packed separately; `None` for one query per token.
    pub queries: Option<Queries<'a>>,
    /// Number of heads A.
    pub num_heads: usize,
    /// Head size d: one of [`HEAD_DIMS`].
    pub head_dim: usize,
    /// Factor of the scores; above 0.
    pub scale: f32,
    /// Keys that each query sees; [`Mask::Full`] by default.
    pub mask: Mask<'a>,
    /// Dropout on the probabilities. A decision belongs to a head, the query's token (its sentence's first token plus its position) and the key's
    /// position.
    pub dropout: Option<Dropout<'a>>,
}

/// Queries that are packed separately: some tokens of each sentence, or another sequence altogether.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// As many sentences as the batch of keys; its rows are those of queries and outputs.
    pub packed: Packed<'a>,
    /// `[tokens]`: position of each query in its sentence, which masks and dropout use; 0, 1, … where `None`. Under a mask, a query at a position
    /// that has no key sees nothing.
    pub positions: Option<View<'a, i32>>,
}

impl<'a> Attention<'a> {
    /// Attention of each token to all tokens of its sentence: scores times `1 / √d`, no mask, no dropout.
    #[must_use]
    pub fn new(batch: Packed<'a>, num_heads: usize, head_dim: usize) -> Self {
        let scale = (head_dim as f32).sqrt().recip();
        Self { batch, queries: None, num_heads, head_dim, scale, mask: Mask::Full, dropout: None }
    }

    /// Sets the keys that a query sees.
    #[must_use]
    pub fn mask(self, mask: Mask<'a>) -> Self {
        Self { mask, ..self }
    }

    /// Sets the factor of the scores.
    #[must_use]
    pub fn scale(self, scale: f32) -> Self {
        Self { scale, ..self }
    }

    /// Sets the dropout on the probabilities.
    #[must_use]
    pub fn dropout(self, dropout: impl Into<Option<Dropout<'a>>>) -> Self {
        Self { dropout: dropout.into(), ..self }
    }

    /// Sets queries that are packed separately.
    #[must_use]
    pub fn queries(self, queries: impl Into<Option<Queries<'a>>>) -> Self {
        Self { queries: queries.into(), ..self }
    }

    /// Returns the packed batch of the queries.
    fn query_batch(&self) -> Packed<'a> {
        self.queries.map_or(self.batch, |queries| queries.packed)
    }

    fn is_masked(&self) -> bool {
        !matches!(self.mask, Mask::Full)
    }
}

/// Arguments of [`forward`]. Tq is the number of queries, T unless [`Attention::queries`] says otherwise.
///
/// Head `h` of a row of A·d columns begins at column `h·d`. Rows may lie apart, such as those of a packed projection; addresses and strides are
/// multiples of 16 bytes.
#[derive(Debug)]
pub struct Forward<'a, T: Float> {
    /// Sentences, heads, scale, mask and dropout.
    pub attention: Attention<'a>,
    /// `[Tq, A·d]`
    pub query: Matrix<'a, T>,
    /// `[T, A·d]`
    pub key: Matrix<'a, T>,
    /// `[T, A·d]`
    pub value: Matrix<'a, T>,
    /// `[Tq, A·d]`; zero for a query that sees nothing.
    pub output: MatrixMut<'a, T>,
    /// `[A, Tq]`: natural logarithm of the sum of the exponentials of a row's scores; −∞ for a query that sees nothing.
    pub log_sum_exp: ViewMut<'a, f32>,
}

/// Enqueues the forward pass.
///
/// # Errors
/// When the head size is not built, or a shape, stride or alignment does not fit. With debug assertions also when values in device memory
/// are out of range, see [`Attention`].
pub fn forward<T: Float>(stream: &Stream, arguments: Forward<'_, T>) -> Result<()> {
    let Forward { attention, query, key, value, output, log_sum_exp } = arguments;
    let mut params = forward_params(stream, &attention, [query, key, value], log_sum_exp.len())?;
    params.output = attention.rows_address(stream, "output", &output, attention.query_batch())?;
    params.output_stride = output.stride() as u32;
    params.log_sum_exp = stream.address("log_sum_exp", &log_sum_exp)?;
    let kernel = variant(&attention, kernels::ATTENTION_FORWARD_FULL, kernels::ATTENTION_FORWARD_MASKED);
    let kernel = kernel.of_head(T::DTYPE, attention.head_dim)?;
    // SAFETY: every array was checked for the rows of its stride; the kernel checks the indices that it reads from device memory.
    unsafe { launch(stream, &attention, kernel, &params) }
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
            return require_supported(
                false,
                "batch.tokens",
                attention.batch.tokens,
                format_args!("fewer: {actual} blocks are too many for one launch"),
            );
        }
        shape => shape?,
    };
    let granted = stream.device().shared_bytes_max();
    require_supported(
        shape.shared_bytes <= granted || !matches!(attention.mask, Mask::Generated { .. }),
        "batch.max_seqlen",
        attention.batch.max_seqlen,
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
    let Attention { batch, num_heads, .. } = *attention;
    require((1..=usize::from(u16::MAX)).contains(&num_heads), "num_heads", num_heads, "in 1..=65535")?;
    let built = HEAD_DIMS.contains(&attention.head_dim);
    require_supported(built, "head_dim", attention.head_dim, format_args!("one of {HEAD_DIMS:?}"))?;
    require(!batch.cu_seqlens.is_empty(), "batch.cu_seqlens", "empty", "B + 1 prefix sums")?;
    for (argument, tokens) in
        [("batch.tokens", batch.tokens), ("queries.tokens", attention.query_batch().tokens)]
    {
        require(i32::try_from(tokens).is_ok(), argument, tokens, "below 2^31")?;
    }
    let positive = attention.scale.is_finite() && attention.scale > 0.0;
    require(positive, "scale", attention.scale, "finite and above 0")?;
    check_length("batch.max_seqlen", batch)?;
    if let Some(Queries { packed, positions }) = attention.queries {
        let bounds = batch.cu_seqlens.len();
        require_length("queries.cu_seqlens", packed.cu_seqlens.len(), bounds, "sentences + 1")?;
        check_length("queries.max_seqlen", packed)?;
        if let Some(positions) = positions {
            require_length("queries.positions", positions.len(), packed.tokens, "queries")?;
        }
    }
    let rows = num_heads * attention.query_batch().tokens;
    require_length("log_sum_exp", log_sum_exp, rows, "heads · queries")
}

fn check_length(argument: &'static str, Packed { tokens, max_seqlen, .. }: Packed<'_>) -> Result<()> {
    let most = tokens.min(LENGTH_MAX);
    require(
        max_seqlen <= most,
        argument,
        max_seqlen,
        format_args!("at most {most} ({tokens} tokens, and never above {LENGTH_MAX})"),
    )
}

/// Returns the params without output and log-sum-exp.
fn forward_params<T: Float>(
    stream: &Stream,
    attention: &Attention<'_>,
    [query, key, value]: [Matrix<'_, T>; 3],
    log_sum_exp: usize,
) -> Result<AttentionForwardParams> {
    check_shape(attention, log_sum_exp)?;
    let (keys, queries) = (attention.batch, attention.query_batch());
    let address =
        |argument, matrix: &Matrix<'_, T>, rows| attention.rows_address(stream, argument, matrix, rows);
    let cu_seqlens = stream.address("batch.cu_seqlens", &keys.cu_seqlens)?;
    let mut params = AttentionForwardParams {
        query: address("query", &query, queries)?,
        key: address("key", &key, keys)?,
        value: address("value", &value, keys)?,
        query_cu_seqlens: cu_seqlens,
        key_cu_seqlens: cu_seqlens,
        query_stride: query.stride() as u32,
        key_stride: key.stride() as u32,
        value_stride: value.stride() as u32,
        queries: queries.tokens as u32,
        sentences: keys.sequences() as u32,
        heads: attention.num_heads as u32,
        scale: attention.scale,
        keys: keys.tokens as u32,
        query_seqlen_max: queries.max_seqlen as u32,
        key_seqlen_max: keys.max_seqlen as u32,
        mask: mask::mask_params(stream, attention)?,
        dropout: dropout_params(stream, attention.dropout)?,
        ..AttentionForwardParams::default()
    };
    if let Some(Queries { packed, positions }) = attention.queries {
        params.query_cu_seqlens = stream.address("queries.cu_seqlens", &packed.cu_seqlens)?;
        params.query_positions = optional(stream, "queries.positions", positions.as_ref())?;
    }
    // Values of a GPU have to be waited for, which is for debug builds alone. A stream that is being captured has none yet.
    let is_checked = cfg!(debug_assertions) || stream.device().name() == "host";
    if is_checked && !stream.is_capturing()? {
        stream.synchronize()?;
        check_values(attention)?;
    }
    Ok(params)
}

/// Reads back the values in device memory, and refuses those that a kernel cannot use.
fn check_values(attention: &Attention<'_>) -> Result<()> {
    let keys = check_bounds("batch.cu_seqlens", attention.batch)?;
    if let Some(Queries { packed, positions }) = attention.queries {
        let queries = check_bounds("queries.cu_seqlens", packed)?;
        let positions = positions.map(|positions| positions.read()).transpose()?;
        let mut start = 0;
        for (sentence, (&queries, &keys)) in queries.iter().zip(&keys).enumerate() {
            let highest = positions.as_ref().map_or(queries, |positions| {
                let own = &positions[start..start + queries];
                own.iter().map(|&position| position as u32 as usize + 1).max().unwrap_or(0)
            });
            require(
                highest <= keys || !attention.is_masked(),
                "queries.positions",
                format_args!("up to {} in sentence {sentence}", highest.wrapping_sub(1)),
                format_args!("below {keys} (its length)"),
            )?;
            start += queries;
        }
    }
    mask::check(attention, &keys)
}

/// Returns the lengths that prefix sums in device memory stand for.
fn check_bounds(argument: &'static str, packed: Packed<'_>) -> Result<Vec<usize>> {
    let Packed { cu_seqlens, tokens, max_seqlen } = packed;
    let bounds = cu_seqlens.read()?;
    let mut lengths = Vec::with_capacity(bounds.len() - 1);
    for (sentence, pair) in bounds.windows(2).enumerate() {
        let rises = pair[0] >= 0 && pair[1] >= pair[0] && (pair[1] - pair[0]) as usize <= max_seqlen;
        require(
            rises,
            argument,
            format_args!("{} to {} in sentence {sentence}", pair[0], pair[1]),
            format_args!("rising by 0 to {max_seqlen} (the longest sentence)"),
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

impl Attention<'_> {
    /// Returns the address of a matrix `[tokens, A·d]` of a batch, whose rows a kernel reads or writes in pieces of 16 bytes.
    fn rows_address<M: MatrixMemory>(
        &self,
        stream: &Stream,
        argument: &'static str,
        matrix: &M,
        batch: Packed<'_>,
    ) -> Result<u64> {
        let columns = self.num_heads * self.head_dim;
        require_shape(argument, matrix, [batch.tokens, columns], "tokens, heads · head size")?;
        let stride = matrix.shape().stride;
        require_alignment(
            stride.is_multiple_of(COLUMN_GROUP) && stride <= u32::MAX as usize,
            argument,
            format_args!("strided by {stride} elements"),
            format_args!("strided by a multiple of {COLUMN_GROUP} below 2^32"),
        )?;
        aligned(stream, argument, matrix)
    }
}
