//! The command line with bad files, concurrent administrators, and other directory implementations.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anchorgate::x509::certificate::Fingerprint;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::directory::{A, ADMIN, Ca, M, Server, device, leaf_params, template};
use crate::support::misbehaving::{Misbehaving, Reply, Seen};

const ID: &str = "11111111-2222-4333-8444-555555555555";

/// The outcome of a command.
struct Done {
    exit: i32,
    json: Value,
    stderr: String,
}

/// The command line and its input files.
struct Line {
    folder: TempDir,
    url: String,
}

impl Line {
    fn to(url: &str) -> Self {
        let line = Self { folder: tempfile::tempdir().expect("a folder"), url: url.into() };
        line.file("token", ADMIN.as_bytes());
        line
    }

    fn file(&self, name: &str, contents: &[u8]) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, contents).expect("written");
        path.to_str().expect("text").to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anchorgate"));
        command
            .args(["directory", "--json", "--url", &self.url, "--token-file"])
            .arg(self.folder.path().join("token"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Done {
        let output = self.command(arguments).output().expect("it runs");
        Done {
            exit: output.status.code().expect("no signal"),
            json: serde_json::from_slice(&output.stdout).unwrap_or(Value::Null),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a command that must succeed.
    fn succeeds(&self, arguments: &[&str]) -> Value {
        let done = self.run(arguments);
        assert_eq!(done.exit, 0, "{arguments:?}: {}", done.stderr);
        done.json
    }

    /// Runs a command that must fail with this exit code and message.
    fn fails(&self, exit: i32, word: &str, arguments: &[&str]) {
        let done = self.run(arguments);
        assert_eq!((done.exit, done.json), (exit, Value::Null), "{arguments:?}: {}", done.stderr);
        assert!(done.stderr.contains(word), "{arguments:?}: {} has no `{word}`", done.stderr);
    }
}

fn sha256(ca: &Ca) -> String {
    Fingerprint::of(&ca.der).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn manages_application_configurations() {
    let server = Server::start().await;
    let line = Line::to(&server.url);
    let (root, next) = (Ca::root("root"), Ca::root("next"));
    let (one, two) = (root.intermediate("one"), root.intermediate("two"));
    let file = |name: &str, ca: &Ca| line.file(name, &ca.der);
    let (root_file, next_file) = (file("root", &root), file("next", &next));
    let (one_file, two_file) = (file("one", &one), file("two", &two));
    let create = ["application", "create", "--name", "apps", "--ca"];
    let made = line.succeeds(&[&create[..], &[&root_file, "--ca", &one_file]].concat());
    let id = made["id"].as_str().expect("an id");
    let held = |answer: Value| -> Vec<(String, bool)> {
        let list = answer["trustedCertificateAuthorities"].as_array().expect("a list").clone();
        let one = |a: &Value| {
            (a["certificate"].as_str().unwrap_or_default().into(), a["isRootAuthority"] == true)
        };
        list.iter().map(one).collect()
    };
    let (r, n) = ((root.base64(), true), (next.base64(), true));
    let (i, j) = ((one.base64(), false), (two.base64(), false));
    assert_eq!(held(made.clone()), [r.clone(), i.clone()]);

    let add = |more: &[&str]| held(line.succeeds(&[&["application", "add-ca", id], more].concat()));
    assert_eq!(add(&[&two_file]), [r.clone(), i.clone(), j.clone()]);
    assert_eq!(
        add(&[&two_file]),
        [r.clone(), i.clone(), j.clone()],
        "adding it twice changes nothing"
    );
    // A configuration has one root: a new one replaces it in one step.
    let why = format!("--replace {}", sha256(&root));
    line.fails(1, &why, &["application", "add-ca", id, &next_file]);
    line.fails(1, "already", &["application", "add-ca", id, &two_file, "--replace", &one_file]);
    line.fails(
        1,
        "no authority",
        &["application", "add-ca", id, &next_file, "--replace", &sha256(&next)],
    );
    assert_eq!(add(&[&next_file, "--replace", &root_file]), [n.clone(), i.clone(), j.clone()]);
    let removed = line.succeeds(&["application", "remove-ca", id, &sha256(&one)]);
    assert_eq!(held(removed), [n.clone(), j.clone()]);
    line.fails(1, "no authority", &["application", "remove-ca", id, &one_file]);

    let updated = line.succeeds(&["application", "update", id, "--description", "d"]);
    assert_eq!((&updated["displayName"], &updated["description"]), (&json!("apps"), &json!("d")));
    line.fails(64, "--name", &["application", "update", id]);
    let list = line.succeeds(&["application", "list"]);
    assert_eq!(list.as_array().map(Vec::len), Some(1));
    assert_eq!(held(list[0].clone()), [n, j]);
    // Device and application configurations are separate lists.
    assert_eq!(line.succeeds(&["list"]), json!([]));
    assert_eq!(line.succeeds(&["application", "delete", id]), json!({ "deleted": id }));
    line.fails(1, "404", &["application", "get", id]);
    for (files, roots) in [(vec![&root_file, &next_file], "2 of"), (vec![&one_file], "0 of")] {
        let mut arguments = create[..4].to_vec();
        files.iter().for_each(|file| arguments.extend(["--ca", file.as_str()]));
        line.fails(64, roots, &arguments);
    }
    assert_eq!(server.get(A).await.1["value"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_bad_input_before_sending() {
    let directory = Misbehaving::start().await;
    let line = Line::to(&directory.url);
    let root = Ca::root("root");
    let good = line.file("good", &root.der);
    let key = line.file("key.pem", root.key.serialize_pem().as_bytes());
    let long = line.file("long", &[&root.der[..], b"\n"].concat());
    let leaf = line.file("leaf", &Ca::self_signed(leaf_params("leaf")).der);
    for (file, why) in [
        (&key, "key.pem: the file contains no certificate, but PRIVATE KEY"),
        (&long, "1 bytes left over"),
        (&leaf, "basicConstraints does not set cA"),
        (&"absent".to_owned(), "absent: No such file"),
    ] {
        line.fails(1, why, &["add-ca", ID, file]);
        line.fails(1, why, &["application", "add-ca", ID, file]);
        let create = ["create", "--name", "x", "--ca", &good, "--ca", file];
        line.fails(1, why, &[&["application"], &create[..]].concat());
        line.fails(1, why, &[&create[..], &["--field", "tls_client_auth_san_dns"]].concat());
    }
    for (why, arguments) in [
        ("a GUID", &["get", ""][..]),
        ("a GUID", &["delete", ""]),
        ("a GUID", &["delete", "../devices"]),
        ("a GUID", &["update", "x", "--name", "y"]),
        ("a GUID", &["add-ca", "hub/x", &good]),
        ("a GUID", &["remove-ca", "x", &good]),
        ("a GUID", &["application", "get", ""]),
        ("a GUID", &["application", "delete", "x"]),
        ("a GUID", &["application", "update", "x", "--name", "y"]),
        ("a GUID", &["application", "add-ca", "x", &good]),
        ("a GUID", &["application", "remove-ca", "x", &good]),
        ("a GUID", &["device-template", "delete", ""]),
        ("a GUID", &["device", "import", &good, "--template", "x"]),
        ("exactly one of", &["list", "--client-secret-file", &good]),
        ("delta=URL requires crl=URL", &["add-ca", ID, &format!("{good},delta=http://x/")]),
        ("tls_client_auth_san_uri", &["create", "--name", "x", "--field", "dns"]),
    ] {
        line.fails(64, why, arguments);
    }
    assert_eq!(directory.seen().len(), 0, "{:?}", directory.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_additions_are_all_kept() {
    let server = Server::start().await;
    let line = Line::to(&server.url);
    let id = server.configuration("fleet", json!([])).await;
    let authorities: Vec<_> = (0..6).map(|n| Ca::root(&format!("root {n}"))).collect();
    let mut running = Vec::new();
    for (n, ca) in authorities.iter().enumerate() {
        let file = line.file(&format!("ca {n}"), &ca.der);
        running.push(line.command(&["add-ca", &id, &file]).spawn().expect("it runs"));
    }
    for child in running {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let (_, now) = server.get(&format!("{M}/{id}")).await;
    let list = now["certificateAuthorities"].as_array().expect("a list");
    let mut held: Vec<_> = list.iter().filter_map(|a| a["certificate"].as_str()).collect();
    let mut added: Vec<_> = authorities.iter().map(Ca::base64).collect();
    held.sort_unstable();
    added.sort_unstable();
    assert_eq!(held, added);
}

/// Like Microsoft's directory: no entity tags, computed members, lists that may be shortened.
#[tokio::test(flavor = "multi_thread")]
async fn detects_conflicts_without_entity_tags() {
    let directory = Misbehaving::start().await;
    let line = Line::to(&directory.url);
    let (old, new, others) = (Ca::root("old"), Ca::root("new"), Ca::root("others"));
    let file = line.file("new", &new.der);
    let element = |ca: &Ca| {
        json!({
            "@odata.type": "#microsoft.graph.certificateAuthority",
            "certificate": ca.base64(), "isRootAuthority": true, "issuer": "CN=x",
            "issuerSki": "00", "certificateRevocationListUrl": "http://pki.example/r.crl",
            "deltaCertificateRevocationListUrl": null,
        })
    };
    let object = |list: &[Value]| {
        let list = json!({ "id": ID, "displayName": "fleet", "certificateAuthorities": list });
        Reply::json(&list)
    };
    let patched = |seen: &[Seen]| -> Vec<Value> {
        let patches = seen.iter().filter(|seen| seen.head.starts_with("patch "));
        patches.map(|seen| serde_json::from_str(&seen.body).expect("JSON")).collect()
    };

    // The response to a PATCH may be an empty 204.
    let (before, after) = (object(&[element(&old)]), object(&[element(&old), element(&new)]));
    directory.answer(move |seen, number| match (seen.head.starts_with("patch "), number) {
        (true, _) => Reply::Plain(204, "", Vec::new()),
        (false, 0) => before.clone(),
        (false, _) => after.clone(),
    });
    let now = line.succeeds(&["add-ca", ID, &file]);
    assert_eq!(now["certificateAuthorities"].as_array().map(Vec::len), Some(2));
    let sent = patched(&directory.seen());
    let list = sent[0]["certificateAuthorities"].as_array().expect("a list");
    assert_eq!(sent[0].as_object().map(serde_json::Map::len), Some(1));
    let kept = json!({
        "certificate": old.base64(), "isRootAuthority": true,
        "certificateRevocationListUrl": "http://pki.example/r.crl",
        "deltaCertificateRevocationListUrl": null,
    });
    assert_eq!((list.len(), &list[0]), (2, &kept));
    assert_eq!(list[1]["certificate"], json!(new.base64()));

    // A concurrent change is reported.
    let before = object(&[element(&old)]);
    let overwritten = object(&[element(&old), element(&others)]);
    directory.answer(move |seen, number| match (seen.head.starts_with("patch "), number) {
        (true, _) | (false, 0) => before.clone(),
        (false, _) => overwritten.clone(),
    });
    line.fails(1, "the list was changed by another client", &["add-ca", ID, &file]);

    // A list that was shortened is not written back.
    let mut shortened = element(&others);
    shortened.as_object_mut().expect("an object").remove("certificate");
    let before = object(&[element(&old), shortened]);
    directory.answer(move |_, _| before.clone());
    line.fails(1, "omits the certificate of an authority", &["add-ca", ID, &file]);
    assert_eq!(patched(&directory.seen()), Vec::<Value>::new());

    // Graph's error is printed with the request id that its support asks for.
    directory.answer(|_, _| {
        let error = json!({"error": {"code": "Authorization_RequestDenied", "message":
            "Insufficient privileges to complete the operation."}});
        Reply::Plain(403, "request-id: r-1\r\n", error.to_string().into_bytes())
    });
    line.fails(1, "403 Authorization_RequestDenied: Insufficient privileges", &["list"]);
    line.fails(1, "request-id r-1", &["application", "list"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_reports_devices_of_other_configurations() {
    let server = Server::start().await;
    let line = Line::to(&server.url);
    let (ours, theirs) =
        (server.configuration("a", json!([])).await, server.configuration("b", json!([])).await);
    let (ours, also_ours) =
        (template(&server, Some(&ours)).await, template(&server, Some(&ours)).await);
    let theirs_template = template(&server, Some(&theirs)).await;
    let no_configurations = template(&server, None).await;
    device(&server, &also_ours, "urn:d:1").await;
    device(&server, &theirs_template, "urn:d:2").await;
    device(&server, &no_configurations, "urn:d:3").await;
    let file = line.file(
        "fleet",
        b"\xef\xbb\xbfurn:d:0\r\nurn:d:1\nurn:d:2\n\xff\nurn:d:3\nurn:d:4 \nURN:D:0",
    );
    let done = line.run(&["device", "import", &file, "--template", &ours]);
    assert_eq!(done.exit, 1);
    // Names differ by letter case; no certificate can have a name that ends with a blank.
    assert_eq!(
        done.json,
        json!({"created": 2, "already_registered": 1, "failed": 4}),
        "{}",
        done.stderr
    );
    for part in [
        "line 2: `urn:d:1` is already registered",
        &format!("line 3: `urn:d:2`: already registered for configuration {theirs}"),
        "line 4: not UTF-8",
        "line 5: `urn:d:3`: already registered for no configuration",
        "line 6: `urn:d:4 `: ",
    ] {
        assert!(done.stderr.contains(part), "{} has no `{part}`", done.stderr);
    }
    let number = |line: &str| line.strip_prefix("line ")?.split(':').next()?.parse::<u64>().ok();
    let numbers: Vec<_> = done.stderr.lines().filter_map(number).collect();
    assert!(numbers.len() == 5 && numbers.is_sorted(), "{}", done.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_stops_when_the_directory_refuses_requests() {
    let directory = Misbehaving::start().await;
    let line = Line::to(&directory.url);
    let names: String = (0..2000).map(|n| format!("urn:d:{n}\n")).collect();
    let file = line.file("fleet", names.as_bytes());
    // Without concurrency the line is known; otherwise any of the ten may be the slow one.
    for (put_off, why, parallel, firsts) in [
        (Reply::Plain(503, "retry-after: 3600\r\n", Vec::new()), "503", "1", 11..=11),
        (Reply::Plain(429, "retry-after: 3600\r\n", Vec::new()), "429", "4", 1..=11),
        (Reply::status(403), "403", "4", 1..=11),
    ] {
        let import = ["device", "import", &file, "--template", ID, "--parallel", parallel];
        let posts = AtomicUsize::new(0);
        directory.answer(move |seen, _| match seen.head.starts_with("post ") {
            false => Reply::json(&json!({ "id": ID, "mutualTlsOauthConfigurationId": null })),
            true if posts.fetch_add(1, Ordering::Relaxed) < 10 => Reply::json(&json!({"id": ID})),
            true => put_off.clone(),
        });
        let done = line.run(&import);
        assert_eq!((done.exit, &done.json), (1, &Value::Null), "{}", done.stderr);
        assert!(directory.seen().len() < 30, "{} requests", directory.seen().len());
        assert!(
            done.stderr.contains("stopped: ") && done.stderr.contains(" created, "),
            "{}",
            done.stderr
        );
        // It continues from the first unfinished line: all lines before it were sent.
        let (_, after) = done.stderr.split_once("`--from ").expect("the line to continue from");
        let from = after.split('`').next().expect("a line");
        let first: usize = from.parse().expect("a number");
        assert!(firsts.contains(&first), "{}", done.stderr);
        let sent = directory.seen();
        for name in (0..first - 1).map(|n| format!("urn:d:{n}\"")) {
            assert!(sent.iter().any(|seen| seen.body.contains(&name)), "{name} was not sent");
        }
        directory.answer(|seen, _| match seen.head.starts_with("post ") {
            false => Reply::json(&json!({ "id": ID, "mutualTlsOauthConfigurationId": null })),
            true => Reply::json(&json!({ "id": ID })),
        });
        let rest = line.succeeds(&[&import[..], &["--from", from]].concat());
        assert_eq!(rest["created"], json!(2000 - first + 1));
        let again = directory.seen();
        let posts: Vec<_> = again.iter().filter(|seen| seen.head.starts_with("post ")).collect();
        assert!(posts.iter().any(|seen| seen.body.contains(&format!("urn:d:{}\"", first - 1))));
        // The first line has none before it.
        let before = first.checked_sub(2).map(|n| format!("urn:d:{n}\""));
        assert!(!posts.iter().any(|seen| before.iter().any(|name| seen.body.contains(name))));
        assert!(done.stderr.contains(why), "{}", done.stderr);
    }
}

/// Graph's message is the same for every fault of a property: the reason is in the details.
#[tokio::test(flavor = "multi_thread")]
async fn prints_the_details_of_an_error() {
    let server = Server::start().await;
    let line = Line::to(&server.url);
    let long = "x".repeat(300);
    let create = ["create", "--field", "tls_client_auth_san_dns", "--name"];
    line.fails(1, "[displayName: 300 characters; at most 256", &[&create[..], &[&long]].concat());
    assert_eq!(server.get(M).await.1["value"], json!([]));
}
