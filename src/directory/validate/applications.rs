//! Bodies of requests for certificateBasedApplicationConfigurations.

use serde_json::{Map, Value};

use crate::directory::errors::Fault;
use crate::directory::names;
use crate::directory::shapes::{
    ApplicationConfiguration, Binary, CertificateAuthorityAsEntity, Entity,
};
use crate::directory::validate::certificates::{
    certificate_and_role, check_usable, key_identifier,
};
use crate::directory::validate::members::{
    AUTHORITY_INFORMATION, KEY_IDENTIFIERS, MAX_DISPLAY_NAME, known_members, not_deleted, property,
    same_id, text,
};
use crate::graph::wire::member;
use crate::runtime::random::guid;
use crate::x509::time::Timestamp;

/// Maximum number of authorities in a configuration.
const MAX_AUTHORITIES: usize = 10;
/// Maximum number of characters in `description`.
const MAX_DESCRIPTION: usize = 1024;

const APPLICATION: &str = "CertificateBasedApplicationConfiguration";

/// Creates a configuration from the body of a POST.
pub(in crate::directory) fn create_application(
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
    if list.is_empty() || list.len() > MAX_AUTHORITIES {
        let why = format!("{} authorities; 1 to {MAX_AUTHORITIES} are allowed", list.len());
        return Err(property(LIST, APPLICATION, "", &why));
    }
    let mut authorities = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        let authority = create_authority(value, &format!("{LIST}[{index}]"), None, now)?;
        check_not_listed(&authorities, &authority)?;
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

/// Applies the body of a PATCH to `stored`.
pub(in crate::directory) fn update_application(
    stored: &ApplicationConfiguration,
    body: &Map<String, Value>,
) -> Result<ApplicationConfiguration, Fault> {
    known_members::<ApplicationConfiguration>(body, &[])?;
    not_deleted(body, APPLICATION)?;
    same_id(body, &stored.id, APPLICATION)?;
    // Clients send the authorities of an expanded object back: equal ones are not a change.
    let sent = member(body, "trustedCertificateAuthorities").filter(|sent| !sent.is_null());
    if sent.is_some_and(|sent| !are_equal(sent, &stored.trusted_certificate_authorities)) {
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

/// Returns true if the sent authorities equal the stored ones, in any order.
fn are_equal(sent: &Value, stored: &[CertificateAuthorityAsEntity]) -> bool {
    let equals = |sent: &Value, stored: &CertificateAuthorityAsEntity| {
        sent.as_object().is_some_and(|sent| {
            let id = member(sent, "id").and_then(Value::as_str);
            id.is_some_and(|id| id.eq_ignore_ascii_case(&stored.id))
                && certificate_and_role(sent, "").is_ok_and(|(certificate, is_root)| {
                    certificate.der() == stored.certificate.0 && is_root == stored.is_root_authority
                })
        })
    };
    sent.as_array().is_some_and(|sent| {
        sent.len() == stored.len() && stored.iter().all(|a| sent.iter().any(|sent| equals(sent, a)))
    })
}

/// Adds an authority at the end of the list of `stored`.
pub(in crate::directory) fn add_authority(
    stored: &ApplicationConfiguration,
    body: &Map<String, Value>,
    now: Timestamp,
) -> Result<ApplicationConfiguration, Fault> {
    let authority = create_authority(&Value::Object(body.clone()), "", None, now)?;
    let mut updated = stored.clone();
    let list = &mut updated.trusted_certificate_authorities;
    if list.len() >= MAX_AUTHORITIES {
        return Err(Fault::Quota(format!(
            "The object quota limit has been exceeded: at most {MAX_AUTHORITIES} \
             authorities in one configuration."
        )));
    }
    check_not_listed(list, &authority)?;
    check_single_root(list, &authority)?;
    list.push(authority);
    Ok(updated)
}

/// Applies the body of a PATCH to the authority `id` of `stored`.
pub(in crate::directory) fn update_authority(
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
    check_not_listed(list, &authority)?;
    check_single_root(list, &authority)?;
    list.insert(index, authority);
    Ok(updated)
}

fn check_single_root(
    others: &[CertificateAuthorityAsEntity],
    new: &CertificateAuthorityAsEntity,
) -> Result<(), Fault> {
    if new.is_root_authority && others.iter().any(|a| a.is_root_authority) {
        let why = "the configuration already has a root authority; only one is allowed";
        return Err(property("isRootAuthority", AUTHORITY_INFORMATION, "", why));
    }
    Ok(())
}

fn check_not_listed(
    others: &[CertificateAuthorityAsEntity],
    new: &CertificateAuthorityAsEntity,
) -> Result<(), Fault> {
    match others.iter().any(|a| a.certificate == new.certificate) {
        true => {
            Err(property("certificate", AUTHORITY_INFORMATION, "", "it is already in the list"))
        }
        false => Ok(()),
    }
}

/// Parses an authority.  A certificate that `old` already has is accepted even if it has expired.
fn create_authority(
    value: &Value,
    target: &str,
    old: Option<&CertificateAuthorityAsEntity>,
    now: Timestamp,
) -> Result<CertificateAuthorityAsEntity, Fault> {
    let body = value.as_object().ok_or_else(|| {
        property("trustedCertificateAuthorities", APPLICATION, target, "it is not an object")
    })?;
    // Graph has used three names for the key identifier.  It is computed here, so all are ignored.
    known_members::<CertificateAuthorityAsEntity>(body, KEY_IDENTIFIERS)?;
    let (certificate, is_root_authority) = certificate_and_role(body, target)?;
    let is_unchanged = old.is_some_and(|old| {
        old.certificate.0 == certificate.der() && old.is_root_authority == is_root_authority
    });
    if !is_unchanged {
        check_usable(&certificate, is_root_authority, target, now)?;
    }
    Ok(CertificateAuthorityAsEntity {
        id: guid(),
        is_root_authority,
        issuer: names::text(&certificate.issuer),
        issuer_subject_key_identifier: key_identifier(&certificate),
        certificate: Binary(certificate.der().to_vec()),
    })
}
