//! Okapi BM25 over words.

use std::collections::HashMap;

/// Saturation of a term's count; Anserini's default.
const K1: f64 = 0.9;
/// Weight of the document's length; Anserini's default.
const B: f64 = 0.4;

/// An inverted index with BM25 scores as Lucene and Anserini compute them.
///
/// A document's score is the sum over the query's words, repeats included, of `idf · tf / (tf + k1 · (1 - b + b · dl / avgdl))`
/// with `idf = ln(1 + (N - df + 0.5) / (df + 0.5))`, `k1 = 0.9`, `b = 0.4`. Words are lower-cased runs of letters and
/// digits; there is no stemming and no list of stop words, so the figures are slightly below Anserini's.
#[derive(Clone, Debug)]
pub struct Bm25 {
    /// (document, count) pairs of each word, documents ascending.
    postings: HashMap<String, Vec<(u32, u32)>>,
    /// Length term of the denominator for each document: `k1 · (1 - b + b · dl / avgdl)`.
    norms: Vec<f64>,
}

impl Bm25 {
    /// Indexes `documents`; a document is identified by its index.
    #[must_use]
    pub fn new<S: AsRef<str>>(documents: &[S]) -> Self {
        let mut postings: HashMap<String, Vec<(u32, u32)>> = HashMap::new();
        let mut lengths = Vec::with_capacity(documents.len());
        for (index, document) in documents.iter().enumerate() {
            let index = index as u32;
            let mut length = 0_u32;
            for word in words(document.as_ref()) {
                length += 1;
                let list = postings.entry(word).or_default();
                match list.last_mut() {
                    Some((last, count)) if *last == index => *count += 1,
                    _ => list.push((index, 1)),
                }
            }
            lengths.push(f64::from(length));
        }
        let average = (lengths.iter().sum::<f64>() / lengths.len().max(1) as f64).max(f64::MIN_POSITIVE);
        let norms = lengths.into_iter().map(|length| K1 * (1.0 - B + B * length / average)).collect();
        Self { postings, norms }
    }

    /// Returns the `[N]` scores of all documents for `query`; 0 for a document that shares no word.
    #[must_use]
    pub fn scores(&self, query: &str) -> Vec<f32> {
        let mut scores = vec![0.0; self.norms.len()];
        for list in words(query).filter_map(|word| self.postings.get(&word)) {
            let found = list.len() as f64;
            let idf = (1.0 + (self.norms.len() as f64 - found + 0.5) / (found + 0.5)).ln();
            for &(document, count) in list {
                let count = f64::from(count);
                scores[document as usize] += idf * count / (count + self.norms[document as usize]);
            }
        }
        scores.into_iter().map(|score| score as f32).collect()
    }
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    #[test]
    fn scores_are_those_worked_by_hand() {
        let index = Bm25::new(&["the cat sat", "The cat, the CAT!", "a dog"]);
        let scores = index.scores("cat mat cat");
        // N = 3, df = 2, idf = ln(1 + 1.5/2.5) = 0.4700036; avgdl = 3.
        // Document 0: tf 1, dl 3, norm 0.9: 0.4700036 / 1.9, twice for the repeated word.
        assert_abs_diff_eq!(scores[0], 2.0 * 0.470_003_6 / 1.9, epsilon = 1e-6);
        // Document 1: tf 2, dl 4, norm 0.9 · (0.6 + 0.4 · 4/3) = 1.02.
        assert_abs_diff_eq!(scores[1], 2.0 * 0.470_003_6 * 2.0 / 3.02, epsilon = 1e-6);
        assert_eq!(scores[2], 0.0);
        assert!(Bm25::new::<&str>(&[]).scores("x").is_empty());
        assert_eq!(Bm25::new(&["", ""]).scores("x"), [0.0, 0.0]);
    }
}
