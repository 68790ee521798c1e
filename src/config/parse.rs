//! Converts a TOML table into the `Config` of each part.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::{Table, Value};
use url::Url;

use crate::config::section::{Report, Section};
use crate::config::values::text;
use crate::config::{
    Config, Listener, Problem, admin, applications, directory, graph, oauth, rate_limits,
    revocation,
};
use crate::http::connections::Shares;
use crate::http::proxy_protocol::Proxies;
use crate::keyring::{self, RotationConfig};
use crate::oauth as oauth_plane;
use crate::runtime::hosts::ServedHosts;
use crate::runtime::log::{AuditWhenFull, Format, is_filter};
use crate::tls::acceptor::Bounds;
use crate::tls::algorithms::Algorithms;
use crate::tls::small_tickets::KnownCertificates;
use crate::tls::{self, ClientAuth, Resumption};
use crate::token::tenants::Tenants;
use crate::trust::snapshot::TrustPolicy;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

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
    let memory_limit = top.number("memory_limit", 32 * 1024 * 1024..=1 << 50);
    let reuse_port = top.flag("reuse_port").unwrap_or(false);
    let drain = top.duration("drain", SECOND..=HOUR).unwrap_or(30 * SECOND);
    let (log_filter, log_format, audit_when_full) = top.section("log", log);
    let tls = top.section("tls", |section| tls(section, folder));
    let (token, client_auth, close_refused) = top.section("token", token);
    let public = top.section("public", |section| listener(section, 8444));
    let oauth = oauth::read(top, folder);
    let revocation = revocation::read(top, folder, data_dir.as_deref());
    let trust = top.section("trust", trust);
    let trust = TrustPolicy { require_crl: revocation.require_crl, ..trust };
    let directory = directory::read(top, folder, oauth.as_ref().map(|oauth| oauth.policy.issuer()));
    let graph = graph::read(top, folder, data_dir.as_deref(), &|name| std::env::var(name).ok());
    let applications = oauth.as_ref().zip(graph.as_ref());
    let applications =
        applications.map(|(oauth, graph)| applications::sources(top, &oauth.policy, graph));
    let admin = admin::read(top, folder, data_dir.as_deref());
    let health = top.section("health", |section| section.address("listen"));
    let rate_limits = rate_limits::read(top);

    let data_dir = data_dir?;
    let oauth = oauth?;
    let graph = graph?;
    let tenants: Vec<_> = graph
        .iter()
        .map(|source| (Arc::clone(&source.source), source.credential.tenant()))
        .collect();
    let graph = graph.into_iter().chain(applications?).collect();
    let mut hosts = tls.config.hosts.clone();
    // Clients use these URLs, whatever the certificate names.
    let directory_url =
        directory.as_ref().and_then(|part| Url::parse(part.public_url.as_ref()?).ok());
    for url in [&oauth.token_url, &oauth.public_url].into_iter().chain(&directory_url) {
        hosts.add(url.host_str().unwrap_or_default().trim_matches(['[', ']']));
    }
    let mut plane = oauth_plane::Config::new(oauth.token_url, oauth.public_url);
    plane.report = client_auth == ClientAuth::Report;
    plane.rate_limits = rate_limits;
    let keys = oauth.keys;
    plane.jwks_max_age = keys.jwks_max_age;
    let rotation = keys.rotation.map(|(schedule, directory)| RotationConfig {
        schedule,
        directory: match directory {
            Some(directory) => folder.join(directory),
            None => data_dir.join("signing-keys"),
        },
        further: oauth.policy.signing_algorithms(),
    });
    Some(Config {
        origin: Default::default(),
        keyring: keyring::Config {
            certificate: tls.certificate?,
            key: tls.key?,
            generate_signing_key: keys.signing_key.is_none(),
            signing_key: match keys.signing_key {
                Some(file) => folder.join(file),
                None => data_dir.join("signing-key.pem"),
            },
            algorithm: keys.algorithm,
            rotation,
            published_keys: keys.published_keys.iter().map(|file| folder.join(file)).collect(),
            ticket_keys: tls.ticket_keys,
            allow_insecure_modes: false,
        },
        data_dir,
        log_filter,
        log_format,
        audit_when_full,
        tls: tls::Config { client_auth, hosts, ..tls.config },
        token,
        close_refused,
        public,
        oauth: plane,
        policy: Arc::new(oauth.policy.with_tenants(Tenants::new(&tenants))),
        trust,
        lists: revocation.lists,
        crl: revocation.crl,
        directory,
        graph,
        admin: admin?,
        drain_delay,
        reuse_port,
        memory_limit,
        health,
        drain,
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

/// Settings of `[tls]`.
struct TlsSettings {
    config: tls::Config,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    ticket_keys: Vec<PathBuf>,
}

fn tls(section: &mut Section<'_>, folder: &Path) -> TlsSettings {
    let file = |value: &Value| text(value).map(|path| folder.join(path));
    let certificate =
        section.require("certificate", "a PEM file with the server's certificate chain", file);
    let key = section.require("key", "a PEM file with the server's private key", file);
    let tls13_only =
        section.choice("minimum_version", &[("1.2", false), ("1.3", true)]).unwrap_or(false);
    let algorithms = algorithms(section, tls13_only);
    let resumption = section.choice("resumption", &Resumption::ALL).unwrap_or_default();
    let ticket_keys = section.texts("ticket_keys").unwrap_or_default();
    let ticket_keys: Vec<_> = ticket_keys.into_iter().map(|path| folder.join(path)).collect();
    if resumption == Resumption::Off && !ticket_keys.is_empty() {
        section.problem("ticket_keys", None, "not used while `resumption` is \"off\"; remove one");
    }
    let default = if ticket_keys.is_empty() { tls::DEFAULT_LEAVES } else { 0 };
    let leaves = section.size("ticket_certificates", 0..=10_000_000).unwrap_or(default);
    let known_certificates = KnownCertificates::new(leaves);
    let mut hosts = ServedHosts::default();
    for name in section.texts("names").unwrap_or_default() {
        if !hosts.add(&name) {
            let allowed = "not a host name, a wildcard such as *.example.com, or an IP address";
            section.problem("names", Some(format!("`{name}`")), allowed);
        }
    }
    let config = tls::Config {
        tls13_only,
        algorithms,
        resumption,
        known_certificates,
        hosts,
        ..tls::Config::default()
    };
    TlsSettings { config, certificate, key, ticket_keys }
}

fn algorithms(section: &mut Section<'_>, tls13_only: bool) -> Algorithms {
    let mut algorithms = Algorithms::default();
    let suites = section.texts("cipher_suites");
    let groups = section.texts("groups");
    let suites = suites.map(|names| {
        algorithms.set_suites(&names).and_then(|()| algorithms.check_suites(tls13_only))
    });
    let groups = groups.map(|names| {
        algorithms.set_groups(&names).and_then(|()| algorithms.check_groups(tls13_only))
    });
    for (key, checked) in [("cipher_suites", suites), ("groups", groups)] {
        if let Some(Err(error)) = checked {
            section.problem(key, None, error.to_string());
        }
    }
    algorithms
}

fn token(section: &mut Section<'_>) -> (Listener, ClientAuth, bool) {
    let modes = [("required", ClientAuth::Required), ("report", ClientAuth::Report)];
    let client_auth = section.choice("client_auth", &modes).unwrap_or_default();
    let close_refused = section.flag("close_refused").unwrap_or(false);
    if close_refused && client_auth == ClientAuth::Report {
        let allowed = "client_auth = \"report\" keeps connections of refused devices open, to answer \
                       with the refusal";
        section.problem("close_refused", Some("`true`".to_owned()), allowed);
    }
    (listener(section, 8443), client_auth, close_refused)
}

fn listener(section: &mut Section<'_>, port: u16) -> Listener {
    let listen = section
        .address("listen")
        .unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    let mut bounds = Bounds::default();
    let handshake = section.duration("handshake", SECOND..=MINUTE);
    bounds.handshake = handshake.unwrap_or(bounds.handshake);
    let connections = section.size("connections", 1..=1_000_000);
    let mut shares = connections.map_or(bounds.shares, Shares::new);
    let per_address = section.size("connections_per_address", 1..=1_000_000);
    shares.per_address = per_address.unwrap_or(shares.per_address);
    let per_device = section.size("connections_per_device", 1..=1_000_000);
    shares.per_certificate = per_device.unwrap_or(shares.per_certificate);
    shares.proxies = proxies(section);
    bounds.shares = shares;
    let queue = section.duration("handshake_queue", Duration::from_millis(50)..=MINUTE);
    bounds.handshake_queue = queue.unwrap_or(bounds.handshake_queue);
    let handshakes = section.size("handshakes", 1..=100_000);
    bounds.handshakes = handshakes.unwrap_or(bounds.handshakes);
    let per_address = section.size("handshakes_per_address", 1..=100_000);
    bounds.handshakes_per_address = per_address.unwrap_or(bounds.handshakes.div_ceil(4));
    let http = &mut bounds.http;
    http.header_read = section.duration("header_read", SECOND..=MINUTE).unwrap_or(http.header_read);
    http.idle = section.duration("idle", SECOND..=HOUR).unwrap_or(http.idle);
    http.request = section.duration("request", SECOND..=HOUR).unwrap_or(http.request);
    let header_bytes = section.size("header_bytes", 8 * 1024..=1024 * 1024);
    http.header_bytes = header_bytes.unwrap_or(http.header_bytes);
    Listener { listen, bounds }
}

fn proxies(section: &mut Section<'_>) -> Proxies {
    let mut networks = Vec::new();
    for text in section.texts("proxy_protocol_from").unwrap_or_default() {
        match Proxies::network(&text) {
            Some(network) => networks.push(network),
            None => {
                let allowed = "it must be a network such as 10.0.0.0/8 or 2001:db8::/32, without \
                               bits after the prefix, or an address";
                section.problem("proxy_protocol_from", Some(format!("`{text}`")), allowed);
            }
        }
    }
    Proxies::new(networks)
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
