//! Members of a body: allowed names and types.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::directory::errors::Fault;
use crate::directory::shapes::Entity;
use crate::graph::wire::member;

/// Type that Graph names in errors of certificates.
pub(super) const AUTHORITY_INFORMATION: &str = "CertificateAuthorityInformation";
/// Maximum number of characters in `displayName`.
pub(super) const MAX_DISPLAY_NAME: usize = 256;
/// Names that Graph has used for the key identifier of an authority.
pub(super) const KEY_IDENTIFIERS: &[&str] =
    &["issuerSki", "issuerSubjectKeyIdentifier", "issuerSubjectkeyIdentifier"];

/// Reads an optional string.  Returns `None` if the member is absent, `Some(None)` if it is null.
pub(super) fn text(
    body: &Map<String, Value>,
    name: &'static str,
    resource: &'static str,
    limit: usize,
) -> Result<Option<Option<String>>, Fault> {
    match member(body, name) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        Some(Value::String(text)) if text.chars().count() > limit => {
            let why = format!("{} characters; at most {limit} are allowed", text.chars().count());
            Err(property(name, resource, "", &why))
        }
        Some(Value::String(text)) if text.chars().any(char::is_control) => {
            Err(property(name, resource, "", "it contains control characters"))
        }
        Some(Value::String(text)) => Ok(Some(Some(text.clone()))),
        Some(_) => Err(property(name, resource, "", "it is not a string")),
    }
}

/// Rejects members that the type does not have.
///
/// Annotations and nulls are accepted: SDKs send null properties under names of their own.
pub(super) fn known_members<E: Entity>(
    body: &Map<String, Value>,
    also: &[&str],
) -> Result<(), Fault> {
    let known: Vec<&str> = E::PROPERTIES.iter().chain(E::NAVIGATION).chain(also).copied().collect();
    only(body, &known, E::TYPE)
}

/// Rejects members that are not in `known`, except for annotations and nulls.
pub(super) fn only(
    body: &Map<String, Value>,
    known: &[&str],
    resource: &'static str,
) -> Result<(), Fault> {
    for (name, value) in body {
        let name = name.trim();
        if name == "@odata.type" && !value.is_null() && !is_of_type(value, resource) {
            let why = format!("it is not #microsoft.graph.{resource}");
            return Err(property("@odata.type", resource, "", &why));
        }
        if !(name.contains('@') || value.is_null() || known.contains(&name)) {
            return Err(Fault::UnknownProperty { property: name.into(), resource });
        }
    }
    Ok(())
}

/// Returns true for the name of the type.  SDKs send it with a `#`, and Graph's examples without.
fn is_of_type(value: &Value, resource: &str) -> bool {
    let name = value.as_str().map(|name| name.strip_prefix('#').unwrap_or(name));
    let name = name.and_then(|name| name.strip_prefix("microsoft.graph."));
    // Graph's examples use the name `certificateAuthority` in both kinds of configurations.
    let is = |known: &str| name.is_some_and(|name| name.eq_ignore_ascii_case(known));
    is(resource) || (resource.starts_with("certificateAuthority") && is("certificateAuthority"))
}

/// JSON without duplicate members in any object.
///
/// With two lists of authorities, it would be undefined which one is trusted.  Names that differ in
/// surrounding blanks only are duplicates too.
pub(super) struct UniqueMembers;

impl<'de> Deserialize<'de> for UniqueMembers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = UniqueMembers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<UniqueMembers, M::Error> {
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    let name = name.trim();
                    if !seen.insert(name.to_owned()) {
                        return Err(M::Error::custom(format!(
                            "the member `{name}` is present twice"
                        )));
                    }
                    map.next_value::<UniqueMembers>()?;
                }
                Ok(UniqueMembers)
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<UniqueMembers, S::Error> {
                while list.next_element::<UniqueMembers>()?.is_some() {}
                Ok(UniqueMembers)
            }

            fn visit_unit<E>(self) -> Result<UniqueMembers, E> {
                Ok(UniqueMembers)
            }

            fn visit_bool<E>(self, _: bool) -> Result<UniqueMembers, E> {
                Ok(UniqueMembers)
            }

            fn visit_i64<E>(self, _: i64) -> Result<UniqueMembers, E> {
                Ok(UniqueMembers)
            }

            fn visit_u64<E>(self, _: u64) -> Result<UniqueMembers, E> {
                Ok(UniqueMembers)
            }

            fn visit_f64<E>(self, _: f64) -> Result<UniqueMembers, E> {
                Ok(UniqueMembers)
            }

            fn visit_str<E>(self, _: &str) -> Result<UniqueMembers, E> {
                Ok(UniqueMembers)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

pub(super) fn not_deleted(body: &Map<String, Value>, resource: &'static str) -> Result<(), Fault> {
    match member(body, "deletedDateTime") {
        None | Some(Value::Null) => Ok(()),
        Some(_) => Err(property("deletedDateTime", resource, "", "it is read-only")),
    }
}

pub(super) fn same_id(
    body: &Map<String, Value>,
    id: &str,
    resource: &'static str,
) -> Result<(), Fault> {
    match member(body, "id") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(sent)) if sent.eq_ignore_ascii_case(id) => Ok(()),
        Some(_) => Err(property("id", resource, "", "it differs from the id in the path")),
    }
}

/// Returns the error of an invalid property.  `target` is the path of the object that has it.
pub(super) fn property(
    name: &'static str,
    resource: &'static str,
    target: &str,
    why: &str,
) -> Fault {
    let target = match target {
        "" => name.to_owned(),
        // The list itself, or an element that is not an object.
        target if target.split('[').next() == Some(name) => target.to_owned(),
        target => format!("{target}.{name}"),
    };
    Fault::Property { property: name, resource, target, why: why.into() }
}
