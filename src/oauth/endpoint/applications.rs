//! Requests of applications: by the connection's certificate, or by an assertion.

use hyper::http::request::Parts;

use crate::oauth::endpoint::{About, Caller, Door, Issued, Now, Outcome, Rules};
use crate::oauth::error::OauthError;
use crate::oauth::request::{Asked, TokenType};
use crate::oauth::{TOKEN_PATH, address};
use crate::token::application::{Application, AuthMethod, Authenticated};
use crate::token::assertion::{Assertion, AssertionError};
use crate::token::{SigningKeys, authorize_application};
use crate::trust::refusal::{Code, Refusal};
use crate::trust::snapshot::Snapshot;
use crate::trust::subject::SubjectId;
use crate::x509::certificate::Fingerprint;

impl Rules {
    /// Decides a request of an application; `None` for one of a device.  On the public listener there
    /// are no devices.
    pub(super) fn application(
        &self,
        head: &Parts,
        asked: &Asked,
        from: Caller<'_>,
        trust: &Snapshot,
        keys: &SigningKeys,
        now: Now,
    ) -> Option<Outcome> {
        let mut known = Known { client_id: asked.request.client_id.clone(), ..Known::default() };
        let authenticated = match &asked.assertion {
            Some(text) => {
                self.by_assertion(head, asked, text.expose(), from, trust, now, &mut known)
            }
            None => {
                let named = asked.request.client_id.as_deref();
                match (named.and_then(|id| self.policy.application(id)), from.door) {
                    (None, Door::Mutual) => return None,
                    (None, Door::Public) => Err(no_authentication()),
                    (Some(application), Door::Public) => {
                        known.application = Some(application);
                        Err(no_authentication())
                    }
                    (Some(application), Door::Mutual) => {
                        known.application = Some(application);
                        let chain = from.peer.chain.as_ref().map_err(Clone::clone);
                        chain
                            .and_then(|chain| application.by_certificate(chain, trust, now.at))
                            .map_err(OauthError::from)
                    }
                }
            }
        };
        let issued = authenticated.and_then(|authenticated| {
            known.subject(&authenticated);
            let claims = authorize_application(
                &authenticated,
                &asked.request,
                &self.policy,
                now.at,
                now.jti,
            )?;
            // `mtls_pop` is the name of a token that is bound.
            let token_type =
                if claims.cnf.is_some() { asked.token_type } else { TokenType::Bearer };
            Issued::sign(keys, claims, token_type)
        });
        Some(known.outcome(issued, trust.generation))
    }

    /// Who has signed this assertion.  What costs nothing comes first.
    #[expect(
        clippy::too_many_arguments,
        reason = "the request, what it is judged by, what is known"
    )]
    fn by_assertion<'a>(
        &'a self,
        head: &Parts,
        asked: &Asked,
        text: &'a str,
        from: Caller<'_>,
        trust: &Snapshot,
        now: Now,
        known: &mut Known<'a>,
    ) -> Result<Authenticated<'a>, OauthError> {
        let connection = match from.door {
            Door::Public => None,
            // Without assertions to expect, the certificate is the one authentication method.
            Door::Mutual if self.policy.asserting().next().is_none() => {
                return Err(second_method());
            }
            Door::Mutual => Some(from.peer.chain.as_ref().map_err(Clone::clone)?),
        };
        let assertion = Assertion::parse(text)?;
        let client_id = assertion.client_id();
        // RFC 7521 section 4.2: client_id is unnecessary, and the same where it is there.
        if asked.request.client_id.as_deref().is_some_and(|id| id != client_id) {
            return Err(AssertionError::Issuer.into());
        }
        known.client_id = Some(client_id.to_owned());
        let application = self.policy.application(client_id).ok_or_else(|| {
            let detail = format!("no client `{client_id}` authenticates by an assertion");
            Refusal::new(Code::ClientUnknown, detail)
        })?;
        known.application = Some(application);
        if application.method != AuthMethod::PrivateKeyJwt && from.door == Door::Mutual {
            return Err(second_method());
        }
        let audiences = self.audiences(head, from.door);
        let audiences = audiences.each_ref().map(|audience| &audience[..]);
        let checked = application.check(assertion, &audiences, now.at)?;
        let jti = checked.assertion().jti();
        self.replays.look(&application.id, jti)?;
        let chain = checked.chain()?;
        known.certificate = Some(chain.leaf().fingerprint);
        let connection = connection.map(AsRef::as_ref);
        let authenticated = checked.authenticate(&chain, connection, trust, now.at)?;
        // Only what is proved to be the client's is remembered: others must not fill the memory.
        self.replays.note(&application.id, jti, checked.assertion().until(), now.at)?;
        Ok(authenticated)
    }

    /// What an assertion may name as its audience: the issuer, the token endpoint at its two
    /// addresses, and at the one that was asked.  Made of settings and of a path that is ours, never
    /// of what a request says its host is.
    fn audiences(&self, head: &Parts, door: Door) -> [String; 4] {
        let origin = match door {
            Door::Mutual => &self.config.token_origin,
            Door::Public => &self.config.public_origin,
        };
        [
            self.policy.issuer().to_owned(),
            address(&self.config.public_origin, TOKEN_PATH),
            address(&self.config.token_origin, TOKEN_PATH),
            address(origin, head.uri.path()),
        ]
    }
}

fn no_authentication() -> OauthError {
    let detail = "neither a certificate nor an assertion: there is no client authentication";
    Refusal::new(Code::CertificateMissing, detail).into()
}

/// RFC 6749 section 2.3: one method a request.
fn second_method() -> OauthError {
    let why = "client_assertion is a second authentication method beside the certificate";
    OauthError::InvalidRequest(why.into())
}

/// What is known so far of who asks, for the audit.
#[derive(Default)]
struct Known<'a> {
    client_id: Option<String>,
    application: Option<&'a Application>,
    certificate: Option<Fingerprint>,
    subject: Option<SubjectId>,
}

impl Known<'_> {
    fn subject(&mut self, authenticated: &Authenticated<'_>) {
        self.subject = authenticated.subject().cloned();
    }

    fn outcome(self, decision: Result<Box<Issued>, OauthError>, generation: u64) -> Outcome {
        let about = self.application.map(|application| About {
            configuration: application.configuration.clone(),
            subject: self.subject,
            certificate: self.certificate,
            generation,
        });
        Outcome { client_id: self.client_id, about, decision }
    }
}
