//! The walk through a list, part after part: each is hashed, checked and kept when it is whole.

use std::collections::HashMap;
use std::sync::Arc;

use crate::x509::certificate::Certificate;
use crate::x509::crl::entries::{Filling, MAX_ODD_SERIALS};
use crate::x509::crl::entry;
use crate::x509::crl::error::{CrlError, Fault};
use crate::x509::crl::list::{Extensions, Kind, RevocationList};
use crate::x509::crl::piece::{Header, at, malformed, whole_element};
use crate::x509::crl::reason::Reason;
use crate::x509::crl::serial_groups::Progress;
use crate::x509::crl::signature::{Algorithm, Message, signers_of};
use crate::x509::der::{self, DerError, Element, tag};
use crate::x509::name::Name;
use crate::x509::name::oid::dotted;
use crate::x509::time::Timestamp;

/// Certificate issuers that one indirect list speaks of.
pub const MAX_CERTIFICATE_ISSUERS: usize = 10_000;

/// Bytes hashed before they are walked: they are still in the processor's cache then.
const STRIDE: usize = 32 * 1024;
/// Bytes that an element cut short is joined with at first: more than an entry has.
const JOINED: usize = 128;

/// The next part that is expected.
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

/// What has been read of a list so far, and what is to come.
pub(super) struct Walk {
    max_bytes: u64,
    pub part: Part,
    /// The beginning of an element whose rest has not arrived.
    carry: Vec<u8>,
    /// Octets walked.
    offset: u64,
    /// Where the octets end that are hashed.
    hashed: u64,
    /// Where the structures end that are open.
    outer_end: u64,
    tbs_start: u64,
    tbs_end: u64,
    entries_start: u64,
    entries_end: u64,

    message: Message,
    version: u8,
    algorithm: Box<[u8]>,
    pub issuer: Option<Name>,
    this_update: Timestamp,
    next_update: Option<Timestamp>,
    extensions: Extensions,
    signature: Box<[u8]>,

    /// By certificate issuer; the first is the list's own.
    groups: Vec<Filling>,
    /// Groups of other issuers.
    others: HashMap<Name, usize>,
    group: usize,
    /// Serials of all groups that fit no slot.
    odd: usize,
    removals: bool,
}

impl Walk {
    pub fn new(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            part: Part::Outer,
            carry: Vec::new(),
            offset: 0,
            hashed: 0,
            outer_end: u64::MAX,
            tbs_start: u64::MAX,
            tbs_end: u64::MAX,
            entries_start: u64::MAX,
            entries_end: u64::MAX,
            message: Message::new(),
            version: 1,
            algorithm: Box::default(),
            issuer: None,
            this_update: Timestamp(0),
            next_update: None,
            extensions: Extensions::default(),
            signature: Box::default(),
            groups: vec![Filling::default()],
            others: HashMap::new(),
            group: 0,
            odd: 0,
            removals: false,
        }
    }

    pub fn error(&self, fault: Fault) -> CrlError {
        CrlError { issuer: self.issuer.clone(), fault }
    }

    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        // What was cut is joined with little more than it lacks: the rest is walked where it lies.
        while !self.carry.is_empty() && !bytes.is_empty() {
            let held = self.carry.len();
            let (more, rest) = bytes.split_at(bytes.len().min(held.max(JOINED)));
            self.carry.extend_from_slice(more);
            let mut joined = std::mem::take(&mut self.carry);
            let used = self.advance(&joined)?;
            match used.checked_sub(held) {
                Some(begun) => {
                    bytes = &bytes[begun..];
                    joined.clear();
                }
                None => {
                    bytes = rest;
                    joined.drain(..used);
                }
            }
            self.carry = joined;
        }
        if self.carry.is_empty() {
            let used = self.advance(bytes)?;
            self.carry.extend_from_slice(&bytes[used..]);
        }
        Ok(())
    }

    /// Walks as far as whole elements go; says how far.
    fn advance(&mut self, input: &[u8]) -> Result<usize, Fault> {
        let mut used = 0;
        loop {
            let ahead = &input[used..];
            if self.part == Part::Entry {
                // Hashed first: that fetches them in their order, before each is looked at.
                self.hash(&ahead[..ahead.len().min(STRIDE)]);
            }
            let Some(step) = self.step(ahead)? else { return Ok(used) };
            self.hash(&ahead[..step]);
            used += step;
            self.offset += step as u64;
        }
    }

    /// Hashes what of `input`, which begins where the walk is, is signed and not hashed yet.
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

    /// Reads the next part and says how long it is; `None` when more input is needed.  An optional
    /// part that is absent has no length.
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

    /// The header of a SEQUENCE that ends by `limit`: its length, and where the SEQUENCE ends.
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
        let end = self.offset + header.octets as u64 + header.length;
        if end > limit {
            Err(malformed(part, DerError::Truncated))
        } else {
            Ok(Some((header.octets, end)))
        }
    }

    /// The parts of tbsCertList around the entries (RFC 5280 section 5.1).
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
            // The end of the structure leaves out what is optional there.
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
        // v1 is the DEFAULT, which DER leaves out; v3 does not exist.
        match der::small_integer(element).map_err(at("version"))? {
            1 => self.version = 2,
            _ => return Err(malformed("version", DerError::Value("neither v1 (absent) nor v2"))),
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
        // RFC 5280 section 5.1.2.6: without entries the field "MUST be absent".
        if end == self.offset + header as u64 {
            return Err(malformed(name, DerError::Value("empty; it is left out then")));
        }
        self.entries_start = self.offset + header as u64;
        self.entries_end = end;
        self.part = Part::Entry;
        Ok(Some(header))
    }

    fn read_entries(&mut self, input: &[u8]) -> Result<Option<usize>, Fault> {
        let mut used = 0;
        let mut remaining = self.entries_end - self.offset;
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
            self.add_entry(contents, remaining)?;
        }
        Ok(Some(used).filter(|&used| used > 0))
    }

    fn add_entry(&mut self, contents: &[u8], remaining: u64) -> Result<(), Fault> {
        let entry = match entry::usual(contents) {
            Some(entry) => entry,
            None => {
                let (entry, issuer) = entry::read(contents)?;
                if let Some(issuer) = issuer {
                    self.group = self.group_of(issuer)?;
                }
                entry
            }
        };
        if entry.extended && self.version == 1 {
            return Err(Fault::Rule("an entry of a v1 list has extensions"));
        }
        self.removals |= entry.reason == Reason::RemoveFromCrl;
        let of = self.entries_end - self.entries_start;
        let progress = || Progress { read: of - remaining, of };
        if self.groups[self.group].add(entry.serial, entry.reason, progress) {
            self.odd += 1;
            if self.odd > MAX_ODD_SERIALS {
                let what = "serial numbers that are negative or above 20 octets";
                return Err(Fault::TooMany { what, limit: MAX_ODD_SERIALS });
            }
        }
        Ok(())
    }

    fn group_of(&mut self, issuer: Name) -> Result<usize, Fault> {
        if self.issuer.as_ref() == Some(&issuer) {
            return Ok(0);
        }
        if let Some(&group) = self.others.get(&issuer) {
            return Ok(group);
        }
        let group = self.groups.len();
        if group > MAX_CERTIFICATE_ISSUERS {
            let what = "certificate issuers in one list";
            return Err(Fault::TooMany { what, limit: MAX_CERTIFICATE_ISSUERS });
        }
        self.groups.push(Filling::default());
        self.others.insert(issuer, group);
        Ok(group)
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

    /// signatureAlgorithm and signatureValue.
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
                // Section 5.1.1.2; the outer one is not covered by the signature.
                return Err(Fault::Rule("inner and outer signature algorithms differ"));
            }
            self.part = Part::Signature;
        } else {
            let bits = element.expect(tag::BIT_STRING).map_err(at(name))?.value;
            let (signature, unused) = der::bit_string(bits).map_err(at(name))?;
            if unused != 0 {
                return Err(malformed(name, DerError::Value("not whole octets")));
            }
            if self.offset + element.raw.len() as u64 != self.outer_end {
                return Err(malformed("certificateList", DerError::Trailing(1)));
            }
            self.signature = signature.into();
            self.part = Part::End;
        }
        Ok(Some(element.raw.len()))
    }

    pub fn finish(
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
        self.list(signers, between)
    }

    /// The list, as signed by `signers`.
    pub fn list(
        self,
        signers: Vec<Arc<Certificate>>,
        between: &mut dyn FnMut(),
    ) -> Result<RevocationList, Fault> {
        let issuer = self.issuer.ok_or(Fault::Rule("no issuer"))?;
        let scope = self.extensions.scope;
        if !self.others.is_empty() && !scope.as_ref().is_some_and(|scope| scope.indirect) {
            return Err(Fault::Rule(
                "entries name a certificateIssuer, but the list is not indirect",
            ));
        }
        let kind = match (self.extensions.base, self.extensions.number) {
            (None, _) if self.removals => {
                return Err(Fault::Rule("removeFromCRL in a complete list"));
            }
            (None, _) => Kind::Complete,
            (Some(_), None) => return Err(Fault::Rule("a delta list without cRLNumber")),
            (Some(base), Some(_)) => Kind::Delta { base },
        };
        let mut names: Vec<_> = self.others.into_iter().collect();
        names.sort_unstable_by_key(|(_, group)| *group);
        let names = std::iter::once(issuer.clone()).chain(names.into_iter().map(|(name, _)| name));
        let groups = self.groups.into_iter().map(|filling| filling.finish(between));
        let mut groups: Vec<_> = names.zip(groups).collect();
        groups[1..].sort_unstable_by(|(one, _), (other, _)| one.canonical().cmp(other.canonical()));
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
            bytes: self.outer_end,
            signature: self.signature,
            groups,
        })
    }
}
