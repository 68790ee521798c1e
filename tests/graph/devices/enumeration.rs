//! Enumerations, deltas and unusable responses.

use super::*;

#[tokio::test]
async fn devices_come_into_force_after_a_complete_enumeration() {
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let graph = Misbehaving::start().await;
    let mut rig = Rig::start(
        graph,
        folder,
        |rig| {
            rig.continues_at("", &[device(1, true), json!({ "id": "laptop" })], "a");
            rig.continues_at("a", &[], "b");
        },
        |_| {},
    );
    let status = rig.until(|status| status.content.pages == 2 && status.last_error.is_some()).await;
    assert!(!status.loaded && rig.in_force().is_none(), "part of it is in force");
    // The sync continues with the page that failed.
    rig.requested();
    rig.ends_with("b", &[device(2, false), device(1, true)], Some(1));
    let status = rig.until(|status| status.loaded).await;
    assert_eq!(rig.requested().first().map(String::as_str), Some("b"));
    assert_eq!(
        (
            status.content.known,
            status.content.enabled,
            status.content.disabled,
            status.content.skipped
        ),
        (2, 1, 1, 1)
    );
    assert_eq!(
        (1..4).map(|n| rig.standing(n)).collect::<Vec<_>>(),
        [Standing::Enabled, Standing::Disabled, Standing::Unknown]
    );

    // Changes are requested with the last delta token; omitted devices stay.
    rig.ends_with("1", &[json!({ "id": "o2", "accountEnabled": true }), removed(1)], Some(2));
    rig.sync().await;
    rig.ends_with("2", &[device(3, true), json!({ "id": "o3", "accountEnabled": false })], Some(3));
    rig.sync().await;
    assert_eq!(rig.requested(), ["1", "2"]);
    assert_eq!(
        (1..4).map(|n| rig.standing(n)).collect::<Vec<_>>(),
        [Standing::Unknown, Standing::Enabled, Standing::Disabled]
    );
    let (_, change) = rig.status().last_change.expect("a change");
    assert_eq!((change.added, change.removed, change.before), (1, 0, 1));
    assert!(rig.metric("graph_devices{source=\"hub\",state=\"disabled\"} 1"));

    // An unchanged device causes no update.
    rig.ends_with("3", &[device(2, true)], Some(4));
    rig.sync().await;
    assert!(rig.updates.try_recv().is_err());
    assert!(rig.metric("graph_device_polls_total{source=\"hub\",result=\"unchanged\"} 1"));
}

#[tokio::test]
async fn unusable_responses_change_nothing() {
    let mut rig = Rig::with(&[device(1, true), device(2, false)], |_| {}).await;
    let cut = json!({ "value": [removed(1)], "@odata.deltaLink": "x" }).to_string();
    let cut = cut.as_bytes()[..cut.len() - 1].to_vec();
    for (name, reply, why) in [
        ("broken off", Reply::Bytes(vec![]), ""),
        ("cut", Reply::Plain(200, "", cut), "not JSON"),
        ("a page of HTML", Reply::Plain(200, "", b"<html>".to_vec()), "not JSON"),
        ("empty", Reply::Plain(200, "", vec![]), "not JSON"),
        ("too large", Reply::Plain(200, "", vec![b' '; 200_001]), "larger than 200000 bytes"),
        ("no end", Reply::json(&json!({ "value": [removed(1)] })), "neither @odata.nextLink"),
        (
            "elsewhere",
            Reply::json(
                &json!({ "value": [], "@odata.nextLink": "http://127.0.0.2:1/beta/devices" }),
            ),
            "not the directory's origin",
        ),
        (
            "ends elsewhere",
            Reply::json(
                &json!({ "value": [removed(1)], "@odata.deltaLink": "https://evil.example/" }),
            ),
            "not the directory's origin",
        ),
        ("error", Reply::status(500), "500"),
        ("throttled", Reply::Plain(429, "retry-after: 1\r\n", vec![]), "429"),
        ("denied", Reply::status(403), "403"),
    ] {
        println!("{name}");
        rig.replies("1", reply);
        rig.fails(why).await;
    }
    // The pages form a circle; changes of the first page are not applied without the rest.
    rig.continues_at("1", &[removed(1)], "a");
    rig.continues_at("a", &[], "1");
    rig.fails("form a circle").await;
    rig.ends_with("1", &[removed(1)], Some(1));
    rig.sync().await;
    assert_eq!(rig.standing(1), Standing::Unknown, "a good response is applied");
}

#[tokio::test]
async fn an_expired_delta_token_starts_a_new_enumeration() {
    let mut rig = Rig::with(&[device(1, true), device(2, true)], |_| {}).await;
    for status in [410, 400, 404] {
        rig.requested();
        rig.replies("1", Reply::status(status));
        rig.continues_at("", &[device(1, false)], "more");
        rig.replies("more", Reply::status(500));
        let syncing = rig.devices().clone();
        let syncing = tokio::spawn(async move { syncing.refresh().await });
        // The enumeration is not complete: the registry in force stays.  The restart of the
        // enumeration is reported as an error before.
        let page_failed = |error: &String| error.contains("500");
        rig.until(|status| {
            status.content.pages == 1 && status.last_error.as_ref().is_some_and(page_failed)
        })
        .await;
        assert_eq!(rig.standing(2), Standing::Enabled, "{status}");
        rig.ends_with("more", &[device(2, true)], Some(2));
        let result = syncing.await.expect("no panic");
        // The operator's request returns the error of the failed page; a second request succeeds.
        assert!(result.is_err());
        rig.ends_with("2", &[], Some(1));
        rig.sync().await;
        assert_eq!(rig.standing(1), Standing::Disabled, "{status}");
        let requested = rig.requested();
        assert_eq!(requested[..2], ["1".to_owned(), String::new()], "{status}");
    }
}

#[tokio::test]
async fn more_devices_than_the_limit_change_nothing() {
    let mut rig = Rig::with(&[device(1, true), device(2, true)], |c| c.max_devices = 2).await;
    rig.ends_with("1", &[device(3, true)], Some(2));
    rig.fails("3 devices; at most 2 are kept").await;
    rig.ends_with("1", &[device(3, true), removed(1)], Some(2));
    rig.sync().await;
    assert_eq!(rig.standing(3), Standing::Enabled);
}

#[tokio::test]
async fn stops_at_the_page_limit() {
    let mut rig = Rig::with(&[device(1, true)], |config| config.max_devices = 1).await;
    let (url, pages) = (rig.graph.url.clone(), Arc::clone(&rig.pages));
    rig.graph.answer(move |seen, n| match token(seen) {
        Some(_) => {
            let next = format!("{url}/beta/devices/delta?token=n{n}");
            Reply::json(&json!({ "value": [], "@odata.nextLink": next }))
        }
        None => answer(seen, &pages),
    });
    rig.fails("more than 1000 pages").await;
}

#[tokio::test]
async fn devices_are_fetched_only_if_they_are_required() {
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let not_required = |config: &mut Config| config.devices = RegisteredOnly::default();
    let mut rig = Rig::start(Misbehaving::start().await, folder, |_| {}, not_required);
    rig.handle.refresh().await.expect("a good poll");
    assert!(rig.handle.devices().is_none() && rig.handle.status().content.devices.is_none());
    assert!(rig.requested().is_empty() && rig.in_force().is_none());
}

#[tokio::test]
async fn long_polls_only_for_changes() {
    let mut rig = Rig::with(&[device(1, true)], |c| c.wait = Some(Duration::from_secs(30))).await;
    let body = |end: usize| {
        let link = format!("{}/beta/devices/delta?token={end}", rig.graph.url);
        json!({ "value": [removed(1)], "@odata.deltaLink": link }).to_string().into_bytes()
    };
    rig.replies("1", Reply::Plain(200, "preference-applied: wait=30\r\n", body(2)));
    rig.replies("2", Reply::Stall(Vec::new()));
    rig.until(|status| status.content.known == 0).await;
    let start = Instant::now();
    while !rig.graph.seen().iter().any(|seen| token(seen).as_deref() == Some("2")) {
        assert!(start.elapsed() < TIME_LIMIT, "no request followed at once");
        sleep(Duration::from_millis(10)).await;
    }
    for seen in rig.graph.seen() {
        if let Some(token) = token(&seen) {
            assert_eq!(seen.head.contains("prefer: wait=30"), !token.is_empty(), "{seen:?}");
        }
    }
    assert_eq!(rig.standing(1), Standing::Unknown);
}

#[tokio::test]
async fn all_devices_are_enumerated_at_set_times() {
    let mut rig = Rig::with(&[device(1, true), device(2, true)], |_| {}).await;
    rig.sync().await;
    rig.requested();
    rig.sync().await;
    assert_eq!(rig.requested(), ["1"], "only changes");
    // The history of the directory was replaced: its delta link does not tell that device 2 is gone.
    rig.ends_with("", &[device(1, true)], Some(1));
    rig.clock.fetch_add(86_400, Ordering::Relaxed);
    rig.sync().await;
    assert_eq!(rig.requested().first().map(String::as_str), Some(""), "an enumeration");
    assert_eq!((rig.standing(1), rig.standing(2)), (Standing::Enabled, Standing::Unknown));
    rig.sync().await;
    assert_eq!(rig.requested(), ["1"], "only changes");
}
