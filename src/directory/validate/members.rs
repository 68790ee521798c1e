//! The members of a body: which there may be, and of what type.

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
        if !(name.contains('@') || value.is_null() || known.contains(&name)) {
            return Err(Fault::UnknownProperty { property: name.into(), resource });
        }
    }
    Ok(())
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
