//! OData query options that Graph supports for these resources: `$filter`, `$select`, `$top`, `$count`,
//! `$expand`, and paging.
//!
//! Other options are rejected and not ignored: with an ignored filter, an administrator would see the
//! wrong list.

mod filter;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::directory::errors::Fault;
use crate::directory::shapes::Entity;

pub(crate) use filter::Filter;

/// Largest effective `$top`.  A larger value is reduced to it.
pub(super) const MAX_TOP: usize = 999;

/// Query of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// `$filter`.
    pub(super) filter: Option<Filter>,
    /// `$select`: properties in the response; empty for all.
    pub(super) select: Vec<String>,
    /// `$expand`: navigation properties in the response.
    pub(super) expand: Vec<String>,
    /// `$top`: objects in a page.
    pub(super) top: Option<usize>,
    /// `$count=true`.
    pub(super) count: bool,
    /// `$skiptoken`: id after which the page starts.
    pub(super) after: Option<String>,
    /// Options that the link to the next page repeats, as they were written.
    carried: String,
}

/// Options that an operation supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AllowedOptions {
    /// A list: all options.
    List,
    /// The first request for changes: `$select` and `$top`.
    Delta,
    /// One object: `$select` and `$expand`.
    Object,
    /// A count: `$filter`.
    Count,
    /// A change.
    None,
}

impl Query {
    /// Parses the query of a request for objects of type `E`.
    pub(super) fn parse<E: Entity>(query: &str, allowed: AllowedOptions) -> Result<Self, Fault> {
        let mut out = Self::default();
        let mut seen = Vec::new();
        for option in options(query) {
            let RawOption { name, value, pair } = option?;
            let option = name.strip_prefix('$').unwrap_or(&name).to_owned();
            if seen.contains(&option) {
                return Err(Fault::Query(format!("The query option '{name}' is given twice.")));
            }
            let is_allowed = match allowed {
                AllowedOptions::List => true,
                AllowedOptions::Delta => matches!(&*option, "select" | "top"),
                AllowedOptions::Object => matches!(&*option, "select" | "expand"),
                AllowedOptions::Count => option == "filter",
                AllowedOptions::None => false,
            };
            match &*option {
                "filter" if is_allowed => out.filter = Some(Filter::parse::<E>(&value)?),
                "select" if is_allowed => out.select = names::<E>(&value, E::PROPERTIES)?,
                "expand" if is_allowed => out.expand = names::<E>(&value, E::NAVIGATION)?,
                "top" if is_allowed => out.top = Some(top(&value)?),
                "count" if is_allowed => out.count = boolean(&value)?,
                // The delta operation reads this option.
                "deltatoken" if allowed == AllowedOptions::Delta => {}
                "skiptoken" if is_allowed => out.after = Some(skip_token(&value)?),
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

    /// Creates a query that only selects properties.
    pub(super) fn selecting(select: Vec<String>) -> Self {
        Self { select, ..Self::default() }
    }

    /// Returns the query of the next page, which starts after the object `last`.
    pub(super) fn next(&self, last: &str) -> String {
        format!("$skiptoken={}{}", URL_SAFE_NO_PAD.encode(last), self.carried)
    }

    /// Returns the selected properties of `entity`.
    pub(super) fn shape<E: Entity>(&self, entity: &E) -> Map<String, Value> {
        let mut object = entity.json();
        object.retain(|name, _| {
            if E::NAVIGATION.contains(&name.as_str()) {
                self.expand.contains(name)
            } else if name.starts_with('@') {
                // An annotation is not a property: it is always present.
                true
            } else {
                self.select.is_empty() || self.select.contains(name)
            }
        });
        object
    }

    /// Returns the suffix of `@odata.context` for the selected properties.
    pub(super) fn selection(&self) -> String {
        if self.select.is_empty() { String::new() } else { format!("({})", self.select.join(",")) }
    }
}

/// Query option.
pub(super) struct RawOption<'a> {
    /// Name in lower case, with the dollar sign.
    pub(super) name: String,
    /// Decoded value.
    pub(super) value: String,
    /// Name and value as they were written.
    pub(super) pair: &'a str,
}

/// Names of the OData options.  Graph's beta version also accepts them without the dollar sign.
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

/// Returns the OData options of a query.  Other parameters, which have neither the dollar sign nor the
/// name of an option, are ignored.
pub(super) fn options(query: &str) -> impl Iterator<Item = Result<RawOption<'_>, Fault>> {
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

/// Decodes a path segment or a part of a query.  Returns `None` for an invalid escape, or if the result
/// is not UTF-8.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
        let value = digit()? * 16 + digit()?;
        out.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(out).ok()
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
        _ => Err(Fault::Query(format!(
            "Invalid value '{value}' for $count: true or false is expected."
        ))),
    }
}

fn skip_token(value: &str) -> Result<String, Fault> {
    URL_SAFE_NO_PAD
        .decode(value)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Fault::Query("The $skiptoken is not valid.".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::odata::filter::tests::object;
    use crate::directory::shapes::{ApplicationConfiguration, MutualTlsOauthConfiguration};
    use proptest::prelude::*;

    type M = MutualTlsOauthConfiguration;

    #[test]
    fn options_are_decoded_and_unsupported_ones_rejected() {
        let query = Query::parse::<M>(
            "%24filter=id%20in%20%28%27a%27%29&$select=id,displayName&$top=5&$count=true&x=1",
            AllowedOptions::List,
        )
        .expect("a query");
        assert_eq!((query.top, query.count), (Some(5), true));
        assert_eq!(query.select, ["id", "displayName"]);
        assert!(query.filter.is_some());
        for (bad, allowed) in [
            ("$orderby=displayName", AllowedOptions::List),
            ("$search=x", AllowedOptions::List),
            ("$skip=2", AllowedOptions::List),
            ("$top=0", AllowedOptions::List),
            ("$top=many", AllowedOptions::List),
            ("$count=yes", AllowedOptions::List),
            ("$select=password", AllowedOptions::List),
            ("$expand=members", AllowedOptions::List),
            ("$skiptoken=***", AllowedOptions::List),
            ("$top=1&$top=2", AllowedOptions::List),
            ("$filter=%ff", AllowedOptions::List),
            ("$top=1", AllowedOptions::Object),
            ("$select=id", AllowedOptions::None),
            ("$$filter=id eq 'a'", AllowedOptions::List),
            // Options without the dollar sign are rejected in the same way.
            ("orderby=displayName", AllowedOptions::List),
            ("SKIP=2", AllowedOptions::List),
            ("filter=id%20ne%20'a'", AllowedOptions::List),
            ("filter=id%20eq%20'a'&$filter=id%20eq%20'b'", AllowedOptions::List),
            ("top=1", AllowedOptions::None),
        ] {
            assert!(matches!(Query::parse::<M>(bad, allowed), Err(Fault::Query(_))), "{bad}");
        }
        let expanded = Query::parse::<ApplicationConfiguration>(
            "$expand=trustedCertificateAuthorities",
            AllowedOptions::Object,
        );
        assert!(expanded.is_ok());
    }

    #[test]
    fn options_without_the_dollar_sign_are_accepted() {
        let query = "filter=id%20eq%20'a'&Select=id&top=2&count=true&api-version=1&filters=x";
        let plain = Query::parse::<M>(query, AllowedOptions::List).expect("a query");
        assert_eq!((plain.top, plain.count, plain.select.len()), (Some(2), true, 1));
        assert!(plain.filter.as_ref().is_some_and(|f| !f.matches(&object("b", None))));
        // The link to the next page repeats the options in either form.
        let next = Query::parse::<M>(&plain.next("a"), AllowedOptions::List).expect("a query");
        assert_eq!((next.filter, next.select, next.top), (plain.filter, plain.select, plain.top));
    }

    #[test]
    fn the_link_to_the_next_page_repeats_the_options() {
        let query =
            Query::parse::<M>("$top=2&$count=true&$filter=id%20eq%20'a'", AllowedOptions::List);
        let next = query.expect("a query").next("a-1");
        let again = Query::parse::<M>(&next, AllowedOptions::List).expect("a query");
        assert_eq!((again.top, again.count, again.after.as_deref()), (Some(2), false, Some("a-1")));
        assert!(again.filter.is_some());
        let third = Query::parse::<M>(&again.next("b"), AllowedOptions::List).expect("a query");
        assert_eq!(third.after.as_deref(), Some("b"));
    }

    #[test]
    fn select_omits_other_properties() {
        let query =
            Query::parse::<M>("$select=displayName", AllowedOptions::Object).expect("a query");
        let shaped = query.shape(&object("a", Some("b")));
        assert_eq!(Value::Object(shaped), serde_json::json!({"displayName": "b"}));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(query in "(\\$(filter|top|select|skiptoken|expand)=)?[%()'a-z =&$,]{0,60}") {
            let _ = Query::parse::<M>(&query, AllowedOptions::List);
        }
    }
}
