//! The token endpoint: parse, judge again, authorize, sign, reply, audit.
//!
//! Devices, and applications that authenticate by their connection's certificate, ask on the token
//! listener.  Applications that authenticate by an assertion (`applications`) ask on either.
//!
//! What the handshake decided does not count here.  Each request is judged under the trust in force
//! when its last byte has come, on resumed sessions and kept-open connections too.

mod applications;

use std::sync::Arc;
use std::time::Instant;

use hyper::body::{Body, Bytes};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use serde::Serialize;
use tracing::info;

use crate::http::Peer;
use crate::http::body::{self, BodyError};
use crate::http::reply::{self, Reply};
use crate::oauth::error::{OauthError, no_store};
use crate::oauth::request::{self, Asked, TokenType};
use crate::oauth::{Config, Metrics, TOKEN_PATH};
use crate::runtime::live::Live;
use crate::runtime::log::AUDIT;
use crate::token::keys::AccessToken;
use crate::token::replay::Replays;
use crate::token::{Authorized, Claims, SigningKeys, TokenPolicy, authorize};
use crate::trust::configurations::ConfigurationId;
use crate::trust::judge::devices::{Verified, judge};
use crate::trust::refusal::Refusal;
use crate::trust::snapshot::Snapshot;
use crate::trust::subject::SubjectId;
use crate::x509::certificate::Fingerprint;
use crate::x509::time::Timestamp;

/// Bytes of a request body.
pub const MAX_BODY: usize = 16 * 1024;
/// Bytes of a request body where there are clients that send assertions: those have certificates in
/// them (see [`MAX_ASSERTION`](crate::token::assertion::MAX_ASSERTION)).
pub const MAX_ASSERTION_BODY: usize = 48 * 1024;

/// What Entra ID's token path has after the tenant.
const ENTRA_SUFFIX: &str = "/oauth2/v2.0/token";

/// Issues tokens to devices and applications that show a certificate, or that they hold its key.
pub struct TokenEndpoint {
    live: Live,
    rules: Rules,
    metrics: Metrics,
}

impl TokenEndpoint {
    /// The endpoint that decides by `policy` under what `live` has in force.
    pub fn new(live: Live, policy: Arc<TokenPolicy>, config: &Config, metrics: Metrics) -> Self {
        Self { live, rules: Rules::new(policy, config), metrics }
    }

    /// True for the paths that it answers at.
    pub fn is_at(&self, path: &str) -> bool {
        self.rules.is_at(path)
    }

    /// Answers one request of `peer`, whose connection was asked for a certificate.
    pub async fn handle<B>(&self, request: Request<B>, peer: &Peer) -> Reply
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.answer(request, Caller { peer, door: Door::Mutual }).await
    }

    /// Answers one request of `peer`, whose connection was not: an assertion alone authenticates.
    pub async fn handle_public<B>(&self, request: Request<B>, peer: &Peer) -> Reply
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.answer(request, Caller { peer, door: Door::Public }).await
    }

    async fn answer<B>(&self, request: Request<B>, from: Caller<'_>) -> Reply
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        if let Some(reply) = self.rules.misrouted(&head) {
            return reply;
        }
        let body = body::read(body, self.rules.max_body()).await;
        let began = Instant::now();
        let outcome = match (body, draw()) {
            (Ok(body), Ok(jti)) => {
                // Once, and after the body has come: a slow request is judged by today's trust.
                let active = self.live.current();
                let now = Now { at: std::time::SystemTime::now().into(), jti };
                self.rules.decide(&head, &body, from, &active.trust, &active.keys, now)
            }
            (Err(error), _) => Outcome::refused(error.into()),
            (_, Err(error)) => Outcome::refused(error),
        };
        let reply = outcome.reply(self.rules.config.report);
        outcome.audit(from.peer);
        let refusal = outcome.refusal().map(|refusal| refusal.code.as_str());
        self.metrics.count(outcome.result(), refusal, began.elapsed());
        reply
    }
}

/// 128 random bits.
fn draw() -> Result<[u8; 16], OauthError> {
    let mut bits = [0; 16];
    match aws_lc_rs::rand::fill(&mut bits) {
        Ok(()) => Ok(bits),
        Err(_) => Err(OauthError::Server("the system has no random bits".to_owned())),
    }
}

impl From<BodyError> for OauthError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLong { limit } => Self::TooLong { limit },
            BodyError::Broken(_) => Self::InvalidRequest("the body ended early".into()),
        }
    }
}

/// The endpoint without its surroundings: what it answers follows from its arguments.
struct Rules {
    policy: Arc<TokenPolicy>,
    config: Config,
    /// Assertions that were used.
    replays: Replays,
}

/// Where a request comes from.
#[derive(Clone, Copy)]
struct Caller<'a> {
    peer: &'a Peer,
    door: Door,
}

/// Which listener it came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// Connections are asked for a certificate.
    Mutual,
    /// They are not.
    Public,
}

/// What a decision takes from outside: the time, and 128 bits never used before.
#[derive(Clone, Copy)]
struct Now {
    at: Timestamp,
    jti: [u8; 16],
}

impl Rules {
    fn new(policy: Arc<TokenPolicy>, config: &Config) -> Self {
        let replays = Replays::new(policy.asserting().map(|application| &application.id[..]));
        Self { policy, config: config.clone(), replays }
    }

    fn max_body(&self) -> usize {
        if self.policy.asserting().next().is_some() { MAX_ASSERTION_BODY } else { MAX_BODY }
    }

    fn is_at(&self, path: &str) -> bool {
        let is_tenant = |segment: &str| match &self.config.tenant {
            Some(ours) => segment == ours,
            None => !segment.is_empty() && !segment.contains('/'),
        };
        let entra = path.strip_suffix(ENTRA_SUFFIX).and_then(|rest| rest.strip_prefix('/'));
        path == TOKEN_PATH || entra.is_some_and(is_tenant)
    }

    /// The answer to a request that is not for the token endpoint.
    fn misrouted(&self, head: &Parts) -> Option<Reply> {
        let mut reply = match head.method {
            _ if !self.is_at(head.uri.path()) => reply::empty(StatusCode::NOT_FOUND),
            Method::POST => return None,
            _ => reply::method_not_allowed("POST"),
        };
        no_store(&mut reply);
        Some(reply)
    }

    fn decide(
        &self,
        head: &Parts,
        body: &Bytes,
        from: Caller<'_>,
        trust: &Snapshot,
        keys: &SigningKeys,
        now: Now,
    ) -> Outcome {
        let asked = match request::parse(head, body) {
            Ok(asked) => asked,
            Err(error) => return Outcome::refused(error),
        };
        if let Some(outcome) = self.application(head, &asked, from, trust, keys, now) {
            return outcome;
        }
        let judged = from.peer.chain.clone().and_then(|chain| judge(&chain, trust, now.at));
        self.grant(asked, judged, keys, now)
    }

    /// What follows from the judge's verdict.
    fn grant(
        &self,
        asked: Asked,
        judged: Result<Vec<Verified>, Refusal>,
        keys: &SigningKeys,
        now: Now,
    ) -> Outcome {
        let candidates = match judged {
            Ok(candidates) => candidates,
            Err(refusal) => {
                return Outcome {
                    client_id: asked.request.client_id,
                    ..Outcome::refused(refusal.into())
                };
            }
        };
        let decision = authorize(&candidates, &asked.request, &self.policy, now.at, now.jti)
            .map_err(OauthError::from)
            .and_then(|Authorized { claims, verified }| {
                Ok((Issued::sign(keys, claims, asked.token_type)?, About::device(verified)))
            });
        match decision {
            Ok((issued, about)) => Outcome {
                client_id: Some(issued.claims.client_id.clone()),
                about: Some(about),
                decision: Ok(issued),
            },
            Err(error) => Outcome {
                client_id: asked.request.client_id,
                // Whom it was about is known where one configuration accepts the certificate.
                about: match &candidates[..] {
                    [only] => Some(About::device(only)),
                    _ => None,
                },
                decision: Err(error),
            },
        }
    }
}

/// A token and what the answer and the audit say about it.
struct Issued {
    token: AccessToken,
    token_type: TokenType,
    claims: Claims,
}

impl Issued {
    fn sign(
        keys: &SigningKeys,
        claims: Claims,
        token_type: TokenType,
    ) -> Result<Box<Self>, OauthError> {
        let token = keys.current().sign(&claims).map_err(|e| OauthError::Server(e.to_string()))?;
        Ok(Box::new(Self { token, token_type, claims }))
    }
}

/// Whom a decision was about, as far as it is known.
struct About {
    configuration: ConfigurationId,
    subject: Option<SubjectId>,
    /// The certificate, where it is not the connection's.
    certificate: Option<Fingerprint>,
    generation: u64,
}

impl About {
    fn device(verified: &Verified) -> Self {
        Self {
            configuration: verified.configuration().clone(),
            subject: Some(verified.subject().clone()),
            certificate: None,
            generation: verified.generation(),
        }
    }
}

/// One decision, to be answered, counted and audited.
struct Outcome {
    client_id: Option<String>,
    about: Option<About>,
    decision: Result<Box<Issued>, OauthError>,
}

impl Outcome {
    fn refused(error: OauthError) -> Self {
        Self { client_id: None, about: None, decision: Err(error) }
    }

    fn result(&self) -> &'static str {
        match &self.decision {
            Ok(_) => "issued",
            Err(error) => error.code(),
        }
    }

    fn refusal(&self) -> Option<&Refusal> {
        match &self.decision {
            Err(OauthError::InvalidClient(refusal)) => Some(refusal),
            _ => None,
        }
    }

    fn reply(&self, report: bool) -> Reply {
        let issued = match &self.decision {
            Ok(issued) => issued,
            Err(error) => return error.reply(report),
        };
        let mut reply = reply::json(
            StatusCode::OK,
            &Answer {
                access_token: issued.token.expose(),
                token_type: issued.token_type.as_str(),
                expires_in: issued.claims.exp - issued.claims.iat,
                scope: issued.claims.scope.as_deref(),
            },
        );
        no_store(&mut reply);
        reply
    }

    /// One event for each decision, and never a token in it.
    fn audit(&self, peer: &Peer) {
        let about = self.about.as_ref();
        let shown = peer.chain.as_ref().ok().map(|chain| chain.leaf().fingerprint);
        let certificate = about.and_then(|about| about.certificate).or(shown);
        let claims = self.decision.as_ref().ok().map(|issued| &issued.claims);
        let why = self.decision.as_ref().err().map(ToString::to_string);
        info!(
            target: AUDIT,
            event = "token",
            decision = self.result(),
            refusal = self.refusal().map(|refusal| refusal.code.as_str()),
            detail = why.as_deref().map(printable),
            configuration = about.map(|about| about.configuration.as_str()),
            subject = about.and_then(|about| about.subject.as_ref()).map(SubjectId::as_str),
            client_id = self.client_id.as_deref().map(printable),
            certificate = certificate.map(tracing::field::display),
            audience = claims.map(|claims| &claims.aud[..]),
            scope = claims.and_then(|claims| claims.scope.as_deref()),
            jti = claims.map(|claims| &claims.jti[..]),
            expires = claims.map(|claims| claims.exp),
            generation = about.map(|about| about.generation),
            connection = peer.connection,
            address = %peer.address,
            resumed = peer.resumed,
        );
    }
}

/// Characters of foreign text in a log line.
const MAX_LOGGED: usize = 256;

/// Foreign text for a log line: bounded, and without characters that could test_certificates another line.
fn printable(text: &str) -> String {
    text.chars().take(MAX_LOGGED).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// RFC 6749 section 5.1.  `scope` is always told, so that it is where it differs from what was asked.
#[derive(Serialize)]
struct Answer<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
}

#[cfg(test)]
mod tests;
