//! State machine that parses a list part by part.  A part is hashed and checked once it is
//! complete.

use std::sync::Arc;

use crate::x509::certificate::{Certificate, without_null};
use crate::x509::crl::collector::EntryCollector;
use crate::x509::crl::error::{CrlError, Fault};
use crate::x509::crl::list::{Extensions, Kind, RevocationList, TOLERATED};
use crate::x509::crl::piece::{Header, at, malformed, whole_element};
use crate::x509::crl::serial_groups::Progress;
use crate::x509::crl::signature::{Algorithm, Message, signers_of};
use crate::x509::der::{self, DerError, Element, tag};
use crate::x509::name::Name;
use crate::x509::name::oid::dotted;
use crate::x509::time::Timestamp;

/// Bytes that are hashed before they are parsed, so that parsing finds them in the processor's
/// cache.
const STRIDE: usize = 32 * 1024;
/// Bytes that are first appended to an incomplete element.  Most entries are shorter.
const APPENDED: usize = 128;

/// Part that is expected next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Outer,
    Tbs,
    Version,
    Algorithm,
    Issuer,
    ThisUpdate,
    NextUpdate,
    Revoked,
    Entry,
    Extensions,
    OuterAlgorithm,
    Signature,
    End,
}

/// Parser state: the parts of the list so far, and the position.
pub(super) struct Walker {
    max_bytes: u64,
    pub part: Part,
    /// Start of an element whose end has not arrived.
    incomplete: Vec<u8>,
    /// Number of bytes parsed.
    offset: u64,
    /// Offset up to which bytes are hashed.
    hashed: u64,
    // Offsets of the structures that contain the position.
    outer_end: u64,
    tbs_start: u64,
    tbs_end: u64,
    entries_start: u64,
    entries_end: u64,
    /// revokedCertificates is present without an entry.
    has_empty_entries: bool,

    message: Message,
    version: u8,
    algorithm: Box<[u8]>,
    pub issuer: Option<Name>,
    this_update: Timestamp,
    next_update: Option<Timestamp>,
    extensions: Extensions,
    signature: Box<[u8]>,

    entries: EntryCollector,
}

impl Walker {
    pub(super) fn new(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            part: Part::Outer,
            incomplete: Vec::new(),
            offset: 0,
            hashed: 0,
            outer_end: u64::MAX,
            tbs_start: u64::MAX,
            tbs_end: u64::MAX,
            entries_start: u64::MAX,
            entries_end: u64::MAX,
            has_empty_entries: false,
            message: Message::new(),
            version: 1,
            algorithm: Box::default(),
            issuer: None,
            this_update: Timestamp(0),
            next_update: None,
            extensions: Extensions::default(),
            signature: Box::default(),
            entries: EntryCollector::default(),
        }
    }

    pub(super) fn error(&self, fault: Fault) -> CrlError {
        CrlError { issuer: self.issuer.clone(), fault }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        // An incomplete element is extended by a few bytes until it is complete.  The rest of the
        // input is parsed in place.
        while !self.incomplete.is_empty() && !bytes.is_empty() {
            let held = self.incomplete.len();
            let (more, rest) = bytes.split_at(bytes.len().min(held.max(APPENDED)));
            self.incomplete.extend_from_slice(more);
            let mut joined = std::mem::take(&mut self.incomplete);
            let used = self.advance(&joined)?;
            match used.checked_sub(held) {
                Some(consumed) => {
                    bytes = &bytes[consumed..];
                    joined.clear();
                }
                None => {
                    bytes = rest;
                    joined.drain(..used);
                }
            }
            self.incomplete = joined;
        }
        if self.incomplete.is_empty() {
            let used = self.advance(bytes)?;
            self.incomplete.extend_from_slice(&bytes[used..]);
        }
        Ok(())
    }

    /// Parses all complete elements of `input` and returns their length.
    fn advance(&mut self, input: &[u8]) -> Result<usize, Fault> {
        let mut used = 0;
        loop {
            let ahead = &input[used..];
            if self.part == Part::Entry {
                // Hashing first loads the entries into the cache in order.
                self.hash(&ahead[..ahead.len().min(STRIDE)]);
            }
            let Some(step) = self.step(ahead)? else { return Ok(used) };
            self.hash(&ahead[..step]);
            used += step;
            self.offset += step as u64;
        }
    }

    /// Hashes the bytes of `input` that are signed and not hashed yet.  `input` starts at `offset`.
    fn hash(&mut self, input: &[u8]) {
        let within = |at: u64| {
            usize::try_from(at.saturating_sub(self.offset)).unwrap_or(usize::MAX).min(input.len())
        };
        let (from, to) = (within(self.tbs_start.max(self.hashed)), within(self.tbs_end));
        if from < to {
            self.message.update(&input[from..to]);
            self.hashed = self.offset + to as u64;
        }
    }

    /// Parses the next part and returns its length, or `None` if more input is needed.  An absent
    /// optional part has length zero.
    fn step(&mut self, input: &[u8]) -> Result<Option<usize>, Fault> {
        match self.part {
            Part::Outer => self.enter_list(input),
            Part::Tbs => self.enter_tbs(input),
            Part::Entry => self.read_entries(input),
            Part::End if input.is_empty() => Ok(None),
            Part::End => Err(malformed("certificateList", DerError::Trailing(input.len()))),
            Part::OuterAlgorithm | Part::Signature => self.read_tail(input),
            _ => self.read_head(input),
        }
    }

    fn enter_list(&mut self, input: &[u8]) -> Result<Option<usize>, Fault> {
        let part = "certificateList";
        let Some((header, end)) = self.enter(input, u64::MAX, part)? else { return Ok(None) };
        if end > self.max_bytes {
            return Err(Fault::TooLarge { bytes: end, limit: self.max_bytes });
        }
        self.outer_end = end;
        self.tbs_start = header as u64;
        self.part = Part::Tbs;
        Ok(Some(header))
    }

    fn enter_tbs(&mut self, input: &[u8]) -> Result<Option<usize>, Fault> {
        let Some((header, end)) = self.enter(input, self.outer_end, "tbsCertList")? else {
            return Ok(None);
        };
        self.tbs_end = end;
        self.part = Part::Version;
        Ok(Some(header))
    }

    /// Parses the header of a SEQUENCE, which must end by offset `limit`.  Returns the length of
    /// the header and the end of the SEQUENCE.
    fn enter(
        &self,
        input: &[u8],
        limit: u64,
        part: &'static str,
    ) -> Result<Option<(usize, u64)>, Fault> {
        let Some(header) = Header::read(input).map_err(at(part))? else { return Ok(None) };
        if header.tag != tag::SEQUENCE {
            let why = DerError::Tag { expected: tag::SEQUENCE, found: header.tag };
            return Err(malformed(part, why));
        }
        let end = self.offset + header.bytes as u64 + header.length;
        if end > limit {
            Err(malformed(part, DerError::Truncated))
        } else {
            Ok(Some((header.bytes, end)))
        }
    }

    /// Parses a part of tbsCertList before or after the entries (RFC 5280 section 5.1).
    fn read_head(&mut self, input: &[u8]) -> Result<Option<usize>, Fault> {
        let (name, next) = match self.part {
            Part::Version => ("version", Part::Algorithm),
            Part::Algorithm => ("signature", Part::Issuer),
            Part::Issuer => ("issuer", Part::ThisUpdate),
            Part::ThisUpdate => ("thisUpdate", Part::NextUpdate),
            Part::NextUpdate => ("nextUpdate", Part::Revoked),
            Part::Revoked => ("revokedCertificates", Part::Extensions),
            _ => ("crlExtensions", Part::OuterAlgorithm),
        };
        let at_end = self.offset == self.tbs_end;
        let Some(&found) = input.first().filter(|_| !at_end) else {
            // At the end of the structure, optional parts are absent.
            let optional = matches!(self.part, Part::NextUpdate | Part::Revoked | Part::Extensions);
            return match (at_end, optional) {
                (true, true) => {
                    self.part = next;
                    Ok(Some(0))
                }
                (true, false) => Err(malformed(name, DerError::Truncated)),
                (false, _) => Ok(None),
            };
        };
        let absent = match self.part {
            Part::Version => found != tag::INTEGER,
            Part::NextUpdate => !matches!(found, tag::UTC_TIME | tag::GENERALIZED_TIME),
            Part::Revoked => found != tag::SEQUENCE,
            _ => false,
        };
        if absent {
            self.part = next;
            return Ok(Some(0));
        }
        if self.part == Part::Revoked {
            return self.enter_entries(input);
        }
        let Some(element) = whole_element(input, self.tbs_end - self.offset, name)? else {
            return Ok(None);
        };
        match self.part {
            Part::Version => self.read_version(element)?,
            Part::Algorithm => self.read_algorithm(element)?,
            Part::Issuer => self.issuer = Some(Name::from_der(element.raw).map_err(at(name))?),
            Part::ThisUpdate => {
                self.this_update = Timestamp::from_der(element).map_err(at(name))?;
            }
            Part::NextUpdate => {
                self.next_update = Some(Timestamp::from_der(element).map_err(at(name))?);
            }
            _ => self.read_extensions(element)?,
        }
        self.part = next;
        Ok(Some(element.raw.len()))
    }

    fn read_version(&mut self, element: Element<'_>) -> Result<(), Fault> {
        // The field is not a DEFAULT: if it is present, it is v2 (RFC 5280 section 5.1.2.1).
        match der::small_integer(element).map_err(at("version"))? {
            1 => self.version = 2,
            _ => return Err(malformed("version", DerError::Value("neither v1 nor v2"))),
        }
        Ok(())
    }

    fn read_algorithm(&mut self, element: Element<'_>) -> Result<(), Fault> {
        let identifier = element.expect(tag::SEQUENCE).map_err(at("signature"))?.value;
        let algorithm = Algorithm::of(identifier).ok_or_else(|| Fault::SignatureAlgorithm {
            oid: der::Reader::new(identifier)
                .expect(tag::OID)
                .map_or_else(|_| "(none)".to_owned(), |oid| dotted(oid.value)),
        })?;
        self.message.set_algorithm(algorithm);
        self.algorithm = identifier.into();
        Ok(())
    }

    fn enter_entries(&mut self, input: &[u8]) -> Result<Option<usize>, Fault> {
        let name = "revokedCertificates";
        let Some((header, end)) = self.enter(input, self.tbs_end, name)? else { return Ok(None) };
        // RFC 5280 section 5.1.2.6 requires issuers to omit an empty field.  An empty one is tolerated:
        // it cannot mean anything but "no entries", and the signature covers it.
        self.entries_start = self.offset + header as u64;
        self.entries_end = end;
        self.has_empty_entries = end == self.entries_start;
        self.part = Part::Entry;
        Ok(Some(header))
    }

    fn read_entries(&mut self, input: &[u8]) -> Result<Option<usize>, Fault> {
        let mut used = 0;
        let mut remaining = self.entries_end - self.offset;
        let total = self.entries_end - self.entries_start;
        if remaining == 0 {
            self.part = Part::Extensions;
            return Ok(Some(0));
        }
        while remaining > 0 && used < STRIDE {
            let Some(element) = whole_element(&input[used..], remaining, "entry")? else { break };
            let contents = element.expect(tag::SEQUENCE).map_err(at("entry"))?.value;
            let size = element.raw.len();
            used += size;
            remaining -= size as u64;
            let (version, issuer) = (self.version, self.issuer.as_ref());
            self.entries.add(contents, version, issuer, || Progress {
                read: total - remaining,
                of: total,
            })?;
        }
        Ok(Some(used).filter(|&used| used > 0))
    }

    fn read_extensions(&mut self, element: Element<'_>) -> Result<(), Fault> {
        let name = "crlExtensions";
        let wrapped = element.expect(tag::context_constructed(0)).map_err(at(name))?;
        if self.version == 1 {
            return Err(Fault::Rule("a v1 list has extensions"));
        }
        if self.offset + element.raw.len() as u64 != self.tbs_end {
            let rest = self.tbs_end - self.offset - element.raw.len() as u64;
            let rest = usize::try_from(rest).unwrap_or(usize::MAX);
            return Err(malformed("tbsCertList", DerError::Trailing(rest)));
        }
        let issuer = self.issuer.as_ref().ok_or(Fault::Rule("no issuer"))?;
        self.extensions = Extensions::read(wrapped.value, issuer)?;
        Ok(())
    }

    /// Parses signatureAlgorithm and signatureValue.
    fn read_tail(&mut self, input: &[u8]) -> Result<Option<usize>, Fault> {
        let name =
            if self.part == Part::Signature { "signatureValue" } else { "signatureAlgorithm" };
        if self.offset == self.outer_end {
            return Err(malformed(name, DerError::Truncated));
        }
        let Some(element) = whole_element(input, self.outer_end - self.offset, name)? else {
            return Ok(None);
        };
        if self.part == Part::OuterAlgorithm {
            let outer = element.expect(tag::SEQUENCE).map_err(at(name))?.value;
            if *outer != *self.algorithm {
                // Section 5.1.1.2.  The signature does not cover the outer identifier.
                return Err(Fault::Rule("inner and outer signature algorithms differ"));
            }
            self.part = Part::Signature;
        } else {
            let bits = element.expect(tag::BIT_STRING).map_err(at(name))?.value;
            let (signature, unused) = der::bit_string(bits).map_err(at(name))?;
            if unused != 0 {
                return Err(malformed(name, DerError::Value("not a whole number of bytes")));
            }
            if self.offset + element.raw.len() as u64 != self.outer_end {
                return Err(malformed("certificateList", DerError::Trailing(1)));
            }
            self.signature = signature.into();
            self.part = Part::End;
        }
        Ok(Some(element.raw.len()))
    }

    /// Verifies the signature and returns the list.
    pub(super) fn finish(
        mut self,
        signers: &[Arc<Certificate>],
        now: Timestamp,
        between: &mut dyn FnMut(),
    ) -> Result<RevocationList, Fault> {
        let message = std::mem::replace(&mut self.message, Message::new());
        let signed = message.finish().ok_or(Fault::Rule("no signature algorithm"))?;
        let issuer = self.issuer.as_ref().ok_or(Fault::Rule("no issuer"))?;
        let key_id = self.extensions.signer.as_ref().and_then(|id| id.key_id.as_deref());
        let signers = signers_of(issuer, key_id, signers, &signed, &self.signature)?;
        if self.this_update > now {
            return Err(Fault::NotYetValid { this_update: self.this_update, now });
        }
        self.into_list(signers, between)
    }

    /// Names of the tolerated encodings.
    fn tolerated(&self) -> Vec<&'static str> {
        let has_long_number = self.extensions.number.is_some_and(|number| number.is_long());
        let found = [
            self.extensions.encodes_default,
            self.extensions.is_empty,
            without_null(&self.algorithm).is_some(),
            self.has_empty_entries,
            has_long_number,
        ];
        TOLERATED
            .into_iter()
            .zip(found)
            .filter_map(|(name, occurs)| occurs.then_some(name))
            .collect()
    }

    /// Returns the list with `signers` as its signers.
    pub(super) fn into_list(
        self,
        signers: Vec<Arc<Certificate>>,
        between: &mut dyn FnMut(),
    ) -> Result<RevocationList, Fault> {
        let tolerated = self.tolerated();
        let issuer = self.issuer.ok_or(Fault::Rule("no issuer"))?;
        let scope = self.extensions.scope;
        if self.entries.has_other_issuers() && !scope.as_ref().is_some_and(|scope| scope.indirect) {
            return Err(Fault::Rule(
                "entries name a certificateIssuer, but the list is not indirect",
            ));
        }
        let kind = match (self.extensions.base, self.extensions.number) {
            (None, _) if self.entries.has_removals() => {
                return Err(Fault::Rule("removeFromCRL in a complete list"));
            }
            (None, _) => Kind::Complete,
            (Some(_), None) => return Err(Fault::Rule("a delta list without cRLNumber")),
            (Some(base), Some(_)) => Kind::Delta { base },
        };
        let by_issuer = self.entries.finish(issuer.clone(), between);
        Ok(RevocationList {
            issuer,
            signers,
            version: self.version,
            kind,
            number: self.extensions.number,
            this_update: self.this_update,
            next_update: self.next_update,
            next_publish: self.extensions.next_publish,
            scope,
            freshest: self.extensions.freshest,
            tolerated,
            bytes: self.outer_end,
            signature: self.signature,
            by_issuer,
        })
    }
}
