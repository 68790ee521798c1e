//! `[oauth]` and `[[client]]`: who may have which tokens.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Value;
use url::Url;

use crate::config::applications;
use crate::config::read::{Section, text, url};
use crate::domain::subject::{SubjectField, SubjectId};
use crate::domain::token::application::Application;
use crate::domain::token::keys::Algorithm;
use crate::domain::token::policy::{Client, MAX_LIFETIME, Resource, Subjects, Terms, TokenPolicy};
use crate::domain::trust::anchors::ConfigurationId;

/// What `[oauth]` says.
pub struct OauthSettings {
    /// Clients and terms.
    pub policy: TokenPolicy,
    /// Origin of the token listener as devices reach it.
    pub token_url: Url,
    /// Origin of the public listener as everyone reaches it.
    pub public_url: Url,
    /// Algorithm of the signing keys.
    pub algorithm: Algorithm,
    /// The signing key's file, if it is not ours to make.
    pub signing_key: Option<PathBuf>,
    /// Keys that are published only.
    pub published_keys: Vec<PathBuf>,
}

/// Reads `[oauth]` and the clients.  `None` when a problem was noted that leaves no policy.
pub fn read(top: &mut Section, folder: &Path) -> Option<OauthSettings> {
    let mut section = top.section("oauth");
    let issuer = section.require("issuer", "the https URL that tokens name as `iss`", url_text);
    let token_url = section.require(
        "token_url",
        "the https origin of the token listener as devices reach it",
        origin,
    );
    let public_url = section.take("public_url", "an https origin", origin);
    let algorithms = Algorithm::ALL.map(|algorithm| (algorithm.as_str(), algorithm));
    let algorithm = section.choice("signing_algorithm", &algorithms).unwrap_or(Algorithm::Es256);
    let signing_key = section.file("signing_key");
    let published_keys = section.texts("published_keys").unwrap_or_default();
    let optional_client_id = section.flag("optional_client_id").unwrap_or(false);
    let own = terms(&mut section, None);
    if own.is_none() && !top.has("client") {
        section.problem(
            "audience",
            None,
            "missing; without it devices are no clients of their own, and there is no [[client]] \
             either: no token could be issued",
        );
    }
    let (mut clients, mut applications) = (Vec::new(), Vec::<Application>::new());
    for mut section in top.sections("client") {
        if section.has("application_configuration") {
            applications.extend(applications::read(&mut section, own.as_ref(), folder));
        } else {
            clients.extend(client(&mut section, own.as_ref()));
        }
    }

    // Checked part by part, so that no problem hides another: the rest without its issuer, the
    // clients without the rest.
    let mut problems = Vec::new();
    let policy = TokenPolicy::new(issuer.as_deref().unwrap_or(STAND_IN), own)
        .or_else(|found| {
            problems = found;
            TokenPolicy::new(STAND_IN, None)
        })
        .and_then(|policy| policy.with_clients(clients))
        .and_then(|policy| policy.with_applications(applications));
    let policy = match policy {
        Ok(policy) if problems.is_empty() => policy,
        policy => {
            for problem in problems.into_iter().chain(policy.err().unwrap_or_default()) {
                section.problem(&problem.place, None, problem.why);
            }
            return None;
        }
    };
    issuer?;
    let policy = if optional_client_id { policy.with_optional_client_id() } else { policy };
    let public_url = match public_url {
        Some(url) => url,
        None => origin_of(&Url::parse(policy.issuer()).ok()?)?,
    };
    Some(OauthSettings {
        policy,
        token_url: token_url?,
        public_url,
        algorithm,
        signing_key,
        published_keys: published_keys.into_iter().map(PathBuf::from).collect(),
    })
}

/// An issuer to check the rest with where there is none; no policy with it is used.
const STAND_IN: &str = "https://issuer.invalid";

fn client(section: &mut Section, own: Option<&Terms>) -> Option<Client> {
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
            section.problem("subject_field", None, "missing; `subjects` are read by its rules");
            None
        }
        (Some(texts), Some(field)) => subjects(section, field, &texts).map(Subjects::Only),
    };
    let terms = terms(section, own);
    if terms.is_none() {
        section.problem("audience", None, "missing, and [oauth] has none to take over");
    }
    Some(Client { id: id?, configurations: configurations?, subjects: subjects?, terms: terms? })
}

/// The subject fields by their names.
pub(super) fn fields() -> [(&'static str, SubjectField); 5] {
    SubjectField::ALL.map(|field| (field.as_str(), field))
}

pub(super) fn subjects(
    section: &Section,
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

/// `audience`, `scopes`, `default_scopes`, `[[resources]]` and `token_lifetime`; what is left out is
/// taken from `default`.
pub(super) fn terms(section: &mut Section, default: Option<&Terms>) -> Option<Terms> {
    let minute = Duration::from_secs(60);
    let lifetime = section.duration("token_lifetime", minute..=MAX_LIFETIME);
    let first = resource(section);
    let further: Vec<_> = section.sections("resources").iter_mut().filter_map(resource).collect();
    let mut resources: Vec<Resource> = first.into_iter().chain(further).collect();
    if resources.is_empty() {
        resources.clone_from(&default?.resources);
    }
    let lifetime = lifetime.or(default.map(|d| d.lifetime)).unwrap_or(5 * minute);
    Some(Terms { resources, lifetime })
}

fn resource(section: &mut Section) -> Option<Resource> {
    let audience = section.text("audience");
    let scopes = section.texts("scopes").unwrap_or_default();
    let default_scope = section.texts("default_scopes").unwrap_or_default();
    if audience.is_none() && !scopes.is_empty() {
        section.problem("audience", None, "missing; `scopes` are scopes of an audience");
    }
    Some(Resource { audience: audience?, scopes, default_scope })
}

fn url_text(value: &Value) -> Option<String> {
    url(value).filter(|url| url.scheme() == "https").and_then(|_| text(value))
}

fn origin(value: &Value) -> Option<Url> {
    let url = url(value)?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    (url.scheme() == "https" && bare).then_some(url)
}

fn origin_of(url: &Url) -> Option<Url> {
    url.join("/").ok()
}
