//! What the benches share: the device, data, short measurements, and the check that op and baseline compute the same.
#![allow(dead_code)]

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode};
use retromae::device::Device;
use retromae::random::{key, philox};

/// The device that `RETROMAE_BENCH_DEVICE` names (`host` or `cuda`), else the host device.
pub fn device() -> Device {
    let device = match std::env::var("RETROMAE_BENCH_DEVICE").as_deref() {
        Ok("cuda") => Device::cuda(0),
        Ok("host") | Err(_) => Device::host(),
        Ok(other) => panic!("RETROMAE_BENCH_DEVICE is {other:?}; it should be host or cuda"),
    };
    device.unwrap_or_else(|error| panic!("no device: {error}"))
}

/// Baselines run on the processor: beside a GPU they would say nothing.
pub fn has_baseline(device: &Device) -> bool {
    device.name() == "host"
}

/// A group of few samples, so that all benches together end within minutes.
pub fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    group
}

/// `count` values in [-1, 1), the same for the same `seed`.
pub fn values(seed: u64, count: usize) -> Vec<f32> {
    let draw = |i: usize| philox(key(seed), [i as u32, 0, 0, 0])[0];
    (0..count).map(|i| draw(i) as f32 / (1u32 << 31) as f32 - 1.0).collect()
}

/// Panics unless both are equal within 1e-3 of the largest value: a bench of something else would be worthless.
pub fn assert_same(what: &str, op: &[f32], baseline: &[f32]) {
    assert_eq!(op.len(), baseline.len(), "{what}");
    let scale = baseline.iter().fold(0.0f32, |max, value| max.max(value.abs()));
    let same = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-3 * scale;
    assert!(op.iter().zip(baseline).all(same), "{what}: op and baseline differ");
}
