//! Each operation gives the bits of the Rust function on the same arrays.

use std::ffi::c_void;

use retromae::device::Stream;

use crate::cases;
use crate::common::{Case, Kind, Memory, OK, device, last_error};

/// Fills everything in a descriptor that the call does not read, paddings too, with garbage.
fn with_garbage(case: &Case) -> Vec<u64> {
    const HEAD: usize = 16;
    let bytes = case.desc.len() * 8;
    let mut is_read = vec![false; bytes];
    is_read[..HEAD].fill(true);
    for field in &case.fields {
        let width = match field.kind {
            Kind::Enum | Kind::Flags32 | Kind::F32 | Kind::I32 => 4,
            _ => 8,
        };
        is_read[field.offset..field.offset + width].fill(true);
    }
    let mut desc = case.desc.clone();
    let all: &mut [u8] = bytemuck::cast_slice_mut(&mut desc);
    all.iter_mut().zip(is_read).filter(|(_, is_read)| !is_read).for_each(|(byte, _)| *byte = 0xa5);
    desc
}

/// The legacy stream, and on a CUDA device another one.
fn streams() -> Vec<Option<Stream>> {
    let own = (device().name() == "cuda").then(|| device().new_stream().unwrap());
    std::iter::once(None).chain(own.map(Some)).collect()
}

#[test]
fn every_operation_gives_the_bits_of_rust_and_reads_nothing_else() {
    let streams = streams();
    for mut case in cases::all(Memory::exact) {
        let desc = with_garbage(&case);
        (case.rust)(&device().stream()).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let expected = case.memory.snapshot();
        assert!(expected != case.memory.initial(), "{} writes nothing", case.name);
        for stream in &streams {
            case.memory.reset();
            let stream = stream.as_ref().map_or(0, Stream::handle) as usize;
            let stream: *mut c_void = std::ptr::without_provenance_mut(stream);
            assert_eq!(case.call_with(stream, &desc), OK, "{}: {}", case.name, last_error());
            assert!(case.memory.snapshot() == expected, "{}: other bits than Rust's", case.name);
        }
    }
}
