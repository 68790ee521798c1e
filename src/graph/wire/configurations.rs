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
    Application, Authority, Configuration, ConfigurationId, Configurations, Device, Devices, Kind,
    Skipped,
};
use crate::trust::subject::SubjectField;

/// Characters of a display name that are kept.  No decision depends on it.
const MAX_DISPLAY_NAME: usize = 256;

/// JSON of the configurations of one kind.
pub trait JsonKind: Kind {
    /// Their collection.
    const COLLECTION: Collection;
    /// Member that contains the authorities.
    const AUTHORITIES: &'static str;
    /// Another spelling of that member.
    const OTHER_SPELLING: Option<&'static str>;
    /// The kind, if no member determines it and [`JsonKind::AUTHORITIES`] is a navigation property:
    /// lists contain it if it is expanded, and it can be fetched separately.
    const WITH_SEPARATE_AUTHORITIES: Option<Self>;

    /// Reads the members that the kind has.
    fn read(object: &Map<String, Value>) -> Result<Self, Unreadable>;

    /// Adds them to an object.
    fn write(&self, object: &mut Value);
}

impl JsonKind for Device {
    const COLLECTION: Collection = Collection::MutualTlsOauth;
    const AUTHORITIES: &'static str = "certificateAuthorities";
    // A published example has the singular.
    const OTHER_SPELLING: Option<&'static str> = Some("certificateAuthority");
    const WITH_SEPARATE_AUTHORITIES: Option<Self> = None;

    fn read(object: &Map<String, Value>) -> Result<Self, Unreadable> {
        let value = match member(object, "tlsClientAuthParameter") {
            None | Some(Value::Null) => {
                return Err(Unreadable::Missing("no tlsClientAuthParameter"));
            }
            Some(value) => value,
        };
        let Some(subject_field) = subject_field(value) else {
            let why = format!("tlsClientAuthParameter {value} is unknown");
            return Err(Unreadable::Unusable(why));
        };
        Ok(Self { subject_field, devices: Devices::default() })
    }

    fn write(&self, object: &mut Value) {
        object["tlsClientAuthParameter"] = self.subject_field.as_str().into();
    }
}

impl JsonKind for Application {
    const COLLECTION: Collection = Collection::CertificateBasedApplication;
    const AUTHORITIES: &'static str = "trustedCertificateAuthorities";
    const OTHER_SPELLING: Option<&'static str> = None;
    const WITH_SEPARATE_AUTHORITIES: Option<Self> = Some(Self);

    fn read(_: &Map<String, Value>) -> Result<Self, Unreadable> {
        Ok(Self)
    }

    fn write(&self, _: &mut Value) {}
}

/// One page of a list of configurations.
#[derive(Debug)]
pub(crate) struct Page<K> {
    /// The objects, in the response's order.
    pub(crate) entries: Vec<Entry<K>>,
    /// `@odata.nextLink`, as sent.
    pub(crate) next: Option<String>,
}

/// One configuration in a response.
#[derive(Debug, Clone)]
pub enum Entry<K> {
    /// The configuration is complete, except for authorities that cannot be used.
    Complete {
        /// The configuration with its usable authorities.
        configuration: Configuration<K>,
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
        readable: Option<Configuration<K>>,
    },
    /// The configuration is not used: it is deleted, or of an unknown kind.
    Skipped(Skipped),
}

impl<K> Entry<K> {
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
#[derive(Debug)]
pub(crate) struct Entries<K> {
    pub(crate) list: Vec<Entry<K>>,
    positions: HashMap<ConfigurationId, usize>,
}

impl<K> Default for Entries<K> {
    fn default() -> Self {
        Self { list: Vec::new(), positions: HashMap::new() }
    }
}

impl<K> Entries<K> {
    /// Adds an object.  A list that changes between two pages can contain an object twice; only a GET
    /// by id can tell which version is newer, so the object counts as shortened.
    pub(crate) fn add(&mut self, entry: Entry<K>) {
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

impl<K: JsonKind> Page<K> {
    /// Reads a list response, `{"value": […], "@odata.nextLink": …}`.
    ///
    /// # Errors
    /// The response is not usable as a whole.  An object without an `id` makes it so, because it may
    /// stand for any configuration.
    pub(crate) fn read(json: &[u8]) -> Result<Self, WireError> {
        let response = parse(json)?;
        let response = object(&response, "the response")?;
        let (list, next) = (list(response)?, link(response, "@odata.nextLink")?);
        let entries = list.iter().map(read_value).collect::<Result<_, _>>()?;
        Ok(Self { entries, next })
    }
}

/// Reads one page of the authorities of a configuration, with the link to the next page.  The
/// authorities of all pages are passed to [`with_authorities`].
///
/// # Errors
/// The response is not a list.
pub(crate) fn read_authorities(json: &[u8]) -> Result<(Vec<Value>, Option<String>), WireError> {
    let response = parse(json)?;
    let response = object(&response, "the response")?;
    Ok((list(response)?.to_vec(), link(response, "@odata.nextLink")?))
}

/// Reads the response to a GET of one configuration.
///
/// # Errors
/// The response is not usable as a whole.
pub(crate) fn read_entry<K: JsonKind>(json: &[u8]) -> Result<Entry<K>, WireError> {
    read_value(&parse(json)?)
}

/// Reads one list response as the complete list, for the offline judge and the saved list.  For a
/// shortened object, its readable part is used.
///
/// # Errors
/// The response is not a complete list.
pub fn read_configurations<K: JsonKind>(json: &[u8]) -> Result<Configurations<K>, WireError> {
    let mut set = Configurations::default();
    let page = Page::<K>::read(json)?;
    if page.next.is_some() {
        return Err(WireError::Shape("the list continues at its @odata.nextLink".into()));
    }
    for entry in page.entries {
        if set.configurations.iter().any(|c: &Arc<Configuration<K>>| c.id == *entry.id()) {
            return Err(WireError::Shape(format!("`{}` is listed twice", entry.id())));
        }
        match entry {
            Entry::Complete { configuration, skipped } => {
                set.configurations.push(Arc::new(configuration));
                set.skipped.extend(skipped);
            }
            Entry::Shortened { id, why, readable } => {
                set.configurations.extend(readable.map(Arc::new));
                set.skipped.push(Skipped { configuration: id, why });
            }
            Entry::Skipped(skipped) => set.skipped.push(skipped),
        }
    }
    Ok(set)
}

/// Writes a list in the format of Graph, which [`read_configurations`] reads.
pub(crate) fn write_configurations<K: JsonKind>(set: &Configurations<K>) -> Value {
    let authority = |a: &Authority| {
        json!({
            "certificate": STANDARD.encode(a.certificate.der()),
            "certificateRevocationListUrl": a.crl_url.as_deref(),
            "deltaCertificateRevocationListUrl": a.delta_crl_url.as_deref(),
            "isRootAuthority": a.is_root,
        })
    };
    let configuration = |c: &Arc<Configuration<K>>| {
        let mut object = json!({
            "id": c.id.as_str(),
            "deletedDateTime": null,
            "displayName": c.display_name,
        });
        c.kind.write(&mut object);
        object[K::AUTHORITIES] = c.authorities.iter().map(authority).collect();
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
fn read_value<K: JsonKind>(value: &Value) -> Result<Entry<K>, WireError> {
    let object = object(value, "an entry of the list")?;
    let id = ConfigurationId::from(id(object, "an entry of the list")?);
    let skipped = |why: String| Ok(Entry::Skipped(Skipped { configuration: id.clone(), why }));
    match member(object, "deletedDateTime") {
        None | Some(Value::Null) => {}
        Some(when) => return skipped(format!("deleted: deletedDateTime is {when}")),
    }
    let kind = match K::read(object) {
        Ok(kind) => kind,
        Err(Unreadable::Missing(why)) => return Ok(shortened(id, why, None)),
        Err(Unreadable::Unusable(why)) => return skipped(why),
    };
    let display_name = member(object, "displayName").and_then(Value::as_str).unwrap_or_default();
    let skeleton = Configuration {
        id: id.clone(),
        domain: Arc::default(),
        display_name: display_name.chars().take(MAX_DISPLAY_NAME).collect(),
        kind,
        authorities: Vec::new(),
    };
    let name = K::AUTHORITIES;
    let other_spelling = || K::OTHER_SPELLING.and_then(|name| member(object, name));
    let Some(Value::Array(list)) = member(object, name).or_else(other_spelling) else {
        // The display name is used when the authorities are fetched separately.
        let readable = K::WITH_SEPARATE_AUTHORITIES.map(|_| skeleton);
        return Ok(shortened(id, &format!("no list of {name}"), readable));
    };
    let continues = member(object, &format!("{name}@odata.nextLink")).is_some();
    match with_authorities(skeleton, list) {
        Entry::Complete { configuration, .. } if continues => {
            let why = format!("{name} continues at its @odata.nextLink");
            Ok(shortened(id, &why, Some(configuration)))
        }
        entry => Ok(entry),
    }
}

fn shortened<K>(id: ConfigurationId, why: &str, readable: Option<Configuration<K>>) -> Entry<K> {
    let why = format!("the response is shortened: {why}");
    Entry::Shortened { id, why, readable }
}

/// Adds authorities to a configuration.
pub(crate) fn with_authorities<K: JsonKind>(
    mut configuration: Configuration<K>,
    list: &[Value],
) -> Entry<K> {
    let (id, name) = (configuration.id.clone(), K::AUTHORITIES);
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
        Some(why) => shortened(id, &why, Some(configuration)),
        None => Entry::Complete { configuration, skipped },
    }
}
