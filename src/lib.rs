//! anchorgate: an mTLS OAuth 2.0 token-endpoint gateway for fleets of IoT devices.
//!
//! A device makes a mutual-TLS handshake.  anchorgate judges its certificate against trust anchors that
//! are synced from a Microsoft Graph directory, takes the subject ID from the field that the
//! configuration names, checks base and delta CRLs, and issues a short-lived access token bound to that
//! certificate (RFC 8705).  This page is the map.  The decisions of a part are on its own front page.
//!
//! # The map
//!
//! | rank | part | purpose |
//! |---|---|---|
//! | 0 | [`x509`] | reads bytes: DER, time, names, certificates, revocation lists. Knows nothing of trust |
//! | 1 | [`trust`] | judges: configurations, paths, revocation, subjects, devices, snapshot, refusals. Knows nothing of tokens |
//! | 2 | [`token`] | grants: policy, claims, keys, assertions, replay |
//! | 3 | [`runtime`] | shared by running code: the live cell and its one writer, tasks, readiness, logging, audit records, whole files |
//! | 4 | [`http`] | one HTTP connection in, and HTTP clients out |
//! | 5 | [`tls`] [`keyring`] [`graph`] [`crl`] [`store`] [`oauth`] | adapters and the token plane (the token endpoint and its metadata); `graph` sends requests and decides nothing |
//! | 6 | [`sync`] [`directory`] | `sync` follows a directory and decides what comes into force; `directory` serves one |
//! | 7 | [`admin`] | the operators' plane |
//! | 8 | [`config`] | the only reader of settings: typed parts, all problems at once |
//! | 9 | [`app`] | the composition root |
//! | 10 | [`cli`] | the commands, the quickstart among them |
//!
//! A part imports only parts of a strictly lower rank, never a sibling; `tests/layers.rs` enforces it.
//! Each part owns its `Config`, metrics and errors, and no part below rank 8 imports [`config`].  The ranks 0 to 2 are
//! pure: time, bytes and random numbers are arguments.
//!
//! # Vocabulary
//!
//! | term | meaning |
//! |---|---|
//! | trust domain | one directory that the gateway syncs from (`[[graph]]`), with its administrators |
//! | configuration | one `mutualTlsOauthConfiguration`: its certification authorities and the certificate field that names a device |
//! | authority | one `certificateAuthority` of a configuration: root or intermediate, with the addresses of its CRL and delta CRL |
//! | anchor | a root authority that ends a path. An intermediate authority is path material |
//! | subject ID | the single value of the field that `tlsClientAuthParameter` names, in canonical form |
//! | path | leaf, intermediates and anchor, validated under one configuration (RFC 5280 section 6.1) |
//! | revocation set | base CRL and the delta in force for one CA key (issuer name and key), compact and exact |
//! | snapshot | everything a decision needs, immutable, with a generation number. "In force" means: in the published snapshot |
//! | judge | the pure function from (chain, snapshot, time) to `Verified` or a `Refusal` with a stable code |
//! | client, application | an OAuth client policy; an application is a client that is not a device and is trusted through a `certificateBasedApplicationConfiguration` |
//! | cell, generation | the one place with the published state, and the number that grows with each publication |
//! | hold back | keep a response of a directory out of force until an operator approves it |
//! | registry | the directory's devices (`externalDeviceId`, `accountEnabled`), which a subject ID can be required to match |
//! | source | an origin of updates: a directory, CRL addresses, key files |
//! | poll, fetch, refresh, retry | a scheduled request to a source; one exchange with it; a fetch that an operator asks for; a fetch after a failed one |
//!
//! # Two flows, one meeting point
//!
//! ```text
//! request  tls/acceptor: turn -> accept -> handshake (tls/verifier asks trust::judge) -> http/serve
//!          -> oauth/request: bytes -> form -> oauth/endpoint: Live::current(), judge again,
//!          authorize, sign -> reply -> audit           any refusal -> oauth/error -> reply
//! update   sync: graph/client -> graph/wire -> compare, hold back --+
//!          crl: schedule -> transport -> read, verify --------------+-> inbox -> runtime/publisher:
//!          keyring: server certificate, signing keys ---------------+   Assembly -> build -> Writer::publish
//! ```
//!
//! They meet in [`runtime::live`]: one cell with the snapshot, the client policy, the signing keys and the
//! TLS configurations, so that no reader sees half a change.  A decision loads it once, after the body has
//! arrived, and uses that one value throughout.
//!
//! A reload of the configuration (`app/reload`) sends new rules to the same publisher.  It changes rate
//! limits, admin tokens, the log filter and the CRL client directly, because no decision compares them
//! with other state.
//!
//! # Invariants
//!
//! 1. The handshake's verdict only decides whether to continue.  Every token request is judged again
//!    under the current snapshot: a removed anchor, a revoked or expired certificate stops the next
//!    request on resumed and open connections.  rustls does not call the verifier when a session is
//!    resumed; judging again closes that hole.
//! 2. A signature check is a pure function of bytes, so its result is remembered, within a bound, for as
//!    long as the process lives.  Everything else (validity, revocation, names, policy, subject) is
//!    decided each time and never cached.
//! 3. The TLS configurations outlive trust updates: a CRL refresh or an anchor change does not discard
//!    session tickets.  They are rebuilt when the server's certificate or a ticket key changes.
//! 4. One writer.  Build and validate first, then publish.  TLS configurations that cannot be built
//!    leave the old ones in force and are tried again.  A snapshot is built from parts that were
//!    validated when they arrived, so building it cannot fail.
//! 5. Unknown means refused.  "Never loaded" and "loaded, empty" are different values.  A truncated or
//!    unreadable response of the directory removes no anchor.
//! 6. The data path never waits for the network or a disk.  The last good state is on disk and is used
//!    at start, with its own validity.  An unknown dependency, such as the list of an address that a
//!    certificate names for the first time, is recorded, fetched in the background, and present for a
//!    later request.  One exception is an operator's choice: where logs or audit records must not be lost
//!    (`block`), a decision waits up to a second for room in their queue.
//! 7. Devices and applications are trusted apart: two lists of configurations, two judges, two types of
//!    proof.  A certificate that is good for one means nothing for the other.
//! 8. Identity is (configuration, anchor key, path, field, value).  Only the end-entity certificate
//!    gives identity.
//! 9. Nothing secret is logged, listed or served.  Foreign text is bounded and escaped where it leaves
//!    the process.
//!
//! # Limits
//!
//! Every input has a limit, and its refusal names the value and the limit.  Limits that an operator sets
//! are in `deploy/configuration.md`.  These are fixed:
//!
//! | input | limit |
//! |---|---|
//! | presented chain | 48 certificates and 64 KiB, in a handshake 24 KiB, also on listeners that judge no certificate (more than a path's 10, because a presented chain need not be in order, nor used completely) |
//! | body of a token request | 16 KiB; 48 KiB if clients send assertions; 64 parameters, 64 scope tokens |
//! | a name in a certificate | 8 KiB |
//! | assertion | 40 KiB, 10 certificates, 10 minutes; 16,384 used ones of a client are remembered |
//! | body of a directory request | 1 MiB; JSON 32 levels deep; 20 s to arrive, 28 s to answer |
//! | one decision, for each trust domain | 128 signatures, 8 of them invalid, 1,024 issuers; verifications with keys that only the peer presents: the cost of 12 with ECDSA P-256 |
//! | connecting to a CRL server | 10 s |
//! | a directory's list | 200 pages of 16 MiB; for devices 1,000 pages, and one more for each 50 of `graph.max_devices` |
//! | configurations that devices are registered for | 10,000 |
//! | our own directory | 10,000,000 devices, 10,000 templates, 10,000 trust configurations, 100,000 remembered removals of a kind |
//! | responses of our own directory that are built or being sent | 96 MiB, of one caller 32 MiB, pages that gateways share 32 MiB; others wait up to the 28 s |
//! | one page of our own directory | 2,000 objects scanned, 8 MiB of objects |
//! | one read, and one transaction, of the store | 8 MiB of objects, and one more |
//!
//! # Tolerated encodings
//!
//! An encoding is accepted although DER or a profile forbids it to issuers, if it cannot mean anything
//! else, the signature covers it, and OpenSSL, Java and GnuTLS accept it.  `verify --json` lists those of
//! certificates, and `crl show` those of lists.  Those with a name are counted, and logged once for each
//! issuer, except in version numbers, in issuingDistributionPoint and in the entries of lists.  Known
//! suites of test cases want some of them refused (marked below).  All are accepted by default, so that no
//! authority needs a setting for them.
//!
//! | encoding | name | reason |
//! |---|---|---|
//! | an encoded DEFAULT: `critical FALSE`, version v1, IDP flags FALSE | `encoded-default` | RFC 8410 section 10.2 shows one; TPM vendors, GSMA |
//! | `cA FALSE` in basicConstraints | `encoded-default-ca` | widespread |
//! | an empty list of extensions, in certificates, lists and entries | `empty-extensions` | no extension is present either way; Botan |
//! | ECDSA algorithm identifiers with NULL parameters | `ecdsa-null-parameters` | RFC 5758 section 3.2; mbedTLS, JDK 11, Android |
//! | RSA signature identifiers of lists without NULL | – | RFC 4055 section 5 |
//! | an empty revokedCertificates | `empty-revoked-list` | RFC 5280 section 5.1.2.6 requires issuers to omit it; it means "no entries". Chromium's suite wants it refused |
//! | a dNSName constraint with a leading period | – | subdomains only, as OpenSSL, NSS, Go and webpki read it. x509-limbo wants it refused |
//! | a name in subjectAltName that is not IA5String | `name-not-ia5` | refused if it is the subject ID, or its form is constrained |
//! | a serial number that is 0, negative, or of 21 to 64 bytes | `irregular-serial` | a number all the same; lists are searched for exactly it. x509-limbo wants zero and 21 bytes refused |
//! | `_` in a dNSName that is the subject ID | – | the bytes are compared; Windows hosts and SRV names have it |
//! | a cRLNumber of 21 bytes | `long-crl-number` | compared as a number |
//! | reasonCode 7 | – | RFC 5280 section 5.3.1 does not use it; the entry revokes, without a reason |
//! | letter case of scheme and host in URIs of distribution points | – | RFC 5280 section 7.4 |
//!
//! # Where to add a thing
//!
//! | to add | start in | then |
//! |---|---|---|
//! | a subject field | `src/trust/subject/fields.rs`: a variant; `src/trust/subject/mod.rs` and `src/trust/subject/rules.rs`: its reader; `src/x509/certificate/extensions.rs` for a new form of name | `src/config/clients.rs`, `src/cli/quickstart/world.rs`, `deploy/configuration.md` |
//! | a Graph credential | `src/graph/auth/credential.rs`: a variant; `src/graph/auth/request.rs`: its request | `src/config/credential.rs`, `src/cli/directory/access.rs`, `deploy/configuration.md` |
//! | a latency metric | the `metrics.rs` of the part, such as `src/oauth/metrics.rs`, with the type of `src/runtime/metrics/latency.rs` | the table in `deploy/README.md` |
//! | a span | the place of the work, with the target of `src/runtime/telemetry/spans.rs` | the table in `deploy/opentelemetry.md` |
//! | an endpoint on the token plane | `src/oauth/metadata.rs`: a path of the public listener; `src/oauth/endpoint/mod.rs` for the token listener | `src/oauth/mod.rs`, the README's table of listeners |
//! | a third store | `src/store/mod.rs`: an engine beside `src/store/embedded` and `src/store/postgres` | `src/config/directory.rs`, `src/app/directory.rs`, `src/app/reload.rs`, `tests/store/contract.rs` |
//! | OCSP as a revocation source | `src/trust/revocation/mod.rs`: the question that the judge asks | `src/trust/assembly.rs`: an `Update`; an adapter beside `src/crl/source.rs`, started in `src/app/updates.rs`; `src/config/revocation.rs` |
//! | a field in the audit record | `src/runtime/audit.rs` | `src/runtime/audit_sink/line.rs`, `src/runtime/audit.schema.json`, `deploy/audit.md` |
//! | a sink of audit records | `src/runtime/audit_sink/mod.rs`: a target | `src/config/audit.rs`, `deploy/audit.md` |
//! | a per-client limit | `src/token/terms.rs` or `src/oauth/rates/mod.rs` | `src/config/clients.rs`, `src/config/rate_limits.rs`, `src/oauth/endpoint/mod.rs`, `src/oauth/rates/metrics.rs`, `deploy/configuration.md` |
//! | a CRL transport | `src/crl/transport/mod.rs`: a scheme | |
//! | a grant | `src/token/grants.rs`: a variant | `src/oauth/request.rs` |
//! | a source of trust | a part of rank 5 or 6 that sends `Update`s | `src/app/updates.rs`, for directories `src/app/followers.rs` |
//! | a setting | the part's `Config` | `src/config/parse.rs`, `deploy/configuration.md` |

// Serving code does not panic on its input.  Each exception is a proof and says so in place.
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
