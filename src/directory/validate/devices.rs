//! Bodies of requests for device templates and devices.

use serde_json::{Map, Value};

use crate::directory::device::{Device, NewDevice};
use crate::directory::errors::Fault;
use crate::directory::shapes::{DeviceTemplate, Entity};
use crate::directory::validate::members::{
    known_members, not_deleted, only, property, same_id, text,
};
use crate::graph::wire::member;
use crate::runtime::random::{guid, is_guid};
use crate::trust::subject;
use crate::x509::time::Timestamp;

/// Maximum number of characters in an informational text of a template or device.
const MAX_TEXT: usize = 256;
/// Maximum number of `alternativeNames` of a device.
const MAX_ALTERNATIVE_NAMES: usize = 10;
/// Maximum number of characters in an alternative name (as in ARM resource ids).
const MAX_ALTERNATIVE_NAME: usize = 2048;

const TEMPLATE: &str = "DeviceTemplate";
const DEVICE: &str = "Device";

/// Creates a template from the body of a POST.  `owner` is the caller that creates it.
pub(in crate::directory) fn create_template(
    body: &Map<String, Value>,
    owner: Option<String>,
) -> Result<DeviceTemplate, Fault> {
    known_members::<DeviceTemplate>(body, &[])?;
    not_deleted(body, TEMPLATE)?;
    let template = DeviceTemplate {
        id: guid(),
        deleted_date_time: None,
        device_authority: required(body, "deviceAuthority", TEMPLATE)?,
        manufacturer: required(body, "manufacturer", TEMPLATE)?,
        model: required(body, "model", TEMPLATE)?,
        mutual_tls_oauth_configuration_id: id(body, "mutualTlsOauthConfigurationId")?,
        mutual_tls_oauth_configuration_tenant_id: id(body, "mutualTlsOauthConfigurationTenantId")?,
        operating_system: text(body, "operatingSystem", TEMPLATE, MAX_TEXT)?.flatten(),
        owner,
    };
    let (id, tenant) = (
        &template.mutual_tls_oauth_configuration_id,
        &template.mutual_tls_oauth_configuration_tenant_id,
    );
    match (id, tenant) {
        (None, Some(_)) => Err(property(
            "mutualTlsOauthConfigurationTenantId",
            TEMPLATE,
            "",
            "it names the tenant of a configuration: set mutualTlsOauthConfigurationId too",
        )),
        _ => Ok(template),
    }
}

/// Creates a device from the body of createDeviceFromTemplate.
pub(in crate::directory) fn create_device(body: &Map<String, Value>) -> Result<NewDevice, Fault> {
    const MEMBERS: &[&str] = &[
        "accountEnabled",
        "alternativeNames",
        "externalDeviceId",
        "externalSourceName",
        "keyCredential",
        "operatingSystemVersion",
    ];
    only(body, MEMBERS, "device")?;
    if member(body, "keyCredential").is_some_and(|value| !value.is_null()) {
        let why = "gateways do not accept self-signed certificates: omit it, and use a template with a \
                   mutualTlsOauthConfigurationId";
        return Err(property("keyCredential", DEVICE, "", why));
    }
    Ok(NewDevice {
        external_device_id: external_device_id(body)?,
        account_enabled: account_enabled(body)?.unwrap_or(true),
        operating_system_version: text(body, "operatingSystemVersion", DEVICE, MAX_TEXT)?.flatten(),
        external_source_name: text(body, "externalSourceName", DEVICE, MAX_TEXT)?.flatten(),
        alternative_names: alternative_names(body)?,
    })
}

/// Applies the body of a PATCH to `stored`.  Only `accountEnabled` can change.
pub(in crate::directory) fn update_device(
    stored: &Device,
    body: &Map<String, Value>,
) -> Result<Device, Fault> {
    known_members::<Device>(body, &[])?;
    same_id(body, stored.id(), DEVICE)?;
    let json = stored.json();
    for &name in Device::PROPERTIES {
        // Clients send other members back: an equal value is not a change.
        let current = json.get(name).unwrap_or(&Value::Null);
        let changed =
            member(body, name).is_some_and(|sent| !sent.is_null() && !is_equivalent(sent, current));
        if changed && !matches!(name, "id" | "accountEnabled") {
            let why =
                "it cannot be changed: the template and the creation of the device determine it";
            return Err(property(name, DEVICE, "", why));
        }
    }
    match account_enabled(body)? {
        Some(enabled) => Ok(stored.with_account_enabled(enabled)),
        None => Ok(stored.clone()),
    }
}

/// Returns true if an SDK that received `current` may send `sent` back.  SDKs omit nulls from objects
/// and use another form of times.
fn is_equivalent(sent: &Value, current: &Value) -> bool {
    match (sent, current) {
        (Value::Array(sent), Value::Array(current)) => {
            sent.len() == current.len()
                && sent.iter().zip(current).all(|(sent, current)| is_equivalent(sent, current))
        }
        (Value::Object(sent), Value::Object(current)) => {
            let null = &Value::Null;
            sent.iter().all(|(name, value)| is_equivalent(value, current.get(name).unwrap_or(null)))
                && current
                    .iter()
                    .all(|(name, value)| is_equivalent(sent.get(name).unwrap_or(null), value))
        }
        (Value::String(text), Value::String(other)) if text != other => {
            let time = Timestamp::parse_rfc3339(text);
            time.is_some() && time == Timestamp::parse_rfc3339(other)
        }
        _ => sent == current,
    }
}

/// Rejects a text that cannot be a subject ID, or that looks like a different one when printed.
fn external_device_id(body: &Map<String, Value>) -> Result<String, Fault> {
    const NAME: &str = "externalDeviceId";
    let bad = |why: &str| property(NAME, DEVICE, "", why);
    match member(body, NAME) {
        None | Some(Value::Null) => Err(bad("it is required")),
        Some(Value::String(text)) if text.is_empty() => Err(bad("it is empty")),
        Some(Value::String(text)) => match subject::check_printable(text) {
            Ok(()) => Ok(text.clone()),
            Err(why) => Err(bad(&format!("it {why}"))),
        },
        Some(_) => Err(bad("it is not a string")),
    }
}

fn account_enabled(body: &Map<String, Value>) -> Result<Option<bool>, Fault> {
    match member(body, "accountEnabled") {
        None => Ok(None),
        Some(Value::Bool(enabled)) => Ok(Some(*enabled)),
        Some(_) => Err(property("accountEnabled", DEVICE, "", "it is neither true nor false")),
    }
}

fn alternative_names(body: &Map<String, Value>) -> Result<Vec<String>, Fault> {
    const NAME: &str = "alternativeNames";
    let bad = |target: &str, why: &str| Err(property(NAME, DEVICE, target, why));
    let list = match member(body, NAME) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return bad("", "it is not a list"),
    };
    if list.len() > MAX_ALTERNATIVE_NAMES {
        let why = format!("{} names; at most {MAX_ALTERNATIVE_NAMES} are allowed", list.len());
        return bad("", &why);
    }
    let mut out = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        let target = format!("{NAME}[{index}]");
        let Value::String(text) = value else { return bad(&target, "it is not a string") };
        let characters = text.chars().count();
        if characters > MAX_ALTERNATIVE_NAME {
            let why =
                format!("{characters} characters; at most {MAX_ALTERNATIVE_NAME} are allowed");
            return bad(&target, &why);
        }
        if text.is_empty() || text.chars().any(char::is_control) {
            return bad(&target, "it is empty or contains control characters");
        }
        out.push(text.clone());
    }
    Ok(out)
}

fn required(
    body: &Map<String, Value>,
    name: &'static str,
    resource: &'static str,
) -> Result<String, Fault> {
    match text(body, name, resource, MAX_TEXT)?.flatten() {
        Some(text) if !text.trim().is_empty() => Ok(text),
        _ => Err(property(name, resource, "", "it is required")),
    }
}

/// Reads an optional GUID, in the form in which ids are stored.
fn id(body: &Map<String, Value>, name: &'static str) -> Result<Option<String>, Fault> {
    match member(body, name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if is_guid(text) => Ok(Some(text.to_ascii_lowercase())),
        Some(_) => Err(property(name, TEMPLATE, "", "it is not a GUID")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::device::tests::device;
    use proptest::prelude::*;
    use serde_json::json;

    const GUID: &str = "3F2A7A5E-8C8B-4A57-9D0E-2D3F8A1B4C5D";

    fn body(value: &Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    fn refused<T: std::fmt::Debug>(result: Result<T, Fault>) -> (&'static str, String) {
        match result {
            Err(Fault::Property { property, why, .. }) => (property, why),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_template_requires_the_properties_of_its_devices() {
        let good = json!({"deviceAuthority": "ADT", "manufacturer": "Acme", "model": "M",
            "operatingSystem": null, "mutualTlsOauthConfigurationId": GUID});
        let made = create_template(&body(&good), None).expect("a template");
        assert_eq!(made.mutual_tls_oauth_configuration_id, Some(GUID.to_ascii_lowercase()));
        for (name, value, word) in [
            ("deviceAuthority", json!(null), "required"),
            ("manufacturer", json!(" "), "required"),
            ("model", json!(7), "not a string"),
            ("model", json!("x".repeat(MAX_TEXT + 1)), "257 characters; at most 256"),
            ("operatingSystem", json!("a\u{0}"), "control"),
            ("mutualTlsOauthConfigurationId", json!("x"), "not a GUID"),
            ("mutualTlsOauthConfigurationTenantId", json!(1), "not a GUID"),
            ("deletedDateTime", json!("2026-01-01T00:00:00Z"), "read-only"),
        ] {
            let mut bad = good.clone();
            bad[name] = value;
            let (property, why) = refused(create_template(&body(&bad), None));
            assert!(property == name && why.contains(word), "{property}: {why}");
        }
        let mut alone = good.clone();
        alone["mutualTlsOauthConfigurationTenantId"] = json!(GUID);
        assert!(create_template(&body(&alone), None).is_ok());
        alone["mutualTlsOauthConfigurationId"] = json!(null);
        let (property, _) = refused(create_template(&body(&alone), None));
        assert_eq!(property, "mutualTlsOauthConfigurationTenantId");
        alone["owners"] = json!([]);
        assert!(matches!(create_template(&body(&alone), None), Err(Fault::UnknownProperty { .. })));
    }

    #[test]
    fn external_device_ids_must_be_possible_subject_ids() {
        let new = |value: Value| create_device(&body(&json!({"externalDeviceId": value})));
        let longest = "é".repeat(subject::MAX_CHARACTERS);
        for good in ["urn:device:1", "CN=camera 7,O=Acme\\, Inc", &longest] {
            let made = new(json!(good)).expect(good);
            assert!(made.external_device_id == good && made.account_enabled);
        }
        for (bad, word) in [
            (json!(null), "required"),
            (json!(""), "empty"),
            (json!(7), "not a string"),
            (json!(format!("{longest}é")), "513 characters; at most 512"),
            (json!("a\u{0}b"), "U+0000"),
            (json!("a\u{202e}b"), "U+202E"),
        ] {
            let (property, why) = refused(new(bad));
            assert!(property == "externalDeviceId" && why.contains(word), "{why}");
        }
        for (name, value, word) in [
            ("accountEnabled", json!(null), "neither"),
            ("accountEnabled", json!("false"), "neither"),
            ("alternativeNames", json!("x"), "not a list"),
            (
                "alternativeNames",
                json!(vec!["x"; MAX_ALTERNATIVE_NAMES + 1]),
                "11 names; at most 10",
            ),
            ("alternativeNames", json!([7]), "not a string"),
            ("alternativeNames", json!([""]), "empty"),
            ("alternativeNames", json!(["x".repeat(MAX_ALTERNATIVE_NAME + 1)]), "at most 2048"),
            ("externalSourceName", json!("x".repeat(MAX_TEXT + 1)), "at most 256"),
            ("operatingSystemVersion", json!([]), "not a string"),
            ("keyCredential", json!({}), "self-signed"),
        ] {
            let (property, why) =
                refused(create_device(&body(&json!({"externalDeviceId": "d", name: value}))));
            assert!(property == name && why.contains(word), "{property}: {why}");
        }
    }

    #[test]
    fn only_account_enabled_can_be_changed() {
        let stored = device("urn:device:1");
        let mut sent = stored.json();
        sent.insert("display_name".into(), Value::Null);
        assert_eq!(update_device(&stored, &sent), Ok(stored.clone()), "unchanged");
        sent.insert("accountEnabled".into(), false.into());
        assert_eq!(update_device(&stored, &sent), Ok(stored.with_account_enabled(false)));
        // The form in which Microsoft's Python SDK sends the object back.
        let time = sent["createdDateTime"].as_str().expect("a time").replace('Z', "+00:00");
        sent.insert("createdDateTime".into(), time.into());
        let keys = sent["alternativeSecurityIds"][0].as_object_mut().expect("an object");
        assert_eq!(keys.remove("identityProvider"), Some(Value::Null));
        assert_eq!(update_device(&stored, &sent), Ok(stored.with_account_enabled(false)));
        for (name, value) in [
            ("displayName", json!("other")),
            ("physicalIds", json!([])),
            ("physicalIds", json!(["[EXTID]:other"])),
            ("alternativeSecurityIds", json!([{"type": 2}])),
            ("alternativeSecurityIds", json!([{"type": 2, "key": "AA==", "more": 1}])),
            ("createdDateTime", json!("2026-01-01T00:00:00Z")),
            ("model", json!("other")),
            ("accountEnabled", json!(null)),
            ("accountEnabled", json!(0)),
            ("deletedDateTime", json!("2026-01-01T00:00:00Z")),
            ("id", json!(GUID)),
        ] {
            let (property, _) = refused(update_device(&stored, &body(&json!({name: value}))));
            assert_eq!(property, name);
        }
        let unknown = update_device(&stored, &body(&json!({"isCompliant": true})));
        assert!(matches!(unknown, Err(Fault::UnknownProperty { .. })));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            Just(json!(GUID)),
        ];
        let names = DeviceTemplate::PROPERTIES.iter().chain(Device::PROPERTIES).copied();
        let names = names.chain(["externalDeviceId", "keyCredential", "@odata.type"]);
        let name = prop::sample::select(names.collect::<Vec<_>>());
        let value = prop_oneof![
            3 => leaf.clone(),
            1 => prop::collection::vec(leaf, 0..3).prop_map(Value::from),
        ];
        prop::collection::vec((name, value), 0..6).prop_map(|pairs| {
            Value::Object(pairs.into_iter().map(|(name, value)| (name.into(), value)).collect())
        })
    }

    proptest! {
        #[test]
        fn random_bodies_neither_panic_nor_change_other_properties(value in any_json()) {
            let body = body(&value);
            if let Ok(made) = create_template(&body, None) {
                prop_assert_eq!(made.operating_system.as_deref(), body.get("operatingSystem").and_then(Value::as_str));
            }
            if let Ok(made) = create_device(&body) {
                prop_assert_eq!(Some(&*made.external_device_id), body["externalDeviceId"].as_str());
            }
            let stored = device("d");
            if let Ok(updated) = update_device(&stored, &body) {
                prop_assert!(updated == stored || updated == stored.with_account_enabled(false));
            }
        }
    }
}
