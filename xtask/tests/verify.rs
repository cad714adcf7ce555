//! verify.sh over a made-up bundle, whose programs are scripts: which stages run, and what is recorded of them.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const SUITE: &str = r#"
[ -n "$RETROMAE_BIN" ] || exit 9
echo "ignored: a sample"
echo "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.1s"
"#;
const RETROMAE: &str = r#"
case "$*" in
info) echo "cuda           Sample device" ;;
"info --json") echo '{"devices":[{"name":"cuda","description":"Sample device"},{"name":"host","description":"Sample host"}]}' ;;
pretrain*)
    while [ "$1" != --out ]; do shift; done
    mkdir -p "$2"
    for step in $(seq 20); do echo "{\"step\":$step,\"encoder_loss\":2.0,\"decoder_loss\":1.0}"; done >"$2/training.jsonl" ;;
esac
"#;
const BENCH: &str = r#"
folder=$CRITERION_HOME/adamw/retromae/base/new
mkdir -p "$folder"
echo '{"group_id":"adamw","function_id":"retromae","value_str":"base"}' >"$folder/benchmark.json"
echo '{"median":{"point_estimate":1000.0}}' >"$folder/estimates.json"
echo '{"times":[1.0]}' >"$folder/sample.json"
echo '{"op":"adamw","case":"base","flops":0,"bytes":10}' >>"$RETROMAE_BENCH_BOUNDS"
"#;
const SANITIZER: &str = r#"
echo "$*" | grep -q -- --error-exitcode || exit 9
while [ "${1##*/}" != suite ]; do shift; done
exec "$@"
"#;

struct Bundle(TempDir);

impl Bundle {
    fn new() -> Self {
        let bundle = Self(tempfile::tempdir().unwrap());
        let verify = Path::new(env!("CARGO_MANIFEST_DIR")).join("../verify/verify.sh");
        for folder in ["bin", "tools", "corpus"] {
            fs::create_dir(bundle.path(folder)).unwrap();
        }
        fs::copy(verify, bundle.path("verify.sh")).unwrap();
        fs::write(bundle.path("build.json"), r#"{"version":"0.0.0","commit":"abc","dirty":false}"#).unwrap();
        symlink(env!("CARGO_BIN_EXE_xtask"), bundle.path("bin/xtask")).unwrap();
        bundle.script("bin/suite", SUITE);
        bundle.script("bin/retromae", RETROMAE);
        bundle.script("bin/bench", BENCH);
        bundle.script("tools/compute-sanitizer", SANITIZER);
        bundle.script("tools/nvidia-smi", "echo 'Sample device, 0.0, 1, 000.00, 1, 1, 1, [N/A]'");
        bundle
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        fs::write(self.path(name), format!("#!/bin/bash\n{text}")).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("bash");
        command.arg(self.path("verify.sh")).args(arguments).arg("--out").arg(self.path("out"));
        command
            .env("PATH", format!("{}:/usr/bin:/bin", self.path("tools").display()))
            .env_remove("LD_LIBRARY_PATH");
        command.current_dir("/");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn result(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path("out/result.json")).unwrap()).unwrap()
    }

    /// Names and states of the stages.
    fn stages(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let result = self.result();
        let stages = result["stages"].as_array().unwrap().iter();
        stages.map(|stage| (text(&stage["name"]), text(&stage["status"]))).collect()
    }
}

fn pairs(stages: &[(&str, &str)]) -> Vec<(String, String)> {
    stages.iter().map(|&(name, status)| (name.to_owned(), status.to_owned())).collect()
}

#[track_caller]
fn assert_code(output: &Output, code: i32) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status.code(), Some(code), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn every_stage_runs_and_is_collated() {
    let bundle = Bundle::new();
    let output = bundle.run(&[]);
    assert_code(&output, 0);
    let passed = ["twins", "tests", "memcheck", "racecheck", "training", "bench-forward", "bench-reverse"];
    let mut expected: Vec<(&str, &str)> = passed.map(|name| (name, "passed")).into();
    expected.push(("peers", "skipped"));
    assert_eq!(bundle.stages(), pairs(&expected));
    let result = bundle.result();
    assert_eq!(result["stages"][1]["tests"], serde_json::json!({ "passed": 3, "failed": 0, "ignored": 2 }));
    assert_eq!(result["device"]["name"], "Sample device");
    assert_eq!(result["device"]["clocks_after"]["power_w"], Value::Null);
    assert_eq!(
        (&result["build"]["commit"], &result["training"]["within_bound"]),
        (&"abc".into(), &true.into())
    );
    assert_eq!(result["figures"][0]["reverse_ns"], 1000.0);
    assert!(bundle.path("out/summary.md").is_file());
    assert_code(&bundle.run(&[]), 2);
}

#[test]
fn failures_are_recorded_and_the_rest_runs() {
    let bundle = Bundle::new();
    let suite = r#"
case "$*" in
twins::*) echo "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 5 filtered out" ;;
*--skip*) echo "test a::b ... FAILED"; echo "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured"; exit 101 ;;
*) echo "========= ERROR SUMMARY: 4 errors"; echo "test result: ok. 1 passed; 0 failed; 0 ignored"; exit 86 ;;
esac
"#;
    bundle.script("bin/suite", suite);
    bundle.script(
        "bin/bench",
        &format!("{BENCH}\necho 'adamw/retromae/base: skipped: weight differs from the other'"),
    );
    bundle.script("bin/retromae", &RETROMAE.replace("2.0", "2.$((RANDOM))"));
    assert_code(&bundle.run(&[]), 1);
    let all = ["twins", "tests", "memcheck", "racecheck", "training", "bench-forward", "bench-reverse"];
    let mut expected: Vec<(&str, &str)> = all.map(|name| (name, "failed")).into();
    expected.push(("peers", "skipped"));
    assert_eq!(bundle.stages(), pairs(&expected));
    let notes: Vec<String> =
        bundle.result()["stages"].as_array().unwrap().iter().map(|s| s["note"].to_string()).collect();
    for (note, part) in
        notes.iter().zip(["0 tests", "a::b", "4 errors", "4 errors", "bound 2.00e-3", "differs", "differs"])
    {
        assert!(note.contains(part), "{note} lacks {part}");
    }
    assert_eq!(bundle.result()["training"]["within_bound"], false);
}

#[test]
fn without_a_gpu_it_stops_at_once_and_says_why() {
    let bundle = Bundle::new();
    bundle.script("bin/retromae", "echo 'cuda           not available: CUDA: no driver'");
    let output = bundle.run(&["--minutes", "1"]);
    assert_code(&output, 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no CUDA device to verify: CUDA: no driver"));
    assert!(!bundle.path("out").exists());
    for wrong in [["--minutes", "0"], ["--minutes", "ten"], ["--device", "tpu"], ["--fast", "1"]] {
        let output = bundle.run(&wrong);
        assert_code(&output, 2);
        assert!(String::from_utf8_lossy(&output.stderr).contains(wrong[0]), "{wrong:?}");
    }
}

#[test]
fn an_interrupted_run_leaves_a_result() {
    let bundle = Bundle::new();
    bundle.script("bin/suite", &format!("[[ $* == *--skip* ]] && sleep 100\n{SUITE}"));
    let mut child =
        bundle.command(&["--device", "host"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    let log = bundle.path("out/logs/tests.log");
    let begun = Instant::now();
    while !log.exists() && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(50));
    }
    // As Ctrl-C, which those that were started in the background are deaf to.
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(60), "it waited for the stage");
    let stages = bundle.stages();
    assert_eq!(stages[..2], pairs(&[("twins", "passed"), ("tests", "interrupted")]));
    assert!(stages.len() == 8 && stages[2..].iter().all(|(_, status)| status == "not_reached"), "{stages:?}");
    assert_eq!(bundle.result()["device"]["kind"], "host");
}
