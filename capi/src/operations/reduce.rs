//! Sums of all elements.

use retromae::device::Stream;
use retromae::ops;
use retromae::ops::reduce::{self, Arguments};

use crate::call::{Call, size};
use crate::status::Result;
use crate::sys;

type Desc = sys::rmae_reduce_desc;

pub fn workspace(call: &Call<'_, Desc>) -> Result<usize> {
    Ok(reduce::workspace(size("count", call.desc.count)?).bytes())
}

pub fn sum(call: &Call<'_, Desc>) -> Result<()> {
    enqueue(call, reduce::sum)
}

pub fn squares(call: &Call<'_, Desc>) -> Result<()> {
    enqueue(call, reduce::squares)
}

fn enqueue(call: &Call<'_, Desc>, operation: fn(&Stream, Arguments<'_>) -> ops::Result<()>) -> Result<()> {
    let desc = call.desc;
    let arguments = Arguments {
        input: call.view("input", desc.input, size("count", desc.count)?)?,
        output: call.view_mut("output", desc.output, 1)?,
        accumulate: desc.flags & u64::from(sys::RMAE_SUM_ACCUMULATE) != 0,
        workspace: call.workspace(desc.workspace, desc.workspace_bytes)?,
    };
    call.enqueue(|stream| operation(stream, arguments))
}
