//! Streams and memory of others: borrowed streams, which the device knows of, and lent ones, of which it takes no notice.

use approx::assert_abs_diff_eq;
use cudarc::driver::{result, sys};

use crate::common::devices;
use crate::streams::{COUNT, floats, gelu};
use retromae::device::{Buffer, Device, GemmWorkspace, HostOptions, Stream, View, ViewMut};
use retromae::ops::{linear, reduce};

/// A stream that another library created in the GPU's primary context.
#[test]
fn a_borrowed_stream_is_used_and_given_back() {
    let device = Device::for_tests().unwrap();
    let Some(lender) = Lender::new(&device) else { return };
    let bias = device.zeros::<f32>(8).unwrap();
    let input = device.upload(&floats(1)).unwrap();
    let [mut borrowed, mut own] = [(); 2].map(|()| device.zeros::<f32>(COUNT).unwrap());
    // SAFETY: the lender's stream outlives its use here.
    let stream = unsafe { device.borrow_stream(lender.handle()) }.unwrap();
    assert_eq!(stream.handle(), lender.handle());
    gelu(&stream, &input, &bias, &mut borrowed).unwrap();
    // The work goes on when the stream is given back, and a read still waits for it.
    drop(stream);
    gelu(&device.stream(), &input, &bias, &mut own).unwrap();
    assert_eq!(borrowed.read().unwrap(), own.read().unwrap());
    // The lender can still use it.
    lender.synchronize();
}

/// A stream of the GPU's primary context, unknown to this crate.
struct Lender {
    stream: sys::CUstream,
}

impl Lender {
    fn new(device: &Device) -> Option<Self> {
        if device.name() != "cuda" {
            println!("ignored: the host device has no streams of others");
            return None;
        }
        // SAFETY: device 0 exists, and its primary context stays retained.
        unsafe {
            let context = result::primary_ctx::retain(result::device::get(0).unwrap()).unwrap();
            result::ctx::set_current(context).unwrap();
        }
        Some(Self { stream: result::stream::create(result::stream::StreamKind::NonBlocking).unwrap() })
    }

    fn handle(&self) -> u64 {
        self.stream as u64
    }

    fn synchronize(&self) {
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.stream) }.unwrap();
    }

    /// Lets the owner record the work that `work` enqueues, in the strictest capture mode, and runs it afterwards.
    fn record(&self, work: impl FnOnce()) {
        // SAFETY: the stream is alive; the graph is destroyed when its work is done.
        unsafe {
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
            result::stream::begin_capture(self.stream, mode).unwrap();
            work();
            let graph = result::stream::end_capture(self.stream).unwrap();
            let executable = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)).unwrap();
            result::graph::launch(executable, self.stream).unwrap();
            self.synchronize();
            result::graph::exec_destroy(executable).unwrap();
            result::graph::destroy(graph).unwrap();
        }
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and no longer borrowed.
        unsafe { result::stream::destroy(self.stream) }.unwrap();
    }
}

/// Work enqueued on a borrowed stream while its owner captures it becomes part of the owner's graph, including kernels that were never loaded and a
/// matmul that never ran. Other work of this thread and others does not invalidate the capture.
#[test]
fn the_owner_of_a_borrowed_stream_may_capture_it() {
    let device = Device::for_tests().unwrap();
    let Some(lender) = Lender::new(&device) else { return };
    let [input, weight] = [1, 2].map(|seed| device.upload(&floats(seed)[..64]).unwrap());
    let [mut recorded, mut direct] = [(); 2].map(|()| device.zeros::<f32>(64).unwrap());
    let multiply = |stream: &Stream, output: &mut Buffer<f32>| {
        multiply(stream, [&input, &weight, &*output].map(|buffer| buffer.view().address())).unwrap();
    };
    // SAFETY: the lender's stream outlives its use here.
    let stream = unsafe { device.borrow_stream(lender.handle()) }.unwrap();
    let mut sums = device.zeros::<f32>(1).unwrap();
    let mut workspace = reduce::workspace(64).allocate(&device).unwrap();
    lender.record(|| {
        multiply(&stream, &mut recorded);
        let squares = reduce::Arguments {
            input: recorded.view(),
            output: sums.view_mut(),
            accumulate: false,
            workspace: workspace.view_mut(),
        };
        reduce::squares(&stream, squares).unwrap();
        // Work beside it, on this thread and on another.
        let beside = || {
            let buffer = device.upload(&floats(3)).unwrap();
            let mut staging = device.staging::<f32>(COUNT).unwrap();
            let other = device.new_stream().unwrap();
            staging.download(&other, 0..COUNT, buffer.view()).unwrap();
            assert_eq!(staging.read().unwrap(), floats(3));
            other.synchronize().unwrap();
        };
        beside();
        std::thread::scope(|scope| scope.spawn(beside).join().unwrap());
    });
    multiply(&device.stream(), &mut direct);
    let direct = direct.read().unwrap();
    assert_eq!(recorded.read().unwrap(), direct);
    let expected: f32 = direct.iter().map(|value| value * value).sum();
    assert_abs_diff_eq!(sums.read().unwrap()[0], expected, epsilon = 1e-4 * expected);
}

/// The smallest right workspace of a device's GEMMs, in a buffer.
fn gemm_workspace(device: &Device) -> (Buffer<u8>, GemmWorkspace) {
    let buffer = device.zeros::<u8>(device.gemm_workspace_bytes()).unwrap();
    let workspace = GemmWorkspace { address: buffer.view().address(), bytes: buffer.len() };
    (buffer, workspace)
}

/// `output = input · weightᵀ`, all of them `[8, 8]`, at addresses as another library knows them.
fn multiply(stream: &Stream, [input, weight, output]: [u64; 3]) -> retromae::ops::Result<()> {
    let device = stream.device();
    // SAFETY: the addresses are those of live buffers of 64 elements, and the output is used by nobody else.
    let (input, weight, output) = unsafe {
        (
            View::<f32>::borrow_raw(device, input, 64)?,
            View::borrow_raw(device, weight, 64)?,
            ViewMut::borrow_raw(device, output, 64)?,
        )
    };
    let forward = linear::Forward::new(input.matrix(8, 8)?, weight.matrix(8, 8)?, output.matrix(8, 8)?);
    linear::forward(stream, forward)
}

/// A trainer that records its step as a graph: warm-up on one stream, capture on another, with values of this crate that come and go within
/// the capture.
#[test]
fn a_lent_stream_may_come_and_go_within_its_owners_capture() {
    let device = Device::for_tests().unwrap();
    let [Some(warm_up), Some(captured)] = [(); 2].map(|()| Lender::new(&device)) else { return };
    let [input, weight] = [1, 2].map(|seed| device.upload(&floats(seed)[..64]).unwrap());
    let [outputs, expected] = [(); 2].map(|()| device.zeros::<f32>(64).unwrap());
    let (_memory, workspace) = gemm_workspace(&device);
    let arguments =
        |output: &Buffer<f32>| [input.view().address(), weight.view().address(), output.view().address()];
    let step = |lender: &Lender, output: &Buffer<f32>| {
        // SAFETY: the stream lives, and its work is waited for below; nobody else uses the workspace meanwhile.
        let stream = unsafe { device.lend_stream(lender.handle(), Some(workspace)) }.unwrap();
        multiply(&stream, arguments(output)).unwrap();
    };
    step(&warm_up, &expected);
    warm_up.synchronize();
    captured.record(|| step(&captured, &outputs));
    assert_eq!(outputs.read().unwrap(), expected.read().unwrap());
}

/// The stream that engines use unless they are told otherwise.
#[test]
fn the_legacy_and_the_per_thread_stream_may_be_lent() {
    for device in devices() {
        let handles: &[u64] = if device.name() == "cuda" { &[0, 1, 2] } else { &[0] };
        let [input, weight] = [1, 2].map(|seed| device.upload(&floats(seed)[..64]).unwrap());
        let (_memory, workspace) = gemm_workspace(&device);
        let mut results = Vec::new();
        for &handle in handles {
            let output = device.zeros::<f32>(64).unwrap();
            // SAFETY: these streams live as long as the process; the work is waited for here.
            let stream = unsafe { device.lend_stream(handle, Some(workspace)) }.unwrap();
            multiply(&stream, [&input, &weight, &output].map(|buffer| buffer.view().address())).unwrap();
            stream.synchronize().unwrap();
            results.push(output.read().unwrap());
        }
        assert!(results[0].iter().any(|&value| value != 0.0));
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[test]
fn a_matmul_on_a_lent_stream_works_in_the_callers_memory() {
    for device in devices() {
        let buffer = device.zeros::<f32>(64).unwrap();
        let address = buffer.view().address();
        // SAFETY: nothing is enqueued but where the workspace is right, and that is waited for.
        let lend = |workspace| unsafe { device.lend_stream(0, workspace) };
        let without = multiply(&lend(None).unwrap(), [address; 3]);
        let (memory, workspace) = gemm_workspace(&device);
        if memory.is_empty() {
            without.unwrap();
            continue;
        }
        let message = without.unwrap_err().to_string();
        assert_eq!(
            message,
            format!("gemm_workspace is none; it should be {} bytes on this device", memory.len())
        );
        let short = GemmWorkspace { bytes: memory.len() - 1, ..workspace };
        let message = lend(Some(short)).unwrap_err().to_string();
        assert!(message.starts_with(&format!("gemm_workspace is {} bytes;", memory.len() - 1)), "{message}");
        let misaligned = GemmWorkspace { address: workspace.address + 16, ..workspace };
        let message = lend(Some(misaligned)).unwrap_err().to_string();
        assert!(message.contains("16 modulo 256 bytes"), "{message}");
    }
}

#[test]
fn a_lent_stream_is_captured_by_its_owner_alone() {
    for device in devices() {
        // SAFETY: nothing is enqueued.
        let stream = unsafe { device.lend_stream(0, None) }.unwrap();
        let message = stream.capture::<retromae::device::Error>(|_| Ok(())).unwrap_err().to_string();
        assert!(message.starts_with("stream is lent; it should be one of"), "{message}");
    }
}

#[test]
fn memory_of_others_is_read_and_written_in_place() {
    for device in devices() {
        let mut buffer = device.upload(&[1.0f32, 2.0, 3.0, 4.0]).unwrap();
        let address = buffer.view().address();
        // SAFETY: the buffer lives, and nothing else uses it meanwhile.
        unsafe {
            let view = View::<f32>::borrow_raw(&device, address + 4, 2).unwrap();
            assert_eq!(view.read().unwrap(), [2.0, 3.0]);
            ViewMut::borrow_raw(&device, address, 4).unwrap().write(&[5.0f32; 4]).unwrap();
        }
        assert_eq!(buffer.view_mut().as_view().read().unwrap(), [5.0; 4]);
    }
}

#[test]
fn addresses_that_cannot_be_are_refused() {
    for device in devices() {
        // SAFETY: what is refused is never used, and neither is an empty view.
        let borrow = |address, length| unsafe {
            let shared = View::<f32>::borrow_raw(&device, address, length).map(drop);
            let exclusive = ViewMut::<f32>::borrow_raw(&device, address, length).map(drop);
            assert_eq!(shared.is_err(), exclusive.is_err());
            shared.map_err(|error| error.to_string())
        };
        borrow(0, 0).unwrap();
        assert_eq!(borrow(0, 1).unwrap_err(), "address is null; it should be that of the first element");
        let message = borrow(0x1002, 1).unwrap_err();
        assert_eq!(message, "address is 0x1002; it should be a multiple of 4, an element's alignment");
        let message = borrow(0x1000, usize::MAX / 4).unwrap_err();
        assert!(message.ends_with("it should be below 2^63 bytes"), "{message}");
        let message = borrow(u64::MAX - 3, 1).unwrap_err();
        assert!(message.ends_with("it should be within the address space"), "{message}");
        if device.name() == "cuda" && cfg!(debug_assertions) {
            let value = 1.0f32;
            let message = borrow(std::ptr::from_ref(&value) as u64, 1).unwrap_err();
            assert!(message.ends_with("it should be memory of device 0"), "{message}");
        }
    }
}

#[test]
fn the_host_device_has_no_streams_of_others() {
    let device = Device::host_with(HostOptions::default()).unwrap();
    // SAFETY: it is refused.
    let message = unsafe { device.borrow_stream(0x10) }.unwrap_err().to_string();
    assert_eq!(message, "handle is 0x10, on the host device; it should be a stream of a CUDA device");
    // SAFETY: as above.
    let message = unsafe { device.lend_stream(0x10, None) }.unwrap_err().to_string();
    assert_eq!(message, "handle is 0x10, on the host device; it should be 0, or a stream of a CUDA device");
}
