//! The masks' distribution against that of the collator of RetroMAE's public code, ported from its definition and sampled by a different kind of
//! generator: both are samples, and differ no more than two samples of one distribution do.
//!
//! Bounds are quantiles of chi-square distributions, at most one in 10^5 for each of many comparisons; seeds are fixed.

use super::MaskedBatch;
use crate::common::devices;
use retromae::model::PoolRows;
use retromae::ops::masks::MaskCountLimit;

/// Sentences in a sample.
const SENTENCES: usize = 500;
/// Upper 1e-5 quantile of the chi-square distribution with one degree of freedom.
const ONE_DEGREE: f64 = 19.5;

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * bound as u128) >> 64) as usize
    }
}

/// Setting of a comparison: one sentence's words, sampled over and over, and the mask's options.
struct Setting {
    word_lengths: Vec<usize>,
    ratio: f64,
    cap: Option<usize>,
    rows_max: usize,
}

/// The masks of many sentences: hidden tokens `[sentence][pool row][token]`, and the row that each token reads.
struct Sample {
    hidden: Vec<Vec<Vec<bool>>>,
    rows: Vec<Vec<usize>>,
}

impl Setting {
    fn length(&self) -> usize {
        self.word_lengths.iter().sum::<usize>() + 2
    }

    fn pool_rows(&self) -> usize {
        self.length().min(self.rows_max)
    }

    fn words(&self) -> Vec<Vec<usize>> {
        let mut position = 1;
        let word = |&length: &usize| {
            position += length;
            (position - length..position).collect()
        };
        self.word_lengths.iter().map(word).collect()
    }

    /// Returns the collator's whole-word mask: shuffled words, each covered unless that exceeds the number to predict.
    fn collator_mask(&self, random: &mut SplitMix) -> Vec<bool> {
        let mut candidates = self.words();
        for last in (1..candidates.len()).rev() {
            candidates.swap(last, random.below(last + 1));
        }
        let product = self.length() as f64 * self.ratio;
        let to_even = if product.fract() == 0.5 { 2.0 * (product / 2.0).round() } else { product.round() };
        let to_predict = (to_even as usize).max(1).min(self.cap.unwrap_or(usize::MAX));
        let mut covered = Vec::new();
        for candidate in candidates {
            if covered.len() >= to_predict {
                break;
            }
            if covered.len() + candidate.len() <= to_predict {
                covered.extend(candidate);
            }
        }
        (0..self.length()).map(|position| covered.contains(&position)).collect()
    }

    /// Returns the collator's masks: a set of them, and for each token one of the set.
    fn collator(&self, seed: u64) -> Sample {
        let mut random = SplitMix(seed);
        let (mut hidden, mut rows) = (Vec::new(), Vec::new());
        for _ in 0..SENTENCES {
            hidden.push((0..self.pool_rows()).map(|_| self.collator_mask(&mut random)).collect());
            rows.push((0..self.length()).map(|_| random.below(self.pool_rows())).collect());
        }
        Sample { hidden, rows }
    }

    /// Returns the kernel's masks.
    fn sampled(&self) -> Sample {
        let mut starts = vec![false; self.length()];
        self.words().iter().for_each(|word| starts[word[0]] = true);
        let batch = MaskedBatch {
            count_limit: MaskCountLimit { ratio: self.ratio, cap: self.cap },
            rows: PoolRows::AtMost(self.rows_max),
            ..MaskedBatch::new(vec![starts; SENTENCES])
        };
        let pool = batch.run(&devices()[0]).unwrap().pool;
        let (length, pool_rows, words) = (self.length(), self.pool_rows(), self.length().div_ceil(32));
        let hidden = |b: usize, row: usize, position: usize| {
            pool.bits[(b * pool_rows + row) * words + position / 32] >> (position % 32) & 1 == 0
        };
        let mask = |b, row| (0..length).map(|position| hidden(b, row, position)).collect();
        Sample {
            hidden: (0..SENTENCES).map(|b| (0..pool_rows).map(|row| mask(b, row)).collect()).collect(),
            rows: pool.rows.chunks(length).map(|rows| rows.iter().map(|&row| row.into()).collect()).collect(),
        }
    }
}

impl Sample {
    fn masks(&self) -> impl Iterator<Item = &Vec<bool>> {
        self.hidden.iter().flatten()
    }

    /// Returns the number of pool rows for which `condition` holds, and of the others.
    fn count(&self, condition: impl Fn(&[bool]) -> bool) -> [f64; 2] {
        let all = self.masks().count();
        let held = self.masks().filter(|mask| condition(mask)).count();
        [held as f64, (all - held) as f64]
    }

    /// Returns the number of pool rows that hide 0, 1, … tokens.
    fn sizes(&self, length: usize) -> Vec<f64> {
        let mut counts = vec![0.0; length + 1];
        self.masks().for_each(|mask| counts[mask.iter().filter(|&&hidden| hidden).count()] += 1.0);
        counts
    }

    /// Counts the pairs of a sentence's tokens that see the same tokens except themselves, and the other pairs.
    fn equal_rows(&self) -> [f64; 2] {
        let mut counts = [0.0; 2];
        for (masks, rows) in self.hidden.iter().zip(&self.rows) {
            for second in 1..rows.len() {
                for first in 0..second {
                    let same = masks[rows[first]] == masks[rows[second]];
                    counts[usize::from(!same)] += 1.0;
                }
            }
        }
        counts
    }

    /// Counts the tokens of all sentences that do not see the token at `key`, because of a mask or because they are that token, and those that do.
    /// Tokens that read the same row are not independent samples, so the comparison's bound is stricter than stated.
    fn unseen(&self, key: usize) -> [f64; 2] {
        let mut counts = [0.0; 2];
        for (masks, rows) in self.hidden.iter().zip(&self.rows) {
            for (query, &row) in rows.iter().enumerate() {
                counts[usize::from(query != key && !masks[row][key])] += 1.0;
            }
        }
        counts
    }
}

/// Returns chi-square of two histograms, and its degrees of freedom; bins that are rare in both are merged.
fn two_samples(first: &[f64], second: &[f64]) -> (f64, usize) {
    let (total_first, total_second) = (first.iter().sum::<f64>(), second.iter().sum::<f64>());
    let statistic = |first: f64, second: f64| {
        let difference =
            (total_second / total_first).sqrt() * first - (total_first / total_second).sqrt() * second;
        difference * difference / (first + second)
    };
    let (common, rare): (Vec<_>, Vec<_>) =
        first.iter().zip(second).map(|(&a, &b)| (a, b)).partition(|(a, b)| a + b >= 20.0);
    let rest = rare.into_iter().fold((0.0, 0.0), |sum, (a, b)| (sum.0 + a, sum.1 + b));
    let places: Vec<_> = common.into_iter().chain((rest.0 + rest.1 > 0.0).then_some(rest)).collect();
    (places.iter().map(|&(a, b)| statistic(a, b)).sum(), places.len().saturating_sub(1))
}

/// Returns the upper 1e-5 quantile of a chi-square distribution, by Wilson and Hilferty's approximation.
fn quantile(degrees: usize) -> f64 {
    const NORMAL: f64 = 4.265;
    let nth = 2.0 / (9.0 * degrees as f64);
    degrees as f64 * (1.0 - nth + NORMAL * nth.sqrt()).powi(3)
}

fn compare(setting: &Setting) {
    let (ours, theirs) = (setting.sampled(), setting.collator(0x5eed));
    // Masked tokens a row.
    let (statistic, degrees) = two_samples(&ours.sizes(setting.length()), &theirs.sizes(setting.length()));
    assert!(degrees == 0 || statistic < quantile(degrees), "sizes: {statistic} of {degrees}");
    let count_limit = MaskCountLimit { ratio: setting.ratio, cap: setting.cap }.tokens(setting.length());
    assert!(ours.masks().all(|mask| mask.iter().filter(|&&hidden| hidden).count() <= count_limit));
    let close = |what: &str, ours: [f64; 2], theirs: [f64; 2]| {
        let (statistic, _) = two_samples(&ours, &theirs);
        assert!(statistic < ONE_DEGREE, "{what}: {ours:?}, the collator has {theirs:?}: {statistic}");
    };
    let words = setting.words();
    for (w, word) in words.iter().enumerate() {
        let whole = |mask: &[bool]| word.iter().all(|&position| mask[position]);
        let any = |mask: &[bool]| word.iter().any(|&position| mask[position]);
        assert_eq!(ours.count(whole), ours.count(any), "word {w} is split");
        close(&format!("word {w}"), ours.count(whole), theirs.count(whole));
        // Frequency of two words hidden together: with the single frequencies, their correlation.
        for (v, other) in words.iter().enumerate().take(w) {
            let both = |mask: &[bool]| mask[word[0]] && mask[other[0]];
            close(&format!("words {v} and {w}"), ours.count(both), theirs.count(both));
        }
    }
    for key in 0..setting.length() {
        close(&format!("position {key}"), ours.unseen(key), theirs.unseen(key));
    }
    close("equal rows", ours.equal_rows(), theirs.equal_rows());
}

/// Returns word lengths as in text: most words are of one token.
fn words_of_text() -> Vec<usize> {
    [1, 1, 2, 1, 1, 3, 1].into_iter().cycle().take(24).collect()
}

#[test]
fn masks_are_distributed_as_the_public_collator_s() {
    for (ratio, cap, rows_max) in [(0.5, None, 128), (0.5, None, 8), (0.3, None, 16), (0.7, Some(9), 16)] {
        compare(&Setting { word_lengths: words_of_text(), ratio, cap, rows_max });
    }
}

#[test]
fn long_words_are_passed_over_as_in_the_public_collator() {
    // A count limit of 7 of 22 tokens: most orders leave some of it unused.
    compare(&Setting { word_lengths: vec![4, 6, 5, 5], ratio: 0.3, cap: None, rows_max: 22 });
    // 2.5 and 3.5 tokens round to 2 and 4.
    for words in [3, 5] {
        compare(&Setting { word_lengths: vec![1; words], ratio: 0.5, cap: None, rows_max: 5 });
    }
}

/// A different distribution is detected: the statistics are sharp enough.
#[test]
fn a_different_ratio_or_pool_is_told_apart() {
    let setting = |ratio, rows_max| Setting { word_lengths: words_of_text(), ratio, cap: None, rows_max };
    let (half, less) = (setting(0.5, 16).collator(1), setting(0.47, 16).collator(2));
    let length = setting(0.5, 16).length();
    let (statistic, degrees) = two_samples(&half.sizes(length), &less.sizes(length));
    assert!(statistic > quantile(degrees));
    let other = setting(0.5, 18).collator(3);
    assert!(two_samples(&half.equal_rows(), &other.equal_rows()).0 > ONE_DEGREE);
}

#[test]
fn chosen_tokens_become_what_bert_makes_of_them() {
    const BINS: usize = 10;
    let batch = MaskedBatch::new(vec![vec![true; 130]; SENTENCES]);
    let ids = batch.ids();
    let input = &batch.run(&devices()[0]).unwrap().inputs[0];
    let mut outcomes = [0.0; 3];
    let mut random = [0.0; BINS];
    let mut where_masked = vec![0.0; 130];
    for (&row, &target) in input.labeled_rows.iter().zip(&input.targets).filter(|(row, _)| **row >= 0) {
        let (row, id) = (row as usize, input.input_ids[row as usize]);
        assert_eq!(target, ids[row]);
        match id {
            super::MASK_ID => {
                outcomes[0] += 1.0;
                where_masked[row % 130] += 1.0;
            }
            id if id == target => outcomes[2] += 1.0,
            id => {
                outcomes[1] += 1.0;
                random[id as usize * BINS / super::VOCABULARY] += 1.0;
            }
        }
    }
    let chosen: f64 = outcomes.iter().sum();
    assert_eq!(chosen as i32, input.counts.iter().sum::<i32>());
    let against = |counts: &[f64], expected: &dyn Fn(usize) -> f64| -> f64 {
        counts.iter().enumerate().map(|(i, &count)| (count - expected(i)).powi(2) / expected(i)).sum()
    };
    // A random id is the id itself, or [MASK], with probability 1 / vocabulary each.
    let shares = [0.8001, 0.0998, 0.1001];
    assert!(against(&outcomes, &|i| shares[i] * chosen) < quantile(2), "{outcomes:?}");
    assert!(against(&random, &|_| outcomes[1] / BINS as f64) < quantile(BINS - 1), "{random:?}");
    let inner = &where_masked[1..129];
    assert!(against(inner, &|_| outcomes[0] / 128.0) < quantile(127), "{inner:?}");
}
