//! WordPiece vocabulary, learned by merging the most frequent neighbors.
//!
//! The algorithm of Hugging Face's `WordPieceTrainer`, with ties between equal counts always broken in the same way: that trainer iterates over a
//! randomly seeded hash map, so two runs give two vocabularies.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

/// The prefix of a piece that continues a word.
pub(super) const CONTINUATION: &str = "##";
/// Pairs seen less often than this are not merged.
const FEWEST_OCCURRENCES: i64 = 2;
/// Maximum number of distinct characters in the vocabulary; the rarest beyond become `[UNK]`.
const MOST_CHARACTERS: usize = 1000;

type Pair = (u32, u32);

/// Returns the tokens of a vocabulary of at most `vocab_size`, in id order: `special`, the characters, then the merges.
///
/// `words` holds each distinct word with its number of occurrences, in a reproducible order.
pub(super) fn learn(words: &[(String, u64)], vocab_size: usize, special: &[&str]) -> Vec<String> {
    let mut vocabulary = Vocabulary::default();
    for token in special {
        vocabulary.id((*token).to_owned());
    }
    // Each character takes up to two places: alone or first in a word, and as a continuation.
    let room = vocab_size.saturating_sub(special.len()) / 4;
    vocabulary.add_characters(words, room.min(MOST_CHARACTERS));
    let mut merger = Merger::new(words, &vocabulary);
    while vocabulary.tokens.len() < vocab_size {
        let Some(pair) = merger.most_frequent() else { break };
        let merged = vocabulary.merged(pair);
        let merged = vocabulary.id(merged);
        merger.merge(pair, merged);
    }
    vocabulary.tokens
}

#[derive(Default)]
struct Vocabulary {
    tokens: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    /// Returns the id of `token`, which is added if it is new.
    fn id(&mut self, token: String) -> u32 {
        let next = self.tokens.len() as u32;
        *self.ids.entry(token).or_insert_with_key(|token| {
            self.tokens.push(token.clone());
            next
        })
    }

    fn add_characters(&mut self, words: &[(String, u64)], most: usize) {
        let mut counts: HashMap<char, u64> = HashMap::new();
        let mut continuing = BTreeSet::new();
        for (word, count) in words {
            for (index, c) in word.chars().enumerate() {
                *counts.entry(c).or_default() += count;
                if index > 0 {
                    continuing.insert(c);
                }
            }
        }
        let mut characters: Vec<(char, u64)> = counts.into_iter().collect();
        characters.sort_unstable_by_key(|&(c, count)| (Reverse(count), c));
        characters.truncate(most);
        characters.sort_unstable();
        for &(c, _) in &characters {
            self.id(c.to_string());
        }
        for &(c, _) in characters.iter().filter(|(c, _)| continuing.contains(c)) {
            self.id(format!("{CONTINUATION}{c}"));
        }
    }

    /// Returns the ids of a word's characters; `None` if one of them is not in the vocabulary.
    fn characters(&self, word: &str) -> Option<Vec<u32>> {
        let token = |(index, c): (usize, char)| {
            let piece = if index == 0 { c.to_string() } else { format!("{CONTINUATION}{c}") };
            self.ids.get(&piece).copied()
        };
        word.chars().enumerate().map(token).collect()
    }

    fn merged(&self, (left, right): Pair) -> String {
        let right = &self.tokens[right as usize];
        format!("{}{}", self.tokens[left as usize], right.strip_prefix(CONTINUATION).unwrap_or(right))
    }
}

/// The words as pieces, with the count of every pair of neighbors.
struct Merger {
    words: Vec<(Vec<u32>, i64)>,
    counts: HashMap<Pair, i64>,
    /// Indices of the words that held the pair at some time; a superset of those that still do.
    holders: HashMap<Pair, Vec<u32>>,
    /// (count, pair), possibly outdated; an entry is checked against `counts` when it comes up.
    queue: BinaryHeap<(i64, Reverse<Pair>)>,
}

impl Merger {
    fn new(words: &[(String, u64)], vocabulary: &Vocabulary) -> Self {
        let pieces =
            words.iter().filter_map(|(word, count)| Some((vocabulary.characters(word)?, *count as i64)));
        let mut merger = Self {
            words: pieces.collect(),
            counts: HashMap::new(),
            holders: HashMap::new(),
            queue: BinaryHeap::new(),
        };
        for (index, (pieces, count)) in merger.words.iter().enumerate() {
            for pair in pairs(pieces) {
                *merger.counts.entry(pair).or_default() += count;
                merger.holders.entry(pair).or_default().push(index as u32);
            }
        }
        merger.queue = merger.counts.iter().map(|(&pair, &count)| (count, Reverse(pair))).collect();
        merger
    }

    /// Returns the pair with the most occurrences; among equals, the one with the smaller ids.
    fn most_frequent(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.queue.pop() {
            let now = self.counts.get(&pair).copied().unwrap_or(0);
            if now == count {
                return (count >= FEWEST_OCCURRENCES).then_some(pair);
            }
            // A pair whose count grew was queued again at that time; one whose count shrank is queued here.
            if now < count && now >= FEWEST_OCCURRENCES {
                self.queue.push((now, Reverse(pair)));
            }
        }
        None
    }

    /// Replaces `pair` by `merged` in every word.
    fn merge(&mut self, pair: Pair, merged: u32) {
        let mut grown = BTreeSet::new();
        for index in self.holders.remove(&pair).unwrap_or_default() {
            let (pieces, count) = &mut self.words[index as usize];
            let after = replaced(pieces, pair, merged);
            if after.len() == pieces.len() {
                continue;
            }
            for old in pairs(pieces) {
                *self.counts.entry(old).or_default() -= *count;
            }
            for new in pairs(&after) {
                *self.counts.entry(new).or_default() += *count;
                if new.0 == merged || new.1 == merged {
                    self.holders.entry(new).or_default().push(index);
                    grown.insert(new);
                }
            }
            *pieces = after;
        }
        self.counts.remove(&pair);
        self.queue.extend(grown.into_iter().map(|pair| (self.counts[&pair], Reverse(pair))));
    }
}

fn pairs(pieces: &[u32]) -> impl Iterator<Item = Pair> + '_ {
    pieces.windows(2).map(|pair| (pair[0], pair[1]))
}

fn replaced(pieces: &[u32], pair: Pair, merged: u32) -> Vec<u32> {
    let mut after = Vec::with_capacity(pieces.len());
    let mut index = 0;
    while index < pieces.len() {
        if pieces[index] == pair.0 && pieces.get(index + 1) == Some(&pair.1) {
            after.push(merged);
            index += 2;
        } else {
            after.push(pieces[index]);
            index += 1;
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_pairs_are_merged_first() {
        let words: Vec<(String, u64)> = [("hug", 10), ("pug", 5), ("pun", 12), ("bun", 4), ("hugs", 5)]
            .map(|(w, n)| (w.to_owned(), n))
            .into();
        let tokens = learn(&words, 1000, &["[UNK]"]);
        // Worked by hand: ##u ##g 20, ##u ##n 16, h ##ug 15, p ##un 12, then 5 twice (smaller ids first) and 4.
        let characters = ["[UNK]", "b", "g", "h", "n", "p", "s", "u", "##g", "##n", "##s", "##u"];
        assert_eq!(tokens[..12], characters);
        assert_eq!(tokens[12..], ["##ug", "##un", "hug", "pun", "pug", "hugs", "bun"]);
        assert_eq!(learn(&words, 29, &["[UNK]"]), tokens, "a quarter of the room holds the 7 characters");
        assert_eq!(
            learn(&words, 9, &["[UNK]"]),
            ["[UNK]", "g", "u", "##g", "##u"],
            "no word has only g and u"
        );
    }
}
