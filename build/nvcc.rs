//! nvcc: its path, its flags, and the resource usage that it reports.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Flags for every kernel, whatever the output format; ptxas reports each kernel's resources.
pub const FLAGS: [&str; 7] = [
    "-std=c++17",
    "-O3",
    "-Xptxas",
    "-v",
    "--expt-relaxed-constexpr",
    "-Wno-deprecated-gpu-targets",
    "-diag-suppress=177",
];

/// Resource usage of one kernel on one architecture, as ptxas reports it.
#[derive(Default)]
pub struct KernelReport {
    pub name: String,
    pub arch: String,
    pub registers: u32,
    pub shared_bytes: u32,
    pub stack_bytes: u32,
    pub spill_bytes: u32,
}

/// Finds the nvcc that `NVCC`, `CUDA_HOME`, `CUDA_PATH` or `PATH` leads to.
pub fn find() -> Option<PathBuf> {
    if let Some(path) = env::var_os("NVCC").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "NVCC is {}, which is not a file", path.display());
        return Some(path);
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os)
        .map(|home| Path::new(&home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    homes.chain(env::split_paths(&path)).map(|folder| folder.join("nvcc")).find(|nvcc| nvcc.is_file())
}

/// Returns nvcc's version, such as `13.0.88`.
pub fn version(nvcc: &Path) -> String {
    let output = Command::new(nvcc)
        .arg("--version")
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", nvcc.display()));
    let text = String::from_utf8_lossy(&output.stdout);
    let release = text.lines().find_map(|line| line.split("release ").nth(1));
    release.unwrap_or("unknown").split(", V").last().unwrap_or("unknown").to_string()
}

/// Parses the output of `ptxas -v`: for each entry function a header, a line on its stack and a line on its resources.
pub fn parse_ptxas(text: &str) -> Vec<KernelReport> {
    let number_before = |line: &str, unit: &str| -> u32 {
        let before = line.split(unit).next().unwrap_or_default();
        let digits = before.rsplit(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty());
        if line.contains(unit) { digits.and_then(|d| d.parse().ok()).unwrap_or(0) } else { 0 }
    };
    let mut reports: Vec<KernelReport> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let mut parts = rest.split('\'');
            let name = parts.next().unwrap_or_default().to_string();
            let arch = parts.nth(1).unwrap_or_default().to_string();
            reports.push(KernelReport { name, arch, ..KernelReport::default() });
        }
        let Some(report) = reports.last_mut() else { continue };
        if line.contains("bytes stack frame") {
            report.stack_bytes = number_before(line, " bytes stack frame");
            report.spill_bytes =
                number_before(line, " bytes spill stores") + number_before(line, " bytes spill loads");
        } else if line.contains("Used ") {
            report.registers = number_before(line, " registers");
            report.shared_bytes = number_before(line, " bytes smem");
        }
    }
    reports
}
