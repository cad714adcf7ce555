//! Signals that ask the process to end: at once, or, where a run has something to save, when it has saved it.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// What a shell adds to the number of the signal that ended a process.
const STATUS_OF_SIGNALS: i32 = 128;

/// The signals that came. Each ends the process with the status that a shell gives it, until [`Signals::defer`] has been called: then the
/// first one is only noted, and the second ends the process.
#[derive(Clone, Debug)]
pub struct Signals {
    /// Whether the next one ends the process.
    ends: Arc<AtomicBool>,
    /// The number of the last one, 0 before.
    received: Arc<AtomicUsize>,
}

impl Signals {
    /// Takes over SIGINT and SIGTERM, and SIGHUP where it was not ignored, as `nohup` does.
    pub fn install() -> io::Result<Self> {
        let signals = Self { ends: Arc::new(true.into()), received: Arc::default() };
        let taken =
            [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| signal != SIGHUP || !is_ignored(signal));
        for signal in taken {
            flag::register_conditional_shutdown(signal, STATUS_OF_SIGNALS + signal, signals.ends.clone())?;
            flag::register_usize(signal, signals.received.clone(), signal as usize)?;
            flag::register(signal, signals.ends.clone())?;
        }
        Ok(signals)
    }

    /// Lets the process go on after the first signal, which the caller will look for with [`Signals::received`].
    pub fn defer(&self) {
        self.ends.store(false, Ordering::SeqCst);
    }

    /// The name of the signal that came after [`Signals::defer`].
    pub fn received(&self) -> Option<&'static str> {
        match self.received.load(Ordering::SeqCst) as i32 {
            SIGHUP => Some("SIGHUP"),
            SIGINT => Some("SIGINT"),
            SIGTERM => Some("SIGTERM"),
            _ => None,
        }
    }

    /// What a process that did what it could should end with.
    pub fn exit_code(&self) -> ExitCode {
        match self.received.load(Ordering::SeqCst) {
            0 => ExitCode::SUCCESS,
            signal => ExitCode::from((STATUS_OF_SIGNALS as usize + signal) as u8),
        }
    }
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: a plain struct for which zeros are a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action the call only writes the present one to `action`.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}
