//! Certificate revocation lists: parsed while they arrive, verified, stored compactly.
//!
//! [`ListReader`] accepts the bytes of a list in pieces, as DER or PEM.  It hashes and parses them in
//! one pass and collects the serials, so the list itself is never held in memory.  The signature
//! comes last.  Only [`ListReader::finish`] verifies it and returns a [`RevocationList`], so no
//! entry is used before that.
//!
//! # Design notes
//! General parser crates need gigabytes and many seconds for a list of ten million entries.
//! rustls-webpki verifies a list's signature at every lookup and does not support delta lists.

mod collector;
mod entries;
mod entry;
mod error;
mod list;
mod pem;
mod piece;
mod reader;
mod reason;
mod scope;
mod serial_groups;
mod signature;
mod table;
mod walk;

pub use error::{CrlError, Fault};
pub(crate) use list::TOLERATED;
pub use list::{CrlNumber, Kind, RevocationList};
pub(crate) use reader::DEFAULT_MAX_BYTES;
pub use reader::{ListReader, Unverified};
pub use reason::Reason;
pub(crate) use reason::Reasons;
pub use scope::IssuingDistributionPoint;
pub(crate) use scope::{DistributionPoint, OnlyContains, distribution_points, read_points};
