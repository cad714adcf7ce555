//! Options of the CPU emulator that make bugs visible.

use crate::device::switch::switch;
use crate::device::{Error, Result};

/// Order in which the scheduler runs the threads of a block. A correct kernel gives the same result in every order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThreadOrder {
    /// By thread index, ascending.
    #[default]
    Forward,
    /// By thread index, descending.
    Reverse,
    /// A random permutation from this seed, renewed for each block and after each barrier.
    Random(u64),
}

/// Options of the CPU emulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostOptions {
    /// Order of the threads of a block; [`ThreadOrder::Forward`] by default.
    pub order: ThreadOrder,
    /// Surround each buffer by inaccessible pages and fill it with NaN when allocated: an access out of bounds ends in an error that names its
    /// line, and a read of memory that was never written gives NaN. Costs at least two pages per buffer.
    pub guard: bool,
    /// Run the instrumented build of each kernel (feature `sanitize`).
    pub sanitize: bool,
    /// Count the bank conflicts of each access of shared memory, for [`Device::shared_memory_accesses`]. It requires the instrumented build of
    /// each kernel (feature `sanitize`), whose findings are errors here too.
    ///
    /// [`Device::shared_memory_accesses`]: crate::device::Device::shared_memory_accesses
    pub bank_conflicts: bool,
    /// Make a fault of a kernel (an access out of bounds, a division by zero, a stack overflow) an error of its launch; on by default. The first
    /// such device installs handlers of `SIGSEGV`, `SIGBUS`, `SIGFPE` and `SIGILL`, which pass any other fault on to the process' own handlers, and
    /// threads that run kernels get an alternate signal stack unless they have one. With it off the device leaves all of these alone, and a
    /// kernel's fault is the process' own.
    pub catch_faults: bool,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            order: ThreadOrder::default(),
            guard: false,
            sanitize: false,
            bank_conflicts: false,
            catch_faults: true,
        }
    }
}

impl HostOptions {
    /// Reads `RETROMAE_HOST_ORDER` (`forward`, `reverse`, `random`, `random:SEED`), `RETROMAE_HOST_GUARD`,
    /// `RETROMAE_HOST_SANITIZE`, `RETROMAE_HOST_BANK_CONFLICTS` and `RETROMAE_HOST_CATCH_FAULTS` (`0` or `1`).
    ///
    /// # Errors
    /// When a variable has another value, or the instrumented kernels are wanted but not built.
    pub fn from_env() -> Result<Self> {
        let order = match std::env::var("RETROMAE_HOST_ORDER") {
            Ok(text) => parse_order(&text)?,
            Err(_) => ThreadOrder::Forward,
        };
        Ok(Self {
            order,
            guard: switch("RETROMAE_HOST_GUARD", false)?,
            sanitize: instrumented_flag("RETROMAE_HOST_SANITIZE")?,
            bank_conflicts: instrumented_flag("RETROMAE_HOST_BANK_CONFLICTS")?,
            catch_faults: switch("RETROMAE_HOST_CATCH_FAULTS", true)?,
        })
    }

    /// Returns whether the instrumented build of each kernel runs.
    pub(super) fn instrumented(&self) -> bool {
        self.sanitize || self.bank_conflicts
    }

    /// Refuses options that this build does not support.
    pub(super) fn check(&self) -> Result<()> {
        require_instrumented("bank_conflicts", self.bank_conflicts)
    }
}

fn parse_order(text: &str) -> Result<ThreadOrder> {
    match text.split_once(':') {
        None if text == "forward" => Some(ThreadOrder::Forward),
        None if text == "reverse" => Some(ThreadOrder::Reverse),
        None if text == "random" => Some(ThreadOrder::Random(0)),
        Some(("random", seed)) => seed.parse().ok().map(ThreadOrder::Random),
        _ => None,
    }
    .ok_or_else(|| Error::Argument {
        argument: "RETROMAE_HOST_ORDER",
        actual: format!("{text:?}"),
        expected: "forward, reverse, random or random:SEED".into(),
    })
}

/// Reads a flag that requires instrumented kernels.
fn instrumented_flag(name: &'static str) -> Result<bool> {
    let wanted = switch(name, false)?;
    require_instrumented(name, wanted).map(|()| wanted)
}

fn require_instrumented(argument: &'static str, wanted: bool) -> Result<()> {
    if wanted && !cfg!(feature = "sanitize") {
        return Err(Error::Argument {
            argument,
            actual: "on".into(),
            expected: "off in a build without the feature `sanitize`; build with `--features sanitize`"
                .into(),
        });
    }
    Ok(())
}
