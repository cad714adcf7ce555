//! A transformer layer: queries and the residual come from one stream, keys and values from another.

use retromae::device::{Buffer, ModelFloat, Stream, View};
use retromae::model::ModelConfig;
use retromae::ops::Result;

use super::super::attention::Attention;
use super::super::layer_norm::LayerNorm;
use super::super::{Dropout, passes};
use super::arena::Arena;

/// Gradients within a layer.
pub struct Scratch<T: ModelFloat> {
    /// `[T, F]`
    wide: Buffer<T>,
    /// `[T, H]` each
    attended: Buffer<T>,
    context: Buffer<T>,
    query_key_value: [Buffer<T>; 3],
}

impl<T: ModelFloat> Scratch<T> {
    pub fn new(stream: &Stream, config: &ModelConfig, tokens: usize) -> Result<Self> {
        let matrix = || stream.device().zeros(tokens * config.hidden_size);
        Ok(Self {
            wide: stream.device().zeros(tokens * config.intermediate_size)?,
            attended: matrix()?,
            context: matrix()?,
            query_key_value: [matrix()?, matrix()?, matrix()?],
        })
    }
}

const PROJECTIONS: [&str; 3] = ["query", "key", "value"];

pub struct Layer<T: ModelFloat> {
    name: String,
    columns: usize,
    query_key_value: [Buffer<T>; 3],
    attention: Attention<T>,
    /// `[T, H]`: the concatenated heads
    context: Buffer<T>,
    /// `[T, H]`: before bias, dropout, residual and LayerNorm
    projected: Buffer<T>,
    attention_norm: LayerNorm<T>,
    /// `[T, F]`: before GELU
    intermediate: Buffer<T>,
    /// `[T, F]`: after GELU
    activated: Buffer<T>,
    output_norm: LayerNorm<T>,
}

impl<T: ModelFloat> Layer<T> {
    /// Allocates a layer; `dropouts` follow the attention block and the feed-forward block.
    pub fn new(
        stream: &Stream,
        name: String,
        config: &ModelConfig,
        tokens: usize,
        attention: Attention<T>,
        dropouts: [Option<Dropout>; 2],
    ) -> Result<Self> {
        let device = stream.device();
        let (columns, eps) = (config.hidden_size, config.layer_norm_eps);
        let matrix = || device.zeros(tokens * columns);
        let wide = || device.zeros(tokens * config.intermediate_size);
        let [attention_norm, output_norm] =
            dropouts.map(|dropout| LayerNorm::new(stream, tokens, columns, dropout, eps));
        Ok(Self {
            name,
            columns,
            query_key_value: [matrix()?, matrix()?, matrix()?],
            attention,
            context: matrix()?,
            projected: matrix()?,
            attention_norm: attention_norm?,
            intermediate: wide()?,
            activated: wide()?,
            output_norm: output_norm?,
        })
    }

    fn part(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    /// `[T, H]`
    pub fn output(&self) -> View<'_, T> {
        self.output_norm.output.view()
    }

    pub fn forward(
        &mut self,
        stream: &Stream,
        arena: &Arena<T>,
        query_stream: View<'_, T>,
        content_stream: View<'_, T>,
    ) -> Result<()> {
        for (index, input) in [query_stream, content_stream, content_stream].into_iter().enumerate() {
            let name = self.part(&format!("attention.self.{}", PROJECTIONS[index]));
            arena.biased_linear(stream, &name, input, self.query_key_value[index].view_mut())?;
        }
        let [query, key, value] =
            self.query_key_value.each_ref().map(|rows| rows.view().rows_of(self.columns));
        let context = self.context.view_mut().rows_of(self.columns)?;
        self.attention.forward(stream, [query?, key?, value?], context)?;
        let name = self.part("attention.output");
        block_end(
            stream,
            arena,
            &name,
            self.context.view(),
            query_stream,
            &mut self.projected,
            &mut self.attention_norm,
        )?;
        let attended = self.attention_norm.output.view();
        let name = self.part("intermediate.dense");
        arena.biased_linear(stream, &name, attended, self.intermediate.view_mut())?;
        passes::gelu(stream, self.intermediate.view(), self.activated.view_mut())?;
        let name = self.part("output");
        block_end(
            stream,
            arena,
            &name,
            self.activated.view(),
            attended,
            &mut self.projected,
            &mut self.output_norm,
        )
    }

    /// Writes the gradients of both streams; call after [`Layer::forward`] of the same streams.
    pub fn backward(
        &mut self,
        stream: &Stream,
        arena: &mut Arena<T>,
        scratch: &mut Scratch<T>,
        [query_stream, content_stream]: [View<'_, T>; 2],
        d_output: View<'_, T>,
        [d_query, d_content]: [&mut Buffer<T>; 2],
    ) -> Result<()> {
        let Scratch { wide, attended, context, query_key_value, .. } = scratch;
        let name = self.part("output");
        let activated = self.activated.view();
        block_end_backward(stream, arena, &name, activated, d_output, &mut self.output_norm, wide)?;
        passes::gelu_backward(stream, self.intermediate.view(), wide.view_mut())?;
        let name = self.part("intermediate.dense");
        arena.bias_gradient(stream, &name, wide.view())?;
        let input = self.attention_norm.output.view();
        arena.linear_backward(stream, &name, input, wide.view(), attended.view_mut(), false)?;
        passes::add_to(stream, attended.view_mut(), self.output_norm.d_residual.view())?;
        let name = self.part("attention.output");
        let d_attended = attended.view();
        block_end_backward(
            stream,
            arena,
            &name,
            self.context.view(),
            d_attended,
            &mut self.attention_norm,
            context,
        )?;
        let [query, key, value] =
            query_key_value.each_mut().map(|rows| rows.view_mut().rows_of(self.columns));
        let d_context = context.view().rows_of(self.columns)?;
        self.attention.backward(stream, d_context, [query?, key?, value?])?;
        for (index, input) in [query_stream, content_stream, content_stream].into_iter().enumerate() {
            let name = self.part(&format!("attention.self.{}", PROJECTIONS[index]));
            let d_output = query_key_value[index].view();
            arena.bias_gradient(stream, &name, d_output)?;
            let d_input = if index == 0 { d_query.view_mut() } else { d_content.view_mut() };
            arena.linear_backward(stream, &name, input, d_output, d_input, index == 2)?;
        }
        passes::add_to(stream, d_query.view_mut(), self.attention_norm.d_residual.view())
    }
}

/// `LN(residual + dropout(input · weightᵀ + bias))`
fn block_end<T: ModelFloat>(
    stream: &Stream,
    arena: &Arena<T>,
    name: &str,
    input: View<'_, T>,
    residual: View<'_, T>,
    projected: &mut Buffer<T>,
    norm: &mut LayerNorm<T>,
) -> Result<()> {
    arena.linear(stream, &format!("{name}.dense"), input, projected.view_mut())?;
    let parameters = arena.norm(&format!("{name}.LayerNorm"), Some(&format!("{name}.dense.bias")));
    norm.forward(stream, parameters, projected.view(), Some(residual))
}

/// Computes the gradient of the input; that of the residual is left in `norm`.
fn block_end_backward<T: ModelFloat>(
    stream: &Stream,
    arena: &mut Arena<T>,
    name: &str,
    input: View<'_, T>,
    d_output: View<'_, T>,
    norm: &mut LayerNorm<T>,
    d_input: &mut Buffer<T>,
) -> Result<()> {
    let (norm_name, bias) = (format!("{name}.LayerNorm"), format!("{name}.dense.bias"));
    norm.backward(stream, arena.norm(&norm_name, Some(&bias)), d_output)?;
    arena.add_norm_gradients(stream, &norm_name, Some(&bias), norm)?;
    let d_projected = norm.d_input().view();
    arena.linear_backward(stream, &format!("{name}.dense"), input, d_projected, d_input.view_mut(), false)
}
