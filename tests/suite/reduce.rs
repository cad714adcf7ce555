//! Sums and sums of squares against f64.

use crate::common::{devices, max_error, rounded, values, widened};
use retromae::device::{Buffer, Device};
use retromae::ops::reduce;

const COUNTS: [usize; 13] = [0, 1, 7, 8, 9, 1000, 8192, 8193, 16384, 16385, 32767, 100_003, 300_001];

/// Returns the device's sum, or sum of squares, of `input`, added to `before` if given.
fn run(device: &Device, input: &[f32], squares: bool, before: Option<f32>) -> f32 {
    let buffer = device.upload(input).unwrap();
    let mut output: Buffer<f32> = device.upload(&[before.unwrap_or(f32::NAN)]).unwrap();
    let mut workspace = reduce::workspace(input.len()).allocate(device).unwrap();
    let arguments = reduce::Arguments {
        input: buffer.view(),
        output: output.view_mut(),
        accumulate: before.is_some(),
        workspace: workspace.view_mut(),
    };
    let operation = if squares { reduce::squares } else { reduce::sum };
    operation(&device.stream(), arguments).unwrap();
    output.read().unwrap()[0]
}

/// Asserts that the error does not exceed that of the naive sum from left to right, or 2·log2(count) roundings of the sum of magnitudes.
fn assert_sum(what: &str, actual: f32, terms: &[f32], exact: f64) {
    let naive: f32 = terms.iter().sum();
    let magnitude: f64 = terms.iter().map(|term| f64::from(term.abs())).sum();
    let levels = 2.0 * ((terms.len() + 2) as f64).log2();
    let bound = 2.0 * max_error(&[f64::from(naive)], &[exact]) + levels * f64::from(f32::EPSILON) * magnitude;
    let error = max_error(&[f64::from(actual)], &[exact]);
    assert!(error <= bound, "{what} of {}: error {error:e} above {bound:e}", terms.len());
}

#[test]
fn matches_f64() {
    for device in devices() {
        for count in COUNTS {
            let input: Vec<f32> = rounded(&values(count as u64, count));
            let exact: f64 = widened(&input).iter().sum();
            assert_sum("sum", run(&device, &input, false, None), &input, exact);
            let terms: Vec<f32> = input.iter().map(|x| x * x).collect();
            let exact: f64 = widened(&input).iter().map(|x| x * x).sum();
            assert_sum("squares", run(&device, &input, true, None), &terms, exact);
        }
    }
}

/// Small integers add without rounding, so every element must count exactly once.
#[test]
fn every_element_counts_once() {
    for device in devices() {
        for count in COUNTS {
            let input: Vec<f32> = (0..count).map(|i| (i % 7) as f32).collect();
            assert_eq!(run(&device, &input, false, None), input.iter().sum::<f32>(), "{count}");
            assert_eq!(run(&device, &input, false, Some(5.0)), input.iter().sum::<f32>() + 5.0, "{count}");
            let squares: f32 = input.iter().map(|x| x * x).sum();
            assert_eq!(run(&device, &input, true, Some(-3.0)), squares - 3.0, "{count}");
        }
    }
}

#[test]
fn the_order_is_the_same_in_every_run() {
    let input: Vec<f32> = rounded(&values(3, 100_003));
    // Twice on each device, for there may be only one.
    let results: Vec<u32> = devices()
        .iter()
        .flat_map(|device| [(); 2].map(|()| run(device, &input, true, None).to_bits()))
        .collect();
    assert!(results.iter().all(|&bits| bits == results[0]), "{results:x?}");
}

#[test]
fn what_is_not_finite_shows() {
    for device in devices() {
        for place in [0, 7, 999] {
            let mut input = vec![1.0f32; 1000];
            input[place] = f32::NAN;
            assert!(run(&device, &input, true, None).is_nan());
            input[place] = f32::NEG_INFINITY;
            assert_eq!(run(&device, &input, true, None), f32::INFINITY);
        }
    }
}

#[test]
fn the_workspace_never_shrinks() {
    let needs: Vec<retromae::ops::Workspace> = (0..200).map(|i| reduce::workspace(i * 997)).collect();
    assert!(needs.is_sorted());
    assert_eq!([0, 1, 16384, 16385].map(|count| reduce::workspace(count).bytes()), [0, 4, 4, 8]);
}

#[test]
fn wrong_shapes_are_refused() {
    let device = &devices()[0];
    let input = device.zeros::<f32>(20_000).unwrap();
    let mut outputs_buffer = device.zeros::<f32>(2).unwrap();
    let mut scratch = device.zeros(8).unwrap();
    let mut refuse = |start: usize, outputs: usize, workspace: usize| {
        let arguments = reduce::Arguments {
            input: input.slice(start..20_000),
            output: outputs_buffer.slice_mut(0..outputs),
            accumulate: false,
            workspace: scratch.slice_mut(0..workspace),
        };
        reduce::sum(&device.stream(), arguments).unwrap_err().to_string()
    };
    assert_eq!(
        refuse(1, 1, 8),
        "input is at an address of 4 modulo 16 bytes; it should be aligned to 16 bytes"
    );
    assert_eq!(refuse(0, 2, 8), "output is 2 elements long; it should be 1 (a scalar)");
    assert_eq!(refuse(0, 1, 7), "workspace is 7 bytes long; it should be at least 8 bytes");
}
