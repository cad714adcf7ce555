//! One block of bytes that holds passages: in memory, or a mapped file.
//!
//! ```text
//! header              64 bytes: magic, version, bytes an id, passages, tokens
//! offsets             u64 [passages + 1]: where each passage begins, in tokens
//! ids                 u16 or u32 [tokens]
//! word starts         u32 [tokens / 32]: one bit a token, lowest first
//! ```
//!
//! Sections begin at multiples of 64 bytes, a cache line; numbers are little-endian, like every supported machine.

use std::ops::Range;
use std::path::Path;

use bytemuck::{Pod, Zeroable};

use crate::data::passages::{Ids, PassageRef, Passages, WordStarts};

const MAGIC: [u8; 8] = *b"RMTOKENS";
const VERSION: u32 = 1;
const ALIGNMENT: usize = 64;
/// Tokens of the shortest passage: special token, one token, special token.
const SHORTEST: u64 = 3;

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: u32,
    id_bytes: u32,
    passages: u64,
    tokens: u64,
    unused: [u64; 4],
}

/// Returns the bytes of a stored id: 2 or 4.
#[must_use]
pub(super) fn id_bytes(vocab_size: u32) -> u32 {
    if vocab_size <= 1 << 16 { 2 } else { 4 }
}

/// Byte ranges of the sections of a shard.
#[derive(Clone, Debug)]
struct Sections {
    offsets: Range<usize>,
    ids: Range<usize>,
    word_starts: Range<usize>,
}

impl Sections {
    /// Returns `None` if the sizes overflow.
    fn new(passages: u64, tokens: u64, id_bytes: u32) -> Option<Self> {
        let section = |after: usize, count: u64, size: u64| {
            let begin = after.checked_next_multiple_of(ALIGNMENT)?;
            let end = begin.checked_add(usize::try_from(count.checked_mul(size)?).ok()?)?;
            Some(begin..end)
        };
        let offsets = section(size_of::<Header>(), passages.checked_add(1)?, 8)?;
        let ids = section(offsets.end, tokens, u64::from(id_bytes))?;
        let word_starts = section(ids.end, tokens.div_ceil(32), 4)?;
        Some(Self { offsets, ids, word_starts })
    }
}

/// Storage of the bytes; both kinds are aligned for every section.
enum Bytes {
    Owned(Vec<u64>),
    Mapped(memmap2::Mmap),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Owned(words) => bytemuck::cast_slice(words),
            Self::Mapped(map) => map,
        }
    }
}

/// Passages in one block of bytes.
pub(super) struct Shard {
    bytes: Bytes,
    layout: Sections,
    id_bytes: u32,
    passages: usize,
    tokens: u64,
    longest: usize,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard").field("passages", &self.passages).field("tokens", &self.tokens).finish()
    }
}

impl Shard {
    /// Creates a shard in memory. The ids must fit into the width that `vocab_size` needs.
    pub fn in_memory(passages: &Passages, vocab_size: u32) -> Result<Self, String> {
        let id_bytes = id_bytes(vocab_size);
        let (count, tokens) = (passages.len() as u64, passages.tokens() as u64);
        let layout = Sections::new(count, tokens, id_bytes).ok_or("it is larger than memory can be")?;
        let mut words = vec![0_u64; layout.word_starts.end.div_ceil(8)];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        let header =
            Header { magic: MAGIC, version: VERSION, id_bytes, passages: count, tokens, unused: [0; 4] };
        bytes[..size_of::<Header>()].copy_from_slice(bytemuck::bytes_of(&header));
        let offsets: &mut [u64] = bytemuck::cast_slice_mut(&mut bytes[layout.offsets.clone()]);
        offsets.iter_mut().zip(passages.offsets()).for_each(|(place, offset)| *place = offset);
        if id_bytes == 2 {
            let ids: &mut [u16] = bytemuck::cast_slice_mut(&mut bytes[layout.ids.clone()]);
            ids.iter_mut().zip(passages.ids()).for_each(|(place, &id)| *place = id as u16);
        } else {
            bytes[layout.ids.clone()].copy_from_slice(bytemuck::cast_slice(passages.ids()));
        }
        bytes[layout.word_starts.clone()].copy_from_slice(bytemuck::cast_slice(passages.word_start_bits()));
        Self::checked(Bytes::Owned(words))
    }

    /// Maps the shard in the file at `path`.
    ///
    /// # Errors
    /// A description of what is wrong with the file, and what it should be.
    pub fn map(path: &Path) -> Result<Self, String> {
        let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
        let length = file.metadata().map_err(|error| error.to_string())?.len();
        if length < size_of::<Header>() as u64 {
            return Err(format!("it has {length} bytes; it should have a header of {}", size_of::<Header>()));
        }
        // SAFETY: the map is read only. Whoever changes the file under a running reader changes ids, which stay plain numbers;
        // whoever truncates it ends the process, as with every mapped file, so the store's documentation forbids both.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|error| error.to_string())?;
        Self::checked(Bytes::Mapped(map))
    }

    /// Reads the header and the offsets, and refuses everything that could not be read later.
    fn checked(bytes: Bytes) -> Result<Self, String> {
        let all = bytes.as_slice();
        let header: Header = bytemuck::pod_read_unaligned(&all[..size_of::<Header>()]);
        let Header { magic, version, id_bytes, passages, tokens, .. } = header;
        if magic != MAGIC {
            return Err("it does not begin as a shard of tokens should".into());
        }
        if version != VERSION {
            return Err(format!("its format is {version}; it should be {VERSION}"));
        }
        if id_bytes != 2 && id_bytes != 4 {
            return Err(format!("its ids have {id_bytes} bytes; they should have 2 or 4"));
        }
        let layout = Sections::new(passages, tokens, id_bytes);
        let padded = match bytes {
            Bytes::Owned(_) => size_of::<u64>(),
            Bytes::Mapped(_) => 1,
        };
        let fits = |layout: &Sections| layout.word_starts.end.next_multiple_of(padded) == all.len();
        let Some(layout) = layout.filter(fits) else {
            return Err(format!(
                "it has {} bytes, which is not what {passages} passages of {tokens} tokens take",
                all.len()
            ));
        };
        let offsets: &[u64] = bytemuck::cast_slice(&all[layout.offsets.clone()]);
        let rising = offsets.windows(2).all(|pair| pair[1] >= pair[0].saturating_add(SHORTEST));
        if !rising || offsets[0] != 0 || offsets[offsets.len() - 1] != tokens {
            return Err("its passages do not follow each other, each of at least 3 tokens".into());
        }
        let longest = offsets.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0) as usize;
        let passages = passages as usize;
        Ok(Self { layout, id_bytes, passages, tokens, longest, bytes })
    }

    pub fn passages(&self) -> usize {
        self.passages
    }

    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Returns the tokens of the longest passage; 0 without one.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Returns the whole shard as it is in a file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes.as_slice()[..self.layout.word_starts.end]
    }

    pub fn id_bytes(&self) -> u32 {
        self.id_bytes
    }

    /// Returns the largest id, 0 if there is none.
    pub fn largest_id(&self) -> u32 {
        match self.ids(0..self.tokens as usize) {
            Ids::U16(ids) => ids.iter().copied().max().unwrap_or(0).into(),
            Ids::U32(ids) => ids.iter().copied().max().unwrap_or(0),
        }
    }

    /// Returns the offset of each passage, and the end of the last one, in tokens.
    pub fn offsets(&self) -> &[u64] {
        bytemuck::cast_slice(&self.bytes.as_slice()[self.layout.offsets.clone()])
    }

    /// Returns the passage at `index`, which must be below the number of passages.
    pub fn passage(&self, index: usize) -> PassageRef<'_> {
        let offsets = self.offsets();
        let range = offsets[index] as usize..offsets[index + 1] as usize;
        let words = bytemuck::cast_slice(&self.bytes.as_slice()[self.layout.word_starts.clone()]);
        PassageRef { ids: self.ids(range.clone()), word_starts: WordStarts::new(words, range) }
    }

    fn ids(&self, range: Range<usize>) -> Ids<'_> {
        let bytes = &self.bytes.as_slice()[self.layout.ids.clone()];
        if self.id_bytes == 2 {
            Ids::U16(&bytemuck::cast_slice(bytes)[range])
        } else {
            Ids::U32(&bytemuck::cast_slice(bytes)[range])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passages(count: u32) -> Passages {
        let mut passages = Passages::default();
        for n in 0..count {
            let content: Vec<u32> = (0..1 + n % 70).map(|k| (n * 31 + k) % 60_000).collect();
            passages.push(1, &content, 2, |at| at % 3 == 0);
        }
        passages
    }

    #[test]
    fn both_widths_and_a_file_hold_the_same_passages() {
        let directory = tempfile::tempdir().unwrap();
        for (count, vocab_size) in [(0, 60_000), (1, 60_000), (300, 65_536), (300, 65_537)] {
            let passages = passages(count);
            let shard = Shard::in_memory(&passages, vocab_size).unwrap();
            let path = directory.path().join("shard");
            std::fs::write(&path, shard.bytes()).unwrap();
            let mapped = Shard::map(&path).unwrap();
            assert!(mapped.bytes() == shard.bytes());
            for shard in [&shard, &mapped] {
                assert_eq!(shard.passages(), count as usize);
                assert_eq!(shard.tokens(), passages.tokens() as u64);
                for (index, expected) in passages.iter().enumerate() {
                    let passage = shard.passage(index);
                    assert_eq!(passage.ids.to_vec(), expected.ids.to_vec());
                    let bits = |passage: PassageRef| -> Vec<bool> {
                        (0..passage.len()).map(|position| passage.word_starts.get(position)).collect()
                    };
                    assert_eq!(bits(passage), bits(expected));
                }
            }
            assert_eq!(matches!(shard.ids(0..0), Ids::U16(_)), vocab_size <= 65_536);
        }
    }

    #[test]
    fn impossible_headers_are_refused() {
        let shard = Shard::in_memory(&passages(4), 100_000).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shard");
        let message = |change: fn(&mut Vec<u8>)| {
            let mut bytes = shard.bytes().to_vec();
            change(&mut bytes);
            std::fs::write(&path, bytes).unwrap();
            Shard::map(&path).unwrap_err()
        };
        assert!(message(|bytes| bytes.truncate(10)).contains("it has 10 bytes"));
        assert!(message(|bytes| bytes[0] = b'X').contains("does not begin"));
        assert!(message(|bytes| bytes[8] = 9).contains("its format is 9"));
        assert!(message(|bytes| bytes[12] = 3).contains("its ids have 3 bytes"));
        assert!(message(|bytes| bytes[16..24].fill(255)).contains("which is not what"));
        assert!(message(|bytes| bytes[23] = 1).contains("which is not what"));
        assert!(message(|bytes| bytes.extend([0; 64])).contains("which is not what"));
        assert!(message(|bytes| bytes[64] = 1).contains("do not follow"));
        assert!(message(|bytes| bytes[72] = 255).contains("do not follow"));
    }
}
