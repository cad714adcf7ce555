//! Work runs late, in any allowed order, and with the contents that memory has at that time.

use cudarc::driver::result::{self, stream};
use cudarc::driver::sys::{self, CUevent_flags, CUevent_wait_flags, CUresult::*};

use crate::client::{BYTES, COUNT, Gpu, code, ramp, reversed};
use crate::process::simulate;

const WAIT: CUevent_wait_flags = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;

#[test]
fn work_runs_when_somebody_waits() {
    simulate(&[], || {
        let gpu = Gpu::open();
        let stream = gpu.stream();
        let (input, output) = (gpu.upload(&ramp(1.0)), gpu.allocate(BYTES));
        let result = gpu.page_locked(COUNT);
        result.fill(0.0);
        let event = result::event::create(CUevent_flags::CU_EVENT_DEFAULT).unwrap();
        assert_eq!(gpu.probe("probe_reverse", input, output, stream), CUDA_SUCCESS);
        // SAFETY: all is alive.
        unsafe {
            sys::cuMemcpyDtoHAsync_v2(result.as_mut_ptr().cast(), output, BYTES, stream).result().unwrap();
            result::event::record(event, stream).unwrap();
            assert!(result.iter().all(|&value| value == 0.0), "nobody has waited");
            // A client that polls succeeds in the end.
            let asked = (0..100).take_while(|_| code(result::event::query(event)) == CUDA_ERROR_NOT_READY);
            assert!((1..100).contains(&asked.count()));
        }
        assert_eq!(result, reversed(&ramp(1.0)));
    });
}

#[test]
fn page_locked_memory_is_read_late_and_pageable_memory_at_the_call() {
    simulate(&[], || {
        let gpu = Gpu::open();
        let stream = gpu.stream();
        let (late, early) = (gpu.allocate(BYTES), gpu.allocate(BYTES));
        let page_locked = gpu.page_locked(COUNT);
        let mut pageable = ramp(1.0);
        page_locked.copy_from_slice(&pageable);
        // SAFETY: all is alive.
        unsafe {
            result::memcpy_htod_async(late, page_locked, stream).unwrap();
            result::memcpy_htod_async(early, &pageable, stream).unwrap();
        }
        page_locked.fill(-1.0);
        pageable.fill(-1.0);
        assert_eq!(gpu.download::<f32>(late, COUNT, stream), [-1.0; COUNT]);
        assert_eq!(gpu.download::<f32>(early, COUNT, stream), ramp(1.0));
    });
}

/// Returns the values that a second stream reads of the first stream's output, with or without an event between them.
fn second_stream_reads(gpu: &Gpu, with_event: bool) -> Vec<f32> {
    let [first, second] = [gpu.stream(), gpu.stream()];
    let (input, output) = (gpu.upload(&ramp(1.0)), gpu.upload(&[0.0f32; COUNT]));
    gpu.probe("probe_reverse", input, output, first);
    let event = result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap();
    // SAFETY: all is alive.
    unsafe {
        result::event::record(event, first).unwrap();
        if with_event {
            stream::wait_event(second, event, WAIT).unwrap();
        }
        result::event::destroy(event).unwrap();
    }
    gpu.download(output, COUNT, second)
}

#[test]
fn a_missing_wait_shows_with_some_seed() {
    let mut late = 0;
    for seed in ["1", "2", "3", "4", "5", "6"] {
        let written = simulate(&[("SIMULATED_CUDA_SEED", seed)], || {
            let gpu = Gpu::open();
            assert_eq!(second_stream_reads(&gpu, true), reversed(&ramp(1.0)));
            let read = second_stream_reads(&gpu, false);
            assert!(read == [0.0; COUNT] || read == reversed(&ramp(1.0)));
            println!("late: {}", read[0] == 0.0);
        });
        let Some(written) = written else { return };
        late += usize::from(written.stdout.contains("late: true"));
    }
    assert!((1..6).contains(&late), "late with {late} of 6 seeds");
}

#[test]
fn the_legacy_stream_is_ordered_with_blocking_streams_alone() {
    simulate(&[], || {
        let gpu = Gpu::open();
        let blocking = stream::create(stream::StreamKind::Default).unwrap();
        let null = stream::null();
        let (input, middle, output) = (gpu.upload(&ramp(1.0)), gpu.allocate(BYTES), gpu.allocate(BYTES));
        gpu.probe("probe_reverse", input, middle, blocking);
        gpu.probe("probe_reverse", middle, output, null);
        // SAFETY: all is alive.
        unsafe { result::memset_d8_async(middle, 0, BYTES, blocking) }.unwrap();
        assert_eq!(gpu.download::<f32>(output, COUNT, null), ramp(1.0));
        // A synchronous copy from pageable memory returns once the memory is staged.
        let other = gpu.stream();
        // SAFETY: all is alive.
        unsafe { result::memcpy_htod_sync(output, &[7.0f32; COUNT]) }.unwrap();
        assert_eq!(gpu.download::<f32>(output, COUNT, other), ramp(1.0));
        assert_eq!(gpu.download::<f32>(output, COUNT, null), [7.0; COUNT]);
    });
}

#[test]
fn a_stream_with_a_priority_is_a_stream() {
    simulate(&[], || {
        let gpu = Gpu::open();
        let mut stream = std::ptr::null_mut();
        let memory = gpu.upload(&ramp(1.0));
        // SAFETY: writes a handle; the memory and the stream are alive.
        unsafe {
            let mut create = |flags| sys::cuStreamCreateWithPriority(&raw mut stream, flags, -5);
            assert_eq!(create(2), CUDA_ERROR_INVALID_VALUE);
            assert_eq!(create(1), CUDA_SUCCESS);
            result::memset_d8_async(memory, 0, BYTES, stream).unwrap();
            assert_eq!(gpu.download::<f32>(memory, COUNT, stream), [0.0; COUNT]);
            stream::destroy(stream).unwrap();
        }
    });
}

#[test]
fn events_measure_time_where_they_were_made_to() {
    simulate(&[], || {
        let gpu = Gpu::open();
        let stream = gpu.stream();
        let event = |flags| result::event::create(flags).unwrap();
        let [start, end] = [(); 2].map(|()| event(CUevent_flags::CU_EVENT_DEFAULT));
        let untimed = event(CUevent_flags::CU_EVENT_DISABLE_TIMING);
        let memory = gpu.allocate(BYTES);
        // SAFETY: all is alive.
        unsafe {
            assert_eq!(code(result::event::elapsed(start, end)), CUDA_ERROR_INVALID_HANDLE);
            result::event::record(start, stream).unwrap();
            result::memset_d8_async(memory, 0, BYTES, stream).unwrap();
            result::event::record(end, stream).unwrap();
            assert_eq!(code(result::event::elapsed(start, end)), CUDA_ERROR_NOT_READY);
            result::event::synchronize(end).unwrap();
            assert!(result::event::elapsed(start, end).unwrap() > 0.0);
            result::event::record(untimed, stream).unwrap();
            result::event::synchronize(untimed).unwrap();
            assert_eq!(code(result::event::elapsed(start, untimed)), CUDA_ERROR_INVALID_HANDLE);
            result::event::destroy(end).unwrap();
            assert_eq!(code(result::event::query(end)), CUDA_ERROR_INVALID_HANDLE);
        }
    });
}
