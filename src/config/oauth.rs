//! `[oauth]` and `[[client]]`: the token policy, signing keys and URLs.

use std::path::{Path, PathBuf};

use toml::Value;
use url::Url;

use crate::config::applications;
use crate::config::clients;
use crate::config::section::Section;
use crate::config::values::{text, url};
use crate::token::application::Application;
use crate::token::keys::Algorithm;
use crate::token::policy::{Client, TokenPolicy};
use crate::token::terms::Terms;

/// Settings of `[oauth]` and `[[client]]`.
pub(super) struct OauthSettings {
    /// Clients and their terms.
    pub(super) policy: TokenPolicy,
    /// Origin of the token listener as devices reach it.
    pub(super) token_url: Url,
    /// Origin of the public listener as clients reach it.
    pub(super) public_url: Url,
    /// Signing keys.
    pub(super) keys: KeySettings,
}

/// Settings of the signing keys.
pub(super) struct KeySettings {
    pub(super) algorithm: Algorithm,
    /// File of the signing key; `None` to create one in `data_dir`.
    pub(super) signing_key: Option<PathBuf>,
    /// Files of keys that are published but do not sign.
    pub(super) published_keys: Vec<PathBuf>,
}

/// The table `[oauth]`, before it is combined with the clients.
struct OauthTable {
    issuer: Option<String>,
    token_url: Option<Url>,
    public_url: Option<Url>,
    keys: KeySettings,
    optional_client_id: bool,
    /// Terms of devices as their own clients.
    own: Option<Terms>,
}

/// Reads `[oauth]` and the clients.  Returns `None` only after a problem was noted.
pub(super) fn read(top: &mut Section<'_>, folder: &Path) -> Option<OauthSettings> {
    let has_clients = top.has("client");
    let table = top.section("oauth", |section| oauth_table(section, has_clients));
    let (devices, applications) = clients(top, table.own.as_ref(), folder);
    let policy = policy(top, table.issuer.as_deref(), table.own, devices, applications)?;
    table.issuer?;
    let policy = if table.optional_client_id { policy.with_optional_client_id() } else { policy };
    let public_url = match table.public_url {
        Some(url) => url,
        None => Url::parse(policy.issuer()).ok()?.join("/").ok()?,
    };
    Some(OauthSettings { policy, token_url: table.token_url?, public_url, keys: table.keys })
}

fn oauth_table(section: &mut Section<'_>, has_clients: bool) -> OauthTable {
    let issuer =
        section.require("issuer", "the https URL that tokens contain as `iss`", https_url_text);
    let token_url = section.require(
        "token_url",
        "the https origin of the token listener as devices reach it",
        https_origin,
    );
    let public_url = section.take("public_url", "an https origin", https_origin);
    let algorithms = Algorithm::ALL.map(|algorithm| (algorithm.as_str(), algorithm));
    let algorithm = section.choice("signing_algorithm", &algorithms).unwrap_or(Algorithm::Es256);
    let signing_key = section.file("signing_key");
    let published_keys = section.texts("published_keys").unwrap_or_default();
    let optional_client_id = section.flag("optional_client_id").unwrap_or(false);
    let own = clients::terms(section, None);
    if own.is_none() && !has_clients {
        let allowed = "missing: without it and without [[client]], no token could be issued";
        section.problem("audience", None, allowed);
    }
    let published_keys = published_keys.into_iter().map(PathBuf::from).collect();
    let keys = KeySettings { algorithm, signing_key, published_keys };
    OauthTable { issuer, token_url, public_url, keys, optional_client_id, own }
}

/// Reads every `[[client]]`: those of devices, and those that are applications.
fn clients(
    top: &mut Section<'_>,
    own: Option<&Terms>,
    folder: &Path,
) -> (Vec<Client>, Vec<Application>) {
    let (mut devices, mut applications) = (Vec::new(), Vec::new());
    top.sections("client", |section| {
        if section.has("application_configuration") {
            applications.extend(applications::read(section, own, folder));
        } else {
            devices.extend(clients::read(section, own));
        }
    });
    (devices, applications)
}

/// Combines the parts of the policy.  Each part is checked, so that no problem hides another.
fn policy(
    top: &Section<'_>,
    issuer: Option<&str>,
    own: Option<Terms>,
    devices: Vec<Client>,
    applications: Vec<Application>,
) -> Option<TokenPolicy> {
    /// Stands in for a missing issuer while the rest is checked.  No policy with it is used.
    const STAND_IN: &str = "https://issuer.invalid";
    let mut problems = Vec::new();
    let policy = TokenPolicy::new(issuer.unwrap_or(STAND_IN), own)
        .or_else(|found| {
            problems = found;
            TokenPolicy::new(STAND_IN, None)
        })
        .and_then(|policy| policy.with_clients(devices))
        .and_then(|policy| policy.with_applications(applications));
    match policy {
        Ok(policy) if problems.is_empty() => Some(policy),
        policy => {
            for problem in problems.into_iter().chain(policy.err().unwrap_or_default()) {
                top.problem(&format!("oauth.{}", problem.place), None, problem.why);
            }
            None
        }
    }
}

fn https_url_text(value: &Value) -> Option<String> {
    url(value).filter(|url| url.scheme() == "https").and_then(|_| text(value))
}

fn https_origin(value: &Value) -> Option<Url> {
    let url = url(value)?;
    let is_origin = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    (url.scheme() == "https" && is_origin).then_some(url)
}
