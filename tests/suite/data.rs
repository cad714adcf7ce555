//! A corpus on its way to batches: what is read, what is refused, and what a seed fixes.
#![cfg(feature = "train")]

use std::path::Path;

use retromae::data::masks::{corrupted, whole_word_mask};
use retromae::data::{
    BatchDrawer, BatchOptions, Corpus, DrawnBatch, Error, Passage, Position, Tokenizer, doc_comment_blocks,
    markdown_paragraphs, sentences, word_kind,
};
use retromae::model::{DecoderKind, IGNORE_INDEX};
use retromae::ops::masks::Budget;
use retromae::random::Stream;

fn write(directory: &Path, name: &str, bytes: &[u8]) {
    let path = directory.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Texts over a small vocabulary whose words are often joined, so that many tokens continue words.
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

fn options(tokenizer: &Tokenizer, decoder: DecoderKind) -> BatchOptions {
    BatchOptions {
        seed: 7,
        batch_tokens: 200,
        encoder_ratio: 0.3,
        decoder_ratio: 0.5,
        decoder,
        vocab_size: tokenizer.vocab_size() as u32,
        special_tokens: tokenizer.special_tokens(),
        rank: 0,
        ranks: 1,
    }
}

fn drawer(decoder: DecoderKind, position: Position) -> BatchDrawer {
    let tokenizer = tokenizer();
    let passages = tokenizer.encode_corpus(&texts(60), 40).unwrap().passages;
    BatchDrawer::new(passages, options(&tokenizer, decoder), position).unwrap()
}

#[test]
fn a_text_file_has_a_passage_a_line() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = b"\xef\xbb\xbfOne  line\r\n\n \t\nOne line\ntwo\0words\nbad \xff byte\nlast";
    write(directory.path(), "corpus.txt", bytes);
    let corpus = Corpus::from_path(directory.path().join("corpus.txt")).unwrap();
    assert_eq!(corpus.passages, ["One line", "two words", "last"]);
    let report = corpus.report;
    assert_eq!((report.files, report.passages, report.bytes), (1, 3, 21));
    assert_eq!((report.skipped_invalid_utf8, report.duplicates), (1, 1));
    assert_eq!(report.to_string(), "3 passages, 21 bytes, from 1 files, 1 not UTF-8, 1 duplicates");
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
    write(directory.path(), "a/broken.md", b"\xff\xfe");
    write(directory.path(), "a/ignored.rs", b"fn main() {}");
    let corpus = Corpus::from_path(directory.path()).unwrap();
    assert_eq!(corpus.passages, ["from c", "A paragraph of five words.", "from z"]);
    assert_eq!(
        (corpus.report.files, corpus.report.skipped_invalid_utf8, corpus.report.skipped_short),
        (4, 1, 1)
    );
}

#[test]
fn a_corpus_without_text_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let message = |name: &str| Corpus::from_path(directory.path().join(name)).unwrap_err().to_string();
    write(directory.path(), "empty.txt", b"");
    write(directory.path(), "binary.txt", b"\xff\n\xfe\n");
    write(directory.path(), "none/readme.rst", b"text");
    assert!(message("missing.txt").contains("missing.txt"));
    assert!(message("empty.txt").contains("empty.txt") && message("empty.txt").contains("no usable passage"));
    assert!(message("binary.txt").contains("2 not UTF-8"), "{}", message("binary.txt"));
    assert!(message("none").contains("no .txt or .md file"));
}

#[test]
#[cfg(unix)]
fn an_unreadable_file_in_a_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "good.txt", b"text");
    std::os::unix::fs::symlink("nowhere", directory.path().join("dangling.txt")).unwrap();
    let message = Corpus::from_path(directory.path()).unwrap_err().to_string();
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
    assert_eq!((corpus.report.duplicates, corpus.report.skipped_invalid_utf8), (1, 1));
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
        ("bpe", "lacks [PAD], [CLS], [SEP], [MASK]"),
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

#[test]
fn a_cased_vocabulary_is_obeyed() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nWord\nword\n");
    let ids = || Tokenizer::from_path(directory.path()).unwrap().encode("Word", 8).unwrap().ids;
    assert_eq!(ids(), [2, 6, 3]);
    write(directory.path(), "tokenizer_config.json", b"{\"do_lower_case\": false}");
    assert_eq!(ids(), [2, 5, 3]);
}

#[test]
fn passages_begin_and_end_with_special_tokens() {
    let tokenizer = tokenizer();
    let special = tokenizer.special_tokens();
    let passage = tokenizer.encode("The retrieval [SEP] zzz", 64).unwrap();
    assert_eq!((passage.ids[0], *passage.ids.last().unwrap()), (special.cls, special.sep));
    let inside = &passage.ids[1..passage.ids.len() - 1];
    assert!(!inside.contains(&special.sep), "a spelled out [SEP] is text");
    for (id, kind) in passage.ids.iter().zip(&passage.word_starts) {
        let token = tokenizer.token(*id).unwrap();
        let expected = match token {
            "[CLS]" | "[SEP]" => word_kind::SPECIAL,
            token if token.starts_with("##") => word_kind::CONTINUATION,
            _ => word_kind::START,
        };
        assert_eq!(*kind, expected, "{token}");
    }
    assert_eq!(tokenizer.encode("the the the the", 5).unwrap().ids.len(), 5);
    assert_eq!(tokenizer.encode("", 5).unwrap().ids, [special.cls, special.sep]);
    assert!(tokenizer.encode("the", 2).unwrap_err().to_string().contains("max_len was 2"));
}

#[test]
fn long_texts_are_split_at_sentences_without_loss() {
    let tokenizer = tokenizer();
    let sentence = "The query of the passage. ";
    let long = sentence.repeat(9);
    let endless = "query ".repeat(50);
    let corpus = tokenizer.encode_corpus(&["", long.as_str(), "the", endless.as_str()], 16).unwrap();
    let whole = |text: &str| tokenizer.encode(text, 10_000).unwrap().ids;
    let content = |passages: &[Passage]| -> Vec<u32> {
        passages.iter().flat_map(|passage| passage.ids[1..passage.ids.len() - 1].to_vec()).collect()
    };
    let mut expected = Vec::new();
    for text in [&long, "the", &endless] {
        let ids = whole(text);
        expected.extend_from_slice(&ids[1..ids.len() - 1]);
    }
    assert_eq!(content(&corpus.passages), expected);
    assert!(corpus.passages.iter().all(|passage| passage.ids.len() <= 16));
    let stop = whole(".")[1];
    let first = &corpus.passages[0].ids;
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
    for passage in &corpus.passages {
        assert!(
            !tokenizer.token(passage.ids[1]).unwrap().starts_with("##"),
            "a passage begins inside a word"
        );
    }
    // A word longer than a passage has to be cut, and its rest begins a word of its own.
    let cut = tokenizer.encode_corpus(&["querypassageretrieval"], 3).unwrap();
    assert!(cut.passages.iter().any(|passage| tokenizer.token(passage.ids[1]).unwrap().starts_with("##")));
    assert!(cut.passages.iter().all(|passage| passage.word_starts[1] == word_kind::START));
}

#[test]
fn masks_take_whole_words_within_the_budget() {
    let passages = tokenizer().encode_corpus(&texts(60), 40).unwrap().passages;
    let continued =
        passages.iter().flat_map(|passage| &passage.word_starts).filter(|&&kind| kind == 0).count();
    assert!(continued > 100, "only {continued} tokens continue a word");
    let mut filled = 0;
    for (index, passage) in passages.iter().enumerate() {
        for (step, ratio) in [(0, 0.15), (1, 0.3), (2, 0.5), (3, 0.7)] {
            let budget = Budget::of(ratio);
            let mask =
                whole_word_mask(3, step, index as u32, Stream::EncoderMask, &passage.word_starts, budget);
            let chosen = mask.iter().filter(|&&chosen| chosen).count();
            let most = budget.tokens(mask.len());
            assert!(chosen <= most, "{chosen} of {most}");
            filled += usize::from(chosen == most);
            assert!(!mask[0] && !mask[mask.len() - 1], "a special token is chosen");
            for slot in 1..mask.len() {
                if passage.word_starts[slot] == word_kind::CONTINUATION {
                    assert_eq!(mask[slot], mask[slot - 1], "a word is split");
                }
            }
        }
    }
    assert!(filled > passages.len(), "budgets are reached when words are short");
}

#[test]
fn every_word_is_chosen_as_often() {
    let word_starts = [2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2];
    let mut counts = [0_u32; 12];
    const DRAWS: u32 = 20_000;
    for step in 0..DRAWS {
        let mask = whole_word_mask(5, step, 1, Stream::DecoderMask, &word_starts, Budget::of(0.5));
        assert_eq!(mask.iter().filter(|&&chosen| chosen).count(), 6);
        mask.iter().zip(&mut counts).for_each(|(&chosen, count)| *count += u32::from(chosen));
    }
    let expected = f64::from(DRAWS) * 0.6;
    let chi_square: f64 =
        counts[1..11].iter().map(|&count| (f64::from(count) - expected).powi(2) / (expected * 0.4)).sum();
    // Nine degrees of freedom, one in a thousand.
    assert!(chi_square < 27.9, "{counts:?}: chi-square {chi_square}");
}

#[test]
fn masks_depend_on_all_of_their_coordinates() {
    let word_starts = [&[2][..], &[1; 62], &[2]].concat();
    let mask =
        |seed, step, index, stream| whole_word_mask(seed, step, index, stream, &word_starts, Budget::of(0.5));
    let first = mask(1, 2, 3, Stream::EncoderMask);
    assert_eq!(first, mask(1, 2, 3, Stream::EncoderMask));
    for other in [
        mask(2, 2, 3, Stream::EncoderMask),
        mask(1 + (1 << 32), 2, 3, Stream::EncoderMask),
        mask(1, 3, 3, Stream::EncoderMask),
        mask(1, 2, 4, Stream::EncoderMask),
        mask(1, 2, 3, Stream::DecoderMask),
    ] {
        assert_ne!(first, other);
    }
}

#[test]
fn chosen_tokens_are_masked_replaced_and_kept_as_bert_does() {
    const DRAWS: u32 = 100_000;
    const VOCABULARY: u32 = 1_000_000;
    let (mask_id, id) = (4, 77);
    let mut counts = [0_u32; 3];
    for slot in 0..DRAWS {
        let outcome = match corrupted(9, 1, 2, slot, id, mask_id, VOCABULARY) {
            new if new == mask_id => 0,
            new if new == id => 2,
            new => {
                assert!(new < VOCABULARY);
                1
            }
        };
        counts[outcome] += 1;
    }
    let expected = [0.8, 0.1, 0.1].map(|part| part * f64::from(DRAWS));
    let chi_square: f64 = counts
        .iter()
        .zip(expected)
        .map(|(&count, expected)| (f64::from(count) - expected).powi(2) / expected)
        .sum();
    // Two degrees of freedom, one in a thousand.
    assert!(chi_square < 13.8, "{counts:?}: chi-square {chi_square}");
}

#[test]
fn a_batch_holds_what_the_objective_needs() {
    for decoder in [DecoderKind::Enhanced, DecoderKind::Basic] {
        let mut drawer = drawer(decoder, Position::default());
        let mask_id = tokenizer().special_tokens().mask as i32;
        let DrawnBatch { batch, sentence_indices, word_starts } = drawer.draw(5);
        assert!(batch.num_tokens() <= 200 && batch.num_tokens() > 150);
        assert_eq!(
            (batch.num_sentences(), word_starts.len()),
            (sentence_indices.len(), batch.num_tokens().div_ceil(32))
        );
        assert!(batch.visibility.is_none());
        for (b, &index) in sentence_indices.iter().enumerate() {
            let passage = &drawer.passages()[index as usize];
            let range = batch.sentence(b);
            for (t, &kind) in range.clone().zip(&passage.word_starts) {
                assert_eq!(word_starts[t / 32] >> (t % 32) & 1 == 1, kind == word_kind::START);
            }
            for (slot, t) in range.enumerate() {
                let original = passage.ids[slot] as i32;
                let special = passage.word_starts[slot] == word_kind::SPECIAL;
                let (label, input) = (batch.encoder_labels[t], batch.encoder_input_ids[t]);
                assert!(label == original && !special || label == IGNORE_INDEX && input == original);
                let (label, input) = (batch.decoder_labels[t], batch.decoder_input_ids[t]);
                match decoder {
                    DecoderKind::Enhanced => {
                        assert_eq!(input, original);
                        assert_eq!(label, if special { IGNORE_INDEX } else { original });
                    }
                    DecoderKind::Basic if label == IGNORE_INDEX => assert_eq!(input, original),
                    DecoderKind::Basic => assert_eq!((label, input, special), (original, mask_id, false)),
                }
            }
        }
        let chosen = batch.encoder_labels.iter().filter(|&&label| label != IGNORE_INDEX).count();
        assert!(
            chosen * 10 > batch.num_tokens() && chosen * 3 < batch.num_tokens() + 3 * batch.num_sentences()
        );
    }
}

/// Whenever one looks, each passage has been drawn or put off as often as epochs have come upon it.
#[test]
fn every_passage_is_seen_once_an_epoch() {
    let mut drawer = drawer(DecoderKind::Enhanced, Position::default());
    let mut seen = vec![0; drawer.passages().len()];
    let mut orders = Vec::new();
    let mut epoch_before = 0;
    while drawer.position().epoch < 3 {
        let drawn = drawer.draw(0).sentence_indices;
        drawn.iter().for_each(|&index| seen[index as usize] += 1);
        let Position { epoch, cursor, put_off } = drawer.position().clone();
        let mut come_upon = seen.clone();
        put_off.iter().for_each(|&index| come_upon[index as usize] += 1);
        assert!(come_upon.iter().all(|&count| count == epoch || count == epoch + 1));
        assert_eq!(come_upon.iter().filter(|&&count| count > epoch).count(), cursor as usize);
        if epoch > epoch_before {
            orders.push(drawn);
            epoch_before = epoch;
        }
    }
    assert_ne!(orders[0], orders[1], "epochs have the same order");
}

#[test]
fn batches_are_full_and_their_longest_sentences_first() {
    let tokenizer = tokenizer();
    let passages = tokenizer.encode_corpus(&texts(600), 40).unwrap().passages;
    let mean = passages.iter().map(|passage| passage.ids.len()).sum::<usize>() as f64 / passages.len() as f64;
    let options = options(&tokenizer, DecoderKind::Enhanced);
    let mut drawer = BatchDrawer::new(passages, options, Position::default()).unwrap();
    let batch_tokens = options.batch_tokens;
    let (mut tokens, mut put_off) = (0, 0);
    const BATCHES: usize = 100;
    for step in 0..BATCHES as u32 {
        let batch = drawer.draw(step).batch;
        assert!(batch.cu_seqlens.windows(3).all(|ends| ends[1] - ends[0] >= ends[2] - ends[1]));
        assert!(batch.num_tokens() <= batch_tokens);
        tokens += batch.num_tokens();
        put_off += drawer.position().put_off.len();
    }
    let fill = tokens as f64 / (BATCHES * batch_tokens) as f64;
    println!("fill {fill:.4}, {put_off} passages put off in {BATCHES} batches");
    // Where a batch ended before the first passage that does not fit, half a passage would be missing on average.
    let without = 1.0 - mean / 2.0 / batch_tokens as f64;
    // What is left now is less than the shortest passage.
    assert!(1.0 - fill < 0.7 * (1.0 - without), "fill {fill}, {without} without putting off");
}

#[test]
fn ranks_share_an_epoch() {
    let tokenizer = tokenizer();
    let passages = tokenizer.encode_corpus(&texts(601), 40).unwrap().passages;
    for ranks in [2, 3, 7] {
        let (mut alone, mut rest) = (vec![0; passages.len()], vec![false; passages.len()]);
        for rank in 0..ranks {
            let options = BatchOptions { rank, ranks, ..options(&tokenizer, DecoderKind::Enhanced) };
            let mut drawer = BatchDrawer::new(passages.clone(), options, Position::default()).unwrap();
            let last = loop {
                let mut next = drawer.clone();
                let drawn = next.draw(0).sentence_indices;
                if next.position().epoch > 0 {
                    break [drawn, next.position().put_off.clone()].concat();
                }
                drawn.iter().for_each(|&index| alone[index as usize] += 1);
                drawer = next;
            };
            drawer.position().put_off.iter().for_each(|&index| alone[index as usize] += 1);
            // The batch that reaches into the next epoch has the rest of this one.
            last.iter().for_each(|&index| rest[index as usize] = true);
        }
        assert!(alone.iter().all(|&count| count <= 1), "two of {ranks} ranks draw a passage: {alone:?}");
        assert!(alone.iter().sum::<i32>() as usize > passages.len() * 3 / 4, "{alone:?}");
        let covered = alone.iter().zip(&rest).all(|(&count, &rest)| count == 1 || rest);
        assert!(covered, "{ranks} ranks leave passages out");
    }
}

#[test]
fn a_resumed_drawer_goes_on_exactly() {
    for decoder in [DecoderKind::Enhanced, DecoderKind::Basic] {
        let mut whole = drawer(decoder, Position::default());
        for step in 0..25 {
            let position: Position =
                serde_json::from_str(&serde_json::to_string(whole.position()).unwrap()).unwrap();
            let batch = whole.draw(step);
            let mut resumed = drawer(decoder, position.clone());
            assert_eq!(resumed.draw(step), batch, "step {step} from {position:?}");
            assert_eq!(resumed.position(), whole.position());
        }
        assert!(whole.position().epoch >= 2, "the test crosses epochs");
    }
}

#[test]
fn a_batch_larger_than_the_corpus_holds_it_once() {
    let tokenizer = tokenizer();
    let passages = tokenizer.encode_corpus(&texts(5), 40).unwrap().passages;
    let options = BatchOptions { batch_tokens: 100_000, ..options(&tokenizer, DecoderKind::Enhanced) };
    let mut drawer = BatchDrawer::new(passages, options, Position::default()).unwrap();
    for step in 0..20 {
        let mut indices = drawer.draw(step).sentence_indices;
        let drawn = indices.len();
        indices.sort_unstable();
        indices.dedup();
        assert_eq!(indices.len(), drawn, "a batch holds a passage twice");
        assert!(drawn >= 1);
    }
}

#[test]
fn a_drawer_refuses_bad_arguments() {
    let tokenizer = tokenizer();
    let passage = || tokenizer.encode("the passage", 40).unwrap();
    let good = options(&tokenizer, DecoderKind::Basic);
    let message =
        |passages, options, position| BatchDrawer::new(passages, options, position).unwrap_err().to_string();
    let start = Position::default;
    let at = |cursor, put_off| Position { epoch: 1, cursor, put_off };
    let cases = [
        (message(vec![], good, start()), "passages was empty"),
        (
            message(vec![passage()], BatchOptions { encoder_ratio: 0.0, ..good }, start()),
            "encoder_ratio was 0",
        ),
        (
            message(vec![passage()], BatchOptions { decoder_ratio: f64::NAN, ..good }, start()),
            "decoder_ratio was NaN",
        ),
        (
            message(vec![passage()], BatchOptions { decoder_ratio: 1.0, ..good }, start()),
            "decoder_ratio was 1",
        ),
        (message(vec![passage()], BatchOptions { batch_tokens: 3, ..good }, start()), "batch_tokens was 3"),
        (message(vec![passage()], BatchOptions { batch_tokens: usize::MAX, ..good }, start()), "below 2^31"),
        (message(vec![passage()], BatchOptions { vocab_size: 5, ..good }, start()), "vocabulary size 5"),
        (message(vec![passage()], good, at(2, vec![])), "cursor 2"),
        (
            message(vec![Passage { ids: vec![1], word_starts: vec![] }], good, start()),
            "1 ids and 0 word starts",
        ),
        (message(vec![Passage::default()], good, start()), "at least 1"),
        (message(vec![passage()], good, at(0, vec![1])), "cursor 0"),
        (message(vec![passage()], BatchOptions { rank: 1, ..good }, start()), "rank was 1 of 1"),
        (message(vec![passage()], BatchOptions { ranks: 2, ..good }, start()), "at most 1, the passages"),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
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
