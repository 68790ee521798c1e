//! Converts a TOML table into the `Config` of each part.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Table;
use url::Url;

use crate::config::listeners::{self, UNUSED_IN_HUB};
use crate::config::oauth::OauthSettings;
use crate::config::section::{Report, Section};
use crate::config::tls::{self, TlsSettings};
use crate::config::values::text;
use crate::config::{
    Config, DirectoryPart, Listener, Problem, admin, applications, audit, directory, graph, oauth,
    rate_limits, revocation,
};
use crate::keyring::{self, RotationConfig};
use crate::oauth as oauth_plane;
use crate::oauth::rates::RateLimits;
use crate::runtime::hosts::ServedHosts;
use crate::runtime::log::{AuditWhenFull, Format, is_filter};
use crate::runtime::secret_files::FileModes;
use crate::sync;
use crate::tls::{self as tls_part, ClientAuth};
use crate::token::policy::TokenPolicy;
use crate::token::tenants::Tenants;
use crate::trust::snapshot::TrustPolicy;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Reads all settings.  Relative paths are relative to `folder`.
pub(super) fn parse(table: Table, folder: &Path) -> Result<Config, Vec<Problem>> {
    let (config, problems, _) = parse_recording(table, folder);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

/// Like [`parse`], and returns the keys that the reader asked for.
pub(super) fn parse_recording(
    table: Table,
    folder: &Path,
) -> (Option<Config>, Vec<Problem>, BTreeSet<String>) {
    let report = Report::default();
    let mut top = Section::top(table, &report);
    let mut config = read(&mut top, folder);
    top.finish();
    if let Some(config) = &mut config {
        config.origin.files = report.files();
    }
    let (problems, keys) = report.into_parts();
    (config, problems, keys)
}

/// Returns `None` only after a problem was noted.
fn read(top: &mut Section<'_>, folder: &Path) -> Option<Config> {
    let data_dir = top.require("data_dir", "the directory that contains the state", |value| {
        text(value).map(PathBuf::from)
    });
    let data_dir = data_dir.map(|dir| folder.join(dir));
    let drain_delay = top.duration("drain_delay", Duration::ZERO..=10 * MINUTE);
    let drain_delay = drain_delay.unwrap_or(Duration::from_millis(500));
    let unwritable_limit = top.duration("unwritable_limit", MINUTE..=365 * DAY).unwrap_or(HOUR);
    let memory_limit = top.number("memory_limit", 32 * 1024 * 1024..=1 << 50);
    let reuse_port = top.flag("reuse_port").unwrap_or(false);
    let drain = top.duration("drain", SECOND..=HOUR).unwrap_or(30 * SECOND);
    let (log_filter, log_format, audit_when_full) = top.section("log", log);
    let audit = audit::read(top, folder);
    let tls = top.section("tls", |section| tls::read(section, folder));
    // A directory without anything that issues tokens or follows a directory.
    let is_hub = top.has("directory") && !top.has("oauth") && !top.has("graph");
    if is_hub {
        note_unused(top);
    }
    let (token, client_auth, close_refused) = top.section("token", listeners::token);
    let public = top.section("public", |section| listeners::public(section, is_hub));
    let oauth = if is_hub { None } else { oauth::read(top, folder) };
    let revocation = revocation::read(top, folder, data_dir.as_deref());
    let trust = top.section("trust", trust);
    let trust = TrustPolicy { require_crl: revocation.require_crl, ..trust };
    let directory = directory::read(top, folder, oauth.as_ref().map(|oauth| oauth.policy.issuer()));
    let graph = graph::read(top, folder, data_dir.as_deref(), &|name| std::env::var(name).ok());
    let applications = oauth.as_ref().zip(graph.as_ref());
    let applications =
        applications.map(|(oauth, graph)| applications::sources(top, &oauth.policy, graph));
    let admin = admin::read(top, folder, data_dir.as_deref());
    let (health, health_is_set) = health(top);
    let rate_limits = rate_limits::read(top);
    let of_tokens = |listener: &Listener| (!is_hub).then_some(listener.listen);
    let addresses = [
        ("token.listen", of_tokens(&token)),
        ("public.listen", of_tokens(&public)),
        ("directory.listen", directory.as_ref().and_then(|part| part.listen)),
        ("directory.listen_http", directory.as_ref().and_then(|part| part.listen_http)),
        ("admin.listen", admin.as_ref().map(|admin| admin.listen)),
        // Without the setting, the gateway starts also if the default is taken.
        ("health.listen", health.filter(|_| health_is_set)),
    ];
    listeners::check_addresses(top, &addresses);

    let data_dir = data_dir?;
    let graph = graph?;
    let hosts = hosts(tls.config.hosts.clone(), oauth.as_ref(), directory.as_ref());
    let keyring = keyring(&tls, oauth.as_ref(), folder, &data_dir)?;
    let (oauth, policy, graph) = match oauth {
        Some(oauth) => {
            let plane = plane(&oauth, client_auth, rate_limits);
            let policy = oauth.policy.with_tenants(tenants(&graph));
            (Some(plane), policy, graph.into_iter().chain(applications?).collect())
        }
        None if is_hub => (None, TokenPolicy::default(), graph),
        None => return None,
    };
    let mut config = Config {
        origin: Default::default(),
        keyring,
        data_dir,
        log_filter,
        log_format,
        audit_when_full,
        audit,
        tls: tls_part::Config { client_auth, hosts, ..tls.config },
        token,
        close_refused,
        public,
        oauth,
        policy: Arc::new(policy),
        trust,
        lists: revocation.lists,
        crl: revocation.crl,
        directory,
        graph,
        admin: admin?,
        drain_delay,
        unwritable_limit,
        reuse_port,
        memory_limit,
        health,
        health_is_set,
        drain,
    };
    config.keyring.file_modes = config.file_modes();
    Some(config)
}

/// Returns the address of the health listener, and whether the file names it.
fn health(top: &mut Section<'_>) -> (Option<SocketAddr>, bool) {
    let named = top.section("health", |section| section.address_or_off("listen"));
    let default = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8081));
    (named.unwrap_or(Some(default)), named.is_some())
}

/// Notes the tables that a hub does not use.
fn note_unused(top: &mut Section<'_>) {
    for key in ["token", "client", "configuration", "rate_limits"] {
        if top.has(key) {
            top.problem(key, None, UNUSED_IN_HUB);
        }
    }
    // `oauth::read` and its clients are not asked for in a hub.
    let _ = top.take("client", "an array of tables", |_| Some(()));
}

/// Hosts that requests may be for.  Clients use these URLs, whatever the certificate names.
fn hosts(
    mut hosts: ServedHosts,
    oauth: Option<&OauthSettings>,
    directory: Option<&DirectoryPart>,
) -> ServedHosts {
    let directory = directory.and_then(|part| Url::parse(part.public_url.as_ref()?).ok());
    let of_tokens = oauth.into_iter().flat_map(|oauth| [&oauth.token_url, &oauth.public_url]);
    for url in of_tokens.chain(&directory) {
        hosts.add(url.host_str().unwrap_or_default().trim_matches(['[', ']']));
    }
    hosts
}

/// The trust domains that a request can select.
fn tenants(graph: &[sync::Config]) -> Tenants {
    let tenants: Vec<_> = graph
        .iter()
        .map(|source| (Arc::clone(&source.source), source.credential.tenant()))
        .collect();
    Tenants::new(&tenants)
}

fn plane(
    oauth: &OauthSettings,
    client_auth: ClientAuth,
    rate_limits: RateLimits,
) -> oauth_plane::Config {
    oauth_plane::Config {
        report: client_auth == ClientAuth::Report,
        rate_limits,
        jwks_max_age: oauth.keys.jwks_max_age,
        ..oauth_plane::Config::new(oauth.token_url.clone(), oauth.public_url.clone())
    }
}

/// Locations of the key files.  Without `oauth`, nothing is signed.
fn keyring(
    tls: &TlsSettings,
    oauth: Option<&OauthSettings>,
    folder: &Path,
    data_dir: &Path,
) -> Option<keyring::Config> {
    let keys = oauth.map(|oauth| &oauth.keys);
    let signing_key = keys.and_then(|keys| keys.signing_key.as_ref());
    let rotation = oauth.and_then(|oauth| {
        let (schedule, directory) = oauth.keys.rotation.as_ref()?;
        Some(RotationConfig {
            schedule: *schedule,
            directory: match directory {
                Some(directory) => folder.join(directory),
                None => data_dir.join("signing-keys"),
            },
            further: oauth.policy.signing_algorithms(),
        })
    });
    let published = keys.map(|keys| &*keys.published_keys).unwrap_or_default();
    Some(keyring::Config {
        certificate: tls.certificate.clone()?,
        key: tls.key.clone()?,
        signs: oauth.is_some(),
        generate_signing_key: oauth.is_some() && signing_key.is_none(),
        signing_key: match signing_key {
            Some(file) => folder.join(file),
            None => data_dir.join("signing-key.pem"),
        },
        algorithm: keys.map(|keys| keys.algorithm).unwrap_or_default(),
        rotation,
        published_keys: published.iter().map(|file| folder.join(file)).collect(),
        ticket_keys: tls.ticket_keys.clone(),
        file_modes: FileModes::Strict,
    })
}

fn log(section: &mut Section<'_>) -> (String, Format, AuditWhenFull) {
    let filter = section.take("filter", "tracing directives such as info,audit=info", |value| {
        text(value).filter(|text| is_filter(text))
    });
    let formats = [("text", Format::Text), ("json", Format::Json)];
    let format = section.choice("format", &formats).unwrap_or_default();
    let choices = [("drop", AuditWhenFull::Drop), ("block", AuditWhenFull::Block)];
    let audit_when_full = section.choice("audit_when_full", &choices).unwrap_or_default();
    (filter.unwrap_or_else(|| "info".to_owned()), format, audit_when_full)
}

fn trust(section: &mut Section<'_>) -> TrustPolicy {
    let default = TrustPolicy::default();
    TrustPolicy {
        intermediate_anchors: section.flag("intermediate_anchors").unwrap_or(false),
        anchor_validity: section.flag("anchor_validity").unwrap_or(true),
        anchor_constraints: section.flag("anchor_constraints").unwrap_or(true),
        require_client_auth: section.flag("require_client_auth").unwrap_or(false),
        not_before_tolerance: section
            .duration("not_before_tolerance", Duration::ZERO..=5 * MINUTE)
            .map_or(0, |tolerance| i64::try_from(tolerance.as_secs()).unwrap_or(0)),
        max_path: section.size("max_path", 2..=10).unwrap_or(default.max_path),
        ..default
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr};

    const MINIMAL: &str = r#"
        data_dir = "state"
        [tls]
        certificate = "server.pem"
        key = "server.key"
        [oauth]
        issuer = "https://gw.example"
        token_url = "https://mtls.gw.example:8443"
        audience = "https://api.example"
        scopes = ["a"]
        default_scopes = ["a"]
    "#;

    fn problems(text: &str) -> Vec<String> {
        match parse(text.parse().expect("TOML"), Path::new("/etc/anchorgate")) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn accepts_a_minimal_configuration_with_paths_relative_to_its_file() {
        let config = parse(MINIMAL.parse().expect("TOML"), Path::new("/etc/anchorgate"))
            .unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!(config.keyring.certificate, Path::new("/etc/anchorgate/server.pem"));
        assert_eq!(config.keyring.signing_key, Path::new("/etc/anchorgate/state/signing-key.pem"));
        assert_eq!(config.token.listen.port(), 8443);
        assert_eq!(config.admin.listen, SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)));
        assert!(config.directory.is_none());
    }

    /// A directory with one token.
    const DIRECTORY: &str = "[directory]\nlisten_http = '127.0.0.1:8446'\n[[directory.tokens]]\n\
        permissions = []\n\
        sha256 = '0000000000000000000000000000000000000000000000000000000000000000'\n";

    #[test]
    fn a_directory_alone_is_a_hub() {
        let (tls, oauth) = MINIMAL.split_once("[oauth]").expect("a section");
        let hub = format!("{tls}\n{DIRECTORY}");
        let config = parse(hub.parse().expect("TOML"), Path::new("/etc/anchorgate"));
        let config = config.unwrap_or_else(|problems| panic!("{problems:?}"));
        assert!(config.is_hub() && !config.keyring.signs && config.graph.is_empty());
        assert_eq!(problems(&format!("{hub}[public]\nconnections = 100")), [""; 0]);
        for unused in ["[public]\nlisten = '0.0.0.0:1'", "[token]", "[[client]]\nid = 'x'"] {
            let found = problems(&format!("{hub}{unused}"));
            assert!(found.len() == 1 && found[0].contains("this is a hub"), "{unused}: {found:?}");
        }
        // With a directory to follow, the issuer is missing; with an issuer, it is not a hub.
        let found = problems(&format!("{hub}[[graph]]\ncredential.token = 'x'"));
        assert!(found.iter().any(|p| p.starts_with("oauth.issuer: missing")), "{found:?}");
        let both = format!("{tls}[oauth]{oauth}\n{DIRECTORY}");
        let both = parse(both.parse().expect("TOML"), Path::new("/etc/anchorgate"));
        assert!(both.is_ok_and(|config| !config.is_hub()));
    }

    #[test]
    fn reports_every_problem_at_once() {
        let text = format!(
            "drain = 'never'\n{MINIMAL}\n[token]\nclient_auth = 'maybe'\n[admin]\nlisten = \
             '0.0.0.0:9090'\n[directory]\nlisten_http = '10.0.0.1:80'\n[revocation]\ngrace = \
             '40d'\nspelt = 1\n[[client]]\nid = 'meter'\nconfigurations = []\nsubjects = ['x']"
        );
        let found = problems(&text);
        for key in [
            "drain:",
            "token.client_auth:",
            "admin.listen:",
            "directory.listen_http:",
            "directory.tokens:",
            "revocation.grace:",
            "revocation.spelt: unknown key",
            "client[0].configurations:",
            "client[0].subject_field:",
        ] {
            assert!(found.iter().any(|p| p.starts_with(key)), "{key} is not in {found:#?}");
        }
        assert_eq!(found.len(), 9, "{found:#?}");
    }

    #[test]
    fn a_load_balancer_is_a_network_or_an_address() {
        let token =
            |value: &str| problems(&format!("{MINIMAL}\n[token]\nproxy_protocol_from = {value}"));
        assert!(token("['10.0.0.0/8', '2001:db8::1']").is_empty());
        let found = token("['10.0.0.1/8', 'balancer']");
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[0].starts_with("token.proxy_protocol_from: `10.0.0.1/8` is not allowed"));
    }

    #[test]
    fn checks_the_algorithms_of_tls_against_the_versions() {
        let tls = |lines: &str| problems(&MINIMAL.replace("[tls]", &format!("[tls]\n{lines}")));
        let suite = "cipher_suites = ['TLS_AES_128_GCM_SHA256']";
        let tls13 = format!("minimum_version = '1.3'\n{suite}\ngroups = ['X25519MLKEM768']");
        assert!(tls(&tls13).is_empty());
        let without_tls12 = "none of them is usable with TLS 1.2, which `minimum_version` allows";
        assert_eq!(
            tls(&format!("{suite}\ngroups = ['X25519MLKEM768']")),
            [format!("tls.cipher_suites: {without_tls12}"), format!("tls.groups: {without_tls12}")]
        );
        let unknown = tls("groups = ['x448']");
        assert!(unknown[0].starts_with("tls.groups: `x448` is not supported; supported: X25519"));
        assert_eq!(tls("groups = []")[0], "tls.groups: none of them is usable with TLS 1.3");
    }

    /// The issuer is missing, and the rest of the policy is checked.
    #[test]
    fn no_problem_of_the_policy_hides_another() {
        let text = format!(
            "{}\n[[client]]\nid = 'meter'\nconfigurations = ['c']\naudience = 'x:y z'",
            MINIMAL.replace("issuer", "#").replace("[\"a\"]", "[\"a b\"]")
        );
        let found = problems(&text);
        for expected in
            ["oauth.issuer: missing", "`a b` is not a scope token", "`x:y z` is neither"]
        {
            assert!(found.iter().any(|p| p.contains(expected)), "{expected} is not in {found:#?}");
        }
    }

    #[test]
    fn checks_the_rotation_against_token_life_and_caches() {
        let with = |keys: &str| problems(&format!("{MINIMAL}\n{keys}"));
        assert_eq!(with("[oauth.rotation]"), [""; 0], "the defaults fit together");
        assert_eq!(with("[oauth.rotation]\npublish_ahead = '305s'\nretire_after = '5m'"), [""; 0]);
        for (keys, expected) in [
            ("[oauth.rotation]\npublish_ahead = '304s'", "oauth.rotation.publish_ahead: 304s"),
            ("[oauth.rotation]\nretire_after = '299s'", "oauth.rotation.retire_after: 299s"),
            ("[oauth.rotation]\nevery = '1d'", "oauth.rotation.every: 86400s is not longer"),
            (
                "[oauth.rotation]\nretire_after = '365d'\nevery = '10d'",
                "oauth.rotation.every: 864000s would publish 38 keys",
            ),
            (
                "published_keys = ['a']\n[oauth.rotation]",
                "oauth.published_keys: not used with `oauth.rotation`",
            ),
            (
                "[[client]]\nid = 'c'\nconfigurations = ['c']\nsigning_algorithm = 'RS256'",
                "client.signing_algorithm: \"RS256\" is not allowed; a client can have another",
            ),
        ] {
            let found = with(keys);
            assert!(found.len() == 1 && found[0].starts_with(expected), "{expected}: {found:#?}");
        }
    }

    #[test]
    fn the_fapi2_profile_refuses_rs256() {
        let with = |keys: &str| {
            let oauth = format!("[oauth]\nprofile = 'fapi2'\n{keys}");
            problems(&MINIMAL.replace("[oauth]", &oauth))
        };
        assert_eq!(with("signing_algorithm = 'PS256'"), [""; 0]);
        let found = with("signing_algorithm = 'RS256'");
        assert!(found.len() == 1 && found[0].starts_with("oauth.signing_algorithm: `RS256`"));
    }

    #[test]
    fn an_unknown_top_level_key_is_reported_with_the_known_ones() {
        let found = problems(&format!("spelt = 1\n{MINIMAL}"));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains("directory") && found[0].contains("graph"), "{found:?}");
    }

    #[test]
    fn accepts_the_example_except_for_the_files_it_names() {
        let text = include_str!("../../deploy/config.example.toml");
        let found = problems(text);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with("graph[0].credential.client_secret_file:"), "{found:?}");
    }

    #[test]
    fn an_empty_file_is_answered_with_the_required_keys() {
        let found = problems("");
        for key in ["data_dir:", "tls.certificate:", "tls.key:", "oauth.issuer:"] {
            assert!(found.iter().any(|p| p.starts_with(key)), "{key} is not in {found:#?}");
        }
    }
}
