//! The path judge against `openssl verify` on generated chains.
//!
//! `MUTANTS=first..end` sets the seeds, by default the first 300.  `MUTANTS_OUT=FILE` also writes the
//! chains to a file, as lines for `verify --batch` and for other validators.  A disagreement is a failure
//! unless [`explained`] quotes why both may be right.

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anchorgate::trust::refusal::Refusal;
use anchorgate::x509::time::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::judges;
use crate::support::mutants::{self, Mutant, mutant};
use crate::support::test_certificates::{NOW, pem};

#[test]
fn openssl_agrees() {
    let seeds = match std::env::var("MUTANTS") {
        Ok(range) => {
            let (first, end) = range.split_once("..").expect("MUTANTS is first..end");
            first.parse().expect("a number")..end.parse().expect("a number")
        }
        Err(_) => 0..300,
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut out = std::env::var("MUTANTS_OUT").ok().map(|f| fs::File::create(f).expect("a file"));
    let (mut accepted, mut refused, mut faults) = (0, 0, Vec::new());
    for seed in seeds {
        let mutant = mutant(seed);
        if let Some(out) = &mut out {
            writeln!(out, "{}", line(&mutant)).expect("written");
        }
        let ours = judges::ours(&mutant);
        let theirs = openssl(&mutant, folder.path());
        match (&ours, &theirs) {
            (Ok(()), Ok(())) => accepted += 1,
            (Err(_), Err(_)) => refused += 1,
            _ if explained(&mutant.changes, &ours, &theirs) => {}
            _ => {
                faults.push(format!("{seed}: {:?}: {ours:?}, OpenSSL: {theirs:?}", mutant.changes));
            }
        }
    }
    println!("{accepted} accepted by both, {refused} rejected by both");
    assert!(faults.is_empty(), "{} disagreements:\n{}", faults.len(), faults.join("\n"));
    assert!(accepted > 0 && refused > 0, "the generator must make both kinds");
}

/// True for disagreements in which RFC 5280 supports our decision or allows both.
fn explained(changes: &[&str], ours: &Result<(), Refusal>, theirs: &Result<(), String>) -> bool {
    let (words, of) = match (ours, theirs) {
        (Ok(()), Err(theirs)) => (theirs.as_str(), ACCEPTED_HERE_ONLY),
        (Err(ours), Ok(())) => (ours.detail.as_str(), REFUSED_HERE_ONLY),
        _ => return true,
    };
    of.iter().any(|(word, change)| {
        words.contains(word) && (change.is_empty() || changes.contains(change))
    })
}

/// Parts of OpenSSL's message, each with the change that causes it.
const ACCEPTED_HERE_ONLY: &[(&str, &str)] = &[
    // 4.2.1.12: "If a CA includes extended key usages to satisfy such applications, but does not wish
    // to restrict usages of the key, the CA can include the special KeyPurposeId anyExtendedKeyUsage".
    ("unsuitable certificate purpose", "anyExtendedKeyUsage"),
    // 6.1: "A certificate is self-issued if the same DN appears in the subject and issuer fields";
    // one that another key signed does not end a path.  OpenSSL treats it as a root.
    ("self-signed certificate in certificate chain", "self-issued authority"),
    // 4.1.2.5: "The validity period for a certificate is the period of time from notBefore through
    // notAfter, inclusive."  OpenSSL excludes the last second.
    ("certificate has expired", "validity"),
    // 4.2.1.1: the key identifiers serve "to facilitate certification path construction"; section 6.1
    // does not compare them.
    ("unable to get local issuer certificate", "wrong key identifier"),
    // 6.1.5 (g) (ii): "If the valid_policy_tree is not NULL and the user-initial-policy-set is
    // any-policy, the intersection is the entire valid_policy_tree."  OpenSSL counts no policy below
    // an anyPolicy that was not itself listed; the unit tests compare ours with the RFC's tree.
    ("no explicit policy", "policies"),
];

/// Parts of our explanation, each with the change that causes it.
const REFUSED_HERE_ONLY: &[(&str, &str)] = &[
    // 4.2.1.10: "The name constraints extension, which MUST be used only in a CA certificate".
    ("has nameConstraints but is not an authority", "constraints on the leaf"),
    // A wildcard whose expansions reach into an excluded subtree (CVE-2025-61727).
    ("`*.fleet.example`", ""),
    // 4.1.2.9: extensions "MUST only appear if the version is 3".
    ("present, but not a v3 certificate", "version"),
    // 6.1.4 (k): "If certificate i is a version 3 certificate, verify that the basicConstraints
    // extension is present and that cA is set to TRUE."  OpenSSL takes keyCertSign instead.
    ("it has no basicConstraints", "basicConstraints of an authority"),
    // 6.1.4 (k): "If certificate i is a version 1 or version 2 certificate, then the application MUST
    // either verify that certificate i is a CA certificate through out-of-band means or reject".
    ("it is not an X.509 v3 certificate", "version"),
];

/// The chain as a request for `verify --batch`.
fn line(mutant: &Mutant) -> Value {
    let authority = json!({"isRootAuthority": true, "certificate": STANDARD.encode(&mutant.root)});
    json!({
        "id": mutant.seed,
        "changes": mutant.changes,
        "directory": {"value": [{
            "id": "fleet",
            "tlsClientAuthParameter": "tls_client_auth_subject_dn",
            "certificateAuthorities": [authority],
        }]},
        "chainPem": mutant.chain.iter().map(|der| pem("CERTIFICATE", der)).collect::<String>(),
        "at": Timestamp(NOW).to_string(),
    })
}

/// Runs `openssl verify`; the error is its output.
fn openssl(mutant: &Mutant, folder: &Path) -> Result<(), String> {
    let write = |name: &str, certificates: &[Vec<u8>]| {
        let text: String = certificates.iter().map(|der| pem("CERTIFICATE", der)).collect();
        fs::write(folder.join(name), text).expect("written");
    };
    write("root.pem", std::slice::from_ref(&mutant.root));
    write("leaf.pem", &mutant.chain[..1]);
    write("others.pem", &mutant.chain[1..]);
    let mut command = Command::new("openssl");
    command.current_dir(folder).args(["verify", "-policy_check", "-purpose", "sslclient"]);
    command.args(["-attime", &NOW.to_string(), "-no-CApath", "-no-CAstore", "-CAfile", "root.pem"]);
    if mutant.chain.len() > 1 {
        command.args(["-untrusted", "others.pem"]);
    }
    let output = command.arg("leaf.pem").output().expect("openssl is installed");
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(text.lines().filter(|line| line.starts_with("error")).collect::<Vec<_>>().join("; "))
}

proptest! {
    /// A short version of `fuzz/fuzz_targets/paths.rs`.
    #[test]
    fn both_validators_agree_on_patched_certificates(
        seed in 0u64..4096,
        patches in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        prop_assert_eq!(judges::agree(&mutants::patched(seed, &patches)), Ok(()));
    }
}
