//! Who may ask what of the directory.

use std::collections::HashMap;
use std::sync::Arc;

use crate::directory::errors::Fault;
use crate::directory::issuers::{self, Issuer, TrustedIssuer};
use crate::x509::certificate::Fingerprint;

/// Graph's permissions for what the directory serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// `MutualTlsOauthConfiguration.Read.All`.
    MutualTlsRead,
    /// `MutualTlsOauthConfiguration.ReadWrite.All`.
    MutualTlsReadWrite,
    /// `AppCertTrustConfiguration.Read.All`.
    ApplicationRead,
    /// `AppCertTrustConfiguration.ReadWrite.All`.
    ApplicationReadWrite,
    /// `DeviceTemplate.Read.All`.
    TemplateRead,
    /// `DeviceTemplate.ReadWrite.All`.
    TemplateReadWrite,
    /// `DeviceTemplate.Create`: also the devices of the templates that its holder makes.
    TemplateCreate,
    /// `Device.Read.All`.
    DeviceRead,
    /// `Device.ReadWrite.All`.
    DeviceReadWrite,
    /// `Device.CreateFromOwnedTemplate`.
    DeviceCreateFromOwnedTemplate,
    /// `Directory.Read.All`.
    DirectoryRead,
}

impl Permission {
    /// Every permission.
    pub const ALL: [Self; 11] = [
        Self::MutualTlsRead,
        Self::MutualTlsReadWrite,
        Self::ApplicationRead,
        Self::ApplicationReadWrite,
        Self::TemplateRead,
        Self::TemplateReadWrite,
        Self::TemplateCreate,
        Self::DeviceRead,
        Self::DeviceReadWrite,
        Self::DeviceCreateFromOwnedTemplate,
        Self::DirectoryRead,
    ];

    /// The name that Graph gives it, in `roles` and `scp`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MutualTlsRead => "MutualTlsOauthConfiguration.Read.All",
            Self::MutualTlsReadWrite => "MutualTlsOauthConfiguration.ReadWrite.All",
            Self::ApplicationRead => "AppCertTrustConfiguration.Read.All",
            Self::ApplicationReadWrite => "AppCertTrustConfiguration.ReadWrite.All",
            Self::TemplateRead => "DeviceTemplate.Read.All",
            Self::TemplateReadWrite => "DeviceTemplate.ReadWrite.All",
            Self::TemplateCreate => "DeviceTemplate.Create",
            Self::DeviceRead => "Device.Read.All",
            Self::DeviceReadWrite => "Device.ReadWrite.All",
            Self::DeviceCreateFromOwnedTemplate => "Device.CreateFromOwnedTemplate",
            Self::DirectoryRead => "Directory.Read.All",
        }
    }

    /// The permission of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str().eq_ignore_ascii_case(name))
    }
}

/// What a request needs; any one permission of a list is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// To read mutualTlsOauthConfigurations.
    ReadMutualTls,
    /// To change them.
    WriteMutualTls,
    /// To read certificateBasedApplicationConfigurations.
    ReadApplications,
    /// To change them.
    WriteApplications,
    /// To read deviceTemplates.
    ReadTemplates,
    /// To make them.
    CreateTemplates,
    /// To delete them.
    DeleteTemplates,
    /// To read devices.
    ReadDevices,
    /// To make devices from templates of one's own.
    CreateDevices,
    /// To make devices from any template, to change and to delete them.
    WriteDevices,
}

impl Need {
    fn any_of(self) -> &'static [Permission] {
        use Permission::*;
        match self {
            Self::ReadMutualTls => &[MutualTlsRead, MutualTlsReadWrite, DirectoryRead],
            Self::WriteMutualTls => &[MutualTlsReadWrite],
            Self::ReadApplications => &[ApplicationRead, ApplicationReadWrite, DirectoryRead],
            Self::WriteApplications => &[ApplicationReadWrite],
            Self::ReadTemplates => &[TemplateRead, TemplateReadWrite, DirectoryRead],
            Self::CreateTemplates => &[TemplateCreate, TemplateReadWrite],
            Self::DeleteTemplates => &[TemplateReadWrite],
            Self::ReadDevices => &[DeviceRead, DeviceReadWrite, DirectoryRead],
            Self::CreateDevices => {
                &[DeviceCreateFromOwnedTemplate, TemplateCreate, DeviceReadWrite]
            }
            Self::WriteDevices => &[DeviceReadWrite],
        }
    }
}

impl Need {
    /// The roles that a person needs beside a delegated permission; any one is enough.
    fn roles(self) -> &'static [Role] {
        use Role::*;
        match self {
            Self::ReadMutualTls | Self::WriteMutualTls => {
                &[GlobalAdministrator, CloudDeviceAdministrator, IotDeviceAdministrator]
            }
            Self::ReadApplications | Self::WriteApplications => {
                &[GlobalAdministrator, ApplicationAdministrator, CloudApplicationAdministrator]
            }
            Self::ReadTemplates
            | Self::CreateTemplates
            | Self::DeleteTemplates
            | Self::CreateDevices => {
                &[GlobalAdministrator, CloudDeviceAdministrator, IotDeviceAdministrator]
            }
            Self::ReadDevices => &[
                GlobalAdministrator,
                GlobalReader,
                DirectoryReaders,
                CloudDeviceAdministrator,
                IotDeviceAdministrator,
                IntuneAdministrator,
            ],
            Self::WriteDevices => &[
                GlobalAdministrator,
                CloudDeviceAdministrator,
                IotDeviceAdministrator,
                IntuneAdministrator,
            ],
        }
    }
}

/// A bearer token that the configuration lists, for machines without an issuer.
#[derive(Debug, Clone)]
pub struct StaticToken {
    /// Who carries it, for the audit log.
    pub name: String,
    /// SHA-256 of the token: the token itself is nowhere in the configuration.
    pub sha256: [u8; 32],
    /// What it may do.
    pub permissions: Vec<Permission>,
}

/// Directory roles (`wids`) that Graph's pages name for people who use these resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Global Administrator.
    GlobalAdministrator,
    /// Cloud Device Administrator.
    CloudDeviceAdministrator,
    /// IoT Device Administrator.
    IotDeviceAdministrator,
    /// Intune Administrator.
    IntuneAdministrator,
    /// Global Reader.
    GlobalReader,
    /// Directory Readers.
    DirectoryReaders,
    /// Application Administrator.
    ApplicationAdministrator,
    /// Cloud Application Administrator.
    CloudApplicationAdministrator,
}

impl Role {
    /// Every role, with its template's id.
    const ALL: [(Self, &'static str); 8] = [
        (Self::GlobalAdministrator, "62e90394-69f5-4237-9190-012177145e10"),
        (Self::CloudDeviceAdministrator, "7698a772-787b-4ac8-901f-60d6b08affd2"),
        (Self::IotDeviceAdministrator, "2ea5ce4c-b2d8-4668-bd81-3680bd2d227a"),
        (Self::IntuneAdministrator, "3a2c62db-5318-420d-8d74-23affee5d9d5"),
        (Self::GlobalReader, "f2ef992c-3afb-46b9-b7cf-a126ee74c451"),
        (Self::DirectoryReaders, "88d8e3e3-8f55-4a1e-953a-9b9898b8876b"),
        (Self::ApplicationAdministrator, "9b895d92-2cd3-44c7-9d02-a6ac2d5ea5c3"),
        (Self::CloudApplicationAdministrator, "158c047a-c907-4556-b7ef-446551a6b5f7"),
    ];

    /// The role of that template id.
    pub fn parse(id: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| known.eq_ignore_ascii_case(id)).map(|(role, _)| *role)
    }
}

/// What a token grants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// To the application itself.
    pub application: Vec<Permission>,
    /// To the application on behalf of a person, as far as the person may.
    pub delegated: Vec<Permission>,
    /// What the person is.
    pub roles: Vec<Role>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// For the audit log.
    pub name: String,
    /// Which caller of which issuer; `None` where a token names nobody.
    pub identity: Option<String>,
    grant: Grant,
}

impl Caller {
    /// A caller whom `issuer` calls `who`, if anybody, with what its token grants.  `name` is for people:
    /// its first characters, and no line breaks, come into the log.
    pub fn new(issuer: &str, who: Option<&str>, name: &str, grant: Grant) -> Self {
        const SHOWN: usize = 128;
        let identity = who.filter(|who| !who.is_empty()).map(|who| format!("{issuer} {who}"));
        let name = name.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        Self { name, identity, grant }
    }

    /// Refuses what the caller may not do.
    pub fn require(&self, need: Need) -> Result<(), Fault> {
        let Grant { application, delegated, roles } = &self.grant;
        let any = |granted: &[Permission]| need.any_of().iter().any(|p| granted.contains(p));
        let may = need.roles().iter().any(|role| roles.contains(role));
        if any(application) || (any(delegated) && may) { Ok(()) } else { Err(Fault::Forbidden) }
    }
}

/// Knows callers by their bearer tokens.
pub struct Authenticator {
    /// By SHA-256 of the token.  To look up a hash tells by its time nothing about the token.
    tokens: HashMap<[u8; 32], Arc<Caller>>,
    issuers: Vec<TrustedIssuer>,
}

impl Authenticator {
    /// Knows the callers of `tokens`, and those that `issuers` vouch for.
    pub fn new(tokens: Vec<StaticToken>, issuers: Vec<Issuer>) -> Self {
        let caller = |t: StaticToken| {
            let grant = Grant { application: t.permissions, ..Grant::default() };
            (t.sha256, Arc::new(Caller::new("token", Some(&t.name), &t.name, grant)))
        };
        Self {
            tokens: tokens.into_iter().map(caller).collect(),
            issuers: issuers.into_iter().map(TrustedIssuer::new).collect(),
        }
    }

    /// The caller of an `Authorization` header, on a connection with this client certificate.
    pub async fn caller(
        &self,
        authorization: Option<&str>,
        certificate: Option<&Fingerprint>,
    ) -> Result<Arc<Caller>, Fault> {
        let token = authorization
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"))
            .map(|(_, token)| token.trim())
            .filter(|token| !token.is_empty())
            .ok_or(Fault::Anonymous)?;
        let hash = Fingerprint::of(token.as_bytes()).0;
        if let Some(caller) = self.tokens.get(&hash) {
            return Ok(Arc::clone(caller));
        }
        let claimed = issuers::claimed_issuer(token);
        match self.issuers.iter().find(|issuer| Some(issuer.name()) == claimed.as_deref()) {
            Some(issuer) => issuer.caller(token, certificate).await.map(Arc::new),
            None => Err(Fault::Token("Access token is not accepted.")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authenticator() -> Authenticator {
        let token = StaticToken {
            name: "sync".into(),
            sha256: Fingerprint::of(b"s3cret").0,
            permissions: vec![Permission::MutualTlsRead],
        };
        Authenticator::new(vec![token], vec![])
    }

    #[tokio::test]
    async fn a_known_token_is_its_caller() {
        let caller = authenticator().caller(Some("bearer s3cret"), None).await.expect("a caller");
        assert_eq!(caller.name, "sync");
        assert_eq!(caller.require(Need::ReadMutualTls), Ok(()));
        assert_eq!(caller.require(Need::WriteMutualTls), Err(Fault::Forbidden));
        assert_eq!(caller.require(Need::ReadApplications), Err(Fault::Forbidden));
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        for header in [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Basic s3cret")] {
            let got = authenticator().caller(header, None).await.err();
            assert_eq!(got, Some(Fault::Anonymous), "{header:?}");
        }
        for header in ["Bearer s3cres", "Bearer s3cret x", "Bearer S3CRET"] {
            let got = authenticator().caller(Some(header), None).await.err();
            assert_eq!(got, Some(Fault::Token("Access token is not accepted.")), "{header}");
        }
    }

    /// What a person may do through an application that may do everything: what the person's role says.
    #[test]
    fn a_delegated_permission_goes_as_far_as_the_role() {
        use Need::*;
        const TRUST: &[Need] = &[ReadMutualTls, WriteMutualTls];
        const APPLICATIONS: &[Need] = &[ReadApplications, WriteApplications];
        const TEMPLATES: &[Need] =
            &[ReadTemplates, CreateTemplates, DeleteTemplates, CreateDevices];
        const DEVICES: &[Need] = &[ReadDevices, WriteDevices];
        let all = [TRUST, APPLICATIONS, TEMPLATES, DEVICES].concat();
        let of_devices = [TRUST, TEMPLATES, DEVICES].concat();
        let table = [
            (Role::GlobalAdministrator, all.clone()),
            (Role::CloudDeviceAdministrator, of_devices.clone()),
            (Role::IotDeviceAdministrator, of_devices),
            (Role::IntuneAdministrator, DEVICES.to_vec()),
            (Role::GlobalReader, vec![ReadDevices]),
            (Role::DirectoryReaders, vec![ReadDevices]),
            (Role::ApplicationAdministrator, APPLICATIONS.to_vec()),
            (Role::CloudApplicationAdministrator, APPLICATIONS.to_vec()),
        ];
        assert!(Role::ALL.iter().all(|(role, _)| table.iter().any(|(r, _)| r == role)));
        let caller = |delegated: &[Permission], roles: Vec<Role>| {
            let grant = Grant { delegated: delegated.to_vec(), roles, ..Grant::default() };
            Caller::new("issuer", Some("person"), "person", grant)
        };
        for (role, may) in table {
            for &need in &all {
                let got = caller(&Permission::ALL, vec![role]).require(need).is_ok();
                assert_eq!(got, may.contains(&need), "{role:?} {need:?}");
                // Neither a role alone nor a permission alone is enough.
                assert!(caller(&[], vec![role]).require(need).is_err());
            }
        }
        for &need in &all {
            assert!(caller(&Permission::ALL, vec![]).require(need).is_err(), "{need:?}");
        }
    }

    #[test]
    fn permissions_have_graphs_names() {
        for permission in Permission::ALL {
            assert_eq!(Permission::parse(permission.as_str()), Some(permission));
        }
        assert_eq!(Permission::parse("MutualTlsOauthConfiguration.Write"), None);
    }
}
