//! `retromae info`.

use clap::Args;
use retromae::device::{Device, cuda_kernels, host_compiler, host_kernels, nvcc};
use serde_json::{Value, json};

use super::{Error, print_table};

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
    #[allow(clippy::unnecessary_wraps, reason = "all commands are run alike")]
    pub fn run(&self) -> Result<(), Error> {
        if self.json {
            println!("{:#}", self.json());
            return Ok(());
        }
        print_facts();
        if self.kernels {
            print_kernels();
        }
        Ok(())
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

fn print_facts() {
    println!("retromae {}", env!("CARGO_PKG_VERSION"));
    for (name, found) in devices() {
        match found {
            Ok(description) => println!("{name:<14} {description}"),
            Err(reason) => println!("{name:<14} not available: {reason}"),
        }
    }
    match nvcc() {
        Ok(version) => println!("{:<14} {version}", "nvcc"),
        Err(reason) => println!("{:<14} none: {reason}", "nvcc"),
    }
    let (compiler, march) = host_compiler();
    println!("{:<14} {compiler}, -march={march}", "host compiler");
    let cuda = cuda_kernels().len();
    println!("{:<14} {} for the host, {cuda} for CUDA", "kernels", host_kernels().len());
}

fn print_kernels() {
    let host: Vec<Vec<String>> = host_kernels()
        .into_iter()
        .map(|kernel| {
            let numbers = [kernel.threads, kernel.params_bytes].map(|number| number.to_string());
            [kernel.name.to_owned(), kernel.file.to_owned()].into_iter().chain(numbers).collect()
        })
        .collect();
    println!();
    print_table(&["host kernel", "file", "threads", "params B"], &host, 2);
    let mut cuda: Vec<_> = cuda_kernels().iter().collect();
    if cuda.is_empty() {
        return;
    }
    cuda.sort_by_key(|kernel| (kernel.arch, kernel.name));
    let row = |kernel: &&retromae::device::CudaKernel| {
        let words = [kernel.arch, kernel.name, kernel.file].map(str::to_owned);
        let numbers = [kernel.registers, kernel.shared_bytes, kernel.stack_bytes, kernel.spill_bytes];
        words.into_iter().chain(numbers.map(|number| number.to_string())).collect()
    };
    let rows: Vec<Vec<String>> = cuda.iter().map(row).collect();
    println!();
    print_table(&["arch", "CUDA kernel", "file", "registers", "shared B", "stack B", "spills B"], &rows, 3);
}
