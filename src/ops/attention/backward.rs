//! The backward pass, in the variant that suits the sentences' lengths.

use super::{Attention, LENGTH_MAX, Rows, RowsMut, forward_params, launch, rows_address, variant};
use crate::device::params::AttentionBackwardParams;
use crate::device::{DType, Family, Float, Kernel, Stream, View, ViewMut, kernels};
use crate::ops::error::require;
use crate::ops::workspace::largest;
use crate::ops::{Result, Workspace};

/// Maximum queries of a sentence that one block handles, where they fit shared memory: more would leave a multiprocessor one block of four warps.
const FUSED_QUERIES_MAX: usize = 256;

/// Arguments of [`backward`]. Tq is the number of queries, T unless [`Attention::queries`] says otherwise.
#[derive(Debug)]
pub struct Backward<'a, T: Float> {
    pub attention: Attention<'a>,
    /// Tq rows.
    pub query: Rows<'a, T>,
    pub key: Rows<'a, T>,
    pub value: Rows<'a, T>,
    /// Tq rows, from the forward pass.
    pub output: Rows<'a, T>,
    /// `[A, Tq]`, from the forward pass.
    pub log_sum_exp: View<'a, f32>,
    /// Gradient of the output, with the output's row stride.
    pub d_output: View<'a, T>,
    /// Tq rows.
    pub d_query: RowsMut<'a, T>,
    pub d_key: RowsMut<'a, T>,
    pub d_value: RowsMut<'a, T>,
    /// At least [`workspace`], for 16-bit types only: with it the query gradients of long sentences are accumulated in global memory by atomics,
    /// which saves two of seven products, but rounds in another order each time. Without it every run gives the same bits.
    pub workspace: Option<ViewMut<'a, u8>>,
    /// Maximum queries of a sentence that one block handles; `None` for the number that suits the device.
    pub fused_queries_max: Option<usize>,
}

/// Returns the workspace of a backward pass over `queries` queries that accumulates by atomics.
#[must_use]
pub fn workspace(queries: usize, num_heads: usize, head_dim: usize) -> Workspace {
    Workspace::of::<f32>(queries * num_heads * head_dim)
}

/// Enqueues the backward pass; each gradient is overwritten.
///
/// # Errors
/// As [`forward`](super::forward); also when the workspace is too small.
pub fn backward<T: Float>(stream: &Stream, arguments: Backward<'_, T>) -> Result<()> {
    let Backward { attention, query, key, value, output, log_sum_exp, d_output, .. } = arguments;
    let Backward { d_query, d_key, d_value, mut workspace, fused_queries_max, .. } = arguments;
    let mut forward = forward_params(stream, &attention, [query, key, value], log_sum_exp.len())?;
    let (queries, tokens) = (attention.query_tokens(), attention.tokens);
    let address = |argument, view: &View<'_, T>, stride, rows| {
        rows_address(stream, argument, view, stride, rows, &attention)
    };
    forward.output = address("output", &output.view, output.stride, queries)?;
    forward.output_stride = output.stride as u32;
    forward.log_sum_exp = stream.address("log_sum_exp", &log_sum_exp)?;
    let mut params = AttentionBackwardParams {
        forward,
        d_output: address("d_output", &d_output, output.stride, queries)?,
        d_query: address("d_query", &d_query.view.as_view(), d_query.stride, queries)?,
        d_key: address("d_key", &d_key.view.as_view(), d_key.stride, tokens)?,
        d_value: address("d_value", &d_value.view.as_view(), d_value.stride, tokens)?,
        accumulator: 0,
        d_query_stride: d_query.stride as u32,
        d_key_stride: d_key.stride as u32,
        d_value_stride: d_value.stride as u32,
        fused_queries_max: 0,
    };
    if let Some(workspace) = &workspace {
        require(T::DTYPE != DType::F32, "workspace", "given", "none, as f32 has no use for it")?;
        let needed = self::workspace(queries, attention.num_heads, attention.head_dim);
        params.accumulator = needed.address(stream, workspace)?;
    }
    let backward = Launches { stream, attention: &attention, dtype: T::DTYPE };
    if T::DTYPE == DType::F32 {
        return backward.tiled(&params);
    }
    if let Some(kernel) = backward.fused() {
        let most = fused_queries_max.unwrap_or(FUSED_QUERIES_MAX);
        params.fused_queries_max = fused_queries(stream, kernel, &params, most);
        if params.fused_queries_max > 0 {
            backward.launch(kernel, &params)?;
            if attention.query_seqlen_max() <= params.fused_queries_max as usize {
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

/// The kernels of one backward pass.
struct Launches<'a> {
    stream: &'a Stream,
    attention: &'a Attention<'a>,
    dtype: DType,
}

type Kernels = Family<AttentionBackwardParams>;

impl Launches<'_> {
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
