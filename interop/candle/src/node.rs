//! Nodes of candle's graph.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CudaStorage, CustomOp3, Error, Layout, Result, Shape, Storage, Tensor};

/// The way back from the result of an operation with three arguments.
pub(crate) trait Backward: Send + Sync + 'static {
    /// Name in candle's messages.
    const NAME: &'static str;

    /// The arguments' gradients, `None` for one that has none.
    fn backward(
        &self,
        arguments: [&Tensor; 3],
        result: &Tensor,
        d_result: &Tensor,
    ) -> Result<[Option<Tensor>; 3]>;
}

/// A result that was computed before its node is made: a custom operation of candle's returns one tensor, and ours keep more for the way back.
struct Node<B> {
    result: Mutex<Option<(Storage, Shape)>>,
    backward: B,
}

/// Adds `result` to the graph, behind `arguments`.
pub(crate) fn attach<B: Backward>(
    arguments: [&Tensor; 3],
    result: Storage,
    shape: impl Into<Shape>,
    backward: B,
) -> Result<Tensor> {
    let node = Node { result: Mutex::new(Some((result, shape.into()))), backward };
    let [first, second, third] = arguments;
    first.apply_op3(second, third, node)
}

impl<B: Backward> Node<B> {
    fn take(&self) -> Result<(Storage, Shape)> {
        let mut result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        result.take().ok_or_else(|| Error::Msg(format!("{} was applied twice", B::NAME)))
    }
}

impl<B: Backward> CustomOp3 for Node<B> {
    fn name(&self) -> &'static str {
        B::NAME
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        match self.take()? {
            (Storage::Cpu(storage), shape) => Ok((storage, shape)),
            (other, _) => candle_core::bail!("{} of {:?} on the CPU", B::NAME, other.device().location()),
        }
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        match self.take()? {
            (Storage::Cuda(storage), shape) => Ok((storage, shape)),
            (other, _) => {
                candle_core::bail!("{} of {:?} on a CUDA device", B::NAME, other.device().location())
            }
        }
    }

    fn bwd(
        &self,
        first: &Tensor,
        second: &Tensor,
        third: &Tensor,
        result: &Tensor,
        d_result: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [d_first, d_second, d_third] =
            self.backward.backward([first, second, third], result, d_result)?;
        Ok((d_first, d_second, d_third))
    }
}
