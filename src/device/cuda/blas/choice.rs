//! Choice of a GEMM's algorithm among cuBLASLt's candidates: an earlier winner, the winner of a measurement, or the default without one.
//! Nothing here touches a device.

/// An algorithm in cuBLASLt's own encoding, which is valid for one version of it.
pub(super) type Algorithm = [u64; 8];

/// The candidate that cuBLASLt ranks first keeps its place unless another needs at most this share of its time: measurements vary by about as
/// much, and a choice that flips from run to run would change the rounding.
const WINNING_SHARE: f32 = 0.97;

/// Decision about a GEMM that comes for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Take this candidate for good.
    Take(usize),
    /// Take the first candidate for now, and decide when measuring is possible.
    TakeFirstForNow,
    /// Measure all candidates.
    Measure,
}

/// Decides on `candidates`, of which there is at least one; `remembered` is the winner of an earlier measurement.
///
/// A winner from another size of the same family or from a file may not be among the candidates; only those are known to fit this GEMM, so the
/// first candidate is taken then.
pub(super) fn decide(
    candidates: &[Algorithm],
    remembered: Option<&Algorithm>,
    can_measure: bool,
) -> Decision {
    match remembered {
        _ if candidates.len() == 1 => Decision::Take(0),
        Some(winner) => Decision::Take(candidates.iter().position(|other| other == winner).unwrap_or(0)),
        None if can_measure => Decision::Measure,
        None => Decision::TakeFirstForNow,
    }
}

/// Returns the winner's index and its time. Each candidate has the times of its runs, in milliseconds, and none where it failed.
pub(super) fn fastest(times: &[Vec<f32>]) -> Option<(usize, f32)> {
    let medians: Vec<Option<f32>> = times.iter().map(|runs| median(runs)).collect();
    let known = medians.iter().enumerate().filter_map(|(index, median)| Some((index, (*median)?)));
    let winner = known.min_by(|left, right| left.1.total_cmp(&right.1))?;
    match medians[0] {
        Some(first) if winner.1 > first * WINNING_SHARE => Some((0, first)),
        _ => Some(winner),
    }
}

/// Returns the median time; `None` without runs, or where a time is negative or not finite.
fn median(runs: &[f32]) -> Option<f32> {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f32::total_cmp);
    let sensible = sorted.iter().all(|time| time.is_finite() && *time >= 0.0);
    sorted.get(sorted.len() / 2).copied().filter(|_| sensible)
}

/// Rounds a size up so that at most eight results lie between a power of two and the next: packed batches differ in length from step to step, and
/// sizes so close to each other may share a measurement.
pub(super) fn size_class(size: usize) -> usize {
    let step = (1usize << size.max(1).ilog2()) / 8;
    size.checked_next_multiple_of(step.max(1)).unwrap_or(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_median_wins() {
        let times = [vec![5.0, 5.1, 5.0], vec![1.0, 4.0, 4.0], vec![3.0, 3.1, 90.0]];
        assert_eq!(fastest(&times), Some((2, 3.1)));
    }

    #[test]
    fn the_first_candidate_yields_only_to_a_clear_winner() {
        assert_eq!(fastest(&[vec![1.0], vec![0.98]]), Some((0, 1.0)));
        assert_eq!(fastest(&[vec![1.0], vec![0.96]]), Some((1, 0.96)));
        assert_eq!(fastest(&[vec![1.0], vec![1.0]]), Some((0, 1.0)));
    }

    #[test]
    fn failed_candidates_never_win() {
        assert_eq!(fastest(&[vec![], vec![2.0], vec![3.0]]), Some((1, 2.0)));
        assert_eq!(fastest(&[vec![f32::NAN, 1.0], vec![2.0], vec![-1.0]]), Some((1, 2.0)));
        assert_eq!(fastest(&[vec![], vec![f32::INFINITY]]), None);
        assert_eq!(fastest(&[]), None);
    }

    #[test]
    fn a_remembered_winner_is_taken_where_it_is_a_candidate() {
        let candidates = [[1; 8], [2; 8], [3; 8]];
        assert_eq!(decide(&candidates, Some(&[3; 8]), true), Decision::Take(2));
        assert_eq!(decide(&candidates, Some(&[3; 8]), false), Decision::Take(2));
        assert_eq!(decide(&candidates, Some(&[4; 8]), true), Decision::Take(0));
    }

    #[test]
    fn without_a_memory_candidates_are_measured_where_they_can_be() {
        let candidates = [[1; 8], [2; 8]];
        assert_eq!(decide(&candidates, None, true), Decision::Measure);
        assert_eq!(decide(&candidates, None, false), Decision::TakeFirstForNow);
        assert_eq!(decide(&candidates[..1], None, true), Decision::Take(0));
    }

    #[test]
    fn size_classes_are_few_and_close() {
        for size in [0, 1, 7, 15, 16, 64, 768, 3072, 32_768] {
            assert_eq!(size_class(size), size);
        }
        assert_eq!([17, 65, 30_522, 32_767].map(size_class), [18, 72, 30_720, 32_768]);
        let classes: std::collections::BTreeSet<usize> = (16_384..32_768).map(size_class).collect();
        assert_eq!(classes.len(), 9);
        assert!((1..100_000).all(|size| (size..=size + size / 8).contains(&size_class(size))));
        assert_eq!(size_class(usize::MAX), usize::MAX);
    }
}
