//! `[tls]`: protocol settings and key files of the TLS listeners.

use std::path::{Path, PathBuf};

use toml::Value;

use crate::config::section::Section;
use crate::config::values::text;
use crate::runtime::hosts::ServedHosts;
use crate::tls::algorithms::Algorithms;
use crate::tls::small_tickets::KnownCertificates;
use crate::tls::{Config, DEFAULT_LEAVES, Resumption};

/// Settings of `[tls]`.
pub(super) struct TlsSettings {
    pub(super) config: Config,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) ticket_keys: Vec<PathBuf>,
}

/// Reads the section.  Paths are relative to `folder`.
pub(super) fn read(section: &mut Section<'_>, folder: &Path) -> TlsSettings {
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
    let default = if ticket_keys.is_empty() { DEFAULT_LEAVES } else { 0 };
    let leaves = section.size("ticket_certificates", 0..=10_000_000).unwrap_or(default);
    let known_certificates = KnownCertificates::new(leaves);
    let mut hosts = ServedHosts::default();
    for name in section.texts("names").unwrap_or_default() {
        if !hosts.add(&name) {
            let allowed = "not a host name, a wildcard such as *.example.com, or an IP address";
            section.problem("names", Some(format!("`{name}`")), allowed);
        }
    }
    let config = Config {
        tls13_only,
        algorithms,
        resumption,
        known_certificates,
        hosts,
        ..Config::default()
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
