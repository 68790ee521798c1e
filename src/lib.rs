//! anchorgate: an mTLS OAuth 2.0 token-endpoint gateway for fleets of IoT devices.
//!
//! A device makes a mutual-TLS handshake.  anchorgate judges its certificate against trust anchors that
//! are synced from a Microsoft Graph directory, takes the subject ID from the field that the
//! configuration names, checks base and delta CRLs, and issues a short-lived access token bound to that
//! certificate (RFC 8705).  This page is the map; the decisions of a part stand in its own front page,
//! under *Why*.
//!
//! # The map
//!
//! | rank | part | purpose |
//! |---|---|---|
//! | 0 | [`x509`] | reads bytes: DER, time, names, certificates, revocation lists. Knows nothing of trust |
//! | 1 | [`trust`] | judges: configurations, paths, revocation, subjects, devices, snapshot, refusals. Knows nothing of tokens |
//! | 2 | [`token`] | grants: policy, claims, keys, assertions, replay |
//! | 3 | [`runtime`] | shared by running code: the live cell and its one writer, tasks, readiness, logging, whole files |
//! | 4 | [`http`] | one HTTP connection in, and HTTP clients out |
//! | 5 | [`tls`] [`keyring`] [`graph`] [`crl`] [`store`] [`oauth`] | adapters and the token plane; `graph` only talks |
//! | 6 | [`sync`] [`directory`] | `sync` follows a directory and decides what comes into force; `directory` serves one |
//! | 7 | [`admin`] | the operators' plane |
//! | 8 | [`config`] | the only reader of settings: typed parts, all problems at once |
//! | 9 | [`app`] | the composition root |
//! | 10 | [`cli`] | the commands, the quickstart among them |
//!
//! A part imports only parts of a strictly lower rank, never a sibling; `tests/layers.rs` enforces it.
//! Each part owns its `Config`, metrics and errors, and none imports [`config`].
//!
//! # Two flows, one meeting point
//!
//! ```text
//! request  tls/acceptor: permit -> accept -> handshake (tls/verifier asks domain::verify) -> http/serve
//!          -> oauth/request: bytes -> TokenRequest -> oauth/endpoint: Live::current(), judge again,
//!          authorize, sign -> reply -> audit           any refusal -> oauth/error -> reply
//! update   graph: credential -> pages -> wire -> AnchorSet --+
//!          graph/devices: pages of changes -> registry ------+
//!          crl: schedule -> transport -> read, verify -------+-> inbox -> runtime/publisher:
//!          keyring: server certificate, signing keys --------+   Assembly -> build -> Writer::publish
//! ```
//!
//! They meet in [`runtime::live`]: one cell with the snapshot, the signing keys and the TLS
//! configurations, so that no reader sees half a change.  A request loads it once and uses that one
//! value throughout.
//!
//! # Invariants
//!
//! 1. The handshake's verdict only decides whether to talk.  Every token request is judged again under
//!    the current snapshot: a removed anchor, a revoked or expired certificate stops the next request on
//!    resumed and kept-alive connections.  rustls does not call the verifier when a session is resumed;
//!    this is what closes that hole.
//! 2. A signature check is a pure function of bytes, so a good one is remembered, within a bound, for as
//!    long as the process lives.  Everything else (validity now, revocation, names, policy, subject) is
//!    decided each time and never cached.
//! 3. The TLS configurations outlive trust updates: a CRL refresh or an anchor change does not throw
//!    away session tickets.  They are rebuilt when the server's certificate or a ticket key changes.
//! 4. One writer.  Build and validate first, then publish.  A failed build leaves the old state in
//!    force, due for another try, and visible.
//! 5. Unknown is a refusal.  "Never loaded" and "loaded, empty" are different values.  A truncated or
//!    unreadable answer of the directory removes no anchor.
//! 6. The data plane never waits for the network or a disk.  The last good state is on disk and is
//!    served from at the start, with its own validity.
//!    What is not known yet, such as the list of an address that a certificate names for the first time,
//!    is noted, fetched by the side, and there for the next request.
//! 7. Devices and applications are trusted apart: two lists of configurations, two judges, two types of
//!    proof.  A certificate that is good for one is nothing for the other.
//! 8. Identity is (configuration, anchor key, path, field, value).  Only the end-entity certificate
//!    gives identity.
//! 9. Nothing secret is logged, listed or served.
//!
//! # Limits
//!
//! Every input has one, and its refusal says the value and the limit.  Those that an operator sets are
//! in README's table.  Fixed are: 48 certificates and 64 KiB in a presented chain (more than a path's
//! 10, since what is presented need not be in order, nor all of it used), 16 KiB in a token request's
//! body (48 KiB where clients send assertions: 40 KiB, 10 certificates, 10 minutes; 16,384 used ones of
//! a client are remembered), 1 MiB in a directory request's, JSON 32 deep, 128 signatures and 1,024
//! issuers tried for one decision, 10 s to connect to a server of lists, 200 pages of 16 MiB in a
//! directory's list; in an answer about devices 1,000 pages of that size, and one more for each 50 of
//! `graph.max_devices`; 10,000 configurations that devices are registered for; in our own directory
//! 10,000,000 devices, 10,000 templates, 10,000 trust configurations, 100,000 removals of a kind that
//! are remembered; for a page 2,000 objects looked at and 8 MiB of them; 20 s for a request's body,
//! 28 s for its answer.
//!
//! # Where to add a thing
//!
//! | to add | touch |
//! |---|---|
//! | a subject field | `domain/subject/fields.rs`: a variant and its reader |
//! | a way to authenticate to Graph | `graph/auth.rs`: a `Credential` variant; `config/parse.rs` |
//! | a CRL transport | `crl/transport/`: a scheme |
//! | a grant | `domain/token/grants.rs`: a variant; `oauth/request.rs` |
//! | a source of trust | a rank-3 folder that sends `Update`s; one line in `app.rs` |
//! | a setting | the part's `Config`; `config/parse.rs`; README's table |

// What serves does not panic on what it is given: an exception is a proof, and says so where it stands.
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod crl;
pub mod directory;
pub mod graph;
pub mod http;
pub mod keyring;
pub mod oauth;
pub mod runtime;
pub mod store;
pub mod sync;
pub mod tls;
pub mod token;
pub mod trust;
pub mod x509;
