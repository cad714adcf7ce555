//! The bag-of-words head, forward and backward in one. In 16 bits its two algorithms are compared with each other, and on a GPU with the peers.
//!
//! Bound, with T tokens, H columns, V words: 2·T·H·V FLOPs (logits; the gradients are sparse); bytes: hidden rows and their gradient 2·T·H·e,
//! weight V·H·e, its gradient, which is added to, 8·V·H.

use retromae::device::{Buffer, DType, Device, Float, ModelFloat, Stream};
use retromae::ops::bag_of_words::{self, Algorithm, Bags, Forward, Gradients};
use retromae::ops::{self, Packed};
use serde_json::{Value, json};

use super::data::{embeddings, integers, prefix_sums, read, rounded, typed, values};
use super::{Bound, FUSED, OWN_PRODUCT, Operation, Outcome, Rank, Results, Scale, Variant, Work, named};

#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub sentences: usize,
    pub length: usize,
    pub hidden_size: usize,
    pub vocabulary: usize,
    /// Rows of logits that exist at once
    pub chunk: usize,
}

pub fn operations<T: ModelFloat>(scale: Scale) -> Vec<Operation<T>> {
    let gpu = Case { sentences: 256, length: 128, hidden_size: 768, vocabulary: 30_522, chunk: 4096 };
    let host = Case { sentences: 8, length: 128, hidden_size: 128, vocabulary: 8192, chunk: 256 };
    let cases = scale.choose(vec![gpu, Case { sentences: 64, length: 512, ..gpu }], vec![host]);
    vec![Operation::new("bag_of_words", cases)]
}

impl<T: ModelFloat> super::Case<T> for Case {
    fn name(&self) -> String {
        format!("B{}_L{}", self.sentences, self.length)
    }

    fn rank(&self) -> Rank {
        Rank::Rest
    }

    fn sizes(&self) -> Option<Value> {
        Some(json!({
            "sentences": self.sentences,
            "length": self.length,
            "hidden_size": self.hidden_size,
            "vocab_size": self.vocabulary,
        }))
    }

    fn bound(&self) -> Bound {
        let (hidden, weight) = (self.tokens() * self.hidden_size, self.vocabulary * self.hidden_size);
        let bytes = T::DTYPE.bytes();
        Bound::new(2 * hidden * self.vocabulary, 2 * hidden * bytes + weight * (bytes + 8))
    }

    fn variants(&self) -> Vec<Variant> {
        let case = *self;
        let ours = |name, algorithm| {
            let new =
                move |device: &Device| Fused::<T>::new(device, &case.inputs(), algorithm, case.chunk, FULL);
            Variant::new(name, move |stream| Ok(new(stream.device())?))
        };
        let mut variants = vec![ours(FUSED, Algorithm::Library)];
        if T::DTYPE != DType::F32 {
            variants.push(ours(OWN_PRODUCT, Algorithm::Fused));
        }
        variants
    }
}

impl Case {
    fn tokens(&self) -> usize {
        self.sentences * self.length
    }

    /// Returns inputs for which each word's largest logit of a sentence is far above the others, so that two algorithms that round logits differently, or
    /// not at all, choose the same token. Token s answers words s, s + L, …: both have a large value in column s. Bags have as many words as a sentence has
    /// tokens, all of the same weight.
    fn inputs<T: Float>(&self) -> Inputs<T> {
        let Self { sentences, length, hidden_size, vocabulary, .. } = *self;
        assert!(length <= hidden_size, "each token of a sentence has a column of its own");
        // Smaller than the large values, which in turn keep the logits below 16, where 16 bits round them much.
        let small =
            values(1, self.tokens() * hidden_size).iter().map(|value| value / 3.0).collect::<Vec<_>>();
        let mut hidden: Vec<T> = rounded(&small);
        for (row, hidden) in hidden.chunks_exact_mut(hidden_size).enumerate() {
            hidden[row % length] = T::from_f32(4.0);
        }
        let mut weight: Vec<T> = embeddings(vocabulary, hidden_size);
        for (word, weight) in weight.chunks_exact_mut(hidden_size).enumerate() {
            weight[word % length] = T::from_f32(2.0);
        }
        let word = |sentence, position| ((sentence * 31 + position * 7) % vocabulary) as i32;
        let bag = |sentence| (0..length).map(move |position| (word(sentence, position), 1.0 / length as f32));
        Inputs {
            hidden,
            weight,
            bias: typed(3, vocabulary),
            lengths: vec![length; sentences],
            bags: (0..sentences).map(|sentence| bag(sentence).collect()).collect(),
            sentence_weights: vec![1.0 / sentences as f32; sentences],
            hidden_size,
        }
    }
}

/// Host data of a case; bags are the word ids of each sentence, with their weights.
#[derive(Clone)]
pub struct Inputs<T> {
    pub hidden: Vec<T>,
    pub weight: Vec<T>,
    pub bias: Vec<f32>,
    pub lengths: Vec<usize>,
    pub bags: Vec<Vec<(i32, f32)>>,
    pub sentence_weights: Vec<f32>,
    pub hidden_size: usize,
}

impl<T: Float> Inputs<T> {
    /// Random operands with exact logits: every logit is a multiple of 1/16 below 16, which every type holds, and no two tokens of a sentence have
    /// the same logit of a word, so the maxima do not depend on rounding. A token's `hidden` encodes its number in one column, and the weight there
    /// is ±1/4; its other columns add the same to all tokens of the sentence.
    pub fn random(lengths: &[usize], vocabulary: usize, hidden_size: usize) -> Self {
        let tokens: usize = lengths.iter().sum();
        let mut hidden = vec![0.0; tokens * hidden_size];
        let mut row = 0;
        for &length in lengths {
            for position in 0..length {
                // A permutation of 0..length, as 37 divides none of the lengths.
                hidden[row * hidden_size] = (position * 37 % length) as f64 / 4.0;
                // Equal for all tokens of a sentence: gradients of these columns are of all sizes.
                for column in 1..hidden_size {
                    hidden[row * hidden_size + column] = ((row - position + column) % 5) as f64 / 4.0 - 0.5;
                }
                row += 1;
            }
        }
        let weight = (0..vocabulary * hidden_size).map(|i| match i % hidden_size {
            0 if (i / hidden_size).is_multiple_of(3) => -0.25,
            0 => 0.25,
            column => ((i / hidden_size + column) % 3) as f64 / 4.0 - 0.25,
        });
        let bag = |(sentence, &length): (usize, &usize)| {
            let ids = integers(10 + sentence as u64, length, vocabulary as u32);
            ids.into_iter().map(|id| (id, 1.0 / length as f32)).collect()
        };
        Self {
            hidden: rounded(&hidden),
            weight: rounded(&weight.collect::<Vec<f64>>()),
            bias: rounded(&values(3, vocabulary)),
            bags: lengths.iter().enumerate().map(bag).collect(),
            sentence_weights: values(5, lengths.len()).iter().map(|v| (1.5 + v.abs()) as f32).collect(),
            lengths: lengths.to_vec(),
            hidden_size,
        }
    }

    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    pub fn part(&self, sentences: std::ops::Range<usize>) -> Self {
        let rows = self.lengths[..sentences.start].iter().sum::<usize>()
            ..self.lengths[..sentences.end].iter().sum::<usize>();
        Self {
            hidden: self.hidden[rows.start * self.hidden_size..rows.end * self.hidden_size].to_vec(),
            lengths: self.lengths[sentences.clone()].to_vec(),
            bags: self.bags[sentences.clone()].to_vec(),
            sentence_weights: self.sentence_weights[sentences].to_vec(),
            ..self.clone()
        }
    }
}

/// The optional arguments that are given.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub bias: bool,
    pub bag_weights: bool,
    pub sentence_weights: bool,
    pub d_hidden: bool,
    pub d_weight: bool,
    pub d_bias: bool,
}

pub const FULL: Form = Form {
    bias: true,
    bag_weights: true,
    sentence_weights: true,
    d_hidden: true,
    d_weight: true,
    d_bias: true,
};

/// The operation by one of its algorithms.
pub struct Fused<T: Float> {
    algorithm: Algorithm,
    form: Form,
    hidden_size: usize,
    hidden: Buffer<T>,
    weight: Buffer<T>,
    bias: Buffer<f32>,
    cu_seqlens: Buffer<i32>,
    max_seqlen: usize,
    bag_offsets: Buffer<i32>,
    bag_ids: Buffer<i32>,
    bag_weights: Buffer<f32>,
    sentence_weights: Buffer<f32>,
    pub losses: Buffer<f32>,
    pub d_hidden: Buffer<T>,
    pub d_weight: Buffer<f32>,
    pub d_bias: Buffer<f32>,
    pub workspace: Buffer<u8>,
}

impl<T: Float> Fused<T> {
    /// Uploads the inputs, with room for the logits of `chunk` rows.
    pub fn new(
        device: &Device,
        inputs: &Inputs<T>,
        algorithm: Algorithm,
        chunk: usize,
        form: Form,
    ) -> ops::Result<Self> {
        let (sentences, vocabulary) = (inputs.lengths.len(), inputs.bias.len());
        let sizes: Vec<usize> = inputs.bags.iter().map(Vec::len).collect();
        let (ids, bag_weights): (Vec<i32>, Vec<f32>) = inputs.bags.iter().flatten().copied().unzip();
        let workspace = bag_of_words::workspace(algorithm, T::DTYPE, sentences, chunk, vocabulary);
        Ok(Self {
            algorithm,
            form,
            hidden_size: inputs.hidden_size,
            hidden: device.upload(&inputs.hidden)?,
            weight: device.upload(&inputs.weight)?,
            bias: device.upload(&inputs.bias)?,
            cu_seqlens: device.upload(&prefix_sums(&inputs.lengths))?,
            max_seqlen: inputs.lengths.iter().copied().max().unwrap_or(0),
            bag_offsets: device.upload(&prefix_sums(&sizes))?,
            bag_ids: device.upload(&ids)?,
            bag_weights: device.upload(&bag_weights)?,
            sentence_weights: device.upload(&inputs.sentence_weights)?,
            losses: device.zeros(sentences)?,
            d_hidden: device.zeros(inputs.hidden.len())?,
            d_weight: device.zeros(inputs.weight.len())?,
            d_bias: device.zeros(vocabulary)?,
            workspace: workspace.allocate(device)?,
        })
    }

    /// Enqueues the call; the gradients of weight and bias are added to.
    pub fn call(&mut self, stream: &Stream) -> ops::Result<()> {
        let (form, hidden_size, vocabulary) = (self.form, self.hidden_size, self.bias.len());
        let hidden = self.hidden.view().rows_of(hidden_size)?;
        let batch =
            Packed { cu_seqlens: self.cu_seqlens.view(), tokens: hidden.rows(), max_seqlen: self.max_seqlen };
        let bags = Bags {
            offsets: self.bag_offsets.view(),
            ids: self.bag_ids.view(),
            weights: form.bag_weights.then(|| self.bag_weights.view()),
        };
        let forward = Forward {
            bias: form.bias.then(|| self.bias.view()),
            sentence_weights: form.sentence_weights.then(|| self.sentence_weights.view()),
            algorithm: self.algorithm,
            ..Forward::new(
                hidden,
                self.weight.matrix(vocabulary, hidden_size)?,
                batch,
                bags,
                self.losses.view_mut(),
                self.workspace.view_mut(),
            )
        };
        if !(form.d_hidden || form.d_weight || form.d_bias) {
            return bag_of_words::forward(stream, forward);
        }
        let d_hidden = self.d_hidden.view_mut().rows_of(hidden_size)?;
        let d_weight = self.d_weight.matrix_mut(vocabulary, hidden_size)?;
        let gradients = Gradients {
            d_hidden: form.d_hidden.then_some(d_hidden),
            d_weight: form.d_weight.then_some(d_weight),
            d_bias: form.d_bias.then(|| self.d_bias.view_mut()),
        };
        bag_of_words::forward_backward(stream, forward, gradients)
    }
}

impl<T: Float> Work for Fused<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        Ok(self.call(stream)?)
    }

    fn results(&mut self) -> Outcome<Results> {
        Ok(named([
            ("losses", self.losses.read()?),
            ("d_hidden", read(&self.d_hidden)?),
            ("d_weight", self.d_weight.read()?),
            ("d_bias", self.d_bias.read()?),
        ]))
    }

    fn extra_bytes(&self) -> Option<usize> {
        Some(self.workspace.len())
    }
}
