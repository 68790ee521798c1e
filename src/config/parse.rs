//! From a TOML table to each part's own `Config`.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use toml::{Table, Value};
use url::Url;

use crate::config::read::{Problems, Section, text, url};
use crate::config::{
    Config, DirectoryPart, Listener, Problem, admin, applications, graph, oauth, revocation,
};
use crate::directory;
use crate::directory::auth::{Permission, StaticToken};
use crate::directory::issuers::{Issuer, KeySource};
use crate::keyring;
use crate::oauth as oauth_plane;
use crate::runtime::log::Format;
use crate::store::Database;
use crate::tls::acceptor::Bounds;
use crate::tls::{self, ClientAuth};
use crate::trust::snapshot::TrustPolicy;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// Reads all settings; relative paths are relative to `folder`.
pub fn parse(table: Table, folder: &Path) -> Result<Config, Vec<Problem>> {
    let problems = Problems::default();
    let config = {
        let mut top = Section::top(table, &problems);
        read(&mut top, folder)
    };
    let problems = Rc::try_unwrap(problems).map(RefCell::into_inner).unwrap_or_default();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

/// `None` only after a problem was noted.
fn read(top: &mut Section, folder: &Path) -> Option<Config> {
    let data_dir = top.require("data_dir", "the directory that state is kept in", |value| {
        text(value).map(PathBuf::from)
    });
    let data_dir = data_dir.map(|dir| folder.join(dir));
    let drain = top.duration("drain", SECOND..=HOUR).unwrap_or(30 * SECOND);
    let (log_filter, log_format) = log(top);
    let (tls, certificate, ticket_keys) = tls(top, folder);
    let (token, client_auth, close_refused) = token(top);
    let public = listener(&mut top.section("public"), 8444);
    let oauth = oauth::read(top, folder);
    let revocation = revocation::read(top, folder, data_dir.as_deref());
    let trust = TrustPolicy { require_crl: revocation.require_crl, ..trust(top) };
    let directory = directory(top, folder);
    let graph = graph::read(top, folder, data_dir.as_deref(), &|name| std::env::var(name).ok());
    let followed = oauth.as_ref().zip(graph.as_ref());
    let followed = followed.map(|(o, graph)| applications::sources(top, &o.policy, graph));
    let admin = admin::read(top);

    let data_dir = data_dir?;
    let oauth = oauth?;
    let graph = graph?.into_iter().chain(followed?).collect();
    let (certificate, key) = certificate?;
    let mut plane = oauth_plane::Config::new(oauth.token_url, oauth.public_url);
    plane.report = client_auth == ClientAuth::Report;
    Some(Config {
        keyring: keyring::Config {
            certificate,
            key,
            make_signing_key: oauth.signing_key.is_none(),
            signing_key: match oauth.signing_key {
                Some(file) => folder.join(file),
                None => data_dir.join("signing-key.pem"),
            },
            algorithm: oauth.algorithm,
            published_keys: oauth.published_keys.iter().map(|file| folder.join(file)).collect(),
            ticket_keys,
        },
        data_dir,
        log_filter,
        log_format,
        tls: tls::Config { client_auth, ..tls },
        token,
        close_refused,
        public,
        oauth: plane,
        policy: Arc::new(oauth.policy),
        trust,
        lists: revocation.lists,
        crl: revocation.crl,
        directory: directory?,
        graph,
        admin: admin?,
        drain,
    })
}

fn log(top: &mut Section) -> (String, Format) {
    let mut section = top.section("log");
    let filter = section.take("filter", "tracing directives such as info,audit=info", |value| {
        text(value).filter(|text| crate::runtime::log::is_filter(text))
    });
    let formats = [("text", Format::Text), ("json", Format::Json)];
    let format = section.choice("format", &formats).unwrap_or_default();
    (filter.unwrap_or_else(|| "info".to_owned()), format)
}

type Tls = (tls::Config, Option<(PathBuf, PathBuf)>, Vec<PathBuf>);

fn tls(top: &mut Section, folder: &Path) -> Tls {
    let mut section = top.section("tls");
    let file = |value: &Value| text(value).map(|path| folder.join(path));
    let certificate =
        section.require("certificate", "a PEM file with the server's certificate chain", file);
    let key = section.require("key", "a PEM file with the server's private key", file);
    let tls13_only =
        section.choice("minimum_version", &[("1.2", false), ("1.3", true)]).unwrap_or(false);
    let no_resumption = section.flag("resumption") == Some(false);
    let ticket_keys: Vec<PathBuf> = section
        .texts("ticket_keys")
        .unwrap_or_default()
        .into_iter()
        .map(|path| folder.join(path))
        .collect();
    if no_resumption && !ticket_keys.is_empty() {
        section.problem("ticket_keys", None, "nothing where `resumption` is false");
    }
    let config = tls::Config { tls13_only, no_resumption, ..tls::Config::default() };
    (config, certificate.zip(key), ticket_keys)
}

fn token(top: &mut Section) -> (Listener, ClientAuth, bool) {
    let mut section = top.section("token");
    let modes = [("required", ClientAuth::Required), ("report", ClientAuth::Report)];
    let client_auth = section.choice("client_auth", &modes).unwrap_or_default();
    let close_refused = section.flag("close_refused").unwrap_or(false);
    if close_refused && client_auth == ClientAuth::Report {
        let why = "client_auth = \"report\" is to tell refused devices why, on open connections";
        section.problem("close_refused", Some("`true`".to_owned()), why);
    }
    (listener(&mut section, 8443), client_auth, close_refused)
}

fn listener(section: &mut Section, port: u16) -> Listener {
    let default = Bounds::default();
    let listen = section
        .address("listen")
        .unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    let mut bounds = Bounds {
        handshake: section.duration("handshake", SECOND..=MINUTE).unwrap_or(default.handshake),
        connections: section
            .number("connections", 1..=1_000_000)
            .map_or(default.connections, |n| n as usize),
        handshakes: section
            .number("handshakes", 1..=100_000)
            .map_or(default.handshakes, |n| n as usize),
        handshakes_per_address: default.handshakes_per_address,
        http: default.http,
    };
    let per_address = section.number("handshakes_per_address", 1..=100_000);
    bounds.handshakes_per_address =
        per_address.map_or(bounds.handshakes.div_ceil(4), |n| n as usize);
    let http = &mut bounds.http;
    http.header_read = section.duration("header_read", SECOND..=MINUTE).unwrap_or(http.header_read);
    http.idle = section.duration("idle", SECOND..=HOUR).unwrap_or(http.idle);
    http.request = section.duration("request", SECOND..=HOUR).unwrap_or(http.request);
    http.header_bytes = section
        .number("header_bytes", 8 * 1024..=1024 * 1024)
        .map_or(http.header_bytes, |n| n as usize);
    Listener { listen, bounds }
}

fn trust(top: &mut Section) -> TrustPolicy {
    let default = TrustPolicy::default();
    let mut section = top.section("trust");
    TrustPolicy {
        intermediate_anchors: section.flag("intermediate_anchors").unwrap_or(false),
        anchor_validity: section.flag("anchor_validity").unwrap_or(true),
        anchor_constraints: section.flag("anchor_constraints").unwrap_or(true),
        require_client_auth: section.flag("require_client_auth").unwrap_or(false),
        max_path: section.number("max_path", 2..=10).map_or(default.max_path, |n| n as usize),
        ..default
    }
}

/// `Some(None)`: no embedded directory.
fn directory(top: &mut Section, folder: &Path) -> Option<Option<DirectoryPart>> {
    if !top.has("directory") {
        // Asked for all the same, so that it is among the known keys.
        drop(top.section("directory"));
        return Some(None);
    }
    let mut section = top.section("directory");
    let listen = section.address("listen");
    let listen_http = section.address("listen_http");
    if let Some(address) = listen_http.filter(|address| !address.ip().is_loopback()) {
        let allowed = "plain HTTP is for loopback only; use `listen` for other addresses";
        section.problem("listen_http", Some(format!("`{address}`")), allowed);
    }
    if listen.is_none() && listen_http.is_none() {
        section.problem("listen", None, "missing, and so is listen_http: nobody could reach it");
    }
    let named = section.has("public_url");
    let public_url = section.take("public_url", SERVED_AT, served_at).map(|url| url.to_string());
    if listen.is_some() && !named {
        section.problem("public_url", None, "missing; links in answers are made of it");
    }
    let database = database(&mut section, folder);
    let mut config = directory::Config::default();
    if let Some(size) = section.number("page_size", 1..=999) {
        config.page_size = size as usize;
    }
    config.tokens = section.sections("tokens").iter_mut().filter_map(static_token).collect();
    config.issuers =
        section.sections("issuers").iter_mut().filter_map(|s| issuer(s, folder)).collect();
    if config.tokens.is_empty() && config.issuers.is_empty() {
        let allowed = "missing, and so is issuers: nobody may read or write";
        section.problem("tokens", None, allowed);
    }
    Some(Some(DirectoryPart { listen, listen_http, public_url, database, config }))
}

/// `None`: the directory is kept in a file of its own.  A URL may hold a password and is not told back.
fn database(section: &mut Section, folder: &Path) -> Option<Database> {
    let key = if section.has("database_url") { "database_url" } else { "database_url_file" };
    let url = section.secret("database_url", "database_url_file", folder)?;
    Database::parse(url.expose())
        .map_err(|error| section.problem(key, None, error.to_string()))
        .ok()
}

fn issuer(section: &mut Section, folder: &Path) -> Option<Issuer> {
    let issuer = section.text("issuer");
    if issuer.is_none() {
        section.problem("issuer", None, "missing; the `iss` of its tokens is expected");
    }
    let audiences = section.texts("audiences").unwrap_or_default();
    if audiences.is_empty() {
        section.problem("audiences", None, "missing; the `aud` values of its tokens are expected");
    }
    let keys = match (section.file("jwks_file"), section.url("jwks_url")) {
        (Some(file), None) => Some(KeySource::File(folder.join(file))),
        (None, Some(url)) => Some(KeySource::Url(url)),
        _ => {
            section.problem("jwks_url", None, "exactly one of jwks_url and jwks_file is needed");
            None
        }
    };
    let ca_bundle = match section.file("ca_bundle") {
        None => None,
        Some(file) => Some(section.read("ca_bundle", &folder.join(file))?),
    };
    Some(Issuer { issuer: issuer?, audiences, keys: keys?, ca_bundle })
}

const SERVED_AT: &str = "an absolute http or https URL without `/beta`, which is put behind it";

/// Where clients reach the directory.  Its links are this with a path behind it.
fn served_at(value: &Value) -> Option<Url> {
    let url = url(value)?;
    let beta = url.path().trim_end_matches('/').to_ascii_lowercase().ends_with("/beta");
    (!beta && url.query().is_none() && url.fragment().is_none()).then_some(url)
}

fn static_token(section: &mut Section) -> Option<StaticToken> {
    let name = section.text("name");
    let sha256 = section.require("sha256", "the SHA-256 of a token, 64 hexadecimal digits", |v| {
        revocation::hex(v.as_str()?)?.try_into().ok()
    });
    let names = Permission::ALL.map(Permission::as_str).join(", ");
    let permissions =
        section.require("permissions", &format!("a list of permissions out of {names}"), |value| {
            value.as_array()?.iter().map(|name| Permission::parse(name.as_str()?)).collect()
        });
    let sha256 = sha256?;
    let sha256: [u8; 32] = sha256;
    let short: String = sha256[..4].iter().map(|b| format!("{b:02x}")).collect();
    let name = name.unwrap_or_else(|| format!("token {short}"));
    Some(StaticToken { name, sha256, permissions: permissions? })
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
    fn the_least_configuration_is_enough_and_paths_follow_the_file() {
        let config = parse(MINIMAL.parse().expect("TOML"), Path::new("/etc/anchorgate"))
            .unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!(config.keyring.certificate, Path::new("/etc/anchorgate/server.pem"));
        assert_eq!(config.keyring.signing_key, Path::new("/etc/anchorgate/state/signing-key.pem"));
        assert_eq!(config.token.listen.port(), 8443);
        assert_eq!(config.admin.listen, SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)));
        assert!(config.directory.is_none());
    }

    #[test]
    fn every_problem_is_told_at_once() {
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

    /// A problem of one part hides none of another: the issuer is missing, and all else is looked at.
    #[test]
    fn no_problem_of_the_policy_hides_another() {
        let text = format!(
            "{}\n[[client]]\nid = 'meter'\nconfigurations = ['c']\naudience = 'x:y z'",
            MINIMAL.replace("issuer", "#").replace("[\"a\"]", "[\"a b\"]")
        );
        let found = problems(&text);
        for told in ["oauth.issuer: missing", "`a b` is no scope token", "`x:y z` is neither"] {
            assert!(found.iter().any(|p| p.contains(told)), "{told} is not in {found:#?}");
        }
    }

    #[test]
    fn a_database_is_named_by_url_or_by_file_and_its_password_not_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = |keys: &str| {
            let directory = "listen_http = '127.0.0.1:0'\ntokens = [{ sha256 = ";
            let token = format!("'{}', permissions = [] }}]", "0".repeat(64));
            let text = format!("{MINIMAL}\n[directory]\n{directory}{token}\n{keys}");
            parse(text.parse().expect("TOML"), folder.path())
                .map(|config| config.directory.and_then(|d| d.database).map(|d| d.to_string()))
                .map_err(|problems| problems.iter().map(ToString::to_string).collect::<String>())
        };
        std::fs::write(folder.path().join("url"), "postgres://hub:hunter2@db.example/d\n")
            .expect("a file");
        let expected = Ok(Some("db.example:5432/d".to_owned()));
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("database_url = 'postgres://hub:hunter2@db.example/d'"), expected);
        assert_eq!(read("database_url_file = 'url'"), expected);
        for (keys, key) in [
            ("database_url = 'hunter2'", "directory.database_url: "),
            ("database_url = 7", "directory.database_url: "),
            ("database_url_file = 'none'", "directory.database_url_file: "),
            (
                "database_url_file = 'url'\ndatabase_url = 'hunter2'",
                "directory.database_url_file: ",
            ),
        ] {
            let problem = read(keys).expect_err(keys);
            assert!(problem.starts_with(key) && !problem.contains("hunter2"), "{keys}: {problem}");
        }
    }

    /// Links are made of it: with `/beta` in it, every one would have that twice.
    #[test]
    fn the_directorys_public_url_is_what_links_begin_with() {
        let told = |url: &str| {
            let directory =
                format!("listen = '127.0.0.1:0'\npublic_url = '{url}'\n[[directory.tokens]]");
            let token = format!("sha256 = '{}'\npermissions = []", "0".repeat(64));
            problems(&format!("{MINIMAL}\n[directory]\n{directory}\n{token}"))
        };
        for good in ["https://hub.example", "https://hub.example:8445/", "https://x.example/hub/"] {
            assert_eq!(told(good), [""; 0], "{good}");
        }
        for bad in [
            "https://hub.example/beta",
            "https://x.example/hub/BETA/",
            "https://x/?a",
            "https://x/#a",
            "x",
        ] {
            let told = told(bad);
            assert!(told.len() == 1 && told[0].starts_with("directory.public_url: "), "{told:?}");
        }
    }

    #[test]
    fn an_unknown_top_level_key_names_the_known_ones() {
        let found = problems(&format!("spelt = 1\n{MINIMAL}"));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains("directory") && found[0].contains("graph"), "{found:?}");
    }

    #[test]
    fn the_example_is_good_but_for_the_files_it_names() {
        let text = include_str!("../../deploy/config.example.toml");
        let found = problems(text);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with("graph[0].credential.client_secret_file:"), "{found:?}");
    }

    #[test]
    fn nothing_is_enough_to_say_what_is_missing() {
        let found = problems("");
        for key in ["data_dir:", "tls.certificate:", "tls.key:", "oauth.issuer:"] {
            assert!(found.iter().any(|p| p.starts_with(key)), "{key} is not in {found:#?}");
        }
    }
}
