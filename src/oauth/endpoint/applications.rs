//! Requests of applications, which authenticate with the connection's certificate or an assertion.

use std::sync::Arc;

use hyper::http::request::Parts;

use crate::oauth::endpoint::outcome::{Issued, Outcome, Party};
use crate::oauth::endpoint::{
    Inputs, Listener, Origin, TokenService, accepts_assertions, signing_key,
};
use crate::oauth::error::OauthError;
use crate::oauth::rates::Holder;
use crate::oauth::request::{Interpreted, TokenForm, TokenType};
use crate::oauth::{TOKEN_PATH, address};
use crate::token::application::{Application, AuthMethod, Authenticated};
use crate::token::assertion::{Assertion, AssertionError};
use crate::token::{SigningKeys, TokenPolicy, authorize_application};
use crate::trust::judge::devices::Scope;
use crate::trust::refusal::{Code, Refusal};
use crate::trust::snapshot::Snapshot;
use crate::trust::subject::SubjectId;
use crate::x509::certificate::Fingerprint;
use crate::x509::time::Timestamp;

impl TokenService {
    /// Decides a request of an application.  Returns `None` for a request of a device, which only
    /// the token listener serves.
    pub(super) fn decide_application(
        &self,
        head: &Parts,
        form: &TokenForm<'_>,
        origin: Origin<'_>,
        trust: &Snapshot,
        keys: &SigningKeys,
        inputs: Inputs<'_>,
    ) -> Option<Outcome> {
        let mut requester =
            Requester { client_id: form.client_id().map(str::to_owned), ..Requester::default() };
        let authenticated = match form.assertion() {
            Some(text) => self.authenticate_assertion(
                head,
                form,
                text.expose(),
                origin,
                trust,
                inputs,
                &mut requester,
            ),
            None => {
                let application = form.client_id().and_then(|id| inputs.policy.application(id));
                requester.application = application;
                match (application, origin.listener) {
                    (None, Listener::Token) => return None,
                    (_, Listener::Public) => Err(no_authentication()),
                    (Some(application), Listener::Token) => {
                        let chain = check_scope(application, origin.scope, trust)
                            .and_then(|()| origin.peer.chain.as_ref().map_err(Clone::clone));
                        let judge = |chain: &Arc<_>| {
                            self.judged(|| application.by_certificate(chain, trust, inputs.time))
                        };
                        let unused = |authenticated| (authenticated, None);
                        chain.and_then(judge).map(unused).map_err(OauthError::from)
                    }
                }
            }
        };
        let issued = authenticated.and_then(|(authenticated, assertion)| {
            requester.subject = authenticated.subject().cloned();
            // Before the assertion is recorded, so that a malformed form does not use it up.
            let Interpreted { request, token_type } = form.interpret()?;
            if let Some(VerifiedAssertion { jti, expiry }) = assertion {
                let id = &authenticated.application().id;
                self.replays.record(id, &jti, expiry, inputs.time)?;
            }
            let claims = authorize_application(
                &authenticated,
                &request,
                inputs.policy,
                inputs.time,
                inputs.jti,
            )?;
            let holder = Holder {
                configuration: authenticated.verified().configuration(),
                subject: authenticated.subject(),
                client_id: &claims.client_id,
            };
            self.count_token(holder, inputs.random)?;
            // `mtls_pop` means a bound token.
            let token_type = if claims.cnf.is_some() { token_type } else { TokenType::Bearer };
            let algorithm = authenticated.application().terms.signing_algorithm;
            let key = signing_key(keys, algorithm)?;
            Issued::sign(key, claims, token_type, inputs.random)
        });
        Some(requester.outcome(issued, trust.generation))
    }

    /// Authenticates an application with its assertion.  The cheap checks come first.  The caller records
    /// the returned assertion.
    #[expect(
        clippy::too_many_arguments,
        reason = "the request, the inputs of the decision and the facts for the audit record"
    )]
    fn authenticate_assertion<'a>(
        &self,
        head: &Parts,
        form: &TokenForm<'_>,
        text: &'a str,
        origin: Origin<'_>,
        trust: &Snapshot,
        inputs: Inputs<'a>,
        requester: &mut Requester<'a>,
    ) -> Result<(Authenticated<'a>, Option<VerifiedAssertion>), OauthError> {
        let connection = match origin.listener {
            Listener::Public => None,
            // If no client uses assertions, the certificate is the only authentication method.
            Listener::Token if !accepts_assertions(inputs.policy) => return Err(second_method()),
            Listener::Token => Some(origin.peer.chain.as_ref().map_err(Clone::clone)?),
        };
        let assertion = Assertion::parse(text)?;
        let client_id = assertion.client_id();
        // RFC 7521 section 4.2: client_id is optional, but must match the assertion.
        if form.client_id().is_some_and(|id| id != client_id) {
            return Err(AssertionError::Issuer.into());
        }
        requester.client_id = Some(client_id.to_owned());
        let now = inputs.time;
        let application = inputs.policy.application(client_id).ok_or_else(|| {
            let detail = format!("no client `{client_id}` authenticates with an assertion");
            Refusal::new(Code::ClientUnknown, detail)
        })?;
        requester.application = Some(application);
        check_scope(application, origin.scope, trust)?;
        if application.method != AuthMethod::PrivateKeyJwt && origin.listener == Listener::Token {
            return Err(second_method());
        }
        let audiences = self.audiences(inputs.policy, head, origin.listener);
        let audiences = audiences.each_ref().map(|audience| &audience[..]);
        let checked = application.check(assertion, &audiences, now)?;
        checked.assertion().check_profile(inputs.policy.profile(), inputs.policy.issuer())?;
        let jti = checked.assertion().jti();
        self.replays.check(&application.id, jti)?;
        let chain = checked.chain()?;
        requester.certificate = Some(chain.leaf().fingerprint);
        let connection = connection.map(AsRef::as_ref);
        let authenticated = self.judged(|| checked.authenticate(&chain, connection, trust, now))?;
        let (jti, expiry) = (jti.to_owned(), checked.assertion().expiry());
        Ok((authenticated, Some(VerifiedAssertion { jti, expiry })))
    }

    /// Returns the accepted audiences of an assertion: the issuer, both addresses of the token
    /// endpoint, and the address of this request.  They derive from settings and a path that is
    /// served, never from the `Host` header.
    fn audiences(&self, policy: &TokenPolicy, head: &Parts, listener: Listener) -> [String; 4] {
        let origin = match listener {
            Listener::Token => &self.config.token_origin,
            Listener::Public => &self.config.public_origin,
        };
        [
            policy.issuer().to_owned(),
            address(&self.config.public_origin, TOKEN_PATH),
            address(&self.config.token_origin, TOKEN_PATH),
            address(origin, head.uri.path()),
        ]
    }
}

/// Identity of a verified assertion.  Only these are recorded as used, so that strangers cannot fill
/// the cache.
struct VerifiedAssertion {
    jti: String,
    expiry: Timestamp,
}

/// Refuses an application of a trust domain that the request's path does not select.
pub(super) fn check_scope(
    application: &Application,
    scope: &Scope,
    trust: &Snapshot,
) -> Result<(), Refusal> {
    let mut all = trust.applications.configurations.iter();
    match all.find(|configuration| configuration.id == application.configuration) {
        Some(configuration) if !scope.contains(&configuration.domain) => {
            let (id, domain) = (&application.id, &configuration.domain);
            let detail = format!(
                "client `{id}` belongs to the directory `{domain}`, and the request's path selects another"
            );
            Err(Refusal::new(Code::ClientMismatch, detail))
        }
        // A configuration that is not in force is refused by the judge.
        _ => Ok(()),
    }
}

fn no_authentication() -> OauthError {
    let detail = "client authentication is missing: send a certificate or an assertion";
    Refusal::new(Code::CertificateMissing, detail).into()
}

/// Rejects a second authentication method in one request (RFC 6749 section 2.3).
fn second_method() -> OauthError {
    let why = "client_assertion is a second authentication method beside the certificate";
    OauthError::InvalidRequest(why.into())
}

/// Facts about the requester that are known so far, for the audit record.
#[derive(Default)]
struct Requester<'a> {
    client_id: Option<String>,
    application: Option<&'a Application>,
    certificate: Option<Fingerprint>,
    subject: Option<SubjectId>,
}

impl Requester<'_> {
    fn outcome(self, decision: Result<Box<Issued>, OauthError>, generation: u64) -> Outcome {
        let party = self.application.map(|application| Party {
            configuration: application.configuration.clone(),
            subject: self.subject,
            certificate: self.certificate,
            generation,
        });
        Outcome { client_id: self.client_id, party, decision }
    }
}
