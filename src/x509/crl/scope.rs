//! Scope of a list: its issuingDistributionPoint is matched with the cRLDistributionPoints of a
//! certificate (RFC 5280 sections 5.2.5, 4.2.1.13 and 6.3.3 (b)).

use crate::x509::certificate::{self, Certificate, GeneralName, oid};
use crate::x509::crl::reason::Reasons;
use crate::x509::der::{self, DerError, Element, Reader, tag};
use crate::x509::name::Name;

/// Decoded issuingDistributionPoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuingDistributionPoint {
    /// Names of the distribution point.  A relative name is expanded with the issuer.
    pub(crate) names: Option<Vec<GeneralName>>,
    pub(crate) only: OnlyContains,
    /// onlySomeReasons.
    pub(crate) reasons: Option<Reasons>,
    /// indirectCRL: entries may be for certificates of other issuers.
    pub(crate) indirect: bool,
    /// Extension value.  Lists with equal values have the same scope (section 5.2.4).
    pub(crate) der: Box<[u8]>,
}

/// Kind of certificates that a list contains: the onlyContains… fields, of which at most one is
/// set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnlyContains {
    All,
    User,
    Authority,
    Attribute,
}

impl IssuingDistributionPoint {
    /// Parses the extension value of a list of `issuer`.
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
            (false, false, false) => OnlyContains::All,
            (true, false, false) => OnlyContains::User,
            (false, true, false) => OnlyContains::Authority,
            (false, false, true) => OnlyContains::Attribute,
            _ => return Err(DerError::Value("several of the onlyContains fields are set")),
        };
        Ok(Self { names, only, reasons, indirect, der: value.into() })
    }

    /// Checks section 6.3.3 (b) (2) (ii) to (iv).
    fn covers_kind_of(&self, certificate: &Certificate) -> bool {
        match self.only {
            OnlyContains::All => true,
            OnlyContains::Attribute => false,
            // A certificate before v3 does not state its kind.
            OnlyContains::User => certificate.version == 3 && !is_authority(certificate),
            OnlyContains::Authority => is_authority(certificate),
        }
    }
}

fn is_authority(certificate: &Certificate) -> bool {
    certificate.basic_constraints.is_some_and(|constraints| constraints.ca)
}

/// Reads `[number] BOOLEAN DEFAULT FALSE`.  An encoded DEFAULT is tolerated.
fn flag(r: &mut Reader<'_>, number: u8) -> Result<bool, DerError> {
    r.optional(tag::context(number))?.map_or(Ok(false), der::boolean)
}

/// Parses a DistributionPointName inside its explicit tag.  A relative name is appended to
/// `issuer`.
fn read_point_name(wrapped: Element<'_>, issuer: &Name) -> Result<Vec<GeneralName>, DerError> {
    let mut r = wrapped.reader();
    let choice = r.any()?;
    r.end()?;
    match choice.tag {
        0xa0 => certificate::read_general_names(choice.reader()),
        0xa1 => Ok(vec![GeneralName::Directory(append_rdn(issuer, choice.value)?)]),
        _ => Err(DerError::Value("neither fullName nor nameRelativeToCRLIssuer")),
    }
}

/// Returns `issuer` with one more RDN, given as the contents of its SET.
fn append_rdn(issuer: &Name, rdn: &[u8]) -> Result<Name, DerError> {
    let rdns = der::single(issuer.der(), tag::SEQUENCE)?.value;
    let mut body = rdns.to_vec();
    push_element(&mut body, tag::SET, rdn);
    let mut whole = Vec::with_capacity(body.len() + 6);
    push_element(&mut whole, tag::SEQUENCE, &body);
    Name::from_der(&whole)
}

fn push_element(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag);
    let length = value.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|&&b| b == 0).count()..];
    match value.len() {
        0..=0x7f => out.push(significant.first().copied().unwrap_or(0)),
        _ => {
            // A length has at most 8 bytes.
            out.push(0x80 | significant.len() as u8);
            out.extend_from_slice(significant);
        }
    }
    out.extend_from_slice(value);
}

/// One DistributionPoint of a certificate.
#[derive(Debug, Clone)]
pub(crate) struct DistributionPoint {
    /// Names of the point.  A relative name is expanded with the issuer.
    pub names: Option<Vec<GeneralName>>,
    pub reasons: Reasons,
    /// Names of the CRL issuer, if it is not the issuer of the certificate.
    pub crl_issuer: Option<Vec<GeneralName>>,
}

/// Returns the distribution points of a certificate.  The last one is implied by every certificate:
/// the name of its issuer, for all reasons (section 6.3.3, last paragraph).
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

/// Parses cRLDistributionPoints of a certificate of `issuer`, or freshestCRL of a list of `issuer`.
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
            return Err(DerError::Value("a distribution point has neither a name nor a cRLIssuer"));
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

/// Compares two names of a distribution point.  In URIs, scheme and host are compared without letter
/// case (RFC 5280 section 7.4).
fn is_same_point(a: &GeneralName, b: &GeneralName) -> bool {
    let (GeneralName::Uri(a), GeneralName::Uri(b)) = (a, b) else { return a == b };
    let split = |uri: &[u8]| {
        let scheme = uri.windows(3).position(|part| part == b"://").map_or(0, |at| at + 3);
        let host = uri[scheme..].iter().position(|byte| b"/?#".contains(byte));
        host.map_or(uri.len(), |length| scheme + length)
    };
    let ((a_host, a_rest), (b_host, b_rest)) = (a.split_at(split(a)), b.split_at(split(b)));
    a_host.eq_ignore_ascii_case(b_host) && a_rest == b_rest
}

impl DistributionPoint {
    /// Returns the directory names of cRLIssuer.
    pub(crate) fn crl_issuer_names(&self) -> impl Iterator<Item = &Name> {
        self.crl_issuer.iter().flatten().filter_map(directory_name)
    }

    /// Returns the reasons for which a list of `list_issuer` with this scope covers `certificate`
    /// at this point (section 6.3.3 (b) and (d)), or [`Reasons::NONE`].
    pub(crate) fn covered_reasons(
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
                scope.iter().any(|name| names.iter().any(|other| is_same_point(name, other)))
            }
            (Some(_), None, None) => false,
        };
        if !by_name || !scope.covers_kind_of(certificate) {
            return Reasons::NONE;
        }
        self.reasons.and(scope.reasons.unwrap_or(Reasons::ALL))
    }
}
