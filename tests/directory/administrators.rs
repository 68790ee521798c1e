//! The command line that administrators use.

use std::process::Command;

use serde_json::Value;

use crate::support::{ADMIN, Ca, Server, leaf_params};

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
    assert_eq!(count(run(&["add-ca", id, &other_file])), Some(2), "once is enough");
    assert_eq!(count(run(&["remove-ca", id, &root])), Some(1));
    let why = run(&["remove-ca", id, &root]).expect_err("gone already");
    assert!(why.contains("has no authority"), "{why}");
    let why = run(&["add-ca", id, &leaf]).expect_err("no authority");
    assert!(why.contains("leaf.der") && why.contains("basicConstraints lacks CA"), "{why}");
    assert_eq!(count(run(&["get", id])), Some(1));
    assert_eq!(run(&["update", id, "--name", "new"]).expect("done")["displayName"], "new");
    assert_eq!(run(&["list"]).expect("a list")[0]["displayName"], "new");
    assert!(run(&["delete", id]).is_ok());
    let why = run(&["get", id]).expect_err("deleted");
    assert!(why.contains("404 Request_ResourceNotFound"), "{why}");
}
