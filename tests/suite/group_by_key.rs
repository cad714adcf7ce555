//! Groups of rows against a stable sort.

use crate::common::{devices, integers};
use retromae::device::{Buffer, Device};
use retromae::ops::group_by_key::{GroupByKey, Keys, group_by_key, segments, workspace};
use retromae::ops::segment_sum::Segments;

/// One array of keys, and buffers for its groups.
struct Array {
    key_count: usize,
    keys: Buffer<i32>,
    segment_keys: Buffer<i32>,
    offsets: Buffer<i32>,
    indices: Buffer<i32>,
}

impl Array {
    fn new(device: &Device, keys: &[i32], key_count: usize) -> Self {
        let segments = segments(keys.len(), key_count);
        Self {
            key_count,
            keys: device.upload(keys).unwrap(),
            segment_keys: device.upload(&vec![-7; segments]).unwrap(),
            offsets: device.upload(&vec![-7; segments + 1]).unwrap(),
            indices: device.upload(&vec![-7; keys.len()]).unwrap(),
        }
    }

    fn arguments(&mut self) -> Keys<'_> {
        Keys {
            keys: self.keys.view(),
            key_count: self.key_count,
            segment_keys: self.segment_keys.view_mut(),
            offsets: self.offsets.view_mut(),
            indices: self.indices.view_mut(),
        }
    }

    fn check(&self, keys: &[i32]) {
        let mut expected: Vec<i32> = (0..keys.len() as i32).collect();
        expected.sort_by_key(|&row| keys[row as usize]);
        assert_eq!(self.indices.read().unwrap(), expected, "{} keys below {}", keys.len(), self.key_count);
        let (mut segment_keys, mut offsets) = (Vec::new(), Vec::new());
        for (place, &row) in expected.iter().enumerate() {
            if segment_keys.last() != Some(&keys[row as usize]) {
                segment_keys.push(keys[row as usize]);
                offsets.push(place as i32);
            }
        }
        let segments = segments(keys.len(), self.key_count);
        segment_keys.resize(segments, 0);
        offsets.resize(segments + 1, keys.len() as i32);
        assert_eq!(self.segment_keys.read().unwrap(), segment_keys);
        assert_eq!(self.offsets.read().unwrap(), offsets);
    }
}

/// Groups the arrays together.
fn check(device: &Device, arrays: &[(Vec<i32>, usize)]) {
    let rows = arrays[0].0.len();
    let mut made: Vec<Array> =
        arrays.iter().map(|(keys, key_count)| Array::new(device, keys, *key_count)).collect();
    let mut space = workspace(arrays.len(), rows).allocate(device).unwrap();
    let mut arguments: Vec<Keys<'_>> = made.iter_mut().map(Array::arguments).collect();
    group_by_key(&device.stream(), GroupByKey { arrays: &mut arguments, workspace: space.view_mut() })
        .unwrap();
    let read = |segments: Segments<'_>| {
        let Segments { offsets, indices, keys } = segments;
        [Some(offsets), indices, keys].map(|array| array.unwrap().read().unwrap())
    };
    let segments: Vec<_> = arguments.iter().map(|keys| read(keys.segments())).collect();
    for ((array, (keys, _)), segments) in made.iter().zip(arrays).zip(segments) {
        array.check(keys);
        let buffers = [&array.offsets, &array.indices, &array.segment_keys];
        assert_eq!(segments, buffers.map(|buffer| buffer.read().unwrap()));
    }
}

/// Returns keys of which half are `common`, as masked tokens are.
fn skewed(tag: u64, rows: usize, key_count: usize, common: i32) -> Vec<i32> {
    let samples = integers(tag, rows, 2 * key_count as u32);
    samples.into_iter().map(|key| if key < key_count as i32 { key } else { common }).collect()
}

#[test]
fn groups_are_those_of_a_stable_sort() {
    for device in devices() {
        // One, two and three digits; fewer and more rows than keys; whole tiles, and a row less and more.
        for rows in [1, 31, 33, 700, 2047, 2048, 2049, 5000] {
            for key_count in [1, 2, 255, 256, 257, 1000, 65_536, 65_537, 250_002] {
                let keys = skewed(5, rows, key_count, key_count as i32 / 2);
                check(&device, &[(keys, key_count)]);
            }
        }
        // Missing keys have the highest digit of all.
        check(&device, &[(vec![255; 300], 256)]);
        let descending: Vec<i32> = (0..4500).rev().collect();
        check(&device, &[(descending, 4500)]);
        check(&device, &[(vec![i32::MAX, 0, i32::MAX, 1 << 24], 1 << 31)]);
        check(&device, &[(Vec::new(), 9)]);
    }
}

/// Arrays that need different numbers of passes.
#[test]
fn arrays_are_grouped_together() {
    for device in devices() {
        for rows in [40, 3000] {
            let arrays = [(7, 90_000), (8, 60), (9, 512)]
                .map(|(tag, key_count)| (skewed(tag, rows, key_count, 3), key_count));
            check(&device, &arrays);
            check(&device, &arrays[1..]);
        }
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let device = &devices()[0];
    let buffer = device.zeros::<i32>(64).unwrap();
    let refuse = |lengths: [usize; 4], key_count: usize, space: usize, count: usize| {
        let mut outputs = [1, 2, 3].map(|at| device.zeros::<i32>(lengths[at]).unwrap());
        let mut space = device.zeros(space).unwrap();
        let [segment_keys, offsets, indices] = &mut outputs;
        let keys = Keys {
            keys: buffer.slice(0..lengths[0]),
            key_count,
            segment_keys: segment_keys.view_mut(),
            offsets: offsets.view_mut(),
            indices: indices.view_mut(),
        };
        group_by_key(
            &device.stream(),
            GroupByKey { arrays: &mut [keys][..count], workspace: space.view_mut() },
        )
        .unwrap_err()
        .to_string()
    };
    let enough = workspace(1, 64).bytes();
    assert_eq!(refuse([64, 9, 10, 64], 9, enough, 0), "arrays is 0; it should be 1 to 3");
    assert_eq!(refuse([64, 9, 10, 64], 0, enough, 1), "arrays[0].key_count is 0; it should be in 1..=2^31");
    assert_eq!(
        refuse([64, 8, 10, 64], 9, enough, 1),
        "arrays[0].segment_keys is 8 elements long; it should be 9 (min(rows, key_count))"
    );
    assert_eq!(
        refuse([20, 20, 10, 20], 90, enough, 1),
        "arrays[0].offsets is 10 elements long; it should be 21 (min(rows, key_count) + 1)"
    );
    assert_eq!(
        refuse([64, 9, 10, 63], 9, enough, 1),
        "arrays[0].indices is 63 elements long; it should be 64 (rows)"
    );
    assert_eq!(
        refuse([64, 9, 10, 64], 9, enough - 1, 1),
        format!("workspace is {} bytes long; it should be at least {enough} bytes", enough - 1)
    );
}
