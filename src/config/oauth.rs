//! `[oauth]` and `[[client]]`: who may have which tokens.

use std::path::{Path, PathBuf};

use toml::Value;
use url::Url;

use crate::config::applications;
use crate::config::clients;
use crate::config::read::{Section, text, url};
use crate::token::application::Application;
use crate::token::keys::Algorithm;
use crate::token::policy::TokenPolicy;

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
    let own = clients::terms(&mut section, None);
    if own.is_none() && !top.has("client") {
        section.problem(
            "audience",
            None,
            "missing; without it devices are no clients of their own, and there is no [[client]] \
             either: no token could be issued",
        );
    }
    let (mut devices, mut applications) = (Vec::new(), Vec::<Application>::new());
    for mut section in top.sections("client") {
        if section.has("application_configuration") {
            applications.extend(applications::read(&mut section, own.as_ref(), folder));
        } else {
            devices.extend(clients::read(&mut section, own.as_ref()));
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
        .and_then(|policy| policy.with_clients(devices))
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
