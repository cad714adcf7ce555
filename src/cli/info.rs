//! `retromae info`.

use std::fmt::Write;

use clap::Args;
use retromae::device::{Device, bf16, cuda_kernels, host_compiler, host_kernels, nvcc};
use retromae::ops::linear;
use retromae::random::{key, philox};
use retromae::reference;
use serde_json::{Value, json};

use super::output::print;
use super::{Error, table};

#[derive(Debug, Args)]
pub struct Arguments {
    /// List every kernel
    #[arg(long)]
    kernels: bool,
    /// Multiply two small bf16 matrices on each device, and say how far off the result is
    #[arg(long)]
    check: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A device, or the reason why there is none.
type Found = (&'static str, Result<Device, String>);

fn devices() -> [Found; 2] {
    [("host", Device::host()), ("cuda", Device::cuda(0))]
        .map(|(name, found)| (name, found.map_err(|error| error.to_string())))
}

/// Matmul test of a device: its GEMM library and its error.
struct MatmulCheck {
    /// Name and version of the GEMM library, if it loads.
    library: Option<String>,
    /// Largest error relative to the largest element of the result, or the reason why the test failed.
    relative_error: Result<f64, String>,
}

impl MatmulCheck {
    /// Rounding to bf16 has an error of half a unit in the last of 8 bits, 2⁻⁹; the error with the f32 sums before it is below this.
    const ERROR_MAX: f64 = 1.0 / 256.0;
    const ROWS: usize = 96;
    const IN_FEATURES: usize = 128;
    const OUT_FEATURES: usize = 64;

    /// Runs the matmul on `device`.
    fn of(device: &Device) -> Self {
        let library = match device.gemm_library() {
            Ok(library) => library,
            Err(error) => return Self { library: None, relative_error: Err(error.to_string()) },
        };
        let relative_error = match Self::relative_error(device) {
            Ok(error) if error <= Self::ERROR_MAX => Ok(error),
            Ok(error) => Err(format!("the result is off by {error:.1e} of its largest element")),
            Err(error) => Err(error.to_string()),
        };
        Self { library: Some(library), relative_error }
    }

    fn relative_error(device: &Device) -> Result<f64, retromae::ops::Error> {
        let (rows, in_features, out_features) = (Self::ROWS, Self::IN_FEATURES, Self::OUT_FEATURES);
        let values = |seed: u64, count: usize| -> Vec<bf16> {
            let word = |index: usize| philox(key(seed), [index as u32, 0, 0, 0])[0];
            let uniform = |index| f64::from(word(index)) / f64::from(u32::MAX) - 0.5;
            (0..count).map(|index| bf16::from_f64(uniform(index))).collect()
        };
        let (input, weight) = (values(1, rows * in_features), values(2, out_features * in_features));
        let bias = values(3, out_features);
        let (input_there, weight_there) = (device.upload(&input)?, device.upload(&weight)?);
        let bias_there = device.upload(&bias)?;
        let mut output = device.zeros::<bf16>(rows * out_features)?;
        let arguments = linear::Forward::new(
            input_there.matrix(rows, in_features)?,
            weight_there.matrix(out_features, in_features)?,
            output.matrix_mut(rows, out_features)?,
        );
        linear::forward(&device.stream(), arguments.bias(bias_there.view()))?;
        let wide = |values: &[bf16]| -> Vec<f64> { values.iter().map(|value| value.to_f64()).collect() };
        let exact =
            reference::linear::forward(&wide(&input), &wide(&weight), Some(&wide(&bias)), in_features);
        let largest = exact.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        let output = wide(&output.read()?);
        let errors = output.iter().zip(&exact).map(|(value, exact)| (value - exact).abs());
        // `f64::max` would drop a NaN; here a NaN is kept as the worst error.
        Ok(errors.fold(0.0, |worst, error| if error <= worst { worst } else { error }) / largest)
    }

    fn json(&self) -> Value {
        match &self.relative_error {
            Ok(error) => json!({ "library": self.library, "relative_error": error }),
            Err(reason) => json!({ "library": self.library, "error": reason }),
        }
    }

    fn text(&self) -> String {
        let result = match &self.relative_error {
            Ok(error) => format!("relative error {error:.1e}"),
            Err(reason) => format!("it fails: {reason}"),
        };
        self.library.iter().chain([&result]).map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

impl Arguments {
    pub fn run(&self) -> Result<(), Error> {
        let text = match (self.json, self.kernels) {
            (true, _) => format!("{:#}\n", self.json()),
            (false, true) => format!("{}{}", self.facts(), kernel_tables()),
            (false, false) => self.facts(),
        };
        Ok(print(&text)?)
    }

    fn json(&self) -> Value {
        let devices: Vec<Value> = devices()
            .into_iter()
            .map(|(name, found)| match found {
                Ok(device) => {
                    let mut facts =
                        json!({ "name": name, "available": true, "description": device.description() });
                    if self.check {
                        facts["matmul"] = MatmulCheck::of(&device).json();
                    }
                    facts
                }
                Err(reason) => json!({ "name": name, "available": false, "reason": reason }),
            })
            .collect();
        let (compiler, march) = host_compiler();
        let mut facts = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "devices": devices,
            "nvcc": match nvcc() {
                Ok(version) => json!({ "version": version }),
                Err(reason) => json!({ "version": null, "reason": reason }),
            },
            "host_compiler": { "version": compiler, "march": march },
        });
        if self.kernels {
            facts["kernels"] = kernels().into();
        }
        facts
    }

    fn facts(&self) -> String {
        let mut text = format!("retromae {}\n", env!("CARGO_PKG_VERSION"));
        let mut line = |name: &str, fact: &str| {
            let _ = writeln!(text, "{name:<14} {fact}");
        };
        for (name, found) in devices() {
            match found {
                Ok(device) => {
                    line(name, &device.description());
                    if self.check {
                        line("  matmul", &MatmulCheck::of(&device).text());
                    }
                }
                Err(reason) => line(name, &format!("not available: {reason}")),
            }
        }
        line("nvcc", &nvcc().map_or_else(|reason| format!("none: {reason}"), str::to_owned));
        let (compiler, march) = host_compiler();
        line("host compiler", &format!("{compiler}, -march={march}"));
        let cuda = cuda_kernels().len();
        line("kernels", &format!("{} for the host, {cuda} for CUDA", host_kernels().len()));
        text
    }
}

/// Lists every kernel of every architecture; `arch` is `host` or, for example, `sm_80`.
fn kernels() -> Vec<Value> {
    let host = host_kernels().into_iter().map(|kernel| {
        json!({
            "arch": "host", "name": kernel.name, "file": kernel.file, "line": kernel.line,
            "threads": kernel.threads, "params_bytes": kernel.params_bytes,
        })
    });
    let cuda = cuda_kernels().iter().map(|kernel| {
        json!({
            "arch": kernel.arch, "name": kernel.name, "file": kernel.file, "registers": kernel.registers,
            "shared_bytes": kernel.shared_bytes, "stack_bytes": kernel.stack_bytes,
            "spill_bytes": kernel.spill_bytes,
        })
    });
    host.chain(cuda).collect()
}

/// Formats a table for each device that has kernels, each after a blank line.
fn kernel_tables() -> String {
    let host: Vec<Vec<String>> = host_kernels()
        .into_iter()
        .map(|kernel| {
            let numbers = [kernel.threads, kernel.params_bytes].map(|number| number.to_string());
            [kernel.name.to_owned(), kernel.file.to_owned()].into_iter().chain(numbers).collect()
        })
        .collect();
    let host = table(&["host kernel", "file", "threads", "params B"], &host, 2);
    let mut cuda: Vec<_> = cuda_kernels().iter().collect();
    if cuda.is_empty() {
        return format!("\n{host}");
    }
    cuda.sort_by_key(|kernel| (kernel.arch, kernel.name));
    let row = |kernel: &&retromae::device::CudaKernel| {
        let words = [kernel.arch, kernel.name, kernel.file].map(str::to_owned);
        let numbers = [kernel.registers, kernel.shared_bytes, kernel.stack_bytes, kernel.spill_bytes];
        words.into_iter().chain(numbers.map(|number| number.to_string())).collect()
    };
    let rows: Vec<Vec<String>> = cuda.iter().map(row).collect();
    let header = ["arch", "CUDA kernel", "file", "registers", "shared B", "stack B", "spills B"];
    format!("\n{host}\n{}", table(&header, &rows, 3))
}
