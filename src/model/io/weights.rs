//! A model's weights, by the names of Hugging Face's `BertForMaskedLM`.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use safetensors::tensor::SafeTensors;

use super::config::{CONFIG_FILE, load_config, save_config};
use super::tensors::{Tensor, values_of, write_tensors};
use super::{Error, Result};
use crate::common::FileError;
use crate::common::content::{Content, HEAD_BYTES};
use crate::device::{Device, ModelFloat};
use crate::model::{Capacity, Model};

/// File in a model's directory with the weights of encoder and head.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The head's output matrix, tied to the word embedding: a file may hold it again under this name.
const TIED_WEIGHT: &str = "cls.predictions.decoder.weight";

/// Purpose of loading a model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Encoder, head and decoder are used.
    Training,
    /// Only the encoder is used: missing head and decoder weights are not reported, and an untied output matrix is ignored.
    Embedding,
}

/// Weights that were loaded from a file, by the names of the model's parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedWeights {
    /// File that was read.
    pub path: PathBuf,
    /// Parameters that were set from the file.
    pub taken: Vec<String>,
    /// Needed, but missing in the file: these parameters are unchanged.
    pub fresh: Vec<String>,
    /// Tensors of the file that match no parameter of the model.
    pub left: Vec<String>,
}

impl LoadedWeights {
    /// Returns true if a parameter had no tensor or a tensor no parameter.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.fresh.is_empty() || !self.left.is_empty()
    }
}

impl fmt::Display for LoadedWeights {
    /// Summarizes as groups (`decoder.* (16)`) the loaded tensors, a decoder that is entirely fresh, and large numbers of unused tensors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FEW: usize = 20;
        write!(f, "weights of {}: taken: {}", self.path.display(), grouped(&self.taken))?;
        if !self.fresh.is_empty() {
            let is_decoder = |name: &String| name.starts_with("decoder.");
            let whole = !self.taken.iter().any(is_decoder);
            let (decoder, mut names): (Vec<_>, Vec<_>) =
                self.fresh.iter().cloned().partition(|name| whole && is_decoder(name));
            names.extend((!decoder.is_empty()).then(|| grouped(&decoder)));
            write!(f, "; fresh: {}", names.join(", "))?;
        }
        if !self.left.is_empty() {
            let few = self.left.len() <= FEW;
            write!(f, "; left: {}", if few { self.left.join(", ") } else { grouped(&self.left) })?;
        }
        Ok(())
    }
}

/// Lists the first components of the names, each with its number of names.
fn grouped(names: &[String]) -> String {
    let first = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let words: BTreeSet<String> = names.iter().map(|name| first(name)).collect();
    let count = |word: &String| names.iter().filter(|name| first(name) == *word).count();
    let groups: Vec<String> = words.iter().map(|word| format!("{word}.* ({})", count(word))).collect();
    groups.join(", ")
}

impl<T: ModelFloat> Model<T> {
    /// Writes `model.safetensors` and `config.json` into `directory`, each whole or not at all; for `pad_token_id` see [`save_config`].
    ///
    /// Only `bert.*` and `cls.*` are written, in f32, as `BertForMaskedLM` reads them; the decoder is needed for training alone. The output matrix
    /// is the word embedding, which Hugging Face ties by itself. [`Model::save_state`] writes the decoder, too.
    ///
    /// # Errors
    /// [`Error::NonFiniteWeight`] when a weight is not finite; [`Error::File`] when a file cannot be written; [`Error::Operation`] of the device.
    pub fn save(&self, directory: &Path, pad_token_id: Option<u32>) -> Result<()> {
        let saved = self.parameter_shapes().into_iter().filter(|(name, _)| !name.starts_with("decoder."));
        let tensors = saved
            .map(|(name, shape)| self.parameter(&name).map(|values| (name, shape, values)))
            .collect::<Result<Vec<Tensor>, _>>()?;
        write_tensors(&directory.join(WEIGHTS_FILE), &tensors)?;
        save_config(directory, self.config(), pad_token_id)
    }

    /// Creates a model with the sizes and weights in `directory`, written by [`Model::save`] or Hugging Face; parameters that are not in the file,
    /// such as the decoder's, are 0.
    ///
    /// # Errors
    /// As [`load_config`], [`Model::new`] and [`Model::load_weights`].
    pub fn load(device: &Device, directory: &Path, capacity: Capacity) -> Result<(Self, LoadedWeights)> {
        let config = load_config(&directory.join(CONFIG_FILE), None)?;
        let mut model = Self::new(device, &config, capacity)?;
        let weights = model.load_weights(&directory.join(WEIGHTS_FILE), Purpose::Training)?;
        Ok((model, weights))
    }

    /// Sets every parameter that the file has, from tensors of F32, F16 or BF16. The encoder's must all be there; the head's and the decoder's may
    /// be missing.
    ///
    /// A parameter is also found without its leading `bert.`, with LayerNorm's `gamma` and `beta` for `weight` and `bias`, and with the head's
    /// bias and matrix under `cls.predictions.decoder`.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Weights`] for a file of another kind, a tensor that is missing, of another shape or dtype or not finite, or that
    /// occurs twice, under two names of one parameter, with different values. Some parameters may then be set.
    pub fn load_weights(&mut self, path: &Path, purpose: Purpose) -> Result<LoadedWeights> {
        let failed = |reason: String| Error::Weights { path: path.to_owned(), reason };
        let bytes = std::fs::read(path).map_err(|source| match other_weights(path) {
            Some(name) => failed(format!(
                "it is not there, and {name} is not read; weights should be in one safetensors file"
            )),
            None => FileError::reading(path)(source).into(),
        })?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| {
            let what = Content::other_than_text(&bytes[..bytes.len().min(HEAD_BYTES)]).unwrap_or("text");
            failed(format!("it looks to be {what}; it should be a whole safetensors file ({error})"))
        })?;
        let mut left: BTreeSet<&str> = file.names().into_iter().collect();
        let (mut taken, mut fresh) = (Vec::new(), Vec::new());
        for (name, shape) in self.parameter_shapes() {
            let mut found: Option<(String, Vec<f32>)> = None;
            for alias in names_of(&name) {
                let Ok(view) = file.tensor(&alias) else { continue };
                left.remove(alias.as_str());
                if found.is_some() && alias == TIED_WEIGHT && purpose == Purpose::Embedding {
                    continue;
                }
                let values = values_of(&alias, &shape, &view).map_err(failed)?;
                match &found {
                    None => found = Some((alias, values)),
                    Some((_, first)) if *first == values => {}
                    Some((first, _)) => {
                        return Err(failed(format!(
                            "tensors {first} and {alias} are one parameter of this model; they should be equal, and are not"
                        )));
                    }
                }
            }
            match found {
                Some((_, values)) => {
                    self.set_parameter(&name, &values)?;
                    taken.push(name);
                }
                None if name.starts_with("bert.") => {
                    return Err(failed(format!("tensor {name} is missing; it should be there")));
                }
                None if purpose == Purpose::Training => fresh.push(name),
                None => {}
            }
        }
        let left = left.into_iter().map(str::to_owned).collect();
        Ok(LoadedWeights { path: path.to_owned(), taken, fresh, left })
    }
}

/// Returns the name of a known file of weights that the directory has instead of `path`, if any.
fn other_weights(path: &Path) -> Option<&'static str> {
    let names = ["model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];
    names.into_iter().find(|name| !path.exists() && path.with_file_name(name).exists())
}

/// Names that a parameter may have in a file, the model's own first: without the leading `bert.`, as in files of a bare
/// encoder; with LayerNorm's `gamma` and `beta`, as in the oldest files; and those of the head's output layer, whose matrix is the
/// word embedding.
fn names_of(name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    names.extend(name.strip_prefix("bert.").map(str::to_owned));
    let old = |name: &String| {
        let weight = name.strip_suffix("LayerNorm.weight").map(|stem| format!("{stem}LayerNorm.gamma"));
        weight.or_else(|| name.strip_suffix("LayerNorm.bias").map(|stem| format!("{stem}LayerNorm.beta")))
    };
    let old: Vec<String> = names.iter().filter_map(old).collect();
    names.extend(old);
    match name {
        "cls.predictions.bias" => names.push("cls.predictions.decoder.bias".into()),
        "bert.embeddings.word_embeddings.weight" => names.push(TIED_WEIGHT.into()),
        _ => {}
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelConfig;

    #[test]
    fn names_of_other_writers_are_found() {
        let names = names_of("bert.embeddings.LayerNorm.weight");
        assert_eq!(names[1], "embeddings.LayerNorm.weight");
        assert_eq!(names[2], "bert.embeddings.LayerNorm.gamma");
        assert_eq!(names[3], "embeddings.LayerNorm.gamma");
        assert_eq!(
            names_of("cls.predictions.bias"),
            ["cls.predictions.bias", "cls.predictions.decoder.bias"]
        );
    }

    /// Loads a model's own tensors, renamed as another writer would and modified by `change`; also returns whether all values came back unchanged.
    fn reloaded(purpose: Purpose, change: impl FnOnce(&mut Vec<Tensor>)) -> Result<(LoadedWeights, bool)> {
        let device = Device::host().unwrap();
        let config = ModelConfig {
            hidden_size: 32,
            num_attention_heads: 1,
            intermediate_size: 64,
            ..ModelConfig::tiny(40)
        };
        let capacity = Capacity { tokens: 8, sentences: 1, sentence_length: 8 };
        let mut model = Model::<f32>::new(&device, &config, capacity).unwrap();
        model.initialize(1).unwrap();
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let values = model.parameter(&name).unwrap();
            (name, shape, values)
        };
        let mut tensors: Vec<Tensor> = model.parameter_shapes().into_iter().map(tensor).collect();
        tensors.iter_mut().filter(|tensor| tensor.1.len() == 1).for_each(|tensor| tensor.2[1] = 0.5);
        let expected: Vec<Vec<f32>> = tensors.iter().map(|tensor| tensor.2.clone()).collect();
        change(&mut tensors);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(WEIGHTS_FILE);
        write_tensors(&path, &tensors).unwrap();
        let weights = model.load_weights(&path, purpose)?;
        let names = model.parameter_shapes().into_iter();
        let same = names.zip(&expected).all(|((name, _), values)| model.parameter(&name).unwrap() == *values);
        Ok((weights, same))
    }

    #[test]
    fn all_is_taken_whatever_its_writer_called_it() {
        type Change = fn(&mut Vec<Tensor>);
        fn renamed(tensors: &mut [Tensor], rename: fn(&str) -> String) {
            tensors.iter_mut().for_each(|tensor| tensor.0 = rename(&tensor.0));
        }
        let changes: [Change; 5] = [
            |_| {},
            |tensors| renamed(tensors, |name| name.trim_start_matches("bert.").to_owned()),
            |tensors| {
                renamed(tensors, |name| {
                    name.replace("LayerNorm.weight", "LayerNorm.gamma")
                        .replace("LayerNorm.bias", "LayerNorm.beta")
                });
            },
            |tensors| {
                renamed(tensors, |name| name.replace("cls.predictions.bias", "cls.predictions.decoder.bias"));
            },
            |tensors| {
                let (name, shape, values) = tensors[0].clone();
                assert_eq!(name, "bert.embeddings.word_embeddings.weight");
                tensors.push((TIED_WEIGHT.into(), shape, values));
            },
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let (weights, same) = reloaded(Purpose::Training, change).unwrap();
            assert!(same && !weights.is_partial(), "change {index}: {weights}");
        }
    }

    #[test]
    fn what_would_be_lost_is_refused() {
        let message = |purpose, change: fn(&mut Vec<Tensor>)| {
            reloaded(purpose, change)
                .map(|(weights, _)| weights.to_string())
                .map_err(|error| error.to_string())
        };
        let untied: fn(&mut Vec<Tensor>) = |tensors| {
            let mut tensor = tensors[0].clone();
            (tensor.0, tensor.2[3]) = (TIED_WEIGHT.into(), 9.0);
            tensors.push(tensor);
        };
        let expected = "tensors bert.embeddings.word_embeddings.weight and cls.predictions.decoder.weight are one parameter of this \
                        model; they should be equal, and are not";
        assert!(message(Purpose::Training, untied).unwrap_err().contains(expected));
        // Embedding ignores the head.
        message(Purpose::Embedding, untied).unwrap();
        let twice = message(Purpose::Embedding, |tensors| {
            let bias = tensors.iter().find(|tensor| tensor.0 == "bert.embeddings.LayerNorm.bias").unwrap();
            tensors.push(("embeddings.LayerNorm.beta".into(), bias.1.clone(), vec![0.25; 32]));
        });
        assert!(
            twice
                .unwrap_err()
                .contains("bert.embeddings.LayerNorm.bias and embeddings.LayerNorm.beta are one")
        );
        let shape = message(Purpose::Training, |tensors| {
            tensors.push(("cls.predictions.decoder.bias".into(), vec![39], vec![0.0; 39]));
        });
        assert!(
            shape.unwrap_err().contains("cls.predictions.decoder.bias has shape [39]; it should have [40]")
        );
        let missing =
            message(Purpose::Embedding, |tensors| tensors.retain(|tensor| !tensor.0.contains("position")));
        assert!(missing.unwrap_err().contains("bert.embeddings.position_embeddings.weight is missing"));
    }
}
