use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

use super::*;
use crate::trust::configurations::{Application, Configuration, Configurations, Device, Skipped};
use crate::trust::subject::SubjectField;

fn ca(name: &str) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    STANDARD.encode(params.self_signed(&key).expect("a certificate").der())
}

#[allow(clippy::needless_pass_by_value)] // Literals read better by value.
fn configuration(id: &str, authorities: Value) -> Value {
    json!({
        "id": id, "deletedDateTime": null, "displayName": "fleet",
        "tlsClientAuthParameter": "tls_client_auth_san_uri", "certificateAuthorities": authorities,
    })
}

fn one(value: &Value) -> Entry<Device> {
    read_entry(value.to_string().as_bytes()).expect("an entry")
}

fn complete(value: &Value) -> (Configuration<Device>, Vec<Skipped>) {
    match one(value) {
        Entry::Complete { configuration, skipped } => (configuration, skipped),
        other => panic!("not complete: {other:?}"),
    }
}

#[test]
fn reads_a_list_response() {
    let answer = json!({
        "@odata.context": "https://graph.example/beta/$metadata#x",
        "value": [configuration("a", json!([{
            "certificate": ca("root"), "isRootAuthority": true,
            "certificateRevocationListUrl": "http://pki.example/root.crl",
            "deltaCertificateRevocationListUrl": "http://pki.example/root-delta.crl",
            "issuer": "CN=ignored", "issuerSki": "00",
        }]))],
        "@odata.nextLink": "https://graph.example/beta/next",
    });
    let page = Page::<Device>::read(answer.to_string().as_bytes()).expect("a page");
    assert_eq!(page.next.as_deref(), Some("https://graph.example/beta/next"));
    let [Entry::Complete { configuration, skipped }] = &page.entries[..] else {
        panic!("{page:?}")
    };
    assert_eq!(configuration.kind.subject_field, SubjectField::SanUri);
    let authority = &configuration.authorities[0];
    assert!(authority.is_root && skipped.is_empty());
    assert_eq!(authority.crl_url.as_deref(), Some("http://pki.example/root.crl"));
    assert_eq!(authority.delta_crl_url.as_deref(), Some("http://pki.example/root-delta.crl"));
}

#[test]
fn accepts_published_misspellings() {
    let der = ca("root");
    for parameter in [json!("tls_client_auth_san_ip"), json!("tlsClientAuthSanIp"), json!(3)] {
        for list in ["certificateAuthorities", "certificateAuthorities ", "certificateAuthority"] {
            for ski in ["issuerSki", "issuerSubjectkeyIdentifier", "issuerSubjectKeyIdentifier"] {
                let value = json!({
                    "id": "a", "tlsClientAuthParameter": parameter,
                    list: [{"certificate": der, "isRootAuthority": true, ski: "AA"}],
                });
                let (configuration, skipped) = complete(&value);
                assert_eq!(configuration.kind.subject_field, SubjectField::SanIp);
                assert_eq!((configuration.authorities.len(), skipped.len()), (1, 0));
            }
        }
    }
}

#[test]
fn missing_members_do_not_count_as_removals() {
    let root = json!({"certificate": ca("root"), "isRootAuthority": true});
    let cut = json!({"@odata.type": "microsoft.graph.certificateAuthority"});
    match one(&configuration("a", json!([root, cut]))) {
        Entry::Shortened { readable: Some(readable), why, .. } => {
            assert_eq!(readable.authorities.len(), 1);
            assert!(why.contains("certificateAuthorities[1]"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    for damaged in [
        json!({"id": "a", "tlsClientAuthParameter": "tls_client_auth_san_dns"}),
        json!({"id": "a", "certificateAuthorities": [root]}),
        configuration("a", Value::Null),
        configuration("a", json!([{"certificate": "MIIB*", "isRootAuthority": true}])),
        configuration("a", json!([{"certificate": ca("root")}])),
        configuration("a", json!([null])),
    ] {
        assert!(matches!(one(&damaged), Entry::Shortened { .. }), "{damaged}");
    }
    assert!(complete(&configuration("a", json!([]))).0.authorities.is_empty());
}

#[test]
fn skips_only_the_configurations_that_are_not_usable() {
    let root = json!([{"certificate": ca("root"), "isRootAuthority": true}]);
    let mut unknown = configuration("unknown", root.clone());
    unknown["tlsClientAuthParameter"] = json!("unknownFutureValue");
    let mut deleted = configuration("deleted", root.clone());
    deleted["deletedDateTime"] = json!("2026-11-20T00:00:00Z");
    let answer = json!({"value": [unknown, configuration("good", root), deleted]});
    let set: Configurations<Device> =
        read_configurations(answer.to_string().as_bytes()).expect("a set");
    assert_eq!(set.configurations.len(), 1);
    assert_eq!(set.configurations[0].id.as_str(), "good");
    let out: Vec<_> = set.skipped.iter().map(|s| s.configuration.as_str()).collect();
    assert_eq!(out, ["unknown", "deleted"]);
    assert!(set.skipped[0].why.contains("unknownFutureValue"));
}

#[test]
fn skips_only_the_authorities_that_are_not_usable() {
    let good = json!({"certificate": ca("root"), "isRootAuthority": true});
    for (bad, why) in [
        (json!({"certificate": "AAAA", "isRootAuthority": true}), "certificate: frame"),
        (json!({"certificate": ca("x"), "isRootAuthority": "yes"}), "isRootAuthority is"),
        (
            json!({"certificate": ca("x"), "isRootAuthority": true,
                "certificateRevocationListUrl": 7}),
            "certificateRevocationListUrl is 7",
        ),
        (
            json!({"certificate": ca("x"), "isRootAuthority": true,
                "deltaCertificateRevocationListUrl": "http://pki.example/d.crl"}),
            "without certificateRevocationListUrl",
        ),
        (json!({"certificate": "A".repeat(100_000), "isRootAuthority": true}), "at most 65536"),
    ] {
        let (configuration, skipped) = complete(&configuration("a", json!([bad, good])));
        assert_eq!(configuration.authorities.len(), 1, "{why}");
        assert!(skipped[0].why.starts_with("certificateAuthorities[0]"));
        assert!(skipped[0].why.contains(why), "{} has no `{why}`", skipped[0].why);
    }
}

/// The members of the other collection are ignored.
#[test]
fn reads_the_members_of_an_application_configuration() {
    let root = json!([{"certificate": ca("root"), "isRootAuthority": true}]);
    let read = |value: &Value| {
        let list = json!({"value": [value]}).to_string();
        let page = Page::<Application>::read(list.as_bytes()).expect("a page");
        page.entries.into_iter().next().expect("an entry")
    };
    let complete = json!({"id": "a", "displayName": "x", "trustedCertificateAuthorities ": root});
    match read(&complete) {
        Entry::Complete { configuration, skipped } => {
            assert_eq!((configuration.authorities.len(), skipped.len()), (1, 0));
        }
        other => panic!("{other:?}"),
    }
    let empty = json!({"id": "a", "trustedCertificateAuthorities": null});
    for shortened in [configuration("a", root.clone()), empty] {
        match read(&shortened) {
            Entry::Shortened { readable: Some(known), .. } => assert!(known.authorities.is_empty()),
            other => panic!("{other:?}"),
        }
    }
    let mut deleted = complete.clone();
    deleted["deletedDateTime"] = json!("2026-11-20T00:00:00Z");
    assert!(matches!(read(&deleted), Entry::Skipped(_)));
    // An application configuration is not a device configuration.
    assert!(matches!(one(&complete), Entry::Shortened { readable: None, .. }));
}

#[test]
fn rejects_unusable_responses() {
    let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
    for (json, error) in [
        ("<html>", "not JSON"),
        (r#"{"value":[{"id":"a"}"#, "not JSON"),
        (r#"{"error":{"code":"x"}}"#, "`value` is not a list"),
        (r#"{"value":{}}"#, "`value` is not a list"),
        (r#"{"value":[{}]}"#, "no id"),
        (r#"{"value":[{"id":"a b"}]}"#, "printable"),
        (r#"{"value":[7]}"#, "not an object"),
        (r#"{"value":[],"@odata.nextLink":7}"#, "nextLink is 7"),
        (&deep, "deeper than 32"),
    ] {
        let got = Page::<Device>::read(json.as_bytes()).expect_err(json).to_string();
        assert!(got.contains(error), "{got}");
    }
    assert!(
        read_configurations::<Device>(br#"{"value":[],"@odata.nextLink":"https://x/"}"#).is_err()
    );
    let twice = json!({"value": [configuration("a", json!([])), configuration("a", json!([]))]});
    assert!(read_configurations::<Device>(twice.to_string().as_bytes()).is_err());
}

/// Arbitrary JSON, whose keys include the names of known members.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!("tls_client_auth_san_uri")),
    ];
    let key = prop::sample::select(vec![
        "id",
        "value",
        "certificate",
        "isRootAuthority",
        "certificateAuthorities ",
        "trustedCertificateAuthorities",
        "trustedCertificateAuthorities@odata.nextLink",
        "tlsClientAuthParameter",
        "deletedDateTime",
        "@odata.nextLink",
        "certificateRevocationListUrl",
    ]);
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn does_not_panic_on_any_json(value in any_json()) {
        let text = value.to_string();
        let list = json!({"value": [value]}).to_string();
        let _ = Page::<Device>::read(text.as_bytes());
        let _ = Page::<Application>::read(text.as_bytes());
        let _ = read_configurations::<Device>(list.as_bytes());
        let _ = read_configurations::<Application>(list.as_bytes());
        let _ = read_entry::<Device>(text.as_bytes());
        let _ = read_authorities(text.as_bytes());
        let values = value.as_array().cloned().unwrap_or_default();
        let skeleton = Configuration {
            id: "a".into(),
            domain: Arc::default(),
            display_name: String::new(),
            kind: Application,
            authorities: Vec::new(),
        };
        let _ = with_authorities(skeleton, &values);
    }

    #[test]
    fn does_not_panic_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Page::<Device>::read(&bytes);
    }

    #[test]
    fn rejects_truncated_responses(cut in 1usize..200) {
        let list = json!({"value": [configuration("a", json!([])), configuration("b", json!([]))]});
        let text = list.to_string();
        let cut = text.len().saturating_sub(cut).max(1);
        prop_assert!(Page::<Device>::read(&text.as_bytes()[..cut]).is_err());
    }
}
