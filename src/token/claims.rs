//! The claims of an access token (RFC 9068 section 2.2, RFC 8705 section 3.1).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::trust::configurations::ConfigurationId;
use crate::trust::subject::SubjectId;
use crate::x509::certificate::Fingerprint;

/// What an access token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The issuer, byte for byte as the metadata has it.
    pub iss: String,
    /// The device, or the application: see [`subject_claim`] and [`application_claim`].
    pub sub: String,
    /// The one resource that the token is for.
    pub aud: String,
    /// The client that asked.
    pub client_id: String,
    /// When it was issued, in seconds since 1970.
    pub iat: i64,
    /// From when on it is refused, in seconds since 1970.
    pub exp: i64,
    /// Unique per token.
    pub jti: String,
    /// The scope tokens, with spaces between.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scope: Option<String>,
    /// The certificate that the token is bound to; a device's always is to one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cnf: Option<Confirmation>,
}

/// The confirmation method of RFC 8705 section 3.1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// base64url of the SHA-256 of the certificate's DER.
    #[serde(rename = "x5t#S256")]
    pub x5t_s256: String,
}

impl Confirmation {
    /// Binds to the certificate of that fingerprint.
    pub fn certificate(fingerprint: Fingerprint) -> Self {
        Self { x5t_s256: URL_SAFE_NO_PAD.encode(fingerprint.0) }
    }
}

/// `sub`: the configuration and the subject ID, `/` between them.
///
/// Two devices never share one: what could be mistaken is percent-encoded (`%`, and in the
/// configuration `/`), and so is `:`, since a `sub` with a colon would have to be a URI (RFC 7519
/// section 2).  `spiffe://acme/1` is `<configuration>/spiffe%3A//acme/1`.  A distinguished name stands
/// as the certificate spells it: renewed in other letter case it is the same [`SubjectId`] to us, and
/// another `sub` to who compares text.
pub fn subject_claim(configuration: &ConfigurationId, subject: &SubjectId) -> String {
    let mut out = String::with_capacity(configuration.as_str().len() + subject.as_str().len() + 1);
    push(&mut out, configuration.as_str(), true);
    out.push('/');
    push(&mut out, subject.as_str(), false);
    out
}

/// `sub` of an application: its `client_id` (RFC 9068 section 2.2), with `%`, `:` and `/`
/// percent-encoded.  So it has no `/`, and no device's `sub` is without one.
pub fn application_claim(client_id: &str) -> String {
    let mut out = String::with_capacity(client_id.len());
    push(&mut out, client_id, true);
    out
}

fn push(out: &mut String, text: &str, slash: bool) {
    for c in text.chars() {
        match c {
            '%' => out.push_str("%25"),
            ':' => out.push_str("%3A"),
            '/' if slash => out.push_str("%2F"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::subject::SubjectField;
    use proptest::prelude::*;

    fn sub(configuration: &str, field: SubjectField, subject: &str) -> String {
        let subject = SubjectId::parse(field, subject).expect("a subject");
        subject_claim(&configuration.into(), &subject)
    }

    #[test]
    fn a_subject_is_named_within_its_configuration() {
        assert_eq!(sub("c1", SubjectField::SanDns, "dev1.example"), "c1/dev1.example");
        assert_eq!(sub("c1", SubjectField::SanUri, "spiffe://acme/1"), "c1/spiffe%3A//acme/1");
        assert_eq!(sub("a:b/c", SubjectField::SanDns, "d"), "a%3Ab%2Fc/d");
    }

    /// 8705-14: 43 characters of base64url, no padding.
    #[test]
    fn a_certificate_is_bound_by_its_sha_256() {
        let bound = Confirmation::certificate(Fingerprint::of(b"der"));
        assert_eq!(bound.x5t_s256.len(), 43);
        assert_eq!(URL_SAFE_NO_PAD.decode(&bound.x5t_s256), Ok(Fingerprint::of(b"der").0.to_vec()));
        let json = serde_json::to_string(&bound).expect("JSON");
        assert_eq!(json, format!("{{\"x5t#S256\":\"{}\"}}", bound.x5t_s256));
    }

    proptest! {
        /// 9700-6: no choice of certificate contents reaches another configuration's namespace.
        #[test]
        fn different_devices_have_different_subjects(
            a in "[a-b:/%]{1,4}", b in "[a-b:/%]{1,4}",
            x in "urn:[a-b:/%2]{1,4}", y in "urn:[a-b:/%2]{1,4}",
        ) {
            let ids = [&x, &y].map(|text| SubjectId::parse(SubjectField::SanUri, text));
            if let [Ok(x), Ok(y)] = ids {
                let subs = (subject_claim(&a[..].into(), &x), subject_claim(&b[..].into(), &y));
                prop_assert_eq!(subs.0 == subs.1, a == b && x == y);
                prop_assert!(!subs.0.contains(':'));
            }
        }

        /// Nor does one reach an application's.
        #[test]
        fn no_device_has_the_subject_of_an_application(
            configuration in "[a-b:/%]{1,4}", x in "urn:[a-b:/%2]{1,4}",
            one in "[a-b:/%2 ]{1,8}", other in "[a-b:/%2 ]{1,8}",
        ) {
            let id = SubjectId::parse(SubjectField::SanUri, &x);
            let sub = application_claim(&one);
            prop_assert_eq!(sub == application_claim(&other), one == other);
            prop_assert!(!sub.contains([':', '/']));
            if let Ok(id) = id {
                prop_assert_ne!(subject_claim(&configuration[..].into(), &id), sub);
            }
        }
    }
}
