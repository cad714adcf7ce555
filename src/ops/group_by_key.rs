//! Rows grouped by key: the segments over which [`segment_sum`](super::segment_sum) accumulates a table's gradient, for ids that only the device
//! knows.

use super::error::{require, require_length};
use super::segment_sum::Segments;
use super::{Result, Workspace};
use crate::device::params::{GROUP_DIGIT_BITS, GROUP_TILE, GroupByKeyParams, GroupedKeys};
use crate::device::{Stream, View, ViewMut, kernels};

/// Maximum number of arrays of one call: 3, which share the launches.
pub const ARRAYS_MAX: usize = 3;
const DIGITS: usize = 1 << GROUP_DIGIT_BITS;

/// Keys, and the outputs that describe their groups.
#[derive(Debug)]
pub struct Keys<'a> {
    /// `[rows]`: in `0..key_count`. Rows of any other key are in no segment, or in one whose key is `key_count`, which is the last.
    pub keys: View<'a, i32>,
    /// In `1..=2^31`
    pub key_count: usize,
    /// `[`[`segments`]`]`: distinct keys, ascending, then 0 for empty segments
    pub segment_keys: ViewMut<'a, i32>,
    /// `[`[`segments`]` + 1]`: start of each segment in `indices`
    pub offsets: ViewMut<'a, i32>,
    /// `[rows]`: the rows of each key, ascending
    pub indices: ViewMut<'a, i32>,
}

impl Keys<'_> {
    /// The groups, once [`group_by_key`] has been enqueued.
    #[must_use]
    pub fn segments(&self) -> Segments<'_> {
        Segments {
            offsets: self.offsets.as_view(),
            indices: Some(self.indices.as_view()),
            keys: Some(self.segment_keys.as_view()),
        }
    }
}

/// Returns the maximum number of segments of `rows` rows with keys in `0..key_count`.
#[must_use]
pub fn segments(rows: usize, key_count: usize) -> usize {
    rows.min(key_count)
}

/// Returns the workspace that [`group_by_key`] needs for `arrays` arrays of `rows` rows.
#[must_use]
pub fn workspace(arrays: usize, rows: usize) -> Workspace {
    Workspace::of::<u32>(&[arrays, words(rows)])
}

/// Returns the 32-bit words of workspace for one array.
fn words(rows: usize) -> usize {
    rows.saturating_mul(3).saturating_add(tiles(rows).saturating_mul(DIGITS))
}

fn tiles(rows: usize) -> usize {
    rows.div_ceil(GROUP_TILE as usize).max(1)
}

/// Arguments of [`group_by_key`].
#[derive(Debug)]
pub struct GroupByKey<'a, 'k> {
    /// 1 to [`ARRAYS_MAX`], of equally many keys
    pub arrays: &'a mut [Keys<'k>],
    /// At least [`workspace`]`(arrays, rows)`
    pub workspace: ViewMut<'a, u8>,
}

/// Enqueues the grouping of all arrays, by a stable radix sort.
///
/// # Errors
/// When there are none or too many arrays, or a length or `key_count` does not fit.
pub fn group_by_key(stream: &Stream, arguments: GroupByKey<'_, '_>) -> Result<()> {
    let GroupByKey { arrays, workspace } = arguments;
    let count = arrays.len();
    require((1..=ARRAYS_MAX).contains(&count), "arrays", count, format_args!("1 to {ARRAYS_MAX}"))?;
    let rows = arrays[0].keys.len();
    require(i32::try_from(rows).is_ok(), "rows", rows, "below 2^31")?;
    let workspace = self::workspace(count, rows).address(stream, &workspace)?;
    let mut digits = 1;
    for (array, names) in arrays.iter().zip(&NAMES) {
        check(array, names, rows)?;
        digits = digits.max(key_bits(array.key_count).div_ceil(GROUP_DIGIT_BITS));
    }
    // SAFETY: lengths were checked; the kernels check the keys.
    let launch = |kernel, params: &GroupByKeyParams| unsafe { stream.launch(kernel, params) };
    let mut params =
        GroupByKeyParams { array_count: count as u32, count: rows as u32, ..GroupByKeyParams::default() };
    for digit in 0..digits {
        params.shift = digit * GROUP_DIGIT_BITS;
        for (place, array) in arrays.iter().enumerate() {
            let first = workspace + 4 * (place * words(rows)) as u64;
            params.arrays[place] = keys_params(stream, array, first, digit, digits)?;
        }
        launch(kernels::GROUP_COUNT, &params)?;
        launch(kernels::GROUP_SCATTER, &params)?;
    }
    for array in &mut params.arrays[..count] {
        array.input_keys = array.output_keys;
    }
    launch(kernels::GROUP_SEGMENTS, &params)?;
    Ok(())
}

/// Names of an array's fields in errors.
#[doc(hidden)]
#[derive(Debug)]
pub struct Names {
    pub keys: &'static str,
    pub key_count: &'static str,
    pub segment_keys: &'static str,
    pub offsets: &'static str,
    pub indices: &'static str,
}

macro_rules! array_names {
    ($($index:literal)*) => {
        [$(Names {
            keys: concat!("arrays[", $index, "].keys"),
            key_count: concat!("arrays[", $index, "].key_count"),
            segment_keys: concat!("arrays[", $index, "].segment_keys"),
            offsets: concat!("arrays[", $index, "].offsets"),
            indices: concat!("arrays[", $index, "].indices"),
        },)*]
    };
}

/// Those of each array.
#[doc(hidden)]
pub const NAMES: [Names; ARRAYS_MAX] = array_names!(0 1 2);

fn check(array: &Keys<'_>, names: &Names, rows: usize) -> Result<()> {
    let Keys { keys, key_count, segment_keys, offsets, indices } = array;
    require((1..=1 << 31).contains(key_count), names.key_count, key_count, "in 1..=2^31")?;
    let segments = segments(rows, *key_count);
    require_length(names.keys, keys.len(), rows, "as the first array's")?;
    require_length(names.segment_keys, segment_keys.len(), segments, "min(rows, key_count)")?;
    require_length(names.offsets, offsets.len(), segments + 1, "min(rows, key_count) + 1")?;
    require_length(names.indices, indices.len(), rows, "rows")
}

/// Returns the bits of the number that stands for keys out of range, above all others.
fn key_bits(key_count: usize) -> u32 {
    usize::BITS - key_count.leading_zeros()
}

/// Returns the params of the pass of `digit`: from one half of the workspace to the other, the last one with `indices` as its output.
fn keys_params(
    stream: &Stream,
    array: &Keys<'_>,
    workspace: u64,
    digit: u32,
    digits: u32,
) -> Result<GroupedKeys> {
    let bytes = 4 * array.keys.len() as u64;
    let keys = |digit: u32| workspace + u64::from(digit % 2) * bytes;
    let last = stream.address("indices", &array.indices)?;
    let indices =
        |digit: u32| if (digits - 1 - digit).is_multiple_of(2) { last } else { workspace + 2 * bytes };
    let (input_keys, input_indices) = match digit {
        0 => (stream.address("keys", &array.keys)?, 0),
        _ => (keys(digit - 1), indices(digit - 1)),
    };
    Ok(GroupedKeys {
        input_keys,
        input_indices,
        output_keys: keys(digit),
        output_indices: indices(digit),
        counts: workspace + 3 * bytes,
        rows: stream.address("segment_keys", &array.segment_keys)?,
        offsets: stream.address("offsets", &array.offsets)?,
        segments: array.segment_keys.len() as u32,
        key_count: array.key_count as u32,
    })
}
