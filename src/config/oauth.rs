//! `[oauth]` and `[[client]]`: the token policy, signing keys and URLs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Value;
use url::Url;

use crate::config::applications;
use crate::config::clients;
use crate::config::section::Section;
use crate::config::values::{text, url};
use crate::keyring::SPREAD;
use crate::token::application::Application;
use crate::token::assertion::Profile;
use crate::token::keys::Algorithm;
use crate::token::policy::{Client, TokenPolicy};
use crate::token::rotation::{Bounds, Rotation, Times};
use crate::token::terms::Terms;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

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
    /// Schedule and directory of rotating keys; the directory is `None` to use one in `data_dir`.
    pub(super) rotation: Option<(Rotation, Option<PathBuf>)>,
    /// Time for which verifiers may cache the key set.
    pub(super) jwks_max_age: Duration,
}

/// The table `[oauth.rotation]`, before it is checked with the clients.
struct RotationTable {
    every: Duration,
    publish_ahead: Duration,
    retire_after: Option<Duration>,
    directory: Option<PathBuf>,
}

/// The table `[oauth]`, before it is combined with the clients.
struct OauthTable {
    issuer: Option<String>,
    token_url: Option<Url>,
    public_url: Option<Url>,
    keys: KeySettings,
    rotation: Option<RotationTable>,
    optional_client_id: bool,
    profile: Profile,
    /// Terms of devices as their own clients.
    own: Option<Terms>,
}

/// Reads `[oauth]` and the clients.  Returns `None` only after a problem was noted.
pub(super) fn read(top: &mut Section<'_>, folder: &Path) -> Option<OauthSettings> {
    let has_clients = top.has("client");
    let table = top.section("oauth", |section| oauth_table(section, has_clients));
    let (devices, applications) = clients(top, table.own.as_ref(), folder);
    let policy = policy(top, table.issuer.as_deref(), table.own, devices, applications)?;
    let mut keys = table.keys;
    keys.rotation = rotation(top, table.rotation, &policy, &keys);
    table.issuer?;
    check_profile(top, table.profile, &policy, &keys);
    let policy = policy.with_profile(table.profile);
    let policy = if table.optional_client_id { policy.with_optional_client_id() } else { policy };
    let public_url = match table.public_url {
        Some(url) => url,
        None => Url::parse(policy.issuer()).ok()?.join("/").ok()?,
    };
    Some(OauthSettings { policy, token_url: table.token_url?, public_url, keys })
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
    let algorithm = section.choice("signing_algorithm", &clients::algorithms());
    let algorithm = algorithm.unwrap_or(Algorithm::Es256);
    let signing_key = section.file("signing_key");
    let published_keys = section.texts("published_keys").unwrap_or_default();
    let optional_client_id = section.flag("optional_client_id").unwrap_or(false);
    let profiles = [("plain", Profile::Plain), ("fapi2", Profile::Fapi2)];
    let profile = section.choice("profile", &profiles).unwrap_or_default();
    let own = clients::terms(section, None);
    if own.is_none() && !has_clients {
        let allowed = "missing: without it and without [[client]], no token could be issued";
        section.problem("audience", None, allowed);
    }
    let published_keys: Vec<_> = published_keys.into_iter().map(PathBuf::from).collect();
    let has_rotation = section.has("rotation");
    let rotation = section.section("rotation", rotation_table);
    let rotation = has_rotation.then_some(rotation);
    if has_rotation && !published_keys.is_empty() {
        let allowed =
            "not used with `oauth.rotation`, whose directory contains every published key";
        section.problem("published_keys", None, allowed);
    }
    let jwks_max_age = section.duration("jwks_max_age", SECOND..=DAY).unwrap_or(300 * SECOND);
    let keys = KeySettings { algorithm, signing_key, published_keys, rotation: None, jwks_max_age };
    OauthTable { issuer, token_url, public_url, keys, rotation, optional_client_id, profile, own }
}

fn rotation_table(section: &mut Section<'_>) -> RotationTable {
    RotationTable {
        every: section.duration("every", SECOND..=3_650 * DAY).unwrap_or(30 * DAY),
        publish_ahead: section.duration("publish_ahead", SECOND..=365 * DAY).unwrap_or(DAY),
        retire_after: section.duration("retire_after", SECOND..=365 * DAY),
        directory: section.file("directory"),
    }
}

/// Checks the schedule against the clients' tokens and the caches of verifiers.
fn rotation(
    top: &Section<'_>,
    table: Option<RotationTable>,
    policy: &TokenPolicy,
    keys: &KeySettings,
) -> Option<(Rotation, Option<PathBuf>)> {
    let Some(table) = table else {
        let other = policy.signing_algorithms().into_iter().find(|a| *a != keys.algorithm);
        if let Some(other) = other {
            let value = Some(format!("{:?}", other.as_str()));
            let allowed = "a client can have another algorithm than oauth.signing_algorithm only with \
                           [oauth.rotation], whose directory contains keys of every algorithm";
            top.problem("client.signing_algorithm", value, allowed);
        }
        return None;
    };
    let longest_life = policy.longest_life();
    let times = Times {
        every: table.every,
        publish_ahead: table.publish_ahead,
        // Clocks of verifiers may be late.
        retire_after: table.retire_after.unwrap_or(longest_life + 300 * SECOND),
    };
    let bounds = Bounds { longest_life, cache: keys.jwks_max_age, spread: SPREAD };
    match Rotation::new(times, bounds) {
        Ok(rotation) => Some((rotation, table.directory)),
        Err(error) => {
            top.problem(&format!("oauth.rotation.{}", error.setting), None, error.why);
            None
        }
    }
}

/// Notes the settings that a profile does not allow.
fn check_profile(top: &Section<'_>, profile: Profile, policy: &TokenPolicy, keys: &KeySettings) {
    if profile == Profile::Plain {
        return;
    }
    let mut algorithms = policy.signing_algorithms();
    algorithms.insert(keys.algorithm);
    if algorithms.contains(&Algorithm::Rs256) {
        let allowed = "the profile fapi2 does not allow it; use PS256, ES256 or EdDSA";
        top.problem("oauth.signing_algorithm", Some("`RS256`".to_owned()), allowed);
    }
    for application in policy.applications().filter(|application| !application.bound) {
        let key =
            format!("client `{}`: tls_client_certificate_bound_access_tokens", application.id);
        let allowed = "the profile fapi2 requires tokens that are bound to a certificate";
        top.problem(&key, Some("`false`".to_owned()), allowed);
    }
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
