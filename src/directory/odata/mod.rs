//! The part of OData that Graph gives these resources: `$filter`, `$select`, `$top`, `$count`,
//! `$expand`, and paging.  What is not part of it is refused, not ignored: a filter that was dropped
//! silently would show an administrator the wrong list.

mod filter;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::directory::errors::Fault;
use crate::directory::routes::percent_decode;
use crate::directory::shapes::Entity;

pub use filter::{Filter, MAX_FILTER_TERMS};

/// Largest `$top`; a larger one counts as this.
pub const MAX_TOP: usize = 999;
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
            let option = name.strip_prefix('$').unwrap_or(&name).to_owned();
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

/// Graph's options, which its beta takes without the dollar sign too.
const OPTIONS: [&str; 11] = [
    "count",
    "deltatoken",
    "expand",
    "filter",
    "format",
    "orderby",
    "search",
    "select",
    "skip",
    "skiptoken",
    "top",
];

/// The options of a query.  What has neither the dollar sign nor the name of an option is not OData's,
/// and means nothing here.
pub fn options(query: &str) -> impl Iterator<Item = Result<RawOption<'_>, Fault>> {
    query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let bad = || Fault::Query(format!("The query option '{name}' is not well-formed."));
        let text = |s: &str| percent_decode(&s.replace('+', " ")).ok_or_else(bad);
        let name = match text(name) {
            Ok(name) => name.to_ascii_lowercase(),
            Err(fault) => return Some(Err(fault)),
        };
        let name = match name.starts_with('$') {
            true => name,
            false if OPTIONS.contains(&&*name) => format!("${name}"),
            false => return None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::odata::filter::tests::object;
    use crate::directory::shapes::{ApplicationConfiguration, MutualTlsOauthConfiguration};
    use proptest::prelude::*;

    type M = MutualTlsOauthConfiguration;

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
            ("$$filter=id eq 'a'", Takes::List),
            // Beta takes them without the dollar sign: they are no less refused than with it.
            ("orderby=displayName", Takes::List),
            ("SKIP=2", Takes::List),
            ("filter=id%20ne%20'a'", Takes::List),
            ("filter=id%20eq%20'a'&$filter=id%20eq%20'b'", Takes::List),
            ("top=1", Takes::Nothing),
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
    fn beta_does_without_the_dollar_sign() {
        let query = "filter=id%20eq%20'a'&Select=id&top=2&count=true&api-version=1&filters=x";
        let plain = Query::parse::<M>(query, Takes::List).expect("a query");
        assert_eq!((plain.top, plain.count, plain.select.len()), (Some(2), true, 1));
        assert!(plain.filter.as_ref().is_some_and(|f| !f.matches(&object("b", None))));
        // The link to the next page keeps what was asked, however it was written.
        let next = Query::parse::<M>(&plain.next("a"), Takes::List).expect("a query");
        assert_eq!((next.filter, next.select, next.top), (plain.filter, plain.select, plain.top));
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
    }
}
