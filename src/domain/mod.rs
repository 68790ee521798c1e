//! Rank 0: what is decided, and nothing that waits.
//!
//! No module here reads a clock, a file or a socket, or draws a random number: time and bytes are
//! arguments.  That is what lets the same judge serve traffic, the `verify` command and every test.

pub mod application;
pub mod cert;
pub mod der;
pub mod dn;
pub mod name;
pub mod refusal;
pub mod subject;
pub mod time;
pub mod token;
pub mod trust;
pub mod verify;
