//! The supported part of `$filter`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::directory::errors::Fault;
use crate::directory::shapes::Entity;

/// Maximum number of comparisons in a `$filter`.
const MAX_FILTER_TERMS: usize = 100;
/// Maximum depth of nested parentheses in a `$filter`.
const MAX_FILTER_DEPTH: usize = 16;

/// A `$filter`: `eq` and `in` on some properties, joined by `or`.  Every such filter is equivalent to a
/// list of alternatives, each a property and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    any: Vec<(&'static str, Value)>,
}

impl Filter {
    pub(super) fn parse<E: Entity>(text: &str) -> Result<Self, Fault> {
        let mut parser = Parser { rest: text, any: Vec::new(), depth: 0 };
        match parser.disjunction::<E>() {
            Some(()) if parser.rest.trim().is_empty() && parser.any.len() <= MAX_FILTER_TERMS => {
                Ok(Self { any: parser.any })
            }
            _ => Err(Fault::Query(format!(
                "Unsupported or invalid query filter clause '{text}': 'eq' and 'in' on {} are \
                 supported, joined by 'or', at most {MAX_FILTER_TERMS} values.",
                E::FILTERABLE.join(", ")
            ))),
        }
    }

    /// Returns the ids of the only objects that can match, if the filter determines them.  No other
    /// objects must be read then.
    pub(crate) fn ids<E: Entity>(&self) -> Option<BTreeSet<String>> {
        self.any.iter().map(|(property, wanted)| E::id_by(property, wanted)).collect()
    }

    /// Returns true if `object` matches.  Letter case is ignored, as in Entra's comparisons.
    pub(crate) fn matches<E: Entity>(&self, object: &E) -> bool {
        self.any.iter().any(|(property, wanted)| match (object.property(property), wanted) {
            (Value::String(found), Value::String(wanted)) => {
                found.to_lowercase() == wanted.to_lowercase()
            }
            (found, wanted) => found == *wanted,
        })
    }
}

/// Recursive-descent parser.  Its functions return `None` for text that the grammar does not have.
struct Parser<'a> {
    rest: &'a str,
    any: Vec<(&'static str, Value)>,
    depth: usize,
}

impl Parser<'_> {
    fn disjunction<E: Entity>(&mut self) -> Option<()> {
        self.term::<E>()?;
        while self.keyword("or") {
            self.term::<E>()?;
        }
        Some(())
    }

    fn term<E: Entity>(&mut self) -> Option<()> {
        if self.punctuation('(') {
            self.depth += 1;
            if self.depth > MAX_FILTER_DEPTH {
                return None;
            }
            self.disjunction::<E>()?;
            self.depth -= 1;
            return self.punctuation(')').then_some(());
        }
        let property = E::FILTERABLE.iter().find(|property| self.keyword(property))?;
        if self.keyword("eq") {
            let value = self.value::<E>(property)?;
            self.any.push((property, value));
            return Some(());
        }
        if !(self.keyword("in") && self.punctuation('(')) {
            return None;
        }
        loop {
            let value = self.value::<E>(property)?;
            self.any.push((property, value));
            if self.punctuation(')') {
                return Some(());
            }
            if !self.punctuation(',') || self.any.len() > MAX_FILTER_TERMS {
                return None;
            }
        }
    }

    /// Parses a value of the property's type, or null.
    fn value<E: Entity>(&mut self, property: &str) -> Option<Value> {
        if self.keyword("null") {
            return Some(Value::Null);
        }
        if !E::BOOLEAN.contains(&property) {
            return self.literal().map(Value::String);
        }
        [true, false].into_iter().find(|value| self.keyword(&value.to_string())).map(Value::Bool)
    }

    /// Consumes the keyword or name `word`, in any letter case.
    fn keyword(&mut self, word: &str) -> bool {
        let rest = self.rest.trim_start();
        let Some((head, tail)) = rest.split_at_checked(word.len()) else { return false };
        let ends = !tail.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let found = ends && head.eq_ignore_ascii_case(word);
        if found {
            self.rest = tail;
        }
        found
    }

    /// Consumes a punctuation character.
    fn punctuation(&mut self, character: char) -> bool {
        match self.rest.trim_start().strip_prefix(character) {
            Some(tail) => {
                self.rest = tail;
                true
            }
            None => false,
        }
    }

    /// Parses a string in single quotes.  Two quotes in the string represent one.
    fn literal(&mut self) -> Option<String> {
        let mut tail = self.rest.trim_start().strip_prefix('\'')?;
        let mut value = String::new();
        loop {
            let (part, after) = tail.split_once('\'')?;
            value.push_str(part);
            match after.strip_prefix('\'') {
                Some(more) => {
                    value.push('\'');
                    tail = more;
                }
                None => {
                    self.rest = after;
                    return Some(value);
                }
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::directory::shapes::MutualTlsOauthConfiguration;
    use crate::trust::subject::SubjectField;
    use proptest::prelude::*;

    type M = MutualTlsOauthConfiguration;

    pub(in crate::directory) fn object(id: &str, name: Option<&str>) -> M {
        M {
            id: id.into(),
            deleted_date_time: None,
            display_name: name.map(Into::into),
            tls_client_auth_parameter: SubjectField::SanDns,
            certificate_authorities: vec![],
        }
    }

    fn passes(filter: &str, object: &M) -> Option<bool> {
        Filter::parse::<M>(filter).ok().map(|f| f.matches(object))
    }

    #[test]
    fn filters_compare_id_and_display_name() {
        let fleet = object("a-1", Some("O'Brien's fleet"));
        for (filter, want) in [
            ("displayName eq 'O''Brien''s fleet'", Some(true)),
            ("displayname EQ 'o''brien''s FLEET'", Some(true)),
            ("displayName eq 'x' or id eq 'a-1'", Some(true)),
            ("id in ('x','a-1')", Some(true)),
            ("(id in ('x')) or (displayName eq null)", Some(false)),
            ("id eq 'x'", Some(false)),
            ("", None),
            ("id eq a-1", None),
            ("id eq true", None),
            ("displayName in ('x',false)", None),
            ("id eq 'a-1", None),
            ("id in ()", None),
            ("id ne 'a-1'", None),
            ("startswith(displayName,'O')", None),
            ("id eq 'a' and id eq 'b'", None),
            ("ideq'x'", None),
            ("tlsClientAuthParameter eq 'tls_client_auth_san_dns'", None),
        ] {
            assert_eq!(passes(filter, &fleet), want, "{filter}");
        }
        assert_eq!(passes("displayName eq null", &object("a", None)), Some(true));
        let deep = format!("{}id eq 'a'{}", "(".repeat(50), ")".repeat(50));
        assert_eq!(passes(&deep, &fleet), None);
        let many = format!("id in ({})", vec!["'a'"; 101].join(","));
        assert_eq!(passes(&many, &fleet), None);
    }

    proptest! {
        #[test]
        fn quoted_values_are_parsed(value in "\\PC{0,30}") {
            let filter = format!("displayName eq '{}'", value.replace('\'', "''"));
            prop_assert_eq!(passes(&filter, &object("a", Some(&value))), Some(true));
        }
    }
}
