//! Batches drawn ahead on a thread of their own, so that the device does not wait for the corpus.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use crate::data::{BatchDrawer, Position};
use crate::model::PackedSentences;

/// Batches that are ready while another is being drawn: one would be enough if all took equally long.
const AHEAD: usize = 2;

/// A batch of the run.
pub(super) struct Prefetched {
    pub sentences: PackedSentences,
    /// Where the drawer stood after this batch: what a checkpoint after its step must say.
    pub position: Position,
    /// How long the caller waited for it.
    pub waited: Duration,
}

/// The thread that draws, and the queue from it.
pub(super) struct Prefetch {
    receiver: Option<Receiver<(PackedSentences, Position)>>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Draws the batches of `steps` in order.
    pub fn start(mut drawer: BatchDrawer, steps: std::ops::Range<u64>) -> Self {
        let (sender, receiver) = sync_channel(AHEAD);
        let thread = std::thread::spawn(move || {
            for _ in steps {
                let sentences = drawer.next_batch();
                if sender.send((sentences, drawer.position().clone())).is_err() {
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
        let (sentences, position) = received.ok_or(Error::DataThread { step })?;
        Ok(Prefetched { sentences, position, waited: start.elapsed() })
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
