//! The directory over HTTP, with Graph's statuses, shapes and errors.

#[path = "../support/mod.rs"]
mod support;

mod administrators;
mod bounds;
mod command_line;
mod delta;
mod devices;
mod durability;
mod input;
mod permissions;
mod protocol;

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::directory::{A, ADMIN, Ca, M, READER, Server, answer, configuration};

#[tokio::test]
async fn a_configuration_follows_the_documented_life_cycle() {
    let server = Server::start().await;
    let (root, other) = (Ca::root("root"), Ca::root("other"));
    let mut body = configuration("fleet", json!([root.element(true)]));
    body["certificateAuthorities"][0]["certificateRevocationListUrl"] =
        "http://pki.example/r.crl".into();

    let response = server.ask(Method::POST, M).json(&body).send().await.expect("an answer");
    assert_eq!(response.status(), 201);
    let location = response.headers()["location"].to_str().expect("text").to_owned();
    assert_eq!(response.headers()["odata-version"], "4.0");
    let made: Value = response.json().await.expect("JSON");
    let id = made["id"].as_str().expect("an id");
    assert_eq!(location, format!("{}{M}/{id}", server.url));
    assert_eq!(
        made["@odata.context"],
        json!(format!("{}/beta/$metadata#{}/$entity", server.url, &M[6..]))
    );
    assert_eq!(made["tlsClientAuthParameter"], "tls_client_auth_san_uri");
    assert_eq!(made["deletedDateTime"], Value::Null);
    let authority = &made["certificateAuthorities"][0];
    assert_eq!(authority["certificate"], json!(root.base64()));
    assert_eq!(authority["issuer"], "CN=root");
    assert_eq!(authority["deltaCertificateRevocationListUrl"], Value::Null);
    let ski = authority["issuerSki"].as_str().expect("a key identifier");
    assert!(ski.len() == 40 && ski.chars().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase()));

    // Read, change and write back the whole object, including its read-only members.
    let mut changed = server.get(&format!("{M}/{id}")).await.1;
    changed["displayName"] = "fleet 2".into();
    changed["certificateAuthorities"].as_array_mut().expect("a list").push(other.element(true));
    let (status, patched) = server.patch(&format!("{M}/{id}"), &changed).await;
    assert_eq!((status, patched["displayName"].as_str()), (200, Some("fleet 2")));
    assert_eq!(patched["certificateAuthorities"].as_array().map(Vec::len), Some(2));
    assert_eq!(patched["certificateAuthorities"][0], made["certificateAuthorities"][0]);

    // A PATCH of one member leaves the others.  The path without `/directory` names the same resource.
    let short = format!("{}/{id}", M.replace("/directory", ""));
    let (_, patched) =
        server.patch(&short, &json!({"displayName": null, "display_name": null})).await;
    assert_eq!(patched["displayName"], Value::Null);
    assert_eq!(patched["certificateAuthorities"].as_array().map(Vec::len), Some(2));

    let (status, error) =
        server.patch(&short, &json!({"tlsClientAuthParameter": "tls_client_auth_san_dns"})).await;
    assert_eq!((status, error["error"]["code"].as_str()), (400, Some("Request_BadRequest")));
    assert_eq!(error["error"]["details"][0]["target"], "tlsClientAuthParameter");

    assert_eq!(server.delete(&short).await, 204);
    assert_eq!(server.delete(&short).await, 404);
    let (status, error) = server.get(&short).await;
    assert_eq!((status, error["error"]["code"].as_str()), (404, Some("Request_ResourceNotFound")));
}

#[tokio::test]
async fn lists_are_filtered_selected_counted_and_paged() {
    let server = Server::start().await;
    let mut ids = Vec::new();
    for n in 0..7 {
        ids.push(server.configuration(&format!("fleet {n}"), json!([])).await);
    }
    let (_, list) = server.get(&format!("{M}?$filter=displayName%20eq%20%27fleet%203%27")).await;
    assert_eq!(list["value"][0]["id"], json!(ids[3]));
    assert_eq!(list["value"].as_array().map(Vec::len), Some(1));
    let (_, list) =
        server.get(&format!("{M}?$filter=id in ('{}','{}')&$count=true", ids[0], ids[1])).await;
    assert_eq!(list["@odata.count"], 2);
    let (_, list) = server.get(&format!("{M}?$select=id,displayName&$top=1&$count=true")).await;
    assert_eq!(list["@odata.count"], 7);
    let first = list["value"][0].as_object().expect("an object");
    assert!(!first.contains_key("certificateAuthorities") && first.contains_key("displayName"));
    let count = server.ask(Method::GET, &format!("{M}/$count")).send().await.expect("an answer");
    assert_eq!(count.headers()["content-type"], "text/plain");
    assert_eq!(count.text().await.expect("text"), "7");

    let (mut seen, mut pages, mut next) =
        (Vec::new(), 0, format!("{}{M}?$top=3&$select=id", server.url));
    loop {
        let (status, page) = answer(server.client.get(&next).bearer_auth(ADMIN)).await;
        assert_eq!(status, 200, "{page}");
        pages += 1;
        seen.extend(page["value"].as_array().expect("a list").iter().map(|o| o["id"].clone()));
        match page["@odata.nextLink"].as_str() {
            Some(link) => next = link.to_owned(),
            None => break,
        }
    }
    ids.sort();
    assert_eq!((json!(seen), pages), (json!(ids), 3));

    for query in
        ["$orderby=displayName", "$filter=contains(id,'a')", "$top=-1", "$skip=1", "$search=x"]
    {
        let (status, error) = server.get(&format!("{M}?{query}")).await;
        assert_eq!(
            (status, error["error"]["code"].as_str()),
            (400, Some("Request_UnsupportedQuery")),
            "{query}"
        );
    }
}

#[tokio::test]
async fn errors_have_graphs_shape() {
    let server = Server::start().await;
    let sent = "7b3c1f6e-3f0a-4c0b-9e60-0d6d2f1d3a55";
    let response = server
        .ask(Method::GET, "/beta/directory/bogus")
        .header("client-request-id", sent)
        .send()
        .await
        .expect("an answer");
    assert_eq!(response.status(), 400);
    assert_eq!(response.headers()["client-request-id"], sent);
    let request_id = response.headers()["request-id"].to_str().expect("text").to_owned();
    assert!(
        response.headers()["content-type"].to_str().expect("text").starts_with("application/json")
    );
    let error: Value = response.json().await.expect("JSON");
    assert_eq!(error["error"]["code"], "BadRequest");
    assert_eq!(error["error"]["message"], "Resource not found for the segment 'bogus'.");
    let inner = &error["error"]["innerError"];
    assert_eq!(
        (&inner["request-id"], &inner["client-request-id"]),
        (&json!(request_id), &json!(sent))
    );
    assert_eq!(inner["date"].as_str().map(str::len), Some("2026-11-21T04:36:34".len()));

    let id = "00000000-0000-4000-8000-000000000000";
    for (method, path, status, code) in [
        (
            Method::GET,
            "/v1.0/directory/certificateAuthorities/mutualTlsOauthConfigurations".to_owned(),
            400,
            "BadRequest",
        ),
        (Method::GET, format!("{M}/not-a-guid"), 400, "Request_BadRequest"),
        (Method::GET, format!("{M}/{id}"), 404, "Request_ResourceNotFound"),
        (Method::PUT, M.to_owned(), 405, "Request_BadRequest"),
        (Method::PATCH, M.to_owned(), 405, "Request_BadRequest"),
        (Method::POST, format!("{M}/{id}"), 405, "Request_BadRequest"),
    ] {
        let request = server.ask(method.clone(), &path).json(&json!({}));
        let (got, error) = answer(request).await;
        assert_eq!((got, error["error"]["code"].as_str()), (status, Some(code)), "{method} {path}");
    }
}

#[tokio::test]
async fn permissions_are_enforced() {
    let server = Server::start().await;
    let body = configuration("fleet", json!([]));
    let url = |path: &str| format!("{}{path}", server.url);
    let (status, error) = answer(server.client.get(url(M))).await;
    assert_eq!(
        (status, error["error"]["code"].as_str()),
        (401, Some("InvalidAuthenticationToken"))
    );
    let response = server.client.get(url(M)).bearer_auth("wrong").send().await.expect("an answer");
    assert_eq!(response.status(), 401);
    assert!(response.headers()["www-authenticate"].to_str().expect("text").starts_with("Bearer "));
    assert_eq!(answer(server.client.get(url(M)).bearer_auth(READER)).await.0, 200);
    for request in [
        server.client.post(url(M)).json(&body),
        server.client.get(url(A)),
        server.client.post(url(A)).json(&body),
    ] {
        let (status, error) = answer(request.bearer_auth(READER)).await;
        assert_eq!(
            (status, error["error"]["code"].as_str()),
            (403, Some("Authorization_RequestDenied"))
        );
    }
    assert_eq!(server.get(M).await.1["value"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_administrators_do_not_mix_their_lists() {
    let server = Server::start().await;
    let id = server.configuration("fleet", json!([])).await;
    let path = format!("{M}/{id}");
    let stale = server.get(&path).await.1["@odata.etag"].as_str().expect("a tag").to_owned();
    assert_eq!(server.patch(&path, &json!({"displayName": "first"})).await.0, 200);
    let conditional = |tag: &str| {
        let request = server.ask(Method::PATCH, &path).header("if-match", tag);
        answer(request.json(&json!({"displayName": "second"})))
    };
    assert_eq!(conditional(&stale).await.0, 412);
    assert_eq!(answer(server.ask(Method::DELETE, &path).header("if-match", &stale)).await.0, 412);
    let fresh = server.get(&path).await.1["@odata.etag"].as_str().expect("a tag").to_owned();
    assert_eq!(conditional(&fresh).await.0, 200);

    // Each writer repeatedly stores two authorities of its own, concurrently with the others.  Every change
    // succeeds, and the stored and returned authorities are always one pair.
    let pair = |n: usize| {
        let root = |half: &str| Ca::root(&format!("{n:02} {half}")).element(true);
        json!([root("a"), root("b")])
    };
    let server = Arc::new(server);
    let mut writers = JoinSet::new();
    for pair in (0..32).map(pair) {
        let (server, path) = (Arc::clone(&server), path.clone());
        writers.spawn(async move {
            for _ in 0..8 {
                let change = json!({"certificateAuthorities": pair});
                let (status, body) = server.patch(&path, &change).await;
                assert_eq!(status, 200, "{body}");
                for n in [0, 1] {
                    let answered = &body["certificateAuthorities"][n]["certificate"];
                    assert_eq!(*answered, pair[n]["certificate"]);
                }
            }
        });
    }
    writers.join_all().await;
    let stored = server.get(&path).await.1;
    let issuer =
        |n: usize| stored["certificateAuthorities"][n]["issuer"].as_str().expect("text").to_owned();
    assert_eq!(issuer(0).replace('a', "b"), issuer(1));
}

#[tokio::test]
async fn application_configurations_hold_their_authorities() {
    let server = Server::start().await;
    let (root, other) = (Ca::root("root"), Ca::root("other"));
    let inter = root.intermediate("intermediate");
    let body = |list: Value| {
        json!({
            "@odata.type": "#microsoft.graph.certificateBasedApplicationConfiguration",
            "displayName": "apps", "description": "d", "trustedCertificateAuthorities ": list,
        })
    };
    for list in [
        json!([]),
        json!([inter.element(false)]),
        json!([root.element(true), other.element(true)]),
        json!([root.element(true), root.element(true)]),
        Value::Null,
    ] {
        assert_eq!(server.post(A, &body(list)).await.0, 400);
    }
    let (status, made) = server.post(A, &body(json!([root.element(true)]))).await;
    assert_eq!(status, 200, "{made}");
    let path = format!("{A}/{}", made["id"].as_str().expect("an id"));
    assert_eq!(server.get(&path).await.1["trustedCertificateAuthorities"], Value::Null);
    let (_, list) = server.get(&format!("{A}?$expand=trustedCertificateAuthorities")).await;
    let authority = &list["value"][0]["trustedCertificateAuthorities"][0];
    assert_eq!(authority["issuer"], "CN=root");
    assert!(authority["issuerSubjectKeyIdentifier"].is_string() && authority["id"].is_string());

    let inside = format!("{path}/trustedCertificateAuthorities");
    let (status, added) = server.post(&inside, &inter.element(false)).await;
    assert_eq!(status, 201, "{added}");
    assert_eq!(server.post(&inside, &other.element(true)).await.0, 400, "a second root");
    assert_eq!(server.post(&inside, &inter.element(false)).await.0, 400, "a duplicate");
    let one = format!("{inside}/{}", added["id"].as_str().expect("an id"));
    assert_eq!(server.get(&one).await.1["certificate"], json!(inter.base64()));
    let renewed = root.intermediate("intermediate");
    assert_eq!(server.patch(&one, &json!({"certificate": renewed.base64()})).await.0, 204);
    assert_eq!(server.get(&one).await.1["certificate"], json!(renewed.base64()));
    for n in 2..10 {
        let more = root.intermediate(&n.to_string()).element(false);
        assert_eq!(server.post(&inside, &more).await.0, 201);
    }
    let eleventh = root.intermediate("11").element(false);
    let (status, error) = server.post(&inside, &eleventh).await;
    assert_eq!((status, error["error"]["code"].as_str()), (403, Some("Directory_QuotaExceeded")));
    assert_eq!(server.delete(&one).await, 204);
    assert_eq!(server.delete(&one).await, 404);
    assert_eq!(server.patch(&path, &json!({"description": "e"})).await, (204, Value::Null));
    assert_eq!(server.get(&path).await.1["description"], "e");
    assert_eq!(server.delete(&path).await, 204);
    for _ in 0..100 {
        assert_eq!(server.post(A, &body(json!([root.element(true)]))).await.0, 200);
    }
    assert_eq!(server.post(A, &body(json!([root.element(true)]))).await.0, 403);
}

#[tokio::test]
async fn a_reader_can_wait_for_a_change() {
    let server = Server::start().await;
    let id = server.configuration("fleet", json!([])).await;
    let list = server.ask(Method::GET, M).send().await.expect("an answer");
    let tag = list.headers()["etag"].to_str().expect("text").to_owned();
    let poll = |wait: &'static str| {
        server.ask(Method::GET, M).header("if-none-match", &tag).header("prefer", wait).send()
    };
    assert_eq!(poll("wait=0").await.expect("an answer").status(), 304);
    let waiting = tokio::spawn(poll("wait=20"));
    tokio::task::yield_now().await;
    let before = Instant::now();
    assert_eq!(server.patch(&format!("{M}/{id}"), &json!({"displayName": "new"})).await.0, 200);
    let response = waiting.await.expect("ended").expect("an answer");
    assert_eq!(response.status(), 200);
    assert_ne!(response.headers()["etag"], tag.as_str());
    assert_eq!(response.json::<Value>().await.expect("JSON")["value"][0]["displayName"], "new");
    assert!(before.elapsed() < Duration::from_secs(10));
    assert_eq!(
        poll("wait=20").await.expect("an answer").status(),
        200,
        "an outdated tag returns at once"
    );
}
