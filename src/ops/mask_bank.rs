//! The bank of position-specific whole-word masks of a pack, drawn on the device (RetroMAE, arXiv 2205.12035, section 3.2).
//!
//! Bit for bit what [`crate::reference::mask::mask_bank`] draws on the processor, on every device and in any batch order.

use super::Result;
use super::error::{require, require_length};
use crate::device::params::MaskBankParams;
use crate::device::{Stream, View, ViewMut};

/// One warp makes this many bank rows of one sentence.
const ROWS_PER_BLOCK: usize = 32;
/// Above this length the permutations of 32 rows leave shared memory for the workspace, so that what a block needs stays
/// below the 99 KB of the smallest supported GPU.
const SHARED_LENGTH_MAX: usize = 1024;
/// With longer sentences the bits of 32 rows would not fit shared memory.
pub const LENGTH_MAX: usize = 8192;
/// A bank row must fit the 16-bit index of a token.
pub const BANK_ROWS_MAX: usize = 1 << 16;

/// Arguments of [`generate`] for `sentences` packed sentences of `tokens` tokens.
#[derive(Debug)]
pub struct Arguments<'a> {
    /// `[4]`: what [`super::rng_state`] returns
    pub rng: View<'a, u32>,
    /// `[sentences + 1]`: prefix sums of the lengths, from 0 to `tokens`
    pub cu_seqlens: View<'a, i32>,
    /// `[sentences]`: the sentences' numbers in the corpus; the draws depend on them, not on the place in the batch
    pub sentence_indices: View<'a, u32>,
    /// `[tokens]`: 0 continues a word, 1 starts one, 2 is special ([`crate::reference::mask::SPECIAL`])
    pub word_starts: View<'a, u8>,
    /// `[sentences + 1]`: what [`offsets`] returns
    pub bank_offsets: View<'a, u32>,
    /// `[bank_offsets[sentences]]`: bit rows, 1 is visible
    pub bits: ViewMut<'a, u32>,
    /// `[tokens]`: the bank row of each token, counted within its sentence
    pub rows: ViewMut<'a, u16>,
    /// At least [`workspace`]`(tokens, length_max, bank_rows_max)` elements
    pub workspace: ViewMut<'a, u16>,
    /// No sentence is longer; at most [`LENGTH_MAX`].
    pub length_max: usize,
    /// A sentence of L tokens has `min(L, bank_rows_max)` rows; in `1..=65536`.
    pub bank_rows_max: usize,
    /// Hidden share of the tokens ([`crate::reference::mask::ratio_q32`]).
    pub ratio_q32: u32,
}

/// Where each sentence's words begin in the bits, `[sentences + 1]`; the last entry is the length of the bits.
///
/// `cu_seqlens` are `[sentences + 1]` prefix sums.
///
/// # Errors
/// When the prefix sums fall, `bank_rows_max` is not in `1..=65536`, or the bits exceed 2^32 words.
pub fn offsets(cu_seqlens: &[i32], bank_rows_max: usize) -> Result<Vec<u32>> {
    require_bank_rows("bank_rows_max", bank_rows_max)?;
    let mut offsets = vec![0u32];
    let mut total = 0u64;
    for pair in cu_seqlens.windows(2) {
        let increasing = pair[0] >= 0 && pair[1] >= pair[0];
        require(increasing, "cu_seqlens", format_args!("{} before {}", pair[0], pair[1]), "never falling")?;
        let length = (pair[1] - pair[0]) as usize;
        total += (length.min(bank_rows_max) * length.div_ceil(32)) as u64;
        let fits = u32::try_from(total);
        require(fits.is_ok(), "bits", format_args!("{total} words"), "below 2^32 words: a smaller pack")?;
        offsets.push(fits.unwrap_or_default());
    }
    Ok(offsets)
}

/// The u16 elements of workspace that a pack of `tokens` tokens needs; none while no sentence exceeds 1024 tokens.
#[must_use]
pub fn workspace(tokens: usize, length_max: usize, bank_rows_max: usize) -> usize {
    if length_max <= SHARED_LENGTH_MAX { 0 } else { tokens * bank_rows_max.next_multiple_of(ROWS_PER_BLOCK) }
}

/// Enqueues the drawing of all banks and of each token's bank row.
///
/// The device's `cu_seqlens` and `bank_offsets` are not read here: they must be what the argument's documentation says.
///
/// # Errors
/// When a length, `length_max` or `bank_rows_max` does not fit.
pub fn generate(stream: &Stream, arguments: Arguments<'_>) -> Result<()> {
    let Arguments { rng, cu_seqlens, sentence_indices, word_starts, bank_offsets, .. } = arguments;
    let Arguments { length_max, bank_rows_max, ratio_q32, .. } = arguments;
    let Arguments { bits, rows, workspace, .. } = &arguments;
    let (sentences, tokens) = (sentence_indices.len(), word_starts.len());
    require_length("rng", rng.len(), 4, "words of an RngState")?;
    require_length("cu_seqlens", cu_seqlens.len(), sentences + 1, "sentences + 1")?;
    require_length("bank_offsets", bank_offsets.len(), sentences + 1, "sentences + 1")?;
    require_length("rows", rows.len(), tokens, "as word_starts")?;
    require_bank_rows("bank_rows_max", bank_rows_max)?;
    let lengths = 1..=LENGTH_MAX;
    require(lengths.contains(&length_max), "length_max", length_max, format_args!("in 1..={LENGTH_MAX}"))?;
    let needed = self::workspace(tokens, length_max, bank_rows_max);
    require(
        workspace.len() >= needed,
        "workspace",
        format_args!("{} elements long", workspace.len()),
        format_args!("at least {needed}"),
    )?;
    let params = MaskBankParams {
        rng: stream.address("rng", &rng)?,
        cu_seqlens: stream.address("cu_seqlens", &cu_seqlens)?,
        sentence_indices: stream.address("sentence_indices", &sentence_indices)?,
        word_starts: stream.address("word_starts", &word_starts)?,
        bank_offsets: stream.address("bank_offsets", &bank_offsets)?,
        bits: stream.address("bits", bits)?,
        rows: stream.address("rows", rows)?,
        workspace: if needed > 0 { stream.address("workspace", workspace)? } else { 0 },
        sentences: sentences as u32,
        bank_rows_max: bank_rows_max as u32,
        ratio_q32,
        length_max: length_max as u32,
    };
    let blocks = bank_rows_max.min(length_max).div_ceil(ROWS_PER_BLOCK);
    let grid = [sentences as u32, blocks as u32, 1];
    // SAFETY: lengths were checked; that the prefix sums agree with them is the documented duty of the caller.
    unsafe { stream.launch("mask_bank", grid, ROWS_PER_BLOCK as u32, shared_bytes(length_max), &params)? };
    Ok(())
}

/// The shared memory of a block: the word list, the bits of 32 rows, and their permutations where they fit.
fn shared_bytes(length_max: usize) -> u32 {
    let array = |bytes: usize| bytes.next_multiple_of(16);
    let words = 2 * array(2 * length_max);
    let bits = array(4 * ROWS_PER_BLOCK * length_max.div_ceil(32));
    let permutations = array(2 * ROWS_PER_BLOCK * permutation_stride(length_max));
    let permutations = if length_max <= SHARED_LENGTH_MAX { permutations } else { 0 };
    (words + bits + permutations) as u32
}

/// u16 entries from one thread's permutation of a sentence's words to the next in shared memory.
pub(super) fn permutation_stride(length: usize) -> usize {
    length.next_multiple_of(4) + 2
}

pub(super) fn require_bank_rows(argument: &'static str, bank_rows_max: usize) -> Result<()> {
    let range = 1..=BANK_ROWS_MAX;
    require(range.contains(&bank_rows_max), argument, bank_rows_max, format_args!("in 1..={BANK_ROWS_MAX}"))
}
