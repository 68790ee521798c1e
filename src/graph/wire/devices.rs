//! The directory's answers about devices, page by page.
//!
//! An answer is what `GET /devices` or `/devices/delta` gives: objects, and where to go on.  Of an
//! object only what decides is read; what an object leaves out stays as it was, since an answer about a
//! change need not repeat the rest.  What is there and not understood makes the page an error, of which
//! nothing is applied.

use serde_json::{Map, Value};

use crate::graph::wire::{self, MAX_ID_LENGTH, WireError, is_id, member, object};
use crate::trust::configurations::ConfigurationId;
use crate::trust::devices::{
    Change, DeviceKey, DeviceRegistry, KnownTo, News, ObjectKey, RegistryError,
};

/// What stands before the `externalDeviceId` in `physicalIds`.
const EXTERNAL: &str = "[EXTID]:";
/// How a directory tells the configuration of a device's template: Graph has no such property.
const CONFIGURATION: &str = "@anchorgate.mutualTlsOauthConfigurationId";

/// One page of an answer.
#[derive(Debug)]
pub(crate) struct Page {
    /// What it says, in its order.
    pub(crate) changes: Vec<Change>,
    /// Where the answer goes on, or ends.
    pub(crate) link: Option<Link>,
}

/// Where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    /// `@odata.nextLink`: there is more of this answer.
    Next(String),
    /// `@odata.deltaLink`: this is all until something changes.
    Delta(String),
}

impl Page {
    /// Reads a page; `prefix` is the source's where ids of configurations have one.
    ///
    /// # Errors
    /// Anything that leaves open what is meant.
    pub(crate) fn read(json: &[u8], prefix: Option<&str>) -> Result<Self, WireError> {
        let answer = wire::parse(json)?;
        let answer = object(&answer, "the answer")?;
        let Some(Value::Array(list)) = member(answer, "value") else {
            return Err(shape("`value` is no list"));
        };
        let link = match (text(answer, "@odata.nextLink")?, text(answer, "@odata.deltaLink")?) {
            (Some(link), None) => Some(Link::Next(link)),
            (None, Some(link)) => Some(Link::Delta(link)),
            (None, None) => None,
            (Some(_), Some(_)) => return Err(shape("it goes on, and says that it does not")),
        };
        let changes = list.iter().map(|value| change(value, prefix)).collect::<Result<_, _>>()?;
        Ok(Self { changes, link })
    }
}

/// Reads one list answer as the whole truth, for the offline judge.  At most `limit` devices.
///
/// # Errors
/// No list of devices, or one that goes on elsewhere; more devices than `limit`.
pub fn read_registry(json: &[u8], limit: usize) -> Result<DeviceRegistry, ReadError> {
    let page = Page::read(json, None)?;
    if let Some(Link::Next(_)) = page.link {
        return Err(shape("the list goes on at its @odata.nextLink").into());
    }
    Ok(DeviceRegistry::default().changed(&page.changes, limit)?.0)
}

/// Why a list of devices is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It is none.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// There is too much of it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

fn change(value: &Value, prefix: Option<&str>) -> Result<Change, WireError> {
    let device = object(value, "a device")?;
    let id = match member(device, "id").and_then(Value::as_str) {
        Some(id) if is_id(id) => id,
        Some(_) => {
            let why = format!("a device's id is not 1 to {MAX_ID_LENGTH} printable characters");
            return Err(WireError::Shape(why));
        }
        None => return Err(shape("a device has no id")),
    };
    let is_there = |name| !matches!(member(device, name), None | Some(Value::Null));
    let news = if is_there("@removed") || is_there("deletedDateTime") {
        // Whatever the reason: what could be restored is not there now.
        News::Removed
    } else {
        let in_device = |why: String| WireError::Shape(format!("device {id}: {why}"));
        News::Is {
            device: external(device).map_err(in_device)?,
            enabled: enabled(device).map_err(in_device)?,
            known_to: known_to(device, prefix).map_err(in_device)?,
        }
    };
    Ok(Change { object: ObjectKey::of(id), news })
}

/// The `externalDeviceId`, if there is exactly one: a device of two names is none.
fn external(device: &Map<String, Value>) -> Result<Option<Option<DeviceKey>>, String> {
    let ids = match member(device, "physicalIds") {
        None => return Ok(None),
        Some(Value::Null) => return Ok(Some(None)),
        Some(Value::Array(ids)) => ids,
        Some(other) => return Err(format!("physicalIds is {other}")),
    };
    let mut names = Vec::new();
    for id in ids {
        let id = id.as_str().ok_or_else(|| format!("physicalIds has {id}"))?;
        names.extend(id.strip_prefix(EXTERNAL).filter(|name| !name.is_empty()));
    }
    Ok(Some(match names[..] {
        [name] => Some(DeviceKey::of(name)),
        _ => None,
    }))
}

fn enabled(device: &Map<String, Value>) -> Result<Option<bool>, String> {
    match member(device, "accountEnabled") {
        None => Ok(None),
        Some(Value::Bool(enabled)) => Ok(Some(*enabled)),
        // Said to be unknown, which lets nobody in.
        Some(Value::Null) => Ok(Some(false)),
        Some(other) => Err(format!("accountEnabled is {other}")),
    }
}

fn known_to(device: &Map<String, Value>, prefix: Option<&str>) -> Result<Option<KnownTo>, String> {
    match member(device, CONFIGURATION) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(KnownTo::Nobody)),
        Some(Value::String(id)) if is_id(id) => {
            let id = match prefix {
                Some(source) => format!("{source}/{id}").as_str().into(),
                None => ConfigurationId::from(id.as_str()),
            };
            Ok(Some(KnownTo::Only(id)))
        }
        Some(other) => Err(format!("{CONFIGURATION} is {other}")),
    }
}

fn text(answer: &Map<String, Value>, name: &str) -> Result<Option<String>, WireError> {
    match member(answer, name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(link)) => Ok(Some(link.clone())),
        Some(other) => Err(WireError::Shape(format!("{name} is {other}"))),
    }
}

fn shape(why: &str) -> WireError {
    WireError::Shape(why.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn page(value: &Value) -> Result<Page, WireError> {
        Page::read(value.to_string().as_bytes(), Some("hub"))
    }

    fn news(device: &Value) -> News {
        let page = page(&json!({ "value": [device] })).expect("a page");
        page.changes.into_iter().next().expect("one").news
    }

    #[test]
    fn a_device_is_read_as_the_directory_writes_it() {
        let device = json!({
            "id": "1", "accountEnabled": true, "deletedDateTime": null,
            "physicalIds": ["[USER-GID]:x", "[EXTID]:meter-1.example"],
            "@anchorgate.mutualTlsOauthConfigurationId": "c",
        });
        let expected = News::Is {
            device: Some(Some(DeviceKey::of("meter-1.example"))),
            enabled: Some(true),
            known_to: Some(KnownTo::Only("hub/c".into())),
        };
        assert_eq!(news(&device), expected);
    }

    #[test]
    fn what_is_left_out_is_told_from_what_is_empty() {
        let left_out = News::Is { device: None, enabled: None, known_to: None };
        assert_eq!(news(&json!({ "id": "1" })), left_out);
        let empty =
            News::Is { device: Some(None), enabled: Some(false), known_to: Some(KnownTo::Nobody) };
        for ids in [json!(null), json!([]), json!(["[EXTID]:"]), json!(["[EXTID]:a", "[EXTID]:b"])]
        {
            let device = json!({
                "id": "1", "physicalIds": ids, "accountEnabled": null,
                "@anchorgate.mutualTlsOauthConfigurationId": null,
            });
            assert_eq!(news(&device), empty, "{device}");
        }
    }

    #[test]
    fn what_is_removed_or_deleted_is_not_there() {
        for gone in [
            json!({ "id": "1", "@removed": { "reason": "changed" } }),
            json!({ "id": "1", "@removed": { "reason": "deleted" } }),
            json!({ "id": "1", "accountEnabled": true, "deletedDateTime": "2026-11-20T00:00:00Z" }),
        ] {
            assert_eq!(news(&gone), News::Removed);
        }
    }

    #[test]
    fn an_answer_says_where_it_goes_on() {
        let link = |value| page(&value).map(|page| page.link);
        assert_eq!(
            link(json!({ "value": [], "@odata.nextLink": "n" })),
            Ok(Some(Link::Next("n".into())))
        );
        assert_eq!(
            link(json!({ "value": [], "@odata.deltaLink": "d" })),
            Ok(Some(Link::Delta("d".into())))
        );
        assert_eq!(link(json!({ "value": [] })), Ok(None));
        assert!(
            link(json!({ "value": [], "@odata.nextLink": "n", "@odata.deltaLink": "d" })).is_err()
        );
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (wrong, error) in [
            (json!([]), "no object"),
            (json!({ "value": {} }), "no list"),
            (json!({ "value": [], "@odata.deltaLink": 7 }), "deltaLink is 7"),
            (json!({ "value": [7] }), "no object"),
            (json!({ "value": [{}] }), "no id"),
            (json!({ "value": [{ "id": "a b" }] }), "1 to 128"),
            (
                json!({ "value": [{ "id": "1", "accountEnabled": "yes" }] }),
                "device 1: accountEnabled",
            ),
            (json!({ "value": [{ "id": "1", "physicalIds": "[EXTID]:a" }] }), "physicalIds is"),
            (json!({ "value": [{ "id": "1", "physicalIds": [7] }] }), "physicalIds has 7"),
            (json!({ "value": [{ "id": "1", CONFIGURATION: 7 }] }), "is 7"),
            (json!({ "value": [{ "id": "1", CONFIGURATION: "" }] }), "ConfigurationId is"),
        ] {
            let got = page(&wrong).expect_err("not understood").to_string();
            assert!(got.contains(error), "{got} has no `{error}`");
        }
    }

    #[test]
    fn a_file_of_devices_is_whole_or_nothing() {
        let list = json!({ "value": [
            { "id": "1", "accountEnabled": true, "physicalIds": ["[EXTID]:a"] },
            { "id": "2", "accountEnabled": false, "physicalIds": ["[EXTID]:b"] },
            { "id": "3", "accountEnabled": true },
        ]});
        let read = |value: &Value, limit| read_registry(value.to_string().as_bytes(), limit);
        let counts = read(&list, 2).expect("a registry").counts();
        assert_eq!((counts.devices, counts.disabled), (2, 1));
        assert!(matches!(read(&list, 1), Err(ReadError::Registry(_))));
        let more = json!({ "value": [], "@odata.nextLink": "https://x/" });
        assert!(matches!(read(&more, 1), Err(ReadError::Wire(_))));
    }

    /// JSON of every shape, with the names that are looked for among its keys.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            Just(json!("[EXTID]:a")),
        ];
        let key = prop::sample::select(vec![
            "id",
            "value",
            "accountEnabled",
            "physicalIds",
            "@removed",
            "@odata.nextLink",
            "@odata.deltaLink",
            CONFIGURATION,
        ]);
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((key.clone(), inner), 0..6).prop_map(|pairs| {
                    Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_json_makes_it_panic(value in any_json()) {
            let _ = page(&value);
            let _ = page(&json!({ "value": [value] }));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Page::read(&bytes, None);
        }

        #[test]
        fn a_cut_answer_is_an_error(cut in 1usize..80) {
            let answer = json!({ "value": [{ "id": "1" }, { "id": "2" }], "@odata.deltaLink": "d" });
            let text = answer.to_string();
            let cut = text.len().saturating_sub(cut);
            prop_assert!(Page::read(&text.as_bytes()[..cut], None).is_err());
        }
    }
}
