//! A CUDA driver and cuBLASLt in software.
//!
//! One shared library that exports the functions of `libcuda` and `libcublasLt` which a client of kernels needs, and runs the kernels on
//! the host device of the `retromae` crate. A program that loads it in place of NVIDIA's libraries runs its CUDA path, handle for handle
//! and call for call, on a machine without a GPU. It is made to be a nuisance: it does everything as late and in as strange an
//! order as CUDA's rules allow, so that a missing wait, a use after a free or a call in a dead context shows.
//!
//! # How to use it
//!
//! The dynamic loader must find the one file under both names; symbolic links make it load the file once:
//!
//! ```text
//! cargo test --package simulated-cuda
//! mkdir -p target/simulated-cuda
//! ln -sf ../debug/deps/libsimulated_cuda.so target/simulated-cuda/libcuda.so.1
//! ln -sf ../debug/deps/libsimulated_cuda.so target/simulated-cuda/libcublasLt.so
//! LD_LIBRARY_PATH=$PWD/target/simulated-cuda RETROMAE_TEST_DEVICE=cuda cargo test --test suite
//! ```
//!
//! The client needs to have been built with nvcc, or it has no kernels to load. Images are not read beyond their first word: a kernel is the
//! host device's of the same name, so client and library should be of one source tree.
//!
//! `docs/environment.md` lists the variables that it reads; these are the faults of `SIMULATED_CUDA_FAULT`:
//!
//! | fault | effect |
//! |---|---|
//! | `no-driver` | `cuInit` fails with `CUDA_ERROR_NO_DEVICE` |
//! | `no-device` | there is a driver, and no device |
//! | `capability=7.5` | the compute capability of the device (9.0 by default) |
//! | `memory=BYTES` | its memory (8 GiB by default); allocations beyond are refused |
//! | `driver=12000` | the version of the driver (13000 by default) |
//! | `invalid-image` | modules have no code for the device |
//! | `no-blas` | `cublasLtCreate` fails with `CUBLAS_STATUS_NOT_INITIALIZED` |
//! | `illegal-address=KERNEL` | that kernel fails with `CUDA_ERROR_ILLEGAL_ADDRESS` when it runs, and so does every later call of the process |
//! | `hang=KERNEL` | that kernel never finishes: queries say so, and what waits for it never returns |
//!
//! Whatever is refused or goes wrong is explained in a line on standard error, which begins with `simulated CUDA:`.
//!
//! # What it simulates
//!
//! * **Streams.** Work is enqueued and runs only when somebody waits: for a stream, an event or the context, in a copy that blocks, in a free
//!   that waits, or when very much is enqueued. What runs, and in which order, is drawn from the seed among all that stream order, events and
//!   the legacy stream's rules leave open; work on another stream runs between, or much later. Queries say "not ready" for a while. One
//!   operation is never divided: two kernels at the same time are not simulated, only one after the other.
//! * **Params and host memory.** A launch copies its params at the call. A copy from pageable memory reads it at the call, one from
//!   page-locked memory when its turn comes, so that memory which is written again too early is seen. A copy to pageable memory returns when it
//!   is done, one to page-locked memory at once.
//! * **Memory.** Fresh memory is `0xff` in every byte: NaN. Every allocation lies between inaccessible pages, becomes inaccessible when its
//!   free runs (in stream order, where it is stream-ordered), and no address is given twice in a process. So a kernel that uses freed or
//!   foreign memory ends in an error with its source line. Copies, fills and matrix products are checked against the table of allocations when
//!   they are enqueued (`CUDA_ERROR_INVALID_VALUE`) and again when they run (`CUDA_ERROR_ILLEGAL_ADDRESS`). The bytes up to the next fence
//!   are checked when memory is freed.
//! * **Errors.** An error of executed work is the end of CUDA in the process: every later call returns it, also after the primary context was
//!   released by all. Handles are looked up, so stale ones are refused. A thread without a current context is refused.
//! * **Events**, with times by the clock of the execution.
//! * **Captures and graphs.** Launches, copies within the device and with page-locked memory, fills, matrix products, forks and joins by
//!   events are recorded. What CUDA forbids is refused and spoils the capture: in every mode what would wait for recorded work, and so for the whole device,
//!   as plain frees do and the loading of a kernel that is asked for the first time; and, as the modes of captures and threads say, whatever a capture does not see: to allocate other than in stream order, to load
//!   and unload modules, to make streams and pools, and to wait or ask for any event or stream. A graph keeps params from the capture and reads page-locked memory when it runs.
//! * **Matrix products** of cuBLASLt with f32, f16 and bf16 operands, f32 accumulation, transposes, leading dimensions, strided batches and
//!   the bias epilogue, which is refused where the library has been seen to refuse it or to fail: with a bias that is aligned to less than 16 bytes, and
//!   for products of one row or of single terms. Up to three algorithms are offered; all give the same result, but two use the workspace, and a workspace
//!   that two streams share gives NaN where their products get into each other's way.
//!
//! # What it does not
//!
//! More than one device; contexts other than the primary one; allocations and other graphs within a graph, and updates of a graph; streams of
//! each thread; peer and managed memory; textures; the functions of cuBLASLt for other layouts, types and epilogues. Such calls return
//! `CUDA_ERROR_NOT_SUPPORTED` or `CUBLAS_STATUS_NOT_SUPPORTED` where there is a function at all. Times mean nothing, and neither do the figures of the device.
#![allow(non_snake_case)]

mod blas;
mod call;
mod driver;
mod machine;
mod settings;
