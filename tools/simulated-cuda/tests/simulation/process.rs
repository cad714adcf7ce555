//! Runs every test in a separate process: the simulation reads its environment once, and an error ends its context.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::SystemTime;

/// Environment variable with the name of the test that a child process runs.
const ROLE: &str = "SIMULATED_CUDA_TEST_ROLE";
const NAMES: [&str; 3] = ["libcuda.so", "libcuda.so.1", "libcublasLt.so"];

/// Output of a test's process.
pub struct Written {
    pub stdout: String,
    pub stderr: String,
}

/// Runs `scenario` in a child process that loads the simulation, with these variables in its environment. Returns `None` in the child process.
pub fn simulate<F: FnOnce()>(environment: &[(&str, &str)], scenario: F) -> Option<Written> {
    // Such as `simulation::streams::work_is_late::{{closure}}`.
    let path = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    let name = path.split_once("::").map_or(path, |(_, name)| name);
    if std::env::var(ROLE).is_ok_and(|role| role == name) {
        scenario();
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    for link in NAMES {
        std::os::unix::fs::symlink(library(), folder.path().join(link)).expect("a link");
    }
    let mut command = Command::new(std::env::current_exe().expect("the test program's path"));
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    for (variable, _) in std::env::vars() {
        if variable.starts_with("SIMULATED_CUDA_") || variable.starts_with("RETROMAE_") {
            command.env_remove(variable);
        }
    }
    command.env("LD_LIBRARY_PATH", folder.path()).env(ROLE, name).envs(environment.iter().copied());
    let Output { status, stdout, stderr } = command.output().expect("the test program runs");
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(status.success(), "{name} with {environment:?}: {status}\n{stdout}\n{stderr}");
    assert!(stdout.contains("1 passed"), "{name} did not run:\n{stdout}");
    Some(Written { stdout, stderr })
}

/// Finds the library that cargo built with this program: next to the program or one folder up; the other folder may have an old one.
fn library() -> PathBuf {
    let program = std::env::current_exe().expect("the test program's path");
    let places = program.ancestors().skip(1).take(2).map(|folder| folder.join("libsimulated_cuda.so"));
    let age = |path: &PathBuf| {
        fs::metadata(path).and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    };
    places.max_by_key(age).filter(|path| path.is_file()).expect("cargo builds the library before its tests")
}
