//! Copies into shared memory, its layout, and sums in global memory.

use super::{Expected, THREADS, assert_lanes, dump, words};
use crate::common::devices;

/// Each thread makes seven copies in eight groups, three of them empty, and waits at each of the nine depths.
#[test]
fn asynchronous_copies_arrive_at_every_depth() {
    let stretch = 7 * 4 * THREADS;
    let input = words(15, 2 * 9 * stretch);
    let expected: Vec<Expected> = input.iter().copied().map(Expected::Bits).collect();
    assert_lanes("instruction_copy_async", 4 * stretch as u32, 2, &input, &expected);
}

/// The copies of every other thread, or of those that a random bit chooses, have an empty source.
#[test]
fn asynchronous_copies_of_nothing_are_zeros() {
    let mut records = words(19, 8 * 8 * THREADS).as_chunks::<8>().0.to_vec();
    for (thread, record) in records.iter_mut().enumerate() {
        record[4] = if thread < 2 * THREADS { thread as u32 % 2 } else { record[4] % 2 };
    }
    // A thread outputs what its partner in the other warp has copied.
    let blocks = records.chunks(THREADS);
    let expected: Vec<Expected> = blocks
        .flat_map(|block| block.iter().rev())
        .flat_map(|record| [0, 1, 2, 3].map(|word| Expected::Bits(record[4] * record[word])))
        .collect();
    let blocks = records.len() / THREADS;
    assert_lanes(
        "instruction_copy_async_zeros",
        16 * THREADS as u32,
        blocks,
        records.as_flattened(),
        &expected,
    );
}

/// Adds integers, whose sums are exact in any order.
#[test]
fn atomic_additions_lose_nothing() {
    let blocks = 512;
    let mut sums = [0; 3];
    let mut input = Vec::new();
    for word in words(20, blocks * THREADS) {
        let (place, value) = (word % 3, (word >> 8) as i32 % 200 - 50);
        sums[place as usize] += value;
        input.extend([place, (value as f32).to_bits()]);
    }
    assert!(sums.iter().all(|sum| sum.abs() < 1 << 24), "{sums:?} are not exact in f32");
    assert_lanes("instruction_atomic_add", 0, blocks, &input, &sums.map(|sum| Expected::Float(sum as f32)));
}

/// The position of a group differs between the devices on purpose; on each, the groups of all threads tile the range.
#[test]
fn group_offsets_tile_the_range() {
    let (groups, size) = (5, 4);
    for device in devices() {
        let mut offsets = dump(&device, "instruction_group_offset", 0, 1, &[0], THREADS * groups);
        offsets.sort_unstable();
        let tiles: Vec<u32> = (0..THREADS * groups).map(|tile| (tile * size) as u32).collect();
        assert_eq!(offsets, tiles, "{}", device.description());
    }
}

/// Allocates arrays of 2, 20, 16 and 4 bytes, each at a multiple of 16.
#[test]
fn shared_memory_is_handed_out_alike() {
    let expected = [0, 16, 48, 64].map(Expected::Bits).repeat(THREADS);
    assert_lanes("instruction_shared_memory", 80, 1, &[0], &expected);
}
