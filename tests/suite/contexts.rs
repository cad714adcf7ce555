//! The caller's thread as every call to the CUDA device leaves it: its stack of contexts, and its mode towards captures.

use cudarc::driver::sys::{self, CUcontext, CUstreamCaptureMode as CaptureMode};
use retromae::device::{Device, Error, LaunchShape, Stream};
use retromae::ops::{linear, reduce};

const COUNT: usize = 64;

/// Returns the calling thread's context.
fn current() -> CUcontext {
    let mut context = std::ptr::null_mut();
    // SAFETY: writes a handle.
    unsafe { sys::cuCtxGetCurrent(&raw mut context) }.result().unwrap();
    context
}

/// Returns the calling thread's mode towards captures.
fn capture_mode() -> CaptureMode {
    let exchange = |mut mode| {
        // SAFETY: the mode is there to be overwritten.
        unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) }.result().unwrap();
        mode
    };
    let mode = exchange(CaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL);
    exchange(mode);
    mode
}

/// Calls that allocate, copy, launch, multiply, wait, record and free; each is followed by `check`.
fn work(device: &Device, check: &dyn Fn(&str)) {
    fn after<T>(check: &dyn Fn(&str), what: &str, result: Result<T, impl std::fmt::Display>) -> T {
        check(what);
        result.unwrap_or_else(|error| panic!("{what}: {error}"))
    }
    let stream = after(check, "a new stream", device.new_stream());
    let input = after(check, "an upload", device.upload(&[1.0f32; COUNT]));
    let mut output = after(check, "an allocation", device.zeros::<f32>(COUNT));
    let mut staging = after(check, "staging memory", device.staging::<f32>(COUNT));
    let mut workspace = after(check, "a workspace", reduce::workspace(COUNT).allocate(device));
    after(check, "a fill", stream.zero(output.view_mut()));
    after(check, "a copy", stream.copy(output.view_mut(), input.view()));
    after(check, "a copy to the host", staging.download(&stream, 0..COUNT, output.view()));
    let earlier = after(check, "an event", stream.record());
    let mut enqueue = |stream: &Stream| {
        let sum = reduce::Arguments {
            input: input.view(),
            output: output.slice_mut(0..1),
            accumulate: false,
            workspace: workspace.view_mut(),
        };
        after(check, "a kernel", reduce::squares(stream, sum));
        let [left, right] = [(); 2].map(|()| input.matrix(8, 8).unwrap());
        let product = linear::Forward::new(left, right, output.matrix_mut(8, 8).unwrap());
        after(check, "a matmul", linear::forward(stream, product));
    };
    enqueue(&stream);
    let graph = stream.capture(|stream| {
        enqueue(stream);
        Ok::<_, Error>(())
    });
    let graph = after(check, "a capture", graph);
    // SAFETY: all buffers are alive, and the stream is waited for.
    after(check, "a graph", unsafe { graph.launch(&stream) });
    let later = after(check, "an event", stream.record());
    after(check, "an event's wait", device.stream().wait(&later));
    after(check, "a wait", stream.synchronize());
    after(check, "a time", later.elapsed_since(&earlier));
    after(check, "a read", output.read());
    drop((graph, earlier, later));
    check("a drop of graph and events");
    drop((input, output, workspace, staging));
    check("a drop of memory");
    drop(stream);
    check("a drop of a stream");
}

/// Calls that fail; each is followed by `check`.
fn failures(device: &Device, check: &dyn Fn(&str)) {
    let too_large = device.zeros::<f32>(1 << 45);
    check("an allocation beyond all memory");
    assert!(matches!(too_large, Err(Error::CudaOutOfMemory { .. })));
    let shape = LaunchShape { grid: [1, 1, 1], threads: 64, shared_bytes: 0 };
    // SAFETY: it is refused.
    let unknown = unsafe { device.stream().launch_shape("no_such_kernel", shape, &0u32) };
    check("an unknown kernel");
    assert!(unknown.is_err());
    let stream = device.new_stream().unwrap();
    let mut buffer = device.zeros::<f32>(COUNT).unwrap();
    let mut staging = device.staging::<f32>(COUNT).unwrap();
    let captured = stream.capture(|stream| {
        let refused = staging.upload(stream, 0..COUNT, buffer.view_mut());
        check("a copy that cannot be captured");
        refused
    });
    check("a capture that fails");
    assert!(matches!(captured, Err(Error::Capturing(_))));
}

/// Runs `body` on a thread of its own, if the tests run on a CUDA device.
fn on_a_thread(body: impl FnOnce(&Device) + Send) {
    let device = Device::for_tests().unwrap();
    if device.name() != "cuda" {
        println!("ignored: only CUDA has contexts");
        return;
    }
    std::thread::scope(|scope| scope.spawn(|| body(&device)).join()).unwrap();
}

#[test]
fn a_thread_without_a_context_has_none_after_any_call() {
    on_a_thread(|device| {
        let check = |what: &str| {
            assert!(current().is_null(), "{what} leaves a context");
            assert_eq!(capture_mode(), CaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL, "{what}");
        };
        check("the start");
        work(device, &check);
        failures(device, &check);
    });
}

#[test]
fn the_caller_s_context_stays_current_and_alone() {
    on_a_thread(|device| {
        let mut own = std::ptr::null_mut();
        // SAFETY: writes a handle; the device keeps its primary context as long as the process.
        unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut own, 0) }.result().unwrap();
        let push = || {
            // SAFETY: retained above.
            unsafe { sys::cuCtxPushCurrent_v2(own) }.result().unwrap();
        };
        let check = |what: &str| {
            let mut popped = std::ptr::null_mut();
            // SAFETY: writes a handle.
            unsafe { sys::cuCtxPopCurrent_v2(&raw mut popped) }.result().unwrap();
            assert_eq!(popped, own, "{what} leaves another context");
            assert!(current().is_null(), "{what} leaves one more context");
            push();
        };
        push();
        work(device, &check);
        failures(device, &check);
        // SAFETY: retained above, and by the device.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(0) }.result().unwrap();
    });
}

/// A kernel's fault ends the context, so it is made in a process of its own.
#[test]
fn a_failed_kernel_leaves_no_context() {
    const FAULT: (&str, &str) = ("SIMULATED_CUDA_FAULT", "illegal-address=reduce_squares");
    if std::env::var_os("RETROMAE_SIMULATED_CUDA").is_none() {
        println!("ignored: only the simulated driver makes faults");
        return;
    }
    if std::env::var(FAULT.0).is_ok_and(|fault| fault == FAULT.1) {
        return on_a_thread(fail);
    }
    let program = std::env::current_exe().unwrap();
    let name = "contexts::a_failed_kernel_leaves_no_context";
    let output = std::process::Command::new(program).args([name, "--exact"]).envs([FAULT]).output().unwrap();
    let written = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && written.contains("1 passed"), "{written}");
}

fn fail(device: &Device) {
    let stream = device.new_stream().unwrap();
    let input = device.upload(&[1.0f32; COUNT]).unwrap();
    let mut output = device.zeros::<f32>(1).unwrap();
    let mut workspace = reduce::workspace(COUNT).allocate(device).unwrap();
    let sum = reduce::Arguments {
        input: input.view(),
        output: output.view_mut(),
        accumulate: false,
        workspace: workspace.view_mut(),
    };
    reduce::squares(&stream, sum).unwrap();
    for result in [stream.synchronize(), output.read().map(drop), device.zeros::<f32>(1).map(drop)] {
        assert!(matches!(result, Err(Error::CudaEnded(_))), "{result:?}");
        assert!(current().is_null(), "{result:?}");
    }
    drop((stream, input, output, workspace));
    assert!(current().is_null());
}
