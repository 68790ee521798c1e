//! A directory served over real HTTP on a free port, and the certificates to put into it.

use std::net::SocketAddr;
use std::time::Duration;

use anchorgate::directory::auth::StaticToken;
use anchorgate::directory::permissions::Permission;
use anchorgate::directory::{Config, Directory};
use anchorgate::http::listen::{bind, serve_plain};
use anchorgate::http::serve::Limits;
use anchorgate::store::Store;
use anchorgate::x509::certificate::Fingerprint;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub const M: &str = "/beta/directory/certificateAuthorities/mutualTlsOauthConfigurations";
pub const A: &str =
    "/beta/directory/certificateAuthorities/certificateBasedApplicationConfigurations";
pub const T: &str = "/beta/directory/templates/deviceTemplates";
pub const D: &str = "/beta/devices";

/// Token with every permission.
pub const ADMIN: &str = "admin-token";
/// Token that may read mutualTlsOauthConfigurations.
pub const READER: &str = "reader-token";

/// A running directory; stops when dropped.
pub struct Server {
    pub url: String,
    pub client: Client,
    /// Folder of the server's own store file, if it has one.
    folder: Option<TempDir>,
    stop: CancellationToken,
}

impl Server {
    pub async fn start() -> Self {
        Self::with(config()).await
    }

    /// Starts a server with these settings.
    pub async fn with(config: Config) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("directory.redb")).await.expect("a store");
        let mut server = Self::serve(config, store).await;
        server.folder = Some(folder);
        server
    }

    /// Starts a server on a store that the caller keeps.
    pub async fn on(store: Store) -> Self {
        Self::serve(config(), store).await
    }

    async fn serve(config: Config, store: Store) -> Self {
        let directory = Directory::new(config, store);
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let served = directory.at(&url);
        let stop = CancellationToken::new();
        tokio::spawn(serve_plain(listener, Limits::default(), stop.clone(), move |request| {
            let served = served.clone();
            async move { served.handle(request).await }
        }));
        let client = Client::builder().timeout(Duration::from_secs(20)).build().expect("a client");
        Self { url, client, folder: None, stop }
    }

    /// A request with the administrator's token.
    pub fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(ADMIN)
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.ask(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        answer(self.ask(Method::POST, path).json(body)).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> (u16, Value) {
        answer(self.ask(Method::PATCH, path).json(body)).await
    }

    pub async fn delete(&self, path: &str) -> u16 {
        answer(self.ask(Method::DELETE, path)).await.0
    }

    /// Creates a configuration and returns its id.
    pub async fn configuration(&self, name: &str, authorities: Value) -> String {
        let (status, made) = self.post(M, &configuration(name, authorities)).await;
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().expect("an id").to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn config() -> Config {
    let token = |name: &str, token: &str, permissions: &[Permission]| StaticToken {
        name: name.into(),
        sha256: Fingerprint::of(token.as_bytes()).0,
        permissions: permissions.to_vec(),
    };
    Config {
        tokens: vec![
            token("admin", ADMIN, &Permission::ALL),
            token("reader", READER, &[Permission::MutualTlsRead]),
        ],
        ..Config::default()
    }
}

/// Status and JSON body; null if the body is not JSON.
pub async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let body = response.bytes().await.expect("a body");
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[allow(clippy::needless_pass_by_value)] // Literals read better by value.
pub fn configuration(name: &str, authorities: Value) -> Value {
    json!({
        "@odata.type": "#microsoft.graph.mutualTlsOauthConfiguration",
        "displayName": name, "tlsClientAuthParameter": "tls_client_auth_san_uri",
        "certificateAuthorities": authorities,
    })
}

/// A certification authority.
pub struct Ca {
    pub der: Vec<u8>,
    pub params: CertificateParams,
    pub key: KeyPair,
}

impl Ca {
    pub fn root(name: &str) -> Self {
        Self::self_signed(ca_params(name))
    }

    pub fn self_signed(params: CertificateParams) -> Self {
        let key = KeyPair::generate().expect("a key");
        let der = params.self_signed(&key).expect("a certificate").der().to_vec();
        Self { der, params, key }
    }

    pub fn intermediate(&self, name: &str) -> Self {
        let (params, key) = (ca_params(name), KeyPair::generate().expect("a key"));
        let issuer = Issuer::from_params(&self.params, &self.key);
        let der = params.signed_by(&key, &issuer).expect("a certificate").der().to_vec();
        Self { der, params, key }
    }

    pub fn base64(&self) -> String {
        STANDARD.encode(&self.der)
    }

    /// The authority as an element of `certificateAuthorities`.
    pub fn element(&self, is_root: bool) -> Value {
        json!({"certificate": self.base64(), "isRootAuthority": is_root})
    }
}

pub fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub fn leaf_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// Creates a template of a configuration and returns its id.
pub async fn template(server: &Server, configuration: Option<&str>) -> String {
    let (status, made) = server.post(T, &template_body(configuration)).await;
    assert_eq!(status, 201, "{made}");
    made["id"].as_str().expect("an id").to_owned()
}

pub fn template_body(configuration: Option<&str>) -> Value {
    json!({
        "@odata.type": "#microsoft.graph.deviceTemplate",
        "mutualTlsOauthConfigurationId": configuration,
        "deviceAuthority": "ADT", "manufacturer": "Acme", "model": "Camera",
        "operatingSystem": "Linux",
    })
}

/// Creates a device and returns its id.
pub async fn device(server: &Server, template: &str, external_device_id: &str) -> String {
    let path = format!("{T}/{template}/createDeviceFromTemplate");
    let (status, made) = server.post(&path, &json!({"externalDeviceId": external_device_id})).await;
    assert_eq!(status, 200, "{made}");
    made["id"].as_str().expect("an id").to_owned()
}
