//! The imports between the crate's modules: each layer imports only the layers below it, and imports have no cycles.
//!
//! A module imports another if a `use` or a path, also within a macro, names one of its items. An item that is named through a re-export counts for
//! the re-exporting module and for the defining one. A module and its descendants are one unit: only imports between modules of which neither
//! contains the other count, and they count for the children of their nearest common parent.

mod circles;
mod modules;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Result, bail};

use circles::circles;
use modules::{Import, imports};

/// The top-level modules from the bottom up, each with the modules that it may import.
const LAYERS: [(&str, &[&str]); 9] = [
    ("common", &[]),
    ("device", &["common"]),
    ("ops", &["common", "device"]),
    ("reference", &["common"]),
    ("model", &["common", "device", "ops"]),
    ("data", &["common"]),
    ("eval", &["common", "device", "ops", "model", "data"]),
    ("train", &["common", "device", "ops", "model", "data", "eval"]),
    ("cli", &["common", "device", "ops", "reference", "model", "data", "eval", "train"]),
];

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The folder of the crate's lib.rs and main.rs
    #[arg(long, default_value = "src")]
    source: PathBuf,
}

impl Arguments {
    /// Prints which layer imports which; an error lists cycles and forbidden imports.
    pub fn run(&self) -> Result<()> {
        let imports = imports(&self.source)?;
        print!("{}", graph(&imports));
        let problems = problems(&imports);
        if !problems.is_empty() {
            bail!("{}", problems.join("\n"));
        }
        Ok(())
    }
}

/// Returns the children of the nearest common parent that hold importer and imported, and that parent.
fn siblings(import: &Import) -> Option<(String, String, String)> {
    let (from, to): (Vec<&str>, Vec<&str>) =
        (import.from.split("::").collect(), import.to.split("::").collect());
    let common = from.iter().zip(&to).take_while(|(from, to)| from == to).count();
    let (importer, imported) = (from.get(common)?, to.get(common)?);
    let empty = import.from.is_empty() || import.to.is_empty();
    (!empty).then(|| (from[..common].join("::"), (*importer).to_owned(), (*imported).to_owned()))
}

/// Returns a line for each layer: its imports with their counts.
fn graph(imports: &[Import]) -> String {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (parent, from, to) in imports.iter().filter_map(siblings) {
        if parent.is_empty() {
            *counts.entry((from, to)).or_default() += 1;
        }
    }
    let mut text = String::new();
    for (layer, _) in LAYERS {
        let count = |other: &str| counts.get(&(layer.to_owned(), other.to_owned()));
        let imported = LAYERS.iter().filter_map(|(other, _)| count(other).map(|n| format!("{other} ({n})")));
        let imported: Vec<String> = imported.collect();
        let imported = if imported.is_empty() { "nothing".to_owned() } else { imported.join(", ") };
        text += &format!("{layer} imports {imported}\n");
    }
    text
}

/// Returns a line for each forbidden import and for each cycle.
fn problems(imports: &[Import]) -> Vec<String> {
    let mut problems = BTreeSet::new();
    let mut edges: BTreeMap<String, BTreeMap<(String, String), &Import>> = BTreeMap::new();
    for import in imports {
        let Some((parent, from, to)) = siblings(import) else { continue };
        if parent.is_empty() && !is_allowed(&from, &to) {
            problems.insert(format!("{}: {from} may not import {to}", import.place));
        }
        edges.entry(parent).or_default().entry((from, to)).or_insert(import);
    }
    for (parent, edges) in &edges {
        for circle in circles(edges.keys()) {
            let mut text = format!("a circle in {}:", if parent.is_empty() { "the crate" } else { parent });
            for ((from, to), import) in edges {
                if circle.contains(from) && circle.contains(to) {
                    text += &format!("\n    {from} imports {to} at {}", import.place);
                }
            }
            problems.insert(text);
        }
    }
    problems.into_iter().collect()
}

fn is_allowed(from: &str, to: &str) -> bool {
    LAYERS.iter().any(|(layer, below)| *layer == from && below.contains(&to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Returns the problems of a crate of these files.
    fn problems_of(files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let strip = |problem: String| problem.replace(&format!("{}/", folder.path().display()), "");
        problems(&imports(folder.path()).unwrap()).into_iter().map(strip).collect()
    }

    const LIB: (&str, &str) = ("lib.rs", "mod common; pub mod device; pub mod ops; pub use common::random;");
    const COMMON: (&str, &str) = ("common.rs", "pub mod random { pub struct Stream; }");

    /// Each layer is listed after all that it may import, so the table itself has no cycle.
    #[test]
    fn layers_import_downwards() {
        for (index, (layer, below)) in LAYERS.iter().enumerate() {
            for other in *below {
                let place = LAYERS.iter().position(|(name, _)| name == other).unwrap();
                assert!(place < index, "{layer} may import {other}, which is not below it");
            }
        }
    }

    #[test]
    fn downward_imports_are_allowed() {
        let device =
            ("device/mod.rs", "mod buffer; use crate::common::random::Stream; pub use buffer::Buffer;");
        let buffer = ("device/buffer.rs", "use super::Device; pub struct Buffer;");
        let ops = ("ops.rs", "use crate::device::Buffer; use crate::random::Stream;");
        assert_eq!(problems_of(&[LIB, COMMON, device, buffer, ops]), [""; 0]);
    }

    #[test]
    fn an_upward_import_is_found_wherever_it_stands() {
        let ops = ("ops.rs", "pub struct Linear;");
        for device in [
            "use crate::ops::Linear;",
            "fn f() { let _ = crate::ops::Linear; }",
            "fn f() { dbg!(crate::ops::Linear); }",
            "mod tests { use super::super::ops::{self, Linear}; }",
        ] {
            let found = problems_of(&[LIB, COMMON, ("device.rs", device), ops]);
            assert_eq!(found, ["device.rs:1: device may not import ops"], "{device}");
        }
    }

    /// The re-exporting module counts, though the item is defined below.
    #[test]
    fn a_re_export_does_not_hide_an_import() {
        let device = ("device.rs", "use crate::ops::Stream;");
        let ops = ("ops.rs", "pub use crate::common::random::Stream;");
        let found = problems_of(&[LIB, COMMON, device, ops]);
        assert_eq!(found, ["device.rs:1: device may not import ops"]);
    }

    #[test]
    fn siblings_that_import_each_other_are_a_circle() {
        let device =
            ("device/mod.rs", "mod buffer; mod stream; pub use buffer::Buffer; pub use stream::Stream;");
        let buffer = ("device/buffer.rs", "\nuse super::Stream; pub struct Buffer;");
        let stream = ("device/stream.rs", "use super::Buffer; pub struct Stream;");
        let found = problems_of(&[LIB, COMMON, device, buffer, stream, ("ops.rs", "")]);
        assert_eq!(
            found,
            [
                "a circle in device:\n    buffer imports stream at device/buffer.rs:2\n    stream imports buffer at device/stream.rs:1"
            ]
        );
    }

    #[test]
    fn a_module_without_a_layer_is_found() {
        let lib = ("lib.rs", "mod common; mod extra;");
        let found = problems_of(&[lib, COMMON, ("extra.rs", "use crate::common::random;")]);
        assert_eq!(found, ["extra.rs:1: extra may not import common"]);
    }
}
