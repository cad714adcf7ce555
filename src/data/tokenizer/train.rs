//! A BERT vocabulary learned from text.

use std::collections::HashMap;

use rayon::prelude::*;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

use crate::data::Error;

/// Counts every word of the passages after BERT's normalization; the words are sorted.
pub(super) fn count_words<S: AsRef<str> + Sync>(passages: &[S]) -> Result<Vec<(String, u64)>, Error> {
    /// The model turns longer words into `[UNK]`.
    const LONGEST_WORD: usize = 100;
    let failed =
        |error: tokenizers::Error| Error::Tokenizer { origin: "training".into(), reason: error.to_string() };
    let count = |mut counts: HashMap<String, u64>, passage: &S| {
        let mut normalized = NormalizedString::from(passage.as_ref());
        BertNormalizer::default().normalize(&mut normalized).map_err(failed)?;
        let mut split = PreTokenizedString::from(normalized);
        BertPreTokenizer.pre_tokenize(&mut split).map_err(failed)?;
        for (word, _, _) in split.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            if let Some(count) = counts.get_mut(word) {
                *count += 1;
            } else if word.chars().count() <= LONGEST_WORD {
                counts.insert(word.to_owned(), 1);
            }
        }
        Ok::<_, Error>(counts)
    };
    let merged = |a: HashMap<String, u64>, b: HashMap<String, u64>| {
        let (mut large, small) = if a.len() < b.len() { (b, a) } else { (a, b) };
        for (word, count) in small {
            *large.entry(word).or_default() += count;
        }
        Ok(large)
    };
    let counts = passages.par_iter().try_fold(HashMap::new, count).try_reduce(HashMap::new, merged)?;
    let mut words: Vec<(String, u64)> = counts.into_iter().collect();
    words.sort_unstable();
    Ok(words)
}
