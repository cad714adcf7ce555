//! An unfused training step: encoder, enhanced decoder with embedded queries, both losses, the gradient of every parameter, and AdamW.
//!
//! Sentences are packed, nothing is dropped out, both losses weigh 1. Whole matrices of scores and logits, like the intermediates of each
//! LayerNorm, keep their memory from step to step.

use std::collections::HashMap;

use rayon::prelude::*;
use retromae::model::{AdamW as Hyperparameters, Batch, IGNORE_INDEX, ModelConfig};

use super::adamw::AdamW;
use super::attention::{Attention, dense_mask};
use super::cross_entropy::{self, CrossEntropy};
use super::layer_norm::{self, LayerNorm};
use super::{Matrix, Threads, add_column_sums, dot, product};

const WORD: &str = "bert.embeddings.word_embeddings.weight";
const POSITION: &str = "bert.embeddings.position_embeddings.weight";
const TOKEN_TYPE: &str = "bert.embeddings.token_type_embeddings.weight";
const EMBEDDING_NORM: &str = "bert.embeddings.LayerNorm";
const TRANSFORM: &str = "cls.predictions.transform.dense";
const TRANSFORM_NORM: &str = "cls.predictions.transform.LayerNorm";
const OUTPUT_BIAS: &str = "cls.predictions.bias";

/// The model with its activations, and the batch.
pub struct Step {
    tensors: Tensors,
    pack: Pack,
    embedding: LayerNorm,
    query: LayerNorm,
    content: LayerNorm,
    encoder: Vec<Layer>,
    decoder: Layer,
    encoder_head: Head,
    decoder_head: Head,
    optimizer: HashMap<String, AdamW>,
}

impl Step {
    /// `parameters` are all of the model's by name.
    pub fn new(config: &ModelConfig, parameters: HashMap<String, Vec<f32>>, batch: &Batch) -> Self {
        let lengths: Vec<usize> = (0..batch.num_sentences()).map(|b| batch.sentence(b).len()).collect();
        let bank = batch.visibility.as_ref().expect("the enhanced decoder needs the batch's visibility");
        let norm = || LayerNorm::new(batch.num_tokens(), config.hidden_size);
        let layer = |name: String, mask| Layer {
            name,
            attention: Attention::new(
                &lengths,
                config.num_attention_heads,
                config.head_dim(),
                (config.head_dim() as f32).powf(-0.5),
                mask,
            ),
            context: Vec::new(),
            attention_norm: norm(),
            intermediate: Vec::new(),
            activated: Vec::new(),
            output_norm: norm(),
        };
        let encoder = |index| layer(format!("bert.encoder.layer.{index}"), None);
        Self {
            pack: Pack::new(batch),
            embedding: norm(),
            query: norm(),
            content: norm(),
            encoder: (0..config.num_hidden_layers).map(encoder).collect(),
            decoder: layer("decoder".into(), Some(dense_mask(bank, &lengths))),
            encoder_head: Head::new(config, &batch.encoder_labels),
            decoder_head: Head::new(config, &batch.decoder_labels),
            optimizer: HashMap::new(),
            tensors: Tensors {
                parameters,
                gradients: HashMap::new(),
                columns: config.hidden_size,
                eps: config.layer_norm_eps,
            },
        }
    }

    /// Forward and backward: the losses of encoder and decoder.
    pub fn run(&mut self) -> [f32; 2] {
        self.tensors.gradients.clear();
        self.encode();
        let hidden = &self.encoder.last().expect("an encoder has layers").output_norm.output;
        let sentence = gather(hidden, &self.pack.first_rows, self.tensors.columns);
        let (encoder_loss, mut d_hidden) = self.encoder_head.run(&mut self.tensors, hidden);
        let (decoder_loss, d_sentence) = self.decode(&sentence);
        scatter_add(&mut d_hidden, &self.pack.first_rows, &d_sentence, self.tensors.columns);
        self.encode_backward(d_hidden);
        [encoder_loss, decoder_loss]
    }

    /// Clips the gradients and takes a step of AdamW; matrices decay, biases and LayerNorm weights do not.
    pub fn update(&mut self, hyperparameters: &Hyperparameters, learning_rate: f64, update: u32) {
        let Tensors { parameters, gradients, .. } = &mut self.tensors;
        let squares = gradients.values().map(|values| dot(values, values)).sum::<f32>();
        let schedule = hyperparameters.schedule(learning_rate, update).expect("a rate and a step in range");
        for (name, parameter) in parameters {
            let Some(gradient) = gradients.get(name) else { continue };
            let decays = name.ends_with("weight") && !name.contains("LayerNorm");
            let state = self.optimizer.entry(name.clone()).or_insert_with(|| AdamW::new(gradient.len()));
            let decayed = if decays { parameter.len() } else { 0 };
            state.step(parameter, gradient, squares.sqrt(), hyperparameters, schedule, decayed);
        }
    }

    /// Of the latest step.
    pub fn gradient(&self, name: &str) -> &[f32] {
        &self.tensors.gradients[name]
    }

    fn encode(&mut self) {
        let tensors = &self.tensors;
        let words = gather(tensors.get(WORD), &self.pack.encoder_ids, tensors.columns);
        embed(&mut self.embedding, tensors, &words, &self.pack.slots);
        let mut input = &self.embedding.output;
        for layer in &mut self.encoder {
            layer.forward(tensors, input, input);
            input = &layer.output_norm.output;
        }
    }

    fn encode_backward(&mut self, mut d_hidden: Vec<f32>) {
        for index in (0..self.encoder.len()).rev() {
            let (before, rest) = self.encoder.split_at_mut(index);
            let input = before.last().map_or(&self.embedding, |layer| &layer.output_norm).output.as_slice();
            let (d_query, d_content) = rest[0].backward(&mut self.tensors, input, input, &d_hidden);
            d_hidden = d_query;
            add(&mut d_hidden, &d_content);
        }
        embed_backward(&mut self.embedding, &mut self.tensors, &d_hidden, &self.pack.slots);
        let columns = self.tensors.columns;
        let d_words = &self.embedding.d_input;
        scatter_add(self.tensors.gradient(WORD), &self.pack.encoder_ids, d_words, columns);
    }

    /// From the sentence vectors `[B, H]` to the loss and back to their gradient.
    fn decode(&mut self, sentence: &[f32]) -> (f32, Vec<f32>) {
        let Self { tensors, pack, query, content, decoder, decoder_head, .. } = self;
        let columns = tensors.columns;
        embed(query, tensors, &gather(sentence, &pack.sentence_of, columns), &pack.slots);
        embed(content, tensors, &gather(tensors.get(WORD), &pack.decoder_ids, columns), &pack.slots);
        let mut content_stream = content.output.clone();
        for (&row, vector) in pack.first_rows.iter().zip(sentence.chunks_exact(columns)) {
            content_stream[row * columns..][..columns].copy_from_slice(vector);
        }
        decoder.forward(tensors, &query.output, &content_stream);
        let (loss, d_hidden) = decoder_head.run(tensors, &decoder.output_norm.output);

        let (d_query, mut d_content) = decoder.backward(tensors, &query.output, &content_stream, &d_hidden);
        let mut d_sentence = gather(&d_content, &pack.first_rows, columns);
        for row in &pack.first_rows {
            d_content[row * columns..][..columns].fill(0.0);
        }
        embed_backward(content, tensors, &d_content, &pack.slots);
        scatter_add(tensors.gradient(WORD), &pack.decoder_ids, &content.d_input, columns);
        embed_backward(query, tensors, &d_query, &pack.slots);
        scatter_add(&mut d_sentence, &pack.sentence_of, &query.d_input, columns);
        (loss, d_sentence)
    }
}

/// Parameters by name, gradients as they come up.
struct Tensors {
    parameters: HashMap<String, Vec<f32>>,
    gradients: HashMap<String, Vec<f32>>,
    /// hidden size
    columns: usize,
    eps: f32,
}

impl Tensors {
    fn get(&self, name: &str) -> &[f32] {
        self.parameters.get(name).unwrap_or_else(|| panic!("there is no parameter {name}"))
    }

    /// Zero if there is none yet.
    fn gradient(&mut self, name: &str) -> &mut [f32] {
        let length = self.get(name).len();
        self.gradients.entry(name.into()).or_insert_with(|| vec![0.0; length])
    }

    fn add_gradient(&mut self, name: String, gradient: Vec<f32>) {
        match self.gradients.get_mut(&name) {
            Some(sum) => add(sum, &gradient),
            None => drop(self.gradients.insert(name, gradient)),
        }
    }

    fn norm<'a>(
        &'a self,
        name: &str,
        input: &'a [f32],
        bias: Option<&'a [f32]>,
        residual: Option<&'a [f32]>,
    ) -> layer_norm::Operands<'a> {
        let [gamma, beta] = ["weight", "bias"].map(|part| self.get(&format!("{name}.{part}")));
        layer_norm::Operands {
            input,
            bias,
            residual,
            gamma,
            beta,
            d_output: &[],
            eps: self.eps,
            dropout: None,
        }
    }

    /// Backward of the normalisation called `name`; the gradient of its bias, if any, is left in `norm`.
    fn norm_backward(&mut self, name: &str, norm: &mut LayerNorm, bias: Option<&[f32]>, d_output: &[f32]) {
        norm.backward(&layer_norm::Operands { d_output, ..self.norm(name, &[], bias, None) });
        self.add_gradient(format!("{name}.weight"), norm.d_gamma.clone());
        self.add_gradient(format!("{name}.bias"), norm.d_beta.clone());
    }
}

/// What each packed token is made of.
struct Pack {
    encoder_ids: Vec<usize>,
    decoder_ids: Vec<usize>,
    /// `[T]`: position in the sentence
    slots: Vec<usize>,
    /// `[T]`
    sentence_of: Vec<usize>,
    /// `[B]`: row of slot 0
    first_rows: Vec<usize>,
}

impl Pack {
    fn new(batch: &Batch) -> Self {
        let sentences = || (0..batch.num_sentences()).map(|b| (b, batch.sentence(b)));
        let indices = |ids: &[i32]| ids.iter().map(|&id| id as usize).collect();
        Self {
            encoder_ids: indices(&batch.encoder_input_ids),
            decoder_ids: indices(&batch.decoder_input_ids),
            slots: sentences().flat_map(|(_, tokens)| 0..tokens.len()).collect(),
            sentence_of: sentences().flat_map(|(b, tokens)| tokens.map(move |_| b)).collect(),
            first_rows: sentences().map(|(_, tokens)| tokens.start).collect(),
        }
    }
}

/// `LN(rows + type[0] + position[slot])`, all tokens being of type 0.
fn embed(norm: &mut LayerNorm, tensors: &Tensors, rows: &[f32], slots: &[usize]) {
    let positions = gather(tensors.get(POSITION), slots, tensors.columns);
    let token_type = &tensors.get(TOKEN_TYPE)[..tensors.columns];
    norm.forward(&tensors.norm(EMBEDDING_NORM, rows, Some(token_type), Some(&positions)));
}

/// Leaves the gradient of the rows in `norm.d_input`.
fn embed_backward(norm: &mut LayerNorm, tensors: &mut Tensors, d_output: &[f32], slots: &[usize]) {
    let columns = tensors.columns;
    tensors.norm_backward(EMBEDDING_NORM, norm, Some(&[]), d_output);
    add(&mut tensors.gradient(TOKEN_TYPE)[..columns], &norm.d_bias);
    scatter_add(tensors.gradient(POSITION), slots, &norm.d_input, columns);
}

/// A transformer layer: queries and the residual come from one stream, keys and values from another.
struct Layer {
    name: String,
    attention: Attention,
    /// `[T, H]`: the concatenated heads
    context: Vec<f32>,
    attention_norm: LayerNorm,
    /// `[T, F]`: before GELU
    intermediate: Vec<f32>,
    /// `[T, F]`: after
    activated: Vec<f32>,
    /// Its output is the layer's.
    output_norm: LayerNorm,
}

impl Layer {
    fn part(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    fn forward(&mut self, tensors: &Tensors, query_stream: &[f32], content_stream: &[f32]) {
        let project = |part: &str, stream: &[f32]| {
            biased_linear(tensors, &self.part(&format!("attention.self.{part}")), stream)
        };
        let [query, key, value] = [
            project("query", query_stream),
            project("key", content_stream),
            project("value", content_stream),
        ];
        self.attention.set_inputs([&query, &key, &value]);
        self.attention.forward();
        self.context = self.attention.output();
        let name = self.part("attention.output");
        block_end(&mut self.attention_norm, tensors, &name, &self.context, query_stream);
        let attended = &self.attention_norm.output;
        self.intermediate = biased_linear(tensors, &self.part("intermediate.dense"), attended);
        self.activated = gelu(&self.intermediate);
        let name = self.part("output");
        block_end(&mut self.output_norm, tensors, &name, &self.activated, attended);
    }

    /// Gradients of both streams, after [`Layer::forward`] of the same streams.
    fn backward(
        &mut self,
        tensors: &mut Tensors,
        query_stream: &[f32],
        content_stream: &[f32],
        d_output: &[f32],
    ) -> (Vec<f32>, Vec<f32>) {
        let name = self.part("output");
        let mut d_wide = block_end_backward(&mut self.output_norm, tensors, &name, &self.activated, d_output);
        gelu_backward(&self.intermediate, &mut d_wide);
        let name = self.part("intermediate.dense");
        let mut d_attended = biased_linear_backward(tensors, &name, &self.attention_norm.output, &d_wide);
        add(&mut d_attended, &self.output_norm.d_input);
        let name = self.part("attention.output");
        let d_context =
            block_end_backward(&mut self.attention_norm, tensors, &name, &self.context, &d_attended);
        self.attention.set_d_output(&d_context);
        self.attention.backward();
        let [d_query, d_key, d_value] = self.attention.d_inputs();
        let mut project_backward = |part: &str, stream: &[f32], d_output: &[f32]| {
            let name = self.part(&format!("attention.self.{part}"));
            biased_linear_backward(tensors, &name, stream, d_output)
        };
        let mut d_query_stream = project_backward("query", query_stream, &d_query);
        add(&mut d_query_stream, &self.attention_norm.d_input);
        let mut d_content_stream = project_backward("key", content_stream, &d_key);
        add(&mut d_content_stream, &project_backward("value", content_stream, &d_value));
        (d_query_stream, d_content_stream)
    }
}

/// `LN(residual + input · weightᵀ + bias)`
fn block_end(norm: &mut LayerNorm, tensors: &Tensors, name: &str, input: &[f32], residual: &[f32]) {
    let projected = linear(tensors, &format!("{name}.dense"), input);
    let bias = tensors.get(&format!("{name}.dense.bias"));
    norm.forward(&tensors.norm(&format!("{name}.LayerNorm"), &projected, Some(bias), Some(residual)));
}

/// The gradient of the input; that of the residual is left in `norm.d_input`.
fn block_end_backward(
    norm: &mut LayerNorm,
    tensors: &mut Tensors,
    name: &str,
    input: &[f32],
    d_output: &[f32],
) -> Vec<f32> {
    tensors.norm_backward(&format!("{name}.LayerNorm"), norm, Some(&[]), d_output);
    tensors.add_gradient(format!("{name}.dense.bias"), norm.d_bias.clone());
    linear_backward(tensors, &format!("{name}.dense"), input, &norm.d_input)
}

/// The masked-language-model head over the labelled rows of one stack.
struct Head {
    /// `[M]`: the labelled rows
    rows: Vec<usize>,
    /// `[M]`
    targets: Vec<i32>,
    /// `[M]`: 1/M
    row_weights: Vec<f32>,
    norm: LayerNorm,
    output: CrossEntropy,
}

impl Head {
    fn new(config: &ModelConfig, labels: &[i32]) -> Self {
        let rows: Vec<usize> = (0..labels.len()).filter(|&row| labels[row] != IGNORE_INDEX).collect();
        Self {
            targets: rows.iter().map(|&row| labels[row]).collect(),
            row_weights: vec![1.0 / rows.len() as f32; rows.len()],
            norm: LayerNorm::new(rows.len(), config.hidden_size),
            output: CrossEntropy::new(rows.len(), config.hidden_size, config.vocab_size),
            rows,
        }
    }

    /// The mean loss, and its gradient by `hidden`, `[T, H]`.
    fn run(&mut self, tensors: &mut Tensors, hidden: &[f32]) -> (f32, Vec<f32>) {
        let rows = gather(hidden, &self.rows, tensors.columns);
        let transformed = biased_linear(tensors, TRANSFORM, &rows);
        self.norm.forward(&tensors.norm(TRANSFORM_NORM, &gelu(&transformed), None, None));
        let operands = cross_entropy::Operands {
            hidden: &self.norm.output,
            weight: tensors.get(WORD),
            bias: tensors.get(OUTPUT_BIAS),
            targets: &self.targets,
            row_weights: &self.row_weights,
        };
        self.output.forward_backward(&operands);
        tensors.add_gradient(WORD.into(), self.output.d_weight.clone());
        tensors.add_gradient(OUTPUT_BIAS.into(), self.output.d_bias.clone());
        tensors.norm_backward(TRANSFORM_NORM, &mut self.norm, None, &self.output.d_hidden);
        let mut d_transformed = self.norm.d_input.clone();
        gelu_backward(&transformed, &mut d_transformed);
        let d_rows = biased_linear_backward(tensors, TRANSFORM, &rows, &d_transformed);
        let mut d_hidden = vec![0.0; hidden.len()];
        scatter_add(&mut d_hidden, &self.rows, &d_rows, tensors.columns);
        (self.output.losses.iter().sum(), d_hidden)
    }
}

/// `input · weightᵀ`; the layer's bias tells its width.
fn linear(tensors: &Tensors, name: &str, input: &[f32]) -> Vec<f32> {
    let [weight, bias] = ["weight", "bias"].map(|part| tensors.get(&format!("{name}.{part}")));
    let columns = weight.len() / bias.len();
    let mut output = vec![0.0; input.len() / columns * bias.len()];
    let (input, weight) = (Matrix::new(input, columns), Matrix::new(weight, columns));
    product(&mut output, input, weight.transposed(), Threads::All);
    output
}

fn biased_linear(tensors: &Tensors, name: &str, input: &[f32]) -> Vec<f32> {
    let mut output = linear(tensors, name, input);
    let bias = tensors.get(&format!("{name}.bias"));
    output.par_chunks_exact_mut(bias.len()).for_each(|row| {
        row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
    });
    output
}

/// The gradient of the input.
fn linear_backward(tensors: &mut Tensors, name: &str, input: &[f32], d_output: &[f32]) -> Vec<f32> {
    let [weight, bias] = ["weight", "bias"].map(|part| tensors.get(&format!("{name}.{part}")));
    let columns = weight.len() / bias.len();
    let (mut d_input, mut d_weight) = (vec![0.0; input.len()], vec![0.0; weight.len()]);
    let d_output = Matrix::new(d_output, bias.len());
    product(&mut d_input, d_output, Matrix::new(weight, columns), Threads::All);
    product(&mut d_weight, d_output.transposed(), Matrix::new(input, columns), Threads::All);
    tensors.add_gradient(format!("{name}.weight"), d_weight);
    d_input
}

fn biased_linear_backward(tensors: &mut Tensors, name: &str, input: &[f32], d_output: &[f32]) -> Vec<f32> {
    add_column_sums(tensors.gradient(&format!("{name}.bias")), d_output);
    linear_backward(tensors, name, input, d_output)
}

unsafe extern "C" {
    safe fn erff(x: f32) -> f32;
}

/// Φ, the distribution function of the normal distribution.
fn normal_cdf(x: f32) -> f32 {
    0.5 * (1.0 + erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

fn gelu(input: &[f32]) -> Vec<f32> {
    input.par_iter().with_min_len(4096).map(|&x| x * normal_cdf(x)).collect()
}

/// From the gradient of the output to that of the input, in place.
fn gelu_backward(input: &[f32], d: &mut [f32]) {
    const FRAC_1_SQRT_2_PI: f32 = 0.398_942_3;
    let derivative = |x: f32| normal_cdf(x) + x * FRAC_1_SQRT_2_PI * (-0.5 * x * x).exp();
    d.par_iter_mut().zip(input).with_min_len(4096).for_each(|(d, &x)| *d *= derivative(x));
}

fn add(sum: &mut [f32], values: &[f32]) {
    let chunks = sum.par_chunks_mut(4096).zip(values.par_chunks(4096));
    chunks.for_each(|(sum, values)| sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value));
}

/// The rows of a table.
fn gather(table: &[f32], rows: &[usize], columns: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(rows.len() * columns);
    rows.iter().for_each(|&row| values.extend_from_slice(&table[row * columns..][..columns]));
    values
}

/// Adds each row of `values` to a row of `table`.
fn scatter_add(table: &mut [f32], rows: &[usize], values: &[f32], columns: usize) {
    for (&row, values) in rows.iter().zip(values.chunks_exact(columns)) {
        let sums = &mut table[row * columns..][..columns];
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
}
