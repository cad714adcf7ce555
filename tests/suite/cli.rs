//! The command as a user types it: its output, its refusals, and resumed runs that equal uninterrupted ones.
#![cfg(feature = "train")]

use std::ffi::OsString;
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use approx::assert_abs_diff_eq;
use retromae::train::report::{StepRecord, read_training_log};
use tempfile::TempDir;

/// Returns the command; `RETROMAE_BIN` gives its path if the tests run on another machine than they were built on.
pub(crate) fn program() -> OsString {
    std::env::var_os("RETROMAE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_retromae").into())
}

pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output();
    output.unwrap_or_else(|error| panic!("cannot run {}: {error}", command.get_program().display()))
}

fn retromae(arguments: &[&str]) -> Output {
    run(Command::new(program()).args(arguments))
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A directory with a corpus and the smallest model that there are kernels for.
pub(crate) struct Workplace {
    directory: TempDir,
}

impl Workplace {
    pub(crate) fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        let sentence = |n: usize| {
            let words =
                ["river", "castle", "engine", "orchard", "winter", "market", "signal", "garden", "letter"];
            let word = |k: usize| words[(n * 7 + k * k * 3 + n * k) % words.len()];
            let text: Vec<&str> = (0..8).map(word).collect();
            format!(
                "The {} number {n}. It has a {} and more than enough other words for a reader to find it by.",
                text.join(" "),
                word(9)
            )
        };
        let lines: Vec<String> = (0..60).map(sentence).collect();
        place.write("corpus.txt", lines.join("\n").as_bytes());
        place.write("config.json", config(1).as_bytes());
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Runs `retromae pretrain` on the corpus into `out`, with `more` flags.
    pub(crate) fn pretrain(&self, out: &str, more: &[&str]) -> Output {
        run(&mut self.pretrain_command(out, more))
    }

    /// Runs `retromae embed` on the texts in `input` with the model in `model` and `more` flags.
    pub(crate) fn embed(&self, model: &str, input: &str, more: &[&str]) -> Output {
        let (model, input) = (self.text(model), self.text(input));
        let flags = ["embed", "--device", "host", "--model", &model, "--input", &input];
        retromae(&[&flags[..], more].concat())
    }

    /// Runs `retromae eval` on the texts in `corpus` with the model in `model` and `more` flags.
    pub(crate) fn eval(&self, model: &str, corpus: &str, more: &[&str]) -> Output {
        let (model, corpus) = (self.text(model), self.text(corpus));
        let flags = ["eval", "--device", "host", "--model", &model, "--corpus", &corpus];
        retromae(&[&flags[..], more].concat())
    }

    pub(crate) fn pretrain_command(&self, out: &str, more: &[&str]) -> Command {
        let (corpus, config, out) = (self.text("corpus.txt"), self.text("config.json"), self.text(out));
        let mut arguments = vec!["pretrain", "--out", &out];
        let defaults = [
            ("--corpus", corpus.as_str()),
            ("--model", &config),
            ("--vocab-size", "120"),
            ("--max-len", "32"),
            ("--batch-tokens", "128"),
            ("--held-out", "4"),
            ("--device", "host"),
        ];
        // A store has a fixed vocabulary and fixed lengths.
        let store = retromae::data::Manifest::is_in(Path::new(value_of(more, "--corpus")));
        for (flag, value) in defaults {
            let replaced = more.contains(&flag)
                || (["--model", "--vocab-size"].contains(&flag) && more.contains(&"--init"))
                || (flag == "--vocab-size" && (store || more.contains(&"--vocab")))
                || (flag == "--max-len" && store);
            if !replaced {
                arguments.extend([flag, value]);
            }
        }
        arguments.extend(more);
        let mut command = Command::new(program());
        command.args(arguments);
        command
    }

    #[track_caller]
    pub(crate) fn trained(&self, out: &str, more: &[&str]) -> Vec<StepRecord> {
        let output = self.pretrain(out, more);
        assert!(output.status.success(), "{}", stderr(&output));
        read_training_log(self.path(out).join("training.jsonl")).unwrap()
    }

    #[track_caller]
    pub(crate) fn refused(&self, out: &str, more: &[&str], message: &str) {
        let output = self.pretrain(out, more);
        let text = stderr(&output);
        assert!(!output.status.success(), "{more:?} was accepted");
        assert!(!text.contains("panicked"), "{more:?}: {text}");
        assert!(text.contains(message), "{more:?}: {text:?} should say {message:?}");
    }
}

/// Returns the value of a flag among `arguments`, or an empty string.
fn value_of<'a>(arguments: &[&'a str], flag: &str) -> &'a str {
    arguments.windows(2).find(|pair| pair[0] == flag).map_or("", |pair| pair[1])
}

fn config(heads: usize) -> String {
    format!(
        "{{\"hidden_size\": 32, \"num_hidden_layers\": 1, \"num_attention_heads\": {heads}, \
         \"intermediate_size\": 64, \"max_position_embeddings\": 64}}"
    )
}

/// Returns the numbers that must not change if a run is cut in two.
pub(crate) fn numbers(records: &[StepRecord]) -> Vec<(u64, [u32; 4], usize)> {
    let bits = |record: &StepRecord| {
        [record.encoder_loss, record.decoder_loss, record.gradient_norm, record.learning_rate]
            .map(f32::to_bits)
    };
    records.iter().map(|record| (record.step, bits(record), record.tokens)).collect()
}

/// Returns the path of the tensors' file of the checkpoint in `out`.
fn checkpoint_tensors(out: &Path) -> PathBuf {
    let entries = std::fs::read_dir(out.join("checkpoint")).unwrap().map(|entry| entry.unwrap().path());
    entries.into_iter().find(|path| path.extension().is_some_and(|e| e == "safetensors")).unwrap()
}

#[test]
fn info_lists_devices_and_kernels() {
    let output = retromae(&["info", "--kernels", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(facts["devices"][0]["name"], "host");
    assert!(facts["nvcc"]["version"].is_string() || facts["nvcc"]["reason"].is_string());
    let kernels = facts["kernels"].as_array().unwrap();
    let attention = kernels.iter().find(|kernel| {
        kernel["arch"] == "host" && kernel["name"].as_str().is_some_and(|name| name.starts_with("attention_"))
    });
    assert!(attention.unwrap()["params_bytes"].as_u64().unwrap() > 0);
    for kernel in kernels.iter().filter(|kernel| kernel["arch"] != "host") {
        assert!(kernel["registers"].as_u64().unwrap() > 0, "{kernel}");
    }
    assert!(facts["devices"][0]["matmul"].is_null(), "nothing is checked unless asked for");
    let table = String::from_utf8(retromae(&["info", "--kernels"]).stdout).unwrap();
    assert!(table.contains("host compiler") && table.contains("attention/attention_forward.cu"), "{table}");
}

#[test]
fn info_checks_a_product() {
    let output = retromae(&["info", "--check", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let matmul = &facts["devices"][0]["matmul"];
    assert_eq!(matmul["library"], "the crate gemm");
    let error = matmul["relative_error"].as_f64().unwrap();
    assert!(error > 0.0 && error < 1.0 / 256.0, "{error}");
    let text = String::from_utf8(retromae(&["info", "--check"]).stdout).unwrap();
    assert!(text.contains("\n  matmul       the crate gemm, relative error "), "{text}");
}

#[test]
fn flags_out_of_range_are_refused_by_name() {
    let place = Workplace::new();
    let cases = [
        (["--encoder-mask", "1.5"], "--encoder-mask was 1.5; it should be above 0 and below 1"),
        (["--mask-cap", "0"], "--mask-cap was 0; it should be at least 1"),
        (["--pool-rows", "0"], "--pool-rows was 0; it should be 1 to 65536 for passages of up to 32 tokens"),
        (["--pool-rows", "many"], "a number or `independent` is expected"),
        (["--decoder-mask", "0"], "--decoder-mask was 0; it should be above 0 and below 1"),
        (["--lr", "-1"], "--lr was -1; it should be above 0 and at most 1"),
        (["--lr", "nan"], "--lr was NaN"),
        (["--lr", "inf"], "--lr was inf; it should be above 0 and at most 1"),
        (["--lr", "3e38"], "--lr was 3"),
        (["--held-out", "1"], "--held-out was 1; it should be 0, or at least 2"),
        (["--steps", "0"], "--steps was 0"),
        (["--epochs", "0"], "--epochs was 0"),
        (["--max-len", "2"], "--max-len was 2; it should be at least 3"),
        (["--max-len", "100"], "--max-len was 100; it should be at most 64, the positions of the model"),
        (["--batch-tokens", "16"], "--batch-tokens was 16; it should be at least --max-len, 32"),
        (["--warmup", "5000"], "--warmup was 5000; it should be at most"),
        (["--checkpoint-every", "0"], "--checkpoint-every was 0"),
        (["--model", "huge"], "cannot read `huge`"),
        (["--decoder", "deep"], "invalid value 'deep' for '--decoder <DECODER>'"),
    ];
    for (flags, message) in cases {
        let long: &[&str] = if flags[1] == "100" { &["--batch-tokens", "128"] } else { &[] };
        place.refused("out", &[&flags, long].concat(), message);
    }
    assert!(!place.path("out").exists(), "nothing is written before all is checked");
}

#[test]
#[cfg(unix)]
fn a_directory_has_one_run_at_a_time() {
    let place = Workplace::new();
    std::fs::create_dir(place.path("out")).unwrap();
    let lock = std::fs::File::open(place.path("out")).unwrap();
    lock.lock().unwrap();
    for more in [&[][..], &["--overwrite"], &["--resume"]] {
        place.refused("out", more, "another process is writing into");
    }
    drop(lock);
    place.trained("out", &["--steps", "1"]);
}

/// Masks of every kind train, and a run resumes with its own kind only.
#[test]
fn masks_are_as_the_flags_say() {
    let place = Workplace::new();
    let plain = place.trained("plain", &["--steps", "2"]);
    let kinds = [["--pool-rows", "independent"], ["--pool-rows", "2"], ["--mask-cap", "2"]];
    for (number, flags) in kinds.into_iter().enumerate() {
        let out = format!("out-{number}");
        let records = place.trained(&out, &[&flags[..], &["--steps", "2", "--stop-at", "1"]].concat());
        assert!(records[0].decoder_loss > 0.0 && records[0].decoder_loss != plain[0].decoder_loss);
        place.refused(&out, &["--steps", "2", "--resume"], flags[0]);
        assert_eq!(place.trained(&out, &[&flags[..], &["--steps", "2", "--resume"]].concat()).len(), 2);
    }
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let place = Workplace::new();
    place.write("empty.txt", b"\n \n");
    place.write("vocab.txt", b"[PAD]\n[UNK]\n[SEP]\nthe\n");
    place.write("heads.json", config(2).as_bytes());
    place.write("relu.json", config(1).replace('}', ", \"hidden_act\": \"relu\"}").as_bytes());
    place.write("broken.json", b"{");
    let file = |name: &str| place.text(name);
    place.refused("out", &["--corpus", &file("empty.txt")], "has no usable passage");
    place.refused("out", &["--corpus", &file("missing.txt")], "missing.txt`: No such file");
    place.refused("out", &["--vocab", &file("vocab.txt")], "lacks [CLS], [MASK]");
    place.refused(
        "out",
        &["--model", &file("heads.json")],
        "heads.json`: hidden_size is 32 with 2 heads, so a head size of 16",
    );
    place.refused("out", &["--model", &file("relu.json")], "hidden_act is \"relu\"");
    place.refused("out", &["--model", &file("broken.json")], "broken.json`: EOF");
    place.refused("out", &["--resume"], "--resume found no checkpoint");
    std::fs::create_dir(place.path("full")).unwrap();
    place.write("full/mine.txt", b"mine");
    place.refused("full", &[], "exists and is not empty");
    place.refused("corpus.txt", &[], "a file; it should be a directory");
    assert_eq!(std::fs::read(place.path("full/mine.txt")).unwrap(), b"mine");
}

#[test]
fn embed_and_eval_name_what_is_missing() {
    let place = Workplace::new();
    let (model, corpus) = (place.text("nowhere"), place.text("corpus.txt"));
    for arguments in
        [["embed", "--model", &model, "--input", &corpus], ["eval", "--model", &model, "--corpus", &corpus]]
    {
        let output = retromae(&arguments);
        assert!(!output.status.success());
        assert!(stderr(&output).contains("nowhere"), "{}", stderr(&output));
    }
}

#[test]
fn dupmae_adds_its_loss() {
    let place = Workplace::new();
    let records = place.trained("out", &["--steps", "3", "--stop-at", "2", "--dupmae"]);
    assert!(records.iter().all(|record| record.bag_of_words_loss.is_some_and(|loss| loss > 0.0)));
    for StepRecord { decoder_loss, decoder_perplexity, decoder_accuracy, .. } in records {
        assert_abs_diff_eq!(decoder_perplexity.ln(), decoder_loss, epsilon = 1e-4);
        assert!((0.0..=1.0).contains(&decoder_accuracy), "{decoder_accuracy}");
    }
    let config = std::fs::read_to_string(place.path("out/config.json")).unwrap();
    assert!(config.contains("\"retromae_bag_of_words_loss_weight\": 0.1"), "{config}");
    place.refused("out", &["--steps", "3", "--resume"], "--model is");
    let resumed = place.trained("out", &["--steps", "3", "--resume", "--dupmae"]);
    assert_eq!(resumed.len(), 3);
    let plain = place.trained("plain", &["--steps", "2"]);
    assert!(plain.iter().all(|record| record.bag_of_words_loss.is_none()));
}

#[test]
fn a_resumed_run_is_the_same_run() {
    let place = Workplace::new();
    let straight = place.trained("straight", &["--steps", "6"]);
    assert_eq!(straight.len(), 6);
    assert_eq!(place.trained("cut", &["--steps", "6", "--stop-at", "3"]).len(), 3);
    place.refused(
        "cut",
        &["--steps", "6", "--resume", "--lr", "0.5"],
        "--lr is 0.5, but the run to resume has",
    );
    let cut = place.trained("cut", &["--steps", "6", "--resume"]);
    assert_eq!(numbers(&cut), numbers(&straight));
    let weights = |out: &str| std::fs::read(place.path(out).join("model.safetensors")).unwrap();
    assert!(weights("cut") == weights("straight"), "the models differ");
    for name in ["config.json", "vocab.txt", "tokenizer.json", "training.svg"] {
        assert!(place.path("cut").join(name).is_file(), "{name} is missing");
    }
    let (model, corpus) = (place.text("cut"), place.text("corpus.txt"));
    let embedded = retromae(&["embed", "--device", "host", "--model", &model, "--input", &corpus]);
    let lines = String::from_utf8(embedded.stdout).unwrap();
    let vectors: Vec<Vec<f32>> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((vectors.len(), vectors[0].len()), (60, 32));
    let eval = retromae(&["eval", "--device", "host", "--model", &model, "--corpus", &corpus, "--json"]);
    let scores: serde_json::Value = serde_json::from_slice(&eval.stdout).unwrap();
    assert!(scores["model"]["mrr_at_10"].is_number(), "{scores}");
}

#[test]
fn damaged_checkpoints_are_refused_and_overwritten_when_asked() {
    let place = Workplace::new();
    place.trained("out", &["--steps", "2", "--stop-at", "1"]);
    let tensors = checkpoint_tensors(&place.path("out"));
    let whole = std::fs::read(&tensors).unwrap();
    let resume = ["--steps", "2", "--resume"];
    std::fs::write(&tensors, &whole[..whole.len() / 2]).unwrap();
    place.refused("out", &resume, "and had");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    std::fs::write(&tensors, &flipped).unwrap();
    place.refused("out", &resume, "its checksum is not the one");
    place.write("out/mine.txt", b"mine");
    place.trained("out", &["--steps", "2", "--overwrite"]);
    assert!(place.path("out/mine.txt").is_file(), "files that are not the run's stay");
}

/// Returns every command with its arguments, on a model and a corpus of `place`, writing to `out`.
#[cfg(unix)]
fn every_command(place: &Workplace, out: &str) -> [Command; 8] {
    let (model, corpus) = (place.text("model"), place.text("corpus.txt"));
    let command = |arguments: &[&str]| {
        let mut command = Command::new(program());
        command.args(arguments);
        command
    };
    [
        command(&["info"]),
        command(&["info", "--kernels", "--json"]),
        command(&["--help"]),
        command(&["embed", "--help"]),
        place.pretrain_command(out, &["--steps", "1", "--overwrite"]),
        command(&[
            "tokenize",
            "--corpus",
            &corpus,
            "--vocab",
            &model,
            "--out",
            &place.text("tokens"),
            "--overwrite",
        ]),
        command(&["eval", "--device", "host", "--model", &model, "--corpus", &corpus]),
        command(&["embed", "--device", "host", "--model", &model, "--input", &corpus]),
    ]
}

/// A reader that has closed its end ends a command quietly, a full output is an error, and both leave the work done.
#[test]
#[cfg(unix)]
fn an_output_that_is_closed_or_full_is_no_panic() {
    let place = Workplace::new();
    place.trained("model", &["--steps", "1"]);
    for command in &mut every_command(&place, "out") {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = run(command.stdout(writer).stderr(Stdio::piped()));
        let text = stderr(&output);
        // The status that a shell reports of a program that SIGPIPE ended.
        assert_eq!(output.status.code(), Some(141), "{command:?}: {text}");
        assert!(!text.contains("panicked") && !text.contains("error"), "{command:?}: {text}");
    }
    let is_done = || {
        assert!(place.path("out/model.safetensors").is_file());
        assert!(retromae::data::Manifest::read(&place.path("tokens")).unwrap().complete);
    };
    is_done();
    for directory in ["out", "tokens"] {
        std::fs::remove_dir_all(place.path(directory)).unwrap();
    }
    let Ok(full) = std::fs::File::options().write(true).open("/dev/full") else { return };
    for command in &mut every_command(&place, "out") {
        let output = run(command.stdout(full.try_clone().unwrap()).stderr(Stdio::piped()));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {text}");
        assert!(
            text.contains("error: cannot write the standard output: No space left"),
            "{command:?}: {text}"
        );
    }
    is_done();
    let (model, corpus) = (place.text("model"), place.text("corpus.txt"));
    let embed = ["embed", "--device", "host", "--model", &model, "--input", &corpus, "--output", "/dev/full"];
    let text = stderr(&retromae(&embed));
    assert!(text.contains("error: cannot write --output `/dev/full`: No space left"), "{text}");
}

/// Messages that cannot be written are no reason to end.
#[test]
#[cfg(unix)]
fn a_standard_error_that_is_closed_or_full_changes_nothing() {
    let place = Workplace::new();
    place.trained("model", &["--steps", "1"]);
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    let full = std::fs::File::options().write(true).open("/dev/full").ok().map(OwnedFd::from);
    for error in std::iter::once(OwnedFd::from(closed)).chain(full) {
        for command in &mut every_command(&place, "out") {
            let output = run(command.stderr(error.try_clone().unwrap()).stdout(Stdio::piped()));
            assert!(output.status.success() && !output.stdout.is_empty(), "{command:?}: {output:?}");
        }
        let wrong = run(Command::new(program()).args(["tokenize", "--corpus", "x"]).stderr(error));
        assert_eq!(wrong.status.code(), Some(2));
    }
}
