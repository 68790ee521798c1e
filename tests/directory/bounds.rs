//! Limits of requests and responses of the directory.

use std::convert::Infallible;
use std::time::Duration;

use anchorgate::directory::shapes::{Binary, CertificateAuthority, MutualTlsOauthConfiguration};
use anchorgate::directory::{Config, Directory, Served};
use anchorgate::http::reply::Reply;
use anchorgate::store::{Collection, Store};
use anchorgate::trust::subject::SubjectField;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::Request;
use hyper::body::{Bytes, Frame};
use rcgen::{CustomExtension, DnType, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::directory::{
    ADMIN, Ca, M, READER, Server, answer, ca_params, config, configuration,
};

const KIND: Collection = Collection::MutualTlsOauthConfigurations;

async fn store() -> (Store, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    (Store::open(&folder.path().join("directory.redb")).await.expect("a store"), folder)
}

/// Gateways read at most 16 MiB of a page, so a page must stay below that.
#[tokio::test]
async fn pages_stay_below_the_size_limit_of_readers() {
    const MANY: usize = 24;
    let (store, _folder) = store().await;
    let authority = CertificateAuthority {
        certificate: Binary(vec![7; 700 * 1024]),
        certificate_revocation_list_url: None,
        delta_certificate_revocation_list_url: None,
        is_root_authority: true,
        issuer: "CN=x".into(),
        issuer_ski: "00".into(),
    };
    for n in 0..MANY {
        let large = MutualTlsOauthConfiguration {
            id: format!("00000000-0000-4000-8000-{n:012}"),
            deleted_date_time: None,
            display_name: None,
            tls_client_auth_parameter: SubjectField::SanUri,
            certificate_authorities: vec![authority.clone()],
        };
        let body = serde_json::to_vec(&large).expect("JSON");
        store.insert(KIND, &large.id, body, None).await.expect("stored");
    }
    let server = Server::on(store).await;
    let (mut ids, mut pages, mut next) = (Vec::new(), 0, format!("{}{M}?$top=999", server.url));
    loop {
        let response = server.client.get(&next).bearer_auth(ADMIN).send().await;
        let body = response.expect("an answer").bytes().await.expect("a body");
        assert!(body.len() < 10 * 1024 * 1024, "{} bytes", body.len());
        let page: Value = serde_json::from_slice(&body).expect("JSON");
        let list = page["value"].as_array().expect("a list");
        ids.extend(list.iter().map(|object| object["id"].as_str().expect("an id").to_owned()));
        pages += 1;
        match page["@odata.nextLink"].as_str() {
            Some(link) => next = link.to_owned(),
            None => break,
        }
    }
    assert!(ids.is_sorted() && ids.len() == MANY && pages > 1, "{pages} pages of {}", ids.len());
}

#[tokio::test]
async fn limits_configurations_to_what_gateways_can_follow() {
    let (store, _folder) = store().await;
    let mut inserts = JoinSet::new();
    for n in 1..10_000 {
        let store = store.clone();
        inserts.spawn(async move { store.insert(KIND, &n.to_string(), vec![], None).await });
    }
    assert!(inserts.join_all().await.iter().all(Result::is_ok));
    let server = Server::on(store.clone()).await;
    let last = server.configuration("the 10,000th", json!([])).await;
    let (status, error) = server.post(M, &configuration("one more", json!([]))).await;
    let error = &error["error"];
    assert_eq!((status, error["code"].as_str()), (403, Some("Directory_QuotaExceeded")));
    assert!(error["message"].as_str().is_some_and(|m| m.contains("10000")), "{error}");
    assert_eq!(server.delete(&format!("{M}/{last}")).await, 204);
    server.configuration("in its place", json!([])).await;
}

/// One request must not scan a whole collection: a count obeys the bound of a page.
#[tokio::test]
async fn a_filtered_count_scans_no_more_than_a_page() {
    let (store, _folder) = store().await;
    let fill = async |range: std::ops::Range<usize>| {
        let mut inserts = JoinSet::new();
        for n in range {
            let object = MutualTlsOauthConfiguration {
                id: format!("00000000-0000-4000-8000-{n:012}"),
                deleted_date_time: None,
                display_name: Some("fleet".into()),
                tls_client_auth_parameter: SubjectField::SanUri,
                certificate_authorities: Vec::new(),
            };
            let store = store.clone();
            let body = serde_json::to_vec(&object).expect("JSON");
            inserts.spawn(async move { store.insert(KIND, &object.id, body, None).await });
        }
        assert!(inserts.join_all().await.iter().all(Result::is_ok));
    };
    fill(0..1_950).await;
    let server = Server::on(store.clone()).await;
    let filter = "$filter=displayName%20eq%20'fleet'";
    let count = format!("{M}/$count?{filter}");
    let list = format!("{M}?$count=true&$top=1&{filter}");
    assert_eq!(server.get(&count).await, (200, json!(1_950)));
    assert_eq!(server.get(&list).await.1["@odata.count"], 1_950);
    fill(1_950..2_150).await;
    for path in [&count, &list] {
        let (status, error) = server.get(path).await;
        assert_eq!((status, &error["error"]["code"]), (400, &json!("Request_UnsupportedQuery")));
        let message = error["error"]["message"].as_str().expect("a message");
        assert!(message.contains("2000"), "{message}");
    }
    assert_eq!(server.get(&format!("{M}/$count")).await, (200, json!(2_150)));
    let by_id = format!("{M}/$count?$filter=id%20eq%20'00000000-0000-4000-8000-000000002100'");
    assert_eq!(server.get(&by_id).await, (200, json!(1)));
}

/// A client that sends a body byte by byte gets an error, and its connection is released.
#[tokio::test]
async fn a_slow_body_is_408() {
    let (store, _folder) = store().await;
    let served = Directory::new(config(), store).at("https://hub.example");
    tokio::time::pause();
    let slowly = stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{"))), n + 1))
    });
    let request = Request::post(M).header("authorization", format!("Bearer {ADMIN}"));
    let request = request.body(StreamBody::new(slowly)).expect("a request");
    let before = Instant::now();
    let response = served.handle(request).await;
    assert_eq!(response.status(), 408);
    assert!(before.elapsed() < Duration::from_secs(25), "{:?}", before.elapsed());
    assert!(response.headers().contains_key("request-id"));
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    let error: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(error["error"]["code"], "RequestTimeout");
}

/// Asks for the list of configurations, and waits for another than that of `tag`.
async fn long_poll(served: &Served, tag: &str) -> Reply {
    let request = Request::get(M).header("authorization", format!("Bearer {ADMIN}"));
    let request = request.header("if-none-match", tag).header("prefer", "wait=20");
    served.handle(request.body(Empty::<Bytes>::new()).expect("a request")).await
}

#[tokio::test]
async fn a_stop_answers_requests_that_wait_for_a_change() {
    let (store, _folder) = store().await;
    let stop = CancellationToken::new();
    let served = Directory::until(config(), store, stop.clone()).at("http://hub.example");
    let tag = long_poll(&served, "").await.headers()["etag"].to_str().expect("text").to_owned();
    tokio::time::pause();
    let waiting = tokio::spawn(async move { long_poll(&served, &tag).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    let before = Instant::now();
    stop.cancel();
    assert_eq!(waiting.await.expect("no panic").status(), 304);
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
}

/// Otherwise followers could use up the connections that administrators need.
#[tokio::test]
async fn a_request_without_a_place_does_not_wait_for_a_change() {
    let (store, _folder) = store().await;
    let served = Directory::new(config(), store).at("http://hub.example").with_waiters(1);
    let tag = long_poll(&served, "").await.headers()["etag"].to_str().expect("text").to_owned();
    tokio::time::pause();
    let first = tokio::spawn({
        let (served, tag) = (served.clone(), tag.clone());
        async move { long_poll(&served, &tag).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = Instant::now();
    let second = long_poll(&served, &tag).await;
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    assert_eq!(second.status(), 304);
    // So that a follower polls at its interval instead.
    assert!(!second.headers().contains_key("preference-applied"));
    let first = first.await.expect("no panic");
    assert_eq!(first.headers()["preference-applied"], "wait");
    assert_eq!(long_poll(&served, "").await.headers()["preference-applied"], "wait");
}

/// Connections are cut after 30 s, so a slower request gets its error before that.
#[tokio::test]
async fn a_request_that_takes_too_long_is_503() {
    let (store, _folder) = store().await;
    let patient = Config { max_wait: Duration::from_secs(60), ..config() };
    let served = Directory::new(patient, store).at("https://hub.example");
    let ask = |tag: &str| {
        let request = Request::get(M).header("authorization", format!("Bearer {ADMIN}"));
        let request = request.header("if-none-match", tag).header("prefer", "wait=60");
        served.handle(request.body(Empty::<Bytes>::new()).expect("a request"))
    };
    let list = ask("").await;
    let tag = list.headers()["etag"].to_str().expect("text");
    tokio::time::pause();
    let before = Instant::now();
    let late = ask(tag).await;
    assert_eq!(
        (late.status().as_u16(), &late.headers()["retry-after"].as_bytes()),
        (503, &&b"5"[..])
    );
    assert!(before.elapsed() < Duration::from_secs(30), "{:?}", before.elapsed());
}

/// A body of exactly the maximum length is accepted.
#[tokio::test]
async fn accepts_bodies_up_to_the_limit() {
    const MOST: usize = 1024 * 1024;
    let server = Server::start().await;
    let padded = |length: usize| {
        let mut body = configuration("padded", json!([])).to_string();
        body.push_str(&" ".repeat(length - body.len()));
        let request = server.ask(reqwest::Method::POST, M);
        answer(request.header("content-type", "application/json").body(body))
    };
    assert_eq!(padded(MOST).await.0, 201);
    let (status, error) = padded(MOST + 1).await;
    assert_eq!(status, 413);
    assert!(error["error"]["message"].as_str().is_some_and(|m| m.contains("1048576")), "{error}");
}

/// Most clients send the whole body before they read the response: an early response must not be lost
/// with the connection.
#[tokio::test]
async fn early_errors_reach_clients_that_are_still_sending() {
    const LENGTH: usize = 6 * 1024 * 1024;
    let server = Server::start().await;
    let address = server.url.strip_prefix("http://").expect("plain HTTP");
    for (path, token, status) in [
        (M, ADMIN, "413"),
        (M, "wrong", "401"),
        (M, READER, "403"),
        ("/beta/nothing", ADMIN, "400"),
    ] {
        let mut connection = TcpStream::connect(address).await.expect("connected");
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {LENGTH}\r\nconnection: close\r\n\r\n"
        );
        connection.write_all(head.as_bytes()).await.expect("sent");
        for _ in 0..LENGTH / 65_536 {
            connection.write_all(&[b' '; 65_536]).await.expect("all of it can be sent");
        }
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains(r#"{"error":{"code":"#), "{answer}");
    }
}

/// A list is changed by sending it back whole, so a stored list must never exceed the body limit.
#[tokio::test]
async fn a_stored_list_can_be_sent_back() {
    let server = Server::start().await;
    let mut params = ca_params(&"n".repeat(64));
    for part in [DnType::OrganizationName, DnType::OrganizationalUnitName] {
        params.distinguished_name.push(part, "n".repeat(64));
    }
    let (root, key) = (Ca::self_signed(params), KeyPair::generate().expect("a key"));
    let issuer = Issuer::from_params(&root.params, &root.key);
    let authority = |n: usize| {
        let mut params = ca_params(&format!("authority {n}"));
        let filler =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![4; 3000]);
        params.custom_extensions = vec![filler];
        let made = params.signed_by(&key, &issuer).expect("a certificate");
        json!({"certificate": STANDARD.encode(made.der()), "isRootAuthority": false})
    };
    let authorities: Vec<_> = (0..215).map(authority).collect();
    let short = |count: usize| configuration("fleet", json!(authorities[..count]));
    let (mut stored, mut refused) = (0, 0);
    for count in (165..=authorities.len()).step_by(10) {
        let body = short(count);
        assert!(body.to_string().len() < 1024 * 1024);
        let (status, made) = server.post(M, &body).await;
        if status == 201 {
            stored += 1;
            let path = format!("{M}/{}", made["id"].as_str().expect("an id"));
            let read = server.get(&path).await.1;
            assert_eq!(server.patch(&path, &read).await.0, 200, "{count}");
        } else {
            refused += 1;
            let why = made["error"]["details"][0]["message"].as_str().expect("a reason");
            assert!(status == 400 && why.contains("at most 917504"), "{count}: {made}");
        }
    }
    assert!(stored > 0 && refused > 0);
}
