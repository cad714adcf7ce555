//! BERT's WordPiece tokenizer: trained, loaded, saved, and applied to a corpus.

use std::collections::HashMap;
use std::path::Path;

use rayon::prelude::*;
use serde_json::json;
use tokenizers::models::ModelWrapper;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, Tokenizer,
};

use super::sentences::sentences;
use super::{Error, word_piece, write_whole};

/// The special tokens of BERT, in the order of their ids in a vocabulary that [`BertTokenizer::train_word_piece`] makes.
const SPECIAL_TOKENS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// Room for the special tokens and a small alphabet.
const SMALLEST_VOCABULARY: usize = 64;

/// What a token is in its word: the values of [`Passage::word_starts`].
pub mod word_kind {
    /// Continues the word of the token before it.
    pub const CONTINUATION: u8 = 0;
    /// Begins a word.
    pub const START: u8 = 1;
    /// Belongs to no word: `[CLS]`, `[SEP]`, `[PAD]`.
    pub const SPECIAL: u8 = 2;
}

/// The ids of BERT's special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    pub pad: u32,
    pub unk: u32,
    pub cls: u32,
    pub sep: u32,
    pub mask: u32,
}

/// One tokenized passage: `[CLS]`, at least one token, `[SEP]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passage {
    /// `[L]` token ids.
    pub ids: Vec<u32>,
    /// `[L]` one of [`word_kind`] for each token.
    pub word_starts: Vec<u8>,
}

/// All passages of a corpus, tokenized, in its order.
#[derive(Clone, Debug, Default)]
pub struct EncodedCorpus {
    pub passages: Vec<Passage>,
    pub report: EncodeReport,
}

/// What became of the texts of a corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EncodeReport {
    pub texts: usize,
    pub passages: usize,
    /// Tokens of all passages, special ones included.
    pub tokens: usize,
    /// Tokens that the vocabulary does not know.
    pub unknown_tokens: usize,
    /// Texts without a token.
    pub skipped_empty: usize,
    /// Texts longer than the limit, which became several passages.
    pub split: usize,
    /// Of the cuts, how many fell inside a sentence, because it alone was longer than the limit.
    pub cut_in_sentence: usize,
}

/// A WordPiece tokenizer with BERT's special tokens.
#[derive(Clone, Debug)]
pub struct BertTokenizer {
    tokenizer: Tokenizer,
    special: SpecialTokens,
    /// The tokens in id order.
    tokens: Vec<String>,
    /// For each id, one of [`word_kind`].
    kinds: Vec<u8>,
    lowercase: bool,
}

impl BertTokenizer {
    /// Learns an uncased vocabulary of at most `vocab_size` tokens: the same passages always give the same vocabulary.
    ///
    /// A small corpus gives fewer tokens than asked for: see [`Self::vocab_size`].
    ///
    /// # Errors
    /// [`Error::VocabSize`] below 64; [`Error::NoPassages`].
    pub fn train_word_piece<S: AsRef<str> + Sync>(passages: &[S], vocab_size: usize) -> Result<Self, Error> {
        if vocab_size < SMALLEST_VOCABULARY {
            return Err(Error::VocabSize { vocab_size, minimum: SMALLEST_VOCABULARY });
        }
        if passages.is_empty() {
            return Err(Error::NoPassages);
        }
        let words = count_words(passages)?;
        let tokens = word_piece::learn(&words, vocab_size, &SPECIAL_TOKENS);
        Self::from_tokens(&tokens, true, "trained")
    }

    /// Loads `vocab.txt`, `tokenizer.json`, or the latter or former of a directory that holds them.
    ///
    /// With `vocab.txt`, the `do_lower_case` of a `tokenizer_config.json` beside it is obeyed; without one the text is
    /// lower-cased.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::TokenizerPath`], [`Error::DuplicateToken`], [`Error::Tokenizer`] for a file of another
    /// kind, [`Error::MissingSpecialTokens`].
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let unreadable = |source| Error::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(unreadable)?.is_dir() {
            let inside = ["tokenizer.json", "vocab.txt"].map(|name| path.join(name));
            let found = inside.iter().find(|file| file.is_file());
            return Self::from_path(found.ok_or_else(|| Error::TokenizerPath { path: path.to_owned() })?);
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Self::from_json(&text, path),
            Some("txt") => Self::from_vocabulary(&text, path),
            _ => Err(Error::TokenizerPath { path: path.to_owned() }),
        }
    }

    fn from_json(text: &str, path: &Path) -> Result<Self, Error> {
        let origin = path.display().to_string();
        let mut tokenizer = Tokenizer::from_bytes(text.as_bytes())
            .map_err(|error| Error::Tokenizer { origin: origin.clone(), reason: error.to_string() })?;
        // Lengths are this crate's affair, and padding is never wanted.
        tokenizer.with_padding(None);
        let _ = tokenizer.with_truncation(None);
        let normalizer: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        let lowercase = normalizer["normalizer"]["lowercase"].as_bool().unwrap_or(true);
        Self::from_tokenizer(tokenizer, lowercase, &origin)
    }

    fn from_vocabulary(text: &str, path: &Path) -> Result<Self, Error> {
        let tokens: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
        let mut lines = HashMap::new();
        for (index, token) in tokens.iter().enumerate() {
            if let Some(first) = lines.insert(token, index + 1) {
                let token = token.clone();
                return Err(Error::DuplicateToken { path: path.to_owned(), token, first, second: index + 1 });
            }
        }
        let config = std::fs::read(path.with_file_name("tokenizer_config.json")).unwrap_or_default();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap_or_default();
        let lowercase = config["do_lower_case"].as_bool().unwrap_or(true);
        Self::from_tokens(&tokens, lowercase, &path.display().to_string())
    }

    /// BERT's pipeline around a vocabulary in id order.
    fn from_tokens(tokens: &[String], lowercase: bool, origin: &str) -> Result<Self, Error> {
        let failed = |reason: String| Error::Tokenizer { origin: origin.to_owned(), reason };
        let special =
            special_tokens(origin, |token| tokens.iter().position(|t| t == token).map(|id| id as u32))?;
        let vocabulary =
            WordPiece::read_bytes(tokens.join("\n").as_bytes()).map_err(|e| failed(e.to_string()))?;
        let model = WordPiece::builder()
            .vocab(vocabulary)
            .unk_token("[UNK]".into())
            .build()
            .map_err(|e| failed(e.to_string()))?;
        let mut tokenizer = Tokenizer::new(model);
        tokenizer
            .with_normalizer(Some(BertNormalizer::new(true, true, None, lowercase)))
            .map_err(|e| failed(e.to_string()))?;
        tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        tokenizer.with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()));
        tokenizer.with_post_processor(Some(template(special).map_err(failed)?));
        let added = SPECIAL_TOKENS.map(|token| AddedToken::from(token, true));
        tokenizer.add_special_tokens(added).map_err(|e| failed(e.to_string()))?;
        Self::from_tokenizer(tokenizer, lowercase, origin)
    }

    fn from_tokenizer(mut tokenizer: Tokenizer, lowercase: bool, origin: &str) -> Result<Self, Error> {
        let failed = |reason: String| Error::Tokenizer { origin: origin.to_owned(), reason };
        let ModelWrapper::WordPiece(model) = tokenizer.get_model() else {
            return Err(failed("its model should be WordPiece".into()));
        };
        let prefix = model.continuing_subword_prefix.clone();
        let special = special_tokens(origin, |token| tokenizer.token_to_id(token))?;
        let vocabulary = tokenizer.get_vocab(true);
        let mut tokens = vec![None; vocabulary.len()];
        for (token, id) in vocabulary {
            match tokens.get_mut(id as usize) {
                Some(place) => *place = Some(token),
                None => return Err(failed(format!("token {token:?} has id {id}; ids should have no gaps"))),
            }
        }
        let tokens: Option<Vec<String>> = tokens.into_iter().collect();
        let tokens =
            tokens.ok_or_else(|| failed("two tokens share an id; ids should have no gaps".into()))?;
        let mut kinds: Vec<u8> = tokens
            .iter()
            .map(|token| {
                if token.starts_with(&prefix) && *token != prefix {
                    word_kind::CONTINUATION
                } else {
                    word_kind::START
                }
            })
            .collect();
        for id in [special.pad, special.cls, special.sep] {
            kinds[id as usize] = word_kind::SPECIAL;
        }
        // A passage that spells out "[SEP]" is talking about the token, and must not contain it.
        tokenizer.set_encode_special_tokens(true);
        Ok(Self { tokenizer, special, tokens, kinds, lowercase })
    }

    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    #[must_use]
    pub fn special_tokens(&self) -> SpecialTokens {
        self.special
    }

    /// The token of `id`, or none beyond the vocabulary.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(String::as_str)
    }

    /// Writes `vocab.txt`, `tokenizer.json` and `tokenizer_config.json` into `directory`, each whole or not at all, as
    /// Hugging Face's `BertTokenizerFast` reads them. `max_len` is the model's longest passage.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Tokenizer`].
    pub fn save(&self, directory: impl AsRef<Path>, max_len: usize) -> Result<(), Error> {
        let directory = directory.as_ref();
        let failed = |reason: String| Error::Tokenizer { origin: directory.display().to_string(), reason };
        let tokenizer = self.tokenizer.to_string(true).map_err(|e| failed(e.to_string()))?;
        let config = json!({
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.lowercase,
            "strip_accents": null,
            "tokenize_chinese_chars": true,
            "model_max_length": max_len,
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        });
        let mut vocabulary = self.tokens.join("\n");
        vocabulary.push('\n');
        write_whole(&directory.join("vocab.txt"), vocabulary.as_bytes())?;
        write_whole(&directory.join("tokenizer_config.json"), format!("{config:#}\n").as_bytes())?;
        write_whole(&directory.join("tokenizer.json"), tokenizer.as_bytes())
    }

    /// The first `max_len` tokens of `text`, `[CLS]` and `[SEP]` included; what is beyond is cut off.
    ///
    /// # Errors
    /// [`Error::MaxLen`] below 3; [`Error::Tokenizer`].
    pub fn encode(&self, text: &str, max_len: usize) -> Result<Passage, Error> {
        let room = content_room(max_len)?;
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|e| self.failed(&*e))?;
        let ids = encoding.get_ids();
        Ok(self.passage(&ids[..ids.len().min(room)]))
    }

    /// All texts as passages of at most `max_len` tokens, in parallel and in order.
    ///
    /// A longer text becomes several passages that end where sentences do; a sentence that alone is longer is cut
    /// between words. Nothing is lost but texts without a token, which are counted.
    ///
    /// # Errors
    /// [`Error::MaxLen`] below 3; [`Error::NothingEncoded`] when no passage comes out; [`Error::Tokenizer`].
    pub fn encode_corpus<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        max_len: usize,
    ) -> Result<EncodedCorpus, Error> {
        let room = content_room(max_len)?;
        let parts = texts.par_iter().map(|text| self.encode_whole(text.as_ref(), room));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let mut report = EncodeReport { texts: texts.len(), ..EncodeReport::default() };
        let mut passages = Vec::with_capacity(parts.len());
        for (part, cuts) in parts {
            report.skipped_empty += usize::from(part.is_empty());
            report.split += usize::from(part.len() > 1);
            report.cut_in_sentence += cuts;
            passages.extend(part);
        }
        if passages.is_empty() {
            return Err(Error::NothingEncoded { texts: texts.len() });
        }
        report.passages = passages.len();
        report.tokens = passages.iter().map(|passage| passage.ids.len()).sum();
        let unknown = |passage: &Passage| passage.ids.iter().filter(|&&id| id == self.special.unk).count();
        report.unknown_tokens = passages.iter().map(unknown).sum();
        Ok(EncodedCorpus { passages, report })
    }

    /// The passages of one text, and how many cuts fell inside a sentence.
    fn encode_whole(&self, text: &str, room: usize) -> Result<(Vec<Passage>, usize), Error> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|e| self.failed(&*e))?;
        let ids = encoding.get_ids();
        if ids.is_empty() {
            return Ok((Vec::new(), 0));
        }
        if ids.len() <= room {
            return Ok((vec![self.passage(ids)], 0));
        }
        let encoding = self.tokenizer.encode(text, false).map_err(|e| self.failed(&*e))?;
        let (ids, offsets) = (encoding.get_ids(), encoding.get_offsets());
        let ends = sentence_ends(text, offsets);
        let mut passages = Vec::new();
        let (mut start, mut cuts) = (0, 0);
        while start < ids.len() {
            let farthest = ids.len().min(start + room);
            let in_reach = ends.partition_point(|&end| end <= farthest);
            let sentence = in_reach.checked_sub(1).map(|last| ends[last]).filter(|&end| end > start);
            let end = sentence.unwrap_or_else(|| {
                cuts += 1;
                (start + 1..=farthest)
                    .rev()
                    .find(|&at| self.kind(ids[at]) != word_kind::CONTINUATION)
                    .unwrap_or(farthest)
            });
            passages.push(self.passage(&ids[start..end]));
            start = end;
        }
        Ok((passages, cuts))
    }

    fn kind(&self, id: u32) -> u8 {
        self.kinds[id as usize]
    }

    /// `[CLS]` `content` `[SEP]`; the first token of the content begins a word, even if a cut fell inside one.
    fn passage(&self, content: &[u32]) -> Passage {
        let mut passage = Passage {
            ids: Vec::with_capacity(content.len() + 2),
            word_starts: Vec::with_capacity(content.len() + 2),
        };
        passage.ids.push(self.special.cls);
        passage.ids.extend_from_slice(content);
        passage.ids.push(self.special.sep);
        passage.word_starts.extend(passage.ids.iter().map(|&id| self.kind(id)));
        if !content.is_empty() {
            passage.word_starts[1] = passage.word_starts[1].max(word_kind::START);
        }
        passage
    }

    fn failed(&self, error: &(dyn std::error::Error + Send + Sync)) -> Error {
        Error::Tokenizer { origin: "encode".into(), reason: error.to_string() }
    }
}

/// How many tokens fit between `[CLS]` and `[SEP]`.
fn content_room(max_len: usize) -> Result<usize, Error> {
    if max_len < 3 { Err(Error::MaxLen { max_len }) } else { Ok(max_len - 2) }
}

/// For each sentence, the number of tokens of the text up to its end, ascending.
fn sentence_ends(text: &str, offsets: &[(usize, usize)]) -> Vec<usize> {
    let begin = text.as_ptr() as usize;
    let ends = sentences(text).into_iter().map(|sentence| {
        let end = sentence.as_ptr() as usize - begin + sentence.len();
        offsets.partition_point(|&(_, token_end)| token_end <= end)
    });
    ends.collect()
}

fn special_tokens(origin: &str, id: impl Fn(&str) -> Option<u32>) -> Result<SpecialTokens, Error> {
    let ids = SPECIAL_TOKENS.map(&id);
    if let [Some(pad), Some(unk), Some(cls), Some(sep), Some(mask)] = ids {
        return Ok(SpecialTokens { pad, unk, cls, sep, mask });
    }
    let missing: Vec<&str> =
        SPECIAL_TOKENS.into_iter().zip(ids).filter(|(_, id)| id.is_none()).map(|(t, _)| t).collect();
    Err(Error::MissingSpecialTokens { origin: origin.to_owned(), missing: missing.join(", ") })
}

fn template(special: SpecialTokens) -> Result<TemplateProcessing, String> {
    TemplateProcessing::builder()
        .try_single("[CLS]:0 $A:0 [SEP]:0")?
        .try_pair("[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1")?
        .special_tokens(vec![("[CLS]", special.cls), ("[SEP]", special.sep)])
        .build()
        .map_err(|error| error.to_string())
}

/// Every word of the passages after BERT's normalization with its number of occurrences, sorted.
fn count_words<S: AsRef<str> + Sync>(passages: &[S]) -> Result<Vec<(String, u64)>, Error> {
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
        Ok(counts)
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
