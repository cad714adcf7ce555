//! Retrieval of held-out passages: the first sentence is the query, the rest is the document to find.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::convert::Infallible;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Bm25;
use crate::common::constants::STREAM_HELD_OUT;
use crate::data::{Permutation, sentences};

/// A shorter query, in words, is too short to identify a document.
const FEWEST_QUERY_WORDS: usize = 6;
/// A shorter document, in words, holds nothing to find.
const FEWEST_DOCUMENT_WORDS: usize = 12;
/// Any model finds one passage alone.
const FEWEST_HELD_OUT: usize = 2;
/// At most one in this many passages is held out, so that a small corpus keeps its training text.
const ONE_IN: usize = 10;
/// Passages of a store examined for each one to hold out: most qualify if they have several sentences, and if hardly any does, the search should
/// not run through the whole store.
const TRIES: usize = 200;
/// Rank beyond which a document counts as not found.
const DEPTH: usize = 10;

/// An error of [`rank_dense`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The vectors were said to have no element.
    #[error("dim was 0; it should be the length of an embedding")]
    NoDimensions,
    /// An array is no whole number of vectors.
    #[error("{name} was {length} numbers long; it should be a multiple of dim = {dim}")]
    Shape {
        /// The argument.
        name: &'static str,
        /// Numbers in the array.
        length: usize,
        /// Numbers in a vector.
        dim: usize,
    },
    /// A vector has an infinite value or NaN, which has no order.
    #[error("{name} has a value that is {value} in row {row}; every one should be finite")]
    NonFinite {
        /// The argument.
        name: &'static str,
        /// Index of the vector.
        row: usize,
        /// The first such value.
        value: f32,
    },
    /// There are fewer documents than queries; query `i` belongs to document `i`.
    #[error("there were {queries} queries for {documents} documents; each query should have its document")]
    MissingDocuments {
        /// Number of queries.
        queries: usize,
        /// Number of documents.
        documents: usize,
    },
}

/// A query and the document that it should find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldOut {
    /// First sentence of a passage.
    pub query: String,
    /// The rest of that passage.
    pub document: String,
}

/// A corpus split into training and held-out passages.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// Passages to train on, in order.
    pub training: Vec<String>,
    /// Passages left out of training, each as a query and its document.
    pub held_out: Vec<HeldOut>,
}

/// Retrieval score: how high a ranking places each query's document among all documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RetrievalScore {
    /// Mean over the queries of 1/rank, counted as 0 beyond rank 10.
    pub mrr_at_10: f32,
    /// Share of the queries whose document is among the first 10; `None` for at most ten documents, because all of them are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall_at_10: Option<f32>,
}

impl RetrievalScore {
    /// Computes the score from the rank of each query's document among as many documents as there are queries, 1 for the best. No ranks score 0.
    #[must_use]
    pub fn from_ranks(ranks: &[usize]) -> Self {
        let found = || ranks.iter().filter(|&&rank| (1..=DEPTH).contains(&rank));
        let queries = ranks.len().max(1) as f64;
        // Not `sum`, which returns -0 for no elements.
        let reciprocals = found().fold(0.0, |sum, &rank| sum + 1.0 / rank as f64);
        Self {
            mrr_at_10: (reciprocals / queries) as f32,
            recall_at_10: (ranks.len() > DEPTH).then(|| (found().count() as f64 / queries) as f32),
        }
    }
}

/// Holds out `count` passages, or a tenth of them if that is less, sampled by `seed`.
///
/// Only passages with a first sentence of at least 6 words and at least 12 words after it are sampled, and only those whose first sentence is
/// neither repeated in the rest nor the first sentence of another one. If only one passage is sampled, none is held out: there would be no other to
/// confuse it with.
#[must_use]
pub fn split_held_out(passages: Vec<String>, count: usize, seed: u64) -> Split {
    let all = u32::try_from(passages.len()).unwrap_or(u32::MAX);
    let text = |index: u32| Ok::<_, Infallible>(passages[index as usize].as_str());
    let Ok((skipped, held_out)) = sample(all, count, all, seed, text);
    let kept = |index: usize| skipped.binary_search(&(index as u32)).is_err();
    let training =
        passages.into_iter().enumerate().filter(|&(index, _)| kept(index)).map(|(_, text)| text).collect();
    Split { training, held_out }
}

/// As [`split_held_out`], for passages that do not fit in memory: returns the indices of the held-out passages, ascending, and the pairs. `text`
/// returns a passage by its index below `passages`.
///
/// # Errors
/// Those of `text`.
pub fn sample_held_out<E>(
    passages: u32,
    count: usize,
    seed: u64,
    text: impl Fn(u32) -> Result<String, E>,
) -> Result<(Vec<u32>, Vec<HeldOut>), E> {
    let tries = u32::try_from(count.saturating_mul(TRIES)).unwrap_or(u32::MAX);
    sample(passages, count, passages.min(tries), seed, text)
}

/// Examines `tries` of the passages.
fn sample<E, S: AsRef<str>>(
    passages: u32,
    count: usize,
    tries: u32,
    seed: u64,
    text: impl Fn(u32) -> Result<S, E>,
) -> Result<(Vec<u32>, Vec<HeldOut>), E> {
    let most = count.min(passages as usize / ONE_IN);
    let order = Permutation::of_stream(seed, STREAM_HELD_OUT, 0, passages);
    let (mut indices, mut held_out) = (Vec::with_capacity(most), Vec::with_capacity(most));
    let mut queries = HashSet::new();
    for index in (0..tries).map(|place| order.at(place)) {
        if indices.len() == most {
            break;
        }
        let pair = query_and_document(text(index)?.as_ref());
        if let Some(pair) = pair.filter(|pair| queries.insert(pair.query.clone())) {
            indices.push(index);
            held_out.push(pair);
        }
    }
    if held_out.len() < FEWEST_HELD_OUT {
        return Ok((Vec::new(), Vec::new()));
    }
    indices.sort_unstable();
    Ok((indices, held_out))
}

fn query_and_document(passage: &str) -> Option<HeldOut> {
    let query = *sentences(passage).first()?;
    let document = passage.trim().strip_prefix(query)?.trim();
    let enough = query.split_whitespace().count() >= FEWEST_QUERY_WORDS
        && document.split_whitespace().count() >= FEWEST_DOCUMENT_WORDS;
    (enough && !document.contains(query))
        .then(|| HeldOut { query: query.to_owned(), document: document.to_owned() })
}

/// Returns the rank of document `i` for query `i` by the dot product: `[Q]`, 1 for the best.
///
/// `queries` is `[Q, dim]` and `documents` `[N, dim]`, `N >= Q`; for the cosine, pass vectors of length 1. A document with the same score as the
/// right one is ranked ahead of it, so that equal embeddings find nothing, and so is one whose score is NaN, as when two large products cancel.
///
/// # Errors
/// [`Error`] if the shapes do not match, or a value is not finite.
pub fn rank_dense(queries: &[f32], documents: &[f32], dim: usize) -> Result<Vec<usize>, Error> {
    if dim == 0 {
        return Err(Error::NoDimensions);
    }
    for (name, array) in [("queries", queries), ("documents", documents)] {
        if !array.len().is_multiple_of(dim) {
            return Err(Error::Shape { name, length: array.len(), dim });
        }
    }
    for (name, array) in [("queries", queries), ("documents", documents)] {
        if let Some(at) = array.iter().position(|value| !value.is_finite()) {
            return Err(Error::NonFinite { name, row: at / dim, value: array[at] });
        }
    }
    if documents.len() < queries.len() {
        return Err(Error::MissingDocuments {
            queries: queries.len() / dim,
            documents: documents.len() / dim,
        });
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let rank = |(index, query): (usize, &[f32])| {
        let scores: Vec<f32> = documents.chunks_exact(dim).map(|document| dot(query, document)).collect();
        rank_of(&scores, index)
    };
    Ok(queries.par_chunks_exact(dim).enumerate().map(rank).collect())
}

/// Returns the rank of each held-out document for its query by [`Bm25`] among all held-out documents: `[Q]`, 1 for the best.
#[must_use]
pub fn rank_bm25(held_out: &[HeldOut]) -> Vec<usize> {
    let documents: Vec<&str> = held_out.iter().map(|pair| pair.document.as_str()).collect();
    let index = Bm25::new(&documents);
    held_out.par_iter().enumerate().map(|(i, pair)| rank_of(&index.scores(&pair.query), i)).collect()
}

/// Returns 1 + the number of other scores that are not below that of `right`.
fn rank_of(scores: &[f32], right: usize) -> usize {
    let ahead = |&(index, &score): &(usize, &f32)| {
        index != right && score.partial_cmp(&scores[right]) != Some(Ordering::Less)
    };
    1 + scores.iter().enumerate().filter(ahead).count()
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    #[test]
    fn scores_of_known_ranks() {
        let score = RetrievalScore::from_ranks(&[1, 2, 10, 11, 12, 13, 1, 1, 1, 1, 1, 90]);
        assert_abs_diff_eq!(score.mrr_at_10, 6.6 / 12.0, epsilon = 1e-7);
        assert_abs_diff_eq!(score.recall_at_10.unwrap(), 8.0 / 12.0, epsilon = 1e-7);
        // All ten documents are among the first ten.
        assert_eq!(RetrievalScore::from_ranks(&[10; 10]).recall_at_10, None);
        let nothing = RetrievalScore::from_ranks(&[]);
        assert_eq!((nothing.mrr_at_10.to_bits(), nothing.recall_at_10), (0, None));
        let nothing = RetrievalScore::from_ranks(&[11; 12]);
        assert_eq!((nothing.mrr_at_10.to_bits(), nothing.recall_at_10), (0, Some(0.0)));
    }

    #[test]
    fn dense_ranks_count_ties_against_the_model() {
        let documents = [1.0, 0.0, 0.0, 1.0, 0.6, 0.8];
        assert_eq!(rank_dense(&[0.9, 0.1, 0.6, 0.7], &documents, 2).unwrap(), [1, 2]);
        assert_eq!(rank_dense(&[1.0; 3], &[1.0; 3], 1).unwrap(), [3, 3, 3], "equal embeddings find nothing");
        // Both scores of the first query are NaN.
        let large = [3e38, -3e38, 3e38, 3e38];
        assert_eq!(rank_dense(&[3e38, 3e38, 1.0, 0.0], &large, 2).unwrap(), [2, 2]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let message = |queries: &[f32], documents: &[f32], dim| {
            rank_dense(queries, documents, dim).unwrap_err().to_string()
        };
        assert!(message(&[1.0], &[1.0], 0).contains("dim was 0"));
        assert!(message(&[1.0; 3], &[1.0; 4], 2).contains("queries was 3 numbers long"));
        assert!(message(&[1.0; 4], &[1.0; 3], 2).contains("documents was 3 numbers long"));
        assert!(message(&[1.0; 4], &[1.0; 2], 2).contains("2 queries for 1 documents"));
        assert!(
            message(&[1.0; 2], &[1.0, 1.0, f32::NAN, 1.0], 2)
                .contains("documents has a value that is NaN in row 1")
        );
        assert!(
            message(&[1.0, f32::INFINITY], &[1.0; 4], 2).contains("queries has a value that is inf in row 0")
        );
    }

    #[test]
    fn held_out_passages_leave_the_training_part() {
        let long = |n: usize| {
            format!(
                "Passage number {n} speaks about something. {}",
                "It goes on for quite a few words. ".repeat(2)
            )
        };
        let mut passages: Vec<String> = (0..40).map(long).collect();
        passages.extend((0..60).map(|n| format!("Short one {n}.")));
        let split = split_held_out(passages.clone(), 8, 1);
        assert_eq!((split.held_out.len(), split.training.len()), (8, 92));
        for HeldOut { query, document } in &split.held_out {
            assert!(!document.contains(query.as_str()));
            assert!(!split.training.iter().any(|text| text.starts_with(query.as_str())));
        }
        assert_eq!(split_held_out(passages.clone(), 8, 1).held_out, split.held_out);
        assert_ne!(split_held_out(passages.clone(), 8, 2).held_out, split.held_out);
        assert_eq!(split_held_out(passages, 50, 1).held_out.len(), 10, "a tenth at most");
        assert!(split_held_out(vec![], 5, 1).held_out.is_empty());
        let repeated = |others: usize| [vec![long(1); 30], (2..2 + others).map(long).collect()].concat();
        assert_eq!(split_held_out(repeated(1), 31, 1).held_out.len(), 2);
        let alone = split_held_out(repeated(0), 3, 1);
        assert_eq!((alone.held_out.len(), alone.training.len()), (0, 30), "one is found by any model");
    }

    #[test]
    fn bm25_finds_documents_that_share_words() {
        let pair = |query: &str, document: &str| HeldOut { query: query.into(), document: document.into() };
        let held_out =
            [pair("red apples", "apples are red"), pair("blue sky", "the sky"), pair("nothing", "is shared")];
        assert_eq!(rank_bm25(&held_out), [1, 1, 3]);
    }
}
