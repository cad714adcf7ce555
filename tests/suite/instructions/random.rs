//! Random samples, and the dropout decisions based on them.

use retromae::random::{DROPOUT_GROUP, Dropout, dropout_scale, key, philox};

use super::{Expected, THREADS, assert_lanes, assert_records, floats, words};

/// Checks the known answers of the authors' distribution, then random keys and counters.
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
    assert_records("instruction_philox", &input, |input| {
        let [key0, key1, c0, c1, c2, c3] = *input;
        let answer = known.iter().find(|(known, _)| known == input).map(|&(_, answer)| answer);
        answer.unwrap_or_else(|| philox([key0, key1], [c0, c1, c2, c3])).map(Expected::Bits)
    });
}

#[test]
fn bounded_is_the_upper_half_of_the_product() {
    let edges = [0, 1, 2, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    let mut input: Vec<[u32; 2]> =
        edges.into_iter().flat_map(|random| edges.map(|bound| [random, bound])).collect();
    input.extend(words(7, 4096).as_chunks::<2>().0);
    assert_records("instruction_bounded", &input, |&[random, bound]| {
        let product = u128::from(random) * u128::from(bound);
        [Expected::Bits((product / (1 << 32)) as u32)]
    });
}

const SEED: u64 = 0x0123_4567_89ab_cdef;

/// Returns the first words of a dropout test's input.
fn header(dropout: &Dropout, head: u32) -> Vec<u32> {
    let [low, high] = key(dropout.seed);
    let Dropout { step, site, threshold, .. } = *dropout;
    vec![low, high, step, 0, threshold, dropout_scale(threshold).to_bits(), site, head]
}

/// Returns thresholds from none to all, at two sites, each with a head.
fn dropouts() -> impl Iterator<Item = (Dropout, u32)> {
    [0, 1, 26, 90, 128, 200, 255].into_iter().flat_map(|threshold| {
        [(0, 0, 0), (11, 70_000, 3)]
            .map(|(head, step, site)| (Dropout { seed: SEED, step, site, threshold }, head))
    })
}

/// Returns row and group of each thread.
fn places(blocks: usize) -> impl Iterator<Item = [u32; 2]> {
    words(9, blocks * THREADS).into_iter().enumerate().map(|(thread, word)| [word % 5000, thread as u32 % 37])
}

#[test]
fn dropout_decisions_are_the_same() {
    for (dropout, head) in dropouts() {
        for count in [8, 16] {
            let (blocks, hard) = (4, floats(8, 3.0));
            let mut input = header(&dropout, head);
            let mut expected = Vec::new();
            for (thread, [row, group]) in places(blocks).enumerate() {
                let values: Vec<u32> = (0..16).map(|i| hard[(17 * thread + i) % hard.len()]).collect();
                input.extend([row, group]);
                input.extend(&values);
                expected.extend((0..count).map(|i| {
                    let factor = dropout.factor(head, row, group * count + i);
                    Expected::Float(f32::from_bits(values[i as usize]) * factor)
                }));
            }
            let kernel =
                if count == 8 { "instruction_apply_dropout_8" } else { "instruction_apply_dropout_16" };
            assert_lanes(kernel, 0, blocks, &input, &expected);
        }
    }
}

#[test]
fn kept_elements_are_those_that_dropout_does_not_zero() {
    let blocks = 16;
    for (dropout, head) in dropouts() {
        let mut input = header(&dropout, head);
        input.extend(places(blocks).flatten());
        let kept = |[row, group]: [u32; 2]| {
            let factor = |column| dropout.factor(head, row, group * DROPOUT_GROUP + column);
            (0..DROPOUT_GROUP).map(|column| u32::from(factor(column) != 0.0) << column).sum()
        };
        let expected: Vec<Expected> = places(blocks).map(|place| Expected::Bits(kept(place))).collect();
        assert_lanes("instruction_dropout_kept", 0, blocks, &input, &expected);
    }
}
