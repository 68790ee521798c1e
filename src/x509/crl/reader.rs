//! Reads a list as its bytes arrive: one pass that hashes, walks and fills.
//!
//! What is held back between two pieces is less than one entry, or one part of the head.  A list of
//! one piece goes the same way.

use std::sync::Arc;

use crate::x509::certificate::Certificate;
use crate::x509::crl::error::{CrlError, Fault};
use crate::x509::crl::list::RevocationList;
use crate::x509::crl::pem;
use crate::x509::crl::piece::malformed;
use crate::x509::crl::walk::{Part, Walk};
use crate::x509::der::{DerError, tag};
use crate::x509::name::Name;
use crate::x509::time::Timestamp;

/// Bytes of one list, as received.
pub const DEFAULT_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// A list being read.
pub struct ListReader {
    max_bytes: u64,
    received: u64,
    framing: Framing,
    walk: Walk,
}

enum Framing {
    /// Nothing has arrived.
    Unknown,
    Der,
    Pem(pem::Decoder),
}

impl ListReader {
    /// A reader of a list of at most `max_bytes`, as received.
    pub fn new(max_bytes: u64) -> Self {
        Self { max_bytes, received: 0, framing: Framing::Unknown, walk: Walk::new(max_bytes) }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// What has arrived is no list, or exceeds a limit.  The reader is of no use after that.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), CrlError> {
        self.take(bytes).map_err(|fault| self.walk.error(fault))
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Fault> {
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
            Framing::Der => self.walk.feed(bytes),
            Framing::Pem(decoder) => {
                let mut der = Vec::with_capacity(bytes.len() / 4 * 3 + 3);
                let decoded = decoder.feed(bytes, &mut der);
                // What came before the fault is walked first: the verdict is the same however the
                // text was cut.
                self.walk.feed(&der)?;
                decoded.map_err(Fault::Pem)
            }
        }
    }

    /// The list, after its last byte: complete, and signed by one of `signers`.
    ///
    /// # Errors
    /// The list is truncated, breaks a rule, is of the future, or is not signed by any of `signers`.
    pub fn finish(
        self,
        signers: &[Arc<Certificate>],
        now: Timestamp,
    ) -> Result<RevocationList, CrlError> {
        self.finish_between(signers, now, &mut || {})
    }

    /// [`ListReader::finish`], which for a large list is much work; `between` is called between small
    /// portions of it.
    ///
    /// # Errors
    /// Those of [`ListReader::finish`].
    pub fn finish_between(
        self,
        signers: &[Arc<Certificate>],
        now: Timestamp,
        between: &mut dyn FnMut(),
    ) -> Result<RevocationList, CrlError> {
        let (issuer, walk) = self.end()?;
        walk.finish(signers, now, between).map_err(|fault| CrlError { issuer, fault })
    }

    /// What the bytes say, whoever wrote them: to look at, and good for nothing else.
    ///
    /// # Errors
    /// The list is truncated or breaks a rule.
    pub fn finish_unverified(self) -> Result<Unverified, CrlError> {
        let (issuer, walk) = self.end()?;
        let list = walk.list(Vec::new(), &mut || {}).map_err(|fault| CrlError { issuer, fault })?;
        Ok(Unverified(list))
    }

    fn end(mut self) -> Result<(Option<Name>, Walk), CrlError> {
        if let Framing::Pem(decoder) = &mut self.framing {
            let mut der = Vec::new();
            let end = decoder.finish(&mut der);
            let walked = self.walk.feed(&der);
            walked.and(end.map_err(Fault::Pem)).map_err(|fault| self.walk.error(fault))?;
        }
        if self.walk.part != Part::End {
            return Err(self.walk.error(malformed("certificateList", DerError::Truncated)));
        }
        Ok((self.walk.issuer.clone(), self.walk))
    }
}

impl RevocationList {
    /// Reads one DER or PEM list and verifies its signature with one of `signers` that has its
    /// issuer's name.
    ///
    /// # Errors
    /// Not a list, above [`DEFAULT_MAX_BYTES`], not usable, or not signed by any of `signers`.
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

/// A list that nobody vouches for.
pub struct Unverified(RevocationList);

impl Unverified {
    /// What it says.
    pub fn list(&self) -> &RevocationList {
        &self.0
    }
}
