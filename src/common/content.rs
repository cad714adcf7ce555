//! Kind of a file's content, detected from its first bytes.

/// Number of first bytes to pass to [`Content::of`], if the file has as many.
pub(crate) const HEAD_BYTES: usize = 64 << 10;

/// Compression format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Zstandard,
}

/// Character encoding of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Utf8,
    /// UTF-8 after a byte order mark.
    MarkedUtf8,
    /// UTF-16 after a byte order mark, low byte first.
    Utf16Le,
    /// UTF-16 after a byte order mark, high byte first.
    Utf16Be,
}

impl Encoding {
    /// Returns the length of the byte order mark.
    pub fn mark_bytes(self) -> usize {
        match self {
            Self::Utf8 => 0,
            Self::MarkedUtf8 => 3,
            Self::Utf16Le | Self::Utf16Be => 2,
        }
    }
}

/// Content of a file according to its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Text, possibly empty.
    Text(Encoding),
    Compressed(Compression),
    /// Neither text nor compressed; a noun phrase that describes it.
    Other(&'static str),
}

/// Magic numbers: offset, bytes, and a description of the file.
const MAGIC: [(usize, &[u8], &str); 20] = [
    (0, b"version https://git-lfs.github.com/spec/", LFS_POINTER),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"\x89PNG\r\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF89a", "a GIF image"),
    (0, b"\x7fELF", "an ELF program"),
    (0, b"ARROW1\0\0", "an Arrow file"),
    (0, b"\xff\xff\xff\xff\x10\0\0\0", "an Arrow stream"),
    (0, b"Obj\x01", "an Avro file"),
    (0, b"ORC\x11", "an ORC file"),
    (0, b"\x89HDF\r\n", "an HDF5 file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (4, b"1AY&SY", "a bzip2 file, which is not read: gzip and Zstandard are"),
    (0, b"\xfd7zXZ\0", "an xz file, which is not read: gzip and Zstandard are"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"\x04\x22\x4d\x18", "an LZ4 file, which is not read: gzip and Zstandard are"),
    (257, b"ustar", "a tar archive"),
];
const LFS_POINTER: &str = "a Git LFS pointer in place of the file itself (run `git lfs pull`)";

impl Content {
    /// Detects the content of a file that begins with `head`. [`HEAD_BYTES`] of it are enough.
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 8, ..] => return Self::Compressed(Compression::Gzip),
            // A frame, or a skippable frame, which parallel compressors put in front.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                return Self::Compressed(Compression::Zstandard);
            }
            [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => return Self::Other("UTF-32 text"),
            [0xff, 0xfe, ..] => return Self::Text(Encoding::Utf16Le),
            [0xfe, 0xff, ..] => return Self::Text(Encoding::Utf16Be),
            // Letters that a text could begin with; the bytes after them decide.
            b"PAR1" | [b'P', b'A', b'R', b'1', 0..=0x1f | 0x7f.., ..] => {
                return Self::Other("a Parquet file");
            }
            [b'G', b'G', b'U', b'F', 0..=0x1f, ..] => return Self::Other("a GGUF model"),
            _ => {}
        }
        let at = |&(offset, magic, _): &(usize, &[u8], _)| {
            head.get(offset..).is_some_and(|bytes| bytes.starts_with(magic))
        };
        if let Some((.., what)) = MAGIC.iter().find(|magic| at(magic)) {
            return Self::Other(what);
        }
        let (encoding, text) = match head.strip_prefix(b"\xef\xbb\xbf") {
            Some(text) => (Encoding::MarkedUtf8, text),
            None => (Encoding::Utf8, head),
        };
        match safetensors(head).or_else(|| markup(text)).or_else(|| not_utf8(text)) {
            Some(what) => Self::Other(what),
            None => Self::Text(encoding),
        }
    }

    /// Describes a file that begins with `head` if it is not plain text: a noun phrase for an error message.
    pub fn other_than_text(head: &[u8]) -> Option<&'static str> {
        match Self::of(head) {
            Self::Text(_) => None,
            Self::Compressed(Compression::Gzip) => Some("a gzip file"),
            Self::Compressed(Compression::Zstandard) => Some("a Zstandard file"),
            Self::Other(what) => Some(what),
        }
    }
}

/// Recognizes a safetensors file by the length of its JSON header, and the beginning of that header.
fn safetensors(head: &[u8]) -> Option<&'static str> {
    /// Limit of the format itself.
    const LONGEST_HEADER: u64 = 100_000_000;
    let (length, header) = head.split_first_chunk()?;
    let length = u64::from_le_bytes(*length);
    let begins = matches!(header, [b'{', b'"' | b'}' | b' ', ..]);
    (begins && (2..=LONGEST_HEADER).contains(&length)).then_some("a safetensors file")
}

/// Recognizes a web page, or a server's reply in place of a file.
fn markup(text: &[u8]) -> Option<&'static str> {
    let text = text.trim_ascii_start();
    let begins = |with: &[u8]| text.get(..with.len()).is_some_and(|head| head.eq_ignore_ascii_case(with));
    if begins(b"<!doctype html") || begins(b"<html>") || begins(b"<html ") {
        Some("an HTML page")
    } else if begins(b"<?xml ") {
        Some("an XML document")
    } else {
        None
    }
}

/// Describes bytes that are not UTF-8 text, not even with some invalid bytes.
fn not_utf8(bytes: &[u8]) -> Option<&'static str> {
    let zeros = |first: usize| bytes.iter().skip(first).step_by(2).filter(|&&byte| byte == 0).count();
    let (even, odd, pairs) = (zeros(0), zeros(1), bytes.len() / 2);
    // In UTF-16, every second byte of ASCII letters is zero.
    if pairs > 1 && 10 * even.max(odd) > 7 * pairs && 10 * even.min(odd) < pairs {
        return Some("UTF-16 text without a byte order mark");
    }
    // Line ends, tabs, form feeds and escape sequences occur in texts.
    let is_control = |byte: u8| matches!(byte, 0..=8 | 0x0e..=0x1a | 0x1c..=0x1f | 0x7f);
    let controls = bytes.iter().filter(|&&byte| is_control(byte)).count();
    let broken: usize = bytes.utf8_chunks().map(|chunk| chunk.invalid().len()).sum();
    if 10 * (controls + broken) <= 3 * bytes.len() {
        None
    } else if 20 * controls > bytes.len() {
        Some("a binary file")
    } else {
        Some("text in another encoding than UTF-8 and UTF-16")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn text_is_known_with_its_encoding() {
        let texts: [(&[u8], Encoding); 9] = [
            (b"", Encoding::Utf8),
            (b"A text.\n\x0c\x1b[1mbold", Encoding::Utf8),
            ("这是一个句子".as_bytes(), Encoding::Utf8),
            (b"caf\xe9 and two\0words", Encoding::Utf8),
            (b"<b>a</b> is bold", Encoding::Utf8),
            (b"PAR1 is a receptor.", Encoding::Utf8),
            (b"\xef\xbb\xbfA text.", Encoding::MarkedUtf8),
            (b"\xff\xfeA\0", Encoding::Utf16Le),
            (b"\xfe\xff\0A", Encoding::Utf16Be),
        ];
        for (bytes, encoding) in texts {
            assert_eq!(Content::of(bytes), Content::Text(encoding), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_text_has_a_name() {
        let header = [&30_u64.to_le_bytes()[..], b"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]"].concat();
        let floats: Vec<u8> = (1..999_u32).flat_map(|n| ((n as f32).sin() * 0.02).to_le_bytes()).collect();
        let tar = [&b"a.txt"[..], &[b' '; 252], b"ustar\0"].concat();
        let cases: [(&[u8], &str); 16] = [
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
            (b"PAR1\x15\x04", "a Parquet file"),
            (&header, "a safetensors file"),
            (&floats, "a binary file"),
            (&[0; 100], "a binary file"),
            (&tar, "a tar archive"),
            (b" \r\n<!DOCTYPE HTML>\n<p>", "an HTML page"),
            (b"\xef\xbb\xbf<html lang=\"en\">", "an HTML page"),
            (b"<?xml version=\"1.0\"?><Error>", "an XML document"),
            (b"\xff\xfe\0\0A\0\0\0", "UTF-32 text"),
            (&utf16("Text ohne Marke, übrigens.", u16::to_le_bytes), "UTF-16 text without a byte order mark"),
            (&utf16("Text ohne Marke, übrigens.", u16::to_be_bytes), "UTF-16 text without a byte order mark"),
            (b"\xcf\xd2\xc9\xd7\xc5\xd4 \xcd\xc9\xd2", "text in another encoding than UTF-8 and UTF-16"),
            (b"\x1f\x8b\x08\0", "a gzip file"),
            (b"\x28\xb5\x2f\xfd\0", "a Zstandard file"),
            (b"BZh91AY&SY", "a bzip2 file, which is not read"),
        ];
        for (bytes, what) in cases {
            let found = Content::other_than_text(bytes).unwrap_or("text");
            assert!(found.contains(what), "{} is {found}, not {what}", bytes.escape_ascii());
        }
    }
}
