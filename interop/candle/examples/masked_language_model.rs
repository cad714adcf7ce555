//! A small masked language model in candle's own loop: candle's layers and its AdamW, with attention and loss of retromae. It learns from this project's
//! documentation, whose sentences are packed without padding.
//!
//!     cargo run --release --example masked_language_model

use std::collections::HashMap;

use candle_core::{DType, Device, Error, Result, Tensor};
use candle_nn::{
    AdamW, Embedding, Init, LayerNorm, Linear, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap,
    layer_norm, linear, ops::layer_norm_slow,
};
use retromae_candle::{Attention, LinearCrossEntropy, PackedBatch};

const TEXTS: [&str; 2] =
    [include_str!("../../../docs/architecture.md"), include_str!("../../../docs/model.md")];
const HIDDEN: usize = 64;
const HEADS: usize = 2;
const LAYERS: usize = 2;
/// Maximum tokens of a sentence.
const LENGTH_MAX: usize = 48;
const STEPS: usize = 160;
const SENTENCES: usize = 16;
/// Ids that stand for no word of the text; those of words begin after them.
const CLS: u32 = 0;
const SEP: u32 = 1;
const MASK: u32 = 2;
const UNKNOWN: u32 = 3;
const IGNORED: i64 = -100;

/// One post-LayerNorm layer of BERT.
struct Layer {
    projection: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
}

impl Layer {
    fn new(builder: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            projection: linear(HIDDEN, 3 * HIDDEN, builder.pp("projection"))?,
            attention_output: linear(HIDDEN, HIDDEN, builder.pp("attention_output"))?,
            attention_norm: layer_norm(HIDDEN, 1e-12, builder.pp("attention_norm"))?,
            intermediate: linear(HIDDEN, 4 * HIDDEN, builder.pp("intermediate"))?,
            output: linear(4 * HIDDEN, HIDDEN, builder.pp("output"))?,
            output_norm: layer_norm(HIDDEN, 1e-12, builder.pp("output_norm"))?,
        })
    }

    fn forward(&self, input: &Tensor, attention: &Attention) -> Result<Tensor> {
        let tokens = input.dim(0)?;
        // Queries, keys and values lie side by side and are read in place.
        let projection = self.projection.forward(input)?.reshape((tokens, 3, HEADS, HIDDEN / HEADS))?;
        let part = |index| projection.narrow(1, index, 1)?.squeeze(1);
        let context = attention.forward(&part(0)?, &part(1)?, &part(2)?)?.reshape((tokens, HIDDEN))?;
        let attended = norm(&self.attention_norm, &(input + self.attention_output.forward(&context)?)?)?;
        let activation = self.intermediate.forward(&attended)?.gelu_erf()?;
        norm(&self.output_norm, &(&attended + self.output.forward(&activation)?)?)
    }
}

/// Candle's fused LayerNorm has no gradient; this one has.
fn norm(layer: &LayerNorm, input: &Tensor) -> Result<Tensor> {
    layer_norm_slow(input, layer.weight(), layer.bias().expect("a bias"), 1e-12)
}

struct Model {
    words: Embedding,
    positions: Embedding,
    norm: LayerNorm,
    layers: Vec<Layer>,
    bias: Tensor,
}

impl Model {
    fn new(vocab_size: usize, builder: VarBuilder<'_>) -> Result<Self> {
        let embeddings = |name, count| {
            let init = Init::Randn { mean: 0.0, stdev: 0.02 };
            Ok::<_, Error>(Embedding::new(builder.get_with_hints((count, HIDDEN), name, init)?, HIDDEN))
        };
        let layers = (0..LAYERS).map(|layer| Layer::new(builder.pp(format!("layer.{layer}"))));
        Ok(Self {
            words: embeddings("words", vocab_size)?,
            positions: embeddings("positions", LENGTH_MAX)?,
            norm: layer_norm(HIDDEN, 1e-12, builder.pp("norm"))?,
            layers: layers.collect::<Result<_>>()?,
            bias: builder.get_with_hints(vocab_size, "bias", candle_nn::init::ZERO)?,
        })
    }

    /// The mean loss of the masked words.
    fn loss(&self, batch: &Batch) -> Result<Tensor> {
        let device = self.bias.device();
        let packed = PackedBatch::new(&batch.lengths, device)?;
        let positions: Vec<u32> = batch.lengths.iter().flat_map(|&length| 0..length as u32).collect();
        let words = self.words.forward(&Tensor::new(&batch.inputs[..], device)?)?;
        let positions = self.positions.forward(&Tensor::new(&positions[..], device)?)?;
        let attention = Attention::new(&packed);
        let mut hidden = norm(&self.norm, &(words + positions)?)?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, &attention)?;
        }
        // The layer to the words shares their embeddings, and its logits exist for a few rows at a time.
        let targets = Tensor::new(&batch.targets[..], device)?;
        LinearCrossEntropy::default().forward(&hidden, self.words.embeddings(), Some(&self.bias), &targets)
    }
}

/// Packed sentences, some words of which are hidden.
struct Batch {
    lengths: Vec<usize>,
    inputs: Vec<u32>,
    targets: Vec<i64>,
}

impl Batch {
    /// The sentences of a step, with every sixth word hidden, at another place each step.
    fn new(sentences: &[Vec<u32>], step: usize) -> Self {
        let (mut lengths, mut inputs, mut targets) = (vec![], vec![], vec![]);
        for index in step * SENTENCES..(step + 1) * SENTENCES {
            let sentence = &sentences[index * 7 % sentences.len()];
            lengths.push(sentence.len());
            for (position, &word) in sentence.iter().enumerate() {
                let hidden = word > UNKNOWN && (position + 5 * index + step).is_multiple_of(6);
                inputs.push(if hidden { MASK } else { word });
                targets.push(if hidden { word.into() } else { IGNORED });
            }
        }
        Self { lengths, inputs, targets }
    }
}

/// The sentences of the texts as ids, and the number of ids: words that occur at least twice have one.
fn tokenize() -> (Vec<Vec<u32>>, usize) {
    let text = TEXTS.join("\n").to_lowercase();
    let words = |sentence: &'_ str| {
        let split = sentence.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
        split.map(str::to_owned).collect::<Vec<_>>()
    };
    let sentences: Vec<Vec<String>> =
        text.split(['.', ':', ';', '|']).map(words).filter(|words| words.len() > 3).collect();
    let mut counts = HashMap::<&str, usize>::new();
    sentences.iter().flatten().for_each(|word| *counts.entry(word).or_default() += 1);
    let mut known: Vec<&str> =
        counts.into_iter().filter(|&(_, count)| count > 1).map(|(word, _)| word).collect();
    known.sort_unstable();
    let ids: HashMap<&str, u32> = known.into_iter().zip(UNKNOWN + 1..).collect();
    let encode = |words: &Vec<String>| {
        let inner =
            words.iter().take(LENGTH_MAX - 2).map(|word| ids.get(&word[..]).copied().unwrap_or(UNKNOWN));
        std::iter::once(CLS).chain(inner).chain([SEP]).collect()
    };
    (sentences.iter().map(encode).collect(), ids.len() + 1 + UNKNOWN as usize)
}

fn main() -> Result<()> {
    let (sentences, vocab_size) = tokenize();
    println!("{} sentences, {vocab_size} words", sentences.len());
    let variables = VarMap::new();
    let model = Model::new(vocab_size, VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu))?;
    let mut optimizer =
        AdamW::new(variables.all_vars(), ParamsAdamW { lr: 1.5e-3, ..ParamsAdamW::default() })?;
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let loss = model.loss(&Batch::new(&sentences, step))?;
        optimizer.backward_step(&loss)?;
        losses.push(loss.to_scalar::<f32>()?);
        if step % 20 == 19 {
            println!("step {:>3}: loss {:.3}", step + 1, mean(&losses[step - 19..]));
        }
    }
    let (first, last) = (mean(&losses[..20]), mean(&losses[STEPS - 20..]));
    if last < 0.9 * first { Ok(()) } else { Err(Error::Msg(format!("the loss went from {first} to {last}"))) }
}

fn mean(values: &[f32]) -> f32 {
    values.iter().sum::<f32>() / values.len() as f32
}
