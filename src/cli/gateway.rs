//! Requests of commands to the admin plane of a running gateway.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use url::Url;

use crate::cli::input::{read_ca_bundle, read_secret};
use crate::cli::terminal::indented;
use crate::http::outbound::{BUNDLE_HINT, ClientSettings, ServerAuthorities, explain};
use crate::runtime::log::Secret;

/// Address of the admin plane, and the credentials for it.
#[derive(Debug, Args)]
pub(super) struct Gateway {
    /// Admin plane of the running gateway: the path of its socket, with or without `unix:`, or a URL
    #[arg(
        long,
        value_name = "SOCKET|URL",
        default_value = DEFAULT,
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

/// Address of the admin plane where none is given.
const DEFAULT: &str = "unix:/var/lib/anchorgate/admin.sock";

/// A response of the gateway that is an error, in lines for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(String);

/// Address of an admin plane.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Socket(PathBuf),
    Url(Url),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A variable without a value counts as not set.
        let text = if text.is_empty() { DEFAULT } else { text };
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Socket(path.into()));
        }
        match text.parse::<Url>() {
            Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(Self::Url(url)),
            _ if text.contains('/') && !text.contains("://") => Ok(Self::Socket(text.into())),
            _ => {
                Err("it must be the path of a socket, such as /var/lib/anchorgate/admin.sock, or \
                      an http or https URL"
                    .to_owned())
            }
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
            return Err(Refused(refusal(at, status, &body["error"])).into());
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
        request.send().await.map_err(|error| {
            let why = cause(&error);
            anyhow!(
                "no response from a gateway at {at}: {why}; is it running? --admin names its socket \
                 or URL"
            )
        })
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

/// The text of a response that is an error.  What the gateway says of a request needs no status.
fn refusal(at: &Address, status: StatusCode, error: &Value) -> String {
    let why = indented(error);
    match status {
        StatusCode::UNAUTHORIZED => {
            format!("{at}: {status}: {why}; name the file with the token in --admin-token-file")
        }
        _ if status.is_client_error() && error.is_string() => why,
        _ => format!("{at}: {status}: {why}"),
    }
}

/// The innermost cause, which is that of the operating system or of TLS.
fn cause(error: &reqwest::Error) -> String {
    let hint = explain(error);
    if hint.contains(BUNDLE_HINT) {
        return hint;
    }
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_is_a_path_or_a_url() {
        let socket = |path: &str| Ok(Address::Socket(path.into()));
        for (text, expected) in [
            ("unix:/run/a.sock", socket("/run/a.sock")),
            ("/run/a.sock", socket("/run/a.sock")),
            ("./a.sock", socket("./a.sock")),
            ("", socket("/var/lib/anchorgate/admin.sock")),
            ("https://h:1", Ok(Address::Url("https://h:1".parse().expect("a URL")))),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
        for wrong in ["localhost:9090", "ftp://h/x", "admin.sock"] {
            let error = wrong.parse::<Address>().expect_err(wrong);
            assert!(error.contains("the path of a socket"), "{error}");
        }
    }

    #[test]
    fn a_refusal_is_short_and_keeps_its_lines() {
        let at = "unix:/a".parse().expect("an address");
        let text = |status, error| refusal(&at, status, &error);
        assert_eq!(text(StatusCode::CONFLICT, json!("a\nb")), "a\n  b");
        assert_eq!(
            text(StatusCode::SERVICE_UNAVAILABLE, json!("busy")),
            "unix:/a: 503 Service Unavailable: busy"
        );
        assert!(text(StatusCode::UNAUTHORIZED, json!("no")).contains("--admin-token-file"));
    }
}
