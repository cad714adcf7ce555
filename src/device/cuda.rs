//! CUDA devices, through cudarc's bindings to the driver, which is loaded at run time.

use super::{Backend, Error, Result, table};

/// The backend of CUDA device number `ordinal`.
///
/// # Errors
/// When the kernels are not built for CUDA, or there is no driver or no such device.
pub(super) fn open(_ordinal: usize) -> Result<std::sync::Arc<dyn Backend>> {
    table::NVCC.map_err(|reason| Error::KernelsNotBuilt(reason.into()))?;
    Err(Error::Cuda("not supported yet".into()))
}
