//! Bank conflicts of the kernels on tensor cores: their tiles are swizzled so that there are none.

use std::collections::BTreeSet;

use retromae::device::{Device, HostOptions, SharedAccess, bf16, host_kernels};
use retromae::ops::attention::HEAD_DIMS;

use super::passes::{Case, Kind, Operands, Variant, run};

/// What the sites of accesses are in: shared headers are passed over.
const SOURCES: &[(&str, &str)] = &[
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
];

/// The text of a site's line.
fn line(site: &str) -> &'static str {
    let (file, number) = site.rsplit_once(':').expect("file and line");
    let source = SOURCES.iter().find(|(name, _)| *name == file);
    let (_, source) = source.unwrap_or_else(|| panic!("{site}: a source that this test does not know"));
    source.lines().nth(number.parse::<usize>().expect("a line") - 1).expect("a line of the source").trim()
}

/// The kernels that take bf16 and use shared memory.
fn kernels() -> BTreeSet<&'static str> {
    let names = host_kernels().into_iter().map(|kernel| kernel.name);
    names
        .filter(|name| name.starts_with("attention_") && name.contains("_bf16_"))
        .filter(|name| !name.starts_with("attention_backward_convert_"))
        .collect()
}

/// Runs every kernel; a pack has sentences that one block takes, and that it does not, of whole and partial tiles.
fn accesses() -> Vec<SharedAccess> {
    let options = HostOptions { bank_conflicts: true, ..HostOptions::default() };
    let device = Device::host_with(options).expect("the host device");
    for head_dim in HEAD_DIMS {
        for kind in [Kind::Full, Kind::Bank] {
            let case = Case { heads: 2, dropout: 0.1, ..Case::new(&[130, 96, 33], head_dim, kind) };
            for variant in [Variant::Default, Variant::Tiled, Variant::Atomic] {
                run(&device, &case, &Operands::<bf16>::draw(&case), variant);
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
    let conflicts: Vec<String> = accesses
        .iter()
        .filter(|access| access.excess() > 0)
        .map(|access| format!("{access}\n    {}", line(&access.site)))
        .collect();
    assert!(conflicts.is_empty(), "bank conflicts:\n{}", conflicts.join("\n"));
}
