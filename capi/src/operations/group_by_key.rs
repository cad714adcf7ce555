//! Rows grouped by key.

use retromae::ops::group_by_key::{self, ARRAYS_MAX, GroupByKey, Keys, NAMES, Names};

use super::write;
use crate::call::{Call, count, size};
use crate::status::{Result, invalid};
use crate::{border, sys};

type Desc = sys::rmae_group_by_key_desc;

/// Returns the rows, and the number of arrays.
fn sizes(desc: &Desc) -> Result<[usize; 2]> {
    let arrays = size("array_count", desc.array_count)?;
    if !(1..=ARRAYS_MAX).contains(&arrays) {
        return invalid("array_count", arrays, format_args!("1 to {ARRAYS_MAX}"));
    }
    Ok([count("rows", desc.rows)?, arrays])
}

pub fn workspace(call: &Call<'_, Desc>) -> Result<usize> {
    let [rows, arrays] = sizes(call.desc)?;
    Ok(group_by_key::workspace(arrays, rows).bytes())
}

pub fn group_by_key(call: &Call<'_, Desc>) -> Result<()> {
    let [rows, arrays] = sizes(call.desc)?;
    let keys = |(array, names): (&sys::rmae_keys, &Names)| -> Result<_> {
        let key_count = size(names.key_count, array.key_count)?;
        let segments = group_by_key::segments(rows, key_count);
        Ok(Keys {
            keys: call.view(names.keys, array.keys, rows)?,
            key_count,
            segment_keys: call.view_mut(names.segment_keys, array.segment_keys, segments)?,
            offsets: call.view_mut(names.offsets, array.offsets, segments + 1)?,
            indices: call.view_mut(names.indices, array.indices, rows)?,
        })
    };
    let used = call.desc.arrays.iter().zip(&NAMES).take(arrays);
    let mut arrays = used.map(keys).collect::<Result<Vec<_>>>()?;
    let workspace = call.workspace(call.desc.workspace, call.desc.workspace_bytes)?;
    call.enqueue(|stream| group_by_key::group_by_key(stream, GroupByKey { arrays: &mut arrays, workspace }))
}

/// `rmae_group_by_key_segments` of the header.
///
/// # Safety
/// `segments` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_group_by_key_segments(
    rows: i64,
    key_count: i64,
    segments: *mut i64,
) -> sys::rmae_status {
    border::call(|| {
        let most = group_by_key::segments(count("rows", rows)?, size("key_count", key_count)?);
        // SAFETY: passed on to the caller.
        unsafe { write("segments", segments, most as i64) }
    })
}
as_declared! { rmae_group_by_key_segments }
