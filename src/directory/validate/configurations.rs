//! Bodies of requests for mutualTlsOauthConfigurations.

use serde_json::{Map, Value};

use crate::directory::errors::Fault;
use crate::directory::names;
use crate::directory::shapes::{Binary, CertificateAuthority, MutualTlsOauthConfiguration};
use crate::directory::validate::certificates::{
    certificate_and_role, check_usable, crl_url, key_identifier,
};
use crate::directory::validate::members::{
    AUTHORITY_INFORMATION, KEY_IDENTIFIERS, MAX_DISPLAY_NAME, known_members, not_deleted, only,
    property, same_id, text,
};
use crate::graph::wire::{member, subject_field};
use crate::runtime::random::guid;
use crate::x509::time::Timestamp;

/// Maximum number of authorities in a configuration, as in Entra.
const MAX_AUTHORITIES: usize = 250;

const CONFIGURATION: &str = "MutualTlsOauthConfiguration";

/// Creates a configuration from the body of a POST.
pub(in crate::directory) fn create_configuration(
    body: &Map<String, Value>,
    now: Timestamp,
) -> Result<MutualTlsOauthConfiguration, Fault> {
    known_members::<MutualTlsOauthConfiguration>(body, singular(body))?;
    not_deleted(body, CONFIGURATION)?;
    let fault = |why: &str| property("tlsClientAuthParameter", CONFIGURATION, "", why);
    let parameter = member(body, "tlsClientAuthParameter").unwrap_or(&Value::Null);
    if parameter.is_null() {
        return Err(fault("it is required"));
    }
    let tls_client_auth_parameter = subject_field(parameter)
        .ok_or_else(|| fault("it is not one of the tls_client_auth_… parameters of RFC 8705"))?;
    Ok(MutualTlsOauthConfiguration {
        id: guid(),
        deleted_date_time: None,
        display_name: text(body, "displayName", CONFIGURATION, MAX_DISPLAY_NAME)?.flatten(),
        tls_client_auth_parameter,
        certificate_authorities: authorities(body, &[], now)?.unwrap_or_default(),
    })
}

/// Applies the body of a PATCH to `stored`.
pub(in crate::directory) fn update_configuration(
    stored: &MutualTlsOauthConfiguration,
    body: &Map<String, Value>,
    now: Timestamp,
) -> Result<MutualTlsOauthConfiguration, Fault> {
    known_members::<MutualTlsOauthConfiguration>(body, singular(body))?;
    not_deleted(body, CONFIGURATION)?;
    same_id(body, &stored.id, CONFIGURATION)?;
    // Clients send read-only members back: an equal value is not a change.
    match member(body, "tlsClientAuthParameter") {
        None | Some(Value::Null) => {}
        Some(value) if subject_field(value) == Some(stored.tls_client_auth_parameter) => {}
        Some(_) => {
            let why = "it cannot be changed; create a new configuration";
            return Err(property("tlsClientAuthParameter", CONFIGURATION, "", why));
        }
    }
    let mut updated = stored.clone();
    if let Some(name) = text(body, "displayName", CONFIGURATION, MAX_DISPLAY_NAME)? {
        updated.display_name = name;
    }
    if let Some(list) = authorities(body, &stored.certificate_authorities, now)? {
        updated.certificate_authorities = list;
    }
    Ok(updated)
}

const AUTHORITY_MEMBERS: &[&str] = &[
    "certificate",
    "certificateRevocationListUrl",
    "deltaCertificateRevocationListUrl",
    "isRootAuthority",
    "issuer",
];

/// Returns the singular name of the list, which tables of Graph's documentation use.  It is accepted if
/// the body does not have the correct name.
fn singular(body: &Map<String, Value>) -> &'static [&'static str] {
    match member(body, "certificateAuthorities") {
        None => &["certificateAuthority"],
        Some(_) => &[],
    }
}

/// Parses the list of authorities, if the body has one.  Unchanged authorities of `stored` are accepted
/// even if they have expired; otherwise a list with an expired authority could not be changed.
fn authorities(
    body: &Map<String, Value>,
    stored: &[CertificateAuthority],
    now: Timestamp,
) -> Result<Option<Vec<CertificateAuthority>>, Fault> {
    const LIST: &str = "certificateAuthorities";
    let fault = |target: &str, why: &str| property(LIST, CONFIGURATION, target, why);
    let list = match member(body, LIST).or_else(|| member(body, "certificateAuthority")) {
        None => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(fault("", "it is not a list")),
    };
    if list.len() > MAX_AUTHORITIES {
        let why = format!("{} authorities; at most {MAX_AUTHORITIES} are allowed", list.len());
        return Err(fault("", &why));
    }
    let mut out: Vec<CertificateAuthority> = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        let target = format!("{LIST}[{index}]");
        let object = value.as_object().ok_or_else(|| fault(&target, "it is not an object"))?;
        let authority = authority(object, &target, stored, now)?;
        if out.iter().any(|a| a.certificate == authority.certificate) {
            let why = "the list has the same certificate twice";
            return Err(property("certificate", AUTHORITY_INFORMATION, &target, why));
        }
        out.push(authority);
    }
    Ok(Some(out))
}

fn authority(
    body: &Map<String, Value>,
    target: &str,
    stored: &[CertificateAuthority],
    now: Timestamp,
) -> Result<CertificateAuthority, Fault> {
    let known: Vec<&str> = AUTHORITY_MEMBERS.iter().chain(KEY_IDENTIFIERS).copied().collect();
    only(body, &known, "certificateAuthority")?;
    let (certificate, is_root_authority) = certificate_and_role(body, target)?;
    let is_unchanged = stored.iter().any(|old| {
        old.certificate.0 == certificate.der() && old.is_root_authority == is_root_authority
    });
    if !is_unchanged {
        check_usable(&certificate, is_root_authority, target, now)?;
    }
    let crl = crl_url(body, "certificateRevocationListUrl", target)?;
    let delta = crl_url(body, "deltaCertificateRevocationListUrl", target)?;
    if crl.is_none() && delta.is_some() {
        return Err(property(
            "deltaCertificateRevocationListUrl",
            AUTHORITY_INFORMATION,
            target,
            "a delta list requires a base list: certificateRevocationListUrl is not set",
        ));
    }
    Ok(CertificateAuthority {
        certificate_revocation_list_url: crl,
        delta_certificate_revocation_list_url: delta,
        is_root_authority,
        issuer: names::text(&certificate.issuer),
        issuer_ski: key_identifier(&certificate),
        certificate: Binary(certificate.der().to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp(1_795_000_000);

    #[test]
    fn the_documented_misspelling_is_accepted_and_unknown_values_are_not() {
        let body = |parameter: Value| {
            let body = json!({"tlsClientAuthParameter": parameter, "certificateAuthority": []});
            create_configuration(body.as_object().expect("an object"), NOW)
        };
        assert!(body(json!("tlsclientauthsubjectdn")).is_ok());
        assert!(matches!(
            body(json!("unknownFutureValue")),
            Err(Fault::Property { property: "tlsClientAuthParameter", .. })
        ));
    }
}
