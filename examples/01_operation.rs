//! One operation: LayerNorm of a few rows, alone and with the bias, dropout and residual of a transformer block fused into it. Runs in the CPU
//! emulator, and compares with the f64 reference.
//!
//!     cargo run --release --example 01_operation

use retromae::device::Device;
use retromae::ops::layer_norm::{self, Forward, Fused};
use retromae::ops::{Dropout, rng_state};
use retromae::reference;

const ROWS: usize = 4;
const COLUMNS: usize = 32;
const EPS: f32 = 1e-12;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let wave = |count: usize, step: f32| (0..count).map(|i| (i as f32 * step).sin()).collect::<Vec<f32>>();
    let (input, gamma, beta) = (wave(ROWS * COLUMNS, 0.7), wave(COLUMNS, 1.3), wave(COLUMNS, 0.3));

    // `Device::cuda(0)` runs the same on a GPU. Buffers belong to a device; operations see them as vectors and matrices.
    let device = Device::host()?;
    let stream = device.stream();
    let (x, weight, bias) = (device.upload(&input)?, device.upload(&gamma)?, device.upload(&beta)?);
    let mut output = device.zeros::<f32>(ROWS * COLUMNS)?;
    let (mut mean, mut rstd) = (device.zeros::<f32>(ROWS)?, device.zeros::<f32>(ROWS)?);
    let forward = Forward {
        input: x.matrix(ROWS, COLUMNS)?,
        gamma: weight.view(),
        beta: bias.view(),
        eps: EPS,
        output: output.matrix_mut(ROWS, COLUMNS)?,
        mean: mean.view_mut(),
        rstd: rstd.view_mut(),
        fused: Fused::default(),
    };
    // Enqueued; reading a buffer waits for all work.
    layer_norm::forward(&stream, forward)?;

    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    let exact = reference::layer_norm::forward(&wide(&input), &wide(&gamma), &wide(&beta), f64::from(EPS));
    let error = output.read()?.iter().zip(&exact).map(|(&a, e)| (f64::from(a) - e).abs()).fold(0.0, f64::max);
    println!("LayerNorm is off by at most {error:.1e}");
    assert!(error < 1e-5, "f32 rounding causes about 1e-7");

    // The same pass also adds a bias, drops elements and adds a residual; the seed is in device memory, so that a recorded launch can be replayed.
    let rng = device.upload(&rng_state(42, 0))?;
    let residual = device.upload(&wave(ROWS * COLUMNS, 0.2))?;
    let forward = Forward {
        input: x.matrix(ROWS, COLUMNS)?,
        gamma: weight.view(),
        beta: bias.view(),
        eps: EPS,
        output: output.matrix_mut(ROWS, COLUMNS)?,
        mean: mean.view_mut(),
        rstd: rstd.view_mut(),
        fused: Fused {
            bias: Some(bias.view()),
            dropout: Some(Dropout { rng: rng.view(), rate: 0.1, site: 1 }),
            residual: Some(residual.matrix(ROWS, COLUMNS)?),
            sum: None,
        },
    };
    layer_norm::forward(&stream, forward)?;
    println!("means with dropout and residual: {:?}", mean.read()?);
    Ok(())
}
