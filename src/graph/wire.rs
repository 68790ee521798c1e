//! Graph's JSON, read with tolerance and turned into what the judge understands.
//!
//! The published pages, the metadata and the SDKs disagree in spelling (three names of the key
//! identifier, enum members without underscores, a key with a blank in it), so spelling is read
//! generously.  Meaning is not: what is unknown is left out with a reason, one configuration at a time,
//! and what is *missing* is told apart from what is *empty*, because a shortened answer must never be
//! taken for a removal.

use std::sync::Arc;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value, json};

use crate::domain::cert::Certificate;
use crate::domain::subject::SubjectField;
use crate::domain::trust::anchors::{
    AnchorSet, Authority, Configuration, ConfigurationId, Devices, Skipped,
};

/// Levels of nesting in JSON that is read.
pub const MAX_JSON_DEPTH: usize = 32;
/// Bytes of DER in one authority's certificate.  Graph's stores take 8 KiB; the rest is margin.
pub const MAX_CERTIFICATE_BYTES: usize = 64 * 1024;
/// Characters in an object's `id`.
pub const MAX_ID_LENGTH: usize = 128;
/// Characters in a revocation list's address.
pub const MAX_URL_LENGTH: usize = 2048;
/// Characters in a display name; what is longer is cut, since nothing is decided by it.
pub const MAX_DISPLAY_NAME: usize = 256;

/// Why an answer as a whole cannot be used.  Nothing of it is applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not JSON.
    #[error("not JSON: {0}")]
    Json(String),
    /// Nested deeper than is read.
    #[error("JSON nested deeper than {MAX_JSON_DEPTH} levels")]
    Depth,
    /// JSON, but not a Graph answer.
    #[error("not a Graph answer: {0}")]
    Shape(String),
}

/// One page of a list of `mutualTlsOauthConfiguration`.
#[derive(Debug)]
pub struct Page {
    /// The objects, in the answer's order.
    pub entries: Vec<Entry>,
    /// `@odata.nextLink`, as sent.
    pub next: Option<String>,
}

/// One object of a list, or the object of a GET by id.
#[derive(Debug, Clone)]
pub enum Entry {
    /// All of it is there.  Authorities that cannot be used are named in `skipped`.
    Whole {
        /// The configuration with the authorities that can be read.
        configuration: Configuration,
        /// The authorities that cannot, and why.
        skipped: Vec<Skipped>,
    },
    /// The answer leaves out or garbles what the object surely has.  A GET by id may bring it; until
    /// then what is in force stays.
    Shortened {
        /// The object's id.
        id: ConfigurationId,
        /// What is missing.
        why: String,
        /// What can be read all the same; of use only where nothing better can be had.
        readable: Option<Configuration>,
    },
    /// Not to be trusted: deleted, or of a kind this program does not know.
    Out(Skipped),
}

impl Entry {
    /// The object's id.
    pub fn id(&self) -> &ConfigurationId {
        match self {
            Self::Whole { configuration, .. } => &configuration.id,
            Self::Shortened { id, .. } => id,
            Self::Out(skipped) => &skipped.configuration,
        }
    }
}

impl Page {
    /// Reads a list answer, `{"value": […], "@odata.nextLink": …}`.
    ///
    /// # Errors
    /// When the answer as a whole is unusable, which an object without an `id` makes it: it cannot be
    /// told which configuration it stands for.
    pub fn read(json: &[u8]) -> Result<Self, WireError> {
        let answer = parse(json)?;
        let answer = object(&answer, "the answer")?;
        let Some(Value::Array(list)) = member(answer, "value") else {
            return Err(WireError::Shape("`value` is no list".into()));
        };
        let next = match member(answer, "@odata.nextLink") {
            None | Some(Value::Null) => None,
            Some(Value::String(link)) => Some(link.clone()),
            Some(other) => return Err(WireError::Shape(format!("@odata.nextLink is {other}"))),
        };
        let entries = list.iter().map(entry).collect::<Result<_, _>>()?;
        Ok(Self { entries, next })
    }
}

/// Reads the answer to a GET by id.
pub fn read_entry(json: &[u8]) -> Result<Entry, WireError> {
    entry(&parse(json)?)
}

/// Reads one list answer as the whole truth, for the offline judge: with nobody to ask for the rest, a
/// shortened object counts for what can be read of it.
pub fn read_anchor_set(json: &[u8]) -> Result<AnchorSet, WireError> {
    let mut set = AnchorSet::default();
    let page = Page::read(json)?;
    if page.next.is_some() {
        return Err(WireError::Shape("the list goes on at its @odata.nextLink".into()));
    }
    for entry in page.entries {
        if set.configurations.iter().any(|c| c.id == *entry.id()) {
            return Err(WireError::Shape(format!("`{}` is listed twice", entry.id())));
        }
        match entry {
            Entry::Whole { configuration, skipped } => {
                set.configurations.push(configuration);
                set.skipped.extend(skipped);
            }
            Entry::Shortened { id, why, readable } => {
                set.configurations.extend(readable);
                set.skipped.push(Skipped { configuration: id, why });
            }
            Entry::Out(skipped) => set.skipped.push(skipped),
        }
    }
    Ok(set)
}

/// The list as Graph would answer it: what [`read_anchor_set`] reads.
pub fn write_anchor_set(set: &AnchorSet) -> Value {
    let authority = |a: &Authority| {
        json!({
            "certificate": STANDARD.encode(a.certificate.der()),
            "certificateRevocationListUrl": a.crl_url.as_deref(),
            "deltaCertificateRevocationListUrl": a.delta_crl_url.as_deref(),
            "isRootAuthority": a.is_root,
        })
    };
    let configuration = |c: &Configuration| {
        json!({
            "id": c.id.as_str(),
            "deletedDateTime": null,
            "displayName": c.display_name,
            "tlsClientAuthParameter": c.subject_field.as_str(),
            "certificateAuthorities": c.authorities.iter().map(authority).collect::<Vec<_>>(),
        })
    };
    json!({ "value": set.configurations.iter().map(configuration).collect::<Vec<_>>() })
}

/// Parses JSON within [`MAX_JSON_DEPTH`].
pub fn parse(json: &[u8]) -> Result<Value, WireError> {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                depth += 1;
                if depth > MAX_JSON_DEPTH {
                    return Err(WireError::Depth);
                }
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    serde_json::from_slice(json).map_err(|error| WireError::Json(error.to_string()))
}

/// The member `name`; failing that, one whose key differs only by blanks around it, as in a published
/// example that people copy.
pub fn member<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object
        .get(name)
        .or_else(|| object.iter().find(|(key, _)| key.trim() == name).map(|(_, value)| value))
}

/// `value` as an object; `what` names it in the error.
pub fn object<'a>(value: &'a Value, what: &str) -> Result<&'a Map<String, Value>, WireError> {
    value.as_object().ok_or_else(|| WireError::Shape(format!("{what} is no object")))
}

/// A `tlsClientAuthParameter`: its name in any of the published spellings, or its number (CSDL).
pub fn subject_field(value: &Value) -> Option<SubjectField> {
    match value {
        Value::String(name) => SubjectField::parse(name),
        Value::Number(number) => {
            SubjectField::ALL.get(usize::try_from(number.as_u64()?).ok()?).copied()
        }
        _ => None,
    }
}

/// Edm.Binary: base64 of the standard or the URL-safe alphabet, padded or not.
pub fn binary(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet =
        if text.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    GeneralPurpose::new(alphabet, LENIENT).decode(text.trim()).ok()
}

fn entry(value: &Value) -> Result<Entry, WireError> {
    let object = object(value, "an entry of the list")?;
    let id = match member(object, "id").and_then(Value::as_str) {
        Some(id) if is_id(id) => ConfigurationId::from(id),
        Some(_) => {
            return Err(WireError::Shape(format!(
                "an entry's id is not 1 to {MAX_ID_LENGTH} printable characters"
            )));
        }
        None => return Err(WireError::Shape("an entry has no id".into())),
    };
    let out = |why: String| Ok(Entry::Out(Skipped { configuration: id.clone(), why }));
    match member(object, "deletedDateTime") {
        None | Some(Value::Null) => {}
        Some(when) => return out(format!("deleted: deletedDateTime is {when}")),
    }
    let shortened = |why: &str, readable| {
        let why = format!("the answer is shortened: {why}");
        Ok(Entry::Shortened { id: id.clone(), why, readable })
    };
    let subject_field = match member(object, "tlsClientAuthParameter") {
        None | Some(Value::Null) => return shortened("no tlsClientAuthParameter", None),
        Some(value) => match subject_field(value) {
            Some(field) => field,
            None => return out(format!("tlsClientAuthParameter {value} is not one known here")),
        },
    };
    let list =
        member(object, "certificateAuthorities").or_else(|| member(object, "certificateAuthority"));
    let list = match list {
        Some(Value::Array(list)) => list,
        _ => return shortened("no list of certificateAuthorities", None),
    };
    let display_name = member(object, "displayName").and_then(Value::as_str).unwrap_or_default();
    let mut configuration = Configuration {
        id: id.clone(),
        display_name: display_name.chars().take(MAX_DISPLAY_NAME).collect(),
        subject_field,
        devices: Devices::default(),
        authorities: Vec::with_capacity(list.len()),
    };
    let (mut skipped, mut missing) = (Vec::new(), None);
    for (index, value) in list.iter().enumerate() {
        let why = match authority(value) {
            Ok(authority) => {
                configuration.authorities.push(authority);
                continue;
            }
            Err(Unreadable::Missing(why)) => {
                missing.get_or_insert_with(|| format!("certificateAuthorities[{index}]: {why}"));
                continue;
            }
            Err(Unreadable::Refused(why)) => why,
        };
        let why = format!("certificateAuthorities[{index}]: {why}");
        skipped.push(Skipped { configuration: id.clone(), why });
    }
    match missing {
        Some(why) => shortened(&why, Some(configuration)),
        None => Ok(Entry::Whole { configuration, skipped }),
    }
}

/// True for what is taken as an object's `id`.
pub fn is_id(id: &str) -> bool {
    !id.is_empty()
        && id.chars().count() <= MAX_ID_LENGTH
        && !id.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// Why one element of `certificateAuthorities` gives no authority.
enum Unreadable {
    /// Something that a whole answer has is missing or garbled.
    Missing(&'static str),
    /// It is there, and not usable.
    Refused(String),
}

fn authority(value: &Value) -> Result<Authority, Unreadable> {
    use Unreadable::{Missing, Refused};
    let object = value.as_object().ok_or(Missing("no object"))?;
    let text = match member(object, "certificate") {
        Some(Value::String(text)) if !text.is_empty() => text,
        _ => return Err(Missing("no certificate")),
    };
    if text.len() / 4 * 3 > MAX_CERTIFICATE_BYTES {
        let bytes = text.len() / 4 * 3;
        return Err(Refused(format!(
            "certificate of about {bytes} bytes; at most {MAX_CERTIFICATE_BYTES} are read"
        )));
    }
    // The directory keeps bytes and writes the base64 itself, so that bad base64 is a damaged answer.
    let der = binary(text).ok_or(Missing("certificate is not base64"))?;
    let is_root = match member(object, "isRootAuthority") {
        Some(Value::Bool(is_root)) => *is_root,
        None | Some(Value::Null) => return Err(Missing("no isRootAuthority")),
        Some(other) => return Err(Refused(format!("isRootAuthority is {other}"))),
    };
    let crl_url = address(object, "certificateRevocationListUrl").map_err(Refused)?;
    let delta_crl_url = address(object, "deltaCertificateRevocationListUrl").map_err(Refused)?;
    if crl_url.is_none() && delta_crl_url.is_some() {
        // Without its base a delta decides nothing, and to drop it would drop the check.
        return Err(Refused(
            "deltaCertificateRevocationListUrl without certificateRevocationListUrl".into(),
        ));
    }
    // `issuer` and `issuerSki` are not looked at: the certificate says both, and it is signed.
    let certificate = Certificate::from_der(&der).map_err(|error| Refused(error.to_string()))?;
    Ok(Authority { certificate: Arc::new(certificate), is_root, crl_url, delta_crl_url })
}

/// An optional address.  One of the wrong kind is refused: to ignore it would switch a check off.
fn address(object: &Map<String, Value>, name: &str) -> Result<Option<Arc<str>>, String> {
    match member(object, name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(url)) if url.trim().is_empty() => Ok(None),
        Some(Value::String(url)) if url.chars().count() <= MAX_URL_LENGTH => {
            Ok(Some(url.trim().into()))
        }
        Some(Value::String(url)) => Err(format!(
            "{name} of {} characters; at most {MAX_URL_LENGTH} are read",
            url.chars().count()
        )),
        Some(other) => Err(format!("{name} is {other}")),
    }
}

#[cfg(test)]
mod tests {
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
        let [Entry::Whole { configuration, skipped }] = &page.entries[..] else {
            panic!("{page:?}")
        };
        assert_eq!(configuration.subject_field, SubjectField::SanUri);
        let authority = &configuration.authorities[0];
        assert!(authority.is_root && skipped.is_empty());
        assert_eq!(authority.crl_url.as_deref(), Some("http://pki.example/root.crl"));
        assert_eq!(authority.delta_crl_url.as_deref(), Some("http://pki.example/root-delta.crl"));
    }

    #[test]
    fn published_misspellings_are_understood() {
        let der = ca("root");
        for parameter in [json!("tls_client_auth_san_ip"), json!("tlsClientAuthSanIp"), json!(3)] {
            for list in
                ["certificateAuthorities", "certificateAuthorities ", "certificateAuthority"]
            {
                for ski in ["issuerSki", "issuerSubjectkeyIdentifier", "issuerSubjectKeyIdentifier"]
                {
                    let value = json!({
                        "id": "a", "tlsClientAuthParameter": parameter,
                        list: [{"certificate": der, "isRootAuthority": true, ski: "AA"}],
                    });
                    let (configuration, skipped) = whole(&value);
                    assert_eq!(configuration.subject_field, SubjectField::SanIp);
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
        let twice =
            json!({"value": [configuration("a", json!([])), configuration("a", json!([]))]});
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
            let _ = Page::read(text.as_bytes());
            let _ = read_entry(text.as_bytes());
            let list = json!({"value": [value]}).to_string();
            let _ = read_anchor_set(list.as_bytes());
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
}
