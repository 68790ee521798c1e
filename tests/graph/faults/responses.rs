//! Failed, incomplete and malformed responses.

use super::*;

#[tokio::test]
async fn no_status_but_200_changes_anything() {
    let (mut rig, _) = Rig::good().await;
    for status in [
        201, 202, 204, 206, 301, 302, 304, 307, 400, 401, 403, 404, 405, 409, 410, 412, 418, 500,
        501, 502, 599,
    ] {
        let reply = match status {
            301 | 302 | 307 => Reply::Plain(status, "location: http://127.0.0.1:1/\r\n", vec![]),
            204 | 304 => Reply::Plain(status, "", vec![]),
            _ => Reply::status(status),
        };
        rig.fails(&status.to_string(), "", move |_, _| reply.clone()).await;
    }
    // These are retried up to the limit.
    for status in [429, 503, 504] {
        let body = b"busy".to_vec();
        rig.fails("throttled", &status.to_string(), move |_, _| {
            Reply::Plain(status, "retry-after: 0\r\n", body.clone())
        })
        .await;
        assert_eq!(rig.graph.seen().len(), 3, "{status}");
    }
    assert!(rig.metric("graph_polls_total{source=\"hub\",result=\"failed\"} 24"));
}

#[tokio::test]
async fn incomplete_responses_change_nothing() {
    let (mut rig, good) = Rig::good().await;
    let text = good.list.to_string();
    let head = |length: usize| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let bytes = |parts: [&str; 2]| parts.concat().into_bytes();
    let half = &text[..text.len() / 2];
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{half}\r\n",
        half.len()
    );
    for (name, reply, why) in [
        ("closed", Reply::Bytes(vec![]), ""),
        ("no HTTP", Reply::Bytes(b"SSH-2.0-x\r\n\r\n".to_vec()), ""),
        ("slow header", Reply::Stall(b"HTTP/1.1 200 OK\r\n".to_vec()), "timed out"),
        ("slow body", Reply::Stall(bytes([&head(text.len()), half])), "timed out"),
        ("cut body", Reply::Bytes(bytes([&head(text.len()), half])), ""),
        ("cut chunks", Reply::Bytes(chunked.into_bytes()), ""),
        ("length too long", Reply::Bytes(bytes([&head(text.len() + 1), &text])), ""),
        ("length too short", Reply::Bytes(bytes([&head(text.len() - 1), &text])), "not JSON"),
        (
            "length absurd",
            Reply::Bytes(bytes([
                "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
                &text,
            ])),
            "",
        ),
    ] {
        rig.fails(name, why, move |_, _| reply.clone()).await;
    }
}

#[tokio::test]
async fn responses_that_are_not_lists_change_nothing() {
    let (mut rig, good) = Rig::good().await;
    let html = b"<html><body>Sign in to the network</body></html>".to_vec();
    let deep = format!("{{\"value\":{}{}}}", "[".repeat(500), "]".repeat(500));
    let large = format!("{{\"value\":[],\"x\":\"{}\"}}", "x".repeat(300_000));
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(large.as_bytes()).expect("in memory");
    let bomb = bomb.finish().expect("in memory");
    assert!(bomb.len() < 10_000);
    let no_id = good.but(|list| list["value"][0]["id"] = Value::Null).to_string();
    for (name, header, body, why) in [
        ("HTML", "content-type: text/html\r\n", html, "not JSON"),
        ("nothing", "", vec![], "not JSON"),
        ("null", "", b"null".to_vec(), "not an object"),
        ("an error", "", b"{\"error\":{}}".to_vec(), "`value` is not a list"),
        ("an object in place of the list", "", b"{\"value\":{}}".to_vec(), "`value` is not a list"),
        ("deep", "", deep.into_bytes(), "deeper than 32"),
        ("large", "", large.into_bytes(), "larger than 200000 bytes"),
        ("gzip bomb", "content-encoding: gzip\r\n", bomb, "larger than 200000 bytes"),
        ("no gzip", "content-encoding: gzip\r\n", b"{\"value\":[]}".to_vec(), ""),
        ("no id", "", no_id.into_bytes(), "no id"),
        ("not UTF-8", "", b"{\"value\":[\"\xff\"]}".to_vec(), "not JSON"),
    ] {
        rig.fails(name, why, move |_, _| Reply::Plain(200, header, body.clone())).await;
    }
    // The media type does not matter.
    let body = good.list.to_string().into_bytes();
    rig.graph.answer(move |_, _| Reply::Plain(200, "content-type: text/plain\r\n", body.clone()));
    rig.handle.refresh().await.expect("a good poll");
}

#[tokio::test]
async fn endless_or_foreign_pages_change_nothing() {
    let (mut rig, good) = Rig::good().await;
    let url = rig.graph.url.clone();
    let page = |list: &Value, next: String| {
        let mut page = list.clone();
        page["@odata.nextLink"] = next.into();
        Reply::json(&page)
    };
    let (list, base) = (good.list.clone(), url.clone());
    rig.fails("endless", "more than 5 pages", move |_, n| page(&list, format!("{base}/x?{n}")))
        .await;
    assert_eq!(rig.graph.seen().len(), 5);
    let (list, base) = (good.list.clone(), url.clone());
    rig.fails("circle", "circle", move |_, _| page(&list, format!("{base}/x"))).await;

    let elsewhere = Misbehaving::start().await;
    for (name, link) in [
        ("another port", format!("{}/beta/x", elsewhere.url)),
        ("another scheme", url.replace("http:", "https:")),
        ("another host", "http://localhost.evil.example/".into()),
        ("user info", format!("{url}@evil.example/")),
        ("relative", "/beta/x".into()),
    ] {
        let list = good.list.clone();
        rig.fails(name, "not the directory's origin", move |_, _| page(&list, link.clone())).await;
    }
    assert!(elsewhere.seen().is_empty(), "a token was sent to another origin");

    // The second page fails: the first alone is not applied.
    let (first, base) = (
        good.but(|l| {
            l["value"].as_array_mut().expect("a list").pop();
        }),
        url.clone(),
    );
    rig.fails("half", "500", move |_, n| match n {
        0 => page(&first, format!("{base}/x")),
        _ => Reply::status(500),
    })
    .await;

    // Pages in order, one of them empty, form one list.
    let entries = good.list["value"].as_array().expect("a list").clone();
    rig.graph.answer(move |seen, n| {
        let link = |n: usize| json!(format!("{url}/beta/x?$skiptoken={n}"));
        assert!(seen.head.contains("authorization: bearer t\r\n"));
        match n {
            0 => Reply::json(&json!({"value": [entries[0]], "@odata.nextLink": link(1)})),
            1 => Reply::json(&json!({"value": [], "@odata.nextLink": link(2)})),
            _ => Reply::json(&json!({"value": [entries[1]]})),
        }
    });
    let changes = rig.handle.refresh().await.expect("a good poll");
    assert!(changes.is_empty());
    assert_eq!(rig.graph.seen()[2].target, "/beta/x?$skiptoken=2", "links are followed unchanged");
}

#[tokio::test]
async fn throttling_is_obeyed() {
    let (mut rig, good) = Rig::good().await;
    let list = good.list.clone();
    rig.graph.answer(move |_, n| match n {
        0 => Reply::Plain(429, "retry-after: 0\r\n", vec![]),
        1 => Reply::Plain(503, "retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n", vec![]),
        _ => Reply::json(&list),
    });
    rig.handle.refresh().await.expect("the third attempt succeeds");
    rig.fails("for two hours", "429", |_, _| Reply::Plain(429, "retry-after: 7200\r\n", vec![]))
        .await;
    assert_eq!(rig.graph.seen().len(), 1, "no immediate retry");
    let next = rig.handle.status().next_poll.expect("a time");
    let expected = Timestamp(rig.clock.load(Ordering::Relaxed) + 3600);
    assert_eq!(Timestamp::parse_rfc3339(&next), Some(expected), "an hour is the longest");
}

#[tokio::test]
async fn tokens_are_renewed_once_and_outlive_their_endpoint() {
    let tokens = Misbehaving::start().await;
    tokens.answer(|seen, n| {
        assert!(seen.body.contains("client_secret=s3cret") && seen.body.contains("grant_type=client_credentials"));
        Reply::json(&json!({"token_type": "Bearer", "expires_in": 3600, "access_token": format!("token-{n}")}))
    });
    let url = Url::parse(&format!("{}/contoso/oauth2/v2.0/token", tokens.url)).expect("a URL");
    let credential = Credential::ClientSecret {
        endpoint: TokenEndpoint {
            url,
            client_id: "app".into(),
            scope: "https://graph/.default".into(),
        },
        secret: Secret::new("s3cret"),
    };
    let (mut rig, good) = Rig::good_with(|config| config.credential = credential).await;
    let asked = tokens.seen().len();
    rig.accepts("the token is kept", &good.list, &good.all).await;
    assert_eq!(tokens.seen().len(), asked);

    // 401: one fresh token with the demanded claims.
    let list = good.list.clone();
    let challenge =
        "www-authenticate: Bearer error=\"insufficient_claims\", claims=\"eyJhIjoxfQ==\"\r\n";
    rig.graph.answer(move |seen, n| match n {
        0 => Reply::Plain(401, challenge, vec![]),
        _ => {
            assert!(seen.head.contains(&format!("bearer token-{asked}\r\n")), "{}", seen.head);
            Reply::json(&list)
        }
    });
    rig.handle.refresh().await.expect("good with the fresh token");
    assert!(tokens.seen().last().is_some_and(|s| s.body.contains("claims=%7B%22a%22%3A1%7D")));
    let asked = tokens.seen().len();
    rig.fails("401 again and again", "401", |_, _| Reply::Plain(401, challenge, vec![])).await;
    assert_eq!((rig.graph.seen().len(), tokens.seen().len()), (2, asked + 1));

    // The token endpoint fails: the token stays in use, and when it is rejected nothing changes.
    tokens.answer(|_, _| {
        Reply::Plain(
            400,
            "",
            b"{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000222: expired\"}"
                .to_vec(),
        )
    });
    rig.accepts("the token stays in use", &good.list, &good.all).await;
    rig.fails("refused", "AADSTS7000222", |_, _| Reply::Plain(401, "", vec![])).await;
    tokens.answer(|_, _| Reply::Stall(vec![]));
    rig.fails("silent", "timed out", |_, _| Reply::Plain(401, "", vec![])).await;
    let debug = format!("{:?}", rig.handle.status());
    assert!(!debug.contains("s3cret") && !debug.contains("token-"), "{debug}");
}
