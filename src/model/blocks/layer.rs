//! A transformer layer. The encoder's layers and the basic decoder attend within one stream; the enhanced decoder takes its queries from a second
//! stream.

use super::attention::{Attention, Streams};
use super::feed_forward::FeedForward;
use crate::device::{Device, Matrix, MatrixMut, ModelFloat};
use crate::model::context::Context;
use crate::model::parameter_table::ParameterTable;
use crate::model::scratch::Scratch;
use crate::model::{Capacity, ModelConfig};
use crate::ops::Result;
use crate::ops::attention::Mask;

/// Attention and feed-forward network: `BertLayer`.
#[derive(Debug)]
pub(in crate::model) struct Layer<T: ModelFloat> {
    attention: Attention<T>,
    feed_forward: FeedForward<T>,
}

impl<T: ModelFloat> Layer<T> {
    /// Adds the layer's parameters to the table, their names beginning with `name`. Layer number `index` has dropout sites of its own.
    pub(in crate::model) fn new(
        device: &Device,
        table: &mut ParameterTable,
        name: &str,
        sizes: (&ModelConfig, Capacity),
        index: usize,
    ) -> Result<Self> {
        Ok(Self {
            attention: Attention::new(device, table, name, sizes, index)?,
            feed_forward: FeedForward::new(device, table, name, sizes, index)?,
        })
    }

    /// `[T, H]` output of the last batch.
    pub(in crate::model) fn output(&self, rows: usize) -> Matrix<'_, T> {
        self.feed_forward.output(rows)
    }

    /// Runs the layer.
    pub(in crate::model) fn forward(
        &mut self,
        context: &Context<'_, T>,
        streams: Streams<'_, T>,
        mask: Mask<'_>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        self.attention.forward(context, streams, mask, scratch)?;
        self.feed_forward.forward(context, self.attention.output(streams.query.rows()), scratch)
    }

    /// Propagates `d_output` to the streams: writes `d_query`, and `d_content` where there are two.
    pub(in crate::model) fn backward(
        &self,
        context: &mut Context<'_, T>,
        inputs: (Streams<'_, T>, Mask<'_>),
        d_output: Matrix<'_, T>,
        d_query: MatrixMut<'_, T>,
        d_content: Option<MatrixMut<'_, T>>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let input = self.attention.output(d_output.rows());
        self.feed_forward.backward(context, input, d_output, scratch)?;
        self.attention.backward(context, inputs, d_query, d_content, scratch)
    }
}
