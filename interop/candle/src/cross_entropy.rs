//! Linear layer and cross-entropy in one operation.

use candle_core::{DType, Error, Result, Tensor};
use retromae::device;
use retromae::ops::cross_entropy::{self, Algorithm, Forward, Gradients, Options};

use crate::memory::{Element, Float, Locked, Memory, Place, Read, Write, contiguous, read_each, with_float};
use crate::node::{Backward, attach};
use crate::refuse::{require, require_device, require_like, require_shape, wrong};

/// A linear layer and the mean cross-entropy of its logits, of which only those of a few rows exist at a time.
///
/// The gradients are computed with the loss, and kept until [`backward`](Tensor::backward) asks for them.
#[derive(Clone, Copy, Debug)]
pub struct LinearCrossEntropy {
    /// Target of rows without a loss, label smoothing, z-loss and soft cap.
    pub options: Options,
    /// Maximum rows whose logits exist at a time, at least 1; more are faster. By default 1024.
    pub chunk_rows: usize,
}

impl Default for LinearCrossEntropy {
    fn default() -> Self {
        Self { options: Options::default(), chunk_rows: 1024 }
    }
}

impl LinearCrossEntropy {
    /// Returns the mean loss of the rows, f32 `[]`, of `hidden` `[M, H]` and the layer's `weight` `[V, H]`, f32, bf16 or f16, its `bias` `[V]`, and
    /// `targets` `[M]`, u32 or i64. Rows whose target is [`Options::ignore_index`] (which as u32 is its two's complement) have no part in it, and the loss
    /// of no rows is 0.
    ///
    /// Targets are in the device's memory, so one that is no token id is not refused: it makes the loss NaN.
    ///
    /// # Errors
    /// When a shape, type, device or option does not fit, naming the argument; an error of the device.
    pub fn forward(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        targets: &Tensor,
    ) -> Result<Tensor> {
        check(hidden, weight, bias, targets)?;
        require(self.chunk_rows > 0, "chunk_rows", self.chunk_rows, "at least 1")?;
        let (hidden, weight) = (&contiguous(hidden)?, &contiguous(weight)?);
        let bias = bias.map(|bias| contiguous(&bias.to_dtype(DType::F32)?)).transpose()?;
        let targets = contiguous(&targets.to_dtype(DType::U32)?)?;
        let (bias, targets) = (bias.as_ref(), &targets);
        let counted = targets.ne(self.options.ignore_index as u32)?.to_dtype(DType::F32)?.sum_all()?;
        let count = counted.maximum(1f32)?;
        let arguments = Arguments { hidden, weight, bias, targets };
        let (losses, gradients) = with_float!("hidden", hidden, T => self.launch::<T>(&arguments))?;
        let loss = (losses.sum_all()? / &count)?;
        // The targets, which have no gradient, stand for a bias that is not there.
        let third = bias.unwrap_or(targets);
        let (storage, layout) = loss.storage_and_layout();
        let backward = CrossEntropyBackward { gradients, count };
        attach([hidden, weight, third], storage.try_clone(layout)?, (), backward)
    }

    /// Returns the losses `[M]`, and the gradients of their sum for those arguments that candle tracks.
    fn launch<T: Float>(&self, arguments: &Arguments<'_>) -> Result<(Tensor, [Option<Tensor>; 3])> {
        let &Arguments { hidden, weight, bias, targets } = arguments;
        let (rows, (vocab_size, hidden_size)) = (targets.dims1()?, weight.dims2()?);
        let place = Place::of(hidden.device())?;
        let mut d_hidden = gradient_of::<T>(&place, Some(hidden))?;
        let mut d_weight = gradient_of::<f32>(&place, Some(weight))?;
        let mut d_bias = gradient_of::<f32>(&place, bias)?;
        let has_gradients = d_hidden.is_some() || d_weight.is_some() || d_bias.is_some();
        let needed = if has_gradients { cross_entropy::workspace } else { cross_entropy::forward_workspace };
        let needed = needed(
            Algorithm::Library,
            <T as device::Float>::DTYPE,
            self.chunk_rows.min(rows).max(1),
            hidden_size,
            vocab_size,
        );
        let (mut losses, mut workspace) =
            (Memory::<f32>::zeros(&place, rows)?, Memory::<u8>::zeros(&place, needed.bytes())?);
        let mut gemm_memory = place.gemm_memory()?;
        {
            let (locked, locked_targets) = ([hidden, weight].map(Locked::new), Locked::new(targets));
            let locked_bias = bias.map(Locked::new);
            let [hidden, weight] = read_each::<T, 2>(&locked, &place)?;
            let targets = locked_targets.read::<u32>(&place)?;
            let bias = locked_bias.as_ref().map(|bias| bias.read::<f32>(&place)).transpose()?;
            let (mut losses, mut workspace) = (losses.write(&place), workspace.write(&place));
            let mut d_hidden = d_hidden.as_mut().map(|gradient| gradient.write(&place));
            let [mut d_weight, mut d_bias] = [&mut d_weight, &mut d_bias]
                .map(|gradient| gradient.as_mut().map(|gradient| gradient.write(&place)));
            let (hidden, weight, losses) = (hidden.matrix()?, weight.matrix()?, losses.view()?);
            let forward = Forward {
                bias: bias.as_ref().map(Read::view).transpose()?,
                options: self.options,
                ..Forward::new(hidden, weight, targets.view()?, losses, workspace.view()?)
            };
            let gradients = Gradients {
                d_hidden: d_hidden.as_mut().map(|gradient| gradient.rows_of(hidden_size)).transpose()?,
                d_weight: d_weight.as_mut().map(|gradient| gradient.rows_of(hidden_size)).transpose()?,
                d_bias: d_bias.as_mut().map(Write::view).transpose()?,
            };
            let gemm_memory = gemm_memory.write(&place);
            let stream = place.stream(Some(&gemm_memory))?;
            cross_entropy::forward_backward(&stream, forward, gradients).map_err(Error::wrap)?;
        }
        let d_hidden = d_hidden.map(|gradient| gradient.into_tensor(hidden.shape()));
        let d_weight = d_weight.map(|gradient| gradient.into_tensor(weight.shape()));
        let d_bias = d_bias.map(|gradient| gradient.into_tensor(vocab_size));
        Ok((losses.into_tensor(rows), [d_hidden, d_weight, d_bias]))
    }
}

/// Zeros for the gradient of a tensor that candle tracks.
fn gradient_of<T: Element>(place: &Place, tensor: Option<&Tensor>) -> Result<Option<Memory<T>>> {
    let tracked = tensor.filter(|tensor| tensor.track_op());
    tracked.map(|tensor| Memory::zeros(place, tensor.elem_count())).transpose()
}

/// What the way back multiplies.
struct CrossEntropyBackward {
    /// Those of the sum of the losses; f32 but for that of the hidden rows.
    gradients: [Option<Tensor>; 3],
    /// Rows with a loss, f32 `[]`.
    count: Tensor,
}

impl Backward for CrossEntropyBackward {
    const NAME: &'static str = "retromae-linear-cross-entropy";

    fn backward(
        &self,
        arguments: [&Tensor; 3],
        _loss: &Tensor,
        d_loss: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let factor = (d_loss / &self.count)?;
        // Rounded to 16 bits once, with the factor: in f16 the gradient of a mean may vanish where a loss scale keeps it.
        let scaled =
            |gradient: &Tensor, dtype| gradient.to_dtype(DType::F32)?.broadcast_mul(&factor)?.to_dtype(dtype);
        let [hidden, weight, bias] = &self.gradients;
        let of = |gradient: &Option<Tensor>, argument: &Tensor| {
            gradient.as_ref().map(|gradient| scaled(gradient, argument.dtype())).transpose()
        };
        Ok([of(hidden, arguments[0])?, of(weight, arguments[1])?, of(bias, arguments[2])?])
    }
}

/// The tensors of a call, contiguous.
struct Arguments<'a> {
    hidden: &'a Tensor,
    weight: &'a Tensor,
    bias: Option<&'a Tensor>,
    targets: &'a Tensor,
}

/// Refuses tensors that do not fit each other.
fn check(hidden: &Tensor, weight: &Tensor, bias: Option<&Tensor>, targets: &Tensor) -> Result<()> {
    let &[vocab_size, hidden_size] = weight.dims() else {
        return wrong("weight", format_args!("{:?}", weight.dims()), "[vocabulary, hidden size]");
    };
    let &[rows] = targets.dims() else {
        return wrong("targets", format_args!("{:?}", targets.dims()), "[rows]");
    };
    require_shape("hidden", hidden, &[rows, hidden_size], "targets, columns of weight")?;
    require_like("weight", weight, "hidden", hidden)?;
    if let Some(bias) = bias {
        require_shape("bias", bias, &[vocab_size], "rows of weight")?;
        require_device("bias", bias.device(), "hidden", hidden.device())?;
        require(
            bias.dtype().is_float(),
            "bias",
            format_args!("of {:?}", bias.dtype()),
            "of a floating-point type",
        )?;
    }
    require_device("targets", targets.device(), "hidden", hidden.device())?;
    let is_index = matches!(targets.dtype(), DType::U32 | DType::I64);
    require(is_index, "targets", format_args!("of {:?}", targets.dtype()), "of U32 or I64")
}
