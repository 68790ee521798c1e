//! Graph's JSON, read with tolerance and turned into what the judge understands.
//!
//! The published pages, the metadata and the SDKs disagree in spelling (three names of the key
//! identifier, enum members without underscores, a key with a blank in it), so spelling is read
//! generously.  Meaning is not: what is unknown is left out with a reason, one configuration at a time,
//! and what is *missing* is told apart from what is *empty*, because a shortened answer must never be
//! taken for a removal.

pub mod devices;

use std::sync::Arc;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value, json};

use crate::graph::Collection;
use crate::trust::configurations::{
    AnchorSet, Authority, Configuration, ConfigurationId, Devices, Kind, Skipped,
};
use crate::trust::subject::SubjectField;
use crate::x509::certificate::Certificate;

/// Levels of nesting in JSON that is read.
pub const MAX_JSON_DEPTH: usize = 32;
/// Bytes of DER in one authority's certificate.  Graph's stores take 8 KiB; the rest is margin.
pub const MAX_CERTIFICATE_BYTES: usize = 64 * 1024;
/// Characters in an object's `id`.
pub const MAX_ID_LENGTH: usize = 128;
/// Characters in a revocation list's address.
pub const MAX_URL_LENGTH: usize = 2048;
/// Characters in a display name; what is longer is cut, since nothing is decided by it.
pub const MAX_DISPLAY_NAME: usize = 256;

/// Why an answer as a whole cannot be used.  Nothing of it is applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not JSON.
    #[error("not JSON: {0}")]
    Json(String),
    /// Nested deeper than is read.
    #[error("JSON nested deeper than {MAX_JSON_DEPTH} levels")]
    Depth,
    /// JSON, but not a Graph answer.
    #[error("not a Graph answer: {0}")]
    Shape(String),
}

/// One page of a list of configurations.
#[derive(Debug)]
pub struct Page {
    /// The objects, in the answer's order.
    pub entries: Vec<Entry>,
    /// `@odata.nextLink`, as sent.
    pub next: Option<String>,
}

/// One object of a list, or the object of a GET by id.
#[derive(Debug, Clone)]
pub enum Entry {
    /// All of it is there.  Authorities that cannot be used are named in `skipped`.
    Whole {
        /// The configuration with the authorities that can be read.
        configuration: Configuration,
        /// The authorities that cannot, and why.
        skipped: Vec<Skipped>,
    },
    /// The answer leaves out or garbles what the object surely has.  A GET by id may bring it; until
    /// then what is in force stays.
    Shortened {
        /// The object's id.
        id: ConfigurationId,
        /// What is missing.
        why: String,
        /// What can be read all the same; of use only where nothing better can be had.
        readable: Option<Configuration>,
    },
    /// Not to be trusted: deleted, or of a kind this program does not know.
    Out(Skipped),
}

impl Entry {
    /// The object's id.
    pub fn id(&self) -> &ConfigurationId {
        match self {
            Self::Whole { configuration, .. } => &configuration.id,
            Self::Shortened { id, .. } => id,
            Self::Out(skipped) => &skipped.configuration,
        }
    }
}

impl Page {
    /// Reads a list answer of devices' configurations, `{"value": […], "@odata.nextLink": …}`.
    ///
    /// # Errors
    /// When the answer as a whole is unusable, which an object without an `id` makes it: it cannot be
    /// told which configuration it stands for.
    pub fn read(json: &[u8]) -> Result<Self, WireError> {
        Self::read_of(Collection::Devices, json)
    }

    /// The same of either collection.
    ///
    /// # Errors
    /// As for [`Page::read`].
    pub fn read_of(collection: Collection, json: &[u8]) -> Result<Self, WireError> {
        let answer = parse(json)?;
        let (list, next) = list(&answer)?;
        let entries =
            list.iter().map(|value| entry(collection, value)).collect::<Result<_, _>>()?;
        Ok(Self { entries, next })
    }
}

/// The values of a list answer, and where the list goes on.
fn list(answer: &Value) -> Result<(&[Value], Option<String>), WireError> {
    let answer = object(answer, "the answer")?;
    let Some(Value::Array(list)) = member(answer, "value") else {
        return Err(WireError::Shape("`value` is no list".into()));
    };
    let next = match member(answer, "@odata.nextLink") {
        None | Some(Value::Null) => None,
        Some(Value::String(link)) => Some(link.clone()),
        Some(other) => return Err(WireError::Shape(format!("@odata.nextLink is {other}"))),
    };
    Ok((list, next))
}

/// Reads one page of an application configuration's authorities: they are objects of their own, to be
/// put together with [`application`].
///
/// # Errors
/// When it is no list answer.
pub fn read_authorities(json: &[u8]) -> Result<(Vec<Value>, Option<String>), WireError> {
    let answer = parse(json)?;
    list(&answer).map(|(list, next)| (list.to_vec(), next))
}

/// An application configuration with all its authorities, which were asked for on their own.
pub fn application(id: &ConfigurationId, display_name: &str, authorities: &[Value]) -> Entry {
    let skeleton = Configuration {
        id: id.clone(),
        display_name: display_name.to_owned(),
        kind: Kind::Applications,
        devices: Devices::default(),
        authorities: Vec::with_capacity(authorities.len()),
    };
    with_authorities(skeleton, authorities, APPLICATION_AUTHORITIES)
}

/// Reads the answer to a GET by id of a configuration of devices.
pub fn read_entry(json: &[u8]) -> Result<Entry, WireError> {
    entry(Collection::Devices, &parse(json)?)
}

/// Reads one list answer as the whole truth, for the offline judge: with nobody to ask for the rest, a
/// shortened object counts for what can be read of it.
pub fn read_anchor_set(json: &[u8]) -> Result<AnchorSet, WireError> {
    read_set(Collection::Devices, json)
}

/// The same of either collection.
pub fn read_set(collection: Collection, json: &[u8]) -> Result<AnchorSet, WireError> {
    let mut set = AnchorSet::default();
    let page = Page::read_of(collection, json)?;
    if page.next.is_some() {
        return Err(WireError::Shape("the list goes on at its @odata.nextLink".into()));
    }
    for entry in page.entries {
        if set.configurations.iter().any(|c| c.id == *entry.id()) {
            return Err(WireError::Shape(format!("`{}` is listed twice", entry.id())));
        }
        match entry {
            Entry::Whole { configuration, skipped } => {
                set.configurations.push(configuration);
                set.skipped.extend(skipped);
            }
            Entry::Shortened { id, why, readable } => {
                set.configurations.extend(readable);
                set.skipped.push(Skipped { configuration: id, why });
            }
            Entry::Out(skipped) => set.skipped.push(skipped),
        }
    }
    Ok(set)
}

/// The list as Graph would answer it: what [`read_set`] reads.
pub fn write_anchor_set(set: &AnchorSet) -> Value {
    let authority = |a: &Authority| {
        json!({
            "certificate": STANDARD.encode(a.certificate.der()),
            "certificateRevocationListUrl": a.crl_url.as_deref(),
            "deltaCertificateRevocationListUrl": a.delta_crl_url.as_deref(),
            "isRootAuthority": a.is_root,
        })
    };
    let configuration = |c: &Configuration| {
        let mut object = json!({
            "id": c.id.as_str(),
            "deletedDateTime": null,
            "displayName": c.display_name,
        });
        let list = match c.kind {
            Kind::Devices(field) => {
                object["tlsClientAuthParameter"] = field.as_str().into();
                DEVICE_AUTHORITIES
            }
            Kind::Applications => APPLICATION_AUTHORITIES,
        };
        object[list] = c.authorities.iter().map(authority).collect();
        object
    };
    json!({ "value": set.configurations.iter().map(configuration).collect::<Vec<_>>() })
}

/// Parses JSON within [`MAX_JSON_DEPTH`].
pub fn parse(json: &[u8]) -> Result<Value, WireError> {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                depth += 1;
                if depth > MAX_JSON_DEPTH {
                    return Err(WireError::Depth);
                }
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    serde_json::from_slice(json).map_err(|error| WireError::Json(error.to_string()))
}

/// The member `name`; failing that, one whose key differs only by blanks around it, as in a published
/// example that people copy.
pub fn member<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object
        .get(name)
        .or_else(|| object.iter().find(|(key, _)| key.trim() == name).map(|(_, value)| value))
}

/// `value` as an object; `what` names it in the error.
pub fn object<'a>(value: &'a Value, what: &str) -> Result<&'a Map<String, Value>, WireError> {
    value.as_object().ok_or_else(|| WireError::Shape(format!("{what} is no object")))
}

/// A `tlsClientAuthParameter`: its name in any of the published spellings, or its number (CSDL).
pub fn subject_field(value: &Value) -> Option<SubjectField> {
    match value {
        Value::String(name) => SubjectField::parse(name),
        Value::Number(number) => SubjectField::from_csdl_number(number.as_u64()?),
        _ => None,
    }
}

/// Edm.Binary: base64 of the standard or the URL-safe alphabet, padded or not, in one line or in many.
pub fn binary(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text: String = text.split_ascii_whitespace().collect();
    let alphabet =
        if text.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    GeneralPurpose::new(alphabet, LENIENT).decode(text).ok()
}

/// Where a configuration of devices has its authorities.
const DEVICE_AUTHORITIES: &str = "certificateAuthorities";
/// Where one of applications has them: a navigation property, there when it is expanded.
const APPLICATION_AUTHORITIES: &str = "trustedCertificateAuthorities";

fn entry(collection: Collection, value: &Value) -> Result<Entry, WireError> {
    let object = object(value, "an entry of the list")?;
    let id = match member(object, "id").and_then(Value::as_str) {
        Some(id) if is_id(id) => ConfigurationId::from(id),
        Some(_) => {
            return Err(WireError::Shape(format!(
                "an entry's id is not 1 to {MAX_ID_LENGTH} printable characters"
            )));
        }
        None => return Err(WireError::Shape("an entry has no id".into())),
    };
    let out = |why: String| Ok(Entry::Out(Skipped { configuration: id.clone(), why }));
    match member(object, "deletedDateTime") {
        None | Some(Value::Null) => {}
        Some(when) => return out(format!("deleted: deletedDateTime is {when}")),
    }
    let (kind, name) = match collection {
        Collection::Applications => (Kind::Applications, APPLICATION_AUTHORITIES),
        Collection::Devices => match member(object, "tlsClientAuthParameter") {
            None | Some(Value::Null) => {
                return Ok(shortened(&id, "no tlsClientAuthParameter", None));
            }
            Some(value) => match subject_field(value) {
                Some(field) => (Kind::Devices(field), DEVICE_AUTHORITIES),
                None => {
                    return out(format!("tlsClientAuthParameter {value} is not one known here"));
                }
            },
        },
    };
    let display_name = member(object, "displayName").and_then(Value::as_str).unwrap_or_default();
    let skeleton = Configuration {
        id: id.clone(),
        display_name: display_name.chars().take(MAX_DISPLAY_NAME).collect(),
        kind,
        devices: Devices::default(),
        authorities: Vec::new(),
    };
    // A published example has the singular.
    let alias = (kind != Kind::Applications).then_some("certificateAuthority");
    let list = member(object, name).or_else(|| member(object, alias?));
    let Some(Value::Array(list)) = list else {
        // What is known of an application configuration is of use when the rest is asked for.
        let known = (kind == Kind::Applications).then_some(skeleton);
        return Ok(shortened(&id, &format!("no list of {name}"), known));
    };
    match (
        member(object, &format!("{name}@odata.nextLink")),
        with_authorities(skeleton, list, name),
    ) {
        (Some(_), Entry::Whole { configuration, .. }) => {
            Ok(shortened(&id, &format!("{name} goes on elsewhere"), Some(configuration)))
        }
        (_, entry) => Ok(entry),
    }
}

fn shortened(id: &ConfigurationId, why: &str, readable: Option<Configuration>) -> Entry {
    let why = format!("the answer is shortened: {why}");
    Entry::Shortened { id: id.clone(), why, readable }
}

/// The configuration with the authorities of `list`, which is its member `name`.
fn with_authorities(mut configuration: Configuration, list: &[Value], name: &str) -> Entry {
    let id = configuration.id.clone();
    let (mut skipped, mut missing) = (Vec::new(), None);
    for (index, value) in list.iter().enumerate() {
        let why = match authority(value) {
            Ok(authority) => {
                configuration.authorities.push(authority);
                continue;
            }
            Err(Unreadable::Missing(why)) => {
                missing.get_or_insert_with(|| format!("{name}[{index}]: {why}"));
                continue;
            }
            Err(Unreadable::Refused(why)) => why,
        };
        skipped.push(Skipped { configuration: id.clone(), why: format!("{name}[{index}]: {why}") });
    }
    match missing {
        Some(why) => shortened(&id, &why, Some(configuration)),
        None => Entry::Whole { configuration, skipped },
    }
}

/// True for what is taken as an object's `id`.
pub fn is_id(id: &str) -> bool {
    !id.is_empty()
        && id.chars().count() <= MAX_ID_LENGTH
        && !id.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// Why one element of a list of authorities gives none.
enum Unreadable {
    /// Something that a whole answer has is missing or garbled.
    Missing(&'static str),
    /// It is there, and not usable.
    Refused(String),
}

fn authority(value: &Value) -> Result<Authority, Unreadable> {
    use Unreadable::{Missing, Refused};
    let object = value.as_object().ok_or(Missing("no object"))?;
    let text = match member(object, "certificate") {
        Some(Value::String(text)) if !text.is_empty() => text,
        _ => return Err(Missing("no certificate")),
    };
    if text.len() / 4 * 3 > MAX_CERTIFICATE_BYTES {
        let bytes = text.len() / 4 * 3;
        return Err(Refused(format!(
            "certificate of about {bytes} bytes; at most {MAX_CERTIFICATE_BYTES} are read"
        )));
    }
    // The directory keeps bytes and writes the base64 itself, so that bad base64 is a damaged answer.
    let der = binary(text).ok_or(Missing("certificate is not base64"))?;
    let is_root = match member(object, "isRootAuthority") {
        Some(Value::Bool(is_root)) => *is_root,
        None | Some(Value::Null) => return Err(Missing("no isRootAuthority")),
        Some(other) => return Err(Refused(format!("isRootAuthority is {other}"))),
    };
    let crl_url = address(object, "certificateRevocationListUrl").map_err(Refused)?;
    let delta_crl_url = address(object, "deltaCertificateRevocationListUrl").map_err(Refused)?;
    if crl_url.is_none() && delta_crl_url.is_some() {
        // Without its base a delta decides nothing, and to drop it would drop the check.
        return Err(Refused(
            "deltaCertificateRevocationListUrl without certificateRevocationListUrl".into(),
        ));
    }
    // `issuer` and `issuerSki` are not looked at: the certificate says both, and it is signed.
    let certificate = Certificate::from_der(&der).map_err(|error| Refused(error.to_string()))?;
    Ok(Authority { certificate: Arc::new(certificate), is_root, crl_url, delta_crl_url })
}

/// An optional address.  One of the wrong kind is refused: to ignore it would switch a check off.
fn address(object: &Map<String, Value>, name: &str) -> Result<Option<Arc<str>>, String> {
    match member(object, name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(url)) if url.trim().is_empty() => Ok(None),
        Some(Value::String(url)) if url.chars().count() <= MAX_URL_LENGTH => {
            Ok(Some(url.trim().into()))
        }
        Some(Value::String(url)) => Err(format!(
            "{name} of {} characters; at most {MAX_URL_LENGTH} are read",
            url.chars().count()
        )),
        Some(other) => Err(format!("{name} is {other}")),
    }
}

#[cfg(test)]
mod tests;
