//! Draws, and the dropout decisions made of them.

use retromae::random::{Dropout, dropout_scale, key, philox};

use super::{Expected, THREADS, assert_records, assert_twins, floats, words};

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
