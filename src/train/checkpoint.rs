//! Checkpoints: everything that an interrupted run needs to continue exactly.
//!
//! A checkpoint is two files in `checkpoint/`: the tensors of a step, and `state.json`, which names them. A checkpoint
//! becomes current when a rename replaces `state.json`, so an interruption always leaves a complete checkpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use crate::data::{Position, checksum, write_synced};
use crate::device::ModelFloat;
use crate::eval::RetrievalScore;
use crate::model::Model;
use crate::model::io::{self, FileError};

/// Version of the files that this code writes and reads.
const SCHEMA_VERSION: u32 = 3;
const STATE_FILE: &str = "state.json";

/// Contents of `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of the format of both files.
    pub schema_version: u32,
    /// Steps done.
    pub step: u64,
    /// Position of the next batch, after the last step's.
    pub position: Position,
    /// Options that must not change, by field of [`Options`](super::Options).
    pub options: BTreeMap<String, String>,
    /// Device that wrote the checkpoint: a run continues bit for bit only on the same device.
    pub device: String,
    /// Retrieval score of the untrained model.
    pub retrieval_before: Option<RetrievalScore>,
    /// File name of the tensors, in the same directory.
    pub tensors: String,
    /// Size of that file in bytes.
    pub tensors_bytes: u64,
    /// Checksum of that file, in hexadecimal.
    pub tensors_checksum: String,
}

/// A run's progress at a checkpoint; the rest of [`State`] describes files.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Position of the next batch, after the last step's.
    pub position: Position,
    /// Options that must not change, by field of [`Options`](super::Options).
    pub options: BTreeMap<String, String>,
    /// Device of the run, as [`Device::description`](crate::device::Device::description) tells it.
    pub device: String,
    /// Retrieval score of the untrained model; `None` without held-out passages.
    pub retrieval_before: Option<RetrievalScore>,
}

/// Directory of a run's checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointDirectory {
    path: PathBuf,
}

impl CheckpointDirectory {
    /// `checkpoint/` in the directory of a run.
    #[must_use]
    pub fn of_run(out: &Path) -> Self {
        Self { path: out.join("checkpoint") }
    }

    /// Returns the path of the directory, which need not exist yet.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a checkpoint and deletes the previous one.
    ///
    /// # Errors
    /// [`Error::Model`], [`Error::File`]; the previous checkpoint
    /// then stays current.
    pub fn save<T: ModelFloat>(&self, model: &Model<T>, progress: Progress) -> Result<()> {
        std::fs::create_dir_all(&self.path).map_err(FileError::writing(&self.path))?;
        let tensors = format!("step-{:08}.safetensors", progress.step);
        let path = self.path.join(&tensors);
        model.save_state(&path)?;
        let bytes = std::fs::read(&path).map_err(FileError::reading(&path))?;
        let Progress { step, position, options, device, retrieval_before } = progress;
        let state = State {
            schema_version: SCHEMA_VERSION,
            step,
            position,
            options,
            device,
            retrieval_before,
            tensors_bytes: bytes.len() as u64,
            tensors_checksum: checksum(&bytes),
            tensors,
        };
        self.commit(&state)?;
        self.remove_others(&state.tensors);
        Ok(())
    }

    /// Makes `state` the current checkpoint.
    fn commit(&self, state: &State) -> Result<()> {
        let path = self.path.join(STATE_FILE);
        let text =
            serde_json::to_vec_pretty(state).map_err(|error| FileError::writing(&path)(error.into()))?;
        Ok(write_synced(&path, &text)?)
    }

    /// Deletes tensors of other steps. A file that cannot be deleted merely takes up space.
    fn remove_others(&self, current: &str) {
        for entry in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("step-") && name.ends_with(".safetensors") && name != current {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Reads the state of the current checkpoint.
    ///
    /// # Errors
    /// [`Error::NothingToResume`]; [`Error::Checkpoint`] names a file that is damaged or of another version.
    pub fn state(&self) -> Result<State> {
        let path = self.path.join(STATE_FILE);
        if !path.exists() {
            return Err(Error::NothingToResume { path });
        }
        let bytes = std::fs::read(&path).map_err(FileError::reading(&path))?;
        let failed = |reason| Error::Checkpoint { path: path.clone(), reason };
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| failed(format!("not whole JSON ({error})")))?;
        let version = &value["schema_version"];
        if *version != SCHEMA_VERSION {
            return Err(failed(format!("schema_version is {version}, this program reads {SCHEMA_VERSION}")));
        }
        serde_json::from_value(value).map_err(|error| failed(error.to_string()))
    }

    /// Restores the weights and moments of `model` from the checkpoint of `state`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the file is missing, truncated, damaged or of another model; the model may then be partly overwritten.
    pub fn load<T: ModelFloat>(&self, state: &State, model: &mut Model<T>) -> Result<()> {
        let path = self.path.join(&state.tensors);
        let failed = |reason| Error::Checkpoint { path: path.clone(), reason };
        let bytes = std::fs::read(&path).map_err(|error| failed(format!("cannot be read ({error})")))?;
        if bytes.len() as u64 != state.tensors_bytes {
            return Err(failed(format!(
                "it has {} bytes, and had {} when it was written",
                bytes.len(),
                state.tensors_bytes
            )));
        }
        if checksum(&bytes) != state.tensors_checksum {
            return Err(failed("its checksum is not the one it had when it was written".into()));
        }
        model.set_state(&path, &bytes).map_err(|error| match error {
            io::Error::Weights { reason, .. } => failed(reason),
            other => other.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_states_are_named() {
        let out = tempfile::tempdir().unwrap();
        let directory = CheckpointDirectory::of_run(out.path());
        assert!(matches!(directory.state(), Err(Error::NothingToResume { .. })));
        std::fs::create_dir(directory.path()).unwrap();
        let message = |text: &str| {
            std::fs::write(directory.path().join(STATE_FILE), text).unwrap();
            directory.state().unwrap_err().to_string()
        };
        assert!(message("{\"step\": 1").contains("state.json`: not whole JSON"));
        assert!(message("{\"schema_version\": 9}").contains("schema_version is 9, this program reads 3"));
        assert!(message("{\"schema_version\": 3}").contains("missing field"));
    }

    #[test]
    fn states_are_read_back() {
        let out = tempfile::tempdir().unwrap();
        let directory = CheckpointDirectory::of_run(out.path());
        std::fs::create_dir(directory.path()).unwrap();
        let state = State {
            schema_version: SCHEMA_VERSION,
            step: 7,
            position: Position { epoch: 1, cursor: 3, carried_over: vec![7] },
            options: [("seed".to_owned(), "1".to_owned())].into(),
            device: "host".into(),
            retrieval_before: Some(RetrievalScore { mrr_at_10: 0.25, recall_at_10: Some(0.5) }),
            tensors: "step-00000007.safetensors".into(),
            tensors_bytes: 0,
            tensors_checksum: checksum(b""),
        };
        directory.commit(&state).unwrap();
        assert_eq!(directory.state().unwrap(), state);
    }
}
