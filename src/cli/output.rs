//! Formats of a command's output.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde_json::Value;

use crate::cli::terminal::{print_json, print_yaml};

/// Format of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Output {
    /// Text for people.
    #[default]
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

impl Output {
    /// Prints `value` as JSON or YAML.  Returns false for a table, which the caller prints.
    pub(super) fn print(self, value: &Value) -> bool {
        match self {
            Self::Table => return false,
            Self::Json => print_json(value),
            Self::Yaml => print_yaml(&yaml(value)),
        }
        true
    }
}

/// Reports an empty list to people, on standard error: standard output has the objects only.
pub(super) fn no_objects(name: &str) {
    eprintln!("no {name}");
}

/// Converts JSON to YAML 1.2 in block style.  Texts are quoted as in JSON, which YAML accepts, so that
/// no text is read as another type.
fn yaml(value: &Value) -> String {
    let mut out = String::new();
    block(&mut out, value, 0, false);
    out
}

/// Writes a value that begins on a line of its own, or after `- ` if `is_item`.
fn block(out: &mut String, value: &Value, indent: usize, is_item: bool) {
    let pad = |out: &mut String, first: bool| {
        if !(first && is_item) {
            out.extend(std::iter::repeat_n(' ', indent));
        }
    };
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (number, (key, value)) in members.iter().enumerate() {
                pad(out, number == 0);
                // Writing to a String does not fail.
                let _ = write!(out, "{}:", Value::from(key.as_str()));
                below(out, value, indent);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (number, item) in items.iter().enumerate() {
                pad(out, number == 0);
                out.push_str("- ");
                block(out, item, indent + 2, true);
            }
        }
        scalar => {
            pad(out, true);
            let _ = writeln!(out, "{scalar}");
        }
    }
}

/// Writes the value of a key.
fn below(out: &mut String, value: &Value, indent: usize) {
    let is_nested = match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if is_nested {
        out.push('\n');
        block(out, value, indent + 2, false);
    } else {
        let _ = writeln!(out, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writes_yaml_in_block_style() {
        let value = json!({"a": [{"b": 1, "c": [true, null]}, "no", []], "d: e": "x\n\"y\""});
        let expected = "\"a\":\n  - \"b\": 1\n    \"c\":\n      - true\n      - null\n  - \"no\"\n  - []\n\
             \"d: e\": \"x\\n\\\"y\\\"\"\n";
        assert_eq!(yaml(&value), expected);
        assert_eq!(yaml(&json!([[1, 2], {}])), "- - 1\n  - 2\n- {}\n");
        assert_eq!(yaml(&json!("text")), "\"text\"\n");
    }
}
