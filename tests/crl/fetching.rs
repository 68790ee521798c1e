//! Fetching revocation lists from servers, disks and proxies that misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anchorgate::crl::Config;
use anchorgate::runtime::clock::Clock;
use anchorgate::trust::assembly::ListState;
use anchorgate::trust::configurations::Configurations;
use anchorgate::x509::certificate::Fingerprint;
use anchorgate::x509::time::Timestamp;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::crl_maker::{Ca, HOUR, NOW};
use crate::support::crl_source::{anchors, number, start, start_at};
use crate::support::web::{Page, Web};

const MINUTE: i64 = 60;

fn ago(seconds: i64) -> Timestamp {
    Timestamp(NOW.0 - seconds)
}

/// A server whose test answers each request by hand.
struct ManualServer {
    listener: TcpListener,
    url: String,
}

impl ManualServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/1.crl", listener.local_addr().expect("an address"));
        Self { listener, url }
    }

    /// The head of the next request, in lower case, and the stream for the response.
    async fn asked(&self) -> (String, TcpStream) {
        let asked = tokio::time::timeout(Duration::from_secs(10), self.listener.accept());
        let (mut stream, _) = asked.await.expect("a request within 10 s").expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a request"));
        }
        (String::from_utf8(head).expect("a request").to_ascii_lowercase(), stream)
    }
}

async fn answer(stream: &mut TcpStream, head: &str, body: &[u8]) {
    stream.write_all(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes()).await.expect("open");
    stream.write_all(body).await.expect("open");
}

/// Responds with the list and closes the connection.
async fn give(mut stream: TcpStream, list: &[u8]) {
    let head = format!("200 OK\r\nConnection: close\r\nContent-Length: {}", list.len());
    answer(&mut stream, &head, list).await;
}

#[tokio::test]
async fn an_older_list_is_rejected_after_lists_of_other_keys_and_scopes() {
    let (old_key, new_key, web) = (Ca::root("Root"), Ca::root("Root"), Web::start().await);
    let url = web.url("/1.crl");
    // Two keys of one name share the address, as during a key rollover.
    let mut set = Configurations::clone(&anchors(&new_key, Some(&url), None));
    let other = anchors(&old_key, Some(&url), None).configurations[0].authorities[0].clone();
    Arc::make_mut(&mut set.configurations[0]).authorities.push(other);
    let list = |ca: &Ca, number, age| ca.list().number(number).this_update(ago(age)).sign();
    web.put("/1.crl", list(&new_key, 9, 30 * MINUTE));
    let mut running = start(Config::default(), Arc::new(set));
    running.list().await;

    // All of these are signed.  Accepting one would allow any older list afterwards.
    let users = |age| {
        let list = new_key.list().number(2).scope(&[0x81, 1, 0xff]);
        list.this_update(ago(age)).sign()
    };
    for older in [list(&old_key, 99, HOUR), users(HOUR)] {
        web.put("/1.crl", older);
        let error = running.error().await;
        assert!(error.contains("thisUpdate"), "{error}");
    }
    web.put("/1.crl", users(20 * MINUTE));
    assert_eq!(
        number(&running.refresh().await),
        Some("2"),
        "a later list of another scope is accepted"
    );
    web.put("/1.crl", list(&new_key, 8, HOUR));
    assert!(running.error().await.contains("thisUpdate"), "an older list after it");
    web.put("/1.crl", list(&old_key, 100, 10 * MINUTE));
    assert_eq!(number(&running.refresh().await), Some("100"));
}

#[tokio::test]
async fn an_operator_can_accept_the_rollback_of_a_restored_issuer() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = || Config { directory: Some(directory.path().into()), ..Config::default() };
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let (url, other) = (web.url("/1.crl"), web.url("/2.crl"));
    let mut set = Configurations::clone(&anchors(&ca, Some(&url), None));
    let also = anchors(&ca, Some(&other), None).configurations[0].authorities[0].clone();
    Arc::make_mut(&mut set.configurations[0]).authorities.push(also);
    let set = Arc::new(set);
    for path in ["/1.crl", "/2.crl"] {
        let headers = vec!["ETag: \"9\"".to_owned()];
        let body = ca.list().number(9).sign();
        web.put_page(path, Page { status: 200, headers, body });
    }
    let mut running = start(config(), Arc::clone(&set));
    let _ = (running.list().await, running.list().await);
    for path in ["/1.crl", "/2.crl"] {
        web.put(path, ca.list().number(3).sign());
    }
    let statuses = running.handle.refresh(None).await.expect("it runs");
    assert!(statuses.iter().all(|status| number(status) == Some("9")), "{statuses:?}");
    // A list of another signer is still rejected.
    web.put("/1.crl", Ca::root("Root").list().number(4).sign());
    let status = running.handle.refresh_accepting_rollback(&url).await.expect("it runs").remove(0);
    assert_eq!((number(&status), status.last_error.is_some()), (Some("9"), true));
    web.put("/1.crl", ca.list().number(3).sign());
    let again = running.handle.refresh(Some(&url)).await.expect("it runs").remove(0);
    assert_eq!(number(&again), Some("9"), "the acceptance holds for one fetch");
    let status = running.handle.refresh_accepting_rollback(&url).await.expect("it runs").remove(0);
    assert_eq!((number(&status), &status.last_error), (Some("3"), &None));
    assert_eq!(running.list().await.number, Some(3.into()));
    let statuses = running.handle.status();
    assert_eq!(number(&statuses[1]), Some("9"), "the other address keeps its list");
    drop(running);
    // A restart begins with the accepted list.
    let mut running = start(config(), set);
    let mut both = [running.list().await.number, running.list().await.number];
    both.sort();
    assert_eq!(both, [Some(3.into()), Some(9.into())]);
}

/// Lists of a time in which the clock ran ahead do not keep the present ones out.
#[tokio::test]
async fn a_list_of_the_future_is_set_aside() {
    let (ca, server) = (Ca::root("Root"), ManualServer::start().await);
    let clock = Arc::new(AtomicI64::new(NOW.0 + 2 * HOUR));
    let reading = Arc::clone(&clock);
    let now: Clock = Arc::new(move || Timestamp(reading.load(Ordering::Relaxed)));
    let mut running = start_at(Config::default(), anchors(&ca, Some(&server.url), None), now);
    let list = |number, at| ca.list().number(number).this_update(at);
    give(server.asked().await.1, &list(5, Timestamp(NOW.0 + HOUR)).sign()).await;
    assert_eq!(running.list().await.number, Some(5.into()));

    clock.store(NOW.0, Ordering::Relaxed);
    let refresh = async |bytes: &[u8]| {
        let handle = running.handle.clone();
        let refresh = tokio::spawn(async move { handle.refresh(None).await.expect("it runs") });
        give(server.asked().await.1, bytes).await;
        refresh.await.expect("no panic").remove(0)
    };
    let error = refresh(&list(4, ago(MINUTE)).sign()).await.last_error.expect("a replay").error;
    assert!(error.contains("cRLNumber 4 is below 5"), "{error}");
    let status = refresh(&list(6, ago(MINUTE)).sign()).await;
    assert_eq!((number(&status), status.last_error.is_none()), (Some("6"), true));
    // From now on an older list is rejected again.
    let error = refresh(&list(7, ago(HOUR)).sign()).await.last_error.expect("older").error;
    assert!(error.contains("is before"), "{error}");
}

#[tokio::test]
async fn a_list_that_differs_in_one_serial_is_published() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let url = web.url("/1.crl");
    // Two lists of one second, without cRLNumber.
    let of = |serial| ca.list().revoke(&[serial], None).sign();
    web.put("/1.crl", of(1));
    let mut running = start(Config::default(), anchors(&ca, Some(&url), None));
    running.list().await;
    let (first, second) = (of(1), of(2));
    web.put("/1.crl", second.clone());
    running.refresh().await;
    // The refresh returns only after the update was sent.
    let sent = running.updates.try_recv().expect("an update");
    let anchorgate::trust::assembly::Update::Lists { lists, .. } = sent else { panic!("{sent:?}") };
    let [ListState::InForce(list)] = &lists[..] else { panic!("{lists:?}") };
    assert!(list.listed(&list.issuer, &[2]).is_some() && list.listed(&list.issuer, &[1]).is_none());
    web.put("/1.crl", second);
    running.refresh().await;
    assert!(running.is_silent(), "an unchanged list is not sent again");
    drop(first);
}

#[tokio::test]
async fn accepts_a_list_issued_during_the_fetch() {
    let (ca, server) = (Ca::root("Root"), ManualServer::start().await);
    let time = Arc::new(AtomicI64::new(NOW.0));
    let clock: Clock = {
        let time = Arc::clone(&time);
        Arc::new(move || Timestamp(time.load(Ordering::Relaxed)))
    };
    let mut running = start_at(Config::default(), anchors(&ca, Some(&server.url), None), clock);
    let (_, stream) = server.asked().await;
    // The response takes a minute, and the list is issued meanwhile.
    time.store(NOW.0 + MINUTE, Ordering::Relaxed);
    give(stream, &ca.list().number(1).this_update(Timestamp(NOW.0 + 30)).sign()).await;
    assert_eq!(running.list().await.number, Some(1.into()));
}

#[tokio::test]
async fn a_list_that_cannot_be_saved_stays_in_force_and_is_saved_later() {
    let directory = tempfile::tempdir().expect("a directory");
    let folder = directory.path().join("crl");
    let config = Config { directory: Some(folder.clone()), ..Config::default() };
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let url = web.url("/1.crl");
    let put = |number| {
        let headers = vec![format!("ETag: \"{number}\"")];
        web.put_page(
            "/1.crl",
            Page { status: 200, headers, body: ca.list().number(number).sign() },
        );
    };
    put(1);
    let mut running = start(config, anchors(&ca, Some(&url), None));
    running.list().await;
    assert!(running.refresh().await.kept);
    // Writing to the disk fails.
    let copy = std::fs::read_dir(&folder).expect("readable").next().expect("one").expect("a file");
    let obstacle = folder.join(format!("{}.crl.new", Fingerprint::of(url.as_bytes())));
    std::fs::create_dir(&obstacle).expect("made");
    put(2);
    let status = running.refresh().await;
    assert_eq!(running.list().await.number, Some(2.into()), "in force although it was not saved");
    assert!(!status.kept && status.last_error.is_none(), "{status:?}");
    assert!(!copy.path().exists(), "a restart would return to the older list");
    assert!(!running.refresh().await.kept);
    // Writing works again, and no newer list is published.
    std::fs::remove_dir(&obstacle).expect("room");
    assert!(running.refresh().await.kept);
    assert_eq!(std::fs::read_dir(&folder).expect("readable").count(), 1);
    assert!(running.is_silent(), "no update");
    let before = web.asked();
    assert!(running.refresh().await.kept);
    let asked = web.asked.lock().expect("no panic")[before..].to_vec();
    assert!(asked[0].contains("if-none-match: \"2\""), "{asked:?}");
}

#[tokio::test]
async fn retry_after_delays_the_next_fetch() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let url = web.url("/1.crl");
    web.put("/1.crl", ca.list().number(1).sign());
    let mut running = start(Config::default(), anchors(&ca, Some(&url), None));
    running.list().await;
    let headers = vec!["Retry-After: 1200".to_owned()];
    web.put_page("/1.crl", Page { status: 503, headers, body: Vec::new() });
    let status = running.refresh().await;
    let next = status.next_fetch.as_deref().and_then(Timestamp::parse_rfc3339);
    let wait = next.expect("a time").0 - NOW.0;
    assert!((1200..=1321).contains(&wait), "{wait}");
}

#[tokio::test]
async fn unusable_responses_leave_the_list_in_force() {
    let (ca, server) = (Ca::root("Root"), ManualServer::start().await);
    let mut config = Config::default();
    config.transport.timeout = Duration::from_millis(500);
    let mut running = start(config, anchors(&ca, Some(&server.url), None));
    let list = ca.list().number(1).sign();
    let (head, stream) = server.asked().await;
    assert!(head.contains("accept-encoding: identity"), "{head}");
    give(stream, &list).await;
    running.list().await;

    let length = |length| format!("200 OK\r\nConnection: close\r\nContent-Length: {length}");
    let newer = ca.list().number(2).sign();
    let encoded = format!("{}\r\nContent-Encoding: gzip", length(newer.len()));
    for (head, body, why) in [
        (length(newer.len() - 1), &newer[..], "truncated"),
        (length(newer.len() + 1), &newer[..], "error decoding response body"),
        (length(1 << 40), &newer[..], "at most 67108864"),
        (encoded, &newer[..], "encoded as `gzip`"),
        // The request was not conditional: no version is known.
        ("304 Not Modified\r\nConnection: close".to_owned(), &[][..], "HTTP status 304"),
    ] {
        let handle = running.handle.clone();
        let refresh = tokio::spawn(async move { handle.refresh(None).await.expect("it runs") });
        let (asked, mut stream) = server.asked().await;
        assert!(!asked.contains("if-"), "{asked}");
        answer(&mut stream, &head, body).await;
        drop(stream);
        let status = refresh.await.expect("no panic").remove(0);
        let error = status.last_error.expect("a failure").error;
        assert!(error.contains(why), "{error}, not {why}");
        assert_eq!(status.list.expect("stays in force").number.as_deref(), Some("1"));
    }
    // A slow trickle of bytes times out too: the limit is for the whole response.
    let handle = running.handle.clone();
    let refresh = tokio::spawn(async move { handle.refresh(None).await.expect("it runs") });
    let (_, mut stream) = server.asked().await;
    answer(&mut stream, &length(newer.len()), &[]).await;
    let drip = async {
        for byte in newer.chunks(1) {
            if stream.write_all(byte).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (status, ()) = tokio::join!(refresh, drip);
    let error = status.expect("no panic").remove(0).last_error.expect("a failure").error;
    assert!(error.contains("not completed within 500ms"), "{error}");
    assert!(running.is_silent());
}

#[tokio::test]
async fn public_only_rejects_private_redirects_and_allows_a_local_proxy() {
    let ca = Ca::root("Root");
    let proxy = ManualServer::start().await;
    let port = proxy.listener.local_addr().expect("an address").port();
    let mut config = Config::default();
    config.transport.public_only = true;
    config.transport.proxy =
        Some(url::Url::parse(&format!("http://localhost:{port}")).expect("a URL"));
    // A name that does not resolve: only the proxy could resolve it.
    let mut running = start(config, anchors(&ca, Some("http://ca.invalid/1.crl"), None));
    let (head, stream) = proxy.asked().await;
    assert!(head.starts_with("get http://ca.invalid/1.crl "), "{head}");
    give(stream, &ca.list().number(1).sign()).await;
    running.list().await;

    for private in ["http://[::ffff:10.0.0.1]/", "http://0x7f.1/", "http://2130706433/1.crl"] {
        let handle = running.handle.clone();
        let refresh = tokio::spawn(async move { handle.refresh(None).await.expect("it runs") });
        let (_, mut stream) = proxy.asked().await;
        let head =
            format!("302 Found\r\nConnection: close\r\nContent-Length: 0\r\nLocation: {private}");
        answer(&mut stream, &head, &[]).await;
        let status = refresh.await.expect("no panic").remove(0);
        let error = status.last_error.expect("a failure").error;
        assert!(error.contains("is not a public address"), "{private}: {error}");
    }
}

#[tokio::test]
async fn an_address_that_is_named_again_ignores_the_earlier_fetch() {
    let (ca, server) = (Ca::root("Root"), ManualServer::start().await);
    let named = anchors(&ca, Some(&server.url), None);
    let mut running = start(Config::default(), Arc::clone(&named));
    let (_, early) = server.asked().await;
    running.put_in_force(anchors(&ca, None, None));
    running.gone().await;
    running.put_in_force(named);
    // One fetch per address at a time: the next begins when the first has ended.
    let none = tokio::time::timeout(Duration::from_millis(50), server.asked()).await;
    assert!(none.is_err());
    give(early, &ca.list().number(1).sign()).await;
    let (_, late) = server.asked().await;
    give(late, &ca.list().number(2).sign()).await;
    assert_eq!(running.list().await.number, Some(2.into()));
}

/// A server over TLS whose certificate is for 127.0.0.1, and the PEM of its only authority.
async fn tls_server(list: Vec<u8>) -> (String, Vec<u8>) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let certificate = params.self_signed(&key).expect("a certificate");
    let (pem, der) = (certificate.pem().into_bytes(), certificate.der().clone());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![der], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .expect("an identity");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://{}/1.crl", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            // A client that does not trust the certificate ends the handshake.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            while !matches!(stream.read_u8().await, Ok(b'\r') | Err(_)) {}
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", list.len());
            let _ = stream.write_all(&[head.as_bytes(), &list].concat()).await;
            let _ = stream.shutdown().await;
        }
    });
    (url, pem)
}

#[tokio::test]
async fn authorities_of_servers_are_replaced_while_lists_are_fetched() {
    let ca = Ca::root("Root");
    let (url, pem) = tls_server(ca.list().number(1).sign()).await;
    let mut running = start(Config::default(), anchors(&ca, Some(&url), None));
    let error = running.error().await;
    assert!(error.contains("certificate"), "{error}");

    assert!(running.handle.client_with(Some(b"-----BEGIN")).is_err(), "nothing is replaced");
    let client = running.handle.client_with(Some(&pem)).expect("usable").expect("a new client");
    running.handle.use_client(client);
    assert!(running.handle.client_with(Some(&pem)).expect("usable").is_none(), "in use");
    let status = running.refresh().await;
    assert!(status.last_error.is_none(), "{:?}", status.last_error.map(|error| error.error));
    while !matches!(running.next().await, ListState::InForce(_)) {}
}
