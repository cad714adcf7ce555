//! The simulated machine: the state behind the exported functions, independent of the C interface.

mod arena;
mod capture;
mod memory;
mod queue;
mod stream;
mod work;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::sys::CUresult;
use retromae::device::{Device, HostKernel, HostOptions, host_kernels};

use crate::blas::Blas;
use crate::call::{self, CallResult, complain, refuse};
use crate::settings::Settings;
pub(crate) use capture::{CaptureMode, Executable, Graph, exchange_thread_mode};
pub(crate) use memory::{Memory, Pool, Range};
pub(crate) use queue::{OperationId, Queue};
pub(crate) use stream::{Event, Stream};
pub(crate) use work::{CopySide, Launch, Scratch, Work};

/// Handles are numbers, not addresses, and are never reused, so that stale ones are recognized.
pub(crate) type Handle = u64;

pub(crate) fn new_handle() -> Handle {
    static NEXT: AtomicU64 = AtomicU64::new(0x5c0d_0000_0010);
    NEXT.fetch_add(16, Ordering::Relaxed)
}

/// Handle of the legacy stream, for which clients pass null.
pub(crate) const LEGACY_STREAM: Handle = 0;

/// Contexts of a thread, the current one last. The depth is limited, so that a client that pushes without popping is noticed; and no destructor runs
/// at the end of the thread, when clients still call.
#[derive(Clone, Copy)]
struct ContextStack {
    handles: [Handle; 16],
    depth: usize,
}

thread_local! {
    static CONTEXTS: Cell<ContextStack> = const { Cell::new(ContextStack { handles: [0; 16], depth: 0 }) };
}

/// Returns the calling thread's context; 0 means none.
pub(crate) fn current_handle() -> Handle {
    let ContextStack { handles, depth } = CONTEXTS.get();
    handles[..depth].last().copied().unwrap_or(0)
}

/// State of the driver in a process: its initialization, and the primary context of its only device.
pub(crate) struct Machine {
    settings: Result<Settings, String>,
    initialized: bool,
    context: Option<Context>,
    /// The error that ended an earlier context: CUDA is unusable in this process from then on.
    failure: Option<CUresult>,
    /// Memory of the last context, kept so that its addresses are not reused and stale ones stay invalid.
    spare: Option<Memory>,
    pub blas: Blas,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let settings = Settings::from_env();
        call::set_log(settings.as_ref().is_ok_and(|settings| settings.log));
        Self {
            settings,
            initialized: false,
            context: None,
            failure: None,
            spare: None,
            blas: Blas::default(),
        }
    }

    pub(crate) fn settings(&self) -> CallResult<&Settings> {
        match &self.settings {
            Ok(settings) => Ok(settings),
            Err(message) => refuse(CUresult::CUDA_ERROR_SYSTEM_NOT_READY, message),
        }
    }

    pub(crate) fn initialize(&mut self) -> CallResult {
        if self.settings()?.faults.no_driver {
            return Err(CUresult::CUDA_ERROR_NO_DEVICE);
        }
        self.initialized = true;
        Ok(())
    }

    /// Returns the settings; refuses before `cuInit` has been called.
    pub(crate) fn initialized(&self) -> CallResult<&Settings> {
        if !self.initialized {
            return refuse(CUresult::CUDA_ERROR_NOT_INITIALIZED, "cuInit has not been called");
        }
        self.settings()
    }

    /// [`initialized`](Self::initialized) for the device `ordinal`; refuses any but device 0.
    pub(crate) fn device(&self, ordinal: i32) -> CallResult<&Settings> {
        let settings = self.initialized()?;
        if ordinal != 0 || settings.faults.no_device {
            return refuse(CUresult::CUDA_ERROR_INVALID_DEVICE, format_args!("there is no device {ordinal}"));
        }
        Ok(settings)
    }

    /// Returns the calling thread's context.
    pub(crate) fn current(&mut self) -> CallResult<&mut Context> {
        self.initialized()?;
        let handle = current_handle();
        if handle == 0 {
            return refuse(CUresult::CUDA_ERROR_INVALID_CONTEXT, "the calling thread has no current context");
        }
        match &mut self.context {
            Some(context) if context.handle == handle => context.usable(),
            _ => refuse(
                CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED,
                "the calling thread's context was released for the last time",
            ),
        }
    }

    fn known(&self, what: &str, handle: Handle) -> CallResult {
        self.initialized()?;
        if self.context.as_ref().is_none_or(|context| context.handle != handle) {
            return refuse(
                CUresult::CUDA_ERROR_INVALID_CONTEXT,
                format_args!("{what}: there is no context {handle:#x}"),
            );
        }
        Ok(())
    }

    /// Replaces the calling thread's current context, or drops it for 0.
    pub(crate) fn set_current(&self, handle: Handle) -> CallResult {
        self.initialized()?;
        if handle != 0 {
            self.known("cuCtxSetCurrent", handle)?;
        }
        if current_handle() != 0 {
            self.pop_current()?;
        }
        if handle == 0 { Ok(()) } else { self.push_current(handle) }
    }

    /// Makes a context current on the calling thread, in front of the one before.
    pub(crate) fn push_current(&self, handle: Handle) -> CallResult {
        self.known("cuCtxPushCurrent", handle)?;
        let mut stack = CONTEXTS.get();
        let Some(place) = stack.handles.get_mut(stack.depth) else {
            let why = "cuCtxPushCurrent: the thread has pushed 16 contexts; it should pop them";
            return refuse(CUresult::CUDA_ERROR_OUT_OF_MEMORY, why);
        };
        *place = handle;
        stack.depth += 1;
        CONTEXTS.set(stack);
        Ok(())
    }

    /// Makes the calling thread's previous context current again; returns the one that was.
    pub(crate) fn pop_current(&self) -> CallResult<Handle> {
        self.initialized()?;
        let mut stack = CONTEXTS.get();
        if stack.depth == 0 {
            let why = "cuCtxPopCurrent: the calling thread has no current context";
            return refuse(CUresult::CUDA_ERROR_INVALID_CONTEXT, why);
        }
        stack.depth -= 1;
        CONTEXTS.set(stack);
        Ok(stack.handles[stack.depth])
    }

    pub(crate) fn retain(&mut self, ordinal: i32) -> CallResult<Handle> {
        let settings = self.device(ordinal)?.clone();
        if let Some(code) = self.failure {
            return Err(code);
        }
        if self.context.is_none() {
            let memory = match self.spare.take() {
                Some(memory) => memory,
                None => Memory::reserve(settings.faults.memory_bytes)?,
            };
            self.context = Some(Context::new(settings, memory)?);
        }
        let context = self.context.as_mut().expect("made above").usable()?;
        context.references += 1;
        Ok(context.handle)
    }

    pub(crate) fn release(&mut self, ordinal: i32) -> CallResult {
        self.device(ordinal)?;
        let Some(context) = &mut self.context else {
            return refuse(CUresult::CUDA_ERROR_INVALID_CONTEXT, "the primary context is not retained");
        };
        context.references -= 1;
        if context.references == 0 {
            self.failure = context.failure;
            self.spare = self.context.take().map(Context::destroy);
        }
        Ok(())
    }
}

/// A kernel of a loaded module.
#[derive(Clone, Copy)]
pub(crate) struct Function {
    pub module: Handle,
    pub kernel: HostKernel,
    /// Maximum dynamic shared memory in bytes, as set by `cuFuncSetAttribute`.
    pub shared_bytes_max: u32,
}

/// The primary context and all that lives in it.
pub(crate) struct Context {
    pub handle: Handle,
    references: usize,
    /// Error of executed work, which every later call returns.
    failure: Option<CUresult>,
    pub settings: Settings,
    /// Stream of the CPU emulator on which kernels run.
    host: retromae::device::Stream,
    pub kernels: HashMap<&'static str, HostKernel>,
    pub memory: Memory,
    pub queue: Queue,
    pub streams: HashMap<Handle, Stream>,
    pub events: HashMap<Handle, Event>,
    pub captures: HashMap<Handle, capture::Capture>,
    pub graphs: HashMap<Handle, Graph>,
    pub executables: HashMap<Handle, Executable>,
    pub modules: std::collections::HashSet<Handle>,
    pub functions: HashMap<Handle, Function>,
}

impl Context {
    fn new(settings: Settings, memory: Memory) -> CallResult<Self> {
        let host = HostOptions::from_env().and_then(Device::host_with).map_err(|error| {
            complain(error);
            CUresult::CUDA_ERROR_SYSTEM_NOT_READY
        })?;
        Ok(Self {
            handle: new_handle(),
            references: 0,
            failure: None,
            queue: Queue::new(settings.seed),
            settings,
            host: host.stream(),
            kernels: host_kernels().into_iter().map(|kernel| (kernel.name, kernel)).collect(),
            memory,
            streams: HashMap::from([(LEGACY_STREAM, Stream::new(true))]),
            events: HashMap::new(),
            captures: HashMap::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            modules: std::collections::HashSet::new(),
            functions: HashMap::new(),
        })
    }

    fn usable(&mut self) -> CallResult<&mut Self> {
        match self.failure {
            Some(code) => Err(code),
            None => Ok(self),
        }
    }

    /// Ends the context after an error of executed work: every later call fails, and enqueued work never runs.
    fn fail(&mut self, code: CUresult, why: impl std::fmt::Display) -> CUresult {
        complain(format_args!("{why}; every later call fails"));
        self.failure = Some(code);
        self.queue.clear();
        code
    }

    /// Frees memory that no work uses anymore.
    pub(crate) fn close(&mut self, address: u64) -> CallResult {
        self.memory.close(address).map_err(|why| self.fail(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, why))
    }

    fn destroy(mut self) -> Memory {
        call::log(format_args!(
            "the context ends with {} operations that never ran, {} streams, {} events and {} bytes not freed",
            self.queue.len(),
            self.streams.len() - 1,
            self.events.len(),
            self.memory.used_bytes(),
        ));
        self.memory.close_all();
        self.memory
    }
}
