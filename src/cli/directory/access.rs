//! Address of the directory and credentials of the administrator.

use std::fmt;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use url::Url;

use crate::cli::input::{read_ca_bundle, read_secret};
use crate::cli::output::Output;
use crate::graph::auth::{AssertionStyle, Cloud, Credential, TokenEndpoint};
use crate::graph::client::{Client, Limits};
use crate::runtime::random::is_guid;

/// Address of the directory and credentials for it.
#[derive(Debug, Args)]
pub(super) struct Access {
    /// Root URL of the directory
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "ANCHORGATE_DIRECTORY",
        default_value = "https://graph.microsoft.com"
    )]
    url: Url,
    /// PEM file of the only authorities accepted for the directory's server
    #[arg(long, global = true, value_name = "FILE", env = "ANCHORGATE_DIRECTORY_CA")]
    ca_bundle: Option<PathBuf>,
    /// File with a bearer token
    #[arg(long, global = true, value_name = "FILE", env = "ANCHORGATE_DIRECTORY_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Entra tenant that issues tokens
    #[arg(long, global = true, value_name = "ID", env = "AZURE_TENANT_ID")]
    tenant: Option<String>,
    /// Token endpoint to use instead of the tenant's, such as that of an anchorgate. The client
    /// certificate is then used in the TLS handshake
    #[arg(long, global = true, value_name = "URL", env = "ANCHORGATE_DIRECTORY_TOKEN_URL")]
    token_url: Option<Url>,
    /// Scope of the token, AUDIENCE/.default [default: the directory's origin]
    #[arg(long, global = true, value_name = "SCOPE")]
    scope: Option<String>,
    /// Client id of the application
    #[arg(long, global = true, value_name = "ID", env = "AZURE_CLIENT_ID")]
    client_id: Option<String>,
    /// File with the client secret of the application
    #[arg(long, global = true, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// Certificate of the application, PEM
    #[arg(long, global = true, value_name = "FILE", requires = "client_key")]
    client_certificate: Option<PathBuf>,
    /// Private key of the certificate, PEM; RSA for Entra
    #[arg(long, global = true, value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// Print JSON; the same as `--output json`
    #[arg(long, global = true, conflicts_with = "output")]
    json: bool,
    /// Format of the output
    #[arg(long, global = true, value_enum, default_value_t)]
    output: Output,
}

/// Error of a command line that is not valid.
#[derive(Debug)]
pub(crate) struct UsageError(pub(super) String);

impl std::error::Error for UsageError {}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.contains("`anchorgate ") {
            true => write!(f, "{}", self.0),
            false => write!(f, "{}; see `anchorgate directory --help`", self.0),
        }
    }
}

impl Access {
    /// Format of the output.
    pub(super) fn output(&self) -> Output {
        if self.json { Output::Json } else { self.output }
    }

    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let bundle = self.ca_bundle.as_deref().map(read_ca_bundle).transpose()?;
        Ok(Client::new(&self.url, self.credential()?, bundle, Limits::default())?)
    }

    fn credential(&self) -> anyhow::Result<Credential> {
        Ok(match (&self.token_file, &self.client_secret_file, &self.client_certificate) {
            (Some(file), None, None) => Credential::Static(read_secret(file)?),
            (None, Some(file), None) => {
                Credential::ClientSecret { endpoint: self.endpoint()?, secret: read_secret(file)? }
            }
            (None, None, Some(certificate)) => {
                let (certificate, endpoint) = (certificate.clone(), self.endpoint()?);
                let key = self.client_key.clone().context("--client-key is missing")?;
                match &self.token_url {
                    Some(_) => Credential::MutualTls { endpoint, certificate, key },
                    None => Credential::ClientCertificate {
                        endpoint,
                        certificate,
                        key,
                        style: AssertionStyle::default(),
                        send_chain: false,
                    },
                }
            }
            _ => {
                let why = "exactly one of --token-file, --client-secret-file and \
                           --client-certificate is needed";
                return Err(UsageError(why.into()).into());
            }
        })
    }

    /// The token endpoint and scope.  The scope is that of this directory only, so that a token for
    /// Microsoft's directory is never sent to another server.
    fn endpoint(&self) -> Result<TokenEndpoint, UsageError> {
        let usage = |why: &str| UsageError(why.into());
        let Some(client_id) = &self.client_id else {
            return Err(usage("a client secret or certificate needs --client-id"));
        };
        let cloud = Cloud::of(&self.url);
        let endpoint = match (&self.token_url, &self.tenant) {
            (Some(url), _) => TokenEndpoint {
                url: url.clone(),
                client_id: client_id.clone(),
                scope: String::new(),
            },
            (None, Some(tenant)) => cloud
                .unwrap_or(Cloud::Global)
                .endpoint(tenant, client_id)
                .ok_or_else(|| usage("--tenant does not result in a valid token endpoint"))?,
            (None, None) => {
                return Err(usage("a client secret or certificate needs --tenant or --token-url"));
            }
        };
        match (cloud, &self.token_url, &self.scope) {
            (_, _, Some(scope)) => Ok(TokenEndpoint { scope: scope.clone(), ..endpoint }),
            (Some(_), None, None) => Ok(endpoint),
            _ => {
                let scope = format!("{}/.default", self.url.origin().ascii_serialization());
                Ok(TokenEndpoint { scope, ..endpoint })
            }
        }
    }
}

/// Rejects a text that is not a configuration id, before a request: the URL with an empty id is
/// that of the whole collection.
pub(super) fn configuration_id(id: &str) -> Result<(), UsageError> {
    match is_guid(id) {
        true => Ok(()),
        false => {
            Err(UsageError(format!("`{id}` is not the id of a configuration, which is a GUID")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        access: Access,
    }

    fn credential(arguments: &str) -> Result<Credential, String> {
        let line = Line::try_parse_from(["x"].into_iter().chain(arguments.split(' ')))
            .map_err(|error| error.to_string())?;
        line.access.credential().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_default_scope_is_that_of_the_directory() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("secret");
        std::fs::write(&file, "s\n").expect("written");
        let secret = format!("--client-secret-file {} --client-id app", file.display());
        let with = |rest: &str| match credential(&format!("{secret} {rest}")) {
            Ok(Credential::ClientSecret { endpoint, secret }) => {
                assert_eq!(secret.expose(), "s");
                Ok((endpoint.url.to_string(), endpoint.scope))
            }
            Ok(_) => Err("another credential".into()),
            Err(why) => Err(why),
        };
        let login = "https://login.microsoftonline.com/t/oauth2/v2.0/token";
        for (arguments, url, scope) in [
            ("--tenant t", login, "https://graph.microsoft.com/.default"),
            (
                "--tenant t --url https://graph.microsoft.us/beta",
                "https://login.microsoftonline.us/t/oauth2/v2.0/token",
                "https://graph.microsoft.us/.default",
            ),
            (
                "--tenant t --url https://hub.example:8445",
                login,
                "https://hub.example:8445/.default",
            ),
            (
                "--token-url https://gw.example/oauth2/token --url https://hub.example",
                "https://gw.example/oauth2/token",
                "https://hub.example/.default",
            ),
            ("--tenant t --scope api://hub/.default", login, "api://hub/.default"),
        ] {
            assert_eq!(with(arguments), Ok((url.into(), scope.into())), "{arguments}");
        }
        assert!(with("--url https://hub.example").is_err_and(|why| why.contains("--token-url")));
    }

    #[test]
    fn a_certificate_is_used_in_the_handshake_with_a_named_token_endpoint() {
        let pair = "--client-id app --client-certificate c --client-key k";
        let at = |rest: &str| credential(&format!("{pair} {rest}")).map_err(drop);
        assert!(matches!(
            at("--token-url https://gw.example/oauth2/token"),
            Ok(Credential::MutualTls { .. })
        ));
        assert!(matches!(at("--tenant t"), Ok(Credential::ClientCertificate { .. })));
        assert!(credential("--client-certificate c").is_err());
        let none = credential("--json").map(drop).expect_err("no credential");
        assert!(none.contains("exactly one of") && none.contains("--help"), "{none}");
    }
}
