//! Who a certificate speaks for: the one value of the field that its configuration names.
//!
//! # Why so strict
//! The value becomes an identity, so two certificates must never be confused for want of a rule: it
//! is found exactly once, has one spelling, and holds no character that prints as another text.

pub mod fields;
mod rules;

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::trust::refusal::{Code, Refusal};
use crate::x509::certificate::{Certificate, GeneralName};
use crate::x509::name::oid::is_plain_oid;
use crate::x509::name::parse::from_rfc4514;
use crate::x509::name::rfc4514::to_rfc4514;
use crate::x509::name::{self, Name};

pub use fields::SubjectField;

/// Characters in a subject ID.
pub const MAX_CHARACTERS: usize = 512;

/// The canonical value of a subject field.
///
/// Two IDs are equal when field and value are; for a distinguished name that is the comparison of
/// typed attributes of RFC 5280 section 7.1, in which letter case and string type do not count.  The
/// text of a name keeps the letter case it was written in.
#[derive(Clone)]
pub struct SubjectId {
    field: SubjectField,
    text: String,
    /// What a distinguished name is compared by; other fields are compared by their text.
    name: Option<Box<[u8]>>,
}

impl SubjectId {
    /// The subject ID of an end-entity certificate.
    ///
    /// # Errors
    /// `subject_missing` without a value of the kind, `subject_ambiguous` with several (equal ones
    /// too), `subject_invalid` with one that breaks the rules of its kind.
    pub fn of(certificate: &Certificate, field: SubjectField) -> Result<Self, Refusal> {
        if field == SubjectField::SubjectDn {
            if certificate.subject.is_empty() {
                return Err(Refusal::new(Code::SubjectMissing, "the subject is an empty name"));
            }
            return Self::of_name(&certificate.subject).map_err(|why| invalid(field, &why));
        }
        let names = certificate.subject_alt_name.as_deref().unwrap_or_default();
        let mut values = names.iter().filter_map(|name| match (field, name) {
            (SubjectField::SanDns, GeneralName::Dns(value))
            | (SubjectField::SanUri, GeneralName::Uri(value))
            | (SubjectField::SanIp, GeneralName::Ip(value))
            | (SubjectField::SanEmail, GeneralName::Email(value)) => Some(value),
            _ => None,
        });
        let Some(value) = values.next() else {
            return Err(Refusal::new(
                Code::SubjectMissing,
                format!("subjectAltName has no {}", field.general_name()),
            ));
        };
        let others = values.count();
        if others > 0 {
            return Err(Refusal::new(
                Code::SubjectAmbiguous,
                format!(
                    "subjectAltName has {} of {}; exactly 1 identifies",
                    others + 1,
                    field.general_name()
                ),
            ));
        }
        let text = match (field, std::str::from_utf8(value)) {
            (SubjectField::SanIp, _) => rules::ip_from_octets(value),
            (_, Ok(text)) => canonical(field, text),
            (_, Err(_)) => Err("is not text".to_owned()),
        };
        text.map(|text| Self { field, text, name: None }).map_err(|why| invalid(field, &why))
    }

    /// Reads a subject ID that a person or a client wrote; the result equals the ID of a certificate
    /// with that value.  Distinguished names are RFC 4514 text (see [`from_rfc4514`]).
    ///
    /// # Errors
    /// `subject_invalid` where no certificate could have that ID.
    pub fn parse(field: SubjectField, text: &str) -> Result<Self, Refusal> {
        let id = match field {
            SubjectField::SubjectDn => match from_rfc4514(text) {
                Ok(name) if name.is_empty() => Err("is an empty name".to_owned()),
                Ok(name) => Self::of_name(&name),
                Err(error) => Err(error.to_string()),
            },
            _ => canonical(field, text).map(|text| Self { field, text, name: None }),
        };
        id.map_err(|why| invalid(field, &why))
    }

    fn of_name(name: &Name) -> Result<Self, String> {
        for attribute in name.rdns().iter().flatten() {
            if !is_plain_oid(attribute.oid) {
                return Err("has an attribute type that is no object identifier".to_owned());
            }
            if name::is_string(attribute.value.tag) {
                let Some(text) = name::text(attribute.value) else {
                    return Err("has a string that is not validly encoded".to_owned());
                };
                rules::readable(&text)?;
            }
        }
        let text = to_rfc4514(name);
        rules::readable(&text)?;
        Ok(Self { field: SubjectField::SubjectDn, text, name: Some(name.canonical().into()) })
    }

    /// Which field the value comes from.
    pub fn field(&self) -> SubjectField {
        self.field
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What equality goes by: bytes that are equal exactly when two IDs of one field are.
    pub fn key(&self) -> &[u8] {
        self.name.as_deref().unwrap_or(self.text.as_bytes())
    }
}

/// The canonical text of a value of any field but the distinguished name and the certificate's
/// iPAddress, or the end of the sentence "the value …".
fn canonical(field: SubjectField, text: &str) -> Result<String, String> {
    rules::readable(text)?;
    match field {
        SubjectField::SanDns => rules::dns(text),
        SubjectField::SanUri => rules::uri(text),
        SubjectField::SanEmail => rules::email(text),
        SubjectField::SanIp => rules::ip(text),
        SubjectField::SubjectDn => Err("is a distinguished name".to_owned()),
    }
}

/// Refuses a text that no subject ID can be, whatever its field: one with a character that prints as
/// another text or as none, or of more than [`MAX_CHARACTERS`].
///
/// # Errors
/// The end of the sentence "the value …".
pub fn readable(text: &str) -> Result<(), String> {
    rules::readable(text)
}

/// True for an absolute URI as RFC 3986 section 3 spells it, within [`MAX_CHARACTERS`].
pub fn is_uri(text: &str) -> bool {
    canonical(SubjectField::SanUri, text).is_ok()
}

fn invalid(field: SubjectField, why: &str) -> Refusal {
    Refusal::new(Code::SubjectInvalid, format!("the {} {why}", field.general_name()))
}

impl PartialEq for SubjectId {
    fn eq(&self, other: &Self) -> bool {
        self.field == other.field && self.key() == other.key()
    }
}

impl Eq for SubjectId {}

impl Hash for SubjectId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.field.hash(state);
        self.key().hash(state);
    }
}

impl fmt::Display for SubjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SubjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubjectId({} `{}`)", self.field.as_str(), self.text)
    }
}

#[cfg(test)]
mod tests;
