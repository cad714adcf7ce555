//! A case as everything that runs it sees it: its sizes, its least work, and its variants, which are prepared when they are first run.

use retromae::device::{Device, Stream};
use serde_json::Value;

pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Outcome<T> = Result<T, Error>;
/// Named arrays.
pub type Results = Vec<(String, Vec<f32>)>;

/// Returns arrays with names that the program owns.
pub fn named<const N: usize>(arrays: [(&str, Vec<f32>); N]) -> Results {
    arrays.into_iter().map(|(name, values)| (name.to_string(), values)).collect()
}

/// Sizes of the cases: a training step's of BERT-base in bf16, or small ones in f32 for the CPU emulator, all of which end within minutes. Kernels and
/// compositions are the same for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Gpu,
    Host,
}

impl Scale {
    pub fn of(device: &Device) -> Self {
        if device.name() == "host" { Self::Host } else { Self::Gpu }
    }

    /// Returns what is meant for this scale.
    pub fn choose<C>(self, gpu: C, host: C) -> C {
        match self {
            Self::Gpu => gpu,
            Self::Host => host,
        }
    }
}

/// The pass that a case runs; the backward pass after a forward pass that is not measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    Forward,
    Backward,
}

/// Priority of a case: all of the first rank are measured before any of the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    Headline,
    Rest,
}

impl Rank {
    pub fn headline(is_headline: bool) -> Self {
        if is_headline { Self::Headline } else { Self::Rest }
    }
}

/// Least work of a case: memory traffic, each operand read and each result written once, and the floating-point operations of its matmuls, two for
/// each multiply-add.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub flops: u64,
    pub bytes: u64,
}

impl Bound {
    pub fn new(flops: usize, bytes: usize) -> Self {
        Self { flops: flops as u64, bytes: bytes as u64 }
    }
}

/// One variant of a case, with all its buffers.
pub trait Work {
    /// Enqueues the timed work.
    fn run(&mut self, stream: &Stream) -> Outcome<()>;
    /// Returns the results of the first run.
    fn results(&mut self) -> Outcome<Results>;
    /// Bytes held while it runs, beside inputs and outputs, if variants differ in that.
    fn extra_bytes(&self) -> Option<usize> {
        None
    }
}

type Prepare = dyn Fn(&Stream) -> Outcome<Box<dyn Work>>;

/// A variant and its preparation, which runs only if the variant is run.
pub struct Variant {
    pub name: &'static str,
    pub prepare: Box<Prepare>,
}

impl Variant {
    pub fn new<W: Work + 'static>(
        name: &'static str,
        prepare: impl Fn(&Stream) -> Outcome<W> + 'static,
    ) -> Self {
        let boxed = move |stream: &Stream| prepare(stream).map(|work| Box::new(work) as Box<dyn Work>);
        Self { name, prepare: Box::new(boxed) }
    }
}

/// Names of the variants: the crate's operation, and its composition of plain kernels and matmuls.
pub const FUSED: &str = "retromae";
pub const UNFUSED: &str = "unfused";
/// The non-default algorithm of a head.
pub const OWN_PRODUCT: &str = "retromae_own_product";

/// One size of an operation on elements of `T`.
pub trait Case<T> {
    fn name(&self) -> String;

    fn rank(&self) -> Rank {
        Rank::Headline
    }

    /// Sizes and constants for other programs that measure the same case, as a JSON object; none if there are no such programs.
    fn sizes(&self) -> Option<Value>;

    fn bound(&self) -> Bound;

    /// Variants that compute the same results.
    fn variants(&self) -> Vec<Variant>;
}

/// An operation, or one pass of it, by the name under which it is measured.
pub struct Operation<T> {
    pub name: &'static str,
    pub cases: Vec<Box<dyn Case<T>>>,
}

impl<T> Operation<T> {
    pub fn new<C: Case<T> + 'static>(name: &'static str, cases: impl IntoIterator<Item = C>) -> Self {
        let boxed = |case| Box::new(case) as Box<dyn Case<T>>;
        Self { name, cases: cases.into_iter().map(boxed).collect() }
    }
}
