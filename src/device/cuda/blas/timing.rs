//! Timing of candidates on the device, by its own clock.

use cudarc::driver::result;
use cudarc::driver::result::DriverError;

use super::plan::{BlasContext, WORKSPACE_BYTES};
use crate::device::cuda::event::Event;

/// Timed runs of each candidate, after an untimed one that loads the kernel.
const RUNS: usize = 5;
/// Fills of the workspace before each round, about 0.1 ms together: meanwhile the round is enqueued, so that the device does not wait for
/// the processor within it.
const FILLS: usize = 8;

/// Returns the times of `count` candidates in milliseconds, one vector each, which is empty where `launch` failed.
///
/// All run once before any runs again, so that a change of the clock rate affects all of them. Waits for the stream.
pub(super) fn measure(
    context: BlasContext,
    count: usize,
    mut launch: impl FnMut(usize) -> bool,
) -> Result<Vec<Vec<f32>>, DriverError> {
    let events = (0..=count).map(|_| Event::timed()).collect::<Result<Vec<_>, _>>()?;
    let mut works = vec![true; count];
    let mut times = vec![Vec::with_capacity(RUNS); count];
    for round in 0..=RUNS {
        for _ in 0..FILLS {
            // SAFETY: the workspace holds nothing between GEMMs, and is used in this stream's order.
            unsafe { result::memset_d8_async(context.workspace, 0, WORKSPACE_BYTES, context.stream)? };
        }
        // SAFETY: the stream is alive.
        unsafe { events[0].record(context.stream)? };
        for candidate in 0..count {
            works[candidate] = works[candidate] && launch(candidate);
            // SAFETY: as above.
            unsafe { events[candidate + 1].record(context.stream)? };
        }
        events[count].synchronize()?;
        for candidate in (0..count).filter(|_| round > 0) {
            times[candidate].push(events[candidate].milliseconds_until(&events[candidate + 1])?);
        }
    }
    for (times, works) in times.iter_mut().zip(works) {
        if !works {
            times.clear();
        }
    }
    Ok(times)
}
