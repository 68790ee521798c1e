//! The index file of a quickstart: addresses, files and devices, for clients outside the process.

use std::fs;

use anyhow::Context;
use serde::Serialize;

use crate::cli::quickstart::world::{ADMIN_TOKEN, INDEX, World};

impl World {
    /// The value of `--admin` for commands to the gateway.
    pub fn admin_socket(&self) -> String {
        format!("unix:{}", self.dir.join("data/admin.sock").display())
    }

    /// Commands for an operator, through the Unix socket and with the token.
    pub(super) fn operator_commands(&self) -> String {
        format!(
            "   $ anchorgate trust show --admin {socket}\n   $ curl -X POST -H \"Authorization: Bearer \
             $(cat {token})\" http://{admin}/trust/sync",
            socket = self.admin_socket(),
            token = self.dir.join(ADMIN_TOKEN).display(),
            admin = self.ports.admin,
        )
    }

    /// Writes the index file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write_index(&self, configuration_ids: &[String]) -> anyhow::Result<()> {
        let file = |name: String| self.dir.join("pki").join(name).display().to_string();
        let devices = self.domains.iter().zip(configuration_ids).flat_map(|(domain, id)| {
            domain.devices.iter().take(2).map(move |device| IndexDevice {
                configuration_id: id.clone(),
                field: domain.field.as_str(),
                subject_id: device.subject_id.clone(),
                client_id: device.subject_id.clone(),
                cert: file(format!("{}.pem", device.name)),
                key: file(format!("{}.key", device.name)),
                chain: file(format!("{}-chain.pem", device.name)),
            })
        });
        let ports = &self.ports;
        let index = Index {
            pid: std::process::id(),
            token_endpoint: format!("https://localhost:{}/oauth2/token", ports.token.port()),
            metadata_url: format!(
                "https://localhost:{}/.well-known/oauth-authorization-server",
                ports.public.port()
            ),
            jwks_url: format!("https://localhost:{}/jwks.json", ports.public.port()),
            directory_url: format!("https://localhost:{}/beta", ports.directory.port()),
            directory_http_url: format!("http://127.0.0.1:{}/beta", ports.directory_http.port()),
            directory_token: self.directory_token.clone(),
            admin_url: format!("http://{}", ports.admin),
            admin_socket: self.admin_socket(),
            admin_token_file: self.dir.join(ADMIN_TOKEN).display().to_string(),
            ca_file: file("server-root.pem".into()),
            devices: devices.collect(),
            crl_dir: self.dir.join("crl").display().to_string(),
        };
        // Renamed into place, because others wait for the complete file.  It contains a token.
        let (temporary, path) = ("quickstart.new", self.dir.join(INDEX));
        self.put_secret(temporary, &serde_json::to_string_pretty(&index)?)?;
        fs::rename(self.dir.join(temporary), &path)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

#[derive(Serialize)]
struct Index {
    pid: u32,
    token_endpoint: String,
    metadata_url: String,
    jwks_url: String,
    directory_url: String,
    directory_http_url: String,
    directory_token: String,
    admin_url: String,
    admin_socket: String,
    admin_token_file: String,
    ca_file: String,
    devices: Vec<IndexDevice>,
    crl_dir: String,
}

#[derive(Serialize)]
struct IndexDevice {
    configuration_id: String,
    field: &'static str,
    subject_id: String,
    client_id: String,
    cert: String,
    key: String,
    chain: String,
}
