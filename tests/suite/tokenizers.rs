//! Tokenizers of every kind: their word starts, their special tokens, and saving.
#![cfg(feature = "train")]

use std::path::Path;

use retromae::data::{PassageRef, Tokenizer};
use serde_json::{Value, json};
use tempfile::TempDir;

fn loaded(tokenizer: &Value, config: Option<&Value>) -> (TempDir, Result<Tokenizer, String>) {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| {
        std::fs::write(directory.path().join(name), value.to_string()).unwrap();
    };
    write("tokenizer.json", tokenizer);
    if let Some(config) = config {
        write("tokenizer_config.json", config);
    }
    let tokenizer = Tokenizer::from_path(directory.path()).map_err(|error| error.to_string());
    (directory, tokenizer)
}

fn added(id: usize, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
}

const FRAME: [&str; 5] = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];

/// Returns byte-level BPE as in RoBERTa: 256 bytes and some merges.
fn byte_level(merges: &[(&str, &str)], add_prefix_space: bool) -> Value {
    let mut tokens: Vec<String> = FRAME.map(str::to_owned).into();
    let mut bytes: Vec<String> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().map(String::from).collect();
    bytes.sort();
    tokens.extend(bytes);
    tokens.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
    let vocabulary: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let merges: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": FRAME.iter().enumerate().map(|(id, token)| added(id, token)).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": merges}
    })
}

/// Returns Unigram over Metaspace as in XLM-R, with the mask after all others and a gap.
fn unigram(scheme: &str, split: bool) -> Value {
    let pieces = [
        "▁",
        "▁the",
        "▁quick",
        "ly",
        "▁fox",
        ".",
        ",",
        "t",
        "h",
        "e",
        "q",
        "u",
        "i",
        "c",
        "k",
        "l",
        "y",
        "f",
        "o",
        "x",
        "the",
        "fox",
        "日",
        "本",
        "▁日本",
    ];
    let frame = FRAME[..4].iter().map(|token| json!([token, 0.0]));
    let scores = pieces.iter().map(|piece| json!([piece, -1.0 - 1.0 / piece.chars().count() as f64]));
    let vocabulary: Vec<Value> = frame.chain(scores).collect();
    let mask = vocabulary.len() + 1;
    let mut special: Vec<Value> = FRAME[..4].iter().enumerate().map(|(id, token)| added(id, token)).collect();
    special.push(added(mask - 1, "<extra>"));
    special.push(added(mask, "<mask>"));
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": special,
        "normalizer": null,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split},
        "post_processor": null,
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split},
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocabulary, "byte_fallback": false}
    })
}

/// Returns the tokens of a passage, with a bar before each that begins a word.
fn words(tokenizer: &Tokenizer, passage: PassageRef) -> String {
    let ids = passage.ids.to_vec();
    let token = |position: usize| {
        let bar = if passage.word_starts.get(position) { "|" } else { " " };
        format!("{bar}{}", tokenizer.token(ids[position]).unwrap())
    };
    (1..ids.len() - 1).map(token).collect()
}

#[track_caller]
fn assert_words(tokenizer: &Tokenizer, text: &str, expected: &str) {
    let corpus = tokenizer.encode_corpus(&[text], 512).unwrap();
    let passage = corpus.passages.get(0).unwrap();
    let special = tokenizer.special_tokens();
    let ids = passage.ids.to_vec();
    assert_eq!((ids[0], ids[ids.len() - 1]), (special.cls, special.sep));
    assert!(!passage.word_starts.get(0) && !passage.word_starts.get(ids.len() - 1));
    assert_eq!(words(tokenizer, passage), expected, "{text:?}");
    // The tokenizer library's own batch gives the same ids.
    let library = tokenizer.pipeline().encode_fast(text, false).unwrap();
    assert_eq!(library.get_ids(), &ids[1..ids.len() - 1]);
}

#[test]
fn words_of_byte_level_bpe_are_those_of_its_splits() {
    let merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("f", "o"), ("fo", "x"), ("Ġ", "fox"), ("d", "o")];
    let (_directory, tokenizer) = loaded(&byte_level(&merges, false), None);
    let tokenizer = tokenizer.unwrap();
    assert_eq!(tokenizer.special_tokens().unk, Some(3));
    assert_words(&tokenizer, "the fox", "|the|Ġfox");
    assert_words(&tokenizer, " the foxes.", "|Ġthe|Ġfox e s|.");
    assert_words(&tokenizer, "don't stop", "|do n|' t|Ġ s t o p");
    assert_words(&tokenizer, "fox,the", "|fox|,|the");
    // A character of three bytes is three tokens of one word.
    assert_words(&tokenizer, "the 日x", "|the|Ġ|æ Ĺ ¥ x");
    let (_directory, prefixed) = loaded(&byte_level(&merges, true), None);
    assert_words(&prefixed.unwrap(), "the fox", "|Ġthe|Ġfox");
}

/// In scripts without spaces each character is a word, however its bytes were merged; other scripts have the words of the splits.
#[test]
fn byte_level_bpe_has_a_word_an_ideograph() {
    let merges = [("æ", "Ĺ"), ("æĹ", "¥"), ("è", "ª"), ("ã", "ģ"), ("ãģ", "®"), ("ì", "ķ"), ("ð", "ł")];
    let (_directory, tokenizer) = loaded(&byte_level(&merges, false), None);
    let tokenizer = tokenizer.unwrap();
    assert_words(&tokenizer, "日本語", "|æĹ¥|æ ľ ¬|èª ŀ");
    assert_words(&tokenizer, "日の日", "|æĹ¥|ãģ®|æĹ¥");
    // U+20000, of four bytes, the first of which alone is ambiguous; Korean and Cyrillic, which have spaces.
    assert_words(&tokenizer, "𠀀𠀀", "|ðł Ģ Ģ|ðł Ģ Ģ");
    assert_words(&tokenizer, "안녕 да", "|ìķ Ī ë ħ ķ|Ġ Ð ´ Ð °");
}

#[test]
fn byte_level_bpe_needs_no_unknown_token() {
    let mut json = byte_level(&[], false);
    json["added_tokens"].as_array_mut().unwrap().remove(3);
    json["model"]["vocab"].as_object_mut().unwrap().remove("<unk>");
    let (_directory, tokenizer) = loaded(&json, None);
    let tokenizer = tokenizer.unwrap();
    assert_eq!(tokenizer.special_tokens().unk, None);
    assert_words(&tokenizer, "hi", "|h i");
}

#[test]
fn words_of_sentencepiece_begin_at_its_spaces() {
    for split in [true, false] {
        for scheme in ["always", "first"] {
            let (_directory, tokenizer) = loaded(&unigram(scheme, split), None);
            let tokenizer = tokenizer.unwrap();
            assert_words(&tokenizer, "the quickly fox.", "|▁the|▁quick ly|▁fox .");
            assert_words(&tokenizer, " the fox", "|▁the|▁fox");
        }
        let (_directory, tokenizer) = loaded(&unigram("never", split), None);
        assert_words(&tokenizer.unwrap(), "the fox,the", "|the|▁fox , the");
    }
    // Ideographs have no spaces between words, so each is a word.
    let (_directory, tokenizer) = loaded(&unigram("always", true), None);
    assert_words(&tokenizer.unwrap(), "日本日本 fox", "|▁日本|日|本|▁fox");
}

#[test]
fn ids_may_have_gaps_and_added_tokens_at_the_end() {
    let (_directory, tokenizer) = loaded(&unigram("always", true), None);
    let tokenizer = tokenizer.unwrap();
    assert_eq!(tokenizer.special_tokens().mask as usize, tokenizer.vocab_size() - 1);
    let mut gap = byte_level(&[], false);
    gap["model"]["vocab"]["zz"] = 300.into();
    let (_directory, tokenizer) = loaded(&gap, None);
    let tokenizer = tokenizer.unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.token(290), tokenizer.token(300)), (301, None, Some("zz")));
    gap["model"]["vocab"]["zz"] = 3_000_000_000_u32.into();
    let message = loaded(&gap, None).1.unwrap_err();
    assert!(message.contains("its largest id is 3000000000"), "{message}");
}

#[test]
fn spelled_out_special_tokens_are_text() {
    let (_directory, tokenizer) = loaded(&unigram("always", true), None);
    let tokenizer = tokenizer.unwrap();
    let special = tokenizer.special_tokens();
    for text in ["the </s> fox", "<s>", "a<mask>b", "<pad><pad>"] {
        let ids = tokenizer.encode(text, 64).unwrap();
        let inside = &ids[1..ids.len() - 1];
        let reserved = [special.cls, special.sep, special.pad, special.mask];
        assert!(!inside.iter().any(|id| reserved.contains(id)), "{text:?} gives {ids:?}");
        assert!(!inside.is_empty());
    }
}

#[test]
fn special_tokens_are_those_of_the_configuration() {
    let mut json = byte_level(&[], false);
    let config =
        json!({"cls_token": {"content": "A"}, "sep_token": "B", "mask_token": "nowhere", "extra": [1]});
    let (_directory, tokenizer) = loaded(&json, Some(&config));
    let tokenizer = tokenizer.unwrap();
    let special = tokenizer.special_tokens();
    assert_eq!([special.cls, special.sep].map(|id| tokenizer.token(id)), [Some("A"), Some("B")]);
    assert_eq!(tokenizer.token(special.mask), Some("<mask>"), "a name without a token is passed over");
    json["model"]["vocab"].as_object_mut().unwrap().remove("<mask>");
    json["added_tokens"].as_array_mut().unwrap().remove(4);
    let message = loaded(&json, Some(&config)).1.unwrap_err();
    assert!(message.contains("lacks nowhere"), "{message}");
    let message = loaded(&json, None).1.unwrap_err();
    assert!(message.contains("lacks [MASK]") && message.contains("<mask>"), "{message}");
}

#[test]
fn what_is_saved_is_what_was_read() {
    let config =
        json!({"tokenizer_class": "XLMRobertaTokenizer", "sp_model_kwargs": {}, "model_max_length": 7});
    for (json, config, class) in [
        (byte_level(&[("t", "h")], true), None, "PreTrainedTokenizerFast"),
        (unigram("always", true), Some(&config), "XLMRobertaTokenizer"),
    ] {
        let (source, tokenizer) = loaded(&json, config);
        let tokenizer = tokenizer.unwrap();
        let target = tempfile::tempdir().unwrap();
        tokenizer.save(target.path(), 99).unwrap();
        let read = |directory: &Path| std::fs::read(directory.join("tokenizer.json")).unwrap();
        assert_eq!(read(target.path()), read(source.path()));
        assert!(!target.path().join("vocab.txt").exists());
        let saved = std::fs::read(target.path().join("tokenizer_config.json")).unwrap();
        let saved: Value = serde_json::from_slice(&saved).unwrap();
        assert_eq!((&saved["tokenizer_class"], &saved["model_max_length"]), (&json!(class), &json!(99)));
        assert_eq!((&saved["cls_token"], &saved["mask_token"]), (&json!("<s>"), &json!("<mask>")));
        let again = Tokenizer::from_path(target.path()).unwrap();
        assert_eq!(again.checksum(), tokenizer.checksum());
        assert_eq!(again.special_tokens(), tokenizer.special_tokens());
    }
}

#[test]
fn long_texts_are_cut_at_sentences_and_between_words() {
    let merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("f", "o"), ("fo", "x"), ("Ġ", "fox")];
    let sentence = "The quick fox runs. ";
    for json in [
        byte_level(&merges, false),
        unigram("always", true),
        unigram("always", false),
        unigram("first", true),
    ] {
        let (_directory, tokenizer) = loaded(&json, None);
        let tokenizer = tokenizer.unwrap();
        let text = sentence.repeat(12).trim().to_owned();
        let one = tokenizer.encode(sentence.trim(), 512).unwrap().len() - 2;
        let whole = tokenizer.encode(&text, 4096).unwrap();
        let corpus = tokenizer.encode_corpus(&[&text], 2 * one + 7).unwrap();
        let ids: Vec<u32> = corpus
            .passages
            .iter()
            .flat_map(|passage| passage.ids.to_vec()[1..passage.len() - 1].to_vec())
            .collect();
        assert_eq!(ids, whole[1..whole.len() - 1], "nothing is lost");
        assert_eq!(corpus.report.cut_in_sentence, 0, "{json}");
        let stop = tokenizer.encode(".", 8).unwrap();
        let stop = stop[stop.len() - 2];
        assert!(corpus.passages.iter().all(|passage| passage.ids.to_vec()[passage.len() - 2] == stop));
        // Room for a word or two, not for a sentence.
        let corpus = tokenizer.encode_corpus(&[&text], 11).unwrap();
        assert!(corpus.report.cut_in_sentence > 0);
        for passage in corpus.passages.iter() {
            let first = tokenizer.token(passage.ids.to_vec()[1]).unwrap().to_owned();
            assert!(first.starts_with(['▁', 'Ġ', 'T', '.', 'r']), "a passage begins with {first:?}");
        }
    }
}

#[test]
fn decoded_text_is_the_text() {
    let (_directory, tokenizer) = loaded(&byte_level(&[("t", "h"), ("th", "e")], false), None);
    let tokenizer = tokenizer.unwrap();
    let ids = tokenizer.encode("the fox, 日本!", 64).unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), "the fox, 日本!");
    let (_directory, tokenizer) = loaded(&unigram("always", true), None);
    let tokenizer = tokenizer.unwrap();
    let ids = tokenizer.encode("the quickly fox.", 64).unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), "the quickly fox.");
}
