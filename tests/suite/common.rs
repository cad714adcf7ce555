//! Shared helpers of the kernel tests: devices to run on, ragged data, and the rule for tolerances.
#![allow(dead_code)]

use retromae::device::{Device, Float, HostOptions, Stream, ThreadOrder, bf16, f16};
use retromae::random::{key, philox};

pub use crate::cases::data::{integers, prefix_sums, rounded, values};

/// Returns every device that a kernel must pass on: the CUDA device if `RETROMAE_TEST_DEVICE=cuda`, else the CPU emulator with guard pages in
/// forward, reverse and random thread order, and, if built, under the sanitizer.
pub fn devices() -> Vec<Device> {
    if std::env::var("RETROMAE_TEST_DEVICE").is_ok_and(|name| name == "cuda") {
        return vec![Device::for_tests().expect("a CUDA device, as RETROMAE_TEST_DEVICE says")];
    }
    let options = |order, sanitize| HostOptions { order, guard: true, sanitize, ..HostOptions::default() };
    let mut all = vec![
        options(ThreadOrder::Forward, false),
        options(ThreadOrder::Reverse, false),
        options(ThreadOrder::Random(7), false),
    ];
    if cfg!(feature = "sanitize") {
        all.push(options(ThreadOrder::Random(8), true));
    }
    all.into_iter().map(|options| Device::host_with(options).expect("the host device")).collect()
}

/// Runs `work` on the device's stream; or, to learn the names of its kernels, captured on a stream of its own.
pub fn run_on(
    device: &Device,
    capture: bool,
    work: impl FnOnce(&Stream) -> retromae::ops::Result<()>,
) -> Vec<String> {
    if !capture {
        work(&device.stream()).unwrap();
        return vec![];
    }
    let stream = device.new_stream().unwrap();
    let graph = stream.capture(work).unwrap();
    // SAFETY: the caller keeps all captured buffers alive, and nothing else uses them until the stream is done.
    unsafe { graph.launch(&stream) }.unwrap();
    stream.synchronize().unwrap();
    graph.kernels().to_vec()
}

/// Asserts that `kernel`, which `work` launches on the given device, has no bank conflicts.
#[track_caller]
pub fn assert_no_bank_conflicts(kernel: &str, work: impl FnOnce(&Device)) {
    if !cfg!(feature = "sanitize") {
        println!("ignored: bank conflicts are counted in the instrumented kernels, feature `sanitize`");
        return;
    }
    let options = HostOptions { bank_conflicts: true, ..HostOptions::default() };
    let device = Device::host_with(options).expect("the host device");
    work(&device);
    let accesses = device.shared_memory_accesses();
    let own = || accesses.iter().filter(|access| access.kernel == kernel);
    assert!(own().count() > 5, "{accesses:?}");
    let conflicts: Vec<String> =
        own().filter(|access| access.excess() > 0).map(ToString::to_string).collect();
    assert!(conflicts.is_empty(), "bank conflicts:\n{}", conflicts.join("\n"));
}

/// Returns `count` integers to put in place of indices in `0..bound`: valid ones, values beside the range's ends, and arbitrary ones.
pub fn garbage(seed: u64, count: usize, bound: usize) -> Vec<i32> {
    let bound = bound as i32;
    let hard = [0, bound - 1, bound, bound + 1, -1, i32::MIN, i32::MAX, 2 * bound];
    let sample = |i: usize| {
        let [kind, value, ..] = philox(key(seed), [i as u32, 2, 0, 0]);
        match kind % 4 {
            0 => hard[value as usize % hard.len()],
            1 => value as i32,
            _ => (value % (bound.max(1) as u32)) as i32,
        }
    };
    (0..count).map(sample).collect()
}

pub fn widened<T: Float>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| f64::from(value.to_f32())).collect()
}

/// Returns the largest difference.
pub fn max_error(actual: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    actual.iter().zip(expected).map(|(a, e)| if a == e { 0.0 } else { (a - e).abs() }).fold(
        0.0,
        |max, error| {
            // A NaN must win, unlike in f64::max.
            if error > max || error.is_nan() { error } else { max }
        },
    )
}

/// Returns the machine epsilon of the element type.
pub fn epsilon<T: Float>() -> f64 {
    match T::DTYPE {
        retromae::device::DType::F32 => f64::from(f32::EPSILON),
        retromae::device::DType::Bf16 => bf16::EPSILON.to_f64(),
        retromae::device::DType::F16 => f16::EPSILON.to_f64(),
    }
}

/// The rule for tolerances: at most twice the error of the naive composition in the same precision, plus a floor of two roundings of the largest
/// value.
#[track_caller]
pub fn assert_close<T: Float>(what: &str, actual: &[f64], naive: &[f64], exact: &[f64]) {
    let finite = exact.iter().filter(|value| value.is_finite());
    let scale = finite.fold(0.0f64, |max, value| max.max(value.abs()));
    assert_close_to_scale::<T>(what, actual, naive, exact, scale);
}

/// Like [`assert_close`], for sums of terms that cancel: `scale` is the largest sum of the terms' magnitudes.
#[track_caller]
pub fn assert_close_to_scale<T: Float>(what: &str, actual: &[f64], naive: &[f64], exact: &[f64], scale: f64) {
    let bound = 2.0 * max_error(naive, exact) + 2.0 * epsilon::<T>() * scale;
    let error = max_error(actual, exact);
    assert!(error <= bound, "{what} ({}): error {error:e} above {bound:e}", T::DTYPE.name());
}
