//! Text of a directory, a certificate, a revocation list or a server cannot act on an operator's terminal,
//! forge a line, or flood the output, whichever command prints it.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::time::SystemTime;

use anchorgate::cli::quickstart::pki::pem;
use anchorgate::cli::quickstart::world::{Ports, World};
use anchorgate::runtime::text::is_hidden;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::crl_maker::{Ca, List, NOW, tlv};

const ID: &str = "11111111-2222-4333-8444-555555555555";
const FORGED: &str = "2026-11-28T00:00:00Z  INFO audit: outcome=\"issued\"";

/// A line break, terminal sequences in 7 and 8 bits, bidirectional controls, invisible characters, and length.
pub(super) fn hostile() -> String {
    let controls = "\r\x1b[2J\x1b]0;title\x07\u{9b}31m\u{7f}\u{85}\u{202e}\u{2066}\u{200b}\u{2028}";
    format!("a\n{FORGED}{controls}\u{e0041}{}", "y".repeat(600))
}

/// Answers every request whose path contains a key with its value, others with `rest`.
pub(super) fn server(status: u16, answers: Vec<(&'static str, Value)>, rest: Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = vec![0; 65_536];
            let length = stream.read(&mut head).unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..length]).into_owned();
            let line = head.lines().next().unwrap_or_default();
            let found = answers.iter().find(|(path, _)| line.contains(path));
            let body = found.map_or(&rest, |(_, body)| body).to_string();
            let head = format!(
                "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Type: application/json"
            );
            let _ = write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    url
}

struct Run {
    folder: TempDir,
}

impl Run {
    fn new() -> Self {
        let run = Self { folder: tempfile::tempdir().expect("a folder") };
        run.file("token", b"secret");
        run
    }

    fn file(&self, name: &str, contents: &[u8]) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, contents).expect("written");
        path.display().to_string()
    }

    /// Runs a command.  Checks both outputs as text for people, and returns standard output.
    fn text(&self, arguments: &[&str]) -> String {
        let [out, error] = self.outputs(arguments);
        let both = format!("{out}{error}");
        assert!(both.contains("INFO audit"), "{arguments:?} prints no foreign text: {both}");
        for line in both.lines() {
            assert!(!line.starts_with(FORGED), "{arguments:?} prints a forged line: {both}");
        }
        assert!(!both.contains(&"y".repeat(257)), "{arguments:?} prints a text without bound");
        out
    }

    /// Runs a command that prints JSON.  Its values are those of the directory.
    fn json(&self, arguments: &[&str]) {
        let [out, error] = self.outputs(arguments);
        let value: Value = serde_json::from_str(&out)
            .unwrap_or_else(|why| panic!("{arguments:?}: {why}: {out}{error}"));
        assert!(contains(&value, &hostile()), "{arguments:?}: {out}");
    }

    fn outputs(&self, arguments: &[&str]) -> [String; 2] {
        let output = Command::new(env!("CARGO_BIN_EXE_anchorgate"))
            .args(arguments)
            .output()
            .expect("it runs");
        [output.stdout, output.stderr].map(|bytes| {
            let text = String::from_utf8(bytes).expect("UTF-8");
            let hidden = text.chars().find(|c| *c != '\n' && is_hidden(*c));
            assert_eq!(hidden, None, "{arguments:?}: {text}");
            text
        })
    }
}

fn contains(value: &Value, text: &str) -> bool {
    match value {
        Value::String(value) => value == text,
        Value::Array(values) => values.iter().any(|value| contains(value, text)),
        Value::Object(members) => members.values().any(|value| contains(value, text)),
        _ => false,
    }
}

/// An authority whose subject is hostile, as an element of a configuration.
fn authority() -> Value {
    // A name in a certificate has at most 8 KiB.
    let ca = Ca::root(&hostile());
    json!({"id": ID, "certificate": STANDARD.encode(ca.certificate.der()), "isRootAuthority": true,
        "certificateRevocationListUrl": hostile(), "deltaCertificateRevocationListUrl": hostile()})
}

/// An object with every member that a command prints.
pub(super) fn object() -> Value {
    let text = hostile();
    json!({"id": ID, "displayName": text, "description": text, "tlsClientAuthParameter": text,
        "certificateAuthorities": [authority()], "trustedCertificateAuthorities": [authority()],
        "externalDeviceId": text, "accountEnabled": true, "mutualTlsOauthConfigurationId": text,
        "deviceAuthority": text, "manufacturer": text, "model": text})
}

#[test]
fn commands_to_a_directory_print_its_text_harmlessly() {
    let run = Run::new();
    let lists = json!({"value": [object()]});
    let authorities = json!({"value": [authority()]});
    let one = vec![
        ("/trustedCertificateAuthorities", authorities),
        ("/devices?", lists.clone()),
        (ID, object()),
    ];
    let url = server(200, one, lists);
    let token = run.folder.path().join("token").display().to_string();
    let at = ["directory", "--url", &url, "--token-file", &token];
    for command in [
        &["list"][..],
        &["get", ID],
        &["application", "list"],
        &["application", "get", ID],
        &["device", "list"],
        &["device", "get", ID],
        &["device-template", "list"],
    ] {
        // A device has an id that is printed, and its name.
        run.text(&[&at[..], command].concat());
        run.json(&[&at[..], &["--json"], command].concat());
    }
    // The message of an error.
    let text = hostile();
    let error =
        json!({"error": {"code": text, "message": text, "innerError": {"request-id": text}}});
    let url = server(400, Vec::new(), error);
    let at = ["directory", "--url", &url, "--token-file", &token];
    for command in [
        &["list"][..],
        &["get", ID],
        &["device", "list"],
        &["device", "create", "d", "--template", ID],
    ] {
        run.text(&[&at[..], command].concat());
    }
}

#[test]
fn commands_to_a_gateway_print_foreign_text_harmlessly() {
    let (run, text) = (Run::new(), hostile());
    let held =
        json!({"since": text, "digest": text, "changes": {"lines": [text], "revocation_lost": 1}});
    let lists = json!([{"address": text, "fetched": text, "nextFetch": text,
        "list": {"kind": text, "issuer": text, "number": text, "thisUpdate": text, "baseNumber": text},
        "policies": [{"mode": text, "authority": text, "graceSeconds": 1}],
        "lastError": {"at": text, "error": text}}]);
    let keys = json!([{"kid": text, "algorithm": text, "state": text, "signsFrom": text, "publishedUntil": text}]);
    let status = json!({
        "ready": false, "missing": [text], "started": text, "warnings": {text.clone(): text},
        "without_list": [{"address": text, "authorities": [text]}],
        "trust": {"generation": 1, "configurations": [{"id": text, "subjectField": text,
                "devices": text, "displayName": text, "authorities": [{"root": true, "subject": text,
                "notAfter": text, "fingerprint": text, "revocation": {"mode": text}}]}],
            "skipped": [{"id": text, "why": text}], "unmatchedRevocationEntries": [text]},
        "sources": [{"source": text, "configurations": 1, "anchors": 1, "last_success": text,
            "last_error": text, "held_back": held,
            "devices": {"known": 1, "last_success": text, "held_back": held}}],
        "revocation": lists, "signingKeys": keys,
        // The answer of `trust diff` and `trust approve`.
        "changes": {"lines": [text], "revocation_lost": 1}, "source": text,
        "skippedOf": text, "answer": {"detail": text}, "text": "reject\n", "generation": 1,
    });
    let changes =
        json!({"changes": [{"key": text, "before": text, "after": text, "needsRestart": true}]});
    let routes = vec![("/crl/refresh", lists), ("/keys/", keys), ("/config/", changes)];
    let url = server(200, routes, status);
    let diff = run.file("list.json", json!({"value": []}).to_string().as_bytes());
    let approve = ["trust", "approve", "--digest", "00"];
    for command in [
        &["ready"][..],
        &["trust", "show"],
        &["trust", "diff", &diff],
        &["crl", "show"],
        &["crl", "refresh"],
        &["keys", "list"],
        &["config", "diff"],
        &["config", "reload"],
        &["keys", "rotate"],
        &["keys", "revoke", "x"],
    ] {
        run.text(&[command, &["--admin", &url]].concat());
    }
    for command in
        [&["trust", "show"][..], &["trust", "sync"], &approve, &["crl", "show"], &["keys", "list"]]
    {
        run.json(&[command, &["--json", "--admin", &url]].concat());
    }
    let chain =
        run.file("chain.pem", pem("CERTIFICATE", Ca::root("r").certificate.der()).as_bytes());
    run.json(&["explain", "--chain", &chain, "--json", "--admin", &url]);
    let bundle = run.folder.path().join("bundle.json").display().to_string();
    run.outputs(&["support-bundle", &bundle, "--admin", &url]);
    let written = std::fs::read_to_string(bundle).expect("written");
    assert_eq!(written.chars().find(|c| *c != '\n' && is_hidden(*c)), None, "{written}");
    let written = serde_json::from_str(&written).expect("JSON");
    assert!(contains(&written, &text), "{written}");
    let url = server(409, Vec::new(), json!({"error": text}));
    for command in [&["trust", "show"][..], &["trust", "sync"], &approve, &["crl", "refresh"]] {
        run.text(&[command, &["--admin", &url]].concat());
    }
}

#[test]
fn the_doctor_prints_text_of_a_directory_harmlessly() {
    let run = Run::new();
    let ports = Ports::free().expect("ports");
    let world = World::create(&run.folder.path().join("world"), ports, SystemTime::now().into());
    let file = world.expect("a world").dir.join("anchorgate.toml");
    let settings = std::fs::read_to_string(&file).expect("written");
    let mut listed = object();
    let address = format!("http://127.0.0.1:9/{}", hostile());
    listed["certificateAuthorities"][0]["certificateRevocationListUrl"] = address.into();
    let error = json!({"error": {"code": hostile(), "message": hostile()}});
    for (status, answer, printed) in
        [(200, json!({"value": [listed]}), "revocation list"), (400, error, "directory ")]
    {
        let url = format!("url = \"{}\"", server(status, Vec::new(), answer));
        let own = format!("url = \"http://{}\"", ports.directory_http);
        assert!(settings.contains(&own), "{settings}");
        std::fs::write(&file, settings.replace(&own, &url)).expect("written");
        let out = run.text(&["doctor", "--config", &file.display().to_string()]);
        assert!(out.contains(printed), "{out}");
    }
}

#[test]
fn offline_commands_print_files_harmlessly() {
    let (run, ca) = (Run::new(), Ca::root(&hostile()));
    let uri = tlv(0xa0, &tlv(0xa0, &tlv(0x86, hostile().as_bytes())));
    let list = |list: List<'_>| list.number(1).scope(&uri).revoke(&[5], None).sign();
    let file = run.file("list.crl", &list(ca.list()));
    let signer = run.file("ca.pem", pem("CERTIFICATE", ca.certificate.der()).as_bytes());
    let out = run.text(&["crl", "inspect", &file, "--signer", &signer, "--serial", "5"]);
    for line in ["issuer:", "signature:", "serial 05:", "              at "] {
        assert!(out.contains(line), "{line} is missing: {out}");
    }

    let text = hostile();
    let configuration = json!({"id": "a", "displayName": text, "tlsClientAuthParameter": "tls_client_auth_subject_dn",
        "certificateAuthorities": [{"certificate": STANDARD.encode(ca.certificate.der()), "isRootAuthority": true}]});
    let skipped = json!({"id": "b", "displayName": text, "tlsClientAuthParameter": "tls_client_auth_san_dns",
        "certificateAuthorities": [{"certificate": "AA==", "isRootAuthority": true}]});
    let directory = json!({"value": [configuration, skipped]}).to_string();
    let directory = run.file("directory.json", directory.as_bytes());
    let device = ca.issue(&hostile(), &[4], &[]);
    let chain = run.file("chain.pem", pem("CERTIFICATE", device.der()).as_bytes());
    let at = NOW.to_string();
    let verify =
        ["verify", "--directory", &directory, "--chain", &chain, "--at", &at, "--crl", &file];
    run.text(&verify);
    let [out, _] = run.outputs(&[&verify[..], &["--json"]].concat());
    assert!(serde_json::from_str::<Value>(&out).is_ok(), "{out}");
    // A file that is not what it should be, with a hostile name.
    let broken = run.file("broken.json", b"\"\\u001b[2J\x1b[2J\"");
    run.outputs(&["verify", "--directory", &broken, "--chain", &chain]);
}
