//! The training loop: batches in; updates, records and checkpoints out.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use super::Observer;
use super::checkpoint::{CheckpointDirectory, Progress};
use super::error::{Error, Result};
use super::plot::write_training_svg;
use super::prefetch::Prefetch;
use super::prepare::Prepared;
use super::report::{RetrievalTable, StepRecord, TrainingLog};
use super::schedule::linear_learning_rate;
use crate::data::{BatchSampler, Position};
use crate::device::{Event, ModelFloat, Stream, Timings};
use crate::model::io;
use crate::model::{AdamW, Input, MicroBatch, Model, StepHandle, StepRandomness, StepResult, TrainStep};

/// Maximum enqueued steps: the one that the device computes and the next one.
const STEPS_IN_FLIGHT: usize = 2;

/// State of a run in progress.
pub(super) struct Trainer<'a, T: ModelFloat> {
    pub options: &'a super::Options,
    pub prepared: &'a Prepared,
    pub model: Model<T>,
    pub stream: Stream,
    pub log: TrainingLog,
    pub records: Vec<StepRecord>,
    pub checkpoints: CheckpointDirectory,
    /// Steps done.
    pub step: u64,
    /// Position of the next batch.
    pub position: Position,
    /// The step of the last checkpoint.
    pub saved_step: Option<u64>,
    pub retrieval: Option<RetrievalTable>,
}

/// An enqueued step, with its partial record.
struct Submitted {
    handle: StepHandle,
    /// Event after all of the step's work.
    end: Event,
    /// Record without losses, norm and times, which are filled in once the step is complete.
    record: StepRecord,
    position: Position,
}

impl<T: ModelFloat> Trainer<'_, T> {
    /// Trains until `end` steps are done, with a checkpoint at the end. Returns false if the observer stopped it earlier, after the enqueued
    /// steps were done. While the device computes a step, the host prepares the next one.
    pub fn train(&mut self, sampler: BatchSampler, end: u64, observer: &mut dyn Observer) -> Result<bool> {
        let (whole, mut end) = (end, end);
        let mut prefetch = Prefetch::start(sampler, self.step..end);
        observer.start(self.step, end);
        let mut submitted = self.step;
        let mut last = self.stream.record()?;
        let mut pending = VecDeque::new();
        while self.step < end {
            if submitted < end && observer.stop() {
                end = submitted;
            }
            while submitted < end && pending.len() < STEPS_IN_FLIGHT && !self.checkpoint_is_due(submitted) {
                pending.push_back(self.submit(&mut prefetch, submitted)?);
                submitted += 1;
            }
            let Some(step) = pending.pop_front() else { break };
            let record = self.complete(step, &mut last)?;
            self.log.append(&record)?;
            observer.step(&record);
            self.records.push(record.clone());
            self.require_finite(&record)?;
            if self.checkpoint_is_due(self.step) || self.step == end {
                self.checkpoint()?;
            }
        }
        observer.finish();
        Ok(end == whole)
    }

    /// Returns true if the first `step` steps must be saved before another is enqueued.
    fn checkpoint_is_due(&self, step: u64) -> bool {
        step.is_multiple_of(self.options.checkpoint_every) && self.saved_step.unwrap_or(0) < step
    }

    /// Enqueues the step that follows `done` steps.
    fn submit(&mut self, prefetch: &mut Prefetch, done: u64) -> Result<Submitted> {
        let before = self.stream.device().timings();
        let batch = prefetch.next(done)?;
        let learning_rate = self.learning_rate(done);
        let step = TrainStep {
            batch: MicroBatch::new(
                Input::Sampled(&batch.sentences, self.prepared.masking),
                StepRandomness { seed: self.options.seed, step: done as u32 },
            ),
            optimizer: &AdamW::default(),
            learning_rate: f64::from(learning_rate),
            update: done as u32 + 1,
        };
        let handle = self.model.train_step(&self.stream, &step)?;
        let timings = self.device_time_since(before);
        let record = StepRecord {
            step: done + 1,
            epoch: batch.position.epoch,
            learning_rate,
            sentences: batch.sentences.num_sentences(),
            tokens: batch.sentences.num_tokens(),
            gemm_ms: timings.map(|timings| milliseconds(timings.gemm)),
            kernel_ms: timings.map(|timings| milliseconds(timings.kernels)),
            data_wait_ms: milliseconds(batch.waited),
            ..StepRecord::default()
        };
        Ok(Submitted { handle, end: self.stream.record()?, record, position: batch.position })
    }

    /// Waits for a step and completes its record; `last` is the end of the previous step.
    fn complete(&mut self, step: Submitted, last: &mut Event) -> Result<StepRecord> {
        let Submitted { handle, end, record, position } = step;
        let StepResult { losses, gradient_norm } = self.model.result(handle)?;
        let spent = end.elapsed_since(last)?;
        *last = end;
        self.step = record.step;
        self.position = position;
        Ok(StepRecord {
            encoder_loss: losses.encoder,
            decoder_loss: losses.decoder,
            bag_of_words_loss: losses.bag_of_words,
            encoder_accuracy: losses.encoder_accuracy,
            decoder_accuracy: losses.decoder_accuracy,
            encoder_perplexity: losses.encoder_perplexity,
            decoder_perplexity: losses.decoder_perplexity,
            gradient_norm,
            tokens_per_s: tokens_per_second(record.tokens, spent),
            step_ms: milliseconds(spent),
            ..record
        })
    }

    /// Learning rate of the step that follows `done` steps.
    fn learning_rate(&self, done: u64) -> f32 {
        let Prepared { warmup_steps, total_steps, .. } = *self.prepared;
        linear_learning_rate(done, self.options.learning_rate, warmup_steps, total_steps)
    }

    /// Time that the CPU emulator spent since `before`; `None` on a device that does not measure.
    fn device_time_since(&self, before: Timings) -> Option<Timings> {
        let now = self.stream.device().timings();
        (now != Timings::default())
            .then(|| Timings { gemm: now.gemm - before.gemm, kernels: now.kernels - before.kernels })
    }

    fn require_finite(&self, record: &StepRecord) -> Result<()> {
        let values = [
            ("encoder loss", record.encoder_loss),
            ("decoder loss", record.decoder_loss),
            ("bag-of-words loss", record.bag_of_words_loss.unwrap_or(0.0)),
            ("gradient norm", record.gradient_norm),
        ];
        let Some((what, value)) = values.into_iter().find(|(_, value)| !value.is_finite()) else {
            return Ok(());
        };
        Err(self.non_finite(what.to_owned(), value))
    }

    fn non_finite(&self, what: String, value: f32) -> Error {
        let kept = match self.saved_step {
            Some(step) => format!("the checkpoint of step {step} is kept"),
            None => "no checkpoint had been written".to_owned(),
        };
        Error::NonFinite { what, value, step: self.step, kept }
    }

    pub fn checkpoint(&mut self) -> Result<()> {
        let progress = Progress {
            step: self.step,
            position: self.position.clone(),
            options: self.prepared.fixed_options.clone(),
            device: self.stream.device().description(),
            retrieval_before: self.retrieval.map(|table| table.before),
        };
        // The losses so far were computed with the weights before the last update, so they cannot show that it made a weight non-finite.
        self.checkpoints.save(&self.model, progress).map_err(|error| match error {
            Error::Model(io::Error::NonFiniteWeight { tensor, value, .. }) => self.non_finite(tensor, value),
            other => other,
        })?;
        self.saved_step = Some(self.step);
        self.draw()
    }

    /// Draws `training.svg` from the records so far.
    pub fn draw(&self) -> Result<()> {
        let config = &self.prepared.config;
        let title = format!(
            "RetroMAE pre-training: {} layers of {}, {} passages",
            config.num_hidden_layers,
            config.hidden_size,
            self.prepared.sampler.store().len()
        );
        let path: PathBuf = self.options.out.join("training.svg");
        Ok(write_training_svg(path, &title, &self.records, self.retrieval.as_ref())?)
    }
}

/// Returns the throughput; 0 if the clock is too coarse to measure `spent`.
fn tokens_per_second(tokens: usize, spent: Duration) -> f32 {
    if spent.is_zero() { 0.0 } else { tokens as f32 / spent.as_secs_f32() }
}

fn milliseconds(duration: Duration) -> f32 {
    1e3 * duration.as_secs_f32()
}
