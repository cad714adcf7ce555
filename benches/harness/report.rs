//! JSON lines for the program that drives the benches.

use std::fs::OpenOptions;
use std::io::Write;

use crate::cases::Bound;

/// Reports that a variant begins, so that the driving program knows the last one.
pub fn begun(operation: &str, case: &str, variant: &str) {
    append(&serde_json::json!({"begun": format!("{operation}/{variant}/{case}")}));
}

pub fn bound(operation: &str, case: &str, bound: Bound) {
    append(&serde_json::json!({"op": operation, "case": case, "flops": bound.flops, "bytes": bound.bytes}));
}

pub fn memory(operation: &str, case: &str, variant: &str, bytes: usize) {
    println!(
        "{operation}/{variant}/{case}: {:.1} MiB beside inputs and outputs",
        bytes as f64 / f64::from(1 << 20)
    );
    append(&serde_json::json!({"op": operation, "case": case, "variant": variant, "extra_bytes": bytes}));
}

pub fn skipped(operation: &str, case: &str, variant: &str, reason: &str) {
    println!("{operation}/{variant}/{case}: skipped: {reason}");
    append(&serde_json::json!({"op": operation, "case": case, "variant": variant, "skipped": reason}));
}

/// Appends a line to the file that `RETROMAE_BENCH_BOUNDS` names, if it is set.
fn append(line: &serde_json::Value) {
    let Some(path) = std::env::var_os("RETROMAE_BENCH_BOUNDS").filter(|path| !path.is_empty()) else {
        return;
    };
    let file = OpenOptions::new().create(true).append(true).open(&path);
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
        eprintln!("RETROMAE_BENCH_BOUNDS: {}: {error}", path.display());
    }
}
