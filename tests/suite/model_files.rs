//! Models as users find them on disk: the parts of each file that are used, the messages about the rest, and refusals by name.
#![cfg(feature = "train")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use approx::assert_relative_eq;
use retromae::data::Tokenizer;
use retromae::model::{Batch, DecoderKind, IGNORE_INDEX, ModelConfig};
use retromae::reference::{self, Parameters, parameter_shapes};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::cli::{Workplace, stderr};
use crate::common::prefix_sums;

/// Shape and values by name.
pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

pub(crate) fn read_tensors(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let tensor = |(name, view): (String, TensorView<'_>)| {
        let words = view.data().chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap()));
        (name, (view.shape().to_vec(), words.collect()))
    };
    SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter().map(tensor).collect()
}

pub(crate) fn write_tensors(path: &Path, tensors: &Tensors) {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            (name, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        })
        .collect();
    let view = |(name, shape, bytes)| (name, TensorView::new(Dtype::F32, Vec::clone(shape), bytes).unwrap());
    let views = bytes.iter().map(|(name, shape, bytes)| view((*name, *shape, bytes)));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Returns a workplace with a trained model in `model`.
fn with_model() -> Workplace {
    let place = Workplace::new();
    place.trained("model", &["--steps", "2", "--lr", "0.01", "--held-out", "0"]);
    place
}

fn change_weights(place: &Workplace, change: impl FnOnce(&mut Tensors)) {
    let path = place.path("model/model.safetensors");
    let mut tensors = read_tensors(&path);
    change(&mut tensors);
    write_tensors(&path, &tensors);
}

fn rename(tensors: &mut Tensors, from: &str, to: &str) {
    let tensor = tensors.remove(from).unwrap();
    tensors.insert(to.to_owned(), tensor);
}

fn embed(place: &Workplace, more: &[&str]) -> Output {
    place.embed("model", "corpus.txt", more)
}

fn eval(place: &Workplace) -> Output {
    place.eval("model", "corpus.txt", &[])
}

/// Returns the printed vectors of `retromae embed`, `[N][H]`.
pub(crate) fn vectors(output: &Output) -> Vec<Vec<f64>> {
    assert!(output.status.success(), "{}", stderr(output));
    let printed = String::from_utf8(output.stdout.clone()).unwrap();
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the reference's mean of the tokens' last hidden states, `[N][H]`, or the state of `[CLS]`.
fn expected_vectors(place: &Workplace, mean: bool) -> Vec<Vec<f64>> {
    let config: ModelConfig =
        serde_json::from_slice(&std::fs::read(place.path("model/config.json")).unwrap()).unwrap();
    // Only the encoder's output is needed, so any decoder will do.
    let config = ModelConfig { decoder: DecoderKind::Basic, ..config };
    let tensors = read_tensors(&place.path("model/model.safetensors"));
    let parameter = |(name, shape): (String, Vec<usize>)| {
        let zeros = || vec![0.0; shape.iter().product()];
        let values = tensors.get(&name).map(|(_, values)| values.iter().copied().map(f64::from).collect());
        (name, values.unwrap_or_else(zeros))
    };
    let parameters: Parameters = parameter_shapes(&config).into_iter().map(parameter).collect();
    let tokenizer = Tokenizer::from_path(place.path("model")).unwrap();
    let text = std::fs::read_to_string(place.path("corpus.txt")).unwrap();
    let passages: Vec<Vec<i32>> = text
        .lines()
        .map(|line| tokenizer.encode(line, 64).unwrap().into_iter().map(|id| id as i32).collect())
        .collect();
    let lengths: Vec<usize> = passages.iter().map(Vec::len).collect();
    let ids = passages.concat();
    let batch = Batch {
        cu_seqlens: prefix_sums(&lengths),
        encoder_labels: vec![IGNORE_INDEX; ids.len()],
        decoder_labels: vec![IGNORE_INDEX; ids.len()],
        decoder_input_ids: ids.clone(),
        encoder_input_ids: ids,
        visibility: None,
    };
    let hidden = reference::step(&config, &parameters, &batch, None).encoder_hidden;
    let row = |token: usize| &hidden[token * config.hidden_size..][..config.hidden_size];
    let vector = |b: usize| {
        let tokens = batch.sentence(b);
        let count = if mean { tokens.len() } else { 1 };
        let sum = |column: usize| tokens.clone().take(count).map(|token| row(token)[column]).sum::<f64>();
        (0..config.hidden_size).map(|column| sum(column) / count as f64).collect()
    };
    (0..lengths.len()).map(vector).collect()
}

fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / (length(a) * length(b))
}

#[test]
fn vectors_are_pooled_as_the_files_beside_the_model_say() {
    const MODULES: &str = r#"[
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]"#;
    const MEAN: &str = r#"{"word_embedding_dimension": 32, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true,
        "pooling_mode_max_tokens": false, "pooling_mode_mean_sqrt_len_tokens": false}"#;
    let place = with_model();
    let expected = [true, false].map(|mean| expected_vectors(&place, mean));
    let away: f64 =
        expected[0].iter().zip(&expected[1]).map(|(mean, cls)| cosine(mean, cls)).fold(1.0, f64::min);
    assert!(away < 0.9, "mean and [CLS] should differ, and have the cosine {away}");
    let check = |mean: bool, normalized: bool| {
        for (actual, expected) in vectors(&embed(&place, &[])).iter().zip(&expected[usize::from(!mean)]) {
            let cosine = cosine(actual, expected);
            assert!(cosine > 1.0 - 1e-9, "mean {mean}: cosine {cosine}");
            let wanted = if normalized { 1.0 } else { length(expected) };
            assert_relative_eq!(length(actual), wanted, epsilon = 0.0, max_relative = 9.9e-6);
        }
    };
    let score = || String::from_utf8(eval(&place).stdout).unwrap();
    check(false, false);
    let by_cls = score();
    std::fs::create_dir(place.path("model/1_Pooling")).unwrap();
    place.write("model/1_Pooling/config.json", MEAN.as_bytes());
    check(true, false);
    assert_ne!(score(), by_cls, "eval should pool as embed does");
    place.write("model/modules.json", MODULES.as_bytes());
    check(true, true);
    place.write("model/1_Pooling/config.json", br#"{"pooling_mode": "cls"}"#);
    check(false, true);
    assert_eq!(score(), by_cls);
    place.write("model/1_Pooling/config.json", br#"{"pooling_mode": "max"}"#);
    let message = "1_Pooling/config.json`: it pools by max; it should be by cls or by mean alone";
    for output in [embed(&place, &[]), eval(&place)] {
        assert!(!output.status.success() && stderr(&output).contains(message), "{}", stderr(&output));
    }
}

/// A model with weights that are not finite, or with another kind of file in place of its own, is refused by every command that reads it.
#[test]
fn weights_that_are_none_are_refused_by_name() {
    let place = with_model();
    let whole = std::fs::read(place.path("model/model.safetensors")).unwrap();
    let refused = |message: &str| {
        let model = place.text("model");
        let init = place.pretrain("init", &["--steps", "1", "--init", &model]);
        for output in [embed(&place, &[]), eval(&place), init] {
            let text = stderr(&output);
            assert!(!output.status.success() && text.contains(message), "{text:?} should say {message:?}");
            assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        assert!(!place.path("init").exists());
    };
    for (name, value) in [
        ("bert.encoder.layer.0.attention.self.key.weight", f32::NAN),
        ("bert.embeddings.LayerNorm.bias", f32::INFINITY),
    ] {
        change_weights(&place, |tensors| tensors.get_mut(name).unwrap().1[7] = value);
        refused(&format!("tensor {name} is {value} at element 7; weights should be finite"));
        place.write("model/model.safetensors", &whole);
    }
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 437951328\n";
    let page = b"<!DOCTYPE html>\n<html lang=\"en\"><head><title>404</title></head></html>\n";
    let others: [(&[u8], &str); 5] = [
        (pointer, "model.safetensors`: it looks to be a Git LFS pointer"),
        (page, "model.safetensors`: it looks to be an HTML page; it should be a whole safetensors file"),
        (b"not found\n", "it looks to be text; it should be"),
        (b"", "it should be a whole safetensors file"),
        (&whole[..whole.len() / 2], "it looks to be a safetensors file; it should be a whole"),
    ];
    for (bytes, message) in others {
        place.write("model/model.safetensors", bytes);
        refused(message);
    }
    place.write("model/model.safetensors", &whole);
    let config = std::fs::read(place.path("model/config.json")).unwrap();
    place.write("model/config.json", pointer);
    refused("config.json` looks to be a Git LFS pointer");
    place.write("model/config.json", page);
    refused("config.json` looks to be an HTML page");
    place.write("model/config.json", &config);
    std::fs::remove_file(place.path("model/model.safetensors")).unwrap();
    refused("model.safetensors`: No such file");
    place.write("model/pytorch_model.bin", b"PK\x03\x04");
    refused("model.safetensors`: it is not there, and pytorch_model.bin is not read");
}

/// Finite weights whose output is not finite.
#[test]
fn vectors_that_are_not_finite_are_refused() {
    let place = with_model();
    change_weights(&place, |tensors| {
        let name = "bert.encoder.layer.0.output.dense.weight";
        tensors.get_mut(name).unwrap().1.iter_mut().for_each(|value| *value *= 1e38);
    });
    for output in [embed(&place, &[]), eval(&place)] {
        let text = stderr(&output);
        assert!(
            !output.status.success()
                && text.contains("has a value that is ")
                && text.contains("; every one should be finite"),
            "{text}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn what_was_taken_of_the_weights_is_told() {
    let place = with_model();
    let note = |output: &Output| {
        assert!(output.status.success(), "{}", stderr(output));
        let text = stderr(output);
        text.lines().find(|line| line.starts_with("weights of ")).unwrap_or_default().to_owned()
    };
    let init = || {
        let model = place.text("model");
        place.pretrain("init", &["--steps", "1", "--init", &model, "--held-out", "0", "--overwrite"])
    };
    let path = place.text("model/model.safetensors");
    assert_eq!(note(&embed(&place, &[])), "", "nothing is fresh or left");
    assert_eq!(
        note(&init()),
        format!("weights of {path}: taken: bert.* (21), cls.* (5); fresh: decoder.* (16)")
    );
    change_weights(&place, |tensors| {
        rename(tensors, "cls.predictions.bias", "cls.predictions.decoder.bias");
        tensors.insert("bert.pooler.dense.bias".into(), (vec![2], vec![0.0; 2]));
    });
    let bias = read_tensors(&place.path("model/model.safetensors"))["cls.predictions.decoder.bias"].1.clone();
    assert!(bias.iter().any(|&value| value != 0.0));
    assert!(
        note(&init()).ends_with("cls.* (5); fresh: decoder.* (16); left: bert.pooler.dense.bias"),
        "{}",
        note(&init())
    );
    for output in [embed(&place, &[]), eval(&place)] {
        assert!(note(&output).ends_with("taken: bert.* (21), cls.* (5); left: bert.pooler.dense.bias"));
    }
    // One step of a small rate leaves the bias nearly unchanged.
    let after = read_tensors(&place.path("init/model.safetensors"))["cls.predictions.bias"].1.clone();
    let moved = bias.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(moved < 0.0011, "the bias was not taken: it moved by {moved}");
    change_weights(&place, |tensors| tensors.retain(|name, _| !name.starts_with("cls.")));
    let fresh = "taken: bert.* (21); fresh: cls.predictions.transform.dense.weight, cls.predictions.transform.dense.bias, \
                 cls.predictions.transform.LayerNorm.weight, cls.predictions.transform.LayerNorm.bias, \
                 cls.predictions.bias, decoder.* (16); left: bert.pooler.dense.bias";
    assert!(note(&init()).ends_with(fresh), "{}", note(&init()));
}
