//! Rank 0: X.509 parsers.  DER, time, names, certificates and revocation lists, without any notion
//! of trust.
//!
//! No module here reads a clock, a file or a socket, or draws a random number.  Time and bytes are
//! arguments.

pub mod certificate;
pub mod crl;
pub(crate) mod der;
pub mod name;
pub mod pem;
pub mod time;

#[cfg(test)]
pub(crate) mod test_certificates;
