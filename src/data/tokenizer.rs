//! The tokenizer: BERT's WordPiece, trained or loaded, or whatever a `tokenizer.json` holds; saved, and applied to a corpus.

use std::collections::HashMap;
use std::path::Path;

use rayon::prelude::*;
use serde_json::{Value, json};
use tokenizers::models::ModelWrapper;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, Encoding, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, Tokenizer as Pipeline,
};

use super::sentences::sentences;
use super::{Error, word_piece, write_whole};

/// The special tokens of BERT, in the order of their ids in a vocabulary that [`Tokenizer::train_word_piece`] makes.
const SPECIAL_TOKENS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// What a `tokenizer_config.json` calls them, and what other models do.
const SPECIAL_ROLES: [(&str, &str); 5] = [
    ("pad_token", "<pad>"),
    ("unk_token", "<unk>"),
    ("cls_token", "<s>"),
    ("sep_token", "</s>"),
    ("mask_token", "<mask>"),
];
/// What a space before a word has become, in SentencePiece and in byte-level BPE.
const WORD_MARKS: [char; 2] = ['\u{2581}', '\u{120}'];
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

/// The ids of the special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    pub pad: u32,
    /// Byte-level vocabularies may do without.
    pub unk: Option<u32>,
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

/// A tokenizer with the special tokens that the objective needs.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    pipeline: Pipeline,
    special: SpecialTokens,
    /// The tokens in id order.
    tokens: Vec<String>,
    words: Words,
}

/// How it is told where words start.
#[derive(Clone, Debug)]
enum Words {
    /// WordPiece: for each id, whether it continues a word.
    Continuations { continues: Vec<bool>, lowercase: bool },
    /// By the words of the pre-tokenizer, and the marks of spaces where that does not split.
    Splits {
        /// `tokenizer_class` of Hugging Face.
        class: String,
        /// For each id, whether it begins with a mark.
        marked: Vec<bool>,
    },
}

impl Tokenizer {
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
    /// lower-cased. A `tokenizer.json` may be of any kind, WordPiece, BPE or Unigram. Its special tokens are those that a
    /// `tokenizer_config.json` beside it names, else BERT's (`[CLS]` …) or RoBERTa's (`<s>` …).
    ///
    /// Words start, in WordPiece, with every token that does not continue one (`##…`); else with every word of the
    /// pre-tokenizer, and where a token begins with the mark of a space (`▁`, `Ġ`), as some do not split.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::TokenizerPath`], [`Error::DuplicateToken`], [`Error::Tokenizer`] for a file that is no
    /// tokenizer, [`Error::MissingSpecialTokens`].
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
        let mut pipeline = Pipeline::from_bytes(text.as_bytes())
            .map_err(|error| Error::Tokenizer { origin: origin.clone(), reason: error.to_string() })?;
        // Lengths are this crate's affair, and padding is never wanted.
        pipeline.with_padding(None);
        let _ = pipeline.with_truncation(None);
        let normalizer: Value = serde_json::from_str(text).unwrap_or_default();
        let lowercase = normalizer["normalizer"]["lowercase"].as_bool().unwrap_or(true);
        Self::from_pipeline(pipeline, lowercase, &config_beside(path), &origin)
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
        let lowercase = config_beside(path)["do_lower_case"].as_bool().unwrap_or(true);
        Self::from_tokens(&tokens, lowercase, &path.display().to_string())
    }

    /// BERT's pipeline around a vocabulary in id order.
    fn from_tokens(tokens: &[String], lowercase: bool, origin: &str) -> Result<Self, Error> {
        let failed = |reason: String| Error::Tokenizer { origin: origin.to_owned(), reason };
        let id = |token: &str| tokens.iter().position(|t| t == token).map(|id| id as u32);
        let special = special_tokens(origin, &Value::Null, id)?;
        let vocabulary =
            WordPiece::read_bytes(tokens.join("\n").as_bytes()).map_err(|e| failed(e.to_string()))?;
        let model = WordPiece::builder()
            .vocab(vocabulary)
            .unk_token("[UNK]".into())
            .build()
            .map_err(|e| failed(e.to_string()))?;
        let mut pipeline = Pipeline::new(model);
        pipeline
            .with_normalizer(Some(BertNormalizer::new(true, true, None, lowercase)))
            .map_err(|e| failed(e.to_string()))?;
        pipeline.with_pre_tokenizer(Some(BertPreTokenizer));
        pipeline.with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()));
        pipeline.with_post_processor(Some(template(special).map_err(failed)?));
        let added = SPECIAL_TOKENS.map(|token| AddedToken::from(token, true));
        pipeline.add_special_tokens(added).map_err(|e| failed(e.to_string()))?;
        Self::from_pipeline(pipeline, lowercase, &Value::Null, origin)
    }

    fn from_pipeline(
        mut pipeline: Pipeline,
        lowercase: bool,
        config: &Value,
        origin: &str,
    ) -> Result<Self, Error> {
        let failed = |reason: String| Error::Tokenizer { origin: origin.to_owned(), reason };
        let special = special_tokens(origin, config, |token| pipeline.token_to_id(token))?;
        let vocabulary = pipeline.get_vocab(true);
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
        let words = if let ModelWrapper::WordPiece(model) = pipeline.get_model() {
            if special.unk.is_none() {
                return Err(Error::MissingSpecialTokens {
                    origin: origin.to_owned(),
                    missing: "[UNK]".into(),
                });
            }
            let prefix = &model.continuing_subword_prefix;
            let continues = tokens.iter().map(|token| token.starts_with(prefix) && token != prefix);
            Words::Continuations { continues: continues.collect(), lowercase }
        } else {
            let class = config["tokenizer_class"].as_str().unwrap_or("PreTrainedTokenizerFast").to_owned();
            Words::Splits {
                class,
                marked: tokens.iter().map(|token| token.starts_with(WORD_MARKS)).collect(),
            }
        };
        // A passage that spells out "[SEP]" is talking about the token, and must not contain it.
        pipeline.set_encode_special_tokens(true);
        Ok(Self { pipeline, special, tokens, words })
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

    /// Writes `tokenizer.json`, `tokenizer_config.json` and, of WordPiece, `vocab.txt` into `directory`, each whole or not
    /// at all, as Hugging Face reads them. `max_len` is the model's longest passage.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Tokenizer`].
    pub fn save(&self, directory: impl AsRef<Path>, max_len: usize) -> Result<(), Error> {
        let directory = directory.as_ref();
        let failed = |reason: String| Error::Tokenizer { origin: directory.display().to_string(), reason };
        let pipeline = self.pipeline.to_string(true).map_err(|e| failed(e.to_string()))?;
        let mut config = match &self.words {
            Words::Continuations { lowercase, .. } => json!({
                "tokenizer_class": "BertTokenizer",
                "do_lower_case": lowercase,
                "strip_accents": null,
                "tokenize_chinese_chars": true,
            }),
            Words::Splits { class, .. } => json!({ "tokenizer_class": class }),
        };
        config["model_max_length"] = max_len.into();
        let SpecialTokens { pad, unk, cls, sep, mask } = self.special;
        let ids = [Some(pad), unk, Some(cls), Some(sep), Some(mask)];
        for ((role, _), id) in SPECIAL_ROLES.into_iter().zip(ids) {
            if let Some(token) = id.and_then(|id| self.token(id)) {
                config[role] = token.into();
            }
        }
        if matches!(self.words, Words::Continuations { .. }) {
            let mut vocabulary = self.tokens.join("\n");
            vocabulary.push('\n');
            write_whole(&directory.join("vocab.txt"), vocabulary.as_bytes())?;
        }
        write_whole(&directory.join("tokenizer_config.json"), format!("{config:#}\n").as_bytes())?;
        write_whole(&directory.join("tokenizer.json"), pipeline.as_bytes())
    }

    /// The first `max_len` tokens of `text`, `[CLS]` and `[SEP]` included; what is beyond is cut off.
    ///
    /// # Errors
    /// [`Error::MaxLen`] below 3; [`Error::Tokenizer`].
    pub fn encode(&self, text: &str, max_len: usize) -> Result<Passage, Error> {
        let room = content_room(max_len)?;
        let encoding = self.encoding(text)?;
        let ids = encoding.get_ids();
        let kept = ids.len().min(room);
        Ok(self.passage(&ids[..kept], &self.starts(&encoding)[..kept]))
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
        let unknown =
            |passage: &Passage| passage.ids.iter().filter(|&&id| Some(id) == self.special.unk).count();
        report.unknown_tokens = passages.iter().map(unknown).sum();
        Ok(EncodedCorpus { passages, report })
    }

    /// The passages of one text, and how many cuts fell inside a sentence.
    fn encode_whole(&self, text: &str, room: usize) -> Result<(Vec<Passage>, usize), Error> {
        let mut encoding = self.encoding(text)?;
        let ids = encoding.get_ids();
        if ids.is_empty() {
            return Ok((Vec::new(), 0));
        }
        if ids.len() <= room {
            return Ok((vec![self.passage(ids, &self.starts(&encoding))], 0));
        }
        if encoding.get_offsets().iter().all(|&offsets| offsets == (0, 0)) {
            encoding = self.pipeline.encode(text, false).map_err(|e| self.failed(&*e))?;
        }
        let (ids, offsets, starts) = (encoding.get_ids(), encoding.get_offsets(), self.starts(&encoding));
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
                    .find(|&at| starts.get(at).copied().unwrap_or(true))
                    .unwrap_or(farthest)
            });
            passages.push(self.passage(&ids[start..end], &starts[start..end]));
            start = end;
        }
        Ok((passages, cuts))
    }

    /// The tokens of a text. Of WordPiece without words and offsets, which its ids tell or which are seldom wanted.
    fn encoding(&self, text: &str) -> Result<Encoding, Error> {
        let encoding = match self.words {
            Words::Continuations { .. } => self.pipeline.encode_fast(text, false),
            Words::Splits { .. } => self.pipeline.encode(text, false),
        };
        encoding.map_err(|e| self.failed(&*e))
    }

    /// Whether each token of an encoding is the first of a word.
    fn starts(&self, encoding: &Encoding) -> Vec<bool> {
        let ids = encoding.get_ids().iter().map(|&id| id as usize);
        match &self.words {
            Words::Continuations { continues, .. } => ids.map(|id| !continues[id]).collect(),
            Words::Splits { marked, .. } => {
                let words = encoding.get_word_ids();
                let begins = |at: usize| at == 0 || words[at].is_none() || words[at] != words[at - 1];
                ids.enumerate().map(|(at, id)| marked[id] || begins(at)).collect()
            }
        }
    }

    /// `[CLS]` `content` `[SEP]`; the first token of the content begins a word, even if a cut fell inside one.
    fn passage(&self, content: &[u32], starts: &[bool]) -> Passage {
        let ids = [&[self.special.cls], content, &[self.special.sep]].concat();
        let kind = |(place, &starts): (usize, &bool)| match starts || place == 0 {
            true => word_kind::START,
            false => word_kind::CONTINUATION,
        };
        let special = std::iter::once(word_kind::SPECIAL);
        let word_starts = special.clone().chain(starts.iter().enumerate().map(kind)).chain(special).collect();
        Passage { ids, word_starts }
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

/// The `tokenizer_config.json` beside a tokenizer's file; null where there is none.
fn config_beside(path: &Path) -> Value {
    let config = std::fs::read(path.with_file_name("tokenizer_config.json")).unwrap_or_default();
    serde_json::from_slice(&config).unwrap_or_default()
}

/// Those that the configuration names, else those with a usual name.
fn special_tokens(
    origin: &str,
    config: &Value,
    id: impl Fn(&str) -> Option<u32>,
) -> Result<SpecialTokens, Error> {
    let find = |role: usize| {
        let (name, usual) = SPECIAL_ROLES[role];
        let named = config[name].as_str().or_else(|| config[name]["content"].as_str());
        match named {
            Some(token) => id(token),
            None => id(SPECIAL_TOKENS[role]).or_else(|| id(usual)),
        }
    };
    let [pad, unk, cls, sep, mask] = [0, 1, 2, 3, 4].map(find);
    if let (Some(pad), Some(cls), Some(sep), Some(mask)) = (pad, cls, sep, mask) {
        return Ok(SpecialTokens { pad, unk, cls, sep, mask });
    }
    let found = [pad, Some(0), cls, sep, mask];
    let missing = SPECIAL_TOKENS.into_iter().zip(found).filter(|(_, id)| id.is_none());
    let missing: Vec<&str> = missing.map(|(token, _)| token).collect();
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
