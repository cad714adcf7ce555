//! The CPU emulator: kernels run as emulated blocks, warps and threads on the cores of this machine.
//!
//! The kernels are the same CUDA sources that nvcc compiles, compiled by the C++ compiler against `kernels/host/simt.h`. This module allocates
//! their memory, schedules their threads, and turns behavior that is undefined on a GPU (a divergent barrier, an access out of bounds, a race on
//! shared memory) into an error that names the kernel and the line.

mod conflicts;
mod fault;
mod gemm;
mod memory;
mod options;
mod pool;
mod scheduler;
mod signals;
mod stack;
mod streams;
mod valgrind;
mod worker;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::registry::{self, HostKernel};
use super::{Backend, Command, Error, Gemm, Launch, Result, Timings, Transfer, table};
pub use conflicts::SharedAccess;
use conflicts::Totals;
pub use options::{HostOptions, ThreadOrder};
use streams::{Recorded, Streams};

/// Threads per warp.
const LANES: usize = 32;
/// Maximum threads per block on every supported GPU.
const THREADS_MAX: u32 = 1024;
/// Maximum dynamic shared memory of one block on an H100, in bytes.
const SHARED_BYTES_MAX: u32 = 227 * 1024;

pub(super) struct HostDevice {
    options: HostOptions,
    streams: Streams,
    gemm_ns: AtomicU64,
    kernel_ns: AtomicU64,
    conflicts: Option<Totals>,
}

impl HostDevice {
    pub(super) fn new(options: HostOptions) -> Result<Self> {
        check_processor()?;
        options.check()?;
        if options.catch_faults {
            signals::install_handlers();
        }
        pool::watch_forks();
        Ok(Self {
            options,
            streams: Streams::default(),
            gemm_ns: AtomicU64::new(0),
            kernel_ns: AtomicU64::new(0),
            conflicts: options.bank_conflicts.then(Totals::default),
        })
    }

    fn find_kernel(&self, launch: &Launch<'_>) -> Result<HostKernel> {
        let kernel = registry::find(launch.kernel, self.options.instrumented())
            .ok_or_else(|| Error::UnknownKernel(launch.kernel.to_string()))?;
        launch.check(kernel.threads, kernel.params_bytes, SHARED_BYTES_MAX)?;
        Ok(kernel)
    }

    /// # Safety
    /// Every address in the params struct is valid for what the kernel does with it.
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let start = Instant::now();
        let kernel = self.find_kernel(launch)?;
        let [x, y, z] = launch.shape.grid;
        let blocks = u64::from(x) * u64::from(y) * u64::from(z);
        let failure = Mutex::new(None);
        let run = |index: u64| {
            let block = [
                (index % u64::from(x)) as u32,
                (index / u64::from(x) % u64::from(y)) as u32,
                (index / (u64::from(x) * u64::from(y))) as u32,
            ];
            // SAFETY: the kernel was compiled for these params; the addresses in them are the caller's promise.
            let result =
                unsafe { worker::run_block(&kernel, launch, block, &self.options, self.conflicts.as_ref()) };
            result.map_err(|error| {
                failure.lock().expect("no thread panics while it holds this").get_or_insert(error);
            })
        };
        // An error stops the other blocks early; which one is reported may then depend on timing. The scope keeps a single block, too, from the
        // caller's thread: one that runs blocks keeps the stacks of their threads, which are too many for a thousand callers.
        let _: std::result::Result<(), ()> =
            pool::install(|| rayon::scope(|_| (0..blocks).into_par_iter().try_for_each(run)))?;
        add_time(&self.kernel_ns, start);
        failure.into_inner().expect("no thread panicked").map_or(Ok(()), Err)
    }

    /// # Safety
    /// The three matrices are valid for their shapes, and `c` overlaps neither operand.
    unsafe fn gemm(&self, gemm: &Gemm) -> Result<()> {
        let start = Instant::now();
        // SAFETY: passed on to the caller.
        pool::install(|| unsafe { gemm::run(gemm) })?;
        add_time(&self.gemm_ns, start);
        Ok(())
    }

    /// Executes a stream's command at once.
    ///
    /// # Safety
    /// As [`Backend::enqueue`].
    unsafe fn execute(&self, command: &Command<'_>) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe {
            match command {
                Command::Launch(launch) => return self.launch(launch),
                Command::Gemm(gemm, _) => return self.gemm(gemm),
                Command::Transfer(Transfer { destination, source, bytes, .. }) => {
                    std::ptr::copy_nonoverlapping(*source as *const u8, *destination as *mut u8, *bytes);
                }
                Command::Zero { address, bytes } => std::ptr::write_bytes(*address as *mut u8, 0, *bytes),
            }
        }
        Ok(())
    }
}

/// The kernels are compiled for x86-64-v3 unless the build says otherwise; an older processor would fault on them.
fn check_processor() -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    if table::HOST_MARCH == "x86-64-v3"
        && !(is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("f16c"))
    {
        return Err(Error::HostProcessor { built: table::HOST_MARCH });
    }
    Ok(())
}

fn add_time(total: &AtomicU64, start: Instant) {
    total.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
}

impl Backend for HostDevice {
    fn name(&self) -> &'static str {
        "host"
    }

    fn description(&self) -> String {
        format!("host, {} threads", rayon::current_num_threads())
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        memory::allocate(bytes, self.options.guard)
    }

    unsafe fn free(&self, address: u64, bytes: usize) {
        // SAFETY: passed on to the caller.
        unsafe { memory::free(address, bytes, self.options.guard) }
    }

    unsafe fn upload(&self, destination: u64, source: &[u8]) -> Result<()> {
        // SAFETY: `destination` is valid for the length and cannot overlap a borrowed host slice.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), destination as *mut u8, source.len()) };
        Ok(())
    }

    unsafe fn download(&self, destination: &mut [u8], source: u64) -> Result<()> {
        // SAFETY: as in `upload`, the other way.
        unsafe {
            std::ptr::copy_nonoverlapping(source as *const u8, destination.as_mut_ptr(), destination.len());
        }
        Ok(())
    }

    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { std::ptr::write_bytes(address as *mut u8, 0, bytes) };
        Ok(())
    }

    fn allocate_staging(&self, bytes: usize) -> Result<u64> {
        memory::allocate(bytes, false)
    }

    unsafe fn free_staging(&self, address: u64, bytes: usize) {
        // SAFETY: passed on to the caller.
        unsafe { memory::free(address, bytes, false) }
    }

    fn default_stream(&self) -> u64 {
        Streams::DEFAULT
    }

    fn create_stream(&self) -> Result<u64> {
        Ok(self.streams.create())
    }

    unsafe fn adopt_stream(&self, stream: u64) -> Result<()> {
        Err(Error::WrongDevice {
            argument: "handle",
            actual: format!("{stream:#x}, on the host device"),
            expected: "a stream of a CUDA device".into(),
        })
    }

    unsafe fn lent_stream(&self, handle: u64) -> Result<u64> {
        if [0, Streams::DEFAULT].contains(&handle) {
            return Ok(Streams::DEFAULT);
        }
        Err(Error::WrongDevice {
            argument: "handle",
            actual: format!("{handle:#x}, on the host device"),
            expected: "0, or a stream of a CUDA device".into(),
        })
    }

    unsafe fn release_stream(&self, _stream: u64, _adopted: bool) {}

    unsafe fn enqueue(&self, stream: u64, command: &Command<'_>) -> Result<()> {
        if self.streams.record(stream, command)? {
            // Errors of a launch are reported where it is requested, not where the graph runs.
            return match command {
                Command::Launch(launch) => self.find_kernel(launch).map(|_| ()),
                _ => Ok(()),
            };
        }
        // SAFETY: passed on to the caller.
        unsafe { self.execute(command) }
    }

    unsafe fn synchronize(&self, stream: u64) -> Result<()> {
        self.streams.require_running(stream, "wait for the stream")
    }

    unsafe fn record(&self, _stream: u64) -> Result<u64> {
        Ok(Box::into_raw(Box::new(Instant::now())) as u64)
    }

    unsafe fn wait(&self, _stream: u64, _event: u64) -> Result<()> {
        Ok(())
    }

    unsafe fn wait_for_event(&self, _event: u64) -> Result<()> {
        Ok(())
    }

    unsafe fn elapsed(&self, from: u64, to: u64) -> Result<f64> {
        // SAFETY: both came from `record` and are alive.
        let [from, to] = [from, to].map(|event| unsafe { *(event as *const Instant) });
        let forwards = to.saturating_duration_since(from).as_secs_f64();
        Ok(forwards - from.saturating_duration_since(to).as_secs_f64())
    }

    unsafe fn free_event(&self, event: u64) {
        // SAFETY: it came from `record` and is not used any more.
        drop(unsafe { Box::from_raw(event as *mut Instant) });
    }

    unsafe fn is_capturing(&self, stream: u64) -> Result<bool> {
        Ok(self.streams.is_capturing(stream))
    }

    unsafe fn begin_capture(&self, stream: u64) -> Result<()> {
        self.streams.begin_capture(stream)
    }

    unsafe fn end_capture(&self, stream: u64) -> Result<(u64, Vec<String>)> {
        let commands = self.streams.end_capture(stream);
        let kernels = commands.iter().filter_map(Recorded::kernel).map(str::to_owned).collect();
        Ok((Box::into_raw(Box::new(commands)) as u64, kernels))
    }

    unsafe fn launch_graph(&self, graph: u64, stream: u64, _kernels: &[String]) -> Result<()> {
        self.streams.require_running(stream, "launch a graph")?;
        // SAFETY: it came from `end_capture` and is alive.
        let commands = unsafe { &*(graph as *const Vec<Recorded>) };
        // SAFETY: the addresses are still valid by the caller's promise.
        commands.iter().try_for_each(|command| unsafe { self.execute(&command.command()) })
    }

    unsafe fn free_graph(&self, graph: u64) {
        // SAFETY: it came from `end_capture` and is not used any more.
        drop(unsafe { Box::from_raw(graph as *mut Vec<Recorded>) });
    }

    fn shared_bytes_max(&self) -> u32 {
        SHARED_BYTES_MAX
    }

    fn gemm_library(&self) -> Result<String> {
        Ok("the crate gemm".into())
    }

    fn timings(&self) -> Timings {
        let read = |total: &AtomicU64| Duration::from_nanos(total.load(Ordering::Relaxed));
        Timings { gemm: read(&self.gemm_ns), kernels: read(&self.kernel_ns) }
    }

    fn shared_memory_accesses(&self) -> Vec<SharedAccess> {
        self.conflicts.as_ref().map_or_else(Vec::new, Totals::report)
    }
}
