//! `doctor`: checks of the surroundings that a gateway needs, before it is started.

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use reqwest::header;
use serde::Serialize;
use serde_json::{Value, json};

use crate::app::capacity::Capacity;
use crate::cli::check::creates_in;
use crate::cli::exit;
use crate::cli::input::read_ca_bundle;
use crate::cli::output::Output;
use crate::config::{Config, load};
use crate::crl;
use crate::graph::client::{Client, client_settings};
use crate::http::listen::bind;
use crate::http::outbound::{ClientSettings, ServerAuthorities, explain, header_text};
use crate::keyring;
use crate::runtime::secret_files::FileModes;
use crate::runtime::text::{Cleaned, MAX_CHARACTERS, clean};
use crate::sync;
use crate::tls;
use crate::x509::certificate::Certificate;
use crate::x509::time::Timestamp;

/// Largest difference between two clocks that is not a finding.
const CLOCKS: i64 = 5;
/// Revocation lists that are checked.
const MAX_LISTS: usize = 20;
/// Time limit of one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Configuration file (TOML)
    #[arg(long, short, value_name = "FILE", env = "ANCHORGATE_CONFIG")]
    config: PathBuf,
    /// Accept files with keys and secrets that other users can read or write, for mounts that cannot
    /// change modes
    #[arg(long)]
    allow_insecure_file_modes: bool,
    /// Public URL of a replica; all of them must have the same signing keys; repeatable
    #[arg(long, value_name = "URL")]
    replica: Vec<url::Url>,
    /// PEM file of the only authorities accepted for the replicas' servers
    #[arg(long, value_name = "FILE")]
    ca_bundle: Option<PathBuf>,
    /// Format of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    Warning,
    Failed,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: String,
    verdict: Verdict,
    detail: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: impl Into<String>, verdict: Verdict, detail: impl fmt::Display) {
        let finding = Finding { check: check.into(), verdict, detail: detail.to_string() };
        self.0.push(finding);
    }

    fn result<T, E: fmt::Display>(&mut self, check: &str, result: Result<T, E>, good: &str) {
        match result {
            Ok(_) => self.add(check, Verdict::Good, good),
            Err(error) => self.add(check, Verdict::Failed, error),
        }
    }
}

/// Runs the command.  Exit status 78 if the configuration is wrong, 1 if another check failed.
pub(super) async fn doctor(args: &DoctorArgs) -> ExitCode {
    let mut findings = Findings::default();
    let mut is_configured = true;
    match load(&args.config) {
        Ok(mut config) => {
            if args.allow_insecure_file_modes {
                config.keyring.file_modes = FileModes::Unchecked;
            }
            findings.add("configuration", Verdict::Good, "no problem found");
            local(&config, &mut findings);
            for source in &config.graph {
                directory(source, &config.crl, &mut findings).await;
            }
            replicas(args, &mut findings).await;
        }
        Err(error) => {
            is_configured = false;
            findings.add("configuration", Verdict::Failed, error);
        }
    }
    show(&findings, args.output);
    let worst = findings.0.iter().map(|finding| finding.verdict).max();
    match worst {
        _ if !is_configured => exit::CONFIG.into(),
        Some(Verdict::Failed) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn show(findings: &Findings, output: Output) {
    if output.print(&json!(findings.0)) {
        return;
    }
    for Finding { check, verdict, detail } in &findings.0 {
        let verdict = match verdict {
            Verdict::Good => "good   ",
            Verdict::Warning => "warning",
            Verdict::Failed => "FAILED ",
        };
        println!("{verdict}  {check}: {detail}");
    }
}

/// Checks of this machine.
fn local(config: &Config, findings: &mut Findings) {
    // An error is one of the problems below.
    if let Ok(identity) = keyring::identity(&config.keyring, &tls::provider()) {
        let (hosts, now) = (config.advertised_hosts(), SystemTime::now().into());
        let invalidity = keyring::invalidity(&identity, now);
        for problem in keyring::problems(&identity, &hosts, now) {
            let is_refused = Some(&problem) == invalidity.as_ref();
            let verdict = if is_refused { Verdict::Failed } else { Verdict::Warning };
            findings.add("server certificate", verdict, problem);
        }
        let chain: Vec<&[u8]> = identity.cert.iter().map(AsRef::as_ref).collect();
        match (chain_problem(&chain), issuer_of_only(&chain)) {
            (Some(why), _) => findings.add("certificate chain", Verdict::Warning, why),
            (None, Some(issuer)) => findings.add(
                "certificate chain",
                Verdict::Good,
                format!(
                    "the server's certificate only: clients must trust `{issuer}` itself; if it is an \
                     intermediate, append its certificate"
                ),
            ),
            (None, None) => {
                findings.add("certificate chain", Verdict::Good, "each issues the one before");
            }
        }
    }
    let files = config.insecure_files(config.keyring.file_modes);
    let mut problems = keyring::check(&config.keyring, &tls::provider());
    // A key file is reported once, below.
    problems.retain(|problem| !files.refused.iter().any(|fault| fault.to_string() == *problem));
    if problems.is_empty() {
        let keys = &config.keyring;
        let files = [
            (true, "certificate and key"),
            (!keys.ticket_keys.is_empty(), "ticket keys"),
            (keys.signs, "signing keys"),
        ];
        let files: Vec<_> = files.iter().filter(|(is_set, _)| *is_set).map(|file| file.1).collect();
        findings.add("key files", Verdict::Good, format!("usable: {}", files.join(", ")));
    }
    for problem in problems {
        findings.add("key files", Verdict::Failed, problem);
    }
    if files.refused.is_empty() && files.reported.is_empty() {
        findings.add("modes of secret files", Verdict::Good, "no other user has access");
    }
    let refused = files.refused.iter().map(|fault| (Verdict::Failed, fault));
    for (verdict, fault) in
        refused.chain(files.reported.iter().map(|fault| (Verdict::Warning, fault)))
    {
        findings.add("modes of secret files", verdict, fault);
    }
    let capacity = Capacity::raised(config);
    let verdict = if capacity.is_reduced { Verdict::Warning } else { Verdict::Good };
    findings.add("open files", verdict, capacity);
    let writable = creates_in(&config.data_dir).map_err(|(_, why)| why);
    findings.result("data_dir", writable, "writable");
    let of_tokens = |listen| (!config.is_hub()).then_some(listen);
    let directory = config.directory.as_ref();
    let listeners = [
        ("token.listen", of_tokens(config.token.listen)),
        ("public.listen", of_tokens(config.public.listen)),
        ("directory.listen", directory.and_then(|part| part.listen)),
        ("directory.listen_http", directory.and_then(|part| part.listen_http)),
        ("admin.listen", Some(config.admin.listen)),
        ("health.listen", config.health),
    ];
    let socket = config.admin.socket.as_deref();
    let is_running = socket.is_some_and(|socket| UnixStream::connect(socket).is_ok());
    for (name, address) in listeners {
        let Some(address) = address else { continue };
        match bind(address) {
            Ok(_) => findings.add(name, Verdict::Good, format!("{address} is free")),
            Err(error) if error.kind() == ErrorKind::AddrInUse && is_running => {
                findings.add(
                    name,
                    Verdict::Good,
                    format!("{address} is in use, by the running gateway"),
                );
            }
            Err(error) => findings.add(name, Verdict::Warning, format!("{address}: {error}")),
        }
    }
}

/// The problem of a chain that clients cannot complete.
fn chain_problem(chain: &[&[u8]]) -> Option<String> {
    let parsed: Result<Vec<_>, _> = chain.iter().map(|der| Certificate::from_der(der)).collect();
    let Ok(parsed) = parsed else { return Some("a certificate cannot be parsed".to_owned()) };
    for pair in parsed.windows(2) {
        if pair[0].issuer != pair[1].subject {
            return Some(format!("`{}` did not issue `{}`", pair[1].subject, pair[0].subject));
        }
    }
    None
}

/// The issuer of the only certificate, unless it signed itself.  It can be a root, whose certificate clients
/// have, or an intermediate.
fn issuer_of_only(chain: &[&[u8]]) -> Option<String> {
    let [only] = chain else { return None };
    let only = Certificate::from_der(only).ok()?;
    (only.issuer != only.subject).then(|| only.issuer.to_string())
}

/// Checks of one directory: address, clock, credential, and permission by permission.
async fn directory(source: &sync::Config, lists: &crl::Config, findings: &mut Findings) {
    let name = format!("directory {} ({})", source.source, source.collection.path());
    // Through the proxy that the gateway uses.
    let client = ClientSettings {
        read: None,
        request: Some(PATIENCE),
        ..client_settings(&source.base, source.ca_bundle.clone(), &source.limits)
    };
    let response = match client.client() {
        Ok(client) => client.get(source.base.clone()).send().await,
        Err(error) => return findings.add(name, Verdict::Failed, error),
    };
    match response {
        Ok(response) => {
            let date = header_text(response.headers(), &header::DATE);
            clock(&name, date.as_deref(), findings);
        }
        Err(error) => return findings.add(name, Verdict::Failed, Cleaned(&*explain(&error))),
    }
    let client = Client::new(
        &source.base,
        source.credential.clone(),
        source.ca_bundle.clone(),
        source.limits.clone(),
    );
    match client.map(|client| client.with_collection(source.collection)) {
        Ok(client) => {
            let list = client.list_page(client.url()).await;
            let reached = list.as_ref().map_err(Cleaned);
            findings.result(&name, reached, "reached, and its list may be read");
            for address in list.iter().flat_map(|(objects, _)| list_addresses(objects)) {
                revocation_list(lists, &address, findings).await;
            }
        }
        Err(error) => findings.add(name, Verdict::Failed, error),
    }
}

/// The addresses of revocation lists that the objects name, each once.
fn list_addresses(objects: &[Value]) -> BTreeSet<String> {
    let mut addresses = BTreeSet::new();
    let mut waiting: Vec<&Value> = objects.iter().collect();
    while let Some(value) = waiting.pop() {
        for key in ["certificateRevocationListUrl", "deltaCertificateRevocationListUrl"] {
            let address = value.get(key).and_then(Value::as_str);
            addresses.extend(address.filter(|a| a.starts_with("http")).map(str::to_owned));
        }
        match value {
            Value::Array(items) => waiting.extend(items),
            Value::Object(members) => waiting.extend(members.values()),
            _ => {}
        }
        if addresses.len() >= MAX_LISTS {
            break;
        }
    }
    addresses
}

/// Checks that the server of a revocation list returns something.
async fn revocation_list(config: &crl::Config, address: &str, findings: &mut Findings) {
    let settings = ClientSettings { request: Some(PATIENCE), ..crl::client_settings(config) };
    let client = settings.client();
    let name = format!("revocation list {}", clean(address, MAX_CHARACTERS));
    match client {
        Ok(client) => {
            match client.get(address).send().await.and_then(reqwest::Response::error_for_status) {
                Ok(_) => findings.add(name, Verdict::Good, "reached"),
                Err(error) => findings.add(name, Verdict::Failed, Cleaned(&*explain(&error))),
            }
        }
        Err(error) => findings.add(name, Verdict::Failed, error),
    }
}

/// Compares this machine's clock with that of a server.
fn clock(server: &str, date: Option<&str>, findings: &mut Findings) {
    let Some(theirs) = date.and_then(http_date) else { return };
    let off = Timestamp::from(SystemTime::now()).0 - theirs.0;
    let verdict = if off.abs() <= CLOCKS { Verdict::Good } else { Verdict::Warning };
    findings.add("clock", verdict, format!("{off} s ahead of {server}"));
}

/// Parses an HTTP date (RFC 9110 section 5.6.7).
fn http_date(text: &str) -> Option<Timestamp> {
    let format = time::format_description::well_known::Rfc2822;
    let text = text.replace("GMT", "+0000");
    time::OffsetDateTime::parse(&text, &format).ok().map(|date| Timestamp(date.unix_timestamp()))
}

/// Compares the signing keys of replicas with each other.
async fn replicas(args: &DoctorArgs, findings: &mut Findings) {
    let mut seen: Vec<(String, Vec<String>)> = Vec::new();
    for url in &args.replica {
        match key_ids(url, args.ca_bundle.as_deref()).await {
            Ok(ids) => seen.push((url.to_string(), ids)),
            Err(error) => {
                let error = Cleaned(&error);
                findings.add(format!("replica {url}"), Verdict::Failed, error);
            }
        }
    }
    for pair in seen.windows(2) {
        let check = format!("signing keys of {} and {}", pair[0].0, pair[1].0);
        match pair[0].1 == pair[1].1 {
            true => findings.add(check, Verdict::Good, "equal"),
            false => findings.add(check, Verdict::Failed, "different: mount one directory or file"),
        }
    }
}

/// The IDs of a replica's published keys, sorted.
async fn key_ids(url: &url::Url, ca_bundle: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let mut settings = ClientSettings { request: Some(PATIENCE), ..ClientSettings::default() };
    if let Some(file) = ca_bundle {
        settings.authorities = ServerAuthorities::Only(read_ca_bundle(file)?);
    }
    let response = settings.client()?.get(url.join("jwks.json")?).send().await?;
    let set: Value = response.error_for_status()?.json().await?;
    let keys = set["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut ids: Vec<String> =
        keys.iter().filter_map(|key| key["kid"].as_str().map(str::to_owned)).collect();
    ids.sort();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::quickstart::pki::{Authority, Subject};

    #[test]
    fn finds_a_chain_that_clients_cannot_complete() {
        let now = Timestamp::from(SystemTime::now());
        let root = Authority::root("root", now).expect("a root");
        let other = Authority::root("other", now).expect("a root");
        let subject =
            Subject { common_name: "x".into(), dns: vec!["x".into()], ..Subject::default() };
        let leaf = root.server(&subject, now).expect("a certificate");
        let (leaf, root, other) =
            (leaf.certificate.der(), root.certificate.der(), other.certificate.der());
        assert_eq!(chain_problem(&[leaf, root]), None);
        assert_eq!(chain_problem(&[root]), None, "self-signed");
        assert_eq!(chain_problem(&[leaf]), None, "the issuer can be a root");
        assert!(issuer_of_only(&[leaf]).is_some_and(|issuer| issuer.contains("root")));
        assert_eq!((issuer_of_only(&[root]), issuer_of_only(&[leaf, root])), (None, None));
        assert!(chain_problem(&[leaf, other]).is_some_and(|why| why.contains("did not issue")));
        assert!(chain_problem(&[b"x"]).is_some());
    }

    #[test]
    fn compares_clocks_by_the_date_header() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Timestamp(784_111_777)));
        assert_eq!(http_date("yesterday"), None);
        let mut findings = Findings::default();
        clock("x", Some("Sun, 06 Nov 1994 08:49:37 GMT"), &mut findings);
        assert_eq!(findings.0[0].verdict, Verdict::Warning);
    }
}
