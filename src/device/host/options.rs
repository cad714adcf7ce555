//! How the host device behaves: the switches that make bugs visible.

use super::super::{Error, Result};

/// The order in which the scheduler runs the threads of a block. A correct kernel gives the same result in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThreadOrder {
    #[default]
    Forward,
    Reverse,
    /// A permutation drawn from this seed, anew for each block and after each barrier.
    Random(u64),
}

/// Options of the host device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostOptions {
    pub order: ThreadOrder,
    /// Surround each buffer by inaccessible pages and fill it with NaN when allocated: an access out of bounds ends in
    /// an error that names its line, a read of what was never written in NaN. Costs at least two pages a buffer.
    pub guard: bool,
    /// Run the instrumented build of each kernel (feature `sanitize`).
    pub sanitize: bool,
}

impl HostOptions {
    /// Reads `RETROMAE_HOST_ORDER` (`forward`, `reverse`, `random`, `random:SEED`), `RETROMAE_HOST_GUARD` and
    /// `RETROMAE_HOST_SANITIZE` (`0` or `1`).
    ///
    /// # Errors
    /// When a variable has another value, or the sanitizer is wanted but not built.
    pub fn from_env() -> Result<Self> {
        let order = match std::env::var("RETROMAE_HOST_ORDER") {
            Ok(text) => parse_order(&text)?,
            Err(_) => ThreadOrder::Forward,
        };
        let options =
            Self { order, guard: flag("RETROMAE_HOST_GUARD")?, sanitize: flag("RETROMAE_HOST_SANITIZE")? };
        if options.sanitize && !cfg!(feature = "sanitize") {
            return Err(Error::Argument {
                argument: "RETROMAE_HOST_SANITIZE",
                actual: "1".into(),
                expected: "0 in a build without the feature `sanitize`".into(),
            });
        }
        Ok(options)
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

fn flag(name: &'static str) -> Result<bool> {
    match std::env::var(name).as_deref() {
        Err(_) | Ok("0" | "") => Ok(false),
        Ok("1") => Ok(true),
        Ok(other) => {
            Err(Error::Argument { argument: name, actual: format!("{other:?}"), expected: "0 or 1".into() })
        }
    }
}
