//! Permissions of the directory: what a token grants and what a request requires.

use crate::directory::errors::Fault;

/// Graph permissions for the objects of the directory.
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
    /// `DeviceTemplate.Create`.  Also allows creating devices from templates of the same caller.
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

    /// Name in the claims `roles` and `scp`.
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

    /// Returns the permission with this name, in any letter case.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str().eq_ignore_ascii_case(name))
    }
}

/// Kind of access that a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Read mutualTlsOauthConfigurations.
    ReadMutualTls,
    /// Create, change and delete mutualTlsOauthConfigurations.
    WriteMutualTls,
    /// Read certificateBasedApplicationConfigurations.
    ReadApplications,
    /// Create, change and delete certificateBasedApplicationConfigurations.
    WriteApplications,
    /// Read deviceTemplates.
    ReadTemplates,
    /// Create deviceTemplates.
    CreateTemplates,
    /// Delete deviceTemplates.
    DeleteTemplates,
    /// Read devices.
    ReadDevices,
    /// Create devices from templates of the same caller.
    CreateDevices,
    /// Create devices from any template; change and delete devices.
    WriteDevices,
}

impl Need {
    /// Permissions of which any one is sufficient.
    fn permissions(self) -> &'static [Permission] {
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

    /// Roles of which a user needs any one, in addition to a delegated permission.
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

/// Directory roles (claim `wids`) that the Graph documentation names for these resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
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
    /// Every role with its role template id.
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

    /// Returns the role with this template id.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| known.eq_ignore_ascii_case(id)).map(|(role, _)| *role)
    }
}

/// Access that a token grants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Application permissions: the application acts for itself.
    pub(crate) application: Vec<Permission>,
    /// Delegated permissions: the application acts for a user, within the limits of the user's roles.
    pub(crate) delegated: Vec<Permission>,
    /// Roles of the user.
    pub(crate) roles: Vec<Role>,
}

/// Authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Name in the audit log.
    pub(crate) name: String,
    /// Issuer of the token.
    pub(crate) issuer: String,
    /// Identifies the caller: kind, issuer and subject.  `None` if the token has no subject.
    pub(crate) identity: Option<String>,
    /// Form of [`Caller::identity`] in templates that an earlier version stored.
    pub(crate) earlier_identity: Option<String>,
    grant: Grant,
}

impl Caller {
    /// Tells callers apart: the identity, or issuer and name without one.
    pub(crate) fn key(&self) -> String {
        let named = || format!("{} {}", self.issuer, self.name);
        self.identity.clone().unwrap_or_else(named)
    }

    /// Creates the caller that `issuer` identifies by `subject` of this kind (`sub`, for example).  The
    /// log shows the first characters of `name`, without control characters.
    pub(crate) fn of(
        issuer: &str,
        (kind, subject): (&str, Option<&str>),
        name: &str,
        grant: Grant,
    ) -> Self {
        let identity = subject
            .filter(|subject| !subject.is_empty())
            .map(|subject| format!("{kind} {issuer} {subject}"));
        Self { identity, ..Self::new(issuer, None, name, grant) }
    }

    /// Creates the caller with a token of the configuration.
    pub(crate) fn new(issuer: &str, subject: Option<&str>, name: &str, grant: Grant) -> Self {
        const MAX_NAME: usize = 128;
        let subject = subject.filter(|subject| !subject.is_empty());
        let identity = subject.map(|subject| format!("{issuer} {subject}"));
        let name = name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
        Self { name, issuer: issuer.to_owned(), identity, earlier_identity: None, grant }
    }

    /// True if this caller created an object with this owner.
    pub(crate) fn is(&self, owner: &str) -> bool {
        [&self.identity, &self.earlier_identity].into_iter().flatten().any(|own| own == owner)
    }

    /// Rejects a request for which the caller lacks the permission or the role.
    pub(crate) fn require(&self, need: Need) -> Result<(), Fault> {
        let Grant { application, delegated, roles } = &self.grant;
        let any = |granted: &[Permission]| need.permissions().iter().any(|p| granted.contains(p));
        let has_role = need.roles().iter().any(|role| roles.contains(role));
        if any(application) || (any(delegated) && has_role) {
            Ok(())
        } else {
            Err(Fault::Forbidden)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The application has every delegated permission, so that only the user's role limits access.
    #[test]
    fn delegated_permissions_are_limited_by_the_role() {
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
            Caller::new("issuer", Some("user"), "user", grant)
        };
        for (role, allowed) in table {
            for &need in &all {
                let got = caller(&Permission::ALL, vec![role]).require(need).is_ok();
                assert_eq!(got, allowed.contains(&need), "{role:?} {need:?}");
                // Neither a role alone nor a permission alone is sufficient.
                assert!(caller(&[], vec![role]).require(need).is_err());
            }
        }
        for &need in &all {
            assert!(caller(&Permission::ALL, vec![]).require(need).is_err(), "{need:?}");
        }
    }

    #[test]
    fn permission_names_are_parsed() {
        for permission in Permission::ALL {
            assert_eq!(Permission::parse(permission.as_str()), Some(permission));
        }
        assert_eq!(Permission::parse("MutualTlsOauthConfiguration.Write"), None);
    }
}
