//! Decides token requests of verified devices and applications.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::token::application::Authenticated;
use crate::token::claims::{Claims, Confirmation, application_claim, subject_claim};
use crate::token::denied::Denied;
use crate::token::grants::TokenRequest;
use crate::token::keys::Algorithm;
use crate::token::policy::TokenPolicy;
use crate::token::select::Selected;
use crate::token::terms::Terms;
use crate::trust::judge::devices::Verified;
use crate::trust::refusal::{Code, Refusal};
use crate::x509::certificate::Certificate;
use crate::x509::time::Timestamp;

/// A granted request of a device.
#[derive(Debug, Clone)]
pub struct Authorized<'a> {
    /// Claims of the token to sign.
    pub claims: Claims,
    /// The certificate, under the configuration that `client_id` selected.
    pub verified: &'a Verified,
    /// Algorithm of the key that signs the token; `None` for the one of all clients.
    pub algorithm: Option<Algorithm>,
}

impl<'a> Selected<'a> {
    /// Decides the rest of a client credentials request (RFC 6749 section 4.4).  `jti` is 128 random
    /// bits and must never repeat.
    ///
    /// # Errors
    /// An error in the request, or a certificate that expires now.
    pub(crate) fn authorize(
        self,
        request: &TokenRequest,
        policy: &TokenPolicy,
        now: Timestamp,
        jti: [u8; 16],
    ) -> Result<Authorized<'a>, Denied> {
        let Self { verified, client_id, terms } = self;
        let resource = terms.resource(request)?;
        let leaf = verified.leaf();
        let claims = Claims {
            iss: policy.issuer().to_owned(),
            sub: subject_claim(verified.configuration(), verified.subject()),
            aud: resource.audience.clone(),
            client_id: client_id.to_owned(),
            iat: now.0,
            exp: expiry(terms, leaf, now)?.0,
            jti: URL_SAFE_NO_PAD.encode(jti),
            scope: scope_claim(resource.scope(&request.scope)?),
            cnf: Some(Confirmation::certificate(leaf.fingerprint)),
        };
        Ok(Authorized { claims, verified, algorithm: terms.signing_algorithm })
    }
}

/// Decides a client credentials request of an application (RFC 6749 section 4.4).
///
/// The token is bound to the certificate if the connection presented it.  A resource server sees
/// only certificates of connections, so it could never check a binding to a key that signed an
/// assertion.
///
/// # Errors
/// An error in the request, or a client whose tokens are always bound and whose connection
/// presented no certificate.
pub fn authorize_application(
    authenticated: &Authenticated<'_>,
    request: &TokenRequest,
    policy: &TokenPolicy,
    now: Timestamp,
    jti: [u8; 16],
) -> Result<Claims, Denied> {
    let Authenticated { application, over_tls, .. } = authenticated;
    if application.bound && !over_tls {
        return Err(Denied::InvalidRequest(
            "the client's tokens are bound to its certificate: present it in the TLS handshake, at \
             the token_endpoint in mtls_endpoint_aliases of the metadata"
                .to_owned(),
        ));
    }
    let (leaf, terms) = (authenticated.verified().leaf(), &application.terms);
    let resource = terms.resource(request)?;
    Ok(Claims {
        iss: policy.issuer().to_owned(),
        sub: application_claim(&application.id),
        aud: resource.audience.clone(),
        client_id: application.id.clone(),
        iat: now.0,
        exp: expiry(terms, leaf, now)?.0,
        jti: URL_SAFE_NO_PAD.encode(jti),
        scope: scope_claim(resource.scope(&request.scope)?),
        cnf: over_tls.then(|| Confirmation::certificate(leaf.fingerprint)),
    })
}

/// Returns the expiry of the token, which is never after that of the certificate.
fn expiry(terms: &Terms, leaf: &Certificate, now: Timestamp) -> Result<Timestamp, Refusal> {
    let expires = now.after(terms.lifetime).min(leaf.not_after);
    if expires <= now {
        let detail = format!("the certificate expires at {expires}, before a token could be used");
        return Err(Refusal::new(Code::CertificateExpired, detail));
    }
    Ok(expires)
}

/// Returns the `scope` claim, which is omitted if it grants nothing.
fn scope_claim(scope: &[String]) -> Option<String> {
    (!scope.is_empty()).then(|| scope.join(" "))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::token::grants::Grant;
    use crate::token::policy::{Client, Subjects};
    use crate::token::select::select;
    use crate::token::terms::Resource;
    use crate::trust::judge::devices::tests::verified;
    use crate::trust::subject::{SubjectField, SubjectId};

    const NOW: Timestamp = Timestamp(1_800_000_000);

    fn resource(audience: &str, scopes: &[&str], default: &[&str]) -> Resource {
        let own = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Resource { audience: audience.to_owned(), scopes: own(scopes), default_scope: own(default) }
    }

    fn terms() -> Terms {
        let resources = vec![
            resource("https://a.example", &["read", "write"], &["read"]),
            resource("https://b.example", &["read", "admin"], &[]),
            resource("plain", &[], &[]),
        ];
        Terms { resources, lifetime: Duration::from_secs(600), signing_algorithm: None }
    }

    fn policy() -> TokenPolicy {
        let client = |id: &str, configurations: &[&str], subjects| Client {
            id: id.to_owned(),
            configurations: configurations.iter().map(|id| (*id).into()).collect(),
            subjects,
            terms: terms(),
        };
        let dev1 = SubjectId::parse(SubjectField::SanDns, "dev1.example").expect("a subject");
        TokenPolicy::new("https://as.example", Some(terms()))
            .and_then(|policy| {
                policy.with_clients(vec![
                    client("fleet", &["c1"], Subjects::All),
                    client("both", &["c1", "c2"], Subjects::All),
                    client("only-dev1", &["c1"], Subjects::Only(HashSet::from([dev1]))),
                    client("dev9.example", &["c2"], Subjects::All),
                ])
            })
            .expect("a policy")
    }

    fn dns(configuration: &str, name: &str) -> Verified {
        verified(configuration, SubjectField::SanDns, name, NOW.after(Duration::from_secs(86_400)))
    }

    struct Asked {
        client_id: Option<String>,
        request: TokenRequest,
    }

    fn request(client_id: &str) -> Asked {
        let request = TokenRequest {
            grant: Grant::ClientCredentials,
            scope: Vec::new(),
            resources: Vec::new(),
        };
        Asked { client_id: Some(client_id.to_owned()), request }
    }

    fn authorize<'a>(
        candidates: &'a [Verified],
        asked: &Asked,
        policy: &'a TokenPolicy,
        now: Timestamp,
        jti: [u8; 16],
    ) -> Result<Authorized<'a>, Denied> {
        select(candidates, asked.client_id.as_deref(), policy)?.authorize(
            &asked.request,
            policy,
            now,
            jti,
        )
    }

    fn decide(candidates: &[Verified], request: &Asked) -> Result<Claims, Denied> {
        authorize(candidates, request, &policy(), NOW, [7; 16]).map(|a| a.claims)
    }

    fn code(result: Result<Claims, Denied>) -> Code {
        match result {
            Err(Denied::Refused(refusal)) => refusal.code,
            other => panic!("{other:?}"),
        }
    }

    /// 9068-3, 9068-4, 8705-13: all claims, bound to the certificate.
    #[test]
    fn a_device_is_its_own_client() {
        let device = dns("c1", "dev1.example");
        let claims =
            decide(std::slice::from_ref(&device), &request("DEV1.example.")).expect("a grant");
        assert_eq!(claims.iss, "https://as.example");
        assert_eq!(claims.sub, "c1/dev1.example");
        assert_eq!(claims.aud, "https://a.example");
        assert_eq!(claims.client_id, "dev1.example");
        assert_eq!((claims.iat, claims.exp), (NOW.0, NOW.0 + 600));
        assert_eq!(claims.jti, "BwcHBwcHBwcHBwcHBwcHBw");
        assert_eq!(claims.scope.as_deref(), Some("read"));
        assert_eq!(claims.cnf, Some(Confirmation::certificate(device.leaf().fingerprint)));
    }

    /// 8705-3: the certificate must be the one bound to that client_id.
    #[test]
    fn accepts_a_client_id_only_with_certificates_that_it_covers() {
        let dev1 = [dns("c1", "dev1.example")];
        let dev2 = [dns("c1", "dev2.example")];
        let other = [dns("c2", "dev1.example")];
        assert_eq!(
            decide(&dev1, &request("only-dev1")).map(|c| c.client_id),
            Ok("only-dev1".to_owned())
        );
        assert_eq!(code(decide(&dev2, &request("only-dev1"))), Code::ClientMismatch);
        assert_eq!(code(decide(&other, &request("only-dev1"))), Code::ClientMismatch);
        assert_eq!(code(decide(&other, &request("fleet"))), Code::ClientMismatch);
        assert_eq!(code(decide(&dev2, &request("dev1.example"))), Code::ClientUnknown);
        assert_eq!(code(decide(&dev1, &request("unknown"))), Code::ClientUnknown);
        // 9700-6: a subject ID never matches the client_id of a configured client.
        assert_eq!(
            code(decide(&[dns("c1", "dev9.example")], &request("dev9.example"))),
            Code::ClientMismatch
        );
    }

    /// The client_id that results counts: no spelling of a subject ID leads to a configured client_id.
    #[test]
    fn never_issues_a_configured_client_id_to_another_device() {
        let device = [dns("c1", "dev9.example")];
        for spelling in ["dev9.example", "DEV9.EXAMPLE", "dev9.example.", "Dev9.example."] {
            let refused = decide(&device, &request(spelling));
            assert_eq!(code(refused), Code::ClientMismatch, "{spelling}");
        }
        let mut without = request("");
        without.client_id = None;
        let lenient = policy().with_optional_client_id();
        let refused = authorize(&device, &without, &lenient, NOW, [0; 16]).map(|a| a.claims);
        assert_eq!(code(refused), Code::ClientUnknown);
        // A name is compared as a name, whatever the letter case of the configured client_id.
        let named = [verified(
            "c1",
            SubjectField::SubjectDn,
            "CN=Inventory",
            NOW.after(Duration::from_secs(9)),
        )];
        let client = Client {
            id: "cn=inventory".to_owned(),
            configurations: vec!["c2".into()],
            subjects: Subjects::All,
            terms: terms(),
        };
        let policy = policy().with_clients(vec![client]).expect("a policy");
        let refused = authorize(&named, &request("CN=INVENTORY"), &policy, NOW, [0; 16]);
        assert_eq!(code(refused.map(|a| a.claims)), Code::ClientMismatch);
    }

    /// 8705-2: a request without client_id is refused unless the policy makes it optional.
    #[test]
    fn requires_client_id_unless_it_is_optional() {
        let dev1 = [dns("c1", "dev1.example")];
        let mut request = request("");
        request.client_id = None;
        assert!(matches!(decide(&dev1, &request), Err(Denied::InvalidRequest(_))));
        let lenient = policy().with_optional_client_id();
        let granted = authorize(&dev1, &request, &lenient, NOW, [0; 16]).expect("a grant");
        assert_eq!(granted.claims.client_id, "dev1.example");
        let two = [dns("c1", "dev1.example"), dns("c2", "dev1.example")];
        let refused = authorize(&two, &request, &lenient, NOW, [0; 16]).map(|a| a.claims);
        assert_eq!(code(refused), Code::ConfigurationAmbiguous);
    }

    /// Within a domain two configurations are ambiguous; of two domains the first decides.
    #[test]
    fn another_domain_does_not_make_a_device_ambiguous() {
        let of = |domain: &str, configuration| dns(configuration, "dev1.example").in_domain(domain);
        let ask = |candidates: &[Verified]| decide(candidates, &request("dev1.example"));
        let two = [of("first", "c1"), of("second", "c2")];
        assert_eq!(ask(&two).map(|claims| claims.sub), Ok("c1/dev1.example".to_owned()));
        let three = [of("first", "c1"), of("first", "c2"), of("second", "c3")];
        assert_eq!(code(ask(&three)), Code::ConfigurationAmbiguous);
    }

    #[test]
    fn client_id_selects_one_of_several_configurations() {
        let uri =
            verified("c2", SubjectField::SanUri, "urn:dev:1", NOW.after(Duration::from_secs(9)));
        let two = [dns("c1", "dev1.example"), uri];
        let sub = |id: &str| decide(&two, &request(id)).map(|claims| claims.sub);
        assert_eq!(sub("fleet"), Ok("c1/dev1.example".to_owned()));
        assert_eq!(sub("dev1.example"), Ok("c1/dev1.example".to_owned()));
        assert_eq!(sub("urn:dev:1"), Ok("c2/urn%3Adev%3A1".to_owned()));
        assert_eq!(code(decide(&two, &request("both"))), Code::ConfigurationAmbiguous);
        let same = [dns("c1", "dev1.example"), dns("c2", "dev1.example")];
        assert_eq!(code(decide(&same, &request("dev1.example"))), Code::ConfigurationAmbiguous);
    }

    #[test]
    fn refuses_a_request_without_candidates() {
        assert_eq!(code(decide(&[], &request("fleet"))), Code::ClientMismatch);
        assert_eq!(code(decide(&[], &request("dev1.example"))), Code::ClientUnknown);
    }

    #[test]
    fn a_token_expires_no_later_than_its_certificate() {
        let until = |seconds| {
            let device =
                verified("c1", SubjectField::SanDns, "d", NOW.after(Duration::from_secs(seconds)));
            decide(&[device], &request("d"))
        };
        assert_eq!(until(1).map(|c| c.exp), Ok(NOW.0 + 1));
        assert_eq!(until(599).map(|c| c.exp), Ok(NOW.0 + 599));
        assert_eq!(until(601).map(|c| c.exp), Ok(NOW.0 + 600));
        assert_eq!(code(until(0)), Code::CertificateExpired);
    }

    fn have(scope: &str, resources: &[&str]) -> Result<(String, Option<String>), &'static str> {
        let mut request = request("d");
        request.request.scope = scope.split_whitespace().map(str::to_owned).collect();
        request.request.resources = resources.iter().map(ToString::to_string).collect();
        match decide(&[dns("c1", "d")], &request) {
            Ok(claims) => Ok((claims.aud, claims.scope)),
            Err(Denied::InvalidScope(_)) => Err("invalid_scope"),
            Err(Denied::InvalidTarget(_)) => Err("invalid_target"),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// 8707-1, 9068-6: the audience is the requested resource, else the default one.
    #[test]
    fn resource_and_scope_decide_the_audience() {
        const A: &str = "https://a.example";
        const B: &str = "https://b.example";
        let got = |aud: &str, scope: &str| {
            Ok((aud.to_owned(), (!scope.is_empty()).then(|| scope.to_owned())))
        };
        assert_eq!(have("", &[]), got(A, "read"));
        assert_eq!(have("", &[A]), got(A, "read"));
        assert_eq!(have("write read", &[]), got(A, "write read"));
        assert_eq!(have("admin", &[]), got(B, "admin"), "the scope selects the resource");
        assert_eq!(have("read", &[B]), got(B, "read"));
        assert_eq!(have("", &["plain"]), got("plain", ""));
        assert_eq!(have("https://a.example/.default", &[]), got(A, "read"));

        assert_eq!(have("", &["https://c.example"]), Err("invalid_target"));
        assert_eq!(have("", &["not a uri"]), Err("invalid_target"));
        assert_eq!(have("", &["https://a.example#x"]), Err("invalid_target"));
        assert_eq!(
            have("", &["https://a.example/"]),
            Err("invalid_target"),
            "compared by code point"
        );
        assert_eq!(have("", &[A, B]), Err("invalid_target"));

        assert_eq!(have("write admin", &[]), Err("invalid_scope"), "scopes of two resources");
        assert_eq!(have("write", &[B]), Err("invalid_scope"));
        assert_eq!(have("other", &[]), Err("invalid_scope"));
        assert_eq!(have("read", &["plain"]), Err("invalid_scope"));
        assert_eq!(have("https://c.example/.default", &[]), Err("invalid_scope"));
        assert_eq!(have("https://b.example/.default", &[A]), Err("invalid_scope"));
        // 6749-12: a request without scope is refused if there is no default scope.
        assert_eq!(have("", &[B]), Err("invalid_scope"));
        assert_eq!(have("https://b.example/.default", &[]), Err("invalid_scope"));
    }

    proptest! {
        /// 9700-2: whatever is requested, the granted scope is within the client's terms.
        #[test]
        fn grants_only_what_the_terms_allow(
            scope in proptest::collection::vec("read|write|admin|other|https://b.example/.default", 0..4),
            resource in proptest::option::of("https://[abc].example|plain"),
        ) {
            let resources: Vec<&str> = resource.as_deref().into_iter().collect();
            if let Ok((aud, granted)) = have(&scope.join(" "), &resources) {
                let terms = terms();
                let of = terms.resources.iter().find(|r| r.audience == aud).expect("one of the terms");
                prop_assert!(resource.is_none_or(|requested| requested == aud));
                for token in granted.iter().flat_map(|scope| scope.split(' ')) {
                    prop_assert!(of.scopes.iter().any(|s| s == token));
                }
            }
        }
    }
}
