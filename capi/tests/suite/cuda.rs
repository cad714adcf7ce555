//! Properties of CUDA devices alone: calls within the caller's capture, and memory that the driver does not know.

use std::ffi::c_void;
use std::ptr::null_mut;

use retromae::device::{Error, Stream};
use retromae_capi::*;

use crate::cases;
use crate::common::{Kind, Memory, OK, device, get, handle, last_error, set};

fn is_host() -> bool {
    let is_host = device().name() == "host";
    if is_host {
        println!("ignored: the host device has no streams and no memory of others");
    }
    is_host
}

fn address(stream: &Stream) -> *mut c_void {
    std::ptr::without_provenance_mut(stream.handle() as usize)
}

/// Every operation becomes part of the caller's graph, even where it never ran before; waiting is refused, and leaves the capture as it was.
#[test]
fn calls_are_captured_and_waits_are_refused() {
    if is_host() {
        return;
    }
    for mut case in cases::all(Memory::exact) {
        (case.rust)(&device().stream()).unwrap();
        let expected = case.memory.snapshot();
        case.memory.reset();
        let stream = device().new_stream().unwrap();
        let graph = stream.capture(|stream| {
            assert_eq!(case.enqueue(address(stream), &case.desc), OK, "{}: {}", case.name, last_error());
            // SAFETY: the stream is alive.
            let status = unsafe { rmae_stream_synchronize(handle(), address(stream)) };
            assert_eq!(status, RMAE_CAPTURING as rmae_status, "{}", last_error());
            Ok::<(), Error>(())
        });
        // SAFETY: the case's memory lives until the work is done.
        unsafe { graph.unwrap().launch(&stream) }.unwrap();
        stream.synchronize().unwrap();
        assert!(case.memory.snapshot() == expected, "{}", case.name);
    }
}

/// Memory of the host in place of the device's, in builds that ask the driver about it.
#[test]
fn memory_of_the_host_is_refused() {
    if is_host() || !cfg!(debug_assertions) {
        return;
    }
    let mut pages = vec![0u64; 1 << 16];
    // Aligned for whatever an array must be aligned to.
    let foreign = pages.as_mut_ptr().expose_provenance().next_multiple_of(256);
    for case in cases::all(Memory::exact) {
        let arrays = case.fields.iter().filter(|field| matches!(field.kind, Kind::Array { .. }));
        for field in arrays.filter(|field| get::<usize>(&case.desc, field.offset) != 0) {
            let mut desc = case.desc.clone();
            set(&mut desc, field.offset, foreign);
            let status = case.call_with(null_mut(), &desc);
            let text = last_error();
            // A workspace without bytes is no memory.
            let is_empty = field.name == "workspace" && status == OK;
            assert!(is_empty || status == RMAE_WRONG_DEVICE as rmae_status, "{}: {text}", case.name);
            assert!(is_empty || text.starts_with(&format!("{} is {foreign:#x}", field.name)), "{text}");
        }
    }
}
