//! Losses and gradients over ugly shapes.

use super::*;
use crate::common::devices;
use retromae::device::{bf16, f16};

fn sweep<T: Float>(algorithm: Algorithm, all_rows: &[usize]) {
    let devices = devices();
    for &rows in all_rows {
        for (vocabulary, hidden_size) in [7, 97, 1003].into_iter().flat_map(|v| [16, 64, 384].map(|h| (v, h)))
        {
            let operands = Inputs::<T>::random(rows, vocabulary, hidden_size);
            // Each chunk on one of the devices, for there may be only one.
            for (device, chunk) in devices.iter().cycle().zip([rows.max(1), 5, 64, 33]) {
                let actual = run(device, &[&operands], Way::full(algorithm, chunk));
                assert_results(&actual, &operands, algorithm);
            }
        }
    }
}

#[test]
fn f32_matches_the_reference() {
    sweep::<f32>(Algorithm::Library, &[0, 1, 17, 130]);
}

#[test]
fn bf16_matches_the_reference() {
    sweep::<bf16>(Algorithm::Library, &[0, 1, 17, 130]);
}

#[test]
fn f16_matches_the_reference() {
    sweep::<f16>(Algorithm::Library, &[0, 17, 130]);
}

#[test]
fn fused_bf16_matches_the_reference() {
    sweep::<bf16>(Algorithm::Fused, &[0, 1, 17, 130]);
}

/// Covers the shapes of real models, one large dimension at a time.
#[test]
fn large_shapes_match_the_reference() {
    fn check<T: Float>(device: &Device, algorithm: Algorithm, shape: [usize; 3], chunk: usize) {
        let [rows, vocabulary, hidden_size] = shape;
        let operands = Inputs::<T>::random(rows, vocabulary, hidden_size);
        assert_results(&run(device, &[&operands], Way::full(algorithm, chunk)), &operands, algorithm);
    }
    let devices = devices();
    let shapes = [[4097, 7, 16], [3, 30_522, 16], [2, 32_000, 16], [2, 50_368, 16], [17, 97, 1024]];
    for (device, shape) in devices.iter().cycle().zip(shapes) {
        check::<f32>(device, Algorithm::Library, shape, 4096);
        check::<bf16>(device, Algorithm::Library, shape, 1500);
        check::<bf16>(device, Algorithm::Fused, shape, 4096);
    }
    check::<bf16>(&devices[0], Algorithm::Fused, [150, 1003, 768], 150);
}

#[test]
fn every_option_matches_the_reference() {
    fn check<T: Float>(device: &Device, options: Options) {
        // A thread's step covers up to 8,192 words.
        for (rows, vocabulary, hidden_size) in [(17, 97, 64), (5, 1003, 64), (3, 7, 64), (2, 9001, 16)] {
            let operands = Inputs::<T>::random(rows, vocabulary, hidden_size).with(options);
            let actual = run(device, &[&operands], Way::full(Algorithm::Library, 8));
            assert_results(&actual, &operands, Algorithm::Library);
        }
    }
    let plain = Options::default();
    for device in devices() {
        for options in [
            Options { label_smoothing: 0.1, ..plain },
            Options { z_loss: 0.01, ..plain },
            Options { soft_cap: Some(3.0), ..plain },
            Options { label_smoothing: 0.2, z_loss: 1e-3, soft_cap: Some(2.0), ..plain },
        ] {
            check::<f32>(&device, options);
            check::<bf16>(&device, options);
            check::<f16>(&device, options);
        }
    }
}
