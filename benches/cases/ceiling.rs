//! Peak rates of the device: a copy within its memory, and a large matmul by the GEMM backend.
//!
//! Bound: the copy moves each byte twice; the matmul takes 2·n³ FLOPs over 3·n²·e bytes.

use retromae::device::{Buffer, Float, ModelFloat, Stream};
use retromae::ops::matmul::{Factor, Matmul, matmul};
use serde_json::Value;

use super::data::typed;
use super::{Bound, Operation, Outcome, Results, Scale, Variant, Work};

enum Case {
    Copy { megabytes: usize },
    Matmul { size: usize },
}

pub fn operations<T: ModelFloat>(scale: Scale) -> Vec<Operation<T>> {
    let (megabytes, size) = scale.choose((1024, 8192), (64, 1024));
    vec![Operation::new("ceiling", [Case::Copy { megabytes }, Case::Matmul { size }])]
}

impl<T: ModelFloat> super::Case<T> for Case {
    fn name(&self) -> String {
        match self {
            Self::Copy { megabytes } => format!("{megabytes}MiB"),
            Self::Matmul { size } => format!("{size}_{}", T::DTYPE.name()),
        }
    }

    fn sizes(&self) -> Option<Value> {
        None
    }

    fn bound(&self) -> Bound {
        match self {
            Self::Copy { megabytes } => Bound::new(0, 2 * (megabytes << 20)),
            Self::Matmul { size } => Bound::new(2 * size * size * size, 3 * size * size * T::DTYPE.bytes()),
        }
    }

    fn variants(&self) -> Vec<Variant> {
        vec![match *self {
            Self::Copy { megabytes } => {
                Variant::new("copy", move |stream| Copy::new(stream, megabytes << 20))
            }
            Self::Matmul { size } => Variant::new("matmul", move |stream| Multiply::<T>::new(stream, size)),
        }]
    }
}

struct Copy {
    source: Buffer<u8>,
    destination: Buffer<u8>,
}

impl Copy {
    fn new(stream: &Stream, bytes: usize) -> Outcome<Self> {
        let device = stream.device();
        Ok(Self { source: device.zeros(bytes)?, destination: device.zeros(bytes)? })
    }
}

impl Work for Copy {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        Ok(stream.copy(self.destination.view_mut(), self.source.view())?)
    }

    fn results(&mut self) -> Outcome<Results> {
        Ok(Results::new())
    }
}

/// Row-major matmul, neither operand transposed.
struct Multiply<T: Float> {
    size: usize,
    left: Buffer<T>,
    right: Buffer<T>,
    output: Buffer<T>,
}

impl<T: Float> Multiply<T> {
    fn new(stream: &Stream, size: usize) -> Outcome<Self> {
        let device = stream.device();
        let [left, right] = [1, 2].map(|seed| device.upload(&typed::<T>(seed, size * size)));
        Ok(Self { size, left: left?, right: right?, output: device.zeros(size * size)? })
    }
}

impl<T: Float> Work for Multiply<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        let [left, right] = [&self.left, &self.right].map(|factor| factor.matrix(self.size, self.size));
        let output = self.output.matrix_mut(self.size, self.size)?;
        Ok(matmul(stream, Matmul::new(Factor::Plain(left?), Factor::Plain(right?), output))?)
    }

    fn results(&mut self) -> Outcome<Results> {
        Ok(Results::new())
    }
}
