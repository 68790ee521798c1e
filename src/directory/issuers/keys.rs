//! Cache of an issuer's published keys.
//!
//! A token causes a refresh if its key is unknown or the cache is too old.  Only one refresh runs at a
//! time.  A request whose key is cached does not wait for a slow refresh.  Tokens cannot cause more
//! frequent refreshes than the [`RefreshPolicy`] allows, whatever they contain.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use serde_json::Value;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, timeout};
use tracing::warn;
use url::Url;

use crate::directory::errors::Fault;
use crate::graph::wire;
use crate::http::outbound::{
    ClientSettings, ProxyChoice, ServerAuthorities, explain, read_limited,
};
use crate::runtime::files::read_bounded_async;

/// Maximum length of a key set in bytes.
const MAX_KEYS: usize = 1024 * 1024;

/// Location of an issuer's keys.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// File with a JWK set.
    File(PathBuf),
    /// URL of a JWK set.
    Url(Url),
}

/// Times that determine when keys are refreshed.
#[derive(Debug, Clone, Copy)]
pub(super) struct RefreshPolicy {
    /// Maximum age of the keys, after which a withdrawn key is no longer accepted.
    max_age: Duration,
    /// Minimum time between refreshes for unknown keys, and after a failed refresh.
    retry: Duration,
    /// Minimum time between refreshes until the first success.
    first_retry: Duration,
    /// Maximum time that a request whose key is cached waits for a refresh.
    max_wait: Duration,
}

impl RefreshPolicy {
    /// A file is read often: reading is cheap, and changes must take effect soon.
    pub(super) const fn of(source: &KeySource) -> Self {
        let (max_age, retry) = match source {
            KeySource::File(_) => (5, 5),
            KeySource::Url(_) => (3600, 60),
        };
        Self {
            max_age: Duration::from_secs(max_age),
            retry: Duration::from_secs(retry),
            first_retry: Duration::from_secs(5),
            max_wait: Duration::from_secs(2),
        }
    }
}

/// Keys of one issuer.
pub(super) struct IssuerKeys {
    issuer: String,
    source: KeySource,
    ca_bundle: Mutex<Option<Vec<u8>>>,
    policy: RefreshPolicy,
    cache: Mutex<Cache>,
    /// Held during a refresh.
    refreshing: Arc<AsyncMutex<()>>,
}

#[derive(Default)]
struct Cache {
    /// Last set of keys; `None` before the first success.
    set: Option<Vec<Jwk>>,
    /// End of the last refresh.
    refreshed_at: Option<Instant>,
    /// Error of the last refresh.
    error: Option<String>,
}

impl IssuerKeys {
    pub(super) fn new(
        issuer: String,
        source: KeySource,
        ca_bundle: Option<Vec<u8>>,
        policy: RefreshPolicy,
    ) -> Arc<Self> {
        let (cache, refreshing, ca_bundle) =
            (Mutex::default(), Arc::default(), Mutex::new(ca_bundle));
        Arc::new(Self { issuer, source, ca_bundle, policy, cache, refreshing })
    }

    /// Returns the key with this id.  Without an id, returns the only key of the set.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] if the keys could never be read.
    pub(super) async fn find(self: &Arc<Self>, kid: Option<&str>) -> Result<Option<Jwk>, Fault> {
        let (found, due) = self.cache().find(kid, &self.policy);
        if due {
            match Arc::clone(&self.refreshing).try_lock_owned() {
                // Another request has completed a refresh meanwhile.
                Ok(_) if !self.cache().find(kid, &self.policy).1 => {}
                Ok(guard) => {
                    let keys = Arc::clone(self);
                    // A separate task, so that the refresh completes if the request is dropped.
                    let refresh = tokio::spawn(async move {
                        keys.refresh().await;
                        drop(guard);
                    });
                    let wait = if found.is_some() { self.policy.max_wait } else { Duration::MAX };
                    let _ = timeout(wait, refresh).await;
                }
                Err(_) if found.is_some() => {}
                Err(_) => drop(self.refreshing.lock().await),
            }
        }
        let cache = self.cache();
        match (&cache.set, &cache.error) {
            (Some(set), _) => Ok(pick(set, kid)),
            (None, why) => {
                let why = why.as_deref().unwrap_or("not read yet");
                Err(Fault::Unavailable(format!("keys of `{}`: {why}", self.issuer)))
            }
        }
    }

    /// Accepts only these authorities of the key server from now on.
    pub(super) fn use_ca_bundle(&self, ca_bundle: Option<Vec<u8>>) {
        *self.ca_bundle.lock().unwrap_or_else(PoisonError::into_inner) = ca_bundle;
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // The cache is valid after every statement that changes it.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn refresh(&self) {
        let read = self.read().await;
        let mut cache = self.cache();
        cache.refreshed_at = Some(Instant::now());
        cache.error = read.as_ref().err().cloned();
        match read {
            Ok(set) => cache.set = Some(set),
            // Cached keys remain in use.
            Err(why) => warn!(issuer = %self.issuer, "issuer keys not refreshed: {why}"),
        }
    }

    async fn read(&self) -> Result<Vec<Jwk>, String> {
        let bytes = match &self.source {
            KeySource::File(path) => read_bounded_async(path, MAX_KEYS as u64)
                .await
                .map_err(|error| error.to_string())?,
            KeySource::Url(url) => {
                let ca_bundle =
                    self.ca_bundle.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let settings = ClientSettings {
                    authorities: match ca_bundle {
                        Some(pem) => ServerAuthorities::Only(pem),
                        None => ServerAuthorities::System,
                    },
                    proxy: ProxyChoice::Environment,
                    connect: Duration::from_secs(5),
                    read: Some(Duration::from_secs(5)),
                    request: Some(Duration::from_secs(10)),
                };
                let http = settings.client().map_err(|error| error.to_string())?;
                let response = http.get(url.clone()).send().await;
                let response = response.and_then(reqwest::Response::error_for_status);
                let response = response.map_err(|error| explain(&error))?;
                read_limited(response, MAX_KEYS).await.map_err(|error| error.to_string())?
            }
        };
        read_keys(&bytes)
    }
}

impl Cache {
    /// Returns the key, and whether a refresh is due.
    fn find(&self, kid: Option<&str>, policy: &RefreshPolicy) -> (Option<Jwk>, bool) {
        let found = self.set.as_deref().and_then(|set| pick(set, kid));
        let interval = match (&self.set, &self.error) {
            (None, _) => policy.first_retry,
            (Some(_), None) if found.is_some() => policy.max_age,
            (Some(_), _) => policy.retry,
        };
        let due = self.refreshed_at.is_none_or(|at| at.elapsed() >= interval);
        (found, due)
    }
}

/// Returns the keys of a set that can verify signatures.  Keys of unknown types are ignored (RFC 7517
/// section 5).
fn read_keys(json: &[u8]) -> Result<Vec<Jwk>, String> {
    let set = wire::parse(json).map_err(|error| error.to_string())?;
    let list = set["keys"].as_array().ok_or("not a JWK set: `keys` is missing")?;
    let usable = |key: &&Value| key["use"].as_str().is_none_or(|usage| usage == "sig");
    let read = |key: &Value| serde_json::from_value(key.clone()).ok();
    Ok(list.iter().filter(usable).filter_map(read).collect())
}

fn pick(set: &[Jwk], kid: Option<&str>) -> Option<Jwk> {
    match (kid, set) {
        (Some(kid), set) => {
            set.iter().find(|key| key.common.key_id.as_deref() == Some(kid)).cloned()
        }
        (None, [only]) => Some(only.clone()),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::DecodingKey;
    use proptest::prelude::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::watch;

    /// Returns a set of keys with these ids.
    fn set(kids: &[&str]) -> String {
        let key = |kid| {
            json!({"kty": "EC", "crv": "P-256", "kid": kid,
                "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"})
        };
        json!({"keys": kids.iter().map(key).collect::<Vec<_>>()}).to_string()
    }

    /// Key server of an issuer, which counts requests.
    struct Server {
        url: Url,
        requests: watch::Receiver<usize>,
        /// Body of the response.  With `None`, the server keeps the connection open without a response.
        response: watch::Sender<Option<String>>,
    }

    impl Server {
        async fn start(response: Option<String>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let (response, responses) = watch::channel(response);
            let (count, requests) = watch::channel(0);
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    count.send_modify(|count| *count += 1);
                    let mut responses = responses.clone();
                    tokio::spawn(async move {
                        let mut head = [0; 4096];
                        let _ = stream.read(&mut head).await;
                        let body = responses.wait_for(Option::is_some).await;
                        let Some(body) = body.ok().and_then(|body| body.clone()) else { return };
                        let length = body.len();
                        let head = format!(
                            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                        );
                        let _ = stream.write_all(head.as_bytes()).await;
                    });
                }
            });
            let url = Url::parse(&format!("http://{address}/jwks.json")).expect("a URL");
            Self { url, requests, response }
        }

        fn keys(&self, policy: RefreshPolicy) -> Arc<IssuerKeys> {
            IssuerKeys::new("i".into(), KeySource::Url(self.url.clone()), None, policy)
        }

        fn requests(&self) -> usize {
            *self.requests.borrow()
        }
    }

    /// Policy that refreshes for every token, and does not wait if the key is cached.
    fn always() -> RefreshPolicy {
        RefreshPolicy {
            max_age: Duration::ZERO,
            retry: Duration::ZERO,
            first_retry: Duration::ZERO,
            max_wait: Duration::ZERO,
        }
    }

    async fn has(keys: &Arc<IssuerKeys>, kid: &str) -> bool {
        keys.find(Some(kid)).await.expect("keys").is_some()
    }

    #[tokio::test]
    async fn new_keys_are_found_and_unknown_keys_rarely_cause_requests() {
        let server = Server::start(Some(set(&["a"]))).await;
        let default = RefreshPolicy::of(&KeySource::Url(server.url.clone()));
        let rare = RefreshPolicy { first_retry: Duration::ZERO, ..default };
        let keys = server.keys(rare);
        assert!(has(&keys, "a").await && has(&keys, "a").await && !has(&keys, "b").await);
        server.response.send_replace(Some(set(&["a", "b"])));
        assert!(!has(&keys, "b").await);
        assert_eq!(server.requests(), 1, "a token with an unknown key caused a request");

        let keys = server.keys(RefreshPolicy { retry: Duration::ZERO, ..rare });
        assert!(has(&keys, "a").await);
        server.response.send_replace(Some(set(&["b", "c"])));
        assert!(has(&keys, "c").await, "the new key is found");
        assert!(!has(&keys, "a").await, "the withdrawn key is removed");
    }

    #[tokio::test]
    async fn a_server_that_does_not_respond_does_not_delay_cached_keys() {
        let server = Server::start(Some(set(&["a"]))).await;
        let keys = server.keys(always());
        assert!(has(&keys, "a").await);
        server.response.send_replace(None);
        let requests = server.requests();
        // The timeout of one request is 10 s.
        let before = Instant::now();
        for _ in 0..20 {
            assert!(has(&keys, "a").await);
        }
        assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
        let mut counter = server.requests.clone();
        counter.wait_for(|now| *now > requests).await.expect("a request");
        assert_eq!(server.requests(), requests + 1, "one refresh at a time");
        // The late response is used.
        server.response.send_replace(Some(set(&["b"])));
        drop(keys.refreshing.lock().await);
        assert!(has(&keys, "b").await && !has(&keys, "a").await);
    }

    #[tokio::test]
    async fn missing_keys_are_not_requested_for_every_token() {
        let server = Server::start(Some("not JSON".into())).await;
        let keys = server.keys(RefreshPolicy::of(&KeySource::Url(server.url.clone())));
        for _ in 0..20 {
            let got = keys.find(Some("a")).await;
            assert!(
                matches!(&got, Err(Fault::Unavailable(why)) if why.contains("not JSON")),
                "{got:?}"
            );
        }
        assert_eq!(server.requests(), 1);
        // Concurrent requests share one refresh.
        let keys = server.keys(RefreshPolicy::of(&KeySource::Url(server.url.clone())));
        server.response.send_replace(Some(set(&["a"])));
        let all = (0..20).map(|_| has(&keys, "a"));
        assert!(futures_util::future::join_all(all).await.into_iter().all(|found| found));
        assert_eq!(server.requests(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn file_changes_take_effect_and_a_missing_file_keeps_the_keys() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("keys.json");
        let source = KeySource::File(file.clone());
        let keys = IssuerKeys::new("i".into(), source.clone(), None, RefreshPolicy::of(&source));
        assert!(matches!(keys.find(Some("a")).await, Err(Fault::Unavailable(_))));
        std::fs::write(&file, set(&["a"])).expect("written");
        let advance = || tokio::time::advance(Duration::from_secs(5));
        advance().await;
        assert!(has(&keys, "a").await);
        std::fs::write(&file, set(&["b"])).expect("written");
        assert!(has(&keys, "a").await, "the file is not read for every token");
        advance().await;
        assert!(!has(&keys, "a").await && has(&keys, "b").await, "withdrawn and new key");
        for bad in [None, Some("{}".to_owned()), Some(" ".repeat(MAX_KEYS + 1))] {
            match bad {
                None => std::fs::remove_file(&file).expect("removed"),
                Some(text) => std::fs::write(&file, text).expect("written"),
            }
            advance().await;
            assert!(has(&keys, "b").await && !has(&keys, "a").await);
            assert!(keys.cache().error.is_some());
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,60}", kid in proptest::option::of("[ab]")) {
            prop_assert!(read_keys(text.as_bytes()).is_err());
            let set = read_keys(json!({"keys": [{"kty": text}, text]}).to_string().as_bytes());
            let picked = pick(&set.expect("a set"), kid.as_deref());
            prop_assert!(picked.is_none_or(|key| DecodingKey::from_jwk(&key).is_err()));
        }
    }
}
