//! docs/environment.md names the variables that the sources read, each once, and no other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/environment.md";
/// Everything that reads variables, except kernels: their macros begin with the same letters.
const SOURCES: &[&str] =
    &["build.rs", "build", "src", "benches", "capi", "examples", "python", "tests", "tools", ".ci"];
const OWN_PREFIXES: &[&str] = &["RETROMAE_", "SIMULATED_CUDA_"];
/// Variables that cargo sets for build scripts and programs, the shell for scripts, and torchrun for ranks; and those of compilers and of Python.
const GIVEN: &[&str] = &[
    "OUT_DIR",
    "NUM_JOBS",
    "PWD",
    "SECONDS",
    "BASH_SOURCE",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "OMP_NUM_THREADS",
    "CXX",
    "PYTHONPATH",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns the text of every source file, with its path.
fn sources() -> Vec<(PathBuf, String)> {
    fn visit(path: &Path, found: &mut Vec<(PathBuf, String)>) {
        if path.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                visit(&entry.unwrap().path(), found);
            }
        } else if !path.ends_with(file!().rsplit('/').next().unwrap())
            && let Ok(text) = fs::read_to_string(path)
        {
            found.push((path.to_path_buf(), text));
        }
    }
    let mut found = Vec::new();
    SOURCES.iter().for_each(|source| visit(&root().join(source), &mut found));
    found
}

fn is_name(text: &str) -> bool {
    text.len() > 1
        && text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// Returns the names in double quotes on a line of Rust or Python.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2).filter(|text| is_name(text))
}

/// Returns the names that a line of a shell script uses or exports.
fn expanded(line: &str) -> impl Iterator<Item = &str> {
    let ends = |text: &str| text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let used = line.split('$').skip(1).map(|text| text.trim_start_matches('{'));
    used.map(move |text| &text[..ends(text)]).filter(|text| is_name(text))
}

fn is_given(name: &str) -> bool {
    GIVEN.contains(&name) || name == "CARGO" || name.starts_with("CARGO_") && name != "CARGO_HOME"
}

#[derive(Default)]
struct Names {
    /// Certainly variables: names with a prefix of this project, beside a call that reads the environment, or expanded by a shell.
    read: BTreeSet<String>,
    /// Every name in quotes.
    mentioned: BTreeSet<String>,
}

fn names() -> Names {
    let mut names = Names::default();
    for (path, text) in sources() {
        let is_code = path.extension().is_some_and(|extension| extension == "rs" || extension == "py");
        let is_script = path.extension().is_none_or(|extension| extension == "sh");
        for line in text.lines() {
            if is_code {
                let reads = ["env::var", "env!(", "environ"].iter().any(|call| line.contains(call));
                for name in quoted(line) {
                    let is_own =
                        OWN_PREFIXES.iter().any(|&prefix| name.starts_with(prefix) && name != prefix);
                    if (is_own || reads) && !is_given(name) {
                        names.read.insert(name.into());
                    }
                    names.mentioned.insert(name.into());
                }
            } else if is_script {
                names.read.extend(expanded(line).filter(|name| !is_given(name)).map(String::from));
            }
        }
    }
    names
}

/// Returns the names in the first column of the page's tables, in order.
fn listed() -> Vec<String> {
    let page = fs::read_to_string(root().join(PAGE)).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let names = rows.flat_map(|cell| cell.split(", ").map(|name| name.trim_matches('`').to_owned()));
    names.collect()
}

#[test]
fn every_variable_is_listed_once() {
    let listed = listed();
    let set: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(set.len(), listed.len(), "{PAGE} names a variable twice: {listed:?}");
    let missing: Vec<String> = names().read.difference(&set).cloned().collect();
    assert!(missing.is_empty(), "{PAGE} lacks {missing:?}");
}

#[test]
fn every_listed_variable_is_read() {
    let Names { read, mentioned } = names();
    let unread: Vec<String> =
        listed().into_iter().filter(|name| !read.contains(name) && !mentioned.contains(name)).collect();
    assert!(unread.is_empty(), "{PAGE} names {unread:?}, which no source reads");
}
