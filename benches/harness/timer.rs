//! Times of work on a stream.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use retromae::device::{Buffer, Device, Stream};
use retromae::ops::reduce;

use crate::cases::{Outcome, Work};

/// More elements than the L2 of any GPU holds.
const FLUSH_ELEMENTS: usize = 64 << 20;
/// Limit for work that waits for the GPU: it cannot be enqueued ahead, however much precedes it.
const FLUSHES_MAX: usize = 64;

/// Times runs one after the other; on a GPU only device time, each run on a cold L2.
pub struct Timer {
    /// None on the CPU emulator, which runs work as it is enqueued.
    flush: Option<RefCell<Flush>>,
    /// Cache flushes before each run: they keep the device busy until the run is enqueued, so that the host's preparation is not measured.
    flushes: Cell<usize>,
}

/// Empties the L2 cache by reading: written data would be written back within the measured time.
struct Flush {
    input: Buffer<f32>,
    sum: Buffer<f32>,
    workspace: Buffer<u8>,
    /// Duration of one flush.
    duration: Duration,
}

impl Flush {
    fn new(device: &Device) -> Outcome<Self> {
        let mut flush = Self {
            input: device.zeros(FLUSH_ELEMENTS)?,
            sum: device.zeros(1)?,
            workspace: reduce::workspace(FLUSH_ELEMENTS).allocate(device)?,
            duration: Duration::ZERO,
        };
        let stream = device.stream();
        // The first flush loads its kernels.
        flush.run(&stream)?;
        let start = stream.record()?;
        flush.run(&stream)?;
        flush.duration = stream.record()?.elapsed_since(&start)?;
        Ok(flush)
    }

    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        let arguments = reduce::Arguments {
            input: self.input.view(),
            output: self.sum.view_mut(),
            accumulate: false,
            workspace: self.workspace.view_mut(),
        };
        Ok(reduce::sum(stream, arguments)?)
    }
}

impl Timer {
    pub fn new(device: &Device) -> Outcome<Self> {
        let on_gpu = device.name() != "host";
        let flush = on_gpu.then(|| Flush::new(device)).transpose()?;
        Ok(Self { flush: flush.map(RefCell::new), flushes: Cell::new(1) })
    }

    /// Runs new work until it has recorded the graph that it replays later, and measures the time to enqueue it.
    pub fn warm_up(&self, work: &mut dyn Work, stream: &Stream) -> Outcome<()> {
        let Some(flush) = &self.flush else { return Ok(()) };
        for _ in 0..2 {
            work.run(stream)?;
        }
        stream.synchronize()?;
        let begun = Instant::now();
        work.run(stream)?;
        let enqueued = begun.elapsed();
        stream.synchronize()?;
        let one = flush.borrow().duration.max(Duration::from_micros(1));
        let flushes = 1 + (1.5 * enqueued.as_secs_f64() / one.as_secs_f64()).ceil() as usize;
        self.flushes.set(flushes.min(FLUSHES_MAX));
        Ok(())
    }

    /// Returns the total time of `iterations` runs.
    pub fn time(&self, work: &mut dyn Work, stream: &Stream, iterations: u64) -> Outcome<Duration> {
        let mut total = Duration::ZERO;
        for _ in 0..iterations {
            if let Some(flush) = &self.flush {
                for _ in 0..self.flushes.get() {
                    flush.borrow_mut().run(stream)?;
                }
            }
            let start = stream.record()?;
            work.run(stream)?;
            total += stream.record()?.elapsed_since(&start)?;
        }
        Ok(total)
    }
}
