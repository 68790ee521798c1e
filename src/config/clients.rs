//! `[[client]]`: clients of devices, and the settings that clients of both kinds have.

use std::collections::HashSet;
use std::time::Duration;

use crate::config::section::Section;
use crate::config::values::text;
use crate::token::keys::Algorithm;
use crate::token::policy::{Client, Subjects};
use crate::token::terms::{MAX_LIFETIME, Resource, Terms};
use crate::trust::configurations::ConfigurationId;
use crate::trust::subject::{SubjectField, SubjectId};

/// Reads a `[[client]]` for devices.
pub(super) fn read(section: &mut Section<'_>, own: Option<&Terms>) -> Option<Client> {
    let id = section.require("id", "the client_id", text);
    let configurations = section
        .require("configurations", "a list of configuration ids that is not empty", |value| {
            let ids: Option<Vec<_>> = value.as_array()?.iter().map(text).collect();
            ids.filter(|ids| !ids.is_empty())
        })
        .map(|ids| ids.iter().map(|id| ConfigurationId::from(id.as_str())).collect());
    let field = section.choice("subject_field", &fields());
    let subjects = match (section.texts("subjects"), field) {
        (None, _) => Some(Subjects::All),
        (Some(_), None) => {
            section.problem("subject_field", None, NO_FIELD);
            None
        }
        (Some(texts), Some(field)) => subjects(section, field, &texts).map(Subjects::Only),
    };
    let terms = required_terms(section, own);
    Some(Client { id: id?, configurations: configurations?, subjects: subjects?, terms: terms? })
}

/// Problem of `subject_field` when only `subjects` is set.
pub(super) const NO_FIELD: &str = "missing: it determines how `subjects` are compared";

/// The subject fields by their names.
pub(super) fn fields() -> [(&'static str, SubjectField); 5] {
    SubjectField::ALL.map(|field| (field.as_str(), field))
}

/// Converts `subjects`; each that is not valid for `field` is a problem.
pub(super) fn subjects(
    section: &Section<'_>,
    field: SubjectField,
    texts: &[String],
) -> Option<HashSet<SubjectId>> {
    let mut all = HashSet::new();
    let mut good = true;
    for text in texts {
        match SubjectId::parse(field, text) {
            Ok(subject) => {
                all.insert(subject);
            }
            Err(error) => {
                good = false;
                section.problem("subjects", Some(format!("`{text}`")), error.to_string());
            }
        }
    }
    good.then_some(all)
}

/// Like [`terms`], with the algorithm of one client; their absence is a problem.
pub(super) fn required_terms(section: &mut Section<'_>, default: Option<&Terms>) -> Option<Terms> {
    let terms = terms(section, default);
    let signing_algorithm = section.choice("signing_algorithm", &algorithms());
    if terms.is_none() {
        section.problem("audience", None, "missing: set it here or in [oauth]");
    }
    Some(Terms { signing_algorithm, ..terms? })
}

/// The signature algorithms by their names.
pub(super) fn algorithms() -> [(&'static str, Algorithm); 4] {
    Algorithm::ALL.map(|algorithm| (algorithm.as_str(), algorithm))
}

/// Reads `audience`, `scopes`, `default_scopes`, `[[resources]]` and `token_lifetime`.  Keys that
/// are absent have the values of `default`.
pub(super) fn terms(section: &mut Section<'_>, default: Option<&Terms>) -> Option<Terms> {
    let minute = Duration::from_secs(60);
    let lifetime = section.duration("token_lifetime", minute..=MAX_LIFETIME);
    let first = resource(section);
    let further = section.sections("resources", resource);
    let mut resources: Vec<Resource> =
        first.into_iter().chain(further.into_iter().flatten()).collect();
    if resources.is_empty() {
        resources.clone_from(&default?.resources);
    }
    let lifetime = lifetime.or(default.map(|d| d.lifetime)).unwrap_or(5 * minute);
    Some(Terms { resources, lifetime, signing_algorithm: None })
}

fn resource(section: &mut Section<'_>) -> Option<Resource> {
    let audience = section.text("audience");
    let scopes = section.texts("scopes").unwrap_or_default();
    let default_scope = section.texts("default_scopes").unwrap_or_default();
    if audience.is_none() && !scopes.is_empty() {
        section.problem("audience", None, "missing: `scopes` belong to an audience");
    }
    Some(Resource { audience: audience?, scopes, default_scope })
}
