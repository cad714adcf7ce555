//! The losses of two training runs of the same seeds, step by step.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::Deserialize;

use crate::files::read_json_lines;
use crate::result::{ComparedStep, Comparison};

/// Required fields of a record of `training.jsonl`; a loss that is NaN or infinite is `null` there.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Losses {
    step: u64,
    encoder_loss: Option<f64>,
    decoder_loss: Option<f64>,
}

/// Compares two runs of `steps` steps, each a name and its `training.jsonl`. No loss may differ by more than `bound`, relatively.
pub fn compare_files(sides: &[(&str, PathBuf); 2], steps: usize, bound: f64) -> Result<Comparison> {
    let [a, b] = sides.each_ref().map(|(_, path)| {
        let losses = read_losses(path)?;
        let has = losses.len();
        ensure!(has == steps, "`{}` has {has} steps; it should have {steps}", path.display());
        Ok(losses)
    });
    let comparison = compare(&a?, &b?, bound)?;
    Ok(Comparison { a: sides[0].0.into(), b: sides[1].0.into(), ..comparison })
}

impl Comparison {
    /// Describes the first problem of the second run, if there is one.
    pub fn complaint(&self) -> Option<String> {
        match self.largest_difference {
            _ if self.within_bound => None,
            Some(largest) => {
                Some(format!("the losses differ by up to {largest:.2e}, above the bound {:.2e}", self.bound))
            }
            None => Some("a loss is not a number".into()),
        }
    }
}

fn read_losses(path: &Path) -> Result<Vec<Losses>> {
    let mut warnings = Vec::new();
    let losses = read_json_lines(path, &mut warnings)?;
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    ensure!(!losses.is_empty(), "`{}` has no step; it should have at least one", path.display());
    Ok(losses)
}

fn compare(a: &[Losses], b: &[Losses], bound: f64) -> Result<Comparison> {
    let mut steps = Vec::with_capacity(a.len());
    for (a, b) in a.iter().zip(b) {
        ensure!(a.step == b.step, "step {} of one run meets step {} of the other", a.step, b.step);
        let differences = [
            relative_difference(a.encoder_loss, b.encoder_loss),
            relative_difference(a.decoder_loss, b.decoder_loss),
        ];
        steps.push(ComparedStep {
            step: a.step,
            encoder_a: a.encoder_loss,
            encoder_b: b.encoder_loss,
            decoder_a: a.decoder_loss,
            decoder_b: b.decoder_loss,
            difference: largest(differences),
        });
    }
    let largest_difference = largest(steps.iter().map(|step| step.difference));
    let within_bound = largest_difference.is_some_and(|largest| largest <= bound);
    Ok(Comparison { bound, largest_difference, within_bound, steps, ..Comparison::default() })
}

/// Returns none if either is not a number: such a difference is within no bound.
fn relative_difference(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    let (a, b) = (a?, b?);
    let scale = a.abs().max(b.abs());
    let difference = if a == b { 0.0 } else { (a - b).abs() / scale };
    difference.is_finite().then_some(difference)
}

/// Returns the largest difference, or none if any is missing.
fn largest(differences: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    differences.into_iter().try_fold(0.0, |largest: f64, difference| Some(largest.max(difference?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "{\"step\":1,\"encoder_loss\":4.0,\"decoder_loss\":8.0,\"more\":1}\n\
                     {\"step\":2,\"encoder_loss\":2.0,\"decoder_loss\":1.0}\n";

    fn compared(a: &str, b: &str, steps: usize, bound: f64) -> Result<Comparison> {
        let folder = tempfile::tempdir().unwrap();
        let sides = [("host", a), ("cuda", b)].map(|(name, text)| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            (name, path)
        });
        compare_files(&sides, steps, bound)
    }

    #[test]
    fn the_largest_difference_decides() {
        let b = A.replace("8.0", "8.04");
        let comparison = compared(A, &b, 2, 1e-2).unwrap();
        assert_eq!((comparison.a.as_str(), comparison.b.as_str()), ("host", "cuda"));
        assert!(comparison.within_bound && comparison.steps.len() == 2 && comparison.complaint().is_none());
        let largest = comparison.largest_difference.unwrap();
        assert!((largest - 0.04 / 8.04).abs() < 1e-9, "{largest}");
        let complaint = compared(A, &b, 2, 1e-3).unwrap().complaint().unwrap();
        assert!(complaint.contains("4.98e-3, above the bound 1.00e-3"), "{complaint}");
    }

    #[test]
    fn what_is_no_number_is_within_no_bound() {
        let diverged = A.replace("2.0", "null");
        let complaint = compared(&diverged, &diverged, 2, 1e9).unwrap().complaint();
        assert_eq!(complaint.as_deref(), Some("a loss is not a number"));
    }

    #[test]
    fn runs_that_do_not_fit_are_refused() {
        let message = |b: &str, steps| compared(A, b, steps, 1.0).unwrap_err().to_string();
        let first = A.lines().next().unwrap();
        assert!(message(first, 2).contains("has 1 steps; it should have 2"));
        assert!(message(&format!("{first}\n{{\"step\":2,\"enc"), 2).contains("has 1 steps"));
        assert!(
            message(&A.replace("\"step\":2", "\"step\":3"), 2).contains("step 2 of one run meets step 3")
        );
        assert!(message("", 2).contains("has no step"));
    }
}
