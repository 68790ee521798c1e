//! `devices/delta`: what has changed since a reader has last asked.
//!
//! The first round goes through all devices in the order of their last changes, page by page; a device
//! that is changed meanwhile comes again at the end, so that nothing is missed however long the round
//! takes.  What a reader has is in the token of its link, and nothing of it is kept here: any replica of
//! the directory goes on where another one stopped.
//!
//! A token is refused (410) when the directory does not know any longer what was removed since, when it
//! is of another directory, and when it is of this one in another time (put back from a copy).  The
//! reader begins again then; a part of the changes is never answered as if it were all.

use hyper::Method;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use crate::directory::device::Device;
use crate::directory::devices::{CONTEXT, KIND};
use crate::directory::errors::{Fault, store_fault};
use crate::directory::list::decode_body;
use crate::directory::odata::{MAX_TOP, Query, Takes, options};
use crate::directory::shapes::Entity;
use crate::directory::{Answer, Call};
use crate::store::{Change, Since};

/// A token is written in this form.  A reader with one of another form begins again.
const FORM: &str = "1";

/// Where a reader stands in a round, and what the round was begun with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    /// The directory's.
    identity: String,
    since: Since,
    /// Objects a page.
    size: usize,
    /// The properties to send; empty for all.
    select: Vec<String>,
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Everything, and then the changes.
    All(Query),
    /// Only the changes from now on.
    FromNow(Query),
    /// To go on; whether a round is begun, which may wait for a change.
    On { token: String, round: bool },
}

pub(super) async fn delta(call: &Call) -> Result<Answer, Fault> {
    if call.method != Method::GET {
        return Err(Fault::Method("GET"));
    }
    let gone = || Fault::SyncState(format!("{}/{CONTEXT}/delta", call.root));
    let stored = |error| match store_fault(error, "") {
        Fault::SyncState(_) => gone(),
        fault => fault,
    };
    // A change after this is heard of.
    let mut changes = call.store.changes();
    let before = *changes.borrow_and_update();
    let identity = call.store.identity().await.map_err(stored)?;
    let asked = Asked::read(&call.query)?;
    let (token, wait) = match asked {
        Asked::All(query) => {
            let removals = call.store.version(KIND).await.map_err(stored)?;
            (Token::begin(identity, Since { seen: 0, removals }, query), false)
        }
        Asked::FromNow(query) => {
            let version = call.store.version(KIND).await.map_err(stored)?;
            let token = Token::begin(identity, Since::version(version), query);
            return page(call, &token, Vec::new());
        }
        Asked::On { token, round } => {
            let token = Token::read(&token).filter(|token| token.identity == identity);
            (token.ok_or_else(gone)?, round)
        }
    };
    let read = || call.store.changes_since(KIND, token.since, token.size);
    let mut found = read().await.map_err(stored)?;
    let patience = call.preferred_wait().unwrap_or_default().min(call.max_wait);
    if found.is_empty() && wait && !patience.is_zero() {
        let seen = token.since.seen;
        let news = changes.wait_for(|now| now.changed_since(&before, KIND, seen));
        // At the end of the time there is nothing, which the store itself must say.
        let _ = tokio::time::timeout(patience, news).await;
        found = read().await.map_err(stored)?;
    }
    page(call, &token, found)
}

/// The answer with `found`, and the link to what comes after it.
fn page(call: &Call, token: &Token, found: Vec<Change>) -> Result<Answer, Fault> {
    let more = found.len() >= token.size;
    let mut since = token.since;
    since.seen = found.last().map_or(since.seen, |change| change.version);
    if !more {
        // What was there when the round began has all been seen now.
        since = Since::version(since.seen.max(since.removals));
    }
    let query = Query::selecting(token.select.clone());
    let mut value = Vec::with_capacity(found.len());
    for Change { id, body, .. } in found {
        value.push(match body {
            Some(body) => Value::Object(shape(&query, &decode_body::<Device>(&id, &body)?)),
            None => json!({"id": id, "@removed": {"reason": "deleted"}}),
        });
    }
    let mut answer = Map::new();
    let context = format!("{}/$metadata#{CONTEXT}{}", call.root, query.selection());
    answer.insert("@odata.context".into(), context.into());
    let (member, option) = match more {
        true => ("@odata.nextLink", "$skiptoken"),
        false => ("@odata.deltaLink", "$deltatoken"),
    };
    let next = Token { since, ..token.clone() }.text();
    answer.insert(member.into(), format!("{}/{CONTEXT}/delta?{option}={next}", call.root).into());
    answer.insert("value".into(), Value::Array(value));
    Ok(Answer::Changes(answer))
}

/// What was selected, and the id, without which nobody knows what has changed.
fn shape(query: &Query, device: &Device) -> Map<String, Value> {
    let mut object = query.shape(device);
    object.insert("id".into(), device.id().into());
    object
}

impl Asked {
    fn read(query: &str) -> Result<Self, Fault> {
        let mut token = None;
        let mut others = 0;
        for option in options(query) {
            let option = option?;
            match &*option.name {
                "$deltatoken" | "$skiptoken" if token.is_some() => {
                    return Err(Fault::Query("Two state tokens are given.".into()));
                }
                "$deltatoken" => token = Some((option.value, true)),
                "$skiptoken" => token = Some((option.value, false)),
                _ => others += 1,
            }
        }
        match token {
            None => Ok(Self::All(Query::parse::<Device>(query, Takes::Delta)?)),
            Some((token, true)) if token == "latest" => {
                Ok(Self::FromNow(Query::parse::<Device>(query, Takes::Delta)?))
            }
            Some((token, round)) if others == 0 => Ok(Self::On { token, round }),
            Some(_) => Err(Fault::Query(
                "A link is followed as it is: query options are for the first request alone."
                    .into(),
            )),
        }
    }
}

impl Token {
    fn begin(identity: String, since: Since, query: Query) -> Self {
        Self { identity, since, size: query.top.unwrap_or(MAX_TOP), select: query.select }
    }

    fn text(&self) -> String {
        let Self { identity, since, size, select } = self;
        let (seen, removals, select) = (since.seen, since.removals, select.join(","));
        let text = format!("{FORM};{identity};{seen};{removals};{size};{select}");
        URL_SAFE_NO_PAD.encode(text)
    }

    /// `None` for what is no token of this form.
    fn read(text: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let parts: Vec<&str> = text.split(';').collect();
        let [FORM, identity, seen, removals, size, select] = parts[..] else { return None };
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
    fn options_are_for_the_first_request() {
        let read = |query: &str| Asked::read(query);
        let Ok(Asked::All(query)) = read("$select=accountEnabled,physicalIds&$top=5&x=1") else {
            panic!("a first request");
        };
        assert_eq!((query.top, query.select.len()), (Some(5), 2));
        assert!(matches!(read("$deltaToken=latest&$select=id"), Ok(Asked::FromNow(_))));
        let on = |token: &str, round| Ok(Asked::On { token: token.into(), round });
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
        fn a_token_comes_back_and_no_text_makes_it_panic(
            seen: u64, removals: u64, size in 1..=MAX_TOP, text in "\\PC{0,40}",
            select in prop::sample::subsequence(Device::PROPERTIES, 0..4),
        ) {
            let select = select.into_iter().map(str::to_owned).collect();
            let since = Since { seen, removals };
            let token = Token { identity: "some-guid".into(), since, size, select };
            prop_assert_eq!(Token::read(&token.text()), Some(token));
            prop_assert_eq!(Token::read(&text), None);
            prop_assert_eq!(Token::read(&URL_SAFE_NO_PAD.encode(&text)), None);
            let near = format!("1;x;{text};1;1;");
            let _ = Token::read(&URL_SAFE_NO_PAD.encode(near));
            let _ = Asked::read(&text);
        }
    }

    #[test]
    fn a_token_of_another_form_is_none() {
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
            assert_eq!(Token::read(&URL_SAFE_NO_PAD.encode(text)), None, "{text}");
        }
        assert!(Token::read(&URL_SAFE_NO_PAD.encode("1;x;1;1;1;id")).is_some());
    }
}
