//! Every wrapper of `kernels/arch`, and what else a compiler may see differently, lane by lane: the tests' device beside the host device,
//! and both against an exact computation.
//!
//! What the hardware specifies exactly must be the same bits; a NaN stands for any NaN, whose payload differs between machines.

mod coverage;

use retromae::device::params::ProbeParams;
use retromae::device::{Buffer, Device, HostOptions};
use retromae::random::{Dropout, dropout_scale, key, philox};
use retromae::reference::gelu::erfc;

use crate::common::devices;

/// Threads of a block of every twin kernel: two warps.
const THREADS: usize = 64;
/// Relative error of `ex2.approx.ftz.f32` (PTX ISA, "Floating Point Instructions: ex2"), and what its host twin promises.
const EXP2_ERROR: f64 = 1.0 / 4_194_304.0;
/// The smallest normal f32: results below it become zero.
const SMALLEST: f64 = f32::MIN_POSITIVE as f64;

/// What a word of a kernel's output should be.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Bits(u32),
    /// A float bit by bit, or any NaN.
    Float(f32),
    /// A float at most `tolerance` away; where `or_infinity`, the approximation may overflow early.
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

    /// Whether the outputs of two devices may stand side by side.
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

/// Runs a twin kernel on `blocks` blocks.
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
    let grid = [blocks as u32, 1, 1];
    // SAFETY: both buffers outlive the launch, and hold what the kernel reads and writes for so many blocks.
    unsafe { device.stream().launch(kernel, grid, THREADS as u32, shared_bytes, &params) }
        .unwrap_or_else(|error| panic!("{kernel} on {device:?}: {error}"));
    output.read().unwrap()
}

/// Runs a twin kernel on every device; each output word must be as expected, and as the plain host device has it.
#[track_caller]
fn assert_twins(kernel: &str, shared_bytes: u32, blocks: usize, input: &[u32], expected: &[Expected]) {
    let host = Device::host_with(HostOptions::default()).expect("the host device");
    let host_output = dump(&host, kernel, shared_bytes, blocks, input, expected.len());
    let others = devices().into_iter().map(|device| {
        let output = dump(&device, kernel, shared_bytes, blocks, input, expected.len());
        (device, output)
    });
    for (device, output) in others.chain([(host.clone(), host_output.clone())]) {
        for (i, ((&actual, &twin), &expected)) in output.iter().zip(&host_output).zip(expected).enumerate() {
            let show = |bits: u32| format!("{bits:#010x} ({:e})", f32::from_bits(bits));
            let what = || format!("{kernel} on {}: word {i} is {}", device.description(), show(actual));
            assert!(expected.fits(actual), "{}; it should be {expected:?}", what());
            assert!(expected.agree(actual, twin), "{}; on the host device it is {}", what(), show(twin));
        }
    }
}

/// As [`assert_twins`], for a kernel that makes one word of each word.
#[track_caller]
fn assert_elementwise(kernel: &str, input: &[u32], expected: impl Fn(u32) -> Expected) {
    let input = whole_blocks(input);
    let expected: Vec<Expected> = input.iter().map(|&word| expected(word)).collect();
    assert_twins(kernel, 0, input.len() / THREADS, &input, &expected);
}

/// As [`assert_twins`], for a kernel in which every thread turns a record of the input into one of the output.
#[track_caller]
fn assert_records<const IN: usize, const OUT: usize>(
    kernel: &str,
    input: &[[u32; IN]],
    expected: impl Fn(&[u32; IN]) -> [Expected; OUT],
) {
    let input = whole_blocks(input);
    let expected: Vec<Expected> = input.iter().flat_map(expected).collect();
    assert_twins(kernel, 0, input.len() / THREADS, input.as_flattened(), &expected);
}

/// Repeats the beginning until the last block is full.
fn whole_blocks<T: Copy>(input: &[T]) -> Vec<T> {
    input.iter().copied().cycle().take(input.len().next_multiple_of(THREADS)).collect()
}

/// Random words, the same for the same `seed`.
fn words(seed: u64, count: usize) -> Vec<u32> {
    (0..count).map(|i| philox(key(seed), [i as u32, 2, 0, 0])[0]).collect()
}

/// Floats in which conversions and arithmetic go wrong first.
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
    0x7f80_0001, // signalling and quiet NaNs
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

/// The hard values, random bit patterns, and numbers evenly in `-limit..limit`.
fn floats(seed: u64, limit: f32) -> Vec<u32> {
    let even = |word: u32| ((word as f32 / 2f32.powi(31) - 1.0) * limit).to_bits();
    HARD.into_iter().chain(words(seed, 2048)).chain(words(seed + 1, 4096).into_iter().map(even)).collect()
}

/// The value of a bf16 with infinity continued as 2^128, so that overflow rounds like everything else.
fn bf16_value(bits: u16) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 7 & 0xff), f64::from(bits & 0x7f));
    let magnitude = match exponent {
        0 => mantissa * 2f64.powi(-133),
        _ => (128.0 + mantissa) * 2f64.powi(exponent - 134),
    };
    if bits >> 15 == 0 { magnitude } else { -magnitude }
}

#[test]
fn bf16_from_float_rounds_to_nearest_even() {
    assert_elementwise("twin_bf16_from_float", &floats(1, 1e4), |word| {
        let value = f32::from_bits(word);
        if value.is_nan() {
            // The instruction's only NaN.
            return Expected::Bits(0x7fff);
        }
        let below = (word >> 16) as u16;
        if value.is_infinite() {
            return Expected::Bits(u32::from(below));
        }
        let distance = |bits: u16| (f64::from(value) - bf16_value(bits)).abs();
        let (down, up) = (distance(below), distance(below + 1));
        let nearest = if up < down || up == down && below % 2 == 1 { below + 1 } else { below };
        Expected::Bits(u32::from(nearest))
    });
}

#[test]
fn bf16_to_float_is_exact_for_every_value() {
    let every: Vec<u32> = (0..=0xffff).collect();
    assert_elementwise("twin_bf16_to_float", &every, |word| {
        let bits = word as u16;
        let (exponent, mantissa) = (bits >> 7 & 0xff, bits & 0x7f);
        let value = match (exponent, mantissa) {
            (0xff, 0) => f32::INFINITY.copysign(bf16_value(bits) as f32),
            (0xff, _) => f32::NAN,
            _ => bf16_value(bits) as f32,
        };
        Expected::Float(value)
    });
}

#[test]
fn bit_count_counts_ones() {
    let powers = (0..32).flat_map(|bit| [1u32 << bit, !(1u32 << bit), u32::MAX >> bit]);
    let input: Vec<u32> = powers.chain([0, u32::MAX]).chain(words(2, 4096)).collect();
    assert_elementwise("twin_bit_count", &input, |word| {
        Expected::Bits((0..32).map(|bit| word >> bit & 1).sum())
    });
}

/// An approximation of the positive `value` with a relative error; a result below the smallest normal float may become zero.
fn approximately(value: f64, relative: f64, early_overflow: f64) -> Expected {
    if value.is_nan() {
        return Expected::Float(f32::NAN);
    }
    if value * (1.0 - relative) > f64::from(f32::MAX) {
        return Expected::Float(f32::INFINITY);
    }
    let flushed = if value * (1.0 - relative) < SMALLEST { SMALLEST } else { 0.0 };
    let tolerance = value * relative + flushed;
    Expected::Near { value, tolerance, or_infinity: value >= early_overflow }
}

#[test]
fn exp2_is_within_its_error() {
    // The host twin overflows from 2^127.5 on.
    let early = 127.5f64.exp2();
    assert_elementwise("twin_exp2_approximate", &floats(3, 140.0), |word| {
        approximately(f64::from(f32::from_bits(word)).exp2(), EXP2_ERROR, early)
    });
}

#[test]
fn exp_is_within_its_error() {
    let early = 127.49f64.exp2();
    assert_elementwise("twin_exp_approximate", &floats(4, 100.0), |word| {
        approximately(f64::from(f32::from_bits(word)).exp(), 1.5 * EXP2_ERROR, early)
    });
}

#[test]
fn standard_normal_is_within_its_error() {
    let input: Vec<[u32; 1]> = floats(5, 14.0).into_iter().map(|word| [word]).collect();
    assert_records("twin_standard_normal", &input, |&[word]| {
        let x = f64::from(f32::from_bits(word));
        let cdf = 0.5 * erfc(-x / 2f64.sqrt());
        let pdf = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let error = if x.abs() < 20.0 { 7e-7 + 3e-8 * x * x } else { 0.0 };
        [cdf, pdf].map(|value| approximately(value, error, f64::INFINITY))
    });
}

/// The known answers of the authors' distribution, then random keys and counters.
#[test]
fn philox_is_the_same_stream() {
    let known = [
        ([0; 6], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([u32::MAX; 6], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0xa409_3822, 0x299f_31d0, 0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    let random: Vec<[u32; 6]> = words(6, 6 * 1024).as_chunks::<6>().0.to_vec();
    let input: Vec<[u32; 6]> = known.iter().map(|&(input, _)| input).chain(random).collect();
    assert_records("twin_philox", &input, |input| {
        let [key0, key1, c0, c1, c2, c3] = *input;
        let answer = known.iter().find(|(known, _)| known == input).map(|&(_, answer)| answer);
        answer.unwrap_or_else(|| philox([key0, key1], [c0, c1, c2, c3])).map(Expected::Bits)
    });
}

#[test]
fn bounded_is_the_upper_half_of_the_product() {
    let edges = [0, 1, 2, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    let mut input: Vec<[u32; 2]> =
        edges.into_iter().flat_map(|draw| edges.map(|bound| [draw, bound])).collect();
    input.extend(words(7, 4096).as_chunks::<2>().0);
    assert_records("twin_bounded", &input, |&[draw, bound]| {
        let product = u128::from(draw) * u128::from(bound);
        [Expected::Bits((product / (1 << 32)) as u32)]
    });
}

#[test]
fn dropout_decisions_are_the_same() {
    let seed = 0x0123_4567_89ab_cdef;
    for threshold in [0, 1, 26, 128, 255] {
        for (head, step, site) in [(0, 0, 0), (11, 70_000, 3)] {
            let dropout = Dropout { seed, step, site, threshold };
            let [low, high] = key(seed);
            let scale = dropout_scale(threshold);
            let header = [low, high, step, 0, threshold, scale.to_bits(), site, head];
            for count in [8, 16] {
                let (blocks, hard) = (4, floats(8, 3.0));
                let mut input = header.to_vec();
                let mut expected = Vec::new();
                for thread in 0..blocks * THREADS {
                    let (row, group) = (words(9, 256)[thread] % 5000, thread as u32 % 37);
                    let values: Vec<u32> = (0..16).map(|i| hard[(17 * thread + i) % hard.len()]).collect();
                    input.extend([row, group]);
                    input.extend(&values);
                    expected.extend((0..count).map(|i| {
                        let factor = dropout.factor(head, row, group * count + i);
                        Expected::Float(f32::from_bits(values[i as usize]) * factor)
                    }));
                }
                let kernel = if count == 8 { "twin_apply_dropout_8" } else { "twin_apply_dropout_16" };
                assert_twins(kernel, 0, blocks, &input, &expected);
            }
        }
    }
}

/// The words of each thread's warp.
fn warp_of(input: &[u32], thread: usize) -> &[u32] {
    &input[thread / 32 * 32..][..32]
}

#[test]
fn shuffles_take_every_lane() {
    let input = words(10, 4 * THREADS);
    let from = |thread: usize, lane: usize| Expected::Bits(warp_of(&input, thread)[lane % 32]);
    let expected: Vec<Expected> = (0..input.len())
        .flat_map(|thread| {
            let lane = thread % 32;
            let patterns = [
                (0..32).collect::<Vec<_>>(),
                (0..32).map(|s| lane ^ s).collect(),
                (0..32).map(|s| lane + s).collect(),
            ];
            patterns.into_iter().flatten().map(move |source| from(thread, source))
        })
        .collect();
    assert_twins("twin_warp_shuffle", 0, 4, &input, &expected);
}

#[test]
fn ballots_gather_every_pattern() {
    // Bit b of the lanes' words is pattern b: none, all, each lane alone, alternating, and random ones.
    let lone = |lane: usize| 1u32 << lane;
    let alternating = |lane: usize| if lane.is_multiple_of(2) { 0x5555_5555 } else { 0xaaaa_aaaa };
    let mut input: Vec<u32> = vec![0; 32];
    input.extend(vec![u32::MAX; 32]);
    input.extend((0..32).map(lone));
    input.extend((0..32).map(alternating));
    input.extend(words(11, 8 * THREADS));
    let expected: Vec<Expected> = (0..input.len())
        .flat_map(|thread| {
            let warp = warp_of(&input, thread);
            (0..32).map(move |bit| {
                let votes = warp.iter().enumerate().map(|(lane, word)| (word >> bit & 1) << lane);
                Expected::Bits(votes.sum())
            })
        })
        .collect();
    assert_twins("twin_warp_ballot", 0, input.len() / THREADS, &input, &expected);
}

#[test]
fn warp_barriers_publish_shared_memory() {
    let input = words(12, 4 * THREADS);
    let expected: Vec<Expected> = (0..input.len())
        .flat_map(|thread| {
            let warp = warp_of(&input, thread);
            (0..32).map(move |distance| {
                let value = warp[(thread % 32 + distance) % 32];
                Expected::Bits(value.wrapping_add(distance as u32))
            })
        })
        .collect();
    assert_twins("twin_warp_barrier", 4 * THREADS as u32, 4, &input, &expected);
}

type Operation = fn(f32, f32) -> f32;

fn sum(a: f32, b: f32) -> f32 {
    a + b
}

/// The second where neither is greater, which a NaN and zeros of both signs show.
fn maximum(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[test]
fn operations_are_exact_on_every_hard_pair() {
    let mut input: Vec<[u32; 2]> = HARD.into_iter().flat_map(|one| HARD.map(|other| [one, other])).collect();
    input.extend(floats(13, 10.0).as_chunks::<2>().0);
    for (kernel, operation) in [("twin_sum", sum as Operation), ("twin_maximum", maximum)] {
        assert_records(kernel, &input, |pair| {
            let [a, b] = pair.map(f32::from_bits);
            [Expected::Float(operation(a, b))]
        });
    }
}

/// The butterfly over groups of `width` lanes, step by step.
fn butterfly(mut lanes: [f32; 32], width: usize, operation: Operation) -> [f32; 32] {
    let mut distance = width / 2;
    while distance > 0 {
        lanes = std::array::from_fn(|lane| operation(lanes[lane], lanes[lane ^ distance]));
        distance /= 2;
    }
    lanes
}

#[test]
fn butterflies_of_every_width_are_exact() {
    let input: Vec<[u32; 3]> = whole_blocks(floats(14, 1e3).as_chunks::<3>().0);
    for (kernel, operation) in
        [("twin_warp_butterfly_sum", sum as Operation), ("twin_warp_butterfly_maximum", maximum)]
    {
        let mut expected = vec![Expected::Bits(0); 20 * input.len()];
        for (warp, values) in input.as_chunks::<32>().0.iter().enumerate() {
            for (place, width) in [2, 4, 8, 16, 32].into_iter().enumerate() {
                for word in 0..4 {
                    // Word 0 is value 0 reduced alone, the others are the three values reduced together.
                    let value = usize::saturating_sub(word, 1);
                    let lanes = std::array::from_fn(|lane| f32::from_bits(values[lane][value]));
                    for (lane, result) in butterfly(lanes, width, operation).into_iter().enumerate() {
                        expected[20 * (32 * warp + lane) + 4 * place + word] = Expected::Float(result);
                    }
                }
            }
        }
        assert_twins(kernel, 0, input.len() / THREADS, input.as_flattened(), &expected);
    }
}

/// Seven copies of each thread in eight groups, three of them empty, waited for at each of the nine depths.
#[test]
fn asynchronous_copies_arrive_at_every_depth() {
    let stretch = 7 * 4 * THREADS;
    let input = words(15, 2 * 9 * stretch);
    let expected: Vec<Expected> = input.iter().copied().map(Expected::Bits).collect();
    assert_twins("twin_copy_async", 4 * stretch as u32, 2, &input, &expected);
}

#[test]
fn strips_accumulate_exactly() {
    let input: Vec<[u32; 36]> = floats(16, 50.0).as_chunks::<36>().0.to_vec();
    assert_records("twin_strip", &input, |record| {
        let [start, scale0, scale1, factor] = [0, 1, 2, 3].map(|i| f32::from_bits(record[i]));
        std::array::from_fn(|i| {
            let [source0, source1] = [4, 20].map(|first| f32::from_bits(record[first + i]));
            let accumulated = scale1.mul_add(source1, scale0.mul_add(source0, start));
            Expected::Float(accumulated * factor)
        }) as [Expected; 16]
    });
}

/// Where a group lies differs between the devices on purpose; on each, the groups of all threads tile the range.
#[test]
fn group_offsets_tile_the_range() {
    let (groups, size) = (5, 4);
    for device in devices() {
        let mut offsets = dump(&device, "twin_group_offset", 0, 1, &[0], THREADS * groups);
        offsets.sort_unstable();
        let tiles: Vec<u32> = (0..THREADS * groups).map(|tile| (tile * size) as u32).collect();
        assert_eq!(offsets, tiles, "{}", device.description());
    }
}

/// Arrays of 2, 20, 16 and 4 bytes, each at a multiple of 16.
#[test]
fn shared_memory_is_handed_out_alike() {
    let expected = [0, 16, 48, 64].map(Expected::Bits).repeat(THREADS);
    assert_twins("twin_shared_memory", 80, 1, &[0], &expected);
}
