//! Boolean switches read from environment variables.

use super::{Error, Result};

/// Reads the switch `name`; returns `default` where it is not set or empty.
pub(super) fn switch(name: &'static str, default: bool) -> Result<bool> {
    read(name, std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()).as_deref(), default)
}

fn read(name: &'static str, value: Option<&str>, default: bool) -> Result<bool> {
    match value {
        None | Some("") => Ok(default),
        Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(other) => {
            Err(Error::Argument { argument: name, actual: format!("{other:?}"), expected: "0 or 1".into() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_takes_two_values() {
        for default in [false, true] {
            assert_eq!([None, Some("")].map(|value| read("A", value, default).unwrap()), [default; 2]);
            assert!(!read("A", Some("0"), default).unwrap() && read("A", Some("1"), default).unwrap());
            let message = read("A", Some("yes"), default).unwrap_err().to_string();
            assert_eq!(message, "A is \"yes\"; it should be 0 or 1");
        }
    }
}
