//! Per-group totals.

use super::ForwardBackward;
use crate::device::params::{CrossEntropyTotals, CrossEntropyTotalsParams};
use crate::device::{Element, Float, Stream, kernels};
use crate::ops::{Error, Result};

/// Totals of a group of rows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Totals {
    /// Sum of the weighted losses
    pub loss: f32,
    /// Sum of the log-probabilities of the targets, unweighted
    pub log_likelihood: f32,
    /// Rows whose target is a word
    pub labeled: u32,
    /// Labeled rows where no word's logit exceeds the target's
    pub correct: u32,
    /// Rows whose target is neither a word nor ignored
    pub invalid: u32,
    /// First invalid row, counted from the start of the group
    pub first_invalid: u32,
}

/// Layout of the kernel's struct.
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Totals>() == size_of::<CrossEntropyTotals>());
    assert!(offset_of!(Totals, log_likelihood) == offset_of!(CrossEntropyTotals, log_likelihood));
    assert!(offset_of!(Totals, labeled) == offset_of!(CrossEntropyTotals, labeled));
    assert!(offset_of!(Totals, correct) == offset_of!(CrossEntropyTotals, correct));
    assert!(offset_of!(Totals, invalid) == offset_of!(CrossEntropyTotals, invalid));
    assert!(offset_of!(Totals, first_invalid) == offset_of!(CrossEntropyTotals, first_invalid));
};

impl Element for Totals {}

impl Totals {
    /// Returns the share of labeled rows whose target is the likeliest word; 0 where there are none.
    #[must_use]
    pub fn accuracy(&self) -> f32 {
        self.correct as f32 / self.labeled.max(1) as f32
    }

    /// Returns `exp` of the mean negative log-probability of the targets; 1 where there are none.
    #[must_use]
    pub fn perplexity(&self) -> f32 {
        (-self.log_likelihood / self.labeled.max(1) as f32).exp()
    }

    /// Refuses targets that are neither words nor ignored.
    ///
    /// # Errors
    /// When there are any: the message gives their number and the row of the first.
    pub fn check(&self) -> Result<()> {
        match self.invalid {
            0 => Ok(()),
            count => Err(Error::Argument {
                argument: "targets",
                actual: format!(
                    "outside the vocabulary in {count} rows, row {} the first of its group",
                    self.first_invalid
                ),
                expected: "in [0, vocabulary) or ignore_index".into(),
            }),
        }
    }
}

/// Enqueues the sums over each group of checked arguments.
pub(super) fn enqueue<T: Float>(
    stream: &Stream,
    arguments: &ForwardBackward<'_, T>,
    vocabulary: usize,
) -> Result<()> {
    let mut start = 0;
    for (group, &end) in arguments.group_ends.iter().enumerate() {
        let rows = start..end;
        start = end;
        let params = CrossEntropyTotalsParams {
            targets: stream.address("targets", &arguments.targets.slice(rows.clone()))?,
            losses: stream.address("losses", &arguments.losses.as_view().slice(rows.clone()))?,
            log_likelihoods: stream
                .address("log_likelihoods", &arguments.log_likelihoods.as_view().slice(rows.clone()))?,
            correct: stream.address("correct", &arguments.correct.as_view().slice(rows.clone()))?,
            totals: stream.address("totals", &arguments.totals.as_view().slice(group..group + 1))?,
            rows: rows.len() as u32,
            vocabulary: vocabulary as u32,
            ignore_index: arguments.options.ignore_index,
            reserved: 0,
        };
        // SAFETY: the lengths were checked.
        unsafe { stream.launch(kernels::CROSS_ENTROPY_TOTALS, &params)? };
    }
    Ok(())
}
