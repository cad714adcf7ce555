//! All text comes in through one reader: every kind of file means the same to every command.
#![cfg(feature = "train")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use retromae::data::{Documents, Manifest, ReadOptions, Records, TextFormat};
use retromae::train::report::read_training_log;

use crate::cli::{Workplace, program, run, stderr};

/// Expected meaning of a file.
enum Means {
    /// The same as the lines of text, with this in the report.
    Text(&'static str),
    /// An error with this message.
    Refused(&'static str),
}

use Means::{Refused, Text};

/// Returns a name and bytes for each kind of file, made of `lines`, and its meaning.
fn kinds(lines: &[&str]) -> Vec<(&'static str, Vec<u8>, Means)> {
    let text = lines.join("\n");
    let json = |line: &&str| serde_json::json!({ "id": 7, "text": line }).to_string();
    let jsonl = lines.iter().map(json).collect::<Vec<_>>().join("\n");
    let utf16 = |bytes: fn(u16) -> [u8; 2]| -> Vec<u8> { text.encode_utf16().flat_map(bytes).collect() };
    let bytes = str::as_bytes;
    let page = "<!DOCTYPE html>\n<html><body><p>Not found.</p></body></html>\n";
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 41233\n";
    let tensors =
        [&30_u64.to_le_bytes()[..], b"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]", &[0x3d; 900]].concat();
    let numbered: Vec<String> = lines.iter().enumerate().map(|(n, line)| format!("{n}\t{line}")).collect();
    let pretty = format!("[\n  {}\n]\n", jsonl.replace('\n', ",\n  "));
    vec![
        ("lines.txt", text.clone().into(), Text("60 texts")),
        ("blank.txt", text.replacen('\n', "\n\n \n", 1).into(), Text("2 empty")),
        ("paragraphs.md", text.replace('\n', "\n\n").into(), Text("60 texts")),
        ("objects.jsonl", jsonl.clone().into(), Text("60 texts")),
        ("objects.json", jsonl.clone().into(), Text("60 texts")),
        ("objects.txt", jsonl.clone().into(), Text("60 texts")),
        ("lines.txt.gz", gzip(bytes(&text)), Text("60 texts")),
        ("objects.jsonl.zst", zstd::encode_all(bytes(&jsonl), 3).unwrap(), Text("60 texts")),
        ("gzip-in-secret.txt", gzip(bytes(&text)), Text("60 texts")),
        ("no-gzip.jsonl.gz", jsonl.clone().into(), Text("60 texts")),
        ("utf-8-mark.txt", [b"\xef\xbb\xbf", bytes(&text)].concat(), Text("60 texts")),
        ("utf-8-mark.json", [b"\xef\xbb\xbf", bytes(&jsonl)].concat(), Text("60 texts")),
        ("utf-16le.txt", [b"\xff\xfe".to_vec(), utf16(u16::to_le_bytes)].concat(), Text("60 texts")),
        (
            "utf-16be.txt.gz",
            gzip(&[b"\xfe\xff".to_vec(), utf16(u16::to_be_bytes)].concat()),
            Text("60 texts"),
        ),
        ("a-nul.txt", text.replacen(' ', "\0", 1).into(), Text("1 zero bytes")),
        ("utf-16-unmarked.txt", utf16(u16::to_le_bytes), Refused("UTF-16 text without a byte order mark")),
        (
            "latin.txt",
            bytes(&text).iter().map(|byte| byte | 0x80).collect(),
            Refused("text in another encoding"),
        ),
        ("nuls.txt", vec![0; 4000], Refused("a binary file")),
        ("table.tsv", numbered.join("\n").into(), Refused("a table, whose columns are not read")),
        ("table.csv.gz", gzip(bytes(&numbered.join("\n"))), Refused("a table, whose columns are not read")),
        ("columns.parquet", b"PAR1\x15\x04\x15\x10".to_vec(), Refused("a Parquet file")),
        ("columns.txt", b"PAR1\x15\x04\x15\x10".to_vec(), Refused("a Parquet file")),
        ("model.safetensors", tensors.clone(), Refused("a safetensors file")),
        ("model.jsonl", tensors, Refused("a safetensors file")),
        (
            "pointer.txt",
            pointer.into(),
            Refused("a Git LFS pointer in place of the file itself (run `git lfs pull`)"),
        ),
        ("pointer.jsonl.zst", pointer.into(), Refused("a Git LFS pointer")),
        ("page.md", page.into(), Refused("an HTML page")),
        ("array.json", pretty.clone().into(), Refused("JSON that is not one object a line")),
        ("array.txt", pretty.into(), Refused("JSON that is not one object a line")),
        ("archive.txt.gz", gzip(&gzip(bytes(&text))), Refused("a compressed file in a compressed file")),
        ("lines.text", text.into(), Refused("text of a kind that its name does not say")),
    ]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Returns a corpus of 60 lines, a model that was trained on it, and a directory for files of all kinds.
fn place() -> (Workplace, Vec<String>) {
    let place = Workplace::new();
    place.trained("model", &["--steps", "1", "--vocab-size", "300"]);
    std::fs::create_dir(place.path("kinds")).unwrap();
    let text = std::fs::read_to_string(place.path("corpus.txt")).unwrap();
    (place, text.lines().map(str::to_owned).collect())
}

const COMMANDS: [&str; 4] = ["pretrain", "tokenize", "embed", "eval"];

/// Runs a command on a file, with its results in a fresh `out`.
fn command(place: &Workplace, name: &str, input: &Path, out: &str, more: &[&str]) -> Output {
    let (input, model) = (input.display().to_string(), place.text("model"));
    let mut command = match name {
        "pretrain" => {
            let flags = ["--corpus", &input, "--steps", "1", "--held-out", "0", "--vocab", &model];
            place.pretrain_command(out, &flags)
        }
        "tokenize" => {
            let mut command = Command::new(program());
            command.args(["tokenize", "--corpus", &input, "--vocab", &model, "--out", &place.text(out)]);
            command
        }
        "embed" => {
            let mut command = Command::new(program());
            command.args(["embed", "--model", &model, "--input", &input, "--output", &place.text(out)]);
            command.args(["--device", "host"]);
            command
        }
        _ => {
            let mut command = Command::new(program());
            command.args(["eval", "--model", &model, "--corpus", &input, "--json", "--device", "host"]);
            command
        }
    };
    run(command.args(more))
}

/// Returns a command's output, and the results that it made of the text.
fn result(place: &Workplace, name: &str, out: &str, output: &Output) -> String {
    assert!(output.status.success(), "{name} of {out}: {}", stderr(output));
    match name {
        "pretrain" => {
            let records = read_training_log(place.path(out).join("training.jsonl")).unwrap();
            crate::cli::numbers(&records).iter().map(|numbers| format!("{numbers:?}")).collect()
        }
        "tokenize" => Manifest::read(&place.path(out)).unwrap().checksum(),
        "embed" => std::fs::read_to_string(place.path(out)).unwrap(),
        _ => String::from_utf8(output.stdout.clone()).unwrap(),
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", stderr(output), String::from_utf8_lossy(&output.stdout))
}

#[test]
fn every_kind_of_file_means_the_same_to_every_command() {
    let (place, lines) = place();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let kinds = kinds(&lines);
    for (name, bytes, _) in &kinds {
        std::fs::write(place.path("kinds").join(name), bytes).unwrap();
    }
    for command_name in COMMANDS {
        let corpus = place.path("corpus.txt");
        let out = format!("{command_name}-of-lines");
        let expected = result(&place, command_name, &out, &command(&place, command_name, &corpus, &out, &[]));
        for (number, (name, _, means)) in kinds.iter().enumerate() {
            let out = format!("{command_name}-{number}");
            let path = place.path("kinds").join(name);
            let output = command(&place, command_name, &path, &out, &[]);
            let said = said(&output);
            match means {
                Text(_) if command_name == "embed" && *name == "blank.txt" => {
                    let lines: Vec<String> =
                        result(&place, command_name, &out, &output).lines().map(str::to_owned).collect();
                    assert_eq!(lines.len(), 62, "blank lines keep their places");
                    assert_eq!(lines[1], lines[2]);
                    assert_eq!([&lines[..1], &lines[3..]].concat().join("\n"), expected.trim_end());
                    assert!(said.contains("2 empty"), "{said}");
                }
                Text(report) => {
                    let found = result(&place, command_name, &out, &output);
                    assert!(found == expected, "{command_name} of {name} is another: {said}");
                    assert!(said.contains(report), "{command_name} of {name}: {said}");
                }
                Refused(what) => {
                    assert_eq!(
                        output.status.code(),
                        Some(1),
                        "{command_name} of {name} was accepted: {said}"
                    );
                    assert!(said.contains(&format!("{name}` looks to be {what}")), "{command_name}: {said}");
                    assert!(
                        said.contains("it should be plain text (.txt), markdown (.md) or JSON lines"),
                        "{said}"
                    );
                    assert!(!place.path(&out).exists(), "{command_name} of {name} left something");
                }
            }
        }
    }
}

#[test]
fn what_is_in_a_directory_is_read_or_named_as_left_out() {
    let (place, lines) = place();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let kinds = kinds(&lines);
    for (name, bytes, _) in &kinds {
        std::fs::write(place.path("kinds").join(name), bytes).unwrap();
    }
    place.write("kinds/settings.json", b"{\"a\": 1}\n");
    place.write("kinds/empty.txt", b"");
    place.write("kinds/a-plot.png", b"\x89PNG\r\n\x1a\n");
    std::fs::create_dir(place.path("kinds/deep")).unwrap();
    std::fs::write(place.path("kinds/deep/more.txt"), "A text that the others do not have.").unwrap();
    let is_text = |kind: &&(&str, Vec<u8>, Means)| matches!(kind.2, Text(_));
    let read = kinds.iter().filter(is_text).count();
    let left_out = kinds.len() - read + 2;
    let report = format!("from {} files", read + 2);
    let listed = format!("{left_out} files left out (");
    for name in COMMANDS {
        let output = command(&place, name, &place.path("kinds"), name, &[]);
        let said = said(&output);
        assert!(output.status.success(), "{name}: {said}");
        assert!(said.contains(&report) && said.contains(&listed), "{name}: {said}");
        assert!(!said.contains("a-plot.png"), "{name}: what is named as text comes first: {said}");
        assert!(said.contains("archive.txt.gz: a compressed file in a compressed file; "), "{name}: {said}");
        assert!(said.contains("; …)"), "{name}: only the first are named: {said}");
    }
    assert_eq!(Manifest::read(&place.path("tokenize")).unwrap().encoded.passages, 61);
    let vectors = std::fs::read_to_string(place.path("embed")).unwrap();
    assert_eq!(vectors.lines().count(), 60 * read + 2 + 1);
}

#[test]
fn broken_and_empty_text_is_counted_alike() {
    let (place, lines) = place();
    let text = lines.join("\n");
    place.write(
        "broken.txt",
        &text
            .replacen("The ", "The \u{1} ", 1)
            .into_bytes()
            .iter()
            .map(|&byte| if byte == 1 { 0xff } else { byte })
            .collect::<Vec<u8>>(),
    );
    let json = |line: &String| serde_json::json!({ "body": line }).to_string();
    let mut objects: Vec<String> = lines.iter().map(json).collect();
    objects[3] = "{\"body\": \"A text\", \"score\": NaN}".into();
    objects[5] = "{\"other\": 1}".into();
    objects[7] = String::new();
    objects[9] = "{\"body\": \" \"}".into();
    place.write("objects.jsonl", objects.join("\n").as_bytes());
    place.write("empty.txt", b"");
    for name in COMMANDS {
        let output = command(&place, name, &place.path("broken.txt"), &format!("{name}-broken"), &[]);
        assert!(output.status.success() && said(&output).contains("60 texts"), "{name}: {}", said(&output));
        assert!(said(&output).contains("1 stretches not UTF-8"), "{name}: {}", said(&output));
        let out = format!("{name}-objects");
        let output = command(&place, name, &place.path("objects.jsonl"), &out, &["--field", "body"]);
        assert!(output.status.success() && said(&output).contains("56 texts"), "{name}: {}", said(&output));
        assert!(said(&output).contains("2 lines without the text, 1 empty"), "{name}: {}", said(&output));
        assert!(
            said(&output).contains("line 4 is not JSON: it has NaN at column"),
            "{name}: {}",
            said(&output)
        );
        let output = command(&place, name, &place.path("objects.jsonl"), &format!("{name}-no-field"), &[]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(said(&output).contains("--field should be body"), "{name}: {}", said(&output));
        assert!(!place.path(&format!("{name}-no-field")).is_file(), "{name}");
        let output = command(&place, name, &place.path("empty.txt"), &format!("{name}-empty"), &[]);
        if name == "embed" {
            assert!(output.status.success() && place.path("embed-empty").metadata().unwrap().len() == 0);
        } else {
            assert!(said(&output).contains("empty.txt` has no usable passage"), "{name}: {}", said(&output));
        }
    }
    let vectors = std::fs::read_to_string(place.path("embed-objects")).unwrap();
    let vectors: Vec<&str> = vectors.lines().collect();
    let missing: Vec<usize> = (0..vectors.len()).filter(|&index| vectors[index] == "null").collect();
    assert_eq!((vectors.len(), missing), (60, vec![3, 5, 7]), "each line has its place");
    let whole = command(&place, "embed", &place.path("corpus.txt"), "embed-lines", &[]);
    assert!(whole.status.success());
    let whole = std::fs::read_to_string(place.path("embed-lines")).unwrap();
    let whole: Vec<&str> = whole.lines().collect();
    assert!(
        (0..60).filter(|index| ![3, 5, 7, 9].contains(index)).all(|index| vectors[index] == whole[index])
    );
}

/// A format flag is obeyed if the file's name states no format, and a file that can be read only once is recognized by its contents.
#[test]
fn formats_are_said_by_names_then_flags_then_contents() {
    let directory = tempfile::tempdir().unwrap();
    let read = |name: &str, bytes: &[u8], format: Option<TextFormat>| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let documents = Documents::open(&[path], ReadOptions { format, ..ReadOptions::default() });
        let documents = documents.map_err(|error| error.to_string())?;
        documents
            .map(|document| document.map(|document| document.text))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())
    };
    let object = b"{\"text\": \"A text.\"}\n";
    let lines: [(&str, Option<TextFormat>, &str); 8] = [
        ("x.jsonl", None, "A text."),
        ("x.jsonl", Some(TextFormat::Txt), "A text."),
        ("x.txt", None, "A text."),
        ("x.txt", Some(TextFormat::Txt), "{\"text\": \"A text.\"}"),
        ("x.json", None, "A text."),
        ("x", None, "A text."),
        ("x", Some(TextFormat::Txt), "{\"text\": \"A text.\"}"),
        ("x.tsv", Some(TextFormat::Txt), "{\"text\": \"A text.\"}"),
    ];
    for (name, format, expected) in lines {
        assert_eq!(read(name, object, format).unwrap(), [expected], "{name} as {format:?}");
    }
    assert_eq!(read("x", b"A text.", Some(TextFormat::Txt)).unwrap(), ["A text."]);
    assert!(read("x", b"A text.", None).unwrap_err().contains("of a kind that its name does not say"));
    assert!(read("x", b"PAR1\x15", Some(TextFormat::Txt)).unwrap_err().contains("a Parquet file"));
}

#[test]
fn records_are_as_many_as_lines() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.txt");
    let long = "A long line goes on and on. ".repeat(30_000);
    std::fs::write(&path, format!("one\n\n{long}\n{long}\nlast")).unwrap();
    let open = || Documents::open(std::slice::from_ref(&path), ReadOptions::default()).unwrap();
    let mut records = Records::of(open());
    let texts: Vec<String> = records.by_ref().map(|record| record.unwrap().unwrap()).collect();
    assert_eq!(texts.len(), 5);
    assert_eq!([&texts[0], &texts[1], &texts[4]], ["one", "", "last"]);
    assert!(texts[2] == texts[3] && texts[2].len() > 200 << 10 && long.starts_with(&texts[2]));
    assert_eq!((records.report().texts, records.report().empty), (4, 1));
    assert!(open().count() > 5, "a long line is several documents elsewhere");
}
