//! `crl inspect`.

use crate::support::crl_maker::{Ca, NOW};

#[test]
fn crl_inspect_prints_the_list() {
    use base64::Engine as _;
    let ca = Ca::root("Root");
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("list.crl");
    std::fs::write(&list, ca.list().number(7).revoke(&[0x80], Some(6)).sign()).expect("room");
    let signer = |ca: &Ca, name: &str| {
        let text = base64::engine::general_purpose::STANDARD.encode(ca.certificate.der());
        let path = folder.path().join(name);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        std::fs::write(&path, pem).expect("room");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (right, wrong) = (signer(&ca, "right.pem"), signer(&Ca::root("Root"), "wrong.pem"));
    let ask = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_anchorgate"));
        let output = command.args(["crl", "inspect"]).arg(&list).args(arguments).output();
        let output = output.expect("the program runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let now = NOW.to_string();
    let (status, output_text) = ask(&["--at", &now, "--signer", &right, "--serial", "81"]);
    assert_eq!(status, Some(0), "{output_text}");
    assert!(
        output_text.contains("number:       7") && output_text.contains("serial 0081: not listed"),
        "{output_text}"
    );
    let (status, output_text) = ask(&["--at", &now, "--signer", &right, "--serial", "80"]);
    assert_eq!(status, Some(1), "{output_text}");
    assert!(output_text.contains("serial 0080: certificateHold"), "{output_text}");
    let (status, output_text) = ask(&["--at", &now, "--signer", &wrong]);
    assert_eq!(status, Some(1), "{output_text}");
    assert!(output_text.contains("not usable:   the signature does not verify"), "{output_text}");
    // The list from standard input.
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_anchorgate"));
    command.args(["crl", "inspect", "-", "--at", &now, "--signer", &right]);
    let given = std::fs::File::open(&list).expect("the list");
    let output = command.stdin(given).output().expect("the program runs");
    let output_text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && output_text.contains("by `CN=Root`"), "{output_text}");
    let few = ca.list().number(7).scope(&[0x83, 2, 5, 0x60]).sign();
    std::fs::write(&list, few).expect("room");
    let (_, output_text) = ask(&["--at", &now]);
    assert!(
        output_text.contains("all certificates, only for keyCompromise, cACompromise"),
        "{output_text}"
    );
    // Truncated and malformed lists are reported in the same way.
    for broken in [ca.list().sign()[..90].to_vec(), b"<html>".to_vec(), vec![0x30, 3, 1, 2, 3]] {
        let other = folder.path().join("broken.crl");
        std::fs::write(&other, broken).expect("room");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_anchorgate"));
        let output = command.args(["crl", "inspect"]).arg(&other).output().expect("it runs");
        let output_text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.code() == Some(1) && output_text.starts_with("not usable: "),
            "{output_text}"
        );
    }
    let (status, output_text) = ask(&["--at", "2030-01-01T00:00:00Z"]);
    assert_eq!(status, Some(1), "{output_text}");
    assert!(output_text.contains("stale") && output_text.contains("not verified"), "{output_text}");
}
