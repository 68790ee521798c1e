//! Signing keys that rotate, on one gateway and on two that share their directory.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anchorgate::trust::subject::SubjectField;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;

use super::Gateway;
use super::hub::following;

/// The fastest schedule that is allowed: a new key every 7 s, published 6 s ahead.
const FAST: &str = "[oauth]\njwks_max_age = \"1s\"\n\
    rotation = { every = \"7s\", publish_ahead = \"6s\", retire_after = \"60s\" }\n";

fn fast(text: &str) -> String {
    text.replace("[oauth]\n", FAST).replace("token_lifetime = \"5m\"", "token_lifetime = \"60s\"")
}

/// Verifies a token as a resource server does.  Returns the key ID.
fn verify(token: &str, keys: &JwkSet, algorithm: Algorithm) -> String {
    let kid = jsonwebtoken::decode_header(token).expect("a header").kid.expect("a kid");
    let key = keys.find(&kid).unwrap_or_else(|| panic!("{kid} is not published"));
    let mut validation = Validation::new(algorithm);
    validation.set_audience(&["https://api.quickstart.example"]);
    let key = DecodingKey::from_jwk(key).expect("a key");
    jsonwebtoken::decode::<Value>(token, &key, &validation).expect("a good token");
    kid
}

/// Devices obtain tokens without a pause.  A verifier with a cache of one second, as the key set
/// allows, accepts each of them, and later every token that has not expired.
#[tokio::test(flavor = "multi_thread")]
async fn five_rotations_under_load_fail_no_verification() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| fast(&text)).await;
    let gateway = Arc::new(gateway);
    let (stop, verified) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut workers = tokio::task::JoinSet::new();
    for n in 0..2 {
        let (gateway, stop, verified) =
            (Arc::clone(&gateway), Arc::clone(&stop), Arc::clone(&verified));
        workers.spawn(async move {
            let domain = gateway.domain(SubjectField::SanDns);
            let mut connection = gateway.connect(&gateway.device(domain, n)).await;
            let id = &domain.devices[n].subject_id;
            let (mut kids, mut last) = (BTreeSet::new(), Vec::new());
            let (mut keys, mut fetched) = (gateway.jwks().await, Instant::now());
            while !stop.load(Ordering::Relaxed) {
                if fetched.elapsed() > Duration::from_secs(1) {
                    (keys, fetched) = (gateway.jwks().await, Instant::now());
                }
                let answer = connection.token(id).await.expect("an answer");
                let token = answer.body["access_token"].as_str().expect("a token").to_owned();
                if kids.insert(verify(&token, &keys, Algorithm::ES256)) {
                    last.push(token);
                }
                verified.fetch_add(1, Ordering::Relaxed);
            }
            // The first token of each key is younger than its life, so its key is still published.
            let keys = gateway.jwks().await;
            last.iter().for_each(|token| drop(verify(token, &keys, Algorithm::ES256)));
            kids
        });
    }
    let start = Instant::now();
    let directory = gateway.world.dir.join("data/signing-keys");
    while !directory.join("ES256-000007.pem").exists() {
        assert!(start.elapsed() < Duration::from_secs(100), "the keys do not rotate");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(kids) = workers.join_next().await {
        let kids = kids.expect("no verification failed");
        assert!(kids.len() >= 6, "five rotations: {kids:?}");
    }
    assert!(verified.load(Ordering::Relaxed) > 500, "under load: {verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_agree_and_a_revoked_key_disappears_from_all_of_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = |text: String, dir: &Path| {
        let rotation = format!("[oauth.rotation]\ndirectory = \"{}\"\n[oauth]\n", dir.display());
        text.replace("[oauth]\n", &rotation)
    };
    let one = Gateway::start(&[SubjectField::SanDns], |text| shared(text, dir.path())).await;
    let url = format!("http://{}", one.world.ports.directory_http);
    let source = ("hub", &*url, &*one.world.directory_token, "");
    let other = Gateway::start(&[], |text| following(&shared(text, dir.path()), &[source])).await;
    let kids = |keys: JwkSet| -> Vec<String> {
        keys.keys.into_iter().filter_map(|key| key.common.key_id).collect()
    };
    let first = kids(one.jwks().await);
    assert_eq!(first.len(), 1);
    assert_eq!(kids(other.jwks().await), first, "the replicas have the same key");

    let (code, text) = other.program("keys rotate").await;
    assert!(code == Some(0) && text.contains("  next  "), "{text}");
    let start = Instant::now();
    while kids(one.jwks().await).len() < 2 {
        assert!(start.elapsed() < Duration::from_secs(5), "not published by the other replica");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (code, text) = one.program(&format!("keys revoke {}", first[0])).await;
    assert!(code == Some(0) && !text.contains(&first[0]), "{text}");
    assert!(!kids(one.jwks().await).contains(&first[0]));
    let start = Instant::now();
    while kids(other.jwks().await).contains(&first[0]) {
        assert!(start.elapsed() < Duration::from_secs(5), "still published by the other replica");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let token = one.issue_token(SubjectField::SanDns).await;
    let kid = verify(&token, &other.jwks().await, Algorithm::ES256);
    assert_ne!(kid, first[0]);
    let (code, text) = one.program("keys list").await;
    assert!(code == Some(0) && text.contains(&kid) && text.contains("  signs  "), "{text}");
    let (code, text) = one.program(&format!("keys revoke {}", first[0])).await;
    assert!(code == Some(1) && text.contains("no signing key has the ID"), "{text}");
}
