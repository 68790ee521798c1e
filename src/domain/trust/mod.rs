//! What is trusted: configurations and their authorities, revocation, and the judge's path half.

pub mod anchors;
pub mod assembly;
pub mod crl;
pub mod devices;
pub mod path;
pub mod revocations;
pub mod sightings;
pub mod snapshot;
