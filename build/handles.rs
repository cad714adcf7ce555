//! Kernel handles: a Rust constant for each `RETROMAE_KERNEL`, read from the preprocessor's output.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The element types that end a kernel's name, and their names in Rust.
const DTYPES: [(&str, &str); 3] = [("f32", "F32"), ("bf16", "Bf16"), ("f16", "F16")];

/// Name and params struct of a kernel, as its source declares them.
struct Listed {
    name: String,
    params: String,
}

/// One kernel of a family: `layer_norm_forward_bf16`, `attention_forward_full_f16_d64`.
struct Variant<'a> {
    kernel: &'a Listed,
    dtype: &'static str,
    head_dim: Option<u32>,
}

/// Writes `kernel_handles.rs`: a constant for each family of kernels whose names end in an element type, and for each other kernel.
pub fn write(compiler: Command, kernels: &Path, sources: &[PathBuf], out: &Path) {
    let listed = list(compiler, kernels, sources, out);
    let mut families: BTreeMap<&str, Vec<Variant<'_>>> = BTreeMap::new();
    let mut text = String::new();
    for kernel in &listed {
        match variant(kernel) {
            Some((family, variant)) => families.entry(family).or_default().push(variant),
            None => writeln!(
                text,
                "pub const {}: Kernel<params::{}> = Kernel::new({:?});",
                kernel.name.to_uppercase(),
                kernel.params,
                kernel.name
            )
            .unwrap(),
        }
    }
    for (family, variants) in families {
        let params = &variants[0].kernel.params;
        for Variant { kernel, .. } in &variants {
            assert_eq!(&kernel.params, params, "kernel {} of the family {family}", kernel.name);
        }
        writeln!(
            text,
            "pub const {}: Family<params::{params}> = Family::new({family:?}, &[",
            family.to_uppercase()
        )
        .unwrap();
        for Variant { kernel, dtype, head_dim } in variants {
            writeln!(text, "(DType::{dtype}, {head_dim:?}, {:?}),", kernel.name).unwrap();
        }
        writeln!(text, "]);").unwrap();
    }
    fs::write(out.join("kernel_handles.rs"), text).expect("OUT_DIR is writable");
}

/// Returns the family of a kernel whose name ends in an element type and optionally a head size.
fn variant(kernel: &Listed) -> Option<(&str, Variant<'_>)> {
    let (rest, head_dim) = match kernel.name.rsplit_once("_d") {
        Some((rest, digits)) if digits.parse::<u32>().is_ok() => (rest, digits.parse().ok()),
        _ => (kernel.name.as_str(), None),
    };
    let (family, dtype) = rest.rsplit_once('_')?;
    let (_, dtype) = DTYPES.iter().find(|(suffix, _)| *suffix == dtype)?;
    Some((family, Variant { kernel, dtype, head_dim }))
}

/// Lists all kernels of the sources, in one run of the preprocessor.
fn list(mut compiler: Command, kernels: &Path, sources: &[PathBuf], out: &Path) -> Vec<Listed> {
    let all = out.join("kernel_list.cpp");
    let include = |source: &PathBuf| format!("#include {:?}\n", kernels.join(source));
    fs::write(&all, sources.iter().map(include).collect::<String>()).expect("OUT_DIR is writable");
    // No warnings: several files define macros of the same names.
    compiler.args(["-x", "c++", "-std=c++20", "-E", "-P", "-w", "-DRETROMAE_LIST_KERNELS"]).arg(&all);
    let output = compiler.output().unwrap_or_else(|error| panic!("cannot run {compiler:?}: {error}"));
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "listing the kernels failed: {compiler:?}\n{errors}");
    let mut words = text.split_whitespace();
    let mut listed = Vec::new();
    while words.any(|word| word == "LISTED_KERNEL") {
        let mut word = || words.next().expect("a name and params follow").to_string();
        listed.push(Listed { name: word(), params: word() });
    }
    listed
}
