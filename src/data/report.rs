//! Counts of what was read of a corpus, and of what was left out.

use std::fmt;
use std::path::Path;

/// What was read, and everything that was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct CorpusReport {
    /// Files that were read, whether or not they gave a passage.
    pub files: usize,
    /// Texts that were found.
    pub texts: usize,
    /// UTF-8 bytes of all texts.
    pub bytes: usize,
    /// Stretches of bytes that are no UTF-8, each of which became a replacement character.
    pub replaced_invalid_utf8: usize,
    /// Zero bytes, which became white space.
    pub nul_bytes: usize,
    /// Lines of JSON lines that are no object with a text in the field.
    pub bad_lines: usize,
    /// Where the first of them is, and what is wrong with it.
    pub first_bad_line: Option<String>,
    /// Documents without a word: blank lines, and empty texts of JSON lines.
    pub empty: usize,
    /// Paragraphs of too few words to be a passage.
    pub skipped_short: usize,
    /// Paragraphs of installed crates that are mostly not letters, or about the license.
    pub skipped_not_prose: usize,
    /// Passages that repeat an earlier one exactly.
    pub duplicates: usize,
    /// Passages left out to stay below the size limit.
    pub over_limit: usize,
    /// Files of directories that are no text, or text of a kind that is not read.
    pub files_left_out: usize,
    /// The first of them, and what they are.
    pub first_left_out: Vec<String>,
}

/// Files left out that a report names.
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
    /// The counts of two parts of a corpus together.
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

    /// Counts a file that is not read, and names it and `what` it is if it is among the first.
    pub(super) fn leave_out(&mut self, path: &Path, what: impl FnOnce() -> String) {
        self.files_left_out += 1;
        if self.first_left_out.len() < LEFT_OUT_TOLD_MAX {
            self.first_left_out.push(format!("{}: {}", path.display(), what()));
        }
    }
}
