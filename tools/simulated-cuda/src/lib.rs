//! A CUDA driver and cuBLASLt in software.
//!
//! One shared library that exports the functions of `libcuda` and `libcublasLt` that a program needs to launch kernels, and runs the kernels in
//! the CPU emulator of the `retromae` crate. A program that loads it in place of NVIDIA's libraries runs its CUDA path, handle for handle
//! and call for call, on a machine without a GPU. It is adversarial by design: it does everything as late and in as unusual an
//! order as CUDA's rules allow, so that a missing wait, a use after free or a call in a dead context shows.
//!
//! # Usage
//!
//! The dynamic loader must find the library under both names; with symbolic links it loads the file once:
//!
//! ```text
//! cargo test --package simulated-cuda
//! mkdir -p target/simulated-cuda
//! ln -sf ../debug/deps/libsimulated_cuda.so target/simulated-cuda/libcuda.so.1
//! ln -sf ../debug/deps/libsimulated_cuda.so target/simulated-cuda/libcublasLt.so
//! LD_LIBRARY_PATH=$PWD/target/simulated-cuda RETROMAE_TEST_DEVICE=cuda cargo test --test suite
//! ```
//!
//! The client must have been built with nvcc, or it has no kernels to load. Images are not read beyond their first word: a kernel is the
//! CPU emulator's kernel of the same name, so client and library should be built from one source tree.
//!
//! `docs/environment.md` lists its environment variables; these are the faults of `SIMULATED_CUDA_FAULT`:
//!
//! | fault | effect |
//! |---|---|
//! | `no-driver` | `cuInit` fails with `CUDA_ERROR_NO_DEVICE` |
//! | `no-device` | there is a driver, but no device |
//! | `capability=7.5` | the compute capability of the device (9.0 by default) |
//! | `memory=BYTES` | the memory of the device (8 GiB by default); allocations beyond it are refused |
//! | `driver=12000` | the driver version (13000 by default) |
//! | `invalid-image` | modules have no code for the device |
//! | `no-blas` | `cublasLtCreate` fails with `CUBLAS_STATUS_NOT_INITIALIZED` |
//! | `illegal-address=KERNEL` | that kernel fails with `CUDA_ERROR_ILLEGAL_ADDRESS` when it runs, and so does every later call of the process |
//! | `hang=KERNEL` | that kernel never finishes: queries return `CUDA_ERROR_NOT_READY`, and calls that wait for it never return |
//!
//! Every refusal and error is explained in a line on standard error that begins with `simulated CUDA:`.
//!
//! # Simulated behavior
//!
//! * **Streams.** Enqueued work runs only when a call waits: for a stream, an event or the context, in a blocking copy, in a free
//!   that waits, or when very much is enqueued. The operations that run, and their order, are sampled from the seed among all choices that stream
//!   order, events and the legacy stream's rules allow; work on another stream runs in between, or much later. Queries return "not ready" for a
//!   while. One operation is never divided: concurrent kernels are not simulated, they run one after the other.
//! * **Params and host memory.** A launch copies its params at the call. A copy from pageable memory reads it at the call, a copy from
//!   page-locked memory when the copy runs, so that memory which is overwritten too early shows. A copy to pageable memory returns when it
//!   is done, a copy to page-locked memory immediately.
//! * **Memory.** Fresh memory is `0xff` in every byte: NaN. Every allocation lies between inaccessible pages and becomes inaccessible when its
//!   free runs (in stream order for a stream-ordered free); no address is reused in a process. So a kernel that uses freed or
//!   foreign memory ends in an error with its source line. Copies, fills and matmuls are checked against the table of allocations when
//!   they are enqueued (`CUDA_ERROR_INVALID_VALUE`) and again when they run (`CUDA_ERROR_ILLEGAL_ADDRESS`). The bytes up to the next fence
//!   are checked when memory is freed.
//! * **Errors.** An error of executed work makes CUDA unusable in the process: every later call returns it, even after the primary context was
//!   fully released. Handles are looked up, so stale ones are refused. Calls on a thread without a current context are refused.
//! * **Events**, with times from the clock of the execution.
//! * **Captures and graphs.** Launches, copies within the device and with page-locked memory, fills, matmuls, and forks and joins by
//!   events are recorded. A call that CUDA forbids is refused and invalidates the capture. In every mode these are the calls that would wait for
//!   recorded work, and so for the whole device, as plain frees and the first request for a kernel, which loads it, do. Depending on the modes of
//!   captures and threads, these are also the calls that a capture does not record: allocations that are not stream-ordered, loading and unloading
//!   of modules, creation of streams and pools, and waits or queries for any event or stream. A graph keeps the params of the capture and reads
//!   page-locked memory when it runs.
//! * **Matmuls** of cuBLASLt with f32, f16 and bf16 operands, f32 accumulation, transposes, leading dimensions, strided batches and
//!   the bias epilogue, which is refused in the cases in which cuBLASLt has been seen to refuse it or to fail: for a bias aligned to less than
//!   16 bytes, and for GEMMs with one row or an inner dimension of 1. Up to three algorithms are offered; all give the same result, but two
//!   use the workspace, and GEMMs on two streams that share a workspace give NaN if they interfere.
//!
//! # Not simulated
//!
//! More than one device; contexts other than the primary one; allocations and other graphs within a graph, and updates of a graph; per-thread
//! default streams; peer and managed memory; textures; cuBLASLt's other layouts, types and epilogues. Such calls return
//! `CUDA_ERROR_NOT_SUPPORTED` or `CUBLAS_STATUS_NOT_SUPPORTED` if the function exists at all. Times and device attributes are meaningless.
#![allow(non_snake_case)]

mod blas;
mod call;
mod driver;
mod machine;
mod settings;
