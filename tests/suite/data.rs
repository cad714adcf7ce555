//! From corpus to batches: accepted and refused input, and reproducibility by seed.
#![cfg(feature = "train")]

use std::path::Path;

use retromae::data::{
    Corpus, Error, PassageRef, Passages, ReadOptions, Tokenizer, doc_comment_blocks, markdown_paragraphs,
    sentences,
};

fn write(directory: &Path, name: &str, bytes: &[u8]) {
    let path = directory.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Returns texts over a small vocabulary whose words are often joined, so that many tokens continue words.
fn texts(count: u32) -> Vec<String> {
    const WORDS: [&str; 12] = [
        "retrieval",
        "passage",
        "encoder",
        "decoders",
        "masking",
        "embedding",
        "sentence",
        "the",
        "of",
        "reconstructs",
        "weakly",
        "query",
    ];
    let word = |text: u32, at: u32| WORDS[((text * 7 + at * at * 5 + text * at) % 12) as usize];
    let text = |n: u32| {
        let joint = |at: u32| if (n + at).is_multiple_of(3) { "" } else { " " };
        let words: String = (0..5 + n % 13).flat_map(|at| [word(n, at), joint(at)]).collect();
        format!("{words} number {n}.")
    };
    (0..count).map(text).collect()
}

const VOCAB_SIZE: usize = 140;

fn tokenizer() -> Tokenizer {
    Tokenizer::train_word_piece(&texts(200), VOCAB_SIZE).unwrap()
}

fn read(path: impl AsRef<Path>) -> Result<Corpus, Error> {
    Corpus::from_path(path, &ReadOptions::default())
}

/// Returns for each token of a passage whether it starts a word.
fn starts(passage: PassageRef) -> Vec<bool> {
    (0..passage.len()).map(|position| passage.word_starts.get(position)).collect()
}

#[test]
fn a_text_file_has_a_passage_a_line() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = b"\xef\xbb\xbfOne  line\r\n\n \t\nOne line\ntwo\0words\nbad \xff byte\nlast";
    write(directory.path(), "corpus.txt", bytes);
    let corpus = read(directory.path().join("corpus.txt")).unwrap();
    assert_eq!(corpus.passages, ["One line", "two words", "bad \u{fffd} byte", "last"]);
    let report = corpus.report;
    assert_eq!((report.files, report.texts, report.bytes), (1, 4, 33));
    assert_eq!((report.replaced_invalid_utf8, report.nul_bytes, report.duplicates), (1, 1, 1));
    assert_eq!(
        report.to_string(),
        "4 texts, 33 bytes, from 1 files, 1 stretches not UTF-8, 1 zero bytes, 2 empty, 1 duplicates"
    );
}

#[test]
fn a_directory_is_searched_in_the_order_of_paths() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "z.txt", b"from z");
    write(
        directory.path(),
        "a/deep/b.md",
        b"# Title\n\nA paragraph of *five* words.\n\n```\ncode\n```\nshort\n",
    );
    write(directory.path(), "a/c.TXT", b"from c");
    write(directory.path(), "a/broken.md", b"broken\xff\xff");
    write(directory.path(), "a/ignored.rs", b"fn main() {}");
    let corpus = read(directory.path()).unwrap();
    assert_eq!(corpus.passages, ["from c", "A paragraph of five words.", "from z"]);
    assert_eq!(
        (corpus.report.files, corpus.report.replaced_invalid_utf8, corpus.report.skipped_short),
        (4, 2, 2)
    );
    let ignored = directory.path().join("a/ignored.rs").display().to_string();
    assert_eq!(
        (corpus.report.files_left_out, corpus.report.first_left_out),
        (1, vec![format!("{ignored}: text of a kind that its name does not say")])
    );
}

#[test]
fn a_corpus_without_text_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let message = |name: &str| read(directory.path().join(name)).unwrap_err().to_string();
    write(directory.path(), "empty.txt", b"");
    write(directory.path(), "none/readme.rst", b"text");
    assert!(message("missing.txt").contains("missing.txt"));
    assert!(message("empty.txt").contains("empty.txt") && message("empty.txt").contains("no usable passage"));
    let none = message("none");
    assert!(none.contains("no .txt, .md or .jsonl file") && none.contains("1 files left out"), "{none}");
}

#[test]
#[cfg(unix)]
fn an_unreadable_file_in_a_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "good.txt", b"text");
    std::os::unix::fs::symlink("nowhere", directory.path().join("dangling.txt")).unwrap();
    let message = read(directory.path()).unwrap_err().to_string();
    assert!(message.contains("dangling.txt"), "{message}");
}

#[test]
fn installed_crates_give_prose_within_the_limit() {
    let directory = tempfile::tempdir().unwrap();
    let crates = directory.path();
    let doc = "/// Returns the number of elements that the container holds at the moment.\n///\n/// ```\n/// code();\n/// ```\n";
    write(crates, "registry/alpha-1.0.0/Cargo.toml", b"");
    write(crates, "registry/alpha-1.0.0/src/lib.rs", doc.as_bytes());
    write(crates, "registry/alpha-1.0.0/src/bad.rs", b"\xff");
    write(crates, "registry/beta-1.0.0/Cargo.toml", b"");
    let readme = "# Beta\n\n[![badge](x)](y)\n\nBeta is a library for doing many useful things in a row.\n\nShort one.\n";
    write(crates, "registry/beta-1.0.0/README.md", readme.as_bytes());
    let second = "fn f() {}\n//! A second comment that is long enough to be called a passage here.\n";
    write(crates, "registry/beta-1.0.0/src/lib.rs", format!("{doc}{second}").as_bytes());
    write(crates, "registry/not-a-crate/README.md", readme.as_bytes());

    let corpus = Corpus::from_crates_in(crates, 1 << 20).unwrap();
    assert_eq!(
        corpus.passages,
        [
            "Returns the number of elements that the container holds at the moment.",
            "Beta is a library for doing many useful things in a row. Short one.",
            "A second comment that is long enough to be called a passage here.",
        ]
    );
    assert_eq!((corpus.report.duplicates, corpus.report.replaced_invalid_utf8), (1, 1));
    let smaller = Corpus::from_crates_in(crates, 150).unwrap();
    assert_eq!((smaller.passages.len(), smaller.report.over_limit), (2, 1));
    assert!(smaller.report.bytes <= 150);
    let message = Corpus::from_crates_in(&crates.join("nothing"), 1).unwrap_err().to_string();
    assert!(message.contains("nothing") && message.contains("give a text file"), "{message}");
}

#[test]
fn a_vocabulary_is_reproducible_and_survives_saving() {
    let texts = texts(200);
    let tokenizer = Tokenizer::train_word_piece(&texts, VOCAB_SIZE).unwrap();
    let special = tokenizer.special_tokens();
    assert_eq!([special.pad, special.unk.unwrap(), special.cls, special.sep, special.mask], [0, 1, 2, 3, 4]);
    assert!(tokenizer.vocab_size() <= VOCAB_SIZE);
    let directory = tempfile::tempdir().unwrap();
    tokenizer.save(directory.path(), 128).unwrap();
    let files = ["vocab.txt", "tokenizer.json", "tokenizer_config.json"];
    let saved = files.map(|name| std::fs::read(directory.path().join(name)).unwrap());
    Tokenizer::train_word_piece(&texts, VOCAB_SIZE).unwrap().save(directory.path(), 128).unwrap();
    assert_eq!(
        saved,
        files.map(|name| std::fs::read(directory.path().join(name)).unwrap()),
        "two trainings differ"
    );
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3, "temporary files are left");

    let expected = tokenizer.encode_corpus(&texts, 32).unwrap();
    for path in ["", "vocab.txt", "tokenizer.json"] {
        let loaded = Tokenizer::from_path(directory.path().join(path)).unwrap();
        assert_eq!(loaded.vocab_size(), tokenizer.vocab_size());
        assert_eq!(
            loaded.encode_corpus(&texts, 32).unwrap().passages,
            expected.passages,
            "loaded from {path:?}"
        );
    }
    let missing = tokenizer.save(directory.path().join("missing"), 128).unwrap_err().to_string();
    assert!(missing.contains("missing"), "{missing}");
}

#[test]
fn faulty_tokenizers_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "vocab.txt", b"[PAD]\n[UNK]\n[SEP]\nword\n");
    write(directory.path(), "twice/vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\na\n");
    write(directory.path(), "bad/tokenizer.json", b"{\"version\": 1");
    write(
        directory.path(),
        "bpe/tokenizer.json",
        br#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":null,
            "post_processor":null,"decoder":null,"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#,
    );
    write(directory.path(), "other/vocab.bin", b"");
    let message = |path: &str| Tokenizer::from_path(directory.path().join(path)).unwrap_err().to_string();
    for (path, expected) in [
        ("vocab.txt", "lacks [CLS], [MASK]"),
        ("twice", "\"a\" on lines 6 and 8"),
        ("bad", "tokenizer.json"),
        ("bpe", "lacks [PAD], [CLS], [SEP], [MASK];"),
        ("other", "none of vocab.txt"),
        ("other/vocab.bin", "none of vocab.txt"),
        ("missing", "missing"),
    ] {
        assert!(message(path).contains(expected), "{path}: {}", message(path));
    }
    let small = Tokenizer::train_word_piece(&["a"], 10).unwrap_err().to_string();
    assert!(small.contains("vocab_size was 10") && small.contains("64"), "{small}");
    assert!(matches!(Tokenizer::train_word_piece::<&str>(&[], 100), Err(Error::NoPassages)));
}

/// Names what a failed download left in place of a file; reads or refuses an existing configuration.
#[test]
fn what_stands_in_place_of_a_tokenizer_is_named() {
    let saved = tempfile::tempdir().unwrap();
    tokenizer().save(saved.path(), 128).unwrap();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 231508\n";
    let page = b"<!DOCTYPE html>\n<html><body>Sign in</body></html>";
    for file in ["tokenizer.json", "vocab.txt", "tokenizer_config.json"] {
        let message = |bytes: &[u8]| {
            let directory = tempfile::tempdir().unwrap();
            let vocabulary = if file == "vocab.txt" { file } else { "tokenizer.json" };
            std::fs::copy(saved.path().join(vocabulary), directory.path().join(vocabulary)).unwrap();
            std::fs::write(directory.path().join(file), bytes).unwrap();
            Tokenizer::from_path(directory.path()).unwrap_err().to_string()
        };
        for (bytes, expected) in [
            (&pointer[..], "Git LFS pointer in place of the file itself (run `git lfs pull`)"),
            (page, "looks to be an HTML page"),
            (b"\xff\xfe[\0", "looks to be UTF-16 text"),
            (b"\x1f\x8b\x08\0", "looks to be a gzip file"),
            (b"{\"a\": \"\xff\"}", "looks to be text that is not UTF-8"),
        ] {
            let message = message(bytes);
            assert!(message.contains(file) && message.contains(expected), "{file}: {message}");
        }
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(saved.path().join("vocab.txt"), directory.path().join("vocab.txt")).unwrap();
    for (config, expected) in [
        ("{", "tokenizer_config.json`: it is no JSON"),
        ("[]", "it should be a JSON object"),
        ("{\"do_lower_case\": \"no\"}", "do_lower_case is \"no\"; it should be true or false"),
    ] {
        write(directory.path(), "tokenizer_config.json", config.as_bytes());
        let message = Tokenizer::from_path(directory.path()).unwrap_err().to_string();
        assert!(message.contains(expected), "{config}: {message}");
    }
}

#[test]
fn a_cased_vocabulary_is_obeyed() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nWord\nword\n");
    let ids = || Tokenizer::from_path(directory.path()).unwrap().encode("Word", 8).unwrap();
    assert_eq!(ids(), [2, 6, 3]);
    write(directory.path(), "tokenizer_config.json", b"{\"do_lower_case\": false}");
    assert_eq!(ids(), [2, 5, 3]);
}

#[test]
fn passages_begin_and_end_with_special_tokens() {
    let tokenizer = tokenizer();
    let special = tokenizer.special_tokens();
    let text = "The retrieval [SEP] zzz";
    let corpus = tokenizer.encode_corpus(&[text], 64).unwrap();
    let passage = corpus.passages.get(0).unwrap();
    let ids = passage.ids.to_vec();
    assert_eq!(ids, tokenizer.encode(text, 64).unwrap());
    assert_eq!((ids[0], *ids.last().unwrap()), (special.cls, special.sep));
    assert!(!ids[1..ids.len() - 1].contains(&special.sep), "a spelled out [SEP] is text");
    for (id, start) in ids.iter().zip(starts(passage)) {
        let token = tokenizer.token(*id).unwrap();
        assert_eq!(start, !["[CLS]", "[SEP]"].contains(&token) && !token.starts_with("##"), "{token}");
    }
    assert_eq!(tokenizer.encode("the the the the", 5).unwrap().len(), 5);
    assert_eq!(tokenizer.encode("", 5).unwrap(), [special.cls, special.sep]);
    assert!(tokenizer.encode("the", 2).unwrap_err().to_string().contains("max_len was 2"));
}

#[test]
fn long_texts_are_split_at_sentences_without_loss() {
    let tokenizer = tokenizer();
    let sentence = "The query of the passage. ";
    let long = sentence.repeat(9);
    let endless = "query ".repeat(50);
    let corpus = tokenizer.encode_corpus(&["", long.as_str(), "the", endless.as_str()], 16).unwrap();
    let whole = |text: &str| tokenizer.encode(text, 10_000).unwrap();
    let content = |passages: &Passages| -> Vec<u32> {
        passages.iter().flat_map(|passage| passage.ids.to_vec()[1..passage.len() - 1].to_vec()).collect()
    };
    let mut expected = Vec::new();
    for text in [&long, "the", &endless] {
        let ids = whole(text);
        expected.extend_from_slice(&ids[1..ids.len() - 1]);
    }
    assert_eq!(content(&corpus.passages), expected);
    assert!(corpus.passages.iter().all(|passage| passage.len() <= 16));
    let stop = whole(".")[1];
    let first = corpus.passages.get(0).unwrap().ids.to_vec();
    assert_eq!(first[first.len() - 2], stop, "the first part ends with its sentence");
    let report = corpus.report;
    assert_eq!((report.texts, report.skipped_empty, report.split), (4, 1, 2));
    assert_eq!(report.cut_in_sentence, endless.split(' ').count() / 14);
    assert_eq!(report.passages, corpus.passages.len());
    assert!(
        tokenizer
            .encode_corpus(&["", "\u{200b}"], 16)
            .unwrap_err()
            .to_string()
            .contains("none of the 2 passages")
    );
    assert!(tokenizer.encode_corpus(&["the"], 0).unwrap_err().to_string().contains("max_len was 0"));
}

#[test]
fn cuts_leave_words_whole() {
    let tokenizer = tokenizer();
    let text = "zyx zyxw zy ".repeat(20);
    let corpus = tokenizer.encode_corpus(&[text.as_str()], 12).unwrap();
    for passage in corpus.passages.iter() {
        assert!(
            !tokenizer.token(passage.ids.to_vec()[1]).unwrap().starts_with("##"),
            "a passage begins inside a word"
        );
    }
    // A word longer than a passage is cut, and its rest begins a new word.
    let cut = tokenizer.encode_corpus(&["querypassageretrieval"], 3).unwrap();
    assert!(
        cut.passages
            .iter()
            .any(|passage| tokenizer.token(passage.ids.to_vec()[1]).unwrap().starts_with("##"))
    );
    assert!(cut.passages.iter().all(|passage| passage.word_starts.get(1)));
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(400))]

    #[test]
    fn no_text_breaks_the_readers(text in "[a-zA-Z.!? \\n`~<>()\\[\\]|#*_\\-\\\\&;0-9éß。“”\u{0}\u{feff}-]{0,80}") {
        for paragraph in markdown_paragraphs(&text) {
            proptest::prop_assert!(!paragraph.is_empty() && !paragraph.contains(['\n', '\0']));
        }
        let _ = doc_comment_blocks(&text);
        let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
        let found = sentences(&text);
        proptest::prop_assert_eq!(letters(&found.concat()), letters(&text), "a sentence is lost");
    }
}
