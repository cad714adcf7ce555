//! Matrix products of a CUDA device, by cuBLASLt.
//!
//! The library proposes several algorithms for a product. The first time that a product of about a size comes, outside a capture, each is
//! run on the operands with a result of its own, and the fastest is kept, in memory and in a file ([`cache`]).

mod cache;
mod choice;
mod plan;
mod timing;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver;

use super::super::switch::switch;
use super::super::{Error, Gemm, Result};
use super::driver::driver_error;
use super::streams;
use cache::{Cache, Library, Winner};
use choice::{Algorithm, Decision, decide};
use plan::{Place, Plan, Shape, WORKSPACE_BYTES};

/// Packs differ in length, so shapes keep coming: forget all plans rather than let them grow without end.
const PLANS_MAX: usize = 4096;

/// The library's handle, a workspace for each stream, and an algorithm for each shape seen.
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    /// Whether candidates are measured; otherwise the library's first one is taken.
    tuning: bool,
    workspaces: Mutex<Workspaces>,
    plans: Mutex<Plans>,
}

#[derive(Default)]
struct Workspaces {
    /// By the address of the stream's handle. Products of two streams may run at the same time, so they never share one.
    by_stream: HashMap<usize, Workspace>,
    /// Of streams that are gone, while graphs may still use them.
    retired: Vec<driver::sys::CUdeviceptr>,
}

#[derive(Clone, Copy)]
struct Workspace {
    address: driver::sys::CUdeviceptr,
    /// Whether the products of a graph may use it.
    captured: bool,
}

struct Plans {
    by_shape: HashMap<Shape, Planned>,
    cache: Cache,
}

/// A plan with the algorithm chosen for it.
#[derive(Clone)]
struct Planned {
    plan: Arc<Plan>,
    algorithm: Algorithm,
    /// The choice is made; otherwise it is made again when measuring is possible.
    settled: bool,
}

impl Blas {
    /// Opens the library in the current context, whose device the driver calls `device`.
    pub(super) fn open(device: &str) -> Result<Self> {
        let tuning = switch("RETROMAE_GEMM_TUNE", true)?;
        // SAFETY: only tries to load the library. cudarc panics where it is missing, so this comes before any other call.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::Cuda(
                "the library cuBLASLt (libcublasLt) is not found; install it with the CUDA toolkit, or add its folder to the \
                 library path"
                    .into(),
            ));
        }
        let mut driver = 0;
        // SAFETY: the driver is loaded, as there is a context.
        unsafe { driver::sys::cuDriverGetVersion(&raw mut driver) }
            .result()
            .map_err(|error| driver_error("asking for the driver's version", error))?;
        // SAFETY: no preconditions.
        let library = Library::new(device, driver, unsafe { sys::cublasLtGetVersion() });
        let folder = cache::folder(|name| std::env::var_os(name)).filter(|_| tuning);
        let cache = Cache::open(library, folder.as_deref());
        let handle = result::create_handle().map_err(|error| blas_error("opening cuBLASLt", error))?;
        let plans = Mutex::new(Plans { by_shape: HashMap::new(), cache });
        Ok(Self { handle, tuning, workspaces: Mutex::default(), plans })
    }

    /// The library's name and version.
    pub(super) fn library(&self) -> String {
        // SAFETY: the library is loaded.
        let version = unsafe { sys::cublasLtGetVersion() };
        format!("cuBLASLt {}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }

    /// Allocates the workspace of a stream that is about to be captured; it then stays as long as the library, for the sake of the graph.
    pub(super) fn prepare_capture(&self, stream: driver::sys::CUstream) -> Result<()> {
        self.workspace(stream)?;
        let mut workspaces = self.workspaces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(workspace) = workspaces.by_stream.get_mut(&(stream as usize)) {
            workspace.captured = true;
        }
        Ok(())
    }

    /// Lets go of the workspace of a stream that is to be destroyed.
    pub(super) fn forget(&self, stream: driver::sys::CUstream) {
        let mut workspaces = self.workspaces.lock().unwrap_or_else(PoisonError::into_inner);
        match workspaces.by_stream.remove(&(stream as usize)) {
            Some(Workspace { address, captured: true }) => workspaces.retired.push(address),
            // SAFETY: allocated by `workspace`, and not used any more. The driver waits for work that may still use it.
            Some(Workspace { address, captured: false }) => {
                let _ = unsafe { driver::result::free_sync(address) };
            }
            None => {}
        }
    }

    /// Enqueues a product on `stream`.
    ///
    /// # Safety
    /// The matrices and the bias are valid for their shapes, and `c` overlaps none of the others; the stream belongs to the current context.
    pub(super) unsafe fn run(&self, gemm: &Gemm, stream: driver::sys::CUstream) -> Result<()> {
        if gemm.m == 0 || gemm.n == 0 || gemm.batch.count == 0 {
            return Ok(());
        }
        if gemm.k == 0 {
            // SAFETY: passed on to the caller.
            return unsafe { write_empty_sums(gemm, stream) };
        }
        let place = Place { handle: self.handle, workspace: self.workspace(stream)?, stream };
        // SAFETY: passed on to the caller.
        let Planned { plan, algorithm, .. } = unsafe { self.planned(gemm, place)? };
        // SAFETY: the algorithm is one of the plan's candidates; the rest is passed on to the caller.
        unsafe { plan.launch(place, gemm, algorithm) }
            .map_err(|error| blas_error(format_args!("multiplying {}", describe(gemm)), error))
    }

    fn workspace(&self, stream: driver::sys::CUstream) -> Result<driver::sys::CUdeviceptr> {
        let mut workspaces = self.workspaces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(workspace) = workspaces.by_stream.get(&(stream as usize)) {
            return Ok(workspace.address);
        }
        if is_capturing(stream)? {
            return Err(Error::Capturing("multiply matrices for the first time"));
        }
        // SAFETY: a plain allocation in the current context.
        let address = unsafe { driver::result::malloc_sync(WORKSPACE_BYTES) }
            .map_err(|error| driver_error("allocating a workspace of cuBLASLt", error))?;
        workspaces.by_stream.insert(stream as usize, Workspace { address, captured: false });
        Ok(address)
    }

    /// The plan of a product. Other products wait while one is measured, which would be wrong beside them.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn planned(&self, gemm: &Gemm, place: Place) -> Result<Planned> {
        let shape = Shape::of(gemm);
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let known = plans.by_shape.get(&shape);
        if let Some(known) = known.filter(|known| known.settled) {
            return Ok(known.clone());
        }
        let choosing =
            |error| blas_error(format_args!("choosing an algorithm for {}", describe(gemm)), error);
        let plan = known.map_or_else(|| Plan::new(&shape).map(Arc::new), |known| Ok(known.plan.clone()));
        let plan = plan.map_err(choosing)?;
        let candidates = plan.candidates(place.handle, &shape, gemm).map_err(choosing)?;
        // SAFETY: the candidates are the plan's; the rest is passed on to the caller.
        let (index, settled) = unsafe { self.choose(gemm, place, &plan, &candidates, &mut plans.cache)? };
        let planned = Planned { plan, algorithm: candidates[index], settled };
        if plans.by_shape.len() >= PLANS_MAX {
            plans.by_shape.clear();
        }
        plans.by_shape.insert(shape, planned.clone());
        Ok(planned)
    }

    /// The index of the candidate to take, and whether that is settled.
    ///
    /// # Safety
    /// As [`run`](Self::run); the candidates are the plan's.
    unsafe fn choose(
        &self,
        gemm: &Gemm,
        place: Place,
        plan: &Plan,
        candidates: &[Algorithm],
        cache: &mut Cache,
    ) -> Result<(usize, bool)> {
        if !self.tuning {
            return Ok((0, true));
        }
        let family = Shape::of(gemm).family();
        Ok(match decide(candidates, cache.get(&family), !is_capturing(place.stream)?) {
            Decision::Take(index) => (index, true),
            Decision::TakeFirstForNow => (0, false),
            Decision::Measure => {
                // SAFETY: passed on to the caller.
                let winner = unsafe { race(gemm, place, plan, candidates) };
                if let Some((index, milliseconds)) = winner {
                    cache.remember(family, Winner { algorithm: candidates[index], milliseconds });
                }
                (winner.map_or(0, |(index, _)| index), true)
            }
        })
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        self.plans.get_mut().unwrap_or_else(PoisonError::into_inner).by_shape.clear();
        let workspaces = self.workspaces.get_mut().unwrap_or_else(PoisonError::into_inner);
        let living = workspaces.by_stream.drain().map(|(_, workspace)| workspace.address);
        for address in living.chain(workspaces.retired.drain(..)) {
            // SAFETY: allocated by `workspace`; the owner drops this while its context is current and its streams are idle.
            let _ = unsafe { driver::result::free_sync(address) };
        }
        // SAFETY: made by `open`, not used afterwards.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// Runs every candidate on the product's operands, with a result that nobody reads: the winner's index and its time. None where there is
/// no memory for such a result, or nothing could be timed; a fault of the device is then left to the product itself to report.
///
/// # Safety
/// As [`Blas::run`]; the candidates are the plan's.
unsafe fn race(gemm: &Gemm, place: Place, plan: &Plan, candidates: &[Algorithm]) -> Option<(usize, f32)> {
    let elements = (gemm.batch.count - 1) * gemm.batch.c_stride + (gemm.m - 1) * gemm.c_stride + gemm.n;
    let bytes = elements * gemm.output.bytes();
    // SAFETY: a plain allocation, freed below.
    let scratch = unsafe { driver::result::malloc_sync(bytes) }.ok()?;
    let trial = Gemm { c: scratch, ..*gemm };
    // SAFETY: `scratch` has this size. It is cleared since products that accumulate read it.
    let times = unsafe { driver::result::memset_d8_async(scratch, 0, bytes, place.stream) }.and_then(|()| {
        // SAFETY: `trial` is the product with another, equally large and better aligned result.
        timing::measure(place, candidates.len(), |index| unsafe {
            plan.launch(place, &trial, candidates[index]).is_ok()
        })
    });
    // SAFETY: allocated above; the driver waits for work that may still use it.
    let _ = unsafe { driver::result::free_sync(scratch) };
    choice::fastest(&times.ok()?)
}

fn is_capturing(stream: driver::sys::CUstream) -> Result<bool> {
    streams::is_capturing(stream)
        .map_err(|error| driver_error("asking whether the stream is being captured", error))
}

/// Products of empty sums, which cuBLASLt refuses to compute: zeros or the bias, or nothing new where they are added.
///
/// # Safety
/// As [`Blas::run`].
unsafe fn write_empty_sums(gemm: &Gemm, stream: driver::sys::CUstream) -> Result<()> {
    if gemm.accumulate {
        return Ok(());
    }
    let (element, row_bytes) = (gemm.output.bytes(), gemm.n * gemm.output.bytes());
    let write = || {
        for index in 0..gemm.batch.count {
            let c = gemm.c + (index * gemm.batch.c_stride * element) as u64;
            let stride = gemm.c_stride * element;
            let Some(bias) = gemm.bias else {
                // SAFETY: m rows of n elements.
                unsafe { driver::sys::cuMemsetD2D8Async(c, stride, 0, row_bytes, gemm.m, stream) }
                    .result()?;
                continue;
            };
            for row in 0..gemm.m {
                // SAFETY: a row of n elements, and as many in the bias.
                unsafe {
                    driver::result::memcpy_dtod_async(c + (row * stride) as u64, bias, row_bytes, stream)?;
                }
            }
        }
        Ok(())
    };
    write().map_err(|error| driver_error(format_args!("writing the empty product {}", describe(gemm)), error))
}

fn describe(gemm: &Gemm) -> String {
    let Gemm { m, n, k, a_layout, b_layout, input, output, .. } = gemm;
    let batch = if gemm.batch.count == 1 { String::new() } else { format!("{} times ", gemm.batch.count) };
    let bias = if gemm.bias.is_some() { ", bias" } else { "" };
    let (input, output) = (input.name(), output.name());
    format!("{batch}[{m}, {k}] by [{k}, {n}] ({a_layout:?}, {b_layout:?}; {input} to {output}{bias})")
}

fn blas_error(doing: impl std::fmt::Display, error: CublasError) -> Error {
    Error::Cuda(format!("{doing}: cuBLASLt says {:?}", error.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_which_product_it_is() {
        let mut gemm = plan::tests::product();
        assert_eq!(describe(&gemm), "[2, 4] by [4, 3] (Normal, Transposed; bf16 to f32, bias)");
        (gemm.batch.count, gemm.bias) = (12, None);
        assert_eq!(describe(&gemm), "12 times [2, 4] by [4, 3] (Normal, Transposed; bf16 to f32)");
    }
}
