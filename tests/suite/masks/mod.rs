//! Masks and corrupted inputs equal the reference's bit for bit.

mod distribution;

use crate::cases::masks::{Sampler, Sampling};
use crate::common::{devices, integers};
use retromae::device::{Buffer, Device};
use retromae::model::{IGNORE_INDEX, MaskPool, PoolRows};
use retromae::ops::masks::{self, MaskCountLimit, Outputs, Pool, Replacement, Sentences};
use retromae::ops::{self, rng_state};
use retromae::random::Stream as Purpose;
use retromae::reference::mask::{self as reference, MaskedSentence};

/// Returns word starts of words of random length; the first and the last token are special whatever their bits.
fn sentence(seed: u64, length: usize) -> Vec<bool> {
    integers(seed, length, 3).iter().map(|&sample| sample > 0).collect()
}

const MASK_ID: i32 = 4;
const VOCABULARY: usize = 1000;

#[derive(Clone)]
struct MaskedBatch {
    seed: u64,
    step: u32,
    sentences: Vec<Vec<bool>>,
    indices: Vec<u32>,
    count_limit: MaskCountLimit,
    rows: PoolRows,
    /// Replacements of encoder and decoder
    replacements: [Replacement; 2],
}

/// A corrupted input as read back.
#[derive(Debug, Default, PartialEq, Eq)]
struct Corrupted {
    input_ids: Vec<i32>,
    labeled_rows: Vec<i32>,
    targets: Vec<i32>,
    counts: Vec<i32>,
}

#[derive(Debug, PartialEq, Eq)]
struct Sampled {
    pool: MaskPool,
    inputs: [Corrupted; 2],
}

impl MaskedBatch {
    fn new(sentences: Vec<Vec<bool>>) -> Self {
        let indices = (0..sentences.len() as u32).map(|b| b.wrapping_mul(0x9E37_79B9)).collect();
        Self {
            seed: 0x0123_4567_89ab_cdef,
            step: 17,
            sentences,
            indices,
            count_limit: MaskCountLimit::of(0.5),
            rows: PoolRows::AtMost(128),
            replacements: [
                Replacement::bert(MASK_ID, VOCABULARY),
                Replacement::all_masked(MASK_ID, VOCABULARY),
            ],
        }
    }

    fn tokens(&self) -> usize {
        self.sentences.iter().map(Vec::len).sum()
    }

    fn ids(&self) -> Vec<i32> {
        integers(3, self.tokens(), VOCABULARY as u32)
    }

    fn masked(&self) -> Vec<MaskedSentence<'_>> {
        let sentence = |(words, &index)| MaskedSentence { index, word_starts: words };
        self.sentences.iter().map(Vec::as_slice).zip(&self.indices).map(sentence).collect()
    }

    fn expected(&self) -> Sampled {
        let MaskCountLimit { ratio, cap } = self.count_limit;
        let count_limit = reference::MaskCountLimit { ratio, cap };
        let pool = reference::mask_pool(self.seed, self.step, &self.masked(), count_limit, self.rows);
        let purposes = [Purpose::EncoderMask, Purpose::DecoderMask];
        let inputs = [0, 1].map(|i| self.expected_input(purposes[i], count_limit, self.replacements[i]));
        Sampled { pool, inputs }
    }

    fn expected_input(
        &self,
        purpose: Purpose,
        count_limit: reference::MaskCountLimit,
        replacement: Replacement,
    ) -> Corrupted {
        let Replacement { mask_id, vocab_size, mask_share, random_share } = replacement;
        let replacement =
            reference::Replacement { mask_id, vocab_size: vocab_size as u32, mask_share, random_share };
        let mut corrupted = Corrupted { input_ids: self.ids(), ..Corrupted::default() };
        let mut start = 0;
        for sentence in self.masked() {
            let length = sentence.word_starts.len();
            let chosen = reference::whole_word_mask(self.seed, self.step, sentence, purpose, 0, count_limit);
            let positions: Vec<usize> = (0..length).filter(|&position| chosen[position]).collect();
            for &position in &positions {
                let id = &mut corrupted.input_ids[start + position];
                corrupted.labeled_rows.push((start + position) as i32);
                corrupted.targets.push(*id);
                *id = replacement.of(self.seed, self.step, sentence.index, position as u32, *id);
            }
            corrupted.counts.push(positions.len() as i32);
            let places = count_limit.tokens(length).min(length.saturating_sub(2));
            let labeled = corrupted.labeled_rows.len() + places - positions.len();
            corrupted.labeled_rows.resize(labeled, -1);
            corrupted.targets.resize(labeled, IGNORE_INDEX);
            start += length;
        }
        corrupted
    }

    fn run(&self, device: &Device) -> ops::Result<Sampled> {
        let sampling = Sampling {
            seed: self.seed,
            step: self.step,
            sentences: &self.sentences,
            indices: &self.indices,
            ids: &self.ids(),
            count_limit: self.count_limit,
            rows: self.rows,
            inputs: self.replacements.map(|replacement| Some((self.count_limit, replacement))),
        };
        let mut sampler = Sampler::new(device, &sampling)?;
        sampler.sample(&device.stream())?;
        let mut pool = sampler.pool()?;
        if self.rows == PoolRows::Independent {
            pool.rows = self.sentences.iter().flat_map(|words| 0..words.len() as u16).collect();
        }
        let inputs = sampler.inputs.map(|input| {
            let input = input.expect("asked for");
            Corrupted {
                input_ids: input.input_ids.read().unwrap(),
                labeled_rows: input.labeled_rows.read().unwrap(),
                targets: input.targets.read().unwrap(),
                counts: input.counts.read().unwrap(),
            }
        });
        Ok(Sampled { pool, inputs })
    }

    #[track_caller]
    fn check(&self, device: &Device) {
        let (actual, expected) = (self.run(device).unwrap(), self.expected());
        assert_eq!(actual.pool.offsets, expected.pool.offsets);
        assert_eq!(actual.pool.rows, expected.pool.rows);
        let wrong =
            (0..expected.pool.bits.len()).find(|&word| actual.pool.bits[word] != expected.pool.bits[word]);
        assert_eq!(wrong, None, "the first word that differs, of {}", expected.pool.bits.len());
        for (actual, expected) in actual.inputs.iter().zip(&expected.inputs) {
            assert_eq!(actual, expected);
        }
    }
}

#[test]
fn equals_the_reference_for_every_length() {
    let lengths = [1, 2, 3, 17, 31, 32, 33, 63, 64, 65, 96, 127, 128, 129, 200, 511, 512];
    let batch = MaskedBatch::new(lengths.iter().map(|&length| sentence(length as u64, length)).collect());
    for device in devices() {
        batch.check(&device);
    }
}

#[test]
fn equals_the_reference_for_every_pool_size_and_ratio() {
    let sentences: Vec<_> = [5, 70, 40].iter().map(|&length| sentence(length as u64, length)).collect();
    for device in devices() {
        for rows in [1, 31, 32, 33, 64, 100, 300] {
            for ratio in [0.0, 0.15, 0.7, 1.0] {
                let (rows, count_limit) = (PoolRows::AtMost(rows), MaskCountLimit::of(ratio));
                MaskedBatch { rows, count_limit, ..MaskedBatch::new(sentences.clone()) }.check(&device);
            }
        }
    }
}

#[test]
fn every_token_may_have_a_mask_of_its_own() {
    let sentences: Vec<_> = [1, 70, 33].iter().map(|&length| sentence(length as u64, length)).collect();
    for device in devices() {
        MaskedBatch { rows: PoolRows::Independent, ..MaskedBatch::new(sentences.clone()) }.check(&device);
    }
}

#[test]
fn a_cap_bounds_the_count_limit() {
    let capped = |cap| MaskCountLimit { cap: Some(cap), ..MaskCountLimit::of(0.5) };
    for device in devices() {
        for cap in [1, 7, 512] {
            let batch = MaskedBatch {
                count_limit: capped(cap),
                ..MaskedBatch::new(vec![sentence(1, 90), sentence(2, 4)])
            };
            batch.check(&device);
            let counts = batch.run(&device).unwrap().inputs[0].counts.clone();
            assert!(counts[0] as usize <= cap.min(45), "{counts:?}");
        }
    }
}

#[test]
fn odd_sentences_are_masked_alike() {
    let one_word = |tokens| [vec![false, true], vec![false; tokens]].concat();
    let sentences = vec![
        vec![true],
        vec![true, true],
        vec![true, true, true],
        // Only punctuation: every token is a word.
        vec![true; 66],
        // One word, longer than the count limit.
        one_word(60),
        // A last word ends before the last token, however the next sentence begins.
        vec![false, false, false, true, false],
        // Tokens before the first word belong to no word.
        vec![false; 35],
        vec![false, false, false, true, true],
    ];
    for device in devices() {
        MaskedBatch::new(sentences.clone()).check(&device);
        MaskedBatch { count_limit: MaskCountLimit::of(0.1), ..MaskedBatch::new(sentences.clone()) }
            .check(&device);
    }
}

#[test]
fn shares_of_replacement_are_obeyed() {
    let shares = [(0.0, 0.0), (0.0, 1.0), (0.25, 0.5), (1.0, 0.0)];
    for device in devices() {
        for (mask_share, random_share) in shares {
            let replacement =
                Replacement { mask_share, random_share, ..Replacement::bert(MASK_ID, VOCABULARY) };
            MaskedBatch { replacements: [replacement; 2], ..MaskedBatch::new(vec![sentence(1, 200)]) }
                .check(&device);
        }
    }
}

/// Above 1024 tokens the permutations live in the workspace.
#[test]
fn long_sentences_use_the_workspace() {
    let sentences = vec![sentence(1, 1025), sentence(2, 60), sentence(3, 2000), sentence(4, 1024)];
    assert_eq!(masks::workspace(4000, 1024, 128), ops::Workspace::NONE);
    assert_eq!(masks::workspace(10, 1025, 33).bytes(), 2 * 10 * 64);
    for device in devices() {
        MaskedBatch::new(sentences.clone()).check(&device);
        MaskedBatch { rows: PoolRows::AtMost(40), ..MaskedBatch::new(sentences.clone()) }.check(&device);
    }
    MaskedBatch::new(vec![sentence(5, 1024)]).check(&devices()[0]);
    MaskedBatch::new(vec![sentence(6, 3), sentence(7, 8192)]).check(&devices()[0]);
}

#[test]
fn samples_follow_seed_step_and_sentence_and_not_the_place() {
    let device = &devices()[0];
    let sentences = vec![sentence(1, 64), sentence(1, 64)];
    let base = MaskedBatch { indices: vec![3, 4], ..MaskedBatch::new(sentences.clone()) };
    let swapped = MaskedBatch { indices: vec![4, 3], ..MaskedBatch::new(sentences.clone()) };
    let (first, second) = (base.run(device).unwrap(), swapped.run(device).unwrap());
    assert_eq!(first.pool.bits[..128], second.pool.bits[128..]);
    assert_eq!(first.pool.rows[..64], second.pool.rows[64..]);
    assert_eq!(first.inputs[0].counts[0], second.inputs[0].counts[1]);
    assert_ne!(first.pool.bits[..128], first.pool.bits[128..]);
    for other in [
        MaskedBatch { step: 18, ..MaskedBatch::new(sentences.clone()) },
        MaskedBatch { seed: 0x0123_4567_89ab_cdee, ..MaskedBatch::new(sentences.clone()) },
        MaskedBatch { seed: 0x1123_4567_89ab_cdef, ..MaskedBatch::new(sentences) },
    ] {
        let other = MaskedBatch { indices: vec![3, 4], ..other };
        assert_ne!(other.run(device).unwrap(), first);
    }
}

#[test]
fn the_workspace_never_shrinks() {
    let needs: Vec<ops::Workspace> =
        (1..200).map(|i| masks::workspace(i * 100, (i * 100).min(8192), 128)).collect();
    assert!(needs.is_sorted());
}

#[test]
fn wrong_arguments_are_refused() {
    let refuse = |batch: MaskedBatch| batch.run(&devices()[0]).unwrap_err().to_string();
    let batch = || MaskedBatch::new(vec![sentence(1, 10)]);
    let rows = |rows| MaskedBatch { rows: PoolRows::AtMost(rows), ..batch() };
    assert_eq!(refuse(rows(0)), "rows_max is 0; it should be in 1..=65536");
    assert_eq!(
        refuse(MaskedBatch { indices: vec![1, 2], ..batch() }),
        "cu_seqlens is 2 elements long; it should be 3 (sentences + 1)"
    );
    assert_eq!(
        refuse(MaskedBatch::new(vec![vec![true; 8193]])),
        "length_max is 8193; it should be in 1..=8192"
    );
    assert_eq!(
        refuse(MaskedBatch { count_limit: MaskCountLimit::of(1.5), ..batch() }),
        "count_limit is of ratio 1.5; it should be of a ratio in [0, 1]"
    );
    let capped = MaskCountLimit { cap: Some(0), ..MaskCountLimit::of(0.5) };
    assert_eq!(
        refuse(MaskedBatch { count_limit: capped, ..batch() }),
        "count_limit is of cap 0; it should be of a cap of at least 1"
    );
    let replaced = |change: fn(&mut Replacement)| {
        let mut batch = batch();
        change(&mut batch.replacements[1]);
        refuse(batch)
    };
    assert_eq!(
        replaced(|r| r.random_share = 0.2),
        "decoder.replacement is of shares 1 and 0.2; it should be of shares of at least 0 and together at most 1"
    );
    assert_eq!(
        replaced(|r| r.mask_id = 1000),
        "decoder.replacement.mask_id is 1000; it should be in 0..1000"
    );
    assert!(
        replaced(|r| r.vocab_size = 0)
            .starts_with("decoder.replacement.vocab_size is 0; it should be in 1..")
    );
    let message = masks::pool_offsets(&[0, 5, 4], 8).unwrap_err().to_string();
    assert_eq!(message, "cu_seqlens is 5 before 4; it should be never falling");
    let message = masks::pool_offsets(&[0, i32::MAX], 65536).unwrap_err().to_string();
    assert!(message.starts_with("bits is 4398046511104 words; it should be below 2^32 words"), "{message}");
    let message = masks::labeled_offsets(&[0, 5, 4], MaskCountLimit::of(0.5)).unwrap_err().to_string();
    assert_eq!(message, "cu_seqlens is 5 before 4; it should be never falling");
}

/// A sentence of 64 words.
struct OneSentence {
    rng: Buffer<u32>,
    cu_seqlens: Buffer<i32>,
    indices: Buffer<u32>,
    word_starts: Buffer<u32>,
}

impl OneSentence {
    fn new(device: &Device) -> Self {
        Self {
            rng: device.upload(&rng_state(1, 1)).unwrap(),
            cu_seqlens: device.upload(&[0, 64]).unwrap(),
            indices: device.upload(&[0u32]).unwrap(),
            word_starts: device.upload(&[u32::MAX; 2]).unwrap(),
        }
    }

    fn sentences(&self) -> Sentences<'_> {
        Sentences {
            rng: self.rng.view(),
            cu_seqlens: self.cu_seqlens.view(),
            indices: self.indices.view(),
            word_starts: self.word_starts.view(),
            tokens: 64,
            length_max: 64,
        }
    }
}

#[test]
fn something_must_be_sampled_and_lengths_must_fit() {
    let device = &devices()[0];
    let uploaded = OneSentence::new(device);
    let offsets = device.upload(&masks::pool_offsets(&[0, 64], 8).unwrap()).unwrap();
    let sentences = uploaded.sentences();
    let refuse = |sentences: Sentences<'_>, pool: Option<Pool<'_>>| {
        let outputs = Outputs { pool, ..Outputs::default() };
        masks::sample(&device.stream(), sentences, outputs).unwrap_err().to_string()
    };
    assert_eq!(refuse(sentences, None), "pool is absent; it should be given, or an input to corrupt");
    assert_eq!(
        refuse(Sentences { tokens: 65, ..sentences }, None),
        "word_starts is 2 elements long; it should be 3 (ceil(tokens / 32))"
    );
    let mut bits: Buffer<u32> = device.zeros(16).unwrap();
    let mut workspace = device.zeros(0).unwrap();
    let pool = Pool {
        count_limit: MaskCountLimit::of(0.5),
        rows_max: 8,
        offsets: offsets.view(),
        bits: bits.view_mut(),
        rows: None,
        workspace: workspace.view_mut(),
    };
    assert_eq!(
        refuse(sentences, Some(pool)),
        "pool.rows_max is 8; it should be at least 64 (length_max) where every token has a mask of its own"
    );
}
