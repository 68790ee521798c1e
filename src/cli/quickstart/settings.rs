//! The configuration file of the quickstart's gateway.

use crate::cli::quickstart::world::World;
use crate::x509::certificate::Fingerprint;

impl World {
    /// The text of `anchorgate.toml`.
    pub(super) fn settings(&self, resumption: &str) -> String {
        let sha256 = Fingerprint::of(self.directory_token.as_bytes());
        let admin_sha256 = Fingerprint::of(self.admin_token.as_bytes());
        let p = &self.ports;
        let dir = self.dir.display();
        format!(
            r#"# Created by `anchorgate quickstart`.  `anchorgate run --config` with this file starts the same gateway
# again, with its directory and state.
data_dir = "{dir}/data"

[tls]
certificate = "{dir}/pki/server.pem"
key = "{dir}/pki/server.key"
resumption = "{resumption}"

[token]
listen = "{token}"

[public]
listen = "{public}"

# Its metrics are on the admin plane.
[health]
listen = "off"

[admin]
listen = "{admin}"
token_sha256 = "{admin_sha256}"

[oauth]
issuer = "https://localhost:{public_port}"
token_url = "https://localhost:{token_port}"
audience = "https://api.quickstart.example"
scopes = ["telemetry:write", "config:read"]
default_scopes = ["telemetry:write"]
token_lifetime = "5m"

[directory]
listen = "{directory}"
listen_http = "{directory_http}"
public_url = "https://localhost:{directory_port}"

[[directory.tokens]]
sha256 = "{sha256}"
permissions = [
    "MutualTlsOauthConfiguration.ReadWrite.All", "AppCertTrustConfiguration.ReadWrite.All",
    "DeviceTemplate.ReadWrite.All", "Device.ReadWrite.All",
]

# The gateway syncs from its own directory over HTTP, like any other client.
[[graph]]
name = "quickstart"
url = "http://127.0.0.1:{directory_http_port}"
every = "2s"

[graph.credential]
token = "{directory_token}"

[revocation]
min_interval = "1s"
max_interval = "2s"
"#,
            token = p.token,
            public = p.public,
            admin = p.admin,
            directory = p.directory,
            directory_http = p.directory_http,
            public_port = p.public.port(),
            token_port = p.token.port(),
            directory_port = p.directory.port(),
            directory_http_port = p.directory_http.port(),
            directory_token = self.directory_token,
        )
    }
}
