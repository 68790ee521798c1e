//! What a client may write, checked whole before anything is stored.
//!
//! A certificate must be one that a judge could ever use as what it is stated to be; every fault names
//! the property as Graph does, and adds where it stands and which rule it breaks.

pub mod devices;

mod certificates;
mod members;

use serde_json::{Map, Value};

use crate::directory::errors::Fault;
use crate::directory::names;
use crate::directory::shapes::{
    ApplicationConfiguration, Binary, CertificateAuthority, CertificateAuthorityAsEntity, Entity,
    MutualTlsOauthConfiguration,
};
use crate::directory::validate::certificates::{address, key_identifier, stated, usable};
use crate::directory::validate::members::{
    Unambiguous, known_members, not_deleted, only, property, same_id, text,
};
use crate::graph::wire::{self, member, subject_field};
use crate::runtime::random::guid;
use crate::x509::time::Timestamp;

pub use certificates::{check_authority, is_self_signed};

/// Bytes of DER in one authority's certificate (Graph's stores take 8 KiB an object).
pub const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;
/// Authorities of one mutualTlsOauthConfiguration (the store of Entra takes 250).
pub const MAX_AUTHORITIES: usize = 250;
/// Authorities of one certificateBasedApplicationConfiguration.
pub const MAX_APPLICATION_AUTHORITIES: usize = 10;
/// Characters in `displayName`.
pub const MAX_DISPLAY_NAME: usize = 256;
/// Characters in `description`.
pub const MAX_DESCRIPTION: usize = 1024;

/// The class that Graph names in faults of certificates.
const AUTHORITY_INFORMATION: &str = "CertificateAuthorityInformation";
const CONFIGURATION: &str = "MutualTlsOauthConfiguration";
const APPLICATION: &str = "CertificateBasedApplicationConfiguration";

/// Reads a request body: one JSON object, which a byte order mark may precede (RFC 8259 section 8.1).
pub fn object(body: &[u8]) -> Result<Map<String, Value>, Fault> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    let object = match wire::parse(body) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Err(Fault::Payload("the body is no JSON object".into())),
        Err(error) => return Err(Fault::Payload(error.to_string())),
    };
    serde_json::from_slice::<Unambiguous>(body)
        .map_err(|error| Fault::Payload(error.to_string()))?;
    Ok(object)
}

/// A new configuration from the body of a POST.
pub fn create_configuration(
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

/// `stored` with the changes that the body of a PATCH asks for.
pub fn update_configuration(
    stored: &MutualTlsOauthConfiguration,
    body: &Map<String, Value>,
    now: Timestamp,
) -> Result<MutualTlsOauthConfiguration, Fault> {
    known_members::<MutualTlsOauthConfiguration>(body, singular(body))?;
    not_deleted(body, CONFIGURATION)?;
    same_id(body, &stored.id, CONFIGURATION)?;
    // Read-modify-write sends read-only members back: equal ones are no change.
    match member(body, "tlsClientAuthParameter") {
        None | Some(Value::Null) => {}
        Some(value) if subject_field(value) == Some(stored.tls_client_auth_parameter) => {}
        Some(_) => {
            let why = "it cannot be changed after creation; make a new configuration";
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

/// A new application configuration from the body of a POST.
pub fn create_application(
    body: &Map<String, Value>,
    now: Timestamp,
) -> Result<ApplicationConfiguration, Fault> {
    const LIST: &str = "trustedCertificateAuthorities";
    known_members::<ApplicationConfiguration>(body, &[])?;
    not_deleted(body, APPLICATION)?;
    let Some(Value::Array(list)) = member(body, LIST) else {
        return Err(property(
            LIST,
            APPLICATION,
            "",
            "a list with at least one authority is required",
        ));
    };
    if list.is_empty() || list.len() > MAX_APPLICATION_AUTHORITIES {
        let why =
            format!("{} authorities; 1 to {MAX_APPLICATION_AUTHORITIES} are taken", list.len());
        return Err(property(LIST, APPLICATION, "", &why));
    }
    let mut authorities = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        let authority = create_authority(value, &format!("{LIST}[{index}]"), None, now)?;
        no_twin(&authorities, &authority)?;
        authorities.push(authority);
    }
    match authorities.iter().filter(|a| a.is_root_authority).count() {
        1 => {}
        roots => {
            let why = format!("{roots} root authorities; exactly one is required");
            return Err(property(LIST, APPLICATION, "", &why));
        }
    }
    Ok(ApplicationConfiguration {
        id: guid(),
        deleted_date_time: None,
        description: text(body, "description", APPLICATION, MAX_DESCRIPTION)?.flatten(),
        display_name: text(body, "displayName", APPLICATION, MAX_DISPLAY_NAME)?.flatten(),
        trusted_certificate_authorities: authorities,
    })
}

/// `stored` with the changes that the body of a PATCH asks for.
pub fn update_application(
    stored: &ApplicationConfiguration,
    body: &Map<String, Value>,
) -> Result<ApplicationConfiguration, Fault> {
    known_members::<ApplicationConfiguration>(body, &[])?;
    not_deleted(body, APPLICATION)?;
    same_id(body, &stored.id, APPLICATION)?;
    // Read-modify-write of an expanded object sends them back: the same ones are no change.
    let sent = member(body, "trustedCertificateAuthorities").filter(|sent| !sent.is_null());
    if sent.is_some_and(|sent| !are_same(sent, &stored.trusted_certificate_authorities)) {
        let why = "authorities are added and removed at .../trustedCertificateAuthorities";
        return Err(property("trustedCertificateAuthorities", APPLICATION, "", why));
    }
    let mut updated = stored.clone();
    if let Some(name) = text(body, "displayName", APPLICATION, MAX_DISPLAY_NAME)? {
        updated.display_name = name;
    }
    if let Some(description) = text(body, "description", APPLICATION, MAX_DESCRIPTION)? {
        updated.description = description;
    }
    Ok(updated)
}

/// True when what was sent is, in any order, the stored authorities, each by its id and as it is.
fn are_same(sent: &Value, stored: &[CertificateAuthorityAsEntity]) -> bool {
    let is = |sent: &Value, stored: &CertificateAuthorityAsEntity| {
        sent.as_object().is_some_and(|sent| {
            let id = member(sent, "id").and_then(Value::as_str);
            id.is_some_and(|id| id.eq_ignore_ascii_case(&stored.id))
                && stated(sent, "").is_ok_and(|(certificate, is_root)| {
                    certificate.der() == stored.certificate.0 && is_root == stored.is_root_authority
                })
        })
    };
    sent.as_array().is_some_and(|sent| {
        sent.len() == stored.len() && stored.iter().all(|a| sent.iter().any(|sent| is(sent, a)))
    })
}

/// `stored` with one authority more, which comes last.
pub fn add_authority(
    stored: &ApplicationConfiguration,
    body: &Map<String, Value>,
    now: Timestamp,
) -> Result<ApplicationConfiguration, Fault> {
    let authority = create_authority(&Value::Object(body.clone()), "", None, now)?;
    let mut updated = stored.clone();
    let list = &mut updated.trusted_certificate_authorities;
    if list.len() >= MAX_APPLICATION_AUTHORITIES {
        return Err(Fault::Quota(format!(
            "The object quota limit has been exceeded: at most {MAX_APPLICATION_AUTHORITIES} \
             authorities in one configuration."
        )));
    }
    no_twin(list, &authority)?;
    one_root(list, &authority)?;
    list.push(authority);
    Ok(updated)
}

/// `stored` with the changes that the body of a PATCH asks for in the authority `id`.
pub fn update_authority(
    stored: &ApplicationConfiguration,
    id: &str,
    body: &Map<String, Value>,
    now: Timestamp,
) -> Result<ApplicationConfiguration, Fault> {
    let mut updated = stored.clone();
    let list = &mut updated.trusted_certificate_authorities;
    let Some(index) = list.iter().position(|a| a.id == id) else {
        return Err(Fault::NotFound(id.into()));
    };
    let old = list.remove(index);
    same_id(body, id, AUTHORITY_INFORMATION)?;
    let mut whole = old.json();
    whole.extend(body.iter().map(|(name, value)| (name.trim().to_owned(), value.clone())));
    let mut authority = create_authority(&Value::Object(whole), "", Some(&old), now)?;
    authority.id = old.id;
    no_twin(list, &authority)?;
    one_root(list, &authority)?;
    list.insert(index, authority);
    Ok(updated)
}

fn one_root(
    others: &[CertificateAuthorityAsEntity],
    new: &CertificateAuthorityAsEntity,
) -> Result<(), Fault> {
    if new.is_root_authority && others.iter().any(|a| a.is_root_authority) {
        let why = "the configuration has a root authority; only one can be the root";
        return Err(property("isRootAuthority", AUTHORITY_INFORMATION, "", why));
    }
    Ok(())
}

fn no_twin(
    others: &[CertificateAuthorityAsEntity],
    new: &CertificateAuthorityAsEntity,
) -> Result<(), Fault> {
    match others.iter().any(|a| a.certificate == new.certificate) {
        true => {
            Err(property("certificate", AUTHORITY_INFORMATION, "", "it is in the list already"))
        }
        false => Ok(()),
    }
}

/// An authority as stated.  What `old` is already stays even when it has expired since.
fn create_authority(
    value: &Value,
    target: &str,
    old: Option<&CertificateAuthorityAsEntity>,
    now: Timestamp,
) -> Result<CertificateAuthorityAsEntity, Fault> {
    let body = value.as_object().ok_or_else(|| {
        property("trustedCertificateAuthorities", APPLICATION, target, "it is no object")
    })?;
    // The key identifier has had three spellings; it is computed here and none of them is read.
    known_members::<CertificateAuthorityAsEntity>(body, KEY_IDENTIFIERS)?;
    let (certificate, is_root_authority) = stated(body, target)?;
    let kept = old.is_some_and(|old| {
        old.certificate.0 == certificate.der() && old.is_root_authority == is_root_authority
    });
    if !kept {
        usable(&certificate, is_root_authority, target, now)?;
    }
    Ok(CertificateAuthorityAsEntity {
        id: guid(),
        is_root_authority,
        issuer: names::text(&certificate.issuer),
        issuer_subject_key_identifier: key_identifier(&certificate),
        certificate: Binary(certificate.der().to_vec()),
    })
}

const KEY_IDENTIFIERS: &[&str] =
    &["issuerSki", "issuerSubjectKeyIdentifier", "issuerSubjectkeyIdentifier"];
const AUTHORITY_MEMBERS: &[&str] = &[
    "certificate",
    "certificateRevocationListUrl",
    "deltaCertificateRevocationListUrl",
    "isRootAuthority",
    "issuer",
];

/// The published tables call the list by a singular; where both names are used, only the right one is
/// known.
fn singular(body: &Map<String, Value>) -> &'static [&'static str] {
    match member(body, "certificateAuthorities") {
        None => &["certificateAuthority"],
        Some(_) => &[],
    }
}

/// The list of authorities, if the body has one.  Those of `stored` that are in it unchanged stay even
/// when they have expired since: a list could not be changed otherwise but by losing them.
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
        Some(_) => return Err(fault("", "it is no list")),
    };
    if list.len() > MAX_AUTHORITIES {
        let why = format!("{} authorities; at most {MAX_AUTHORITIES} are taken", list.len());
        return Err(fault("", &why));
    }
    let mut out: Vec<CertificateAuthority> = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        let target = format!("{LIST}[{index}]");
        let object = value.as_object().ok_or_else(|| fault(&target, "it is no object"))?;
        let authority = authority(object, &target, stored, now)?;
        if out.iter().any(|a| a.certificate == authority.certificate) {
            let why = "the same certificate is in the list twice";
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
    let (certificate, is_root_authority) = stated(body, target)?;
    let kept = stored.iter().any(|old| {
        old.certificate.0 == certificate.der() && old.is_root_authority == is_root_authority
    });
    if !kept {
        usable(&certificate, is_root_authority, target, now)?;
    }
    let crl = address(body, "certificateRevocationListUrl", target)?;
    let delta = address(body, "deltaCertificateRevocationListUrl", target)?;
    if crl.is_none() && delta.is_some() {
        return Err(property(
            "deltaCertificateRevocationListUrl",
            AUTHORITY_INFORMATION,
            target,
            "a delta needs its base: certificateRevocationListUrl is not set",
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
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp(1_795_000_000);

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            Just(json!("tls_client_auth_san_uri")),
            Just(json!("MAMCAQA=")),
            Just(json!("http://pki.example/x.crl")),
        ];
        let key = prop::sample::select(vec![
            "id",
            "@odata.type",
            "displayName",
            "description",
            "deletedDateTime",
            "tlsClientAuthParameter",
            "certificateAuthorities",
            "trustedCertificateAuthorities ",
            "certificate",
            "isRootAuthority",
            "certificateRevocationListUrl",
            "deltaCertificateRevocationListUrl",
        ]);
        leaf.prop_recursive(3, 30, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::vec((key.clone(), inner), 0..6).prop_map(|pairs| {
                    Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
                }),
            ]
        })
    }

    proptest! {
        /// Random JSON has no certification authority in it: what passes has no authorities.
        #[test]
        fn no_body_makes_it_panic_or_believe(value in any_json()) {
            let Ok(body) = object(value.to_string().as_bytes()) else { return Ok(()) };
            if let Ok(made) = create_configuration(&body, NOW) {
                prop_assert!(made.certificate_authorities.is_empty());
                let same = made.json();
                prop_assert_eq!(update_configuration(&made, &same, NOW), Ok(made));
            }
            prop_assert!(create_application(&body, NOW).is_err());
        }
    }

    #[test]
    fn a_published_misspelling_is_taken_and_a_wrong_value_is_not() {
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
