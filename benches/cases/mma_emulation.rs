//! The CPU emulator's mma instruction, beside a naive emulation: a kernel of nothing but mma. On the CPU emulator alone.
//!
//! Bound: 2·16·16·8 FLOPs for each mma of a warp; each warp's operands and sums once.

use retromae::device::params::ProbeParams;
use retromae::device::{Buffer, Float, LaunchShape, Stream, bf16, f16};

use crate::harness::{Bench, Bound, FUSED, Group, Outcome, Rank, Results, Variant, Work, typed};

const THREADS: usize = 128;
const BLOCKS: usize = 16;
/// Number of times that each warp multiplies its operands.
const ROUNDS: usize = 32;
/// Registers of a thread, each of two elements: 4 of A [16, 16] and 16 of B [16, 64]; and its sums of C [16, 64].
const OPERANDS: usize = 4 + 16;
const SUMS: usize = 32;
const FLOPS: usize = 2 * 16 * 16 * 64 * (THREADS / 32 * BLOCKS) * ROUNDS;

pub fn bench(bench: &mut Bench) {
    if bench.on_gpu() {
        return;
    }
    let mut group = bench.group("mma_emulation");
    case::<bf16>(&mut group, ["probe_mma_bf16", "probe_naive_mma_bf16"]);
    case::<f16>(&mut group, ["probe_mma_f16", "probe_naive_mma_f16"]);
}

fn case<T: Float>(group: &mut Group<'_>, [emulated, naive]: [&'static str; 2]) {
    let bytes = 4 * THREADS * BLOCKS * (OPERANDS + SUMS);
    let variant = |name, kernel| Variant::new(name, move |stream| Products::<T>::new(stream, kernel));
    let variants = vec![variant(FUSED, emulated), variant("naive", naive)];
    group.case(Rank::Rest, T::DTYPE.name(), Bound::new(FLOPS, bytes), variants);
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
        Ok(vec![("sums".into(), self.sums.read()?)])
    }
}
