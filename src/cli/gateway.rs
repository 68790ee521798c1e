//! Requests of commands to the admin plane of a running gateway.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use reqwest::Method;
use serde_json::Value;
use url::Url;

use crate::cli::input::{read_ca_bundle, read_secret};
use crate::http::outbound::{ClientSettings, ServerAuthorities};
use crate::runtime::log::Secret;

/// Address of the admin plane, and the credentials for it.
#[derive(Debug, Args)]
pub(super) struct Gateway {
    /// URL of the running gateway's admin plane
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:9090",
        env = "ANCHORGATE_ADMIN"
    )]
    admin: Url,
    /// File with its bearer token; ANCHORGATE_ADMIN_TOKEN can contain the token itself
    #[arg(long, value_name = "FILE", env = "ANCHORGATE_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,
    /// PEM file of the only authorities accepted for its https server
    #[arg(long, value_name = "FILE", env = "ANCHORGATE_ADMIN_CA_BUNDLE")]
    admin_ca_bundle: Option<PathBuf>,
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
        let (url, response) = self.send(method, path, body).await?;
        let status = response.status();
        let body: Value =
            response.json().await.with_context(|| format!("{url}: the response is not JSON"))?;
        let is_not_ready = path == "readyz" && status == 503;
        if !status.is_success() && !is_not_ready {
            bail!("{url}: {status}: {}", body["error"].as_str().unwrap_or("-"));
        }
        Ok(body)
    }

    /// Fetches a text, such as the metrics.
    ///
    /// # Errors
    /// There is no response, or its status is an error.
    pub(super) async fn text(&self, path: &str) -> anyhow::Result<String> {
        let (url, response) = self.send(Method::GET, path, None).await?;
        let response = response.error_for_status().with_context(|| url.to_string())?;
        response.text().await.with_context(|| url.to_string())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<(Url, reqwest::Response)> {
        let url = self.admin.join(path)?;
        let mut client =
            ClientSettings { request: Some(Duration::from_secs(120)), ..ClientSettings::default() };
        if let Some(file) = &self.admin_ca_bundle {
            client.authorities = ServerAuthorities::Only(read_ca_bundle(file)?);
        }
        let mut request = client.client()?.request(method, url.clone());
        if let Some(token) = self.token()? {
            request = request.bearer_auth(token.expose());
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response =
            request.send().await.with_context(|| format!("no response from a gateway at {url}"))?;
        Ok((url, response))
    }

    /// The token.  It is not an argument, because other users can read a process's arguments.
    fn token(&self) -> anyhow::Result<Option<Secret>> {
        let token = match &self.admin_token_file {
            Some(file) => read_secret(file)?,
            None => match std::env::var("ANCHORGATE_ADMIN_TOKEN") {
                Ok(token) => Secret::new(token.trim()),
                Err(_) => return Ok(None),
            },
        };
        ensure!(!token.expose().is_empty(), "ANCHORGATE_ADMIN_TOKEN is empty");
        let is_https = self.admin.scheme() == "https";
        let host = self.admin.host_str().unwrap_or("").trim_matches(['[', ']']);
        let is_loopback = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        ensure!(
            is_https || is_loopback,
            "the admin token is not sent to {host} in plain text; use an https URL"
        );
        Ok(Some(token))
    }
}
