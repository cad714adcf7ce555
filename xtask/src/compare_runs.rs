//! `xtask compare-runs`: the losses of two training runs of the same seeds, step by step.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde::Deserialize;

use crate::files::{read_json_lines, write_whole};
use crate::result::{ComparedStep, Comparison};

#[derive(Debug, Args)]
pub struct Arguments {
    /// `training.jsonl` of one run
    a: PathBuf,
    /// `training.jsonl` of the other
    b: PathBuf,
    /// The relative difference that no loss may exceed
    #[arg(long, value_name = "RATIO")]
    bound: f64,
    /// What the first run is called
    #[arg(long, value_name = "NAME", default_value = "a")]
    name_a: String,
    /// What the second run is called
    #[arg(long, value_name = "NAME", default_value = "b")]
    name_b: String,
    /// Steps that both runs should have
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// The comparison as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What is needed of a record of `training.jsonl`; a loss that is not a number is `null` there.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Losses {
    step: u64,
    encoder_loss: Option<f64>,
    decoder_loss: Option<f64>,
}

impl Arguments {
    pub fn run(&self) -> Result<()> {
        let bound = self.bound;
        ensure!(
            bound.is_finite() && bound >= 0.0,
            "--bound was {bound}; it should be a number of at least 0"
        );
        let (a, b) = (read_losses(&self.a)?, read_losses(&self.b)?);
        if let Some(steps) = self.steps {
            for (path, losses) in [(&self.a, &a), (&self.b, &b)] {
                let has = losses.len();
                ensure!(has == steps, "`{}` has {has} steps; it should have {steps}", path.display());
            }
        }
        let comparison = compare(&a, &b, bound)?;
        let comparison = Comparison { a: self.name_a.clone(), b: self.name_b.clone(), ..comparison };
        print(&comparison);
        if let Some(path) = &self.out {
            write_whole(path, &serde_json::to_vec_pretty(&comparison)?)?;
        }
        if comparison.within_bound {
            return Ok(());
        }
        match comparison.largest_difference {
            Some(largest) => bail!("the losses differ by up to {largest:.2e}, above the bound {bound:.2e}"),
            None => bail!("a loss is not a number"),
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
    ensure!(
        a.len() == b.len(),
        "one run has {} steps, the other {}; they should have as many",
        a.len(),
        b.len()
    );
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

/// None where either is not a number: such a difference is within no bound.
fn relative_difference(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    let (a, b) = (a?, b?);
    let scale = a.abs().max(b.abs());
    let difference = if a == b { 0.0 } else { (a - b).abs() / scale };
    difference.is_finite().then_some(difference)
}

/// None where any is missing.
fn largest(differences: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    differences.into_iter().try_fold(0.0, |largest: f64, difference| Some(largest.max(difference?)))
}

fn print(comparison: &Comparison) {
    let Comparison { a, b, bound, steps, .. } = comparison;
    let loss = |loss: Option<f64>| loss.map_or("not a number".into(), |loss| format!("{loss:.6}"));
    println!(
        "{:>5}  {:>24}  {:>24}  {:>10}",
        "step",
        format!("encoder {a}/{b}"),
        format!("decoder {a}/{b}"),
        "difference"
    );
    for step in steps {
        let encoder = format!("{} / {}", loss(step.encoder_a), loss(step.encoder_b));
        let decoder = format!("{} / {}", loss(step.decoder_a), loss(step.decoder_b));
        let difference = step.difference.map_or("–".into(), |difference| format!("{difference:.2e}"));
        println!("{:>5}  {encoder:>24}  {decoder:>24}  {difference:>10}", step.step);
    }
    let largest =
        comparison.largest_difference.map_or("not a number".into(), |largest| format!("{largest:.2e}"));
    println!("largest difference {largest}, bound {bound:.2e}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(folder: &Path, a: &str, b: &str, bound: f64) -> Arguments {
        let (path_a, path_b) = (folder.join("a.jsonl"), folder.join("b.jsonl"));
        std::fs::write(&path_a, a).unwrap();
        std::fs::write(&path_b, b).unwrap();
        let name = |name: &str| name.to_owned();
        Arguments {
            a: path_a,
            b: path_b,
            bound,
            name_a: name("host"),
            name_b: name("cuda"),
            steps: None,
            out: Some(folder.join("training.json")),
        }
    }

    const A: &str = "{\"step\":1,\"encoder_loss\":4.0,\"decoder_loss\":8.0,\"more\":1}\n\
                     {\"step\":2,\"encoder_loss\":2.0,\"decoder_loss\":1.0}\n";

    #[test]
    fn the_largest_difference_decides() {
        let folder = tempfile::tempdir().unwrap();
        let b = A.replace("8.0", "8.04");
        arguments(folder.path(), A, &b, 1e-2).run().unwrap();
        let comparison: Comparison = crate::files::read_json(&folder.path().join("training.json")).unwrap();
        assert_eq!((comparison.a.as_str(), comparison.b.as_str()), ("host", "cuda"));
        assert!(comparison.within_bound && comparison.steps.len() == 2);
        let largest = comparison.largest_difference.unwrap();
        assert!((largest - 0.04 / 8.04).abs() < 1e-9, "{largest}");
        let message = arguments(folder.path(), A, &b, 1e-3).run().unwrap_err().to_string();
        assert!(message.contains("4.98e-3, above the bound 1.00e-3"), "{message}");
        let comparison: Comparison = crate::files::read_json(&folder.path().join("training.json")).unwrap();
        assert!(!comparison.within_bound, "the file is written all the same");
    }

    #[test]
    fn what_is_no_number_is_within_no_bound() {
        let folder = tempfile::tempdir().unwrap();
        let diverged = A.replace("2.0", "null");
        let message = arguments(folder.path(), &diverged, &diverged, 1e9).run().unwrap_err().to_string();
        assert_eq!(message, "a loss is not a number");
        assert!(
            arguments(folder.path(), A, A, f64::NAN)
                .run()
                .unwrap_err()
                .to_string()
                .contains("--bound was NaN")
        );
    }

    #[test]
    fn runs_that_do_not_fit_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let first = A.lines().next().unwrap();
        let message = |b: &str, steps| {
            let arguments = Arguments { steps, ..arguments(folder.path(), A, b, 1.0) };
            arguments.run().unwrap_err().to_string()
        };
        assert!(message(first, None).contains("one run has 2 steps, the other 1"));
        assert!(message(&format!("{first}\n{{\"step\":2,\"enc"), None).contains("the other 1"));
        assert!(
            message(&A.replace("\"step\":2", "\"step\":3"), None).contains("step 2 of one run meets step 3")
        );
        assert!(message("", None).contains("has no step"));
        assert!(message(A, Some(20)).contains("has 2 steps; it should have 20"));
    }
}
