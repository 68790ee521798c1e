//! A token server put together from rustls, hyper and jsonwebtoken, without the work of a gateway: no
//! revocation, no policy, no audit trail.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

fn config(folder: &Path) -> ServerConfig {
    let read = |name: &str| fs::read(folder.join(name)).expect("a file");
    let (chain, root) = (read("server.pem"), read("root.pem"));
    let chain = CertificateDer::pem_slice_iter(&chain).map(|der| der.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_slice(&read("server.key")).expect("a key");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&root).expect("PEM")).expect("a root");
    let provider = Arc::new(default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(chain, key)
        .expect("they fit");
    config.ticketer = Ticketer::new().expect("a ticketer");
    config.send_tls13_tickets = 1;
    config
}

async fn respond(
    request: Request<Incoming>,
    key: &EncodingKey,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let form = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
    let form: Vec<_> = url::form_urlencoded::parse(&form).collect();
    let client_id = form.iter().find(|(name, _)| name == "client_id").map(|(_, value)| value);
    let claims = json!({
        "iss": "https://localhost", "aud": "https://api.quickstart.example", "sub": client_id,
        "client_id": client_id, "iat": 4_000_000_000_u64, "exp": 4_000_000_300_u64,
        "jti": "AAAAAAAAAAAAAAAAAAAAAA", "scope": "telemetry:write",
    });
    let token = encode(&Header::new(Algorithm::ES256), &claims, key).expect("signed");
    let body = json!({ "access_token": token, "token_type": "Bearer", "expires_in": 300 });
    let response = Response::builder().header(header::CONTENT_TYPE, "application/json");
    Ok(response.body(Full::new(Bytes::from(body.to_string()))).expect("a response"))
}

/// Serves until the process is stopped.
pub async fn serve(folder: &Path, address: SocketAddr) {
    let acceptor = TlsAcceptor::from(Arc::new(config(folder)));
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
    let key = Arc::new(EncodingKey::from_ec_der(key.expect("a key").as_ref()));
    let listener = TcpListener::bind(address).await.expect("a free port");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (acceptor, key) = (acceptor.clone(), Arc::clone(&key));
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let key = Arc::clone(&key);
                async move { respond(request, &key).await }
            });
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
