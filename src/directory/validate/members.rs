//! The members of a body: which there may be, and of what type.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::directory::errors::Fault;
use crate::directory::shapes::Entity;
use crate::graph::wire::member;

/// An optional text: `None` when the member is absent, `Some(None)` when it is null.
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
            let why = format!("{} characters; at most {limit} are taken", text.chars().count());
            Err(property(name, resource, "", &why))
        }
        Some(Value::String(text)) if text.chars().any(char::is_control) => {
            Err(property(name, resource, "", "it contains control characters"))
        }
        Some(Value::String(text)) => Ok(Some(Some(text.clone()))),
        Some(_) => Err(property(name, resource, "", "it is no string")),
    }
}

/// Refuses members that the type does not have.  Annotations pass, and so does what is null: an SDK
/// sends its own name of a property in that case.
pub(super) fn known_members<E: Entity>(
    body: &Map<String, Value>,
    also: &[&str],
) -> Result<(), Fault> {
    let known: Vec<&str> = E::PROPERTIES.iter().chain(E::NAVIGATION).chain(also).copied().collect();
    only(body, &known, E::TYPE)
}

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

/// True for the type's name, with and without the fragment sign, as the SDKs and the published examples
/// have it.
fn is_of_type(value: &Value, resource: &str) -> bool {
    let name = value.as_str().map(|name| name.strip_prefix('#').unwrap_or(name));
    let name = name.and_then(|name| name.strip_prefix("microsoft.graph."));
    // The examples give an authority the type that it has in the other kind of configuration, too.
    let is = |known: &str| name.is_some_and(|name| name.eq_ignore_ascii_case(known));
    is(resource) || (resource.starts_with("certificateAuthority") && is("certificateAuthority"))
}

/// JSON in which no object has a member twice, nor twice but for the blanks around its name: it would be
/// left to chance which of two lists of authorities is trusted.
pub(super) struct Unambiguous;

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Unambiguous;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Unambiguous, M::Error> {
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    let name = name.trim();
                    if !seen.insert(name.to_owned()) {
                        return Err(M::Error::custom(format!(
                            "the member `{name}` is there twice"
                        )));
                    }
                    map.next_value::<Unambiguous>()?;
                }
                Ok(Unambiguous)
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Unambiguous, S::Error> {
                while list.next_element::<Unambiguous>()?.is_some() {}
                Ok(Unambiguous)
            }

            fn visit_unit<E>(self) -> Result<Unambiguous, E> {
                Ok(Unambiguous)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Unambiguous, E> {
                Ok(Unambiguous)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Unambiguous, E> {
                Ok(Unambiguous)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Unambiguous, E> {
                Ok(Unambiguous)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Unambiguous, E> {
                Ok(Unambiguous)
            }

            fn visit_str<E>(self, _: &str) -> Result<Unambiguous, E> {
                Ok(Unambiguous)
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
        Some(_) => Err(property("id", resource, "", "it is not the id of the path")),
    }
}

pub(super) fn property(
    name: &'static str,
    resource: &'static str,
    target: &str,
    why: &str,
) -> Fault {
    let target = match target {
        "" => name.to_owned(),
        // The list itself, or an element of it that is no object.
        target if target.split('[').next() == Some(name) => target.to_owned(),
        target => format!("{target}.{name}"),
    };
    Fault::Property { property: name, resource, target, why: why.into() }
}
