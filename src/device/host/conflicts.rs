//! Bank conflicts: the wavefronts in which shared memory serves each access of a warp, and the number without conflicts.
//!
//! Shared memory has 32 banks, each 4 bytes wide. In a wavefront a bank delivers one 32-bit word, to all lanes that request it (CUDA C++
//! Programming Guide, "Shared Memory"). An access of up to 4 bytes per lane is served for the whole warp, one of 8 bytes for each half-warp, one
//! of 16 bytes for each quarter-warp; each of these parts takes as many wavefronts as there are distinct words in its fullest bank.
//!
//! The threads of a block run one after the other, so simultaneous accesses of a warp must be reassembled: accesses of its lanes belong together
//! when they come from one instruction that each lane executes for the same n-th time since the warp last passed a collective or a barrier.

use std::collections::HashMap;
use std::fmt;
use std::ops::AddAssign;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::LANES;
use super::fault::locate;

const BANKS: usize = 32;
const WORD_BYTES: u32 = 4;
/// Widest access of a lane, in bytes. A wider read or write by the C++ compiler is several accesses on the GPU.
const ACCESS_BYTES_MAX: u32 = 16;

/// Shared-memory accesses of one kind at one source line of a kernel, summed over all launches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedAccess {
    /// Name of the kernel, as in [`HostKernel`](crate::device::HostKernel).
    pub kernel: &'static str,
    /// Source line, as `kernels/file:line`.
    pub site: String,
    /// `true` for writes, `false` for reads.
    pub write: bool,
    /// Bytes per lane: 1, 2, 4, 8 or 16.
    pub bytes: u32,
    /// Accesses of a whole warp, with any number of active lanes.
    pub accesses: u64,
    /// Wavefronts that these accesses took.
    pub wavefronts: u64,
    /// Wavefronts without any conflict: one for each warp, half-warp (8 bytes) or quarter-warp (16 bytes) that had an active lane.
    pub ideal: u64,
}

impl SharedAccess {
    /// Additional wavefronts due to bank conflicts.
    #[must_use]
    pub fn excess(&self) -> u64 {
        self.wavefronts - self.ideal
    }
}

impl fmt::Display for SharedAccess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, site, bytes, accesses, wavefronts, ideal, .. } = self;
        let does = if self.write { "writes" } else { "reads" };
        write!(
            formatter,
            "{kernel} at {site} {does} {bytes} bytes a lane: {accesses} accesses in {wavefronts} wavefronts, ideal {ideal}"
        )
    }
}

/// An instruction that accesses shared memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Instruction {
    /// Return address of its hook: one past the call.
    return_address: usize,
    write: bool,
    bytes: u32,
    /// Index of the part, where one instruction of the host corresponds to several of the GPU.
    part: u32,
}

#[derive(Clone, Copy, Default)]
struct Tally {
    accesses: u64,
    wavefronts: u64,
    ideal: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.accesses += other.accesses;
        self.wavefronts += other.wavefronts;
        self.ideal += other.ideal;
    }
}

/// Byte offset in shared memory that each lane of a warp accesses; `None` for an inactive lane.
type WarpAccess = [Option<u32>; LANES];

/// Executions of one instruction by a warp since it last passed a collective or a barrier.
#[derive(Default)]
struct Executions {
    of_lane: [usize; LANES],
    accesses: Vec<WarpAccess>,
}

impl Executions {
    fn log(&mut self, lane: usize, offset: u32) {
        let execution = self.of_lane[lane];
        self.of_lane[lane] += 1;
        if execution == self.accesses.len() {
            self.accesses.push([None; LANES]);
        }
        self.accesses[execution][lane] = Some(offset);
    }
}

/// Counts for one block.
pub(super) struct Counter {
    warps: Vec<HashMap<Instruction, Executions>>,
    tallies: HashMap<Instruction, Tally>,
}

impl Counter {
    pub(super) fn new(threads: usize) -> Self {
        let mut warps = Vec::new();
        warps.resize_with(threads.div_ceil(LANES), HashMap::new);
        Self { warps, tallies: HashMap::new() }
    }

    /// Logs an access of `bytes` bytes from byte `offset` of shared memory on.
    pub(super) fn log(&mut self, thread: usize, offset: u32, bytes: u32, write: bool, return_address: usize) {
        let width = 1 << (offset | bytes | ACCESS_BYTES_MAX).trailing_zeros();
        for part in 0..bytes / width {
            let instruction = Instruction { return_address, write, bytes: width, part };
            let executions = self.warps[thread / LANES].entry(instruction).or_default();
            executions.log(thread % LANES, offset + part * width);
        }
    }

    /// Evaluates the warp's accesses up to the collective or barrier that it is about to pass.
    pub(super) fn pass_warp(&mut self, warp: usize) {
        for (instruction, executions) in self.warps[warp].drain() {
            let tally = self.tallies.entry(instruction).or_default();
            for access in &executions.accesses {
                *tally += evaluate(access, instruction.bytes);
            }
        }
    }

    /// Evaluates the accesses of all warps, which are about to pass a barrier.
    pub(super) fn pass_block(&mut self) {
        (0..self.warps.len()).for_each(|warp| self.pass_warp(warp));
    }
}

/// Computes the cost of one access of a warp, of `bytes` bytes per lane.
///
/// The half- or quarter-warps of an access of 8 or 16 bytes are always served separately here. Hardware may serve some together where they
/// request few words, so this is the worst case, and `ideal` counts each of them as well.
fn evaluate(access: &WarpAccess, bytes: u32) -> Tally {
    let lanes = LANES / bytes.div_ceil(WORD_BYTES) as usize;
    let mut tally = Tally { accesses: 1, ..Tally::default() };
    for part in access.chunks(lanes) {
        let wavefronts = wavefronts(part, bytes);
        tally.wavefronts += wavefronts;
        tally.ideal += u64::from(wavefronts > 0);
    }
    tally
}

/// Returns the number of distinct words in the fullest bank, among the words that these lanes request.
fn wavefronts(lanes: &[Option<u32>], bytes: u32) -> u64 {
    let mut words = [0; BANKS];
    let mut count = 0;
    for offset in lanes.iter().flatten() {
        for word in offset / WORD_BYTES..=(offset + bytes - 1) / WORD_BYTES {
            words[count] = word;
            count += 1;
        }
    }
    let words = &mut words[..count];
    words.sort_unstable();
    let mut of_bank = [0; BANKS];
    for different in words.chunk_by(PartialEq::eq) {
        of_bank[different[0] as usize % BANKS] += 1;
    }
    of_bank.into_iter().max().unwrap_or(0)
}

/// Counts of all launches of a device.
#[derive(Default)]
pub(super) struct Totals {
    kernels: Mutex<HashMap<&'static str, HashMap<Instruction, Tally>>>,
}

impl Totals {
    fn kernels(&self) -> MutexGuard<'_, HashMap<&'static str, HashMap<Instruction, Tally>>> {
        self.kernels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the counts of a finished block.
    pub(super) fn add(&self, kernel: &'static str, mut block: Counter) {
        block.pass_block();
        let mut kernels = self.kernels();
        let tallies = kernels.entry(kernel).or_default();
        for (instruction, tally) in block.tallies {
            *tallies.entry(instruction).or_default() += tally;
        }
    }

    /// Returns the counts by kernel, source line, kind and width, in this order.
    pub(super) fn report(&self) -> Vec<SharedAccess> {
        let mut sites: HashMap<(&str, String, bool, u32), Tally> = HashMap::new();
        for (&kernel, tallies) in self.kernels().iter() {
            for (&Instruction { return_address, write, bytes, .. }, &tally) in tallies {
                *sites.entry((kernel, locate(return_address - 1), write, bytes)).or_default() += tally;
            }
        }
        let mut report: Vec<SharedAccess> = sites
            .into_iter()
            .map(|((kernel, site, write, bytes), Tally { accesses, wavefronts, ideal })| SharedAccess {
                kernel,
                site,
                write,
                bytes,
                accesses,
                wavefronts,
                ideal,
            })
            .collect();
        report.sort_by_cached_key(|access| (access.kernel, place(&access.site), access.write, access.bytes));
        report
    }
}

/// Splits a site into file and line, so that line 9 sorts before line 10.
fn place(site: &str) -> (String, u32) {
    let place = site.rsplit_once(':').and_then(|(file, line)| Some((file, line.parse().ok()?)));
    place.map_or((site.to_owned(), 0), |(file, line)| (file.to_owned(), line))
}
