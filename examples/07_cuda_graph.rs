//! A sequence of operations recorded once and replayed, on a stream that somebody else created. On the first GPU, or else in the CPU emulator, which
//! records likewise but has no streams of others.
//!
//!     cargo run --release --example 07_cuda_graph

use retromae::device::{Device, Stream};
use retromae::ops::{Result, bias_gelu, reduce};

const ROWS: usize = 64;
const COLUMNS: usize = 128;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let device = Device::cuda(0).or_else(|error| {
        println!("no GPU ({error}): in the CPU emulator");
        Device::host()
    })?;
    // A trainer passes its own `CUstream`; this one stands for it, and outlives the borrowed one.
    let owner = device.new_stream()?;
    let stream = match device.name() {
        // SAFETY: `owner` lives until the end of this function, longer than `stream` and its clones.
        "cuda" => unsafe { device.borrow_stream(owner.handle())? },
        _ => owner.clone(),
    };

    let mut input = device.zeros::<f32>(ROWS * COLUMNS)?;
    let bias = device.upload(&[1.0f32; COLUMNS])?;
    let (mut output, mut sum) = (device.zeros::<f32>(ROWS * COLUMNS)?, device.zeros::<f32>(1)?);
    let mut workspace = reduce::workspace(ROWS * COLUMNS).allocate(&device)?;

    let work = |stream: &Stream| -> Result<()> {
        let forward = bias_gelu::Forward {
            input: input.matrix(ROWS, COLUMNS)?,
            bias: bias.view(),
            output: output.matrix_mut(ROWS, COLUMNS)?,
        };
        bias_gelu::forward(stream, forward)?;
        let sum = reduce::Arguments {
            input: output.view(),
            output: sum.view_mut(),
            accumulate: false,
            workspace: workspace.view_mut(),
        };
        reduce::sum(stream, sum)
    };
    let graph = stream.capture(work)?;
    println!("recorded {:?}", graph.kernels());

    // A replay sees the buffers as they are then.
    for value in [-1.0f32, 0.0, 1.0] {
        input.write(&[value; ROWS * COLUMNS])?;
        // SAFETY: all buffers of the recorded work live until after the sum was read, which waits for the replay.
        unsafe { graph.launch(&stream)? };
        let mean = sum.read()?[0] / (ROWS * COLUMNS) as f32;
        println!("gelu({value} + 1) = {mean:.4}");
    }
    Ok(())
}
