//! Messages of the command when CUDA fails, on the simulated driver (`simulated-cuda`) with faults on demand.
//!
//! `RETROMAE_SIMULATED_CUDA` names the folder of the driver's libraries.
#![cfg(feature = "train")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::cli::{Workplace, program, stderr};
use approx::assert_abs_diff_eq;
use retromae::device;

/// Returns the simulated driver; none if it, or the kernels that it would run, are not built.
fn libraries() -> Option<PathBuf> {
    if let Err(reason) = device::nvcc() {
        println!("ignored: {reason}");
        return None;
    }
    let folder = std::env::var_os("RETROMAE_SIMULATED_CUDA").map(PathBuf::from);
    if folder.is_none() {
        println!("ignored: RETROMAE_SIMULATED_CUDA names no simulated driver");
    }
    folder
}

/// Runs the command on the simulated driver with `fault` and more environment variables.
fn with_fault(command: &mut Command, libraries: &Path, fault: &str, more: &[(&str, &str)]) -> Output {
    command
        .env("LD_LIBRARY_PATH", libraries)
        .env("SIMULATED_CUDA_FAULT", fault)
        .env("RETROMAE_GEMM_TUNE", "0")
        .env_remove("RETROMAE_TEST_DEVICE")
        .envs(more.iter().copied())
        .output()
        .expect("the command runs")
}

/// Asserts that the command failed with all parts of the message and without a panic.
#[track_caller]
fn assert_fails_with(output: &Output, parts: &[&str]) {
    let message = stderr(output);
    assert!(!output.status.success(), "it should have failed: {message}");
    assert!(!message.contains("panicked"), "{message}");
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

fn pretrain(libraries: &Path, fault: &str, more: &[(&str, &str)]) -> (Workplace, Output) {
    let place = Workplace::new();
    let mut command = place.pretrain_command("out", &["--device", "cuda", "--dtype", "f32", "--steps", "3"]);
    let output = with_fault(&mut command, libraries, fault, more);
    (place, output)
}

#[test]
fn a_device_that_cannot_be_used_is_refused_with_the_reason_and_a_cure() {
    let Some(libraries) = libraries() else { return };
    for (fault, parts) in [
        ("no-driver", ["the driver does not start", "the host device works"]),
        ("no-device", ["there is no device 0", "no device is there"]),
        ("capability=7.5", ["is too old", "compute capability 8.0 or above"]),
        ("driver=11080", ["the driver is of CUDA 11.8", "CUDA 12.0 (525) or later"]),
        ("invalid-image", ["loading the kernels of", "update the driver"]),
        ("no-blas", ["opening cuBLASLt", "NOT_INITIALIZED"]),
    ] {
        let (place, output) = pretrain(&libraries, fault, &[]);
        assert_fails_with(&output, &parts);
        assert!(!place.path("out").join("checkpoint").exists(), "{fault}: it should have written nothing");
        // `info` explains the same and does not fail.
        let mut command = Command::new(program());
        let output = with_fault(command.arg("info"), &libraries, fault, &[]);
        assert!(output.status.success(), "{fault}: {}", stderr(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(fault == "no-blas" || text.contains(parts[0]), "{fault}: {text}");
    }
}

#[test]
fn memory_that_runs_out_says_what_was_asked_what_is_free_and_what_to_lower() {
    let Some(libraries) = libraries() else { return };
    let (_place, output) = pretrain(&libraries, "memory=1000000", &[]);
    assert_fails_with(
        &output,
        &[
            "cannot allocate",
            "bytes on the CUDA device",
            "of 1000000 are free",
            "use fewer tokens in a batch",
        ],
    );
}

#[test]
fn a_kernel_that_fails_is_named() {
    let Some(libraries) = libraries() else { return };
    let fault = "illegal-address=bias_gelu_backward_f32";
    let (_place, output) = pretrain(&libraries, fault, &[("RETROMAE_CUDA_SYNC", "1")]);
    assert_fails_with(&output, &["running bias_gelu_backward_f32", "ILLEGAL_ADDRESS", "start it again"]);
    // Without waiting for each launch, it is one of the last ones.
    let (_place, output) = pretrain(&libraries, fault, &[]);
    assert_fails_with(&output, &["in one of the last launches", "RETROMAE_CUDA_SYNC=1 names it"]);
}

/// The kernel is named while it runs: all that a waiting user can do is end the command.
#[test]
fn a_kernel_that_hangs_is_named() {
    let Some(libraries) = libraries() else { return };
    let place = Workplace::new();
    let mut command = place.pretrain_command("out", &["--device", "cuda", "--dtype", "f32", "--steps", "3"]);
    let mut child = command
        .env("LD_LIBRARY_PATH", &libraries)
        .envs([("SIMULATED_CUDA_FAULT", "hang=bias_gelu_backward_f32"), ("RETROMAE_CUDA_SYNC", "1")])
        .env("RETROMAE_GEMM_TUNE", "0")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let named = lines.map_while(Result::ok).find(|line| line.contains("still running"));
    child.kill().expect("it still runs");
    child.wait().expect("it was killed");
    let named = named.expect("a line before the end");
    assert!(named.ends_with("still running after 5s: bias_gelu_backward_f32"), "{named}");
}

/// Returns the output of `info --check` about the CUDA device.
fn checked(libraries: &Path, fault: &str) -> serde_json::Value {
    checked_with(libraries, fault, &[])
}

/// [`checked`] with more environment variables.
fn checked_with(libraries: &Path, fault: &str, more: &[(&str, &str)]) -> serde_json::Value {
    let output =
        with_fault(Command::new(program()).args(["info", "--check", "--json"]), libraries, fault, more);
    assert!(output.status.success(), "{fault}: {}", stderr(&output));
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    facts["devices"].as_array().unwrap().iter().find(|device| device["name"] == "cuda").unwrap().clone()
}

#[test]
fn info_checks_cublaslt_or_says_what_it_lacks() {
    let Some(libraries) = libraries() else { return };
    let matmul = &checked(&libraries, "")["matmul"];
    assert_eq!(matmul["library"], "cuBLASLt 13.0.0");
    assert!(matmul["relative_error"].as_f64().unwrap() < 1.0 / 256.0, "{matmul}");

    let device = checked(&libraries, "no-blas");
    assert_eq!(device["available"], true);
    let error = device["matmul"]["error"].as_str().unwrap();
    assert!(device["matmul"]["library"].is_null() && error.contains("opening cuBLASLt"), "{device}");

    let device = checked(&libraries, "no-device");
    assert_eq!(device["available"], false);
    assert!(device["matmul"].is_null(), "{device}");
}

/// Links the simulated driver in `folder`, under `names` alone.
fn link(libraries: &Path, folder: &Path, names: &[&str]) {
    fs::create_dir_all(folder).unwrap();
    let driver = fs::canonicalize(libraries.join("libcuda.so.1")).unwrap();
    names.iter().for_each(|name| std::os::unix::fs::symlink(&driver, folder.join(name)).unwrap());
}

#[test]
fn cublaslt_is_found_under_a_versioned_name() {
    let Some(libraries) = libraries() else { return };
    let check = |name, fault| {
        let folder = tempfile::tempdir().unwrap();
        link(&libraries, folder.path(), &["libcuda.so.1", name]);
        checked(folder.path(), fault)["matmul"].clone()
    };
    for (name, fault) in
        [("libcublasLt.so.13", ""), ("libcublasLt.so.12", ""), ("libcublasLt.so.12", "driver=12080")]
    {
        assert_eq!(check(name, fault)["library"], "cuBLASLt 13.0.0", "{name} with {fault}");
    }
    // A version that the driver is too old for is none.
    let error = check("libcublasLt.so.13", "driver=12080")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("cuBLASLt is not found; tried libcublasLt.so.12, libcublasLt.so by"), "{error}");
}

/// In the folder of a toolkit, and beside a library of PyTorch that the process has loaded.
#[cfg(target_os = "linux")]
#[test]
fn cublaslt_is_found_in_folders_that_the_loader_does_not_know() {
    let Some(libraries) = libraries() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name);
    link(&libraries, &path("driver"), &["libcuda.so.1"]);
    link(&libraries, &path("toolkit/lib64"), &["libcublasLt.so.12"]);
    link(&libraries, &path("packages/nvidia/cublas/lib"), &["libcublasLt.so.12"]);
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let some = maps.lines().find(|line| line.contains("/libm")).expect("every program needs it");
    fs::create_dir_all(path("packages/torch/lib")).unwrap();
    let torch = path("packages/torch/lib/libtorch.so").display().to_string();
    fs::copy(&some[some.find('/').unwrap()..], &torch).unwrap();
    let toolkit = path("toolkit").display().to_string();
    for (variable, value) in [("CUDA_HOME", &toolkit), ("LD_PRELOAD", &torch)] {
        let device = checked_with(&path("driver"), "", &[(variable, value)]);
        assert_eq!(device["matmul"]["library"], "cuBLASLt 13.0.0", "{variable}: {device}");
    }
}

#[test]
fn without_cublaslt_the_names_that_were_tried_are_told() {
    let Some(libraries) = libraries() else { return };
    let folder = tempfile::tempdir().unwrap();
    link(&libraries, folder.path(), &["libcuda.so.1"]);
    let device = checked(folder.path(), "");
    assert_eq!(device["available"], true);
    let error = device["matmul"]["error"].as_str().unwrap();
    for part in ["libcublasLt.so.13, libcublasLt.so.12, libcublasLt.so", "install it with the CUDA toolkit"] {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
}

/// A module is loaded when one of its kernels is launched, and all are loaded before a capture; `info` launches none, and checks that the device
/// accepts nvcc's images.
#[test]
fn modules_are_loaded_when_they_are_needed() {
    let Some(libraries) = libraries() else { return };
    let loads = |command: &mut Command| {
        let output = with_fault(command, &libraries, "", &[("SIMULATED_CUDA_LOG", "1")]);
        let written = stderr(&output);
        assert!(output.status.success(), "{written}");
        written.lines().filter(|line| line.ends_with("cuModuleLoadData -> CUDA_SUCCESS")).count()
    };
    assert_eq!(loads(Command::new(program()).args(["info", "--check"])), 1);
    let trained = |steps| {
        let place = Workplace::new();
        let flags = ["--device", "cuda", "--dtype", "f32", "--steps", steps];
        loads(&mut place.pretrain_command("out", &flags))
    };
    // Ask the command: it may be built without the kernels that only tests run.
    let output = Command::new(program()).args(["info", "--kernels", "--json"]).output().unwrap();
    let info: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let kernels = info["kernels"].as_array().unwrap().iter();
    let files = kernels.filter(|kernel| kernel["arch"] != "host").map(|kernel| kernel["file"].to_string());
    let all = files.collect::<BTreeSet<_>>().len();
    let one = trained("1");
    assert!((5..all).contains(&one), "{one} modules of {all}");
    assert_eq!(trained("8"), all, "a step is recorded");
}

#[test]
fn a_run_on_the_simulated_driver_trains_as_on_the_host() {
    let Some(libraries) = libraries() else { return };
    let flags = ["--dtype", "f32", "--steps", "4"];
    let losses = |device: &str| {
        let place = Workplace::new();
        let mut command = place.pretrain_command("out", &[&["--device", device], &flags[..]].concat());
        let output = with_fault(&mut command, &libraries, "", &[]);
        assert!(output.status.success(), "{}", stderr(&output));
        let records = retromae::train::report::read_training_log(place.path("out").join("training.jsonl"));
        records.unwrap().iter().map(|record| record.decoder_loss).collect::<Vec<f32>>()
    };
    let (host, cuda) = (losses("host"), losses("cuda"));
    assert_eq!((host.len(), cuda.len()), (4, 4));
    for (host, cuda) in host.iter().zip(&cuda) {
        assert_abs_diff_eq!(host, cuda, epsilon = 1e-4 * host);
    }
}
