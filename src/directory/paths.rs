//! Paths of the API and the resources that they address.

use crate::directory::device::device_id;
use crate::directory::errors::Fault;
use crate::directory::odata::percent_decode;
use crate::runtime::random::is_guid;

/// Resource that a path addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resource {
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
    /// `deviceTemplates`.
    Templates,
    /// `deviceTemplates/$count`.
    TemplatesCount,
    /// `deviceTemplates/{id}`.
    Template(String),
    /// `deviceTemplates/{id}/createDeviceFromTemplate`.
    CreateDevice(String),
    /// `deviceTemplates/{id}/deviceInstances`.
    Instances(String),
    /// `deviceTemplates/{id}/deviceInstances/$count`.
    InstancesCount(String),
    /// `deviceTemplates/{id}/deviceInstances/{id of the device}`.
    Instance(String, String),
    /// `deviceTemplates/{id}/owners` and the paths below it.
    Owners(String),
    /// `devices`.
    Devices,
    /// `devices/$count`.
    DevicesCount,
    /// `devices/delta`.
    DevicesDelta,
    /// `devices/{id}`.
    Device(String),
}

impl Resource {
    /// Returns true if the response to a read is a page of stored objects.
    pub(super) fn is_list(&self) -> bool {
        matches!(
            self,
            Self::Configurations
                | Self::Applications
                | Self::Templates
                | Self::Instances(_)
                | Self::Devices
                | Self::DevicesDelta
        )
    }

    /// Returns true if the response is a number and not JSON.
    pub(super) fn is_count(&self) -> bool {
        matches!(
            self,
            Self::ConfigurationsCount
                | Self::ApplicationsCount
                | Self::AuthoritiesCount(_)
                | Self::TemplatesCount
                | Self::InstancesCount(_)
                | Self::DevicesCount
        )
    }
}

/// Resolves a path.  The prefix `directory/` is optional, and letter case is ignored.  A key is a
/// segment, or in parentheses as in OData.
pub(super) fn resolve(path: &str) -> Result<Resource, Fault> {
    let mut segments = Vec::new();
    for segment in path.split('/').filter(|s| !s.is_empty()) {
        let segment = percent_decode(segment).ok_or_else(|| Fault::Segment(segment.into()))?;
        match segment.split_once('(') {
            Some((name, key)) if key.ends_with(')') => {
                segments.push(name.to_owned());
                let key = &key[..key.len() - 1];
                // The parentheses of a function without arguments are empty.
                if !key.is_empty() {
                    segments.push(key.trim_matches('\'').to_owned());
                }
            }
            _ => segments.push(segment),
        }
    }
    let mut segments = segments.into_iter();
    expect(segments.next(), "beta")?;
    let mut root = segments.next();
    if root.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("directory")) {
        root = segments.next();
    } else if root.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("devices")) {
        return devices(&segments.collect::<Vec<_>>());
    }
    let root = root.unwrap_or_default();
    let templates = root.eq_ignore_ascii_case("templates");
    if !templates {
        expect(Some(root), "certificateAuthorities")?;
    }
    let collection = segments.next().unwrap_or_default();
    let rest: Vec<String> = segments.collect();
    match collection.to_ascii_lowercase().as_str() {
        "mutualtlsoauthconfigurations" if !templates => configurations(&rest),
        "certificatebasedapplicationconfigurations" if !templates => applications(&rest),
        "devicetemplates" if templates => device_templates(&rest),
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

fn device_templates(rest: &[String]) -> Result<Resource, Fault> {
    let (id, rest) = match rest {
        [] => return Ok(Resource::Templates),
        [count] if is_count(count) => return Ok(Resource::TemplatesCount),
        [id] => return Ok(Resource::Template(key(id)?)),
        [id, rest @ ..] => (key(id)?, rest),
    };
    let (name, rest) = (unqualified(&rest[0]), &rest[1..]);
    match (name.to_ascii_lowercase().as_str(), rest) {
        ("createdevicefromtemplate", []) => Ok(Resource::CreateDevice(id)),
        ("deviceinstances", []) => Ok(Resource::Instances(id)),
        ("deviceinstances", [count]) if is_count(count) => Ok(Resource::InstancesCount(id)),
        ("deviceinstances", [device]) => Ok(Resource::Instance(id, device_key(device)?)),
        ("owners", [] | [_] | [_, _]) => Ok(Resource::Owners(id)),
        ("createdevicefromtemplate", [other, ..]) | ("deviceinstances", [_, other, ..]) => {
            Err(Fault::Segment(other.clone()))
        }
        _ => Err(Fault::Segment(name.to_owned())),
    }
}

fn devices(rest: &[String]) -> Result<Resource, Fault> {
    match rest {
        [] => Ok(Resource::Devices),
        [count] if is_count(count) => Ok(Resource::DevicesCount),
        [delta] if unqualified(delta).eq_ignore_ascii_case("delta") => Ok(Resource::DevicesDelta),
        [id] => Ok(Resource::Device(device_key(id)?)),
        [_, other, ..] => Err(Fault::Segment(other.clone())),
    }
}

/// Removes the optional namespace of an action or function.
fn unqualified(segment: &str) -> &str {
    segment.strip_prefix("microsoft.graph.").unwrap_or(segment)
}

/// Returns the object id of a device from its key or its alternate key `deviceId='…'`.
fn device_key(segment: &str) -> Result<String, Fault> {
    match segment.split_once('=') {
        Some((name, value)) if name.eq_ignore_ascii_case("deviceId") => {
            key(value.trim_matches('\'')).map(|id| device_id(&id))
        }
        _ => key(segment),
    }
}

fn is_count(segment: &str) -> bool {
    segment.eq_ignore_ascii_case("$count")
}

/// Returns a key in the form in which ids are stored.
fn key(segment: &str) -> Result<String, Fault> {
    if is_guid(segment) {
        Ok(segment.to_ascii_lowercase())
    } else if segment.starts_with('$') {
        Err(Fault::Segment(segment.into()))
    } else {
        Err(Fault::Identifier(segment.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "3f2a7a5e-8c8b-4a57-9d0e-2d3f8a1b4c5d";

    #[test]
    fn accepts_both_roots_any_case_and_both_key_forms() {
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
            ("/beta/directory/templates/deviceTemplates".into(), Resource::Templates),
            (format!("/beta/templates/deviceTemplates/{ID}"), Resource::Template(ID.into())),
            (
                format!("/beta/templates/deviceTemplates('{ID}')/createDeviceFromTemplate"),
                Resource::CreateDevice(ID.into()),
            ),
            (
                format!(
                    "/beta/templates/deviceTemplates/{ID}/microsoft.graph.createDeviceFromTemplate()"
                ),
                Resource::CreateDevice(ID.into()),
            ),
            (
                format!(
                    "/beta/templates/deviceTemplates/{ID}/deviceInstances(deviceId='{}')",
                    device_id(ID)
                ),
                Resource::Instance(ID.into(), ID.into()),
            ),
            (
                format!("/beta/templates/deviceTemplates/{ID}/deviceInstances/$count"),
                Resource::InstancesCount(ID.into()),
            ),
            (
                format!("/beta/templates/deviceTemplates/{ID}/owners/$ref"),
                Resource::Owners(ID.into()),
            ),
            ("/beta/devices".into(), Resource::Devices),
            ("/beta/devices/delta".into(), Resource::DevicesDelta),
            ("/beta/devices/microsoft.graph.delta()".into(), Resource::DevicesDelta),
            (format!("/beta/devices('{ID}')"), Resource::Device(ID.into())),
            (
                format!("/beta/devices(deviceId='{}')", device_id(ID).to_uppercase()),
                Resource::Device(ID.into()),
            ),
        ] {
            assert_eq!(resolve(&path), Ok(want), "{path}");
        }
    }

    #[test]
    fn errors_name_the_unknown_segment() {
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
            ("/beta/directory/devices", segment("devices")),
            (
                "/beta/directory/templates/mutualTlsOauthConfigurations",
                segment("mutualTlsOauthConfigurations"),
            ),
            ("/beta/certificateAuthorities/deviceTemplates", segment("deviceTemplates")),
            ("/beta/devices/x", Err(Fault::Identifier("x".into()))),
            ("/beta/devices(displayName='x')", Err(Fault::Identifier("displayName='x".into()))),
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
        fn resolving_never_panics(path in "/?(beta|directory|certificateAuthorities|templates|deviceTemplates|devices|delta|[%a-f0-9$()'/]{0,9}|\\PC{0,9}|/){0,8}") {
            let _ = resolve(&path);
        }
    }
}
