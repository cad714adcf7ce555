//! What the benches share: the device, lazily prepared variants of a case, and how they are timed and compared.
//!
//! Criterion's ids are `op/variant/case`. Two environment variables beside the device's: `RETROMAE_BENCH_ORDER=reverse` turns the order of
//! the variants round, and `RETROMAE_BENCH_BOUNDS` names a file to which each case adds a line of JSON, what it must move and multiply.

mod data;
mod report;
mod timer;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};
use retromae::device::{Device, Stream};

pub use data::{
    BANK_ROWS_MAX, RATIO, cu_seqlens, embeddings, head_results, mixed_lengths, typed, values, visibility,
    widened, word_starts,
};
pub use report::Bound;
use timer::Timer;

pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Outcome<T> = Result<T, Error>;
/// Named arrays.
pub type Results = Vec<(String, Vec<f32>)>;

/// One variant of a case, with all its buffers.
pub trait Work {
    /// Enqueues what is timed.
    fn run(&mut self, stream: &Stream) -> Outcome<()>;
    /// What the first run left.
    fn results(&mut self) -> Outcome<Results>;
    /// Bytes held while it runs beside inputs and outputs, where variants differ in that.
    fn extra_bytes(&self) -> Option<usize> {
        None
    }
}

type Prepare<'a> = dyn Fn(&Stream) -> Outcome<Box<dyn Work + 'a>> + 'a;

/// How a variant is prepared, once it turns out that it is wanted.
pub struct Variant<'a> {
    name: &'static str,
    prepare: Box<Prepare<'a>>,
}

impl<'a> Variant<'a> {
    pub fn new<W: Work + 'a>(name: &'static str, prepare: impl Fn(&Stream) -> Outcome<W> + 'a) -> Self {
        let boxed = move |stream: &Stream| prepare(stream).map(|work| Box::new(work) as Box<dyn Work>);
        Self { name, prepare: Box::new(boxed) }
    }
}

/// The names of this program's variants.
pub const FUSED: &str = "retromae";
pub const UNFUSED: &str = "unfused";
/// The algorithm of a head that is not the default.
pub const OWN_PRODUCT: &str = "retromae_own_product";

/// The device that `RETROMAE_BENCH_DEVICE` names (`host` or `cuda`), else the host device.
pub fn device() -> Outcome<Device> {
    match std::env::var("RETROMAE_BENCH_DEVICE").as_deref() {
        Ok("cuda") => Ok(Device::cuda(0)?),
        Ok("host") | Err(_) => Ok(Device::host()?),
        Ok(other) => Err(format!("RETROMAE_BENCH_DEVICE is {other:?}; it should be host or cuda").into()),
    }
}

/// Whether the variants run in reverse order, as `RETROMAE_BENCH_ORDER` says.
pub fn reversed() -> Outcome<bool> {
    match std::env::var("RETROMAE_BENCH_ORDER").as_deref() {
        Ok("forward") | Err(_) => Ok(false),
        Ok("reverse") => Ok(true),
        Ok(other) => {
            Err(format!("RETROMAE_BENCH_ORDER is {other:?}; it should be forward or reverse").into())
        }
    }
}

/// Criterion, and where the benches run.
pub struct Bench {
    criterion: Criterion,
    device: Device,
    timer: Timer,
    reversed: bool,
    /// Variants that computed something else than the one before them.
    different: usize,
}

impl Bench {
    pub fn new(criterion: Criterion) -> Outcome<Self> {
        let device = device()?;
        let timer = Timer::new(&device)?;
        Ok(Self { criterion, timer, device, reversed: reversed()?, different: 0 })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether this is a GPU: sizes are a training step's, elements are bf16, the baseline is made of kernels. On the host device sizes
    /// are such that all benches end within minutes, and the baseline is plain Rust: emulated kernels would compare nothing.
    pub fn on_gpu(&self) -> bool {
        self.device.name() != "host"
    }

    /// The cases of one operation.
    pub fn group(&mut self, operation: &'static str) -> Group<'_> {
        let on_gpu = self.on_gpu();
        let mut group = self.criterion.benchmark_group(operation);
        let (samples, warm_up_ms, measurement_ms) = if on_gpu { (50, 300, 500) } else { (10, 200, 800) };
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
            different: &mut self.different,
        }
    }

    /// # Errors
    /// When variants of a case computed different things.
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
pub struct Group<'a> {
    group: BenchmarkGroup<'a, WallTime>,
    operation: &'static str,
    stream: Stream,
    timer: &'a Timer,
    reversed: bool,
    different: &'a mut usize,
}

/// Why a variant was not measured; travels through criterion, which offers no other way out of a bench.
struct Skipped(Error);

/// What a variant computed is not what the one before it did.
#[derive(Debug, thiserror::Error)]
#[error("{array} differs from the other variant's by {difference:e}, where {allowed:e} would do")]
struct Different {
    array: String,
    difference: f64,
    allowed: f64,
}

impl Group<'_> {
    /// Measures the variants that criterion's filter lets through. One that cannot run, or computes something else than the one before
    /// it, is reported and left out.
    pub fn case(&mut self, case: &str, bound: Bound, mut variants: Vec<Variant<'_>>) {
        if self.reversed {
            variants.reverse();
        }
        // Criterion's "elements" are floating-point operations where there are products.
        self.group.throughput(match bound.flops {
            0 => Throughput::Bytes(bound.bytes),
            flops => Throughput::Elements(flops),
        });
        let mut expected = None;
        let mut announced = false;
        for variant in &variants {
            // Criterion reports an error of its own by a panic, which passes on.
            let measured = catch_unwind(AssertUnwindSafe(|| {
                self.measure(case, variant, &mut expected, &mut announced, bound);
            }));
            match measured.map_err(|payload| payload.downcast::<Skipped>()) {
                Ok(()) => {}
                Err(Ok(skipped)) => {
                    *self.different += usize::from(skipped.0.is::<Different>());
                    report::skipped(self.operation, case, variant.name, &skipped.0.to_string());
                }
                Err(Err(panic)) => resume_unwind(panic),
            }
        }
    }

    fn measure(
        &mut self,
        case: &str,
        variant: &Variant<'_>,
        expected: &mut Option<Results>,
        announced: &mut bool,
        bound: Bound,
    ) {
        let Self { group, operation, stream, timer, .. } = self;
        let mut work: Option<Box<dyn Work + '_>> = None;
        // Criterion calls this once for each sample, and not at all where its filter says so.
        group.bench_function(BenchmarkId::new(variant.name, case), |bencher| {
            if !std::mem::replace(announced, true) {
                report::bound(operation, case, bound);
            }
            let work = match &mut work {
                Some(work) => work,
                empty => {
                    let work = prepare(variant, stream, expected).unwrap_or_else(skip);
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

/// Leaves criterion's measurement of a variant, without a message: the caller reports it.
fn skip<T>(error: Error) -> T {
    resume_unwind(Box::new(Skipped(error)))
}

/// Prepares a variant and runs it once; its results must be those of the variant before.
fn prepare<'a>(
    variant: &Variant<'a>,
    stream: &Stream,
    expected: &mut Option<Results>,
) -> Outcome<Box<dyn Work + 'a>> {
    let mut work = (variant.prepare)(stream)?;
    work.run(stream)?;
    let results = work.results()?;
    match expected {
        Some(expected) => compare(expected, &results)?,
        None => *expected = Some(results),
    }
    Ok(work)
}

/// A bench of something else would be worthless: an error unless both are equal within 3 % of an array's norm, which bf16 needs where a
/// baseline rounds every intermediate.
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
