//! Pipe that an instruction occupies on an SM of compute capability 9.0, and its clocks there.

use super::sass::Instruction;

/// SMs of an H100 SXM.
pub const SMS: f64 = 132.0;
/// Hz: the highest clock that the card sustains under load; its boost is 1.98 GHz.
pub const CLOCK: f64 = 1.755e9;
/// Bytes a second of a large copy, read and written; the datasheet says 3.35e12.
pub const HBM: f64 = 3.0e12;
/// Schedulers of an SM, each with a quarter of the units.
const QUARTERS: f64 = 4.0;
pub const REGISTERS: u32 = 65_536;
pub const SHARED_BYTES: u32 = 233_472;
/// Bytes of a block's shared memory that the system reserves.
pub const SHARED_OF_SYSTEM: u32 = 1024;
pub const THREADS: u32 = 2048;
pub const BLOCKS: u32 = 32;

/// A unit of an SM that works independently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pipe {
    Tensor,
    /// Shared memory and L1: 128 bytes a clock.
    Memory,
    Issue,
    /// Single-precision multiply and add, and integer multiply.
    Fma,
    /// Integer addition and logic, comparisons, conversions, selections.
    Alu,
    /// Exponentials, reciprocals and the like.
    Mufu,
    Shuffle,
}

pub const PIPES: [Pipe; 7] =
    [Pipe::Tensor, Pipe::Memory, Pipe::Issue, Pipe::Fma, Pipe::Alu, Pipe::Mufu, Pipe::Shuffle];

impl Pipe {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Memory => "shared/L1",
            Self::Issue => "issue",
            Self::Fma => "FMA",
            Self::Alu => "ALU",
            Self::Mufu => "MUFU",
            Self::Shuffle => "SHFL",
        }
    }
}

/// Operations per clock and SM, as the CUDA C++ Programming Guide lists them for 9.0 ("Throughput of Native Arithmetic Instructions").
const FMA: f64 = 128.0;
const ALU: f64 = 64.0;
const INTEGER_MULTIPLY: f64 = 64.0;
const SPECIAL: f64 = 16.0;
const SHUFFLE: f64 = 32.0;
/// Bytes per clock and SM of shared memory and L1.
const MEMORY: f64 = 128.0;
/// Multiply-adds per clock and SM by `mma.sync` in 16 bits: half of the 2,048 that `wgmma` reaches.
const TENSOR: f64 = 1024.0;
/// Multiply-adds of HMMA.16816: 16 × 8 × 16.
const HMMA: f64 = 2048.0;
const LANES: f64 = 32.0;

/// Returns the pipe, beside issue, that an instruction of a warp uses, and its SM clocks there; issue takes a quarter of a clock for each.
pub fn cost(instruction: &Instruction) -> Option<(Pipe, f64)> {
    let name = instruction.name.as_str();
    let (operation, _) = name.split_once('.').unwrap_or((name, ""));
    let (pipe, clocks) = match operation {
        "HMMA" => (Pipe::Tensor, HMMA / TENSOR * if name.contains("1688") { 0.5 } else { 1.0 }),
        "LDSM" => (Pipe::Memory, LANES * 4.0 * last_number(name).unwrap_or(1.0) / MEMORY),
        "LDS" | "STS" | "LDG" | "STG" | "LDGSTS" | "LD" | "ST" | "RED" | "ATOMG" | "ATOMS" => {
            (Pipe::Memory, LANES * width(name) / MEMORY)
        }
        "FFMA" | "FMUL" | "FADD" => (Pipe::Fma, LANES / FMA),
        // Only one half of the units has these; moves of registers count, too.
        "IMAD" | "IMUL" => (Pipe::Fma, LANES / INTEGER_MULTIPLY),
        "FMNMX" | "FSETP" | "FSEL" | "FSET" | "FCHK" | "HFMA2" | "HADD2" | "HMUL2" | "HMNMX2" => {
            (Pipe::Alu, LANES / ALU)
        }
        "MUFU" | "POPC" | "FLO" | "BREV" => (Pipe::Mufu, LANES / SPECIAL),
        "I2F" | "F2I" | "F2F" | "F2FP" | "I2FP" => (Pipe::Alu, LANES / ALU),
        "SHFL" | "REDUX" => (Pipe::Shuffle, LANES / SHUFFLE),
        // Uniform instructions, jumps and barriers have their own units.
        _ if operation.starts_with('U') || is_control(operation) => return None,
        _ => (Pipe::Alu, LANES / ALU),
    };
    Some((pipe, clocks))
}

/// SM clocks to issue one instruction of a warp.
pub const ISSUE: f64 = 1.0 / QUARTERS;

fn is_control(operation: &str) -> bool {
    const CONTROL: [&str; 24] = [
        "BRA",
        "BRX",
        "EXIT",
        "NOP",
        "BAR",
        "BSSY",
        "BSYNC",
        "BREAK",
        "WARPSYNC",
        "DEPBAR",
        "LDGDEPBAR",
        "CALL",
        "RET",
        "YIELD",
        "NANOSLEEP",
        "LDC",
        "ULDC",
        "S2R",
        "S2UR",
        "CS2R",
        "R2UR",
        "MEMBAR",
        "ERRBAR",
        "CCTL",
    ];
    CONTROL.contains(&operation)
}

/// Returns the bytes of a lane's access, by the suffix of the instruction's name.
pub fn width(name: &str) -> f64 {
    let has = |suffix: &str| name.split('.').any(|part| part == suffix);
    if has("128") {
        16.0
    } else if has("64") {
        8.0
    } else if has("U16") || has("S16") || has("16") {
        2.0
    } else if has("U8") || has("S8") {
        1.0
    } else {
        4.0
    }
}

/// Returns the last number of a name, such as 4 of `LDSM.16.MT88.4`.
fn last_number(name: &str) -> Option<f64> {
    name.rsplit('.').next().and_then(|part| part.parse().ok())
}

/// Returns an instruction's weight in the search for the hottest loop: multiply-adds of matmuls, else bytes of global memory.
pub fn heat(instruction: &Instruction) -> f64 {
    match instruction.name.split('.').next() {
        Some("HMMA") => 1e6,
        Some("LDG" | "STG" | "LDGSTS") => 1e2 * width(&instruction.name),
        _ => 1e-3,
    }
}
