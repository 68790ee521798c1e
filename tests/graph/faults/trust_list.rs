//! Changes of the trust list: the removal guard, and skipped or omitted parts.

use super::*;

#[tokio::test]
async fn large_removals_wait_for_approval() {
    let (mut rig, good) = Rig::good().await;
    let empty = json!({"value": []});
    rig.holds("empty", &empty).await;
    let one = good.but(|list| {
        list["value"].as_array_mut().expect("a list").pop();
        list["value"][0]["certificateAuthorities"].as_array_mut().expect("a list").pop();
    });
    rig.holds("one of four", &one).await;
    let emptied = good.but(|list| {
        for n in [0, 1] {
            list["value"][n]["certificateAuthorities"] = json!([]);
        }
    });
    rig.holds("no authorities", &emptied).await;
    let others = Good::new().but(|list| {
        list["value"][0]["id"] = "three".into();
        list["value"][1]["id"] = "four".into();
    });
    rig.holds("all others", &others).await;

    // A good response ends the hold, and nothing is left to approve.
    rig.accepts("good again", &good.list, &good.all).await;
    assert_eq!(rig.handle.approve("0").await, Err(HandleError::NothingHeld));

    // Half is not more than half; an approved change is applied.
    let half = good.but(|list| {
        list["value"].as_array_mut().expect("a list").pop();
    });
    rig.accepts("half", &half, &good.only("one")).await;
    rig.holds("the rest", &empty).await;
    let since = rig.handle.status().held_back.map(|h| h.since);
    rig.clock.fetch_add(60, Ordering::Relaxed);
    rig.handle.refresh().await.expect("a good poll");
    assert_eq!(
        rig.handle.status().held_back.map(|h| h.since),
        since,
        "the same response does not restart the hold"
    );
    let digest = rig.handle.status().held_back.expect("held back").digest;
    // Another response is held back by now: the operator has not read it.
    rig.holds("others instead", &others).await;
    let refused = rig.handle.approve(&digest).await;
    assert!(matches!(refused, Err(HandleError::OtherHeld { .. })), "{refused:?}");
    rig.holds("the rest again", &empty).await;
    let changes = rig.handle.approve(&digest).await.expect("approved");
    assert_eq!((changes.anchors_removed, changes.anchors_before), (2, 2));
    assert_eq!(rig.in_force(), Some(InForce::new()));
    rig.accepts("back", &good.list, &good.all).await;
}

/// Adds the authorities of configuration `one` to configuration `two`.
fn share(good: &Good) -> (Value, InForce) {
    let list = good.but(|list| {
        let authorities = list["value"][0]["certificateAuthorities"].clone();
        let others = list["value"][1]["certificateAuthorities"].as_array_mut().expect("a list");
        others.extend(authorities.as_array().expect("a list").clone());
    });
    let mut all = good.all.clone();
    all.extend(["one-1", "one-2"].map(|name| ("two".to_owned(), name.to_owned())));
    (list, all)
}

#[tokio::test]
async fn an_addition_that_makes_devices_ambiguous_is_shown_and_counted() {
    let (mut rig, good) = Rig::good().await;
    assert!(rig.metric("graph_ambiguous_configurations{source=\"hub\"} 0"));
    let (shared, all) = share(&good);
    rig.accepts("shared", &shared, &all).await;
    assert!(rig.metric("graph_ambiguous_configurations{source=\"hub\"} 2"));
    let status = rig.handle.status();
    assert_eq!(status.content.ambiguous_configurations, 2);
    let (_, changes) = status.last_change.expect("a change");
    assert_eq!(changes.newly_ambiguous, 2);
    assert!(changes.lines[0].starts_with("configurations one, two share `CN="), "{changes:?}");
    rig.accepts("apart again", &good.list, &good.all).await;
    assert!(rig.metric("graph_ambiguous_configurations{source=\"hub\"} 0"));
}

#[tokio::test]
async fn an_addition_that_makes_devices_ambiguous_waits_for_approval_if_configured() {
    let (rig, good) = Rig::good().await;
    let (graph, folder) = (rig.graph.clone(), Arc::clone(&rig.folder));
    drop(rig);
    let mut rig = Rig::start(graph, folder, |config| config.guard_ambiguity = true);
    rig.accepts("apart", &good.list, &good.all).await;
    let (shared, all) = share(&good);
    assert!(rig.handle.preview(shared.to_string().as_bytes()).expect("a list").held_back);
    rig.holds("shared", &shared).await;
    assert_eq!(rig.handle.status().content.ambiguous_configurations, 0, "not in force");
    let held = rig.handle.status().held_back.expect("held back");
    assert_eq!(held.changes.newly_ambiguous, 2);
    rig.handle.approve(&held.digest).await.expect("approved");
    assert_eq!(rig.in_force(), Some(all.clone()));
    rig.accepts("the same", &shared, &all).await;
}

#[tokio::test]
async fn the_removal_guard_survives_a_restart_and_can_be_disabled() {
    let (rig, good) = Rig::good().await;
    let (graph, folder) = (rig.graph.clone(), Arc::clone(&rig.folder));
    drop(rig);
    let mut rig = Rig::start(graph.clone(), Arc::clone(&folder), |_| {});
    rig.graph.answer(|_, _| Reply::status(500));
    rig.handle.refresh().await.expect_err("a dead directory");
    assert_eq!(rig.in_force(), Some(good.all.clone()), "from disk");
    rig.holds("empty after the restart", &json!({"value": []})).await;
    assert_eq!(rig.in_force(), Some(good.all));
    drop(rig);
    let mut rig = Rig::start(graph, folder, |config| config.guard = false);
    rig.accepts("empty, without guard", &json!({"value": []}), &InForce::new()).await;
}

#[tokio::test]
async fn a_bad_configuration_is_skipped_alone() {
    let (mut rig, good) = Rig::good().await;
    let unknown = good.but(|list| {
        list["value"][1]["tlsClientAuthParameter"] = "unknownFutureValue".into();
    });
    rig.accepts("unknown enum", &unknown, &good.only("one")).await;
    let skipped = rig.handle.status().content.skipped;
    assert_eq!(skipped[0].configuration, "two");
    assert!(skipped[0].why.contains("unknownFutureValue"));
    assert!(rig.metric("graph_skipped{source=\"hub\"} 1"));
    rig.accepts("known again", &good.list, &good.all).await;

    let deleted =
        good.but(|list| list["value"][1]["deletedDateTime"] = "2026-01-01T00:00:00Z".into());
    rig.accepts("deleted", &deleted, &good.only("one")).await;
    rig.accepts("restored", &good.list, &good.all).await;

    // A certificate that becomes unreadable does not remove its authority.
    let garbage = good.but(|list| {
        list["value"][1]["certificateAuthorities"][0]["certificate"] = "AAAA".into();
    });
    rig.accepts("garbage", &garbage, &good.all).await;
    let skipped = rig.handle.status().content.skipped;
    assert!(skipped[0].why.ends_with("the authorities that the response lacks stay"));
    // The loss of an address is held back; revocation checking continues.
    let addressed = good.but(|list| {
        list["value"][0]["certificateAuthorities"][0]["certificateRevocationListUrl"] =
            "http://pki.example/a.crl".into();
    });
    rig.accepts("an address", &addressed, &good.all).await;
    rig.holds("no address", &good.list).await;
    assert_eq!(rig.handle.status().content.revocation_at_risk, 1);
    assert!(rig.metric("graph_revocation_at_risk{source=\"hub\"} 1"));
    let digest = rig.handle.status().held_back.expect("held back").digest;
    rig.handle.approve(&digest).await.expect("approved");
    assert_eq!(rig.handle.status().content.revocation_at_risk, 0);

    // An expired authority is kept: the judge rejects it at the time of each decision.
    let mut params = ca_params("old");
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let expired = good.but(|list| {
        let list = list["value"][0]["certificateAuthorities"].as_array_mut().expect("a list");
        list.push(Ca::self_signed(params).element(true));
    });
    let mut with = good.all.clone();
    with.insert(("one".into(), "old".into()));
    rig.accepts("expired", &expired, &with).await;
}

#[tokio::test]
async fn omitted_properties_are_kept_or_fetched() {
    let (mut rig, good) = Rig::good().await;
    let cut = |list: &mut Value| {
        list["value"][1]["certificateAuthorities"] =
            json!([{"@odata.type": "microsoft.graph.certificateAuthority"}]);
    };
    // The GET by id fails too: the authorities in force stay.
    rig.accepts("cut to the type", &good.but(cut), &good.all).await;
    assert!(rig.handle.status().content.skipped[0].why.contains("stays as it was"));
    for (name, damage) in [
        ("no list", json!(null)),
        ("wrong base64", json!([{"certificate": "MII*", "isRootAuthority": true}])),
        ("no root flag", json!([{"certificate": "AAAA"}])),
    ] {
        let list = good.but(|list| list["value"][1]["certificateAuthorities"] = damage);
        rig.accepts(name, &list, &good.all).await;
    }
    let no_parameter = good.but(|list| {
        list["value"][1]["tlsClientAuthParameter"].take();
    });
    rig.accepts("no parameter", &no_parameter, &good.all).await;
    let twice = good.but(|list| {
        let mut copy = list["value"][1].clone();
        copy["certificateAuthorities"] = json!([]);
        list["value"].as_array_mut().expect("a list").push(copy);
    });
    rig.accepts("listed twice", &twice, &good.all).await;

    // The GET by id returns the whole object, newer than the one in force.
    let whole = good.but(|list| {
        list["value"][1]["certificateAuthorities"].as_array_mut().expect("a list").pop();
    });
    let (shortened, whole) = (good.but(cut), whole["value"][1].clone());
    rig.graph.answer(move |seen, _| match seen.target.ends_with("/two") {
        true => Reply::json(&whole),
        false => Reply::json(&shortened),
    });
    rig.handle.refresh().await.expect("a good poll");
    let mut rest = good.all.clone();
    rest.remove(&("two".into(), "two-2".into()));
    assert_eq!(rig.in_force(), Some(rest.clone()));
    assert!(rig.handle.status().content.skipped.is_empty());

    // A response with another object is not used.
    let (shortened, other) = (good.but(cut), good.list["value"][0].clone());
    rig.graph.answer(move |seen, _| match seen.target.ends_with("/two") {
        true => Reply::json(&other),
        false => Reply::json(&shortened),
    });
    rig.handle.refresh().await.expect("a good poll");
    assert_eq!(rig.in_force(), Some(rest));
}

/// The directory answers 304 whatever changed, as after a restore of an older copy.
#[tokio::test]
async fn the_complete_list_is_fetched_at_set_times() {
    let good = Good::new();
    let mut rig = Rig::with(|config| config.every = Duration::from_millis(20)).await;
    let list = good.list.to_string().into_bytes();
    let unchanged = Arc::new(AtomicI64::new(0));
    let complete = Arc::new(AtomicI64::new(0));
    let (not_modified, whole) = (Arc::clone(&unchanged), Arc::clone(&complete));
    rig.graph.answer(move |seen, _| {
        if seen.head.contains("if-none-match") {
            not_modified.fetch_add(1, Ordering::Relaxed);
            return Reply::Plain(304, "", Vec::new());
        }
        whole.fetch_add(1, Ordering::Relaxed);
        Reply::Plain(200, "etag: \"1\"\r\n", list.clone())
    });
    let reached = async |count: &AtomicI64, least: i64| {
        soon(async {
            while count.load(Ordering::Relaxed) < least {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    };
    rig.handle.refresh().await.expect("a good poll");
    assert_eq!(rig.in_force(), Some(good.all.clone()));
    let before = complete.load(Ordering::Relaxed);
    reached(&unchanged, 3).await;
    assert_eq!(complete.load(Ordering::Relaxed), before, "the others ask for changes");
    rig.clock.fetch_add(86_400, Ordering::Relaxed);
    reached(&complete, before + 1).await;
    let others = unchanged.load(Ordering::Relaxed);
    reached(&unchanged, others + 1).await;
    // The clock ran ahead until now.
    rig.clock.fetch_sub(86_400, Ordering::Relaxed);
    reached(&complete, before + 2).await;
}
