//! `devices/delta`: changes since the reader's last request.
//!
//! The first round returns all devices in the order of their last changes, page by page.  A device that
//! changes during the round appears again at the end, so that a reader misses nothing even if a round
//! takes long.  The reader's position is in the token of its link, and the directory stores nothing for
//! a reader: any replica can serve the next page.
//!
//! A token is rejected (410) if the removals since then are no longer stored, if it belongs to another
//! directory, or if the directory was restored from an older backup.  The reader then starts again.  An
//! incomplete list of changes is never returned as complete.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Method;
use serde_json::{Map, Value, json};

use crate::directory::call::Call;
use crate::directory::device::{CONTEXT, Device, KIND};
use crate::directory::errors::{Fault, store_fault};
use crate::directory::in_flight::PAGE;
use crate::directory::list::PAGE_BYTES;
use crate::directory::objects::decode;
use crate::directory::odata::{AllowedOptions, MAX_TOP, Query, options};
use crate::directory::responses::Success;
use crate::directory::shapes::Entity;
use crate::store::{Change, Since, may_have_more};

/// Version of the token format.  A reader with a token of another version starts again.
const FORMAT: &str = "1";

/// Position of a reader in a round, and the options of the round.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    /// Identity of the store.
    identity: String,
    since: Since,
    /// Objects in a page.
    size: usize,
    /// Properties in the response; empty for all.
    select: Vec<String>,
}

/// Kind of request.
#[derive(Debug, PartialEq, Eq)]
enum DeltaRequest {
    /// All devices first, then changes.
    All(Query),
    /// Only changes from now on.
    FromNow(Query),
    /// Continues from a token.  A request that starts a round may wait for a change.
    Continue { token: String, starts_round: bool },
}

pub(super) async fn delta(call: &Call) -> Result<Success, Fault> {
    if call.method != Method::GET {
        return Err(Fault::MethodNotAllowed("GET"));
    }
    let expired = || Fault::SyncState(format!("{}/{CONTEXT}/delta", call.root));
    let convert = |error| match store_fault(error, "") {
        Fault::SyncState(_) => expired(),
        fault => fault,
    };
    // Subscribe before reading, so that no change in between is missed.
    let mut changes = call.store.changes();
    let before = *changes.borrow_and_update();
    let identity = call.store.identity().await.map_err(convert)?;
    let (token, may_wait) = match DeltaRequest::parse(&call.query)? {
        DeltaRequest::All(query) => {
            let removals = call.store.version(KIND).await.map_err(convert)?;
            (Token::new(identity, Since { seen: 0, removals }, query), false)
        }
        DeltaRequest::FromNow(query) => {
            let version = call.store.version(KIND).await.map_err(convert)?;
            let token = Token::new(identity, Since::version(version), query);
            return page(call, &token, Vec::new());
        }
        DeltaRequest::Continue { token, starts_round } => {
            let token = Token::parse(&token).filter(|token| token.identity == identity);
            (token.ok_or_else(expired)?, starts_round)
        }
    };
    let read = || call.store.changes_since(KIND, token.since, token.size);
    call.reserve(PAGE).await;
    let mut found = read().await.map_err(convert)?;
    let wait = call.wait();
    if found.is_empty() && may_wait && !wait.is_zero() {
        drop(call.release());
        let seen = token.since.seen;
        let change = changes.wait_for(|now| now.changed_since(&before, KIND, seen));
        // After a timeout, the store must confirm that there are no changes.
        let _ = call.wait_for(change).await;
        call.reserve(PAGE).await;
        found = read().await.map_err(convert)?;
    }
    page(call, &token, found)
}

/// Returns the response with the changes `found` and the link to the next request.
fn page(call: &Call, token: &Token, mut found: Vec<Change>) -> Result<Success, Fault> {
    let fitting = fitting(&found, PAGE_BYTES);
    let lengths = found.iter().map(length);
    let more = fitting < found.len() || may_have_more(lengths, token.size);
    found.truncate(fitting);
    let mut since = token.since;
    since.seen = found.last().map_or(since.seen, |change| change.version);
    if !more {
        // The reader has now seen everything that existed when the round started.
        since = Since::version(since.seen.max(since.removals));
    }
    let query = Query::selecting(token.select.clone());
    let mut value = Vec::with_capacity(found.len());
    for Change { id, body, .. } in found {
        value.push(match body {
            Some(body) => Value::Object(shape(&query, &decode::<Device>(&id, &body)?)),
            None => json!({"id": id, "@removed": {"reason": "deleted"}}),
        });
    }
    let mut json = Map::new();
    let context = format!("{}/$metadata#{CONTEXT}{}", call.root, query.selection());
    json.insert("@odata.context".into(), context.into());
    let (member, option) = match more {
        true => ("@odata.nextLink", "$skiptoken"),
        false => ("@odata.deltaLink", "$deltatoken"),
    };
    let next = Token { since, ..token.clone() }.text();
    json.insert(member.into(), format!("{}/{CONTEXT}/delta?{option}={next}", call.root).into());
    json.insert("value".into(), Value::Array(value));
    Ok(Success::Changes(json))
}

/// Returns the number of changes that a page of `bytes` has room for, at least one.
fn fitting(found: &[Change], bytes: usize) -> usize {
    let mut left = bytes;
    let fits = |change: &Change| left.checked_sub(length(change)).map(|rest| left = rest);
    found.iter().map_while(fits).count().max(1)
}

fn length(change: &Change) -> usize {
    change.body.as_ref().map_or(0, Vec::len)
}

/// Returns the selected properties and the id, which is always present.
fn shape(query: &Query, device: &Device) -> Map<String, Value> {
    let mut object = query.shape(device);
    object.insert("id".into(), device.id().into());
    object
}

impl DeltaRequest {
    fn parse(query: &str) -> Result<Self, Fault> {
        let mut token = None;
        let mut others = 0;
        for option in options(query) {
            let option = option?;
            match &*option.name {
                "$deltatoken" | "$skiptoken" if token.is_some() => {
                    return Err(Fault::Query("The query has two state tokens.".into()));
                }
                "$deltatoken" => token = Some((option.value, true)),
                "$skiptoken" => token = Some((option.value, false)),
                _ => others += 1,
            }
        }
        match token {
            None => Ok(Self::All(Query::parse::<Device>(query, AllowedOptions::Delta)?)),
            Some((token, true)) if token == "latest" => {
                Ok(Self::FromNow(Query::parse::<Device>(query, AllowedOptions::Delta)?))
            }
            Some((token, starts_round)) if others == 0 => {
                Ok(Self::Continue { token, starts_round })
            }
            Some(_) => Err(Fault::Query(
                "A link must be used unchanged: only the first request can have query options."
                    .into(),
            )),
        }
    }
}

impl Token {
    fn new(identity: String, since: Since, query: Query) -> Self {
        Self { identity, since, size: query.top.unwrap_or(MAX_TOP), select: query.select }
    }

    fn text(&self) -> String {
        let Self { identity, since, size, select } = self;
        let (seen, removals, select) = (since.seen, since.removals, select.join(","));
        let text = format!("{FORMAT};{identity};{seen};{removals};{size};{select}");
        URL_SAFE_NO_PAD.encode(text)
    }

    /// Parses a token.  Returns `None` for any other text.
    fn parse(text: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let parts: Vec<&str> = text.split(';').collect();
        let [FORMAT, identity, seen, removals, size, select] = parts[..] else { return None };
        let known = |name: &str| Device::PROPERTIES.iter().find(|known| **known == name);
        let select = match select {
            "" => Some(Vec::new()),
            names => names.split(',').map(|name| known(name).map(|&n| n.to_owned())).collect(),
        };
        let size = size.parse().ok().filter(|size| (1..=MAX_TOP).contains(size))?;
        let since = Since { seen: seen.parse().ok()?, removals: removals.parse().ok()? };
        Some(Self { identity: identity.to_owned(), since, size, select: select? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_page_has_a_limit_in_bytes() {
        let change = |body: Option<usize>| Change {
            id: String::new(),
            version: 1,
            body: body.map(|length| vec![0; length]),
        };
        let found = [Some(5), None, Some(5), Some(1), None].map(change);
        for (bytes, count) in [(0, 1), (4, 1), (5, 2), (10, 3), (11, 5), (100, 5)] {
            assert_eq!(fitting(&found, bytes), count, "{bytes}");
        }
    }

    #[test]
    fn only_the_first_request_has_options() {
        let read = |query: &str| DeltaRequest::parse(query);
        let Ok(DeltaRequest::All(query)) = read("$select=accountEnabled,physicalIds&$top=5&x=1")
        else {
            panic!("a first request");
        };
        assert_eq!((query.top, query.select.len()), (Some(5), 2));
        assert!(matches!(read("$deltaToken=latest&$select=id"), Ok(DeltaRequest::FromNow(_))));
        let on = |token: &str, starts_round| {
            Ok(DeltaRequest::Continue { token: token.into(), starts_round })
        };
        assert_eq!(read("%24skiptoken=abc"), on("abc", false));
        assert_eq!(read("$deltatoken=abc&x=1"), on("abc", true));
        for bad in [
            "$deltatoken=abc&$select=id",
            "$skiptoken=abc&$top=5",
            "$skiptoken=abc&$deltatoken=abc",
            "$deltatoken=latest&$deltatoken=abc",
            "$filter=id eq 'a'",
            "$orderby=id",
            "$count=true",
            "$expand=memberOf",
            "$select=password",
            "$top=0",
        ] {
            assert!(matches!(read(bad), Err(Fault::Query(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn tokens_round_trip_and_parsing_never_panics(
            seen: u64, removals: u64, size in 1..=MAX_TOP, text in "\\PC{0,40}",
            select in prop::sample::subsequence(Device::PROPERTIES, 0..4),
        ) {
            let select = select.into_iter().map(str::to_owned).collect();
            let since = Since { seen, removals };
            let token = Token { identity: "some-guid".into(), since, size, select };
            prop_assert_eq!(Token::parse(&token.text()), Some(token));
            prop_assert_eq!(Token::parse(&text), None);
            prop_assert_eq!(Token::parse(&URL_SAFE_NO_PAD.encode(&text)), None);
            let near = format!("1;x;{text};1;1;");
            let _ = Token::parse(&URL_SAFE_NO_PAD.encode(near));
            let _ = DeltaRequest::parse(&text);
        }
    }

    #[test]
    fn tokens_of_another_format_are_rejected() {
        for text in [
            "2;x;1;1;1;",
            "1;x;1;1;0;",
            "1;x;1;1;1000;",
            "1;x;-1;1;1;",
            "1;x;1;1;1",
            "1;x;1;1;1;;",
            "1;x;1;1;1;password",
            "1;x;1;1;1;id,",
            "1;x;1;18446744073709551616;1;",
        ] {
            assert_eq!(Token::parse(&URL_SAFE_NO_PAD.encode(text)), None, "{text}");
        }
        assert!(Token::parse(&URL_SAFE_NO_PAD.encode("1;x;1;1;1;id")).is_some());
    }
}
