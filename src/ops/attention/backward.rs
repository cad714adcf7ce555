//! The backward pass, in the variant that suits the sentences' lengths.

use super::{Attention, LENGTH_MAX, forward_params, launch, variant};
use crate::device::params::AttentionBackwardParams;
use crate::device::{DType, Family, Float, Kernel, Matrix, MatrixMut, Stream, View, ViewMut, kernels};
use crate::ops::error::{require, require_supported};
use crate::ops::workspace::largest;
use crate::ops::{Result, Workspace};

/// Maximum queries of a sentence that one block handles, where they fit shared memory: more would leave a multiprocessor one block of four warps.
const FUSED_QUERIES_MAX: usize = 256;

/// Arguments of [`backward`]: shapes and rows as in [`Forward`](super::Forward).
#[derive(Debug)]
pub struct Backward<'a, T: Float> {
    /// The same as in the forward pass, with the same random state if it has dropout.
    pub attention: Attention<'a>,
    /// `[Tq, A·d]`
    pub query: Matrix<'a, T>,
    /// `[T, A·d]`
    pub key: Matrix<'a, T>,
    /// `[T, A·d]`
    pub value: Matrix<'a, T>,
    /// `[Tq, A·d]`, from the forward pass.
    pub output: Matrix<'a, T>,
    /// `[A, Tq]`, from the forward pass.
    pub log_sum_exp: View<'a, f32>,
    /// `[Tq, A·d]`: gradient of the output, with the output's row stride.
    pub d_output: Matrix<'a, T>,
    /// `[Tq, A·d]`
    pub d_query: MatrixMut<'a, T>,
    /// `[T, A·d]`
    pub d_key: MatrixMut<'a, T>,
    /// `[T, A·d]`
    pub d_value: MatrixMut<'a, T>,
    /// Choices with a default, [`BackwardOptions::default`].
    pub options: BackwardOptions<'a>,
}

/// Choices of the backward pass that have a default: the same bits in every run, and the kernels that suit the device.
#[derive(Debug, Default)]
pub struct BackwardOptions<'a> {
    /// At least [`workspace`], for 16-bit types only: with it the query gradients of long sentences are accumulated in global memory by atomics,
    /// which saves two of seven matmuls, but rounds in another order each time. Without it every run gives the same bits.
    pub workspace: Option<ViewMut<'a, u8>>,
    /// Maximum queries of a sentence that one block handles; `None` for the number that suits the device.
    pub fused_queries_max: Option<usize>,
}

/// Returns the workspace of a backward pass over `queries` queries that accumulates by atomics.
#[must_use]
pub fn workspace(queries: usize, num_heads: usize, head_dim: usize) -> Workspace {
    Workspace::of::<f32>(&[queries, num_heads, head_dim])
}

/// Enqueues the backward pass; each gradient is overwritten.
///
/// # Errors
/// As [`forward`](super::forward); also when the workspace is too small, or the strides of `output` and `d_output` differ.
pub fn backward<T: Float>(stream: &Stream, arguments: Backward<'_, T>) -> Result<()> {
    let Backward { attention, query, key, value, output, log_sum_exp, d_output, .. } = arguments;
    let Backward { d_query, d_key, d_value, options, .. } = arguments;
    let BackwardOptions { mut workspace, fused_queries_max } = options;
    let mut forward = forward_params(stream, &attention, [query, key, value], log_sum_exp.len())?;
    let (keys, queries) = (attention.batch, attention.query_batch());
    forward.output = attention.rows_address(stream, "output", &output, queries)?;
    forward.output_stride = output.stride() as u32;
    forward.log_sum_exp = stream.address("log_sum_exp", &log_sum_exp)?;
    let d_output_address = attention.rows_address(stream, "d_output", &d_output, queries)?;
    require(
        d_output.stride() == output.stride(),
        "d_output",
        format_args!("strided by {} elements", d_output.stride()),
        format_args!("strided by {}, as output", output.stride()),
    )?;
    let mut params = AttentionBackwardParams {
        forward,
        d_output: d_output_address,
        d_query: attention.rows_address(stream, "d_query", &d_query, queries)?,
        d_key: attention.rows_address(stream, "d_key", &d_key, keys)?,
        d_value: attention.rows_address(stream, "d_value", &d_value, keys)?,
        accumulator: 0,
        d_query_stride: d_query.stride() as u32,
        d_key_stride: d_key.stride() as u32,
        d_value_stride: d_value.stride() as u32,
        fused_queries_max: 0,
    };
    if let Some(workspace) = &workspace {
        require_supported(T::DTYPE != DType::F32, "workspace", "given", "none, as f32 has no use for it")?;
        let needed = self::workspace(queries.tokens, attention.num_heads, attention.head_dim);
        params.accumulator = needed.address(stream, workspace)?;
    }
    let backward = BackwardPass { stream, attention: &attention, dtype: T::DTYPE };
    if T::DTYPE == DType::F32 {
        return backward.tiled(&params);
    }
    if let Some(kernel) = backward.fused() {
        let most = fused_queries_max.unwrap_or(FUSED_QUERIES_MAX);
        params.fused_queries_max = fused_queries(stream, kernel, &params, most);
        if params.fused_queries_max > 0 {
            backward.launch(kernel, &params)?;
            if queries.max_seqlen <= params.fused_queries_max as usize {
                return Ok(());
            }
        }
    }
    backward.by_head(kernels::ATTENTION_BACKWARD_DELTA, &params)?;
    match &mut workspace {
        None => backward.tiled(&params),
        Some(workspace) => {
            stream.zero(workspace.reborrow())?;
            backward.atomic(&params)
        }
    }
}

/// Returns the maximum queries of a sentence that one block may handle, at most `most`: as many as fit its shared memory.
fn fused_queries(
    stream: &Stream,
    kernel: Kernel<AttentionBackwardParams>,
    params: &AttentionBackwardParams,
    most: usize,
) -> u32 {
    let granted = stream.device().shared_bytes_max();
    let fits = |queries: usize| {
        let params = AttentionBackwardParams { fused_queries_max: queries as u32, ..*params };
        kernel.shape(&params).is_ok_and(|shape| shape.shared_bytes <= granted)
    };
    largest(most.min(LENGTH_MAX), fits) as u32
}

/// Stream, attention and type of one backward pass, whose kernels the methods launch.
struct BackwardPass<'a> {
    stream: &'a Stream,
    attention: &'a Attention<'a>,
    dtype: DType,
}

type Kernels = Family<AttentionBackwardParams>;

impl BackwardPass<'_> {
    fn launch(
        &self,
        kernel: Kernel<AttentionBackwardParams>,
        params: &AttentionBackwardParams,
    ) -> Result<()> {
        // SAFETY: as in `forward`.
        unsafe { launch(self.stream, self.attention, kernel, params) }
    }

    /// Launches the family's kernel for the head size.
    fn by_head(&self, family: Kernels, params: &AttentionBackwardParams) -> Result<()> {
        self.launch(family.of_head(self.dtype, self.attention.head_dim)?, params)
    }

    /// Launches the full or the masked kernel, as the mask requires.
    fn by_mask(&self, full: Kernels, masked: Kernels, params: &AttentionBackwardParams) -> Result<()> {
        self.by_head(variant(self.attention, full, masked), params)
    }

    /// Returns the kernel whose blocks handle a sentence each, if one is built for the head size.
    fn fused(&self) -> Option<Kernel<AttentionBackwardParams>> {
        let (full, masked) =
            (kernels::ATTENTION_BACKWARD_FUSED_FULL, kernels::ATTENTION_BACKWARD_FUSED_MASKED);
        variant(self.attention, full, masked).find(self.dtype, Some(self.attention.head_dim))
    }

    fn tiled(&self, params: &AttentionBackwardParams) -> Result<()> {
        self.by_mask(
            kernels::ATTENTION_BACKWARD_KEY_VALUE_FULL,
            kernels::ATTENTION_BACKWARD_KEY_VALUE_MASKED,
            params,
        )?;
        self.by_mask(kernels::ATTENTION_BACKWARD_QUERY_FULL, kernels::ATTENTION_BACKWARD_QUERY_MASKED, params)
    }

    fn atomic(&self, params: &AttentionBackwardParams) -> Result<()> {
        self.by_mask(
            kernels::ATTENTION_BACKWARD_ATOMIC_FULL,
            kernels::ATTENTION_BACKWARD_ATOMIC_MASKED,
            params,
        )?;
        self.by_head(kernels::ATTENTION_BACKWARD_CONVERT, params)
    }
}
