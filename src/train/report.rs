//! The training log: a line of JSON for each step.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::eval::RetrievalScore;

/// An error of the log or the plot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log cannot be read or written.
    #[error("training log `{path}`: {source}")]
    Log {
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A line of the log is no record.
    #[error(
        "training log `{path}`, line {line}: {reason}; it should be a step record, one JSON object a line"
    )]
    Malformed {
        /// Path of the file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// Error of the JSON parser.
        reason: String,
    },
    /// The plot cannot be written.
    #[error(transparent)]
    Plot(#[from] crate::common::FileError),
    /// The plot cannot be drawn.
    #[error("training plot `{path}`: {reason}")]
    Drawing {
        /// Path of the file.
        path: PathBuf,
        /// Error of the plotting library.
        reason: String,
    },
}

/// Record of one training step; losses that are not finite are written as `null`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Step number, from 1.
    pub step: u64,
    /// Epochs over the corpus that were complete after the batch.
    pub epoch: u32,
    /// Mean cross-entropy of the encoder's labeled tokens, in nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub encoder_loss: f32,
    /// Mean cross-entropy of the decoder's tokens, in nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub decoder_loss: f32,
    /// Mean bag-of-words loss of the sentences, in nats; `None` without that head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bag_of_words_loss: Option<f32>,
    /// Fraction of the encoder's labeled tokens whose id was predicted.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub encoder_accuracy: f32,
    /// The same for the decoder's tokens.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub decoder_accuracy: f32,
    /// `exp` of the mean negative log-probability of the encoder's labeled tokens.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub encoder_perplexity: f32,
    /// The same for the decoder's tokens.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub decoder_perplexity: f32,
    /// Learning rate of the step.
    pub learning_rate: f32,
    /// Global norm before clipping.
    #[serde(deserialize_with = "null_is_nan")]
    pub gradient_norm: f32,
    /// Sentences of the batch.
    pub sentences: usize,
    /// Tokens of the batch, special ones included.
    pub tokens: usize,
    /// `tokens` over the time of the step, per second.
    pub tokens_per_s: f32,
    /// Time from the end of the step before to the end of this one, in milliseconds.
    pub step_ms: f32,
    /// Time of the step's matmuls; `None` when not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gemm_ms: Option<f32>,
    /// Time of the step's other kernels; `None` when not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_ms: Option<f32>,
    /// Time that the device waited for the batch.
    pub data_wait_ms: f32,
}

/// Default for fields that older logs do not have.
fn nan() -> f32 {
    f32::NAN
}

fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f32::NAN))
}

impl StepRecord {
    /// Percentage of the step's time that the device waited for its batch; 0 if the time is unknown.
    #[must_use]
    pub fn data_wait_percent(&self) -> f32 {
        if self.step_ms > 0.0 { 100.0 * self.data_wait_ms / self.step_ms } else { 0.0 }
    }
}

/// Percentage of all steps' time that the device waited for batches; 0 if the time is unknown.
#[must_use]
pub fn data_wait_percent(records: &[StepRecord]) -> f32 {
    let sum = |value: fn(&StepRecord) -> f32| records.iter().map(value).sum::<f32>();
    let all = StepRecord {
        data_wait_ms: sum(|record| record.data_wait_ms),
        step_ms: sum(|record| record.step_ms),
        ..StepRecord::default()
    };
    all.data_wait_percent()
}

/// `training.jsonl`, open for the next step.
#[derive(Debug)]
pub(super) struct TrainingLog {
    file: File,
    path: PathBuf,
}

impl TrainingLog {
    /// Opens the log at `path` for a run that continues after `resume_step` steps, 0 for a new run.
    ///
    /// Truncates records after `resume_step`, whose steps will be repeated, and a last line that a crash left
    /// unfinished.
    ///
    /// # Errors
    /// [`Error::Log`]; [`Error::Malformed`] names a line that is not a record, and leaves the file unchanged.
    pub fn open(path: impl AsRef<Path>, resume_step: u64) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        let failed = |source| Error::Log { path: path.clone(), source };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(failed)?;
        let kept = kept_bytes(&std::fs::read(&path).map_err(failed)?, resume_step, &path)?;
        file.set_len(kept).and_then(|()| file.seek(SeekFrom::End(0))).map_err(failed)?;
        Ok(Self { file, path })
    }

    /// Appends `record`; it has been written to the file when this returns.
    ///
    /// # Errors
    /// [`Error::Log`].
    pub fn append(&mut self, record: &StepRecord) -> Result<(), Error> {
        let failed = |source| Error::Log { path: self.path.clone(), source };
        let mut line = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).and_then(|()| self.file.flush()).map_err(failed)
    }
}

/// Returns the bytes of the log up to and including the record of `resume_step`.
fn kept_bytes(log: &[u8], resume_step: u64, path: &Path) -> Result<u64, Error> {
    let mut kept = 0;
    for (index, line) in log.split_inclusive(|&byte| byte == b'\n').enumerate() {
        if resume_step == 0 || !line.ends_with(b"\n") {
            break;
        }
        if parse(line, index, path)?.step > resume_step {
            break;
        }
        kept += line.len() as u64;
    }
    Ok(kept)
}

fn parse(line: &[u8], index: usize, path: &Path) -> Result<StepRecord, Error> {
    serde_json::from_slice(line).map_err(|error| Error::Malformed {
        path: path.to_owned(),
        line: index + 1,
        reason: error.to_string(),
    })
}

/// Reads every record of the log at `path`; an unfinished last line is skipped.
///
/// # Errors
/// [`Error::Log`], [`Error::Malformed`].
pub fn read_training_log(path: impl AsRef<Path>) -> Result<Vec<StepRecord>, Error> {
    let path = path.as_ref();
    let log = std::fs::read(path).map_err(|source| Error::Log { path: path.to_owned(), source })?;
    let lines = log.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
    lines.enumerate().map(|(index, line)| parse(line, index, path)).collect()
}

/// Retrieval scores on held-out passages: the model before and after training, and BM25.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrievalTable {
    /// Number of queries and of documents; each query has one relevant document.
    pub held_out: usize,
    /// The untrained model.
    pub before: RetrievalScore,
    /// `None` until training is over.
    pub after: Option<RetrievalScore>,
    /// BM25 on the same passages.
    pub bm25: RetrievalScore,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64) -> StepRecord {
        StepRecord { step, encoder_loss: 9.0 / step as f32, decoder_loss: 2.0, ..StepRecord::default() }
    }

    /// A line from before accuracies were recorded.
    #[test]
    fn an_older_record_is_read() {
        let line = br#"{"step":3,"epoch":0,"encoder_loss":2.5,"decoder_loss":null,"learning_rate":0.1,
            "gradient_norm":1.0,"sentences":2,"tokens":30,"tokens_per_s":9.0,"step_ms":3.0,"data_wait_ms":0.0}"#;
        let record = parse(line, 0, Path::new("log")).unwrap();
        assert!(record.encoder_accuracy.is_nan() && record.decoder_perplexity.is_nan());
        assert_eq!((record.step, record.encoder_loss, record.bag_of_words_loss), (3, 2.5, None));
    }

    #[test]
    fn a_resumed_log_is_cut_at_the_checkpoint() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("training.jsonl");
        let write = |resume, steps: std::ops::RangeInclusive<u64>| {
            let mut log = TrainingLog::open(&path, resume).unwrap();
            steps.for_each(|step| log.append(&record(step)).unwrap());
        };
        let steps = || read_training_log(&path).unwrap().iter().map(|record| record.step).collect::<Vec<_>>();
        write(0, 1..=5);
        // A crash in the middle of a line.
        File::options().append(true).open(&path).unwrap().write_all(b"{\"step\":6,\"epo").unwrap();
        assert_eq!(steps(), [1, 2, 3, 4, 5]);
        write(5, 6..=6);
        assert_eq!(steps(), [1, 2, 3, 4, 5, 6]);
        write(3, 4..=4);
        assert_eq!(steps(), [1, 2, 3, 4]);
        write(9, 10..=10);
        assert_eq!(steps(), [1, 2, 3, 4, 10]);
        write(0, 1..=1);
        assert_eq!(steps(), [1]);
    }

    #[test]
    fn a_line_that_is_no_record_is_named_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("training.jsonl");
        TrainingLog::open(&path, 0).unwrap().append(&record(1)).unwrap();
        File::options().append(true).open(&path).unwrap().write_all(b"{\"loss\": 1}\n").unwrap();
        let before = std::fs::read(&path).unwrap();
        let message = TrainingLog::open(&path, 5).unwrap_err().to_string();
        assert!(message.contains("training.jsonl") && message.contains("line 2"), "{message}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        let message = TrainingLog::open(directory.path(), 0).unwrap_err().to_string();
        assert!(message.contains(directory.path().to_str().unwrap()), "{message}");
    }

    #[test]
    fn losses_that_are_not_numbers_survive() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("training.jsonl");
        let diverged = StepRecord { encoder_loss: f32::NAN, gradient_norm: f32::INFINITY, ..record(1) };
        TrainingLog::open(&path, 0).unwrap().append(&diverged).unwrap();
        let read = read_training_log(&path).unwrap();
        assert!(read[0].encoder_loss.is_nan() && read[0].gradient_norm.is_nan());
    }
}
