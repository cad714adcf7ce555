//! Operations of [`retromae`] for [candle](candle_core), with gradients through candle's autograd: [`Attention`] over packed sentences under any mask,
//! two-stream attention included, and [`LinearCrossEntropy`], which never holds all logits.
//!
//! Tensors stay where they are: on [`Device::Cpu`](candle_core::Device::Cpu) the kernels run in retromae's CPU emulator, in candle's memory; on a CUDA
//! device (feature `cuda`) on candle's stream, and all memory is of candle's allocator. The element types are f32, bf16 and f16.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use retromae_candle::{Attention, LinearCrossEntropy, Mask, PackedBatch};
//!
//! # fn main() -> candle_core::Result<()> {
//! // Two sentences of 3 and 2 tokens; one head of 32 columns.
//! let device = Device::Cpu;
//! let batch = PackedBatch::new(&[3, 2], &device)?;
//! let content = Var::randn(0f32, 1., (5, 1, 32), &device)?;
//! let output = Attention::new(&batch).mask(Mask::CAUSAL).forward(&content, &content, &content)?;
//! // A layer to 100 token ids, and the mean loss of the rows.
//! let weight = Var::randn(0f32, 0.1, (100, 32), &device)?;
//! let targets = Tensor::new(&[3u32, 1, 4, 1, 5], &device)?;
//! let loss = LinearCrossEntropy::default().forward(&output.reshape((5, 32))?, &weight, None, &targets)?;
//! let gradients = loss.backward()?;
//! assert_eq!(gradients.get(&content).unwrap().dims(), [5, 1, 32]);
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs)]

mod attention;
mod cross_entropy;
mod mask;
mod memory;
mod node;
mod packed;
mod refuse;

pub use attention::Attention;
pub use cross_entropy::LinearCrossEntropy;
pub use mask::{GeneratedMask, Mask};
pub use packed::PackedBatch;
