//! Sentence boundaries.

/// Words that end in a full stop without ending a sentence.
const ABBREVIATIONS: [&str; 19] = [
    "e.g", "i.e", "etc", "vs", "cf", "mr", "mrs", "ms", "dr", "prof", "st", "fig", "no", "sec", "eq", "al",
    "approx", "resp", "inc",
];

/// Returns the sentences of `text`, trimmed, in order; together they hold everything but the white space between them.
///
/// A sentence ends at `.`, `!` or `?` (and closing quotes or brackets) before white space, unless the next letter is
/// lower case (in a text that has upper case at all) or the word is a known abbreviation or an initial; and at `。`, `！`, `？` anywhere.
#[must_use]
pub fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    let has_upper_case = text.chars().any(char::is_uppercase);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let end = match c {
            '。' | '！' | '？' => at + c.len_utf8(),
            '.' | '!' | '?' => {
                let after = &text[at + 1..];
                let closing = after.len()
                    - after.trim_start_matches(['"', '\'', ')', ']', '”', '’', '.', '!', '?']).len();
                let next = &after[closing..];
                let lower = has_upper_case && next.trim_start().starts_with(char::is_lowercase);
                if !next.starts_with(char::is_whitespace)
                    || lower
                    || (c == '.' && abbreviates(&text[start..at]))
                {
                    continue;
                }
                at + 1 + closing
            }
            _ => continue,
        };
        found.push(text[start..end].trim());
        start = end;
        while chars.next_if(|&(at, _)| at < end).is_some() {}
    }
    found.push(text[start..].trim());
    found.retain(|sentence| !sentence.is_empty());
    found
}

/// Returns whether the full stop after `text` belongs to its last word.
fn abbreviates(text: &str) -> bool {
    let word = text.rsplit(char::is_whitespace).next().unwrap_or("").trim_start_matches(['(', '[', '"']);
    let initial = word.len() == 1 && word.starts_with(char::is_uppercase) && word != "I";
    initial || ABBREVIATIONS.iter().any(|abbreviation| word.eq_ignore_ascii_case(abbreviation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_where_a_reader_stops() {
        let text = "Dr. A. Smith came (see e.g. Fig. 3). \"Did he?\" Yes! Version 1.2.3 is out... and so on. 「是。」好";
        assert_eq!(
            sentences(text),
            [
                "Dr. A. Smith came (see e.g. Fig. 3).",
                "\"Did he?\"",
                "Yes!",
                "Version 1.2.3 is out... and so on.",
                "「是。",
                "」好",
            ]
        );
        assert!(sentences(" \n ").is_empty());
        assert_eq!(sentences("no end"), ["no end"]);
        assert_eq!(sentences("."), ["."]);
        assert_eq!(sentences("all is lower. yes, e.g. this. no"), ["all is lower.", "yes, e.g. this.", "no"]);
    }
}
