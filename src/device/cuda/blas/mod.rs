//! Matmuls of a CUDA device, by cuBLASLt.
//!
//! cuBLASLt proposes several algorithms for a GEMM. When a GEMM of a new size class first comes outside a capture, each algorithm is run on
//! the operands with a result of its own, and the fastest is kept, in memory and in a file ([`cache`]).

mod api;
mod bias;
mod cache;
mod choice;
mod plan;
mod timing;
mod workspace;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::cublaslt::sys;
use cudarc::driver;

use super::driver::version;
use super::memory::Pool;
use crate::device::switch::switch;
use crate::device::{Error, Gemm, GemmMemory, Result};
use api::{Api, BlasError};
use cache::{Cache, Library, Winner};
use choice::{Algorithm, Decision, decide};
pub(super) use plan::WORKSPACE_BYTES;
use plan::{BlasContext, Plan, PlanKey};
use workspace::Workspaces;
pub(super) use workspace::{Recorder, Workspace};

/// Alignment of a bias in bytes that cuBLASLt can add; others are added separately: algorithms have been seen to read 16 bytes at a time,
/// whatever alignment they were told.
const BIAS_ALIGNMENT: u64 = 16;

/// Packed batches differ in length, so new shapes keep coming: beyond this number all plans are dropped, rather than growing without bound.
const PLANS_MAX: usize = 4096;

/// cuBLASLt's handle, the workspaces, and an algorithm for each shape seen.
pub(super) struct Blas {
    api: &'static Api,
    handle: sys::cublasLtHandle_t,
    /// Measure the candidates; otherwise cuBLASLt's first one is taken.
    tuning: bool,
    memory: Arc<Pool>,
    workspaces: Mutex<Workspaces>,
    plans: Mutex<Plans>,
}

struct Plans {
    /// `None` where cuBLASLt has no algorithm.
    by_shape: HashMap<PlanKey, Option<Planned>>,
    cache: Cache,
}

/// A plan with the algorithm chosen for it.
#[derive(Clone)]
struct Planned {
    plan: Arc<Plan>,
    algorithm: Algorithm,
    /// The choice is final; otherwise it is made again when measuring is possible.
    settled: bool,
}

impl Blas {
    /// Opens cuBLASLt in the current context; `device` is the driver's name of its device.
    pub(super) fn open(device: &str, memory: Arc<Pool>) -> Result<Self> {
        let tuning = switch("RETROMAE_GEMM_TUNE", true)?;
        let driver = version()?;
        let api: &'static Api = Box::leak(Box::new(Api::open(driver)?));
        // SAFETY: no preconditions.
        let library = Library::new(device, driver, unsafe { (api.cublasLtGetVersion)() });
        let folder = cache::folder(|name| std::env::var_os(name)).filter(|_| tuning);
        let cache = Cache::open(library, folder.as_deref());
        // SAFETY: writes the handle.
        let handle = Api::create(|place| unsafe { (api.cublasLtCreate)(place) })
            .map_err(|error| blas_error("opening cuBLASLt", error))?;
        let plans = Mutex::new(Plans { by_shape: HashMap::new(), cache });
        Ok(Self { api, handle, tuning, memory, workspaces: Mutex::default(), plans })
    }

    /// Returns cuBLASLt's name and version.
    pub(super) fn library(&self) -> String {
        // SAFETY: the library is loaded.
        let version = unsafe { (self.api.cublasLtGetVersion)() };
        format!("cuBLASLt {}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }

    /// Returns the workspace of the GEMMs that `stream` has recorded, if any.
    pub(super) fn recorded(&self, stream: driver::sys::CUstream) -> Option<Arc<Workspace>> {
        self.workspaces().recorded(stream)
    }

    /// Drops the workspaces of a stream that is to be destroyed, or given back.
    pub(super) fn forget(&self, stream: driver::sys::CUstream) {
        self.workspaces().forget(stream);
    }

    fn workspaces(&self) -> MutexGuard<'_, Workspaces> {
        self.workspaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enqueues a GEMM on `stream`, which works in `memory`.
    ///
    /// # Safety
    /// The matrices and the bias are valid for their shapes, and `c` overlaps none of the others; the stream belongs to the current context.
    pub(super) unsafe fn run(
        &self,
        gemm: &Gemm,
        memory: GemmMemory,
        stream: driver::sys::CUstream,
        recorder: Recorder,
    ) -> Result<()> {
        if gemm.m == 0 || gemm.n == 0 || gemm.batch.count == 0 || gemm.k == 0 && gemm.accumulate {
            return Ok(());
        }
        // Held until the GEMM is enqueued.
        let own;
        let workspace = match memory {
            GemmMemory::Lent(address) => address,
            GemmMemory::Device => {
                own = self.workspaces().get(&self.memory, stream, recorder)?;
                own.address
            }
        };
        let context = BlasContext { handle: self.handle, workspace, stream };
        let can_measure = recorder == Recorder::None;
        let fits = gemm.k > 0 && gemm.bias.is_none_or(|bias| bias.is_multiple_of(BIAS_ALIGNMENT));
        // SAFETY: passed on to the caller.
        let planned = if fits { unsafe { self.planned(gemm, context, can_measure)? } } else { None };
        if let Some(planned) = planned {
            // SAFETY: passed on to the caller.
            return unsafe { self.launch(&planned, context, gemm) };
        }
        if fits && gemm.bias.is_none() {
            return Err(unsupported(gemm));
        }
        // SAFETY: passed on to the caller.
        unsafe { bias::write_addend(gemm, stream) }.map_err(|error| {
            self.memory.context.failure(format_args!("preparing {}", describe(gemm)), error)
        })?;
        if gemm.k == 0 {
            return Ok(());
        }
        let sum = Gemm { bias: None, accumulate: true, ..*gemm };
        // SAFETY: passed on to the caller.
        unsafe {
            let planned = self.planned(&sum, context, can_measure)?.ok_or_else(|| unsupported(gemm))?;
            self.launch(&planned, context, &sum)
        }
    }

    /// # Safety
    /// As [`run`](Self::run); the GEMM is of the plan's shape.
    unsafe fn launch(&self, planned: &Planned, context: BlasContext, gemm: &Gemm) -> Result<()> {
        // SAFETY: the algorithm is one of the plan's candidates; the rest is passed on to the caller.
        unsafe { planned.plan.launch(context, gemm, planned.algorithm) }
            .map_err(|error| self.failure(format_args!("multiplying {}", describe(gemm)), error))
    }

    /// Returns an error of cuBLASLt, or the driver's where cuBLASLt ran into an error of earlier work.
    fn failure(&self, doing: std::fmt::Arguments<'_>, error: BlasError) -> Error {
        self.memory.context.hidden_failure(doing).unwrap_or_else(|| blas_error(doing, error))
    }

    /// Returns the plan of a GEMM, or `None` where cuBLASLt has no algorithm for it. Other GEMMs wait while one is measured, as running
    /// beside them would distort the times.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn planned(
        &self,
        gemm: &Gemm,
        context: BlasContext,
        can_measure: bool,
    ) -> Result<Option<Planned>> {
        let shape = PlanKey::of(gemm);
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let known = plans.by_shape.get(&shape);
        match known {
            Some(Some(known)) if !known.settled => {}
            Some(known) => return Ok(known.clone()),
            None => {}
        }
        let choosing =
            |error| self.failure(format_args!("choosing an algorithm for {}", describe(gemm)), error);
        let plan = match known.and_then(Option::as_ref) {
            Some(known) => known.plan.clone(),
            None => Arc::new(Plan::new(self.api, &shape).map_err(choosing)?),
        };
        let candidates = plan.candidates(context.handle, &shape, gemm).map_err(choosing)?;
        let planned = if candidates.is_empty() {
            None
        } else {
            let cache = &mut plans.cache;
            // SAFETY: the candidates are the plan's; the rest is passed on to the caller.
            let (index, settled) =
                unsafe { self.choose(gemm, (context, can_measure), &plan, &candidates, cache) };
            Some(Planned { plan, algorithm: candidates[index], settled })
        };
        if plans.by_shape.len() >= PLANS_MAX {
            plans.by_shape.clear();
        }
        plans.by_shape.insert(shape, planned.clone());
        Ok(planned)
    }

    /// Returns the index of the candidate to take, and whether that choice is final.
    ///
    /// # Safety
    /// As [`run`](Self::run); the candidates are the plan's.
    unsafe fn choose(
        &self,
        gemm: &Gemm,
        (context, can_measure): (BlasContext, bool),
        plan: &Plan,
        candidates: &[Algorithm],
        cache: &mut Cache,
    ) -> (usize, bool) {
        if !self.tuning {
            return (0, true);
        }
        let family = PlanKey::of(gemm).family();
        match decide(candidates, cache.get(&family), can_measure) {
            Decision::Take(index) => (index, true),
            Decision::TakeFirstForNow => (0, false),
            Decision::Measure => {
                // SAFETY: passed on to the caller.
                let winner = unsafe { self.race(gemm, context, plan, candidates) };
                if let Some((index, milliseconds)) = winner {
                    cache.remember(family, Winner { algorithm: candidates[index], milliseconds });
                }
                (winner.map_or(0, |(index, _)| index), true)
            }
        }
    }

    /// Runs every candidate on the GEMM's operands, with a scratch result; returns the winner's index and its time. `None` where there is no
    /// memory for the scratch result, or nothing could be timed; a fault of the device is then left to the GEMM itself to report.
    ///
    /// # Safety
    /// As [`run`](Self::run); the candidates are the plan's.
    unsafe fn race(
        &self,
        gemm: &Gemm,
        context: BlasContext,
        plan: &Plan,
        candidates: &[Algorithm],
    ) -> Option<(usize, f32)> {
        let elements = (gemm.batch.count - 1) * gemm.batch.c_stride + (gemm.m - 1) * gemm.c_stride + gemm.n;
        let bytes = elements * gemm.output.bytes();
        let scratch = self.memory.allocate(bytes).ok()?;
        let trial = Gemm { c: scratch, ..*gemm };
        // SAFETY: `scratch` has this size. It is cleared since GEMMs that accumulate read it.
        let cleared = unsafe { driver::result::memset_d8_async(scratch, 0, bytes, context.stream) };
        let times = cleared.and_then(|()| {
            // SAFETY: `trial` is the GEMM with another, equally large and better aligned result.
            timing::measure(context, candidates.len(), |index| unsafe {
                plan.launch(context, &trial, candidates[index]).is_ok()
            })
        });
        // SAFETY: allocated above; the free comes after all that uses it.
        unsafe { self.memory.free(scratch) };
        choice::fastest(&times.ok()?)
    }
}

fn unsupported(gemm: &Gemm) -> Error {
    Error::Cuda(format!("cuBLASLt has no algorithm for {}", describe(gemm)))
}

fn describe(gemm: &Gemm) -> String {
    let Gemm { m, n, k, input, output, .. } = gemm;
    let [a, b] = [gemm.a_transposed, gemm.b_transposed].map(|transposed| if transposed { 't' } else { 'n' });
    let batch = if gemm.batch.count == 1 { String::new() } else { format!("{} times ", gemm.batch.count) };
    let bias = if gemm.bias.is_some() { ", bias" } else { "" };
    let (input, output) = (input.name(), output.name());
    format!("{batch}[{m}, {k}] by [{k}, {n}] ({a}{b}; {input} to {output}{bias})")
}

fn blas_error(doing: impl std::fmt::Display, error: BlasError) -> Error {
    Error::Cuda(format!("{doing}: cuBLASLt says {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_which_product_it_is() {
        let mut gemm = plan::tests::gemm();
        assert_eq!(describe(&gemm), "[2, 4] by [4, 3] (nt; bf16 to f32, bias)");
        (gemm.batch.count, gemm.bias) = (12, None);
        assert_eq!(describe(&gemm), "12 times [2, 4] by [4, 3] (nt; bf16 to f32)");
    }
}
