//! Copies into shared memory, and the layout of it.

use super::{Expected, THREADS, assert_twins, dump, words};
use crate::common::devices;

/// Seven copies of each thread in eight groups, three of them empty, waited for at each of the nine depths.
#[test]
fn asynchronous_copies_arrive_at_every_depth() {
    let stretch = 7 * 4 * THREADS;
    let input = words(15, 2 * 9 * stretch);
    let expected: Vec<Expected> = input.iter().copied().map(Expected::Bits).collect();
    assert_twins("twin_copy_async", 4 * stretch as u32, 2, &input, &expected);
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
