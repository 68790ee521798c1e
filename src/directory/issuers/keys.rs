//! An issuer's published keys, as they were last read.
//!
//! They are looked for when a token asks for one and it is time to.  One look at a time: a request whose
//! key is known does not wait for one that takes long, and nobody's tokens, however many and whatever
//! they claim, make us ask an issuer more often than its [`Pace`].

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::sync::Mutex as Turn;
use tokio::time::{Instant, timeout};
use tracing::warn;
use url::Url;

use crate::directory::errors::Fault;
use crate::graph::wire;
use crate::http::outbound::{
    ClientSettings, ProxyChoice, ServerAuthorities, explain, read_limited,
};

/// Bytes of a key set.
const MAX_KEYS: usize = 1024 * 1024;

/// Where an issuer's keys are.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// A file with a JWK set.
    File(PathBuf),
    /// An address of a JWK set.
    Url(Url),
}

/// How often keys are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// After this time keys are read again, so that a withdrawn one goes.
    live: Duration,
    /// Least time between two looks when a token names a key that is not known, or the last look failed.
    again: Duration,
    /// The same while no keys were ever read.
    first: Duration,
    /// How long a request whose key is known waits to hear whether it still is.
    patience: Duration,
}

impl Pace {
    /// A file costs nothing to read, and what is written into it is meant to count.
    pub(super) const fn of(source: &KeySource) -> Self {
        let (live, again) = match source {
            KeySource::File(_) => (5, 5),
            KeySource::Url(_) => (3600, 60),
        };
        Self {
            live: Duration::from_secs(live),
            again: Duration::from_secs(again),
            first: Duration::from_secs(5),
            patience: Duration::from_secs(2),
        }
    }
}

/// The keys of one issuer.
pub(super) struct IssuerKeys {
    issuer: String,
    source: KeySource,
    ca_bundle: Option<Vec<u8>>,
    pace: Pace,
    known: Mutex<Known>,
    /// Held by the one look that is under way.
    turn: Arc<Turn<()>>,
}

#[derive(Default)]
struct Known {
    /// Those last read; `None` when they never were.
    set: Option<Vec<Jwk>>,
    /// When the last look ended.
    looked: Option<Instant>,
    /// Why it brought nothing.
    failed: Option<String>,
}

impl IssuerKeys {
    pub(super) fn new(
        issuer: String,
        source: KeySource,
        ca_bundle: Option<Vec<u8>>,
        pace: Pace,
    ) -> Arc<Self> {
        let (known, turn) = (Mutex::default(), Arc::default());
        Arc::new(Self { issuer, source, ca_bundle, pace, known, turn })
    }

    /// The key of that id; the only key, where the token names none.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when no keys were ever read.
    pub(super) async fn find(self: &Arc<Self>, kid: Option<&str>) -> Result<Option<Jwk>, Fault> {
        let (found, due) = self.known().find(kid, &self.pace);
        if due {
            match Arc::clone(&self.turn).try_lock_owned() {
                // Another has looked since.
                Ok(_) if !self.known().find(kid, &self.pace).1 => {}
                Ok(turn) => {
                    let keys = Arc::clone(self);
                    // A task of its own: it ends, whoever goes away meanwhile.
                    let look = tokio::spawn(async move {
                        keys.look().await;
                        drop(turn);
                    });
                    let patience = if found.is_some() { self.pace.patience } else { Duration::MAX };
                    let _ = timeout(patience, look).await;
                }
                Err(_) if found.is_some() => {}
                Err(_) => drop(self.turn.lock().await),
            }
        }
        let known = self.known();
        match (&known.set, &known.failed) {
            (Some(set), _) => Ok(pick(set, kid)),
            (None, why) => {
                let why = why.as_deref().unwrap_or("not read yet");
                Err(Fault::Unavailable(format!("keys of `{}`: {why}", self.issuer)))
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Whole after every statement that changes it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(&self) {
        let read = self.read().await;
        let mut known = self.known();
        known.looked = Some(Instant::now());
        known.failed = read.as_ref().err().cloned();
        match read {
            Ok(set) => known.set = Some(set),
            // Known keys go on.
            Err(why) => warn!(issuer = %self.issuer, "the issuer's keys cannot be read: {why}"),
        }
    }

    async fn read(&self) -> Result<Vec<Jwk>, String> {
        let bytes = match &self.source {
            KeySource::File(path) => {
                let read = async {
                    let file = tokio::fs::File::open(path).await?;
                    let mut bytes = Vec::new();
                    file.take(MAX_KEYS as u64 + 1).read_to_end(&mut bytes).await?;
                    Ok::<_, std::io::Error>(bytes)
                };
                read.await.map_err(|error| format!("{}: {error}", path.display()))?
            }
            KeySource::Url(url) => {
                let settings = ClientSettings {
                    authorities: match &self.ca_bundle {
                        Some(pem) => ServerAuthorities::Only(pem.clone()),
                        None => ServerAuthorities::System,
                    },
                    proxy: ProxyChoice::Environment,
                    connect: Duration::from_secs(5),
                    read: Some(Duration::from_secs(5)),
                    request: Some(Duration::from_secs(10)),
                };
                let http = settings.client().map_err(|error| error.to_string())?;
                let answer = http.get(url.clone()).send().await;
                let answer = answer.and_then(reqwest::Response::error_for_status);
                let answer = answer.map_err(|error| explain(&error))?;
                read_limited(answer, MAX_KEYS).await.map_err(|error| error.to_string())?
            }
        };
        if bytes.len() > MAX_KEYS {
            return Err(format!("more than {MAX_KEYS} bytes"));
        }
        read_keys(&bytes)
    }
}

impl Known {
    /// The key, and whether it is time to look for it.
    fn find(&self, kid: Option<&str>, pace: &Pace) -> (Option<Jwk>, bool) {
        let found = self.set.as_deref().and_then(|set| pick(set, kid));
        let good_for = match (&self.set, &self.failed) {
            (None, _) => pace.first,
            (Some(_), None) if found.is_some() => pace.live,
            (Some(_), _) => pace.again,
        };
        let due = self.looked.is_none_or(|looked| looked.elapsed() >= good_for);
        (found, due)
    }
}

/// The keys of a set that can be used to verify; a key of a kind that is not known is passed over, as
/// RFC 7517 section 5 has it.
fn read_keys(json: &[u8]) -> Result<Vec<Jwk>, String> {
    let set = wire::parse(json).map_err(|error| error.to_string())?;
    let list = set["keys"].as_array().ok_or("no `keys`: not a JWK set")?;
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
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;
    use tokio::sync::watch;

    /// A set of keys with these ids.
    fn set(kids: &[&str]) -> String {
        let key = |kid| {
            json!({"kty": "EC", "crv": "P-256", "kid": kid,
                "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"})
        };
        json!({"keys": kids.iter().map(key).collect::<Vec<_>>()}).to_string()
    }

    /// An issuer's server, and how often it was asked.
    struct Server {
        url: Url,
        asked: watch::Receiver<usize>,
        /// What it answers; with `None`, nothing, and the connection stays open.
        answer: watch::Sender<Option<String>>,
    }

    impl Server {
        async fn start(answer: Option<String>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let (answer, answers) = watch::channel(answer);
            let (asked, counted) = watch::channel(0);
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    asked.send_modify(|asked| *asked += 1);
                    let mut answers = answers.clone();
                    tokio::spawn(async move {
                        let mut head = [0; 4096];
                        let _ = stream.read(&mut head).await;
                        let body = answers.wait_for(Option::is_some).await;
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
            Self { url, asked: counted, answer }
        }

        fn keys(&self, pace: Pace) -> Arc<IssuerKeys> {
            IssuerKeys::new("i".into(), KeySource::Url(self.url.clone()), None, pace)
        }

        fn asked(&self) -> usize {
            *self.asked.borrow()
        }
    }

    /// Looks as often as it is asked to, and waits for nothing that is known.
    fn eager() -> Pace {
        Pace {
            live: Duration::ZERO,
            again: Duration::ZERO,
            first: Duration::ZERO,
            patience: Duration::ZERO,
        }
    }

    async fn has(keys: &Arc<IssuerKeys>, kid: &str) -> bool {
        keys.find(Some(kid)).await.expect("keys").is_some()
    }

    #[tokio::test]
    async fn a_new_key_of_an_address_is_found_and_an_unknown_one_asks_seldom() {
        let server = Server::start(Some(set(&["a"]))).await;
        let seldom =
            Pace { first: Duration::ZERO, ..Pace::of(&KeySource::Url(server.url.clone())) };
        let keys = server.keys(seldom);
        assert!(has(&keys, "a").await && has(&keys, "a").await && !has(&keys, "b").await);
        server.answer.send_replace(Some(set(&["a", "b"])));
        assert!(!has(&keys, "b").await);
        assert_eq!(server.asked(), 1, "tokens of unknown keys make us ask");

        let keys = server.keys(Pace { again: Duration::ZERO, ..seldom });
        assert!(has(&keys, "a").await);
        server.answer.send_replace(Some(set(&["b", "c"])));
        assert!(has(&keys, "c").await, "a key that the issuer signs with since");
        assert!(!has(&keys, "a").await, "and the withdrawn one is gone with it");
    }

    #[tokio::test]
    async fn a_dead_address_makes_nobody_wait_whose_key_is_known() {
        let server = Server::start(Some(set(&["a"]))).await;
        let keys = server.keys(eager());
        assert!(has(&keys, "a").await);
        server.answer.send_replace(None);
        let asked = server.asked();
        // It would be waited 10 s for an answer.
        let before = Instant::now();
        for _ in 0..20 {
            assert!(has(&keys, "a").await);
        }
        assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
        let mut asks = server.asked.clone();
        asks.wait_for(|now| *now > asked).await.expect("asked");
        assert_eq!(server.asked(), asked + 1, "one look at a time");
        // What it says when it speaks again counts.
        server.answer.send_replace(Some(set(&["b"])));
        drop(keys.turn.lock().await);
        assert!(has(&keys, "b").await && !has(&keys, "a").await);
    }

    #[tokio::test]
    async fn keys_that_were_never_read_are_not_asked_for_by_every_token() {
        let server = Server::start(Some("no JSON".into())).await;
        let keys = server.keys(Pace::of(&KeySource::Url(server.url.clone())));
        for _ in 0..20 {
            let got = keys.find(Some("a")).await;
            assert!(
                matches!(&got, Err(Fault::Unavailable(why)) if why.contains("not JSON")),
                "{got:?}"
            );
        }
        assert_eq!(server.asked(), 1);
        // Those who come at once share one look.
        let keys = server.keys(Pace::of(&KeySource::Url(server.url.clone())));
        server.answer.send_replace(Some(set(&["a"])));
        let all = (0..20).map(|_| has(&keys, "a"));
        assert!(futures_util::future::join_all(all).await.into_iter().all(|found| found));
        assert_eq!(server.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_into_a_file_counts_soon_and_its_loss_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("keys.json");
        let source = KeySource::File(file.clone());
        let keys = IssuerKeys::new("i".into(), source.clone(), None, Pace::of(&source));
        assert!(matches!(keys.find(Some("a")).await, Err(Fault::Unavailable(_))));
        std::fs::write(&file, set(&["a"])).expect("written");
        let soon = || tokio::time::advance(Duration::from_secs(5));
        soon().await;
        assert!(has(&keys, "a").await);
        std::fs::write(&file, set(&["b"])).expect("written");
        assert!(has(&keys, "a").await, "not read for every token");
        soon().await;
        assert!(!has(&keys, "a").await && has(&keys, "b").await, "withdrawn, and new");
        for bad in [None, Some("{}".to_owned()), Some(" ".repeat(MAX_KEYS + 1))] {
            match bad {
                None => std::fs::remove_file(&file).expect("removed"),
                Some(text) => std::fs::write(&file, text).expect("written"),
            }
            soon().await;
            assert!(has(&keys, "b").await && !has(&keys, "a").await);
            assert!(keys.known().failed.is_some());
        }
    }

    proptest! {
        #[test]
        fn no_set_makes_it_panic(text in "\\PC{0,60}", kid in proptest::option::of("[ab]")) {
            prop_assert!(read_keys(text.as_bytes()).is_err());
            let set = read_keys(json!({"keys": [{"kty": text}, text]}).to_string().as_bytes());
            let picked = pick(&set.expect("a set"), kid.as_deref());
            prop_assert!(picked.is_none_or(|key| DecodingKey::from_jwk(&key).is_err()));
        }
    }
}
