//! Requests to Valgrind, which otherwise takes the switch from one stack to another for a wild stack pointer, and reports all that follows.

/// A stack that Valgrind knows by this number; 0 outside Valgrind.
#[derive(Clone, Copy, Debug)]
pub(super) struct StackId(usize);

/// Numbers of the requests, `VG_USERREQ__STACK_REGISTER` and `VG_USERREQ__STACK_DEREGISTER` of `valgrind.h`.
const STACK_REGISTER: usize = 0x1501;
const STACK_DEREGISTER: usize = 0x1502;

/// Announces the stack between two addresses.
pub(super) fn register_stack(low: usize, high: usize) -> StackId {
    StackId(request([STACK_REGISTER, low, high, 0, 0, 0]))
}

/// Withdraws a stack that is to be unmapped.
pub(super) fn deregister_stack(StackId(id): StackId) {
    request([STACK_DEREGISTER, id, 0, 0, 0, 0]);
}

/// Makes a client request: the rotations of `valgrind.h`, together by 128 bits, and an exchange of a register with itself, which change nothing on a processor
/// and are what Valgrind looks for.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn request(arguments: [usize; 6]) -> usize {
    let result;
    // SAFETY: nothing but the flags and rdx is changed; Valgrind reads the arguments.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") arguments.as_ptr(),
            inout("rdx") 0usize => result,
            // Rotated by 128 bits, it is as before.
            inout("rdi") 0usize => _,
            options(nostack),
        );
    }
    result
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn request(_arguments: [usize; 6]) -> usize {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_changes_nothing_outside_valgrind() {
        let StackId(id) = register_stack(0x1000, 0x2000);
        assert_eq!(id, 0);
        deregister_stack(StackId(id));
    }
}
