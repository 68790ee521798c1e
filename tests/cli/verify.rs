//! `anchorgate verify`: refusal codes, the batch interface, and input from files.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::test_certificates::{self, Key, Spec, cn, crl, oid, pem, seq, tlv};

const AT: &str = "2026-06-01T00:00:00Z";
const DNS: u8 = 2;
const URI: u8 = 6;

/// A root (key 0), an intermediate (key 1) and a device (key 2), to be changed by each test.
struct World {
    root: Spec,
    intermediate: Spec,
    device: Spec,
    field: &'static str,
    crl_url: bool,
    lists: Vec<Vec<u8>>,
    /// Number of the key that signs the device.
    issuer_key: usize,
}

impl World {
    fn new() -> Self {
        Self {
            root: Spec::authority(cn("Root"), cn("Root")),
            intermediate: Spec::authority(cn("Intermediate"), cn("Root")),
            device: Spec::device(cn("device-1"), cn("Intermediate")),
            field: "tls_client_auth_subject_dn",
            crl_url: false,
            lists: Vec::new(),
            issuer_key: 1,
        }
    }

    fn with(change: impl FnOnce(&mut Self)) -> Value {
        let mut world = Self::new();
        change(&mut world);
        world.request()
    }

    fn request(&self) -> Value {
        let [root, intermediate, device] = [0, 1, 2].map(Key::number);
        let root_der = self.root.sign(root, root);
        let chain = [
            self.device.sign(device, Key::number(self.issuer_key)),
            self.intermediate.sign(intermediate, root),
        ];
        let lists: Vec<String> = self.lists.iter().map(|list| STANDARD.encode(list)).collect();
        json!({
            "directory": directory(&[("fleet", self.field, &root_der)], self.crl_url),
            "chainPem": chain.map(|der| pem("CERTIFICATE", &der)).concat(),
            "crlsBase64": lists,
            "at": AT,
        })
    }
}

fn directory(configurations: &[(&str, &str, &[u8])], crl_url: bool) -> Value {
    let value: Vec<Value> = configurations
        .iter()
        .map(|(id, field, root)| {
            let mut authority = json!({"isRootAuthority": true, "certificate": STANDARD.encode(root)});
            if crl_url {
                authority["certificateRevocationListUrl"] = json!("http://pki.example/root.crl");
            }
            json!({"id": id, "tlsClientAuthParameter": field, "certificateAuthorities": [authority]})
        })
        .collect();
    json!({"value": value})
}

/// The responses of one batch process.
fn batch(requests: &[Value]) -> Vec<Value> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_anchorgate"))
        .args(["verify", "--batch"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut input = child.stdin.take().expect("its input");
    let mut output = BufReader::new(child.stdout.take().expect("its output"));
    let answers = requests
        .iter()
        .map(|request| {
            let text = request.as_str().map_or_else(|| request.to_string(), str::to_owned);
            // The next request is sent after this response, so each response must be flushed.
            writeln!(input, "{text}").expect("it reads");
            let mut line = String::new();
            output.read_line(&mut line).expect("it answers");
            serde_json::from_str(&line).expect("an answer is JSON")
        })
        .collect();
    drop(input);
    assert!(child.wait().expect("it ends").success());
    answers
}

fn names(count: usize) -> Vec<(u8, Vec<u8>)> {
    (0..count).map(|n| (DNS, format!("h{n}.test").into_bytes())).collect()
}

#[test]
fn every_refusal_code_of_the_judge_is_reachable() {
    let list = |this: &str, next: &str, entries: &[(&[u8], Option<u8>)]| {
        crl(&cn("Root"), this, next, entries, Key::number(0))
    };
    // Lists of the root, which issued the intermediate with serial 42.
    let listed =
        move |this: &'static str, next: &'static str, entries: &'static [(&[u8], Option<u8>)]| {
            World::with(|w| {
                w.crl_url = true;
                w.lists = vec![list(this, next, entries)];
            })
        };
    let (fresh, later) = ("260501000000Z", "260701000000Z");
    let [mut none, mut garbage, mut long, mut twice] = [0; 4].map(|_| World::new().request());
    none["chainPem"] = json!("");
    garbage["chainPem"] = json!(pem("CERTIFICATE", &[0x30, 3, 1, 2, 3]));
    let one = first_certificate(&long);
    long["chainPem"] = json!(one.repeat(49));
    let root = World::new().root.sign(Key::number(0), Key::number(0));
    let field = "tls_client_auth_subject_dn";
    twice["directory"] = directory(&[("a", field, &root), ("b", field, &root)], false);

    let cases: Vec<(&str, Value)> = vec![
        ("certificate_missing", none),
        ("certificate_malformed", garbage),
        ("certificate_malformed", World::with(|w| w.device.serial = vec![0x7f; 65])),
        ("chain_too_long", long),
        ("chain_untrusted", World::with(|w| w.intermediate.issuer = cn("Unknown"))),
        ("certificate_expired", World::with(|w| w.device.not_after = "260531235959Z".into())),
        (
            "certificate_not_yet_valid",
            World::with(|w| w.device.not_before = "260601000001Z".into()),
        ),
        ("authority_expired", World::with(|w| w.intermediate.not_after = "260531235959Z".into())),
        ("authority_expired", World::with(|w| w.root.not_after = "260531235959Z".into())),
        (
            "authority_not_ca",
            World::with(|w| {
                w.intermediate =
                    w.intermediate.clone().without(test_certificates::BASIC_CONSTRAINTS);
            }),
        ),
        ("signature_invalid", World::with(|w| w.issuer_key = 3)),
        (
            "signature_algorithm",
            World::with(|w| w.device.algorithm = test_certificates::ECDSA_SHA1.to_vec()),
        ),
        (
            "key_usage",
            World::with(|w| {
                w.device = w.device.clone().with(
                    test_certificates::KEY_USAGE,
                    true,
                    test_certificates::key_usage(&[2]),
                );
            }),
        ),
        (
            "key_usage",
            World::with(|w| {
                let usage = test_certificates::key_usage(&[6]);
                w.intermediate =
                    w.intermediate.clone().with(test_certificates::KEY_USAGE, true, usage);
            }),
        ),
        (
            "extended_key_usage",
            World::with(|w| {
                let usage = seq(&[oid(test_certificates::SERVER_AUTH)]);
                w.device =
                    w.device.clone().with(test_certificates::EXTENDED_KEY_USAGE, false, usage);
            }),
        ),
        (
            "name_constraint",
            World::with(|w| {
                let only =
                    test_certificates::name_constraints(&[(DNS, b"fleet.example".to_vec())], &[]);
                w.root = w.root.clone().with(test_certificates::NAME_CONSTRAINTS, true, only);
                let san = test_certificates::general_names(&[(DNS, b"other.example".to_vec())]);
                w.device = w.device.clone().with(test_certificates::SUBJECT_ALT_NAME, false, san);
            }),
        ),
        ("path_length", World::with(|w| w.root = w.root.clone().path_length(0))),
        (
            "critical_extension",
            World::with(|w| {
                w.device = w.device.clone().with(&[0x2a, 3, 4], true, tlv(5, &[]));
            }),
        ),
        (
            "path_budget",
            World::with(|w| {
                let many = test_certificates::name_constraints(&names(900), &[]);
                w.root = w.root.clone().with(test_certificates::NAME_CONSTRAINTS, true, many);
                let san = test_certificates::general_names(&names(900));
                w.device = w.device.clone().with(test_certificates::SUBJECT_ALT_NAME, false, san);
            }),
        ),
        (
            "policy",
            World::with(|w| {
                let required = test_certificates::policy_constraints(Some(0), None);
                w.root = w.root.clone().with(test_certificates::POLICY_CONSTRAINTS, true, required);
            }),
        ),
        ("crl_missing", World::with(|w| w.crl_url = true)),
        ("crl_stale", listed("260401000000Z", "260501000000Z", &[])),
        (
            "crl_invalid",
            World::with(|w| {
                w.crl_url = true;
                w.lists = vec![crl(&cn("Root"), fresh, later, &[], Key::number(5))];
            }),
        ),
        ("certificate_revoked", listed(fresh, later, &[(&[0x42], Some(1))])),
        ("certificate_on_hold", listed(fresh, later, &[(&[0x42], Some(6))])),
        ("subject_missing", World::with(|w| w.field = "tls_client_auth_san_dns")),
        (
            "subject_ambiguous",
            World::with(|w| {
                w.field = "tls_client_auth_san_dns";
                let san = test_certificates::general_names(&names(2));
                w.device = w.device.clone().with(test_certificates::SUBJECT_ALT_NAME, false, san);
            }),
        ),
        (
            "subject_invalid",
            World::with(|w| {
                w.field = "tls_client_auth_san_dns";
                let san = test_certificates::general_names(&[(DNS, b"*.fleet.example".to_vec())]);
                w.device = w.device.clone().with(test_certificates::SUBJECT_ALT_NAME, false, san);
            }),
        ),
        ("configuration_ambiguous", twice),
    ];
    let requests: Vec<Value> = cases.iter().map(|(_, request)| request.clone()).collect();
    for ((code, _), answer) in cases.iter().zip(batch(&requests)) {
        assert_eq!(answer["decision"], "reject", "{code}: {answer}");
        assert_eq!(answer["reason"], *code, "{answer}");
        assert!(answer["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{answer}");
    }
}

/// The first certificate of a request's chain.
fn first_certificate(request: &Value) -> String {
    let chain = request["chainPem"].as_str().expect("a chain");
    let end = "-----END CERTIFICATE-----\n";
    format!("{}{end}", chain.split(end).next().expect("a certificate"))
}

#[test]
fn a_good_chain_is_accepted_with_its_identity() {
    let mut request = World::with(|w| {
        w.field = "tls_client_auth_san_uri";
        let san = test_certificates::general_names(&[(URI, b"urn:device:1".to_vec())]);
        w.device = w.device.clone().with(test_certificates::SUBJECT_ALT_NAME, false, san);
        w.crl_url = true;
        let (fresh, later) = ("260501000000Z", "260701000000Z");
        w.lists = vec![crl(&cn("Root"), fresh, later, &[(&[0x43], None)], Key::number(0))];
    });
    request["id"] = json!({"any": ["JSON", 7]});
    let answers = batch(&[request]);
    let answer = &answers[0];
    assert_eq!(answer["decision"], "accept", "{answer}");
    assert_eq!(answer["id"], json!({"any": ["JSON", 7]}));
    assert_eq!(answer["configurationId"], "fleet");
    assert_eq!(answer["subjectId"], "urn:device:1");
    let path: Vec<&str> = answer["path"]
        .as_array()
        .expect("a path")
        .iter()
        .filter_map(|c| c["subject"].as_str())
        .collect();
    assert_eq!(path, ["CN=device-1", "CN=Intermediate", "CN=Root"]);
    assert_eq!(answer["crls"][0]["entries"], 1);
}

#[test]
fn an_unusable_line_is_an_error_and_the_run_goes_on() {
    let good = World::new().request();
    let mut cases = Vec::new();
    for (member, value) in [
        ("directory", json!({"no": "list"})),
        ("directory", Value::Null),
        ("chainPem", json!(7)),
        ("crlsBase64", json!(["*"])),
        ("at", json!("yesterday")),
        ("crlPolicy", json!("maybe")),
        ("configurationId", json!("another")),
    ] {
        let mut bad = good.clone();
        bad["id"] = json!(member);
        bad[member] = value;
        cases.push(bad);
    }
    let mut requests = cases.clone();
    requests.push(json!("not JSON {{{"));
    requests.push(good);
    let answers = batch(&requests);
    for (case, answer) in cases.iter().zip(&answers) {
        assert_eq!(answer["decision"], "error", "{answer}");
        assert_eq!(answer["id"], case["id"]);
        assert!(answer["detail"].is_string());
    }
    let [.., garbage, last] = &answers[..] else { panic!("answers") };
    assert_eq!((&garbage["decision"], &garbage["id"]), (&json!("error"), &Value::Null));
    assert_eq!(last["decision"], "accept", "{last}");
}

#[test]
fn the_list_policy_of_a_request_overrides_the_directorys() {
    let missing = World::with(|w| w.crl_url = true);
    let decisions: Vec<Value> = ["require", "if-available", "off"]
        .map(|policy| {
            let mut request = missing.clone();
            request["crlPolicy"] = json!(policy);
            request
        })
        .to_vec();
    let answers = batch(&decisions);
    assert_eq!(answers[0]["reason"], "crl_missing");
    assert_eq!(answers[1]["decision"], "accept");
    assert_eq!(answers[2]["decision"], "accept");
}

#[test]
fn the_search_continues_past_a_revoked_intermediate() {
    let [a, b, intermediate, device] = [0, 1, 2, 3].map(Key::number);
    let root = |name: &str, key| Spec::authority(cn(name), cn(name)).sign(key, key);
    let by = |issuer: &str, serial: u8, key| {
        Spec::authority(cn("Intermediate"), cn(issuer)).serial(&[serial]).sign(intermediate, key)
    };
    let (by_a, by_b) = (by("Root A", 0x0a, a), by("Root B", 0x0b, b));
    let leaf = Spec::device(cn("device-1"), cn("Intermediate")).sign(device, intermediate);
    let (fresh, later) = ("260501000000Z", "260701000000Z");
    let list = |name: &str, revoked: &[u8], key| {
        STANDARD.encode(crl(&cn(name), fresh, later, &[(revoked, Some(4))], key))
    };
    let authorities = [root("Root A", a), root("Root B", b)].map(|der| {
        json!({
            "isRootAuthority": true,
            "certificate": STANDARD.encode(der),
            "certificateRevocationListUrl": "http://pki.example/root.crl",
        })
    });
    let chain = [&leaf, &by_a, &by_b].map(|der| pem("CERTIFICATE", der)).concat();
    let request = |revoked_by_b: u8| {
        json!({
            "directory": {"value": [{
                "id": "fleet",
                "tlsClientAuthParameter": "tls_client_auth_subject_dn",
                "certificateAuthorities": authorities,
            }]},
            "chainPem": chain,
            "crlsBase64": [list("Root A", &[0x0a], a), list("Root B", &[revoked_by_b], b)],
            "at": AT,
        })
    };
    let answers = batch(&[request(0x0a), request(0x0b)]);
    // The serial that A revoked is irrelevant for B's certificate.
    assert_eq!(answers[0]["decision"], "accept", "{}", answers[0]);
    assert_eq!(answers[0]["path"][2]["subject"], "CN=Root B");
    assert_eq!(answers[1]["reason"], "certificate_revoked", "{}", answers[1]);
}

#[test]
fn with_a_registry_only_its_devices_are_accepted() {
    let request = |devices: Value| {
        let mut request = World::new().request();
        request["devices"] = devices;
        request
    };
    let device = |id: &str, enabled: bool, external: &str| {
        let external = format!("[EXTID]:{external}");
        json!({ "id": id, "accountEnabled": enabled, "physicalIds": [external] })
    };
    let list = |devices: &[Value]| request(json!({ "value": devices }));
    let mut elsewhere = device("1", true, "CN=device-1");
    elsewhere["@anchorgate.mutualTlsOauthConfigurationId"] = json!("other");
    let questions = [
        (request(Value::Null), "accept", Value::Null),
        (list(&[device("1", true, "CN=device-1")]), "accept", Value::Null),
        (list(&[]), "reject", json!("device_unknown")),
        (list(&[device("1", true, "CN=DEVICE-1")]), "reject", json!("device_unknown")),
        (list(&[elsewhere]), "reject", json!("device_unknown")),
        (list(&[device("1", false, "CN=device-1")]), "reject", json!("device_disabled")),
        (
            list(&[device("1", true, "CN=device-1"), device("2", false, "CN=device-1")]),
            "reject",
            json!("device_disabled"),
        ),
        (request(json!({ "value": [7] })), "error", Value::Null),
    ];
    let requests: Vec<_> = questions.iter().map(|(request, ..)| request.clone()).collect();
    for (answer, (_, decision, reason)) in batch(&requests).iter().zip(&questions) {
        assert_eq!(
            (&answer["decision"], &answer["reason"]),
            (&json!(decision), reason),
            "{answer}"
        );
    }
}

#[test]
fn files_are_judged_and_every_path_is_explained() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let run = |chain: &str, more: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_anchorgate"))
            .args(["verify", "--directory", &path("d.json"), "--chain", chain, "--at", AT])
            .args(more)
            .output()
            .expect("it runs")
    };
    let request = World::new().request();
    fs::write(path("d.json"), request["directory"].to_string()).expect("written");
    fs::write(path("chain.pem"), request["chainPem"].as_str().expect("PEM")).expect("written");
    let accepted = run(&path("chain.pem"), &[]);
    assert_eq!(accepted.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&accepted.stdout).starts_with("accept\n"));

    fs::write(path("none.json"), "{\"value\":[]}").expect("written");
    let unknown = run(&path("chain.pem"), &["--devices", &path("none.json"), "--json"]);
    let answer: Value = serde_json::from_slice(&unknown.stdout).expect("JSON");
    assert_eq!((unknown.status.code(), &answer["reason"]), (Some(1), &json!("device_unknown")));

    let expired = World::with(|w| w.device.not_after = "260531235959Z".into());
    fs::write(path("old.pem"), expired["chainPem"].as_str().expect("PEM")).expect("written");
    let refused = run(&path("old.pem"), &["--json"]);
    assert_eq!(refused.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&refused.stdout).expect("JSON");
    assert_eq!(answer["reason"], "certificate_expired");
    assert_eq!(answer["tried"][0]["path"], json!(["CN=device-1", "CN=Intermediate", "CN=Root"]));
    assert_eq!(answer["tried"][0]["reason"], "certificate_expired");

    let unusable = run(&path("absent.pem"), &[]);
    assert_eq!(unusable.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unusable.stderr).contains("absent.pem"));

    // A file that is not a chain is never a device without a certificate.
    let pem = request["chainPem"].as_str().expect("PEM");
    for (file, problem) in [
        ("", "the file is empty"),
        (&*pem.replace("CERTIFICATE", "PKCS7"), "PKCS#7"),
        (&*pem.replace("CERTIFICATE", "PRIVATE KEY"), "PRIVATE KEY"),
        (&*pem.replace("END CERTIFICATE", "END"), "not valid PEM"),
    ] {
        fs::write(path("bad.pem"), file).expect("written");
        let unusable = run(&path("bad.pem"), &[]);
        assert_eq!(unusable.status.code(), Some(2), "{problem}");
        let error = String::from_utf8_lossy(&unusable.stderr);
        assert!(error.contains(problem), "{error} does not contain `{problem}`");
    }
    fs::write(path("bom.pem"), format!("\u{feff}{pem}")).expect("written");
    assert_eq!(run(&path("bom.pem"), &[]).status.code(), Some(0));
}
