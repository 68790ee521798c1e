//! The HTTP client of transfers, which is replaced when its authorities change.

use reqwest::Client;

use crate::crl::filter::PublicOnly;
use crate::crl::transport::{Config, FetchError};
use crate::http::outbound::{ClientSettings, ProxyChoice, ServerAuthorities};

/// A client, with the authorities for `https` that it accepts.
#[derive(Debug, Clone)]
pub struct AuthorizedClient {
    pub(super) client: Client,
    pub(super) roots_pem: Option<Vec<u8>>,
}

/// Settings of the HTTP client of transfers.
pub(crate) fn client_settings(config: &Config, roots_pem: Option<&[u8]>) -> ClientSettings {
    ClientSettings {
        authorities: ServerAuthorities::SystemAnd(roots_pem.unwrap_or_default().to_vec()),
        proxy: match &config.proxy {
            Some(proxy) => ProxyChoice::Address(proxy.clone()),
            None => ProxyChoice::Direct,
        },
        connect: config.connect,
        read: None,
        // `Transport::fetch` bounds the whole exchange, including redirects.
        request: None,
    }
}

/// Builds a client with its own connection pool.
pub(super) fn client(
    config: &Config,
    roots_pem: Option<Vec<u8>>,
) -> Result<AuthorizedClient, FetchError> {
    let settings = client_settings(config, roots_pem.as_deref());
    // With a proxy, only the proxy's own name is resolved here, and the operator chose it.
    let public_only = config.public_only && config.proxy.is_none();
    let client = settings.client_with(|builder| {
        let builder = builder.no_gzip().pool_max_idle_per_host(1);
        if public_only { builder.dns_resolver(PublicOnly) } else { builder }
    });
    let client = client.map_err(|error| FetchError::Http(error.to_string()))?;
    Ok(AuthorizedClient { client, roots_pem })
}
