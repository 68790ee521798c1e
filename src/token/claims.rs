//! The claims of an access token (RFC 9068 section 2.2, RFC 8705 section 3.1).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::trust::configurations::ConfigurationId;
use crate::trust::subject::SubjectId;
use crate::x509::certificate::Fingerprint;

/// Claims of an access token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The issuer, byte for byte as in the metadata.
    pub iss: String,
    /// The device or the application: see `subject_claim` and `application_claim`.
    pub sub: String,
    /// The only resource that accepts the token.
    pub aud: String,
    /// The client that requested the token.
    pub client_id: String,
    /// Time of issue, in seconds since 1970.
    pub iat: i64,
    /// First second at which the token is expired, in seconds since 1970.
    pub exp: i64,
    /// Unique for each token.
    pub jti: String,
    /// The scope tokens, separated by spaces.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scope: Option<String>,
    /// The certificate that the token is bound to.  Tokens of devices are always bound.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cnf: Option<Confirmation>,
}

/// The confirmation method of RFC 8705 section 3.1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// SHA-256 of the certificate's DER, in base64url without padding.
    #[serde(rename = "x5t#S256")]
    pub x5t_s256: String,
}

impl Confirmation {
    /// Binds a token to the certificate with this fingerprint.
    pub fn certificate(fingerprint: Fingerprint) -> Self {
        Self { x5t_s256: URL_SAFE_NO_PAD.encode(fingerprint.0) }
    }
}

/// Returns the `sub` of a device: the configuration and the subject ID, separated by `/`.
///
/// Two devices never have the same `sub`: `%` is percent-encoded, and so is `/` in the
/// configuration. `:` is encoded too, since a `sub` with a colon would have to be a URI (RFC 7519
/// section 2). `spiffe://acme/1` becomes `<configuration>/spiffe%3A//acme/1`.  A distinguished name
/// is copied from the certificate.  If a renewed certificate changes its letter case, the
/// [`SubjectId`] stays equal, but the text of `sub` changes.
pub(crate) fn subject_claim(configuration: &ConfigurationId, subject: &SubjectId) -> String {
    let mut out = String::with_capacity(configuration.as_str().len() + subject.as_str().len() + 1);
    push(&mut out, configuration.as_str(), true);
    out.push('/');
    push(&mut out, subject.as_str(), false);
    out
}

/// Returns the `sub` of an application: its `client_id` (RFC 9068 section 2.2), with `%`, `:` and
/// `/` percent-encoded.  It contains no `/`, while the `sub` of every device does.
pub(crate) fn application_claim(client_id: &str) -> String {
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
    fn subject_claim_names_the_configuration_and_the_subject() {
        assert_eq!(sub("c1", SubjectField::SanDns, "dev1.example"), "c1/dev1.example");
        assert_eq!(sub("c1", SubjectField::SanUri, "spiffe://acme/1"), "c1/spiffe%3A//acme/1");
        assert_eq!(sub("a:b/c", SubjectField::SanDns, "d"), "a%3Ab%2Fc/d");
    }

    /// 8705-14: 43 characters of base64url, no padding.
    #[test]
    fn confirmation_is_the_sha_256_of_the_certificate() {
        let bound = Confirmation::certificate(Fingerprint::of(b"der"));
        assert_eq!(bound.x5t_s256.len(), 43);
        assert_eq!(URL_SAFE_NO_PAD.decode(&bound.x5t_s256), Ok(Fingerprint::of(b"der").0.to_vec()));
        let json = serde_json::to_string(&bound).expect("JSON");
        assert_eq!(json, format!("{{\"x5t#S256\":\"{}\"}}", bound.x5t_s256));
    }

    proptest! {
        /// 9700-6: no certificate contents lead into the namespace of another configuration.
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

        /// 9700-6: no certificate contents lead to the `sub` of an application.
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
