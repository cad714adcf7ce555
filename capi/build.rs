//! Gives the shared library its soname; with feature `bindgen`, reads the header anew.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../include/retromae.h");
    // Programs that were linked to this version run with every later one of the same major version, and of the same minor one before 1.0.
    let major = std::env::var("CARGO_PKG_VERSION_MAJOR").expect("set by cargo");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libretromae.so.{major}");
    #[cfg(feature = "bindgen")]
    generate();
}

#[cfg(feature = "bindgen")]
fn generate() {
    // The compiler's own headers, which libclang alone is without.
    let compiler = std::process::Command::new("cc").arg("-print-file-name=include").output();
    let include = compiler.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    let bindings = bindgen::Builder::default()
        .header("../include/retromae.h")
        .clang_args(["-std=c11", "-I", include.trim()])
        .allowlist_file(".*/retromae\\.h")
        .allowlist_recursively(false)
        .use_core()
        .derive_default(false)
        .layout_tests(true)
        .prepend_enum_name(false)
        .disable_header_comment()
        .generate_comments(false)
        .raw_line("//! The C interface as Rust reads it: the output of bindgen for `include/retromae.h`.")
        .raw_line("//!")
        .raw_line("//! Do not edit; run `cargo build --package retromae-capi --features bindgen`.")
        .raw_line("#![allow(dead_code, missing_docs, non_camel_case_types, clippy::pedantic, clippy::all)]")
        .generate()
        .unwrap_or_else(|error| panic!("bindgen on retromae.h: {error}"));
    bindings.write_to_file("src/sys.rs").unwrap_or_else(|error| panic!("src/sys.rs: {error}"));
}
