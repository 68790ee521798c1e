//! Callers of the directory cannot use up its memory or lock out each other.

use anchorgate::directory::{Directory, Served};
use anchorgate::http::reply::Reply;
use anchorgate::store::Store;
use http_body_util::Full;
use hyper::Request;
use hyper::body::{Body as _, Bytes};
use serde_json::{Value, json};

use crate::support::directory::{ADMIN, Ca, M, READER, config, configuration};

/// Bytes of a response's body.
fn size(reply: &Reply) -> u64 {
    reply.body().size_hint().exact().expect("a known size")
}

/// Most that one caller's responses hold.
const CALLER: u64 = 32 * 1024 * 1024;
/// Most that pages hold which callers share.
const SHARED: u64 = 32 * 1024 * 1024;

async fn ask(served: &Served, method: &str, token: &str, body: Option<Value>) -> Reply {
    ask_at(served, M, method, token, body).await
}

async fn ask_at(
    served: &Served,
    uri: &str,
    method: &str,
    token: &str,
    body: Option<Value>,
) -> Reply {
    let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header("authorization", format!("Bearer {token}"))
        .body(Full::new(body))
        .expect("a request");
    served.handle(request).await
}

/// Authorities whose JSON has most of what a body may have.
fn authorities() -> Value {
    (0..250)
        .map(|n| {
            let mut element = Ca::root(&format!("Authority {n}")).element(true);
            element["certificateRevocationListUrl"] =
                json!(format!("http://crl.example/{n}/{}", "p".repeat(1_900)));
            element
        })
        .collect()
}

/// The clock is paused: a request that waits for memory reaches its time limit at once.
#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_makes_only_itself_wait() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("directory.redb")).await.expect("a store");
    let served = Directory::new(config(), store).at("https://hub.example");
    let authorities = authorities();
    for n in 0..3 {
        let body = configuration(&format!("n{n}"), authorities.clone());
        let created = ask(&served, "POST", ADMIN, Some(body)).await;
        assert_eq!(created.status(), 201);
    }
    let mut held = Vec::new();
    let mut refused = 0;
    // Each query has a page of its own, so that all of them are in memory.
    for top in 3..99 {
        let reply = ask_at(&served, &format!("{M}?$top={top}"), "GET", READER, None).await;
        match reply.status().as_u16() {
            200 => held.push(reply),
            503 => {
                refused += 1;
                if refused == 2 {
                    break;
                }
            }
            other => panic!("status {other}"),
        }
    }
    let bytes: u64 = held.iter().map(size).sum();
    assert!(refused > 0 && bytes <= CALLER + SHARED, "{} responses of {bytes} bytes", held.len());
    assert!(held.len() > 2, "small responses do not keep what they had reserved");
    // A count with a filter reads objects as well.
    let count = format!("{M}/$count?$filter=displayName%20eq%20'n1'");
    assert_eq!(ask_at(&served, &count, "GET", READER, None).await.status(), 503);
    assert_eq!(ask_at(&served, &format!("{M}/$count"), "GET", READER, None).await.status(), 200);
    // Others are served, and so is the reader once its responses are gone.
    assert_eq!(ask(&served, "GET", ADMIN, None).await.status(), 200);
    drop(held);
    assert_eq!(ask(&served, "GET", READER, None).await.status(), 200);
    assert_eq!(ask_at(&served, &count, "GET", READER, None).await.status(), 200);
}
