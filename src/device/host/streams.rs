//! Streams of the CPU emulator: work is executed as it is enqueued, unless the stream is being captured.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::device::{Command, Direction, Error, Gemm, GemmMemory, Launch, LaunchShape, Result, Transfer};

/// A command that outlives the call which enqueued it.
#[derive(Debug)]
pub(super) enum Recorded {
    Launch { kernel: String, shape: LaunchShape, params: Params },
    Gemm(Gemm),
    Transfer(Transfer),
    Zero { address: u64, bytes: usize },
}

/// Bytes of a params struct, aligned as the widest of its fields.
#[derive(Debug)]
pub(super) struct Params {
    words: Vec<u64>,
    bytes: usize,
}

impl Params {
    fn new(params: &[u8]) -> Self {
        let mut words = vec![0u64; params.len().div_ceil(size_of::<u64>())];
        bytemuck::cast_slice_mut(&mut words)[..params.len()].copy_from_slice(params);
        Self { words, bytes: params.len() }
    }

    fn as_bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.bytes]
    }
}

impl Recorded {
    fn new(command: &Command<'_>) -> Self {
        match *command {
            Command::Launch(Launch { kernel, shape, params }) => {
                Self::Launch { kernel: kernel.to_owned(), shape, params: Params::new(params) }
            }
            Command::Gemm(gemm, _) => Self::Gemm(gemm),
            Command::Transfer(transfer) => Self::Transfer(transfer),
            Command::Zero { address, bytes } => Self::Zero { address, bytes },
        }
    }

    /// Returns the command, to be executed again.
    pub(super) fn command(&self) -> Command<'_> {
        match self {
            Self::Launch { kernel, shape, params } => {
                Command::Launch(Launch { kernel, shape: *shape, params: params.as_bytes() })
            }
            Self::Gemm(gemm) => Command::Gemm(*gemm, GemmMemory::Device),
            Self::Transfer(transfer) => Command::Transfer(*transfer),
            Self::Zero { address, bytes } => Command::Zero { address: *address, bytes: *bytes },
        }
    }

    pub(super) fn kernel(&self) -> Option<&str> {
        match self {
            Self::Launch { kernel, .. } => Some(kernel),
            _ => None,
        }
    }
}

/// All streams: their numbers, and the recorded commands of those that are being captured.
#[derive(Debug, Default)]
pub(super) struct Streams {
    created: AtomicU64,
    /// Length of `captures`, readable without its lock.
    capturing: AtomicUsize,
    captures: Mutex<HashMap<u64, Vec<Recorded>>>,
}

impl Streams {
    pub(super) const DEFAULT: u64 = 0;

    pub(super) fn create(&self) -> u64 {
        self.created.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn captures(&self) -> MutexGuard<'_, HashMap<u64, Vec<Recorded>>> {
        self.captures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin_capture(&self, stream: u64) -> Result<()> {
        let mut captures = self.captures();
        if captures.contains_key(&stream) {
            return Err(Error::Capturing("begin another capture"));
        }
        captures.insert(stream, Vec::new());
        self.capturing.store(captures.len(), Ordering::Release);
        Ok(())
    }

    pub(super) fn end_capture(&self, stream: u64) -> Vec<Recorded> {
        let mut captures = self.captures();
        let commands = captures.remove(&stream).unwrap_or_default();
        self.capturing.store(captures.len(), Ordering::Release);
        commands
    }

    /// Records the command if the stream is being captured; returns whether it is.
    pub(super) fn record(&self, stream: u64, command: &Command<'_>) -> Result<bool> {
        if self.capturing.load(Ordering::Acquire) == 0 {
            return Ok(false);
        }
        let mut captures = self.captures();
        let Some(commands) = captures.get_mut(&stream) else { return Ok(false) };
        if let Command::Transfer(Transfer { direction: Direction::ToDevice | Direction::ToHost, .. }) =
            command
        {
            return Err(Error::Capturing("copy from or to the host"));
        }
        commands.push(Recorded::new(command));
        Ok(true)
    }

    pub(super) fn is_capturing(&self, stream: u64) -> bool {
        self.capturing.load(Ordering::Acquire) > 0 && self.captures().contains_key(&stream)
    }

    /// Refuses an operation that a stream cannot do while it is being captured.
    pub(super) fn require_running(&self, stream: u64, doing: &'static str) -> Result<()> {
        if self.is_capturing(stream) {
            return Err(Error::Capturing(doing));
        }
        Ok(())
    }
}
