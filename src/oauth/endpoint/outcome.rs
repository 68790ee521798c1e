//! The outcome of a token request, for the response, the metrics and the audit record.

use std::time::{Duration, Instant};

use aws_lc_rs::rand::SecureRandom;
use hyper::StatusCode;
use serde::Serialize;
use tracing::trace_span;

use crate::http::Peer;
use crate::http::reply::{self, Reply};
use crate::oauth::error::{OauthError, no_store};
use crate::oauth::request::TokenType;
use crate::runtime::audit::{self, Event, Record};
use crate::runtime::telemetry::spans;
use crate::token::keys::AccessToken;
use crate::token::{Claims, SigningKey};
use crate::trust::configurations::ConfigurationId;
use crate::trust::judge::devices::Verified;
use crate::trust::refusal::Refusal;
use crate::trust::subject::SubjectId;
use crate::x509::certificate::Fingerprint;

/// A token, and its claims for the response and the audit record.
pub(super) struct Issued {
    token: AccessToken,
    token_type: TokenType,
    pub(super) claims: Claims,
    pub(super) algorithm: &'static str,
    /// Time that the signature took.
    pub(super) signing: Duration,
}

impl Issued {
    pub(super) fn sign(
        key: &SigningKey,
        claims: Claims,
        token_type: TokenType,
        random: &dyn SecureRandom,
    ) -> Result<Box<Self>, OauthError> {
        let _span =
            trace_span!(target: spans::TARGET, "sign", anchorgate.algorithm = key.algorithm())
                .entered();
        let started = Instant::now();
        let signed = key.sign(&claims, random);
        let (algorithm, signing) = (key.algorithm(), started.elapsed());
        let token = signed.map_err(|error| OauthError::Server(error.to_string()))?;
        Ok(Box::new(Self { token, token_type, claims, algorithm, signing }))
    }
}

/// Device or application that a decision is about, for the audit record.
pub(super) struct Party {
    pub(super) configuration: ConfigurationId,
    pub(super) subject: Option<SubjectId>,
    /// The certificate, if it is not the connection's.
    pub(super) certificate: Option<Fingerprint>,
    pub(super) generation: u64,
}

impl Party {
    pub(super) fn device(verified: &Verified) -> Self {
        Self {
            configuration: verified.configuration().clone(),
            subject: Some(verified.subject().clone()),
            certificate: None,
            generation: verified.generation(),
        }
    }
}

/// One decision, for the response, the metrics and the audit record.
pub(super) struct Outcome {
    pub(super) client_id: Option<String>,
    pub(super) party: Option<Party>,
    pub(super) decision: Result<Box<Issued>, OauthError>,
}

impl Outcome {
    pub(super) fn refused(error: OauthError) -> Self {
        Self { client_id: None, party: None, decision: Err(error) }
    }

    pub(super) fn result(&self) -> &'static str {
        match &self.decision {
            Ok(_) => "issued",
            Err(error) => error.code(),
        }
    }

    pub(super) fn refusal(&self) -> Option<&Refusal> {
        self.decision.as_ref().err().and_then(OauthError::refusal)
    }

    pub(super) fn reply(&self, report: bool) -> Reply {
        let issued = match &self.decision {
            Ok(issued) => issued,
            Err(error) => return error.reply(report),
        };
        let mut reply = reply::json(
            StatusCode::OK,
            &TokenResponse {
                access_token: issued.token.expose(),
                token_type: issued.token_type.as_str(),
                expires_in: issued.claims.exp - issued.claims.iat,
                scope: issued.claims.scope.as_deref(),
            },
        );
        no_store(&mut reply);
        reply
    }

    /// Writes one audit record, which never contains the token.
    pub(super) fn audit(&self, peer: &Peer) {
        let party = self.party.as_ref();
        let presented = peer.chain.as_ref().ok().map(|chain| chain.leaf().fingerprint);
        let certificate = party.and_then(|party| party.certificate).or(presented);
        let claims = self.decision.as_ref().ok().map(|issued| &issued.claims);
        let error = self.decision.as_ref().err();
        let detail = error.map(ToString::to_string);
        let outcome =
            if error.is_some() { audit::Outcome::Refused } else { audit::Outcome::Issued };
        Record {
            error: error.map(OauthError::code),
            refusal: self.refusal().map(|refusal| refusal.code.as_str()),
            detail: detail.as_deref(),
            configuration: party.map(|party| party.configuration.as_str()),
            subject: party.and_then(|party| party.subject.as_ref()).map(SubjectId::as_str),
            client_id: self.client_id.as_deref(),
            certificate,
            audience: claims.map(|claims| &claims.aud[..]),
            scope: claims.and_then(|claims| claims.scope.as_deref()),
            jti: claims.map(|claims| &claims.jti[..]),
            expires: claims.map(|claims| claims.exp),
            generation: party.map(|party| party.generation),
            connection: Some(peer.connection),
            address: Some(peer.address),
            resumed: Some(peer.resumed),
            ..Record::new(Event::Token, outcome)
        }
        .emit();
    }
}

/// A successful response (RFC 6749 section 5.1).  It contains `scope` whenever a scope was granted:
/// the RFC requires it if the granted scope differs from the requested one.
#[derive(Serialize)]
struct TokenResponse<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
}
