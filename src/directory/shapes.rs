//! The directory's objects as they are stored and sent: Graph's names and nulls (CSDL of beta).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::trust::subject::SubjectField;
use crate::x509::certificate::Fingerprint;

/// `microsoft.graph.mutualTlsOauthConfiguration`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MutualTlsOauthConfiguration {
    /// A GUID.
    pub id: String,
    /// Null: what is deleted here is gone.
    pub deleted_date_time: Option<String>,
    /// For people.
    pub display_name: Option<String>,
    /// Which certificate field names a device.
    #[serde(with = "parameter")]
    pub tls_client_auth_parameter: SubjectField,
    /// The trust domain's authorities.
    pub certificate_authorities: Vec<CertificateAuthority>,
}

/// `microsoft.graph.certificateAuthority`, a complex value without an id of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateAuthority {
    /// DER.
    pub certificate: Binary,
    /// Where its revocation list is.
    pub certificate_revocation_list_url: Option<String>,
    /// Where the delta to that list is.
    pub delta_certificate_revocation_list_url: Option<String>,
    /// A root, not an intermediate.
    pub is_root_authority: bool,
    /// The certificate's issuer, as .NET writes names.
    pub issuer: String,
    /// The certificate's subject key identifier in upper-case hexadecimal.
    pub issuer_ski: String,
}

/// `microsoft.graph.certificateBasedApplicationConfiguration`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationConfiguration {
    /// A GUID.
    pub id: String,
    /// Null: what is deleted here is gone.
    pub deleted_date_time: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// For people.
    pub display_name: Option<String>,
    /// A navigation property: stored with its owner, sent when it is asked for.
    pub trusted_certificate_authorities: Vec<CertificateAuthorityAsEntity>,
}

/// `microsoft.graph.certificateAuthorityAsEntity`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateAuthorityAsEntity {
    /// A GUID.
    pub id: String,
    /// DER.
    pub certificate: Binary,
    /// A root, not an intermediate.
    pub is_root_authority: bool,
    /// The certificate's issuer, as .NET writes names.
    pub issuer: String,
    /// The certificate's subject key identifier in upper-case hexadecimal.
    pub issuer_subject_key_identifier: String,
}

/// `microsoft.graph.deviceTemplate`: what its devices have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceTemplate {
    /// A GUID.
    pub id: String,
    /// Null: what is deleted here is gone.
    pub deleted_date_time: Option<String>,
    /// Who provisions and manages the devices.
    pub device_authority: String,
    /// Who makes them.
    pub manufacturer: String,
    /// What they are.
    pub model: String,
    /// The trust domain that they are of.
    pub mutual_tls_oauth_configuration_id: Option<String>,
    /// The tenant that the trust domain is in.
    pub mutual_tls_oauth_configuration_tenant_id: Option<String>,
    /// What runs on them.
    pub operating_system: Option<String>,
    /// Who made it, as callers are known; never sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// Edm.Binary, which JSON has as base64.
#[derive(Clone, PartialEq, Eq)]
pub struct Binary(pub Vec<u8>);

impl std::fmt::Debug for Binary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Binary({} bytes, {})", self.0.len(), Fingerprint::of(&self.0))
    }
}

impl Serialize for Binary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Binary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

mod parameter {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        field: &SubjectField,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(field.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SubjectField, D::Error> {
        let name = String::deserialize(deserializer)?;
        SubjectField::parse(&name).ok_or_else(|| serde::de::Error::custom("unknown parameter"))
    }
}

/// An object of the directory.
pub trait Entity: Serialize + serde::de::DeserializeOwned {
    /// Its type's name, without the namespace.
    const TYPE: &'static str;
    /// The properties that `$select` may name.
    const PROPERTIES: &'static [&'static str];
    /// Those of them that `$filter` may name.
    const FILTERABLE: &'static [&'static str] = &["id", "displayName"];
    /// Those of these that are true or false; the others are texts.
    const BOOLEAN: &'static [&'static str] = &[];
    /// The properties that `$expand` may name; otherwise they are left out.
    const NAVIGATION: &'static [&'static str] = &[];

    /// Its id.
    fn id(&self) -> &str;

    /// As JSON, with everything it has.
    fn json(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(object)) => object,
            // Only maps with keys that are no strings fail; these types have none.
            _ => Map::new(),
        }
    }

    /// One of its filterable properties.
    fn property(&self, name: &str) -> Value {
        self.json().remove(name).unwrap_or_default()
    }

    /// The id of the only object whose property can have that value, where the value tells.
    fn id_by(property: &str, value: &Value) -> Option<String> {
        (property == "id").then(|| value.as_str().map(str::to_ascii_lowercase)).flatten()
    }
}

impl Entity for MutualTlsOauthConfiguration {
    const TYPE: &'static str = "mutualTlsOauthConfiguration";
    const PROPERTIES: &'static [&'static str] = &[
        "id",
        "deletedDateTime",
        "displayName",
        "tlsClientAuthParameter",
        "certificateAuthorities",
    ];

    fn id(&self) -> &str {
        &self.id
    }
}

impl Entity for ApplicationConfiguration {
    const TYPE: &'static str = "certificateBasedApplicationConfiguration";
    const PROPERTIES: &'static [&'static str] =
        &["id", "deletedDateTime", "description", "displayName"];
    const NAVIGATION: &'static [&'static str] = &["trustedCertificateAuthorities"];

    fn id(&self) -> &str {
        &self.id
    }
}

impl Entity for CertificateAuthorityAsEntity {
    const TYPE: &'static str = "certificateAuthorityAsEntity";
    const PROPERTIES: &'static [&'static str] =
        &["id", "certificate", "isRootAuthority", "issuer", "issuerSubjectKeyIdentifier"];

    fn id(&self) -> &str {
        &self.id
    }
}

impl Entity for DeviceTemplate {
    const TYPE: &'static str = "deviceTemplate";
    const PROPERTIES: &'static [&'static str] = &[
        "id",
        "deletedDateTime",
        "deviceAuthority",
        "manufacturer",
        "model",
        "mutualTlsOauthConfigurationId",
        "mutualTlsOauthConfigurationTenantId",
        "operatingSystem",
    ];
    const FILTERABLE: &'static [&'static str] = &["id", "operatingSystem"];

    fn id(&self) -> &str {
        &self.id
    }

    fn json(&self) -> Map<String, Value> {
        match serde_json::to_value(Self { owner: None, ..self.clone() }) {
            Ok(Value::Object(object)) => object,
            _ => Map::new(),
        }
    }
}

#[cfg(test)]
#[allow(missing_docs)]
pub mod tests {
    use super::*;

    /// Some template.
    pub fn template() -> DeviceTemplate {
        DeviceTemplate {
            id: "5b1d0c6a-3f0a-4c0b-9e60-0d6d2f1d3a55".into(),
            deleted_date_time: None,
            device_authority: "ADT".into(),
            manufacturer: "Acme".into(),
            model: "Camera".into(),
            mutual_tls_oauth_configuration_id: Some("eec5ba11-2fc0-4113-83a2-ed986ed13cdb".into()),
            mutual_tls_oauth_configuration_tenant_id: None,
            operating_system: Some("Linux".into()),
            owner: Some("token admin".into()),
        }
    }

    #[test]
    fn who_made_a_template_is_stored_and_not_sent() {
        let template = template();
        let stored = serde_json::to_vec(&template).expect("JSON");
        assert_eq!(serde_json::from_slice::<DeviceTemplate>(&stored).expect("it"), template);
        let sent = template.json();
        assert!(!sent.contains_key("owner"));
        assert!(sent.keys().all(|name| DeviceTemplate::PROPERTIES.contains(&name.as_str())));
        assert_eq!(sent.len(), DeviceTemplate::PROPERTIES.len());
    }
}
