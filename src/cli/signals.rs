//! Signals that ask the process to end: it ends at once, or, if a run has something to save, after saving it.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level;

/// Number that a shell adds to the signal that ended a process.
const STATUS_OF_SIGNALS: i32 = 128;

/// Received signals. Each ends the process with the status that a shell gives it, until [`Signals::defer`] is called: then the first one is only
/// recorded, and the second ends the process.
#[derive(Clone, Debug)]
pub struct Signals {
    /// The next signal ends the process.
    ends: Arc<AtomicBool>,
    /// Number of the last signal, 0 before the first.
    received: Arc<AtomicUsize>,
}

impl Signals {
    /// Handles SIGINT and SIGTERM, and SIGHUP unless it was ignored, as under `nohup`.
    pub fn install() -> io::Result<Self> {
        let signals = Self { ends: Arc::new(true.into()), received: Arc::default() };
        let taken =
            [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| signal != SIGHUP || !is_ignored(signal));
        for signal in taken {
            let Self { ends, received } = signals.clone();
            // Two threads may handle two signals at the same time; the swap lets one of them be the second.
            let action = move || {
                if ends.swap(true, Ordering::SeqCst) {
                    low_level::exit(STATUS_OF_SIGNALS + signal);
                }
                received.store(signal as usize, Ordering::SeqCst);
            };
            // SAFETY: the action touches atomics and ends the process without its exit handlers, as a signal's handler may.
            unsafe { low_level::register(signal, action) }?;
        }
        Ok(signals)
    }

    /// Lets the process continue after the first signal; the caller polls [`Signals::received`].
    pub fn defer(&self) {
        self.ends.store(false, Ordering::SeqCst);
    }

    /// Returns the name of the signal received after [`Signals::defer`].
    pub fn received(&self) -> Option<&'static str> {
        match self.received.load(Ordering::SeqCst) as i32 {
            SIGHUP => Some("SIGHUP"),
            SIGINT => Some("SIGINT"),
            SIGTERM => Some("SIGTERM"),
            _ => None,
        }
    }

    /// Returns the exit status of a process that has finished its work or saved it after a signal.
    pub fn exit_code(&self) -> ExitCode {
        match self.received.load(Ordering::SeqCst) {
            0 => ExitCode::SUCCESS,
            signal => ExitCode::from((STATUS_OF_SIGNALS as usize + signal) as u8),
        }
    }
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: a plain struct for which zeros are a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action the call only writes the present one to `action`.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}
