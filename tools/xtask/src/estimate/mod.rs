//! `xtask estimate`: estimated H100 time of the headline cases, from instruction counts of their machine code.
//!
//! A model, not a measurement: each pipe of an SM runs its share of the instructions without waiting for another, memory traffic is the least
//! possible, and every branch of the hottest loop is taken except those around random numbers, as without dropout. The slowest pipe gives the
//! estimate. It shows what bounds a kernel, and code changes that cost time; it ignores latency, cache misses and a tail of blocks.

mod cases;
mod pipes;
mod sass;

#[path = "../../../../build/nvcc.rs"]
mod nvcc;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::files::{read_text, write_whole};
use crate::report::repository;
use crate::summary::{table, time};
use cases::{Case, Launch};
use nvcc::KernelReport;
use pipes::{PIPES, Pipe};
use sass::{Code, Instruction};

const ARCH: &str = "sm_90a";
/// Factor by which an estimate may grow before the table must be renewed.
const GROWTH: f64 = 1.05;
pub const FILE: &str = "docs/estimate.md";
const HEADER: [&str; 8] = [
    "operation",
    "case",
    "kernel",
    "registers",
    "blocks an SM",
    "loop: instructions, clocks by pipe",
    "bound by",
    "estimate",
];

#[derive(Debug, Args)]
pub struct Arguments {
    /// Write nothing, and fail where an estimate is more than 5 % above that of docs/estimate.md
    #[arg(long)]
    check: bool,
}

impl Arguments {
    pub fn run(&self) -> Result<()> {
        let root = repository();
        let estimates = estimate_all(&root)?;
        let path = root.join(FILE);
        if self.check {
            return check(&estimates, &read_text(&path)?);
        }
        let date = crate::verify::utc_now()?;
        let day = date.split('T').next().unwrap_or_default();
        write_whole(&path, document(&estimates, day, &nvcc::version(&find_nvcc()?)).as_bytes())?;
        println!("{FILE} is renewed");
        Ok(())
    }
}

/// One kernel of a case.
struct Estimate {
    operation: &'static str,
    case: &'static str,
    launch: Launch,
    registers: u32,
    blocks_an_sm: u32,
    /// Instructions of the hottest loops, or of the whole kernel if it has no loop.
    instructions: usize,
    clocks: BTreeMap<Pipe, f64>,
    bound_by: &'static str,
    seconds: f64,
}

fn estimate_all(root: &Path) -> Result<Vec<Estimate>> {
    let cases = cases::all();
    let mut sources: Vec<&str> =
        cases.iter().flat_map(|case| &case.launches).map(|launch| launch.source).collect();
    sources.sort_unstable();
    sources.dedup();
    let mut compiled = BTreeMap::new();
    for source in sources {
        compiled.insert(source, compile(root, source).with_context(|| format!("kernels/{source}"))?);
    }
    let launches = cases.iter().flat_map(|case| case.launches.iter().map(move |launch| (case, launch)));
    launches.map(|(case, launch)| estimate(case, launch, &compiled[launch.source])).collect()
}

/// Compiler output for one source file, by kernel.
struct Compiled {
    reports: Vec<KernelReport>,
    code: BTreeMap<String, Code>,
}

fn compile(root: &Path, source: &str) -> Result<Compiled> {
    let nvcc = find_nvcc()?;
    let folder = tempfile::tempdir().context("cannot create a folder for a cubin")?;
    let cubin = folder.path().join("kernel.cubin");
    let mut command = Command::new(&nvcc);
    command
        .args(["-cubin", "-arch=sm_90a"])
        .args(nvcc::FLAGS)
        .arg("-o")
        .arg(&cubin)
        .arg(root.join("kernels").join(source));
    let output = command.output().with_context(|| format!("cannot run `{}`", nvcc.display()))?;
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "nvcc failed: {said}");
    let disassembler = disassembler(&nvcc);
    let listing = Command::new(&disassembler).arg("-c").arg(&cubin).output();
    let listing = listing.with_context(|| {
        format!(
            "cannot run `{}`: NVDISASM should name nvdisasm of CUDA 13, or PATH have it",
            disassembler.display()
        )
    })?;
    ensure!(listing.status.success(), "nvdisasm failed: {}", String::from_utf8_lossy(&listing.stderr));
    let code = sass::functions(&String::from_utf8_lossy(&listing.stdout));
    Ok(Compiled { reports: nvcc::parse_ptxas(&said), code })
}

fn find_nvcc() -> Result<PathBuf> {
    nvcc::find().context("no nvcc in NVCC, CUDA_HOME, CUDA_PATH or PATH")
}

/// Returns nvdisasm: `NVDISASM`, the one beside nvcc, or the one in `PATH`.
fn disassembler(nvcc: &Path) -> PathBuf {
    let beside = nvcc.with_file_name("nvdisasm");
    match std::env::var_os("NVDISASM").filter(|path| !path.is_empty()) {
        Some(path) => path.into(),
        None if beside.is_file() => beside,
        None => "nvdisasm".into(),
    }
}

fn estimate(case: &Case, launch: &Launch, compiled: &Compiled) -> Result<Estimate> {
    let Launch { kernel, threads, blocks, trips, bytes, .. } = *launch;
    let (Some(report), Some(code)) = (
        compiled.reports.iter().find(|report| report.name == kernel && report.arch == ARCH),
        compiled.code.get(kernel),
    ) else {
        bail!("kernels/{} has no kernel {kernel}", launch.source);
    };
    let loops = code.hottest_loops(launch.loops, pipes::heat);
    ensure!(
        loops.len() == launch.loops,
        "{kernel} has {} loops, where {} are said to take its time",
        loops.len(),
        launch.loops
    );
    let (repeated, trips): (Vec<&Instruction>, f64) = match loops.len() {
        0 => (code.without_random(0..code.instructions.len()), 1.0),
        _ => (loops.into_iter().flat_map(|part| code.without_random(part)).collect(), trips),
    };
    let clocks = clocks(&repeated);
    let warps = blocks * f64::from(threads) / 32.0 / pipes::SMS;
    let busiest =
        PIPES.into_iter().max_by(|a, b| of(&clocks, *a).total_cmp(&of(&clocks, *b))).unwrap_or(Pipe::Issue);
    let compute = of(&clocks, busiest) * trips * warps / pipes::CLOCK;
    let memory = bytes / pipes::HBM;
    Ok(Estimate {
        operation: case.operation,
        case: case.name,
        launch: launch.clone(),
        registers: report.registers,
        blocks_an_sm: blocks_an_sm(report.registers, threads, report.shared_bytes + launch.shared),
        instructions: repeated.len(),
        clocks,
        bound_by: if memory >= compute { "HBM" } else { busiest.name() },
        seconds: memory.max(compute),
    })
}

fn of(clocks: &BTreeMap<Pipe, f64>, pipe: Pipe) -> f64 {
    clocks.get(&pipe).copied().unwrap_or(0.0)
}

/// Returns the clocks of each pipe of an SM that one warp takes to run `code` once.
fn clocks(code: &[&Instruction]) -> BTreeMap<Pipe, f64> {
    let mut clocks = BTreeMap::new();
    for instruction in code {
        *clocks.entry(Pipe::Issue).or_insert(0.0) += pipes::ISSUE;
        if let Some((pipe, cost)) = pipes::cost(instruction) {
            *clocks.entry(pipe).or_insert(0.0) += cost;
        }
    }
    clocks
}

/// Returns the number of resident blocks an SM: registers are allocated to warps in units of 256, shared memory to blocks in KiB.
fn blocks_an_sm(registers: u32, threads: u32, shared: u32) -> u32 {
    let warps = threads.div_ceil(32);
    let by_registers = pipes::REGISTERS / (warps * (registers * 32).next_multiple_of(256)).max(1);
    let by_shared = pipes::SHARED_BYTES / (shared + pipes::SHARED_OF_SYSTEM).next_multiple_of(1024).max(1);
    by_registers.min(by_shared).min(pipes::THREADS / threads).min(pipes::BLOCKS)
}

fn row(estimate: &Estimate) -> [String; 8] {
    let shown = PIPES.iter().filter(|pipe| of(&estimate.clocks, **pipe) > 0.0);
    let parts: Vec<String> =
        shown.map(|pipe| format!("{} {:.0}", pipe.name(), of(&estimate.clocks, *pipe).ceil())).collect();
    [
        estimate.operation.into(),
        estimate.case.into(),
        format!("`{}`", estimate.launch.kernel),
        estimate.registers.to_string(),
        estimate.blocks_an_sm.to_string(),
        format!("{}: {}", estimate.instructions, parts.join(", ")),
        estimate.bound_by.into(),
        time(1e9 * estimate.seconds),
    ]
}

/// Returns the sum over the kernels of each case, in the order of the cases.
fn totals(estimates: &[Estimate]) -> Vec<((&str, &str), f64)> {
    let mut totals: Vec<((&str, &str), f64)> = Vec::new();
    for estimate in estimates {
        let name = (estimate.operation, estimate.case);
        match totals.iter_mut().find(|(known, _)| *known == name) {
            Some((_, seconds)) => *seconds += estimate.seconds,
            None => totals.push((name, estimate.seconds)),
        }
    }
    totals
}

const TOTALS: [&str; 3] = ["operation", "case", "estimate"];

fn document(estimates: &[Estimate], date: &str, version: &str) -> String {
    let sums = totals(estimates)
        .into_iter()
        .map(|((operation, case), seconds)| [operation.to_owned(), case.to_owned(), time(1e9 * seconds)]);
    format!(
        "# What the kernels would take on an H100, by count\n\n\
         Of {date}, by `cargo xtask estimate`. **Nothing here was measured**: it is the machine code of nvcc {version} for {ARCH}, counted. A pipe of an SM works through its \
         instructions of the hottest loop without waiting for another, memory moves what must move, every branch of the loop is taken but dropout's; what needs longest is \
         the estimate. Latency, cache misses and the tail of a launch are not in it, so a measurement can only be longer.\n\n\
         Constants: {sms} SMs at {clock} GHz, {hbm} TB/s; an SM issues 4 instructions of a warp a clock, does 128 f32 and 64 integer operations, 16 special functions and 32 \
         shuffles a clock (CUDA C++ Programming Guide, arithmetic throughput of 9.0), moves 128 bytes of shared memory and L1, and 1,024 multiply-adds by `mma.sync`. \
         Shared memory counts as free of bank conflicts. Clocks are those of an SM for one pass of one warp through the loop, or through the kernel where nothing is repeated.\n\n\
         ## Cases\n\n{}\n## Kernels\n\n{}",
        table(&TOTALS, 2, sums),
        table(&HEADER, 3, estimates.iter().map(row)),
        sms = pipes::SMS,
        clock = pipes::CLOCK / 1e9,
        hbm = pipes::HBM / 1e12,
    )
}

/// Returns the seconds that the document states for each operation and case.
pub fn known(document: &str) -> BTreeMap<(String, String), f64> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches(['|', ' ']).split('|').map(str::trim).collect();
        let [operation, case, time] = cells[..] else { return None };
        Some(((operation.to_owned(), case.to_owned()), parse_time(time)?))
    };
    document.lines().filter_map(row).collect()
}

/// Fails if a case's sum exceeds the document's, or is missing from it.
fn check(estimates: &[Estimate], document: &str) -> Result<()> {
    let known = known(document);
    let mut wrong = Vec::new();
    for ((operation, case), seconds) in totals(estimates) {
        let now = time(1e9 * seconds);
        match known.get(&(operation.to_owned(), case.to_owned())) {
            Some(before) if seconds <= GROWTH * before => {}
            Some(before) => {
                wrong.push(format!("{operation} {case} is {now}, was {}", time(1e9 * before)));
            }
            None => wrong.push(format!("{operation} {case} is {now}, and not in the table")),
        }
    }
    ensure!(
        wrong.is_empty(),
        "{}; `cargo xtask estimate` renews {FILE}, if that is meant to be",
        wrong.join("; ")
    );
    println!("{} estimates are as in {FILE}", totals(estimates).len());
    Ok(())
}

/// Parses a time such as `1.23 ms` to seconds.
fn parse_time(text: &str) -> Option<f64> {
    let (value, unit) = text.split_once(' ')?;
    let scale = match unit {
        "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    Some(value.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_limited_by_what_runs_out_first() {
        assert_eq!(blocks_an_sm(128, 128, 0), 4);
        assert_eq!(blocks_an_sm(32, 128, 0), 16);
        assert_eq!(blocks_an_sm(32, 1024, 0), 2);
        assert_eq!(blocks_an_sm(32, 128, 75_000), 3);
    }

    fn sample(seconds: f64) -> Vec<Estimate> {
        let launch = Launch {
            kernel: "copy",
            source: "a.cu",
            threads: 128,
            shared: 0,
            blocks: 1.0,
            loops: 0,
            trips: 0.0,
            bytes: 0.0,
        };
        let clocks = BTreeMap::from([(Pipe::Issue, 2.0)]);
        let one = |seconds| Estimate {
            operation: "copy",
            case: "large",
            launch: launch.clone(),
            registers: 32,
            blocks_an_sm: 16,
            instructions: 8,
            clocks: clocks.clone(),
            bound_by: "issue",
            seconds,
        };
        vec![one(seconds / 2.0), one(seconds / 2.0)]
    }

    #[test]
    fn what_grows_is_refused_until_the_table_is_renewed() {
        let text = document(&sample(1e-3), "2025-01-31", "13.0");
        assert!(text.contains("| copy | large | 1.00 ms |"), "{text}");
        check(&sample(1e-3), &text).unwrap();
        check(&sample(0.9e-3), &text).unwrap();
        let message = check(&sample(1.06e-3), &text).unwrap_err().to_string();
        assert!(message.contains("copy large is 1.06 ms, was 1.00 ms"), "{message}");
        assert!(check(&sample(1e-3), "").unwrap_err().to_string().contains("not in the table"));
    }

    #[test]
    fn instructions_are_counted_by_pipe() {
        let text = ".text.f:\n/*0000*/ HMMA.16816.F32 R0, R1, R2, RZ ;\n/*0010*/ LDSM.16.M88.4 R0, [R1] ;\n/*0020*/ LDG.E.128 R0, [R1] ;\n\
                    /*0030*/ FFMA R0, R1, R2, R3 ;\n/*0040*/ MUFU.EX2 R0, R1 ;\n/*0050*/ @P0 EXIT ;\n";
        let code = &sass::functions(text)["f"];
        let clocks = clocks(&code.instructions.iter().collect::<Vec<_>>());
        assert_eq!((of(&clocks, Pipe::Tensor), of(&clocks, Pipe::Memory)), (2.0, 4.0 + 4.0));
        assert_eq!(
            (of(&clocks, Pipe::Fma), of(&clocks, Pipe::Mufu), of(&clocks, Pipe::Issue)),
            (0.25, 2.0, 1.5)
        );
    }
}
