//! UTF-16 converted to UTF-8.

use std::io::{ErrorKind, Read, Result};

/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;
/// Byte that begins no UTF-8 character: stands for an unpaired surrogate or half a code unit, so that it is counted as invalid UTF-8.
const BROKEN: u8 = 0xff;

/// Reader that converts UTF-16 after its byte order mark to UTF-8.
pub(super) struct Utf16<R> {
    input: R,
    unit: fn([u8; 2]) -> u16,
    /// Bytes read and not yet converted: half a code unit, or the first unit of a surrogate pair.
    raw: Vec<u8>,
    converted: Vec<u8>,
    /// Start of the unread bytes in `converted`; everything before it has been returned.
    start: usize,
    ended: bool,
}

impl<R: Read> Utf16<R> {
    /// `unit` makes one code unit of two bytes.
    pub fn new(input: R, unit: fn([u8; 2]) -> u16) -> Self {
        Self { input, unit, raw: Vec::new(), converted: Vec::new(), start: 0, ended: false }
    }

    fn convert_more(&mut self) -> Result<()> {
        let kept = self.raw.len();
        self.raw.resize(kept + READ_BYTES, 0);
        let count = loop {
            match self.input.read(&mut self.raw[kept..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.raw.truncate(kept + *count.as_ref().unwrap_or(&0));
        self.ended = count? == 0;
        let mut units: Vec<u16> =
            self.raw.chunks_exact(2).map(|unit| (self.unit)([unit[0], unit[1]])).collect();
        if !self.ended && units.last().is_some_and(|unit| (0xd800..0xdc00).contains(unit)) {
            units.pop();
        }
        self.converted.clear();
        self.start = 0;
        for character in char::decode_utf16(units.iter().copied()) {
            match character {
                Ok(character) => {
                    self.converted.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Err(_) => self.converted.push(BROKEN),
            }
        }
        self.raw.drain(..2 * units.len());
        if self.ended && !self.raw.is_empty() {
            self.converted.push(BROKEN);
        }
        Ok(())
    }
}

impl<R: Read> Read for Utf16<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while self.start == self.converted.len() && !self.ended {
            self.convert_more()?;
        }
        let count = (&self.converted[self.start..]).read(buffer)?;
        self.start += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reader that returns one byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
            let one = buffer.len().min(1);
            self.0.read(&mut buffer[..one])
        }
    }

    #[test]
    fn pairs_are_joined_wherever_reads_end() {
        let text = "Aä是\u{1f600}\n\u{10ffff}z";
        let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let mut found = String::new();
        Utf16::new(Slow(&little), u16::from_le_bytes).read_to_string(&mut found).unwrap();
        Utf16::new(Slow(&big), u16::from_be_bytes).read_to_string(&mut found).unwrap();
        assert_eq!(found, text.repeat(2));
    }

    #[test]
    fn halves_are_broken_characters() {
        let read = |units: &[u16], more: &[u8]| {
            let bytes: Vec<u8> =
                units.iter().flat_map(|unit| unit.to_le_bytes()).chain(more.to_vec()).collect();
            let mut found = Vec::new();
            Utf16::new(Slow(&bytes), u16::from_le_bytes).read_to_end(&mut found).unwrap();
            String::from_utf8_lossy(&found).into_owned()
        };
        assert_eq!(read(&[0xd83d, 0x41, 0xde00, 0xd83d], b""), "\u{fffd}A\u{fffd}\u{fffd}");
        assert_eq!(read(&[0x41], b"B"), "A\u{fffd}");
        assert_eq!(read(&[], b""), "");
    }
}
