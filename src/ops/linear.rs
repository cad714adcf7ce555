//! Linear layers, `output = input · weightᵀ + bias`, with Hugging Face's `[out, in]` weights, by the device's GEMM library: cuBLASLt on CUDA, the
//! `gemm` crate on the host. Rows of every matrix may be strided, so that a packed projection is written and read in place.
//!
//! ```
//! use retromae::device::Device;
//! use retromae::ops::linear;
//!
//! let device = Device::host()?;
//! let (input, weight) = (device.upload(&[1.0f32, 2.0])?, device.upload(&[1.0f32, 1.0, 0.5, -1.0])?);
//! // Queries, keys and values side by side, of two features each: the layer writes the keys.
//! let mut packed = device.zeros::<f32>(6)?;
//! let [_, keys, _] = packed.matrix_mut(1, 6)?.split_columns();
//! let forward = linear::Forward::new(input.matrix(1, 2)?, weight.matrix(2, 2)?, keys);
//! linear::forward(&device.stream(), forward)?;
//! assert_eq!(packed.read()?, [0.0, 0.0, 3.0, -1.5, 0.0, 0.0]);
//! # Ok::<(), retromae::ops::Error>(())
//! ```

use super::Result;
use super::error::{require_length, require_shape};
use super::matmul::{Addend, Factor, Matmul, enqueue};
use crate::device::{Float, Matrix, MatrixMut, Stream, View};

/// Arguments of [`forward`].
#[derive(Debug)]
pub struct Forward<'a, T: Float> {
    /// `[rows, in]`
    pub input: Matrix<'a, T>,
    /// `[out, in]`
    pub weight: Matrix<'a, T>,
    /// `[rows, out]`
    pub output: MatrixMut<'a, T>,
    /// `[out]`, in the compute type; added in f32, before the only rounding
    pub bias: Option<View<'a, T>>,
}

impl<'a, T: Float> Forward<'a, T> {
    /// A layer without a bias.
    #[must_use]
    pub fn new(input: Matrix<'a, T>, weight: Matrix<'a, T>, output: MatrixMut<'a, T>) -> Self {
        Self { input, weight, output, bias: None }
    }

    /// Adds a bias, `[out]`.
    #[must_use]
    pub fn bias(self, bias: View<'a, T>) -> Self {
        Self { bias: Some(bias), ..self }
    }
}

/// Arguments of [`backward_input`].
#[derive(Debug)]
pub struct BackwardInput<'a, T: Float> {
    /// `[rows, out]`
    pub d_output: Matrix<'a, T>,
    /// `[out, in]`
    pub weight: Matrix<'a, T>,
    /// `[rows, in]`
    pub d_input: MatrixMut<'a, T>,
    /// Add to `d_input` instead of overwriting it.
    pub accumulate: bool,
}

/// Arguments of [`backward_weight`].
#[derive(Debug)]
pub struct BackwardWeight<'a, T: Float> {
    /// `[rows, in]`
    pub input: Matrix<'a, T>,
    /// `[rows, out]`
    pub d_output: Matrix<'a, T>,
    /// `[out, in]`, added to
    pub d_weight: MatrixMut<'a, f32>,
}

/// Enqueues `output = input · weightᵀ + bias`.
///
/// # Errors
/// When shapes do not agree.
pub fn forward<T: Float>(stream: &Stream, arguments: Forward<'_, T>) -> Result<()> {
    let Forward { input, weight, output, bias } = arguments;
    let out_features = weight.rows();
    require_shape("weight", &weight, [out_features, input.columns()], "out, in")?;
    require_shape("output", &output, [input.rows(), out_features], "rows, out")?;
    if let Some(bias) = bias {
        require_length("bias", bias.len(), out_features, "out")?;
    }
    let matmul = Matmul::new(Factor::Plain(input), Factor::Transposed(weight), output)
        .addend(bias.map_or(Addend::Zero, Addend::Bias));
    // SAFETY: the shapes were checked.
    unsafe { enqueue(stream, ["input", "weight", "output"], matmul) }
}

/// Enqueues `d_input (+)= d_output · weight`.
///
/// # Errors
/// When shapes do not agree.
pub fn backward_input<T: Float>(stream: &Stream, arguments: BackwardInput<'_, T>) -> Result<()> {
    let BackwardInput { d_output, weight, d_input, accumulate } = arguments;
    require_shape("weight", &weight, [d_output.columns(), weight.columns()], "out, in")?;
    require_shape("d_input", &d_input, [d_output.rows(), weight.columns()], "rows, in")?;
    let addend = if accumulate { Addend::Output } else { Addend::Zero };
    let matmul = Matmul::new(Factor::Plain(d_output), Factor::Plain(weight), d_input).addend(addend);
    // SAFETY: the shapes were checked.
    unsafe { enqueue(stream, ["d_output", "weight", "d_input"], matmul) }
}

/// Enqueues `d_weight += d_outputᵀ · input`.
///
/// # Errors
/// When shapes do not agree.
pub fn backward_weight<T: Float>(stream: &Stream, arguments: BackwardWeight<'_, T>) -> Result<()> {
    let BackwardWeight { input, d_output, d_weight } = arguments;
    require_shape("d_output", &d_output, [input.rows(), d_output.columns()], "rows, out")?;
    require_shape("d_weight", &d_weight, [d_output.columns(), input.columns()], "out, in")?;
    let matmul =
        Matmul::new(Factor::Transposed(d_output), Factor::Plain(input), d_weight).addend(Addend::Output);
    // SAFETY: the shapes were checked.
    unsafe { enqueue(stream, ["d_output", "input", "d_weight"], matmul) }
}
