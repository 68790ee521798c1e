//! Which certificates a list speaks for: the list's issuingDistributionPoint against the
//! certificate's cRLDistributionPoints (RFC 5280 sections 5.2.5, 4.2.1.13 and 6.3.3 (b)).

use crate::x509::certificate::{self, Certificate, GeneralName, oid};
use crate::x509::crl::reason::Reasons;
use crate::x509::der::{self, DerError, Element, Reader, tag};
use crate::x509::name::Name;

/// issuingDistributionPoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuingDistributionPoint {
    /// The names of the distribution point; a name relative to the issuer is made whole.
    pub names: Option<Vec<GeneralName>>,
    /// Which kind of certificate is covered.
    pub only: Only,
    /// onlySomeReasons.
    pub reasons: Option<Reasons>,
    /// indirectCRL: entries may be of other issuers' certificates.
    pub indirect: bool,
    /// The extension's value: two lists have one scope when these are equal (section 5.2.4).
    pub der: Box<[u8]>,
}

/// The onlyContains… fields, of which at most one is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Only {
    /// None set.
    All,
    /// onlyContainsUserCerts.
    User,
    /// onlyContainsCACerts.
    Authority,
    /// onlyContainsAttributeCerts.
    Attribute,
}

impl IssuingDistributionPoint {
    /// Reads the extension's value; `issuer` is the list's.
    pub(super) fn read(value: &[u8], issuer: &Name) -> Result<Self, DerError> {
        let mut r = der::single(value, tag::SEQUENCE)?.reader();
        if r.is_empty() {
            return Err(DerError::Value("an empty sequence"));
        }
        let names = r
            .optional(tag::context_constructed(0))?
            .map(|point| read_point_name(point, issuer))
            .transpose()?;
        let user = flag(&mut r, 1)?;
        let authority = flag(&mut r, 2)?;
        let reasons = r.optional(tag::context(3))?.map(|e| Reasons::read(e.value)).transpose()?;
        let indirect = flag(&mut r, 4)?;
        let attribute = flag(&mut r, 5)?;
        r.end()?;
        let only = match (user, authority, attribute) {
            (false, false, false) => Only::All,
            (true, false, false) => Only::User,
            (false, true, false) => Only::Authority,
            (false, false, true) => Only::Attribute,
            _ => return Err(DerError::Value("several of the onlyContains fields are set")),
        };
        Ok(Self { names, only, reasons, indirect, der: value.into() })
    }

    /// Section 6.3.3 (b) (2) (ii) to (iv).
    fn covers_kind_of(&self, certificate: &Certificate) -> bool {
        match self.only {
            Only::All => true,
            Only::Attribute => false,
            // Only v3 certificates tell which kind they are.
            Only::User => certificate.version == 3 && !is_authority(certificate),
            Only::Authority => is_authority(certificate),
        }
    }
}

fn is_authority(certificate: &Certificate) -> bool {
    certificate.basic_constraints.is_some_and(|constraints| constraints.ca)
}

/// `[number] BOOLEAN DEFAULT FALSE`.
fn flag(r: &mut Reader<'_>, number: u8) -> Result<bool, DerError> {
    match r.optional(tag::context(number))? {
        None => Ok(false),
        Some(element) => match der::boolean(element)? {
            true => Ok(true),
            false => Err(DerError::Value("a flag is FALSE, the DEFAULT, yet encoded")),
        },
    }
}

/// DistributionPointName inside its explicit tag; a relative name is below `issuer`.
fn read_point_name(wrapped: Element<'_>, issuer: &Name) -> Result<Vec<GeneralName>, DerError> {
    let mut r = wrapped.reader();
    let choice = r.any()?;
    r.end()?;
    match choice.tag {
        0xa0 => certificate::read_general_names(choice.reader()),
        0xa1 => Ok(vec![GeneralName::Directory(below(issuer, choice.value)?)]),
        _ => Err(DerError::Value("neither fullName nor nameRelativeToCRLIssuer")),
    }
}

/// `issuer` with one more RDN, given as the contents of its SET.
fn below(issuer: &Name, rdn: &[u8]) -> Result<Name, DerError> {
    let rdns = der::single(issuer.der(), tag::SEQUENCE)?.value;
    let mut body = rdns.to_vec();
    append(&mut body, tag::SET, rdn);
    let mut whole = Vec::with_capacity(body.len() + 6);
    append(&mut whole, tag::SEQUENCE, &body);
    Name::from_der(&whole)
}

fn append(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag);
    let length = value.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|&&b| b == 0).count()..];
    match value.len() {
        0..=0x7f => out.push(significant.first().copied().unwrap_or(0)),
        _ => {
            // At most 8 octets of length.
            out.push(0x80 | significant.len() as u8);
            out.extend_from_slice(significant);
        }
    }
    out.extend_from_slice(value);
}

/// One DistributionPoint of a certificate.
#[derive(Debug, Clone)]
pub struct DistributionPoint {
    /// distributionPoint, made whole.
    pub names: Option<Vec<GeneralName>>,
    /// reasons.
    pub reasons: Reasons,
    /// cRLIssuer's names: another than the certificate's issuer signs the list.
    pub crl_issuer: Option<Vec<GeneralName>>,
}

/// A certificate's distribution points, and at last the one that every certificate has without
/// saying: its issuer's name, for all reasons (section 6.3.3, last paragraph).
pub(crate) fn distribution_points(
    certificate: &Certificate,
) -> Result<Vec<DistributionPoint>, DerError> {
    let mut points = match certificate.extension(oid::CRL_DISTRIBUTION_POINTS) {
        Some(extension) => read_points(&extension.value, &certificate.issuer)?,
        None => Vec::new(),
    };
    points.push(DistributionPoint {
        names: Some(vec![GeneralName::Directory(certificate.issuer.clone())]),
        reasons: Reasons::ALL,
        crl_issuer: None,
    });
    Ok(points)
}

/// cRLDistributionPoints' value, of a certificate (or freshestCRL's, of a list) of this issuer.
pub(crate) fn read_points(value: &[u8], issuer: &Name) -> Result<Vec<DistributionPoint>, DerError> {
    let mut list = der::single(value, tag::SEQUENCE)?.reader();
    let mut out = Vec::new();
    while !list.is_empty() {
        let mut r = list.sequence()?;
        let name = r.optional(tag::context_constructed(0))?;
        let reasons = r.optional(tag::context(1))?;
        let crl_issuer = r
            .optional(tag::context_constructed(2))?
            .map(|names| certificate::read_general_names(names.reader()))
            .transpose()?;
        r.end()?;
        if name.is_none() && crl_issuer.is_none() {
            return Err(DerError::Value("a distribution point names neither itself nor an issuer"));
        }
        let base = crl_issuer.iter().flatten().find_map(directory_name).unwrap_or(issuer);
        out.push(DistributionPoint {
            names: name.map(|wrapped| read_point_name(wrapped, base)).transpose()?,
            reasons: reasons.map_or(Ok(Reasons::ALL), |e| Reasons::read(e.value))?,
            crl_issuer,
        });
    }
    if out.is_empty() { Err(DerError::Value("an empty list")) } else { Ok(out) }
}

fn directory_name(name: &GeneralName) -> Option<&Name> {
    match name {
        GeneralName::Directory(name) => Some(name),
        _ => None,
    }
}

impl DistributionPoint {
    /// The directory names of cRLIssuer.
    pub(crate) fn crl_issuer_names(&self) -> impl Iterator<Item = &Name> {
        self.crl_issuer.iter().flatten().filter_map(directory_name)
    }

    /// The reasons for which a list of `list_issuer` with this scope speaks for `certificate` at this
    /// point (section 6.3.3 (b) and (d)); [`Reasons::NONE`] when it does not.
    pub(crate) fn covered(
        &self,
        certificate: &Certificate,
        list_issuer: &Name,
        scope: Option<&IssuingDistributionPoint>,
    ) -> Reasons {
        let by_issuer = match &self.crl_issuer {
            None => *list_issuer == certificate.issuer,
            Some(names) => {
                scope.is_some_and(|scope| scope.indirect)
                    && names.iter().filter_map(directory_name).any(|name| name == list_issuer)
            }
        };
        if !by_issuer {
            return Reasons::NONE;
        }
        let Some(scope) = scope else { return self.reasons };
        let by_name = match (&scope.names, &self.names, &self.crl_issuer) {
            (None, _, _) => true,
            (Some(scope), Some(names), _) | (Some(scope), None, Some(names)) => {
                scope.iter().any(|name| names.contains(name))
            }
            (Some(_), None, None) => false,
        };
        if !by_name || !scope.covers_kind_of(certificate) {
            return Reasons::NONE;
        }
        self.reasons.and(scope.reasons.unwrap_or(Reasons::ALL))
    }
}
