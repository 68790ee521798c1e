//! `devices/delta`: responses to readers that follow the devices.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anchorgate::store::Store;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::directory::{ADMIN, D, M, Server, T, answer, device, template};

const ANNOTATION: &str = "@anchorgate.mutualTlsOauthConfigurationId";

/// A gateway's view of the devices: the last received object by id.
#[derive(Default)]
struct Reader {
    devices: BTreeMap<String, Value>,
    link: String,
    pages: usize,
    /// Number of objects in the last round.
    received: usize,
}

impl Reader {
    fn new(server: &Server, query: &str) -> Self {
        Self { link: format!("{}{D}/delta{query}", server.url), ..Self::default() }
    }

    /// One round: reads pages until a delta link is returned.
    async fn follow(&mut self, server: &Server) {
        (self.pages, self.received) = (0, 0);
        loop {
            let (status, page) = answer(server.client.get(&self.link).bearer_auth(ADMIN)).await;
            assert_eq!(status, 200, "{page}");
            self.pages += 1;
            for object in page["value"].as_array().expect("a list") {
                self.received += 1;
                let id = object["id"].as_str().expect("an id").to_owned();
                match object.get("@removed") {
                    Some(why) => {
                        assert_eq!(why, &json!({"reason": "deleted"}));
                        self.devices.remove(&id);
                    }
                    None => drop(self.devices.insert(id, object.clone())),
                }
            }
            match (page["@odata.nextLink"].as_str(), page["@odata.deltaLink"].as_str()) {
                (Some(next), None) => self.link = next.to_owned(),
                (None, Some(delta)) => {
                    self.link = delta.to_owned();
                    return;
                }
                both => panic!("{both:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_reader_gets_everything_once_and_then_changes() {
    let server = Server::start().await;
    let configuration = server.configuration("fleet", json!([])).await;
    let of = [template(&server, Some(&configuration)).await, template(&server, None).await];
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(device(&server, &of[n % 2], &format!("urn:device:{n}")).await);
    }
    assert_eq!(server.delete(&format!("{D}/{}", ids[9])).await, 204);
    let mut reader = Reader::new(&server, "?$select=accountEnabled,physicalIds&$top=4");
    reader.follow(&server).await;
    assert_eq!((reader.devices.len(), reader.received, reader.pages), (9, 9, 3));
    for (n, id) in ids[..9].iter().enumerate() {
        let wanted = json!({
            "id": id, "accountEnabled": true, "physicalIds": [format!("[EXTID]:urn:device:{n}")],
            ANNOTATION: if n % 2 == 0 { json!(configuration) } else { Value::Null },
        });
        assert_eq!(reader.devices[id], wanted);
    }
    reader.follow(&server).await;
    assert_eq!((reader.received, reader.pages), (0, 1));

    let disable = json!({"accountEnabled": false});
    assert_eq!(server.patch(&format!("{D}/{}", ids[2]), &disable).await.0, 204);
    assert_eq!(server.delete(&format!("{D}/{}", ids[3])).await, 204);
    assert_eq!(server.delete(&format!("{D}/{}", ids[4])).await, 204);
    device(&server, &of[0], "urn:device:4").await;
    // This change does not concern devices.
    server.configuration("other", json!([])).await;
    reader.follow(&server).await;
    assert_eq!(reader.received, 4);
    assert_eq!(reader.devices[&ids[2]]["accountEnabled"], false);
    assert_eq!(reader.devices.len(), 8);
    let (_, list) = server.get(&format!("{D}?$select=id,accountEnabled,physicalIds")).await;
    let mut list = list["value"].as_array().expect("a list").clone();
    for object in &mut list {
        object.as_object_mut().expect("an object").remove("@odata.etag");
    }
    assert_eq!(reader.devices.values().cloned().collect::<Vec<_>>(), list);

    // Without `$select` objects are complete; with `latest` only later changes are returned.
    let mut whole = Reader::new(
        &server,
        "/microsoft.graph.delta()".trim_start_matches("/microsoft.graph.delta()"),
    );
    whole.follow(&server).await;
    let object = whole.devices[&ids[2]].as_object().expect("an object");
    assert!(object.len() == 17 && object.contains_key("alternativeSecurityIds"));
    let mut new = Reader::new(&server, "?$deltatoken=latest");
    new.follow(&server).await;
    assert_eq!(new.received, 0);
    device(&server, &of[0], "urn:device:10").await;
    new.follow(&server).await;
    assert_eq!(new.received, 1);
}

#[tokio::test]
async fn changes_during_the_first_round_are_not_missed() {
    let server = Server::start().await;
    let template = template(&server, None).await;
    let mut ids = Vec::new();
    for n in 0..6 {
        ids.push(device(&server, &template, &format!("urn:device:{n}")).await);
    }
    let (_, page) = server.get(&format!("{D}/delta?$top=3")).await;
    let seen = |page: &Value| {
        page["value"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|d| d["id"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(seen(&page), ids[..3]);
    // One device that was returned, one that was not, one removal and one addition.
    let disable = json!({"accountEnabled": false});
    for id in [&ids[0], &ids[4]] {
        assert_eq!(server.patch(&format!("{D}/{id}"), &disable).await.0, 204);
    }
    assert_eq!(server.delete(&format!("{D}/{}", ids[1])).await, 204);
    let last = device(&server, &template, "urn:device:6").await;
    let mut reader = Reader::new(&server, "");
    reader.link = page["@odata.nextLink"].as_str().expect("a link").to_owned();
    for id in &ids[..3] {
        reader.devices.insert(id.clone(), Value::Null);
    }
    reader.follow(&server).await;
    let mut wanted: Vec<&String> = ids.iter().chain([&last]).filter(|id| **id != ids[1]).collect();
    wanted.sort();
    assert_eq!(reader.devices.keys().collect::<Vec<_>>(), wanted);
    assert_eq!(reader.devices[&ids[0]]["accountEnabled"], false);
    assert_eq!(reader.devices[&ids[4]]["accountEnabled"], false);
}

#[tokio::test]
async fn unknown_and_expired_tokens_restart_the_enumeration() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("directory.redb")).await.expect("a store");
    let server = Server::on(store.with_kept_removals(2)).await;
    let template = template(&server, None).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(device(&server, &template, &format!("urn:device:{n}")).await);
    }
    let mut reader = Reader::new(&server, "?$select=id");
    reader.follow(&server).await;
    let old = reader.link.clone();
    for id in &ids[..3] {
        assert_eq!(server.delete(&format!("{D}/{id}")).await, 204);
    }
    let gone = async |link: &str| {
        let response = server.client.get(link).bearer_auth(ADMIN).send().await.expect("an answer");
        let location = response.headers().get("location").cloned();
        (response.status().as_u16(), location, response.json::<Value>().await.expect("JSON"))
    };
    let elsewhere = Server::start().await;
    let (_, page) = elsewhere.get(&format!("{D}/delta")).await;
    let foreign = page["@odata.deltaLink"].as_str().expect("a link");
    let foreign = foreign.replace(&elsewhere.url, &server.url);
    let rubbish = format!("{}{D}/delta?$deltatoken=rubbish", server.url);
    for link in
        [&old, &foreign, &rubbish, &rubbish.replace("delta", "skip").replace("/skip?", "/delta?")]
    {
        let (status, location, error) = gone(link).await;
        assert_eq!((status, &error["error"]["code"]), (410, &json!("syncStateNotFound")), "{link}");
        assert_eq!(location.expect("a location"), format!("{}{D}/delta", server.url).as_str());
    }
    let mut restarted = Reader::new(&server, "?$select=id");
    restarted.follow(&server).await;
    assert_eq!(restarted.devices.len(), 2);
    for bad in [format!("{}&$select=id", restarted.link), format!("{}&$top=5", restarted.link)] {
        assert_eq!(gone(&bad).await.0, 400, "{bad}");
    }
    for bad in
        ["$filter=id eq 'x'", "$orderby=id", "$expand=owners", "$select=password", "$count=true"]
    {
        assert_eq!(server.get(&format!("{D}/delta?{bad}")).await.0, 400, "{bad}");
    }
    assert_eq!(server.post(&format!("{D}/delta"), &json!({})).await.0, 405);
}

#[tokio::test]
async fn a_reader_can_wait_for_a_device_to_change() {
    let server = Server::start().await;
    let template = template(&server, None).await;
    let id = device(&server, &template, "urn:device:1").await;
    let mut reader = Reader::new(&server, "");
    reader.follow(&server).await;
    let poll = |wait: &'static str| {
        server.client.get(&reader.link).bearer_auth(ADMIN).header("prefer", wait).send()
    };
    let received = async |response: Result<Response, reqwest::Error>| {
        let response = response.expect("an answer");
        assert_eq!(
            (response.status(), &response.headers()["preference-applied"]),
            (reqwest::StatusCode::OK, &"wait".parse().expect("a header"))
        );
        let page: Value = response.json().await.expect("JSON");
        assert!(page["@odata.deltaLink"].is_string());
        page["value"].as_array().map(Vec::len)
    };
    assert_eq!(received(poll("wait=0").await).await, Some(0));
    assert_eq!(received(poll("wait=1").await).await, Some(0), "no change within the time");
    let waiting = tokio::spawn(poll("wait=20"));
    tokio::task::yield_now().await;
    // A change of another collection does not end the wait.
    server.configuration("fleet", json!([])).await;
    let before = Instant::now();
    assert_eq!(server.patch(&format!("{D}/{id}"), &json!({"accountEnabled": false})).await.0, 204);
    assert_eq!(received(waiting.await.expect("ended")).await, Some(1));
    assert!(before.elapsed() < Duration::from_secs(10));
    assert_eq!(
        received(poll("wait=20").await).await,
        Some(1),
        "an earlier change is returned at once"
    );
}

#[tokio::test]
async fn device_changes_do_not_wake_trust_readers() {
    let server = Server::start().await;
    server.configuration("fleet", json!([])).await;
    let template = template(&server, None).await;
    let tag = async |path: &str| {
        let list = server.ask(Method::GET, path).send().await.expect("an answer");
        list.headers()["etag"].to_str().expect("text").to_owned()
    };
    let (trust, templates) = (tag(M).await, tag(T).await);
    let devices = tag(D).await;
    let unchanged = async |path: &str, tag: &str, wait: &str| {
        let request = server.ask(Method::GET, path).header("if-none-match", tag);
        request.header("prefer", wait).send().await.expect("an answer").status()
    };
    let id = device(&server, &template, "urn:device:1").await;
    assert_eq!(server.patch(&format!("{D}/{id}"), &json!({"accountEnabled": false})).await.0, 204);
    assert_eq!(unchanged(M, &trust, "wait=0").await, 304);
    assert_eq!(unchanged(T, &templates, "wait=0").await, 304);
    assert_eq!(unchanged(D, &devices, "wait=0").await, 200);
    let patching = async {
        for enabled in [true, false, true] {
            let change = json!({"accountEnabled": enabled});
            assert_eq!(server.patch(&format!("{D}/{id}"), &change).await.0, 204);
        }
    };
    let (status, ()) = tokio::join!(unchanged(M, &trust, "wait=1"), patching);
    assert_eq!(status, 304);
}
