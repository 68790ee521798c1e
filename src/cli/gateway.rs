//! The running gateway, as commands ask it: its admin plane.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use reqwest::Method;
use serde_json::Value;
use url::Url;

use crate::http::outbound::{ClientSettings, ServerAuthorities};
use crate::runtime::log::Secret;

/// Where the admin plane is, and who asks.
#[derive(Debug, Args)]
pub struct Gateway {
    /// The admin plane of the running gateway
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:9090",
        env = "ANCHORGATE_ADMIN"
    )]
    admin: Url,
    /// A file with the bearer token for it; the token itself may be in ANCHORGATE_ADMIN_TOKEN
    #[arg(long, value_name = "FILE", env = "ANCHORGATE_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,
    /// PEM of the only authorities that its https server may have
    #[arg(long, value_name = "FILE", env = "ANCHORGATE_ADMIN_CA_BUNDLE")]
    admin_ca_bundle: Option<PathBuf>,
}

impl Gateway {
    /// Asks for `path`, with a JSON body or none.
    ///
    /// # Errors
    /// Nobody answers, or not with JSON; or the answer is a refusal other than "not ready yet".
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Value> {
        let url = self.admin.join(path)?;
        let mut client =
            ClientSettings { request: Some(Duration::from_secs(120)), ..ClientSettings::default() };
        if let Some(file) = &self.admin_ca_bundle {
            let pem = std::fs::read(file).with_context(|| file.display().to_string())?;
            client.authorities = ServerAuthorities::Only(pem);
        }
        let mut request = client.client()?.request(method, url.clone());
        if let Some(token) = self.token()? {
            request = request.bearer_auth(token.expose());
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer =
            request.send().await.with_context(|| format!("no gateway answers at {url}"))?;
        let status = answer.status();
        let body: Value = answer.json().await.with_context(|| format!("{url} answers no JSON"))?;
        let not_yet = path == "readyz" && status == 503;
        if !status.is_success() && !not_yet {
            bail!("{url}: {status}: {}", body["error"].as_str().unwrap_or("-"));
        }
        Ok(body)
    }

    /// The token.  A process's arguments are for all to read, so it is none of them.
    fn token(&self) -> anyhow::Result<Option<Secret>> {
        let text = match &self.admin_token_file {
            Some(file) => {
                std::fs::read_to_string(file).with_context(|| file.display().to_string())?
            }
            None => match std::env::var("ANCHORGATE_ADMIN_TOKEN") {
                Ok(token) => token,
                Err(_) => return Ok(None),
            },
        };
        let token = Secret::new(text.trim());
        ensure!(!token.expose().is_empty(), "the admin token is empty");
        let is_web = self.admin.scheme() == "https";
        let host = self.admin.host_str().unwrap_or("").trim_matches(['[', ']']);
        let is_here = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        ensure!(is_web || is_here, "the admin token is not sent to {host} in plain text");
        Ok(Some(token))
    }
}
