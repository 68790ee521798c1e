//! The judge of devices: decides on a presented chain under one snapshot at one time.

use std::sync::Arc;

use crate::trust::configurations::ConfigurationId;
use crate::trust::path::search::{Attempt, MAX_ATTEMPTS, Search, Signed, misplaced_authority};
use crate::trust::refusal::{Code, Refusal};
use crate::trust::snapshot::Snapshot;
use crate::trust::subject::SubjectId;
use crate::x509::certificate::{Certificate, CertificateError};
use crate::x509::time::Timestamp;

/// Certificates in a presented chain.  A path has fewer, but some peers present every certificate they
/// have.
pub(crate) const MAX_CHAIN_CERTIFICATES: usize = 48;
/// Bytes of DER in a presented chain.
pub(crate) const MAX_CHAIN_BYTES: usize = 64 * 1024;

/// The chain that a peer presented, leaf first, parsed once per connection.
#[derive(Debug, Clone)]
pub struct UnverifiedChain {
    certificates: Vec<Arc<Certificate>>,
    unreadable: Option<Refusal>,
    /// Certificates that the peer sent.  More than in `certificates` if some were left out.
    sent: usize,
    /// The refusal of the whole chain, if certificates were left out of a refused one.
    refusal: Option<Refusal>,
}

impl UnverifiedChain {
    /// Parses a chain, leaf first, within the limits.  The leaf must be readable.  Any other unreadable
    /// certificate is left out, because a path may not need it.
    pub fn from_der<B: AsRef<[u8]>>(chain: &[B]) -> Result<Self, Refusal> {
        Self::from_der_with(chain, |der| Certificate::from_der(der).map(Arc::new))
    }

    /// Like [`Self::from_der`], but obtains every certificate after the leaf from `parse`, so that
    /// several chains can share a parsed certificate.
    pub(crate) fn from_der_with<B: AsRef<[u8]>>(
        chain: &[B],
        mut parse: impl FnMut(&[u8]) -> Result<Arc<Certificate>, CertificateError>,
    ) -> Result<Self, Refusal> {
        let bytes: usize = chain.iter().map(|c| c.as_ref().len()).sum();
        if chain.is_empty() {
            return Err(Refusal::new(Code::CertificateMissing, "no certificate was presented"));
        }
        if chain.len() > MAX_CHAIN_CERTIFICATES || bytes > MAX_CHAIN_BYTES {
            return Err(Refusal::new(
                Code::ChainTooLong,
                format!(
                    "{} certificates of {bytes} bytes; at most {MAX_CHAIN_CERTIFICATES} of \
                     {MAX_CHAIN_BYTES} are read",
                    chain.len()
                ),
            ));
        }
        let (mut certificates, mut unreadable) = (Vec::with_capacity(chain.len()), None);
        for (index, der) in chain.iter().enumerate() {
            let parsed = match index {
                0 => Certificate::from_der(der.as_ref()).map(Arc::new),
                _ => parse(der.as_ref()),
            };
            match parsed {
                Ok(certificate) => certificates.push(certificate),
                Err(error) if index == 0 => return Err(error.into()),
                Err(error) => {
                    let detail = format!("certificate {} of the chain: {error}", index + 1);
                    unreadable
                        .get_or_insert_with(|| Refusal::new(Code::CertificateMalformed, detail));
                }
            }
        }
        Ok(Self { sent: certificates.len(), certificates, unreadable, refusal: None })
    }

    /// The end-entity certificate: the only one that gives identity.
    pub fn leaf(&self) -> &Arc<Certificate> {
        &self.certificates[0]
    }

    /// The first certificate that could not be read, if there was one.
    pub fn unreadable(&self) -> Option<&Refusal> {
        self.unreadable.as_ref()
    }

    /// Number of readable certificates that the peer sent.
    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    /// The leaf and those of the other certificates for which `keeps` is true.  `refusal` is that of
    /// the whole chain.
    pub(super) fn reduced(
        &self,
        keeps: impl Fn(&Certificate) -> bool,
        refusal: Option<&Refusal>,
    ) -> Self {
        let mut certificates = vec![Arc::clone(self.leaf())];
        certificates.extend(self.certificates.iter().skip(1).filter(|c| keeps(c)).cloned());
        certificates.shrink_to_fit();
        let (unreadable, sent) = (self.unreadable.clone(), self.sent);
        Self { certificates, unreadable, sent, refusal: refusal.cloned() }
    }

    /// Returns `refusal`.  If it is `chain_untrusted`, returns the refusal of an unreadable or omitted
    /// certificate instead, which may be the missing issuer.
    pub(super) fn explained(&self, refusal: Refusal) -> Refusal {
        match self.unreadable.as_ref().or(self.refusal.as_ref()) {
            Some(reason) if refusal.code == Code::ChainUntrusted => reason.clone(),
            _ => refusal,
        }
    }

    /// All certificates that could be read and were not left out, leaf first.
    pub fn certificates(&self) -> &[Arc<Certificate>] {
        &self.certificates
    }
}

/// Proof that one chain is valid for one device configuration.  Only [`judge`] makes it.
#[derive(Debug, Clone)]
pub struct Verified {
    configuration: ConfigurationId,
    domain: Arc<str>,
    subject: SubjectId,
    leaf: Arc<Certificate>,
    path: Vec<Arc<Certificate>>,
    generation: u64,
}

impl Verified {
    /// The configuration that accepts the chain.
    pub fn configuration(&self) -> &ConfigurationId {
        &self.configuration
    }
    /// The trust domain of the configuration.
    pub fn domain(&self) -> &str {
        &self.domain
    }
    /// The identity of the device.
    pub fn subject(&self) -> &SubjectId {
        &self.subject
    }
    /// The end-entity certificate.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }
    /// Leaf, intermediates, anchor.
    pub fn path(&self) -> &[Arc<Certificate>] {
        &self.path
    }
    /// The generation of the snapshot it was judged under.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// Judges `chain` under every device configuration that could accept it, and returns all that do, at
/// least one, in the operator's order of trust domains.  The request's `client_id` selects one of several.
///
/// # Errors
/// The most informative refusal of all paths that were tried.
pub fn judge(
    chain: &UnverifiedChain,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Result<Vec<Verified>, Refusal> {
    judge_within(chain, snapshot, now, &Scope::All)
}

/// The trust domains that may accept a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All, in the operator's order.
    All,
    /// These, because the request selects them.
    Only(Vec<Arc<str>>),
}

impl Scope {
    /// Returns true if `domain` may accept a chain.
    pub fn contains(&self, domain: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(domains) => domains.iter().any(|selected| **selected == *domain),
        }
    }
}

/// Like [`judge`], under the configurations of some trust domains.
///
/// # Errors
/// The most informative refusal of all paths that were tried.
pub(crate) fn judge_within(
    chain: &UnverifiedChain,
    snapshot: &Snapshot,
    now: Timestamp,
    scope: &Scope,
) -> Result<Vec<Verified>, Refusal> {
    decide(chain, snapshot, &mut Searches::new(chain, snapshot, now, false), scope)
}

/// Like [`judge`], and also returns the presented certificates after the leaf in paths to an anchor
/// whose signatures are all valid.
pub(super) fn judge_and_list_signed(
    chain: &UnverifiedChain,
    snapshot: &Snapshot,
    now: Timestamp,
) -> (Result<(), Refusal>, Signed) {
    let mut searches = Searches::new(chain, snapshot, now, false);
    let decision = decide(chain, snapshot, &mut searches, &Scope::All);
    (decision.map(drop), searches.into_signed())
}

/// Like [`judge`], and also returns the first 64 paths that were tried.
pub fn explain(
    chain: &UnverifiedChain,
    snapshot: &Snapshot,
    now: Timestamp,
) -> (Result<Vec<Verified>, Refusal>, Vec<Attempt>) {
    let mut searches = Searches::new(chain, snapshot, now, true);
    let decision = decide(chain, snapshot, &mut searches, &Scope::All);
    (decision, searches.into_attempts())
}

/// The searches of one decision: one for each trust domain, with a budget of its own.
struct Searches<'a> {
    chain: &'a UnverifiedChain,
    snapshot: &'a Snapshot,
    now: Timestamp,
    explain: bool,
    by_domain: Vec<(&'a str, Search<'a>)>,
}

impl<'a> Searches<'a> {
    fn new(
        chain: &'a UnverifiedChain,
        snapshot: &'a Snapshot,
        now: Timestamp,
        explain: bool,
    ) -> Self {
        Self { chain, snapshot, now, explain, by_domain: Vec::new() }
    }

    fn of(&mut self, domain: &'a str) -> &Search<'a> {
        let known = self.by_domain.iter().position(|(of, _)| *of == domain);
        let place = known.unwrap_or_else(|| {
            let presented = self.chain.certificates();
            let search = Search::new(presented, self.snapshot, self.now, self.explain)
                .of_sent(self.chain.sent());
            self.by_domain.push((domain, search));
            self.by_domain.len() - 1
        });
        &self.by_domain[place].1
    }

    fn into_signed(self) -> Signed {
        let mut signed = Signed::default();
        self.by_domain.into_iter().for_each(|(_, search)| signed.add(search.into_signed()));
        signed
    }

    fn into_attempts(self) -> Vec<Attempt> {
        let searches = self.by_domain.into_iter();
        searches.flat_map(|(_, search)| search.into_attempts()).take(MAX_ATTEMPTS).collect()
    }
}

fn decide<'a>(
    chain: &'a UnverifiedChain,
    snapshot: &'a Snapshot,
    searches: &mut Searches<'a>,
    scope: &Scope,
) -> Result<Vec<Verified>, Refusal> {
    let (mut verified, mut refusal) = (Vec::<(usize, Verified)>::new(), None::<Refusal>);
    let certificates = chain.certificates().iter().map(AsRef::as_ref);
    for index in snapshot.index().candidates(&snapshot.device_configurations, certificates) {
        let configuration = &snapshot.device_configurations.configurations[index];
        if !scope.contains(&configuration.domain) {
            continue;
        }
        let search = searches.of(&configuration.domain);
        let judged = search.path(index, configuration).and_then(|path| {
            let subject = SubjectId::of(chain.leaf(), configuration.kind.subject_field)?;
            // Last, so that only the holder of a valid certificate learns whether a device is registered.
            snapshot.devices.admit(configuration, &subject)?;
            Ok((subject, path))
        });
        match judged {
            Ok((subject, path)) => verified.push((
                index,
                Verified {
                    configuration: configuration.id.clone(),
                    domain: Arc::clone(&configuration.domain),
                    subject,
                    leaf: Arc::clone(chain.leaf()),
                    path,
                    generation: snapshot.generation,
                },
            )),
            Err(other) => {
                refusal = Some(match refusal {
                    Some(earlier) => earlier.best(other),
                    None => other,
                });
            }
        }
    }
    if !verified.is_empty() {
        // Configurations are in the operator's order of trust domains.
        verified.sort_unstable_by_key(|(index, _)| *index);
        return Ok(verified.into_iter().map(|(_, verified)| verified).collect());
    }
    let refusal =
        refusal.unwrap_or_else(|| Refusal::new(Code::ChainUntrusted, why_untrusted(chain)));
    Err(chain.explained(refusal))
}

/// Names the authority that is missing if no configuration has an issuer of a presented certificate.
fn why_untrusted(chain: &UnverifiedChain) -> String {
    let presented = chain.certificates();
    let mut last = chain.leaf();
    if last.subject == last.issuer && presented.len() > 1 {
        return misplaced_authority(presented);
    }
    // At most one step for each certificate: names may form a loop.
    for _ in 0..presented.len() {
        if last.subject == last.issuer {
            break;
        }
        let Some(issuer) = presented.iter().skip(1).find(|c| c.subject == last.issuer) else {
            break;
        };
        last = issuer;
    }
    if last.subject == last.issuer {
        return format!("root `{}` is not in any configuration", last.subject);
    }
    format!(
        "authority `{}`, which issued `{}`, is neither in a configuration nor among the presented \
         certificates ({} were sent)",
        last.issuer,
        last.subject,
        chain.sent()
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::trust::configurations::{Authority, Configuration, Configurations, Device, Devices};
    use crate::trust::subject::SubjectField;
    use crate::x509::test_certificates::{Key, NOW, Spec, cn};

    /// A proof made without a judge, for tests of its users.
    pub(crate) fn verified(
        configuration: &str,
        field: SubjectField,
        subject: &str,
        not_after: Timestamp,
    ) -> Verified {
        let key = rcgen::KeyPair::generate().expect("a key");
        let der = rcgen::CertificateParams::default().self_signed(&key).expect("a certificate");
        let mut leaf = Certificate::from_der(der.der()).expect("readable");
        leaf.not_after = not_after;
        Verified {
            configuration: configuration.into(),
            domain: Arc::default(),
            subject: SubjectId::parse(field, subject).expect("a subject"),
            leaf: Arc::new(leaf),
            path: Vec::new(),
            generation: 1,
        }
    }

    impl Verified {
        /// The same proof in another trust domain.
        pub(crate) fn in_domain(self, domain: &str) -> Self {
            Self { domain: domain.into(), ..self }
        }
    }

    #[test]
    fn reads_a_chain_within_its_limits() {
        let leaf = Spec::device(cn("d"), cn("R")).sign(Key::number(2), Key::number(0));
        let code = |chain: &[Vec<u8>]| UnverifiedChain::from_der(chain).map_err(|r| r.code).err();
        assert_eq!(code(&[]), Some(Code::CertificateMissing));
        assert_eq!(code(&vec![leaf.clone(); MAX_CHAIN_CERTIFICATES]), None);
        assert_eq!(code(&vec![leaf.clone(); MAX_CHAIN_CERTIFICATES + 1]), Some(Code::ChainTooLong));
        let large = vec![0; MAX_CHAIN_BYTES - leaf.len() + 1];
        assert_eq!(code(&[leaf.clone(), large.clone()]), Some(Code::ChainTooLong));
        assert_eq!(code(&[large, leaf]), Some(Code::ChainTooLong));
        assert_eq!(code(&[vec![0x30, 0]]), Some(Code::CertificateMalformed));
    }

    #[test]
    fn ignores_an_unreadable_certificate_that_the_path_does_not_need() {
        let [root, authority, device] = [0, 1, 2].map(Key::number);
        let anchor = Spec::authority(cn("R"), cn("R")).sign(root, root);
        let middle = Spec::authority(cn("A"), cn("R")).sign(authority, root);
        let leaf = Spec::device(cn("d"), cn("A")).sign(device, authority);
        let configuration = Configuration {
            id: "fleet".into(),
            domain: Arc::default(),
            display_name: String::new(),
            kind: Device { subject_field: SubjectField::SubjectDn, devices: Devices::Any },
            authorities: vec![Authority {
                certificate: Arc::new(Certificate::from_der(&anchor).expect("a certificate")),
                is_root: true,
                crl_url: None,
                delta_crl_url: None,
            }],
        };
        let anchors = Configurations::from_iter([configuration]);
        let (anchors, none) = (Arc::new(anchors), Arc::default());
        let snapshot = Snapshot::new(7, anchors, none, Arc::default(), Arc::default());
        let garbage = vec![0x30, 3, 2, 1, 0];
        let decide = |chain: &[Vec<u8>]| {
            let chain = UnverifiedChain::from_der(chain).expect("the leaf is readable");
            judge(&chain, &snapshot, Timestamp(NOW)).map_err(|refusal| refusal.code)
        };
        let code_of = Result::<Vec<Verified>, Code>::err;
        let verified = decide(&[leaf.clone(), garbage.clone(), middle]).expect("accepted");
        assert_eq!(verified[0].generation(), 7);
        assert_eq!(verified[0].configuration().as_str(), "fleet");
        assert_eq!(verified[0].subject().as_str(), "CN=d");
        assert_eq!(verified[0].path().len(), 3);
        assert_eq!(code_of(decide(&[leaf.clone(), garbage])), Some(Code::CertificateMalformed));
        assert_eq!(code_of(decide(&[leaf])), Some(Code::ChainUntrusted));
    }
}
