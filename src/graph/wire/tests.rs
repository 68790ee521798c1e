use super::*;
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

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

fn one(value: &Value) -> Entry {
    read_entry(value.to_string().as_bytes()).expect("an entry")
}

fn whole(value: &Value) -> (Configuration, Vec<Skipped>) {
    match one(value) {
        Entry::Whole { configuration, skipped } => (configuration, skipped),
        other => panic!("not whole: {other:?}"),
    }
}

#[test]
fn a_list_answer_is_read() {
    let answer = json!({
        "@odata.context": "https://graph.example/beta/$metadata#x",
        "value": [configuration("a", json!([{
            "certificate": ca("root"), "isRootAuthority": true,
            "certificateRevocationListUrl": "http://pki.example/root.crl",
            "deltaCertificateRevocationListUrl": "http://pki.example/root-delta.crl",
            "issuer": "CN=somebody else", "issuerSki": "00",
        }]))],
        "@odata.nextLink": "https://graph.example/beta/next",
    });
    let page = Page::read(answer.to_string().as_bytes()).expect("a page");
    assert_eq!(page.next.as_deref(), Some("https://graph.example/beta/next"));
    let [Entry::Whole { configuration, skipped }] = &page.entries[..] else { panic!("{page:?}") };
    assert_eq!(configuration.kind, Kind::Devices(SubjectField::SanUri));
    let authority = &configuration.authorities[0];
    assert!(authority.is_root && skipped.is_empty());
    assert_eq!(authority.crl_url.as_deref(), Some("http://pki.example/root.crl"));
    assert_eq!(authority.delta_crl_url.as_deref(), Some("http://pki.example/root-delta.crl"));
}

#[test]
fn published_misspellings_are_understood() {
    let der = ca("root");
    for parameter in [json!("tls_client_auth_san_ip"), json!("tlsClientAuthSanIp"), json!(3)] {
        for list in ["certificateAuthorities", "certificateAuthorities ", "certificateAuthority"] {
            for ski in ["issuerSki", "issuerSubjectkeyIdentifier", "issuerSubjectKeyIdentifier"] {
                let value = json!({
                    "id": "a", "tlsClientAuthParameter": parameter,
                    list: [{"certificate": der, "isRootAuthority": true, ski: "AA"}],
                });
                let (configuration, skipped) = whole(&value);
                assert_eq!(configuration.kind, Kind::Devices(SubjectField::SanIp));
                assert_eq!((configuration.authorities.len(), skipped.len()), (1, 0));
            }
        }
    }
}

#[test]
fn what_is_missing_is_not_taken_for_a_removal() {
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
    assert!(whole(&configuration("a", json!([]))).0.authorities.is_empty());
}

#[test]
fn one_bad_configuration_is_left_out_alone() {
    let root = json!([{"certificate": ca("root"), "isRootAuthority": true}]);
    let mut unknown = configuration("unknown", root.clone());
    unknown["tlsClientAuthParameter"] = json!("unknownFutureValue");
    let mut deleted = configuration("deleted", root.clone());
    deleted["deletedDateTime"] = json!("2026-11-20T00:00:00Z");
    let answer = json!({"value": [unknown, configuration("good", root), deleted]});
    let set = read_anchor_set(answer.to_string().as_bytes()).expect("a set");
    assert_eq!(set.configurations.len(), 1);
    assert_eq!(set.configurations[0].id.as_str(), "good");
    let out: Vec<_> = set.skipped.iter().map(|s| s.configuration.as_str()).collect();
    assert_eq!(out, ["unknown", "deleted"]);
    assert!(set.skipped[0].why.contains("unknownFutureValue"));
}

#[test]
fn an_authority_that_cannot_be_used_is_left_out_alone() {
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
        let (configuration, skipped) = whole(&configuration("a", json!([bad, good])));
        assert_eq!(configuration.authorities.len(), 1, "{why}");
        assert!(skipped[0].why.starts_with("certificateAuthorities[0]"));
        assert!(skipped[0].why.contains(why), "{} has no `{why}`", skipped[0].why);
    }
}

/// Each collection is read by its own members, and the other's say nothing.
#[test]
fn an_application_configuration_is_read_by_its_own_members() {
    let root = json!([{"certificate": ca("root"), "isRootAuthority": true}]);
    let read = |value: &Value| {
        let list = json!({"value": [value]}).to_string();
        let page = Page::read_of(Collection::Applications, list.as_bytes()).expect("a page");
        page.entries.into_iter().next().expect("an entry")
    };
    let whole = json!({"id": "a", "displayName": "x", "trustedCertificateAuthorities ": root});
    match read(&whole) {
        Entry::Whole { configuration, skipped } => {
            assert_eq!(configuration.kind, Kind::Applications);
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
    let mut deleted = whole.clone();
    deleted["deletedDateTime"] = json!("2026-11-20T00:00:00Z");
    assert!(matches!(read(&deleted), Entry::Out(_)));
    // And an application configuration among those of devices is none of theirs.
    assert!(matches!(one(&whole), Entry::Shortened { readable: None, .. }));
}

#[test]
fn an_unusable_answer_is_an_error() {
    let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
    for (json, error) in [
        ("<html>", "not JSON"),
        (r#"{"value":[{"id":"a"}"#, "not JSON"),
        (r#"{"error":{"code":"x"}}"#, "`value` is no list"),
        (r#"{"value":{}}"#, "`value` is no list"),
        (r#"{"value":[{}]}"#, "no id"),
        (r#"{"value":[{"id":"a b"}]}"#, "printable"),
        (r#"{"value":[7]}"#, "no object"),
        (r#"{"value":[],"@odata.nextLink":7}"#, "nextLink is 7"),
        (&deep, "deeper than 32"),
    ] {
        let got = Page::read(json.as_bytes()).expect_err(json).to_string();
        assert!(got.contains(error), "{got}");
    }
    assert!(read_anchor_set(br#"{"value":[],"@odata.nextLink":"https://x/"}"#).is_err());
    let twice = json!({"value": [configuration("a", json!([])), configuration("a", json!([]))]});
    assert!(read_anchor_set(twice.to_string().as_bytes()).is_err());
}

/// JSON of every shape, with the names that are looked for among its keys.
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
    fn no_json_makes_it_panic(value in any_json()) {
        let text = value.to_string();
        let list = json!({"value": [value]}).to_string();
        for collection in [Collection::Devices, Collection::Applications] {
            let _ = Page::read_of(collection, text.as_bytes());
            let _ = read_set(collection, list.as_bytes());
        }
        let _ = read_entry(text.as_bytes());
        let _ = read_authorities(text.as_bytes());
        let values = value.as_array().cloned().unwrap_or_default();
        let _ = application(&"a".into(), "", &values);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Page::read(&bytes);
    }

    #[test]
    fn a_cut_answer_is_never_a_shorter_list(cut in 1usize..200) {
        let list = json!({"value": [configuration("a", json!([])), configuration("b", json!([]))]});
        let text = list.to_string();
        let cut = text.len().saturating_sub(cut).max(1);
        prop_assert!(Page::read(&text.as_bytes()[..cut]).is_err());
    }
}
