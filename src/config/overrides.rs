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
                key: format!("environment {PREFIX}{name}"),
                value: None,
                requirement: why,
            });
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Names the variable in each problem of a value that a variable set, in place of the key.
pub(super) fn name_variables(
    problems: &mut [Problem],
    variables: impl IntoIterator<Item = String>,
) {
    let own = variables.into_iter().filter(|name| name.starts_with(PREFIX));
    let keys: Vec<_> = own.map(|name| (dotted(&name[PREFIX.len()..]), name)).collect();
    for problem in problems {
        // `graph[0].every` is `graph.0.every` here.
        let key = problem.key.replace('[', ".").replace(']', "");
        // An unknown table is one problem, whatever is in it.
        let is_below = |of: &str| {
            problem.is_unknown_key()
                && of.strip_prefix(&key).is_some_and(|rest| rest.starts_with('.'))
        };
        if let Some((_, name)) = keys.iter().find(|(of, _)| *of == key || is_below(of)) {
            problem.key = format!("environment {name}");
        }
    }
}

fn dotted(name: &str) -> String {
    name.split("__").map(str::to_ascii_lowercase).collect::<Vec<_>>().join(".")
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
        let drain = "environment ANCHORGATE__DRAIN__X: `drain` is not a table";
        assert!(problems.iter().any(|p| p == drain), "{problems:#?}");
    }

    #[test]
    fn a_problem_of_a_variable_names_it() {
        let problem = |key: &str, requirement: &str| Problem {
            key: key.to_owned(),
            value: None,
            requirement: requirement.to_owned(),
        };
        let unknown = "unknown key; known keys here: graph";
        let mut problems = [
            problem("graphh", unknown),
            problem("graph[0].every", "it must be a duration"),
            problem("graph[1].every", "it must be a duration"),
            problem("graph", "the names of directories must differ"),
        ];
        let names = ["PATH", "ANCHORGATE__GRAPHH__0__EVERY", "ANCHORGATE__GRAPH__0__EVERY"];
        name_variables(&mut problems, names.map(str::to_owned));
        assert_eq!(
            problems.map(|problem| problem.key),
            [
                "environment ANCHORGATE__GRAPHH__0__EVERY",
                "environment ANCHORGATE__GRAPH__0__EVERY",
                "graph[1].every",
                "graph"
            ]
        );
    }

    proptest! {
        #[test]
        fn any_variable_is_applied_or_refused(name in "[A-Z0-9_]{0,24}", text in "\\PC{0,24}") {
            let mut table: Table = "a = 1\n[[b]]\nc = 1\n".parse().expect("TOML");
            let _ = apply(&mut table, [(format!("{PREFIX}{name}"), text)]);
        }
    }
}
