//! Batches drawn ahead on a thread of their own, so that the device does not wait for masks.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use crate::data::{BatchDrawer, DrawnBatch, Position};

/// Batches that wait while another is being drawn: one would be enough if all batches took equally long.
const AHEAD: usize = 2;

/// A batch of the run.
pub(super) struct Prefetched {
    pub drawn: DrawnBatch,
    /// Where the drawer stood after this batch: what a checkpoint after its step must say.
    pub position: Position,
    /// How long the caller waited for it.
    pub waited: Duration,
}

/// The thread that draws, and the queue from it.
pub(super) struct Prefetch {
    receiver: Option<Receiver<(DrawnBatch, Position)>>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Draws the batches of `steps` in order.
    pub fn start(mut drawer: BatchDrawer, steps: std::ops::Range<u64>) -> Self {
        let (sender, receiver) = sync_channel(AHEAD);
        let thread = std::thread::spawn(move || {
            for step in steps {
                let drawn = drawer.draw(step as u32);
                if sender.send((drawn, drawer.position().clone())).is_err() {
                    return;
                }
            }
        });
        Self { receiver: Some(receiver), thread: Some(thread) }
    }

    /// The batch of `step`, which must be the next.
    pub fn next(&mut self, step: u64) -> Result<Prefetched> {
        let start = Instant::now();
        let received = self.receiver.as_ref().and_then(|receiver| receiver.recv().ok());
        let (drawn, position) = received.ok_or(Error::DataThread { step })?;
        Ok(Prefetched { drawn, position, waited: start.elapsed() })
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        // The closed queue is what ends the thread.
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
