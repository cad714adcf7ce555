//! Training steps: gradients, updates, and whole asynchronous steps.
//!
//! A whole step is the same sequence of launches whenever its batch has the same [`BatchShape`]. Inputs that differ from step to step (the batch,
//! the seed, the learning rate) are read from device memory, so the sequence can be recorded once and replayed as one graph.

use super::masks::Sampling;
use super::model::{Losses, Model, StepRandomness};
use super::recorded::{RESULTS, SHAPES_MAX, StepHandle, StepKey};
use super::shape::BatchShape;
use super::{Input, ModelConfig, inputs};
use crate::device::{ModelFloat, Stream};
use crate::ops::cross_entropy::Totals;
use crate::ops::{Result, adamw, rng_state, wrong};

/// A batch whose gradients are added to those of other batches, or are a step's only ones.
#[derive(Clone, Copy, Debug)]
pub struct MicroBatch<'a> {
    /// Packed sentences whose masks are sampled, or an explicit batch.
    pub input: Input<'a>,
    /// Different for each batch of an update, as dropout belongs to a row of a batch.
    pub randomness: StepRandomness,
    /// Factor of the batch's losses in the gradients, positive and finite: 1 over the number of batches gives the gradient of their mean. The
    /// losses that are returned are without it.
    pub weight: f32,
}

impl<'a> MicroBatch<'a> {
    /// A batch of weight 1.
    #[must_use]
    pub fn new(input: Input<'a>, randomness: StepRandomness) -> Self {
        Self { input, randomness, weight: 1.0 }
    }

    /// The batch with another weight.
    #[must_use]
    pub fn weight(self, weight: f32) -> Self {
        Self { weight, ..self }
    }
}

/// Arguments of [`Model::train_step`].
#[derive(Clone, Copy, Debug)]
pub struct TrainStep<'a> {
    /// The only batch of the update, or the last after those that were [accumulated](Model::accumulate).
    pub batch: MicroBatch<'a>,
    /// Decay rates, weight decay and clipping of the update.
    pub optimizer: &'a adamw::Hyperparameters,
    /// In `[0, 1]`.
    pub learning_rate: f64,
    /// Counts from 1.
    pub update: u32,
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// Losses of the step's own batch.
    pub losses: Losses,
    /// Global norm of the gradients before clipping, with those that were accumulated; NaN for a batch without an update. If it is not finite,
    /// nothing was updated.
    pub gradient_norm: f32,
}

impl<T: ModelFloat> Model<T> {
    /// Runs one forward and backward pass; returns the losses and leaves the gradients for [`Model::gradient`].
    ///
    /// Without `randomness` there is no dropout, and no masks can be sampled.
    ///
    /// # Errors
    /// When the input is inconsistent, exceeds the capacity, or lacks the visibility that the enhanced decoder needs.
    pub fn step(
        &mut self,
        stream: &Stream,
        input: Input<'_>,
        randomness: Option<StepRandomness>,
    ) -> Result<Losses> {
        inputs::check(&self.config, self.capacity, input)?;
        let key = StepKey {
            shape: BatchShape::exact(input, self.config.decoder)?,
            masking: input.masking(),
            weight: 1.0,
            dropout: randomness.is_some(),
            update: None,
        };
        self.forget_gradients();
        self.prepare(stream, input, randomness, &key)?;
        self.enqueue(stream, &key)?;
        losses(&self.config, &self.head.totals().read()?, self.head.bag_loss().read()?[0])
    }

    /// Enqueues one forward and backward pass, which adds the batch's gradients to those since the last update, without waiting for it;
    /// [`Model::result`] takes the handle that this returns. [`Model::train_step`] with the last batch of an update, or [`Model::update`], then
    /// updates the parameters.
    ///
    /// Gradients of a [`step`](Self::step) are not added to. Batches are padded and recorded as in [`train_step`](Self::train_step).
    ///
    /// # Errors
    /// As [`Model::step`], or when the weight is not positive and finite.
    pub fn accumulate(&mut self, stream: &Stream, batch: &MicroBatch<'_>) -> Result<StepHandle> {
        let key = self.check(batch, None)?;
        self.prepare(stream, batch.input, Some(batch.randomness), &key)?;
        self.run(stream, &key)?;
        self.training.accumulating = true;
        self.finish(stream, &key)
    }

    /// Clips the gradients, applies AdamW (`update` counts from 1) and sets them to 0; returns their global norm before clipping. Changes nothing
    /// else when that is not finite.
    ///
    /// # Errors
    /// When a constant of the optimizer is out of range, `learning_rate` is not in `[0, 1]` (a weight moves by about as much) or takes more than
    /// all of a weight with `weight_decay`, or `update` is 0.
    pub fn update(
        &mut self,
        stream: &Stream,
        optimizer: &adamw::Hyperparameters,
        learning_rate: f64,
        update: u32,
    ) -> Result<f32> {
        self.parameters.update(stream, optimizer, learning_rate, update)?;
        self.forget_gradients();
        self.parameters.gradient_norm()
    }

    /// Enqueues a whole training step, gradients and update, without waiting for it; [`Model::result`] takes the handle that this returns.
    /// Gradients that were [accumulated](Self::accumulate) since the last update are added to.
    ///
    /// On a GPU the step is recorded as a graph the second time that its shape occurs; inputs are padded (with sentences without labels) so that
    /// shapes recur. Padding adds zeros to sums; but cuBLASLt may sum a matmul of another size in another order, so results may differ from those
    /// of [`step`](Self::step) by the rounding of such sums. The optimizer's constants are recorded with it.
    ///
    /// ```
    /// use retromae::device::Device;
    /// use retromae::model::{
    ///     AdamW, Capacity, Input, Masking, MicroBatch, Model, ModelConfig, PackedSentences, StepRandomness, TrainStep,
    /// };
    /// use retromae::ops::masks::word_start_bits;
    ///
    /// let device = Device::host()?;
    /// let config =
    ///     ModelConfig { hidden_size: 32, num_attention_heads: 1, intermediate_size: 64, ..ModelConfig::tiny(100) };
    /// let capacity = Capacity { tokens: 16, sentences: 2, sentence_length: 16 };
    /// let mut model = Model::<f32>::new(&device, &config, capacity)?;
    /// model.initialize(1)?;
    /// // [CLS] is 1, [SEP] 2, [MASK] 3; the second word of the first sentence is of two tokens.
    /// let starts = [false, true, true, false, true, false, false, true, true, false];
    /// let sentences = PackedSentences {
    ///     sentence_indices: vec![0, 1],
    ///     cu_seqlens: vec![0, 6, 10],
    ///     ids: vec![1, 10, 11, 12, 13, 2, 1, 20, 21, 2],
    ///     word_starts: word_start_bits(&starts),
    /// };
    /// let masking = Masking::new(3);
    /// for update in 1..=3 {
    ///     let step = TrainStep {
    ///         batch: MicroBatch::new(Input::Sampled(&sentences, masking), StepRandomness { seed: 1, step: update }),
    ///         optimizer: &AdamW::default(),
    ///         learning_rate: 1e-3,
    ///         update,
    ///     };
    ///     let handle = model.train_step(&device.stream(), &step)?;
    ///     assert!(model.result(handle)?.losses.decoder > 0.0);
    /// }
    /// # Ok::<(), retromae::ops::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Model::step`] and [`Model::update`].
    pub fn train_step(&mut self, stream: &Stream, step: &TrainStep<'_>) -> Result<StepHandle> {
        let TrainStep { batch, optimizer, learning_rate, update } = *step;
        let schedule = optimizer.schedule(learning_rate, update)?;
        let key = self.check(&batch, Some(*optimizer))?;
        self.prepare(stream, batch.input, Some(batch.randomness), &key)?;
        self.parameters.write_schedule(stream, schedule)?;
        self.run(stream, &key)?;
        self.forget_gradients();
        self.finish(stream, &key)
    }

    /// Waits for a step and returns its result.
    ///
    /// # Errors
    /// When the handle is not of one of this model's last two steps, or the device failed.
    pub fn result(&mut self, handle: StepHandle) -> Result<StepResult> {
        let StepHandle { model, step } = handle;
        let steps = self.training.steps;
        let expected = format!("of one of the last {RESULTS} steps of {steps}");
        if model != self.training.model {
            return wrong("handle", "of a step of another model", expected);
        }
        if steps - step > RESULTS as u64 {
            return wrong("handle", format_args!("of step {}", step + 1), expected);
        }
        let staged = &mut self.training.results[(step % RESULTS as u64) as usize];
        let floats = staged.floats.read()?;
        let losses = losses(&self.config, staged.totals.read()?, floats[0] / staged.weight)?;
        let gradient_norm = if staged.is_update { floats[1].sqrt() } else { f32::NAN };
        Ok(StepResult { losses, gradient_norm })
    }

    /// Sets whether [`train_step`](Self::train_step) pads batches to recurring shapes, records their launches and replays them. The default is on
    /// for a GPU, where this saves the time between launches.
    pub fn record_steps(&mut self, record: bool) {
        self.training.record = record;
    }

    /// Names of the kernels of all recorded steps, in launch order.
    pub fn recorded_kernels(&self) -> impl Iterator<Item = &str> {
        let graphs = self.training.known.iter().filter_map(|(_, graph)| graph.as_ref());
        graphs.flat_map(|graph| graph.kernels().iter().map(String::as_str))
    }

    /// Lets the next batch begin with gradients of 0.
    pub(super) fn forget_gradients(&mut self) {
        self.training.accumulating = false;
    }

    /// Refuses a batch that the model cannot take; returns everything that its launches depend on.
    fn check(&self, batch: &MicroBatch<'_>, update: Option<adamw::Hyperparameters>) -> Result<StepKey> {
        let MicroBatch { input, weight, .. } = *batch;
        inputs::check(&self.config, self.capacity, input)?;
        if !(weight > 0.0 && weight.is_finite()) {
            return wrong("weight", weight, "positive and finite");
        }
        let mut shape = BatchShape::exact(input, self.config.decoder)?;
        if self.training.record {
            shape = shape.recurring(self.capacity.of(input));
        }
        Ok(StepKey { shape, masking: input.masking(), weight, dropout: true, update })
    }

    /// Uploads a checked input and the step's random state; zeroes the gradients, unless they are added to.
    fn prepare(
        &mut self,
        stream: &Stream,
        input: Input<'_>,
        randomness: Option<StepRandomness>,
        key: &StepKey,
    ) -> Result<()> {
        let StepKey { shape, weight, .. } = key;
        match randomness {
            Some(StepRandomness { seed, step }) => self.rng.write(stream, &rng_state(seed, step))?,
            None if input.masking().is_some() => {
                return wrong("randomness", "absent", "present where masks are sampled");
            }
            None => {}
        }
        self.inputs.write(stream, &self.config, input, shape, *weight)?;
        self.masks.write(stream, self.config.decoder, input, shape)?;
        if self.training.accumulating { Ok(()) } else { self.parameters.zero_gradients(stream) }
    }

    /// Enqueues a prepared step; as a graph if a step of the same key was enqueued before.
    fn run(&mut self, stream: &Stream, key: &StepKey) -> Result<()> {
        let known = self.training.known.iter().position(|(known, _)| known == key);
        let Some(index) = known.filter(|_| self.training.record) else {
            if self.training.known.len() >= SHAPES_MAX {
                self.training.known.clear();
            }
            self.enqueue(stream, key)?;
            if self.training.record {
                self.training.known.push((*key, None));
            }
            return Ok(());
        };
        if self.training.known[index].1.is_none() {
            let recorder = self.training.recorder.clone();
            let graph = recorder.capture(|recorder| self.enqueue(recorder, key))?;
            self.training.known[index].1 = Some(graph);
        }
        let graph = self.training.known[index].1.as_ref().expect("recorded above");
        // SAFETY: the step uses buffers of this model alone, which live as long as the graph; the model's work is in one order, and
        // reads from the host wait for all streams.
        unsafe { graph.launch(stream)? };
        self.parameters.gradients.are_zero = key.update.is_some();
        Ok(())
    }

    /// Enqueues the copies of a step's result to the host.
    fn finish(&mut self, stream: &Stream, key: &StepKey) -> Result<StepHandle> {
        let handle = StepHandle { model: self.training.model, step: self.training.steps };
        let staged = &mut self.training.results[(handle.step % RESULTS as u64) as usize];
        staged.totals.download(stream, 0..2, self.head.totals())?;
        staged.floats.download(stream, 0..1, self.head.bag_loss())?;
        staged.floats.download(stream, 1..2, self.parameters.squared_norm())?;
        staged.weight = key.weight;
        staged.is_update = key.update.is_some();
        self.training.steps += 1;
        Ok(handle)
    }

    /// Enqueues the launches of a prepared step.
    fn enqueue(&mut self, stream: &Stream, key: &StepKey) -> Result<()> {
        if let Some(masking) = key.masking {
            let (rng, weight) = (self.rng.view(), key.weight);
            self.masks.sample(stream, &self.config, &mut self.inputs, Sampling { masking, rng, weight })?;
        }
        self.inputs.group(stream)?;
        self.enqueue_passes(stream, key.dropout)?;
        match &key.update {
            Some(optimizer) => self.parameters.enqueue_update(stream, optimizer),
            None => Ok(()),
        }
    }
}

/// Computes the mean losses; `bag_loss` is weighted by the configuration.
fn losses(config: &ModelConfig, totals: &[Totals], bag_loss: f32) -> Result<Losses> {
    let [encoder, decoder] = [totals[0], totals[1]];
    encoder.check()?;
    decoder.check()?;
    // Not from the weighted losses: a weight of 0 would hide them.
    let mean = |totals: Totals| {
        if totals.labeled == 0 { 0.0 } else { -totals.log_likelihood / totals.labeled as f32 }
    };
    Ok(Losses {
        encoder: mean(encoder),
        decoder: mean(decoder),
        bag_of_words: config.has_bag_of_words().then(|| bag_loss / config.bag_of_words_loss_weight),
        encoder_accuracy: encoder.accuracy(),
        decoder_accuracy: decoder.accuracy(),
        encoder_perplexity: encoder.perplexity(),
        decoder_perplexity: decoder.perplexity(),
    })
}
