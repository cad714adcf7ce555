//! The table of cases for programs in other languages.

use retromae::device::{ModelFloat, bf16};
use serde_json::json;

use super::{Rank, Scale, operations};

/// Returns the sizes of all cases that other programs use, as JSON with an object a line: `op`, `scale` (`gpu` or `host`), `case`, `headline` and
/// `sizes`, which also has what an operation's inputs follow from.
pub fn export() -> String {
    let lines = [lines::<bf16>(Scale::Gpu), lines::<f32>(Scale::Host)].concat();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

fn lines<T: ModelFloat>(scale: Scale) -> Vec<String> {
    let mut lines = Vec::new();
    for operation in operations::<T>(scale) {
        for case in &operation.cases {
            let Some(sizes) = case.sizes() else { continue };
            let line = json!({
                "op": operation.name,
                "scale": scale.choose("gpu", "host"),
                "case": case.name(),
                "headline": case.rank() == Rank::Headline,
                "sizes": sizes,
            });
            lines.push(line.to_string());
        }
    }
    lines
}
