//! Compares reading and decisions with other implementations: Python's `cryptography` and the
//! `openssl` program.  Both are required; `tests/run` installs them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anchorgate::trust::refusal::Code;
use anchorgate::trust::revocation::{CrlMode, Question, Revocations};
use anchorgate::x509::certificate::Certificate;
use anchorgate::x509::crl::RevocationList;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::crl_maker::{self, Ca, List, NOW, tlv};

/// A small deterministic random number generator.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % limit
    }

    fn serial(&mut self) -> Vec<u8> {
        let length = [1, 2, 8, 9, 16, 17, 19, 20][self.below(8) as usize];
        let digits: Vec<u8> = (0..length).map(|_| self.below(256) as u8).collect();
        [&[self.below(127) as u8 + 1], &digits[1..]].concat()
    }

    fn list<'a>(&mut self, ca: &'a Ca) -> List<'a> {
        let mut list = ca.list().number(self.below(1000));
        for _ in 0..self.below(12) {
            let reason = [None, Some(0), Some(1), Some(4), Some(5), Some(6), Some(9)];
            list = list.revoke(&self.serial(), reason[self.below(7) as usize]);
        }
        match self.below(4) {
            0 => list.scope(&[0x81, 1, 0xff]),
            1 => list.scope(&[0x83, 2, 5, 0x60]),
            _ => list,
        }
    }
}

const READ: &str = r#"
import json, pathlib, sys
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key
folder = pathlib.Path(sys.argv[1])
key = load_der_public_key((folder / "key").read_bytes())
out = {}
for path in sorted(folder.glob("*.crl")):
    try:
        crl = x509.load_der_x509_crl(path.read_bytes())
        entries = {}
        for entry in crl:
            try:
                reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
            except x509.ExtensionNotFound:
                reason = "unspecified"
            entries.setdefault("%x" % entry.serial_number, []).append(reason)
        list(crl.extensions)
        crl.next_update_utc
        if not crl.is_signature_valid(key):
            raise ValueError("signature")
        out[path.name] = {"Ok": entries}
    except Exception as error:
        out[path.name] = {"Err": repr(error)}
json.dump(out, sys.stdout)
"#;

/// The result of each file: reasons by hexadecimal serial.
type Read = BTreeMap<String, Result<BTreeMap<String, Vec<String>>, String>>;

fn read_by_python(folder: &Path) -> Read {
    // The virtual environment that `tests/run` creates, if there is one.
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python");
    let python = if own.exists() { own } else { "python3".into() };
    let output = Command::new(python).args(["-c", READ]).arg(folder).output();
    let output = output.expect("python3 with `cryptography` is required");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "python3 with `cryptography` is required: {stderr}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn hex(serial: &[u8]) -> String {
    let text: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = text.trim_start_matches('0');
    if text.is_empty() { "0".to_owned() } else { text.to_owned() }
}

#[test]
fn reads_the_same_entries_as_python_cryptography() {
    let ca = Ca::root("Root");
    let mut dice = Dice(1);
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("key"), &ca.certificate.spki).expect("room");
    let mut lists = Vec::new();
    for number in 0..6000 {
        let list = dice.list(&ca);
        // One in four is unchanged; the others are changed before signing.
        let changes = if number % 4 == 0 { 0 } else { 1 + dice.below(3) };
        let der = list.sign_changed(|tbs| {
            for _ in 0..changes {
                let at = dice.below(tbs.len() as u64) as usize;
                tbs[at] = [tbs[at] ^ (1 << dice.below(8)), dice.below(256) as u8][at % 2];
            }
        });
        let name = format!("{number:05}.crl");
        fs::write(folder.path().join(&name), &der).expect("room");
        lists.push((name, changes, der));
    }
    let theirs = read_by_python(folder.path());
    let (mut used, mut stricter) = (0, 0);
    for (name, changes, der) in &lists {
        let ours = RevocationList::read(der, std::slice::from_ref(&ca.certificate), NOW);
        let theirs = &theirs[name];
        match (&ours, theirs) {
            (Ok(list), Ok(theirs)) => {
                used += 1;
                let count: usize = theirs.values().map(Vec::len).sum();
                assert_eq!(list.entries(), count, "{name}");
                for (serial, reasons) in theirs {
                    let negative = serial.starts_with('-');
                    let digits = (0..serial.len()).step_by(2).map(|i| {
                        let padded =
                            format!("{serial:0>width$}", width = serial.len().next_multiple_of(2));
                        u8::from_str_radix(&padded[i..i + 2], 16).unwrap_or_default()
                    });
                    if negative || reasons.len() > 1 {
                        continue;
                    }
                    let serial = crl_maker::unsigned(&digits.collect::<Vec<_>>())[2..].to_vec();
                    let found = list.listed(&list.issuer, &serial).map(|reason| reason.to_string());
                    assert_eq!(found.as_ref(), Some(&reasons[0]), "{name}: {}", hex(&serial));
                }
            }
            (Ok(_), Err(why)) => panic!("{name}: accepted here only ({changes} changes): {why}"),
            (Err(_), Ok(_)) => stricter += 1,
            (Err(_), Err(_)) => {}
        }
        assert!(*changes > 0 || ours.is_ok(), "{name}: {:?}", ours.err());
    }
    assert!(used >= 1500, "{used} lists were compared; {stricter} were rejected here only");
}

fn certificate_pem(certificate: &Certificate) -> String {
    let text = STANDARD.encode(certificate.der());
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Runs `openssl verify` with these lists and returns the refusal of each device, if any.
fn refused_by_openssl(folder: &Path, lists: &[Vec<u8>], devices: usize) -> Vec<Option<Code>> {
    let pem: String = lists.iter().map(|der| crl_maker::pem(der)).collect();
    fs::write(folder.join("lists.pem"), pem).expect("room");
    let mut command = Command::new("openssl");
    command.current_dir(folder).args(["verify", "-crl_check", "-use_deltas", "-extended_crl"]);
    command.args(["-attime", &NOW.0.to_string(), "-CAfile", "root.pem", "-CRLfile", "lists.pem"]);
    command.args((0..devices).map(|n| format!("{n}.pem")));
    let output = command.output().expect("the `openssl` program is required");
    let (out, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let mut codes = vec![None; devices];
    let mut why = "";
    for line in stderr.lines() {
        if let Some((_, reason)) = line.split_once("lookup: ") {
            why = reason;
        }
        let failed = line
            .strip_prefix("error ")
            .and_then(|rest| rest.strip_suffix(".pem: verification failed"));
        if let Some(n) = failed.and_then(|n| n.parse::<usize>().ok()) {
            codes[n] = Some(match why {
                "certificate revoked" => Code::CertificateRevoked,
                "different CRL scope" => Code::CrlMissing,
                other => panic!("{n}: {other}: {stderr}"),
            });
        }
    }
    let good = out.lines().filter(|line| line.ends_with(": OK")).count();
    assert_eq!(good + codes.iter().flatten().count(), devices, "{out}{stderr}");
    codes
}

#[test]
fn decides_like_openssl() {
    const DEVICES: u8 = 8;
    const ROUNDS: usize = 500;
    let ca = Ca::root("Root");
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("root.pem"), certificate_pem(&ca.certificate)).expect("room");
    let fleet: Vec<_> = (0..DEVICES).map(|n| ca.issue("device", &[n + 1], &[])).collect();
    for (n, device) in fleet.iter().enumerate() {
        fs::write(folder.path().join(format!("{n}.pem")), certificate_pem(device)).expect("room");
    }
    // OpenSSL looks for deltas only if freshestCRL names some.
    let freshest = {
        let uri = tlv(0xa0, &tlv(0xa0, &tlv(0x86, b"http://ca.example/delta")));
        tlv(0x30, &tlv(0x30, &uri))
    };
    let mut dice = Dice(2);
    for _ in 0..ROUNDS {
        let mut base = ca.list().number(10).extension(&[0x55, 0x1d, 46], false, &freshest);
        let delta_base = 8 + dice.below(4);
        let delta_number = delta_base + 1 + dice.below(3);
        let mut delta = ca.list().number(delta_number).delta_to(delta_base);
        // Scopes: all, only devices, only authorities.  A delta must have the scope of its base.
        let scopes: [&[u8]; 4] = [&[], &[], &[0x81, 1, 0xff], &[0x82, 1, 0xff]];
        let scope = scopes[dice.below(4) as usize];
        let same_scope = dice.below(8) > 0;
        if !scope.is_empty() {
            base = base.scope(scope);
        }
        if !scope.is_empty() && same_scope {
            delta = delta.scope(scope);
        }
        for serial in 1..=DEVICES {
            match dice.below(6) {
                0 => base = base.revoke(&[serial], Some(1)),
                1 => base = base.revoke(&[serial], Some(6)),
                2 => {
                    base = base.revoke(&[serial], Some(6));
                    delta = delta.revoke(&[serial], Some(8));
                }
                3 => delta = delta.revoke(&[serial], None),
                _ => {}
            }
        }
        let lists = [base.sign(), delta.sign()];
        let signers = [Arc::clone(&ca.certificate)];
        let read = |der| Arc::new(RevocationList::read(der, &signers, NOW).expect("a list"));
        let revocations = Revocations::new(lists.iter().map(|der| read(der)));
        let theirs = refused_by_openssl(folder.path(), &lists, fleet.len());
        // A delta that starts after the complete list must not be combined.  Here its entries still
        // count against a certificate; in OpenSSL they do not.
        let fits = delta_base <= 10 && delta_number > 10 && (scope.is_empty() || same_scope);
        for (n, (device, theirs)) in fleet.iter().zip(theirs).enumerate() {
            let question = Question {
                domain: "",
                certificate: device,
                issuer: &ca.certificate.subject,
                issuer_key: ca.certificate.key,
                mode: CrlMode::Require,
                now: NOW,
                signer_is_trusted: &|_| false,
            };
            let ours = revocations.check(&question).err().map(|refusal| refusal.code);
            let ours_plain = ours.map(|code| match code {
                Code::CertificateOnHold => Code::CertificateRevoked,
                other => other,
            });
            // OpenSSL ignores entries of a list that does not cover the certificate.  Here they count.
            let out_of_scope = theirs == Some(Code::CrlMissing);
            if theirs.is_some() && (!fits || out_of_scope) {
                assert!(ours.is_some(), "{n}: {delta_number} to {delta_base}, not {theirs:?}");
            } else if fits {
                assert_eq!(ours_plain, theirs, "{n}: {delta_number} to {delta_base}");
            }
        }
    }
}

#[test]
fn openssl_verifies_every_accepted_list() {
    let ca = Ca::root("Root");
    let mut dice = Dice(3);
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("root.pem"), certificate_pem(&ca.certificate)).expect("room");
    let (mut used, mut changed) = (0, 0);
    for number in 0..2000 {
        let changes = dice.below(3);
        let der = dice.list(&ca).sign_changed(|tbs| {
            for _ in 0..changes {
                let at = dice.below(tbs.len() as u64) as usize;
                tbs[at] ^= 1 << dice.below(8);
            }
        });
        // Some signatures are damaged.
        let mut der = der;
        if dice.below(4) == 0 {
            let at = dice.below(der.len() as u64) as usize;
            der[at] ^= 1;
        }
        let signers = std::slice::from_ref(&ca.certificate);
        if RevocationList::read(&der, signers, NOW).is_err() {
            continue;
        }
        used += 1;
        changed += u32::from(changes > 0);
        let list = folder.path().join("list.crl");
        fs::write(&list, der).expect("room");
        let mut command = Command::new("openssl");
        command.current_dir(folder.path()).args(["crl", "-inform", "DER", "-in", "list.crl"]);
        let output = command.args(["-noout", "-CAfile", "root.pem"]).output();
        let output = output.expect("the `openssl` program is required");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.contains("verify OK"), "{number}: {stderr}");
    }
    assert!(used > 500 && changed > 100, "{used} lists were accepted, {changed} of them changed");
}
