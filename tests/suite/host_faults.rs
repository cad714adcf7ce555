//! Faults in a process with a CPU emulator: a kernel's are errors, and all others stay the process' own.
#![cfg(target_os = "linux")]

use std::ffi::c_void;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use libc::{SIGFPE, SIGSEGV, SIGUSR1};
use retromae::device::{Device, Error, HostOptions};

use crate::host_device::{THREADS, mistake, run};

/// Environment variable with the name of the test that a child process runs.
const ROLE: &str = "RETROMAE_TEST_ROLE";

/// Runs `scenario` in a process of its own, with these variables in its environment, and returns how it ended; `None` in that process.
fn in_a_process_of_its_own<F: FnOnce()>(environment: &[(&str, &str)], scenario: F) -> Option<Output> {
    // Such as `suite::host_faults::a_sent_signal_ends_the_process::{{closure}}`.
    let path = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    let (_, name) = path.split_once("::").expect("the crate's name comes first");
    if std::env::var(ROLE).is_ok_and(|role| role == name) {
        let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a plain call.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core) };
        scenario();
        return None;
    }
    let mut command = Command::new(std::env::current_exe().expect("the test program's path"));
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, name);
    Some(command.envs(environment.iter().copied()).output().expect("the test program runs"))
}

#[track_caller]
fn assert_passed(output: Option<Output>) {
    let Some(Output { status, stdout, stderr }) = output else { return };
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(status.success() && stdout.contains("1 passed"), "{status}\n{stdout}\n{stderr}");
}

/// Asserts that `signal` ended the process after it came to its last line.
#[track_caller]
fn assert_ended_by(signal: i32, output: Option<Output>) {
    let Some(Output { status, stdout, stderr }) = output else { return };
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(stdout.contains("the last line"), "{status}\n{stdout}\n{stderr}");
    assert_eq!(status.signal(), Some(signal), "{status}\n{stdout}\n{stderr}");
}

fn device(catch_faults: bool) -> Device {
    Device::host_with(HostOptions { guard: true, catch_faults, ..HostOptions::default() }).unwrap()
}

fn run_out_of_bounds(device: &Device) -> Result<Vec<f32>, Error> {
    run(device, "probe_write_out_of_bounds", 0, THREADS)
}

#[track_caller]
fn assert_kernels_are_caught(device: &Device) {
    let message = run_out_of_bounds(device).expect_err("the mistake is caught").to_string();
    assert!(message.contains(&mistake("probe_write_out_of_bounds")), "{message}");
    assert_eq!(run(device, "probe_reverse", 256, THREADS).unwrap()[0], THREADS as f32 - 0.5);
}

/// Installs a handler that blocks `SIGUSR1`.
fn set_action(signal: i32, handler: usize, flags: i32) {
    // SAFETY: the handlers of this file are of the kind that their callers' flags state, and touch only atomics and pages.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        libc::sigaddset(&raw mut action.sa_mask, SIGUSR1);
        assert_eq!(libc::sigaction(signal, &raw const action, null_mut()), 0);
    }
}

fn handler_of(signal: i32) -> usize {
    // SAFETY: the call only writes the struct, of which all zeros are a value.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        assert_eq!(libc::sigaction(signal, null(), &raw mut action), 0);
        action.sa_sigaction
    }
}

/// Page that `fault` reads, calls of the handlers below, and whether the last one ran with its own signal and `SIGUSR1` blocked.
static PAGE: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);
static BLOCKED: AtomicBool = AtomicBool::new(false);

const PAGE_BYTES: usize = 4096;

fn count_call(signal: i32) {
    CALLS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the call only writes the mask, of which all zeros are a value.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, null(), &raw mut mask);
        let is_blocked = |signal| libc::sigismember(&raw const mask, signal) == 1;
        BLOCKED.store(is_blocked(SIGUSR1) && is_blocked(signal), Ordering::Relaxed);
    }
}

/// A plain handler: lets the read of `fault` succeed.
extern "C" fn open_page(signal: i32) {
    count_call(signal);
    // SAFETY: the page that `fault` mapped.
    unsafe { libc::mprotect(PAGE.load(Ordering::Relaxed) as *mut c_void, PAGE_BYTES, libc::PROT_READ) };
}

/// A handler of kind `SA_SIGINFO`: lets the access succeed.
extern "C" fn open_address(signal: i32, info: *mut libc::siginfo_t, _context: *mut c_void) {
    count_call(signal);
    // SAFETY: the fence behind a buffer, or the page that `fault` mapped.
    unsafe {
        let page = (*info).si_addr() as usize / PAGE_BYTES * PAGE_BYTES;
        libc::mprotect(page as *mut c_void, PAGE_BYTES, libc::PROT_READ | libc::PROT_WRITE);
    }
}

/// Reads an inaccessible page outside any kernel.
fn fault() {
    // SAFETY: the read faults until a handler has made the page accessible.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap(null_mut(), PAGE_BYTES, libc::PROT_NONE, flags, -1, 0);
        assert_ne!(page, libc::MAP_FAILED);
        PAGE.store(page as usize, Ordering::Relaxed);
        assert_eq!(page.cast::<u8>().read_volatile(), 0);
    }
}

fn calls() -> usize {
    CALLS.load(Ordering::Relaxed)
}

#[test]
fn a_handler_of_either_kind_keeps_the_faults_of_its_process() {
    assert_passed(in_a_process_of_its_own(&[], || {
        let plain = open_page as *const () as usize;
        set_action(SIGSEGV, plain, 0);
        let flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        set_action(libc::SIGBUS, open_address as *const () as usize, flags);
        let device = device(true);
        assert_ne!(handler_of(SIGSEGV), plain);
        for round in 1..=3 {
            fault();
            assert_eq!(calls(), round);
            assert!(BLOCKED.load(Ordering::Relaxed), "the handler ran without its mask");
            assert_kernels_are_caught(&device);
            assert_eq!(calls(), round);
        }
        // SAFETY: a plain call.
        unsafe { libc::raise(libc::SIGBUS) };
        assert_eq!(calls(), 4);
        assert!(!BLOCKED.load(Ordering::Relaxed), "SA_NODEFER is lost");
    }));
}

#[test]
fn a_handler_for_one_signal_gets_one() {
    let output = in_a_process_of_its_own(&[], || {
        let flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
        set_action(SIGSEGV, open_address as *const () as usize, flags);
        let device = device(true);
        assert_kernels_are_caught(&device);
        fault();
        assert_eq!(calls(), 1);
        assert_kernels_are_caught(&device);
        println!("the last line");
        fault();
    });
    assert_ended_by(SIGSEGV, output);
}

#[test]
fn a_fault_of_a_process_without_handlers_ends_it() {
    let output = in_a_process_of_its_own(&[], || {
        set_action(SIGSEGV, libc::SIG_DFL, 0);
        assert_kernels_are_caught(&device(true));
        println!("the last line");
        fault();
    });
    assert_ended_by(SIGSEGV, output);
}

#[test]
fn a_sent_signal_ends_a_process_without_handlers() {
    let output = in_a_process_of_its_own(&[], || {
        set_action(SIGFPE, libc::SIG_DFL, 0);
        assert_kernels_are_caught(&device(true));
        println!("the last line");
        // SAFETY: a plain call.
        unsafe { libc::raise(SIGFPE) };
    });
    assert_ended_by(SIGFPE, output);
}

#[test]
fn an_ignored_signal_stays_ignored_and_a_fault_does_not() {
    let output = in_a_process_of_its_own(&[], || {
        set_action(SIGSEGV, libc::SIG_IGN, 0);
        let device = device(true);
        for _ in 0..2 {
            // SAFETY: a plain call.
            unsafe { libc::raise(SIGSEGV) };
            assert_kernels_are_caught(&device);
        }
        println!("the last line");
        fault();
    });
    assert_ended_by(SIGSEGV, output);
}

fn alternate_stack() -> (usize, usize, i32) {
    // SAFETY: the call only writes the struct, of which all zeros are a value.
    unsafe {
        let mut stack: libc::stack_t = std::mem::zeroed();
        assert_eq!(libc::sigaltstack(null(), &raw mut stack), 0);
        (stack.ss_sp as usize, stack.ss_size, stack.ss_flags)
    }
}

/// Runs `work` on a new thread of which kernels take no other, with an alternate stack of as many bytes, none for 0.
fn on_a_thread_with_alternate_stack(bytes: usize, work: impl FnOnce() + Send) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        let memory = vec![0u8; bytes].leak();
        let flags = if bytes == 0 { libc::SS_DISABLE } else { 0 };
        let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: flags, ss_size: bytes };
        // SAFETY: the memory is never released.
        assert_eq!(unsafe { libc::sigaltstack(&raw const stack, null_mut()) }, 0);
        work();
    });
}

#[test]
fn a_device_that_declines_leaves_signals_alone() {
    assert_passed(in_a_process_of_its_own(&[("RETROMAE_HOST_CATCH_FAULTS", "0")], || {
        assert!(!HostOptions::from_env().unwrap().catch_faults && HostOptions::default().catch_faults);
        let own = open_address as *const () as usize;
        set_action(SIGSEGV, own, libc::SA_SIGINFO);
        let others = [libc::SIGBUS, SIGFPE, libc::SIGILL];
        let before = others.map(handler_of);
        let declining = device(false);
        for bytes in [0, 32 * 1024] {
            on_a_thread_with_alternate_stack(bytes, || {
                let stack = alternate_stack();
                let earlier = calls();
                run_out_of_bounds(&declining).expect("the process' handler lets it go on");
                assert_eq!((calls(), alternate_stack()), (earlier + 1, stack));
            });
        }
        assert_eq!((handler_of(SIGSEGV), others.map(handler_of)), (own, before));
        // So it does beside a device that catches faults.
        assert_kernels_are_caught(&device(true));
        assert_eq!(calls(), 2);
        run_out_of_bounds(&declining).expect("the process' handler lets it go on");
        assert_eq!(calls(), 3);
    }));
}

#[test]
fn an_alternate_stack_of_the_thread_is_kept_if_it_is_large_enough() {
    assert_passed(in_a_process_of_its_own(&[], || {
        let device = device(true);
        // SAFETY: a plain call.
        let bytes_min = (unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize).max(libc::MINSIGSTKSZ);
        for (bytes, is_kept) in [(0, false), (bytes_min, false), (32 * 1024, true)] {
            on_a_thread_with_alternate_stack(bytes, || {
                let before = alternate_stack();
                let overflow = run(&device, "probe_stack_overflow", 0, THREADS).unwrap_err().to_string();
                assert!(overflow.contains("stack overflow"), "{overflow}");
                assert_eq!(alternate_stack() == before, is_kept, "of {bytes} bytes");
                assert_eq!(alternate_stack().2 & libc::SS_DISABLE, 0);
            });
        }
    }));
}
