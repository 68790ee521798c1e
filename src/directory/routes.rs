//! What a path means.

use crate::directory::errors::Fault;
use crate::runtime::random::is_guid;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// `mutualTlsOauthConfigurations`.
    Configurations,
    /// `mutualTlsOauthConfigurations/$count`.
    ConfigurationsCount,
    /// `mutualTlsOauthConfigurations/{id}`.
    Configuration(String),
    /// `certificateBasedApplicationConfigurations`.
    Applications,
    /// `certificateBasedApplicationConfigurations/$count`.
    ApplicationsCount,
    /// `certificateBasedApplicationConfigurations/{id}`.
    Application(String),
    /// `certificateBasedApplicationConfigurations/{id}/trustedCertificateAuthorities`.
    Authorities(String),
    /// `…/trustedCertificateAuthorities/$count`.
    AuthoritiesCount(String),
    /// `…/trustedCertificateAuthorities/{id}`.
    Authority(String, String),
}

/// Reads a path.  Both roots are served, with and without `directory/`; letters may be of any case;
/// a key may be a segment of its own or in parentheses, as OData has it.
pub fn resolve(path: &str) -> Result<Resource, Fault> {
    let mut segments = Vec::new();
    for segment in path.split('/').filter(|s| !s.is_empty()) {
        let segment = percent_decode(segment).ok_or_else(|| Fault::Segment(segment.into()))?;
        match segment.split_once('(') {
            Some((name, key)) if key.ends_with(')') => {
                segments.push(name.to_owned());
                segments.push(key[..key.len() - 1].trim_matches('\'').to_owned());
            }
            _ => segments.push(segment),
        }
    }
    let mut segments = segments.into_iter();
    expect(segments.next(), "beta")?;
    let mut root = segments.next();
    if root.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("directory")) {
        root = segments.next();
    }
    expect(root, "certificateAuthorities")?;
    let collection = segments.next().unwrap_or_default();
    let rest: Vec<String> = segments.collect();
    match collection.to_ascii_lowercase().as_str() {
        "mutualtlsoauthconfigurations" => configurations(&rest),
        "certificatebasedapplicationconfigurations" => applications(&rest),
        _ => Err(Fault::Segment(collection)),
    }
}

fn expect(segment: Option<String>, name: &str) -> Result<(), Fault> {
    let segment = segment.unwrap_or_default();
    if segment.eq_ignore_ascii_case(name) { Ok(()) } else { Err(Fault::Segment(segment)) }
}

fn configurations(rest: &[String]) -> Result<Resource, Fault> {
    match rest {
        [] => Ok(Resource::Configurations),
        [count] if is_count(count) => Ok(Resource::ConfigurationsCount),
        [id] => Ok(Resource::Configuration(key(id)?)),
        [_, other, ..] => Err(Fault::Segment(other.clone())),
    }
}

fn applications(rest: &[String]) -> Result<Resource, Fault> {
    let list = |name: &str| name.eq_ignore_ascii_case("trustedCertificateAuthorities");
    match rest {
        [] => Ok(Resource::Applications),
        [count] if is_count(count) => Ok(Resource::ApplicationsCount),
        [id] => Ok(Resource::Application(key(id)?)),
        [id, name] if list(name) => Ok(Resource::Authorities(key(id)?)),
        [id, name, count] if list(name) && is_count(count) => {
            Ok(Resource::AuthoritiesCount(key(id)?))
        }
        [id, name, authority] if list(name) => Ok(Resource::Authority(key(id)?, key(authority)?)),
        [_, name, _, other, ..] if list(name) => Err(Fault::Segment(other.clone())),
        [_, other, ..] => Err(Fault::Segment(other.clone())),
    }
}

fn is_count(segment: &str) -> bool {
    segment.eq_ignore_ascii_case("$count")
}

/// A key in the one spelling under which objects are stored.
fn key(segment: &str) -> Result<String, Fault> {
    if is_guid(segment) {
        Ok(segment.to_ascii_lowercase())
    } else if segment.starts_with('$') {
        Err(Fault::Segment(segment.into()))
    } else {
        Err(Fault::Identifier(segment.into()))
    }
}

/// Percent-decoding of a path segment or query part; `None` for what is not UTF-8 afterwards.
pub fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
        let value = digit()? * 16 + digit()?;
        out.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "3f2a7a5e-8c8b-4a57-9d0e-2d3f8a1b4c5d";

    #[test]
    fn both_roots_any_case_and_both_key_forms_lead_there() {
        let id = || Resource::Configuration(ID.into());
        for (path, want) in [
            (
                "/beta/directory/certificateAuthorities/mutualTlsOauthConfigurations".into(),
                Resource::Configurations,
            ),
            (
                "/beta/certificateAuthorities/mutualTlsOauthConfigurations/".into(),
                Resource::Configurations,
            ),
            (
                "/BETA/Directory/certificateauthorities/MUTUALTLSOAUTHCONFIGURATIONS/%24count"
                    .into(),
                Resource::ConfigurationsCount,
            ),
            (
                format!(
                    "/beta/certificateAuthorities/mutualTlsOauthConfigurations/{}",
                    ID.to_uppercase()
                ),
                id(),
            ),
            (format!("/beta/certificateAuthorities/mutualTlsOauthConfigurations('{ID}')"), id()),
            (format!("/beta/certificateAuthorities/mutualTlsOauthConfigurations({ID})"), id()),
            (
                format!(
                    "/beta/certificateAuthorities/certificateBasedApplicationConfigurations/{ID}/trustedCertificateAuthorities/{ID}"
                ),
                Resource::Authority(ID.into(), ID.into()),
            ),
        ] {
            assert_eq!(resolve(&path), Ok(want), "{path}");
        }
    }

    #[test]
    fn an_unknown_segment_is_named() {
        let segment = |s: &str| Err(Fault::Segment(s.into()));
        for (path, want) in [
            ("/", segment("")),
            (
                "/v1.0/directory/certificateAuthorities/mutualTlsOauthConfigurations",
                segment("v1.0"),
            ),
            (
                "/beta/certificateAuthorityPath/mutualTlsOauthConfigurations",
                segment("certificateAuthorityPath"),
            ),
            ("/beta/directory/certificateAuthorities", segment("")),
            ("/beta/directory/certificateAuthorities/users", segment("users")),
            (
                "/beta/directory/certificateAuthorities/mutualTlsOauthConfigurations/$ref",
                segment("$ref"),
            ),
            (
                "/beta/directory/certificateAuthorities/mutualTlsOauthConfigurations/x",
                Err(Fault::Identifier("x".into())),
            ),
        ] {
            assert_eq!(resolve(path), want, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(path in "/?(beta|directory|certificateAuthorities|[%a-f0-9$()'/]{0,9}|\\PC{0,9}|/){0,8}") {
            let _ = resolve(&path);
        }
    }
}
