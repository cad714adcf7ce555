//! `retromae tokenize`: every format, every kind of damage, and a store that is the same however often its creation was interrupted.
#![cfg(feature = "train")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use retromae::data::store::StoreWriter;
use retromae::data::{
    Corpus, Documents, Manifest, ReadOptions, TextFormat, TokenStore, TokenizeOptions, Tokenizer, tokenize,
};
use tempfile::TempDir;

use crate::cli::{program, stderr};

/// A corpus in several files and formats, and a vocabulary.
struct Workspace {
    directory: TempDir,
}

impl Workspace {
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        let lines: Vec<String> = (0..400).map(line).collect();
        let tokenizer = Tokenizer::train_word_piece(&lines, 300).unwrap();
        std::fs::create_dir(place.path("vocabulary")).unwrap();
        tokenizer.save(place.path("vocabulary"), 128).unwrap();
        std::fs::create_dir(place.path("corpus")).unwrap();
        let text = |range: std::ops::Range<usize>| lines[range].join("\n") + "\n";
        place.write("corpus/a.txt", text(0..120).as_bytes());
        place.write(
            "corpus/b.txt.gz",
            &[gzip(text(120..150).as_bytes()), gzip(text(150..180).as_bytes())].concat(),
        );
        let zstandard = |range| zstd::encode_all(text(range).as_bytes(), 3).unwrap();
        place.write("corpus/c.txt.zst", &[zstandard(180..200), zstandard(200..230)].concat());
        let json = |text: &String| serde_json::json!({ "id": 1, "text": text }).to_string();
        let mut jsonl: Vec<String> = lines[230..300].iter().map(json).collect();
        jsonl[40] = "{\"id\": 1}".into();
        jsonl[50] = "not json".into();
        place.write("corpus/d.jsonl", jsonl.join("\n").as_bytes());
        place.write("corpus/e.md", text(300..400).replace('\n', "\n\n").as_bytes());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn options(&self, out: &str) -> TokenizeOptions {
        TokenizeOptions {
            corpus: vec![self.path("corpus")],
            read: ReadOptions::default(),
            vocabulary: self.path("vocabulary"),
            out: self.path(out),
            max_len: 48,
            shard_tokens: 1000,
            overwrite: false,
        }
    }

    fn command(&self, out: &str, corpus: &str, shard_tokens: usize) -> Command {
        let mut command = Command::new(program());
        command.arg("tokenize").arg("--corpus").arg(corpus);
        command.arg("--vocab").arg(self.path("vocabulary")).arg("--out").arg(self.path(out));
        command.args(["--max-len", "48", "--shard-tokens", &shard_tokens.to_string()]);
        command
    }

    /// Returns a finished store of `corpus/`.
    fn store(&self, out: &str) -> Manifest {
        tokenize(&self.options(out), |_| ()).unwrap().0
    }

    fn refused(&self, change: impl FnOnce(&mut TokenizeOptions)) -> String {
        let mut options = TokenizeOptions { overwrite: true, ..self.options("refused") };
        change(&mut options);
        tokenize(&options, |_| ()).unwrap_err().to_string()
    }
}

fn line(n: usize) -> String {
    const WORDS: [&str; 9] =
        ["river", "castle", "engine", "orchards", "winter", "market", "signals", "garden", "letter"];
    let word = |k: usize| WORDS[(n * 7 + k * k * 3 + n * k) % WORDS.len()];
    let sentence = |at: usize| {
        let words: Vec<&str> = (0..4 + (n + at) % 9).map(|k| word(k + at)).collect();
        format!("The {} is number {n}.", words.join(" "))
    };
    (0..1 + n % 6).map(sentence).collect::<Vec<String>>().join(" ")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Returns every file of a store, by name.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[track_caller]
fn assert_same(directory: &Path, expected: &Path) {
    let (found, expected) = (files(directory), files(expected));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|file| file.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    for (found, expected) in found.iter().zip(&expected) {
        assert!(found.1 == expected.1, "{} differs", found.0);
    }
}

#[track_caller]
fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}", stderr(output));
}

fn documents(path: &Path, options: &ReadOptions) -> Vec<String> {
    let documents = Documents::open(&[path.to_owned()], options.clone()).unwrap();
    documents.map(|document| document.unwrap().text).collect()
}

#[test]
fn a_store_holds_what_the_tokenizer_gives() {
    let place = Workspace::new();
    let manifest = place.store("out");
    assert!(manifest.complete && manifest.shards.len() > 10);
    let tokenizer = Tokenizer::from_path(place.path("out")).unwrap();
    let lines: Vec<String> = (0..400).filter(|n| ![270, 280].contains(n)).map(line).collect();
    let expected = tokenizer.encode_corpus(&lines, 48).unwrap();
    assert!(expected.report.split > 50, "the test splits documents");
    let store = TokenStore::open(&place.path("out"), &manifest).unwrap();
    assert_eq!(store.len(), expected.passages.len());
    for (index, expected) in expected.passages.iter().enumerate() {
        let passage = store.passage(index as u32);
        assert_eq!(passage.ids.to_vec(), expected.ids.to_vec());
        assert!(
            (0..48).all(|position| passage.word_starts.get(position) == expected.word_starts.get(position))
        );
    }
    assert_eq!(manifest.encoded, expected.report);
    assert_eq!((manifest.text.files, manifest.text.texts, manifest.text.bad_lines), (5, 398, 2));
    let first = manifest.text.first_bad_line.clone().unwrap();
    assert!(first.contains("d.jsonl, line 41 has no text: its field \"text\" is missing"), "{first}");
    // A shard ends after the document that reaches its size.
    assert!(manifest.shards.iter().rev().skip(1).all(|shard| (1000..1300).contains(&shard.tokens)));
    let lengths: u64 = store.lengths().iter().enumerate().map(|(length, count)| length as u64 * count).sum();
    assert_eq!(lengths, store.tokens());
}

#[test]
fn a_complete_store_is_left_alone_and_another_one_refused() {
    let place = Workspace::new();
    place.store("out");
    let before = files(&place.path("out"));
    assert!(!tokenize(&place.options("out"), |_| ()).unwrap().1);
    assert!(files(&place.path("out")) == before);
    let message = |change: &dyn Fn(&mut TokenizeOptions)| {
        let mut options = place.options("out");
        change(&mut options);
        tokenize(&options, |_| ()).unwrap_err().to_string()
    };
    assert!(message(&|o| o.max_len = 50).contains("max_len is 50, but the store"));
    assert!(message(&|o| o.shard_tokens = 9).contains("shard_tokens is 9"));
    assert!(message(&|o| o.read.field = "body".into()).contains("field is body"));
    assert!(message(&|o| o.read.format = Some(TextFormat::Md)).contains("format is md"));
    assert!(message(&|o| o.corpus.push(place.path("corpus/a.txt"))).contains("corpus is 6 files"));
    let other = Tokenizer::train_word_piece(&(0..9).map(line).collect::<Vec<_>>(), 100).unwrap();
    std::fs::create_dir(place.path("other")).unwrap();
    other.save(place.path("other"), 48).unwrap();
    assert!(message(&|o| o.vocabulary = place.path("other")).contains("vocabulary is "));
    place.write("corpus/a.txt", b"Another text.");
    let changed = message(&|_| ());
    assert!(changed.contains("corpus is") && changed.contains("a.txt` of 13 bytes"), "{changed}");
    assert!(files(&place.path("out")) == before, "what is refused is not touched");
    let anew = TokenizeOptions { overwrite: true, max_len: 50, ..place.options("out") };
    assert!(tokenize(&anew, |_| ()).unwrap().0.complete);
    tokenize(&TokenizeOptions { out: place.path("anew"), ..anew }, |_| ()).unwrap();
    assert_same(&place.path("out"), &place.path("anew"));
}

/// A store begun under older rules, before passages were deduplicated, can be read, but is not continued.
#[test]
fn a_store_is_finished_by_the_rules_that_it_was_begun_by() {
    let place = Workspace::new();
    let manifest = place.store("out");
    let path = place.path("out/store.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"rules\": 1,", "")).unwrap();
    let message = tokenize(&place.options("out"), |_| ()).unwrap_err().to_string();
    assert!(message.contains("number 1, but the store") && message.contains("overwrite should"), "{message}");
    let older = Manifest::read(&place.path("out")).unwrap();
    assert_eq!(
        (older.rules, TokenStore::open(&place.path("out"), &older).unwrap().len()),
        (0, manifest.encoded.passages)
    );
}

#[test]
fn reading_goes_on_behind_every_document() {
    let place = Workspace::new();
    let long: String = (0..12_000).map(line).collect::<Vec<_>>().join(" ");
    place.write("corpus/f.txt", format!("{long}\n\nshort\r\nbad \u{0} and").as_bytes());
    place.write("corpus/g.jsonl", format!("[]\n{}\n{{}}", serde_json::json!({ "text": long })).as_bytes());
    let open = || Documents::open(&[place.path("corpus")], ReadOptions::default()).unwrap();
    let all = |mut documents: Documents| {
        let mut found = Vec::new();
        for document in documents.by_ref().map(Result::unwrap) {
            found.push((document.text, document.report, document.read_offset));
        }
        (found, documents.rest().clone())
    };
    let (whole, rest) = all(open());
    assert!(whole.iter().all(|(text, ..)| text.len() <= 256 << 10 && !text.is_empty()));
    assert!(whole.len() > 400 + 8, "long lines are several documents");
    for at in (0..whole.len()).filter(|at| at % 37 == 0 || at + 12 > whole.len()) {
        let (found, found_rest) = all(open().starting_at(whole[at].2));
        assert!(found == whole[at + 1..], "reading from {:?} is another", whole[at].2);
        assert_eq!(found_rest, rest);
    }
    let joined: String = whole.iter().map(|(text, ..)| text.replace(' ', "")).collect();
    assert!(joined.contains(&long.replace(' ', "")), "a long line is lost in part");
    let cut = whole.iter().filter(|(text, ..)| text.len() > 200 << 10);
    assert!(cut.clone().count() >= 4 && cut.into_iter().all(|(text, ..)| text.ends_with('.')));
}

#[test]
fn bad_text_is_counted_and_nothing_of_it_lost() {
    let place = Workspace::new();
    let endless = "x".repeat(10 << 20);
    let text =
        [b"\xef\xbb\xbfOne\r\ntwo\0words\r\n\xff\xfe broken \x80\n\n\n", endless.as_bytes(), b"\nI"].concat();
    place.write("bad.txt", &text);
    let mut documents = Documents::open(&[place.path("bad.txt")], ReadOptions::default()).unwrap();
    let (mut texts, mut report) = (Vec::new(), retromae::data::CorpusReport::default());
    for document in documents.by_ref().map(Result::unwrap) {
        texts.push(document.text);
        report.add(&document.report);
    }
    assert_eq!(texts[..3], ["One", "two words", "\u{fffd}\u{fffd} broken \u{fffd}"]);
    assert_eq!((texts[3..texts.len() - 1].concat() == endless, texts.last().unwrap().as_str()), (true, "I"));
    assert_eq!((report.replaced_invalid_utf8, report.nul_bytes, report.texts), (3, 1, texts.len()));
    let options = TokenizeOptions { corpus: vec![place.path("bad.txt")], max_len: 3, ..place.options("bad") };
    let manifest = tokenize(&options, |_| ()).unwrap().0;
    assert_eq!(manifest.text.replaced_invalid_utf8, 3);
    let store = TokenStore::open(&place.path("bad"), &manifest).unwrap();
    assert_eq!((store.shortest(), store.longest()), (3, 3), "one token is enough for a passage");
}

#[test]
fn json_lines_need_their_field() {
    let place = Workspace::new();
    place.write("x.jsonl", b"{\"body\": \"A text.\", \"n\": 1}\n{\"title\": \"T\", \"text\": 5}\n");
    let message = place.refused(|o| o.corpus = vec![place.path("x.jsonl")]);
    assert!(message.contains("x.jsonl` has a text in the field \"text\" (line 1 has no text"), "{message}");
    assert!(message.contains("; field should be body, title"), "{message}");
    let body = ReadOptions { field: "body".into(), ..ReadOptions::default() };
    assert_eq!(documents(&place.path("x.jsonl"), &body), ["A text."]);
    let corpus = Corpus::from_path(place.path("x.jsonl"), &body).unwrap();
    assert_eq!((corpus.passages.len(), corpus.report.bad_lines), (1, 1));
    place.write("y.jsonl", b"[1]\nnone\n");
    let message = place.refused(|o| o.corpus = vec![place.path("y.jsonl")]);
    assert!(message.contains("y.jsonl` is a JSON object (line 1 is not a JSON object)"), "{message}");
    place.write("nan.jsonl", b"{\"text\": \"A text.\", \"score\": NaN}\n");
    let message = place.refused(|o| o.corpus = vec![place.path("nan.jsonl")]);
    assert!(
        message.contains("line 1 is not JSON: it has NaN at column 30") && !message.contains("--field"),
        "{message}"
    );
    place.write("nan.jsonl", b"{\"text\": \"A text.\"}\n\n{\"text\": \"\"}\n{\"text\": \"B\", \"n\": NaN}\n");
    let report = Corpus::from_path(place.path("nan.jsonl"), &ReadOptions::default()).unwrap().report;
    assert_eq!((report.texts, report.empty, report.bad_lines), (1, 1, 1));
    assert!(report.first_bad_line.unwrap().contains("nan.jsonl, line 4 is not JSON: it has NaN"));
    place.write("blank.txt", b" \n\r\n");
    let message = place.refused(|o| o.corpus = vec![place.path("blank.txt")]);
    assert!(message.contains("no usable passage"), "{message}");
}

#[test]
fn faulty_sources_are_named() {
    let place = Workspace::new();
    let whole = gzip(&[b'a'; 100_000]);
    place.write("cut.txt.gz", &whole[..whole.len() - 20]);
    place.write("no.txt.zst", b"\x28\xb5\x2f\xfdthis is no such file");
    for (name, expected) in
        [("cut.txt.gz", "cut.txt.gz"), ("no.txt.zst", "no.txt.zst"), ("none.txt", "none.txt")]
    {
        let message = place.refused(|o| o.corpus = vec![place.path(name)]);
        assert!(message.contains("cannot read") && message.contains(expected), "{message}");
    }
    let input = PathBuf::from("-");
    assert!(place.refused(|o| o.corpus = vec![input.clone(), input]).contains("given twice"));
    assert!(place.refused(|o| o.max_len = 2).contains("max_len was 2"));
    assert!(place.refused(|o| o.shard_tokens = 0).contains("shard_tokens was 0"));
    std::fs::create_dir(place.path("mine")).unwrap();
    place.write("mine/letter.txt", b"mine");
    let message = place.refused(|o| o.out = place.path("mine"));
    assert!(message.contains("holds `letter.txt` and is no token store"), "{message}");
    assert!(place.path("mine/letter.txt").is_file());
}

#[test]
fn damaged_shards_are_named_and_not_read() {
    let place = Workspace::new();
    let manifest = place.store("out");
    let path = place.path("out").join("shard-00003.tokens");
    let whole = std::fs::read(&path).unwrap();
    let message = || TokenStore::open(&place.path("out"), &manifest).unwrap_err().to_string();
    // A bit of every section: header, offsets, ids, word starts.
    let places = [0, 9, 17, 25, 40, 64, 80, whole.len() / 2, 3 * whole.len() / 4, whole.len() - 1];
    for at in places {
        for bit in [0, 7] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            std::fs::write(&path, &damaged).unwrap();
            let message = message();
            assert!(
                message.contains("shard-00003.tokens") && message.contains("with overwrite"),
                "byte {at}: {message}"
            );
        }
    }
    for length in [0, 10, 64, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(message().contains("shard-00003.tokens"), "{length} bytes");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(message().contains("shard-00003.tokens`: No such file"), "{}", message());
    std::fs::copy(place.path("out/shard-00004.tokens"), &path).unwrap();
    assert!(message().contains("its checksum is"), "{}", message());
    std::fs::write(&path, &whole).unwrap();
    TokenStore::open(&place.path("out"), &manifest).unwrap();
    std::fs::write(place.path("out/store.json"), b"{\"version\": 99}").unwrap();
    assert!(
        Manifest::read(&place.path("out")).unwrap_err().to_string().contains("version is 99; it should be 1")
    );
}

#[test]
fn the_standard_input_is_a_corpus() {
    let place = Workspace::new();
    let piped = |out: &str, more: &[&str], bytes: &[u8]| {
        let mut command = place.command(out, "-", 1000);
        command.args(more).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        child.wait_with_output().unwrap()
    };
    let text = std::fs::read(place.path("corpus/a.txt")).unwrap();
    assert_done(&piped("piped", &[], &text));
    let file = TokenizeOptions { corpus: vec![place.path("corpus/a.txt")], ..place.options("file") };
    tokenize(&file, |_| ()).unwrap();
    let shards = |out: &str| -> Vec<(String, Vec<u8>)> {
        files(&place.path(out)).into_iter().filter(|file| file.0.starts_with("shard")).collect()
    };
    assert!(shards("piped") == shards("file"));
    let json = std::fs::read(place.path("corpus/d.jsonl")).unwrap();
    for (out, more) in [("said", &["--format", "jsonl"][..]), ("told", &[])] {
        assert_done(&piped(out, more, &json));
        let manifest = Manifest::read(&place.path(out)).unwrap();
        assert_eq!((manifest.text.texts, manifest.text.bad_lines), (68, 2));
    }
    assert_done(&piped("compressed", &[], &gzip(&text)));
    assert!(shards("compressed") == shards("file"));
    let refused = piped("binary", &[], b"PAR1\x15\x04");
    assert!(!refused.status.success() && stderr(&refused).contains("`-` looks to be a Parquet file"));
}

/// Standard inputs are told apart only by their bytes.
#[test]
#[cfg(unix)]
fn another_standard_input_is_not_taken_for_the_one_before() {
    let place = Workspace::new();
    // More than is tokenized at once.
    let text = (0..60_000).map(line).collect::<Vec<_>>().join("\n").into_bytes();
    place.write("all.txt", &text);
    let whole = TokenizeOptions {
        corpus: vec![place.path("all.txt")],
        shard_tokens: 200_000,
        ..place.options("whole")
    };
    tokenize(&whole, |_| ()).unwrap();
    let spawn = |bytes: &[u8]| {
        let mut command = place.command("piped", "-", 200_000);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // A process that refuses its input does not read it all.
        let _ = input.write_all(bytes);
        (child, input)
    };
    let (mut child, input) = spawn(&text);
    while !place.path("piped/shard-00001.tokens").exists() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    drop(input);
    assert!(!Manifest::read(&place.path("piped")).unwrap().complete);
    let mut other = text.clone();
    other[2] ^= 1;
    let (child, input) = spawn(&other);
    drop(input);
    let message = stderr(&child.wait_with_output().unwrap());
    assert!(message.contains("bytes are not those that were read before"), "{message}");
    let (child, input) = spawn(&text);
    drop(input);
    assert_done(&child.wait_with_output().unwrap());
    let shards = |out: &str| Manifest::read(&place.path(out)).unwrap().shards;
    assert_eq!(shards("piped"), shards("whole"));
}

#[test]
#[cfg(unix)]
fn a_store_is_written_by_one_process() {
    let place = Workspace::new();
    let writer = begin(&place, "out");
    for overwrite in [false, true] {
        let output = TokenizeOptions { overwrite, ..place.options("out") };
        let message = tokenize(&output, |_| ()).unwrap_err().to_string();
        assert!(message.contains("another process is writing into") && message.contains("out`"), "{message}");
    }
    drop(writer);
    place.store("out");
}

/// Runs the command until it is done; each run is ended by `interrupt` unless it ends by itself.
fn interrupted(
    place: &Workspace,
    out: &str,
    mut interrupt: impl FnMut(&mut std::process::Child, u32),
) -> u32 {
    let corpus = place.path("corpus").display().to_string();
    for round in 0..200 {
        let mut command = place.command(out, &corpus, 5_000);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        interrupt(&mut child, round);
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            return round;
        }
        assert!(output.status.code().is_none(), "not killed, but failed: {}", stderr(&output));
        if Manifest::is_in(&place.path(out)) {
            let manifest = Manifest::read(&place.path(out)).unwrap();
            if !manifest.complete {
                let message = TokenStore::open(&place.path(out), &manifest).unwrap_err().to_string();
                assert!(message.contains("the same `retromae tokenize` again goes on"), "{message}");
            }
        }
    }
    panic!("200 rounds did not finish the store");
}

#[test]
#[cfg(unix)]
fn a_killed_process_goes_on_to_the_same_store() {
    let place = Workspace::new();
    let many: Vec<String> = (0..9_000).map(line).collect();
    place.write("corpus/f.txt", many.join("\n").as_bytes());
    place.write("corpus/ignored.bin", b"\0\x01\x02");
    // Some of them exist already, and must be recognized after each kill.
    let more: Vec<String> = (6_000..15_000).map(line).collect();
    place.write("corpus/g.txt.gz", &gzip(more.join("\n").as_bytes()));
    tokenize(&TokenizeOptions { shard_tokens: 5_000, ..place.options("whole") }, |_| ()).unwrap();
    let shards = Manifest::read(&place.path("whole")).unwrap().shards.len();
    // Kill as soon as a shard, or its temporary file, appears.
    let mut next = 0;
    let kills = interrupted(&place, "by-shard", |child, round| {
        let shard = |number: usize| place.path("by-shard").join(format!("shard-{number:05}.tokens"));
        let temporary = place.path("by-shard").join(format!(".shard-{next:05}.tokens.tmp"));
        let is_there = || shard(next).exists() || round % 2 == 1 && temporary.exists();
        while !is_there() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let _ = child.kill();
        next = (next..).find(|&number| !shard(number).exists()).unwrap_or(0) + shards / 12;
    });
    assert_same(&place.path("by-shard"), &place.path("whole"));
    println!("killed {kills} times at a shard, of {shards} shards");
    assert!(kills >= 3, "killed only {kills} times");
    // Kill after delays that cover all moments of a run.
    let kills = interrupted(&place, "by-time", |child, round| {
        let part = f64::from(round * 37 % 101) / 100.0;
        std::thread::sleep(Duration::from_secs_f64(part * (0.2 + 0.1 * f64::from(round))));
        let _ = child.kill();
    });
    assert_same(&place.path("by-time"), &place.path("whole"));
    println!("killed {kills} times at any time");
    assert!(kills >= 3, "killed only {kills} times");
}

#[test]
#[cfg(unix)]
fn a_full_disk_ends_in_an_error_from_which_to_go_on() {
    let place = Workspace::new();
    place.store("whole");
    let corpus = place.path("corpus").display().to_string();
    let bytes = |file: &str| std::fs::metadata(place.path("whole").join(file)).unwrap().len();
    // In blocks of 512 bytes: too small for a shard, and too small for the last manifest.
    let (shard, manifest) = (bytes("shard-00000.tokens") / 512, bytes("store.json") / 512 - 1);
    assert!(shard < manifest, "a manifest must outgrow a shard");
    for (blocks, file) in [(shard, "shard-00000.tokens"), (manifest, "store.json")] {
        let out = format!("full-{blocks}");
        drop(begin(&place, &out));
        let command = place.command(&out, &corpus, 1000);
        let mut limited = Command::new("sh");
        limited.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""));
        let output = limited.arg(command.get_program()).args(command.get_args()).output().unwrap();
        let text = stderr(&output);
        assert!(
            !output.status.success() && text.contains("cannot write") && text.contains(file),
            "{file}: {text}"
        );
        assert!(files(&place.path(&out)).iter().all(|file| !file.0.ends_with(".tmp")), "half a file is left");
        let manifest = Manifest::read(&place.path(&out)).unwrap();
        assert_eq!(manifest.shards.is_empty(), blocks == shard);
        assert_done(&place.command(&out, &corpus, 1000).output().unwrap());
        assert_same(&place.path(&out), &place.path("whole"));
    }
}

/// Begins a store up to its first shard: the vocabulary, which is larger than the disk will be, is written.
fn begin(place: &Workspace, out: &str) -> StoreWriter {
    let options = place.options(out);
    let tokenizer = Tokenizer::from_path(&options.vocabulary).unwrap();
    let documents = Documents::open(&options.corpus, options.read.clone()).unwrap();
    let plan = options.plan(&tokenizer, &documents);
    StoreWriter::open(&options.out, plan, &tokenizer, false).unwrap()
}
