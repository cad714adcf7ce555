//! docs/kernels.md shows the sources as they are: each block stands in the file that it names, and each path leads somewhere.

use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/kernels.md";
/// Endings of file names, which tell a path in backticks from code.
const ENDINGS: [&str; 7] = [".cu", ".cuh", ".h", ".cpp", ".rs", ".md", ".sh"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A block of code: the file that its fence names behind the language, its line in the page, and its code.
struct Block {
    path: String,
    line: usize,
    code: Vec<String>,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (line, text) in page.lines().enumerate() {
        if let Some(info) = text.trim_start().strip_prefix("```") {
            match open.take() {
                Some(block) => found.push(block),
                None => {
                    let path = info.split_whitespace().nth(1).unwrap_or_default().to_owned();
                    open = Some(Block { path, line: line + 1, code: Vec::new() });
                }
            }
        } else if let Some(block) = &mut open {
            block.code.push(text.to_owned());
        }
    }
    assert!(open.is_none(), "{PAGE}: a block is not closed");
    found
}

/// Returns the lines without the indentation that all of them share.
fn dedented(lines: &[impl AsRef<str>]) -> Vec<&str> {
    let lines = lines.iter().map(AsRef::as_ref);
    let indent = |line: &str| line.len() - line.trim_start().len();
    let shared = lines.clone().filter(|line| !line.is_empty()).map(indent).min().unwrap_or(0);
    lines.map(|line| line.get(shared..).unwrap_or_default()).collect()
}

#[test]
fn every_block_stands_in_its_source() {
    let page = fs::read_to_string(root().join(PAGE)).unwrap();
    let blocks = blocks(&page);
    assert!(blocks.len() > 8, "{PAGE} has {} blocks, or they are read wrongly", blocks.len());
    for Block { path, line, code } in &blocks {
        let what = format!("the block at line {line} of {PAGE}");
        assert!(!path.is_empty() && !code.is_empty(), "{what} is empty, or its fence names no file");
        let source =
            fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{what}: {path}: {error}"));
        let (source, code): (Vec<&str>, _) = (source.lines().collect(), dedented(code));
        let stands = source.windows(code.len()).any(|lines| dedented(lines) == code);
        assert!(stands, "{what} is not in {path}:\n{}", code.join("\n"));
    }
}

#[test]
fn every_path_exists() {
    let page = fs::read_to_string(root().join(PAGE)).unwrap();
    let outside = page.split("```").step_by(2).collect::<String>();
    let quoted = outside.split('`').skip(1).step_by(2);
    let is_path = |text: &&str| text.contains('/') && ENDINGS.iter().any(|ending| text.ends_with(ending));
    let paths: Vec<&str> = quoted.filter(is_path).collect();
    assert!(paths.len() > 5, "{PAGE} names {paths:?}, or is read wrongly");
    for path in paths {
        assert!(root().join(path).is_file(), "{PAGE} names {path}, which does not exist");
    }
}
