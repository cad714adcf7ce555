//! Statuses, and the failures that they stand for.

use std::fmt;

use retromae::{device, ops};

use crate::sys;

/// Defines the statuses of the header, with their names.
macro_rules! statuses {
    ($($variant:ident = $constant:ident,)*) => {
        /// A status other than success.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(i32)]
        pub enum Status {
            $($variant = sys::$constant as i32,)*
        }

        /// Returns the name of a status as a C string.
        pub fn name(status: sys::rmae_status) -> &'static std::ffi::CStr {
            const OK: i32 = sys::RMAE_OK as i32;
            $(const $constant: i32 = sys::$constant as i32;)*
            let name = match status {
                OK => concat!("RMAE_OK", "\0"),
                $($constant => concat!(stringify!($constant), "\0"),)*
                _ => "unknown\0",
            };
            std::ffi::CStr::from_bytes_with_nul(name.as_bytes()).unwrap_or_default()
        }
    };
}

statuses! {
    InvalidArgument = RMAE_INVALID_ARGUMENT,
    InvalidDescriptor = RMAE_INVALID_DESCRIPTOR,
    NullPointer = RMAE_NULL_POINTER,
    Misaligned = RMAE_MISALIGNED,
    Overlap = RMAE_OVERLAP,
    WorkspaceTooSmall = RMAE_WORKSPACE_TOO_SMALL,
    InvalidHandle = RMAE_INVALID_HANDLE,
    WrongDevice = RMAE_WRONG_DEVICE,
    UnsupportedShape = RMAE_UNSUPPORTED_SHAPE,
    UnsupportedHardware = RMAE_UNSUPPORTED_HARDWARE,
    Capturing = RMAE_CAPTURING,
    OutOfMemory = RMAE_OUT_OF_MEMORY,
    DeviceError = RMAE_DEVICE_ERROR,
    DeviceLost = RMAE_DEVICE_LOST,
    FileError = RMAE_FILE_ERROR,
    Internal = RMAE_INTERNAL,
}

/// A failed call: its status, and the text of `rmae_last_error`.
#[derive(Debug)]
pub struct Failure {
    pub status: Status,
    pub text: String,
}

/// The result of a call.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure that names a field, what it was, and what it should be.
    pub fn field(
        status: Status,
        field: impl fmt::Display,
        actual: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        Self { status, text: format!("{field} is {actual}; it should be {expected}") }
    }

    /// An error of the device whose argument is this field of a descriptor.
    pub fn of_field(field: &'static str, error: device::Error) -> Self {
        use device::Error as E;
        match error {
            E::Argument { actual, expected, .. } => {
                Self::field(Status::InvalidArgument, field, actual, expected)
            }
            E::Misaligned { actual, expected, .. } => {
                Self::field(Status::Misaligned, field, actual, expected)
            }
            E::WrongDevice { actual, expected, .. } => {
                Self::field(Status::WrongDevice, field, actual, expected)
            }
            other => other.into(),
        }
    }
}

/// Returns a failure whose field has the header's name, where Rust's begins with another one: `(Rust's, the header's)`.
pub fn renamed(failure: Failure, names: &[(&str, &str)]) -> Failure {
    let found = names.iter().find_map(|(rust, c)| Some((failure.text.strip_prefix(rust)?, c)));
    match found {
        Some((rest, name)) => Failure { text: format!("{name}{rest}"), ..failure },
        None => failure,
    }
}

/// Returns `Err` with a value that can never be right.
pub fn invalid<T>(
    field: impl fmt::Display,
    actual: impl fmt::Display,
    expected: impl fmt::Display,
) -> Result<T> {
    Err(Failure::field(Status::InvalidArgument, field, actual, expected))
}

impl From<device::Error> for Failure {
    fn from(error: device::Error) -> Self {
        use device::Error as E;
        let status = match &error {
            E::Argument { argument: "gemm_workspace", .. } => Status::WorkspaceTooSmall,
            E::Argument { .. } => Status::InvalidArgument,
            E::Misaligned { .. } => Status::Misaligned,
            E::WrongDevice { .. } => Status::WrongDevice,
            E::UnknownKernel(_) | E::Launch { .. } => Status::UnsupportedShape,
            E::KernelsNotBuilt(_) | E::HostProcessor { .. } => Status::UnsupportedHardware,
            E::Capturing(_) => Status::Capturing,
            E::OutOfMemory { .. } | E::CudaOutOfMemory { .. } => Status::OutOfMemory,
            E::Kernel { .. } | E::HostThreads(_) | E::Cuda(_) => Status::DeviceError,
            E::CudaEnded(_) => Status::DeviceLost,
        };
        Self { status, text: error.to_string() }
    }
}

impl From<ops::Error> for Failure {
    fn from(error: ops::Error) -> Self {
        use ops::Error as E;
        let status = match error {
            E::Device(error) => return error.into(),
            E::Argument { argument: "workspace", .. } => Status::WorkspaceTooSmall,
            E::Argument { .. } => Status::InvalidArgument,
            E::Unsupported { .. } => Status::UnsupportedShape,
            E::Misaligned { .. } => Status::Misaligned,
        };
        Self { status, text: error.to_string() }
    }
}
