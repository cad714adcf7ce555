//! Devices, and what concerns them alone.

use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;

use retromae::device::{Device, HostOptions};
use retromae::ops;

use crate::handles::Handles;
use crate::operations::write;
use crate::status::{Failure, Result, Status, invalid, name};
use crate::{border, sys};

static DEVICES: Handles<Device> = Handles::new("device");

/// Returns the device of a handle.
pub fn device_of(handle: sys::rmae_device) -> Result<Arc<Device>> {
    DEVICES.get(handle.cast())
}

/// `rmae_status_name` of the header.
///
/// # Safety
/// None is needed: it is declared as C functions are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_status_name(status: sys::rmae_status) -> *const c_char {
    name(status).as_ptr()
}

/// `rmae_last_error` of the header.
///
/// # Safety
/// None is needed: it is declared as C functions are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_last_error() -> *const c_char {
    border::last_error()
}

/// `rmae_version` of the header.
///
/// # Safety
/// Each pointer is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_version(major: *mut i32, minor: *mut i32, patch: *mut i32) {
    let parts =
        [env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"), env!("CARGO_PKG_VERSION_PATCH")];
    for (result, part) in [major, minor, patch].into_iter().zip(parts) {
        if !result.is_null() {
            // SAFETY: passed on to the caller.
            unsafe { result.write(part.parse().unwrap_or(0)) };
        }
    }
}

/// `rmae_device_open` of the header.
///
/// # Safety
/// `name` is null or a C string, `device` null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_device_open(
    name: *const c_char,
    flags: u64,
    device: *mut sys::rmae_device,
) -> sys::rmae_status {
    border::call(|| {
        // SAFETY: passed on to the caller.
        let name = unsafe { text("name", name)? };
        let known = u64::from(sys::RMAE_DEVICE_NO_FAULT_HANDLERS);
        if flags & !known != 0 {
            return invalid("flags", format_args!("{flags:#x}"), format_args!("a combination of {known:#x}"));
        }
        if device.is_null() {
            return Err(Failure::field(Status::NullPointer, "device", "NULL", "the address of the result"));
        }
        let opened = open(name, flags & known != 0)?;
        // SAFETY: passed on to the caller.
        unsafe { write("device", device, DEVICES.open(opened).cast()) }
    })
}

fn open(name: &str, without_fault_handlers: bool) -> Result<Device> {
    let host = || {
        if !without_fault_handlers {
            return Device::host();
        }
        Device::host_with(HostOptions { catch_faults: false, ..HostOptions::from_env()? })
    };
    let unsupported = |error: retromae::device::Error| Failure {
        status: Status::UnsupportedHardware,
        text: error.to_string(),
    };
    match (name, name.strip_prefix("cuda:").map(str::parse)) {
        ("host", _) => Ok(host()?),
        ("auto", _) => Ok(Device::cuda(0).or_else(|_| host())?),
        (_, Some(Ok(ordinal))) => Device::cuda(ordinal).map_err(unsupported),
        _ => invalid("name", format_args!("{name:?}"), "auto, host, or cuda:N"),
    }
}

/// `rmae_device_close` of the header.
///
/// # Safety
/// None is needed: it is declared as C functions are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_device_close(device: sys::rmae_device) -> sys::rmae_status {
    border::call(|| DEVICES.close(device.cast()).map(drop))
}

/// `rmae_device_description` of the header.
///
/// # Safety
/// `text` is null or valid for `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_device_description(
    device: sys::rmae_device,
    text: *mut c_char,
    bytes: usize,
) -> sys::rmae_status {
    border::call(|| {
        let description = device_of(device)?.description();
        if text.is_null() || bytes == 0 {
            return Err(Failure::field(
                Status::NullPointer,
                "text",
                "NULL or of no bytes",
                "room for a text",
            ));
        }
        let length = description.len().min(bytes - 1);
        // SAFETY: valid for one byte more than the length.
        unsafe {
            text.copy_from_nonoverlapping(description.as_ptr().cast(), length);
            text.add(length).write(0);
        }
        Ok(())
    })
}

/// `rmae_stream_synchronize` of the header.
///
/// # Safety
/// The stream is alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_stream_synchronize(
    device: sys::rmae_device,
    stream: *mut c_void,
) -> sys::rmae_status {
    border::call(|| {
        let device = device_of(device)?;
        // SAFETY: passed on to the caller.
        let stream = unsafe { device.lend_stream(stream.addr() as u64, None) }
            .map_err(|error| Failure::of_field("stream", error))?;
        Ok(stream.synchronize()?)
    })
}

/// `rmae_rng_state` of the header.
///
/// # Safety
/// `words` is null or valid for four words.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_rng_state(seed: u64, step: u32, words: *mut u32) {
    if !words.is_null() {
        // SAFETY: passed on to the caller.
        unsafe { words.cast::<[u32; 4]>().write_unaligned(ops::rng_state(seed, step)) };
    }
}

/// Returns a C string.
///
/// # Errors
/// When it is NULL or not UTF-8.
///
/// # Safety
/// It is null or a C string, which lives as long as the result.
pub unsafe fn text<'a>(field: &'static str, text: *const c_char) -> Result<&'a str> {
    if text.is_null() {
        return Err(Failure::field(Status::NullPointer, field, "NULL", "a text"));
    }
    // SAFETY: passed on to the caller.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().or_else(|_| invalid(field, format_args!("{text:?}"), "UTF-8"))
}

as_declared! {
    rmae_status_name,
    rmae_last_error,
    rmae_version,
    rmae_device_open,
    rmae_device_close,
    rmae_device_description,
    rmae_stream_synchronize,
    rmae_rng_state,
}
