//! verify.sh over a fake bundle, whose programs are scripts: which steps run, and what is recorded of them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Tests by name, each with its scripted behavior.
const TESTS: [(&str, &str); 5] = [
    ("instructions::a", "ok"),
    ("every_kernel::a", "ok"),
    ("linear::a", "ok"),
    ("attention::a", "ok"),
    ("attention::b", "ok; echo 'ignored: a sample'"),
];
const RETROMAE: &str = r#"
case "$*" in
info*) echo '{"devices":[{"name":"cuda","description":"Sample device","matmul":{"library":"cuBLASLt"}},{"name":"host","description":"Sample host","matmul":{}}]}' ;;
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

/// Returns a script that acts as the test program and runs the named tests in turn.
fn suite(tests: &[(&str, &str)]) -> String {
    let names: Vec<&str> = tests.iter().map(|(name, _)| *name).collect();
    let cases: Vec<String> = tests.iter().map(|(name, does)| format!("{name}) {does} ;;\n")).collect();
    let script = r#"
[ -n "$RETROMAE_BIN" ] || exit 9
if [ "$1" = --list ]; then printf '%s: test\n' NAMES; exit; fi
failed=0
ok() { echo "test $test ... ok"; }
bad() { echo "test $test ... FAILED"; failed=1; }
for test in "$@"; do case $test in
CASES
esac; done
echo
echo "test result: $failed. 1 passed; $failed failed"
exit $failed
"#;
    script.replace("NAMES", &names.join(" ")).replace("CASES", &cases.concat())
}

struct Bundle(TempDir);

impl Bundle {
    fn new(tests: &[(&str, &str)]) -> Self {
        let bundle = Self(tempfile::tempdir().unwrap());
        let verify = Path::new(env!("CARGO_MANIFEST_DIR")).join("../verify/verify.sh");
        for folder in ["bin", "tools", "corpus"] {
            fs::create_dir(bundle.path(folder)).unwrap();
        }
        fs::copy(verify, bundle.path("verify.sh")).unwrap();
        fs::write(bundle.path("build.json"), r#"{"version":"0.0.0","commit":"abc","dirty":false}"#).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_xtask"), bundle.path("bin/xtask")).unwrap();
        bundle.script("bin/suite", &suite(tests));
        bundle.script("bin/retromae", RETROMAE);
        bundle.script("bin/bench", BENCH);
        bundle.script("tools/compute-sanitizer", SANITIZER);
        bundle.script(
            "tools/nvidia-smi",
            "echo a warning >&2; echo 'Sample device, 0.0, 1, 000.00, 1, 1, 1, [N/A]'",
        );
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
        command.env("PATH", format!("{}:/usr/bin:/bin", self.path("tools").display()));
        command.env_remove("LD_LIBRARY_PATH").current_dir("/");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn result(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path("out/result.json")).unwrap()).unwrap()
    }

    fn stage(&self, name: &str) -> Value {
        let result = self.result();
        let stages = result["stages"].as_array().unwrap();
        stages
            .iter()
            .find(|stage| stage["name"] == name)
            .unwrap_or_else(|| panic!("no {name}: {result}"))
            .clone()
    }

    #[track_caller]
    fn assert_status(&self, status: &str, names: &[&str]) {
        for name in names {
            let stage = self.stage(name);
            assert_eq!(stage["status"], status, "{stage}");
        }
    }
}

#[track_caller]
fn assert_code(output: &Output, code: i32) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status.code(), Some(code), "{}{}", text(&output.stdout), text(&output.stderr));
}

/// Returns all problems of a stage.
fn problems(stage: &Value) -> Vec<String> {
    let problems = stage["problems"].as_array().cloned().unwrap_or_default();
    problems.iter().map(|problem| problem.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_step_runs_and_leaves_three_files() {
    let bundle = Bundle::new(&TESTS);
    let output = bundle.run(&["--minutes", "9"]);
    assert_code(&output, 0);
    let passed =
        ["info", "instructions", "kernels", "matmuls", "tests", "bench", "training", "memcheck", "racecheck"];
    bundle.assert_status("passed", &passed);
    bundle.assert_status("passed", &["bench-more", "bench-reverse"]);
    bundle.assert_status("skipped", &["peers"]);
    let counts = serde_json::json!({ "passed": 2, "failed": 0, "ignored": 1, "unfinished": 0 });
    assert_eq!(bundle.stage("tests")["tests"], counts);
    let result = bundle.result();
    assert_eq!(
        (&result["device"]["name"], &result["device"]["matmul"]["library"]),
        (&"Sample device".into(), &"cuBLASLt".into())
    );
    assert_eq!(result["device"]["clocks_after"]["power_w"], Value::Null);
    assert_eq!(
        (&result["build"]["commit"], &result["training"]["within_bound"]),
        (&"abc".into(), &true.into())
    );
    assert_eq!(result["figures"][0]["reverse_ns"], 1000.0);
    let mut names: Vec<_> =
        fs::read_dir(bundle.path("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["logs.tar.gz", "result.json", "summary.md"]);
    let listing = Command::new("tar").arg("tzf").arg(bundle.path("out/logs.tar.gz")).output().unwrap();
    let listing = String::from_utf8(listing.stdout).unwrap();
    for name in
        ["logs/run.json", "logs/stages.jsonl", "logs/logs/tests-attention.log", "logs/criterion/forward/"]
    {
        assert!(listing.contains(name), "{name}: {listing}");
    }
    assert_code(&bundle.run(&[]), 2);
}

#[test]
fn failures_are_recorded_and_the_rest_runs() {
    let bundle = Bundle::new(&[
        ("instructions::a", "exit 9"),
        ("every_kernel::a", "ok"),
        ("linear::a", "ok"),
        ("a::b", "bad"),
    ]);
    bundle.script("tools/compute-sanitizer", "echo '========= ERROR SUMMARY: 4 errors'; echo; echo 'test every_kernel::a ... ok'; echo 'test result: ok. 1 passed'; exit 86");
    bundle.script(
        "bin/bench",
        &format!("{BENCH}\necho 'adamw/retromae/base: skipped: weight differs from the other'; exit 1"),
    );
    bundle.script("bin/retromae", &RETROMAE.replace("2.0", "2.$((RANDOM))"));
    assert_code(&bundle.run(&[]), 1);
    bundle.assert_status("failed", &["instructions", "tests", "bench", "training", "memcheck", "racecheck"]);
    bundle.assert_status("passed", &["info", "kernels", "matmuls"]);
    bundle.assert_status("skipped", &["bench-more", "bench-reverse"]);
    for (name, part) in [
        ("instructions", "instructions::a"),
        ("tests", "a::b"),
        ("memcheck", "4 errors"),
        ("bench", "differs"),
    ] {
        let found = problems(&bundle.stage(name));
        assert!(found.len() == 1 && found[0].contains(part), "{name}: {found:?}");
    }
    assert!(bundle.stage("training")["note"].as_str().unwrap().contains("bound 2.00e-3"));
    assert_eq!(bundle.result()["training"]["within_bound"], false);
    assert!(fs::read_to_string(bundle.path("out/summary.md")).unwrap().contains("tests: a::b: "));
}

#[test]
fn a_fault_is_that_of_one_test_and_the_others_count() {
    // The second test ends the device of its process, so that every later one fails, too; another ends the process.
    let tests = [
        &TESTS[..],
        &[
            ("attention::ends", "bad; echo 'CUDA: running kernel_x: error; start it again'; ended=1"),
            ("attention::f", "if [ \"$ended\" ]; then bad; else ok; fi"),
            ("layer_norm::crashes", "kill -SEGV $$"),
            ("layer_norm::d", "ok"),
        ],
    ]
    .concat();
    let bundle = Bundle::new(&tests);
    assert_code(&bundle.run(&[]), 1);
    let stage = bundle.stage("tests");
    assert_eq!(
        stage["tests"],
        serde_json::json!({ "passed": 4, "failed": 2, "ignored": 1, "unfinished": 0 }),
        "{stage}"
    );
    let found = problems(&stage);
    assert!(found[0].starts_with("attention::ends: ") && found[0].contains("kernel_x"), "{found:?}");
    assert!(found[1].starts_with("layer_norm::crashes: "), "{found:?}");
    bundle.assert_status(
        "passed",
        &["info", "instructions", "kernels", "matmuls", "bench", "training", "memcheck"],
    );
}

#[test]
fn what_does_not_end_is_cut_and_named_and_the_rest_runs() {
    let hangs = "echo 'retromae: still running after 5s: kernel_z'; sleep 100";
    let bundle = Bundle::new(&[&TESTS[..], &[("attention::z", hangs), ("masks::a", "ok")]].concat());
    assert_code(&bundle.run(&["--minutes", "3"]), 3);
    let stage = bundle.stage("tests");
    assert_eq!(stage["status"], "cut", "{stage}");
    assert_eq!(stage["tests"]["passed"], 3, "{stage}");
    let found = problems(&stage);
    assert!(
        found.len() == 1 && found[0].contains("attention::z: retromae: still running after 5s: kernel_z"),
        "{found:?}"
    );
    bundle.assert_status("passed", &["bench", "training", "memcheck"]);
}

#[test]
fn benches_go_on_behind_a_case_that_takes_the_device_down() {
    let bundle = Bundle::new(&TESTS);
    let bench = r#"
begin() { echo "{\"begun\":\"$1\"}" >>"$RETROMAE_BENCH_BOUNDS"; }
case $RETROMAE_BENCH_AFTER in
    "") begin a/ours/L1; begin a/ours/L2; echo "error: kernel_y took the device down"; exit 70 ;;
    a/ours/L2) begin b/ours/L1; echo "error: and another"; exit 70 ;;
    b/ours/L1) begin c/ours/L1; exit 0 ;;
esac
exit 99"#;
    bundle.script("bin/bench", bench);
    assert_code(&bundle.run(&[]), 1);
    let stage = bundle.stage("bench");
    assert_eq!(stage["status"], "failed");
    let expected = ["a/ours/L2: error: kernel_y took the device down", "b/ours/L1: error: and another"];
    assert_eq!(problems(&stage), expected);
    // A program that begins nothing is not restarted forever.
    let bundle = Bundle::new(&TESTS);
    bundle.script("bin/bench", "echo 'no library'; exit 127");
    assert_code(&bundle.run(&[]), 1);
    assert_eq!(problems(&bundle.stage("bench")), ["no library"]);
}

#[test]
fn what_cannot_be_verified_is_refused_before_anything_is_written() {
    let bundle = Bundle::new(&TESTS);
    bundle.script(
        "bin/retromae",
        r#"echo '{"devices":[{"name":"cuda","available":false,"reason":"CUDA: no driver"}]}'"#,
    );
    let output = bundle.run(&["--minutes", "1"]);
    assert_code(&output, 2);
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("no CUDA device to verify: CUDA: no driver. --device host")
    );
    assert!(!bundle.path("out").exists());
    for wrong in [["--minutes", "0"], ["--minutes", "ten"], ["--device", "tpu"], ["--fast", "1"]] {
        let output = bundle.run(&wrong);
        assert_code(&output, 2);
        assert!(String::from_utf8_lossy(&output.stderr).contains(wrong[0]), "{wrong:?}");
    }
    fs::remove_file(bundle.path("bin/suite")).unwrap();
    let output = bundle.run(&["--device", "host"]);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("bin/suite` is missing; the bundle is incomplete")
    );
}

/// Waits until a result reports that a step runs.
fn wait_for(bundle: &Bundle, step: &str) {
    let begun = Instant::now();
    let runs = || {
        let text = fs::read_to_string(bundle.path("out/result.json")).unwrap_or_default();
        let result: Value = serde_json::from_str(&text).unwrap_or_default();
        let stages = result["stages"].as_array().cloned().unwrap_or_default();
        stages.iter().any(|stage| stage["name"] == step && stage["status"] == "interrupted")
    };
    while !runs() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{step} does not begin");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn however_a_run_is_ended_it_leaves_what_it_found() {
    for (signal, code) in [("-TERM", Some(130)), ("-INT", Some(130)), ("-KILL", None)] {
        let bundle = Bundle::new(&[&TESTS[..1], &[("every_kernel::a", "sleep 100")]].concat());
        let mut child = bundle.command(&["--device", "host"]).stdout(Stdio::null()).spawn().unwrap();
        wait_for(&bundle, "kernels");
        // A shell's background processes ignore Ctrl-C, these do not.
        let killed = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        assert_eq!(child.wait().unwrap().code(), code, "{signal}");
        bundle.assert_status("passed", &["info", "instructions"]);
        bundle.assert_status("interrupted", &["kernels"]);
        bundle.assert_status("not_reached", &["matmuls", "tests", "bench", "racecheck"]);
        assert_eq!(bundle.result()["device"]["kind"], "host");
        assert!(bundle.path("out/summary.md").is_file() && bundle.path("out/logs.tar.gz").is_file());
    }
}
