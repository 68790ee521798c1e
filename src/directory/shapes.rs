//! Objects of the directory as they are stored and sent, with the names and nulls of Graph (beta CSDL).

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
    /// GUID in lower case.
    pub id: String,
    /// Always null: deleted objects are not kept.
    pub deleted_date_time: Option<String>,
    /// Informational.
    pub display_name: Option<String>,
    /// Certificate field that identifies a device.
    #[serde(with = "parameter")]
    pub tls_client_auth_parameter: SubjectField,
    /// Trusted roots and intermediates.
    pub certificate_authorities: Vec<CertificateAuthority>,
}

/// `microsoft.graph.certificateAuthority`, a complex type without an id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateAuthority {
    /// DER.
    pub certificate: Binary,
    /// URL of the revocation list.
    pub certificate_revocation_list_url: Option<String>,
    /// URL of the delta revocation list.
    pub delta_certificate_revocation_list_url: Option<String>,
    /// True for a root, false for an intermediate.
    pub is_root_authority: bool,
    /// Issuer of the certificate, in the text form of .NET.
    pub issuer: String,
    /// Subject key identifier of the certificate in upper-case hexadecimal.
    pub issuer_ski: String,
}

/// `microsoft.graph.certificateBasedApplicationConfiguration`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApplicationConfiguration {
    /// GUID in lower case.
    pub id: String,
    /// Always null: deleted objects are not kept.
    pub deleted_date_time: Option<String>,
    /// Informational.
    pub description: Option<String>,
    /// Informational.
    pub display_name: Option<String>,
    /// Navigation property: stored with the configuration, sent if `$expand` names it.
    pub trusted_certificate_authorities: Vec<CertificateAuthorityAsEntity>,
}

/// `microsoft.graph.certificateAuthorityAsEntity`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CertificateAuthorityAsEntity {
    /// GUID in lower case.
    pub id: String,
    /// DER.
    pub certificate: Binary,
    /// True for a root, false for an intermediate.
    pub is_root_authority: bool,
    /// Issuer of the certificate, in the text form of .NET.
    pub issuer: String,
    /// Subject key identifier of the certificate in upper-case hexadecimal.
    pub issuer_subject_key_identifier: String,
}

/// `microsoft.graph.deviceTemplate`: common properties of the devices that are created from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeviceTemplate {
    /// GUID in lower case.
    pub id: String,
    /// Always null: deleted objects are not kept.
    pub deleted_date_time: Option<String>,
    /// Service that provisions and manages the devices.
    pub device_authority: String,
    /// Manufacturer of the devices.
    pub manufacturer: String,
    /// Model of the devices.
    pub model: String,
    /// Configuration under which the certificates of the devices are verified.
    pub mutual_tls_oauth_configuration_id: Option<String>,
    /// Tenant of the configuration, if it is not in this directory.
    pub mutual_tls_oauth_configuration_tenant_id: Option<String>,
    /// Operating system of the devices.
    pub operating_system: Option<String>,
    /// Identity of the caller that created the template.  Stored and never sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// Edm.Binary, which is base64 in JSON.
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

/// Object type of the directory.
pub(crate) trait Entity: Serialize + serde::de::DeserializeOwned {
    /// Name of the type, without the namespace.
    const TYPE: &'static str;
    /// Properties that `$select` may name.
    const PROPERTIES: &'static [&'static str];
    /// Properties that `$filter` may name.
    const FILTERABLE: &'static [&'static str] = &["id", "displayName"];
    /// Filterable properties that are boolean; the others are strings.
    const BOOLEAN: &'static [&'static str] = &[];
    /// Properties that `$expand` may name.  They are omitted otherwise.
    const NAVIGATION: &'static [&'static str] = &[];

    fn id(&self) -> &str;

    /// Returns the complete JSON, including navigation properties.
    fn json(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(object)) => object,
            // Only maps with keys other than strings fail, and these types have none.
            _ => Map::new(),
        }
    }

    /// Returns a filterable property.
    fn property(&self, name: &str) -> Value {
        self.json().remove(name).unwrap_or_default()
    }

    /// Returns the id of the only object that can have this value of a property, if there is one.
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
pub(super) mod tests {
    use super::*;

    pub(in crate::directory) fn template() -> DeviceTemplate {
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
    fn the_owner_of_a_template_is_stored_and_not_sent() {
        let template = template();
        let stored = serde_json::to_vec(&template).expect("JSON");
        assert_eq!(serde_json::from_slice::<DeviceTemplate>(&stored).expect("it"), template);
        let sent = template.json();
        assert!(!sent.contains_key("owner"));
        assert!(sent.keys().all(|name| DeviceTemplate::PROPERTIES.contains(&name.as_str())));
        assert_eq!(sent.len(), DeviceTemplate::PROPERTIES.len());
    }
}
