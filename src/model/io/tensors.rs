//! Tensors in files of the safetensors format.

use std::fs::File;
use std::io;
use std::path::Path;

use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, TensorView};

use super::{Error, Result};
use crate::common::write_then_rename;

/// A tensor in a file: name, shape, values.
pub(super) type Tensor = (String, Vec<usize>, Vec<f32>);

/// Writes tensors to a temporary file beside `path`, waits until the disk has them, and renames it.
///
/// # Errors
/// [`Error::NonFiniteWeight`] when a value is not finite: nothing was written; [`Error::Weights`], [`Error::File`].
pub(super) fn write_tensors(path: &Path, tensors: &[Tensor]) -> Result<()> {
    for (name, _, values) in tensors {
        if let Some(&value) = values.iter().find(|value| !value.is_finite()) {
            let (path, tensor) = (path.to_owned(), name.clone());
            return Err(Error::NonFiniteWeight { path, tensor, value });
        }
    }
    let views = tensors
        .iter()
        .map(|(name, shape, values)| {
            // Safetensors are little-endian, and so is every supported machine.
            TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values)).map(|view| (name, view))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::Weights { path: path.to_owned(), reason: error.to_string() })?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let write = |temporary: &Path| {
        safetensors::serialize_to_file(views, Some(metadata), temporary).map_err(|error| match error {
            SafeTensorError::IoError(error) => error,
            other => io::Error::other(other),
        })?;
        File::open(temporary)?.sync_all()
    };
    Ok(write_then_rename(path, write)?)
}

/// Converts a tensor of F32, F16 or BF16 to f32; returns an error message if its shape or dtype differs or a value is not finite.
pub(super) fn values_of(name: &str, shape: &[usize], view: &TensorView<'_>) -> Result<Vec<f32>, String> {
    if view.shape() != shape {
        return Err(format!("tensor {name} has shape {:?}; it should have {shape:?}", view.shape()));
    }
    let data = view.data();
    let halves = || data.chunks_exact(2).map(|bytes| [bytes[0], bytes[1]]);
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => {
            let words = data.chunks_exact(4).map(|bytes| [bytes[0], bytes[1], bytes[2], bytes[3]]);
            words.map(f32::from_le_bytes).collect()
        }
        Dtype::F16 => halves().map(|bytes| half::f16::from_le_bytes(bytes).to_f32()).collect(),
        Dtype::BF16 => halves().map(|bytes| half::bf16::from_le_bytes(bytes).to_f32()).collect(),
        other => return Err(format!("tensor {name} is of type {other:?}; it should be F32, F16 or BF16")),
    };
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(at) => Err(format!("tensor {name} is {} at element {at}; weights should be finite", values[at])),
    }
}
