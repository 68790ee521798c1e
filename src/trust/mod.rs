//! Rank 1: judges.  Configurations and their authorities, paths, revocation, subjects, devices, and the
//! snapshot that a decision reads; nothing here knows of tokens.
//!
//! No module here reads a clock, a file or a socket, or draws a random number: time and bytes are
//! arguments.  That is what lets the same judge serve traffic, the `verify` command and every test.

pub mod assembly;
pub mod configurations;
pub mod devices;
pub mod index;
pub mod judge;
pub mod path;
pub mod refusal;
pub mod revocation;
pub mod snapshot;
pub mod subject;
