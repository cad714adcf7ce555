//! Translation of the library's argument names in errors to the command's flags.

use std::error::Error;

use retromae::data::Error as DataError;
use retromae::eval::EmbedError;
use retromae::train::Error as TrainError;

/// Arguments whose flags have other names; all other flags differ from their argument by hyphens alone.
const RENAMED: [(&str, &str); 3] =
    [("learning_rate", "--lr"), ("vocabulary", "--vocab"), ("warmup_steps", "--warmup")];

/// Difference between stores that no flag causes.
const RULES: &str = "the way to make passages";

/// Returns the flag that sets `argument`.
fn flag(argument: &str) -> String {
    if argument == RULES {
        return argument.to_owned();
    }
    let renamed = RENAMED.iter().find(|(name, _)| *name == argument);
    renamed.map_or_else(|| format!("--{}", argument.replace('_', "-")), |(_, flag)| (*flag).to_owned())
}

/// Returns the message of a library error, in the command's words.
pub fn message(error: &(dyn Error + 'static)) -> String {
    let told = if let Some(error) = error.downcast_ref::<TrainError>() {
        train_message(error)
    } else if let Some(EmbedError::Text(error)) = error.downcast_ref() {
        data_message(error)
    } else {
        error.downcast_ref().and_then(data_message)
    };
    told.unwrap_or_else(|| error.to_string())
}

fn train_message(error: &TrainError) -> Option<String> {
    let arguments: &[&str] = match error {
        TrainError::Data(error) | TrainError::Retrieval(EmbedError::Text(error)) => {
            return data_message(error);
        }
        TrainError::Argument { argument: "resume", .. } => &["resume", "overwrite"],
        TrainError::Argument { argument, .. } => &[argument, "max_len"],
        TrainError::OutNotEmpty { .. } => &["out", "resume", "overwrite"],
        TrainError::NothingToResume { .. } => &["resume", "resume"],
        TrainError::ResumeArgument { argument, .. } => &[argument],
        TrainError::NonFinite { .. } => &["learning_rate"],
        _ => return None,
    };
    Some(in_flags(&error.to_string(), arguments))
}

fn data_message(error: &DataError) -> Option<String> {
    let arguments: &[&str] = match error {
        // The message also names the field of the text.
        DataError::NoField { .. } => {
            return Some(error.to_string().replace("; field should", "; --field should"));
        }
        DataError::Manifest { .. } | DataError::Shard { .. } => &["overwrite"],
        DataError::StorePlan { argument, .. } => &[argument, "overwrite"],
        DataError::StoreNotEmpty { .. } => &["out"],
        DataError::MaxLen { .. } => &["max_len"],
        DataError::VocabSize { .. } => &["vocab_size"],
        DataError::ShardTokens => &["shard_tokens"],
        DataError::BatchTokens { .. } => &["batch_tokens"],
        _ => return None,
    };
    Some(in_flags(&error.to_string(), arguments))
}

/// Returns `text` with flags in place of `arguments`, which it names in this order; names within backticks stay.
fn in_flags(text: &str, arguments: &[&str]) -> String {
    let (mut told, mut rest) = (String::new(), text);
    for argument in arguments {
        if let Some(at) = find(rest, argument) {
            told += &rest[..at];
            told += &flag(argument);
            rest = &rest[at + argument.len()..];
        }
    }
    told + rest
}

/// Returns the offset of the first `word` in `text` that is a whole word and not within backticks.
fn find(text: &str, word: &str) -> Option<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let stands_alone = |at: &usize| {
        let (before, after) = (&text[..*at], &text[at + word.len()..]);
        let quoted = before.matches('`').count() % 2 == 1;
        !quoted && !before.ends_with(is_part) && !after.starts_with(is_part)
    };
    text.match_indices(word).map(|(at, _)| at).find(stands_alone)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn arguments_become_flags() {
        let argument = |argument, actual: &str, expected: &str| TrainError::Argument {
            argument,
            actual: actual.into(),
            expected: expected.into(),
        };
        let path = || PathBuf::from("out");
        let (given, saved) = ("a vocabulary with checksum 1".to_owned(), "another".to_owned());
        let errors = [
            (argument("learning_rate", "3", "at most 1"), "--lr was 3; it should be at most 1"),
            (argument("warmup_steps", "9", "at most 8"), "--warmup was 9; it should be at most 8"),
            (
                argument("batch_tokens", "16", "at least max_len, 32"),
                "--batch-tokens was 16; it should be at least --max-len, 32",
            ),
            (
                argument("resume", "given with overwrite", "alone"),
                "--resume was given with --overwrite; it should be alone",
            ),
            (
                TrainError::OutNotEmpty { path: path() },
                "--out `out` exists and is not empty; it should be another directory, unless --resume goes on with its run or \
                 --overwrite drops it",
            ),
            (
                TrainError::NothingToResume { path: PathBuf::from("resume") },
                "--resume found no checkpoint: `resume` does not exist; without --resume a new run is started",
            ),
            (
                TrainError::ResumeArgument { argument: "vocabulary".into(), given, saved },
                "--vocab is a vocabulary with checksum 1, but the run to resume has another; they should be the same",
            ),
            (
                TrainError::Data(DataError::StoreNotEmpty { path: path(), found: "out".into() }),
                "--out `out` holds `out` and is no token store; it should be empty, or a path where a directory can be made",
            ),
            (
                TrainError::Data(DataError::InputTwice),
                "the standard input was given twice; it can be read once",
            ),
        ];
        for (error, expected) in errors {
            assert_eq!(message(&error), expected);
        }
    }

    #[test]
    fn an_argument_that_is_no_flag_stays() {
        let plan = |argument| DataError::StorePlan {
            path: PathBuf::from("overwrite"),
            argument,
            given: "1".into(),
            begun: "2".into(),
        };
        let rest = "is 1, but the store `overwrite` was begun with 2; they should be the same, or --overwrite should begin anew";
        assert_eq!(message(&plan("max_len")), format!("--max-len {rest}"));
        assert_eq!(message(&plan(RULES)), format!("{RULES} {rest}"));
        assert_eq!(message(&std::fmt::Error), std::fmt::Error.to_string());
    }
}
