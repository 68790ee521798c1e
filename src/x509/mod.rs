//! Rank 0: reads bytes.  DER, time, names, certificates and revocation lists; nothing here knows what is trusted.
//!
//! No module here reads a clock, a file or a socket, or draws a random number: time and bytes are
//! arguments.

pub mod certificate;
pub mod crl;
pub mod der;
pub mod name;
pub mod time;

#[cfg(test)]
pub(crate) mod test_certificates;
