//! Recorded steps, and the results of the last ones.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Masking;
use super::shape::Shape;
use crate::device::{Device, Graph, Staging, Stream};
use crate::ops::cross_entropy::Totals;
use crate::ops::{Result, adamw};

/// Number of last steps whose results are kept: while one step runs, the host prepares the next.
pub(super) const OUTCOMES: usize = 2;
/// Maximum shapes with recorded launches; when it is reached, all are dropped, so that the list stays bounded.
pub(super) const SHAPES_MAX: usize = 64;

/// Handle of an enqueued step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepHandle {
    /// Equal to [`Training::model`].
    pub(super) model: u64,
    /// Step number, from 0.
    pub(super) step: u64,
}

/// Everything that a step's launches depend on, besides the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Launches {
    pub shape: Shape,
    pub masking: Option<Masking>,
    pub optimizer: adamw::Hyperparameters,
}

/// A step's result, staged for its copy to the host.
#[derive(Debug)]
pub(super) struct StagedOutcome {
    /// Totals of encoder and decoder
    pub totals: Staging<Totals>,
    /// Bag-of-words loss, squared norm of the gradients
    pub floats: Staging<f32>,
}

impl StagedOutcome {
    fn new(device: &Device) -> Result<Self> {
        Ok(Self { totals: device.staging(2)?, floats: device.staging(2)? })
    }
}

/// Recorded steps, and the results of the last ones.
#[derive(Debug)]
pub(super) struct Training {
    /// Id of the model, unique in this process.
    pub model: u64,
    pub record: bool,
    /// Stream on which steps are recorded, whichever stream they run on.
    pub recorder: Stream,
    /// Launches that were enqueued before; with their graph from the second time on.
    pub known: Vec<(Launches, Option<Graph>)>,
    pub outcomes: [StagedOutcome; OUTCOMES],
    /// Steps enqueued so far.
    pub steps: u64,
}

impl Training {
    pub(super) fn new(device: &Device) -> Result<Self> {
        static MODELS: AtomicU64 = AtomicU64::new(0);
        Ok(Self {
            model: MODELS.fetch_add(1, Ordering::Relaxed),
            record: device.name() == "cuda",
            recorder: device.new_stream()?,
            known: Vec::new(),
            outcomes: [StagedOutcome::new(device)?, StagedOutcome::new(device)?],
            steps: 0,
        })
    }
}
