//! Per-group totals.

use super::call::Call;
use crate::device::params::{CrossEntropyTotals, CrossEntropyTotalsParams};
use crate::device::{Element, Stream, kernels};
use crate::ops::{Error, Result};

/// Totals of a group of rows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Totals {
    /// Sum of the weighted losses
    pub loss: f32,
    /// Sum of the log-probabilities of the targets, unweighted
    pub log_likelihood: f32,
    /// Rows whose target is a token id
    pub labeled: u32,
    /// Labeled rows where no token id's logit exceeds the target's
    pub correct: u32,
    /// Rows whose target is neither a token id nor ignored
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
    /// Returns the share of labeled rows whose target is the likeliest token id; 0 where there are none.
    #[must_use]
    pub fn accuracy(&self) -> f32 {
        self.correct as f32 / self.labeled.max(1) as f32
    }

    /// Returns `exp` of the mean negative log-probability of the targets; 1 where there are none.
    #[must_use]
    pub fn perplexity(&self) -> f32 {
        (-self.log_likelihood / self.labeled.max(1) as f32).exp()
    }

    /// Refuses targets that are neither token ids nor ignored.
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

/// Enqueues the sums over each group, if they are wanted; no ends are those of one group.
pub(super) fn enqueue(stream: &Stream, call: &Call, group_ends: &[usize]) -> Result<()> {
    if call.totals == 0 {
        return Ok(());
    }
    let all = [call.rows];
    let ends = if group_ends.is_empty() { &all } else { group_ends };
    let mut start = 0;
    for (group, &end) in ends.iter().enumerate() {
        let rows = call.slice_rows(start..end);
        start = end;
        let params = CrossEntropyTotalsParams {
            targets: rows.targets,
            losses: rows.losses,
            log_likelihoods: rows.log_likelihoods,
            correct: rows.correct,
            totals: rows.totals + (group * size_of::<Totals>()) as u64,
            rows: rows.rows as u32,
            vocabulary: rows.vocabulary as u32,
            ignore_index: rows.options.ignore_index,
            reserved: 0,
        };
        // SAFETY: the arguments were checked.
        unsafe { stream.launch(kernels::CROSS_ENTROPY_TOTALS, &params)? };
    }
    Ok(())
}
