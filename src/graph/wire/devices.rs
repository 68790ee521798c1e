//! Devices as JSON: pages of `GET /devices` or `/devices/delta`.
//!
//! Only the members that decide are read.  A member that an object leaves out stays as it was, because the
//! report of a change need not repeat the rest.  A member that cannot be interpreted makes the page an
//! error, of which nothing is applied.

use serde_json::{Map, Value};

use crate::graph::wire::json::{WireError, id, is_id, link, list, member, object, parse};
use crate::trust::configurations::ConfigurationId;
use crate::trust::devices::{
    Change, DeviceKey, DeviceRegistry, KnownTo, NewState, ObjectKey, RegistryError,
};

/// Prefix of the `externalDeviceId` in `physicalIds`.
const EXTERNAL: &str = "[EXTID]:";
/// Annotation with the configuration of a device's template.  Graph has no such property.
const CONFIGURATION: &str = "@anchorgate.mutualTlsOauthConfigurationId";

/// One page of a response.
#[derive(Debug)]
pub(crate) struct Page {
    /// The changes, in the response's order.
    pub(crate) changes: Vec<Change>,
    /// Link to the next page, or to later changes.
    pub(crate) link: Option<Link>,
}

/// The link at the end of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    /// `@odata.nextLink`: the response continues there.
    Next(String),
    /// `@odata.deltaLink`: the response is complete, and later changes are returned there.
    Delta(String),
}

impl Page {
    /// Reads a page.  `prefix` is put before ids of configurations.
    ///
    /// # Errors
    /// The page is ambiguous or cannot be interpreted.
    pub(crate) fn read(json: &[u8], prefix: Option<&str>) -> Result<Self, WireError> {
        let response = parse(json)?;
        let response = object(&response, "the response")?;
        let list = list(response)?;
        let link = match (link(response, "@odata.nextLink")?, link(response, "@odata.deltaLink")?) {
            (Some(link), None) => Some(Link::Next(link)),
            (None, Some(link)) => Some(Link::Delta(link)),
            (None, None) => None,
            (Some(_), Some(_)) => {
                let why = "the response has both @odata.nextLink and @odata.deltaLink";
                return Err(WireError::Shape(why.into()));
            }
        };
        let changes = list.iter().map(|value| change(value, prefix)).collect::<Result<_, _>>()?;
        Ok(Self { changes, link })
    }
}

/// Reads one list response as the complete list of at most `limit` devices, for the offline judge.
///
/// # Errors
/// The response is not a complete list of devices, or there are more than `limit`.
pub fn read_registry(json: &[u8], limit: usize) -> Result<DeviceRegistry, ReadError> {
    let page = Page::read(json, None)?;
    if let Some(Link::Next(_)) = page.link {
        return Err(WireError::Shape("the list continues at its @odata.nextLink".into()).into());
    }
    Ok(DeviceRegistry::default().changed(&page.changes, limit)?.0)
}

/// A list of devices is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The response is not a complete list of devices.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The devices exceed a limit.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

fn change(value: &Value, prefix: Option<&str>) -> Result<Change, WireError> {
    let device = object(value, "a device")?;
    let id = id(device, "a device")?;
    let has = |name| !matches!(member(device, name), None | Some(Value::Null));
    let state = if has("@removed") || has("deletedDateTime") {
        // The reason does not matter: a device that can be restored does not exist now.
        NewState::Removed
    } else {
        let in_device = |why: String| WireError::Shape(format!("device {id}: {why}"));
        NewState::Is {
            device: external(device).map_err(in_device)?,
            enabled: enabled(device).map_err(in_device)?,
            known_to: known_to(device, prefix).map_err(in_device)?,
        }
    };
    Ok(Change { object: ObjectKey::of(id), state })
}

/// Returns the `externalDeviceId`.  A device with more than one has none.
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
        // An unknown state admits no device.
        Some(Value::Null) => Ok(Some(false)),
        Some(other) => Err(format!("accountEnabled is {other}")),
    }
}

fn known_to(device: &Map<String, Value>, prefix: Option<&str>) -> Result<Option<KnownTo>, String> {
    match member(device, CONFIGURATION) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(KnownTo::None)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn page(value: &Value) -> Result<Page, WireError> {
        Page::read(value.to_string().as_bytes(), Some("hub"))
    }

    fn state(device: &Value) -> NewState {
        let page = page(&json!({ "value": [device] })).expect("a page");
        page.changes.into_iter().next().expect("one").state
    }

    #[test]
    fn reads_a_device_of_the_embedded_directory() {
        let device = json!({
            "id": "1", "accountEnabled": true, "deletedDateTime": null,
            "physicalIds": ["[USER-GID]:x", "[EXTID]:meter-1.example"],
            "@anchorgate.mutualTlsOauthConfigurationId": "c",
        });
        let expected = NewState::Is {
            device: Some(Some(DeviceKey::of("meter-1.example"))),
            enabled: Some(true),
            known_to: Some(KnownTo::Only("hub/c".into())),
        };
        assert_eq!(state(&device), expected);
    }

    #[test]
    fn distinguishes_missing_members_from_empty_ones() {
        let left_out = NewState::Is { device: None, enabled: None, known_to: None };
        assert_eq!(state(&json!({ "id": "1" })), left_out);
        let empty = NewState::Is {
            device: Some(None),
            enabled: Some(false),
            known_to: Some(KnownTo::None),
        };
        for ids in [json!(null), json!([]), json!(["[EXTID]:"]), json!(["[EXTID]:a", "[EXTID]:b"])]
        {
            let device = json!({
                "id": "1", "physicalIds": ids, "accountEnabled": null,
                "@anchorgate.mutualTlsOauthConfigurationId": null,
            });
            assert_eq!(state(&device), empty, "{device}");
        }
    }

    #[test]
    fn removed_and_deleted_devices_do_not_exist() {
        for gone in [
            json!({ "id": "1", "@removed": { "reason": "changed" } }),
            json!({ "id": "1", "@removed": { "reason": "deleted" } }),
            json!({ "id": "1", "accountEnabled": true, "deletedDateTime": "2026-11-20T00:00:00Z" }),
        ] {
            assert_eq!(state(&gone), NewState::Removed);
        }
    }

    #[test]
    fn reads_the_link_of_a_page() {
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
    fn rejects_values_that_cannot_be_interpreted() {
        for (wrong, error) in [
            (json!([]), "not an object"),
            (json!({ "value": {} }), "not a list"),
            (json!({ "value": [], "@odata.deltaLink": 7 }), "deltaLink is 7"),
            (json!({ "value": [7] }), "not an object"),
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
            let got = page(&wrong).expect_err("not interpretable").to_string();
            assert!(got.contains(error), "{got} has no `{error}`");
        }
    }

    #[test]
    fn a_file_of_devices_must_be_complete() {
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

    /// Arbitrary JSON, whose keys include the names of known members.
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
        fn does_not_panic_on_any_json(value in any_json()) {
            let _ = page(&value);
            let _ = page(&json!({ "value": [value] }));
        }

        #[test]
        fn does_not_panic_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Page::read(&bytes, None);
        }

        #[test]
        fn rejects_truncated_responses(cut in 1usize..80) {
            let answer = json!({ "value": [{ "id": "1" }, { "id": "2" }], "@odata.deltaLink": "d" });
            let text = answer.to_string();
            let cut = text.len().saturating_sub(cut);
            prop_assert!(Page::read(&text.as_bytes()[..cut], None).is_err());
        }
    }
}
