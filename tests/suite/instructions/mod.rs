//! Instruction tests: every wrapper of `kernels/arch`, and whatever else compilers may treat differently, lane by lane, on the tests' device beside
//! the CPU emulator, and both against an exact computation.
//!
//! Operations that the hardware specifies exactly must give the same bits; a NaN stands for any NaN, whose payload differs between machines.

mod convert;
mod coverage;
mod memory;
mod random;
mod scalar;
mod tensor;
mod warp;

use retromae::device::params::ProbeParams;
use retromae::device::{Buffer, Device, HostOptions, LaunchShape};
use retromae::random::{key, philox};

use crate::common::devices;

/// Threads of a block of every kernel: two warps.
const THREADS: usize = 64;

/// Expected value of a 32-bit word of a kernel's output.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Bits(u32),
    /// A float bit by bit, or any NaN.
    Float(f32),
    /// A float at most `tolerance` away; with `or_infinity`, the approximation may overflow early.
    Near {
        value: f64,
        tolerance: f64,
        or_infinity: bool,
    },
}

impl Expected {
    fn fits(self, actual: u32) -> bool {
        let float = f32::from_bits(actual);
        match self {
            Self::Bits(bits) => actual == bits,
            Self::Float(value) => same_float(actual, value.to_bits()),
            Self::Near { value, tolerance, or_infinity } => {
                (f64::from(float) - value).abs() <= tolerance || or_infinity && float == f32::INFINITY
            }
        }
    }

    /// Returns true if the outputs of two devices are consistent with each other.
    fn agree(self, one: u32, other: u32) -> bool {
        let [a, b] = [one, other].map(f32::from_bits);
        match self {
            Self::Bits(_) => one == other,
            Self::Float(_) => same_float(one, other),
            Self::Near { tolerance, or_infinity, .. } => {
                let distance = (f64::from(a) - f64::from(b)).abs();
                a == b
                    || distance <= 2.0 * tolerance
                    || or_infinity && (a == f32::INFINITY || b == f32::INFINITY)
            }
        }
    }
}

fn same_float(one: u32, other: u32) -> bool {
    one == other || f32::from_bits(one).is_nan() && f32::from_bits(other).is_nan()
}

/// Runs a kernel on `blocks` blocks.
fn dump(
    device: &Device,
    kernel: &str,
    shared_bytes: u32,
    blocks: usize,
    input: &[u32],
    outputs: usize,
) -> Vec<u32> {
    let input = device.upload(input).unwrap();
    let output: Buffer<u32> = device.zeros(outputs).unwrap();
    let params = ProbeParams { input: input.view().address(), output: output.view().address(), count: 0 };
    let shape = LaunchShape { grid: [blocks as u32, 1, 1], threads: THREADS as u32, shared_bytes };
    // SAFETY: both buffers outlive the launch, and have the size that the kernel reads and writes for so many blocks.
    unsafe { device.stream().launch_shape(kernel, shape, &params) }
        .unwrap_or_else(|error| panic!("{kernel} on {device:?}: {error}"));
    output.read().unwrap()
}

/// Runs a kernel on every device; each output word must be as expected, and agree with the plain CPU emulator's.
#[track_caller]
fn assert_lanes(kernel: &str, shared_bytes: u32, blocks: usize, input: &[u32], expected: &[Expected]) {
    let host = Device::host_with(HostOptions::default()).expect("the host device");
    let host_output = dump(&host, kernel, shared_bytes, blocks, input, expected.len());
    let others = devices().into_iter().map(|device| {
        let output = dump(&device, kernel, shared_bytes, blocks, input, expected.len());
        (device, output)
    });
    for (device, output) in others.chain([(host.clone(), host_output.clone())]) {
        for (i, ((&actual, &emulated), &expected)) in
            output.iter().zip(&host_output).zip(expected).enumerate()
        {
            let show = |bits: u32| format!("{bits:#010x} ({:e})", f32::from_bits(bits));
            let what = || format!("{kernel} on {}: word {i} is {}", device.description(), show(actual));
            assert!(expected.fits(actual), "{}; it should be {expected:?}", what());
            assert!(
                expected.agree(actual, emulated),
                "{}; on the host device it is {}",
                what(),
                show(emulated)
            );
        }
    }
}

/// Like [`assert_lanes`], for a kernel that maps each word to one word.
#[track_caller]
fn assert_elementwise(kernel: &str, input: &[u32], expected: impl Fn(u32) -> Expected) {
    let input = whole_blocks(input);
    let expected: Vec<Expected> = input.iter().map(|&word| expected(word)).collect();
    assert_lanes(kernel, 0, input.len() / THREADS, &input, &expected);
}

/// Like [`assert_lanes`], for a kernel in which every thread maps a record of the input to one of the output.
#[track_caller]
fn assert_records<const IN: usize, const OUT: usize>(
    kernel: &str,
    input: &[[u32; IN]],
    expected: impl Fn(&[u32; IN]) -> [Expected; OUT],
) {
    let input = whole_blocks(input);
    let expected: Vec<Expected> = input.iter().flat_map(expected).collect();
    assert_lanes(kernel, 0, input.len() / THREADS, input.as_flattened(), &expected);
}

/// Pads the input to whole blocks by repeating it.
fn whole_blocks<T: Copy>(input: &[T]) -> Vec<T> {
    input.iter().copied().cycle().take(input.len().next_multiple_of(THREADS)).collect()
}

/// Returns random 32-bit words, the same for the same `seed`.
fn words(seed: u64, count: usize) -> Vec<u32> {
    (0..count).map(|i| philox(key(seed), [i as u32, 2, 0, 0])[0]).collect()
}

/// Floats at the edge cases of conversions and arithmetic.
const HARD: [u32; 44] = [
    0x0000_0000, // zeros
    0x8000_0000,
    0x0000_0001, // denormals
    0x8000_0001,
    0x0000_7fff,
    0x0000_8000, // halfway between zero and the least bf16
    0x8000_8000,
    0x0001_8000,
    0x0040_0000,
    0x007f_ffff,
    0x807f_ffff,
    0x0080_0000, // smallest normal
    0x8080_0000,
    0x3f80_0000, // around 1: halfway to even and to odd, and one off each
    0x3f80_7fff,
    0x3f80_8000,
    0x3f80_8001,
    0x3f81_7fff,
    0x3f81_8000,
    0x3f81_8001,
    0xbf80_8000,
    0xbf81_8000,
    0x3fff_8000, // rounds into the next binade
    0x7f7f_7fff, // the largest that rounds to a finite bf16
    0x7f7f_8000, // overflow
    0x7f7f_ffff,
    0xff7f_8000,
    0xff7f_ffff,
    0x7f80_0000, // infinities
    0xff80_0000,
    0x7f80_0001, // signaling and quiet NaNs
    0xff80_0001,
    0x7fbf_ffff,
    0x7fc0_0000,
    0xffc0_0000,
    0x7fff_ffff,
    0xffff_ffff,
    0xc2fc_0000, // -126, -126.5, -127, -150: around the smallest normal power of two
    0xc2fd_0000,
    0xc2fe_0000,
    0xc316_0000,
    0x42fe_ffff, // just below 127.5; 127.5; 128
    0x42ff_0000,
    0x4300_0000,
];

/// Returns the hard values, random bit patterns, and numbers spread evenly in `-limit..limit`.
fn floats(seed: u64, limit: f32) -> Vec<u32> {
    let even = |word: u32| ((word as f32 / 2f32.powi(31) - 1.0) * limit).to_bits();
    HARD.into_iter().chain(words(seed, 2048)).chain(words(seed + 1, 4096).into_iter().map(even)).collect()
}
