//! Signals at every stage of a command: its exit status, the files it leaves, and that a run resumes from there to the same bits.
#![cfg(all(target_os = "linux", feature = "train"))]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libc::{SIGCONT, SIGHUP, SIGINT, SIGSTOP, SIGTERM};
use retromae::train::report::read_training_log;

use crate::cli::{Workplace, numbers, program};

/// Long enough for any machine; longer waits fail.
const PATIENCE: Duration = Duration::from_secs(120);

/// Returns a workplace whose texts are `count` sentences.
fn with_texts(count: usize) -> Workplace {
    let place = Workplace::new();
    let words =
        ["river", "castle", "engine", "orchard", "winter", "market", "signal", "garden", "letter", "bridge"];
    let sentence = |n: usize| {
        let text: Vec<&str> =
            (0..6).map(|k| words[(n / 10_usize.pow(k) + k as usize * 3) % words.len()]).collect();
        format!(
            "The {} has the number {n}. It has more than enough other words for a reader to find it by.",
            text.join(" ")
        )
    };
    let lines: Vec<String> = (0..count).map(sentence).collect();
    place.write("corpus.txt", lines.join("\n").as_bytes());
    place
}

/// Returns a workplace with a model whose checkpoints take a while to write: it has many positions, most of them unused.
fn with_large_checkpoints() -> Workplace {
    let place = with_texts(60);
    let config = std::fs::read_to_string(place.path("config.json")).unwrap();
    place.write(
        "config.json",
        config.replace("\"max_position_embeddings\": 64", "\"max_position_embeddings\": 60000").as_bytes(),
    );
    place
}

fn send(child: &Child, signal: i32) {
    let id = i32::try_from(child.id()).unwrap();
    // SAFETY: a plain call; the process is a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(id, signal) }, 0, "the process is gone");
}

fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for `event`, which the process causes.
fn wait_for(child: &mut Child, what: &str, mut event: impl FnMut() -> bool) {
    let started = Instant::now();
    while !event() {
        assert!(child.try_wait().unwrap().is_none(), "the process ended before {what}");
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns true if the process has a handler for the signal.
fn handles(id: u32, signal: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Returns the status and the standard error of a process that must end.
fn ended(mut child: Child) -> (Option<i32>, String) {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (child.wait().unwrap().code(), text)
}

/// Asserts that no temporary file is left.
fn assert_nothing_half_written(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        assert!(path.extension().is_none_or(|extension| extension != "tmp"), "{} is left", path.display());
        if path.is_dir() {
            assert_nothing_half_written(&path);
        }
    }
}

/// Sends `signal` to a run after `event`, and resumes it: it must have printed how to resume, and give the results of an uninterrupted run.
fn interrupted_and_resumed(
    place: &Workplace,
    flags: &[&str],
    signal: i32,
    (what, event): (&str, &dyn Fn(&Path) -> bool),
) -> u64 {
    let out = format!("cut {what}");
    let path = place.path(&out);
    let mut child = spawn(&mut place.pretrain_command(&out, flags));
    wait_for(&mut child, what, || event(&path));
    send(&child, signal);
    let (status, text) = ended(child);
    assert_eq!(status, Some(128 + signal), "{what}: {text}");
    let said = text.lines().last().unwrap_or_default();
    let stopped = said.split("stopped after step ").nth(1).and_then(|rest| rest.split(' ').next());
    let step: u64 = stopped.unwrap_or_else(|| panic!("{what}: {text}")).parse().unwrap();
    let checkpoint = path.join("checkpoint");
    assert!(said.contains(checkpoint.to_str().unwrap()) && said.ends_with("with --resume goes on"), "{said}");
    assert_nothing_half_written(&path);
    if !place.path("straight").exists() {
        place.trained("straight", flags);
    }
    let straight = read_training_log(place.path("straight/training.jsonl")).unwrap();
    let records = place.trained(&out, &[flags, &["--resume"]].concat());
    assert_eq!(numbers(&records), numbers(&straight), "{what}");
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        let read = |out: &str| std::fs::read(place.path(out).join(name)).unwrap();
        assert!(read(&out) == read("straight"), "{what}: {name} differs");
    }
    step
}

#[test]
fn a_signal_before_the_first_step_leaves_a_run_to_resume() {
    let place = with_texts(1500);
    let flags = ["--steps", "2", "--held-out", "150"];
    let begun = |out: &Path| out.join("training.jsonl").exists();
    let step = interrupted_and_resumed(&place, &flags, SIGTERM, ("before the first step", &begun));
    assert_eq!(step, 0);
}

#[test]
fn a_signal_between_steps_leaves_a_checkpoint_of_the_last() {
    let place = with_texts(60);
    let flags = ["--steps", "100", "--held-out", "0", "--checkpoint-every", "1000"];
    let steps = |out: &Path| {
        std::fs::read_to_string(out.join("training.jsonl")).is_ok_and(|log| log.lines().count() >= 2)
    };
    for (signal, what) in [(SIGINT, "between steps"), (SIGHUP, "between steps, hung up")] {
        let step = interrupted_and_resumed(&place, &flags, signal, (what, &steps));
        assert!((2..100).contains(&step), "{step}");
    }
}

#[test]
fn a_signal_during_a_checkpoint_lets_it_be_written() {
    let place = with_large_checkpoints();
    let flags = ["--steps", "4", "--held-out", "0", "--checkpoint-every", "1"];
    let writing = |out: &Path| out.join("checkpoint/.step-00000002.safetensors.tmp").exists();
    let step = interrupted_and_resumed(&place, &flags, SIGTERM, ("during a checkpoint", &writing));
    assert!((2..4).contains(&step), "{step}");
}

#[test]
fn a_signal_during_the_last_evaluation_leaves_the_run_to_end() {
    let place = with_texts(1500);
    let flags = ["--steps", "2", "--held-out", "150"];
    let exported = |out: &Path| out.join("model.safetensors").exists();
    let step = interrupted_and_resumed(&place, &flags, SIGINT, ("during the last evaluation", &exported));
    assert_eq!(step, 2);
}

/// Sends two different signals, since a second one of a kind is lost while the first is pending. The process is stopped until both are pending: it
/// could write its checkpoint between them.
#[test]
fn a_second_signal_ends_at_once() {
    let place = with_large_checkpoints();
    let flags = ["--steps", "100", "--held-out", "0", "--checkpoint-every", "1000"];
    let mut child = spawn(&mut place.pretrain_command("out", &flags));
    let log = place.path("out/training.jsonl");
    wait_for(&mut child, "a step", || std::fs::read(&log).is_ok_and(|log| !log.is_empty()));
    for signal in [SIGSTOP, SIGTERM, SIGINT, SIGCONT] {
        send(&child, signal);
    }
    let (status, text) = ended(child);
    assert!([Some(128 + SIGTERM), Some(128 + SIGINT)].contains(&status), "{status:?}: {text}");
    assert!(!place.path("out/checkpoint/state.json").exists(), "it did not end at once");
}

#[test]
fn a_signal_ends_whatever_has_nothing_to_save() {
    let place = with_texts(20_000);
    place.trained("model", &["--steps", "1", "--held-out", "0", "--corpus", &text_of(&place, 200)]);
    let (model, corpus) = (place.text("model"), place.text("corpus.txt"));
    let (store, vectors) = (place.text("store"), place.text("vectors.jsonl"));
    let commands: [(&[&str], i32); 3] = [
        (
            &["tokenize", "--corpus", &corpus, "--vocab", &model, "--out", &store, "--shard-tokens", "20000"],
            SIGTERM,
        ),
        (&["embed", "--device", "host", "--model", &model, "--input", &corpus, "--output", &vectors], SIGINT),
        (
            &["eval", "--device", "host", "--model", &model, "--corpus", &corpus, "--held-out", "2000"],
            SIGTERM,
        ),
    ];
    for (arguments, signal) in commands {
        let mut child = spawn(Command::new(program()).args(arguments));
        let id = child.id();
        wait_for(&mut child, "its handlers", || handles(id, signal));
        let store = place.path("store");
        if arguments[0] == "tokenize" {
            wait_for(&mut child, "a shard", || store.join("shard-00001.tokens").exists());
        }
        send(&child, signal);
        let (status, text) = ended(child);
        assert_eq!(status, Some(128 + signal), "{arguments:?}: {text}");
    }
    let output = Command::new(program()).args(commands[0].0).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Writes the first texts of the corpus to a file of their own.
fn text_of(place: &Workplace, count: usize) -> String {
    let text = std::fs::read_to_string(place.path("corpus.txt")).unwrap();
    let lines: Vec<&str> = text.lines().take(count).collect();
    place.write("some.txt", lines.join("\n").as_bytes());
    place.text("some.txt")
}

#[test]
fn a_signal_while_text_is_read_leaves_nothing() {
    let place = with_texts(40_000);
    let mut child = spawn(&mut place.pretrain_command("out", &["--vocab-size", "2000"]));
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.starts_with("corpus: "), "{first}");
    send(&child, SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(128 + SIGTERM));
    assert!(!place.path("out").exists());
}

/// As after Ctrl-C at `retromae pretrain | tee log`, which ends `tee` at once.
#[test]
fn a_signal_counts_for_more_than_a_reader_that_is_gone() {
    let place = with_texts(60);
    let flags = ["--steps", "100", "--held-out", "0", "--checkpoint-every", "1000"];
    let mut command = place.pretrain_command("out", &flags);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let log = place.path("out/training.jsonl");
    wait_for(&mut child, "a step", || std::fs::read(&log).is_ok_and(|log| !log.is_empty()));
    send(&child, SIGINT);
    let (status, text) = ended(child);
    assert_eq!(status, Some(128 + SIGINT), "{text}");
    assert!(text.contains("with --resume goes on"), "{text}");
}

/// Commands started by `nohup` go on.
#[test]
fn a_hangup_that_was_ignored_stays_so() {
    let place = with_texts(60);
    let flags = ["--steps", "30", "--held-out", "0"];
    let command = place.pretrain_command("out", &flags);
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg("trap '' HUP; exec \"$0\" \"$@\"")
        .arg(command.get_program())
        .args(command.get_args());
    let mut child = spawn(&mut shell);
    let log = place.path("out/training.jsonl");
    wait_for(&mut child, "a step", || std::fs::read(&log).is_ok_and(|log| !log.is_empty()));
    send(&child, SIGHUP);
    let (status, text) = ended(child);
    assert_eq!(status, Some(0), "{text}");
}
