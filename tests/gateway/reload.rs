//! New configurations while the gateway runs.

use std::time::{Duration, Instant};

use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::certificate::Fingerprint;
use rustls::AlertDescription;
use rustls::version::TLS12;
use serde_json::{Value, json};

use super::{Gateway, IN_FORCE, peer};

impl Gateway {
    fn edit(&self, edit: impl Fn(String) -> String) {
        let file = self.world.dir.join("anchorgate.toml");
        let text = std::fs::read_to_string(&file).expect("written");
        std::fs::write(&file, edit(text)).expect("written");
    }

    async fn act(&self, path: &str, body: &Value) -> (u16, Value) {
        let url = format!("http://{}{path}", self.app.addresses.admin);
        let request = self.http.post(url).bearer_auth(&self.world.admin_token);
        let answer = request.json(body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    async fn public(&self, path: &str) -> Value {
        let url = format!("https://localhost:{}{path}", self.app.addresses.public.unwrap().port());
        self.http.get(url).send().await.expect("an answer").json().await.expect("JSON")
    }

    fn configuration_id(&self) -> String {
        self.app.live.current().trust.device_configurations.configurations[0].id.to_string()
    }
}

fn alg(body: &Value) -> jsonwebtoken::Algorithm {
    let token = body["access_token"].as_str().expect("a token");
    jsonwebtoken::decode_header(token).expect("a header").alg
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_another_algorithm_is_added_to_an_open_connection() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| {
        text.replace("[oauth]\n", "[oauth.rotation]\n[oauth]\n")
    })
    .await;
    let domain = gateway.domain(SubjectField::SanDns);
    let mut open = gateway.connect(&gateway.device(domain, 0)).await;
    let own = &domain.devices[0].subject_id;
    let before = open.token(own).await.expect("an answer");
    assert_eq!(alg(&before.body), jsonwebtoken::Algorithm::ES256);
    assert_eq!(open.token("cloud").await.expect("an answer").status, 401);

    let id = gateway.configuration_id();
    gateway.edit(|text| {
        format!(
            "reuse_port = true\n{text}\n[[client]]\nid = \"cloud\"\nconfigurations = [\"{id}\"]\n\
             scopes = [\"cloud:write\"]\ndefault_scopes = [\"cloud:write\"]\n\
             audience = \"https://cloud.example\"\nsigning_algorithm = \"RS256\"\n"
        )
    });
    let (code, text) = gateway.program("config diff").await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("client[cloud].signing_algorithm: - -> RS256\n"), "{text}");
    assert!(text.contains("reuse_port: - -> true  (needs a restart)\n"), "{text}");
    assert_eq!(open.token("cloud").await.expect("an answer").status, 401, "a diff changes nothing");
    let other = gateway.world.dir.join("other.toml");
    std::fs::write(&other, "spelt = 1\n").expect("written");
    let (code, text) = gateway.program(&format!("config diff {}", other.display())).await;
    let names = format!("anchorgate: {} (paths relative to ", other.display());
    assert!(code == Some(1) && text.starts_with(&names), "{text}");
    assert!(text.contains("\n  spelt: unknown key"), "a line for each problem: {text}");

    let (code, text) = gateway.program("config reload").await;
    assert!(code == Some(0) && text.contains("(needs a restart)"), "{text}");
    let after = open.token("cloud").await.expect("the connection stays open");
    assert_eq!(after.status, 200, "{after:?}");
    assert_eq!(alg(&after.body), jsonwebtoken::Algorithm::RS256);
    assert_eq!(alg(&open.token(own).await.expect("an answer").body), alg(&before.body));
    let metadata = gateway.public("/.well-known/oauth-authorization-server").await;
    let scopes = metadata["scopes_supported"].as_array().expect("scopes");
    assert!(scopes.contains(&json!("cloud:write")), "{scopes:?}");
    let status: Value = serde_json::from_str(&gateway.admin("/status.json").await.1).expect("JSON");
    assert_eq!(status["configuration"]["restartNeeded"], json!(["reuse_port"]));
    let ready = gateway.admin("/readyz").await.1;
    assert!(ready.contains("a restart is needed for reuse_port"), "{ready}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing_and_says_why() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    gateway.until_ready().await;
    let domain = gateway.domain(SubjectField::SanDns);
    for (edit, why) in [
        ("token_lifetime = \"5m\"", "token_lifetime = \"5 minutes\""),
        ("[oauth]", "[oauth"),
        ("[oauth]\n", "[[client]]\nid = \"x\"\nconfigurations = [\"x\"]\nspelt = 1\n[oauth]\n"),
    ] {
        let file = gateway.world.dir.join("anchorgate.toml");
        let good = std::fs::read_to_string(&file).expect("written");
        gateway.edit(|text| text.replace(edit, why).replace("\"config:read\"", "\"new:scope\""));
        let (code, text) = gateway.program("config diff").await;
        assert!(code == Some(1) && text.contains("anchorgate.toml"), "{text}");
        let (code, text) = gateway.program("config reload").await;
        assert!(code == Some(1) && text.contains("anchorgate.toml"), "{text}");
        let ready = gateway.admin("/readyz").await;
        assert_eq!(ready.0, 200, "a warning does not change readiness");
        assert!(ready.1.contains("the earlier configuration stays in use"), "{}", ready.1);
        let metrics = gateway.admin("/metrics").await.1;
        assert!(metrics.contains("anchorgate_config_last_reload_successful 0"));
        let metadata = gateway.public("/.well-known/oauth-authorization-server").await;
        assert!(metadata.to_string().contains("config:read"), "{metadata}");
        gateway.wait_until_served(domain).await;
        std::fs::write(&file, good).expect("written");
        let (code, text) = gateway.program("config reload").await;
        assert_eq!((code, text.as_str()), (Some(0), "no change\n"));
        assert!(!gateway.admin("/readyz").await.1.contains("warnings"));
    }
}

/// Kubernetes replaces a mounted file by swapping a link, without any signal.
#[tokio::test(flavor = "multi_thread")]
async fn the_content_of_the_file_is_watched() {
    let gateway = Gateway::start(&[], |text| text).await;
    let new = gateway.world.dir.join("new.toml");
    let file = gateway.world.dir.join("anchorgate.toml");
    let text = std::fs::read_to_string(&file).expect("written");
    std::fs::write(&new, text.replace("config:read", "swapped:scope")).expect("written");
    std::fs::remove_file(&file).expect("removed");
    std::os::unix::fs::symlink(&new, &file).expect("a link");
    let start = Instant::now();
    loop {
        let metadata = gateway.public("/.well-known/oauth-authorization-server").await;
        if metadata.to_string().contains("swapped:scope") {
            return;
        }
        assert!(start.elapsed() < IN_FORCE, "not applied: {metadata}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A secret is rotated by a swapped link that has the time stamp of the earlier one.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_credential_is_read_again() {
    let edit = |text: String| {
        let (head, rest) = text.split_once("[graph.credential]\n").expect("a credential");
        let (_, tail) = rest.split_once('\n').expect("its token");
        let text = format!("{head}[graph.credential]\ntoken_file = \"secret\"\n{tail}");
        text.replace("[revocation]\n", "[revocation]\nca_bundle = \"bundle.pem\"\n")
    };
    let gateway = Gateway::start_with(&[], edit, |world| {
        let file = |name: &str, text: &str| {
            std::fs::write(world.dir.join(name), text).expect("written");
        };
        file("old", "not-the-token");
        file("new", &world.directory_token);
        file("bundle.pem", &world.server_root.certificate_pem());
        std::os::unix::fs::symlink("old", world.dir.join("secret")).expect("a link");
    })
    .await;
    let domain = gateway.domain(SubjectField::SanDns);
    gateway.create(domain).await;
    let status = async || -> Value {
        serde_json::from_str(&gateway.admin("/status.json").await.1).expect("JSON")
    };
    assert_eq!(gateway.app.live.current().trust.device_configurations.configurations.len(), 0);
    let link = gateway.world.dir.join("link");
    std::os::unix::fs::symlink("new", &link).expect("a link");
    std::fs::rename(&link, gateway.world.dir.join("secret")).expect("swapped");
    gateway.wait_until_served(domain).await;
    assert_eq!(status().await["configuration"]["restartNeeded"], json!([]));

    let root = gateway.world.server_root.certificate_pem();
    std::fs::write(gateway.world.dir.join("bundle.pem"), root.repeat(2)).expect("written");
    for _ in 0..2 {
        assert_eq!(gateway.act("/config/reload", &json!({})).await.0, 200);
        let waiting = &status().await["configuration"]["restartNeeded"];
        assert_eq!(*waiting, json!([]), "a new bundle needs no restart");
    }
    std::fs::remove_file(gateway.world.dir.join("secret")).expect("removed");
    let (code, answer) = gateway.act("/config/reload", &json!({})).await;
    assert!(code != 200 && answer.to_string().contains("token_file"), "{code} {answer}");
    gateway.wait_until_served(domain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_and_the_admin_tokens_change_without_a_restart() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let mut open = gateway.connect(&gateway.device(domain, 0)).await;
    let id = &domain.devices[0].subject_id;
    assert_eq!(open.token(id).await.expect("an answer").status, 200);
    let file = gateway.world.dir.join("anchorgate.toml");
    let good = std::fs::read_to_string(&file).expect("written");
    let (head, rest) = good.split_once("[[graph]]").expect("a source");
    let (_, tail) = rest.split_once("[revocation]").expect("revocation");
    std::fs::write(&file, format!("{head}[revocation]{tail}")).expect("written");
    assert_eq!(gateway.act("/config/reload", &json!({})).await.0, 200);
    assert_eq!(open.token(id).await.expect("an answer").status, 401, "its anchors are gone");
    let status: Value = serde_json::from_str(&gateway.admin("/status.json").await.1).expect("JSON");
    assert_eq!(status["sources"], json!([]));
    let metrics = gateway.admin("/metrics").await.1;
    assert!(
        !metrics.contains("source=\"quickstart\""),
        "series of a directory that is gone: {metrics}"
    );

    let [old, new] = [&*gateway.world.admin_token, "operator"]
        .map(|token| Fingerprint::of(token.as_bytes()).to_string());
    std::fs::write(&file, good.replace(&old, &new)).expect("written");
    assert_eq!(gateway.act("/config/reload", &json!({})).await.0, 200);
    assert_eq!(
        gateway.act("/config/reload", &json!({})).await.0,
        401,
        "another token is needed now"
    );
    gateway.until(&mut open, id, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_requests_share_a_few_reloads() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let mut open = gateway.connect(&gateway.device(domain, 0)).await;
    let id = &domain.devices[0].subject_id;
    let url = format!("http://{}/config/reload", gateway.app.addresses.admin);
    let mut requests = tokio::task::JoinSet::new();
    // Two requests each: like a signal, and over HTTP.
    for _ in 0..50 {
        gateway.app.reload();
        let request = gateway.http.post(&url).bearer_auth(&gateway.world.admin_token);
        let request = request.json(&json!({}));
        requests.spawn(async move { request.send().await.expect("an answer").status().as_u16() });
    }
    while let Some(status) = requests.join_next().await {
        assert_eq!(status.expect("no panic"), 200);
        assert_eq!(open.token(id).await.expect("an answer").status, 200);
    }
    let metrics = gateway.admin("/metrics").await.1;
    let name = "anchorgate_config_reloads_total{result=\"applied\"} ";
    let count = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("a count");
    assert!(count.parse::<u32>().expect("a number") <= 10, "{count} reloads");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_rate_limits_apply_and_the_unchanged_ones_keep_their_state() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let mut open = gateway.connect(&gateway.device(domain, 0)).await;
    let id = &domain.devices[0].subject_id;
    let limits = |subject: &str, client: &str| {
        gateway.edit(|text| {
            let head = text.split("\n[rate_limits]").next().expect("a head").to_owned();
            format!("{head}\n[rate_limits]\nsubject = \"{subject}\"\nclient = \"{client}\"\n")
        });
    };
    limits("2/1h", "1000/1s");
    assert_eq!(gateway.act("/config/reload", &json!({})).await.0, 200);
    for expected in [200, 200, 429] {
        assert_eq!(open.token(id).await.expect("an answer").status, expected);
    }
    limits("2/1h", "999/1s");
    assert_eq!(gateway.act("/config/reload", &json!({})).await.0, 200);
    assert_eq!(open.token(id).await.expect("an answer").status, 429, "the bucket is still empty");
    limits("100/1s", "999/1s");
    assert_eq!(gateway.act("/config/reload", &json!({})).await.0, 200);
    assert_eq!(open.token(id).await.expect("an answer").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_listeners_and_tls_settings_apply_to_new_connections() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let device = gateway.device(domain, 0);
    let id = &domain.devices[0].subject_id;
    let mut first = gateway.connect(&device).await;
    assert_eq!(first.token(id).await.expect("an answer").status, 200);
    gateway.edit(|text| {
        text.replace("[token]\n", "[token]\nhandshakes = 7\n")
            .replace("[public]\n", "[public]\nhandshakes = 9\n")
            .replace("[tls]\n", "[tls]\nminimum_version = \"1.3\"\n")
    });
    let (code, text) = gateway.program("config reload").await;
    assert!(code == Some(0) && !text.contains("needs a restart"), "{text}");
    for key in ["token.handshakes", "public.handshakes", "tls.minimum_version"] {
        assert!(text.contains(key), "{text}");
    }
    let start = Instant::now();
    for limit in [r#"limit{listener="token"} 7"#, r#"limit{listener="public"} 9"#] {
        while !gateway.admin("/metrics").await.1.contains(&format!("in_progress_{limit}")) {
            assert!(start.elapsed() < IN_FORCE, "not applied: {limit}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let ca = gateway.world.server_root.certificate_pem();
    let old = peer::client(&ca, &TLS12, None);
    let address = gateway.app.addresses.token.unwrap();
    let refusal = Some(AlertDescription::ProtocolVersion);
    while peer::alert(&old, address).await != refusal {
        assert!(start.elapsed() < IN_FORCE, "TLS 1.2 is still accepted");
    }
    // The first connection is open, and makes room for the third.
    gateway.edit(|text| text.replace("[token]\n", "[token]\nconnections = 2\n"));
    let (code, text) = gateway.program("config reload").await;
    assert!(code == Some(0) && text.contains("token.connections: - -> 2\n"), "{text}");
    assert_eq!(first.token(id).await.expect("an answer").status, 200);
    let mut others = Vec::new();
    for _ in 0..2 {
        let mut connection = gateway.connect(&device).await;
        assert_eq!(connection.token(id).await.expect("an answer").status, 200);
        others.push(connection);
    }
    while first.token(id).await.is_ok() {
        assert!(start.elapsed() < IN_FORCE, "the first connection stays open");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_takes_the_times_of_the_newest_file() {
    let hour = |text: String| format!("drain_delay = \"10m\"\n{text}");
    let gateway = Gateway::start(&[], hour).await;
    gateway.edit(|text| text.replace("drain_delay = \"10m\"", "drain_delay = \"0s\""));
    let (code, text) = gateway.program("config reload").await;
    assert!(code == Some(0) && !text.contains("needs a restart"), "{text}");
    let stopped = tokio::time::timeout(IN_FORCE, gateway.app.stop()).await;
    assert!(stopped.expect("without the delay"), "the stop was not clean");
}
