//! The cases of the benches, by the table that they export.

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value};

/// Written by `cargo bench --bench bench -- --export`; a test of the crate holds it against the benches.
const TABLE: &str = include_str!("../../../benches/peers/cases.json");

static CASES: LazyLock<Vec<Case>> =
    LazyLock::new(|| serde_json::from_str(TABLE).expect("benches/peers/cases.json is an array of cases"));

/// One size of an operation.
#[derive(Debug, Deserialize)]
pub struct Case {
    pub op: String,
    /// `gpu` or `host`
    scale: String,
    #[serde(rename = "case")]
    pub name: String,
    headline: bool,
    sizes: Map<String, Value>,
}

impl Case {
    /// Returns one of its sizes.
    pub fn size(&self, name: &str) -> f64 {
        let size = self.sizes.get(name).and_then(Value::as_f64);
        size.unwrap_or_else(|| panic!("{} {} has no size {name}", self.op, self.name))
    }

    /// Returns the sentence lengths, which repeat until the tokens are used up.
    pub fn lengths(&self) -> Vec<f64> {
        let lengths = self.sizes.get("lengths").and_then(Value::as_array);
        lengths.into_iter().flatten().filter_map(Value::as_f64).collect()
    }
}

/// Returns an operation's headline cases on a GPU.
pub fn headlines(op: &str) -> impl Iterator<Item = &'static Case> {
    CASES.iter().filter(move |case| case.op == op && case.scale == "gpu" && case.headline)
}

/// Returns the first of them.
pub fn headline(op: &str) -> &'static Case {
    headlines(op).next().unwrap_or_else(|| panic!("the benches have no headline case of {op}"))
}

/// Returns the place of an operation in tables: the whole step first, then as the benches measure them; unknown ones last.
pub fn place(op: &str) -> usize {
    if op == "step" { 0 } else { 1 + CASES.iter().position(|case| case.op == op).unwrap_or(CASES.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_headline_cases() {
        let names: Vec<&str> = headlines("attention_forward").map(|case| case.name.as_str()).collect();
        assert_eq!(names, ["L128_d64", "L512_d64", "mixed_d64"]);
        assert_eq!(headline("cross_entropy").size("rows"), 32_768.0);
        assert!(place("step") < place("attention_forward") && place("attention_forward") < place("masks"));
        assert!(place("masks") < place("ceiling"));
    }
}
