//! Contexts, modules and errors.

use std::ffi::CString;

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUresult::*};

use crate::client::{BYTES, COUNT, Gpu, code, ramp};
use crate::process::simulate;

#[test]
fn every_thread_needs_a_current_context() {
    simulate(&[], || {
        // SAFETY: refused.
        assert_eq!(code(unsafe { result::malloc_sync(8) }), CUDA_ERROR_NOT_INITIALIZED);
        let context = Gpu::enter() as usize;
        std::thread::spawn(move || {
            assert_eq!(code(result::ctx::synchronize()), CUDA_ERROR_INVALID_CONTEXT);
            // SAFETY: retained above.
            unsafe { result::ctx::set_current(context as sys::CUcontext) }.unwrap();
            result::ctx::synchronize().unwrap();
        })
        .join()
        .unwrap();
    });
}

/// Returns the calling thread's context.
fn current() -> sys::CUcontext {
    let mut context = std::ptr::null_mut();
    // SAFETY: writes a handle.
    unsafe { sys::cuCtxGetCurrent(&raw mut context) }.result().unwrap();
    context
}

#[test]
fn contexts_are_a_stack_of_each_thread() {
    simulate(&[], || {
        let context = Gpu::enter() as usize;
        std::thread::spawn(move || {
            let context = context as sys::CUcontext;
            let mut popped = std::ptr::null_mut();
            // SAFETY: the context is retained, and handles are written.
            unsafe {
                let push = |context| sys::cuCtxPushCurrent_v2(context);
                let mut pop = || sys::cuCtxPopCurrent_v2(&raw mut popped);
                assert!(current().is_null());
                assert_eq!(pop(), CUDA_ERROR_INVALID_CONTEXT);
                assert_eq!(push(0x1234 as sys::CUcontext), CUDA_ERROR_INVALID_CONTEXT);
                assert_eq!((push(context), push(context)), (CUDA_SUCCESS, CUDA_SUCCESS));
                assert_eq!(pop(), CUDA_SUCCESS);
                assert_eq!(current(), context);
                // Setting replaces the top, and setting none drops it.
                result::ctx::set_current(context).unwrap();
                result::ctx::set_current(std::ptr::null_mut()).unwrap();
                assert!(current().is_null());
                result::ctx::set_current(std::ptr::null_mut()).unwrap();
                result::ctx::set_current(context).unwrap();
                assert_eq!(pop(), CUDA_SUCCESS);
                assert_eq!(sys::cuCtxPopCurrent_v2(std::ptr::null_mut()), CUDA_ERROR_INVALID_CONTEXT);
                assert_eq!((0..17).find(|_| push(context) != CUDA_SUCCESS), Some(16));
            }
            assert_eq!(popped, context);
        })
        .join()
        .unwrap();
        assert_eq!(current() as usize, context);
    });
}

#[test]
fn flags_of_the_primary_context_are_checked() {
    simulate(&[], || {
        // SAFETY: no preconditions.
        let set = |device, flags| unsafe { sys::cuDevicePrimaryCtxSetFlags_v2(device, flags) };
        assert_eq!(set(0, 0), CUDA_ERROR_NOT_INITIALIZED);
        result::init().unwrap();
        for flags in [0, 1, 2, 4, 8 | 2, 16] {
            assert_eq!(set(0, flags), CUDA_SUCCESS, "{flags}");
        }
        assert_eq!(set(0, 3), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(set(0, 64), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(set(1, 0), CUDA_ERROR_INVALID_DEVICE);
    });
}

#[test]
fn a_context_is_gone_after_its_last_release() {
    simulate(&[], || {
        let gpu = Gpu::open();
        let (memory, stream) = (gpu.upload(&ramp(1.0)), gpu.stream());
        // SAFETY: uses of what is gone are refused.
        unsafe {
            result::primary_ctx::release(0).unwrap();
            assert_eq!(gpu.probe_in_dead_context(memory, stream), CUDA_ERROR_CONTEXT_IS_DESTROYED);
            Gpu::enter();
            assert_eq!(code(result::stream::synchronize(stream)), CUDA_ERROR_INVALID_HANDLE);
            assert_eq!(code(result::free_sync(memory)), CUDA_ERROR_INVALID_VALUE);
        }
        assert_ne!(Gpu::open().allocate(BYTES), memory);
    });
}

impl Gpu {
    fn probe_in_dead_context(&self, memory: sys::CUdeviceptr, stream: sys::CUstream) -> sys::CUresult {
        // SAFETY: refused.
        code(unsafe { result::memset_d8_async(memory, 0, 1, stream) })
    }
}

#[test]
fn a_failed_launch_is_the_end_of_cuda_in_the_process() {
    let written = simulate(&[("SIMULATED_CUDA_FAULT", "illegal-address=probe_reverse")], || {
        let gpu = Gpu::open();
        let stream = gpu.stream();
        let (input, output) = (gpu.upload(&ramp(1.0)), gpu.allocate(BYTES));
        assert_eq!(gpu.probe("probe_reverse", input, output, stream), CUDA_SUCCESS, "errors come late");
        // SAFETY: all is alive.
        unsafe {
            assert_eq!(code(result::stream::synchronize(stream)), CUDA_ERROR_ILLEGAL_ADDRESS);
            assert_eq!(code(result::stream::synchronize(stream)), CUDA_ERROR_ILLEGAL_ADDRESS);
            assert_eq!(code(result::malloc_sync(8)), CUDA_ERROR_ILLEGAL_ADDRESS);
            let error = result::free_sync(input).unwrap_err();
            assert_eq!(error.error_name().unwrap(), c"CUDA_ERROR_ILLEGAL_ADDRESS");
            assert_eq!(error.error_string().unwrap(), c"an illegal memory access was encountered");
            // A new context is refused for the same reason.
            assert_eq!(code(result::primary_ctx::retain(0)), CUDA_ERROR_ILLEGAL_ADDRESS);
            result::primary_ctx::release(0).unwrap();
            assert_eq!(code(result::primary_ctx::retain(0)), CUDA_ERROR_ILLEGAL_ADDRESS);
        }
    });
    let Some(written) = written else { return };
    assert!(written.stderr.contains("kernel probe_reverse, grid [1, 1, 1]: fails"), "{}", written.stderr);
}

/// A kernel that hangs blocks only its own stream and the calls that wait for it.
#[test]
fn a_kernel_that_hangs_never_finishes() {
    let written = simulate(&[("SIMULATED_CUDA_FAULT", "hang=probe_reverse")], || {
        let gpu = Gpu::open();
        let [stream, other] = [gpu.stream(), gpu.stream()];
        let (input, output) = (gpu.upload(&ramp(1.0)), gpu.allocate(BYTES));
        assert_eq!(gpu.probe("probe_reverse", input, output, stream), CUDA_SUCCESS);
        for _ in 0..100 {
            // SAFETY: the stream is alive.
            assert_eq!(code(unsafe { sys::cuStreamQuery(stream).result() }), CUDA_ERROR_NOT_READY);
        }
        let (handle, (done, waits)) = (stream as usize, std::sync::mpsc::channel());
        std::thread::spawn(move || {
            Gpu::enter();
            // SAFETY: the stream is alive.
            let _ = unsafe { result::stream::synchronize(handle as sys::CUstream) };
            done.send(()).unwrap();
        });
        assert_eq!(gpu.download::<f32>(input, COUNT, other), ramp(1.0));
        assert!(waits.recv_timeout(std::time::Duration::from_millis(200)).is_err());
    });
    let Some(written) = written else { return };
    assert!(written.stderr.contains("kernel probe_reverse, grid [1, 1, 1]: never"), "{}", written.stderr);
}

#[test]
fn launches_are_checked_at_the_call() {
    simulate(&[], || {
        let gpu = Gpu::open();
        let function = gpu.function("probe_reverse");
        let mut params = [0u64; 3];
        let mut launch = |grid, threads, shared_bytes| {
            let mut pointers = [params.as_mut_ptr().cast()];
            let stream = result::stream::null();
            // SAFETY: refused, but for the last, which never runs.
            code(unsafe {
                result::launch_kernel(
                    function,
                    (grid, 1, 1),
                    (threads, 1, 1),
                    shared_bytes,
                    stream,
                    &mut pointers,
                )
            })
        };
        assert_eq!(launch(0, 64, 256), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(launch(1, 32, 256), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(launch(1, 64, (48 << 10) + 1), CUDA_ERROR_INVALID_VALUE);
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is alive.
        unsafe {
            let set = |bytes| code(result::function::set_function_attribute(function, attribute, bytes));
            assert_eq!(set((227 << 10) + 1), CUDA_ERROR_INVALID_VALUE);
            assert_eq!(set(227 << 10), CUDA_SUCCESS);
        }
        assert_eq!(launch(1, 64, 227 << 10), CUDA_SUCCESS);
    });
}

#[test]
fn images_and_kernels_must_be_known() {
    simulate(&[], || {
        Gpu::enter();
        // SAFETY: images of one word, of which no more is read.
        unsafe {
            let load = |word: u32| result::module::load_data((&raw const word).cast());
            assert_eq!(code(load(0x464c_457f)), CUDA_ERROR_INVALID_IMAGE);
            let module = load(0xBA55_ED50).unwrap();
            let find = |name: &str| result::module::get_function(module, CString::new(name).unwrap());
            assert_eq!(code(find("no_such_kernel")), CUDA_ERROR_NOT_FOUND);
            find("adamw_f32").unwrap();
            result::module::unload(module).unwrap();
            assert_eq!(code(find("adamw_f32")), CUDA_ERROR_INVALID_HANDLE);
        }
    });
}

#[test]
fn faults_make_another_machine() {
    simulate(&[("SIMULATED_CUDA_FAULT", "capability=7.5,memory=1024,driver=12000,invalid-image")], || {
        Gpu::enter();
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR;
        let image = 0xBA55_ED50u32;
        let mut version = 0;
        // SAFETY: plain questions.
        unsafe {
            assert_eq!(result::device::get_attribute(0, attribute), Ok(5));
            assert_eq!(result::device::total_mem(0), Ok(1024));
            sys::cuDriverGetVersion(&raw mut version).result().unwrap();
            assert_eq!(
                code(result::module::load_data((&raw const image).cast())),
                CUDA_ERROR_NO_BINARY_FOR_GPU
            );
        }
        assert_eq!(version, 12000);
        assert_eq!(result::device::get_name(0).unwrap(), "Simulated GPU");
    });
}

#[test]
fn a_machine_may_have_no_device() {
    simulate(&[("SIMULATED_CUDA_FAULT", "no-device")], || {
        result::init().unwrap();
        assert_eq!(result::device::get_count(), Ok(0));
        assert_eq!(code(result::device::get(0)), CUDA_ERROR_INVALID_DEVICE);
    });
}

#[test]
fn a_machine_may_have_no_driver() {
    simulate(&[("SIMULATED_CUDA_FAULT", "no-driver")], || {
        assert_eq!(code(result::init()), CUDA_ERROR_NO_DEVICE);
        assert_eq!(code(result::device::get_count()), CUDA_ERROR_NOT_INITIALIZED);
    });
}

#[test]
fn a_wrong_setting_is_named() {
    let written = simulate(&[("SIMULATED_CUDA_SEED", "early")], || {
        assert_eq!(code(result::init()), CUDA_ERROR_SYSTEM_NOT_READY);
    });
    let Some(written) = written else { return };
    assert!(written.stderr.contains("SIMULATED_CUDA_SEED is \"early\""), "{}", written.stderr);
}
