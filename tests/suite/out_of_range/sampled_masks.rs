//! Sentences, and the offsets of their masks and labels.

use retromae::device::Device;
use retromae::model::IGNORE_INDEX;
use retromae::ops::masks::{self, Corruption, MaskCountLimit, Outputs, Pool, Replacement};
use retromae::ops::rng_state;

use super::ROUNDS;
use crate::common::{devices, garbage};

/// A sampling of pools and inputs of encoder and decoder.
struct Sampling {
    tokens: usize,
    length_max: usize,
    cu_seqlens: Vec<i32>,
    pool_offsets: Vec<u32>,
    bits: usize,
    labeled_offsets: Vec<i32>,
    labeled: usize,
}

#[derive(Debug, PartialEq)]
struct Sampled {
    bits: Vec<u32>,
    pool_rows: Vec<u16>,
    input_ids: Vec<i32>,
    labeled_rows: Vec<i32>,
    targets: Vec<i32>,
    counts: Vec<i32>,
}

impl Sampling {
    fn new(lengths: &[i32]) -> Self {
        let count_limit = MaskCountLimit::of(0.5);
        let mut cu_seqlens = vec![0];
        lengths.iter().for_each(|length| cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length));
        let pool_offsets = masks::pool_offsets(&cu_seqlens, 8).unwrap();
        let labeled_offsets = masks::labeled_offsets(&cu_seqlens, count_limit).unwrap();
        Self {
            tokens: cu_seqlens[lengths.len()] as usize,
            length_max: lengths.iter().copied().max().unwrap_or(1) as usize,
            bits: pool_offsets[lengths.len()] as usize,
            labeled: labeled_offsets[lengths.len()] as usize,
            cu_seqlens,
            pool_offsets,
            labeled_offsets,
        }
    }

    fn run(&self, device: &Device) -> Sampled {
        let sentences = self.cu_seqlens.len() - 1;
        let count_limit = MaskCountLimit::of(0.5);
        let rng = device.upload(&rng_state(3, 4)).unwrap();
        let [cu_seqlens, labeled_offsets] =
            [&self.cu_seqlens, &self.labeled_offsets].map(|array| device.upload(array).unwrap());
        let pool_offsets = device.upload(&self.pool_offsets).unwrap();
        let indices = device.upload(&(0..sentences as u32).collect::<Vec<_>>()).unwrap();
        let word_starts = device.upload(&vec![u32::MAX; self.tokens.div_ceil(32)]).unwrap();
        let ids = device.upload(&(100..100 + self.tokens as i32).collect::<Vec<_>>()).unwrap();
        let mut bits = device.upload(&vec![7u32; self.bits]).unwrap();
        let mut pool_rows = device.upload(&vec![7u16; self.tokens]).unwrap();
        let mut workspace = masks::workspace(self.tokens, self.length_max, 8).allocate(device).unwrap();
        let sevens = |count: usize| device.upload(&vec![7i32; count]).unwrap();
        let mut input_ids = sevens(self.tokens);
        let (mut labeled_rows, mut targets, mut counts) =
            (sevens(self.labeled), sevens(self.labeled), sevens(sentences));
        let sentences = masks::Sentences {
            rng: rng.view(),
            cu_seqlens: cu_seqlens.view(),
            indices: indices.view(),
            word_starts: word_starts.view(),
            tokens: self.tokens,
            length_max: self.length_max,
        };
        let pool = Pool {
            count_limit,
            rows_max: 8,
            offsets: pool_offsets.view(),
            bits: bits.view_mut(),
            rows: Some(pool_rows.view_mut()),
            workspace: workspace.view_mut(),
        };
        let corruption = Corruption {
            count_limit,
            replacement: Replacement::bert(4, 1000),
            ids: ids.view(),
            input_ids: input_ids.view_mut(),
            offsets: labeled_offsets.view(),
            labeled_rows: labeled_rows.view_mut(),
            targets: targets.view_mut(),
            counts: counts.view_mut(),
        };
        let outputs = Outputs { pool: Some(pool), encoder: Some(corruption), ..Outputs::default() };
        masks::sample(&device.stream(), sentences, outputs).unwrap();
        Sampled {
            bits: bits.read().unwrap(),
            pool_rows: pool_rows.read().unwrap(),
            input_ids: input_ids.read().unwrap(),
            labeled_rows: labeled_rows.read().unwrap(),
            targets: targets.read().unwrap(),
            counts: counts.read().unwrap(),
        }
    }
}

#[test]
fn sentences_out_of_range_are_not_masked() {
    for device in devices() {
        let valid = Sampling::new(&[40, 30]).run(&device);
        for end in [90, 3, -1, i32::MAX] {
            let mut sampling = Sampling::new(&[40, 30]);
            sampling.cu_seqlens[2] = end;
            let actual = sampling.run(&device);
            assert_eq!(actual.input_ids[..40], valid.input_ids[..40], "to {end}");
            assert!(actual.input_ids[40..].iter().all(|&id| id == -1), "to {end}: {:?}", actual.input_ids);
            let own = sampling.labeled_offsets[1] as usize;
            assert_eq!(actual.labeled_rows[..own], valid.labeled_rows[..own], "to {end}");
            assert!(actual.labeled_rows[own..].iter().all(|&row| row == -1), "to {end}");
            assert!(actual.targets[own..].iter().all(|&id| id == IGNORE_INDEX), "to {end}");
            assert_eq!(actual.counts, [valid.counts[0], 0], "to {end}");
        }
    }
}

/// Tokens after the last sentence stay unchanged.
#[test]
fn tokens_of_no_sentence_are_not_masked() {
    for device in devices() {
        let valid = Sampling::new(&[40, 30]).run(&device);
        let mut sampling = Sampling::new(&[40, 30]);
        sampling.tokens = 75;
        sampling.labeled += 3;
        let actual = sampling.run(&device);
        assert_eq!(actual.input_ids[..70], valid.input_ids);
        assert_eq!(actual.input_ids[70..], [170, 171, 172, 173, 174]);
        assert_eq!(actual.pool_rows[70..], [0; 5]);
        let labeled = valid.labeled_rows.len();
        assert_eq!(actual.labeled_rows[labeled..], [-1; 3]);
        assert_eq!(actual.targets[labeled..], [IGNORE_INDEX; 3]);
        assert_eq!((actual.bits, actual.counts), (valid.bits, valid.counts));
    }
}

#[test]
fn sampled_masks_stay_within_their_arguments() {
    for device in devices() {
        for lengths in [&[40, 30, 1, 9][..], &[1100, 50]] {
            for seed in 0..ROUNDS {
                let mut sampling = Sampling::new(lengths);
                let count = sampling.cu_seqlens.len();
                match seed % 4 {
                    0 => sampling.cu_seqlens = garbage(seed, count, sampling.tokens + 1),
                    1 => {
                        let samples = garbage(seed, count, sampling.bits);
                        sampling.pool_offsets = samples.into_iter().map(|sample| sample as u32).collect();
                    }
                    2 => sampling.labeled_offsets = garbage(seed, count, sampling.labeled),
                    // Too little room.
                    _ => (sampling.bits, sampling.labeled) = (sampling.bits / 2, sampling.labeled / 2),
                }
                sampling.run(&device);
            }
        }
    }
}
