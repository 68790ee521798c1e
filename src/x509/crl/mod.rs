//! One certificate revocation list: read while it arrives, verified, kept compactly.
//!
//! [`ListReader`] takes the bytes of a list as they come (DER or PEM), hashes and walks them in one
//! pass and fills the set of serials, so that the list itself is never held.  Nothing of it is used
//! before its signature verifies: the signature comes last, and only [`ListReader::finish`] makes a
//! [`RevocationList`].
//!
//! # Why not a parser crate
//! A list of ten million entries costs general parsers gigabytes and many seconds, and the verifier
//! crate that finds our paths checks a list's signature at every look-up and knows no delta lists.

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

pub use entries::{Entries, MAX_ODD_SERIALS};
pub use error::{CrlError, Fault};
pub use list::{CrlNumber, Kind, RevocationList};
pub use piece::MAX_PART_BYTES;
pub use reader::{DEFAULT_MAX_BYTES, ListReader, Unverified};
pub use reason::{Reason, Reasons};
pub use scope::{DistributionPoint, IssuingDistributionPoint, Only};
pub(crate) use scope::{distribution_points, read_points};
pub use walk::MAX_CERTIFICATE_ISSUERS;
