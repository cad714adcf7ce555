//! Bank conflicts counted by the CPU emulator, on kernels with known counts.

use retromae::device::params::ProbeParams;
use retromae::device::{Buffer, Device, Error, HostOptions, LaunchShape, SharedAccess, ThreadOrder};

const THREADS: u32 = 64;
const BLOCKS: u32 = 3;
const WARPS: u64 = (THREADS / 32 * BLOCKS) as u64;
const SHARED_BYTES: u32 = THREADS * 36 * 4;
const SOURCE: &str = include_str!("../../kernels/probes/emulator/probes.cu");

const ORDERS: [ThreadOrder; 4] =
    [ThreadOrder::Forward, ThreadOrder::Reverse, ThreadOrder::Random(1), ThreadOrder::Random(2)];

fn is_built() -> bool {
    if !cfg!(feature = "sanitize") {
        println!("ignored: bank conflicts are counted in the instrumented kernels, feature `sanitize`");
    }
    cfg!(feature = "sanitize")
}

fn counting(order: ThreadOrder) -> Device {
    let options = HostOptions { order, guard: true, bank_conflicts: true, ..HostOptions::default() };
    Device::host_with(options).expect("the host device")
}

fn run(device: &Device, kernel: &str, count: u64) -> Result<(), Error> {
    let input = device.upload(&[1.0f32; 4 * THREADS as usize])?;
    let output: Buffer<f32> = device.zeros((THREADS * BLOCKS) as usize)?;
    let params = ProbeParams { input: input.view().address(), output: output.view().address(), count };
    let shape = LaunchShape { grid: [BLOCKS, 1, 1], threads: THREADS, shared_bytes: SHARED_BYTES };
    // SAFETY: both buffers outlive the launch, and have the length that the probes require.
    unsafe { device.stream().launch_shape(kernel, shape, &params) }
}

/// An access of every warp at the line that ends in `// {mark}`: the mark, its bytes, and its accesses, wavefronts and ideal for one warp.
struct Expected(&'static str, u32, [u64; 3]);

fn expect(
    kernel: &'static str,
    Expected(mark, bytes, [accesses, wavefronts, ideal]): &Expected,
) -> SharedAccess {
    let line = SOURCE.lines().position(|line| line.ends_with(&format!("// {mark}")));
    SharedAccess {
        kernel,
        site: format!("kernels/probes/emulator/probes.cu:{}", line.expect("a marked line") + 1),
        write: mark.contains("write") || *mark == "copy",
        bytes: *bytes,
        accesses: accesses * WARPS,
        wavefronts: wavefronts * WARPS,
        ideal: ideal * WARPS,
    }
}

/// Asserts that the kernel makes exactly these accesses, whatever the order of its threads.
#[track_caller]
fn assert_counted(kernel: &'static str, count: u64, expected: &[Expected]) {
    let expected: Vec<SharedAccess> = expected.iter().map(|access| expect(kernel, access)).collect();
    for order in ORDERS {
        let device = counting(order);
        run(&device, kernel, count).unwrap();
        assert_eq!(device.shared_memory_accesses(), expected, "{kernel}, {count}, {order:?}");
    }
}

/// Asserts the counts of lanes `stride` elements apart: bytes of an access, accesses of a warp, their wavefronts, and the ideal.
#[track_caller]
fn assert_stride(kernel: &'static str, stride: u64, bytes: u32, counts: [u64; 3]) {
    assert_counted(
        kernel,
        stride,
        &[Expected("strided write", bytes, counts), Expected("strided read", bytes, counts)],
    );
}

#[test]
fn a_stride_of_words_conflicts_by_the_banks_it_leaves_out() {
    if !is_built() {
        return;
    }
    for (stride, wavefronts) in [(1, 1), (2, 2), (3, 1), (4, 4), (16, 16), (32, 32), (33, 1)] {
        assert_stride("probe_bank_f32", stride, 4, [1, wavefronts, 1]);
    }
    // Two lanes share a 32-bit word, or each has its own.
    for (stride, wavefronts) in [(1, 1), (2, 1), (4, 2), (64, 32)] {
        assert_stride("probe_bank_bf16", stride, 2, [1, wavefronts, 1]);
    }
}

#[test]
fn wide_accesses_are_served_in_parts() {
    if !is_built() {
        return;
    }
    for (stride, wavefronts) in [(2, 2), (4, 4), (32, 32), (34, 2)] {
        assert_stride("probe_bank_f32x2", stride, 8, [1, wavefronts, 2]);
    }
    // Rows of 128 bytes without a swizzle: 8-way conflicts. A pad of one access removes them.
    for (stride, wavefronts) in [(4, 4), (8, 8), (32, 32), (36, 4)] {
        assert_stride("probe_bank_f32x4", stride, 16, [1, wavefronts, 4]);
    }
    // 32 bytes are two accesses of 16, each of which meets only every other 16 bytes.
    assert_stride("probe_bank_f32x8", 8, 16, [2, 16, 8]);
}

#[test]
fn broadcasts_and_divergent_and_repeated_accesses_count_the_lanes_that_take_part() {
    if !is_built() {
        return;
    }
    assert_counted(
        "probe_bank_reads",
        32,
        &[
            Expected("write of all", 4, [36, 36, 36]),
            Expected("broadcast", 4, [1, 1, 1]),
            Expected("half of the lanes", 4, [1, 16, 1]),
            Expected("a quarter-warp", 16, [1, 1, 1]),
            Expected("loop", 4, [6, 1 + 2 + 4 + 8 + 16 + 32, 6]),
            // All lanes 32 words apart, then the upper half 33 apart.
            Expected("ragged loop", 4, [2, 32 + 1, 2]),
        ],
    );
}

#[test]
fn a_barrier_and_a_collective_separate_accesses() {
    if !is_built() {
        return;
    }
    for count in [0, 1] {
        let expected = [Expected("write", 4, [1, 32, 1]), Expected("turns", 4, [4, 64, 4])];
        assert_counted("probe_bank_turns", count, &expected);
    }
}

#[test]
fn an_asynchronous_copy_writes() {
    if !is_built() {
        return;
    }
    for (stride, wavefronts, reads) in [(4, 4, 4), (32, 32, 32), (36, 4, 4)] {
        let expected =
            [Expected("copy", 16, [1, wavefronts, 4]), Expected("read of the copy", 4, [1, reads, 1])];
        assert_counted("probe_bank_copies", stride, &expected);
    }
}

#[test]
fn launches_add_up_and_failed_ones_do_not_count() {
    if !is_built() {
        return;
    }
    let device = counting(ThreadOrder::Forward);
    run(&device, "probe_bank_f32", 2).unwrap();
    run(&device, "probe_bank_f32", 32).unwrap();
    run(&device, "probe_bank_copies", 4).unwrap();
    // A race: every lane writes the same 32-bit word.
    run(&device, "probe_bank_f32", 0).unwrap_err();
    let report = device.shared_memory_accesses();
    let kernels: Vec<&str> = report.iter().map(|access| access.kernel).collect();
    assert_eq!(kernels, ["probe_bank_copies", "probe_bank_copies", "probe_bank_f32", "probe_bank_f32"]);
    for access in &report[2..] {
        assert_eq!((access.accesses, access.wavefronts, access.ideal), (2 * WARPS, 34 * WARPS, 2 * WARPS));
        assert_eq!(access.excess(), 32 * WARPS);
    }
}

#[test]
fn nothing_is_counted_unless_it_is_asked_for() {
    for sanitize in [false, cfg!(feature = "sanitize")] {
        let device = Device::host_with(HostOptions { sanitize, ..HostOptions::default() }).unwrap();
        run(&device, "probe_bank_f32", 32).unwrap();
        assert_eq!(device.shared_memory_accesses(), []);
    }
}

#[test]
fn without_instrumented_kernels_it_is_refused_with_a_cure() {
    if cfg!(feature = "sanitize") {
        println!("ignored: the instrumented kernels are built");
        return;
    }
    let options = HostOptions { bank_conflicts: true, ..HostOptions::default() };
    let message = Device::host_with(options).unwrap_err().to_string();
    assert!(message.contains("bank_conflicts") && message.contains("--features sanitize"), "{message}");
}

#[cfg(feature = "train")]
#[test]
fn the_variable_is_read() {
    let info = |value: &str| {
        let mut command = std::process::Command::new(crate::cli::program());
        let output = command.arg("info").env("RETROMAE_HOST_BANK_CONFLICTS", value).output();
        String::from_utf8_lossy(&output.expect("the command runs").stdout).into_owned()
    };
    let complaint = "RETROMAE_HOST_BANK_CONFLICTS is \"2\"; it should be 0 or 1";
    assert!(info("2").contains(complaint), "{}", info("2"));
    assert!(!info("0").contains("RETROMAE_HOST_BANK_CONFLICTS"), "{}", info("0"));
}
