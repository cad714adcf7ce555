//! Lines of a stream, with bounded length.

use std::io::{ErrorKind, Read, Result};

use xxhash_rust::xxh3::Xxh3;

/// Bytes of one read.
const READ_BYTES: usize = 256 << 10;
/// Bytes before the bound that are searched for the end of a sentence.
const SENTENCE_SEARCH_BYTES: usize = 8 << 10;

/// Splits a stream into lines.
pub(super) struct Lines {
    input: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    /// Start of the unread bytes in `buffer`; everything before it has been returned.
    start: usize,
    /// No line feed lies between `start` and here.
    searched: usize,
    ended: bool,
    /// Hash of the returned bytes, if requested.
    hash: Option<Xxh3>,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines")
            .field("start", &self.start)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Lines {
    /// `hash` covers the bytes read before, if a checksum is requested.
    pub fn new(input: Box<dyn Read + Send>, hash: Option<Xxh3>) -> Self {
        Self { input, buffer: Vec::new(), start: 0, searched: 0, ended: false, hash }
    }

    /// Returns the checksum of all bytes taken from the stream, earlier ones included; 0 if not requested.
    pub fn checksum(&self) -> u64 {
        self.hash.as_ref().map_or(0, Xxh3::digest)
    }

    /// Returns the number of bytes taken from the stream and the bytes up to the next line feed, without it; `None` at the end.
    ///
    /// A line of more than `most` bytes is returned in parts, split by [`cut`].
    pub fn next(&mut self, most: usize) -> Result<Option<(usize, &[u8])>> {
        loop {
            // A line feed may follow directly after the longest line.
            let bound = self.buffer.len().min(self.start.saturating_add(most).saturating_add(1));
            let feed = self.buffer[self.searched..bound].iter().position(|&byte| byte == b'\n');
            if let Some(feed) = feed {
                let end = self.searched + feed;
                return Ok(Some(self.take(end, end + 1)));
            }
            self.searched = bound;
            if self.buffer.len() - self.start > most {
                let end = self.start + cut(&self.buffer[self.start..self.start + most]);
                return Ok(Some(self.take(end, end)));
            }
            if self.ended {
                let end = self.buffer.len();
                return Ok((end > self.start).then(|| self.take(end, end)));
            }
            self.read()?;
        }
    }

    /// Returns everything that is left.
    pub fn all(&mut self) -> Result<&[u8]> {
        while !self.ended {
            self.read()?;
        }
        let end = self.buffer.len();
        Ok(self.take(end, end).1)
    }

    fn take(&mut self, end: usize, next: usize) -> (usize, &[u8]) {
        let start = self.start;
        if let Some(hash) = &mut self.hash {
            hash.update(&self.buffer[start..next]);
        }
        self.start = next;
        self.searched = next;
        (next - start, &self.buffer[start..end])
    }

    fn read(&mut self) -> Result<()> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        let filled = self.buffer.len();
        self.buffer.resize(filled + READ_BYTES, 0);
        let count = loop {
            match self.input.read(&mut self.buffer[filled..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(filled + *count.as_ref().unwrap_or(&0));
        self.ended = count? == 0;
        Ok(())
    }
}

/// Returns the offset at which to cut `bytes`, the beginning of a longer text: after the last sentence, else after the last white space, else
/// between two characters. Never 0.
pub(super) fn cut(bytes: &[u8]) -> usize {
    let end = between_characters(bytes);
    let mut begin = end.saturating_sub(SENTENCE_SEARCH_BYTES);
    begin += bytes[begin..end].iter().take_while(|&&byte| is_continuation(byte)).count();
    if let Ok(text) = std::str::from_utf8(&bytes[begin..end])
        && let [.., before, _] = crate::data::sentences(text)[..]
    {
        let ends = before.as_ptr() as usize - text.as_ptr() as usize + before.len();
        return begin + ends;
    }
    match bytes[..end].iter().rposition(u8::is_ascii_whitespace) {
        Some(space) => space + 1,
        None => end,
    }
}

fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

/// Returns the length of `bytes` without a trailing incomplete character.
fn between_characters(bytes: &[u8]) -> usize {
    /// Bytes of the longest UTF-8 character.
    const LONGEST: usize = 4;
    let tail = bytes.iter().rev().take(LONGEST);
    match tail.clone().position(|&byte| !is_continuation(byte)) {
        Some(back) if back + 1 < bytes.len() && bytes[bytes.len() - 1 - back] >= 0x80 => {
            bytes.len() - 1 - back
        }
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8], most: usize) -> Vec<Vec<u8>> {
        /// Reader that returns a few bytes at a time.
        struct Slow(std::io::Cursor<Vec<u8>>);
        impl Read for Slow {
            fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
                let few = buffer.len().min(3);
                self.0.read(&mut buffer[..few])
            }
        }
        let mut lines = Lines::new(Box::new(Slow(std::io::Cursor::new(bytes.to_vec()))), Some(Xxh3::new()));
        let (mut found, mut consumed) = (Vec::new(), 0);
        while let Some((count, line)) = lines.next(most).unwrap() {
            consumed += count;
            found.push(line.to_vec());
        }
        assert_eq!(consumed, bytes.len(), "every byte is taken once");
        assert_eq!(lines.checksum(), xxhash_rust::xxh3::xxh3_64(bytes));
        found
    }

    #[test]
    fn lines_end_at_line_feeds_and_at_the_bound() {
        assert_eq!(lines(b"one\n\ntwo", 100), [b"one".to_vec(), b"".to_vec(), b"two".to_vec()]);
        assert_eq!(lines(b"one\n", 3), [b"one"]);
        assert!(lines(b"", 3).is_empty());
        let parts = lines(b"First one. Second one goes on\nend", 16);
        assert_eq!(parts, [&b"First one."[..], b" Second one ", b"goes on", b"end"]);
        let parts = lines("äöüäöü".as_bytes(), 5);
        assert!(parts.iter().all(|part| std::str::from_utf8(part).is_ok()), "{parts:?}");
        assert_eq!(parts.concat(), "äöüäöü".as_bytes());
        assert_eq!(lines(&[0xff; 12], 5).concat(), [0xff; 12]);
        assert_eq!(lines(&[0x80; 12], 5).concat(), [0x80; 12]);
    }
}
