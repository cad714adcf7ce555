//! Execution of enqueued operations.

use std::fmt;
use std::time::Instant;

use cudarc::driver::sys::CUresult;
use retromae::device::{Error, LaunchShape};

use super::{Context, Handle, OperationId};
use crate::blas::Gemm;
use crate::call::{CallResult, complain, log};

/// One side of a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CopySide {
    Device(u64),
    Host(u64),
}

/// A kernel launch, with its params as they were at the call.
#[derive(Debug)]
pub(crate) struct Launch {
    pub kernel: &'static str,
    pub shape: LaunchShape,
    pub params: Vec<u8>,
}

/// The part of a workspace that a GEMM uses. A lost mark shows that another GEMM has overwritten it in the meantime.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scratch {
    pub address: u64,
    pub bytes: u64,
    pub mark: u64,
}

#[derive(Debug)]
pub(crate) enum Work {
    /// Joins operations.
    Nothing,
    Kernel(Launch),
    Copy {
        to: CopySide,
        from: CopySide,
        bytes: u64,
    },
    /// A copy of data that was read from pageable memory at the call.
    Upload {
        to: u64,
        data: Vec<u8>,
    },
    Fill {
        address: u64,
        pitch: u64,
        value: u8,
        width: u64,
        height: u64,
    },
    /// A stream-ordered allocation or (below) free.
    Open {
        address: u64,
    },
    Close {
        address: u64,
    },
    Record {
        event: Handle,
    },
    /// The first half of a GEMM that needs its workspace.
    Mark(Scratch),
    Gemm {
        gemm: Box<Gemm>,
        scratch: Option<Scratch>,
    },
}

impl fmt::Display for Work {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(formatter, "nothing"),
            Self::Kernel(Launch { kernel, shape, .. }) => {
                write!(formatter, "kernel {kernel}, grid {:?}", shape.grid)
            }
            Self::Copy { to, from, bytes } => {
                write!(formatter, "a copy of {bytes} bytes from {from:x?} to {to:x?}")
            }
            Self::Upload { to, data } => write!(formatter, "an upload of {} bytes to {to:#x}", data.len()),
            Self::Fill { address, value, width, height, .. } => {
                write!(formatter, "a fill of {height} rows of {width} bytes at {address:#x} with {value:#x}")
            }
            Self::Open { address } => write!(formatter, "the allocation of {address:#x}"),
            Self::Close { address } => write!(formatter, "the free of {address:#x}"),
            Self::Record { event } => write!(formatter, "the record of event {event:#x}"),
            Self::Mark(scratch) => write!(formatter, "the use of the workspace at {:#x}", scratch.address),
            Self::Gemm { gemm, .. } => write!(formatter, "{gemm}"),
        }
    }
}

impl Context {
    /// Runs one ready operation; its error ends the context.
    pub(super) fn run(&mut self, id: OperationId) -> CallResult {
        let Some(work) = self.queue.work(id) else { return Ok(()) };
        log(format_args!("operation {id}: {work}"));
        if let Work::Kernel(launch) = &*work
            && self.settings.faults.hang.as_deref() == Some(launch.kernel)
        {
            complain(format_args!("{work}: never finishes, as SIMULATED_CUDA_FAULT says"));
            self.queue.hang(id);
            return Ok(());
        }
        match self.execute(id, &work) {
            Ok(()) => {
                self.queue.finish(id);
                Ok(())
            }
            Err((code, why)) => Err(self.fail(code, format_args!("{work}: {why}"))),
        }
    }

    fn execute(&mut self, id: OperationId, work: &Work) -> Result<(), (CUresult, String)> {
        let illegal = |why| (CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, why);
        match work {
            Work::Nothing => {}
            Work::Kernel(launch) => self.execute_kernel(launch)?,
            Work::Copy { to, from, bytes } => self.execute_copy(*to, *from, *bytes).map_err(illegal)?,
            Work::Upload { to, data } => {
                self.memory.check_run(*to, data.len() as u64).map_err(illegal)?;
                // SAFETY: just checked; `data` is our own.
                unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), *to as *mut u8, data.len()) };
            }
            Work::Fill { address, pitch, value, width, height } => {
                let bytes = pitch * (height - 1) + width;
                self.memory.check_run(*address, bytes).map_err(illegal)?;
                for row in 0..*height {
                    // SAFETY: within the range that was just checked.
                    unsafe {
                        std::ptr::write_bytes((address + row * pitch) as *mut u8, *value, *width as usize);
                    }
                }
            }
            Work::Open { address } => {
                self.memory.open(*address).map_err(|why| (CUresult::CUDA_ERROR_OUT_OF_MEMORY, why))?;
            }
            Work::Close { address } => self.memory.close(*address).map_err(illegal)?,
            Work::Record { event } => {
                // A later record of the same event replaces this one.
                if let Some(event) = self.events.get_mut(event)
                    && event.recorded == Some(id)
                {
                    event.at = Some(Instant::now());
                }
            }
            Work::Mark(scratch) => {
                self.memory.check_run(scratch.address, scratch.bytes).map_err(illegal)?;
                // SAFETY: just checked, and at least a word long.
                unsafe { (scratch.address as *mut u64).write_unaligned(scratch.mark) };
            }
            Work::Gemm { gemm, scratch } => {
                gemm.check_run(&self.memory).map_err(illegal)?;
                let undisturbed = match scratch {
                    None => true,
                    Some(scratch) => {
                        self.memory.check_run(scratch.address, scratch.bytes).map_err(illegal)?;
                        // SAFETY: just checked, and at least a word long.
                        unsafe { (scratch.address as *const u64).read_unaligned() == scratch.mark }
                    }
                };
                // SAFETY: every operand was just checked.
                unsafe { gemm.run(undisturbed) };
            }
        }
        Ok(())
    }

    fn execute_kernel(&self, launch: &Launch) -> Result<(), (CUresult, String)> {
        let Launch { kernel, shape, params } = launch;
        if self.settings.faults.illegal_address.as_deref() == Some(kernel) {
            return Err((CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, "fails as SIMULATED_CUDA_FAULT says".into()));
        }
        // SAFETY: the client's promise at the launch; freed and foreign memory is inaccessible, which ends in an error.
        unsafe { self.host.launch_bytes(kernel, *shape, params) }.map_err(|error| {
            let access =
                matches!(&error, Error::Kernel { violation, .. } if violation.contains("out of bounds"));
            let code = if access {
                CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            } else {
                CUresult::CUDA_ERROR_LAUNCH_FAILED
            };
            (code, error.to_string())
        })
    }

    fn execute_copy(&self, to: CopySide, from: CopySide, bytes: u64) -> Result<(), String> {
        let resolve = |place| match place {
            CopySide::Device(address) => self.memory.check_run(address, bytes).map(|()| address),
            CopySide::Host(address) => Ok(address),
        };
        let (to, from) = (resolve(to)?, resolve(from)?);
        // SAFETY: device ranges were just checked; host ranges are valid until the copy is done, by the client's promise.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes as usize) };
        Ok(())
    }
}
