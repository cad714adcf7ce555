//! Checks from the sources that every wrapper has a kernel that dumps it, and every such kernel a test.

use retromae::device;

macro_rules! sources {
    ($folder:literal, $($file:literal),*) => {
        &[$(($file, include_str!(concat!("../../../kernels/", $folder, "/", $file)))),*]
    };
}

const ARCH: &[(&str, &str)] = sources!(
    "arch",
    "approximate.cuh",
    "async_copy.cuh",
    "atomic_add.cuh",
    "bits.cuh",
    "block.cuh",
    "convert.cuh",
    "ldmatrix.cuh",
    "mma.cuh",
    "warp_primitives.cuh"
);
const PROBES: &[(&str, &str)] = sources!(
    "probes/instructions",
    "async_copy.cu",
    "atomic_add.cu",
    "core.cu",
    "instructions.cuh",
    "scalar.cu",
    "tensor.cu",
    "warp.cu"
);
const TESTS: &[&str] = &[
    include_str!("convert.rs"),
    include_str!("memory.rs"),
    include_str!("random.rs"),
    include_str!("scalar.rs"),
    include_str!("tensor.rs"),
    include_str!("warp.rs"),
];
/// Instructions of the GPU alone, and the wrappers that emulate them.
const PARTS: &[(&str, &str)] = &[("mma_m16n8k16", "mma")];

/// Returns the functions that a header offers to kernels; a member carries the name of its struct.
fn wrappers(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut within = None;
    for line in source.lines() {
        if let Some(rest) = line.strip_prefix("struct ") {
            within = rest.split([' ', '{']).next();
        } else if line.starts_with("};") {
            within = None;
        } else if let Some(declaration) = line.trim_start().strip_prefix("RETROMAE_DEVICE ") {
            let head = declaration.split('(').next().expect("the return type and the name");
            let name = head.split([' ', '*', '&']).next_back().expect("a name");
            found.push(within.map_or_else(|| name.to_string(), |owner| format!("{owner}::{name}")));
        }
    }
    found
}

/// Returns true if some kernel's source calls the function.
fn is_called(name: &str) -> bool {
    let is_call = |(before, after): (&str, &str)| {
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        !before.ends_with(word) && after.starts_with(['(', '<'])
    };
    let calls = |source: &str| {
        source.match_indices(name).any(|(at, _)| is_call((&source[..at], &source[at + name.len()..])))
    };
    PROBES.iter().any(|(_, source)| calls(source))
}

#[test]
fn every_wrapper_has_a_kernel() {
    let mut all = Vec::new();
    for (file, source) in ARCH {
        let wrappers = wrappers(source);
        assert!(!wrappers.is_empty(), "kernels/arch/{file} offers nothing, or is read wrongly");
        for name in &wrappers {
            let whole = PARTS.iter().find(|(part, _)| part == name).map_or(&**name, |(_, whole)| whole);
            assert!(
                is_called(whole),
                "{name} of kernels/arch/{file} has no kernel in kernels/probes/instructions"
            );
        }
        all.extend(wrappers);
    }
    for (part, whole) in PARTS.iter().copied() {
        let is_there = |name: &str| all.iter().any(|wrapper| wrapper == name);
        assert!(is_there(part) && is_there(whole), "kernels/arch has no {part}, or no {whole}");
    }
}

#[test]
fn every_kernel_is_built_and_run() {
    let built: Vec<&str> = device::host_kernels().iter().map(|kernel| kernel.name).collect();
    for (file, source) in PROBES {
        for rest in source.split("RETROMAE_KERNEL(").skip(1) {
            let name = rest.split(',').next().expect("a name");
            assert!(built.contains(&name), "{name} of kernels/probes/instructions/{file} is not built");
            let named = format!("\"{name}\"");
            assert!(
                TESTS.iter().any(|source| source.contains(&named)),
                "no test runs {name} of kernels/probes/instructions/{file}"
            );
        }
    }
}

/// A new header must be listed above.
#[test]
fn every_source_is_read() {
    let kernels = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    if !kernels.is_dir() {
        println!("ignored: the sources are not on this machine");
        return;
    }
    for (folder, listed) in [("arch", ARCH), ("probes/instructions", PROBES)] {
        let mut files: Vec<String> = std::fs::read_dir(kernels.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let listed: Vec<&str> = listed.iter().map(|&(file, _)| file).collect();
        assert_eq!(files, listed, "kernels/{folder}");
    }
}
