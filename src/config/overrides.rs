//! Values of environment variables that replace those of the file: `ANCHORGATE__SECTION__KEY`.

use toml::{Table, Value};

use crate::config::Problem;

/// Beginning of the names.
const PREFIX: &str = "ANCHORGATE__";
/// Largest number of an item in an array of tables.
const MAX_ITEM: usize = 1_000;

/// Applies the variables to `table`, in the order of their names.
///
/// # Errors
/// All variables whose key cannot have a value.
pub(super) fn apply(
    table: &mut Table,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<(), Vec<Problem>> {
    let mut variables: Vec<_> = variables
        .into_iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?.to_owned(), value)))
        .collect();
    variables.sort();
    let mut problems = Vec::new();
    for (name, text) in variables {
        let parts: Vec<String> = name.split("__").map(str::to_ascii_lowercase).collect();
        if let Err(why) = set(table, &parts, value(&text)) {
            problems.push(Problem {
                key: format!("{PREFIX}{name}"),
                value: None,
                requirement: why,
            });
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// A TOML value such as `true`, `5` or `["a", "b"]`; every other text is a text.
fn value(text: &str) -> Value {
    let parsed = format!("x = {text}").parse::<Table>();
    match parsed.ok().and_then(|mut table| if table.len() == 1 { table.remove("x") } else { None })
    {
        Some(value) => value,
        None => Value::String(text.to_owned()),
    }
}

fn set(table: &mut Table, parts: &[String], new: Value) -> Result<(), String> {
    let Some((first, rest)) = parts.split_first().filter(|(first, _)| !first.is_empty()) else {
        return Err("the name must be ANCHORGATE__SECTION__KEY".to_owned());
    };
    if rest.is_empty() {
        table.insert(first.clone(), new);
        return Ok(());
    }
    let default = match rest[0].parse::<usize>() {
        Ok(_) => Value::Array(Vec::new()),
        Err(_) => Value::Table(Table::new()),
    };
    match table.entry(first.clone()).or_insert(default) {
        Value::Table(below) => set(below, rest, new),
        Value::Array(items) => set_item(items, rest, new),
        _ => Err(format!("`{first}` is not a table")),
    }
}

fn set_item(items: &mut Vec<Value>, parts: &[String], new: Value) -> Result<(), String> {
    let number = parts[0].parse::<usize>().ok().filter(|n| *n <= items.len() && *n < MAX_ITEM);
    let Some(number) = number else {
        return Err(format!(
            "`{}` is not the number of an item; the items are 0 to {}, and the next one",
            parts[0],
            items.len()
        ));
    };
    if number == items.len() {
        items.push(Value::Table(Table::new()));
    }
    match (&mut items[number], &parts[1..]) {
        (item, []) => {
            *item = new;
            Ok(())
        }
        (Value::Table(below), rest) => set(below, rest, new),
        _ => Err(format!("item {number} is not a table")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn applied(text: &str, variables: &[(&str, &str)]) -> Result<Table, Vec<String>> {
        let mut table: Table = text.parse().expect("TOML");
        let variables = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        apply(&mut table, variables)
            .map(|()| table)
            .map_err(|all| all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn replaces_and_adds_values() {
        let got = applied(
            "drain = '1s'\n[[graph]]\nname = 'a'\n",
            &[
                ("ANCHORGATE__DRAIN", "5s"),
                ("ANCHORGATE__TOKEN__CLOSE_REFUSED", "true"),
                ("ANCHORGATE__TOKEN__HANDSHAKES", "7"),
                ("ANCHORGATE__OAUTH__SCOPES", "[\"a\", \"b\"]"),
                ("ANCHORGATE__OAUTH__ISSUER", "https://as.example"),
                ("ANCHORGATE__GRAPH__0__EVERY", "9s"),
                ("ANCHORGATE__GRAPH__1__NAME", "\"7\""),
                ("ANCHORGATE_ADMIN", "ignored"),
                ("PATH", "ignored"),
            ],
        );
        let expected = "drain = '5s'\n[token]\nclose_refused = true\nhandshakes = 7\n[oauth]\n\
             scopes = ['a', 'b']\nissuer = 'https://as.example'\n\
             [[graph]]\nname = 'a'\nevery = '9s'\n[[graph]]\nname = '7'\n";
        assert_eq!(got, Ok(expected.parse().expect("TOML")));
    }

    #[test]
    fn reports_every_name_that_is_not_a_key() {
        let problems = applied(
            "drain = '1s'\n[[graph]]\n",
            &[
                ("ANCHORGATE__DRAIN__X", "1"),
                ("ANCHORGATE__GRAPH__2__NAME", "x"),
                ("ANCHORGATE__GRAPH__NAME", "x"),
                ("ANCHORGATE__", "x"),
            ],
        )
        .expect_err("four problems");
        assert_eq!(problems.len(), 4, "{problems:#?}");
        assert!(problems.iter().any(|p| p == "ANCHORGATE__DRAIN__X: `drain` is not a table"));
    }

    proptest! {
        #[test]
        fn any_variable_is_applied_or_refused(name in "[A-Z0-9_]{0,24}", text in "\\PC{0,24}") {
            let mut table: Table = "a = 1\n[[b]]\nc = 1\n".parse().expect("TOML");
            let _ = apply(&mut table, [(format!("{PREFIX}{name}"), text)]);
        }
    }
}
