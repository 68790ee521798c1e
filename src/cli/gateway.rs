//! Requests of commands to the admin plane of a running gateway.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use reqwest::Method;
use serde_json::Value;
use url::Url;

use crate::cli::input::{read_ca_bundle, read_secret};
use crate::cli::terminal::text;
use crate::http::outbound::{ClientSettings, ServerAuthorities};
use crate::runtime::log::Secret;

/// Address of the admin plane, and the credentials for it.
#[derive(Debug, Args)]
pub(super) struct Gateway {
    /// Admin plane of the running gateway: `unix:` and the path of its socket, or a URL
    #[arg(
        long,
        value_name = "SOCKET|URL",
        default_value = "unix:/var/lib/anchorgate/admin.sock",
        env = "ANCHORGATE_ADMIN"
    )]
    admin: Address,
    /// File with the bearer token for a URL; ANCHORGATE_ADMIN_TOKEN can contain the token itself
    #[arg(long, value_name = "FILE", env = "ANCHORGATE_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,
    /// PEM file of the only authorities accepted for its https server
    #[arg(long, value_name = "FILE", env = "ANCHORGATE_ADMIN_CA_BUNDLE")]
    admin_ca_bundle: Option<PathBuf>,
}

/// Address of an admin plane.
#[derive(Debug, Clone)]
enum Address {
    Socket(PathBuf),
    Url(Url),
}

impl FromStr for Address {
    type Err = url::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Self::Socket(path.into())),
            None => text.parse().map(Self::Url),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::Url(url) => url.fmt(f),
        }
    }
}

impl Gateway {
    /// Sends a request, and returns the JSON of the response.
    ///
    /// # Errors
    /// There is no response, it is not JSON, or its status is an error.  The status 503 of `readyz`
    /// is not an error.
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Value> {
        let (at, response) = (&self.admin, self.send(method, path, body).await?);
        let status = response.status();
        let body: Value =
            response.json().await.with_context(|| format!("{at}: the response is not JSON"))?;
        let is_not_ready = path == "readyz" && status == 503;
        if !status.is_success() && !is_not_ready {
            bail!("{at}: /{path}: {status}: {}", text(&body["error"]));
        }
        Ok(body)
    }

    /// Fetches a text, such as the metrics.
    ///
    /// # Errors
    /// There is no response, or its status is an error.
    pub(super) async fn text(&self, path: &str) -> anyhow::Result<String> {
        let response = self.send(Method::GET, path, None).await?;
        let named = || format!("{}: /{path}", self.admin);
        let response = response.error_for_status().with_context(named)?;
        response.text().await.with_context(named)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<reqwest::Response> {
        let url = match &self.admin {
            // The host is not used to connect.
            Address::Socket(_) => Url::parse("http://localhost/")?.join(path)?,
            Address::Url(url) => url.join(path)?,
        };
        let mut client =
            ClientSettings { request: Some(Duration::from_secs(120)), ..ClientSettings::default() };
        if let Some(file) = &self.admin_ca_bundle {
            client.authorities = ServerAuthorities::Only(read_ca_bundle(file)?);
        }
        let mut request = match &self.admin {
            Address::Socket(socket) => client.client_with(|client| client.unix_socket(&**socket)),
            Address::Url(_) => client.client(),
        }?
        .request(method, url);
        if let Address::Url(url) = &self.admin
            && let Some(token) = self.token(url)?
        {
            request = request.bearer_auth(token.expose());
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let at = &self.admin;
        let response = request.send().await.with_context(|| {
            format!(
                "no response from a gateway at {at}: is it running? --admin names its socket or URL"
            )
        })?;
        Ok(response)
    }

    /// The token.  It is not an argument, because other users can read a process's arguments.
    fn token(&self, url: &Url) -> anyhow::Result<Option<Secret>> {
        let token = match &self.admin_token_file {
            Some(file) => read_secret(file)?,
            None => match std::env::var("ANCHORGATE_ADMIN_TOKEN") {
                Ok(token) => Secret::new(token.trim()),
                Err(_) => return Ok(None),
            },
        };
        ensure!(!token.expose().is_empty(), "ANCHORGATE_ADMIN_TOKEN is empty");
        let is_https = url.scheme() == "https";
        let host = url.host_str().unwrap_or("").trim_matches(['[', ']']);
        let is_loopback = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        ensure!(
            is_https || is_loopback,
            "the admin token is not sent to {host} in plain text; use an https URL"
        );
        Ok(Some(token))
    }
}
