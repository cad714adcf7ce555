//! Collectives of a warp and of a block.

use super::{Expected, HARD, THREADS, assert_lanes, assert_records, floats, whole_blocks, words};

/// Returns the words of a thread's warp.
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
    assert_lanes("instruction_warp_shuffle", 0, 4, &input, &expected);
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
    assert_lanes("instruction_warp_ballot", 0, input.len() / THREADS, &input, &expected);
}

#[test]
fn matches_find_equal_lanes() {
    // All equal, all different in every possible bit range, and random ones.
    let mut input: Vec<u32> = vec![7; 32];
    input.extend(0..32u32);
    input.extend(words(14, 8 * THREADS - 64));
    let expected: Vec<Expected> = (0..input.len())
        .flat_map(|thread| {
            let (warp, own) = (warp_of(&input, thread), input[thread]);
            (1..=32).map(move |bits| {
                let equal = |word: u32| (word ^ own) << (32 - bits) == 0;
                let lanes = warp.iter().enumerate().map(|(lane, &word)| u32::from(equal(word)) << lane);
                Expected::Bits(lanes.sum())
            })
        })
        .collect();
    assert_lanes("instruction_warp_match", 0, input.len() / THREADS, &input, &expected);
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
    assert_lanes("instruction_warp_barrier", 4 * THREADS as u32, 4, &input, &expected);
}

/// No thread votes, all do, each alone does (the other warp must see it, too), or a few random ones do.
#[test]
fn a_block_hears_any_of_its_threads() {
    let lone = |warp: usize| (0..THREADS).map(move |thread| u32::from(thread / 32 == warp) << (thread % 32));
    let mut input = vec![0; THREADS];
    input.extend(vec![u32::MAX; THREADS]);
    input.extend((0..THREADS / 32).flat_map(lone));
    // A bit is set with a probability of 1/64.
    let rare = words(21, 6 * 8 * THREADS);
    input.extend(
        rare.as_chunks::<6>().0.iter().map(|words| words.iter().fold(u32::MAX, |bits, word| bits & word)),
    );
    let expected: Vec<Expected> = (0..input.len())
        .flat_map(|thread| {
            let block = &input[thread / THREADS * THREADS..][..THREADS];
            let any = block.iter().fold(0, |bits, word| bits | word);
            (0..32).map(move |bit| Expected::Bits(any >> bit & 1))
        })
        .collect();
    assert_lanes("instruction_block_any", 0, input.len() / THREADS, &input, &expected);
}

#[test]
fn quads_share_their_values() {
    let input = words(22, 4 * THREADS);
    let quad = |thread: usize| input[thread / 4 * 4..][..4].iter().copied().map(Expected::Bits);
    let expected: Vec<Expected> = (0..input.len()).flat_map(quad).collect();
    assert_lanes("instruction_quad_gather", 0, 4, &input, &expected);
}

#[test]
fn bits_are_transposed_and_back() {
    // Each bit alone in a row and column of its own, then random ones.
    let mut input: Vec<u32> = (0..32).map(|lane| 1 << (lane * 5 % 32)).collect();
    input.extend(words(23, 4 * THREADS - 32));
    let expected: Vec<Expected> = (0..input.len())
        .flat_map(|thread| {
            let column = warp_of(&input, thread).iter().map(|row| row >> (thread % 32) & 1);
            let transposed = column.enumerate().map(|(row, bit)| bit << row).sum();
            [Expected::Bits(transposed), Expected::Bits(input[thread])]
        })
        .collect();
    assert_lanes("instruction_warp_transpose_bits", 0, 4, &input, &expected);
}

type Operation = fn(f32, f32) -> f32;

fn sum(a: f32, b: f32) -> f32 {
    a + b
}

/// Returns the second operand if neither is greater, as with a NaN or zeros of both signs.
fn maximum(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[test]
fn operations_are_exact_on_every_hard_pair() {
    let mut input: Vec<[u32; 2]> = HARD.into_iter().flat_map(|one| HARD.map(|other| [one, other])).collect();
    input.extend(floats(13, 10.0).as_chunks::<2>().0);
    for (kernel, operation) in [("instruction_sum", sum as Operation), ("instruction_maximum", maximum)] {
        assert_records(kernel, &input, |pair| {
            let [a, b] = pair.map(f32::from_bits);
            [Expected::Float(operation(a, b))]
        });
    }
}

/// Runs the butterfly over groups of `width` lanes, step by step.
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
    for (kernel, operation) in [
        ("instruction_warp_butterfly_sum", sum as Operation),
        ("instruction_warp_butterfly_maximum", maximum),
    ] {
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
        assert_lanes(kernel, 0, input.len() / THREADS, input.as_flattened(), &expected);
    }
}
