//! The directory as its clients see it: over HTTP, with Graph's statuses, shapes and errors.

#[path = "support/directory.rs"]
#[allow(dead_code)]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anchorgate::store::{Collection, Store};
use flate2::Compression;
use flate2::write::GzEncoder;
use rcgen::{IsCa, KeyUsagePurpose};
use reqwest::Method;
use serde_json::{Value, json};
use support::{A, ADMIN, Ca, M, READER, Server, answer, ca_params, configuration, leaf_params};

#[tokio::test]
async fn a_configuration_lives_as_the_documents_say() {
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

    // Read, change, write the whole: with every read-only member sent back.
    let mut changed = server.get(&format!("{M}/{id}")).await.1;
    changed["displayName"] = "fleet 2".into();
    changed["certificateAuthorities"].as_array_mut().expect("a list").push(other.element(true));
    let (status, patched) = server.patch(&format!("{M}/{id}"), &changed).await;
    assert_eq!((status, patched["displayName"].as_str()), (200, Some("fleet 2")));
    assert_eq!(patched["certificateAuthorities"].as_array().map(Vec::len), Some(2));
    assert_eq!(patched["certificateAuthorities"][0], made["certificateAuthorities"][0]);

    // A PATCH of one member leaves the others; the other root of the paths is the same resource.
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
async fn callers_do_what_their_permissions_say() {
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

#[tokio::test]
async fn what_is_no_authority_is_refused_and_nothing_is_stored() {
    let server = Server::start().await;
    let (root, inter) = (Ca::root("root"), Ca::root("root").intermediate("intermediate"));
    let mut no_sign = ca_params("no keyCertSign");
    no_sign.key_usages = vec![KeyUsagePurpose::CrlSign];
    let mut no_ca = ca_params("no CA");
    no_ca.is_ca = IsCa::ExplicitNoCa;
    let mut expired = ca_params("expired");
    expired.not_before = rcgen::date_time_ymd(2019, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let mut future = ca_params("future");
    future.not_before = rcgen::date_time_ymd(2090, 1, 1);
    let mut large = ca_params("large");
    let filler =
        rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![4; 9000]);
    large.custom_extensions = vec![filler];
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----", root.base64());
    let mut trailing = root.der.clone();
    trailing.push(0);
    let base64 =
        |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    let with = |name: &str, value: Value| {
        let mut element = root.element(true);
        element[name] = value;
        element
    };
    let certificate = "certificate";
    for (element, property, why) in [
        (json!({"@odata.type": "microsoft.graph.certificateAuthority"}), certificate, "required"),
        (json!({"certificate": root.base64()}), "isRootAuthority", "required"),
        (with("isRootAuthority", json!("true")), "isRootAuthority", "neither"),
        (with("certificate", Value::Null), certificate, "required"),
        (with("certificate", json!(7)), certificate, "no string"),
        (with("certificate", json!("MII*")), certificate, "base64"),
        (with("certificate", json!(pem)), certificate, "PEM"),
        (with("certificate", json!(base64(pem.as_bytes()))), certificate, "PEM"),
        (with("certificate", json!(base64(&trailing))), certificate, "left over"),
        (with("certificate", json!(base64(&root.der[..100]))), certificate, "not an X.509"),
        (Ca::self_signed(large).element(true), certificate, "at most 8192"),
        (Ca::self_signed(no_sign).element(true), certificate, "keyCertSign"),
        (Ca::self_signed(no_ca).element(true), certificate, "basicConstraints"),
        (Ca::self_signed(leaf_params("leaf")).element(true), certificate, "basicConstraints"),
        (Ca::self_signed(expired).element(true), certificate, "expired at 2020-01-01"),
        (Ca::self_signed(future).element(true), certificate, "not valid before 2090"),
        (root.element(false), certificate, "isRootAuthority is false"),
        (inter.element(true), certificate, "isRootAuthority is true"),
        (
            with("certificateRevocationListUrl", json!("ldap://x/y")),
            "certificateRevocationListUrl",
            "`ldap`",
        ),
        (
            with("certificateRevocationListUrl", json!("nonsense")),
            "certificateRevocationListUrl",
            "no URL",
        ),
        (
            with("certificateRevocationListUrl", json!("http://u:p@x/")),
            "certificateRevocationListUrl",
            "password",
        ),
        (
            with("deltaCertificateRevocationListUrl", json!("http://x/y")),
            "deltaCertificateRevocationListUrl",
            "base",
        ),
    ] {
        let (status, error) = server.post(M, &configuration("bad", json!([element]))).await;
        let error = &error["error"];
        assert_eq!(
            (status, error["code"].as_str()),
            (400, Some("Request_BadRequest")),
            "{why}: {error}"
        );
        let sentence = format!(
            "Invalid value specified for property '{property}' of resource 'CertificateAuthorityInformation'."
        );
        assert_eq!(error["message"], json!(sentence));
        assert_eq!(
            error["details"][0]["target"],
            json!(format!("certificateAuthorities[0].{property}"))
        );
        assert!(
            error["details"][0]["message"].as_str().is_some_and(|m| m.contains(why)),
            "{why}: {error}"
        );
    }
    let twice = json!([root.element(true), root.element(true)]);
    assert_eq!(server.post(M, &configuration("twice", twice)).await.0, 400);
    assert_eq!(server.get(M).await.1["value"], json!([]));
}

#[tokio::test]
async fn bad_bodies_are_errors_and_change_nothing() {
    let server = Server::start().await;
    let id = server.configuration("fleet", json!([Ca::root("root").element(true)])).await;
    let path = format!("{M}/{id}");
    let before = server.get(&path).await.1;
    let good = configuration("x", json!([])).to_string();
    let deep = format!("{{\"displayName\":{}1{}}}", "[".repeat(60), "]".repeat(60));
    let long = format!("{{\"displayName\":\"{}\"}}", "x".repeat(2 * 1024 * 1024));
    for (body, status) in [
        ("", 400),
        ("null", 400),
        ("[]", 400),
        ("{", 400),
        ("\u{feff}{}", 400),
        (&deep, 400),
        (&long, 413),
        (r#"{"displayName":7}"#, 400),
        (r#"{"displayName":"a\u0000b"}"#, 400),
        (r#"{"surname":"x"}"#, 400),
        (r#"{"id":"other"}"#, 400),
        (r#"{"deletedDateTime":"2026-01-01T00:00:00Z"}"#, 400),
        (r#"{"certificateAuthorities":null}"#, 400),
        (r#"{"certificateAuthorities":{}}"#, 400),
        (r#"{"certificateAuthorities":[7]}"#, 400),
    ] {
        let request = server.ask(Method::PATCH, &path).header("content-type", "application/json");
        let (got, error) = answer(request.body(body.to_owned())).await;
        assert_eq!(got, status, "{body:.60}");
        assert!(
            error["error"]["message"].is_string()
                && error["error"]["innerError"]["date"].is_string()
        );
    }
    let form = server.ask(Method::POST, M).header("content-type", "text/plain").body(good.clone());
    assert_eq!(answer(form).await.0, 400);
    for parameter in [json!(null), json!("tls_client_auth_san_x"), json!(9), json!([])] {
        let mut body = configuration("x", json!([]));
        body["tlsClientAuthParameter"] = parameter;
        assert_eq!(server.post(M, &body).await.0, 400);
    }
    assert_eq!(server.get(&path).await.1, before);
    assert_eq!(server.get(M).await.1["value"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn gzip_bodies_are_read_within_the_limit() {
    let server = Server::start().await;
    let gzip = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).expect("in memory");
        encoder.finish().expect("in memory")
    };
    let send = |coding: &str, body: Vec<u8>| {
        let request = server.ask(Method::POST, M).header("content-type", "application/json");
        answer(request.header("content-encoding", coding).body(body))
    };
    let good = configuration("packed", json!([])).to_string();
    assert_eq!(send("gzip", gzip(&good)).await.0, 201);
    assert_eq!(send("br", gzip(&good)).await.0, 415);
    assert_eq!(send("gzip", good.into_bytes()).await.0, 400);
    // A megabyte of bomb is not inflated further than a body may be long.
    let bomb = format!("{{\"displayName\":\"{}\"}}", "x".repeat(50 * 1024 * 1024));
    let packed = gzip(&bomb);
    assert!(packed.len() < 100_000);
    assert_eq!(send("gzip", packed).await.0, 413);
}

#[tokio::test]
async fn answers_are_packed_for_who_can_unpack_them() {
    let server = Server::start().await;
    let roots = ["a", "b", "c"].map(|name| Ca::root(name).element(true));
    server.configuration("fleet", json!(roots)).await;
    // A client that leaves the bytes as they come.
    let client = reqwest::Client::builder().no_gzip().build().expect("a client");
    let coding = async |accepted: &str| {
        let request = client.get(format!("{}{M}", server.url)).bearer_auth(ADMIN);
        let response = request.header("accept-encoding", accepted).send().await.expect("an answer");
        let coding = response.headers().get("content-encoding").cloned();
        let body = response.bytes().await.expect("a body");
        (coding.is_some_and(|c| c == "gzip"), body)
    };
    let (packed, plain) = (coding("deflate, gzip;q=1.0").await, coding("identity").await);
    assert!(packed.0 && !plain.0 && packed.1.len() < plain.1.len());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed.1[..]), &mut text)
        .expect("gzip");
    assert_eq!(text.as_bytes(), plain.1);
    assert!(!coding("gzip;q=0").await.0);
}

#[tokio::test]
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

    // Each writes two authorities of its own, all at once: what is stored is one pair, never a mix.
    let pairs: Vec<Value> = (0..6)
        .map(|n| {
            json!([
                Ca::root(&format!("{n} a")).element(true),
                Ca::root(&format!("{n} b")).element(true)
            ])
        })
        .collect();
    let writes = pairs.iter().map(|pair| {
        let request =
            server.ask(Method::PATCH, &path).json(&json!({"certificateAuthorities": pair}));
        tokio::spawn(answer(request))
    });
    for write in writes.collect::<Vec<_>>() {
        let (status, body) = write.await.expect("ended");
        assert!(status == 200 || status == 503, "{status} {body}");
    }
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
    assert_eq!(server.post(&inside, &inter.element(false)).await.0, 400, "a twin");
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
    let told = waiting.await.expect("ended").expect("an answer");
    assert_eq!(told.status(), 200);
    assert_ne!(told.headers()["etag"], tag.as_str());
    assert_eq!(told.json::<Value>().await.expect("JSON")["value"][0]["displayName"], "new");
    assert!(before.elapsed() < Duration::from_secs(10));
    assert_eq!(
        poll("wait=20").await.expect("an answer").status(),
        200,
        "an old tag is not waited with"
    );
}

/// A child process serves a directory whose file may not grow past a limit, as on a full disk.
#[test]
fn a_full_disk_is_said_and_loses_nothing() {
    const CHILD: &str = "ANCHORGATE_TEST_FULL_DISK";
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if std::env::var_os(CHILD).is_some() {
        runtime.block_on(async {
            let server = Server::start().await;
            let mut large = ca_params("large");
            let filler = rcgen::CustomExtension::from_oid_content(
                &[1, 3, 6, 1, 4, 1, 99999, 1],
                [&[4, 0x82, 0x1b, 0x58][..], &[0; 7000]].concat(),
            );
            large.custom_extensions = vec![filler];
            let body = configuration("large", json!([Ca::self_signed(large).element(true)]));
            let mut made = Vec::new();
            let refused = loop {
                let response = server.ask(Method::POST, M).json(&body).send().await;
                let response = response.expect("an answer");
                if response.status() != 201 {
                    break response;
                }
                made.push(response.json::<Value>().await.expect("JSON")["id"].clone());
                assert!(made.len() < 100_000, "the limit does not hold");
            };
            assert_eq!(
                (refused.status().as_u16(), &refused.headers()["retry-after"]),
                (503, &"5".parse().expect("a header"))
            );
            assert!(!made.is_empty());
            for id in &made {
                let path = format!("{M}/{}", id.as_str().expect("an id"));
                assert_eq!(server.get(&path).await.0, 200, "{id} was answered and is lost");
            }
        });
        return;
    }
    let limited = "trap '' XFSZ; ulimit -f 4096; exec \"$0\" \"$@\"";
    let status = Command::new("bash")
        .args(["-c", limited])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", "a_full_disk_is_said_and_loses_nothing", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::null())
        .status()
        .expect("a child");
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_use_the_command_line() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, contents: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, contents).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let token = file("token", format!("{ADMIN}\n").as_bytes());
    let (root, other) = (Ca::root("root"), Ca::root("other"));
    let (root, other_file) = (file("root.der", &root.der), file("other.der", &other.der));
    let leaf = file("leaf.der", &Ca::self_signed(leaf_params("leaf")).der);
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_anchorgate"))
            .args(["directory", "--json", "--url", &server.url, "--token-file", &token])
            .args(arguments)
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.success() {
            true => Ok(serde_json::from_slice::<Value>(&output.stdout).unwrap_or(Value::Null)),
            false => Err(text),
        }
    };
    let with_crl = format!("{root},crl=http://pki.example/r.crl");
    let made = run(&[
        "create",
        "--name",
        "fleet",
        "--field",
        "tls_client_auth_san_dns",
        "--ca",
        &with_crl,
    ]);
    let made = made.expect("made");
    let id = made["id"].as_str().expect("an id");
    assert_eq!(made["certificateAuthorities"][0]["isRootAuthority"], true);
    let count = |answer: Result<Value, String>| {
        answer.expect("done")["certificateAuthorities"].as_array().map(Vec::len)
    };
    assert_eq!(count(run(&["add-ca", id, &other_file])), Some(2));
    assert_eq!(count(run(&["add-ca", id, &other_file])), Some(2), "once is enough");
    assert_eq!(count(run(&["remove-ca", id, &root])), Some(1));
    let why = run(&["remove-ca", id, &root]).expect_err("gone already");
    assert!(why.contains("has no authority"), "{why}");
    let why = run(&["add-ca", id, &leaf]).expect_err("no authority");
    assert!(why.contains("leaf.der") && why.contains("basicConstraints lacks CA"), "{why}");
    assert_eq!(count(run(&["get", id])), Some(1));
    assert_eq!(run(&["update", id, "--name", "new"]).expect("done")["displayName"], "new");
    assert_eq!(run(&["list"]).expect("a list")[0]["displayName"], "new");
    assert!(run(&["delete", id]).is_ok());
    let why = run(&["get", id]).expect_err("deleted");
    assert!(why.contains("404 Request_ResourceNotFound"), "{why}");
}

/// A child process stores objects and says which it was told are stored; it is killed in the middle.
#[test]
fn kill_nine_loses_nothing_that_was_answered() {
    const CHILD: &str = "ANCHORGATE_TEST_STORE";
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if let Ok(path) = std::env::var(CHILD) {
        runtime.block_on(async {
            let store = Store::open(path.as_ref()).await.expect("a store");
            for n in 0u32.. {
                let id = format!("{n:08}");
                store.insert(Collection::Devices, &id, vec![7; 200], None).await.expect("stored");
                println!("stored {id}");
            }
        });
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("directory.redb");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "kill_nine_loses_nothing_that_was_answered", "--nocapture"])
        .env(CHILD, &path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut told = Vec::new();
    for line in lines.map_while(Result::ok) {
        told.extend(line.rsplit_once("stored ").map(|(_, id)| id.to_owned()));
        if told.len() == 50 {
            child.kill().expect("killed");
        }
    }
    child.wait().expect("ended");
    assert!(told.len() >= 50, "the child wrote until it was killed");
    runtime.block_on(async {
        let store = Store::open(&path).await.expect("the store opens after the kill");
        for id in &told {
            assert!(
                store.get(Collection::Devices, id).await.is_ok(),
                "{id} was answered and is lost"
            );
        }
        let kept = store.count(Collection::Devices).await.expect("a count");
        assert!(kept <= told.len() as u64 + 1, "more is stored than was ever begun");
    });
}
