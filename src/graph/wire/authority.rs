//! One element of a list of authorities.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::graph::wire::json::{binary, member};
use crate::trust::configurations::Authority;
use crate::x509::certificate::Certificate;

/// Limit on the bytes of an authority's certificate.  Graph's stores accept 8 KiB.
const MAX_CERTIFICATE_BYTES: usize = 64 * 1024;
/// Limit on the characters of a revocation list's URL.
pub(crate) const MAX_URL_LENGTH: usize = 2048;

/// An element could not be read.
pub enum Unreadable {
    /// A member that complete responses have is absent or garbled.
    Missing(&'static str),
    /// The members are present, but the authority cannot be used.
    Unusable(String),
}

/// Reads an authority.  `issuer` and `issuerSki` are ignored: the certificate contains both, signed.
pub(super) fn authority(value: &Value) -> Result<Authority, Unreadable> {
    use Unreadable::{Missing, Unusable};
    let object = value.as_object().ok_or(Missing("not an object"))?;
    let text = match member(object, "certificate") {
        Some(Value::String(text)) if !text.is_empty() => text,
        _ => return Err(Missing("no certificate")),
    };
    let bytes = text.len() / 4 * 3;
    if bytes > MAX_CERTIFICATE_BYTES {
        return Err(Unusable(format!(
            "certificate of about {bytes} bytes; at most {MAX_CERTIFICATE_BYTES} are allowed"
        )));
    }
    // The directory stores bytes and encodes them itself, so bad base64 means a damaged response.
    let der = binary(text).ok_or(Missing("certificate is not base64"))?;
    let is_root = match member(object, "isRootAuthority") {
        Some(Value::Bool(is_root)) => *is_root,
        None | Some(Value::Null) => return Err(Missing("no isRootAuthority")),
        Some(other) => return Err(Unusable(format!("isRootAuthority is {other}"))),
    };
    let crl_url = url(object, "certificateRevocationListUrl").map_err(Unusable)?;
    let delta_crl_url = url(object, "deltaCertificateRevocationListUrl").map_err(Unusable)?;
    if crl_url.is_none() && delta_crl_url.is_some() {
        // A delta decides nothing without its base, and ignoring it would disable the check.
        return Err(Unusable(
            "deltaCertificateRevocationListUrl without certificateRevocationListUrl".into(),
        ));
    }
    let certificate = Certificate::from_der(&der).map_err(|error| Unusable(error.to_string()))?;
    Ok(Authority { certificate: Arc::new(certificate), is_root, crl_url, delta_crl_url })
}

/// Reads an optional URL.  One of the wrong type is an error: ignoring it would disable a check.
fn url(object: &Map<String, Value>, name: &str) -> Result<Option<Arc<str>>, String> {
    match member(object, name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(url)) if url.trim().is_empty() => Ok(None),
        Some(Value::String(url)) if url.chars().count() <= MAX_URL_LENGTH => {
            Ok(Some(url.trim().into()))
        }
        Some(Value::String(url)) => Err(format!(
            "{name} of {} characters; at most {MAX_URL_LENGTH} are allowed",
            url.chars().count()
        )),
        Some(other) => Err(format!("{name} is {other}")),
    }
}
