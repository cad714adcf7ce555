//! Requirements on the kernels' machine code: they are checked without a GPU, and no result shows them.

use std::collections::BTreeSet;

use retromae::device;

use super::sass::Operation::{Exit, Hmma, Ld, Ldg, Ldgsts, Ldl, St, Stg, Stl};
use super::sass::{ARCHITECTURES, Census};
use super::{KIND_CUBIN, cubin_code, entries, nvcc_built_kernels};

/// A rule's name, and a predicate for code that follows it.
type Rule = (&'static str, fn(&Census) -> bool);

/// Rules for kernels on tensor cores: operands move by whole accesses of 16 bytes, the most that a thread can make.
const TENSOR_CORE_RULES: &[Rule] = &[
    ("multiplies on tensor cores", |code| code.count(Hmma) > 0),
    ("reads 16 bytes of global memory at once", |code| {
        code.count_of_width(Ldg, 16) + code.count_of_width(Ldgsts, 16) > 0
    }),
    ("writes 16 bytes of global memory at once", |code| code.count_of_width(Stg, 16) > 0),
    // 4-byte writes are the log-sum-exp and the like: one number a row.
    ("writes nothing but 16 and 4 bytes at once", |code| {
        code.count(Stg) == code.count_of_width(Stg, 16) + code.count_of_width(Stg, 4)
    }),
    // With a generic address, the compiler has lost track of a pointer, and the rules above do not see its accesses.
    ("has no generic addresses", |code| code.count(Ld) + code.count(St) == 0),
];

/// Requirements on kernels that are bound by their reads of memory.
struct Reads {
    /// Prefix of the kernels' names.
    kernels: &'static str,
    /// Bytes that a thread has requested before it waits for one of its wide loads.
    bytes: u32,
    /// Most registers a thread with which as many warps fit an SM as their launch assumes.
    registers: u32,
}

/// LayerNorm and embeddings: a row of up to four loads for each input array. The embeddings' f32 rows are too long for so few registers.
/// Cross-entropy: four loads of logits, with one or two of the bias for each. The others: eight.
const READS: &[Reads] = &[
    Reads { kernels: "layer_norm_forward", bytes: 128, registers: 128 },
    Reads { kernels: "layer_norm_backward", bytes: 128, registers: 128 },
    Reads { kernels: "embedding_forward_bf16", bytes: 192, registers: 128 },
    Reads { kernels: "embedding_backward_bf16", bytes: 192, registers: 128 },
    Reads { kernels: "column_sum", bytes: 128, registers: 64 },
    Reads { kernels: "segment_s", bytes: 128, registers: 80 },
    Reads { kernels: "adamw", bytes: 256, registers: 128 },
    Reads { kernels: "reduce", bytes: 128, registers: 80 },
    Reads { kernels: "bias_gelu_", bytes: 128, registers: 80 },
    Reads { kernels: "cross_entropy_f32", bytes: 128, registers: 80 },
    Reads { kernels: "cross_entropy_bf16", bytes: 192, registers: 80 },
    Reads { kernels: "cross_entropy_f16", bytes: 192, registers: 80 },
    Reads { kernels: "cross_entropy_bias_slabs_", bytes: 128, registers: 72 },
    Reads { kernels: "attention_backward_delta_bf16_d64", bytes: 128, registers: 48 },
];

/// A kernel on one architecture.
struct Kernel {
    name: String,
    arch: u32,
    code: Census,
}

impl Kernel {
    fn describe(&self) -> String {
        format!("{} on sm_{}: {}", self.name, self.arch, self.code)
    }
}

/// Returns every kernel on every architecture with known encodings; prints the others.
fn kernels() -> Vec<Kernel> {
    let cubins = device::fatbins().iter().flat_map(entries).filter(|entry| entry.kind == KIND_CUBIN);
    let (known, unknown): (Vec<_>, Vec<_>) = cubins.partition(|entry| ARCHITECTURES.contains(&entry.arch));
    for arch in unknown.iter().map(|entry| entry.arch).collect::<BTreeSet<_>>() {
        println!("ignored: no encodings for sm_{arch}");
    }
    let kernels = known.iter().flat_map(|entry| {
        let arch = entry.arch;
        let code = cubin_code(&entry.payload).into_iter();
        code.map(move |(name, code)| Kernel { name, arch, code: Census::of(&code) })
    });
    let kernels: Vec<Kernel> = kernels.collect();
    for kernel in &kernels {
        assert!(kernel.code.count(Exit) > 0, "never ends, so it is not decoded: {}", kernel.describe());
    }
    kernels
}

fn broken_rules(code: &Census) -> Vec<&'static str> {
    TENSOR_CORE_RULES.iter().filter(|(_, holds)| !holds(code)).map(|&(rule, _)| rule).collect()
}

/// Attention in 16 bits consists of matmuls, which tensor cores do an order of magnitude faster, except for row-wise kernels: δ, and the conversion
/// of sums to gradients. The same holds for the cross-entropy that computes its own logits.
fn must_use_tensor_cores(name: &str) -> bool {
    let is_16_bit = ["_bf16_", "_f16_"].iter().any(|dtype| name.contains(dtype));
    let by_row =
        ["convert", "delta"].iter().any(|part| name.starts_with(&format!("attention_backward_{part}_")));
    let attention = name.starts_with("attention_") && !by_row;
    is_16_bit && attention || name == "cross_entropy_exponentials_bf16"
}

/// A spilled register, or an array that is indexed at run time, is as slow as global memory.
#[test]
fn no_kernel_uses_local_memory() {
    if !nvcc_built_kernels() {
        return;
    }
    let uses = |kernel: &Kernel| kernel.code.count(Ldl) + kernel.code.count(Stl) > 0;
    let using: Vec<String> = kernels().iter().filter(|kernel| uses(kernel)).map(Kernel::describe).collect();
    assert!(using.is_empty(), "local memory is used by\n{}", using.join("\n"));
    // A generic address may be of local memory too, but only if there is a stack frame.
    for kernel in device::cuda_kernels() {
        assert_eq!(kernel.stack_bytes, 0, "stack frame of {} on {}", kernel.name, kernel.arch);
    }
}

#[test]
fn matmuls_in_16_bits_are_on_tensor_cores_and_move_16_bytes_at_once() {
    if !nvcc_built_kernels() {
        return;
    }
    let kernels = kernels();
    if kernels.is_empty() {
        return;
    }
    let ruled = kernels.iter().filter(|kernel| must_use_tensor_cores(&kernel.name));
    let broken: Vec<String> = ruled
        .map(|kernel| (kernel, broken_rules(&kernel.code)))
        .filter(|(_, broken)| !broken.is_empty())
        .map(|(kernel, broken)| format!("not true: {broken:?} of {}", kernel.describe()))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    // This matmul is of the size of the logits, but writes only two numbers for each sentence and word, of 4 and 2 bytes.
    let maxima: Vec<&Kernel> =
        kernels.iter().filter(|kernel| kernel.name.starts_with("bag_of_words_matmul_")).collect();
    assert!(!maxima.is_empty());
    for kernel in maxima {
        let rules = &TENSOR_CORE_RULES[..2];
        assert!(rules.iter().all(|(_, holds)| holds(&kernel.code)), "{}", kernel.describe());
    }
}

#[test]
fn kernels_that_wait_for_memory_have_many_loads_in_flight() {
    if !nvcc_built_kernels() {
        return;
    }
    let registers = |kernel: &Kernel| {
        let arch = format!("sm_{}", kernel.arch);
        let mut tables = device::cuda_kernels().iter().filter(|table| table.name == kernel.name);
        tables
            .find(|table| table.arch.trim_end_matches('a') == arch)
            .expect("a kernel of the table")
            .registers
    };
    let kernels = kernels();
    for reads in READS {
        let named: Vec<_> = kernels.iter().filter(|kernel| kernel.name.starts_with(reads.kernels)).collect();
        assert_eq!(named.is_empty(), kernels.is_empty(), "no kernel is named {}…", reads.kernels);
        for kernel in named {
            let (bytes, registers) = (kernel.code.bytes_in_flight, registers(kernel));
            assert!(
                bytes >= reads.bytes,
                "{bytes} bytes in flight, not {}: {}",
                reads.bytes,
                kernel.describe()
            );
            assert!(registers <= reads.registers, "{registers} registers: {}", kernel.describe());
        }
    }
}

/// At 3 TB/s an H100 can issue 35 to 39 instructions a bf16 element in the forward pass, half as many again in the backward pass.
#[test]
fn gelu_is_at_most_25_instructions_an_element() {
    if !nvcc_built_kernels() {
        return;
    }
    // Elements of a thread, whose code has no loop.
    const ELEMENTS: &[(&str, usize)] = &[("bias_gelu_forward_bf16", 64), ("bias_gelu_backward_bf16", 32)];
    for kernel in kernels() {
        let Some((_, elements)) = ELEMENTS.iter().find(|(name, _)| *name == kernel.name) else { continue };
        assert!(kernel.code.instructions <= 25 * elements, "{elements} elements: {}", kernel.describe());
    }
}
