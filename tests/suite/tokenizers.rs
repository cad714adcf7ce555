//! Tokenizers of other kinds than BERT's: where words start, which tokens are special, and what is saved.

use std::path::Path;

use retromae::data::{Tokenizer, word_kind};
use serde_json::{Value, json};

/// The special tokens of RoBERTa and XLM-R, in front.
const SPECIAL: [&str; 5] = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];

fn pipeline(pre_tokenizer: Value, model: Value) -> Value {
    let added = SPECIAL.iter().enumerate().map(|(id, content)| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false})
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "decoder": null, "added_tokens": added.collect::<Vec<_>>(), "pre_tokenizer": pre_tokenizer, "model": model,
    })
}

/// Byte-level BPE over a few characters; `é` is two of them.
fn byte_level(use_regex: bool) -> Value {
    let pieces = "h e l o w r d Ġ ! Ã © t s ' he ll Ġw hell".split(' ');
    let vocabulary: serde_json::Map<String, Value> =
        SPECIAL.into_iter().chain(pieces).zip(0..).map(|(token, id)| (token.to_owned(), json!(id))).collect();
    let pre_tokenizer = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex,
    });
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary,
        "merges": ["h e", "l l", "Ġ w", "he ll"],
    });
    pipeline(pre_tokenizer, model)
}

/// SentencePiece's Unigram behind Metaspace, as XLM-R has it.
fn unigram(prepend_scheme: &str, split: bool) -> Value {
    let pieces =
        [("\u{2581}", -4.0), ("\u{2581}hello", -1.0), ("\u{2581}wor", -1.0), ("hello", -2.0), ("ld", -1.0)];
    let pieces = pieces.into_iter().chain([("!", -1.0), ("wor", -3.0), ("你好", -1.0), ("\u{2581}(", -1.5)]);
    let vocabulary: Vec<(&str, f64)> = SPECIAL.iter().map(|&token| (token, 0.0)).chain(pieces).collect();
    let pre_tokenizer = json!({
        "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": prepend_scheme, "split": split,
    });
    let model = json!({"type": "Unigram", "unk_id": 3, "byte_fallback": false, "vocab": vocabulary});
    pipeline(pre_tokenizer, model)
}

fn write(directory: &Path, name: &str, value: &Value) {
    std::fs::write(directory.join(name), value.to_string()).unwrap();
}

fn tokenizer(value: &Value) -> Tokenizer {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "tokenizer.json", value);
    Tokenizer::from_path(directory.path()).unwrap()
}

/// The tokens between the special ones, a bar before each that starts a word.
fn words(tokenizer: &Tokenizer, text: &str) -> String {
    let passage = tokenizer.encode(text, 100).unwrap();
    let (first, last) = (0, passage.ids.len() - 1);
    assert_eq!(tokenizer.token(passage.ids[first]), Some("<s>"));
    assert_eq!(tokenizer.token(passage.ids[last]), Some("</s>"));
    assert_eq!([passage.word_starts[first], passage.word_starts[last]], [word_kind::SPECIAL; 2]);
    let piece = |at: usize| {
        let bar = match passage.word_starts[at] {
            word_kind::START => "|",
            word_kind::CONTINUATION => " ",
            other => panic!("{other} within the text"),
        };
        format!("{bar}{}", tokenizer.token(passage.ids[at]).unwrap())
    };
    (1..last).map(piece).collect()
}

#[test]
fn byte_level_words_are_those_of_the_pre_tokenizer() {
    let tokenizer = tokenizer(&byte_level(true));
    assert_eq!(words(&tokenizer, "hello world!"), "|hell o|Ġw o r l d|!");
    assert_eq!(words(&tokenizer, "hé"), "|h Ã ©", "a character of two tokens is not split");
    assert_eq!(words(&tokenizer, "he's"), "|he|' s");
    assert_eq!(words(&tokenizer, " hello  w"), "|Ġ hell o|Ġ|Ġw");
}

/// Without the regular expression all is one word to the pre-tokenizer; the marks of spaces still tell.
#[test]
fn byte_level_words_without_splits_start_at_spaces() {
    let tokenizer = tokenizer(&byte_level(false));
    assert_eq!(words(&tokenizer, "hello world!"), "|hell o|Ġw o r l d !");
}

#[test]
fn unigram_words_start_at_spaces() {
    for split in [true, false] {
        let always = tokenizer(&unigram("always", split));
        assert_eq!(words(&always, "hello world!"), "|\u{2581}hello|\u{2581}wor ld !", "split {split}");
        assert_eq!(words(&always, "(hello 你好"), "|\u{2581}( hello|\u{2581} 你好", "split {split}");
        let first = tokenizer(&unigram("first", split));
        assert_eq!(words(&first, "hello world"), "|\u{2581}hello|\u{2581}wor ld", "split {split}");
        let never = tokenizer(&unigram("never", split));
        assert_eq!(words(&never, "hello world"), "|hello|\u{2581}wor ld", "split {split}");
    }
}

#[test]
fn long_texts_are_cut_between_words() {
    let tokenizer = tokenizer(&unigram("always", true));
    let text = ["world"; 20].join(" ");
    let corpus = tokenizer.encode_corpus(&[text.as_str()], 9).unwrap();
    // Three words of two tokens in each passage, two words in the last.
    assert_eq!(corpus.passages.len(), 7);
    for passage in &corpus.passages {
        assert!(passage.ids.len() == 8 || passage.ids.len() == 6);
        assert_eq!(passage.word_starts[1..3], [word_kind::START, word_kind::CONTINUATION]);
    }
}

#[test]
fn special_tokens_are_found_by_name_or_named() {
    let special = tokenizer(&byte_level(true)).special_tokens();
    assert_eq!((special.cls, special.pad, special.sep, special.unk, special.mask), (0, 1, 2, Some(3), 4));
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "tokenizer.json", &byte_level(true));
    let config = json!({
        "tokenizer_class": "RobertaTokenizer", "cls_token": "!", "sep_token": {"content": "</s>"},
    });
    write(directory.path(), "tokenizer_config.json", &config);
    let named = Tokenizer::from_path(directory.path()).unwrap();
    assert_eq!(named.token(named.special_tokens().cls), Some("!"));
    write(directory.path(), "tokenizer_config.json", &json!({"mask_token": "[GONE]"}));
    let message = Tokenizer::from_path(directory.path()).unwrap_err().to_string();
    assert!(message.contains("lacks [MASK]"), "{message}");
}

#[test]
fn what_is_saved_is_what_was_read() {
    for value in [byte_level(true), unigram("always", true)] {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        for path in [&from, &to] {
            std::fs::create_dir(path).unwrap();
        }
        write(&from, "tokenizer.json", &value);
        write(&from, "tokenizer_config.json", &json!({"tokenizer_class": "SomeTokenizerFast"}));
        let tokenizer = Tokenizer::from_path(&from).unwrap();
        tokenizer.save(&to, 64).unwrap();
        assert!(!to.join("vocab.txt").exists(), "vocab.txt is WordPiece's");
        let config: Value =
            serde_json::from_slice(&std::fs::read(to.join("tokenizer_config.json")).unwrap()).unwrap();
        assert_eq!(config["tokenizer_class"], "SomeTokenizerFast");
        assert_eq!((&config["mask_token"], &config["model_max_length"]), (&json!("<mask>"), &json!(64)));
        let again = Tokenizer::from_path(&to).unwrap();
        assert_eq!(again.special_tokens(), tokenizer.special_tokens());
        assert_eq!(words(&again, "hello world!"), words(&tokenizer, "hello world!"));
    }
}
