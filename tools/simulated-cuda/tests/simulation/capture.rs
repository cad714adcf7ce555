//! Captures and graphs.

use cudarc::driver::result::{self, DriverError, graph, stream};
use cudarc::driver::sys::{
    self, CUevent_flags, CUevent_wait_flags, CUresult, CUresult::*, CUstream, CUstreamCaptureMode as Mode,
};

use crate::client::{BYTES, COUNT, Gpu, code, ramp, reversed};
use crate::process::simulate;

const GLOBAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_GLOBAL;
const THREAD_LOCAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const RELAXED: Mode = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;

fn begin(stream: CUstream, mode: Mode) {
    // SAFETY: the stream is alive.
    unsafe { stream::begin_capture(stream, mode) }.unwrap();
}

fn end(stream: CUstream) -> Result<sys::CUgraphExec, DriverError> {
    // SAFETY: the stream is alive; the executable needs the graph no more.
    unsafe {
        let graph = stream::end_capture(stream)?;
        let executable = graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
        graph::destroy(graph)?;
        executable
    }
}

#[test]
fn a_graph_does_what_was_recorded_with_memory_as_it_is() {
    simulate(&[], || {
        let gpu = Gpu::open();
        let stream = gpu.stream();
        let (input, output) = (gpu.allocate(BYTES), gpu.upload(&[0.0f32; COUNT]));
        let [source, target] = [(); 2].map(|()| gpu.page_locked(COUNT));
        begin(stream, THREAD_LOCAL);
        // SAFETY: all stays alive.
        unsafe {
            result::memcpy_htod_async(input, source, stream).unwrap();
            gpu.probe("probe_reverse", input, output, stream);
            sys::cuMemcpyDtoHAsync_v2(target.as_mut_ptr().cast(), output, BYTES, stream).result().unwrap();
        }
        let executable = end(stream).unwrap();
        assert_eq!(gpu.download::<f32>(output, COUNT, stream), [0.0; COUNT], "nothing has run");
        for first in [1.0, 100.0] {
            source.copy_from_slice(&ramp(first));
            // SAFETY: all is alive.
            unsafe {
                graph::launch(executable, stream).unwrap();
                stream::synchronize(stream).unwrap();
            }
            assert_eq!(target, reversed(&ramp(first)));
        }
        // SAFETY: not used afterwards.
        unsafe { graph::exec_destroy(executable) }.unwrap();
    });
}

/// Enqueues work on `side` between a fork from `main` and, if `join`, a join.
fn fork(gpu: &Gpu, main: CUstream, side: CUstream, [input, middle, output]: [u64; 3], join: bool) {
    let [forked, joined] =
        [(); 2].map(|()| result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap());
    let wait = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
    // SAFETY: all is alive.
    unsafe {
        result::event::record(forked, main).unwrap();
        stream::wait_event(side, forked, wait).unwrap();
        gpu.probe("probe_reverse", input, middle, side);
        if join {
            result::event::record(joined, side).unwrap();
            stream::wait_event(main, joined, wait).unwrap();
            gpu.probe("probe_reverse", middle, output, main);
        }
        assert_eq!(code(result::event::query(forked)), CUDA_ERROR_CAPTURED_EVENT);
    }
}

#[test]
fn forks_must_be_joined() {
    for seed in ["1", "2"] {
        simulate(&[("SIMULATED_CUDA_SEED", seed)], || {
            let gpu = Gpu::open();
            let [main, side] = [gpu.stream(), gpu.stream()];
            let memory = [gpu.upload(&ramp(1.0)), gpu.allocate(BYTES), gpu.allocate(BYTES)];
            begin(main, RELAXED);
            fork(&gpu, main, side, memory, true);
            let executable = end(main).unwrap();
            // SAFETY: all is alive.
            unsafe { graph::launch(executable, main) }.unwrap();
            assert_eq!(gpu.download::<f32>(memory[2], COUNT, main), ramp(1.0));

            begin(main, RELAXED);
            fork(&gpu, main, side, memory, false);
            assert_eq!(code(end(main)), CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
            // Both streams are usable again.
            gpu.download::<f32>(memory[2], COUNT, side);
            gpu.download::<f32>(memory[2], COUNT, main);
        });
    }
}

/// Asserts that a capture forbids `call`, which returns `expected` and invalidates the capture.
fn spoils(stream: CUstream, mode: Mode, expected: CUresult, call: impl FnOnce() -> CUresult) {
    begin(stream, mode);
    assert_eq!(call(), expected);
    // SAFETY: the stream is alive.
    let status = unsafe { stream::is_capturing(stream) }.unwrap();
    assert_eq!(status, sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED);
    assert_eq!(code(end(stream)), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

#[test]
fn forbidden_calls_spoil_the_capture() {
    let written = simulate(&[], || {
        let gpu = Gpu::open();
        let stream = gpu.stream();
        let memory = gpu.upload(&ramp(1.0));
        let unsupported = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        // SAFETY: all is alive.
        unsafe {
            spoils(stream, RELAXED, unsupported, || code(stream::synchronize(stream)));
            spoils(stream, RELAXED, unsupported, || code(result::ctx::synchronize()));
            spoils(stream, RELAXED, unsupported, || {
                code(result::memcpy_htod_async(memory, &ramp(2.0), stream))
            });
            spoils(stream, RELAXED, unsupported, || code(result::malloc_async(stream, 8)));
            for mode in [GLOBAL, THREAD_LOCAL] {
                spoils(stream, mode, unsupported, || code(result::malloc_sync(8)));
                spoils(stream, mode, unsupported, || code(result::memcpy_dtod_sync(memory, memory, 4)));
            }
            for mode in [GLOBAL, THREAD_LOCAL, RELAXED] {
                spoils(stream, mode, unsupported, || code(result::free_sync(memory)));
                let locked = result::malloc_host(8, 0).unwrap();
                spoils(stream, mode, unsupported, || code(result::free_host(locked)));
            }
            begin(stream, RELAXED);
            result::malloc_sync(8).unwrap();
            end(stream).unwrap();
            assert_eq!(gpu.download::<f32>(memory, COUNT, stream), ramp(1.0));
        }
    });
    let Some(written) = written else { return };
    assert!(written.stderr.contains("cuMemAlloc: not allowed while a stream is being captured"));
}

#[test]
fn other_threads_are_bound_by_global_captures_alone() {
    simulate(&[], || {
        let gpu = Gpu::open();
        let stream = gpu.stream();
        let elsewhere = || {
            let allocate = || {
                Gpu::enter();
                // SAFETY: a plain allocation.
                code(unsafe { result::malloc_sync(8) })
            };
            std::thread::spawn(allocate).join().unwrap()
        };
        spoils(stream, GLOBAL, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, elsewhere);
        begin(stream, THREAD_LOCAL);
        assert_eq!(elsewhere(), CUDA_SUCCESS);
        let handle = stream as usize;
        let ended = std::thread::spawn(move || {
            Gpu::enter();
            code(end(handle as CUstream))
        });
        assert_eq!(ended.join().unwrap(), CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
        end(stream).unwrap();
    });
}

/// Sets the calling thread's mode; returns the previous mode.
fn exchange(mut mode: Mode) -> Mode {
    // SAFETY: the mode is there to be overwritten.
    unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) }.result().unwrap();
    mode
}

#[test]
fn a_thread_may_say_that_captures_do_not_bind_it() {
    simulate(&[], || {
        let gpu = Gpu::open();
        let [stream, other] = [gpu.stream(), gpu.stream()];
        // SAFETY: a plain allocation.
        let allocate = || code(unsafe { result::malloc_sync(8) });
        for mode in [GLOBAL, THREAD_LOCAL] {
            begin(stream, mode);
            assert_eq!(exchange(RELAXED), GLOBAL);
            assert_eq!(allocate(), CUDA_SUCCESS);
            let image = [0xBA55_ED50u32; 4];
            // SAFETY: the image is what the simulation reads of one, and both streams are alive.
            unsafe {
                result::module::load_data(image.as_ptr().cast()).unwrap();
                stream::synchronize(other).unwrap();
                stream::destroy(gpu.stream()).unwrap();
            }
            let elsewhere = std::thread::spawn(move || {
                Gpu::enter();
                let before = exchange(THREAD_LOCAL);
                (before, allocate())
            });
            assert_eq!(elsewhere.join().unwrap(), (GLOBAL, CUDA_SUCCESS));
            assert_eq!(exchange(GLOBAL), RELAXED);
            end(stream).unwrap();
            spoils(stream, mode, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, allocate);
        }
    });
}

/// A kernel is loaded on first request, which may wait for all of the device's work.
#[test]
fn captures_let_no_kernel_be_loaded() {
    simulate(&[], || {
        let gpu = Gpu::open();
        let stream = gpu.stream();
        begin(stream, RELAXED);
        gpu.function("probe_reverse");
        end(stream).unwrap();
        spoils(stream, RELAXED, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, || {
            code(gpu.find("probe_write_out_of_bounds"))
        });
        gpu.function("probe_write_out_of_bounds");
    });
}

/// A capture may rely on work that it does not record, so unrecorded calls are refused.
#[test]
fn captures_forbid_what_they_do_not_see() {
    simulate(&[], || {
        let gpu = Gpu::open();
        let [stream, other] = [gpu.stream(), gpu.stream()];
        let event = result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap();
        // SAFETY: all is alive.
        unsafe { result::event::record(event, other) }.unwrap();
        let image = [0xBA55_ED50u32; 4];
        // SAFETY: all is alive, or refused.
        let calls: [&dyn Fn() -> CUresult; 5] = unsafe {
            [
                &|| code(result::module::load_data(image.as_ptr().cast())),
                &|| code(stream::synchronize(other)),
                &|| sys::cuStreamQuery(other),
                &|| code(result::event::synchronize(event)),
                &|| code(stream::create(stream::StreamKind::NonBlocking)),
            ]
        };
        for call in calls {
            spoils(stream, GLOBAL, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, call);
            spoils(stream, THREAD_LOCAL, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, call);
            begin(stream, RELAXED);
            assert_ne!(call(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
            end(stream).unwrap();
        }
    });
}

#[test]
fn the_legacy_stream_spoils_captures_of_blocking_streams() {
    simulate(&[], || {
        let gpu = Gpu::open();
        let blocking = stream::create(stream::StreamKind::Default).unwrap();
        let memory = gpu.allocate(BYTES);
        // SAFETY: all is alive.
        let fill = || code(unsafe { result::memset_d8_async(memory, 0, BYTES, stream::null()) });
        spoils(blocking, RELAXED, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, fill);
        begin(blocking, RELAXED);
        // SAFETY: a question about the legacy stream, which spoils nothing.
        let asked = code(unsafe { stream::is_capturing(stream::null()) });
        assert_eq!(asked, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        end(blocking).unwrap();
        let other = gpu.stream();
        begin(other, RELAXED);
        assert_eq!(fill(), CUDA_SUCCESS);
        end(other).unwrap();
    });
}
