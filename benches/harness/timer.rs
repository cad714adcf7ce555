//! Times of work on a stream.

use std::cell::RefCell;
use std::time::Duration;

use retromae::device::{Buffer, Device, Stream};

use super::{Outcome, Work};

/// More than the L2 of any GPU holds.
const FLUSH_BYTES: usize = 256 << 20;

/// Times one run after the other, each on a cold L2 where there is one.
pub struct Timer {
    /// Written before each run on a GPU.
    flush: Option<RefCell<Buffer<u8>>>,
}

impl Timer {
    pub fn new(device: &Device) -> Outcome<Self> {
        let on_gpu = device.name() != "host";
        let flush = on_gpu.then(|| device.zeros(FLUSH_BYTES)).transpose()?;
        Ok(Self { flush: flush.map(RefCell::new) })
    }

    /// The sum of the times of `iterations` runs.
    pub fn time(&self, work: &mut dyn Work, stream: &Stream, iterations: u64) -> Outcome<Duration> {
        let mut total = Duration::ZERO;
        for _ in 0..iterations {
            if let Some(flush) = &self.flush {
                stream.zero(flush.borrow_mut().view_mut())?;
            }
            let start = stream.record()?;
            work.run(stream)?;
            total += stream.record()?.elapsed_since(&start)?;
        }
        Ok(total)
    }
}
