//! `microsoft.graph.device`, for devices that are created from a template.
//!
//! # Design notes
//! A device is identified by its `externalDeviceId`, which is unique in the directory.  The object id
//! is derived from it.  The store therefore ensures that it is unique, and a device is found by it
//! without a second index.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::directory::shapes::{DeviceTemplate, Entity};
use crate::store::Collection;
use crate::x509::certificate::Fingerprint;
use crate::x509::time::Timestamp;

pub(super) const KIND: Collection = Collection::Devices;
pub(super) const CONTEXT: &str = "devices";
/// Maximum number of devices.
pub(super) const MAX_OBJECTS: u64 = 10_000_000;

/// Annotation with the id of the device's configuration, for gateways.
const CONFIGURATION: &str = "@anchorgate.mutualTlsOauthConfigurationId";

/// Device created from a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub(super) struct Device {
    id: String,
    stored: Stored,
}

/// Stored form of a device.  Derived properties are omitted and names are short, because there are many
/// devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    /// `externalDeviceId`.
    #[serde(rename = "x")]
    external_device_id: String,
    /// `accountEnabled`.
    #[serde(rename = "e")]
    account_enabled: bool,
    /// Creation time in seconds since 1970.
    #[serde(rename = "r")]
    created: i64,
    // Properties of the template.
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
    // Properties from the request that created the device.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    operating_system_version: Option<String>,
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    external_source_name: Option<String>,
    #[serde(rename = "a", default, skip_serializing_if = "Vec::is_empty")]
    alternative_names: Vec<String>,
}

/// Properties that the caller supplies when it creates a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewDevice {
    /// Value that the subject ID of the device's certificate must equal.  Unique in the directory.
    pub(super) external_device_id: String,
    /// Whether the device may get tokens.
    pub(super) account_enabled: bool,
    /// Informational.
    pub(super) operating_system_version: Option<String>,
    /// Informational.
    pub(super) external_source_name: Option<String>,
    /// ARM resource ids.
    pub(super) alternative_names: Vec<String>,
}

impl Device {
    /// Creates a device from a template.
    pub(super) fn new(new: NewDevice, template: &DeviceTemplate, now: Timestamp) -> Self {
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

    /// Id of the template that the device was created from.
    pub(super) fn template(&self) -> &str {
        &self.stored.template
    }

    /// Returns the device with another value of `accountEnabled`.
    pub(super) fn with_account_enabled(&self, account_enabled: bool) -> Self {
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

    /// Does not build the whole JSON, because a filter may be applied to a million devices.
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

/// Returns the object id of the device with this `externalDeviceId`: a UUID of version 8 (RFC 9562
/// section 5.8) from its SHA-256.
fn id_of(external_device_id: &str) -> String {
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

/// Converts an object id to the `deviceId`, or a `deviceId` to the object id: every digit of the first
/// part of the UUID is complemented.  The two ids differ, as in Graph.
pub(super) fn device_id(id: &str) -> String {
    let complement = |digit: char| digit.to_digit(16).map_or(digit, |d| hex(15 - d as u8));
    id.char_indices().map(|(i, digit)| if i < 8 { complement(digit) } else { digit }).collect()
}

fn hex(digit: u8) -> char {
    char::from(b"0123456789abcdef"[usize::from(digit & 15)])
}

/// Returns the key that Entra uses to find a device by certificate subject.
///
/// The key is the UTF-16LE encoding of `X509:<UID>` followed by the base64 of the UTF-16LE encoding of
/// the subject.  It is returned in base64, the JSON form of Edm.Binary.
fn security_key(external_device_id: &str) -> String {
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let subject = STANDARD.encode(utf16(external_device_id));
    STANDARD.encode(utf16(&format!("X509:<UID>{subject}")))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::runtime::random::is_guid;
    use proptest::prelude::*;

    pub(in crate::directory) fn device(external_device_id: &str) -> Device {
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
    fn the_security_key_matches_the_published_example() {
        assert_eq!(
            security_key("2fa9424e-7ab0-4a22-8c90-2a20d15d8183"),
            "WAA1ADAAOQA6ADwAVQBJAEQAPgBNAGcAQgBtAEEARwBFAEEATwBRAEEAMABBAEQASQBBAE4AQQBCAGwAQQBDADAAQQBOAHcAQgBoAEEARwBJAEEATQBBAEEAdABBAEQAUQBBAFkAUQBBAHkAQQBEAEkAQQBMAFEAQQA0AEEARwBNAEEATwBRAEEAdwBBAEMAMABBAE0AZwBCAGgAQQBEAEkAQQBNAEEAQgBrAEEARABFAEEATgBRAEIAawBBAEQAZwBBAE0AUQBBADQAQQBEAE0AQQA="
        );
    }

    #[test]
    fn ids_do_not_change_between_versions() {
        // Stored devices do not have their id: it is derived whenever they are read.
        assert_eq!(id_of("urn:device:1"), "f7bf8141-32d9-89c7-8b04-92282cb3bffb");
    }

    proptest! {
        #[test]
        fn ids_are_guids_and_convert_to_each_other(external in "\\PC{1,40}", other in "\\PC{1,40}") {
            let id = id_of(&external);
            prop_assert!(is_guid(&id) && is_guid(&device_id(&id)));
            prop_assert_ne!(&device_id(&id), &id);
            prop_assert_eq!(device_id(&device_id(&id)), id.clone());
            prop_assert_eq!(external == other, id == id_of(&other));
        }

        #[test]
        fn stored_devices_round_trip(external in "\\PC{1,40}", enabled: bool) {
            let device = device(&external).with_account_enabled(enabled);
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
