//! A linear layer and its cross-entropy in one operation, with the logits of a few rows at a time: losses and gradients for training, and losses
//! alone for evaluation. Runs in the CPU emulator, and compares everything with the f64 reference.
//!
//!     cargo run --release --example 04_linear_cross_entropy

use retromae::device::{DType, Device};
use retromae::ops::cross_entropy::{self, Algorithm, Forward, Gradients, Options};
use retromae::reference::cross_entropy::{self as reference, CrossEntropy};

const ROWS: usize = 6;
const HIDDEN: usize = 16;
const WORDS: usize = 40;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let wave = |count: usize, step: f32| (0..count).map(|i| (i as f32 * step).sin()).collect::<Vec<f32>>();
    let (hidden, weight) = (wave(ROWS * HIDDEN, 0.7), wave(WORDS * HIDDEN, 1.3));
    // A row with `ignore_index` has neither loss nor gradient.
    let targets = [3, 17, Options::default().ignore_index, 0, 39, 3];

    let device = Device::host()?;
    let (x, w, ids) = (device.upload(&hidden)?, device.upload(&weight)?, device.upload(&targets)?);
    let (x, w) = (x.matrix(ROWS, HIDDEN)?, w.matrix(WORDS, HIDDEN)?);
    let [mut losses, mut only_losses] = [device.zeros(ROWS)?, device.zeros(ROWS)?];
    let (mut d_x, mut d_w) = (device.zeros(ROWS * HIDDEN)?, device.zeros(WORDS * HIDDEN)?);
    // Logits of 4 rows at a time.
    let mut workspace =
        cross_entropy::workspace(Algorithm::default(), DType::F32, 4, HIDDEN, WORDS).allocate(&device)?;

    let forward = Forward::new(x, w, ids.view(), losses.view_mut(), workspace.view_mut());
    let gradients = Gradients {
        d_hidden: Some(d_x.matrix_mut(ROWS, HIDDEN)?),
        d_weight: Some(d_w.matrix_mut(WORDS, HIDDEN)?),
        ..Gradients::default()
    };
    cross_entropy::forward_backward(&device.stream(), forward, gradients)?;
    let forward = Forward::new(x, w, ids.view(), only_losses.view_mut(), workspace.view_mut());
    cross_entropy::forward(&device.stream(), forward)?;

    let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
    let (hidden, weight) = (&wide(hidden)[..], &wide(weight)[..]);
    let (bias, row_weights, options) = (&[0.0; WORDS], &[1.0; ROWS], Options::default());
    let head = CrossEntropy { hidden, weight, bias, targets: &targets, row_weights, options };
    let exact_losses = reference::forward(&head).row_loss;
    let (exact_d_x, exact_d_w, _) = reference::backward(&head);
    for (name, actual, exact) in [
        ("losses", losses.read()?, &exact_losses),
        ("losses alone", only_losses.read()?, &exact_losses),
        ("d_hidden", d_x.read()?, &exact_d_x),
        ("d_weight", d_w.read()?, &exact_d_w),
    ] {
        let error = actual.iter().zip(exact).map(|(&a, e)| (f64::from(a) - e).abs()).sum::<f64>();
        println!("{name:>12}: {error:.1e} off in all");
        assert!(error < 1e-4, "{name}: f32 rounding causes about 1e-5");
    }
    Ok(())
}
