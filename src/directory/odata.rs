//! The part of OData that Graph gives these resources: `$filter`, `$select`, `$top`, `$count`,
//! `$expand`, and paging.  What is not part of it is refused, not ignored: a filter that was dropped
//! silently would show an administrator the wrong list.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::directory::errors::Fault;
use crate::directory::routes::percent_decode;
use crate::directory::shapes::Entity;

/// Largest `$top`; a larger one counts as this.
pub const MAX_TOP: usize = 999;
/// Comparisons in one `$filter`.
pub const MAX_FILTER_TERMS: usize = 100;
/// Nested parentheses in one `$filter`.
const MAX_FILTER_DEPTH: usize = 16;

/// The query of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// `$filter`.
    pub filter: Option<Filter>,
    /// `$select`: the properties to send; empty for all.
    pub select: Vec<String>,
    /// `$expand`: the navigation properties to send.
    pub expand: Vec<String>,
    /// `$top`: objects a page.
    pub top: Option<usize>,
    /// `$count=true`.
    pub count: bool,
    /// The id after which the page begins, from `$skiptoken`.
    pub after: Option<String>,
    /// The options that the next page is asked with, as they came.
    carried: String,
}

/// Which options an operation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// All: a list.
    List,
    /// `$select` and `$top`: the first request for changes.
    Delta,
    /// `$select` and `$expand`: one object.
    One,
    /// `$filter`: a count.
    Count,
    /// None: a change.
    Nothing,
}

impl Query {
    /// Reads the query of a request for objects of type `E`.
    pub fn parse<E: Entity>(query: &str, takes: Takes) -> Result<Self, Fault> {
        let mut out = Self::default();
        let mut seen = Vec::new();
        for option in options(query) {
            let RawOption { name, value, pair } = option?;
            let option = name.trim_start_matches('$').to_owned();
            if seen.contains(&option) {
                return Err(Fault::Query(format!("The query option '{name}' is given twice.")));
            }
            let taken = match takes {
                Takes::List => true,
                Takes::Delta => matches!(&*option, "select" | "top"),
                Takes::One => matches!(&*option, "select" | "expand"),
                Takes::Count => option == "filter",
                Takes::Nothing => false,
            };
            match &*option {
                "filter" if taken => out.filter = Some(Filter::parse::<E>(&value)?),
                "select" if taken => out.select = names::<E>(&value, E::PROPERTIES)?,
                "expand" if taken => out.expand = names::<E>(&value, E::NAVIGATION)?,
                "top" if taken => out.top = Some(top(&value)?),
                "count" if taken => out.count = boolean(&value)?,
                // Read by who serves changes.
                "deltatoken" if takes == Takes::Delta => {}
                "skiptoken" if taken => out.after = Some(skip_token(&value)?),
                _ => {
                    return Err(Fault::Query(format!(
                        "The query option '{name}' is not supported for this request."
                    )));
                }
            }
            if !matches!(&*option, "skiptoken" | "count") {
                out.carried.push('&');
                out.carried.push_str(pair);
            }
            seen.push(option);
        }
        Ok(out)
    }

    /// A query with nothing but what is selected.
    pub fn selecting(select: Vec<String>) -> Self {
        Self { select, ..Self::default() }
    }

    /// The query of the next page, after the object `last`.
    pub fn next(&self, last: &str) -> String {
        format!("$skiptoken={}{}", URL_SAFE_NO_PAD.encode(last), self.carried)
    }

    /// What of `entity` is sent.
    pub fn shape<E: Entity>(&self, entity: &E) -> Map<String, Value> {
        let mut object = entity.json();
        object.retain(|name, _| {
            if E::NAVIGATION.contains(&name.as_str()) {
                self.expand.contains(name)
            } else if name.starts_with('@') {
                // An annotation is no property: it cannot be selected, nor left out.
                true
            } else {
                self.select.is_empty() || self.select.contains(name)
            }
        });
        object
    }

    /// The suffix of `@odata.context` that says what was selected.
    pub fn selection(&self) -> String {
        if self.select.is_empty() { String::new() } else { format!("({})", self.select.join(",")) }
    }
}

/// An option of a query as it came.
pub struct RawOption<'a> {
    /// Its name in lower case, with the dollar sign.
    pub name: String,
    /// Its value, decoded.
    pub value: String,
    /// Both as they were written.
    pub pair: &'a str,
}

/// The options of a query.  Those without the dollar sign are not OData's and mean nothing here.
pub fn options(query: &str) -> impl Iterator<Item = Result<RawOption<'_>, Fault>> {
    query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let bad = || Fault::Query(format!("The query option '{name}' is not well-formed."));
        let text = |s: &str| percent_decode(&s.replace('+', " ")).ok_or_else(bad);
        let name = match text(name) {
            Ok(name) if name.starts_with('$') => name.to_ascii_lowercase(),
            Ok(_) => return None,
            Err(fault) => return Some(Err(fault)),
        };
        Some(text(value).map(|value| RawOption { name, value, pair }))
    })
}

fn names<E: Entity>(value: &str, known: &[&str]) -> Result<Vec<String>, Fault> {
    let mut out = Vec::new();
    for name in value.split(',').map(str::trim) {
        match known.iter().find(|known| known.eq_ignore_ascii_case(name)) {
            Some(known) if !out.iter().any(|o| o == known) => out.push((*known).to_owned()),
            Some(_) => {}
            None if name == "*" => return Ok(known.iter().map(|&k| k.to_owned()).collect()),
            None => {
                return Err(Fault::Query(format!(
                    "Could not find a property named '{name}' on type 'microsoft.graph.{}'.",
                    E::TYPE
                )));
            }
        }
    }
    Ok(out)
}

fn top(value: &str) -> Result<usize, Fault> {
    match value.parse::<usize>() {
        Ok(0) | Err(_) => Err(Fault::Query(format!(
            "Invalid value '{value}' for $top: a number from 1 to {MAX_TOP} is expected."
        ))),
        Ok(top) => Ok(top.min(MAX_TOP)),
    }
}

fn boolean(value: &str) -> Result<bool, Fault> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Fault::Query(format!("Invalid value '{value}' for $count: true or false."))),
    }
}

fn skip_token(value: &str) -> Result<String, Fault> {
    URL_SAFE_NO_PAD
        .decode(value)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Fault::Query("The $skiptoken is not one that was given out.".into()))
}

/// A `$filter`: `eq` and `in` on a few properties, joined by `or`.  All of these come to one question:
/// does any of these properties have any of these values?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    any: Vec<(&'static str, Value)>,
}

impl Filter {
    fn parse<E: Entity>(text: &str) -> Result<Self, Fault> {
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
            let value = self.value()?;
            self.any.push((property, value));
            return Some(());
        }
        if !(self.word("in") && self.mark('(')) {
            return None;
        }
        loop {
            let value = self.value()?;
            self.any.push((property, value));
            if self.mark(')') {
                return Some(());
            }
            if !self.mark(',') || self.any.len() > MAX_FILTER_TERMS {
                return None;
            }
        }
    }

    fn value(&mut self) -> Option<Value> {
        let words = [("null", Value::Null), ("true", true.into()), ("false", false.into())];
        for (word, value) in words {
            if self.word(word) {
                return Some(value);
            }
        }
        self.literal().map(Value::String)
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
mod tests {
    use super::*;
    use crate::directory::shapes::{ApplicationConfiguration, MutualTlsOauthConfiguration};
    use crate::domain::subject::SubjectField;
    use proptest::prelude::*;

    type M = MutualTlsOauthConfiguration;

    fn object(id: &str, name: Option<&str>) -> M {
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

    #[test]
    fn options_are_read_decoded_or_refused() {
        let query = Query::parse::<M>(
            "%24filter=id%20in%20%28%27a%27%29&$select=id,displayName&$top=5&$count=true&x=1",
            Takes::List,
        )
        .expect("a query");
        assert_eq!((query.top, query.count), (Some(5), true));
        assert_eq!(query.select, ["id", "displayName"]);
        assert!(query.filter.is_some());
        for (bad, takes) in [
            ("$orderby=displayName", Takes::List),
            ("$search=x", Takes::List),
            ("$skip=2", Takes::List),
            ("$top=0", Takes::List),
            ("$top=many", Takes::List),
            ("$count=yes", Takes::List),
            ("$select=password", Takes::List),
            ("$expand=members", Takes::List),
            ("$skiptoken=***", Takes::List),
            ("$top=1&$top=2", Takes::List),
            ("$filter=%ff", Takes::List),
            ("$top=1", Takes::One),
            ("$select=id", Takes::Nothing),
        ] {
            assert!(matches!(Query::parse::<M>(bad, takes), Err(Fault::Query(_))), "{bad}");
        }
        let expanded = Query::parse::<ApplicationConfiguration>(
            "$expand=trustedCertificateAuthorities",
            Takes::One,
        );
        assert!(expanded.is_ok());
    }

    #[test]
    fn the_next_page_keeps_the_options() {
        let query = Query::parse::<M>("$top=2&$count=true&$filter=id%20eq%20'a'", Takes::List);
        let next = query.expect("a query").next("a-1");
        let again = Query::parse::<M>(&next, Takes::List).expect("a query");
        assert_eq!((again.top, again.count, again.after.as_deref()), (Some(2), false, Some("a-1")));
        assert!(again.filter.is_some());
        let third = Query::parse::<M>(&again.next("b"), Takes::List).expect("a query");
        assert_eq!(third.after.as_deref(), Some("b"));
    }

    #[test]
    fn selection_leaves_the_rest_out() {
        let query = Query::parse::<M>("$select=displayName", Takes::One).expect("a query");
        let shaped = query.shape(&object("a", Some("b")));
        assert_eq!(Value::Object(shaped), serde_json::json!({"displayName": "b"}));
    }

    proptest! {
        #[test]
        fn no_query_makes_it_panic(query in "(\\$(filter|top|select|skiptoken|expand)=)?[%()'a-z =&$,]{0,60}") {
            let _ = Query::parse::<M>(&query, Takes::List);
        }

        #[test]
        fn any_quoted_value_comes_back(value in "\\PC{0,30}") {
            let filter = format!("displayName eq '{}'", value.replace('\'', "''"));
            prop_assert_eq!(passes(&filter, &object("a", Some(&value))), Some(true));
        }
    }
}
