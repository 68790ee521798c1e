//! Incremental list parser: one pass that hashes, parses and collects entries.
//!
//! Between two pieces the reader buffers less than one entry or one part of the header.  A list
//! that arrives in one piece takes the same path.

use std::sync::Arc;

use crate::x509::certificate::Certificate;
use crate::x509::crl::error::{CrlError, Fault};
use crate::x509::crl::list::RevocationList;
use crate::x509::crl::pem;
use crate::x509::crl::piece::malformed;
use crate::x509::crl::walk::{Part, Walker};
use crate::x509::der::{DerError, tag};
use crate::x509::name::Name;
use crate::x509::time::Timestamp;

/// Default for the largest size of one list, in bytes as received.
pub(crate) const DEFAULT_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Incremental parser of one list.
pub struct ListReader {
    max_bytes: u64,
    received: u64,
    framing: Framing,
    walker: Walker,
}

enum Framing {
    /// No byte has arrived.
    Unknown,
    Der,
    Pem(pem::Decoder),
}

impl ListReader {
    /// Creates a reader for a list of at most `max_bytes` bytes as received.
    pub fn new(max_bytes: u64) -> Self {
        Self { max_bytes, received: 0, framing: Framing::Unknown, walker: Walker::new(max_bytes) }
    }

    /// Parses the next bytes.
    ///
    /// # Errors
    /// Returns an error if the bytes so far do not begin a valid list or exceed a limit.  The
    /// reader cannot be used after an error.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), CrlError> {
        self.parse(bytes).map_err(|fault| self.walker.error(fault))
    }

    fn parse(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.received = self.received.saturating_add(bytes.len() as u64);
        if self.received > self.max_bytes {
            return Err(Fault::TooLarge { bytes: self.received, limit: self.max_bytes });
        }
        if let (Framing::Unknown, Some(&first)) = (&self.framing, bytes.first()) {
            self.framing = match first {
                tag::SEQUENCE => Framing::Der,
                _ => Framing::Pem(pem::Decoder::default()),
            };
        }
        match &mut self.framing {
            Framing::Unknown => Ok(()),
            Framing::Der => self.walker.feed(bytes),
            Framing::Pem(decoder) => {
                let mut der = Vec::with_capacity(bytes.len() / 4 * 3 + 3);
                let decoded = decoder.feed(bytes, &mut der);
                // The bytes before a fault are parsed first, so that the error does not depend on
                // how the text was split.
                self.walker.feed(&der)?;
                decoded.map_err(Fault::Pem)
            }
        }
    }

    /// Returns the list after its last byte, if it is complete and signed by one of `signers`.
    ///
    /// # Errors
    /// Returns an error if the list is truncated, breaks a rule, has a thisUpdate later than `now`,
    /// or is not signed by any of `signers`.
    pub fn finish(
        self,
        signers: &[Arc<Certificate>],
        now: Timestamp,
    ) -> Result<RevocationList, CrlError> {
        self.finish_in_steps(signers, now, &mut || {})
    }

    /// Like [`ListReader::finish`], but calls `between` after every small portion of the work,
    /// which is long for a large list.
    ///
    /// # Errors
    /// Returns the errors of [`ListReader::finish`].
    pub(crate) fn finish_in_steps(
        self,
        signers: &[Arc<Certificate>],
        now: Timestamp,
        between: &mut dyn FnMut(),
    ) -> Result<RevocationList, CrlError> {
        let (issuer, walker) = self.end()?;
        walker.finish(signers, now, between).map_err(|fault| CrlError { issuer, fault })
    }

    /// Returns the list without verifying its signature, for display only.
    ///
    /// # Errors
    /// Returns an error if the list is truncated or breaks a rule.
    pub(crate) fn finish_unverified(self) -> Result<Unverified, CrlError> {
        let (issuer, walker) = self.end()?;
        let list =
            walker.into_list(Vec::new(), &mut || {}).map_err(|fault| CrlError { issuer, fault })?;
        Ok(Unverified(list))
    }

    fn end(mut self) -> Result<(Option<Name>, Walker), CrlError> {
        if let Framing::Pem(decoder) = &mut self.framing {
            let mut der = Vec::new();
            let end = decoder.finish(&mut der);
            let parsed = self.walker.feed(&der);
            parsed.and(end.map_err(Fault::Pem)).map_err(|fault| self.walker.error(fault))?;
        }
        if self.walker.part != Part::End {
            return Err(self.walker.error(malformed("certificateList", DerError::Truncated)));
        }
        Ok((self.walker.issuer.clone(), self.walker))
    }
}

impl RevocationList {
    /// Parses one DER or PEM list and verifies its signature with one of `signers` that has the
    /// name of its issuer.
    ///
    /// # Errors
    /// Returns an error if the bytes are not a valid list, exceed 64 MiB, or are not signed by any
    /// of `signers`.
    pub fn read(
        bytes: &[u8],
        signers: &[Arc<Certificate>],
        now: Timestamp,
    ) -> Result<Self, CrlError> {
        let mut reader = ListReader::new(DEFAULT_MAX_BYTES);
        reader.feed(bytes)?;
        reader.finish(signers, now)
    }
}

/// Parsed list whose signature was not verified.
pub struct Unverified(RevocationList);

impl Unverified {
    /// Returns the list, which must not decide anything.
    pub fn list(&self) -> &RevocationList {
        &self.0
    }
}
