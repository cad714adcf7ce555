//! Bank conflicts of the kernels on tensor cores: their tiles are swizzled to avoid all of them.

use std::collections::BTreeSet;

use retromae::device::{Device, HostOptions, SharedAccess, bf16, host_kernels};
use retromae::ops::attention::HEAD_DIMS;

use super::cases::{Case, Kind, Variant};
use super::passes::run;

/// Files with the access sites; shared headers are skipped.
const SOURCES: &[(&str, &str)] = &[
    ("kernels/attention/attention.cuh", include_str!("../../../kernels/attention/attention.cuh")),
    (
        "kernels/attention/attention_backward_fused.cu",
        include_str!("../../../kernels/attention/attention_backward_fused.cu"),
    ),
    (
        "kernels/attention/attention_backward_tiled.cu",
        include_str!("../../../kernels/attention/attention_backward_tiled.cu"),
    ),
    (
        "kernels/attention/attention_forward.cu",
        include_str!("../../../kernels/attention/attention_forward.cu"),
    ),
    ("kernels/attention/backward.cuh", include_str!("../../../kernels/attention/backward.cuh")),
    ("kernels/attention/fragments.cuh", include_str!("../../../kernels/attention/fragments.cuh")),
    ("kernels/mask/whole_words.cuh", include_str!("../../../kernels/mask/whole_words.cuh")),
];

/// Lines that may conflict, with the reason. All belong to masks that a block samples for itself, once a block.
const EXCUSED: &[(&str, &[&str])] = &[
    (
        "each query has a row of the pool at random; compilers read pools in global and in shared memory by one instruction",
        &[
            "visible = pool.bits[pool.rows[position] * words_per_row + first_key / 32];",
            "visible = stored((rows == nullptr ? position : rows[position]) * words_per_row + first_key / 32);",
        ],
    ),
    (
        "each thread comes upon a whole word at random",
        &[
            "const uint32_t word = permutation[other];",
            "permutation[other] = permutation[k];  // the other half of the swap is never read",
            "const uint32_t start = words.starts[word];",
            "const uint32_t end = words.starts[word + 1];",
        ],
    ),
    (
        "each thread has a row of the pool to itself, as many 32-bit words from the next as a row has, as in global memory",
        &[
            "for (uint32_t word = 0; word < length / 32; ++word) bits[word] = 0xffffffffu;",
            "if (length % 32 != 0) bits[length / 32] = (1u << length % 32) - 1u;",
            "bits[position / 32] &= ~(1u << position % 32);",
        ],
    ),
    (
        "each thread samples for four neighbors, of 2 bytes each",
        &["rows[first + i] = static_cast<uint16_t>(bounded(random.words[i], pool_rows));"],
    ),
];

/// Returns the text of a site's line.
fn line(site: &str) -> &'static str {
    let (file, number) = site.rsplit_once(':').expect("file and line");
    let source = SOURCES.iter().find(|(name, _)| *name == file);
    let (_, source) = source.unwrap_or_else(|| panic!("{site}: a source that this test does not know"));
    source.lines().nth(number.parse::<usize>().expect("a line") - 1).expect("a line of the source").trim()
}

/// Returns the kernels that take bf16 and use shared memory.
fn kernels() -> BTreeSet<&'static str> {
    let names = host_kernels().into_iter().map(|kernel| kernel.name);
    names
        .filter(|name| name.starts_with("attention_") && name.contains("_bf16_"))
        .filter(|name| !["convert", "delta"].iter().any(|part| name.contains(part)))
        .collect()
}

/// Runs every kernel; a batch has both sentences that fit one block and longer ones, of whole and partial tiles.
fn accesses() -> Vec<SharedAccess> {
    let options = HostOptions { bank_conflicts: true, ..HostOptions::default() };
    let device = Device::host_with(options).expect("the host device");
    for head_dim in HEAD_DIMS {
        for kind in [Kind::Full, Kind::Pool, Kind::Generated] {
            let case = Case { heads: 2, dropout: 0.1, ..Case::new(&[130, 96, 33], head_dim, kind) };
            for variant in [Variant::Default, Variant::Tiled, Variant::Atomic] {
                run(&device, &case, &case.inputs::<bf16>(), variant);
            }
        }
    }
    device.shared_memory_accesses()
}

#[test]
fn kernels_on_tensor_cores_have_no_bank_conflicts() {
    if !cfg!(feature = "sanitize") {
        println!("ignored: bank conflicts are counted in the instrumented kernels, feature `sanitize`");
        return;
    }
    let accesses = accesses();
    let counted: BTreeSet<&str> = accesses.iter().map(|access| access.kernel).collect();
    assert_eq!(counted, kernels());
    let conflicts: Vec<(&SharedAccess, &str)> = accesses
        .iter()
        .filter(|access| access.excess() > 0)
        .map(|access| (access, line(&access.site)))
        .collect();
    for (reason, excused) in EXCUSED {
        let conflicts = conflicts.iter().any(|(_, line)| excused.contains(line));
        assert!(conflicts, "nothing conflicts any more where {reason}: it needs no excuse");
    }
    let unexcused: Vec<String> = conflicts
        .iter()
        .filter(|(_, line)| !EXCUSED.iter().any(|(_, excused)| excused.contains(line)))
        .map(|(access, line)| format!("{access}\n    {line}"))
        .collect();
    assert!(unexcused.is_empty(), "bank conflicts:\n{}", unexcused.join("\n"));
}
