//! Links the library so that it stays loaded: clients load and unload it to probe for it, but its threads cannot be unloaded. Its kernels call its own
//! emulator: a program that is linked to the library, not only loads it, exports functions of the same names.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete,-Bsymbolic");
    }
}
