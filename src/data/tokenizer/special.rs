//! Special tokens: those that frame a passage, mask a token, and stand for unknown text.

use serde_json::Value;

use crate::data::Error;

/// The ids of a tokenizer's special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Token that fills the rest of a padded row: `[PAD]`, `<pad>`. No passage has one.
    pub pad: u32,
    /// `None` if the vocabulary covers every text, as with byte-level models.
    pub unk: Option<u32>,
    /// First token of every passage: `[CLS]`, `<s>`.
    pub cls: u32,
    /// Last token of every passage: `[SEP]`, `</s>`.
    pub sep: u32,
    /// Token in place of a hidden one: `[MASK]`, `<mask>`.
    pub mask: u32,
}

/// Role of each special token, and its names in the order in which they are tried.
pub(super) const KNOWN: [(&str, [&str; 2]); 5] = [
    ("pad_token", ["[PAD]", "<pad>"]),
    ("unk_token", ["[UNK]", "<unk>"]),
    ("cls_token", ["[CLS]", "<s>"]),
    ("sep_token", ["[SEP]", "</s>"]),
    ("mask_token", ["[MASK]", "<mask>"]),
];

impl SpecialTokens {
    /// Finds the special tokens by the names in `config`, a `tokenizer_config.json`, else by the usual names.
    pub(super) fn find(
        origin: &str,
        config: &Value,
        needs_unk: bool,
        id: impl Fn(&str) -> Option<u32>,
    ) -> Result<Self, Error> {
        let find = |(role, names): (&str, [&str; 2])| {
            let configured = named(config, role).and_then(&id);
            configured.or_else(|| names.into_iter().find_map(&id))
        };
        let ids = KNOWN.map(find);
        let missing: Vec<&str> = KNOWN
            .iter()
            .zip(ids)
            .filter(|((role, _), id)| id.is_none() && (needs_unk || *role != "unk_token"))
            .map(|((role, names), _)| named(config, role).unwrap_or(names[0]))
            .collect();
        match ids {
            [Some(pad), unk, Some(cls), Some(sep), Some(mask)] if missing.is_empty() => {
                Ok(Self { pad, unk, cls, sep, mask })
            }
            _ => Err(Error::MissingSpecialTokens { origin: origin.to_owned(), missing: missing.join(", ") }),
        }
    }

    /// Returns the id of a role of [`KNOWN`].
    pub(super) fn of(&self, role: &str) -> Option<u32> {
        match role {
            "pad_token" => Some(self.pad),
            "unk_token" => self.unk,
            "cls_token" => Some(self.cls),
            "sep_token" => Some(self.sep),
            _ => Some(self.mask),
        }
    }

    /// Returns whether `id` must not be in the text of a passage.
    pub(super) fn is_reserved(&self, id: u32) -> bool {
        [self.pad, self.cls, self.sep, self.mask].contains(&id)
    }
}

/// Returns the name of a special token in a `tokenizer_config.json`: a string, or an object with its content.
fn named<'a>(config: &'a Value, role: &str) -> Option<&'a str> {
    let value = &config[role];
    value.as_str().or_else(|| value["content"].as_str())
}
