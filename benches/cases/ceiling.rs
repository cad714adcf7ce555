//! Peak rates of the device: a copy within its memory, and a large matmul by the GEMM backend.
//!
//! Bound: the copy moves each byte twice; the matmul takes 2·n³ FLOPs over 3·n²·e bytes.

use retromae::device::{Buffer, Float, Stream};
use retromae::ops::matmul::{Factor, Matmul, matmul};

use crate::harness::{Bench, Bound, Outcome, Rank, Results, Variant, Work, typed};

pub fn bench<T: Float>(bench: &mut Bench) {
    let (megabytes, size) = if bench.on_gpu() { (1024, 8192) } else { (64, 1024) };
    let bytes = megabytes << 20;
    let mut group = bench.group("ceiling");
    let copy = Variant::new("copy", move |stream: &Stream| {
        let device = stream.device();
        Ok(Copy { source: device.zeros(bytes)?, destination: device.zeros(bytes)? })
    });
    group.case(Rank::Headline, &format!("{megabytes}MiB"), Bound::new(0, 2 * bytes), vec![copy]);
    let matmul = Variant::new("matmul", move |stream: &Stream| {
        let device = stream.device();
        let [left, right] = [1, 2].map(|seed| device.upload(&typed::<T>(seed, size * size)));
        Ok(Multiply { size, left: left?, right: right?, output: device.zeros(size * size)? })
    });
    let bound = Bound::new(2 * size * size * size, 3 * size * size * T::DTYPE.bytes());
    group.case(Rank::Headline, &format!("{size}_{}", T::DTYPE.name()), bound, vec![matmul]);
}

struct Copy {
    source: Buffer<u8>,
    destination: Buffer<u8>,
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
