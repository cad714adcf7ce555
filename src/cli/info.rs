//! `retromae info`.

use std::fmt::Write;

use clap::Args;
use retromae::device::{Device, cuda_kernels, host_compiler, host_kernels, nvcc};
use serde_json::{Value, json};

use super::output::print;
use super::{Error, table};

#[derive(Debug, Args)]
pub struct Arguments {
    /// List every kernel
    #[arg(long)]
    kernels: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A device that was found, or why not.
type Found = (&'static str, Result<String, String>);

fn devices() -> [Found; 2] {
    let found = |device: Result<Device, retromae::device::Error>| match device {
        Ok(device) => Ok(device.description()),
        Err(error) => Err(error.to_string()),
    };
    [("host", found(Device::host())), ("cuda", found(Device::cuda(0)))]
}

impl Arguments {
    pub fn run(&self) -> Result<(), Error> {
        let text = match (self.json, self.kernels) {
            (true, _) => format!("{:#}\n", self.json()),
            (false, true) => format!("{}{}", facts(), kernel_tables()),
            (false, false) => facts(),
        };
        Ok(print(&text)?)
    }

    fn json(&self) -> Value {
        let devices: Vec<Value> = devices()
            .into_iter()
            .map(|(name, found)| match found {
                Ok(description) => json!({ "name": name, "available": true, "description": description }),
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
}

/// Every kernel of every architecture; `arch` is `host` or such as `sm_80`.
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

fn facts() -> String {
    let mut text = format!("retromae {}\n", env!("CARGO_PKG_VERSION"));
    let mut line = |name: &str, fact: &str| {
        let _ = writeln!(text, "{name:<14} {fact}");
    };
    for (name, found) in devices() {
        line(name, &found.unwrap_or_else(|reason| format!("not available: {reason}")));
    }
    line("nvcc", &nvcc().map_or_else(|reason| format!("none: {reason}"), str::to_owned));
    let (compiler, march) = host_compiler();
    line("host compiler", &format!("{compiler}, -march={march}"));
    let cuda = cuda_kernels().len();
    line("kernels", &format!("{} for the host, {cuda} for CUDA", host_kernels().len()));
    text
}

/// A table for each device that has kernels, each behind a blank line.
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
