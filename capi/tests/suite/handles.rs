//! Devices by handle.

use std::ffi::{CStr, CString};
use std::ptr::null_mut;

use retromae_capi::*;

use crate::cases;
use crate::common::{Memory, OK, handle, last_error};

fn open(name: &str, flags: u64) -> (rmae_status, rmae_device) {
    let (name, mut opened) = (CString::new(name).unwrap(), null_mut());
    // SAFETY: a C string, and the address of the result.
    let status = unsafe { rmae_device_open(name.as_ptr(), flags, &raw mut opened) };
    (status, opened)
}

#[test]
fn closed_and_invented_handles_are_refused() {
    // The device under test decides how the host device is opened.
    handle();
    let (status, closed) = open("host", 0);
    assert_eq!(status, OK, "{}", last_error());
    // SAFETY: handles are checked.
    unsafe {
        assert_eq!(rmae_device_close(closed), OK);
        assert_eq!(rmae_device_close(closed), RMAE_INVALID_HANDLE as rmae_status);
        assert!(last_error().starts_with("device is 0x"), "{}", last_error());
    }
    let invented = std::ptr::without_provenance_mut(0xdead_beef);
    for case in cases::all(Memory::exact) {
        for device in [closed, invented, null_mut()] {
            // SAFETY: handles are checked.
            let status = unsafe { (case.operation)(device, null_mut(), case.desc.as_ptr().cast()) };
            assert_eq!(status, RMAE_INVALID_HANDLE as rmae_status, "{}", case.name);
            assert!(last_error().contains("it should be a handle of an open device"), "{}", last_error());
        }
    }
}

#[test]
fn devices_that_cannot_be_opened_are_refused() {
    let refuse = |name: &str, flags, status: u32, text: &str| {
        assert_eq!(open(name, flags).0, status as rmae_status, "{}", last_error());
        assert!(last_error().starts_with(text), "{}", last_error());
    };
    refuse("hosts", 0, RMAE_INVALID_ARGUMENT, "name is \"hosts\"; it should be auto, host, or cuda:N");
    refuse("cuda:x", 0, RMAE_INVALID_ARGUMENT, "name is \"cuda:x\"");
    refuse("host", 2, RMAE_INVALID_ARGUMENT, "flags is 0x2;");
    refuse("cuda:999", 0, RMAE_UNSUPPORTED_HARDWARE, "");
    // SAFETY: null is checked.
    unsafe {
        let status = rmae_device_open(std::ptr::null(), 0, null_mut());
        assert_eq!(
            (status, last_error().as_str()),
            (RMAE_NULL_POINTER as rmae_status, "name is NULL; it should be a text")
        );
        assert_eq!(rmae_device_open(c"host".as_ptr(), 0, null_mut()), RMAE_NULL_POINTER as rmae_status);
    }
}

#[test]
fn descriptions_are_cut_to_the_room_that_there_is() {
    let mut room = [1; 64];
    // SAFETY: the room has this many bytes.
    unsafe {
        assert_eq!(rmae_device_description(handle(), room.as_mut_ptr(), room.len()), OK);
        let whole = CStr::from_ptr(room.as_ptr()).to_str().unwrap().to_owned();
        assert!(!whole.is_empty());
        assert_eq!(rmae_device_description(handle(), room.as_mut_ptr(), 4), OK);
        assert_eq!(CStr::from_ptr(room.as_ptr()).to_str().unwrap(), &whole[..3]);
        assert_eq!(rmae_device_description(handle(), null_mut(), 4), RMAE_NULL_POINTER as rmae_status);
    }
}
