//! A whole run: from options to an exported model.

use std::path::{Path, PathBuf};

use super::checkpoint::{CheckpointDirectory, State};
use super::error::{Error, Result, require};
use super::prepare::Prepared;
use super::report::{RetrievalTable, StepRecord, TrainingLog, read_training_log};
use super::trainer::Trainer;
use super::{Observer, Options};
use crate::data::{Position, lock};
use crate::device::{DType, Device, ModelFloat, bf16};
use crate::eval::{EmbedError, Embedder, RetrievalScore, rank_bm25};
use crate::model::io::{CONFIG_FILE, FileError, Purpose, WEIGHTS_FILE, save_config};
use crate::model::{Model, Pooling};

const LOG_FILE: &str = "training.jsonl";
/// Files that a run leaves in its directory besides `checkpoint/`.
const RUN_FILES: [&str; 7] = [
    WEIGHTS_FILE,
    CONFIG_FILE,
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    LOG_FILE,
    "training.svg",
];

/// The result of a run.
#[derive(Clone, Debug)]
pub struct RunResult {
    /// Records of every step, those before a resume included.
    pub records: Vec<StepRecord>,
    /// `None` if no passages were held out.
    pub retrieval: Option<RetrievalTable>,
    /// Steps of the whole run: more than there are records if `stop_at` ended it early.
    pub total_steps: u64,
    /// Directory of the model.
    pub out: PathBuf,
    /// The observer ended the run early: there is a checkpoint of the last step, but the model may not have been exported.
    pub stopped: bool,
}

/// Pre-trains a model and leaves it in `options.out`, with its checkpoint and the record of the run.
///
/// Every error in the options, the corpus and the checkpoint is found before anything is written.
///
/// # Errors
/// [`Error`]; after a failed step the last checkpoint remains, to resume from.
pub fn pretrain(
    options: &Options,
    device: &Device,
    dtype: DType,
    observer: &mut dyn Observer,
) -> Result<RunResult> {
    options.validate()?;
    match dtype {
        DType::F32 => run::<f32>(options, device, observer),
        DType::Bf16 => run::<bf16>(options, device, observer),
        DType::F16 => Err(Error::Argument {
            argument: "dtype",
            actual: dtype.name().into(),
            expected: "f32 or bf16, which there are kernels for".into(),
        }),
    }
}

fn run<T: ModelFloat>(options: &Options, device: &Device, observer: &mut dyn Observer) -> Result<RunResult> {
    // Lock before reading; if the directory is new, lock after creating it.
    let lock = lock(&options.out)?;
    let checkpoints = CheckpointDirectory::of_run(&options.out);
    let state = check_out(options, &checkpoints)?;
    let prepared = Prepared::new(options, T::DTYPE, observer)?;
    if let Some(state) = &state {
        prepared.check_resumed(state)?;
    }
    let model = make_model::<T>(options, &prepared, device, state.as_ref(), &checkpoints, observer)?;
    let stopped = observer.stop();
    start_out(options, &prepared, state.is_some())?;
    let _lock = match lock {
        Some(lock) => Some(lock),
        None => self::lock(&options.out)?,
    };
    let (step, position) = state.as_ref().map_or((0, Position::default()), |s| (s.step, s.position.clone()));
    let log_path = options.out.join(LOG_FILE);
    let log = TrainingLog::open(&log_path, step)?;
    let mut trainer = Trainer {
        options,
        prepared: &prepared,
        model,
        stream: device.stream(),
        log,
        records: read_training_log(&log_path)?,
        checkpoints,
        step,
        position: position.clone(),
        saved_step: state.as_ref().map(|state| state.step),
        retrieval: None,
    };
    let end = options.stop_at.unwrap_or(prepared.total_steps).min(prepared.total_steps);
    let sampler = prepared.sampler.at(position)?;
    let before = state.and_then(|state| state.retrieval_before);
    let finished = !stopped
        && check_retrieval(&mut trainer, before, observer)?
        && trainer.train(sampler, end, observer)?
        && finish(&mut trainer, observer)?;
    if !finished && trainer.saved_step != Some(trainer.step) {
        trainer.checkpoint()?;
    }
    let Trainer { records, retrieval, .. } = trainer;
    let (total_steps, out) = (prepared.total_steps, options.out.clone());
    Ok(RunResult { records, retrieval, total_steps, out, stopped: !finished })
}

/// Returns the checkpoint to resume from, or `None` for a new run; refuses a directory that is not empty, unless `overwrite` is set.
fn check_out(options: &Options, checkpoints: &CheckpointDirectory) -> Result<Option<State>> {
    if options.resume {
        return checkpoints.state().map(Some);
    }
    let out = &options.out;
    let exists = out.exists();
    let file = format!("`{}`, a file", out.display());
    require(!exists || out.is_dir(), "out", file, "a directory, or a path where one can be made")?;
    let read = |path: &Path| {
        let entries = std::fs::read_dir(path).map_err(FileError::reading(path));
        entries.map(|mut entries| entries.next().is_some())
    };
    if exists && !options.overwrite && read(out)? {
        return Err(Error::OutNotEmpty { path: out.clone() });
    }
    Ok(None)
}

/// Creates the directory of a new run, deletes an earlier run's files there, and writes the files that need no training.
fn start_out(options: &Options, prepared: &Prepared, resumed: bool) -> Result<()> {
    if resumed {
        return Ok(());
    }
    let out = &options.out;
    std::fs::create_dir_all(out).map_err(FileError::writing(out))?;
    let checkpoint = CheckpointDirectory::of_run(out);
    if checkpoint.path().exists() {
        std::fs::remove_dir_all(checkpoint.path()).map_err(FileError::writing(checkpoint.path()))?;
    }
    for path in RUN_FILES.map(|name| out.join(name)) {
        if path.exists() {
            std::fs::remove_file(&path).map_err(FileError::writing(&path))?;
        }
    }
    save_config(out, &prepared.config, Some(prepared.tokenizer.special_tokens().pad))?;
    Ok(prepared.tokenizer.save(out, prepared.max_len)?)
}

/// Creates the model with the weights of the checkpoint or of `--init`, or with freshly initialized ones.
fn make_model<T: ModelFloat>(
    options: &Options,
    prepared: &Prepared,
    device: &Device,
    state: Option<&State>,
    checkpoints: &CheckpointDirectory,
    observer: &mut dyn Observer,
) -> Result<Model<T>> {
    let Prepared { config, capacity, .. } = prepared;
    let bytes = Model::<T>::memory_bytes(device, config, *capacity)?;
    observer.note(&format!("device: {}, {}", device.description(), T::DTYPE.name()));
    observer.note(&format!(
        "memory: a step needs at most {:.1} MiB, for {} tokens of {} sentences",
        bytes as f64 / f64::from(1 << 20),
        capacity.tokens,
        capacity.sentences
    ));
    let mut model = Model::new(device, config, *capacity)?;
    if let Some(state) = state {
        checkpoints.load(state, &mut model)?;
        observer.note(&format!("resumed after step {} of {}", state.step, prepared.total_steps));
        if state.device != device.description() {
            observer.note(&format!(
                "the checkpoint is of another device ({}): the run goes on, but not bit for bit",
                state.device
            ));
        }
        return Ok(model);
    }
    model.initialize(options.seed)?;
    if let Some(directory) = &options.init {
        let weights = model.load_weights(&directory.join(WEIGHTS_FILE), Purpose::Training)?;
        observer.note(&weights.to_string());
    }
    Ok(model)
}

/// Scores retrieval with the untrained model, unless a checkpoint has this score (`before`); returns false if it was stopped.
fn check_retrieval<T: ModelFloat>(
    trainer: &mut Trainer<'_, T>,
    before: Option<RetrievalScore>,
    observer: &mut dyn Observer,
) -> Result<bool> {
    let held_out = &trainer.prepared.held_out;
    if held_out.is_empty() {
        return Ok(true);
    }
    let before = match before {
        Some(before) => Some(before),
        None => score(trainer, observer)?,
    };
    let Some(before) = before else { return Ok(false) };
    let bm25 = RetrievalScore::from_ranks(&rank_bm25(held_out));
    trainer.retrieval = Some(RetrievalTable { held_out: held_out.len(), before, after: None, bm25 });
    Ok(true)
}

/// Scores retrieval on the held-out passages; returns `None` if it was stopped.
fn score<T: ModelFloat>(
    trainer: &mut Trainer<'_, T>,
    observer: &mut dyn Observer,
) -> Result<Option<RetrievalScore>> {
    let Prepared { tokenizer, held_out, .. } = trainer.prepared;
    let (model, stream, stop) = (&mut trainer.model, &trainer.stream, &mut || observer.stop());
    match (Embedder { model, stream, tokenizer, pooling: Pooling::Cls, stop }).retrieval_score(held_out) {
        Ok(score) => Ok(Some(score)),
        Err(EmbedError::Stopped) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Exports the model, scores retrieval again, and draws the plot; returns false if it was stopped.
fn finish<T: ModelFloat>(trainer: &mut Trainer<'_, T>, observer: &mut dyn Observer) -> Result<bool> {
    if observer.stop() {
        return Ok(false);
    }
    let (options, prepared) = (trainer.options, trainer.prepared);
    trainer.model.save(&options.out, Some(prepared.tokenizer.special_tokens().pad))?;
    prepared.tokenizer.save(&options.out, prepared.max_len)?;
    if let Some(mut table) = trainer.retrieval {
        let Some(after) = score(trainer, observer)? else { return Ok(false) };
        table.after = Some(after);
        trainer.retrieval = Some(table);
    }
    trainer.draw()?;
    Ok(true)
}
