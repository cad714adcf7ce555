//! The CPU emulator itself: its results, and that it catches kernels which are wrong on purpose.

use retromae::device::params::ProbeParams;
use retromae::device::{Buffer, Device, Error, HostOptions, LaunchShape, ThreadOrder};
use retromae::random::{key, philox};

pub const THREADS: usize = 64;
const SOURCE: &str = include_str!("../../kernels/probes/emulator/probes.cu");

fn options(order: ThreadOrder) -> HostOptions {
    HostOptions { order, guard: true, ..HostOptions::default() }
}

fn one_block(threads: u32, shared_bytes: u32) -> LaunchShape {
    LaunchShape { grid: [1, 1, 1], threads, shared_bytes }
}

fn device(options: HostOptions) -> Device {
    Device::host_with(options).expect("the host device")
}

/// Runs a probe on `0.5, 1.5, …` and returns its output of as many elements.
pub fn run(device: &Device, kernel: &str, shared_bytes: u32, count: usize) -> Result<Vec<f32>, Error> {
    let values: Vec<f32> = (0..count).map(|i| i as f32 + 0.5).collect();
    let input = device.upload(&values)?;
    let output: Buffer<f32> = device.zeros(count)?;
    let params = ProbeParams { input: input.view().address(), output: output.view().address(), count: 0 };
    // SAFETY: both buffers outlive the launch; accesses outside them are caught by the guard pages.
    unsafe { device.stream().launch_shape(kernel, one_block(THREADS as u32, shared_bytes), &params)? };
    output.read()
}

/// Returns the line of the mistake in a wrong kernel, as errors name it.
pub fn mistake(kernel: &str) -> String {
    format!("kernels/probes/emulator/probes.cu:{}", mistake_line(kernel))
}

fn mistake_line(kernel: &str) -> isize {
    let line = SOURCE
        .lines()
        .enumerate()
        .skip_while(|(_, text)| !text.contains(&format!("({kernel},")))
        .find(|(_, text)| text.ends_with("// mistake"))
        .map(|(number, _)| number as isize + 1);
    line.expect("a marked line")
}

fn assert_caught(options: HostOptions, kernel: &str, shared_bytes: u32, what: &str) {
    let message =
        run(&device(options), kernel, shared_bytes, THREADS).expect_err("the mistake is caught").to_string();
    for part in [kernel, what, &mistake(kernel)] {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

const ORDERS: [ThreadOrder; 3] = [ThreadOrder::Forward, ThreadOrder::Reverse, ThreadOrder::Random(1)];

#[test]
fn right_kernels_are_right_in_every_order() {
    for order in ORDERS {
        let device = device(options(order));
        let reversed = run(&device, "probe_reverse", 256, THREADS).unwrap();
        assert!(reversed.iter().enumerate().all(|(i, &v)| v == (THREADS - 1 - i) as f32 + 0.5));
        let copied = run(&device, "probe_async_copy", 1024, 4 * THREADS).unwrap();
        assert!(copied.iter().enumerate().all(|(i, &v)| v == (4 * THREADS - 1 - i) as f32 + 0.5));
    }
}

#[test]
fn collectives_reduce_shuffle_and_vote() {
    for order in ORDERS {
        let output = run(&device(options(order)), "probe_collectives", 0, 4 * THREADS).unwrap();
        for thread in 0..THREADS {
            let warp = thread / 32 * 32;
            let sum: f32 = (warp..warp + 32).map(|i| i as f32 + 0.5).sum();
            assert_eq!(output[thread], sum);
            assert_eq!(output[64 + thread], (thread / 8 * 8 + 7) as f32 + 0.5);
            assert_eq!(output[128 + thread], (warp + 3) as f32);
            assert_eq!(output[192 + thread], 32.0);
        }
    }
}

/// The vectorized emulation equals the naive one of its bench: both add up the products of a sum one after the other.
#[test]
fn the_emulation_of_tensor_cores_equals_a_naive_one() {
    let (threads, operands, sums) = (128, 20, 32);
    let random: Vec<u32> = (0..threads * operands)
        .map(|i| 0x3c00_3c00 ^ philox(key(3), [i as u32, 0, 0, 0])[0] & 0x83ff_83ff)
        .collect();
    let products = |kernel: &str| {
        let device = device(options(ThreadOrder::Random(2)));
        let input = device.upload(&random).unwrap();
        let output: Buffer<f32> = device.zeros(threads * sums).unwrap();
        let params = ProbeParams { input: input.view().address(), output: output.view().address(), count: 3 };
        // SAFETY: both buffers outlive the launch, and have the length that the kernels require.
        unsafe { device.stream().launch_shape(kernel, one_block(threads as u32, 0), &params) }.unwrap();
        output.read().unwrap()
    };
    for [emulated, naive] in
        [["probe_mma_bf16", "probe_naive_mma_bf16"], ["probe_mma_f16", "probe_naive_mma_f16"]]
    {
        let sums = products(emulated);
        assert!(sums.iter().all(|sum| sum.is_finite() && *sum != 0.0));
        assert_eq!(sums, products(naive), "{emulated}");
    }
}

/// Without the sanitizer a missing barrier or wait shows as poison: NaN in some thread order.
#[test]
fn a_missing_barrier_or_wait_reads_poison() {
    let poisoned = |kernel, shared, count| {
        ORDERS.iter().any(|&order| {
            let output = run(&device(options(order)), kernel, shared, count).unwrap();
            output.iter().any(|value| value.is_nan())
        })
    };
    assert!(poisoned("probe_missing_barrier", 256, THREADS));
    assert!(poisoned("probe_missing_wait", 1024, 4 * THREADS));
    assert!(poisoned("probe_uninitialized", 256, THREADS));
}

#[test]
fn accesses_out_of_bounds_are_caught_at_their_line() {
    assert_caught(options(ThreadOrder::Forward), "probe_write_out_of_bounds", 0, "out of bounds");
    assert_caught(options(ThreadOrder::Reverse), "probe_write_out_of_bounds", 0, "out of bounds");
    let buffers = device(options(ThreadOrder::Forward));
    let output: Buffer<f32> = buffers.zeros(THREADS).unwrap();
    let params = ProbeParams { input: 0, output: output.view().address(), count: 1 };
    // SAFETY: the probe leaves its shared memory, and a guard page follows it.
    let result = unsafe {
        buffers.stream().launch_shape("probe_shared_out_of_bounds", one_block(THREADS as u32, 256), &params)
    };
    let message = result.expect_err("the mistake is caught").to_string();
    assert!(message.contains(&mistake("probe_shared_out_of_bounds")), "{message}");
}

#[test]
fn divergence_is_caught_and_never_hangs() {
    for order in ORDERS {
        let options = options(order);
        assert_caught(options, "probe_divergent_barrier", 0, "divergent barrier");
        assert_caught(options, "probe_two_barriers", 0, "divergent barrier");
        assert_caught(options, "probe_divergent_collective", 0, "divergent warp collective");
    }
}

#[test]
fn other_mistakes_are_errors_too() {
    let options = options(ThreadOrder::Forward);
    assert_caught(options, "probe_divide_by_zero", 0, "division by zero");
    assert_caught(options, "probe_stack_overflow", 0, "stack overflow");
    assert_caught(options, "probe_too_little_shared", 256, "shared memory");
    let message = run(&device(options), "probe_copies_left", 1024, 4 * THREADS).unwrap_err().to_string();
    assert!(message.contains("in flight"), "{message}");
}

#[test]
fn a_device_works_on_after_an_error() {
    let device = device(options(ThreadOrder::Forward));
    for _ in 0..3 {
        assert!(run(&device, "probe_write_out_of_bounds", 0, THREADS).is_err());
        assert!(run(&device, "probe_divergent_barrier", 0, THREADS).is_err());
        assert!(run(&device, "probe_reverse", 256, THREADS).is_ok());
    }
}

#[test]
fn wrong_launches_are_refused() {
    let device = device(HostOptions::default());
    let params = ProbeParams { input: 0, output: 0, count: 0 };
    let launch = |kernel: &str, threads, shared| {
        // SAFETY: none of these launches is accepted.
        unsafe { device.stream().launch_shape(kernel, one_block(threads, shared), &params) }
            .unwrap_err()
            .to_string()
    };
    assert!(launch("no_such_kernel", 64, 0).contains("no_such_kernel"));
    assert!(launch("probe_reverse", 32, 256).contains("threads is 32; it should be 64"));
    assert!(launch("probe_reverse", 64, 1 << 20).contains("shared_bytes is 1048576"));
    // SAFETY: refused for the size of its params.
    let message =
        unsafe { device.stream().launch_shape("probe_reverse", one_block(64, 256), &0u32) }.unwrap_err();
    assert!(message.to_string().contains("params is 4 bytes; it should be 24 bytes"), "{message}");
}

#[cfg(feature = "sanitize")]
mod sanitized {
    use super::*;

    fn options(order: ThreadOrder) -> HostOptions {
        HostOptions { order, guard: true, sanitize: true, ..HostOptions::default() }
    }

    #[test]
    fn right_kernels_pass() {
        for order in ORDERS {
            let device = device(options(order));
            run(&device, "probe_reverse", 256, THREADS).unwrap();
            run(&device, "probe_async_copy", 1024, 4 * THREADS).unwrap();
            run(&device, "probe_collectives", 0, 4 * THREADS).unwrap();
            run(&device, "probe_warp_count", 16, THREADS).unwrap();
        }
    }

    /// Unlike poison, the sanitizer needs no lucky order.
    #[test]
    fn races_and_missing_waits_are_caught_at_their_line() {
        for order in ORDERS {
            let options = options(order);
            // The order determines which of the two accesses comes second and is blamed.
            for (kernel, lines) in [
                ("probe_missing_barrier", -1..=0),
                ("probe_write_after_read", -1..=0),
                ("probe_warp_count_early", -1..=0),
            ] {
                let message = run(&device(options), kernel, 256, THREADS).unwrap_err().to_string();
                let blamed = lines.map(|line| mistake_line(kernel) + line);
                let mut places = blamed.map(|line| format!("kernels/probes/emulator/probes.cu:{line},"));
                assert!(message.contains("race: ") || message.contains("never written"), "{message}");
                assert!(places.any(|place| message.contains(&place)), "{message}");
            }
            assert_caught(options, "probe_uninitialized", 256, "never written");
        }
        let message = run(&device(options(ThreadOrder::Forward)), "probe_missing_wait", 1024, 4 * THREADS)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("in flight") && message.contains(&mistake("probe_missing_wait")),
            "{message}"
        );
    }
}
