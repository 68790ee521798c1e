//! URLs of a directory: its root, its collections, and the rule that tokens are encrypted in transit.

use url::{Host, Url};

use crate::graph::auth::AuthError;

/// Returns the URL of `path` below the root of a directory.  The root may end with the version.
pub(crate) fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    let root = url.path().trim_end_matches('/').trim_end_matches("/beta").to_owned();
    url.set_path(&format!("{root}/{path}"));
    url
}

/// Rejects roots to which tokens would be sent unencrypted over a network.
pub(super) fn check_base(base: &Url) -> Result<(), AuthError> {
    let bad = |why: &str| Err(AuthError::Credential(format!("directory URL `{base}`: {why}")));
    match base.scheme() {
        "https" if base.has_host() => Ok(()),
        "http" if is_loopback(base) => Ok(()),
        "http" => bad("plain HTTP is allowed on loopback only"),
        _ => bad("the scheme is not https"),
    }
}

/// True if the host is this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
