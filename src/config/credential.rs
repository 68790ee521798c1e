//! `[graph.credential]`: authentication of the gateway to a directory.
//!
//! Each credential has one function.  All keys are read first, because an unknown key must be
//! reported whichever credential is configured.

use std::path::{Path, PathBuf};

use url::Url;

use crate::config::section::Section;
use crate::graph::auth::{
    AssertionStyle, Cloud, Credential, INSTANCE_METADATA, ManagedIdentity, TokenEndpoint,
};
use crate::runtime::log::Secret;

/// Returns an environment variable.  Azure's platforms pass credentials in them.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads the section.  `base` is the root of the directory, for the default scope.
pub(super) fn read(
    section: &mut Section<'_>,
    folder: &Path,
    base: Option<&Url>,
    environment: Environment<'_>,
) -> Option<Credential> {
    let method = method(section);
    let keys = Keys::read(section, folder);
    let graph = Cloud::Global.graph();
    let resource =
        base.map_or_else(|| graph.to_owned(), |base| base.origin().ascii_serialization());
    let reader = Reader { section, folder, environment, resource };
    match method? {
        Method::Token => keys.token.map(Credential::Static),
        Method::ClientSecret => reader.client_secret(keys),
        Method::Certificate => reader.certificate(keys),
        Method::Federated => reader.federated(keys),
        Method::ManagedIdentity => reader.managed_identity(keys),
    }
}

#[derive(Debug, Clone, Copy)]
enum Method {
    Token,
    ClientSecret,
    Certificate,
    Federated,
    ManagedIdentity,
}

/// The one method that is configured.
fn method(section: &Section<'_>) -> Option<Method> {
    let present = [
        (Method::Token, section.has("token") || section.has("token_file")),
        (Method::ClientSecret, section.has("client_secret") || section.has("client_secret_file")),
        (Method::Certificate, section.has("certificate")),
        (
            Method::Federated,
            section.has("federated_token_file") || section.has("workload_identity"),
        ),
        (Method::ManagedIdentity, section.has("managed_identity")),
    ];
    let mut methods = present.into_iter().filter(|(_, present)| *present).map(|(method, _)| method);
    let (Some(method), None) = (methods.next(), methods.next()) else {
        let allowed = "exactly one of token, token_file, client_secret, client_secret_file, \
                       certificate, federated_token_file, workload_identity and managed_identity is \
                       needed";
        section.problem("token", None, allowed);
        return None;
    };
    Some(method)
}

/// The values of the section.
struct Keys {
    token: Option<Secret>,
    client_secret: Option<Secret>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    assertion: AssertionStyle,
    send_chain: bool,
    mutual_tls: bool,
    federated_token_file: Option<PathBuf>,
    workload_identity: bool,
    identity: Option<IdentityKind>,
    object_id: Option<String>,
    resource_id: Option<String>,
    metadata_url: Option<Url>,
    client_id: Option<String>,
    tenant: Option<String>,
    token_url: Option<Url>,
    scope: Option<String>,
}

/// Value of `managed_identity`.
#[derive(Debug, Clone, Copy)]
enum IdentityKind {
    System,
    User,
}

impl Keys {
    fn read(section: &mut Section<'_>, folder: &Path) -> Self {
        let styles = [("PS256", AssertionStyle::Ps256), ("RS256", AssertionStyle::Rs256)];
        let identities = [("system", IdentityKind::System), ("user", IdentityKind::User)];
        Self {
            token: section.secret("token", "token_file", folder),
            client_secret: section.secret("client_secret", "client_secret_file", folder),
            certificate: section.file("certificate").map(|file| folder.join(file)),
            key: section.file("key").map(|file| folder.join(file)),
            assertion: section.choice("assertion", &styles).unwrap_or_default(),
            send_chain: section.flag("send_chain").unwrap_or(false),
            mutual_tls: section.flag("mutual_tls").unwrap_or(false),
            federated_token_file: section
                .file("federated_token_file")
                .map(|file| folder.join(file)),
            workload_identity: section.flag("workload_identity").unwrap_or(false),
            identity: section.choice("managed_identity", &identities),
            object_id: section.text("object_id"),
            resource_id: section.text("resource_id"),
            metadata_url: section.url("metadata_url"),
            client_id: section.text("client_id"),
            tenant: section.text("tenant"),
            token_url: section.secure_url("token_url"),
            scope: section.text("scope"),
        }
    }
}

struct Reader<'a, 'r> {
    section: &'a Section<'r>,
    folder: &'a Path,
    environment: Environment<'a>,
    /// The origin that tokens are for, such as `https://graph.microsoft.com`.
    resource: String,
}

impl Reader<'_, '_> {
    fn client_secret(&self, keys: Keys) -> Option<Credential> {
        let login = Cloud::Global.login();
        let endpoint =
            self.endpoint(keys.token_url, keys.tenant, keys.client_id, keys.scope, login)?;
        Some(Credential::ClientSecret { endpoint, secret: keys.client_secret? })
    }

    fn certificate(&self, keys: Keys) -> Option<Credential> {
        let login = Cloud::Global.login();
        let endpoint =
            self.endpoint(keys.token_url, keys.tenant, keys.client_id, keys.scope, login)?;
        let certificate = keys.certificate?;
        let Some(key) = keys.key else {
            if !self.section.has_problem("key") {
                self.section.problem("key", None, "missing: the private key of `certificate`");
            }
            return None;
        };
        if keys.mutual_tls {
            return Some(Credential::MutualTls { endpoint, certificate, key });
        }
        let Keys { assertion: style, send_chain, .. } = keys;
        Some(Credential::ClientCertificate { endpoint, certificate, key, style, send_chain })
    }

    /// `federated_token_file`, or `workload_identity`, whose webhook passes the settings in
    /// environment variables.  Keys of the section take precedence over variables.
    fn federated(&self, keys: Keys) -> Option<Credential> {
        let variable = |name| keys.workload_identity.then(|| (self.environment)(name)).flatten();
        let file = || variable("AZURE_FEDERATED_TOKEN_FILE").map(|file| self.folder.join(file));
        let Some(token_file) = keys.federated_token_file.or_else(file) else {
            let allowed = "AZURE_FEDERATED_TOKEN_FILE is not in the environment; set it or \
                           `federated_token_file`";
            self.section.problem("workload_identity", None, allowed);
            return None;
        };
        let client_id = keys.client_id.or_else(|| variable("AZURE_CLIENT_ID"));
        let tenant = keys.tenant.or_else(|| variable("AZURE_TENANT_ID"));
        let login = variable("AZURE_AUTHORITY_HOST");
        let login = login.as_deref().unwrap_or(Cloud::Global.login());
        let endpoint = self.endpoint(keys.token_url, tenant, client_id, keys.scope, login)?;
        Some(Credential::WorkloadIdentity { endpoint, token_file })
    }

    fn managed_identity(self, keys: Keys) -> Option<Credential> {
        let selectors = (keys.client_id, keys.object_id, keys.resource_id);
        let identity = match (keys.identity?, selectors) {
            (IdentityKind::System, (None, None, None)) => ManagedIdentity::System,
            (IdentityKind::User, (Some(id), None, None)) => ManagedIdentity::ClientId(id),
            (IdentityKind::User, (None, Some(id), None)) => ManagedIdentity::ObjectId(id),
            (IdentityKind::User, (None, None, Some(id))) => ManagedIdentity::ResourceId(id),
            _ => {
                let allowed = "`user` needs exactly one of client_id, object_id and resource_id; \
                               `system` allows none of them";
                self.section.problem("managed_identity", None, allowed);
                return None;
            }
        };
        let resource = self.resource;
        if let Some(url) = keys.metadata_url {
            return Some(Credential::InstanceMetadata { url, resource, identity });
        }
        // App Service identifies itself with these two variables.
        let variable = self.environment;
        let Some((url, header)) = variable("IDENTITY_ENDPOINT").zip(variable("IDENTITY_HEADER"))
        else {
            let url = Url::parse(INSTANCE_METADATA).ok()?;
            return Some(Credential::InstanceMetadata { url, resource, identity });
        };
        let Ok(parsed) = Url::parse(&url) else {
            let shown = Some(format!("`{url}`"));
            self.section.problem("managed_identity", shown, "IDENTITY_ENDPOINT must be a URL");
            return None;
        };
        let header = Secret::new(header);
        Some(Credential::AppService { url: parsed, header, resource, identity })
    }

    /// The token endpoint: `token_url`, or the endpoint of `tenant` at `login`.
    fn endpoint(
        &self,
        token_url: Option<Url>,
        tenant: Option<String>,
        client_id: Option<String>,
        scope: Option<String>,
        login: &str,
    ) -> Option<TokenEndpoint> {
        let url = match (token_url, tenant) {
            (Some(url), _) => url,
            (None, Some(tenant)) => {
                let text = format!("{}/{tenant}/oauth2/v2.0/token", login.trim_end_matches('/'));
                let Ok(url) = Url::parse(&text) else {
                    let allowed = "it must result in a valid URL";
                    self.section.problem("tenant", Some(format!("`{text}`")), allowed);
                    return None;
                };
                url
            }
            (None, None) => {
                // An address that is not valid was reported.
                if !["tenant", "token_url"].iter().any(|key| self.section.has_problem(key)) {
                    self.section.problem("tenant", None, "missing: set `tenant` or `token_url`");
                }
                return None;
            }
        };
        let Some(client_id) = client_id else {
            if !self.section.has_problem("client_id") {
                let allowed = "missing: the application (client) id that requests tokens";
                self.section.problem("client_id", None, allowed);
            }
            return None;
        };
        let scope = scope.unwrap_or_else(|| format!("{}/.default", self.resource));
        Some(TokenEndpoint { url, client_id, scope })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::section::read_text;

    fn read_keys(keys: &str, environment: Environment<'_>) -> Result<Credential, String> {
        let (credential, problems) = read_text(keys, |section| {
            read(section, Path::new("/etc/anchorgate"), None, environment)
        });
        credential.filter(|_| problems.is_empty()).ok_or_else(|| problems.join("; "))
    }

    #[test]
    fn workload_identity_uses_the_variables_of_its_webhook() {
        let pod = |name: &str| {
            let value = match name {
                "AZURE_FEDERATED_TOKEN_FILE" => "/var/run/secrets/azure/tokens/token",
                "AZURE_CLIENT_ID" => "the-client",
                "AZURE_TENANT_ID" => "the-tenant",
                "AZURE_AUTHORITY_HOST" => "https://login.example/",
                _ => return None,
            };
            Some(value.to_owned())
        };
        match read_keys("workload_identity = true", &pod) {
            Ok(Credential::WorkloadIdentity { endpoint, token_file }) => {
                let url = "https://login.example/the-tenant/oauth2/v2.0/token";
                assert_eq!(endpoint.url.as_str(), url);
                assert_eq!(endpoint.client_id, "the-client");
                assert_eq!(endpoint.scope, "https://graph.microsoft.com/.default");
                assert_eq!(token_file, Path::new("/var/run/secrets/azure/tokens/token"));
            }
            other => panic!("{other:?}"),
        }
        let error = read_keys("workload_identity = true", &|_| None).expect_err("no variables");
        assert!(error.contains("AZURE_FEDERATED_TOKEN_FILE"), "{error}");
    }

    #[test]
    fn managed_identity_uses_the_service_of_the_platform() {
        let no_variables = |_: &str| None;
        let app_service = |name: &str| match name {
            "IDENTITY_ENDPOINT" => Some("http://127.0.0.1:41000/msi/token".to_owned()),
            "IDENTITY_HEADER" => Some("a-secret".to_owned()),
            _ => None,
        };
        assert!(matches!(
            read_keys("managed_identity = 'system'", &no_variables),
            Ok(Credential::InstanceMetadata { identity: ManagedIdentity::System, .. })
        ));
        assert!(matches!(
            read_keys("managed_identity = 'user'\nobject_id = 'x'", &app_service),
            Ok(Credential::AppService { identity: ManagedIdentity::ObjectId(_), .. })
        ));
        for keys in ["managed_identity = 'user'", "managed_identity = 'system'\nclient_id = 'x'"] {
            let error = read_keys(keys, &no_variables).expect_err("ambiguous");
            assert!(error.contains("exactly one of client_id"), "{error}");
        }
    }

    #[test]
    fn exactly_one_credential_is_needed() {
        for keys in ["", "token = 'a'\nmanaged_identity = 'system'"] {
            let error = read_keys(keys, &|_| None).expect_err("none or two");
            assert!(error.contains("exactly one of token"), "{error}");
        }
    }

    #[test]
    fn a_certificate_needs_its_key_and_a_token_endpoint() {
        let text = "certificate = 'c.pem'\nclient_id = 'x'\n";
        for (keys, expected) in [
            ("key = 'k.pem'", "tenant: missing: set `tenant` or `token_url`"),
            ("tenant = 't'", "key: missing"),
            ("tenant = 't'\nkey = 'k.pem'\nkind = 'x'", "kind: unknown key"),
        ] {
            let error = read_keys(&format!("{text}{keys}"), &|_| None).expect_err("incomplete");
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn one_cause_gives_one_problem() {
        let secret = "client_secret = 's'\n";
        for (keys, expected) in [
            ("client_id = 'c'\ntoken_url = 'http://login.example/token'", "token_url: "),
            ("client_id = 'c'\ntenant = 7", "tenant: "),
            ("client_id = 7\ntenant = 't'", "client_id: "),
            ("client_id = 'c'", "tenant: missing"),
        ] {
            let problems = read_keys(&format!("{secret}{keys}"), &|_| None).map(drop);
            let problems = problems.expect_err("not usable");
            assert!(problems.starts_with(expected), "{problems}");
            let missing = usize::from(expected.contains("missing"));
            assert_eq!(problems.matches("missing").count(), missing, "{keys}: {problems}");
        }
    }
}
