//! The bag-of-words head, forward and backward in one. In 16 bits its two algorithms are compared with each other, and on a GPU with the peers.
//!
//! Bound, with T tokens, H columns, V words: 2·T·H·V FLOPs (logits; the gradients are sparse); bytes: hidden rows and their gradient 2·T·H·e,
//! weight V·H·e, its gradient, which is added to, 8·V·H.

use retromae::device::{Buffer, DType, Float, ModelFloat, Stream};
use retromae::ops::PackedBatch;
use retromae::ops::bag_of_words::{self, Algorithm, Bags, Forward, Gradients};

use serde_json::{Value, json};

use super::data::{embeddings, read, typed};
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
        let ours =
            |name, algorithm| Variant::new(name, move |stream| Ours::<T>::new(stream, case, algorithm));
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

    /// Values, like the weight's, for which each word's largest logit of a sentence is far above the others, so that two algorithms that round logits
    /// differently, or not at all, choose the same token. Token s answers words s, s + L, …: both have a large value in column s.
    fn hidden<T: Float>(&self) -> Vec<T> {
        assert!(self.length <= self.hidden_size, "each token of a sentence has a column of its own");
        let mut hidden: Vec<T> = typed(1, self.tokens() * self.hidden_size);
        for (row, hidden) in hidden.chunks_exact_mut(self.hidden_size).enumerate() {
            hidden[row % self.length] = T::from_f32(8.0);
        }
        hidden
    }

    fn weight<T: Float>(&self) -> Vec<T> {
        let mut weight: Vec<T> = embeddings(self.vocabulary, self.hidden_size);
        for (word, weight) in weight.chunks_exact_mut(self.hidden_size).enumerate() {
            weight[word % self.length] = T::from_f32(2.0);
        }
        weight
    }

    fn bias(&self) -> Vec<f32> {
        typed(3, self.vocabulary)
    }

    /// Returns as many words as a sentence has tokens, all of the same weight.
    fn bag(&self, sentence: usize) -> Vec<i32> {
        (0..self.length).map(|position| ((sentence * 31 + position * 7) % self.vocabulary) as i32).collect()
    }
}

/// The operation by one of its algorithms.
struct Ours<T: Float> {
    case: Case,
    algorithm: Algorithm,
    hidden: Buffer<T>,
    weight: Buffer<T>,
    bias: Buffer<f32>,
    batch: PackedBatch,
    bag_ids: Buffer<i32>,
    bag_weights: Buffer<f32>,
    sentence_weights: Buffer<f32>,
    losses: Buffer<f32>,
    d_hidden: Buffer<T>,
    d_weight: Buffer<f32>,
    d_bias: Buffer<f32>,
    workspace: Buffer<u8>,
}

impl<T: Float> Ours<T> {
    fn new(stream: &Stream, case: Case, algorithm: Algorithm) -> Outcome<Self> {
        let device = stream.device();
        let Case { sentences, length, hidden_size, vocabulary, chunk } = case;
        let workspace = bag_of_words::workspace(algorithm, T::DTYPE, sentences, chunk, vocabulary);
        let ids: Vec<i32> = (0..sentences).flat_map(|sentence| case.bag(sentence)).collect();
        Ok(Self {
            hidden: device.upload(&case.hidden::<T>())?,
            weight: device.upload(&case.weight::<T>())?,
            bias: device.upload(&case.bias())?,
            batch: PackedBatch::new(device, &vec![length; sentences])?,
            bag_weights: device.upload(&vec![1.0 / length as f32; ids.len()])?,
            bag_ids: device.upload(&ids)?,
            sentence_weights: device.upload(&vec![1.0 / sentences as f32; sentences])?,
            losses: device.zeros(sentences)?,
            d_hidden: device.zeros(case.tokens() * hidden_size)?,
            d_weight: device.zeros(vocabulary * hidden_size)?,
            d_bias: device.zeros(vocabulary)?,
            workspace: workspace.allocate(device)?,
            case,
            algorithm,
        })
    }
}

impl<T: Float> Work for Ours<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        let Case { hidden_size, vocabulary, .. } = self.case;
        let tokens = self.case.tokens();
        let batch = self.batch.view();
        let bags = Bags {
            // As many words as tokens.
            offsets: batch.cu_seqlens,
            ids: self.bag_ids.view(),
            weights: Some(self.bag_weights.view()),
        };
        let forward = Forward {
            bias: Some(self.bias.view()),
            sentence_weights: Some(self.sentence_weights.view()),
            algorithm: self.algorithm,
            ..Forward::new(
                self.hidden.matrix(tokens, hidden_size)?,
                self.weight.matrix(vocabulary, hidden_size)?,
                batch,
                bags,
                self.losses.view_mut(),
                self.workspace.view_mut(),
            )
        };
        let gradients = Gradients {
            d_hidden: Some(self.d_hidden.matrix_mut(tokens, hidden_size)?),
            d_weight: Some(self.d_weight.matrix_mut(vocabulary, hidden_size)?),
            d_bias: Some(self.d_bias.view_mut()),
        };
        Ok(bag_of_words::forward_backward(stream, forward, gradients)?)
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
