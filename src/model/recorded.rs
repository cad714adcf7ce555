//! Recorded steps, and the results of the last ones.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Masking;
use super::shape::BatchShape;
use crate::device::{Device, Graph, Staging, Stream};
use crate::ops::cross_entropy::Totals;
use crate::ops::{Result, adamw};

/// Number of last steps whose results are kept: while one step runs, the host prepares the next.
pub(super) const RESULTS: usize = 2;
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
pub(super) struct StepKey {
    pub shape: BatchShape,
    pub masking: Option<Masking>,
    /// Factor of the losses in the gradients
    pub weight: f32,
    pub dropout: bool,
    /// Optimizer of an update after the batch's gradients; `None` without an update
    pub update: Option<adamw::Hyperparameters>,
}

/// A step's result, staged for its copy to the host.
#[derive(Debug)]
pub(super) struct StagedResult {
    /// Totals of encoder and decoder
    pub totals: Staging<Totals>,
    /// Bag-of-words loss, squared norm of the gradients
    pub floats: Staging<f32>,
    /// Factor of the losses
    pub weight: f32,
    /// The step had an update, and so has a norm of the gradients.
    pub is_update: bool,
}

impl StagedResult {
    fn new(device: &Device) -> Result<Self> {
        Ok(Self { totals: device.staging(2)?, floats: device.staging(2)?, weight: 1.0, is_update: false })
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
    /// Keys of the steps that were enqueued before; with their graph from the second time on.
    pub known: Vec<(StepKey, Option<Graph>)>,
    pub results: [StagedResult; RESULTS],
    /// Steps enqueued so far.
    pub steps: u64,
    /// The next batch's gradients are added to those there are.
    pub accumulating: bool,
}

impl Training {
    pub(super) fn new(device: &Device) -> Result<Self> {
        static MODELS: AtomicU64 = AtomicU64::new(0);
        Ok(Self {
            model: MODELS.fetch_add(1, Ordering::Relaxed),
            record: device.name() == "cuda",
            recorder: device.new_stream()?,
            known: Vec::new(),
            results: [StagedResult::new(device)?, StagedResult::new(device)?],
            steps: 0,
            accumulating: false,
        })
    }
}
