//! Certificate revocation lists: from bytes to decisions, and from a server to the snapshot.

#[path = "../support/mod.rs"]
mod support;

mod expired;
mod fetching;
mod interoperability;
mod judge;
mod lists;
mod merging;
mod panics;
mod policy;
mod rules;
mod seen_addresses;
mod shared_addresses;
mod source;
