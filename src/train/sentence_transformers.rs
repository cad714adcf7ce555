//! The configuration files of sentence-transformers next to a model, which specify how its sentence vectors are computed.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::{Error, Result};
use super::options::SHORTEST_PASSAGE;
use crate::common::read_text;
use crate::model::Pooling;
use crate::model::io::CONFIG_FILE;

const MODULES_FILE: &str = "modules.json";
/// Folder of the pooling's configuration when there is no [`MODULES_FILE`].
const POOLING_FOLDER: &str = "1_Pooling";
const POOLING_FIELD: &str = "pooling_mode";
/// Field names in older and in newer files.
const DIMENSION_FIELDS: [&str; 2] = ["word_embedding_dimension", "embedding_dimension"];
/// File next to the weights with the maximum length of a text.
const TRANSFORMER_FILE: &str = "sentence_bert_config.json";
/// File next to [`MODULES_FILE`] with prompts to prepend to texts.
const PROMPTS_FILE: &str = "config_sentence_transformers.json";

/// Modules that compute a text's vector.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Modules {
    /// Directory of weights, sizes and tokenizer.
    pub transformer: PathBuf,
    pub pooling: Pooling,
    /// Vectors are scaled to length 1.
    pub normalize: bool,
    /// Maximum tokens of a text, if the files specify it.
    pub max_len: Option<usize>,
    /// Elements of a vector, if the pooling specifies it, and the file that does.
    dimension: Option<(PathBuf, Value)>,
}

/// An entry of `modules.json`.
#[derive(Deserialize)]
struct Module {
    path: PathBuf,
    /// Path of a Python class.
    #[serde(rename = "type")]
    class: String,
}

impl Modules {
    /// Reads the modules that `directory` lists; without such files, the vector is that of `[CLS]`.
    ///
    /// # Errors
    /// [`Error::ModelConfig`] names a file that cannot be read or that asks for a computation that is not supported.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(MODULES_FILE);
        let mut modules = Self {
            transformer: directory.to_owned(),
            pooling: Pooling::Cls,
            normalize: false,
            max_len: None,
            dimension: None,
        };
        refuse_prompt(&directory.join(PROMPTS_FILE))?;
        if !is_there(&path) {
            let folder = directory.join(POOLING_FOLDER);
            if is_there(&folder) {
                modules.read_pooling(folder.join(CONFIG_FILE))?;
            }
            modules.max_len = read_max_len(directory)?;
            return Ok(modules);
        }
        let listed: Vec<Module> = read_json(&path)?;
        for (index, module) in listed.iter().enumerate() {
            let folder = directory.join(&module.path);
            match (index, module.class.rsplit('.').next()) {
                (0, Some("Transformer")) => modules.transformer = folder,
                (1, Some("Pooling")) => modules.read_pooling(folder.join(CONFIG_FILE))?,
                (2, Some("Normalize")) => modules.normalize = true,
                _ => return Err(not_computed(path, format!("module {index} is {}", module.class))),
            }
        }
        if listed.len() < 2 {
            return Err(not_computed(path, format!("it lists {} modules", listed.len())));
        }
        modules.max_len = read_max_len(&modules.transformer)?;
        Ok(modules)
    }

    fn read_pooling(&mut self, path: PathBuf) -> Result<()> {
        let fields: Map<String, Value> = read_json(&path)?;
        self.pooling =
            mode_of(&fields).map_err(|reason| Error::ModelConfig { path: path.clone(), reason })?;
        let dimension = DIMENSION_FIELDS.iter().find_map(|name| fields.get(*name));
        self.dimension = dimension.map(|value| (path, value.clone()));
        Ok(())
    }

    /// Refuses a pooling whose vectors have another length.
    ///
    /// # Errors
    /// [`Error::ModelConfig`].
    pub fn check_dimension(&self, hidden_size: usize) -> Result<()> {
        match &self.dimension {
            Some((path, value)) if *value != hidden_size => {
                let reason = format!(
                    "the vectors are of {value} elements; they should be of {hidden_size}, the hidden_size of the model"
                );
                Err(Error::ModelConfig { path: path.clone(), reason })
            }
            _ => Ok(()),
        }
    }
}

fn not_computed(path: PathBuf, found: String) -> Error {
    let reason =
        format!("{found}; there should be a Transformer, a Pooling and at most a Normalize, in this order");
    Error::ModelConfig { path, reason }
}

/// Reads a JSON file.
///
/// # Errors
/// [`Error::File`] when it cannot be read or is not text; [`Error::ModelConfig`] when it is not JSON of this type.
fn read_json<V: DeserializeOwned>(path: &Path) -> Result<V> {
    let text = read_text(path, "JSON")?;
    serde_json::from_str(&text)
        .map_err(|error| Error::ModelConfig { path: path.to_owned(), reason: error.to_string() })
}

/// Returns true if anything exists at `path`, a broken link included.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Reads the maximum tokens of a text from the file next to the weights in `transformer`.
fn read_max_len(transformer: &Path) -> Result<Option<usize>> {
    const FIELD: &str = "max_seq_length";
    let path = transformer.join(TRANSFORMER_FILE);
    if !is_there(&path) {
        return Ok(None);
    }
    let fields: Map<String, Value> = read_json(&path)?;
    let Some(value) = fields.get(FIELD).filter(|value| !value.is_null()) else { return Ok(None) };
    match value
        .as_u64()
        .and_then(|length| usize::try_from(length).ok())
        .filter(|&length| length >= SHORTEST_PASSAGE)
    {
        Some(length) => Ok(Some(length)),
        None => {
            let reason = format!(
                "{FIELD} is {value}; it should be at least {SHORTEST_PASSAGE}: [CLS], one token, [SEP]"
            );
            Err(Error::ModelConfig { path, reason })
        }
    }
}

/// Refuses a default prompt: texts are embedded without one.
fn refuse_prompt(path: &Path) -> Result<()> {
    const FIELD: &str = "default_prompt_name";
    if !is_there(path) {
        return Ok(());
    }
    let fields: Map<String, Value> = read_json(path)?;
    match fields.get(FIELD).filter(|value| !value.is_null()) {
        None => Ok(()),
        Some(name) => {
            let reason = format!("{FIELD} is {name}; it should be null, as no prompt is put before a text");
            Err(Error::ModelConfig { path: path.to_owned(), reason })
        }
    }
}

/// Returns the only mode set in a pooling's `config.json`, which has a flag for each mode or, in newer files, a name.
fn mode_of(fields: &Map<String, Value>) -> std::result::Result<Pooling, String> {
    let mut modes = Vec::new();
    for (name, value) in fields.iter().filter(|(name, _)| name.starts_with(POOLING_FIELD)) {
        match value {
            Value::Bool(true) if name != POOLING_FIELD => modes.push(name.as_str()),
            Value::Bool(false) if name != POOLING_FIELD => {}
            Value::String(mode) if name == POOLING_FIELD => modes.push(mode),
            Value::Null if name == POOLING_FIELD => {}
            _ => return Err(format!("{name} is {value}; it should be {}", kind_of(name))),
        }
    }
    let known = |mode: &&str| match *mode {
        "cls" | "pooling_mode_cls_token" => Some(Pooling::Cls),
        "mean" | "pooling_mode_mean_tokens" => Some(Pooling::Mean),
        _ => None,
    };
    match modes.first().and_then(known) {
        Some(pooling) if modes.iter().all(|mode| known(mode) == Some(pooling)) => Ok(pooling),
        _ => {
            let modes = if modes.is_empty() { "nothing".to_owned() } else { modes.join(" and ") };
            Err(format!("it pools by {modes}; it should be by cls or by mean alone"))
        }
    }
}

fn kind_of(field: &str) -> &'static str {
    if field == POOLING_FIELD { "\"cls\" or \"mean\"" } else { "true or false" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, text: &str) {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_pooling_has_one_mode_that_is_computed() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Modules::read(directory.path()).unwrap().pooling, Pooling::Cls);
        let pooling = |text: &str| {
            write(directory.path(), "1_Pooling/config.json", text);
            Modules::read(directory.path()).map(|modules| modules.pooling).map_err(|error| error.to_string())
        };
        let flags = |cls: bool, mean: bool, max: bool| {
            format!(
                "{{\"word_embedding_dimension\": 32, \"pooling_mode_cls_token\": {cls}, \"pooling_mode_mean_tokens\": {mean}, \
                 \"pooling_mode_max_tokens\": {max}, \"include_prompt\": true}}"
            )
        };
        assert_eq!(pooling(&flags(true, false, false)), Ok(Pooling::Cls));
        assert_eq!(pooling(&flags(false, true, false)), Ok(Pooling::Mean));
        assert_eq!(
            pooling(r#"{"pooling_mode": "mean", "pooling_mode_mean_tokens": true}"#),
            Ok(Pooling::Mean)
        );
        assert_eq!(pooling(r#"{"embedding_dimension": 32, "pooling_mode": "cls"}"#), Ok(Pooling::Cls));
        let refusals = [
            (flags(false, false, true), "it pools by pooling_mode_max_tokens; it should be"),
            (flags(true, true, false), "it pools by pooling_mode_cls_token and pooling_mode_mean_tokens"),
            (flags(false, false, false), "it pools by nothing"),
            (r#"{"pooling_mode": "lasttoken"}"#.into(), "it pools by lasttoken"),
            (
                r#"{"pooling_mode_cls_token": 1}"#.into(),
                "pooling_mode_cls_token is 1; it should be true or false",
            ),
            (r#"{"pooling_mode": ["cls"]}"#.into(), "it should be \"cls\" or \"mean\""),
            ("[1]".into(), "1_Pooling/config.json`: invalid type"),
            ("{".into(), "1_Pooling/config.json`: EOF"),
            ("<!doctype html>".into(), "1_Pooling/config.json` looks to be an HTML page"),
        ];
        for (text, expected) in refusals {
            let message = pooling(&text).unwrap_err();
            assert!(message.contains(expected), "{text}: {message:?} should say {expected:?}");
        }
        pooling(&flags(false, true, false)).unwrap();
        let modules = Modules::read(directory.path()).unwrap();
        modules.check_dimension(32).unwrap();
        let message = modules.check_dimension(64).unwrap_err().to_string();
        assert!(
            message.contains("1_Pooling/config.json`: the vectors are of 32 elements; they should be of 64"),
            "{message}"
        );
        std::fs::remove_file(directory.path().join("1_Pooling/config.json")).unwrap();
        assert!(Modules::read(directory.path()).unwrap_err().to_string().contains("1_Pooling/config.json"));
    }

    #[test]
    fn modules_are_read_in_their_order() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "1_Pooling/config.json", "{\"pooling_mode_cls_token\": true}");
        write(directory.path(), "mean/config.json", "{\"pooling_mode\": \"mean\"}");
        let modules = |list: &[(&str, &str)]| {
            let module = |(path, class): &(&str, &str)| {
                format!("{{\"idx\": 0, \"name\": \"0\", \"path\": \"{path}\", \"type\": \"{class}\"}}")
            };
            let list: Vec<String> = list.iter().map(module).collect();
            write(directory.path(), MODULES_FILE, &format!("[{}]", list.join(", ")));
            Modules::read(directory.path()).map_err(|error| error.to_string())
        };
        let transformer = ("0_Transformer", "sentence_transformers.models.Transformer");
        let pooling = ("mean", "sentence_transformers.models.Pooling");
        let normalize = ("2_Normalize", "sentence_transformers.models.Normalize");
        let expected = Modules {
            transformer: directory.path().join("0_Transformer"),
            pooling: Pooling::Mean,
            normalize: true,
            max_len: None,
            dimension: None,
        };
        assert_eq!(modules(&[transformer, pooling, normalize]).as_ref(), Ok(&expected));
        assert_eq!(modules(&[transformer, pooling]), Ok(Modules { normalize: false, ..expected }));
        let dense = ("2_Dense", "sentence_transformers.models.Dense");
        let refusals = [
            (vec![transformer, pooling, dense], "module 2 is sentence_transformers.models.Dense"),
            (vec![transformer, normalize], "module 1 is sentence_transformers.models.Normalize"),
            (vec![transformer], "it lists 1 modules"),
        ];
        for (list, expected) in refusals {
            let message = modules(&list).unwrap_err();
            assert!(message.contains("modules.json`") && message.contains(expected), "{message}");
        }
        write(directory.path(), "0_Transformer/sentence_bert_config.json", "{\"max_seq_length\": 24}");
        assert_eq!(modules(&[transformer, pooling]).unwrap().max_len, Some(24));
        write(directory.path(), "0_Transformer/sentence_bert_config.json", "{\"max_seq_length\": \"24\"}");
        let message = modules(&[transformer, pooling]).unwrap_err();
        assert!(
            message.contains("sentence_bert_config.json`: max_seq_length is \"24\"; it should be"),
            "{message}"
        );
        write(
            directory.path(),
            PROMPTS_FILE,
            "{\"prompts\": {\"query\": \"q: \"}, \"default_prompt_name\": \"query\"}",
        );
        let message = modules(&[transformer, pooling]).unwrap_err();
        assert!(message.contains("default_prompt_name is \"query\"; it should be null"), "{message}");
        write(directory.path(), PROMPTS_FILE, "{\"default_prompt_name\": null}");
        write(directory.path(), MODULES_FILE, "{}");
        assert!(
            Modules::read(directory.path()).unwrap_err().to_string().contains("modules.json`: invalid type")
        );
    }
}
