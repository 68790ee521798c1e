//! Certificate of an authority and the URLs of its revocation lists.

use aws_lc_rs::digest;
use serde_json::{Map, Value};
use url::Url;

use crate::directory::errors::Fault;
use crate::directory::validate::members::{AUTHORITY_INFORMATION, property};
use crate::graph::wire::{self, MAX_URL_LENGTH, member};
use crate::runtime::text::{MAX_CHARACTERS, clean};
use crate::x509::certificate::{Certificate, without_null};
use crate::x509::time::Timestamp;

/// Maximum length in bytes of the DER of an authority's certificate (Graph stores at most 8 KiB).
pub(crate) const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;

/// Parses the two required members: the certificate, and whether it is a root.
pub(super) fn certificate_and_role(
    body: &Map<String, Value>,
    target: &str,
) -> Result<(Certificate, bool), Fault> {
    let bad = |why: &str| property("certificate", AUTHORITY_INFORMATION, target, why);
    let base64 = match member(body, "certificate") {
        None | Some(Value::Null) => return Err(bad("it is required")),
        Some(Value::String(text)) => text,
        Some(_) => return Err(bad("it is not a string")),
    };
    if base64.contains("-----BEGIN") {
        return Err(bad("it is PEM; send only the base64 of the DER"));
    }
    let der = wire::binary(base64).ok_or_else(|| bad("it is not base64"))?;
    if der.starts_with(b"-----BEGIN") {
        return Err(bad("it is the base64 of PEM; send the base64 of the DER"));
    }
    // Scripts produce this if they pass the bytes of the base64 text to a client library as DER.
    if der.starts_with(b"MII") {
        return Err(bad("it is the base64 of base64; send the base64 of the DER"));
    }
    if der.len() > MAX_CERTIFICATE_BYTES {
        let why = format!("{} bytes; at most {MAX_CERTIFICATE_BYTES} are allowed", der.len());
        return Err(bad(&why));
    }
    let certificate = Certificate::from_der(&der).map_err(|error| bad(&error.to_string()))?;
    match member(body, "isRootAuthority") {
        Some(Value::Bool(is_root)) => Ok((certificate, *is_root)),
        other => {
            let why = match other {
                None | Some(Value::Null) => "it is required",
                Some(_) => "it is neither true nor false",
            };
            Err(property("isRootAuthority", AUTHORITY_INFORMATION, target, why))
        }
    }
}

pub(super) fn check_usable(
    certificate: &Certificate,
    is_root: bool,
    target: &str,
    now: Timestamp,
) -> Result<(), Fault> {
    check_authority(certificate, is_root, now)
        .map_err(|why| property("certificate", AUTHORITY_INFORMATION, target, &why))?;
    if is_root && own_signature(certificate) == OwnSignature::Unverifiable {
        tracing::warn!(
            subject = %clean(&certificate.subject.to_string(), MAX_CHARACTERS),
            sha256 = %certificate.fingerprint,
            "root accepted without verifying its own signature: the algorithm is not accepted"
        );
    }
    Ok(())
}

/// Checks that a judge can use the certificate in the stated role.
///
/// # Errors
/// The violated rule.
pub(crate) fn check_authority(
    certificate: &Certificate,
    is_root: bool,
    now: Timestamp,
) -> Result<(), String> {
    let bad = |why: &str| Err(why.to_owned());
    if !certificate.basic_constraints.is_some_and(|b| b.ca) {
        return bad("it is not a certification authority: basicConstraints does not set cA");
    }
    if certificate.key_usage.is_some_and(|usage| !usage.key_cert_sign()) {
        return bad("its keyUsage does not allow keyCertSign");
    }
    if now > certificate.not_after {
        return bad(&format!("it expired at {}", certificate.not_after));
    }
    if now < certificate.not_before {
        return bad(&format!("it is not valid before {}", certificate.not_before));
    }
    match (is_root, own_signature(certificate)) {
        (true, OwnSignature::Absent) => {
            bad("isRootAuthority is true, but the certificate is not signed with its own key")
        }
        (false, OwnSignature::Valid) => {
            bad("isRootAuthority is false, but the certificate is signed with its own key")
        }
        _ => Ok(()),
    }
}

/// Signature of a certificate with its own key (RFC 5280 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnSignature {
    /// It verifies.
    Valid,
    /// The certificate names its own key as the issuer's, but the algorithm (SHA-1, for example) is
    /// not accepted.  A root may have it: path validation takes the key of an anchor as given and
    /// never verifies this signature (RFC 5280 section 6.1.1).
    Unverifiable,
    /// Another key signed the certificate, or the signature is wrong.
    Absent,
}

/// Verifies the signature of a certificate with its own key.
pub(crate) fn own_signature(certificate: &Certificate) -> OwnSignature {
    if !certificate.is_self_issued() {
        return OwnSignature::Absent;
    }
    let identifier =
        without_null(&certificate.signature_algorithm).unwrap_or(&certificate.signature_algorithm);
    let mut accepted = webpki::ALL_VERIFICATION_ALGS
        .iter()
        .filter(|algorithm| algorithm.signature_alg_id().as_ref() == identifier)
        .peekable();
    if accepted.peek().is_none() {
        return if names_itself(certificate) {
            OwnSignature::Unverifiable
        } else {
            OwnSignature::Absent
        };
    }
    let verifies = accepted.any(|algorithm| {
        algorithm.public_key_alg_id().as_ref() == &certificate.key_algorithm[..]
            && algorithm
                .verify_signature(
                    &certificate.public_key,
                    certificate.tbs(),
                    &certificate.signature,
                )
                .is_ok()
    });
    if verifies { OwnSignature::Valid } else { OwnSignature::Absent }
}

/// True if a self-issued certificate names its own key as the issuer's.  A certificate that a CA
/// issued for its next key does not: it names the previous key (RFC 5280 section 4.2.1.1).
pub(crate) fn names_itself(certificate: &Certificate) -> bool {
    let issuer_key = certificate.authority_key_id.as_ref().and_then(|id| id.key_id.as_deref());
    issuer_key.is_none() || issuer_key == certificate.subject_key_id.as_deref()
}

/// Returns the subject key identifier.  Without one, it is computed by the first method of RFC 5280
/// section 4.2.1.2, because Graph's property is never null.
pub(super) fn key_identifier(certificate: &Certificate) -> String {
    let computed = || {
        let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &certificate.public_key);
        sha1.as_ref().into()
    };
    let id: Box<[u8]> = certificate.subject_key_id.clone().unwrap_or_else(computed);
    id.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Parses the URL of a revocation list.
pub(super) fn crl_url(
    body: &Map<String, Value>,
    name: &'static str,
    target: &str,
) -> Result<Option<String>, Fault> {
    let bad = |why: &str| Err(property(name, AUTHORITY_INFORMATION, target, why));
    let text = match member(body, name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text,
        Some(_) => return bad("it is not a string"),
    };
    if text.len() > MAX_URL_LENGTH {
        return bad(&format!("{} bytes; at most {MAX_URL_LENGTH} are allowed", text.len()));
    }
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            if !url.username().is_empty() || url.password().is_some() {
                return bad("a URL with a user name or password is not allowed");
            }
            // The parser tolerates these characters, as browsers do; other readers of the URL may not.
            if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
                return bad("it contains a blank, a control character or a backslash");
            }
            let host = text.get(url.scheme().len()..).and_then(|rest| rest.strip_prefix("://"));
            if host.is_none_or(|host| host.starts_with('/')) {
                return bad("its host does not follow `://`");
            }
            Ok(Some(text.clone()))
        }
        Ok(url) => bad(&format!("its scheme `{}` is not http or https", url.scheme())),
        Err(error) => bad(&format!("it is not a valid URL: {error}")),
    }
}
