//! The loop: batches in, updates, records and checkpoints out.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Observer;
use super::checkpoint::{CheckpointDirectory, Progress};
use super::error::{Error, Result};
use super::prefetch::{Prefetch, Prefetched};
use super::prepare::Prepared;
use super::report::{RetrievalTable, StepRecord, TrainingLog, write_training_svg};
use super::schedule::linear_learning_rate;
use crate::data::{BatchDrawer, Position};
use crate::device::{Float, Stream, Timings};
use crate::model::{AdamW, DecoderKind, Losses, Model, StepRandomness, Visibility};

/// Rows of a sentence's bank of position-specific masks, at most (the later public code).
const BANK_ROWS_MAX: usize = 128;

/// A run under way.
pub(super) struct Trainer<'a, T: Float> {
    pub options: &'a super::Options,
    pub prepared: &'a Prepared,
    pub model: Model<T>,
    pub stream: Stream,
    pub log: TrainingLog,
    pub records: Vec<StepRecord>,
    pub checkpoints: CheckpointDirectory,
    /// Steps done.
    pub step: u64,
    /// Where the next batch begins.
    pub position: Position,
    /// The step of the last checkpoint.
    pub saved_step: Option<u64>,
    pub retrieval: Option<RetrievalTable>,
}

impl<T: Float> Trainer<'_, T> {
    /// Trains until `end` steps are done, with a checkpoint at the end.
    pub fn train(&mut self, drawer: BatchDrawer, end: u64, observer: &mut dyn Observer) -> Result<()> {
        let mut prefetch = Prefetch::start(drawer, self.step..end);
        observer.start(self.step, end);
        while self.step < end {
            let record = self.run_step(&mut prefetch)?;
            self.log.append(&record)?;
            observer.step(&record);
            self.records.push(record.clone());
            self.require_finite(&record)?;
            if self.step.is_multiple_of(self.options.checkpoint_every) || self.step == end {
                self.checkpoint()?;
            }
        }
        observer.finish();
        Ok(())
    }

    /// One step: losses, gradients, and the update unless a loss is not finite.
    fn run_step(&mut self, prefetch: &mut Prefetch) -> Result<StepRecord> {
        let start = Instant::now();
        let before = self.stream.device().timings();
        let batch = prefetch.next(self.step)?;
        let losses = self.losses_and_gradients(&batch)?;
        let learning_rate = self.learning_rate();
        let finite = losses.encoder.is_finite() && losses.decoder.is_finite();
        let gradient_norm = if finite {
            self.model.update(
                &self.stream,
                &AdamW::default(),
                f64::from(learning_rate),
                self.step as u32 + 1,
            )?
        } else {
            f32::NAN
        };
        self.step += 1;
        self.position = batch.position;
        let spent = start.elapsed();
        let timings = self.device_time_since(before);
        let tokens = batch.drawn.batch.num_tokens();
        Ok(StepRecord {
            step: self.step,
            epoch: batch.position.epoch,
            encoder_loss: losses.encoder,
            decoder_loss: losses.decoder,
            learning_rate,
            gradient_norm,
            sentences: batch.drawn.batch.num_sentences(),
            tokens,
            tokens_per_s: tokens as f32 / spent.as_secs_f32().max(f32::MIN_POSITIVE),
            step_ms: milliseconds(spent),
            gemm_ms: timings.map(|timings| milliseconds(timings.gemm)),
            kernel_ms: timings.map(|timings| milliseconds(timings.kernels)),
            data_wait_ms: milliseconds(batch.waited),
        })
    }

    fn losses_and_gradients(&mut self, batch: &Prefetched) -> Result<Losses> {
        let visibility = match self.prepared.config.decoder {
            DecoderKind::Basic => Visibility::Explicit,
            DecoderKind::Enhanced => Visibility::Drawn {
                sentence_indices: &batch.drawn.sentence_indices,
                word_starts: &batch.drawn.word_starts,
                ratio: self.options.decoder_mask,
                bank_rows_max: BANK_ROWS_MAX,
            },
        };
        let randomness = StepRandomness { seed: self.options.seed, step: self.step as u32 };
        Ok(self.model.step(&self.stream, &batch.drawn.batch, visibility, Some(randomness))?)
    }

    /// Of the step to come.
    fn learning_rate(&self) -> f32 {
        let Prepared { warmup_steps, total_steps, .. } = *self.prepared;
        linear_learning_rate(self.step, self.options.learning_rate, warmup_steps, total_steps)
    }

    /// What the host device spent since `before`; none on a device that does not measure.
    fn device_time_since(&self, before: Timings) -> Option<Timings> {
        let now = self.stream.device().timings();
        (now != Timings::default())
            .then(|| Timings { gemm: now.gemm - before.gemm, kernels: now.kernels - before.kernels })
    }

    fn require_finite(&self, record: &StepRecord) -> Result<()> {
        let values = [
            ("encoder loss", record.encoder_loss),
            ("decoder loss", record.decoder_loss),
            ("gradient norm", record.gradient_norm),
        ];
        let Some((what, value)) = values.into_iter().find(|(_, value)| !value.is_finite()) else {
            return Ok(());
        };
        let kept = match self.saved_step {
            Some(step) => format!("the checkpoint of step {step} is kept"),
            None => "no checkpoint had been written".to_owned(),
        };
        Err(Error::NonFinite { what, value, step: record.step, kept })
    }

    fn checkpoint(&mut self) -> Result<()> {
        let progress = Progress {
            step: self.step,
            position: self.position,
            options: self.prepared.fixed_options.clone(),
            device: self.stream.device().description(),
            retrieval_before: self.retrieval.map(|table| table.before),
        };
        self.checkpoints.save(&self.model, progress)?;
        self.saved_step = Some(self.step);
        self.draw()
    }

    /// Draws `training.svg` as it stands.
    pub fn draw(&self) -> Result<()> {
        let config = &self.prepared.config;
        let title = format!(
            "RetroMAE pre-training: {} layers of {}, {} passages",
            config.num_hidden_layers,
            config.hidden_size,
            self.prepared.drawer.passages().len()
        );
        let path: PathBuf = self.options.out.join("training.svg");
        Ok(write_training_svg(path, &title, &self.records, self.retrieval.as_ref())?)
    }
}

fn milliseconds(duration: Duration) -> f32 {
    1e3 * duration.as_secs_f32()
}
