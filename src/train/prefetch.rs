//! Batches are sampled ahead on a separate thread, so that the device does not wait for the corpus.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use crate::data::{BatchSampler, Position};
use crate::model::PackedSentences;

/// Maximum batches that wait in the queue: one would be enough if every batch took equally long to sample.
const AHEAD: usize = 2;

/// A batch of the run.
pub(super) struct Prefetched {
    pub sentences: PackedSentences,
    /// Position of the sampler after this batch, which a checkpoint after its step must store.
    pub position: Position,
    /// Time that the caller waited for it.
    pub waited: Duration,
}

/// The sampling thread and its queue.
pub(super) struct Prefetch {
    receiver: Option<Receiver<(PackedSentences, Position)>>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Starts a thread that samples the batches of `steps` in order.
    pub fn start(mut sampler: BatchSampler, steps: std::ops::Range<u64>) -> Self {
        let (sender, receiver) = sync_channel(AHEAD);
        let thread = std::thread::spawn(move || {
            for _ in steps {
                let sentences = sampler.next_batch();
                if sender.send((sentences, sampler.position().clone())).is_err() {
                    return;
                }
            }
        });
        Self { receiver: Some(receiver), thread: Some(thread) }
    }

    /// Waits for the batch of `step`, which must be the next.
    pub fn next(&mut self, step: u64) -> Result<Prefetched> {
        let start = Instant::now();
        let received = self.receiver.as_ref().and_then(|receiver| receiver.recv().ok());
        let (sentences, position) = received.ok_or(Error::DataThread { step })?;
        Ok(Prefetched { sentences, position, waited: start.elapsed() })
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        // Closing the queue ends the thread.
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
