//! Runs that end badly: weights that are not finite, a full disk. The last checkpoint is kept, and resumes to the same bits.
#![cfg(feature = "train")]

use std::path::Path;
use std::process::{Command, Output};

use retromae::device::Device;
use retromae::model::{Capacity, Model};
use retromae::train::{CheckpointDirectory, CheckpointProgress, CheckpointState};

use crate::cli::{Workplace, numbers, run, stderr};

/// Changes the model of the checkpoint in `out`, which the workplace's own run must have written.
fn with_checkpoint(place: &Workplace, change: impl FnOnce(&mut Model<f32>)) {
    let directory = CheckpointDirectory::of_run(&place.path("out"));
    let state = directory.state().unwrap();
    let config = serde_json::from_slice(&std::fs::read(place.path("out/config.json")).unwrap()).unwrap();
    let capacity = Capacity { tokens: 8, sentences: 1, sentence_length: 8 };
    let mut model = Model::<f32>::new(&Device::host().unwrap(), &config, capacity).unwrap();
    directory.load(&state, &mut model).unwrap();
    change(&mut model);
    let CheckpointState { step, position, options, device, retrieval_before, .. } = state;
    directory.save(&model, CheckpointProgress { step, position, options, device, retrieval_before }).unwrap();
}

#[test]
fn a_run_that_diverges_fails_and_keeps_its_checkpoint() {
    let place = Workplace::new();
    let flags = ["--steps", "3", "--held-out", "0"];
    place.trained("out", &[&flags[..], &["--stop-at", "2"]].concat());
    with_checkpoint(&place, |model| {
        let name = "bert.encoder.layer.0.output.dense.weight";
        let values: Vec<f32> = model.parameter(name).unwrap().iter().map(|value| 1e38 * value).collect();
        model.set_parameter(name, &values).unwrap();
    });
    let resume = [&flags[..], &["--resume"]].concat();
    place.refused("out", &resume, "of step 3 is NaN, so training stopped; the checkpoint of step 2 is kept");
    assert_eq!(CheckpointDirectory::of_run(&place.path("out")).state().unwrap().step, 2);
}

/// The losses of the last step belong to the weights before its update.
#[test]
fn what_the_last_update_made_of_the_weights_is_looked_at() {
    let place = Workplace::new();
    let flags = ["--steps", "3", "--held-out", "0"];
    place.trained("out", &[&flags[..], &["--stop-at", "2"]].concat());
    let exported = std::fs::read(place.path("out/model.safetensors")).unwrap();
    let name = "bert.embeddings.position_embeddings.weight";
    with_checkpoint(&place, |model| {
        // The last position is beyond every passage: no loss depends on it.
        let (mut first, second) = model.moments(name).unwrap();
        assert_eq!(first.last(), Some(&0.0));
        *first.last_mut().unwrap() = 1e38;
        model.set_moments(name, &first, &second).unwrap();
    });
    let resume = [&flags[..], &["--resume"]].concat();
    let message =
        format!("the {name} of step 3 is -inf, so training stopped; the checkpoint of step 2 is kept");
    place.refused("out", &resume, &message);
    assert_eq!(CheckpointDirectory::of_run(&place.path("out")).state().unwrap().step, 2);
    assert!(
        std::fs::read(place.path("out/model.safetensors")).unwrap() == exported,
        "the model was exported"
    );
}

/// Runs `command` with files limited to so many blocks of 512 bytes: as on a full disk.
#[cfg(unix)]
fn on_a_full_disk(command: &Command, blocks: u64) -> Output {
    let mut limited = Command::new("sh");
    limited.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""));
    run(limited.arg(command.get_program()).args(command.get_args()))
}

#[cfg(unix)]
fn assert_no_half_file(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        assert!(entry.extension().is_none_or(|extension| extension != "tmp"), "{} is left", entry.display());
    }
}

#[test]
#[cfg(unix)]
fn a_full_disk_ends_a_run_with_what_it_had_saved() {
    let place = Workplace::new();
    let flags = ["--steps", "4", "--held-out", "0"];
    let straight = place.trained("straight", &flags);
    let weights = |out: &str| std::fs::read(place.path(out).join("model.safetensors")).unwrap();
    let blocks = |name: &str| std::fs::metadata(place.path(name)).unwrap().len() / 512;
    let exported = blocks("straight/model.safetensors");
    assert!(blocks("straight/training.svg") < exported, "a plot should be smaller than a model");
    // Too small for the second line of the record; for a checkpoint; for the model that a finished run exports.
    let cases = [
        ("2", 1, "training.jsonl"),
        ("2", exported + 1, "step-00000004.safetensors"),
        ("4", exported, "model.safetensors"),
    ];
    for (stop, blocks, file) in cases {
        let out = format!("full of {file}");
        place.trained(&out, &[&flags[..], &["--stop-at", stop]].concat());
        std::fs::remove_file(place.path(&out).join("model.safetensors")).unwrap();
        let resume = [&flags[..], &["--resume"]].concat();
        let output = on_a_full_disk(&place.pretrain_command(&out, &resume), blocks);
        let text = stderr(&output);
        assert!(
            !output.status.success() && text.contains(file) && text.contains("File too large"),
            "{file}: {text}"
        );
        assert!(!text.contains("panicked"), "{text}");
        assert_no_half_file(&place.path(&out));
        assert_no_half_file(&place.path(&out).join("checkpoint"));
        assert_eq!(CheckpointDirectory::of_run(&place.path(&out)).state().unwrap().step.to_string(), stop);
        assert_eq!(numbers(&place.trained(&out, &resume)), numbers(&straight), "{file}");
        assert!(weights(&out) == weights("straight"), "{file}: the models differ");
    }
}

/// Failing to write the plot costs only the plot.
#[test]
fn a_plot_that_cannot_be_drawn_costs_no_step() {
    let place = Workplace::new();
    let flags = ["--steps", "4", "--held-out", "0"];
    let straight = place.trained("straight", &flags);
    place.trained("out", &[&flags[..], &["--stop-at", "2"]].concat());
    std::fs::remove_file(place.path("out/training.svg")).unwrap();
    std::fs::create_dir(place.path("out/training.svg")).unwrap();
    let resume = [&flags[..], &["--resume"]].concat();
    place.refused("out", &resume, "training.svg`");
    assert_eq!(CheckpointDirectory::of_run(&place.path("out")).state().unwrap().step, 4);
    std::fs::remove_dir(place.path("out/training.svg")).unwrap();
    assert_eq!(numbers(&place.trained("out", &resume)), numbers(&straight));
}
