//! Cipher suites and key exchange groups of the TLS listeners.
//!
//! # Design notes
//! The server's order of cipher suites counts, and AES-128-GCM with SHA-256 comes first.  Processors
//! have instructions for SHA-256 and none for SHA-384, and a handshake hashes everything several
//! times: with the order of common clients, which prefer AES-256-GCM with SHA-384, a sixth of a
//! resumed handshake is SHA-384.
//!
//! rustls takes the first group in the client's order that the server supports, so that the order of
//! groups here has no effect.

use std::fmt;

use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, ALL_KX_GROUPS, DEFAULT_KX_GROUPS};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{CipherSuite, NamedGroup, ProtocolVersion};

/// Algorithms that clients can negotiate.
#[derive(Debug, Clone)]
pub struct Algorithms {
    suites: Vec<SupportedCipherSuite>,
    groups: Vec<&'static dyn SupportedKxGroup>,
}

impl Default for Algorithms {
    /// All suites, those with SHA-256 first, and the groups that rustls enables: X25519MLKEM768,
    /// X25519, secp256r1 and secp384r1.
    fn default() -> Self {
        let mut suites = ALL_CIPHER_SUITES.to_vec();
        suites.sort_by_key(|suite| match suite_name(suite.suite()) {
            name if name.contains("AES_128_GCM") => 0,
            name if name.contains("AES_256_GCM") => 1,
            _ => 2,
        });
        Self { suites, groups: DEFAULT_KX_GROUPS.to_vec() }
    }
}

/// A list of algorithms that is not usable.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AlgorithmsError {
    /// A name is not that of a supported algorithm.
    #[error("`{name}` is not supported; supported: {supported}")]
    Unknown {
        /// The name.
        name: String,
        /// The names that are supported.
        supported: String,
    },
    /// A name occurs twice.
    #[error("`{0}` is listed twice")]
    Repeated(String),
    /// No algorithm is usable for a version that is accepted.
    #[error("none of them is usable with {0}")]
    None(&'static str),
}

impl Algorithms {
    /// Uses these cipher suites, most preferred first, by their IANA names.
    ///
    /// # Errors
    /// A name is unknown or repeated.
    pub(crate) fn set_suites(&mut self, names: &[String]) -> Result<(), AlgorithmsError> {
        self.suites = select(names, ALL_CIPHER_SUITES, |suite| suite_name(suite.suite()))?;
        Ok(())
    }

    /// Uses these key exchange groups, by their IANA names.
    ///
    /// # Errors
    /// A name is unknown or repeated.
    pub(crate) fn set_groups(&mut self, names: &[String]) -> Result<(), AlgorithmsError> {
        self.groups = select(names, ALL_KX_GROUPS, |group| group_name(group.name()))?;
        Ok(())
    }

    /// Checks that there is a cipher suite for each accepted version.
    ///
    /// # Errors
    /// A version has none.
    pub(crate) fn check_suites(&self, tls13_only: bool) -> Result<(), AlgorithmsError> {
        let has = |version| self.suites.iter().any(|suite| suite.version().version == version);
        check_versions(tls13_only, has)
    }

    /// Checks that there is a key exchange group for each accepted version.
    ///
    /// # Errors
    /// A version has none.
    pub(crate) fn check_groups(&self, tls13_only: bool) -> Result<(), AlgorithmsError> {
        let has = |version| self.groups.iter().any(|group| group.usable_for_version(version));
        check_versions(tls13_only, has)
    }

    /// Returns `provider` with these algorithms only.
    pub(super) fn apply(&self, provider: &CryptoProvider) -> CryptoProvider {
        CryptoProvider {
            cipher_suites: self.suites.clone(),
            kx_groups: self.groups.clone(),
            ..provider.clone()
        }
    }
}

fn select<T: Copy>(
    names: &[String],
    all: &[T],
    name_of: impl Fn(&T) -> String,
) -> Result<Vec<T>, AlgorithmsError> {
    let mut selected = Vec::with_capacity(names.len());
    for (place, name) in names.iter().enumerate() {
        let Some(found) = all.iter().find(|candidate| name_of(candidate) == *name) else {
            let supported = all.iter().map(name_of).collect::<Vec<_>>().join(", ");
            return Err(AlgorithmsError::Unknown { name: name.clone(), supported });
        };
        if names[..place].contains(name) {
            return Err(AlgorithmsError::Repeated(name.clone()));
        }
        selected.push(*found);
    }
    Ok(selected)
}

fn check_versions(
    tls13_only: bool,
    has: impl Fn(ProtocolVersion) -> bool,
) -> Result<(), AlgorithmsError> {
    if !has(ProtocolVersion::TLSv1_3) {
        return Err(AlgorithmsError::None("TLS 1.3"));
    }
    if !tls13_only && !has(ProtocolVersion::TLSv1_2) {
        return Err(AlgorithmsError::None("TLS 1.2, which `minimum_version` allows"));
    }
    Ok(())
}

/// Returns the IANA name.  rustls writes the version into the names of TLS 1.3.
fn suite_name(suite: CipherSuite) -> String {
    debug_name(&suite).replacen("TLS13_", "TLS_", 1)
}

fn group_name(group: NamedGroup) -> String {
    debug_name(&group)
}

fn debug_name(value: &dyn fmt::Debug) -> String {
    format!("{value:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn prefers_the_suite_with_sha256_and_keeps_all_others() {
        let default = Algorithms::default();
        assert_eq!(suite_name(default.suites[0].suite()), "TLS_AES_128_GCM_SHA256");
        assert_eq!(default.suites.len(), ALL_CIPHER_SUITES.len());
        assert_eq!(group_name(default.groups[0].name()), "X25519MLKEM768");
        assert_eq!(default.check_suites(false), Ok(()));
        assert_eq!(default.check_groups(false), Ok(()));
    }

    #[test]
    fn takes_iana_names_in_the_order_given() {
        let mut algorithms = Algorithms::default();
        let suites = ["TLS_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"];
        algorithms.set_suites(&names(&suites)).expect("supported");
        let chosen: Vec<_> = algorithms.suites.iter().map(|s| suite_name(s.suite())).collect();
        assert_eq!(chosen, suites);
        algorithms.set_groups(&names(&["secp384r1", "MLKEM1024"])).expect("supported");
        assert_eq!(algorithms.check_groups(false), Ok(()));
        let provider = algorithms.apply(&crate::tls::provider());
        assert_eq!((provider.cipher_suites.len(), provider.kx_groups.len()), (2, 2));
    }

    #[test]
    fn refuses_names_that_are_unknown_or_repeated() {
        let mut algorithms = Algorithms::default();
        let unknown = algorithms.set_groups(&names(&["X25519", "x448"])).expect_err("unknown");
        assert!(unknown.to_string().starts_with("`x448` is not supported; supported: X25519"));
        let twice = algorithms.set_groups(&names(&["X25519", "X25519"]));
        assert_eq!(twice, Err(AlgorithmsError::Repeated("X25519".to_owned())));
        let weak = algorithms.set_suites(&names(&["TLS_RSA_WITH_AES_128_CBC_SHA"]));
        assert!(matches!(weak, Err(AlgorithmsError::Unknown { .. })));
    }

    #[test]
    fn refuses_lists_that_leave_an_accepted_version_without_an_algorithm() {
        let mut algorithms = Algorithms::default();
        algorithms.set_suites(&names(&["TLS_AES_128_GCM_SHA256"])).expect("supported");
        algorithms.set_groups(&names(&["X25519MLKEM768"])).expect("supported");
        assert_eq!(algorithms.check_suites(true), Ok(()));
        assert_eq!(algorithms.check_groups(true), Ok(()));
        let tls12 = AlgorithmsError::None("TLS 1.2, which `minimum_version` allows");
        assert_eq!(algorithms.check_suites(false).expect_err("no suite"), tls12);
        assert_eq!(algorithms.check_groups(false).expect_err("no group"), tls12);
        let old = names(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]);
        algorithms.set_suites(&old).expect("supported");
        assert_eq!(algorithms.check_suites(true), Err(AlgorithmsError::None("TLS 1.3")));
    }
}
