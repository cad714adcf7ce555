//! Counts the operations in machine code.
//!
//! An instruction of sm_80 to sm_90a is 16 bytes, little endian. Of its 128 bits, 0 to 8 encode the operation, 9 to 11 tell whether operands are
//! registers, constants or uniform registers, and 73 to 75 are the width of a load or store. Loaded values are waited for by one of six barriers: 110
//! to 112 name the barrier that a load sets (7: none), 116 to 121 those that are waited for before the instruction. The vendor documents none of
//! this: it was inferred from the listings by cuobjdump of CUDA 13.2 of code of nvcc 13.0, and compared with them for each instruction of every
//! kernel; the barriers follow public assemblers.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// Architectures with this encoding.
pub const ARCHITECTURES: Range<u32> = 80..100;

const INSTRUCTION_BYTES: usize = 16;
const OPERATION_MASK: u64 = 0x1ff;
/// Position of the width in the upper 64 bits.
const WIDTH_SHIFT: u32 = 73 - 64;
const WIDTH_MASK: u64 = 7;
/// Bytes of a width: u8, i8, u16, i16, and 32, 64 and 128 bits.
const WIDTHS: [u32; 7] = [1, 1, 2, 2, 4, 8, 16];

/// Positions of the barriers in the upper 64 bits.
const SET_SHIFT: u32 = 110 - 64;
const SET_MASK: u64 = 7;
const WAIT_SHIFT: u32 = 116 - 64;
const BARRIERS: usize = 6;

/// Kinds of instructions, by the names of the disassembler; those that no test needs are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// A matmul on the tensor cores, as of `mma.sync` with floats.
    Hmma,
    /// `ldmatrix`.
    Ldsm,
    /// `cp.async`.
    Ldgsts,
    Ldg,
    Stg,
    /// Load and store by generic address: of global, shared or local memory.
    Ld,
    St,
    /// Load and store of local memory.
    Ldl,
    Stl,
    Lds,
    Sts,
    /// Atomics of global memory without a result.
    Red,
    /// Atomics of global memory, and by generic address.
    Atom,
    /// Approximations: exponential, reciprocal and the like.
    Mufu,
    /// Barrier of a block.
    Bar,
    Exit,
}

impl Operation {
    fn of(low: u64) -> Option<Self> {
        Some(match low & OPERATION_MASK {
            0x03b => Self::Ldsm,
            0x03c => Self::Hmma,
            0x108 => Self::Mufu,
            0x11d => Self::Bar,
            0x14d => Self::Exit,
            0x180 => Self::Ld,
            0x181 => Self::Ldg,
            0x183 => Self::Ldl,
            0x184 => Self::Lds,
            0x185 => Self::St,
            0x186 => Self::Stg,
            0x187 => Self::Stl,
            0x188 => Self::Sts,
            // The latter for floats on sm_90.
            0x18e | 0x1a6 => Self::Red,
            // Atomics of global memory: any, for floats on sm_90, compare-and-swap; and the same by generic address.
            0x1a8 | 0x1a3 | 0x1a9 | 0x18a | 0x1a2 | 0x18b => Self::Atom,
            0x1ae => Self::Ldgsts,
            _ => return None,
        })
    }

    fn has_width(self) -> bool {
        use Operation::{Ld, Ldg, Ldgsts, Ldl, Lds, St, Stg, Stl, Sts};
        matches!(self, Ldgsts | Ldg | Stg | Ld | St | Ldl | Stl | Lds | Sts)
    }
}

/// Decodes an instruction's operation, and its width in bytes if it is a load or store.
fn decode(low: u64, high: u64) -> Option<(Operation, Option<u32>)> {
    let operation = Operation::of(low)?;
    let width = || {
        let code = (high >> WIDTH_SHIFT & WIDTH_MASK) as usize;
        *WIDTHS.get(code).unwrap_or_else(|| panic!("{low:#018x} {high:#018x}: no width has the code {code}"))
    };
    Some((operation, operation.has_width().then(width)))
}

/// Counts of the operations in a kernel's code, by width in bytes.
pub struct Census {
    pub instructions: usize,
    counts: BTreeMap<(Operation, Option<u32>), usize>,
    /// Most bytes a thread that 8- and 16-byte loads of global memory, in the order of the code, request before one of them is waited for.
    pub bytes_in_flight: u32,
}

impl Census {
    pub fn of(code: &[u8]) -> Self {
        assert_eq!(code.len() % INSTRUCTION_BYTES, 0, "{} bytes of code", code.len());
        let mut counts = BTreeMap::new();
        let (mut pending, mut bytes_in_flight) = ([0; BARRIERS], 0);
        for instruction in code.chunks_exact(INSTRUCTION_BYTES) {
            let word = |at| u64::from_le_bytes(instruction[at..at + 8].try_into().unwrap());
            for (barrier, bytes) in pending.iter_mut().enumerate() {
                if word(8) >> WAIT_SHIFT >> barrier & 1 != 0 {
                    *bytes = 0;
                }
            }
            let Some(found) = decode(word(0), word(8)) else { continue };
            *counts.entry(found).or_insert(0) += 1;
            if let (Operation::Ldg, Some(width @ (8 | 16))) = found {
                if let Some(bytes) = pending.get_mut((word(8) >> SET_SHIFT & SET_MASK) as usize) {
                    *bytes += width;
                }
                bytes_in_flight = bytes_in_flight.max(pending.iter().sum());
            }
        }
        Self { instructions: code.len() / INSTRUCTION_BYTES, counts, bytes_in_flight }
    }

    pub fn count(&self, operation: Operation) -> usize {
        self.of_operation(operation).map(|(_, count)| count).sum()
    }

    /// Returns the number of accesses of `width` bytes.
    pub fn count_of_width(&self, operation: Operation, width: u32) -> usize {
        self.of_operation(operation).filter(|&(found, _)| found == Some(width)).map(|(_, count)| count).sum()
    }

    fn of_operation(&self, operation: Operation) -> impl Iterator<Item = (Option<u32>, usize)> {
        let counts = self.counts.iter().filter(move |((found, _), _)| *found == operation);
        counts.map(|(&(_, width), &count)| (width, count))
    }
}

/// Prints a census such as `480 instructions: 32 HMMA, 6 LDG.128`, widths in bits as in a disassembler's listing.
impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} instructions", self.instructions)?;
        let mut separator = ": ";
        for ((operation, width), count) in &self.counts {
            let name = format!("{operation:?}").to_uppercase();
            write!(f, "{separator}{count} {name}")?;
            if let Some(width) = width {
                write!(f, ".{}", 8 * width)?;
            }
            separator = ", ";
        }
        Ok(())
    }
}

/// Instructions as cuobjdump lists them, each with its two 64-bit words: first of sm_80, then of sm_90a.
const LISTING: &str = include_str!("listing.sass");

/// Parses the name in a line of the listing, such as `@P1 LDG.E.64.STRONG.SYS`.
fn listed(line: &str) -> Option<(Operation, Option<u32>)> {
    use Operation::{Atom, Bar, Exit, Hmma, Ld, Ldg, Ldgsts, Ldl, Lds, Ldsm, Mufu, Red, St, Stg, Stl, Sts};
    let name = line.split_whitespace().find(|word| !word.starts_with('@'))?;
    let mut parts = name.split('.');
    let operation = match parts.next()? {
        "HMMA" => Hmma,
        "LDSM" => Ldsm,
        "LDGSTS" => Ldgsts,
        "LDG" => Ldg,
        "STG" => Stg,
        "LD" => Ld,
        "ST" => St,
        "LDL" => Ldl,
        "STL" => Stl,
        "LDS" => Lds,
        "STS" => Sts,
        "RED" | "REDG" => Red,
        "ATOM" | "ATOMG" => Atom,
        "MUFU" => Mufu,
        "BAR" => Bar,
        "EXIT" => Exit,
        _ => return None,
    };
    let width = parts.find_map(|part| match part {
        "U8" | "S8" => Some(1),
        "U16" | "S16" => Some(2),
        "64" => Some(8),
        "128" => Some(16),
        _ => None,
    });
    Some((operation, operation.has_width().then(|| width.unwrap_or(4))))
}

#[test]
fn instructions_are_decoded_as_listed() {
    for line in LISTING.lines() {
        let (_, words) = line.split_once("/*").expect("the instruction's words");
        let mut words = words.split_whitespace().map_while(|word| word.strip_prefix("0x"));
        let mut word = || u64::from_str_radix(words.next().expect("two words"), 16).expect("a number");
        let (low, high) = (word(), word());
        assert_eq!(decode(low, high), listed(line), "{line}");
    }
}
