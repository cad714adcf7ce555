//! The training state: every parameter, the decoder's included, and its two moments.

use std::path::Path;

use safetensors::SafeTensors;

use super::tensors::{Tensor, values_of, write_tensors};
use super::{Error, Result};
use crate::common::FileError;
use crate::device::ModelFloat;
use crate::model::{Model, ParameterArena};

/// Prefixes of the optimizer's tensors; the weights have their own names.
const MOMENTS: [&str; 2] = ["first_moment.", "second_moment."];

impl<T: ModelFloat> ParameterArena<T> {
    /// Writes every parameter under its name, and its moments under the name prefixed by `first_moment.` and `second_moment.`, to a safetensors
    /// file, all in f32, whole or not at all.
    ///
    /// # Errors
    /// [`Error::NonFiniteWeight`] when a value is not finite; [`Error::File`] when the file cannot be written; [`Error::Operation`] of the device.
    pub fn save_state(&self, path: &Path) -> Result<()> {
        let mut tensors: Vec<Tensor> = Vec::new();
        for (name, shape) in self.table().shapes() {
            let (first, second) = self.moments(name)?;
            for (prefix, values) in MOMENTS.into_iter().zip([first, second]) {
                tensors.push((format!("{prefix}{name}"), shape.to_vec(), values));
            }
            tensors.push((name.to_owned(), shape.to_vec(), self.get(name)?));
        }
        write_tensors(path, &tensors)
    }

    /// Restores every parameter and its moments from a file that [`save_state`](Self::save_state) wrote for an arena of the same table.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Weights`] for a file of another kind, or a tensor that is missing, of another shape or not finite. The arena may
    /// then be partly overwritten.
    pub fn load_state(&mut self, path: &Path) -> Result<()> {
        let bytes = std::fs::read(path).map_err(FileError::reading(path))?;
        self.set_state(path, &bytes)
    }

    /// [`load_state`](Self::load_state) from bytes that were already read from `path`.
    fn set_state(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        let failed = |reason| Error::Weights { path: path.to_owned(), reason };
        let file = SafeTensors::deserialize(bytes).map_err(|error| failed(error.to_string()))?;
        let read = |name: &str, shape: &[usize]| {
            let view = file.tensor(name).map_err(|error| failed(error.to_string()))?;
            values_of(name, shape, &view).map_err(failed)
        };
        let shapes: Vec<(String, Vec<usize>)> =
            self.table().shapes().map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect();
        for (name, shape) in shapes {
            self.set(&name, &read(&name, &shape)?)?;
            let [first, second] = MOMENTS.map(|prefix| read(&format!("{prefix}{name}"), &shape));
            self.set_moments(&name, &first?, &second?)?;
        }
        Ok(())
    }
}

impl<T: ModelFloat> Model<T> {
    /// Writes all parameters, the decoder's included, and their moments: [`ParameterArena::save_state`].
    ///
    /// # Errors
    /// As [`ParameterArena::save_state`].
    pub fn save_state(&self, path: &Path) -> Result<()> {
        self.parameters.save_state(path)
    }

    /// Restores what [`save_state`](Self::save_state) wrote for a model of the same sizes. Gradients that were accumulated are not added to.
    ///
    /// # Errors
    /// As [`ParameterArena::load_state`].
    pub fn load_state(&mut self, path: &Path) -> Result<()> {
        self.forget_gradients();
        self.parameters.load_state(path)
    }

    /// [`Model::load_state`] from bytes that were already read from `path`.
    #[cfg(feature = "train")]
    pub(crate) fn set_state(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.forget_gradients();
        self.parameters.set_state(path, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::model::{Capacity, ModelConfig};

    /// A model with parameters of `seed`, and moments that differ from them and from each other.
    fn model(seed: u64) -> Model<f32> {
        let config = ModelConfig {
            hidden_size: 32,
            num_attention_heads: 1,
            intermediate_size: 64,
            ..ModelConfig::tiny(40)
        };
        let capacity = Capacity { tokens: 8, sentences: 1, sentence_length: 8 };
        let mut model = Model::new(&Device::host().unwrap(), &config, capacity).unwrap();
        model.initialize(seed).unwrap();
        for (name, _) in model.parameter_shapes() {
            let values = model.parameter(&name).unwrap();
            let moments =
                [2.0f32, 3.0].map(|f| values.iter().map(|value| (f * value).abs()).collect::<Vec<_>>());
            model.set_moments(&name, &moments[0], &moments[1]).unwrap();
        }
        model
    }

    #[test]
    fn a_state_is_read_back_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.safetensors");
        let (saved, mut loaded) = (model(1), model(2));
        saved.save_state(&path).unwrap();
        loaded.load_state(&path).unwrap();
        for (name, _) in saved.parameter_shapes() {
            assert_eq!(loaded.parameter(&name).unwrap(), saved.parameter(&name).unwrap(), "{name}");
            assert_eq!(loaded.moments(&name).unwrap(), saved.moments(&name).unwrap(), "{name}");
        }
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(matches!(loaded.load_state(&path), Err(Error::Weights { .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(loaded.load_state(&path), Err(Error::File(FileError::Read { .. }))));
    }

    /// A file with the encoder's weights alone is not a training state.
    #[test]
    fn a_file_without_moments_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut model = model(1);
        model.save(directory.path(), None).unwrap();
        let error = model.load_state(&directory.path().join("model.safetensors")).unwrap_err();
        assert!(matches!(error, Error::Weights { .. }), "{error}");
    }
}
