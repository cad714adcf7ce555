//! Errors of devices.

/// An error of a device: of its memory, of a launch, or of a kernel.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A kernel on the CPU emulator did something undefined; it was stopped there.
    #[error("kernel {kernel}: {violation} at {site}, block ({}, {}, {}), thread {thread}", block[0], block[1], block[2])]
    Kernel {
        /// Name of the kernel
        kernel: String,
        /// Description of the undefined behavior
        violation: String,
        /// Source file and line
        site: String,
        /// Index of the block in the grid
        block: [u32; 3],
        /// Index of the thread in its block
        thread: u32,
    },
    /// No kernel of this name was built for the device.
    #[error("kernel {0} is not built for this device; `retromae info --kernels` lists those that are")]
    UnknownKernel(String),
    /// The launch itself is invalid.
    #[error("kernel {kernel}: {argument} is {actual}; it should be {expected}")]
    Launch {
        /// Name of the kernel
        kernel: String,
        /// Part of the launch
        argument: &'static str,
        /// Its value
        actual: String,
        /// Values that are right
        expected: String,
    },
    /// GPU kernels were not built.
    #[error(
        "the GPU kernels are not built: {0}; install the CUDA toolkit (or set NVCC to its compiler) and build again, or use the host device"
    )]
    KernelsNotBuilt(String),
    /// The CUDA driver, a device or a library is missing or reports an error.
    #[error("CUDA: {0}")]
    Cuda(String),
    /// A kernel or the GPU itself failed; the driver does no more work in this process.
    #[error("CUDA: {0}; the device can do no more work in this process: start it again")]
    CudaEnded(String),
    /// The host kernels use instructions that this processor lacks.
    #[error(
        "the host kernels are built for {built}, which this processor is not; build with RETROMAE_HOST_MARCH=x86-64"
    )]
    HostProcessor {
        /// `-march` of the kernels
        built: &'static str,
    },
    /// The threads that the host device works with cannot be started.
    #[error("the host device cannot start its threads: {0}")]
    HostThreads(String),
    /// An allocation was refused.
    #[error("cannot allocate {requested} bytes on the {device} device; use a smaller batch")]
    OutOfMemory {
        /// Bytes that were asked for
        requested: usize,
        /// Name of the device
        device: &'static str,
    },
    /// An allocation on a CUDA device was refused.
    #[error(
        "cannot allocate {requested} bytes on the CUDA device: {free} of {total} are free; use fewer tokens in a batch, a smaller model, or close \
         what else uses the GPU"
    )]
    CudaOutOfMemory {
        /// Bytes that were asked for
        requested: usize,
        /// Bytes that are free
        free: usize,
        /// Bytes of the device
        total: usize,
    },
    /// An operation that a stream cannot do while it is being captured, nor the thread that captures it.
    #[error("cannot {0} while a stream is being captured; do it before or after the capture")]
    Capturing(&'static str),
    /// An argument of a device call is wrong.
    #[error("{argument} is {actual}; it should be {expected}")]
    Argument {
        /// Name of the argument
        argument: &'static str,
        /// Its value, or what it is like
        actual: String,
        /// Values that are right
        expected: String,
    },
    /// An address is no multiple of what it should be.
    #[error("{argument} is {actual}; it should be {expected}")]
    Misaligned {
        /// Name of the argument
        argument: &'static str,
        /// Its value, or what it is like
        actual: String,
        /// Values that are right
        expected: String,
    },
    /// Memory, a stream or an event belongs to another device than the rest of a call.
    #[error("{argument} is {actual}; it should be {expected}")]
    WrongDevice {
        /// Name of the argument
        argument: &'static str,
        /// Its value, or what it is like
        actual: String,
        /// Values that are right
        expected: String,
    },
}

/// The result of a device call.
pub type Result<T, E = Error> = std::result::Result<T, E>;
