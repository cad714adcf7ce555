//! Benchmarks every operation beside an unfused composition of the same maths, on the CPU emulator or a GPU: `cargo bench`, or one operation by
//! `cargo bench -- attention_forward`.
//!
//! `cargo bench --bench bench -- --export >benches/peers/cases.json` writes the sizes of all cases for the peers and the chores.
//!
//! `RETROMAE_BENCH_DEVICE=cuda` measures on the first CUDA device, at the sizes of a training step. `harness` describes the other variables.

mod cases;
mod harness;

use std::process::ExitCode;

use cases::{Outcome, Scale};
use criterion::Criterion;
use harness::Bench;
use retromae::device::{ModelFloat, bf16};

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
    if std::env::args().any(|argument| argument == "--export") {
        print!("{}", cases::export());
        return Ok(());
    }
    let mut bench = Bench::new(Criterion::default().configure_from_args())?;
    println!("device: {}", bench.device().description());
    for &rank in harness::ranks()? {
        bench.rank = rank;
        match Scale::of(bench.device()) {
            Scale::Gpu => all::<bf16>(&mut bench, Scale::Gpu),
            Scale::Host => all::<f32>(&mut bench, Scale::Host),
        }
    }
    bench.finish()
}

/// Measures all operations on elements of `T`.
fn all<T: ModelFloat>(bench: &mut Bench, scale: Scale) {
    cases::operations::<T>(scale).iter().for_each(|operation| bench.measure(operation));
}
