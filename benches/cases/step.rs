//! A whole training step: forward, backward, clipping and AdamW, on masks that are made beforehand. On a GPU BERT-base with dropout on 32,768 tokens,
//! on the CPU emulator the tiny model on 2048. The host's preparation of a step is not timed, for it runs while the device is busy.
//!
//! Bound, with N encoder layers and one of the decoder, M labeled rows: 6·T·(N + 1)·(4·H² + 2·H·F) FLOPs of linear layers, 12·(N + 1)·H·ΣL² of
//! attention, 6·M·(H² + H·V) of the head; 28 bytes a parameter that the optimizer moves, and 2 of the bf16 copy.

use retromae::device::{DType, ModelFloat, Stream};
use retromae::model::{
    AdamW, Batch, Capacity, IGNORE_INDEX, Input, Masking, MicroBatch, Model, ModelConfig, PackedSentences,
    PoolRows, StepHandle, StepRandomness, TrainStep,
};
use retromae::ops::masks::{MaskCountLimit, word_start_bits};
use retromae::reference::mask::sample_batch;
use serde_json::{Value, json};

use super::baseline;
use super::data::{POOL_ROWS_MAX, RATIO, SEED, STEP, decimal, prefix_sums, word_starts};
use super::{Bound, FUSED, Operation, Outcome, Results, Scale, UNFUSED, Variant, Work};

const MASKING: Masking = Masking {
    mask_id: 103,
    encoder: MaskCountLimit { ratio: 0.3, cap: None },
    decoder: MaskCountLimit { ratio: RATIO, cap: None },
    pool_rows: PoolRows::AtMost(POOL_ROWS_MAX),
};
const LEARNING_RATE: f64 = 1e-4;
/// 2048 tokens, for the CPU emulator.
const HOST_LENGTHS: [usize; 24] =
    [16, 24, 32, 32, 48, 48, 56, 64, 64, 64, 72, 80, 80, 88, 96, 96, 104, 112, 120, 128, 128, 144, 160, 192];

#[derive(Clone, Debug)]
struct Case {
    name: &'static str,
    config: ModelConfig,
    lengths: Vec<usize>,
}

pub fn operations<T: ModelFloat>(scale: Scale) -> Vec<Operation<T>> {
    let gpu = vec![Case::base("base_L128", 128), Case::base("base_L512", 512)];
    vec![Operation::new("step", scale.choose(gpu, vec![Case::tiny()]))]
}

impl<T: ModelFloat> super::Case<T> for Case {
    fn name(&self) -> String {
        self.name.into()
    }

    /// Sizes of a step of sentences of one length, the only ones that need no padding.
    fn sizes(&self) -> Option<Value> {
        let ModelConfig {
            hidden_size,
            intermediate_size,
            vocab_size,
            num_hidden_layers,
            num_attention_heads,
            hidden_dropout_prob,
            ..
        } = self.config;
        let length = *self.lengths.first()?;
        let sizes = json!({
            "sentences": self.lengths.len(),
            "length": length,
            "layers": num_hidden_layers,
            "hidden_size": hidden_size,
            "heads": num_attention_heads,
            "intermediate_size": intermediate_size,
            "vocab_size": vocab_size,
            "dropout": decimal(hidden_dropout_prob),
            "masked_share": MASKING.encoder.ratio,
        });
        self.lengths.iter().all(|&other| other == length).then_some(sizes)
    }

    fn bound(&self) -> Bound {
        let ModelConfig { hidden_size, intermediate_size, vocab_size, num_hidden_layers, .. } = self.config;
        let batch = self.batch();
        let labels = batch.encoder_labels.iter().chain(&batch.decoder_labels);
        let labeled = labels.filter(|&&label| label != IGNORE_INDEX).count();
        let layers = num_hidden_layers + 1;
        let layer = 4 * hidden_size * hidden_size + 2 * hidden_size * intermediate_size;
        let squares: usize = self.lengths.iter().map(|length| length * length).sum();
        let flops = 6 * self.tokens() * layers * layer
            + 12 * layers * hidden_size * squares
            + 6 * labeled * hidden_size * (hidden_size + vocab_size);
        let tables = vocab_size + self.config.max_position_embeddings + self.config.type_vocab_size;
        let vectors = 9 * hidden_size + intermediate_size;
        let parameters = tables * hidden_size
            + layers * (layer + vectors)
            + hidden_size * hidden_size
            + 5 * hidden_size
            + vocab_size;
        Bound::new(flops, parameters * if T::DTYPE == DType::Bf16 { 30 } else { 28 })
    }

    fn variants(&self) -> Vec<Variant> {
        let (fused, unfused) = (self.clone(), self.clone());
        vec![
            Variant::new(FUSED, move |stream| Fused::<T>::new(stream, &fused)),
            Variant::new(UNFUSED, move |stream| Unfused::<T>::new(stream, &unfused)),
        ]
    }
}

impl Case {
    fn base(name: &'static str, length: usize) -> Self {
        Self { name, config: ModelConfig::base(30_522), lengths: vec![length; 32_768 / length] }
    }

    fn tiny() -> Self {
        Self { name: "tiny_T2048", config: ModelConfig::tiny(8192), lengths: HOST_LENGTHS.to_vec() }
    }

    fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn sentences(&self) -> PackedSentences {
        let words = self.config.vocab_size - 1000;
        let starts: Vec<bool> = self.lengths.iter().flat_map(|&length| word_starts(length)).collect();
        PackedSentences {
            sentence_indices: (0..self.lengths.len() as u32).collect(),
            cu_seqlens: prefix_sums(&self.lengths),
            ids: (0..self.tokens()).map(|token| 1000 + (token * 37 % words) as i32).collect(),
            word_starts: word_start_bits(&starts),
        }
    }

    /// Returns the batch that the first step samples.
    fn batch(&self) -> Batch {
        sample_batch(SEED, STEP, &self.sentences(), MASKING, &self.config)
    }
}

fn model<T: ModelFloat>(stream: &Stream, case: &Case) -> Outcome<Model<T>> {
    let capacity = Capacity {
        tokens: case.tokens(),
        sentences: case.lengths.len(),
        sentence_length: case.lengths.iter().copied().max().unwrap_or(0),
    };
    let mut model = Model::new(stream.device(), &case.config, capacity)?;
    model.initialize(1)?;
    Ok(model)
}

/// Returns losses, and in f32 the clipped gradient of every parameter but the keys' biases: these shift all scores of a row alike, so their gradients
/// are pure rounding errors. In bf16 the gradients of other parameters are noisy too; the tests compare them in f32.
fn results<T: ModelFloat>(
    losses: [f32; 2],
    names: impl Iterator<Item = String>,
    gradient: impl Fn(&str) -> Outcome<Vec<f32>>,
) -> Outcome<Results> {
    let mut results = vec![("losses".to_string(), losses.to_vec())];
    if T::DTYPE != DType::F32 {
        return Ok(results);
    }
    for name in names.filter(|name| !name.ends_with("key.bias")) {
        let values = gradient(&name)?;
        results.push((name, values));
    }
    Ok(results)
}

/// The library's own model.
struct Fused<T: ModelFloat> {
    model: Model<T>,
    batch: Batch,
    updates: u32,
    /// StepHandle of the last step.
    handle: Option<StepHandle>,
}

impl<T: ModelFloat> Fused<T> {
    fn new(stream: &Stream, case: &Case) -> Outcome<Self> {
        Ok(Self { model: model(stream, case)?, batch: case.batch(), updates: 0, handle: None })
    }
}

impl<T: ModelFloat> Work for Fused<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        self.updates += 1;
        let step = TrainStep {
            batch: MicroBatch::new(
                Input::Explicit(&self.batch),
                StepRandomness { seed: SEED, step: self.updates },
            ),
            optimizer: &AdamW::default(),
            learning_rate: LEARNING_RATE,
            update: self.updates,
        };
        self.handle = Some(self.model.train_step(stream, &step)?);
        Ok(())
    }

    fn results(&mut self) -> Outcome<Results> {
        let outcome = self.model.result(self.handle.ok_or("no step was taken")?)?;
        let losses = [outcome.losses.encoder, outcome.losses.decoder];
        let names = self.model.parameter_shapes().into_iter().map(|(name, _)| name);
        // The update clears the gradients, but after the first one the first moment is a multiple of the clipped gradient, as in the baseline.
        let factor = 1.0 / (1.0 - AdamW::default().beta1) as f32;
        results::<T>(losses, names, |name| {
            let (first, _) = self.model.moments(name)?;
            Ok(first.into_iter().map(|moment| moment * factor).collect())
        })
    }
}

/// Kernels and matmuls of the baseline. Its masks and dropout are those of the model's first step.
struct Unfused<T: ModelFloat> {
    step: baseline::step::Step<T>,
    names: Vec<String>,
}

impl<T: ModelFloat> Unfused<T> {
    fn new(stream: &Stream, case: &Case) -> Outcome<Self> {
        let model = model::<T>(stream, case)?;
        let shapes = model.parameter_shapes();
        let batch = case.batch();
        let setting = baseline::step::Setting {
            config: &case.config,
            pool: batch.visibility.as_ref().ok_or("the batch has no pool")?,
            batch: &batch,
            optimizer: &AdamW::default(),
            learning_rate: LEARNING_RATE,
        };
        let step = baseline::step::Step::new(stream, &setting, &shapes, |name| model.parameter(name))?;
        Ok(Self { step, names: shapes.into_iter().map(|(name, _)| name).collect() })
    }
}

impl<T: ModelFloat> Work for Unfused<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        self.step.run(stream)?;
        Ok(self.step.update(stream)?)
    }

    fn results(&mut self) -> Outcome<Results> {
        let step = &self.step;
        results::<T>(step.losses()?, self.names.iter().cloned(), |name| Ok(step.gradient(name)?))
    }
}
