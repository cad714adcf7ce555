//! Counts of what was read of a corpus, and of what was left out.

use std::fmt;
use std::path::Path;

/// Counts of what was read, and of everything that was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct CorpusReport {
    /// Files that were read, whether or not they gave a passage.
    pub files: usize,
    /// Texts that were found.
    pub texts: usize,
    /// UTF-8 bytes of all texts.
    pub bytes: usize,
    /// Runs of bytes that are not UTF-8, each replaced by one replacement character.
    pub replaced_invalid_utf8: usize,
    /// Zero bytes, replaced by white space.
    pub nul_bytes: usize,
    /// Lines of JSON lines that are not an object with a text in the field.
    pub bad_lines: usize,
    /// Location of the first such line, and its error.
    pub first_bad_line: Option<String>,
    /// Documents without a word: blank lines, and empty texts of JSON lines.
    pub empty: usize,
    /// Paragraphs with too few words to be a passage.
    pub skipped_short: usize,
    /// Paragraphs of installed crates that are mostly not letters, or about the license.
    pub skipped_not_prose: usize,
    /// Passages that repeat an earlier one exactly.
    pub duplicates: usize,
    /// Passages left out to stay below the size limit.
    pub over_limit: usize,
    /// Files of directories that are not text, or text of a kind that is not read.
    pub files_left_out: usize,
    /// The first of these files, each with its kind.
    pub first_left_out: Vec<String>,
}

/// Maximum number of left-out files that a report names.
const LEFT_OUT_TOLD_MAX: usize = 3;

impl fmt::Display for CorpusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} texts, {} bytes, from {} files", self.texts, self.bytes, self.files)?;
        let skips = [
            (self.replaced_invalid_utf8, "stretches not UTF-8"),
            (self.nul_bytes, "zero bytes"),
            (self.bad_lines, "lines without the text"),
            (self.empty, "empty"),
            (self.skipped_short, "too short"),
            (self.skipped_not_prose, "not prose"),
            (self.duplicates, "duplicates"),
            (self.over_limit, "over the size limit"),
        ];
        for (count, reason) in skips {
            if count > 0 {
                write!(f, ", {count} {reason}")?;
            }
        }
        if let Some(line) = &self.first_bad_line {
            write!(f, " (the first: {line})")?;
        }
        if self.files_left_out > 0 {
            let more = if self.files_left_out > self.first_left_out.len() { "; …" } else { "" };
            write!(f, "; {} files left out ({}{more})", self.files_left_out, self.first_left_out.join("; "))?;
        }
        Ok(())
    }
}

impl CorpusReport {
    /// Adds the counts of another part of the corpus.
    pub fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.texts += other.texts;
        self.bytes += other.bytes;
        self.replaced_invalid_utf8 += other.replaced_invalid_utf8;
        self.nul_bytes += other.nul_bytes;
        self.bad_lines += other.bad_lines;
        if self.first_bad_line.is_none() {
            self.first_bad_line.clone_from(&other.first_bad_line);
        }
        self.empty += other.empty;
        self.skipped_short += other.skipped_short;
        self.skipped_not_prose += other.skipped_not_prose;
        self.duplicates += other.duplicates;
        self.over_limit += other.over_limit;
        self.files_left_out += other.files_left_out;
        let room = LEFT_OUT_TOLD_MAX.saturating_sub(self.first_left_out.len());
        self.first_left_out.extend(other.first_left_out.iter().take(room).cloned());
    }

    /// Counts a text that was found.
    pub(super) fn count(&mut self, text: &str) {
        self.texts += 1;
        self.bytes += text.len();
    }

    /// Counts a file that is not read, and, if it is among the first, records its name and `what` it is.
    pub(super) fn leave_out(&mut self, path: &Path, what: impl FnOnce() -> String) {
        self.files_left_out += 1;
        if self.first_left_out.len() < LEFT_OUT_TOLD_MAX {
            self.first_left_out.push(format!("{}: {}", path.display(), what()));
        }
    }
}
