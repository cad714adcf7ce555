//! Prose extracted from markdown and Rust doc comments: the text that a person would read aloud.

/// Returns the paragraphs of a markdown text without its syntax.
///
/// Code blocks, tables, headings, images, link targets, HTML and front matter are dropped; a list item is a paragraph of its own; inline code
/// keeps its words.
#[must_use]
pub fn markdown_paragraphs(text: &str) -> Vec<String> {
    let mut blocks = Blocks::default();
    for line in without_front_matter(text).lines() {
        blocks.push(line);
    }
    blocks.end_paragraph();
    blocks.paragraphs
}

/// Returns the texts of the `///` and `//!` comments of a Rust source, one string for each run of adjacent lines.
#[must_use]
pub fn doc_comment_blocks(source: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block = String::new();
    for line in source.lines() {
        let line = line.trim_start();
        // `////` is a plain comment.
        let doc = line
            .strip_prefix("//!")
            .or_else(|| line.strip_prefix("///").filter(|rest| !rest.starts_with('/')));
        match doc {
            Some(doc) => {
                block.push_str(doc.strip_prefix(' ').unwrap_or(doc));
                block.push('\n');
            }
            None if !block.is_empty() => blocks.push(std::mem::take(&mut block)),
            None => {}
        }
    }
    if !block.is_empty() {
        blocks.push(block);
    }
    blocks
}

/// Turns control characters into spaces and joins runs of white space, because a passage is one line.
pub(super) fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split(|c: char| c.is_whitespace() || c.is_control() || c == '\u{feff}') {
        if !word.is_empty() {
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(word);
        }
    }
    out
}

fn without_front_matter(text: &str) -> &str {
    let body = text.strip_prefix("---\n").or_else(|| text.strip_prefix("---\r\n"));
    body.and_then(|body| body.find("\n---").map(|end| &body[end + 4..])).unwrap_or(text)
}

/// Line-by-line state of [`markdown_paragraphs`].
#[derive(Default)]
struct Blocks {
    paragraphs: Vec<String>,
    paragraph: String,
    /// Character and length of the marker that closes the open code fence.
    fence: Option<(char, usize)>,
    in_html_comment: bool,
}

impl Blocks {
    fn push(&mut self, line: &str) {
        let indent = line.len() - line.trim_start().len();
        let mut line = line.trim();
        if self.skip_fence(line) || self.skip_html_comment(line) {
            return;
        }
        let indented_code = self.paragraph.is_empty() && indent >= 4 && list_item(line).is_none();
        if line.is_empty() || indented_code || is_syntax(line) {
            self.end_paragraph();
            return;
        }
        if is_underline(line) {
            // A setext heading: the paragraph so far was its title.
            self.paragraph.clear();
            return;
        }
        line = line.trim_start_matches(['>', ' ']);
        if let Some(item) = list_item(line) {
            self.end_paragraph();
            line = item;
        }
        self.paragraph.push_str(line);
        self.paragraph.push(' ');
    }

    fn end_paragraph(&mut self) {
        if !self.paragraph.is_empty() {
            let text = one_line(&inline_text(&self.paragraph));
            self.paragraph.clear();
            if !text.is_empty() {
                self.paragraphs.push(text);
            }
        }
    }

    /// Returns whether `line` opens, closes or lies inside a code fence.
    fn skip_fence(&mut self, line: &str) -> bool {
        let marker = line.chars().next().filter(|c| matches!(c, '`' | '~'));
        let length = marker.map_or(0, |marker| line.chars().take_while(|&c| c == marker).count());
        if let Some((open, open_length)) = self.fence {
            if marker == Some(open) && length >= open_length && length == line.chars().count() {
                self.fence = None;
            }
            return true;
        }
        match marker {
            Some(marker) if length >= 3 => {
                self.end_paragraph();
                self.fence = Some((marker, length));
                true
            }
            _ => false,
        }
    }

    fn skip_html_comment(&mut self, line: &str) -> bool {
        if self.in_html_comment || line.starts_with("<!--") {
            self.in_html_comment = !line.contains("-->");
            return true;
        }
        false
    }
}

/// Returns whether a line is a heading, a table row, a thematic break, or a link definition.
fn is_syntax(line: &str) -> bool {
    line.starts_with('#')
        || line.starts_with('|')
        || (line.len() >= 3
            && line.chars().all(|c| matches!(c, '*' | '_' | '-' | ' '))
            && !is_underline(line))
        || line.chars().all(|c| matches!(c, '|' | '-' | ':' | ' ')) && line.contains('|')
        || (line.starts_with('[') && line.contains("]: "))
        || line.matches(" | ").count() >= 2
}

fn is_underline(line: &str) -> bool {
    line.len() >= 2 && (line.bytes().all(|b| b == b'=') || line.bytes().all(|b| b == b'-'))
}

/// Returns the text of a list item, `None` if `line` is not one.
fn list_item(line: &str) -> Option<&str> {
    let bullet = ["- ", "* ", "+ "].iter().find_map(|marker| line.strip_prefix(marker));
    let item = bullet.or_else(|| {
        let digits = line.bytes().take_while(u8::is_ascii_digit).count();
        let rest = &line[digits..];
        (digits > 0 && digits < 4).then(|| rest.strip_prefix(". ").or_else(|| rest.strip_prefix(") ")))?
    })?;
    let item = item.trim_start();
    Some(item.strip_prefix("[ ] ").or_else(|| item.strip_prefix("[x] ")).unwrap_or(item))
}

/// Returns `text` without images, link targets, tags, addresses, emphasis and code marks.
fn inline_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = match c {
            '!' if rest.starts_with("![") => link(&rest[1..]).map(|(_, after)| ("", after)),
            '[' => link(rest),
            '<' => tag(rest).map(|after| ("", after)),
            'h' if rest.starts_with("http://") || rest.starts_with("https://") => {
                let end = rest.find(|c: char| c.is_whitespace() || matches!(c, ')' | ']' | '>' | '"'));
                Some(("", &rest[end.unwrap_or(rest.len())..]))
            }
            _ => None,
        };
        match taken {
            Some((label, after)) => {
                out.push_str(&inline_text(label));
                rest = after;
            }
            None => {
                let after = &rest[c.len_utf8()..];
                match c {
                    '`' | '*' => {}
                    '_' if out.ends_with(char::is_whitespace)
                        || out.is_empty()
                        || !after.starts_with(char::is_alphanumeric) => {}
                    '\\' if after.starts_with(|c: char| c.is_ascii_punctuation()) => {}
                    '&' if after.starts_with("nbsp;") => {
                        out.push(' ');
                        rest = &after[5..];
                        continue;
                    }
                    c => out.push(c),
                }
                rest = after;
            }
        }
    }
    out
}

/// Returns the label of the link at the start of `text` (`[label](target)`, `[label][name]` or `[label]`) and the text after it.
fn link(text: &str) -> Option<(&str, &str)> {
    let end = closing(text, '[', ']')?;
    let (label, after) = (&text[1..end], &text[end + 1..]);
    let pair = match after.chars().next() {
        Some('(') => Some(('(', ')')),
        Some('[') => Some(('[', ']')),
        _ => None,
    };
    let after =
        pair.and_then(|(open, close)| closing(after, open, close)).map_or(after, |end| &after[end + 1..]);
    Some((label, after))
}

/// A bracket or tag that is not closed within this distance counts as plain text, which keeps the time linear.
const FARTHEST: usize = 1000;

/// Returns the byte offset at which the bracket that opens `text` is closed.
fn closing(text: &str, open: char, close: char) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices().take(FARTHEST) {
        if c == open {
            depth += 1;
        } else if c == close {
            depth -= 1;
            if depth == 0 {
                return Some(at);
            }
        }
    }
    None
}

/// Returns the text after the HTML tag or autolink at the start of `text`; `None` for a plain `<`.
fn tag(text: &str) -> Option<&str> {
    let inside = text[1..].trim_start_matches('/');
    if !inside.starts_with(|c: char| c.is_ascii_lowercase()) {
        return None;
    }
    text.char_indices().take(FARTHEST).find(|&(_, c)| c == '>').map(|(end, _)| &text[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_becomes_prose() {
        let text = "---\ntitle: x\n---\n# Title\n\n[![CI](https://ci/badge.svg)](https://ci) ![logo](a.png)\n\nA *fine* \
                    **library** with [a link](https://x.y/z(1)) and `code_span`.\nIt goes on.\n\n```rust\nlet x = 1;\n\
                    ```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n* first item\n* second <b>item</b>\n\n    indented code\n\n\
                    See <https://example.com> or [Other][ref].\n\n[ref]: https://example.com\n\nSetext\n------\n\n\
                    <!-- hidden\nstill hidden -->\n> quoted text\n";
        assert_eq!(
            markdown_paragraphs(text),
            [
                "A fine library with a link and code_span. It goes on.",
                "first item",
                "second item",
                "See or Other.",
                "quoted text",
            ]
        );
    }

    #[test]
    fn fences_close_only_with_their_own_marker() {
        assert_eq!(markdown_paragraphs("````\n```\ncode\n```\n````\nprose\n~~~\nopen"), ["prose"]);
        assert_eq!(markdown_paragraphs("a < b and x<y [open ![ ( \\* 3.5"), ["a < b and x<y [open ![ ( 3.5"]);
        assert!(markdown_paragraphs("").is_empty());
    }

    #[test]
    fn underscores_around_words_are_emphasis_and_those_within_are_letters() {
        let text = "_begins_ and _in between_, a snake_case_name, __main__.";
        assert_eq!(markdown_paragraphs(text), ["begins and in between, a snake_case_name, main."]);
    }

    #[test]
    fn doc_comments_are_gathered_by_runs() {
        let source =
            "//! Crate.\n//! More.\n\n//// no\n/// Item\n    /// goes on\nfn x() {} // tail\n/// Last";
        assert_eq!(doc_comment_blocks(source), ["Crate.\nMore.\n", "Item\ngoes on\n", "Last\n"]);
    }

    #[test]
    fn one_line_has_no_control_characters() {
        assert_eq!(one_line("\u{feff}a\0b\r\n\t c\u{7f} "), "a b c");
    }
}
