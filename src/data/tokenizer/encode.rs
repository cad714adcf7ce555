//! From text to passages.

use rayon::prelude::*;
use tokenizers::{Model, OffsetReferential, OffsetType, PreTokenizer};

use super::Tokenizer;
use crate::data::sentences::sentences;
use crate::data::{Error, Passages};

/// All passages of a corpus, tokenized, in order.
#[derive(Clone, Debug, Default)]
pub struct EncodedCorpus {
    /// Token ids of each passage, special tokens included.
    pub passages: Passages,
    /// Counts for all texts.
    pub report: EncodeReport,
}

/// Counts for the texts of a corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EncodeReport {
    /// Texts that were given.
    pub texts: usize,
    /// Passages that they became; a text longer than the limit becomes several.
    pub passages: usize,
    /// Tokens of all passages, special ones included.
    pub tokens: usize,
    /// Unknown tokens, those of duplicates included.
    pub unknown_tokens: usize,
    /// Texts without a token.
    pub skipped_empty: usize,
    /// Texts longer than the limit, split into several passages.
    pub split: usize,
    /// Cuts inside a sentence that alone was longer than the limit.
    pub cut_in_sentence: usize,
    /// Passages that a store leaves out because an earlier one has the same tokens.
    #[serde(default)]
    pub duplicates: usize,
}

impl EncodeReport {
    pub(crate) fn add(&mut self, other: &Self) {
        self.texts += other.texts;
        self.passages += other.passages;
        self.tokens += other.tokens;
        self.unknown_tokens += other.unknown_tokens;
        self.skipped_empty += other.skipped_empty;
        self.split += other.split;
        self.cut_in_sentence += other.cut_in_sentence;
        self.duplicates += other.duplicates;
    }
}

/// The tokens of one text.
#[derive(Default)]
struct Tokens {
    ids: Vec<u32>,
    /// For each token, whether it begins a word.
    starts: Vec<bool>,
    /// Points of the text between two tokens, ascending: (bytes, tokens) before the point.
    places: Vec<(usize, usize)>,
    unknown: usize,
}

impl Tokenizer {
    /// Returns the ids of the first `max_len` tokens of `text`, the surrounding special ones included; the rest is cut off.
    ///
    /// # Errors
    /// [`Error::MaxLen`] below 3; [`Error::Tokenizer`].
    pub fn encode(&self, text: &str, max_len: usize) -> Result<Vec<u32>, Error> {
        let room = content_room(max_len)?;
        let Tokens { ids: mut content, .. } = self.tokens_of(text)?;
        content.truncate(room);
        Ok([&[self.special.cls][..], &content, &[self.special.sep]].concat())
    }

    /// Tokenizes all texts into passages of at most `max_len` tokens, in parallel and in order.
    ///
    /// A longer text becomes several passages that end with sentences; a sentence that alone is longer is cut between words. Nothing is lost but
    /// texts without a token, which are counted.
    ///
    /// # Errors
    /// [`Error::MaxLen`] below 3; [`Error::NothingEncoded`] if there is no passage; [`Error::Tokenizer`].
    pub fn encode_corpus<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        max_len: usize,
    ) -> Result<EncodedCorpus, Error> {
        let mut corpus = EncodedCorpus::default();
        for part in self.encode_texts(texts, max_len)? {
            corpus.passages.append(&part.passages);
            corpus.report.add(&part.report);
        }
        if corpus.passages.is_empty() {
            return Err(Error::NothingEncoded { texts: texts.len() });
        }
        Ok(corpus)
    }

    /// Returns the passages of each text, in parallel and in order, as [`Self::encode_corpus`] makes them.
    ///
    /// # Errors
    /// [`Error::MaxLen`] below 3; [`Error::Tokenizer`].
    pub fn encode_texts<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        max_len: usize,
    ) -> Result<Vec<EncodedCorpus>, Error> {
        let room = content_room(max_len)?;
        texts.par_iter().map(|text| self.encode_whole(text.as_ref(), room)).collect()
    }

    /// Returns the passages of one text.
    fn encode_whole(&self, text: &str, room: usize) -> Result<EncodedCorpus, Error> {
        let mut tokens = self.tokens_of(text)?;
        let mut encoded = EncodedCorpus::default();
        let ends = if tokens.ids.len() <= room {
            Vec::new()
        } else {
            // A piece that alone is too long can be cut only with the offset of each of its tokens.
            if tokens.places.windows(2).any(|pair| pair[1].1 - pair[0].1 > room) {
                tokens.places = self.places_of_tokens(text, &tokens)?;
            }
            sentence_ends(text, &tokens.places)
        };
        let (mut start, mut cuts) = (0, 0);
        while start < tokens.ids.len() {
            let end = tokens.cut(start, room, &ends, &mut cuts);
            self.push(&mut encoded.passages, &tokens, start..end);
            start = end;
        }
        encoded.report = EncodeReport {
            texts: 1,
            passages: encoded.passages.len(),
            tokens: encoded.passages.tokens(),
            unknown_tokens: tokens.unknown,
            skipped_empty: usize::from(encoded.passages.is_empty()),
            split: usize::from(encoded.passages.len() > 1),
            cut_in_sentence: cuts,
            duplicates: 0,
        };
        Ok(encoded)
    }

    fn push(&self, passages: &mut Passages, tokens: &Tokens, range: std::ops::Range<usize>) {
        let content = &tokens.ids[range.clone()];
        let starts = &tokens.starts[range];
        passages.push(self.special.cls, content, self.special.sep, |at| starts[at]);
    }

    /// Runs the `tokenizers` pipeline piece by piece, so that word starts are known without the offset of every token.
    fn tokens_of(&self, text: &str) -> Result<Tokens, Error> {
        let pipeline = &self.pipeline;
        let failed = |error: tokenizers::Error| self.failed(&*error);
        let mut pieces =
            pipeline.get_added_vocabulary().extract_and_normalize(pipeline.get_normalizer(), text);
        if let Some(pre_tokenizer) = pipeline.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(failed)?;
        }
        let mut tokens = Tokens { places: vec![(0, 0)], ..Tokens::default() };
        for (piece, (_, end), added) in pieces.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            match added {
                Some(added) => self.extend(&mut tokens, added),
                None => self.extend(&mut tokens, &pipeline.get_model().tokenize(piece).map_err(failed)?),
            }
            tokens.places.push((end, tokens.ids.len()));
        }
        Ok(tokens)
    }

    /// Appends the tokens of one piece.
    fn extend(&self, tokens: &mut Tokens, piece: &[tokenizers::Token]) {
        let mut first = true;
        for token in piece {
            let mut id = token.id;
            if self.special.is_reserved(id) {
                // Some models recognize special tokens by their spelling.
                let Some(unk) = self.special.unk else { continue };
                id = unk;
            }
            tokens.unknown += usize::from(Some(id) == self.special.unk);
            tokens.ids.push(id);
            tokens.starts.push(first || self.begins_word.get(id as usize).copied().unwrap_or(false));
            first = false;
        }
    }

    /// Returns [`Tokens::places`] with one point after each token.
    fn places_of_tokens(&self, text: &str, tokens: &Tokens) -> Result<Vec<(usize, usize)>, Error> {
        let encoding = self.pipeline.encode(text, false).map_err(|error| self.failed(&*error))?;
        let offsets = encoding.get_offsets();
        if offsets.len() != tokens.ids.len() {
            // The counts differ only if special tokens were spelled out and dropped.
            return Ok(tokens.places.clone());
        }
        Ok(offsets.iter().enumerate().map(|(index, &(_, end))| (end, index + 1)).collect())
    }

    fn failed(&self, error: &(dyn std::error::Error + Send + Sync)) -> Error {
        Error::Tokenizer { origin: "encode".into(), reason: error.to_string() }
    }
}

impl Tokens {
    /// Returns the end of the passage that begins at `start`: the last of the sentence `ends` in reach, else before a word.
    fn cut(&self, start: usize, room: usize, ends: &[usize], cuts: &mut usize) -> usize {
        let farthest = start + room;
        if farthest >= self.ids.len() {
            return self.ids.len();
        }
        let in_reach = ends.partition_point(|&end| end <= farthest);
        let sentence = in_reach.checked_sub(1).map(|last| ends[last]).filter(|&end| end > start);
        sentence.unwrap_or_else(|| {
            *cuts += 1;
            (start + 1..=farthest).rev().find(|&at| self.starts[at]).unwrap_or(farthest)
        })
    }
}

/// Returns the number of tokens that fit between the special ones.
fn content_room(max_len: usize) -> Result<usize, Error> {
    if max_len < 3 { Err(Error::MaxLen { max_len }) } else { Ok(max_len - 2) }
}

/// Returns, for each sentence, the number of tokens of the text up to its end, ascending.
fn sentence_ends(text: &str, places: &[(usize, usize)]) -> Vec<usize> {
    let begin = text.as_ptr() as usize;
    let ends = sentences(text).into_iter().map(|sentence| {
        let end = sentence.as_ptr() as usize - begin + sentence.len();
        let before = places.partition_point(|&(bytes, _)| bytes <= end);
        before.checked_sub(1).map_or(0, |last| places[last].1)
    });
    ends.collect()
}
