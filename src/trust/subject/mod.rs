//! Subject IDs: the single value of the certificate field that a configuration names.
//!
//! # Design notes
//! The value becomes an identity, so the rules are strict enough that two certificates are never
//! confused.  A value must occur exactly once, has one canonical spelling, and contains no
//! character that displays as different text.

mod fields;
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
pub use rules::MAX_CHARACTERS;
pub(crate) use rules::check_printable;

/// Canonical value of a subject field.
///
/// Two IDs are equal if field and value are equal.  Distinguished names are compared by typed
/// attributes (RFC 5280 section 7.1), where letter case and string type do not count.  The text of
/// a name keeps its original letter case.
#[derive(Clone)]
pub struct SubjectId {
    field: SubjectField,
    text: String,
    /// Canonical form that a distinguished name is compared by.  Other fields are compared by
    /// `text`.
    name: Option<Box<[u8]>>,
}

impl SubjectId {
    /// Returns the subject ID of an end-entity certificate.
    ///
    /// # Errors
    /// Returns `subject_missing` without a value for the field, `subject_ambiguous` with several
    /// values, even equal ones, and `subject_invalid` with a value that breaks the rules of the
    /// field.
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
                    "subjectAltName has {} of {}; exactly 1 is required",
                    others + 1,
                    field.general_name()
                ),
            ));
        }
        let has_host = matches!(field, SubjectField::SanDns | SubjectField::SanEmail);
        let text = match (field, std::str::from_utf8(value)) {
            (SubjectField::SanIp, _) => rules::ip_from_bytes(value),
            // A client may write the dot in its `client_id`; a certificate must not have it (RFC 5280
            // section 4.2.1.6), or two certificates would have one identity in two spellings.
            (_, Ok(text)) if has_host && text.ends_with('.') => {
                Err("ends with a dot, which RFC 5280 section 4.2.1.6 does not allow".to_owned())
            }
            (_, Ok(text)) => canonical(field, text),
            (_, Err(_)) => Err("is not text".to_owned()),
        };
        text.map(|text| Self { field, text, name: None }).map_err(|why| invalid(field, &why))
    }

    /// Parses the text of a subject ID.  The result equals the ID of a certificate with this value.
    /// Distinguished names are RFC 4514 text.
    ///
    /// # Errors
    /// Returns `subject_invalid` if no certificate can have this ID.
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
                return Err(
                    "has an attribute type that is not a valid object identifier".to_owned()
                );
            }
            if name::is_string(attribute.value.tag) {
                let Some(text) = name::text(attribute.value) else {
                    return Err("has a string that is not validly encoded".to_owned());
                };
                check_printable(&text)?;
            }
        }
        let text = to_rfc4514(name);
        check_printable(&text)?;
        Ok(Self { field: SubjectField::SubjectDn, text, name: Some(name.canonical().into()) })
    }

    pub(crate) fn field(&self) -> SubjectField {
        self.field
    }

    /// Returns the canonical text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the bytes that equality compares.  They are equal exactly if two IDs of one field
    /// are.
    pub(crate) fn key(&self) -> &[u8] {
        self.name.as_deref().unwrap_or(self.text.as_bytes())
    }
}

/// Returns the canonical text of a value, for every field but distinguished names and the iPAddress
/// of a certificate.  An error is the predicate of a sentence that starts with the field name.
fn canonical(field: SubjectField, text: &str) -> Result<String, String> {
    check_printable(text)?;
    match field {
        SubjectField::SanDns => rules::dns(text),
        SubjectField::SanUri => rules::uri(text),
        SubjectField::SanEmail => rules::email(text),
        SubjectField::SanIp => rules::ip(text),
        SubjectField::SubjectDn => Err("is a distinguished name".to_owned()),
    }
}

/// Returns true if `text` is an absolute URI (RFC 3986 section 3) that is allowed as a subject ID.
pub(crate) fn is_uri(text: &str) -> bool {
    canonical(SubjectField::SanUri, text).is_ok()
}

/// `why` is the predicate of a sentence that starts with the field name.
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
