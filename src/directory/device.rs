//! `microsoft.graph.device`, as far as it concerns devices made from a template.
//!
//! # Why the ids are what they are
//! A device is known by its `externalDeviceId`, which is unique in the directory.  Its object id is made
//! from that text, so that the store's own rule (an id exists once) makes it unique, and a device is
//! found by its text as it is found by its id, without a second index.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::directory::shapes::{DeviceTemplate, Entity};
use crate::x509::certificate::Fingerprint;
use crate::x509::time::Timestamp;

/// The annotation that tells a gateway which trust domain a device is of.
pub const CONFIGURATION: &str = "@anchorgate.mutualTlsOauthConfigurationId";

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Device {
    id: String,
    stored: Stored,
}

/// A device as it is stored: what follows from it is left out, and names are short, since there are
/// many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    /// `externalDeviceId`.
    #[serde(rename = "x")]
    external_device_id: String,
    /// `accountEnabled`.
    #[serde(rename = "e")]
    account_enabled: bool,
    /// When it was made, in seconds since 1970.
    #[serde(rename = "r")]
    created: i64,
    // What follows is stamped on it by its template.
    #[serde(rename = "t")]
    template: String,
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    configuration: Option<String>,
    #[serde(rename = "m")]
    manufacturer: String,
    #[serde(rename = "o")]
    model: String,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    operating_system: Option<String>,
    // And this by who made it.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    operating_system_version: Option<String>,
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    external_source_name: Option<String>,
    #[serde(rename = "a", default, skip_serializing_if = "Vec::is_empty")]
    alternative_names: Vec<String>,
}

/// What who makes a device says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDevice {
    /// What a subject ID must equal; unique in the directory.
    pub external_device_id: String,
    /// Whether it may have tokens.
    pub account_enabled: bool,
    /// For people.
    pub operating_system_version: Option<String>,
    /// For people.
    pub external_source_name: Option<String>,
    /// ARM resource ids.
    pub alternative_names: Vec<String>,
}

impl Device {
    /// A new device of a template.
    pub fn new(new: NewDevice, template: &DeviceTemplate, now: Timestamp) -> Self {
        Stored {
            external_device_id: new.external_device_id,
            account_enabled: new.account_enabled,
            created: now.0,
            template: template.id.clone(),
            configuration: template.mutual_tls_oauth_configuration_id.clone(),
            manufacturer: template.manufacturer.clone(),
            model: template.model.clone(),
            operating_system: template.operating_system.clone(),
            operating_system_version: new.operating_system_version,
            external_source_name: new.external_source_name,
            alternative_names: new.alternative_names,
        }
        .into()
    }

    /// The template that it was made from.
    pub fn template(&self) -> &str {
        &self.stored.template
    }

    /// The same device, enabled or not.
    pub fn enabled(&self, account_enabled: bool) -> Self {
        let mut changed = self.clone();
        changed.stored.account_enabled = account_enabled;
        changed
    }
}

impl From<Stored> for Device {
    fn from(stored: Stored) -> Self {
        Self { id: id_of(&stored.external_device_id), stored }
    }
}

impl From<Device> for Stored {
    fn from(device: Device) -> Self {
        device.stored
    }
}

impl Entity for Device {
    const TYPE: &'static str = "device";
    const PROPERTIES: &'static [&'static str] = &[
        "id",
        "deletedDateTime",
        "accountEnabled",
        "alternativeNames",
        "alternativeSecurityIds",
        "createdDateTime",
        "deviceId",
        "displayName",
        "externalSourceName",
        "manufacturer",
        "model",
        "operatingSystem",
        "operatingSystemVersion",
        "physicalIds",
        "profileType",
        "sourceType",
    ];
    const FILTERABLE: &'static [&'static str] =
        &["id", "deviceId", "displayName", "accountEnabled", "operatingSystem"];
    const BOOLEAN: &'static [&'static str] = &["accountEnabled"];

    fn id(&self) -> &str {
        &self.id
    }

    fn json(&self) -> Map<String, Value> {
        let stored = &self.stored;
        let value = json!({
            CONFIGURATION: stored.configuration,
            "id": self.id,
            "deletedDateTime": null,
            "accountEnabled": stored.account_enabled,
            "alternativeNames": stored.alternative_names,
            "alternativeSecurityIds": [{
                "type": 2,
                "identityProvider": null,
                "key": security_key(&stored.external_device_id),
            }],
            "createdDateTime": Timestamp(stored.created).to_string(),
            "deviceId": device_id(&self.id),
            "displayName": stored.external_device_id,
            "externalSourceName": stored.external_source_name,
            "manufacturer": stored.manufacturer,
            "model": stored.model,
            "operatingSystem": stored.operating_system,
            "operatingSystemVersion": stored.operating_system_version,
            "physicalIds": [format!("[EXTID]:{}", stored.external_device_id)],
            "profileType": "IoT",
            "sourceType": "External",
        });
        match value {
            Value::Object(object) => object,
            _ => Map::new(),
        }
    }

    /// Without making the rest, since a filter may ask a million devices.
    fn property(&self, name: &str) -> Value {
        match name {
            "id" => self.id.as_str().into(),
            "deviceId" => device_id(&self.id).into(),
            "displayName" => self.stored.external_device_id.as_str().into(),
            "accountEnabled" => self.stored.account_enabled.into(),
            "operatingSystem" => self.stored.operating_system.as_deref().into(),
            _ => self.json().remove(name).unwrap_or_default(),
        }
    }

    fn id_by(property: &str, value: &Value) -> Option<String> {
        let value = value.as_str()?;
        match property {
            "id" => Some(value.to_ascii_lowercase()),
            "deviceId" => Some(device_id(&value.to_ascii_lowercase())),
            "displayName" => Some(id_of(value)),
            _ => None,
        }
    }
}

/// The object id of the device with that `externalDeviceId`: a UUID of version 8 (RFC 9562 section 5.8)
/// from its SHA-256.
pub fn id_of(external_device_id: &str) -> String {
    let hash = Fingerprint::of(format!("device {external_device_id}").as_bytes()).0;
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push(hex(byte >> 4));
        text.push(hex(byte & 15));
    }
    text
}

/// The `deviceId` of the device with that object id, and the other way round: the same UUID with every
/// free digit of its first part complemented.  Graph's two ids differ, and so do ours.
pub fn device_id(id: &str) -> String {
    let complement = |digit: char| digit.to_digit(16).map_or(digit, |d| hex(15 - d as u8));
    id.char_indices().map(|(i, digit)| if i < 8 { complement(digit) } else { digit }).collect()
}

fn hex(digit: u8) -> char {
    char::from(b"0123456789abcdef"[usize::from(digit & 15)])
}

/// The key under which Entra looks a certificate's subject up: UTF-16LE of `X509:<UID>` and the base64
/// of the UTF-16LE of the subject; in base64, as JSON has Edm.Binary.
fn security_key(external_device_id: &str) -> String {
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let subject = STANDARD.encode(utf16(external_device_id));
    STANDARD.encode(utf16(&format!("X509:<UID>{subject}")))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::runtime::random::is_guid;
    use proptest::prelude::*;

    /// A device of some template.
    pub fn device(external_device_id: &str) -> Device {
        let new = NewDevice {
            external_device_id: external_device_id.into(),
            account_enabled: true,
            operating_system_version: None,
            external_source_name: None,
            alternative_names: vec![],
        };
        Device::new(new, &crate::directory::shapes::tests::template(), Timestamp(1_795_000_000))
    }

    #[test]
    fn the_key_is_that_of_the_published_example() {
        assert_eq!(
            security_key("2fa9424e-7ab0-4a22-8c90-2a20d15d8183"),
            "WAA1ADAAOQA6ADwAVQBJAEQAPgBNAGcAQgBtAEEARwBFAEEATwBRAEEAMABBAEQASQBBAE4AQQBCAGwAQQBDADAAQQBOAHcAQgBoAEEARwBJAEEATQBBAEEAdABBAEQAUQBBAFkAUQBBAHkAQQBEAEkAQQBMAFEAQQA0AEEARwBNAEEATwBRAEEAdwBBAEMAMABBAE0AZwBCAGgAQQBEAEkAQQBNAEEAQgBrAEEARABFAEEATgBRAEIAawBBAEQAZwBBAE0AUQBBADQAQQBEAE0AQQA="
        );
    }

    #[test]
    fn an_id_is_never_another_one_tomorrow() {
        // Written down: the ids of stored devices are made anew whenever they are read.
        assert_eq!(id_of("urn:device:1"), "f7bf8141-32d9-89c7-8b04-92282cb3bffb");
    }

    proptest! {
        #[test]
        fn ids_are_guids_and_lead_to_each_other(external in "\\PC{1,40}", other in "\\PC{1,40}") {
            let id = id_of(&external);
            prop_assert!(is_guid(&id) && is_guid(&device_id(&id)));
            prop_assert_ne!(&device_id(&id), &id);
            prop_assert_eq!(device_id(&device_id(&id)), id.clone());
            prop_assert_eq!(external == other, id == id_of(&other));
        }

        #[test]
        fn what_is_stored_comes_back(external in "\\PC{1,40}", enabled: bool) {
            let device = device(&external).enabled(enabled);
            let bytes = serde_json::to_vec(&device).expect("JSON");
            prop_assert_eq!(serde_json::from_slice::<Device>(&bytes).expect("a device"), device.clone());
            let json = device.json();
            for property in Device::FILTERABLE {
                prop_assert_eq!(&device.property(property), &json[*property]);
            }
            for property in ["id", "deviceId", "displayName"] {
                let found = Device::id_by(property, &json[property]);
                prop_assert_eq!(found.as_deref(), Some(device.id()));
            }
            for name in Device::PROPERTIES {
                prop_assert!(json.contains_key(*name));
            }
            prop_assert_eq!(json.len(), Device::PROPERTIES.len() + 1);
        }
    }
}
