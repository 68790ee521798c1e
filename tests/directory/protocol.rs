//! Details of Graph's protocol: query options, preconditions, ambiguous bodies, methods and media types.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::support::directory::{A, Ca, M, READER, Server, answer, configuration};

/// The beta API accepts `filter=` for `$filter=`: a dropped option would return the wrong list.
#[tokio::test]
async fn options_need_no_dollar_sign() {
    let server = Server::start().await;
    let id = server.configuration("one", json!([])).await;
    server.configuration("other", json!([])).await;
    let both = server.get(&format!("{M}?name=one")).await.1;
    assert_eq!(both["value"].as_array().map(Vec::len), Some(2), "not an option of Graph");
    for query in ["filter=displayName eq 'one'", "$filter=displayName eq 'one'&top=1"] {
        let (status, list) = server.get(&format!("{M}?{query}")).await;
        assert_eq!((status, &list["value"][0]["id"]), (200, &json!(id)), "{query}");
        assert_eq!(list["value"].as_array().map(Vec::len), Some(1), "{query}");
    }
    for query in ["orderby=displayName", "skip=1", "search=x", "$$top=1", "$filter=id eq true"] {
        let (status, error) = server.get(&format!("{M}?{query}")).await;
        let code = error["error"]["code"].as_str();
        assert_eq!((status, code), (400, Some("Request_UnsupportedQuery")), "{query}");
    }
}

#[tokio::test]
async fn a_precondition_that_cannot_be_read_is_not_met() {
    let server = Server::start().await;
    let path = format!("{M}/{}", server.configuration("fleet", json!([])).await);
    let unreadable = HeaderValue::from_bytes(b"W/\"\xff\"").expect("a header");
    let tag = server.get(&path).await.1["@odata.etag"].as_str().expect("a tag").to_owned();
    let change = |request: RequestBuilder| answer(request.json(&json!({"displayName": "x"})));
    for bad in [unreadable, HeaderValue::from_static(""), HeaderValue::from_static("\"none\"")] {
        for method in [Method::PATCH, Method::DELETE] {
            let request = server.ask(method, &path).header("if-match", &bad);
            assert_eq!(change(request).await.0, 412, "{bad:?}");
        }
    }
    assert_eq!(server.get(&path).await.1["displayName"], "fleet");
    // Several lines of a header form one list.
    let request = server.ask(Method::PATCH, &path).header("if-match", "\"none\"");
    assert_eq!(change(request.header("if-match", tag)).await.0, 200);
}

/// A directory that was lost and recreated by the same script has the same change numbers.  A reader that
/// got "unchanged" would keep the authorities of the old directory.
#[tokio::test]
async fn a_recreated_directory_has_new_entity_tags() {
    let tags = async |server: &Server| {
        let list = server.ask(Method::GET, M).send().await.expect("an answer");
        list.headers()["etag"].clone()
    };
    let (old, new) = (Server::start().await, Server::start().await);
    for server in [&old, &new] {
        server.configuration("fleet", json!([Ca::root("root").element(true)])).await;
    }
    let tag = tags(&old).await;
    assert_eq!(tag, tags(&old).await);
    let ask = |server: &Server| server.ask(Method::GET, M).header("if-none-match", &tag).send();
    assert_eq!(ask(&old).await.expect("an answer").status(), 304);
    assert_eq!(ask(&new).await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn ambiguous_bodies_change_nothing() {
    let server = Server::start().await;
    let root = Ca::root("root").element(true);
    let path = format!("{M}/{}", server.configuration("fleet", json!([root])).await);
    let before = server.get(&path).await.1;
    let list = json!([root]);
    for body in [
        r#"{"displayName":"a","displayName":"b"}"#.to_owned(),
        format!(r#"{{"certificateAuthorities":{list},"certificateAuthorities ":[]}}"#),
        format!(r#"{{"certificateAuthorities":[],"certificateAuthority":{list}}}"#),
        r#"{"certificateAuthorities":[{"isRootAuthority":true,"isRootAuthority":false}]}"#.into(),
        r##"{"@odata.type":"#microsoft.graph.user","displayName":"a"}"##.into(),
        r#"{"@odata.type":"mutualTlsOauthConfiguration","displayName":"a"}"#.into(),
        r#"{"@odata.type":7,"displayName":"a"}"#.into(),
        json!({"certificateAuthorities": [{"@odata.type": "#microsoft.graph.keyCredential",
            "certificate": root["certificate"], "isRootAuthority": true}]})
        .to_string(),
    ] {
        let request = server.ask(Method::PATCH, &path).header("content-type", "application/json");
        let (status, error) = answer(request.body(body.clone())).await;
        assert_eq!(status, 400, "{body:.90}: {error}");
        assert!(error["error"]["message"].is_string());
    }
    assert_eq!(server.get(&path).await.1, before);
    // Annotations that the SDKs and the published examples send.
    let body = json!({
        "@odata.type": "#microsoft.graph.mutualTlsOauthConfiguration",
        "tlsClientAuthParameter@odata.type": "#microsoft.graph.tlsClientRegistrationMetadata",
        "certificateAuthorities@odata.type": "#Collection(microsoft.graph.certificateAuthority)",
        "certificateAuthorities": [{
            "@odata.type": "microsoft.graph.certificateAuthority",
            "certificate@odata.type": "#Edm.Binary", "certificate": root["certificate"],
            "isRootAuthority": true, "issuer": "acme Inc", "issuerSki": "x",
            "issuerSubjectkeyIdentifier": "y", "issuerSubjectKeyIdentifier": "z",
        }],
    });
    let (status, patched) = server.patch(&path, &body).await;
    assert_eq!(status, 200, "{patched}");
    assert_eq!(patched["certificateAuthorities"], before["certificateAuthorities"]);
}

#[tokio::test]
async fn all_of_a_gzip_stream_is_read() {
    let server = Server::start().await;
    let path = format!("{M}/{}", server.configuration("fleet", json!([])).await);
    let gzip = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).expect("in memory");
        encoder.finish().expect("in memory")
    };
    let send = |body: Vec<u8>| {
        let request = server.ask(Method::PATCH, &path).header("content-type", "application/json");
        answer(request.header("content-encoding", "gzip").body(body))
    };
    let (one, two) = (gzip(r#"{"displayName":"#), gzip(r#""packed"}"#));
    assert_eq!(send([one, two].concat()).await.1["displayName"], "packed");
    let whole = gzip(r#"{"displayName":"left over"}"#);
    assert_eq!(send([&whole[..], b"{\"displayName\":7}"].concat()).await.0, 400);
    assert_eq!(send(whole[..whole.len() - 1].to_vec()).await.0, 400);
    assert_eq!(send(Vec::new()).await.0, 400);
    assert_eq!(server.get(&path).await.1["displayName"], "packed");
}

#[tokio::test]
async fn methods_that_no_resource_has_are_405_for_every_caller() {
    let server = Server::start().await;
    for method in [Method::HEAD, Method::OPTIONS, Method::PUT, Method::TRACE] {
        for (path, allow) in [
            (M.to_owned(), "GET, POST"),
            (format!("{M}/$count"), "GET"),
            (format!("{M}/00000000-0000-4000-8000-000000000000"), "GET, PATCH, DELETE"),
        ] {
            let request = server.client.request(method.clone(), format!("{}{path}", server.url));
            let response = request.bearer_auth(READER).send().await.expect("an answer");
            assert_eq!(response.status(), 405, "{method} {path}");
            assert_eq!(response.headers()["allow"], allow, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn not_acceptable_is_decided_before_anything_changes() {
    let server = Server::start().await;
    let body = configuration("fleet", json!([]));
    for (accept, status) in [
        ("application/json", 201),
        ("application/json;odata.metadata=full", 201),
        ("text/html, */*;q=0.1", 201),
        ("Application/*", 201),
        ("", 201),
        ("application/xml", 406),
        ("text/plain, application/json;q=0", 406),
    ] {
        let request = server.ask(Method::POST, M).header("accept", accept).json(&body);
        assert_eq!(answer(request).await.0, status, "{accept}");
    }
    let made = server.get(M).await.1["value"].as_array().map(Vec::len);
    assert_eq!(made, Some(5));
    let request = server.ask(Method::GET, &format!("{M}/$count"));
    let count = request.header("accept", "text/plain;q=0.9").send().await.expect("an answer");
    assert_eq!(count.text().await.expect("text"), "5");
}

/// Headers and body that all errors have.
#[tokio::test]
async fn every_error_has_graphs_headers_and_shape() {
    let server = Server::start().await;
    let path = format!("{M}/{}", server.configuration("fleet", json!([])).await);
    let missing = format!("{M}/00000000-0000-4000-8000-000000000000");
    let json = |request: RequestBuilder| request.header("content-type", "application/json");
    let anonymous = |path: &str| server.client.get(format!("{}{path}", server.url));
    for (status, code, request) in [
        (400, "BadRequest", server.ask(Method::GET, "/")),
        (400, "BadRequest", json(server.ask(Method::POST, M)).body("{")),
        (400, "Request_BadRequest", server.ask(Method::POST, M).json(&json!({}))),
        (400, "Request_UnsupportedQuery", server.ask(Method::GET, &format!("{M}?$top=0"))),
        (401, "InvalidAuthenticationToken", anonymous(M)),
        (401, "InvalidAuthenticationToken", anonymous("/nothing").bearer_auth("wrong")),
        (403, "Authorization_RequestDenied", anonymous(A).bearer_auth(READER)),
        (404, "Request_ResourceNotFound", server.ask(Method::GET, &missing)),
        (405, "Request_BadRequest", server.ask(Method::PUT, M)),
        (406, "NotAcceptable", server.ask(Method::GET, M).header("accept", "text/html")),
        (
            412,
            "Request_PreconditionFailed",
            server.ask(Method::DELETE, &path).header("if-match", "\"0\""),
        ),
        (413, "RequestEntityTooLarge", json(server.ask(Method::POST, M)).body(vec![b' '; 1 << 21])),
        (415, "UnsupportedMediaType", server.ask(Method::POST, M).header("content-encoding", "br")),
    ] {
        let response = request.send().await.expect("an answer");
        is_graphs_error(response, status, code).await;
    }

    let challenge = async |request: RequestBuilder| {
        let response = request.send().await.expect("an answer");
        response.headers()["www-authenticate"].to_str().expect("text").to_owned()
    };
    let none = challenge(anonymous(M)).await;
    assert!(none.starts_with("Bearer ") && !none.contains("error"), "{none}");
    let bad = challenge(anonymous(M).bearer_auth("wrong")).await;
    assert!(bad.contains("error=\"invalid_token\""), "{bad}");
}

async fn is_graphs_error(response: Response, status: u16, code: &str) {
    assert_eq!(response.status(), status, "{code}");
    let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
    assert!(header("content-type").starts_with("application/json;odata.metadata=minimal"));
    assert_eq!((&*header("odata-version"), &*header("cache-control")), ("4.0", "no-cache"));
    let ids = (header("request-id"), header("client-request-id"));
    assert_eq!(ids.0.len(), 36);
    assert!(response.headers().contains_key("date"));
    let error = response.json::<Value>().await.expect("JSON")["error"].take();
    assert_eq!(error["code"], code);
    assert!(error["message"].as_str().is_some_and(|message| message.len() > 10), "{error}");
    let inner = &error["innerError"];
    assert_eq!((&inner["request-id"], &inner["client-request-id"]), (&json!(ids.0), &json!(ids.1)));
    assert_eq!(inner["date"].as_str().map(str::len), Some("2026-11-21T04:36:34".len()));
}

#[tokio::test]
async fn an_application_configuration_is_read_changed_and_written_whole() {
    let server = Server::start().await;
    let root = Ca::root("root");
    let inter = root.intermediate("intermediate");
    let body = json!({"displayName": "apps", "trustedCertificateAuthorities":
        [root.element(true), inter.element(false)]});
    let (_, made) = server.post(A, &body).await;
    // The response is expanded like the request.
    let authorities = made["trustedCertificateAuthorities"].as_array().expect("a list");
    assert_eq!(authorities.len(), 2, "{made}");
    assert_eq!(authorities[1]["certificate"], json!(inter.base64()));
    let path = format!("{A}/{}", made["id"].as_str().expect("an id"));

    let expanded = format!("{path}?$expand=trustedCertificateAuthorities");
    let mut whole = server.get(&expanded).await.1;
    assert_eq!(whole["trustedCertificateAuthorities"], made["trustedCertificateAuthorities"]);
    whole["displayName"] = "renamed".into();
    whole["trustedCertificateAuthorities"].as_array_mut().expect("a list").reverse();
    assert_eq!(server.patch(&path, &whole).await, (204, Value::Null));
    let list = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut body = whole.clone();
        change(body["trustedCertificateAuthorities"].as_array_mut().expect("a list"));
        body
    };
    for changed in [
        list(&|list| drop(list.pop())),
        list(&|list| list.push(list[0].clone())),
        list(&|list| list[0]["certificate"] = json!(root.intermediate("other").base64())),
        list(&|list| list[0]["id"] = list[1]["id"].clone()),
        list(&|list| list[0]["isRootAuthority"] = true.into()),
        list(&|list| list[0] = Value::Null),
    ] {
        assert_eq!(server.patch(&path, &changed).await.0, 400, "{changed}");
    }
    let now = server.get(&expanded).await.1;
    assert_eq!(now["displayName"], "renamed");
    assert_eq!(now["trustedCertificateAuthorities"], made["trustedCertificateAuthorities"]);

    let one = format!(
        "{path}/trustedCertificateAuthorities/{}",
        authorities[0]["id"].as_str().expect("an id")
    );
    let read = server.get(&one).await.1;
    assert_eq!(read["@odata.etag"], now["@odata.etag"]);
    assert_eq!(server.patch(&one, &read).await.0, 204);
    for (method, below) in [
        (Method::POST, format!("{path}/trustedCertificateAuthorities?$select=id")),
        (Method::GET, format!("{path}/trustedCertificateAuthorities/$count?$filter=id eq 'x'")),
        (Method::PATCH, format!("{one}?$top=1")),
    ] {
        let (status, error) = answer(server.ask(method, &below).json(&read)).await;
        let code = error["error"]["code"].as_str();
        assert_eq!((status, code), (400, Some("Request_UnsupportedQuery")), "{below}");
    }
}
