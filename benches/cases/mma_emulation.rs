//! The CPU emulator's mma instruction, beside a naive emulation: a kernel of nothing but mma. On the CPU emulator alone.
//!
//! Bound: 2·16·16·8 FLOPs for each mma of a warp; each warp's operands and sums once.

use retromae::device::params::ProbeParams;
use retromae::device::{Buffer, DType, Float, LaunchShape, ModelFloat, Stream, bf16, f16};
use serde_json::Value;

use super::data::typed;
use super::{Bound, FUSED, Operation, Outcome, Rank, Results, Scale, Variant, Work, named};

const THREADS: usize = 128;
const BLOCKS: usize = 16;
/// Number of times that each warp multiplies its operands.
const ROUNDS: usize = 32;
/// Registers of a thread, each of two elements: 4 of A [16, 16] and 16 of B [16, 64]; and its sums of C [16, 64].
const OPERANDS: usize = 4 + 16;
const SUMS: usize = 32;
const FLOPS: usize = 2 * 16 * 16 * 64 * (THREADS / 32 * BLOCKS) * ROUNDS;

struct Case(DType);

pub fn operations<T: ModelFloat>(scale: Scale) -> Vec<Operation<T>> {
    let cases = scale.choose(vec![], vec![Case(DType::Bf16), Case(DType::F16)]);
    vec![Operation::new("mma_emulation", cases)]
}

impl<T> super::Case<T> for Case {
    fn name(&self) -> String {
        self.0.name().into()
    }

    fn rank(&self) -> Rank {
        Rank::Rest
    }

    fn sizes(&self) -> Option<Value> {
        None
    }

    fn bound(&self) -> Bound {
        Bound::new(FLOPS, 4 * THREADS * BLOCKS * (OPERANDS + SUMS))
    }

    fn variants(&self) -> Vec<Variant> {
        match self.0 {
            DType::F16 => variants::<f16>(["probe_mma_f16", "probe_naive_mma_f16"]),
            _ => variants::<bf16>(["probe_mma_bf16", "probe_naive_mma_bf16"]),
        }
    }
}

fn variants<T: Float>([emulated, naive]: [&'static str; 2]) -> Vec<Variant> {
    let variant = |name, kernel| Variant::new(name, move |stream| Products::<T>::new(stream, kernel));
    vec![variant(FUSED, emulated), variant("naive", naive)]
}

/// Every round has the same operands, so the sums are the first round's times the number of rounds.
struct Products<T: Float> {
    kernel: &'static str,
    operands: Buffer<T>,
    sums: Buffer<f32>,
}

impl<T: Float> Products<T> {
    fn new(stream: &Stream, kernel: &'static str) -> Outcome<Self> {
        let device = stream.device();
        let operands = device.upload(&typed(1, 2 * THREADS * BLOCKS * OPERANDS))?;
        Ok(Self { kernel, operands, sums: device.zeros(THREADS * BLOCKS * SUMS)? })
    }
}

impl<T: Float> Work for Products<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        let params = ProbeParams {
            input: self.operands.view().address(),
            output: self.sums.view().address(),
            count: ROUNDS as u64,
        };
        let shape = LaunchShape { grid: [BLOCKS as u32, 1, 1], threads: THREADS as u32, shared_bytes: 0 };
        // SAFETY: both buffers have the size that the kernel reads and writes for so many threads, and outlive the launch.
        unsafe { stream.launch_shape(self.kernel, shape, &params)? };
        Ok(())
    }

    fn results(&mut self) -> Outcome<Results> {
        Ok(named([("sums", self.sums.read()?)]))
    }
}
