//! Graph's JSON, converted to the types of the judge.
//!
//! # Design notes
//! The published pages, the metadata and the SDKs disagree in spelling: three names of the key identifier,
//! enum members without underscores, a member whose name has a blank.  Therefore spelling is tolerated.
//! Meaning is not: an unknown value is skipped with a reason, one configuration at a time.
//!
//! A *missing* member is distinguished from an *empty* one, because a shortened response must never count
//! as a removal.

mod authority;
mod configurations;
pub mod devices;
mod json;

pub(crate) use authority::MAX_URL_LENGTH;
pub(crate) use configurations::{
    Entries, Page, read_authorities, read_entry, subject_field, with_authorities,
    write_configurations,
};
pub use configurations::{Entry, JsonKind, read_configurations};
pub use json::{MAX_ID_LENGTH, MAX_JSON_DEPTH, WireError, parse};
pub(crate) use json::{binary, member};

#[cfg(test)]
mod tests;
