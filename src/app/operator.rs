//! What operators see and may do: readiness, status, gauges and actions, gathered from all parts.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use hyper::StatusCode;
use hyper::body::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::admin::answer::Answer;
use crate::admin::{self, Admin, MAX_LARGE_BODY};
use crate::crl;
use crate::graph;
use crate::http::reply;
use crate::runtime::health::Ready;
use crate::runtime::live::Live;
use crate::runtime::publisher::ConfigurationsInForce;
use crate::sync;
use crate::sync::HandleError;
use crate::http::connections::Shares;
use crate::tls::acceptor::Bounds;
use crate::trust::configurations::{AnchorSet, Authority, Configuration, Devices, Kind};
use crate::trust::judge::devices::{UnverifiedChain, explain};
use crate::trust::snapshot::Snapshot;
use crate::x509::time::Timestamp;

/// Bytes of a chain to judge: PEM may have any text between the certificates.
const MAX_CHAIN: usize = 2 * 1024 * 1024;

/// The admin plane with everything that there is to see and do.
pub(super) fn plane(
    config: &admin::Config,
    ready: Ready,
    mut registry: Registry,
    live: &Live,
    lists: crl::Handle,
    sources: Vec<sync::Handle>,
) -> Arc<Admin> {
    let started = Timestamp::from(SystemTime::now());
    let generation: Gauge = Gauge::default();
    registry.register("trust_generation", "Generation of the trust in force", generation.clone());
    let configurations: Gauge = Gauge::default();
    registry.register("trust_configurations", "Configurations in force", configurations.clone());
    let applications: Gauge = Gauge::default();
    registry.register(
        "trust_application_configurations",
        "Application configurations in force",
        applications.clone(),
    );
    let sources = Arc::new(sources);

    let admin = Admin::new(config, ready, registry)
        .with_gauges({
            let live = live.clone();
            move || {
                let trust = &live.current().trust;
                generation.set(i64::try_from(trust.generation).unwrap_or(i64::MAX));
                let count = trust.anchors.configurations.len();
                configurations.set(i64::try_from(count).unwrap_or(i64::MAX));
                let count = trust.applications.configurations.len();
                applications.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        })
        .with_status("started", move || json!(started.to_string()))
        .with_status("trust", {
            let live = live.clone();
            move || trust(&live)
        })
        .with_status("sources", {
            let sources = Arc::clone(&sources);
            move || sources.iter().map(|source| json!(source.status())).collect()
        })
        .with_status("revocation", {
            let lists = lists.clone();
            move || json!(lists.status())
        })
        .with_sized_action("/verify", MAX_CHAIN, {
            let live = live.clone();
            move |body| {
                let live = live.clone();
                async move { verify(&live, &body) }
            }
        })
        .with_action("/trust/sync", {
            let sources = Arc::clone(&sources);
            move |_| {
                let sources = Arc::clone(&sources);
                async move {
                    // Side by side: one dead directory does not hold up another.
                    let polls = sources.iter().map(|source| async move {
                        (source.source().to_string(), sync(source).await)
                    });
                    let outcomes: Map<_, _> = join_all(polls).await.into_iter().collect();
                    reply::json(StatusCode::OK, &outcomes)
                }
            }
        })
        .with_sized_action("/trust/diff", MAX_LARGE_BODY, {
            let sources = Arc::clone(&sources);
            move |body| {
                let reply = diff(&sources, &body);
                async move { reply }
            }
        })
        .with_action("/trust/approve", {
            let sources = Arc::clone(&sources);
            move |body| {
                let sources = Arc::clone(&sources);
                async move { approve(&sources, &body).await }
            }
        })
        .with_action("/crl/refresh", move |body| {
            let lists = lists.clone();
            async move {
                let asked = member(&body, "address")
                    .and_then(|at| Ok((at, flag(&body, "acceptRollback")?)));
                let looked = match asked {
                    Ok((Some(address), true)) => lists.refresh_accepting_rollback(&address).await,
                    Ok((None, true)) => {
                        let why = "`acceptRollback` needs one address: set `address`";
                        return refused(StatusCode::BAD_REQUEST, why);
                    }
                    Ok((address, false)) => lists.refresh(address.as_deref()).await,
                    Err(why) => return refused(StatusCode::BAD_REQUEST, &why),
                };
                match looked {
                    Ok(status) => reply::json(StatusCode::OK, &status),
                    Err(error) => refused(StatusCode::NOT_FOUND, &error.to_string()),
                }
            }
        });
    Arc::new(admin)
}

/// Bounds of the admin listener: few ask, and a crowd of strangers is kept out of the way of devices.
pub(super) fn bounds() -> Bounds {
    Bounds { shares: Shares::new(256), handshakes: 16, ..Bounds::default() }
}

/// Judges `{"chainPem": …, "at": …}` under what is in force, and tells every path that was tried.
fn verify(live: &Live, body: &Bytes) -> reply::Reply {
    let asked = member(body, "chainPem")
        .and_then(|chain| chain.ok_or_else(|| "`chainPem` is missing".to_owned()))
        .and_then(|chain| Ok((chain, member(body, "at")?)));
    let (chain, at) = match asked {
        Ok(asked) => asked,
        Err(why) => return refused(StatusCode::BAD_REQUEST, &why),
    };
    let now = match at.as_deref().map(|at| (at, Timestamp::parse_rfc3339(at))) {
        None => SystemTime::now().into(),
        Some((_, Some(at))) => at,
        Some((at, None)) => {
            let why = format!("`{at}` is no time such as 2026-11-21T08:00:00Z");
            return refused(StatusCode::BAD_REQUEST, &why);
        }
    };
    let chain: Vec<_> = match CertificateDer::pem_slice_iter(chain.as_bytes()).collect() {
        Ok(chain) => chain,
        Err(error) => {
            let why = format!("the chain is no PEM: {error}");
            return refused(StatusCode::BAD_REQUEST, &why);
        }
    };
    let trust = &live.current().trust;
    let answer = match UnverifiedChain::from_der(&chain) {
        Ok(chain) => {
            let (decision, attempts) = explain(&chain, trust, now);
            Answer::new(decision, attempts, Vec::new(), Vec::new())
        }
        Err(refusal) => Answer::refused(refusal, Vec::new()),
    };
    let told = json!({
        "accept": answer.is_accept(),
        "generation": trust.generation,
        "answer": answer.to_json(None),
        "text": answer.to_text(),
    });
    reply::json(StatusCode::OK, &told)
}

/// Asks one source now, for its configurations and, where they are needed, its devices.
async fn sync(source: &sync::Handle) -> Value {
    let devices = async {
        match source.devices() {
            Some(devices) => Some(devices.sync_now().await),
            None => None,
        }
    };
    let (changes, devices) = tokio::join!(source.sync_now(), devices);
    let mut told = match changes {
        Ok(changes) => json!({ "changes": changes }),
        Err(error) => json!({ "error": error.to_string() }),
    };
    match devices {
        Some(Ok(difference)) => told["devices"] = json!(difference),
        Some(Err(error)) => told["devicesError"] = json!(error.to_string()),
        None => {}
    }
    told
}

/// Puts in force what one source holds back, of its configurations and of its devices.
async fn approve(sources: &[sync::Handle], body: &Bytes) -> reply::Reply {
    let source = match named(sources, body) {
        Ok(source) => source,
        Err(reply) => return *reply,
    };
    let devices = match source.devices() {
        Some(devices) => devices.approve().await,
        None => Err(HandleError::NothingHeld),
    };
    let mut told = match source.approve().await {
        Ok(changes) => json!(changes),
        Err(HandleError::NothingHeld) if devices.is_ok() => json!({}),
        Err(error) => return refused(StatusCode::CONFLICT, &error.to_string()),
    };
    match devices {
        Ok(difference) => told["devices"] = json!(difference),
        Err(HandleError::NothingHeld) => {}
        Err(error) => return refused(StatusCode::CONFLICT, &error.to_string()),
    }
    reply::json(StatusCode::OK, &told)
}

/// Tells what the list answer `{"answer": …}` would change if a source gave it.
fn diff(sources: &[sync::Handle], body: &Bytes) -> reply::Reply {
    let source = match named(sources, body) {
        Ok(source) => source,
        Err(reply) => return *reply,
    };
    // The body was read once already; its depth is the source's to judge.
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    match source.preview(body["answer"].to_string().as_bytes()) {
        Ok(preview) => reply::json(StatusCode::OK, &preview),
        Err(error) => refused(StatusCode::UNPROCESSABLE_ENTITY, &format!("`answer`: {error}")),
    }
}

/// The source that the body names as `source`; the only one of devices when it names none.
fn named<'a>(
    sources: &'a [sync::Handle],
    body: &Bytes,
) -> Result<&'a sync::Handle, Box<reply::Reply>> {
    let refused = |status, why: &str| Err(Box::new(refused(status, why)));
    let name = match member(body, "source") {
        Ok(name) => name,
        Err(why) => return refused(StatusCode::BAD_REQUEST, &why),
    };
    let mut of_devices = sources.iter().filter(|s| s.collection() == graph::Collection::Devices);
    match (&name, of_devices.next(), of_devices.next()) {
        (None, Some(only), None) => Ok(only),
        (None, ..) => {
            let why = "there are several sources, or none: name one as `source`";
            refused(StatusCode::BAD_REQUEST, why)
        }
        (Some(name), ..) => match sources.iter().find(|source| **source.source() == **name) {
            Some(source) => Ok(source),
            None => refused(StatusCode::NOT_FOUND, &format!("no source is called `{name}`")),
        },
    }
}

/// A text member of a JSON body; `None` where it or the whole body is not there.
fn member(body: &Bytes, name: &str) -> Result<Option<String>, String> {
    match &parsed(body)?[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(format!("`{name}` is no text")),
    }
}

/// A member of the body's JSON object that is true, or false, or not there.
fn flag(body: &Bytes, name: &str) -> Result<bool, String> {
    match &parsed(body)?[name] {
        Value::Null => Ok(false),
        Value::Bool(flag) => Ok(*flag),
        _ => Err(format!("`{name}` is neither true nor false")),
    }
}

fn parsed(body: &Bytes) -> Result<Value, String> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body).map_err(|error| format!("the body is no JSON: {error}"))
}

fn refused(status: StatusCode, why: &str) -> reply::Reply {
    reply::json(status, &json!({ "error": why }))
}

/// What is in force.
fn trust(live: &Live) -> Value {
    let trust = &live.current().trust;
    let skipped = |set: &AnchorSet| -> Vec<Value> {
        let skipped = set.skipped.iter();
        skipped.map(|s| json!({ "id": s.configuration.as_str(), "why": s.why })).collect()
    };
    json!({
        "generation": trust.generation,
        "configurations": configurations(trust, &trust.anchors),
        "skipped": skipped(&trust.anchors),
        "applicationConfigurations": configurations(trust, &trust.applications),
        "skippedApplications": skipped(&trust.applications),
        "unmatchedRevocationEntries": trust.revocations.policy().unmatched,
    })
}

fn configurations(trust: &Snapshot, set: &AnchorSet) -> Vec<Value> {
    let authority = |kind: Kind, authority: &Authority| {
        let certificate = &authority.certificate;
        let (name, key) = (&certificate.subject, certificate.key);
        let rules = trust.revocations.policy().of(name, key);
        json!({
            "subject": name.to_string(),
            "fingerprint": certificate.fingerprint.to_string(),
            "root": authority.is_root,
            "notAfter": certificate.not_after.to_string(),
            "crl": authority.crl_url.as_deref(),
            "deltaCrl": authority.delta_crl_url.as_deref(),
            "revocation": {
                "mode": trust.crl_mode(kind, name, key, authority.crl_url.is_some()).as_str(),
                "graceSeconds": rules.grace.as_secs(),
                "requireDelta": rules.require_delta,
            },
        })
    };
    let configuration = |configuration: &Configuration| {
        let mut told = json!({
            "id": configuration.id.as_str(),
            "displayName": configuration.display_name,
        });
        let all = configuration.authorities.iter().map(|a| authority(configuration.kind, a));
        told["authorities"] = all.collect();
        if let Kind::Devices(field) = configuration.kind {
            told["subjectField"] = field.as_str().into();
            told["devices"] = match configuration.devices {
                Devices::Any => "any".into(),
                Devices::Registered(_) => "registered".into(),
            };
        }
        told
    };
    set.configurations.iter().map(configuration).collect()
}

/// Grants readiness once three conditions hold: a directory has returned its configurations of devices,
/// each revocation list that they need was fetched or has failed once, and the registries of devices
/// that they require are loaded.
pub(super) fn become_ready(
    ready: &Ready,
    mut in_force: watch::Receiver<ConfigurationsInForce>,
    lists: crl::Handle,
    registries: Vec<sync::devices::Handle>,
) -> impl Future<Output = ()> + Send + 'static {
    /// Interval between two checks of the registries.
    const CHECK: Duration = Duration::from_millis(200);
    let (trust, revocation) = (ready.latch("trust"), ready.latch("revocation"));
    let devices = ready.latch("devices");
    async move {
        // An empty directory counts as loaded; one that has not answered does not.  Configurations of
        // applications are not waited for: devices are served without them.
        let generation = match in_force.wait_for(|in_force| in_force.devices_loaded).await {
            Ok(in_force) => in_force.generation,
            Err(_) => return,
        };
        drop(trust);
        if lists.wait_until_attempted(generation).await.is_err() {
            return;
        }
        drop(revocation);
        while registries.iter().any(|registry| !registry.status().loaded) {
            tokio::time::sleep(CHECK).await;
        }
        drop(devices);
    }
}
