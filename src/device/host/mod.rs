//! The host device: kernels run as emulated blocks, warps and threads on the cores of this machine.
//!
//! The kernels are the same CUDA sources that nvcc compiles, compiled by the C++ compiler against
//! `kernels/host/simt.h`. This module allocates their memory, schedules their threads, and turns what is undefined on a GPU
//! (a divergent barrier, an access out of bounds, a race on shared memory) into an error that names the kernel and the line.

mod fault;
mod gemm;
mod kernels;
mod memory;
mod options;
mod scheduler;
mod worker;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::{Backend, Error, Gemm, Launch, Result, Timings, table};
pub use kernels::HostKernel;
pub(super) use kernels::all as kernels;
pub use options::{HostOptions, ThreadOrder};

/// Threads of a block on every supported GPU.
const THREADS_MAX: u32 = 1024;
/// Dynamic shared memory that an H100 grants one block.
const SHARED_BYTES_MAX: u32 = 227 * 1024;

pub(super) struct HostDevice {
    options: HostOptions,
    gemm_ns: AtomicU64,
    kernel_ns: AtomicU64,
}

impl HostDevice {
    pub(super) fn new(options: HostOptions) -> Result<Self> {
        check_processor()?;
        fault::install_handler();
        Ok(Self { options, gemm_ns: AtomicU64::new(0), kernel_ns: AtomicU64::new(0) })
    }

    fn find_kernel(&self, launch: &Launch<'_>) -> Result<HostKernel> {
        let kernel = kernels::find(launch.kernel, self.options.sanitize)
            .ok_or_else(|| Error::UnknownKernel(launch.kernel.to_string()))?;
        let wrong = |argument, actual: String, expected: String| {
            Err(Error::Launch { kernel: launch.kernel.to_string(), argument, actual, expected })
        };
        if launch.threads != kernel.threads || launch.threads > THREADS_MAX {
            return wrong("threads", launch.threads.to_string(), kernel.threads.to_string());
        }
        if launch.params.len() != kernel.params_bytes as usize {
            return wrong(
                "params",
                format!("{} bytes", launch.params.len()),
                format!("{} bytes", kernel.params_bytes),
            );
        }
        if launch.shared_bytes > SHARED_BYTES_MAX {
            return wrong(
                "shared_bytes",
                launch.shared_bytes.to_string(),
                format!("at most {SHARED_BYTES_MAX}"),
            );
        }
        Ok(kernel)
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

    unsafe fn copy(&self, destination: u64, source: u64, bytes: usize) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { std::ptr::copy_nonoverlapping(source as *const u8, destination as *mut u8, bytes) };
        Ok(())
    }

    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { std::ptr::write_bytes(address as *mut u8, 0, bytes) };
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let start = Instant::now();
        let kernel = self.find_kernel(launch)?;
        let [x, y, z] = launch.grid;
        let blocks = u64::from(x) * u64::from(y) * u64::from(z);
        let failure = Mutex::new(None);
        let run = |index: u64| {
            let block = [
                (index % u64::from(x)) as u32,
                (index / u64::from(x) % u64::from(y)) as u32,
                (index / (u64::from(x) * u64::from(y))) as u32,
            ];
            // SAFETY: the kernel was compiled for these params; the addresses in them are the caller's promise.
            let result = unsafe { worker::run_block(&kernel, launch, block, self.options.order) };
            result.map_err(|error| {
                failure.lock().expect("no thread panics while it holds this").get_or_insert(error);
            })
        };
        // An error stops the other blocks early; which one is reported may then depend on timing.
        let _: std::result::Result<(), ()> = (0..blocks).into_par_iter().try_for_each(run);
        add_time(&self.kernel_ns, start);
        failure.into_inner().expect("no thread panicked").map_or(Ok(()), Err)
    }

    unsafe fn gemm(&self, gemm: &Gemm) -> Result<()> {
        let start = Instant::now();
        // SAFETY: passed on to the caller.
        unsafe { gemm::run(gemm) };
        add_time(&self.gemm_ns, start);
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn timings(&self) -> Timings {
        let read = |total: &AtomicU64| Duration::from_nanos(total.load(Ordering::Relaxed));
        Timings { gemm: read(&self.gemm_ns), kernels: read(&self.kernel_ns) }
    }
}
