//! The CUDA driver: its presence, its devices and its error messages.

use std::fmt;
use std::sync::OnceLock;

use cudarc::driver::{result, sys};

use super::library::Library;
use crate::device::{Error, Result};

/// The lowest compute capability with bf16 tensor cores and cp.async.
const CAPABILITY_MIN: (i32, i32) = (8, 0);

/// A GPU as the driver lists it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CudaDevice {
    /// Ordinal for [`Device::cuda`](crate::device::Device::cuda).
    pub ordinal: usize,
    /// Device name, such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Total memory in bytes.
    pub memory_bytes: usize,
}

impl fmt::Display for CudaDevice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ordinal, name, capability: (major, minor), memory_bytes } = self;
        let memory_gib = *memory_bytes as f64 / f64::from(1 << 30);
        write!(formatter, "{ordinal}: {name}, compute capability {major}.{minor}, {memory_gib:.1} GiB")
    }
}

/// Returns the driver's own error message, with the action that failed.
pub(super) fn driver_error(doing: impl fmt::Display, error: result::DriverError) -> Error {
    let text = |found: std::result::Result<&std::ffi::CStr, result::DriverError>| {
        found.map_or_else(|_| format!("error {}", error.0 as u32), |text| text.to_string_lossy().into_owned())
    };
    Error::Cuda(format!("{doing}: {} ({})", text(error.error_string()), text(error.error_name())))
}

/// Names of the driver's library. cudarc, where it loads the library itself, knows them as well.
const NAMES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];

/// The driver, once it has been found.
static LIBRARY: OnceLock<Library> = OnceLock::new();

/// Loads and initializes the driver.
pub(super) fn initialize() -> Result<()> {
    // cudarc panics where the library is missing, so this comes before any other call.
    if LIBRARY.get().is_none() {
        let cure = "install the NVIDIA driver, add its folder to the library path, or use the host device";
        let library = Library::find("the driver library", &NAMES, cure)?;
        require_symbols(&library)?;
        LIBRARY.get_or_init(|| library);
    }
    result::init().map_err(|error| {
        driver_error(
            "the driver does not start (does `nvidia-smi` list a GPU?); the host device works",
            error,
        )
    })?;
    let version = version()?;
    if version >= VERSION_MIN {
        return Ok(());
    }
    Err(Error::Cuda(format!(
        "the driver is of CUDA {}.{}; it should be of CUDA 12.0 (525) or later, or use the host device",
        version / 1000,
        version % 1000 / 10
    )))
}

/// Minimum driver version, that of CUDA 12.0, in the driver's own numbering.
const VERSION_MIN: i32 = 12_000;

/// Driver functions in use beyond those that every driver of the last ten years has. cudarc panics at the first call of a function that the
/// library lacks.
const SYMBOLS: [&str; 10] = [
    "cuEventElapsedTime",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuMemAllocFromPoolAsync",
    "cuMemFreeAsync",
    "cuMemPoolCreate",
    "cuMemPoolSetAttribute",
    "cuStreamBeginCapture_v2",
    "cuStreamIsCapturing",
    "cuThreadExchangeStreamCaptureMode",
];

fn require_symbols(library: &Library) -> Result<()> {
    // SAFETY: nothing is called.
    let lacks = |name: &str| unsafe { library.function::<*const ()>(name) }.is_none();
    let missing = SYMBOLS.iter().find(|name| lacks(name));
    match missing {
        None => Ok(()),
        Some(name) => Err(Error::Cuda(format!(
            "the driver library has no function {name}; install the driver of CUDA 12.0 (525) or a later one, or use the host device"
        ))),
    }
}

/// Returns the version of CUDA that the driver is of, such as 13000. The driver must be loaded.
pub(super) fn version() -> Result<i32> {
    let mut version = 0;
    // SAFETY: writes an integer.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }
        .result()
        .map_err(|error| driver_error("asking for the driver's version", error))?;
    Ok(version)
}

/// Returns the milliseconds from one event to another, negative where the other came first. cudarc calls the driver's newer function for this,
/// which is missing before CUDA 12.8.
///
/// # Safety
/// Both events are alive and have completed.
pub(super) unsafe fn milliseconds(
    from: sys::CUevent,
    to: sys::CUevent,
) -> std::result::Result<f32, result::DriverError> {
    type ElapsedTime = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;
    let mut milliseconds = 0.0f32;
    // SAFETY: this is the function's type.
    let function =
        LIBRARY.get().and_then(|library| unsafe { library.function::<ElapsedTime>("cuEventElapsedTime") });
    let function = function.ok_or(result::DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND))?;
    // SAFETY: the events are the caller's promise.
    unsafe { function(&raw mut milliseconds, from, to) }.result()?;
    Ok(milliseconds)
}

/// Every GPU that the driver lists.
///
/// # Errors
/// When there is no driver, or it finds no GPU.
pub fn cuda_devices() -> Result<Vec<CudaDevice>> {
    initialize()?;
    let count = result::device::get_count().map_err(|error| driver_error("counting devices", error))?;
    (0..count as usize).map(describe).collect()
}

fn describe(ordinal: usize) -> Result<CudaDevice> {
    let describe = || {
        let device = result::device::get(ordinal as i32)?;
        let major = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
        let minor = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR;
        // SAFETY: `device` is what the driver returned.
        let (capability, memory_bytes) = unsafe {
            let capability = (
                result::device::get_attribute(device, major)?,
                result::device::get_attribute(device, minor)?,
            );
            (capability, result::device::total_mem(device)?)
        };
        Ok(CudaDevice { ordinal, name: result::device::get_name(device)?, capability, memory_bytes })
    };
    describe().map_err(|error| driver_error(format_args!("describing device {ordinal}"), error))
}

/// Returns device `ordinal` of `devices` if it can run the kernels.
pub(super) fn choose(devices: &[CudaDevice], ordinal: usize) -> Result<&CudaDevice> {
    let Some(device) = devices.get(ordinal) else {
        let available = match devices.len() {
            0 => "no device is there".to_string(),
            count => format!("the devices are 0..{count}"),
        };
        return Err(Error::Cuda(format!("there is no device {ordinal}; {available}")));
    };
    if device.capability < CAPABILITY_MIN {
        let (major, minor) = CAPABILITY_MIN;
        return Err(Error::Cuda(format!(
            "device {device} is too old; it should have compute capability {major}.{minor} or above (Ampere), \
             or use the host device"
        )));
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(ordinal: usize, capability: (i32, i32)) -> CudaDevice {
        CudaDevice { ordinal, name: "Card".into(), capability, memory_bytes: 16 << 30 }
    }

    #[test]
    fn unfit_devices_are_refused_with_the_reason() {
        let devices = [device(0, (8, 0)), device(1, (7, 5)), device(2, (12, 0))];
        assert_eq!(choose(&devices, 0).unwrap(), &devices[0]);
        assert_eq!(choose(&devices, 2).unwrap(), &devices[2]);
        let refuse = |devices, ordinal| choose(devices, ordinal).unwrap_err().to_string();
        assert_eq!(refuse(&devices, 3), "CUDA: there is no device 3; the devices are 0..3");
        assert_eq!(refuse(&[], 0), "CUDA: there is no device 0; no device is there");
        let message = refuse(&devices, 1);
        assert!(message.contains("1: Card, compute capability 7.5, 16.0 GiB is too old"), "{message}");
        assert!(message.contains("8.0 or above"), "{message}");
    }
}
