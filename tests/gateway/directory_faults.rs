//! Faults of the directory that a gateway follows, which must not affect devices.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anchorgate::cli::quickstart::world::World;
use anchorgate::trust::subject::SubjectField;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::audit::{capture, log};
use super::hub::following;
use super::{Gateway, IN_FORCE};
use crate::support::misbehaving::{Misbehaving, Reply};

/// Expected outcome of a poll.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ends {
    /// The poll fails, and the error contains this text.
    Failed(&'static str),
    /// The response is held back.
    HeldBack,
    /// The response is applied without a part that is skipped for this reason.
    Without(&'static str),
}

fn list(world: &World, fields: &[SubjectField]) -> Value {
    let entry = |field: &SubjectField| {
        let domain = world.domains.iter().find(|d| d.field == *field).expect("one for each field");
        let mut entry = world.configuration(domain);
        entry["id"] = domain.slug.into();
        entry
    };
    json!({ "value": fields.iter().map(entry).collect::<Vec<_>>() })
}

impl Gateway {
    /// Polls the directory now and returns the result from the admin plane.
    pub(super) async fn sync(&self, source: &str) -> Value {
        let url = format!("http://{}/trust/sync", self.app.addresses.admin);
        let answer = self
            .http
            .post(url)
            .bearer_auth(&self.world.admin_token)
            .send()
            .await
            .expect("an answer");
        answer.json::<Value>().await.expect("JSON")[source].clone()
    }

    /// The value of a metric; 0 if it is absent.
    async fn number(&self, name: &str) -> u64 {
        let (_, text) = self.admin("/metrics").await;
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |n| n.parse().expect("a number"))
    }

    /// The anchors in the published snapshot.
    fn anchors(&self) -> Vec<String> {
        let trust = &self.app.live.current().trust;
        let all = trust.device_configurations.configurations.iter().flat_map(|c| {
            c.authorities.iter().map(|a| format!("{} {}", c.id, a.certificate.fingerprint))
        });
        all.collect()
    }
}

/// Faulty responses with the expected outcome of the poll.
fn directory_faults(good: &Value, url: &str) -> Vec<(&'static str, Reply, Ends)> {
    let text = good.to_string();
    let plain = |body: &str| Reply::Plain(200, "", body.as_bytes().to_vec());
    let raw = |length: usize, body: &str| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        Reply::Bytes([head.as_bytes(), body.as_bytes()].concat())
    };
    let but = |change: &dyn Fn(&mut Value)| {
        let mut list = good.clone();
        change(&mut list);
        list
    };
    let page = |next: &str| Reply::json(&but(&|list| list["@odata.nextLink"] = next.into()));
    let throttled = |status| Reply::Plain(status, "retry-after: 0\r\n", vec![]);
    let failed = Ends::Failed;
    let statuses = [400, 401, 403, 404, 410, 500, 502];
    let mut days: Vec<_> =
        statuses.map(|status| ("status", Reply::status(status), failed(""))).into();
    days.extend([
        ("429 storm", throttled(429), failed("429")),
        ("503", throttled(503), failed("503")),
        ("504", throttled(504), failed("504")),
        ("redirect", Reply::Plain(302, "location: http://127.0.0.1:1/\r\n", vec![]), failed("302")),
        ("closed", Reply::Bytes(vec![]), failed("")),
        ("no HTTP", Reply::Bytes(b"SSH-2.0-x\r\n\r\n".to_vec()), failed("")),
        ("slow header", Reply::Stall(b"HTTP/1.1 200 OK\r\n".to_vec()), failed("")),
        (
            "slow body",
            Reply::Stall(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"va".to_vec()),
            failed(""),
        ),
        ("cut body", raw(text.len(), &text[..text.len() / 2]), failed("")),
        ("length too long", raw(text.len() + 1, &text), failed("")),
        ("length too short", raw(text.len() - 1, &text), failed("not JSON")),
        ("HTML", plain("<html>Sign in to the network</html>"), failed("not JSON")),
        ("nothing", plain(""), failed("not JSON")),
        ("an error as a list", plain("{\"error\":{}}"), failed("not a list")),
        ("deep", plain(&format!("{{\"value\":{}", "[".repeat(99))), failed("deeper than 32")),
        ("page loop", page(&format!("{url}/x")), failed("circle")),
        ("another origin", page("http://evil.example/x"), failed("not the directory's origin")),
        ("empty list", Reply::json(&json!({"value": []})), Ends::HeldBack),
        (
            "no authorities",
            Reply::json(&but(&|list| {
                for entry in list["value"].as_array_mut().into_iter().flatten() {
                    entry["certificateAuthorities"] = json!([]);
                }
            })),
            Ends::HeldBack,
        ),
        (
            "unknown parameters",
            Reply::json(&but(&|list| {
                for entry in list["value"].as_array_mut().into_iter().flatten() {
                    entry["tlsClientAuthParameter"] = "unknownFutureValue".into();
                }
            })),
            Ends::HeldBack,
        ),
        (
            "entries cut to the type",
            Reply::json(&but(&|list| {
                list["value"][0]["certificateAuthorities"] =
                    json!([{"@odata.type": "microsoft.graph.certificateAuthority"}]);
            })),
            Ends::Without("stays as it was"),
        ),
        (
            "wrong base64",
            Reply::json(&but(&|list| {
                list["value"][0]["certificateAuthorities"][0]["certificate"] = "MII*".into();
            })),
            Ends::Without("stays as it was"),
        ),
    ]);
    days
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_faults_do_not_interrupt_service() {
    capture();
    let directory = Misbehaving::start().await;
    let source = [("bad-days", &*directory.url, "t", "every = \"1h\"")];
    let gateway = Arc::new(Gateway::start(&[], |text| following(&text, &source)).await);
    let [stays, goes] = [SubjectField::SanUri, SubjectField::SanIp].map(|f| gateway.domain(f));
    let good = list(&gateway.world, &[stays.field, goes.field]);
    let answer = good.clone();
    directory.answer(move |_, _| Reply::json(&answer));
    gateway.sync("bad-days").await;
    let mut open = gateway.served(goes).await;
    gateway.served(stays).await;
    let in_force = gateway.anchors();
    assert_eq!(in_force.len(), 4);

    // One device requests tokens continuously.
    let (stop, asked) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let asking = {
        let (gateway, stop, asked) = (Arc::clone(&gateway), stop.clone(), Arc::clone(&asked));
        tokio::spawn(async move {
            let domain = gateway.domain(SubjectField::SanUri);
            while !stop.is_cancelled() {
                let connection =
                    gateway.guest(domain).connect(gateway.app.addresses.token.unwrap()).await;
                let mut connection = connection.expect("a handshake");
                let answer = connection.token(&domain.devices[0].subject_id).await;
                assert_eq!(answer.expect("an answer").status, 200);
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        })
    };

    let polls = |result: &str| {
        format!("anchorgate_graph_polls_total{{source=\"bad-days\",result=\"{result}\"}}")
    };
    for (name, reply, ends) in directory_faults(&good, &directory.url) {
        let result = if let Ends::Failed(_) = ends { "failed" } else { "held_back" };
        let (before, logged) = (gateway.number(&polls(result)).await, log().len());
        let stalls = matches!(reply, Reply::Stall(_));
        directory.answer(move |_, _| reply.clone());
        let mut poll = Box::pin(gateway.sync("bad-days"));
        // One token request during the poll and one after it, each on the open and on a new connection.
        let mut polled = None;
        for last in [false, true] {
            let start = Instant::now();
            while !last && polled.is_none() && directory.seen().is_empty() {
                assert!(start.elapsed() < IN_FORCE, "{name}: no request reached the directory");
                let waited = tokio::time::timeout(Duration::from_millis(5), &mut poll);
                polled = waited.await.ok();
            }
            if last && polled.is_none() {
                // The poll is retried and stalls again.
                polled = Some(loop {
                    if stalls {
                        directory.hang_up();
                    }
                    let waited = tokio::time::timeout(Duration::from_millis(50), &mut poll);
                    match waited.await {
                        Ok(polled) => break polled,
                        Err(_) => {
                            assert!(start.elapsed() < IN_FORCE, "{name}: the poll does not end");
                        }
                    }
                });
            }
            let answer = open.token(&goes.devices[0].subject_id).await.expect("an answer");
            assert_eq!(answer.status, 200, "{name}: on the open connection");
            let new = gateway.guest(goes).connect(gateway.app.addresses.token.unwrap()).await;
            let mut new = new.expect("a handshake");
            assert!(!new.resumed);
            let answer = new.token(&goes.devices[0].subject_id).await.expect("an answer");
            assert_eq!(answer.status, 200, "{name}: on a new connection");
        }
        drop(poll);
        assert_eq!(gateway.anchors(), in_force, "{name}: what is in force changed");

        // The operator sees the outcome in the result, the metrics, the log and the status.
        let (polled, status) = (polled.expect("ended"), gateway.source("bad-days").await);
        let new = log().split_off(logged);
        let assert_logged = |what: &str, why: &str| {
            let why = why.replace('"', "\\\"");
            let line = |l: &str| l.contains("bad-days") && l.contains(what) && l.contains(&*why);
            assert!(new.lines().any(line), "{name}: no log line contains `{what}` and `{why}`");
        };
        match ends {
            Ends::Failed(part) => {
                let why = polled["error"].as_str().expect("an error");
                assert!(why.contains(part), "{name}: `{why}` does not contain `{part}`");
                assert_eq!(status["last_error"], why, "{name}");
                assert_logged("poll failed, what is in force stays", part);
                assert!(gateway.number(&polls(result)).await > before, "{name}");
            }
            Ends::HeldBack => {
                assert_logged("held back until an operator approves them", "");
                assert_eq!(status["held_back"]["changes"], polled["changes"], "{name}");
                assert!(gateway.number(&polls(result)).await > before, "{name}");
                let held = "anchorgate_graph_held_back{source=\"bad-days\"}";
                assert_eq!(gateway.number(held).await, 1, "{name}");
            }
            Ends::Without(why) => {
                assert_logged("not in force", why);
                let skipped = "anchorgate_graph_skipped{source=\"bad-days\"}";
                assert_eq!(gateway.number(skipped).await, 1, "{name}");
                let reason = status["skipped"][0]["why"].as_str().expect("a reason");
                assert!(reason.contains(why), "{name}: {reason}");
            }
        }
    }
    stop.cancel();
    asking.await.expect("every request was answered 200");
    assert!(asked.load(Ordering::Relaxed) > 50, "only {asked:?} continuous requests");

    // A valid response that removes one of the two anchors.
    let rest = list(&gateway.world, &[stays.field]);
    directory.answer(move |_, _| Reply::json(&rest));
    let polled = gateway.sync("bad-days").await;
    assert_eq!(polled["changes"]["anchors_removed"], 1, "{polled}");
    gateway.until(&mut open, &goes.devices[0].subject_id, 401).await;
    gateway.served(stays).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outdated_trust_is_withdrawn_or_reported_by_policy() {
    capture();
    let directory = Misbehaving::start().await;
    let start = async |name: &str| {
        let keys = format!("every = \"1s\"\nmax_age = \"3s\"\ntoo_old = \"{name}\"");
        let source = [(name, &*directory.url, "t", &*keys)];
        Gateway::start(&[], |text| following(&text, &source)).await
    };
    let (refuse, go_on) = (start("refuse").await, start("continue").await);
    let domain = refuse.domain(SubjectField::SanUri);
    let answer = list(&refuse.world, &[domain.field]);
    let good = move |_: &_, _| Reply::json(&answer);
    directory.answer(good.clone());
    let mut refused = refuse.served(domain).await;
    let mut served = go_on.served(domain).await;

    directory.answer(|_, _| Reply::status(500));
    let id = &domain.devices[0].subject_id;
    refuse.until(&mut refused, id, 401).await;
    for (gateway, name, policy) in [
        (&refuse, "refuse", "its configurations are no longer in force"),
        (&go_on, "continue", "its configurations are still in force"),
    ] {
        let metric = format!("anchorgate_graph_too_old{{source=\"{name}\"}}");
        let start = Instant::now();
        while gateway.number(&metric).await != 1 {
            assert!(start.elapsed() < IN_FORCE, "{name}: no alarm");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(gateway.source(name).await["too_old"], true);
        let line = |l: &str| l.contains("was not reached for 3s") && l.contains(policy);
        assert!(log().lines().any(line), "{policy}");
    }
    assert_eq!(served.token(id).await.expect("an answer").status, 200);
    assert!(refuse.anchors().is_empty());
    let (_, status) = refuse.admin("/status.json").await;
    assert!(status.contains("was not reached for"), "the reason is in the status: {status}");
    // New handshakes are rejected as well.
    let new = refuse.guest(domain).connect(refuse.app.addresses.token.unwrap()).await;
    let new = match new {
        Ok(mut connection) => connection.token(id).await.map(|_| ()),
        Err(error) => Err(error),
    };
    new.expect_err("no anchor is in force");

    // The directory returns with the same list.
    directory.answer(good);
    refuse.sync("refuse").await;
    refuse.until(&mut refused, id, 200).await;
    refuse.served(domain).await;
}
