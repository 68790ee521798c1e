//! The token endpoint: parse, judge again, authorize, sign, reply, audit.
//!
//! What the handshake decided does not count here.  Each request is judged under the trust in force
//! when its last byte has come, on resumed sessions and kept-open connections too.

use std::sync::Arc;
use std::time::Instant;

use hyper::body::{Body, Bytes};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use serde::Serialize;
use tracing::info;

use crate::domain::refusal::Refusal;
use crate::domain::time::Timestamp;
use crate::domain::token::keys::AccessToken;
use crate::domain::token::{Authorized, Claims, SigningKeys, TokenPolicy, authorize};
use crate::domain::trust::snapshot::Snapshot;
use crate::domain::verify::{Verified, judge};
use crate::http::Peer;
use crate::http::body::{self, BodyError};
use crate::http::reply::{self, Reply};
use crate::oauth::error::{OauthError, no_store};
use crate::oauth::request::{self, Asked, TokenType};
use crate::oauth::{Config, Metrics, TOKEN_PATH};
use crate::runtime::live::Live;
use crate::runtime::log::AUDIT;

/// Bytes of a request body.
pub const MAX_BODY: usize = 16 * 1024;

/// What Entra ID's token path has after the tenant.
const ENTRA_SUFFIX: &str = "/oauth2/v2.0/token";

/// Issues tokens to devices that show a certificate.
pub struct TokenEndpoint {
    live: Live,
    rules: Rules,
    metrics: Metrics,
}

impl TokenEndpoint {
    /// The endpoint that decides by `policy` under what `live` has in force.
    pub fn new(live: Live, policy: Arc<TokenPolicy>, config: &Config, metrics: Metrics) -> Self {
        let Config { tenant, report, .. } = config.clone();
        Self { live, rules: Rules { policy, tenant, report }, metrics }
    }

    /// Answers one request of `peer`.
    pub async fn handle<B>(&self, request: Request<B>, peer: &Peer) -> Reply
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        if let Some(reply) = self.rules.misrouted(&head) {
            return reply;
        }
        let body = body::read(body, MAX_BODY).await;
        let began = Instant::now();
        let outcome = match (body, draw()) {
            (Ok(body), Ok(jti)) => {
                // Once, and after the body has come: a slow request is judged by today's trust.
                let active = self.live.current();
                let now = Now { at: std::time::SystemTime::now().into(), jti };
                self.rules.decide(&head, &body, peer, &active.trust, &active.keys, now)
            }
            (Err(error), _) => Outcome::refused(error.into()),
            (_, Err(error)) => Outcome::refused(error),
        };
        let reply = outcome.reply(self.rules.report);
        outcome.audit(peer);
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
    tenant: Option<String>,
    report: bool,
}

/// What a decision takes from outside: the time, and 128 bits never used before.
#[derive(Clone, Copy)]
struct Now {
    at: Timestamp,
    jti: [u8; 16],
}

impl Rules {
    /// The answer to a request that is not for the token endpoint.
    fn misrouted(&self, head: &Parts) -> Option<Reply> {
        let path = head.uri.path();
        let is_tenant = |segment: &str| match &self.tenant {
            Some(ours) => segment == ours,
            None => !segment.is_empty() && !segment.contains('/'),
        };
        let entra = path.strip_suffix(ENTRA_SUFFIX).and_then(|rest| rest.strip_prefix('/'));
        let is_ours = path == TOKEN_PATH || entra.is_some_and(is_tenant);
        let mut reply = match head.method {
            _ if !is_ours => reply::empty(StatusCode::NOT_FOUND),
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
        peer: &Peer,
        trust: &Snapshot,
        keys: &SigningKeys,
        now: Now,
    ) -> Outcome {
        let asked = match request::parse(head, body) {
            Ok(asked) => asked,
            Err(error) => return Outcome::refused(error),
        };
        let judged = peer.chain.clone().and_then(|chain| judge(&chain, trust, now.at));
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
                let token =
                    keys.current().sign(&claims).map_err(|e| OauthError::Server(e.to_string()))?;
                let token_type = asked.token_type;
                Ok((Box::new(Issued { token, token_type, claims }), verified.clone()))
            });
        match decision {
            Ok((issued, verified)) => Outcome {
                client_id: Some(issued.claims.client_id.clone()),
                verified: Some(verified),
                decision: Ok(issued),
            },
            Err(error) => Outcome {
                client_id: asked.request.client_id,
                // Whom it was about is known where one configuration accepts the certificate.
                verified: <[Verified; 1]>::try_from(candidates).ok().map(|[only]| only),
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

/// One decision, to be answered, counted and audited.
struct Outcome {
    client_id: Option<String>,
    verified: Option<Verified>,
    decision: Result<Box<Issued>, OauthError>,
}

impl Outcome {
    fn refused(error: OauthError) -> Self {
        Self { client_id: None, verified: None, decision: Err(error) }
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
        let leaf = peer.chain.as_ref().ok().map(|chain| chain.leaf());
        let verified = self.verified.as_ref();
        let claims = self.decision.as_ref().ok().map(|issued| &issued.claims);
        let why = self.decision.as_ref().err().map(ToString::to_string);
        info!(
            target: AUDIT,
            event = "token",
            decision = self.result(),
            refusal = self.refusal().map(|refusal| refusal.code.as_str()),
            detail = why.as_deref().map(printable),
            configuration = verified.map(|v| v.configuration().as_str()),
            subject = verified.map(|v| v.subject().as_str()),
            client_id = self.client_id.as_deref().map(printable),
            certificate = leaf.map(|leaf| tracing::field::display(leaf.fingerprint)),
            audience = claims.map(|claims| &claims.aud[..]),
            scope = claims.and_then(|claims| claims.scope.as_deref()),
            jti = claims.map(|claims| &claims.jti[..]),
            expires = claims.map(|claims| claims.exp),
            generation = verified.map(Verified::generation),
            connection = peer.connection,
            address = %peer.address,
            resumed = peer.resumed,
        );
    }
}

/// Characters of foreign text in a log line.
const MAX_LOGGED: usize = 256;

/// Foreign text for a log line: bounded, and without characters that could forge another line.
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
