//! Whole-word masks of a packed batch, sampled on the device: the pools of position-specific masks of the enhanced decoder (RetroMAE, arXiv
//! 2205.12035, section 3.2) and the corrupted inputs of encoder and basic decoder, in one launch.
//!
//! The results equal those of [`crate::reference::mask`] bit for bit: a pure function of seed, step and sentence, so the same on every device, in
//! any batch order, and after a resume.

use super::error::{require, require_count, require_length};
use super::workspace::round_up;
use super::{Result, Workspace};
pub use crate::common::MaskCountLimit;
use crate::device::params::{CorruptionParams, MASK_ROWS_PER_BLOCK, MaskCountLimitParams, SampleMasksParams};
use crate::device::{Stream, View, ViewMut, kernels};

const ROWS_PER_BLOCK: usize = MASK_ROWS_PER_BLOCK as usize;
/// Above this length the permutations of 32 rows move from shared memory to the workspace, so that a block needs less than the 99 KB of the
/// smallest supported GPU.
const SHARED_LENGTH_MAX: usize = 1024;
/// Maximum sentence length, 8192: the bits of 32 rows of longer sentences would not fit shared memory.
pub const LENGTH_MAX: usize = 8192;
/// Maximum rows of a pool, 65,536: a row must fit the 16-bit index of a token.
pub const POOL_ROWS_MAX: usize = 1 << 16;

impl MaskCountLimit {
    pub(super) fn params(self, argument: &'static str) -> Result<MaskCountLimitParams> {
        let Self { ratio, cap } = self;
        require(
            (0.0..=1.0).contains(&ratio),
            argument,
            format_args!("of ratio {ratio}"),
            "of a ratio in [0, 1]",
        )?;
        require(cap != Some(0), argument, "of cap 0", "of a cap of at least 1")?;
        let cap = cap.map_or(u32::MAX, |cap| u32::try_from(cap).unwrap_or(u32::MAX));
        Ok(MaskCountLimitParams { ratio, cap, unused: 0 })
    }
}

/// The sentences to be masked: `sentences` packed ones of `tokens` tokens in all.
///
/// The first and the last token of a sentence are its special ones, `[CLS]` and `[SEP]`, which are never chosen. In a sentence whose prefix sums
/// decrease, exceed the batch or exceed `length_max` nothing is chosen, and its input ids become -1.
#[derive(Clone, Copy, Debug)]
pub struct Sentences<'a> {
    /// `[4]`: result of [`super::rng_state`]
    pub rng: View<'a, u32>,
    /// `[sentences + 1]`: prefix sums of the lengths, from 0 to at most `tokens`; ids after the last sentence stay unchanged
    pub cu_seqlens: View<'a, i32>,
    /// `[sentences]`: indices of the sentences in the corpus; the samples depend on them, not on the position in the batch
    pub indices: View<'a, u32>,
    /// `[ceil(tokens / 32)]`: one bit per token, 1 where a word starts ([`word_start_bits`]); those of special tokens are not read
    pub word_starts: View<'a, u32>,
    /// Tokens of all sentences, T
    pub tokens: usize,
    /// Maximum sentence length; at most [`LENGTH_MAX`].
    pub length_max: usize,
}

/// Position-specific masks: [`Mask::Pool`](super::attention::Mask::Pool), or [`Mask::Independent`](super::attention::Mask::Independent) without
/// `rows`.
#[derive(Debug)]
pub struct Pool<'a> {
    /// MaskCountLimit of each mask
    pub count_limit: MaskCountLimit,
    /// A sentence of L tokens has `min(L, rows_max)` masks; in `1..=65536`, and at least the longest sentence's length where every token has its
    /// own.
    pub rows_max: usize,
    /// `[sentences + 1]`: result of [`pool_offsets`]
    pub offsets: View<'a, u32>,
    /// `[offsets[sentences]]`: bit rows of `ceil(L / 32)` 32-bit words, 1 is visible; words beyond the end are not written
    pub bits: ViewMut<'a, u32>,
    /// `[tokens]`: pool row that each token samples, counted within its sentence; absent: token `i` of a sentence has row `i`, its own mask
    pub rows: Option<ViewMut<'a, u16>>,
    /// At least [`workspace`]`(tokens, length_max, rows_max)`
    pub workspace: ViewMut<'a, u8>,
}

/// Replacement of an input's chosen tokens; a random id is any of the vocabulary with equal probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Replacement {
    /// Id of `[MASK]`, in `0..vocab_size`
    pub mask_id: i32,
    /// Number of token ids, in `1..2^31`
    pub vocab_size: usize,
    /// Share of the chosen tokens that become `mask_id`
    pub mask_share: f64,
    /// Share that becomes a random id; the rest stays unchanged, and is predicted all the same.
    pub random_share: f64,
}

impl Replacement {
    /// BERT's: 80 % masked, 10 % random, 10 % kept.
    #[must_use]
    pub fn bert(mask_id: i32, vocab_size: usize) -> Self {
        Self { mask_id, vocab_size, mask_share: 0.8, random_share: 0.1 }
    }

    /// All masked.
    #[must_use]
    pub fn all_masked(mask_id: i32, vocab_size: usize) -> Self {
        Self { mask_id, vocab_size, mask_share: 1.0, random_share: 0.0 }
    }
}

/// A corrupted input, and its rows with a loss.
#[derive(Debug)]
pub struct Corruption<'a> {
    /// Number of chosen tokens of each sentence
    pub count_limit: MaskCountLimit,
    /// Replacement of the chosen tokens
    pub replacement: Replacement,
    /// `[tokens]`: the original ids
    pub ids: View<'a, i32>,
    /// `[tokens]`
    pub input_ids: ViewMut<'a, i32>,
    /// `[sentences + 1]`: result of [`labeled_offsets`]
    pub offsets: View<'a, i32>,
    /// `[offsets[sentences]]`: packed rows of the chosen tokens, ascending within a sentence, then negative numbers up to its count limit; rows that
    /// do not fit between the offsets are not written
    pub labeled_rows: ViewMut<'a, i32>,
    /// `[offsets[sentences]]`: their original ids, then [`IGNORE_INDEX`](crate::common::IGNORE_INDEX)
    pub targets: ViewMut<'a, i32>,
    /// `[sentences]`: number of chosen tokens
    pub counts: ViewMut<'a, i32>,
}

/// Results to sample for the sentences: one of the three, or more.
#[derive(Debug, Default)]
pub struct Outputs<'a> {
    /// The enhanced decoder's masks
    pub pool: Option<Pool<'a>>,
    /// The encoder's input and labels
    pub encoder: Option<Corruption<'a>>,
    /// The basic decoder's input and labels
    pub decoder: Option<Corruption<'a>>,
}

/// Packs one bit per token, lowest first, as [`Sentences::word_starts`] expects.
#[must_use]
pub fn word_start_bits(starts: &[bool]) -> Vec<u32> {
    let word =
        |tokens: &[bool]| (0..).zip(tokens).fold(0, |word, (bit, &start)| word | u32::from(start) << bit);
    starts.chunks(32).map(word).collect()
}

/// Returns the offset of each sentence's first 32-bit word in the bits of a pool, `[sentences + 1]`; the last entry is the length of the bits.
///
/// `cu_seqlens` are `[sentences + 1]` prefix sums.
///
/// # Errors
/// When the prefix sums decrease, `rows_max` is not in `1..=65536`, or the bits exceed 2^32 32-bit words.
pub fn pool_offsets(cu_seqlens: &[i32], rows_max: usize) -> Result<Vec<u32>> {
    require_pool_rows("rows_max", rows_max)?;
    let mut total = 0u64;
    let end = |length: usize| {
        total += (length.min(rows_max) * length.div_ceil(32)) as u64;
        let fits = u32::try_from(total);
        require(fits.is_ok(), "bits", format_args!("{total} words"), "below 2^32 words: fewer sentences")?;
        Ok(fits.unwrap_or_default())
    };
    offsets(cu_seqlens, end)
}

/// Returns the start of each sentence's labeled rows, `[sentences + 1]`: as many as a mask of `count_limit` may choose. The last entry is their
/// number.
///
/// `cu_seqlens` are `[sentences + 1]` prefix sums.
///
/// # Errors
/// When the prefix sums decrease, or the count limit is out of range.
pub fn labeled_offsets(cu_seqlens: &[i32], count_limit: MaskCountLimit) -> Result<Vec<i32>> {
    count_limit.params("count_limit")?;
    let mut total = 0;
    let end = |length: usize| {
        total += count_limit.tokens(length).min(length.saturating_sub(2)) as i32;
        Ok(total)
    };
    offsets(cu_seqlens, end)
}

/// Returns 0 and the `end` after each sentence, given its length.
fn offsets<T: Default>(cu_seqlens: &[i32], mut end: impl FnMut(usize) -> Result<T>) -> Result<Vec<T>> {
    let mut offsets = vec![T::default()];
    for pair in cu_seqlens.windows(2) {
        let increasing = pair[0] >= 0 && pair[1] >= pair[0];
        require(increasing, "cu_seqlens", format_args!("{} before {}", pair[0], pair[1]), "never falling")?;
        offsets.push(end((pair[1] - pair[0]) as usize)?);
    }
    Ok(offsets)
}

/// Returns the workspace of the pool of a packed batch of `tokens` tokens; none while no sentence exceeds 1024 tokens.
#[must_use]
pub fn workspace(tokens: usize, length_max: usize, rows_max: usize) -> Workspace {
    if length_max <= SHARED_LENGTH_MAX {
        return Workspace::NONE;
    }
    Workspace::of::<u16>(&[tokens, round_up(rows_max, ROWS_PER_BLOCK)])
}

/// Enqueues the sampling of all `outputs`.
///
/// The prefix sums and offsets in device memory are read not here but by the kernel, which writes nothing outside the arguments, whatever the
/// values.
///
/// # Errors
/// When a length, a count limit, a share, `length_max` or `rows_max` does not fit.
pub fn sample(stream: &Stream, sentences: Sentences<'_>, outputs: Outputs<'_>) -> Result<()> {
    let Outputs { pool, encoder, decoder } = outputs;
    let Sentences { rng, cu_seqlens, indices, word_starts, tokens, length_max } = sentences;
    require_length("rng", rng.len(), 4, "words of an RngState")?;
    require_length("cu_seqlens", cu_seqlens.len(), indices.len() + 1, "sentences + 1")?;
    require_length("word_starts", word_starts.len(), tokens.div_ceil(32), "ceil(tokens / 32)")?;
    let lengths = 1..=LENGTH_MAX;
    require(lengths.contains(&length_max), "length_max", length_max, format_args!("in 1..={LENGTH_MAX}"))?;
    let mut params = SampleMasksParams {
        rng: stream.address("rng", &rng)?,
        cu_seqlens: stream.address("cu_seqlens", &cu_seqlens)?,
        sentence_indices: stream.address("indices", &indices)?,
        word_starts: stream.address("word_starts", &word_starts)?,
        length_max: length_max as u32,
        sentences: require_count("indices", indices.len())?,
        tokens: require_count("tokens", tokens)?,
        ..SampleMasksParams::default()
    };
    let corrupts = encoder.is_some() || decoder.is_some();
    if let Some(pool) = &pool {
        pool_params(stream, &sentences, pool, &mut params)?;
    }
    for (corruption, names, params) in
        [(encoder, ENCODER, &mut params.encoder), (decoder, DECODER, &mut params.decoder)]
    {
        if let Some(corruption) = corruption {
            *params = corruption_params(stream, &names, &sentences, &corruption)?;
        }
    }
    require(pool.is_some() || corrupts, "pool", "absent", "given, or an input to corrupt")?;
    // SAFETY: lengths were checked; the kernel checks the prefix sums and offsets.
    unsafe { stream.launch(kernels::SAMPLE_MASKS, &params) }?;
    Ok(())
}

/// Fills in the params of the pool.
fn pool_params(
    stream: &Stream,
    sentences: &Sentences<'_>,
    pool: &Pool<'_>,
    params: &mut SampleMasksParams,
) -> Result<()> {
    let Sentences { indices, tokens, length_max, .. } = *sentences;
    let Pool { count_limit, rows_max, offsets, ref bits, ref rows, ref workspace } = *pool;
    require_length("pool.offsets", offsets.len(), indices.len() + 1, "sentences + 1")?;
    require_pool_rows("pool.rows_max", rows_max)?;
    match rows {
        Some(rows) => require_length("pool.rows", rows.len(), tokens, "tokens")?,
        None => require(
            rows_max >= length_max,
            "pool.rows_max",
            rows_max,
            format_args!("at least {length_max} (length_max) where every token has a mask of its own"),
        )?,
    }
    let needed = self::workspace(tokens, length_max, rows_max);
    let permutations = needed.address(stream, workspace)?;
    params.pool_offsets = stream.address("pool.offsets", &offsets)?;
    params.bits = stream.address("pool.bits", bits)?;
    params.pool_words = u32::try_from(bits.len()).unwrap_or(u32::MAX);
    params.rows = rows.as_ref().map_or(Ok(0), |rows| stream.address("pool.rows", rows))?;
    params.workspace = if needed == Workspace::NONE { 0 } else { permutations };
    params.count_limit = count_limit.params("pool.count_limit")?;
    params.pool_rows_max = rows_max as u32;
    params.pool_blocks = rows_max.min(length_max).div_ceil(ROWS_PER_BLOCK) as u32;
    Ok(())
}

/// Names of a corruption's fields in errors.
struct Names {
    ids: &'static str,
    input_ids: &'static str,
    offsets: &'static str,
    labeled_rows: &'static str,
    targets: &'static str,
    counts: &'static str,
    count_limit: &'static str,
    replacement: &'static str,
    vocab_size: &'static str,
    mask_id: &'static str,
}

macro_rules! corruption_names {
    ($field:literal) => {
        Names {
            ids: concat!($field, ".ids"),
            input_ids: concat!($field, ".input_ids"),
            offsets: concat!($field, ".offsets"),
            labeled_rows: concat!($field, ".labeled_rows"),
            targets: concat!($field, ".targets"),
            counts: concat!($field, ".counts"),
            count_limit: concat!($field, ".count_limit"),
            replacement: concat!($field, ".replacement"),
            vocab_size: concat!($field, ".replacement.vocab_size"),
            mask_id: concat!($field, ".replacement.mask_id"),
        }
    };
}

const ENCODER: Names = corruption_names!("encoder");
const DECODER: Names = corruption_names!("decoder");

fn corruption_params(
    stream: &Stream,
    names: &Names,
    sentences: &Sentences<'_>,
    corruption: &Corruption<'_>,
) -> Result<CorruptionParams> {
    let Sentences { indices, tokens, .. } = *sentences;
    let Corruption { count_limit, replacement, ids, input_ids, offsets, labeled_rows, targets, counts } =
        corruption;
    let Replacement { mask_id, vocab_size, mask_share, random_share } = *replacement;
    require_length(names.ids, ids.len(), tokens, "tokens")?;
    require_length(names.input_ids, input_ids.len(), tokens, "tokens")?;
    require_length(names.offsets, offsets.len(), indices.len() + 1, "sentences + 1")?;
    require_length(names.targets, targets.len(), labeled_rows.len(), "as labeled_rows")?;
    require_length(names.counts, counts.len(), indices.len(), "sentences")?;
    let shares = mask_share >= 0.0 && random_share >= 0.0 && mask_share + random_share <= 1.0;
    require(
        shares,
        names.replacement,
        format_args!("of shares {mask_share} and {random_share}"),
        "of shares of at least 0 and together at most 1",
    )?;
    let ids_fit = (1..=i32::MAX as usize).contains(&vocab_size);
    require(ids_fit, names.vocab_size, vocab_size, format_args!("in 1..={}", i32::MAX))?;
    let mask_fits = usize::try_from(mask_id).is_ok_and(|id| id < vocab_size);
    require(mask_fits, names.mask_id, mask_id, format_args!("in 0..{vocab_size}"))?;
    let below = |share: f64| (share * 4_294_967_296.0).ceil() as u64;
    Ok(CorruptionParams {
        ids: stream.address(names.ids, ids)?,
        input_ids: stream.address(names.input_ids, input_ids)?,
        offsets: stream.address(names.offsets, offsets)?,
        rows: stream.address(names.labeled_rows, labeled_rows)?,
        targets: stream.address(names.targets, targets)?,
        counts: stream.address(names.counts, counts)?,
        count_limit: count_limit.params(names.count_limit)?,
        mask_below: below(mask_share),
        random_below: below(mask_share + random_share),
        mask_id,
        vocab_size: vocab_size as u32,
        labeled: require_count(names.labeled_rows, labeled_rows.len())?,
        reserved: 0,
    })
}

pub(super) fn require_pool_rows(argument: &'static str, rows_max: usize) -> Result<()> {
    let range = 1..=POOL_ROWS_MAX;
    require(range.contains(&rows_max), argument, rows_max, format_args!("in 1..={POOL_ROWS_MAX}"))
}
