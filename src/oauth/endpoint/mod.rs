//! The token endpoint: parse, judge again, authorize, sign, reply, audit.
//!
//! Devices, and applications that authenticate with the certificate of their connection, send
//! requests to the token listener.  Applications that authenticate with an assertion
//! (`applications`) may use either listener.
//!
//! The verdict of the handshake does not count here.  Each request is judged under the snapshot in
//! force when its last byte arrives, on resumed sessions and persistent connections too.

mod applications;
mod outcome;

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use hyper::body::{Body, Bytes};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use tracing::field::Empty;
use tracing::trace_span;

use crate::http::Peer;
use crate::http::body::{self, RequestBodyError};
use crate::http::reply::{self, Reply};
use crate::oauth::endpoint::outcome::{Issued, Outcome, Party};
use crate::oauth::error::{OauthError, no_store};
use crate::oauth::rates::metrics::RateMetrics;
use crate::oauth::rates::{Holder, Limited, RateLimits, Rates};
use crate::oauth::replay::ReplayCache;
use crate::oauth::request::{self, Interpreted, TokenForm};
use crate::oauth::{Config, Metrics, TOKEN_PATH};
use crate::runtime::clock;
use crate::runtime::live::{Active, Live};
use crate::runtime::metrics::JudgeTimes;
use crate::runtime::telemetry::spans;
use crate::token::{Algorithm, Authorized, SigningKey, SigningKeys, TokenPolicy, select};
use crate::trust::judge::devices::{Scope, Verified, judge_within};
use crate::trust::refusal::{Code, Refusal};
use crate::trust::snapshot::Snapshot;
use crate::x509::time::Timestamp;

/// Limit of a request body in bytes.
pub(crate) const MAX_BODY: usize = 16 * 1024;
/// Limit of a request body in bytes if there are clients that send assertions.  An assertion
/// contains certificates (see [`MAX_ASSERTION`](crate::token::assertion::MAX_ASSERTION)).
pub(crate) const MAX_ASSERTION_BODY: usize = 48 * 1024;

/// Part of Entra ID's token path that follows the tenant.
const ENTRA_SUFFIX: &str = "/oauth2/v2.0/token";

/// Issues tokens to devices and applications that prove possession of a certificate's key.
pub struct TokenEndpoint {
    live: Live,
    service: TokenService,
    metrics: Metrics,
}

impl TokenEndpoint {
    /// Creates an endpoint that decides by the published state in `live`.
    pub fn new(live: Live, config: &Config, metrics: Metrics) -> Self {
        let service =
            TokenService::new(config, metrics.rates()).with_judge_times(metrics.judging());
        Self { live, service, metrics }
    }

    /// Applies other rate limits.  A limit that stays the same keeps its state.
    pub fn limit(&self, limits: &RateLimits) {
        let rates = Arc::new(self.service.rates().with_limits(limits));
        *self.service.rates.write().unwrap_or_else(PoisonError::into_inner) = rates;
    }

    /// Returns true if the endpoint serves `path`.
    pub(super) fn is_at(&self, path: &str) -> bool {
        domains_of(path, &self.live.current().policy).is_some()
    }

    /// Answers one request on the token listener, which requests a certificate.
    pub async fn handle<B>(&self, request: Request<B>, peer: &Peer) -> Reply
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.answer(request, Origin { peer, listener: Listener::Token, scope: &Scope::All }).await
    }

    /// Answers one request on the public listener, where only assertions authenticate.
    pub(super) async fn handle_public<B>(&self, request: Request<B>, peer: &Peer) -> Reply
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.answer(request, Origin { peer, listener: Listener::Public, scope: &Scope::All }).await
    }

    async fn answer<B>(&self, request: Request<B>, origin: Origin<'_>) -> Reply
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        if let Some(reply) = reject_misrouted(&head, &self.live.current().policy) {
            return reply;
        }
        let span = trace_span!(
            target: spans::TARGET,
            "POST",
            otel.name = "POST token",
            otel.kind = "server",
            http.request.method = "POST",
            http.route = route(head.uri.path()),
            http.response.status_code = Empty,
            client.address = %origin.peer.address.ip(),
            anchorgate.connection = origin.peer.connection,
            error.type = Empty,
        );
        spans::continue_from(&span, &head.headers, origin.peer.address.ip());
        let random = SystemRandom::new();
        let limited = self.service.count_address(origin.peer.address.ip(), &random);
        // The body is read in any case, so that the connection can be used again.
        let body = body::read(body, max_body(&self.live.current().policy)).await;
        let started = Instant::now();
        let outcome = match (limited.and(body.map_err(OauthError::from)), random_jti(&random)) {
            (Ok(body), Ok(jti)) => {
                // The state is loaded once, after the body has arrived, so that a slow request is
                // judged under the current snapshot.
                let active = self.live.current();
                let time = clock::now();
                let inputs = Inputs { policy: &active.policy, time, jti, random: &random };
                let decide = || {
                    self.service.decide(&head, &body, origin, &active.trust, &active.keys, inputs)
                };
                let outcome = span.in_scope(decide);
                self.count_issued(&active, &outcome);
                outcome
            }
            (Err(error), _) => Outcome::refused(error),
            (_, Err(error)) => Outcome::refused(error),
        };
        let reply = outcome.reply(self.service.config.report);
        // The audit record belongs to the span.
        span.in_scope(|| outcome.audit(origin.peer));
        let refusal = outcome.refusal().map(|refusal| refusal.code.as_str());
        span.record("http.response.status_code", reply.status().as_u16());
        if outcome.decision.is_err() {
            span.record("error.type", refusal.unwrap_or_else(|| outcome.result()));
        }
        self.metrics.count(outcome.result(), refusal, started.elapsed());
        reply
    }

    fn count_issued(&self, active: &Active, outcome: &Outcome) {
        let (Ok(issued), Some(party)) = (&outcome.decision, &outcome.party) else { return };
        self.metrics.signed(issued.algorithm, issued.signing);
        self.metrics.issued.count(active, &party.configuration, &issued.claims.client_id);
    }
}

/// Returns the route of a token path.  The tenant in a path is foreign text and one of any number.
fn route(path: &str) -> &'static str {
    if path == TOKEN_PATH { TOKEN_PATH } else { "/{tenant}/oauth2/v2.0/token" }
}

/// Generates a `jti` of 128 random bits.
fn random_jti(random: &dyn SecureRandom) -> Result<[u8; 16], OauthError> {
    let mut bits = [0; 16];
    match random.fill(&mut bits) {
        Ok(()) => Ok(bits),
        Err(_) => Err(OauthError::Server("cannot generate random bits".to_owned())),
    }
}

fn rate_limited(limited: Limited, random: &dyn SecureRandom) -> OauthError {
    let mut bits = [0; 4];
    // Without random bits the client waits for the shortest time that helps.
    let _ = random.fill(&mut bits);
    let retry_after = limited.retry_after(u32::from_ne_bytes(bits));
    let detail = format!("too many requests of this {}; try again later", limited.limit.phrase());
    OauthError::RateLimited { refusal: Refusal::new(Code::RateLimited, detail), retry_after }
}

fn accepts_assertions(policy: &TokenPolicy) -> bool {
    policy.assertion_clients().next().is_some()
}

/// Returns the limit in bytes of a request body.
fn max_body(policy: &TokenPolicy) -> usize {
    if accepts_assertions(policy) { MAX_ASSERTION_BODY } else { MAX_BODY }
}

impl From<RequestBodyError> for OauthError {
    fn from(error: RequestBodyError) -> Self {
        match error {
            RequestBodyError::TooLong { limit } => Self::TooLong { limit },
            RequestBodyError::Broken(_) => Self::InvalidRequest("the body ended early".into()),
        }
    }
}

/// Logic of the endpoint without clock, random numbers and published state: these are arguments.
struct TokenService {
    config: Config,
    replays: ReplayCache,
    rates: RwLock<Arc<Rates>>,
    judging: JudgeTimes,
}

/// Connection and listener that a request arrived on, and what its path selects.
#[derive(Clone, Copy)]
struct Origin<'a> {
    peer: &'a Peer,
    listener: Listener,
    /// Trust domains that the path of the request selects.
    scope: &'a Scope,
}

/// Listener that a request arrived on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listener {
    /// Requests a certificate in the handshake.
    Token,
    /// Does not request a certificate.
    Public,
}

/// Inputs of one decision that differ for each request.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    /// The policy in force.
    policy: &'a TokenPolicy,
    time: Timestamp,
    /// 128 bits that were never used before.
    jti: [u8; 16],
    /// Source of random bits for the signature.
    random: &'a dyn SecureRandom,
}

impl TokenService {
    fn new(config: &Config, metrics: RateMetrics) -> Self {
        let rates = RwLock::new(Arc::new(Rates::new(&config.rate_limits, metrics)));
        let (replays, judging) = (ReplayCache::default(), JudgeTimes::default());
        Self { config: config.clone(), replays, rates, judging }
    }

    fn with_judge_times(self, judging: JudgeTimes) -> Self {
        Self { judging, ..self }
    }

    /// Calls the judge.
    fn judged<T>(&self, judge: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let verdict = judge();
        self.judging.request(started.elapsed());
        verdict
    }

    fn decide(
        &self,
        head: &Parts,
        body: &Bytes,
        origin: Origin<'_>,
        trust: &Snapshot,
        keys: &SigningKeys,
        inputs: Inputs<'_>,
    ) -> Outcome {
        let form = match request::parse(head, body) {
            Ok(form) => form,
            Err(error) => return Outcome::refused(error),
        };
        // The router accepts only token paths.  Another one selects nothing.
        let scope = domains_of(head.uri.path(), inputs.policy).unwrap_or(Scope::Only(Vec::new()));
        let origin = Origin { scope: &scope, ..origin };
        if let Some(outcome) = self.decide_application(head, &form, origin, trust, keys, inputs) {
            return outcome;
        }
        let chain = origin.peer.chain.clone();
        let judging = trace_span!(target: spans::TARGET, "judge").entered();
        let judged = chain
            .and_then(|chain| self.judged(|| judge_within(&chain, trust, inputs.time, &scope)));
        drop(judging);
        self.decide_device(&form, judged, keys, inputs)
    }

    fn rates(&self) -> Arc<Rates> {
        Arc::clone(&self.rates.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a request from `address`.
    fn count_address(&self, address: IpAddr, random: &dyn SecureRandom) -> Result<(), OauthError> {
        let rates = self.rates();
        let counted = rates.count_address(address, rates.now());
        counted.map_err(|limited| rate_limited(limited, random))
    }

    /// Counts a token that is about to be signed.
    fn count_token(&self, holder: Holder<'_>, random: &dyn SecureRandom) -> Result<(), OauthError> {
        let rates = self.rates();
        let counted = rates.count_token(holder, rates.now());
        counted.map_err(|limited| rate_limited(limited, random))
    }

    /// Decides a request of a device after the judge's verdict.  The rest of the form is interpreted
    /// only if the device and its `client_id` are accepted.
    fn decide_device(
        &self,
        form: &TokenForm<'_>,
        judged: Result<Vec<Verified>, Refusal>,
        keys: &SigningKeys,
        inputs: Inputs<'_>,
    ) -> Outcome {
        let client_id = || form.client_id().map(str::to_owned);
        let candidates = match judged {
            Ok(candidates) => candidates,
            Err(refusal) => {
                return Outcome { client_id: client_id(), ..Outcome::refused(refusal.into()) };
            }
        };
        match self.issue_to_device(form, &candidates, keys, inputs) {
            Ok((issued, party)) => Outcome {
                client_id: Some(issued.claims.client_id.clone()),
                party: Some(party),
                decision: Ok(issued),
            },
            Err(error) => Outcome {
                client_id: client_id(),
                // The device is known only if exactly one configuration accepts the certificate.
                party: match &candidates[..] {
                    [only] => Some(Party::device(only)),
                    _ => None,
                },
                decision: Err(error),
            },
        }
    }

    fn issue_to_device(
        &self,
        form: &TokenForm<'_>,
        candidates: &[Verified],
        keys: &SigningKeys,
        inputs: Inputs<'_>,
    ) -> Result<(Box<Issued>, Party), OauthError> {
        let selected = select(candidates, form.client_id(), inputs.policy)?;
        let Interpreted { request, token_type } = form.interpret()?;
        let Authorized { claims, verified, algorithm } =
            selected.authorize(&request, inputs.policy, inputs.time, inputs.jti)?;
        let holder = Holder {
            configuration: verified.configuration(),
            subject: Some(verified.subject()),
            client_id: &claims.client_id,
        };
        self.count_token(holder, inputs.random)?;
        let key = signing_key(keys, algorithm)?;
        let issued = Issued::sign(key, claims, token_type, inputs.random)?;
        Ok((issued, Party::device(verified)))
    }
}

/// Returns the trust domains that may decide a request to `path`, or `None` if it is not a token path.
fn domains_of(path: &str, policy: &TokenPolicy) -> Option<Scope> {
    if path == TOKEN_PATH {
        return Some(Scope::All);
    }
    let tenant = path.strip_suffix(ENTRA_SUFFIX)?.strip_prefix('/')?;
    let is_segment = !tenant.is_empty() && !tenant.contains('/');
    if is_segment { policy.tenants().select(tenant) } else { None }
}

/// Returns the response to a request with another path or method.
fn reject_misrouted(head: &Parts, policy: &TokenPolicy) -> Option<Reply> {
    let mut reply = match head.method {
        _ if domains_of(head.uri.path(), policy).is_none() => reply::empty(StatusCode::NOT_FOUND),
        Method::POST => return None,
        _ => reply::method_not_allowed("POST"),
    };
    no_store(&mut reply);
    Some(reply)
}

/// Returns the key that signs with the algorithm of a client.
fn signing_key(
    keys: &SigningKeys,
    algorithm: Option<Algorithm>,
) -> Result<&SigningKey, OauthError> {
    keys.of(algorithm).map_err(|error| OauthError::Server(error.to_string()))
}

#[cfg(test)]
pub(super) mod tests;
