//! Benchmarks every operation beside an unfused composition of the same maths, on the CPU emulator or a GPU: `cargo bench`, or one operation by
//! `cargo bench -- attention_forward`.
//!
//! `RETROMAE_BENCH_DEVICE=cuda` measures on the first CUDA device, at the sizes of a training step. `harness` describes the other variables.

mod baseline;
mod cases;
mod harness;

use std::process::ExitCode;

use criterion::Criterion;
use harness::{Bench, Outcome};
use retromae::device::bf16;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let mut bench = Bench::new(Criterion::default().configure_from_args())?;
    println!("device: {}", bench.device().description());
    for &rank in harness::ranks()? {
        bench.rank = rank;
        if bench.on_gpu() {
            cases::all::<bf16>(&mut bench);
        } else {
            cases::all::<f32>(&mut bench);
        }
    }
    bench.finish()
}
