//! Where the directory is, and how an administrator gets in.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use url::Url;

use crate::graph::auth::{AssertionStyle, Cloud, Credential, TokenEndpoint};
use crate::graph::client::{Client, Limits};
use crate::runtime::log::Secret;

/// Where the directory is and how to get in.
#[derive(Debug, Args)]
pub(super) struct Access {
    /// The directory's root
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "ANCHORGATE_DIRECTORY",
        default_value = "https://graph.microsoft.com"
    )]
    url: Url,
    /// PEM of the only authorities that the directory's server may have
    #[arg(long, global = true, value_name = "FILE", env = "ANCHORGATE_DIRECTORY_CA")]
    ca_bundle: Option<PathBuf>,
    /// A file with a bearer token
    #[arg(long, global = true, value_name = "FILE", env = "ANCHORGATE_DIRECTORY_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The Entra tenant that tokens come from
    #[arg(long, global = true, value_name = "ID", env = "AZURE_TENANT_ID")]
    tenant: Option<String>,
    /// The token endpoint that tokens come from instead, as that of an anchorgate; there the
    /// certificate is shown in the handshake
    #[arg(long, global = true, value_name = "URL", env = "ANCHORGATE_DIRECTORY_TOKEN_URL")]
    token_url: Option<Url>,
    /// What the token is for, where that is not the directory's address: AUDIENCE/.default
    #[arg(long, global = true, value_name = "SCOPE")]
    scope: Option<String>,
    /// The application's client ID
    #[arg(long, global = true, value_name = "ID", env = "AZURE_CLIENT_ID")]
    client_id: Option<String>,
    /// A file with the application's client secret
    #[arg(long, global = true, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// The application's certificate, PEM
    #[arg(long, global = true, value_name = "FILE", requires = "client_key")]
    client_certificate: Option<PathBuf>,
    /// The certificate's key, PEM; RSA where Entra is shown it
    #[arg(long, global = true, value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// What the command line asks for makes no sense.
#[derive(Debug)]
pub struct Usage(pub(super) String);

impl std::error::Error for Usage {}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; `anchorgate directory --help` tells more", self.0)
    }
}

impl Access {
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let bundle = self.ca_bundle.as_deref().map(read).transpose()?.map(String::into_bytes);
        Ok(Client::new(&self.url, self.credential()?, bundle, Limits::default())?)
    }

    fn credential(&self) -> anyhow::Result<Credential> {
        Ok(match (&self.token_file, &self.client_secret_file, &self.client_certificate) {
            (Some(file), None, None) => Credential::Static(secret(file)?),
            (None, Some(file), None) => {
                Credential::ClientSecret { endpoint: self.endpoint()?, secret: secret(file)? }
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
                return Err(Usage(why.into()).into());
            }
        })
    }

    /// Where and for what tokens are asked.  For this directory and no other: a token for Microsoft's
    /// is not shown to somebody else's.
    fn endpoint(&self) -> Result<TokenEndpoint, Usage> {
        let usage = |why: &str| Usage(why.into());
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
                .ok_or_else(|| usage("--tenant makes no token endpoint"))?,
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

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn secret(path: &Path) -> anyhow::Result<Secret> {
    Ok(Secret::new(read(path)?.trim()))
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
    fn a_token_is_for_the_directory_that_is_asked() {
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
    fn a_certificate_is_shown_where_the_token_endpoint_is_named() {
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
