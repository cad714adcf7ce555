//! Training steps: gradients, updates, and whole asynchronous steps.
//!
//! A whole step is the same sequence of launches whenever its batch has the same [`Shape`]. Inputs that differ from step to step (the batch,
//! the seed, the learning rate) are read from device memory, so the sequence can be recorded once and replayed as one graph.

use super::model::{Losses, Model, StepRandomness};
use super::parameters::{Parameters, Weights};
use super::recorded::{Launches, OUTCOMES, SHAPES_MAX, StepHandle};
use super::shape::Shape;
use super::{Input, Masking, ModelConfig, inputs};
use crate::device::{ModelFloat, Stream};
use crate::ops::cross_entropy::Totals;
use crate::ops::{Result, adamw, reduce, rng_state, wrong};

/// Arguments of [`Model::train_step`].
#[derive(Clone, Copy, Debug)]
pub struct TrainStep<'a> {
    pub input: Input<'a>,
    pub randomness: StepRandomness,
    pub optimizer: &'a adamw::Hyperparameters,
    /// In `[0, 1]`.
    pub learning_rate: f64,
    /// Counts from 1.
    pub update: u32,
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    pub losses: Losses,
    /// Global norm of the gradients before clipping. If it is not finite, nothing was updated.
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
        self.prepare(stream, input, randomness, &Shape::exact(input, self.config.decoder)?)?;
        self.zero_gradients(stream)?;
        self.enqueue_gradients(stream, input.masking(), randomness.is_some())?;
        losses(&self.config, &self.head.totals().read()?, self.head.bag_loss().read()?[0])
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
        self.schedule.write(stream, &optimizer.schedule(learning_rate, update)?)?;
        self.enqueue_update(stream, optimizer)?;
        self.parameters.gradients_are_zero = true;
        Ok(self.squared_norm.read()?[0].sqrt())
    }

    /// Enqueues a whole training step, gradients and update, without waiting for it; [`Model::outcome`] takes the ticket that this returns.
    ///
    /// On a GPU the step is recorded as a graph the second time that its shape occurs; inputs are padded (with sentences without labels) so that
    /// shapes recur. Padding adds zeros to sums; but cuBLASLt may sum a matmul of another size in another order, so results may differ from those
    /// of [`step`](Self::step) by the rounding of such sums. The optimizer's constants are recorded with it.
    ///
    /// ```
    /// use retromae::device::Device;
    /// use retromae::model::{
    ///     AdamW, PoolRows, Capacity, Input, Masking, Model, ModelConfig, PackedSentences, StepRandomness, TrainStep,
    /// };
    /// use retromae::ops::masks::{MaskCountLimit, word_start_bits};
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
    /// let masking = Masking {
    ///     mask_id: 3,
    ///     encoder: MaskCountLimit::of(0.3),
    ///     decoder: MaskCountLimit::of(0.5),
    ///     pool_rows: PoolRows::AtMost(128),
    /// };
    /// for update in 1..=3 {
    ///     let step = TrainStep {
    ///         input: Input::Sampled(&sentences, masking),
    ///         randomness: StepRandomness { seed: 1, step: update },
    ///         optimizer: &AdamW::default(),
    ///         learning_rate: 1e-3,
    ///         update,
    ///     };
    ///     let ticket = model.train_step(&device.stream(), &step)?;
    ///     assert!(model.outcome(ticket)?.losses.decoder > 0.0);
    /// }
    /// # Ok::<(), retromae::ops::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Model::step`] and [`Model::update`].
    pub fn train_step(&mut self, stream: &Stream, step: &TrainStep<'_>) -> Result<StepHandle> {
        let TrainStep { input, randomness, optimizer, learning_rate, update } = *step;
        inputs::check(&self.config, self.capacity, input)?;
        let schedule = optimizer.schedule(learning_rate, update)?;
        let mut shape = Shape::exact(input, self.config.decoder)?;
        if self.training.record {
            shape = shape.recurring(self.capacity.of(input));
        }
        self.prepare(stream, input, Some(randomness), &shape)?;
        self.schedule.write(stream, &schedule)?;
        let launches = Launches { shape, masking: input.masking(), optimizer: *optimizer };
        self.zero_gradients(stream)?;
        self.run(stream, &launches)?;
        self.parameters.gradients_are_zero = true;
        let ticket = StepHandle { model: self.training.model, step: self.training.steps };
        let slot = &mut self.training.outcomes[(ticket.step % OUTCOMES as u64) as usize];
        slot.totals.download(stream, 0..2, self.head.totals())?;
        slot.floats.download(stream, 0..1, self.head.bag_loss())?;
        slot.floats.download(stream, 1..2, self.squared_norm.view())?;
        self.training.steps += 1;
        Ok(ticket)
    }

    /// Waits for a step and returns its result.
    ///
    /// # Errors
    /// When the ticket is not of one of this model's last two steps, or the device failed.
    pub fn outcome(&mut self, ticket: StepHandle) -> Result<Outcome> {
        let StepHandle { model, step } = ticket;
        let steps = self.training.steps;
        let expected = format!("of one of the last {OUTCOMES} steps of {steps}");
        if model != self.training.model {
            return wrong("ticket", "of a step of another model", expected);
        }
        if steps - step > OUTCOMES as u64 {
            return wrong("ticket", format_args!("of step {}", step + 1), expected);
        }
        let slot = &mut self.training.outcomes[(step % OUTCOMES as u64) as usize];
        let floats = slot.floats.read()?;
        let losses = losses(&self.config, slot.totals.read()?, floats[0])?;
        Ok(Outcome { losses, gradient_norm: floats[1].sqrt() })
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

    /// Uploads a checked input and the step's random state.
    fn prepare(
        &mut self,
        stream: &Stream,
        input: Input<'_>,
        randomness: Option<StepRandomness>,
        shape: &Shape,
    ) -> Result<()> {
        match randomness {
            Some(StepRandomness { seed, step }) => self.rng.write(stream, &rng_state(seed, step))?,
            None if input.masking().is_some() => {
                return wrong("randomness", "absent", "present where masks are sampled");
            }
            None => {}
        }
        self.inputs.write(stream, &self.config, input, shape)?;
        self.masks.write(stream, self.config.decoder, input, shape)
    }

    /// Enqueues a prepared step; as a graph if the same launches were enqueued before.
    fn run(&mut self, stream: &Stream, launches: &Launches) -> Result<()> {
        let known = self.training.known.iter().position(|(known, _)| known == launches);
        let Some(index) = known.filter(|_| self.training.record) else {
            if self.training.known.len() >= SHAPES_MAX {
                self.training.known.clear();
            }
            self.enqueue(stream, launches)?;
            if self.training.record {
                self.training.known.push((*launches, None));
            }
            return Ok(());
        };
        if self.training.known[index].1.is_none() {
            let recorder = self.training.recorder.clone();
            let graph = recorder.capture(|recorder| self.enqueue(recorder, launches))?;
            self.training.known[index].1 = Some(graph);
        }
        let graph = self.training.known[index].1.as_ref().expect("recorded above");
        // SAFETY: the step uses buffers of this model alone, which live as long as the graph; the model's work is in one order, and
        // reads from the host wait for all streams.
        unsafe { graph.launch(stream)? };
        Ok(())
    }

    fn enqueue(&mut self, stream: &Stream, launches: &Launches) -> Result<()> {
        self.enqueue_gradients(stream, launches.masking, true)?;
        self.enqueue_update(stream, &launches.optimizer)
    }

    /// Zeroes the gradients before a step adds to them, unless the previous update left them at zero.
    fn zero_gradients(&mut self, stream: &Stream) -> Result<()> {
        let Parameters { gradients, gradients_are_zero, .. } = &mut self.parameters;
        if !std::mem::replace(gradients_are_zero, false) {
            stream.zero(gradients.view_mut())?;
        }
        Ok(())
    }

    /// Enqueues the forward and backward pass of the prepared input.
    fn enqueue_gradients(&mut self, stream: &Stream, masking: Option<Masking>, dropout: bool) -> Result<()> {
        if let Some(masking) = masking {
            self.masks.draw(stream, &self.config, &mut self.inputs, masking, self.rng.view())?;
        }
        self.inputs.group(stream)?;
        self.encode(stream, dropout)?;
        self.decode(stream, dropout)?;
        self.losses_and_head(stream)?;
        self.decode_backward(stream, dropout)?;
        self.encode_backward(stream, dropout)
    }

    /// Enqueues clipping and AdamW.
    fn enqueue_update(&mut self, stream: &Stream, optimizer: &adamw::Hyperparameters) -> Result<()> {
        let squares = reduce::Arguments {
            input: self.parameters.gradients.view(),
            output: self.squared_norm.view_mut(),
            accumulate: false,
            workspace: self.scratch.workspace.view_mut(),
        };
        reduce::squares(stream, squares)?;
        let Parameters { weights, gradients, first_moments, second_moments, .. } = &mut self.parameters;
        let Weights { layout, master, compute } = weights;
        let step = adamw::Step {
            parameters: master.view_mut(),
            gradients: gradients.view_mut(),
            first_moments: first_moments.view_mut(),
            second_moments: second_moments.view_mut(),
            // The only 16-bit type that a model computes in is bf16.
            compute_parameters: compute.as_mut().map(|compute| compute.view_mut().same_type()),
            squared_norm: self.squared_norm.view(),
            schedule: self.schedule.view(),
            decayed: layout.decayed,
            hyperparameters: *optimizer,
        };
        adamw::step(stream, step)
    }
}

/// Computes the mean losses; `bag_loss` is weighted.
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
