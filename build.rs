//! Compiles every kernel twice: with the C++ compiler for the CPU emulator, and with nvcc, if there is one, into one fatbin a file.
//!
//! Environment: `NVCC`, `CUDA_HOME`, `CUDA_PATH` and `PATH` locate nvcc; `RETROMAE_CUDA_ARCHS` lists the real architectures
//! (default `80;90a`; PTX of the lowest is added); `RETROMAE_REQUIRE_NVCC=1` makes a missing nvcc fatal; `RETROMAE_CUDA_LINE_INFO=1` gives
//! profilers the source lines of GPU kernels; `RETROMAE_HOST_MARCH` is the CPU emulator's `-march` (default `x86-64-v3` on x86-64);
//! `RETROMAE_KERNEL_CACHE` is a folder where compiled kernels are kept for builds with other features or profiles.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "build/handles.rs"]
mod handles;
#[path = "build/job.rs"]
mod job;
#[path = "build/nvcc.rs"]
mod nvcc;

use job::{Job, run_all};
use nvcc::KernelReport;

const DEFAULT_ARCHS: &str = "80;90a";

/// Folders of kernels that only some builds have, each with the variable that cargo sets for these builds.
const OPTIONAL: &[(&str, &str)] =
    &[("baseline", "CARGO_FEATURE_BASELINE"), ("probes", "CARGO_FEATURE_TEST_KERNELS")];

fn main() {
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    for variable in [
        "NVCC",
        "CUDA_HOME",
        "CUDA_PATH",
        "PATH",
        "RETROMAE_CUDA_ARCHS",
        "RETROMAE_REQUIRE_NVCC",
        "RETROMAE_CUDA_LINE_INFO",
        "RETROMAE_HOST_MARCH",
        "RETROMAE_KERNEL_CACHE",
        "DOCS_RS",
    ] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed=kernels");
    #[cfg(feature = "bindgen")]
    generate_params(&root);

    let kernels = root.join("kernels");
    let sources = kernel_sources(&kernels);
    handles::write(host_compiler().to_command(), &kernels, &sources, &out);
    let documentation_only = env::var_os("DOCS_RS").is_some();
    let host = if documentation_only { HostBuild::default() } else { build_host(&root, &out, &sources) };
    let cuda = if documentation_only {
        CudaBuild { status: Err("documentation build".into()), ..CudaBuild::default() }
    } else {
        build_cuda(&root, &out, &sources)
    };
    write_table(&out, &host, &cuda);
}

/// Lists every `.cu` file below `kernels` that this build compiles, sorted, as paths relative to `kernels`.
fn kernel_sources(kernels: &Path) -> Vec<PathBuf> {
    fn visit(folder: &Path, found: &mut Vec<PathBuf>) {
        let entries =
            fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()));
        for entry in entries {
            let path = entry.expect("a readable folder entry").path();
            if path.is_dir() {
                visit(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "cu") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    visit(kernels, &mut found);
    found.sort();
    let relative = found.iter().map(|path| path.strip_prefix(kernels).expect("below kernels").to_path_buf());
    relative.filter(|source| is_built(source)).collect()
}

fn is_built(source: &Path) -> bool {
    let missing = |feature| env::var_os(feature).is_none();
    !OPTIONAL.iter().any(|&(folder, feature)| source.starts_with(folder) && missing(feature))
}

/// Converts a path to an identifier: `attention/attention_forward.cu` to `attention_attention_forward`.
fn identifier(source: &Path) -> String {
    source.with_extension("").to_string_lossy().replace(['/', '\\', '-', '.'], "_")
}

// ---------------------------------------------------------------------------------------------------------------------------------
// The CPU emulator
// ---------------------------------------------------------------------------------------------------------------------------------

#[derive(Default)]
struct HostBuild {
    compiler: String,
    march: String,
    anchors: Vec<String>,
}

fn build_host(root: &Path, out: &Path, sources: &[PathBuf]) -> HostBuild {
    let kernels = root.join("kernels");
    let sanitize = env::var_os("CARGO_FEATURE_SANITIZE").is_some();
    let tool = host_compiler();
    let march = host_march();
    let objects = out.join("host");
    fs::create_dir_all(&objects).expect("OUT_DIR is writable");

    let compile = |source: &Path, name: &str, sanitized: bool, anchor: &str| {
        let suffix = if sanitized { "_sanitized" } else { "" };
        let output = objects.join(format!("{name}{suffix}.o"));
        let dependencies = output.with_extension("d");
        let mut command = tool.to_command();
        command.args(["-x", "c++", "-std=c++20", "-g1", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti"]);
        // A frame larger than the fence below a stack must still touch the fence.
        command.arg("-fstack-clash-protection");
        // Nothing of the kernels is exported from a library that holds them.
        command.arg("-fvisibility=hidden");
        command.args(["-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing", "-fPIC"]);
        command.args(["-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-maybe-uninitialized"]);
        if !march.is_empty() {
            command.arg(format!("-march={march}"));
        }
        command.arg(format!("-DRETROMAE_ANCHOR={anchor}"));
        if sanitized {
            // The namespace keeps the instrumented inline functions apart from the plain ones.
            command.args(["-fsanitize=thread", "-DRETROMAE_SANITIZE", "-Dretromae=retromae_sanitized"]);
            // The instrumentation dominates the run time: with -O3 the tests are no faster, and compilation takes twice as long.
            command.arg("-O1");
        }
        command.arg("-MMD").arg("-MF").arg(&dependencies);
        command.arg("-c").arg(source).arg("-o").arg(&output);
        Job { command, output, dependencies, what: format!("{} for the host device", source.display()) }
    };

    let mut anchors = Vec::new();
    let mut jobs = Vec::new();
    // The runtime itself is never instrumented; a macro tells it whether the sanitizer's hooks are needed.
    let mut runtime = compile(&kernels.join("host/simt.cpp"), "simt", false, "retromae_anchor_simt");
    if sanitize {
        runtime.command.arg("-DRETROMAE_SANITIZE");
    }
    jobs.push(runtime);
    for source in sources {
        for sanitized in [false, true] {
            if sanitized && !sanitize {
                continue;
            }
            let name = identifier(source);
            let anchor = format!("retromae_anchor_{name}{}", if sanitized { "_sanitized" } else { "" });
            jobs.push(compile(&kernels.join(source), &name, sanitized, &anchor));
            anchors.push(anchor);
        }
    }
    let outputs: Vec<PathBuf> = jobs.iter().map(|job| job.output.clone()).collect();
    for (printed, output) in run_all(jobs).iter().zip(&outputs) {
        for line in printed.lines().filter(|line| line.contains("warning:")) {
            println!("cargo:warning={} ({})", line, output.display());
        }
    }
    archive(out, &outputs);
    HostBuild { compiler: tool.path().display().to_string(), march, anchors }
}

fn host_compiler() -> cc::Tool {
    cc::Build::new().cpp(true).opt_level(3).debug(false).get_compiler()
}

fn archive(out: &Path, objects: &[PathBuf]) {
    let library = out.join("libretromae_kernels_host.a");
    let _ = fs::remove_file(&library);
    let mut command = cc::Build::new().get_archiver();
    command.arg("crs").arg(&library).args(objects);
    let status = command.status().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(status.success(), "archiving the host kernels failed: {command:?}");
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static=retromae_kernels_host");
}

/// Returns the `-march` of the host kernels; an empty string leaves it to the compiler.
fn host_march() -> String {
    let target = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    match env::var("RETROMAE_HOST_MARCH") {
        Ok(march) => march,
        Err(_) if target == "x86_64" => "x86-64-v3".into(),
        Err(_) => String::new(),
    }
}

// ---------------------------------------------------------------------------------------------------------------------------------
// CUDA
// ---------------------------------------------------------------------------------------------------------------------------------

struct CudaBuild {
    /// nvcc's version, or the reason why no kernels were built.
    status: Result<String, String>,
    fatbins: Vec<(String, PathBuf)>,
    /// Resource usage of each kernel, with its source file.
    kernels: Vec<(String, KernelReport)>,
}

impl Default for CudaBuild {
    fn default() -> Self {
        Self { status: Ok(String::new()), fatbins: Vec::new(), kernels: Vec::new() }
    }
}

fn build_cuda(root: &Path, out: &Path, sources: &[PathBuf]) -> CudaBuild {
    let required = env::var("RETROMAE_REQUIRE_NVCC").is_ok_and(|value| value == "1");
    let Some(nvcc) = nvcc::find() else {
        let reason = "no nvcc in NVCC, CUDA_HOME, CUDA_PATH or PATH";
        assert!(!required, "{reason}, and RETROMAE_REQUIRE_NVCC=1");
        println!("cargo:warning={reason}: GPU kernels are not built, the host device still works");
        return CudaBuild { status: Err(reason.into()), ..CudaBuild::default() };
    };
    let version = nvcc::version(&nvcc);
    let folder = out.join("cuda");
    fs::create_dir_all(&folder).expect("OUT_DIR is writable");
    let archs = cuda_archs();
    let kernels = root.join("kernels");
    let mut jobs = Vec::new();
    let mut fatbins = Vec::new();
    // kernels/probes/emulator holds kernels for the CPU emulator alone, some of them wrong on purpose.
    for source in sources.iter().filter(|source| !source.starts_with("probes/emulator")) {
        let name = identifier(source);
        let output = folder.join(format!("{name}.fatbin"));
        let dependencies = output.with_extension("d");
        let mut command = Command::new(&nvcc);
        command.arg("-fatbin").args(nvcc::FLAGS);
        // Line tables are more than half of a fatbin, and every program that links this crate holds all fatbins.
        if env::var("RETROMAE_CUDA_LINE_INFO").is_ok_and(|value| value == "1") {
            command.arg("-lineinfo");
        }
        command.args(compression(&version));
        for arch in &archs {
            command.arg(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
        }
        let lowest = &archs[0];
        command.arg(format!("-gencode=arch=compute_{lowest},code=compute_{lowest}"));
        command.arg("-MD").arg("-MF").arg(&dependencies);
        command.arg("-o").arg(&output).arg(kernels.join(source));
        jobs.push(Job {
            command,
            output: output.clone(),
            dependencies,
            what: format!("{} by nvcc", source.display()),
        });
        fatbins.push((source.display().to_string(), output));
    }
    let printed = run_all(jobs);
    let reports = printed
        .iter()
        .zip(&fatbins)
        .flat_map(|(text, (file, _))| {
            nvcc::parse_ptxas(text).into_iter().map(move |report| (file.clone(), report))
        })
        .collect();
    CudaBuild { status: Ok(version), fatbins, kernels: reports }
}

/// Returns the flags that make fatbins small. nvcc 13 compresses with Zstandard; its highest level takes a third off a fatbin and is unpacked by the
/// same drivers.
fn compression(version: &str) -> &'static [&'static str] {
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major >= Some(13) {
        &["-Xfatbin=-compress-all", "--compress-mode=size"]
    } else {
        &["-Xfatbin=-compress-all"]
    }
}

/// The architectures of `RETROMAE_CUDA_ARCHS`, such as `80;90a`.
fn cuda_archs() -> Vec<String> {
    let text = env::var("RETROMAE_CUDA_ARCHS").unwrap_or_else(|_| DEFAULT_ARCHS.into());
    let archs: Vec<String> =
        text.split([';', ',']).map(|arch| arch.trim().to_string()).filter(|a| !a.is_empty()).collect();
    let valid =
        |arch: &String| arch.trim_end_matches(['a', 'f']).parse::<u32>().is_ok_and(|number| number >= 80);
    assert!(
        !archs.is_empty() && archs.iter().all(valid),
        "RETROMAE_CUDA_ARCHS is {text:?}; it should list architectures from 80 up, such as 80;90a"
    );
    archs
}

// ---------------------------------------------------------------------------------------------------------------------------------
// Generated table of kernels
// ---------------------------------------------------------------------------------------------------------------------------------

fn write_table(out: &Path, host: &HostBuild, cuda: &CudaBuild) {
    let mut text = String::new();
    let (ok, status) = match &cuda.status {
        Ok(version) => (true, version),
        Err(reason) => (false, reason),
    };
    writeln!(text, "pub const NVCC: Result<&str, &str> = {}({status:?});", if ok { "Ok" } else { "Err" })
        .unwrap();
    writeln!(text, "pub const HOST_COMPILER: &str = {:?};", host.compiler).unwrap();
    writeln!(text, "pub const HOST_MARCH: &str = {:?};", host.march).unwrap();
    writeln!(text, "pub static FATBINS: &[Fatbin] = &[").unwrap();
    for (file, path) in &cuda.fatbins {
        writeln!(text, "Fatbin {{ file: {file:?}, image: include_bytes!({path:?}) }},").unwrap();
    }
    writeln!(text, "];\npub static CUDA_KERNELS: &[CudaKernel] = &[").unwrap();
    let sorted: BTreeMap<(&str, &str), &(String, KernelReport)> = cuda
        .kernels
        .iter()
        .map(|kernel| ((kernel.1.name.as_str(), kernel.1.arch.as_str()), kernel))
        .collect();
    for (file, report) in sorted.values() {
        writeln!(
            text,
            "CudaKernel {{ name: {:?}, file: {:?}, arch: {:?}, registers: {}, shared_bytes: {}, stack_bytes: {}, spill_bytes: {} }},",
            report.name,
            file,
            report.arch,
            report.registers,
            report.shared_bytes,
            report.stack_bytes,
            report.spill_bytes
        )
        .unwrap();
    }
    writeln!(text, "];\nunsafe extern \"C\" {{").unwrap();
    for anchor in &host.anchors {
        writeln!(text, "fn {anchor}();").unwrap();
    }
    writeln!(text, "}}\n#[used]\nstatic ANCHORS: [unsafe extern \"C\" fn(); {}] = [", host.anchors.len())
        .unwrap();
    for anchor in &host.anchors {
        writeln!(text, "{anchor},").unwrap();
    }
    writeln!(text, "];").unwrap();
    fs::write(out.join("kernel_table.rs"), text).expect("OUT_DIR is writable");
}

/// Declares to bindgen that the structs of `params.h` which other headers use are plain data.
#[cfg(feature = "bindgen")]
#[derive(Debug)]
struct PlainData;

#[cfg(feature = "bindgen")]
impl bindgen::callbacks::ParseCallbacks for PlainData {
    fn blocklisted_type_implements_trait(
        &self,
        _name: &str,
        _trait: bindgen::callbacks::DeriveTrait,
    ) -> Option<bindgen::callbacks::ImplementsTrait> {
        Some(bindgen::callbacks::ImplementsTrait::Yes)
    }
}

/// Regenerates the Rust side of the kernels' headers.
#[cfg(feature = "bindgen")]
fn generate_params(root: &Path) {
    let imports = Some("use super::params::{DevicePointer, DropoutParams};");
    generate(root, "params.h", "device/params.rs", None);
    generate(root, "baseline/baseline_params.h", "device/baseline_params.rs", imports);
    generate(root, "constants.h", "common/constants.rs", None);
}

/// Writes the declarations of `kernels/{header}` to `src/{module}`, with the imports that these need.
#[cfg(feature = "bindgen")]
fn generate(root: &Path, header: &str, module: &str, imports: Option<&str>) {
    let bindings = bindgen::Builder::default()
        .header(root.join("kernels").join(header).display().to_string())
        .clang_args(["-x", "c++", "-std=c++17"])
        .allowlist_file(format!(".*/{}", header.replace('.', "\\.")))
        .allowlist_recursively(false)
        .parse_callbacks(Box::new(PlainData))
        .use_core()
        .derive_default(true)
        .layout_tests(true)
        .prepend_enum_name(false)
        .disable_header_comment()
        .raw_line(format!(
            "//! Declarations that kernels and Rust share: the output of bindgen for `kernels/{header}`."
        ))
        .raw_line("//!")
        .raw_line("//! Do not edit; run `cargo build --features bindgen`.")
        .raw_line("#![allow(dead_code, missing_docs, clippy::pedantic, clippy::all)]");
    let bindings = imports
        .iter()
        .fold(bindings, |bindings, imports| bindings.raw_line(*imports))
        .generate()
        .unwrap_or_else(|error| panic!("bindgen on {header}: {error}"));
    let module = root.join("src").join(module);
    bindings.write_to_file(&module).unwrap_or_else(|error| panic!("{}: {error}", module.display()));
}
