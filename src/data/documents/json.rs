//! JSON lines: one object a line, with the text in a field.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::common::content::HEAD_BYTES;

/// Maximum number of field names that an error lists.
const FIELDS_TOLD_MAX: usize = 10;
/// Number of first lines inspected to recognize JSON lines.
const LINES_LOOKED_AT: usize = 8;
/// Characters of a line that an error quotes.
const SHOWN_CHARACTERS: usize = 20;

/// Reason why a line has no text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// The line is not a JSON object.
    NotJson(String),
    /// The object has no text in the field.
    NoText(String),
}

impl Bad {
    /// Adds the line's number to the reason.
    pub fn of_line(self, line: u64) -> Self {
        match self {
            Self::NotJson(reason) => Self::NotJson(format!("line {line} {reason}")),
            Self::NoText(reason) => Self::NoText(format!("line {line} {reason}")),
        }
    }

    pub fn reason(&self) -> &str {
        let (Self::NotJson(reason) | Self::NoText(reason)) = self;
        reason
    }
}

/// Counts the JSON objects among the first lines: 0 unless every line has an object's braces and at least one parses. `head` is the whole text if
/// it is shorter than [`HEAD_BYTES`].
pub(super) fn objects(head: &[u8]) -> usize {
    let whole = if head.len() < HEAD_BYTES {
        head
    } else {
        match head.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => &head[..end],
            // The first line is longer than `head`.
            None => return usize::from(head.trim_ascii_start().starts_with(b"{") && is_value(head)),
        }
    };
    let lines = whole.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let lines: Vec<&[u8]> = lines.take(LINES_LOOKED_AT).collect();
    let all = lines.iter().all(|line| line.starts_with(b"{") && line.ends_with(b"}"));
    let is_object = |line: &&[u8]| serde_json::from_slice::<serde_json::Map<String, Value>>(line).is_ok();
    if all && lines.iter().any(is_object) { lines.len() } else { 0 }
}

/// Returns whether a text is, or begins as, a JSON object or array.
pub(super) fn is_value(head: &[u8]) -> bool {
    let parsed = || serde_json::from_slice::<Value>(head);
    matches!(head.trim_ascii_start(), [b'{' | b'[', ..])
        && parsed().map_or_else(|error| error.is_eof(), |_| true)
}

/// Returns the text in a field of a JSON object, `None` for a blank line. If the text is missing, adds the names
/// of the fields that hold text to `seen`.
pub(super) fn text_in_field(
    line: &str,
    field: &str,
    seen: &mut BTreeSet<String>,
) -> Result<Option<String>, Bad> {
    let line = line.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    if line.is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_str(line).map_err(|error| Bad::NotJson(not_json(line, &error)))?;
    let Value::Object(mut object) = value else {
        return Err(Bad::NotJson("is not a JSON object".into()));
    };
    match object.remove(field) {
        Some(Value::String(text)) => Ok(Some(text)),
        other => {
            let room = FIELDS_TOLD_MAX.saturating_sub(seen.len());
            seen.extend(
                object.into_iter().filter(|(_, value)| value.is_string()).map(|(name, _)| name).take(room),
            );
            let reason = if other.is_some() { "is no string" } else { "is missing" };
            Err(Bad::NoText(format!("has no text: its field {field:?} {reason}")))
        }
    }
}

/// Describes the error in a line, with its column.
fn not_json(line: &str, error: &serde_json::Error) -> String {
    let column = error.column();
    // serde_json may report the column of the second character of the error.
    let number = (column.saturating_sub(2)..=column).find_map(|at| {
        let rest = line.get(at..)?;
        ["NaN", "-Infinity", "Infinity"].into_iter().find(|name| rest.starts_with(name))
    });
    if let Some(number) = number {
        return format!("is not JSON: it has {number} at column {column}, where JSON knows null");
    }
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    let from = (0..column).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
    let shown: String = line[from.min(line.len())..].chars().take(SHOWN_CHARACTERS).collect();
    format!("is not JSON: {message} at column {column}, at {shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_are_known_by_their_first_lines() {
        let count = |text: &str| objects(text.as_bytes());
        assert_eq!(count("{\"text\": \"a\"}\n\n{\"text\": \"b\"}\r\n"), 2);
        assert_eq!(count("{\"a\": NaN}\n{\"a\": 1}"), 2, "one that is broken is still a line of JSON");
        assert_eq!(count("{\"a\": 1}\n{\"a\""), 0);
        assert_eq!(count("{\n  \"a\": 1\n}\n"), 0);
        assert_eq!(count("[{\"a\": 1}]\n"), 0);
        assert_eq!(count("{braces} are text {too}"), 0);
        assert_eq!(count(""), 0);
        assert!(
            ["[{\"a\": 1},\n", "{\n  \"a\": 1\n}\n", " [1]"].iter().all(|text| is_value(text.as_bytes()))
        );
        assert!(["[1] is a reference.", "{x}", "3", ""].iter().all(|text| !is_value(text.as_bytes())));
        let long = format!("{{\"text\": \"{}\"}}\n", "x".repeat(HEAD_BYTES));
        assert_eq!(objects(&long.as_bytes()[..HEAD_BYTES]), 1);
        let many = "{\"text\": \"a\"}\n".repeat(HEAD_BYTES);
        assert_eq!(objects(&many.as_bytes()[..HEAD_BYTES]), LINES_LOOKED_AT);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        let reason =
            |line: &str| text_in_field(line, "text", &mut BTreeSet::new()).unwrap_err().reason().to_owned();
        for number in ["NaN", "Infinity", "-Infinity"] {
            let reason = reason(&format!("{{\"text\": \"a\", \"score\": {number}}}"));
            assert!(reason.contains(&format!("it has {number} at column ")), "{reason}");
        }
        assert_eq!(
            reason("{'text': 'a'}"),
            "is not JSON: key must be a string at column 2, at \"'text': 'a'}\""
        );
        assert!(
            reason("{\"text\": \"a").contains("EOF while parsing a string at column 11"),
            "{}",
            reason("{\"text\": \"a")
        );
        assert_eq!(reason("[1]"), "is not a JSON object");
        assert_eq!(reason("{}"), "has no text: its field \"text\" is missing");
        assert_eq!(text_in_field(" \r", "text", &mut BTreeSet::new()), Ok(None));
    }
}
