//! CUDA devices: the messages if there is none, and that both compilers built the same kernels.

use std::collections::BTreeSet;

use retromae::device::params::ProbeParams;
use retromae::device::{self, Device, Error, LaunchShape};

use crate::common::devices;

fn driver_is_present() -> bool {
    let present = device::cuda_devices().is_ok();
    if present {
        println!("ignored: a CUDA driver is present");
    }
    present
}

#[test]
fn without_a_driver_the_device_is_refused_with_a_cure() {
    if driver_is_present() {
        return;
    }
    match Device::cuda(0).unwrap_err() {
        Error::KernelsNotBuilt(reason) => assert_eq!(device::nvcc(), Err(reason.as_str())),
        Error::Cuda(message) => {
            assert!(message.contains("driver") && message.contains("host device"), "{message}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn without_a_driver_the_listing_is_an_error_too() {
    if driver_is_present() {
        return;
    }
    let message = device::cuda_devices().unwrap_err().to_string();
    assert!(message.starts_with("CUDA: the driver"), "{message}");
}

#[test]
fn a_device_beyond_the_last_is_refused() {
    let Ok(devices) = device::cuda_devices() else {
        println!("ignored: no CUDA driver");
        return;
    };
    let message = Device::cuda(devices.len()).unwrap_err().to_string();
    assert!(
        message.contains(&format!("no device {}", devices.len())) || device::nvcc().is_err(),
        "{message}"
    );
}

/// On every device, a launch that does not fit the kernel is refused before it.
#[test]
fn wrong_launches_are_refused() {
    for device in devices() {
        let launch = |kernel: &str, threads, shared_bytes| {
            let params = ProbeParams { input: 0, output: 0, count: 0 };
            let shape = LaunchShape { grid: [1, 1, 1], threads, shared_bytes };
            // SAFETY: none of these launches is accepted.
            unsafe { device.stream().launch_shape(kernel, shape, &params) }.unwrap_err().to_string()
        };
        assert!(launch("no_such_kernel", 64, 0).starts_with("kernel no_such_kernel is not built"));
        let message = launch("instruction_bit_count", 32, 0);
        assert_eq!(message, "kernel instruction_bit_count: threads is 32; it should be 64");
        let message = launch("instruction_bit_count", 64, 1 << 20);
        assert!(message.contains("shared_bytes is 1048576; it should be at most"), "{message}");
        let shape = LaunchShape { grid: [1, 1, 1], threads: 64, shared_bytes: 0 };
        // SAFETY: refused for the size of its params.
        let result = unsafe { device.stream().launch_shape("instruction_bit_count", shape, &0u32) };
        let message = result.unwrap_err().to_string();
        assert!(message.contains("params is 4") && message.ends_with("it should be 24 bytes"), "{message}");
    }
}

/// The probes are kernels of the CPU emulator alone: some are wrong on purpose.
#[test]
fn nvcc_built_every_kernel_of_the_host_device() {
    if let Err(reason) = device::nvcc() {
        println!("ignored: {reason}");
        return;
    }
    let cuda: BTreeSet<&str> = device::cuda_kernels().iter().map(|kernel| kernel.name).collect();
    let names = device::host_kernels().into_iter().map(|kernel| kernel.name);
    let host: BTreeSet<&str> = names.filter(|name| !name.starts_with("probe_")).collect();
    assert_eq!(cuda, host);
    let files: BTreeSet<&str> = device::fatbins().iter().map(|fatbin| fatbin.file).collect();
    assert!(device::cuda_kernels().iter().all(|kernel| files.contains(kernel.file)));
}

/// No kernel of ours may spill registers: spills go through memory.
#[test]
fn no_kernel_spills() {
    for kernel in device::cuda_kernels() {
        assert_eq!(kernel.spill_bytes, 0, "{} on {}", kernel.name, kernel.arch);
    }
}
