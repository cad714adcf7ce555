//! Build outputs embedded in the binary: fatbins for the GPU, and a table of all kernels.

/// One compiled kernel file: code for every built architecture, and PTX.
#[derive(Clone, Copy)]
pub struct Fatbin {
    /// The source, relative to `kernels/`.
    pub file: &'static str,
    /// The image that the CUDA driver loads.
    pub image: &'static [u8],
}

/// ptxas's report on one kernel for one architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CudaKernel {
    /// Name, with the element type and head size: `attention_forward_bf16_d64`.
    pub name: &'static str,
    /// The source, relative to `kernels/`.
    pub file: &'static str,
    /// Target architecture, such as `sm_80`.
    pub arch: &'static str,
    /// Registers per thread.
    pub registers: u32,
    /// Static shared memory in bytes; dynamic shared memory is chosen at launch.
    pub shared_bytes: u32,
    /// Local memory per thread, in bytes.
    pub stack_bytes: u32,
    /// Bytes of spill stores and loads.
    pub spill_bytes: u32,
}

include!(concat!(env!("OUT_DIR"), "/kernel_table.rs"));
