//! Tokenizers: trained, loaded, saved, and applied to a corpus.

mod encode;
mod special;
mod train;
mod word_piece;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::models::ModelWrapper;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer as Pipeline};

pub use encode::{EncodeReport, EncodedCorpus};
pub use special::SpecialTokens;

use super::{Error, checksum};
use crate::common::{FileError, read_text, write_whole};
use special::KNOWN;

/// Smallest size of a trained vocabulary: the special tokens and a small alphabet.
const SMALLEST_VOCABULARY: usize = 64;
/// First character of a SentencePiece or byte-level BPE piece that follows a space.
const SPACES: [char; 2] = ['▁', 'Ġ'];

/// Tokenizer with special tokens and known word starts.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    pipeline: Pipeline,
    /// `tokenizer.json`, as it was read.
    json: String,
    /// `tokenizer_config.json`, null without one.
    config: Value,
    special: SpecialTokens,
    /// The tokens in id order; some ids may have none.
    tokens: Vec<Option<String>>,
    /// For each id, whether it begins a word even inside a piece of text that was not split.
    begins_word: Vec<bool>,
    lowercase: bool,
}

impl Tokenizer {
    /// Learns an uncased WordPiece vocabulary of at most `vocab_size` tokens, with BERT's special tokens: the same passages always
    /// give the same vocabulary.
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
        let words = train::count_words(passages)?;
        let tokens = word_piece::learn(&words, vocab_size, &KNOWN.map(|(_, names)| names[0]));
        Self::from_tokens(&tokens, true, "trained")
    }

    /// Loads `vocab.txt` (WordPiece), any `tokenizer.json`, or, from a directory, its `tokenizer.json` or else its `vocab.txt`.
    ///
    /// Special tokens are those that a `tokenizer_config.json` beside it names, else `[CLS]`, `[SEP]`, `[MASK]`, `[PAD]` and `[UNK]`
    /// or `<s>`, `</s>`, `<mask>`, `<pad>` and `<unk>`. With `vocab.txt`, its `do_lower_case` is obeyed; without one the text is
    /// lower-cased.
    ///
    /// # Errors
    /// [`FileError::Read`], [`Error::TokenizerPath`], [`Error::DuplicateToken`], [`Error::Tokenizer`] for a malformed file, the
    /// configuration included, [`FileError::Kind`] for one of another kind, [`Error::MissingSpecialTokens`].
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let unreadable = FileError::reading(path);
        if std::fs::metadata(path).map_err(unreadable)?.is_dir() {
            let inside = ["tokenizer.json", "vocab.txt"].map(|name| path.join(name));
            let found = inside.iter().find(|file| file.symlink_metadata().is_ok());
            return Self::from_path(found.ok_or_else(|| Error::TokenizerPath { path: path.to_owned() })?);
        }
        let config = || tokenizer_config(&path.with_file_name("tokenizer_config.json"));
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => {
                let json = read_text(path, "a tokenizer.json of the `tokenizers` library")?;
                Self::from_json(json, config()?, &path.display().to_string())
            }
            Some("txt") => {
                let text = read_text(path, "a vocab.txt with a token a line")?;
                Self::from_vocabulary(&text, &config()?, path)
            }
            _ => Err(Error::TokenizerPath { path: path.to_owned() }),
        }
    }

    fn from_json(json: String, config: Value, origin: &str) -> Result<Self, Error> {
        let failed = |reason: String| Error::Tokenizer { origin: origin.to_owned(), reason };
        let mut pipeline =
            Pipeline::from_bytes(json.as_bytes()).map_err(|error| failed(error.to_string()))?;
        // This crate cuts to length itself, and never pads.
        pipeline.with_padding(None);
        let _ = pipeline.with_truncation(None);
        let parsed: Value = serde_json::from_str(&json).unwrap_or_default();
        let lowercase = parsed["normalizer"]["lowercase"].as_bool().unwrap_or(true);
        Self::from_pipeline(pipeline, json, config, lowercase, origin)
    }

    fn from_vocabulary(text: &str, config: &Value, path: &Path) -> Result<Self, Error> {
        let tokens: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
        let mut lines = HashMap::new();
        for (index, token) in tokens.iter().enumerate() {
            if let Some(first) = lines.insert(token, index + 1) {
                let token = token.clone();
                return Err(Error::DuplicateToken { path: path.to_owned(), token, first, second: index + 1 });
            }
        }
        let lowercase = config["do_lower_case"].as_bool().unwrap_or(true);
        Self::from_tokens(&tokens, lowercase, &path.display().to_string())
    }

    /// Builds BERT's pipeline around a vocabulary in id order.
    fn from_tokens(tokens: &[String], lowercase: bool, origin: &str) -> Result<Self, Error> {
        let failed = |reason: String| Error::Tokenizer { origin: origin.to_owned(), reason };
        let id = |token: &str| tokens.iter().position(|t| t == token).map(|id| id as u32);
        let special = SpecialTokens::find(origin, &Value::Null, true, |token| {
            KNOWN.iter().any(|(_, names)| names[0] == token).then(|| id(token)).flatten()
        })?;
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
        let added = KNOWN.map(|(_, names)| AddedToken::from(names[0], true));
        pipeline.add_special_tokens(added).map_err(|e| failed(e.to_string()))?;
        let json = pipeline.to_string(true).map_err(|e| failed(e.to_string()))?;
        Self::from_pipeline(pipeline, json, Value::Null, lowercase, origin)
    }

    fn from_pipeline(
        mut pipeline: Pipeline,
        json: String,
        config: Value,
        lowercase: bool,
        origin: &str,
    ) -> Result<Self, Error> {
        let continuation = match pipeline.get_model() {
            ModelWrapper::WordPiece(model) => Some(model.continuing_subword_prefix.clone()),
            _ => None,
        };
        let id = |token: &str| pipeline.token_to_id(token);
        let special = SpecialTokens::find(origin, &config, continuation.is_some(), id)?;
        let tokens = tokens_by_id(pipeline.get_vocab(true))
            .map_err(|reason| Error::Tokenizer { origin: origin.to_owned(), reason })?;
        let byte_level = json.contains("\"ByteLevel\"");
        let begins = |token: &Option<String>| match (token, &continuation) {
            (Some(token), Some(prefix)) => !token.starts_with(prefix) || token == prefix,
            (Some(token), None) => begins_word(token, byte_level),
            (None, _) => false,
        };
        let begins_word = tokens.iter().map(begins).collect();
        // A passage that spells out "[SEP]" is about the token, and must not contain it.
        pipeline.set_encode_special_tokens(true);
        Ok(Self { pipeline, json, config, special, tokens, begins_word, lowercase })
    }

    /// Returns the largest id plus one.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// Returns the ids of the special tokens.
    #[must_use]
    pub fn special_tokens(&self) -> SpecialTokens {
        self.special
    }

    /// Returns the token of `id`, `None` if no token has it.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize)?.as_deref()
    }

    /// Returns xxh3-64 of `tokenizer.json`, in hexadecimal.
    #[must_use]
    pub fn checksum(&self) -> String {
        checksum(self.json.as_bytes())
    }

    /// Returns the underlying tokenizer of the `tokenizers` crate.
    #[must_use]
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// Returns the text of `ids`, without special tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        let content: Vec<u32> = ids.iter().copied().filter(|&id| !self.special.is_reserved(id)).collect();
        let text = self
            .pipeline
            .decode(&content, true)
            .map_err(|error| Error::Tokenizer { origin: "decode".into(), reason: error.to_string() })?;
        Ok(text.trim().to_owned())
    }

    /// Writes `tokenizer.json` as it was read, `tokenizer_config.json`, and, for WordPiece, `vocab.txt` into `directory`, each atomically, in the
    /// format that Hugging Face's tokenizers read. `max_len` is the model's longest passage.
    ///
    /// # Errors
    /// [`FileError::Write`].
    pub fn save(&self, directory: impl AsRef<Path>, max_len: usize) -> Result<(), Error> {
        let directory = directory.as_ref();
        let tokens: Option<Vec<&str>> = self.tokens.iter().map(Option::as_deref).collect();
        if let Some(tokens) = tokens.filter(|_| self.is_word_piece()) {
            write_whole(&directory.join("vocab.txt"), format!("{}\n", tokens.join("\n")).as_bytes())?;
        }
        let config = self.saved_config(max_len);
        write_whole(&directory.join("tokenizer_config.json"), format!("{config:#}\n").as_bytes())?;
        Ok(write_whole(&directory.join("tokenizer.json"), self.json.as_bytes())?)
    }

    fn is_word_piece(&self) -> bool {
        matches!(self.pipeline.get_model(), ModelWrapper::WordPiece(_))
    }

    /// Returns the configuration as it was read, with missing entries filled in.
    fn saved_config(&self, max_len: usize) -> Value {
        let mut known = if self.is_word_piece() {
            json!({
                "tokenizer_class": "BertTokenizer",
                "do_lower_case": self.lowercase,
                "strip_accents": null,
                "tokenize_chinese_chars": true,
            })
        } else {
            json!({ "tokenizer_class": "PreTrainedTokenizerFast" })
        };
        for (role, _) in KNOWN {
            if let Some(token) = self.special.of(role).and_then(|id| self.token(id)) {
                known[role] = token.into();
            }
        }
        if let (Some(known), Value::Object(read)) = (known.as_object_mut(), &self.config) {
            known.extend(read.clone());
        }
        known["model_max_length"] = max_len.into();
        known
    }
}

/// Returns the contents of a `tokenizer_config.json`, null if there is none.
fn tokenizer_config(path: &Path) -> Result<Value, Error> {
    if path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Ok(Value::Null);
    }
    let text = read_text(path, "a JSON object")?;
    let failed = |reason: String| Error::Tokenizer { origin: path.display().to_string(), reason };
    let config: Value =
        serde_json::from_str(&text).map_err(|error| failed(format!("it is no JSON: {error}")))?;
    if !config.is_object() {
        return Err(failed("it should be a JSON object".into()));
    }
    let lowercase = &config["do_lower_case"];
    if !lowercase.is_boolean() && !lowercase.is_null() {
        return Err(failed(format!("do_lower_case is {lowercase}; it should be true or false")));
    }
    Ok(config)
}

/// Returns the tokens of a vocabulary by id.
fn tokens_by_id(vocabulary: HashMap<String, u32>) -> Result<Vec<Option<String>>, String> {
    let largest = vocabulary.values().copied().max().unwrap_or(0) as usize;
    // Some vocabularies leave ids out, but one with more holes than tokens is a mistake.
    if largest > 2 * vocabulary.len() {
        return Err(format!(
            "its largest id is {largest}; it should be at most {}, twice the {0} tokens",
            2 * vocabulary.len()
        ));
    }
    let mut tokens = vec![None; largest + 1];
    for (token, id) in vocabulary {
        if let Some(other) = tokens[id as usize].replace(token.clone()) {
            return Err(format!("tokens {other:?} and {token:?} share id {id}; each should have its own"));
        }
    }
    Ok(tokens)
}

/// Returns whether a piece always begins a word: it follows a space, or begins with a character of a script without spaces.
fn begins_word(token: &str, byte_level: bool) -> bool {
    let first = token.chars().next();
    first.is_some_and(|c| SPACES.contains(&c) || (!byte_level && is_unspaced(c)))
        || (byte_level && begins_unspaced(token))
}

/// Returns whether the bytes of a byte-level BPE piece begin with a character of a script without spaces; for an incomplete character, whether
/// every character that it may become is one.
fn begins_unspaced(token: &str) -> bool {
    if !token.starts_with(|c| matches!(c, '\u{e0}'..='\u{f4}')) {
        return false;
    }
    let Some(bytes) = token.chars().take(4).map(byte_of).collect::<Option<Vec<u8>>>() else { return false };
    let length = match bytes.first() {
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => return false,
    };
    let filled = |with: u8| {
        let mut character = bytes[..bytes.len().min(length)].to_vec();
        // No three-byte character is below E0 A0 80, no four-byte one below F0 90 80 80.
        let least = match (character.len(), character[0], with) {
            (1, 0xe0, 0x80) => 0xa0,
            (1, 0xf0, 0x80) => 0x90,
            _ => with,
        };
        if character.len() < length {
            character.push(least);
        }
        character.resize(length, with);
        std::str::from_utf8(&character).ok().and_then(|text| text.chars().next())
    };
    [0x80, 0xbf].map(filled).iter().all(|&c| c.is_some_and(is_unspaced))
}

/// Returns the byte that a character of byte-level BPE stands for: a printable byte is its own character, and the others follow in order from
/// U+0100 (Radford et al., "Language Models are Unsupervised Multitask Learners").
fn byte_of(c: char) -> Option<u8> {
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(c) {
        code @ ..0x100 => Some(code as u8).filter(|&byte| visible(byte)),
        code => (0..=255).filter(|&byte| !visible(byte)).nth(code as usize - 0x100),
    }
}

/// Returns whether a character is an ideograph, kana, Thai, Lao, Burmese or Khmer.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

fn template(special: SpecialTokens) -> Result<TemplateProcessing, String> {
    TemplateProcessing::builder()
        .try_single("[CLS]:0 $A:0 [SEP]:0")?
        .try_pair("[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1")?
        .special_tokens(vec![("[CLS]", special.cls), ("[SEP]", special.sep)])
        .build()
        .map_err(|error| error.to_string())
}
