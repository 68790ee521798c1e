//! `$filter`, as far as these resources have it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::directory::errors::Fault;
use crate::directory::shapes::Entity;

/// Comparisons in one `$filter`.
pub const MAX_FILTER_TERMS: usize = 100;
/// Nested parentheses in one `$filter`.
const MAX_FILTER_DEPTH: usize = 16;

/// A `$filter`: `eq` and `in` on a few properties, joined by `or`.  All of these come to one question:
/// does any of these properties have any of these values?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
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

    /// The ids of the only objects that can pass, where the filter names them: nothing else needs to be
    /// looked at.
    pub fn ids<E: Entity>(&self) -> Option<BTreeSet<String>> {
        self.any.iter().map(|(property, wanted)| E::id_by(property, wanted)).collect()
    }

    /// True when `object` passes.  Letter case does not count, as in the directory's own comparisons.
    pub fn matches<E: Entity>(&self, object: &E) -> bool {
        self.any.iter().any(|(property, wanted)| match (object.property(property), wanted) {
            (Value::String(found), Value::String(wanted)) => {
                found.to_lowercase() == wanted.to_lowercase()
            }
            (found, wanted) => found == *wanted,
        })
    }
}

/// A recursive-descent parser; `None` is "not in the grammar".
struct Parser<'a> {
    rest: &'a str,
    any: Vec<(&'static str, Value)>,
    depth: usize,
}

impl Parser<'_> {
    fn disjunction<E: Entity>(&mut self) -> Option<()> {
        self.term::<E>()?;
        while self.word("or") {
            self.term::<E>()?;
        }
        Some(())
    }

    fn term<E: Entity>(&mut self) -> Option<()> {
        if self.mark('(') {
            self.depth += 1;
            if self.depth > MAX_FILTER_DEPTH {
                return None;
            }
            self.disjunction::<E>()?;
            self.depth -= 1;
            return self.mark(')').then_some(());
        }
        let property = E::FILTERABLE.iter().find(|property| self.word(property))?;
        if self.word("eq") {
            let value = self.value::<E>(property)?;
            self.any.push((property, value));
            return Some(());
        }
        if !(self.word("in") && self.mark('(')) {
            return None;
        }
        loop {
            let value = self.value::<E>(property)?;
            self.any.push((property, value));
            if self.mark(')') {
                return Some(());
            }
            if !self.mark(',') || self.any.len() > MAX_FILTER_TERMS {
                return None;
            }
        }
    }

    /// A value of the property's type, or null.
    fn value<E: Entity>(&mut self, property: &str) -> Option<Value> {
        if self.word("null") {
            return Some(Value::Null);
        }
        if !E::BOOLEAN.contains(&property) {
            return self.literal().map(Value::String);
        }
        [true, false].into_iter().find(|value| self.word(&value.to_string())).map(Value::Bool)
    }

    /// A whole word, in any letter case.
    fn word(&mut self, word: &str) -> bool {
        let rest = self.rest.trim_start();
        let Some((head, tail)) = rest.split_at_checked(word.len()) else { return false };
        let ends = !tail.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let found = ends && head.eq_ignore_ascii_case(word);
        if found {
            self.rest = tail;
        }
        found
    }

    fn mark(&mut self, mark: char) -> bool {
        match self.rest.trim_start().strip_prefix(mark) {
            Some(tail) => {
                self.rest = tail;
                true
            }
            None => false,
        }
    }

    /// A string in single quotes; two of them within stand for one.
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
pub mod tests {
    use super::*;
    use crate::directory::shapes::MutualTlsOauthConfiguration;
    use crate::trust::subject::SubjectField;
    use proptest::prelude::*;

    type M = MutualTlsOauthConfiguration;

    /// A configuration of that id and name.
    pub fn object(id: &str, name: Option<&str>) -> M {
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
        fn any_quoted_value_comes_back(value in "\\PC{0,30}") {
            let filter = format!("displayName eq '{}'", value.replace('\'', "''"));
            prop_assert_eq!(passes(&filter, &object("a", Some(&value))), Some(true));
        }
    }
}
