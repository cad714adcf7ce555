//! Measures cases: the device, the timing of their variants, and the comparison of what these compute.
//!
//! Criterion's ids are `op/variant/case`. Environment variables beside the device's:
//!
//! | variable | effect |
//! |---|---|
//! | `RETROMAE_BENCH_CASES` | `headline`, `rest` or `all` (the default): the headline cases of every operation, and then the others |
//! | `RETROMAE_BENCH_ORDER` | `reverse` reverses the order of the variants |
//! | `RETROMAE_BENCH_AFTER` | begin after this id |
//! | `RETROMAE_BENCH_BOUNDS` | a file to which JSON lines are appended: each case's least traffic and FLOPs, and each id when it begins |
//!
//! The program exits with status 1 if a variant computed a different result than another, and with 70 if the device cannot go on: a new process can,
//! after the id that was begun last.

mod report;
mod timer;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};
use retromae::device::{self, Device, Stream};
use retromae::ops;

use crate::cases::work::Error;
use crate::cases::{Bound, Case, Operation, Outcome, Rank, Results, Scale, Variant, Work};
use timer::Timer;

/// Returns the choice that an environment variable names; the first name is the default, an unknown one an error.
fn choice<T: Copy>(variable: &str, names: &[(&str, T)]) -> Outcome<T> {
    let Ok(value) = std::env::var(variable) else { return Ok(names[0].1) };
    let found = names.iter().find(|(name, _)| *name == value);
    found.map(|&(_, meaning)| meaning).ok_or_else(|| {
        let known = names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or ");
        format!("{variable} is {value:?}; it should be {known}").into()
    })
}

/// Returns the device that `RETROMAE_BENCH_DEVICE` names (`host` or `cuda`), else the CPU emulator.
pub fn device() -> Outcome<Device> {
    match choice("RETROMAE_BENCH_DEVICE", &[("host", false), ("cuda", true)])? {
        true => Ok(Device::cuda(0)?),
        false => Ok(Device::host()?),
    }
}

/// Returns true if `RETROMAE_BENCH_ORDER` asks for the reverse order of variants.
pub fn reversed() -> Outcome<bool> {
    choice("RETROMAE_BENCH_ORDER", &[("forward", false), ("reverse", true)])
}

/// Returns the ranks to measure one after the other, by `RETROMAE_BENCH_CASES`.
pub fn ranks() -> Outcome<&'static [Rank]> {
    const ALL: &[Rank] = &[Rank::Headline, Rank::Rest];
    choice("RETROMAE_BENCH_CASES", &[("all", ALL), ("headline", &ALL[..1]), ("rest", &ALL[1..])])
}

/// Criterion, and the device of the benches.
pub struct Bench {
    criterion: Criterion,
    device: Device,
    timer: Timer,
    reversed: bool,
    /// Rank that is measured now.
    pub rank: Rank,
    /// Id after which to begin.
    after: Option<String>,
    /// Number of variants whose results differ from the previous one's.
    different: usize,
}

impl Bench {
    pub fn new(criterion: Criterion) -> Outcome<Self> {
        let device = device()?;
        let timer = Timer::new(&device)?;
        let after = std::env::var("RETROMAE_BENCH_AFTER").ok();
        Ok(Self {
            criterion,
            timer,
            device,
            reversed: reversed()?,
            rank: Rank::Headline,
            after,
            different: 0,
        })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Measures the cases of an operation whose turn it is.
    pub fn measure<T>(&mut self, operation: &Operation<T>) {
        if operation.cases.is_empty() {
            return;
        }
        let mut group = self.group(operation.name);
        operation.cases.iter().for_each(|case| group.case(&**case));
    }

    /// Opens the group of one operation's cases.
    fn group(&mut self, operation: &'static str) -> Group<'_> {
        let mut group = self.criterion.benchmark_group(operation);
        let (samples, warm_up_ms, measurement_ms) =
            Scale::of(&self.device).choose((50, 300, 500), (10, 200, 800));
        group
            .sample_size(samples)
            .nresamples(10_000)
            .sampling_mode(SamplingMode::Flat)
            .warm_up_time(Duration::from_millis(warm_up_ms))
            .measurement_time(Duration::from_millis(measurement_ms));
        Group {
            group,
            operation,
            stream: self.device.stream(),
            timer: &self.timer,
            reversed: self.reversed,
            rank: self.rank,
            after: &mut self.after,
            different: &mut self.different,
        }
    }

    /// # Errors
    /// Fails if variants of a case computed different results.
    pub fn finish(self) -> Outcome<()> {
        self.criterion.final_summary();
        match self.different {
            0 => Ok(()),
            count => {
                Err(format!("{count} variants computed something else than they should: see above").into())
            }
        }
    }
}

/// An operation whose cases are being measured.
struct Group<'a> {
    group: BenchmarkGroup<'a, WallTime>,
    operation: &'static str,
    stream: Stream,
    timer: &'a Timer,
    reversed: bool,
    rank: Rank,
    after: &'a mut Option<String>,
    different: &'a mut usize,
}

/// Reason why a variant was not measured; unwinds through criterion, which offers no other way out of a bench.
struct Skipped(Error);

/// A variant's result differs from that of the previous one.
#[derive(Debug, thiserror::Error)]
#[error("{array} differs from the other variant's by {difference:e}, where {allowed:e} would do")]
struct Different {
    array: String,
    difference: f64,
    allowed: f64,
}

impl Group<'_> {
    /// Measures the variants that criterion's filter selects, if it is this case's turn. A variant that cannot run, or whose result differs from the
    /// previous one's, is reported and left out.
    fn case<T>(&mut self, case: &dyn Case<T>) {
        if case.rank() != self.rank {
            return;
        }
        let (name, bound, mut variants) = (case.name(), case.bound(), case.variants());
        let case = &name;
        if self.reversed {
            variants.reverse();
        }
        // For matmuls, criterion's "elements" are floating-point operations.
        self.group.throughput(match bound.flops {
            0 => Throughput::Bytes(bound.bytes),
            flops => Throughput::Elements(flops),
        });
        let mut expected = None;
        let mut announced = false;
        for variant in &variants {
            if let Some(after) = &*self.after {
                if *after == format!("{}/{}/{case}", self.operation, variant.name) {
                    *self.after = None;
                }
                continue;
            }
            // Criterion reports its own errors by a panic, which is passed on.
            let measured = catch_unwind(AssertUnwindSafe(|| {
                self.measure(case, variant, &mut expected, &mut announced, bound);
            }));
            match measured.map_err(Box::<dyn Any + Send>::downcast::<Skipped>) {
                Ok(()) => {}
                Err(Ok(skipped)) => {
                    *self.different += usize::from(skipped.0.is::<Different>());
                    report::skipped(self.operation, case, variant.name, &skipped.0.to_string());
                    if ends_the_device(&*skipped.0) {
                        eprintln!("error: {}", skipped.0);
                        std::process::exit(DEVICE_ENDED);
                    }
                }
                Err(Err(panic)) => resume_unwind(panic),
            }
        }
    }

    fn measure(
        &mut self,
        case: &str,
        variant: &Variant,
        expected: &mut Option<Results>,
        announced: &mut bool,
        bound: Bound,
    ) {
        let Self { group, operation, stream, timer, .. } = self;
        let mut work: Option<Box<dyn Work>> = None;
        // Criterion calls this once for each sample, and not at all if its filter excludes the variant.
        group.bench_function(BenchmarkId::new(variant.name, case), |bencher| {
            if !std::mem::replace(announced, true) {
                report::bound(operation, case, bound);
            }
            let work = match &mut work {
                Some(work) => work,
                empty => {
                    report::begun(operation, case, variant.name);
                    let mut work = prepare(variant, stream, expected).unwrap_or_else(skip);
                    timer.warm_up(&mut *work, stream).unwrap_or_else(skip);
                    if let Some(bytes) = work.extra_bytes() {
                        report::memory(operation, case, variant.name, bytes);
                    }
                    empty.insert(work)
                }
            };
            bencher
                .iter_custom(|iterations| timer.time(&mut **work, stream, iterations).unwrap_or_else(skip));
        });
    }
}

/// Exit status if the device cannot go on in this process.
const DEVICE_ENDED: i32 = 70;

/// Returns true if a kernel's fault has made the driver refuse all further work.
fn ends_the_device(error: &(dyn std::error::Error + 'static)) -> bool {
    let error = match error.downcast_ref() {
        Some(ops::Error::Device(error)) => Some(error),
        _ => error.downcast_ref::<device::Error>(),
    };
    matches!(error, Some(device::Error::CudaEnded(_)))
}

/// Unwinds out of criterion's measurement of a variant, without a message: the caller reports it.
fn skip<T>(error: Error) -> T {
    resume_unwind(Box::new(Skipped(error)))
}

/// Prepares a variant and runs it once; its results must equal those of the previous variant.
fn prepare(variant: &Variant, stream: &Stream, expected: &mut Option<Results>) -> Outcome<Box<dyn Work>> {
    let mut work = (variant.prepare)(stream)?;
    work.run(stream)?;
    let results = work.results()?;
    match expected {
        Some(expected) => compare(expected, &results)?,
        None => *expected = Some(results),
    }
    Ok(work)
}

/// Fails unless both results are equal within 3 % of an array's norm, which bf16 needs if a baseline rounds every intermediate: timing different
/// computations would be worthless.
fn compare(expected: &Results, actual: &Results) -> Outcome<()> {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    for ((name, expected), (other, actual)) in expected.iter().zip(actual) {
        let difference = norm(&mut expected.iter().zip(actual).map(|(e, a)| f64::from(*e) - f64::from(*a)));
        let allowed = 0.03 * norm(&mut expected.iter().map(|&value| f64::from(value)));
        let comparable = name == other && expected.len() == actual.len();
        if !comparable || difference.is_nan() || difference > allowed {
            return Err(Different { array: name.clone(), difference, allowed }.into());
        }
    }
    Ok(())
}
