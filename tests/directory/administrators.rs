//! The administrators' command line.

use std::process::Command;

use serde_json::Value;

use crate::support::directory::{ADMIN, Ca, Server, leaf_params};

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
    assert_eq!(
        count(run(&["add-ca", id, &other_file])),
        Some(2),
        "adding it twice changes nothing"
    );
    assert_eq!(count(run(&["remove-ca", id, &root])), Some(1));
    let why = run(&["remove-ca", id, &root]).expect_err("already removed");
    assert!(why.contains("has no authority"), "{why}");
    let why = run(&["add-ca", id, &leaf]).expect_err("no authority");
    assert!(why.contains("leaf.der") && why.contains("basicConstraints does not set cA"), "{why}");
    assert_eq!(count(run(&["get", id])), Some(1));
    assert_eq!(run(&["update", id, "--name", "new"]).expect("done")["displayName"], "new");
    assert_eq!(run(&["list"]).expect("a list")[0]["displayName"], "new");
    assert!(run(&["delete", id]).is_ok());
    let why = run(&["get", id]).expect_err("deleted");
    assert!(why.contains("404 Request_ResourceNotFound"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_register_devices_and_disable_a_stolen_one() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, contents: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, contents).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let token = file("token", ADMIN.as_bytes());
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_anchorgate"))
            .args(["directory", "--json", "--url", &server.url, "--token-file", &token])
            .args(arguments)
            .output()
            .expect("it runs");
        let json = serde_json::from_slice::<Value>(&output.stdout).unwrap_or(Value::Null);
        (output.status.success(), json, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let configuration = server.configuration("fleet", serde_json::json!([])).await;
    let names = ["--authority", "ADT", "--manufacturer", "Acme", "--model", "Camera"];
    let create = ["device-template", "create", "--configuration", &configuration];
    let (done, made, why) = run(&[&create[..], &names[..]].concat());
    assert!(done, "{why}");
    let template = made["id"].as_str().expect("an id");
    assert_eq!(run(&["device-template", "list"]).1[0]["id"], template);
    assert_eq!(run(&["device-template", "get", template]).1["model"], "Camera");

    // The configuration names devices by URI: another text could never match a certificate.
    let (done, _, why) = run(&["device", "create", "camera 1", "--template", template]);
    assert!(!done && why.contains("URI"), "{why}");
    let (done, made, why) = run(&["device", "create", "urn:d'1", "--template", template]);
    assert!(done && made["accountEnabled"] == true, "{why}");
    let (done, disabled, why) = run(&["device", "disable", "urn:d'1"]);
    assert!(done && disabled["accountEnabled"] == false && disabled["id"] == made["id"], "{why}");
    let id = made["id"].as_str().expect("an id");
    assert_eq!(run(&["device", "enable", id]).1["accountEnabled"], true, "found by its object id");
    for unknown in ["urn:d:2", "00000000-0000-4000-8000-000000000000"] {
        let (done, _, why) = run(&["device", "disable", unknown]);
        assert!(!done && why.contains("no device has the externalDeviceId"), "{why}");
    }

    let mut lines: String = (0..300).map(|n| format!("urn:d:{n}\n")).collect();
    let fleet = file("fleet", lines.as_bytes());
    let (done, counts, why) = run(&["device", "import", &fleet, "--template", template]);
    assert!(done, "{why}");
    assert_eq!(counts, serde_json::json!({"created": 300, "already_registered": 0, "failed": 0}));
    // A repeated import with more lines reports existing devices, and failures with their line.
    lines.push_str("urn:d:300\r\n\nno uri\nurn:d:300\n");
    let fleet = file("fleet", lines.as_bytes());
    let (done, counts, why) =
        run(&["device", "import", &fleet, "--template", template, "--disabled"]);
    assert!(!done && why.contains("line 303: `no uri`: ") && why.contains("line 7: "), "{why}");
    assert_eq!(counts, serde_json::json!({"created": 1, "already_registered": 301, "failed": 1}));
    assert_eq!(run(&["device", "get", "urn:d:300"]).1["accountEnabled"], false);
    assert_eq!(run(&["device", "get", "urn:d:7"]).1["accountEnabled"], true, "unchanged");
    let (_, list, _) = run(&["device", "list"]);
    assert_eq!(list.as_array().map(Vec::len), Some(302));
    let (_, list, _) = run(&["device", "list", "--template", template]);
    assert_eq!(list.as_array().map(Vec::len), Some(302));
    assert!(run(&["device", "delete", "urn:d:300"]).0);
    assert!(!run(&["device", "get", "urn:d:300"]).0);
    assert!(!run(&["device-template", "delete", template]).0, "a template with devices");
    let absent = "00000000-0000-4000-8000-000000000000";
    let (done, _, why) = run(&["device", "import", &fleet, "--template", absent]);
    assert!(!done && why.contains("404"), "{why}");
}
