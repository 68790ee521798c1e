//! `[[graph]]`: the directories that trust is synced from, and how the gateway authenticates to them.

use std::path::Path;
use std::time::Duration;

use url::Url;

use crate::config::read::{Section, text, url};
use crate::graph::auth::{
    AssertionStyle, Credential, INSTANCE_METADATA, ManagedIdentity, TokenEndpoint,
};
use crate::graph::{Config, TooOld};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Microsoft's global directory.
const GLOBAL: &str = "https://graph.microsoft.com";
/// Where its tokens come from.
const LOGIN: &str = "https://login.microsoftonline.com";

/// The clouds that have names; only the first has `mutualTlsOauthConfigurations`.
const CLOUDS: [(&str, bool); 4] =
    [("global", true), ("usgov", false), ("dod", false), ("china", false)];

/// Reads every `[[graph]]`.  `None` after a problem was noted.
pub fn read(top: &mut Section, folder: &Path, data_dir: Option<&Path>) -> Option<Vec<Config>> {
    let mut sections = top.sections("graph");
    let several = sections.len() > 1;
    let sources: Vec<_> =
        sections.iter_mut().map(|s| source(s, several, folder, data_dir)).collect();
    let mut names: Vec<_> = sources.iter().flatten().map(|s| s.source.to_string()).collect();
    names.sort_unstable();
    for twice in names.windows(2).filter(|pair| pair[0] == pair[1]) {
        let allowed = "the names of directories must differ";
        top.problem("graph", Some(format!("`{}`", twice[0])), allowed);
    }
    sources.into_iter().collect()
}

fn source(
    section: &mut Section,
    several: bool,
    folder: &Path,
    data_dir: Option<&Path>,
) -> Option<Config> {
    let name = section.take("name", "letters, digits, `-` and `_`, at most 64", |value| {
        let fits = |s: &String| {
            s.len() <= 64 && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        text(value).filter(fits)
    });
    if several && name.is_none() {
        section.problem("name", None, "missing; with several directories each needs one");
    }
    let name = name.unwrap_or_else(|| "directory".to_owned());
    let base = base(section);
    let credential = credential(&mut section.section("credential"), folder, base.as_ref());
    let every = section.duration("every", SECOND..=DAY);
    let wait = section.duration("wait", SECOND..=Duration::from_secs(600));
    let part = "a part of the anchors, from 0.0 to 1.0";
    let max_removal = section.take("max_removal", part, |value| {
        let part = value.as_float().or(value.as_integer().map(|n| n as f64))?;
        (0.0..=1.0).contains(&part).then_some(part)
    });
    let unguarded = section.flag("guard") == Some(false);
    let max_age = section.duration("max_age", SECOND..=365 * DAY);
    let choices = [("continue", TooOld::Continue), ("refuse", TooOld::Refuse)];
    let too_old = section.choice("too_old", &choices);
    let ca_bundle =
        section.file("ca_bundle").and_then(|file| section.read("ca_bundle", &folder.join(file)));

    // From here on nothing is asked of the section: what is missing was noted.
    let defaults = Config::new(&name, base?, credential?);
    Some(Config {
        prefix_ids: several,
        every: every.unwrap_or(defaults.every),
        wait,
        max_removal: max_removal.unwrap_or(defaults.max_removal),
        unguarded,
        max_age: max_age.unwrap_or(defaults.max_age),
        too_old: too_old.unwrap_or_default(),
        ca_bundle,
        state_file: data_dir.map(|dir| dir.join(format!("trust-{name}.state"))),
        ..defaults
    })
}

/// The directory's root: by URL, or by the name of a cloud.
fn base(section: &mut Section) -> Option<Url> {
    let cloud = section.choice("cloud", &CLOUDS);
    let by_hand = section.take("url", "an absolute http or https URL without query", |value| {
        url(value).filter(|url| url.query().is_none() && url.fragment().is_none())
    });
    if cloud == Some(false) {
        section.problem(
            "cloud",
            None,
            "mutualTlsOauthConfigurations exist in the global cloud only; for another directory \
             name its `url`",
        );
        return None;
    }
    let mut url = match by_hand {
        Some(url) => url,
        None => Url::parse(GLOBAL).ok()?,
    };
    // People paste the service root with its version; the version is ours to add.
    let path = url.path().trim_end_matches('/').trim_end_matches("/beta").to_owned();
    url.set_path(&path);
    Some(url)
}

/// `[graph.credential]`: exactly one way.
fn credential(section: &mut Section, folder: &Path, base: Option<&Url>) -> Option<Credential> {
    let ways = [
        section.has("token") || section.has("token_file"),
        section.has("client_secret") || section.has("client_secret_file"),
        section.has("certificate"),
        section.has("federated_token_file"),
        section.has("managed_identity"),
    ];
    let token = section.secret("token", "token_file", folder);
    let client_secret = section.secret("client_secret", "client_secret_file", folder);
    let certificate = section.file("certificate").map(|file| folder.join(file));
    let key = section.file("key").map(|file| folder.join(file));
    let federated = section.file("federated_token_file").map(|file| folder.join(file));
    let managed = section.choice("managed_identity", &[("system", ()), ("user", ())]);
    let mutual_tls = section.flag("mutual_tls").unwrap_or(false);
    let styles = [("PS256", AssertionStyle::Ps256), ("RS256", AssertionStyle::Rs256)];
    let style = section.choice("assertion", &styles).unwrap_or_default();
    let send_chain = section.flag("send_chain").unwrap_or(false);
    let client_id = section.text("client_id");
    let tenant = section.text("tenant");
    let token_url = section.url("token_url");
    let scope = section.text("scope");
    let metadata_url = section.url("metadata_url");

    if ways.iter().filter(|way| **way).count() != 1 {
        section.problem(
            "token",
            None,
            "exactly one of token, token_file, client_secret, client_secret_file, certificate, \
             federated_token_file and managed_identity is needed",
        );
        return None;
    }
    if let Some(token) = token {
        return Some(Credential::Static(token));
    }
    let resource =
        base.map_or_else(|| GLOBAL.to_owned(), |base| base.origin().ascii_serialization());
    if managed.is_some() {
        let identity = client_id.map_or(ManagedIdentity::System, ManagedIdentity::ClientId);
        let url = metadata_url.or_else(|| Url::parse(INSTANCE_METADATA).ok())?;
        return Some(Credential::InstanceMetadata { url, resource, identity });
    }

    let url = match (token_url, tenant) {
        (Some(url), _) => url,
        (None, Some(tenant)) => Url::parse(&format!("{LOGIN}/{tenant}/oauth2/v2.0/token")).ok()?,
        (None, None) => {
            section.problem("tenant", None, "missing, and so is token_url: where are tokens had?");
            return None;
        }
    };
    let Some(client_id) = client_id else {
        section.problem("client_id", None, "missing; tokens are asked for as somebody");
        return None;
    };
    let scope = scope.unwrap_or_else(|| format!("{resource}/.default"));
    let endpoint = TokenEndpoint { url, client_id, scope };
    match (client_secret, certificate, key, federated) {
        (Some(secret), ..) => Some(Credential::ClientSecret { endpoint, secret }),
        (_, Some(certificate), Some(key), _) if mutual_tls => {
            Some(Credential::MutualTls { endpoint, certificate, key })
        }
        (_, Some(certificate), Some(key), _) => {
            Some(Credential::ClientCertificate { endpoint, certificate, key, style, send_chain })
        }
        (_, Some(_), None, _) => {
            section.problem("key", None, "missing; it is the certificate's");
            None
        }
        (.., Some(token_file)) => Some(Credential::WorkloadIdentity { endpoint, token_file }),
        _ => None,
    }
}
