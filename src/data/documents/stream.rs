//! Text of a file as UTF-8, whatever its compression and encoding.

use std::fs::File;
use std::io::{
    BufReader, Cursor, Error as IoError, ErrorKind, Read, Result as IoResult, Seek, SeekFrom, Write,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::Xxh3;

use super::json;
use super::lines::Lines;
use super::utf16::Utf16;
use crate::common::content::{Compression, Content, Encoding, HEAD_BYTES};

/// Name of the standard input.
pub(super) const STANDARD_INPUT: &str = "-";
/// Compressed bytes of one read.
const COMPRESSED_READ_BYTES: usize = 128 << 10;

type Input = Box<dyn Read + Send>;

/// Content of a file, as detected.
#[derive(Clone, Copy, Debug)]
pub(super) enum Held {
    Text {
        /// The bytes after the byte order mark are the text itself: no decompression or conversion.
        is_plain: bool,
        mark_bytes: u64,
        /// Number of JSON objects among the first lines; 0 if one of them is something else.
        objects: usize,
        /// The text is, or begins as, one JSON value, not JSON lines.
        is_json: bool,
    },
    /// Not text; a noun phrase that describes it.
    Other(&'static str),
}

/// Reader that counts the bytes of a file.
struct Counted<R> {
    input: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        let read = self.input.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Detects the content of a file.
pub(super) fn look_into(path: &Path) -> IoResult<Held> {
    Ok(text_of_input(Box::new(File::open(path)?))?.0)
}

/// Returns the lines of a file that was detected as `held`, after the first `offset` bytes of the text.
pub(super) fn lines_of_file(path: &Path, held: Held, offset: u64, count: &Arc<AtomicU64>) -> IoResult<Lines> {
    let mut file = File::open(path)?;
    if let Held::Text { is_plain: true, mark_bytes, .. } = held {
        file.seek(SeekFrom::Start(mark_bytes + offset))?;
        count.fetch_add(mark_bytes + offset, Ordering::Relaxed);
        return Ok(Lines::new(Box::new(Counted { input: file, count: count.clone() }), None));
    }
    let (_, mut text) = text_of_input(Box::new(Counted { input: file, count: count.clone() }))?;
    skip(&mut text, offset, &mut std::io::sink())?;
    Ok(Lines::new(text, None))
}

/// Returns the content of the standard input (`-`), a pipe or a device, and its lines after the first `offset` bytes of the text, which must have
/// `checksum`.
pub(super) fn lines_of_stream(
    path: &Path,
    offset: u64,
    checksum: u64,
    count: &Arc<AtomicU64>,
) -> IoResult<(Held, Lines)> {
    let input: Input =
        if is_standard_input(path) { Box::new(std::io::stdin()) } else { Box::new(File::open(path)?) };
    let (held, mut text) = text_of_input(Box::new(Counted { input, count: count.clone() }))?;
    let mut hash = Xxh3::new();
    skip(&mut text, offset, &mut hash)?;
    if offset > 0 && hash.digest() != checksum {
        let reason = format!("its first {offset} bytes are not those that were read before");
        return Err(IoError::new(ErrorKind::InvalidData, reason));
    }
    Ok((held, Lines::new(text, Some(hash))))
}

pub(super) fn is_standard_input(path: &Path) -> bool {
    path == Path::new(STANDARD_INPUT)
}

/// Returns the content of `input`, and its text as UTF-8.
fn text_of_input(input: Input) -> IoResult<(Held, Input)> {
    let (mut head, mut input) = with_head(input)?;
    let mut content = Content::of(&head);
    let is_compressed = matches!(content, Content::Compressed(_));
    if let Content::Compressed(compression) = content {
        let compressed = BufReader::with_capacity(COMPRESSED_READ_BYTES, input);
        (head, input) = with_head(match compression {
            Compression::Zstandard => Box::new(zstd::Decoder::with_buffer(compressed)?),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(compressed)),
        })?;
        content = Content::of(&head);
    }
    let encoding = match content {
        Content::Text(encoding) => encoding,
        Content::Compressed(_) => return Ok((Held::Other("a compressed file in a compressed file"), input)),
        Content::Other(what) => return Ok((Held::Other(what), input)),
    };
    let mark_bytes = encoding.mark_bytes() as u64;
    skip(&mut input, mark_bytes, &mut std::io::sink())?;
    (head, input) = match encoding {
        Encoding::Utf8 => (head, input),
        Encoding::MarkedUtf8 => (head.split_off(encoding.mark_bytes()), input),
        Encoding::Utf16Le => with_head(Box::new(Utf16::new(input, u16::from_le_bytes)))?,
        Encoding::Utf16Be => with_head(Box::new(Utf16::new(input, u16::from_be_bytes)))?,
    };
    let is_plain = !is_compressed && matches!(encoding, Encoding::Utf8 | Encoding::MarkedUtf8);
    let objects = json::objects(&head);
    let is_json = objects == 0 && json::is_value(&head);
    Ok((Held::Text { is_plain, mark_bytes, objects, is_json }, input))
}

/// Returns the first [`HEAD_BYTES`] of `input`, and a reader of all of it.
fn with_head(mut input: Input) -> IoResult<(Vec<u8>, Input)> {
    let mut head = Vec::new();
    input.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok((head.clone(), Box::new(Cursor::new(head).chain(input))))
}

/// Copies the first `offset` bytes into `to`.
fn skip(input: &mut impl Read, offset: u64, to: &mut impl Write) -> IoResult<()> {
    let found = std::io::copy(&mut input.take(offset), to)?;
    if found < offset {
        let reason =
            format!("it has {found} bytes of text; it should have the {offset} that were read before");
        return Err(IoError::new(ErrorKind::UnexpectedEof, reason));
    }
    Ok(())
}
