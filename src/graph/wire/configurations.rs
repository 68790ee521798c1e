//! Configurations and their authorities as JSON.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::graph::Collection;
use crate::graph::wire::authority::{Unreadable, authority};
use crate::graph::wire::json::{WireError, id, link, list, member, object, parse};
use crate::trust::configurations::{
    AnchorSet, Authority, Configuration, ConfigurationId, Devices, Kind, Skipped,
};
use crate::trust::subject::SubjectField;

/// Characters of a display name that are kept.  No decision depends on it.
const MAX_DISPLAY_NAME: usize = 256;
/// Member of a device configuration that contains its authorities.
const DEVICE_AUTHORITIES: &str = "certificateAuthorities";
/// Member of an application configuration that contains its authorities.  It is a navigation property:
/// lists contain it if it is expanded.
const APPLICATION_AUTHORITIES: &str = "trustedCertificateAuthorities";

/// One page of a list of configurations.
#[derive(Debug)]
pub(crate) struct Page {
    /// The objects, in the response's order.
    pub(crate) entries: Vec<Entry>,
    /// `@odata.nextLink`, as sent.
    pub(crate) next: Option<String>,
}

/// One configuration in a response.
#[derive(Debug, Clone)]
pub enum Entry {
    /// The configuration is complete, except for authorities that cannot be used.
    Complete {
        /// The configuration with its usable authorities.
        configuration: Configuration,
        /// The authorities that cannot be used.
        skipped: Vec<Skipped>,
    },
    /// The response omits or garbles members that the object must have.  A GET by id may return them;
    /// until then the configuration in force stays.
    Shortened {
        /// Id of the configuration.
        id: ConfigurationId,
        /// Names the missing member.
        why: String,
        /// The readable part, for use if no complete version is known.
        readable: Option<Configuration>,
    },
    /// The configuration is not used: it is deleted, or of an unknown kind.
    Skipped(Skipped),
}

impl Entry {
    /// Id of the configuration.
    pub fn id(&self) -> &ConfigurationId {
        match self {
            Self::Complete { configuration, .. } => &configuration.id,
            Self::Shortened { id, .. } => id,
            Self::Skipped(skipped) => &skipped.configuration,
        }
    }
}

/// The objects of a list, each id once.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    pub(crate) list: Vec<Entry>,
    positions: HashMap<ConfigurationId, usize>,
}

impl Entries {
    /// Adds an object.  A list that changes between two pages can contain an object twice; only a GET
    /// by id can tell which version is newer, so the object counts as shortened.
    pub(crate) fn add(&mut self, entry: Entry) {
        let id = entry.id().clone();
        match self.positions.get(&id) {
            Some(&position) => {
                let why = "the list contains it twice".into();
                self.list[position] = Entry::Shortened { id, why, readable: None };
            }
            None => {
                self.positions.insert(id, self.list.len());
                self.list.push(entry);
            }
        }
    }
}

impl Page {
    /// Reads a list response, `{"value": […], "@odata.nextLink": …}`.
    ///
    /// # Errors
    /// The response is not usable as a whole.  An object without an `id` makes it so, because it may
    /// stand for any configuration.
    pub(crate) fn read(collection: Collection, json: &[u8]) -> Result<Self, WireError> {
        let response = parse(json)?;
        let response = object(&response, "the response")?;
        let (list, next) = (list(response)?, link(response, "@odata.nextLink")?);
        let entries =
            list.iter().map(|value| read_value(collection, value)).collect::<Result<_, _>>()?;
        Ok(Self { entries, next })
    }
}

/// Reads one page of an application configuration's authorities, with the link to the next page.  The
/// authorities of all pages are passed to [`application`].
///
/// # Errors
/// The response is not a list.
pub(crate) fn read_authorities(json: &[u8]) -> Result<(Vec<Value>, Option<String>), WireError> {
    let response = parse(json)?;
    let response = object(&response, "the response")?;
    Ok((list(response)?.to_vec(), link(response, "@odata.nextLink")?))
}

/// Builds an application configuration from its authorities, which were fetched separately.
pub(crate) fn application(
    id: &ConfigurationId,
    display_name: &str,
    authorities: &[Value],
) -> Entry {
    let skeleton = Configuration {
        id: id.clone(),
        domain: Arc::default(),
        display_name: display_name.to_owned(),
        kind: Kind::Applications,
        devices: Devices::default(),
        authorities: Vec::with_capacity(authorities.len()),
    };
    with_authorities(skeleton, authorities, APPLICATION_AUTHORITIES)
}

/// Reads the response to a GET of one device configuration.
///
/// # Errors
/// The response is not usable as a whole.
pub(crate) fn read_entry(json: &[u8]) -> Result<Entry, WireError> {
    read_value(Collection::MutualTlsOauth, &parse(json)?)
}

/// Reads one list response of device configurations as the complete list, for the offline judge.  For a
/// shortened object, its readable part is used.
///
/// # Errors
/// The response is not a complete list.
pub fn read_anchor_set(json: &[u8]) -> Result<AnchorSet, WireError> {
    read_set(Collection::MutualTlsOauth, json)
}

/// Like [`read_anchor_set`], for either collection.
///
/// # Errors
/// As for [`read_anchor_set`].
pub(crate) fn read_set(collection: Collection, json: &[u8]) -> Result<AnchorSet, WireError> {
    let mut set = AnchorSet::default();
    let page = Page::read(collection, json)?;
    if page.next.is_some() {
        return Err(WireError::Shape("the list continues at its @odata.nextLink".into()));
    }
    for entry in page.entries {
        if set.configurations.iter().any(|c| c.id == *entry.id()) {
            return Err(WireError::Shape(format!("`{}` is listed twice", entry.id())));
        }
        match entry {
            Entry::Complete { configuration, skipped } => {
                set.configurations.push(configuration);
                set.skipped.extend(skipped);
            }
            Entry::Shortened { id, why, readable } => {
                set.configurations.extend(readable);
                set.skipped.push(Skipped { configuration: id, why });
            }
            Entry::Skipped(skipped) => set.skipped.push(skipped),
        }
    }
    Ok(set)
}

/// Writes a list in the format of Graph, which [`read_set`] reads.
pub(crate) fn write_anchor_set(set: &AnchorSet) -> Value {
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

/// Reads a `tlsClientAuthParameter`: its name in any published spelling, or its number (CSDL).
pub(crate) fn subject_field(value: &Value) -> Option<SubjectField> {
    match value {
        Value::String(name) => SubjectField::parse(name),
        Value::Number(number) => SubjectField::from_csdl_number(number.as_u64()?),
        _ => None,
    }
}

/// Reads one object of a list.
fn read_value(collection: Collection, value: &Value) -> Result<Entry, WireError> {
    let object = object(value, "an entry of the list")?;
    let id = ConfigurationId::from(id(object, "an entry of the list")?);
    let skipped = |why: String| Ok(Entry::Skipped(Skipped { configuration: id.clone(), why }));
    match member(object, "deletedDateTime") {
        None | Some(Value::Null) => {}
        Some(when) => return skipped(format!("deleted: deletedDateTime is {when}")),
    }
    let kind = match collection {
        Collection::CertificateBasedApplication => Kind::Applications,
        Collection::MutualTlsOauth => match member(object, "tlsClientAuthParameter") {
            None | Some(Value::Null) => {
                return Ok(shortened(&id, "no tlsClientAuthParameter", None));
            }
            Some(value) => match subject_field(value) {
                Some(field) => Kind::Devices(field),
                None => return skipped(format!("tlsClientAuthParameter {value} is unknown")),
            },
        },
    };
    let display_name = member(object, "displayName").and_then(Value::as_str).unwrap_or_default();
    let skeleton = Configuration {
        id: id.clone(),
        domain: Arc::default(),
        display_name: display_name.chars().take(MAX_DISPLAY_NAME).collect(),
        kind,
        devices: Devices::default(),
        authorities: Vec::new(),
    };
    let (name, list) = authorities_of(object, collection);
    let Some(Value::Array(list)) = list else {
        // The display name of an application configuration is used when its authorities are fetched.
        let readable = (kind == Kind::Applications).then_some(skeleton);
        return Ok(shortened(&id, &format!("no list of {name}"), readable));
    };
    let continues = member(object, &format!("{name}@odata.nextLink")).is_some();
    match with_authorities(skeleton, list, name) {
        Entry::Complete { configuration, .. } if continues => {
            let why = format!("{name} continues at its @odata.nextLink");
            Ok(shortened(&id, &why, Some(configuration)))
        }
        entry => Ok(entry),
    }
}

/// Returns the name and the value of the member that contains the authorities.
fn authorities_of(
    object: &Map<String, Value>,
    collection: Collection,
) -> (&'static str, Option<&Value>) {
    match collection {
        // A published example has the singular.
        Collection::MutualTlsOauth => {
            let list = member(object, DEVICE_AUTHORITIES);
            (DEVICE_AUTHORITIES, list.or_else(|| member(object, "certificateAuthority")))
        }
        Collection::CertificateBasedApplication => {
            (APPLICATION_AUTHORITIES, member(object, APPLICATION_AUTHORITIES))
        }
    }
}

fn shortened(id: &ConfigurationId, why: &str, readable: Option<Configuration>) -> Entry {
    let why = format!("the response is shortened: {why}");
    Entry::Shortened { id: id.clone(), why, readable }
}

/// Adds the authorities of `list`, which is the member `name`, to a configuration.
fn with_authorities(mut configuration: Configuration, list: &[Value], name: &str) -> Entry {
    let id = configuration.id.clone();
    let (mut skipped, mut missing) = (Vec::new(), None);
    for (index, value) in list.iter().enumerate() {
        match authority(value) {
            Ok(authority) => configuration.authorities.push(authority),
            Err(Unreadable::Missing(why)) => {
                missing.get_or_insert_with(|| format!("{name}[{index}]: {why}"));
            }
            Err(Unreadable::Unusable(why)) => {
                let why = format!("{name}[{index}]: {why}");
                skipped.push(Skipped { configuration: id.clone(), why });
            }
        }
    }
    match missing {
        Some(why) => shortened(&id, &why, Some(configuration)),
        None => Entry::Complete { configuration, skipped },
    }
}
