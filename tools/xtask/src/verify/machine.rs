//! Environment of the programs: CUDA's libraries, the card, Python's packages.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::process::Limits;
use super::verification::Verification;
use crate::files::{children, write_whole};

const LIBRARY: &str = "libcublasLt.so";
const QUERY_LIMIT: Duration = Duration::from_secs(20);

/// Script that prints the folders on Python's path, one a line.
const PYTHON_PATH: &str = "import sys; print('\\n'.join(filter(None, sys.path)))";

/// Script that prints the versions of the peers' software, as JSON.
const SOFTWARE: &str = r#"
import importlib.metadata, json, platform, sys
# Behind the site's own packages, as the peers import them.
sys.path.append(sys.argv[1])
found = {"python": platform.python_version()}
for name in ("torch", "triton", "transformers", "liger-kernel", "cut-cross-entropy", "flash-attn",
             "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-cublas-cu12", "nvidia-cublas"):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"#;

/// Returns the search path of this bundle's programs for CUDA's libraries: the user's own folders, then the toolkit's, then those of PyTorch's
/// packages. PyTorch itself does not use it: it brings the versions that it needs.
pub fn library_path() -> Option<OsString> {
    let own = std::env::var_os("LD_LIBRARY_PATH").filter(|path| !path.is_empty());
    let mut folders: Vec<PathBuf> = own.iter().flat_map(std::env::split_paths).collect();
    for folder in toolkit_folders().into_iter().chain(package_folders()) {
        if has_library(&folder) && !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    std::env::join_paths(folders).ok().filter(|path| !path.is_empty())
}

fn has_library(folder: &Path) -> bool {
    let is_it =
        |path: PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LIBRARY));
    children(folder).into_iter().any(is_it)
}

fn toolkit_folders() -> Vec<PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let is_toolkit =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cuda"));
    // The unversioned name first: it is the selected one of several versions.
    let installed = children(Path::new("/usr/local")).into_iter().filter(is_toolkit);
    named.chain(installed).map(|root| root.join("lib64")).collect()
}

/// Returns the folders `nvidia/<package or version>/lib` below Python's packages.
fn package_folders() -> Vec<PathBuf> {
    let python = Command::new("python3").args(["-c", PYTHON_PATH]).output().ok();
    let text = python.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let mut folders: Vec<PathBuf> = text
        .lines()
        .flat_map(|path| children(&Path::new(path).join("nvidia")))
        .map(|path| path.join("lib"))
        .collect();
    // Newest CUDA first.
    folders.reverse();
    folders
}

/// Asks nvidia-smi for the card's state, if it is installed.
pub fn card(verification: &mut Verification, when: &str) {
    const FIELDS: &str = "--query-gpu=name,compute_cap,memory.total,driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw";
    let first = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let first = first.split(',').next().filter(|first| !first.is_empty()).unwrap_or("0");
    let mut command = Command::new("nvidia-smi");
    command.args(["-i", first, FIELDS, "--format=csv,noheader,nounits"]);
    let is_state = |line: &&str| line.split(',').count() == FIELDS.split(',').count();
    keep(verification, &mut command, &format!("device/smi-{when}.csv"), is_state);
}

/// Asks Python for the versions of the peers' software.
pub fn software(verification: &mut Verification) {
    let mut command = Command::new("python3");
    command.args(["-c", SOFTWARE]).arg(verification.bundled("wheels"));
    keep(verification, &mut command, "device/software.json", |line| line.starts_with('{'));
}

/// Lets Python read PyTorch from disk while something else is verified: the first import takes many seconds, which would count against the peers.
pub fn warm_up_python() {
    let mut command = Command::new("timeout");
    command.args(["60", "python3", "-c", "import torch, transformers"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // If it fails, the peers report why.
    let _ = command.spawn();
}

/// Writes the matching line of a program's output, without warnings around it, to `file`; no file if the line is missing, or the program fails or
/// times out.
fn keep(verification: &mut Verification, command: &mut Command, file: &str, is_it: impl Fn(&&str) -> bool) {
    let log = file.replace(['/', '.'], "-");
    let said =
        verification.run(command, &log, Limits::total(QUERY_LIMIT)).ok().filter(|(end, _)| end.success());
    if let Some(line) = said.as_ref().and_then(|(_, text)| text.lines().find(is_it)) {
        // Without the file, the result lists it in `missing`.
        let _ = write_whole(&verification.work.join(file), line.as_bytes());
    }
}

/// Writes the run's arguments, and the facts about the machine that only the run can see.
pub fn describe_run(verification: &Verification, started: &str) -> Result<()> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim()));
    let run = serde_json::json!({
        "device": verification.device,
        "minutes": verification.minutes,
        "started": started,
        "host_cpu": model.unwrap_or(std::env::consts::ARCH),
        "host_threads": std::thread::available_parallelism().map_or(1, usize::from),
    });
    write_whole(&verification.work.join("run.json"), &serde_json::to_vec(&run)?)?;
    let build = verification.bundled("build.json");
    if build.is_file() {
        fs::copy(&build, verification.work.join("build.json"))
            .with_context(|| format!("`{}`", build.display()))?;
    }
    Ok(())
}

/// Returns the path of Compute Sanitizer, if it is installed.
pub fn sanitizer() -> Option<PathBuf> {
    const NAME: &str = "compute-sanitizer";
    let path = std::env::var_os("PATH").unwrap_or_default();
    let toolkits = toolkit_folders().into_iter().filter_map(|lib64| Some(lib64.parent()?.join("bin")));
    std::env::split_paths(&path).chain(toolkits).map(|folder| folder.join(NAME)).find(|path| path.is_file())
}

/// Returns the current time in UTC, such as `2025-01-31T12:00:00Z`.
pub fn utc_now() -> Result<String> {
    let output =
        Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output().context("cannot run date")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
