//! One post-LayerNorm transformer layer, of the encoder and of either decoder.
//!
//! The layer reads two streams. Queries and the residual come from `query_stream` (H1 in the paper), keys and values
//! from `content_stream` (H2). With both the same it is an ordinary BERT layer.

use super::attention::{self, Attention};
use super::layer_norm::{self, DropoutResidual};
use super::parameters::{Parameters, accumulate, get};
use super::tensor::add_to;
use super::{gelu, linear};
use crate::common::random::Dropout;

/// The three places where a layer drops elements.
#[derive(Clone, Copy, Default)]
pub struct LayerDropout {
    /// On the attention probabilities, before the matmul with the values.
    pub attention_probabilities: Option<Dropout>,
    /// On the output of the attention, before its residual is added.
    pub attention_output: Option<Dropout>,
    /// On the output of the feed-forward network, before its residual is added.
    pub feed_forward_output: Option<Dropout>,
}

/// A layer with its parameters, over one packed batch of sentences.
pub struct Layer<'a> {
    /// Parameters of the model, by their Hugging Face names.
    pub parameters: &'a Parameters,
    /// Prefix of the names of the layer's parameters, final dot included.
    pub prefix: &'a str,
    /// Elements H of a hidden state.
    pub hidden_size: usize,
    /// Term added to the variance in both LayerNorms.
    pub eps: f64,
    /// Attention parameters; `dropout` is replaced by that of [`Self::dropout`].
    pub attention: Attention<'a>,
    /// Dropout at the three places; `default` drops nothing.
    pub dropout: LayerDropout,
}

/// Intermediate results of [`Layer::forward`], in order; `F` is the feed-forward size.
pub struct Activations {
    /// `[T, H]`: `H1 Wq + bq`.
    pub query: Vec<f64>,
    /// `[T, H]`: `H2 Wk + bk`.
    pub key: Vec<f64>,
    /// `[T, H]`: `H2 Wv + bv`.
    pub value: Vec<f64>,
    /// `[T, H]`: the concatenated heads.
    pub context: Vec<f64>,
    /// `[T, H]`: `context Wo`, before its bias.
    pub attention_output: Vec<f64>,
    /// `[T, H]`: `LN(H1 + dropout(attention_output + bo))`.
    pub attended: Vec<f64>,
    /// `[T, F]`: `attended W1`, before its bias.
    pub intermediate: Vec<f64>,
    /// `[T, F]`: `gelu(intermediate + b1)`.
    pub activated: Vec<f64>,
    /// `[T, H]`: `activated W2`, before its bias.
    pub feed_forward_output: Vec<f64>,
    /// `[T, H]`: `LN(attended + dropout(feed_forward_output + b2))`.
    pub output: Vec<f64>,
}

impl Layer<'_> {
    /// Returns the layer's output and all intermediate results; both streams are `[T, H]`.
    #[must_use]
    pub fn forward(&self, query_stream: &[f64], content_stream: &[f64]) -> Activations {
        let query = self.project("query", query_stream);
        let key = self.project("key", content_stream);
        let value = self.project("value", content_stream);
        let context = attention::forward(&self.dropped_attention(), &query, &key, &value).output;
        let attention_output =
            linear::forward(&context, self.get("attention.output.dense.weight"), None, self.hidden_size);
        let attended = layer_norm::dropout_residual_forward(
            &self.attention_block(&attention_output, query_stream),
            self.get("attention.output.LayerNorm.bias"),
        );
        let intermediate =
            linear::forward(&attended, self.get("intermediate.dense.weight"), None, self.hidden_size);
        let activated = gelu::forward(&intermediate, self.get("intermediate.dense.bias"));
        let feed_forward_output =
            linear::forward(&activated, self.get("output.dense.weight"), None, self.intermediate_size());
        let output = layer_norm::dropout_residual_forward(
            &self.feed_forward_block(&feed_forward_output, &attended),
            self.get("output.LayerNorm.bias"),
        );
        Activations {
            query,
            key,
            value,
            context,
            attention_output,
            attended,
            intermediate,
            activated,
            feed_forward_output,
            output,
        }
    }

    /// Returns the gradients `(d_query_stream, d_content_stream)` under `d_output`, all `[T, H]`; those of the parameters are added to
    /// `gradients`.
    #[must_use]
    pub fn backward(
        &self,
        query_stream: &[f64],
        content_stream: &[f64],
        activations: &Activations,
        d_output: &[f64],
        gradients: &mut Parameters,
    ) -> (Vec<f64>, Vec<f64>) {
        let d_attended = self.feed_forward_backward(activations, d_output, gradients);
        let (mut d_query_stream, d_context) =
            self.attention_output_backward(query_stream, activations, &d_attended, gradients);
        let (d_query, d_key, d_value) = attention::backward(
            &self.dropped_attention(),
            &activations.query,
            &activations.key,
            &activations.value,
            &d_context,
        );
        let d_from_query = self.project_backward("query", query_stream, &d_query, gradients);
        add_to(&mut d_query_stream, &d_from_query);
        let mut d_content_stream = self.project_backward("key", content_stream, &d_key, gradients);
        let d_from_value = self.project_backward("value", content_stream, &d_value, gradients);
        add_to(&mut d_content_stream, &d_from_value);
        (d_query_stream, d_content_stream)
    }

    /// Propagates gradients from the layer's output to `attended`.
    fn feed_forward_backward(
        &self,
        activations: &Activations,
        d_output: &[f64],
        gradients: &mut Parameters,
    ) -> Vec<f64> {
        let block = self.feed_forward_block(&activations.feed_forward_output, &activations.attended);
        let d_block = layer_norm::dropout_residual_backward(&block, d_output);
        self.accumulate(gradients, "output.LayerNorm.weight", &d_block.gamma);
        self.accumulate(gradients, "output.LayerNorm.bias", &d_block.beta);
        self.accumulate(gradients, "output.dense.bias", &d_block.bias);
        let weight = self.get("output.dense.weight");
        let (d_activated, d_weight, _) =
            linear::backward(&activations.activated, weight, &d_block.x, self.intermediate_size());
        self.accumulate(gradients, "output.dense.weight", &d_weight);
        let bias = self.get("intermediate.dense.bias");
        let (d_intermediate, d_bias) = gelu::backward(&activations.intermediate, bias, &d_activated);
        self.accumulate(gradients, "intermediate.dense.bias", &d_bias);
        let weight = self.get("intermediate.dense.weight");
        let (mut d_attended, d_weight, _) =
            linear::backward(&activations.attended, weight, &d_intermediate, self.hidden_size);
        self.accumulate(gradients, "intermediate.dense.weight", &d_weight);
        add_to(&mut d_attended, &d_block.residual);
        d_attended
    }

    /// Propagates gradients from `attended` to the residual and to the concatenated heads.
    fn attention_output_backward(
        &self,
        query_stream: &[f64],
        activations: &Activations,
        d_attended: &[f64],
        gradients: &mut Parameters,
    ) -> (Vec<f64>, Vec<f64>) {
        let block = self.attention_block(&activations.attention_output, query_stream);
        let d_block = layer_norm::dropout_residual_backward(&block, d_attended);
        self.accumulate(gradients, "attention.output.LayerNorm.weight", &d_block.gamma);
        self.accumulate(gradients, "attention.output.LayerNorm.bias", &d_block.beta);
        self.accumulate(gradients, "attention.output.dense.bias", &d_block.bias);
        let weight = self.get("attention.output.dense.weight");
        let (d_context, d_weight, _) =
            linear::backward(&activations.context, weight, &d_block.x, self.hidden_size);
        self.accumulate(gradients, "attention.output.dense.weight", &d_weight);
        (d_block.residual, d_context)
    }

    fn project(&self, projection: &str, stream: &[f64]) -> Vec<f64> {
        let weight = self.get(&format!("attention.self.{projection}.weight"));
        let bias = self.get(&format!("attention.self.{projection}.bias"));
        linear::forward(stream, weight, Some(bias), self.hidden_size)
    }

    fn project_backward(
        &self,
        projection: &str,
        stream: &[f64],
        d_projected: &[f64],
        gradients: &mut Parameters,
    ) -> Vec<f64> {
        let name = format!("attention.self.{projection}.weight");
        let (d_stream, d_weight, d_bias) =
            linear::backward(stream, self.get(&name), d_projected, self.hidden_size);
        self.accumulate(gradients, &name, &d_weight);
        self.accumulate(gradients, &format!("attention.self.{projection}.bias"), &d_bias);
        d_stream
    }

    fn attention_block<'b>(&'b self, x: &'b [f64], residual: &'b [f64]) -> DropoutResidual<'b> {
        DropoutResidual {
            x,
            bias: self.get("attention.output.dense.bias"),
            residual,
            gamma: self.get("attention.output.LayerNorm.weight"),
            eps: self.eps,
            dropout: self.dropout.attention_output.as_ref(),
        }
    }

    fn feed_forward_block<'b>(&'b self, x: &'b [f64], residual: &'b [f64]) -> DropoutResidual<'b> {
        DropoutResidual {
            x,
            bias: self.get("output.dense.bias"),
            residual,
            gamma: self.get("output.LayerNorm.weight"),
            eps: self.eps,
            dropout: self.dropout.feed_forward_output.as_ref(),
        }
    }

    fn dropped_attention(&self) -> Attention<'_> {
        Attention { dropout: self.dropout.attention_probabilities.as_ref(), ..self.attention }
    }

    fn intermediate_size(&self) -> usize {
        self.get("intermediate.dense.bias").len()
    }

    fn get(&self, name: &str) -> &[f64] {
        get(self.parameters, &format!("{}{name}", self.prefix))
    }

    fn accumulate(&self, gradients: &mut Parameters, name: &str, gradient: &[f64]) {
        accumulate(gradients, &format!("{}{name}", self.prefix), gradient);
    }
}
