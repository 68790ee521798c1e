//! Invalid bodies: an error names the property, and nothing is stored.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use rcgen::{IsCa, KeyUsagePurpose};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::directory::{
    ADMIN, Ca, M, Server, answer, ca_params, configuration, leaf_params,
};

#[tokio::test]
async fn invalid_authorities_are_rejected_and_not_stored() {
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
        (with("certificate", json!(7)), certificate, "not a string"),
        (with("certificate", json!("MII*")), certificate, "base64"),
        (with("certificate", json!(pem)), certificate, "PEM"),
        (with("certificate", json!(base64(pem.as_bytes()))), certificate, "PEM"),
        (with("certificate", json!(base64(root.base64().as_bytes()))), certificate, "of base64"),
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
            "not a valid URL",
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
        ("\u{feff}", 400),
        ("\u{feff}\u{feff}{}", 400),
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
    // A compression bomb is not inflated beyond the body limit.
    let bomb = format!("{{\"displayName\":\"{}\"}}", "x".repeat(50 * 1024 * 1024));
    let packed = gzip(&bomb);
    assert!(packed.len() < 100_000);
    assert_eq!(send("gzip", packed).await.0, 413);
}

#[tokio::test]
async fn responses_are_compressed_on_request() {
    let server = Server::start().await;
    let roots = ["a", "b", "c"].map(|name| Ca::root(name).element(true));
    server.configuration("fleet", json!(roots)).await;
    // A client that does not decompress.
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

/// Variants that command lines and editors produce and Graph accepts: a byte order mark (files of Windows
/// PowerShell) and base64 in lines (`base64`, `openssl base64`).
#[tokio::test]
async fn accepts_byte_order_marks_and_wrapped_base64() {
    let server = Server::start().await;
    let root = Ca::root("root");
    let wrapped = |end: &str| {
        let base64 = root.base64().into_bytes();
        let lines: Vec<_> = base64.chunks(64).map(String::from_utf8_lossy).collect();
        lines.join(end) + end
    };
    for certificate in [wrapped("\n"), wrapped("\r\n"), format!(" {}\t", root.base64())] {
        let mut element = root.element(true);
        element["certificate"] = certificate.into();
        let body = format!("\u{feff}{}", configuration("fleet", json!([element])));
        let request = server.ask(Method::POST, M).header("content-type", "application/json");
        let (status, made) = answer(request.body(body)).await;
        assert_eq!(status, 201, "{made}");
        assert_eq!(made["certificateAuthorities"][0]["certificate"], root.base64());
    }
}

/// Addresses are also fetched by other software: what one reader repairs silently, another cannot read.
#[tokio::test]
async fn addresses_are_stored_unchanged_or_rejected() {
    let server = Server::start().await;
    for bad in [
        " http://pki.example/a.crl",
        "http://pki.example/a.crl\n",
        "http://pki.exa\tmple/a.crl",
        "http://pki.example/a b.crl",
        "http:pki.example/a.crl",
        "http:/pki.example/a.crl",
        "http:\\\\pki.example\\a.crl",
        "http:///pki.example/a.crl",
    ] {
        for name in ["certificateRevocationListUrl", "deltaCertificateRevocationListUrl"] {
            let mut element = Ca::root("root").element(true);
            element["certificateRevocationListUrl"] = "http://pki.example/a.crl".into();
            element[name] = bad.into();
            let (status, error) = server.post(M, &configuration("fleet", json!([element]))).await;
            let target = error["error"]["details"][0]["target"].as_str();
            let want = format!("certificateAuthorities[0].{name}");
            assert_eq!((status, target), (400, Some(&*want)), "{bad:?}: {error}");
        }
    }
    for good in ["HTTP://pki.example/a%20b.crl?x=1", "https://[::1]:8080/crl"] {
        let mut element = Ca::root("root").element(true);
        element["certificateRevocationListUrl"] = good.into();
        let (status, made) = server.post(M, &configuration("fleet", json!([element]))).await;
        assert_eq!(status, 201, "{made}");
        let stored = &made["certificateAuthorities"][0]["certificateRevocationListUrl"];
        assert_eq!(stored, good);
    }
}
