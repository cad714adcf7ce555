//! Bad calls: each has a status, and a text that names the field, what it was, and what it should be.

use std::ffi::c_void;
use std::ptr::null_mut;

use retromae_capi::*;

use crate::cases;
use crate::common::{Case, Field, Kind, Memory, OK, device, get, handle, last_error, set, status_name};

/// Asserts that a call with this descriptor is refused, without having written anything.
#[track_caller]
fn assert_refused(case: &Case, desc: &[u64], status: u32, field: &str, actual: &str) {
    let result = case.call_with(null_mut(), desc);
    let text = last_error();
    let what = format!("{}, {field}: {} {text:?}", case.name, status_name(result));
    assert_eq!(result, status as rmae_status, "{what}");
    let (name, rest) = text.split_once(" is ").expect(&what);
    // An element of a struct or an array may stand for a part of it.
    assert!(field.starts_with(name), "{what}");
    assert!(rest.starts_with(actual) && rest.contains("; it should be "), "{what}");
    assert!(case.memory.snapshot() == case.memory.initial(), "{what}: written");
}

/// Returns the descriptor with another value of a field.
fn with<T: bytemuck::Pod>(case: &Case, field: &Field, value: T) -> Vec<u64> {
    let mut desc = case.desc.clone();
    set(&mut desc, field.offset, value);
    desc
}

#[test]
fn wrong_values_of_every_field() {
    // Arrays may be shifted within the memory, which a CUDA device would refuse as such otherwise.
    for case in cases::all(Memory::roomy) {
        for field in &case.fields {
            let refuse = |desc: &[u64], status, actual: &str| {
                assert_refused(&case, desc, status, &field.name, actual);
            };
            match field.kind {
                Kind::Size => {
                    refuse(&with(&case, field, -1i64), RMAE_INVALID_ARGUMENT, "-1;");
                    let huge = i64::MAX.to_string();
                    refuse(&with(&case, field, i64::MAX), RMAE_INVALID_ARGUMENT, &huge);
                    refuse(&with(&case, field, 1i64 << 40), RMAE_INVALID_ARGUMENT, "1099511627776;");
                }
                Kind::Stride => {
                    refuse(&with(&case, field, -8i64), RMAE_INVALID_ARGUMENT, "strided by -8 elements;");
                    refuse(&with(&case, field, 1i64), RMAE_INVALID_ARGUMENT, "strided by 1 elements;");
                    let actual = format!("strided by {} elements;", i64::MAX);
                    refuse(&with(&case, field, i64::MAX), RMAE_INVALID_ARGUMENT, &actual);
                }
                Kind::Enum => {
                    refuse(&with(&case, field, 99i32), RMAE_INVALID_ARGUMENT, "99;");
                    refuse(&with(&case, field, -1i32), RMAE_INVALID_ARGUMENT, "-1;");
                }
                Kind::Flags32 => refuse(&with(&case, field, 0x80u32), RMAE_INVALID_ARGUMENT, "0x80;"),
                Kind::F32 if field.name != "weight" => {
                    refuse(&with(&case, field, f32::NAN), RMAE_INVALID_ARGUMENT, "NaN;");
                }
                Kind::F64 => refuse(&with(&case, field, f64::NAN), RMAE_INVALID_ARGUMENT, ""),
                Kind::Array { written, optional, alignment } => {
                    wrong_addresses(&case, field, (written, optional, alignment));
                }
                Kind::HostArray if get::<usize>(&case.desc, field.offset) != 0 => {
                    refuse(&with(&case, field, 0usize), RMAE_NULL_POINTER, "NULL;");
                    let misaligned = get::<usize>(&case.desc, field.offset) + 1;
                    refuse(&with(&case, field, misaligned), RMAE_MISALIGNED, "at 0x");
                }
                _ => {}
            }
        }
    }
}

fn wrong_addresses(case: &Case, field: &Field, (written, optional, alignment): (bool, bool, usize)) {
    let address: usize = get(&case.desc, field.offset);
    if address == 0 {
        assert!(optional, "{}, {}", case.name, field.name);
        return;
    }
    if !optional {
        assert_refused(case, &with(case, field, 0usize), RMAE_NULL_POINTER, &field.name, "NULL;");
    }
    // An output beside others within a matrix would overlap them.
    if alignment > 1 && !(written && case.name.contains("packed")) {
        let misaligned = address + alignment / 4 + 1 - alignment / 16;
        let desc = with(case, field, misaligned);
        assert_refused(case, &desc, RMAE_MISALIGNED, &field.name, "");
    }
    if written && field.name != "workspace" {
        let bytes = |field: &Field| case.memory.find(get(&case.desc, field.offset)).map(|(_, bytes)| bytes);
        // One with enough memory for the output.
        let is_other = |other: &&Field| {
            matches!(other.kind, Kind::Array { written: false, optional: false, .. })
                && bytes(other).is_some_and(|room| bytes(field).is_some_and(|bytes| bytes <= 4 * room))
        };
        let other = case.fields.iter().find(is_other);
        let Some(other) = other else { return };
        let shared: usize = get(&case.desc, other.offset);
        let status = case.call_with(null_mut(), &with(case, field, shared));
        let text = last_error();
        assert_eq!(status, RMAE_OVERLAP as rmae_status, "{}, {}: {text}", case.name, field.name);
        assert!(text.contains(&field.name) && text.contains("; it should be apart from "), "{text}");
    }
}

#[test]
fn workspaces_that_are_too_small_absent_or_misaligned() {
    let mut refused = 0;
    for case in cases::all(Memory::exact) {
        let (Some(bytes), Some(address)) = (case.field("workspace_bytes"), case.field("workspace")) else {
            continue;
        };
        let needed: usize = get(&case.desc, bytes.offset);
        assert_eq!(case.needed(&case.desc), Some(needed), "{}", case.name);
        let mut without_pointers = case.desc.clone();
        for field in case.fields.iter().filter(|field| matches!(field.kind, Kind::Array { .. })) {
            set(&mut without_pointers, field.offset, 0usize);
        }
        assert_eq!(case.needed(&without_pointers), Some(needed), "{}", case.name);
        if needed == 0 {
            assert_eq!(case.call_with(null_mut(), &with(&case, address, 0usize)), OK, "{}", last_error());
            continue;
        }
        // With a smaller one than asked for the losses are computed in smaller chunks.
        let is_chunked = case.name.starts_with("cross_entropy") || case.name.starts_with("bag_of_words");
        let one_less = with(&case, bytes, needed - 1);
        if !(is_chunked && case.call_with(null_mut(), &one_less) == OK) {
            // The operation's part follows that of the GEMM library.
            let before = if is_chunked { device().gemm_workspace_bytes() } else { 0 };
            let actual = format!("{} bytes long;", needed - 1 - before);
            assert_refused(&case, &one_less, RMAE_WORKSPACE_TOO_SMALL, "workspace", &actual);
            refused += 1;
        }
        let absent = with(&case, address, 0usize);
        assert_ne!(case.call_with(null_mut(), &absent), OK, "{}", case.name);
        let misaligned = with(&case, address, get::<usize>(&case.desc, address.offset) + 8);
        let status = case.call_with(null_mut(), &misaligned);
        assert_eq!(status, RMAE_MISALIGNED as rmae_status, "{}: {}", case.name, last_error());
        assert!(last_error().starts_with("workspace is at"), "{}", last_error());
    }
    assert!(refused > 30, "{refused}");
}

#[test]
fn descriptors_of_other_sizes_versions_and_flags() {
    for case in cases::all(Memory::exact) {
        let size = case.desc.len() as u32 * 8;
        let refuse = |offset: usize, value: u32, status: u32, actual: &str| {
            let mut desc = case.desc.clone();
            set(&mut desc, offset, value);
            let result = case.call_with(null_mut(), &desc);
            let text = last_error();
            assert_eq!(result, status as rmae_status, "{}: {text}", case.name);
            assert!(text.starts_with("rmae_") && text.contains(actual), "{text}");
        };
        refuse(0, size - 8, RMAE_INVALID_DESCRIPTOR, &format!(".size is {} bytes;", size - 8));
        refuse(0, 0, RMAE_INVALID_DESCRIPTOR, ".size is 0 bytes;");
        refuse(4, 2, RMAE_INVALID_DESCRIPTOR, ".version is 2; it should be 1");
        refuse(12, 1, RMAE_INVALID_ARGUMENT, ".flags is 0x1000000");
        // SAFETY: both are refused before anything is read.
        let results = unsafe {
            let misaligned = case.desc.as_ptr().wrapping_byte_add(4);
            [std::ptr::null(), misaligned.cast::<c_void>()]
                .map(|desc| ((case.operation)(handle(), null_mut(), desc), last_error()))
        };
        for (status, text) in results {
            assert_eq!(status, RMAE_INVALID_DESCRIPTOR as rmae_status, "{text}");
        }
        let Some(query) = case.query else { continue };
        // SAFETY: a descriptor, and no address of the result.
        let status = unsafe { query(handle(), case.desc.as_ptr().cast(), null_mut()) };
        assert_eq!(status, RMAE_NULL_POINTER as rmae_status);
        assert!(last_error().starts_with("bytes is NULL;"));
    }
}

#[test]
fn streams_of_other_devices() {
    if device().name() != "host" {
        println!("ignored: the driver knows its streams");
        return;
    }
    let stream = std::ptr::without_provenance_mut(0x1230);
    for case in cases::all(Memory::exact) {
        assert_eq!(case.call(stream), RMAE_WRONG_DEVICE as rmae_status, "{}", case.name);
        let text = last_error();
        assert!(text.starts_with("stream is 0x1230, on the host device; it should be"), "{text}");
    }
}

/// Sizes that no array has are an error, or a size that no memory has.
#[test]
fn workspaces_of_absurd_sizes() {
    for case in cases::all(Memory::exact) {
        let Some(query) = case.query else { continue };
        let mut desc = case.desc.clone();
        for field in &case.fields {
            if field.kind == Kind::Size {
                set(&mut desc, field.offset, i64::from(i32::MAX));
            }
        }
        let mut bytes = 0;
        // SAFETY: a descriptor, and the address of the result.
        let status = unsafe { query(handle(), desc.as_ptr().cast(), &raw mut bytes) };
        assert!(status != RMAE_INTERNAL as rmae_status, "{}: {}", case.name, last_error());
        for field in case.fields.iter().filter(|field| field.kind == Kind::Size) {
            for value in [i64::MIN, -1, 1 << 40, i64::MAX] {
                let desc = with(&case, field, value);
                // SAFETY: as above.
                let status = unsafe { query(handle(), desc.as_ptr().cast(), &raw mut bytes) };
                assert!([OK, RMAE_INVALID_ARGUMENT as rmae_status].contains(&status), "{}", last_error());
            }
        }
    }
}

/// Types that an operation has no kernels for are told apart from numbers that are no types.
#[test]
fn types_without_kernels() {
    let mut refused = 0;
    for case in cases::all(Memory::exact) {
        let mut lacks = ["bias_gelu", "column_sum", "segment_sum", "rows", "embedding"].into_iter();
        if !lacks.any(|name| case.name.starts_with(name)) {
            continue;
        }
        let field = case.field("dtype").unwrap();
        let desc = with(&case, field, RMAE_F16 as rmae_dtype);
        assert_refused(&case, &desc, RMAE_UNSUPPORTED_SHAPE, "dtype", "RMAE_F16; it should be RMAE_F32");
        refused += 1;
    }
    assert!(refused > 20);
}

/// Columns that the kernels' wide accesses cannot handle are unsupported, not invalid.
#[test]
fn shapes_without_kernels() {
    for case in cases::all(Memory::exact) {
        let (name, value) = match case.name.split([' ', '_']).next() {
            Some("layer" | "bias" | "column" | "segment" | "rows" | "embedding") => ("columns", 12i64),
            Some("attention") => ("head_dim", 24),
            _ => continue,
        };
        let desc = with(&case, case.field(name).unwrap(), value);
        let status = case.call_with(null_mut(), &desc);
        assert_eq!(status, RMAE_UNSUPPORTED_SHAPE as rmae_status, "{}: {}", case.name, last_error());
    }
}

/// Nothing is printed, whatever is refused: the tests of this module, run once more, leave standard error empty.
#[test]
fn nothing_is_printed() {
    if device().name() != "host" {
        println!("ignored: drivers may print");
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["refusals::", "--nocapture", "--skip", "nothing_is_printed"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
