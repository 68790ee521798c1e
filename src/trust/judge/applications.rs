//! The judge of applications: decides on a chain under the one application configuration that a client
//! is assigned to.
//!
//! # Design notes
//! A certificate of an application must never be accepted as a device's, or the reverse, although one
//! authority may have signed both.  The two kinds of configuration are therefore two types in two
//! lists of a snapshot, each judge uses one, and their proofs are two types: code that issues a device's token does
//! not accept a [`VerifiedApplication`].  Paths are validated in the same way.

use std::sync::Arc;

use crate::trust::configurations::{Application, Configuration, ConfigurationId};
use crate::trust::judge::devices::UnverifiedChain;
use crate::trust::path::search::Search;
use crate::trust::refusal::{Code, Refusal};
use crate::trust::snapshot::Snapshot;
use crate::x509::certificate::Certificate;
use crate::x509::time::Timestamp;

/// Proof that one chain is valid for one application configuration.  Only [`judge_application`] makes
/// it.  It does not identify the application.
#[derive(Debug, Clone)]
pub struct VerifiedApplication {
    configuration: ConfigurationId,
    leaf: Arc<Certificate>,
    generation: u64,
}

impl VerifiedApplication {
    /// The configuration that accepts the chain.
    pub fn configuration(&self) -> &ConfigurationId {
        &self.configuration
    }
    /// The end-entity certificate.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }
    /// The generation of the snapshot it was judged under.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// Judges `chain` under one application configuration.
///
/// # Errors
/// The most informative refusal of all paths that were tried; `chain_untrusted` if the configuration is
/// not in force.
pub fn judge_application(
    chain: &UnverifiedChain,
    configuration: &ConfigurationId,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Result<VerifiedApplication, Refusal> {
    let configurations = &snapshot.applications.configurations;
    let place = configurations.iter().position(|c| c.id == *configuration).ok_or_else(|| {
        let detail = format!("application configuration `{configuration}` is not in force");
        Refusal::new(Code::ChainUntrusted, detail)
    })?;
    let search = search(chain, snapshot, now);
    reach(&search, place, &configurations[place], chain)?;
    Ok(VerifiedApplication {
        configuration: configuration.clone(),
        leaf: Arc::clone(chain.leaf()),
        generation: snapshot.generation,
    })
}

pub(super) fn search<'a>(
    chain: &'a UnverifiedChain,
    snapshot: &'a Snapshot,
    now: Timestamp,
) -> Search<'a> {
    Search::among_applications(chain.certificates(), snapshot, now).of_sent(chain.sent())
}

pub(super) fn reach<'a>(
    search: &Search<'a>,
    place: usize,
    configuration: &'a Configuration<Application>,
    chain: &UnverifiedChain,
) -> Result<(), Refusal> {
    search.path(place, configuration).map(drop).map_err(|refusal| chain.explained(refusal))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::trust::configurations::{Authority, Configurations, Device, Devices, Kind};
    use crate::trust::judge::admission::admit;
    use crate::trust::judge::devices::judge;
    use crate::trust::subject::SubjectField;
    use crate::x509::test_certificates::{Key, NOW, Spec, cn};

    /// A proof made without a judge, for tests of its users.
    pub(crate) fn verified_application(
        configuration: &str,
        leaf: &Arc<Certificate>,
    ) -> VerifiedApplication {
        VerifiedApplication {
            configuration: configuration.into(),
            leaf: Arc::clone(leaf),
            generation: 1,
        }
    }

    fn root(name: &str, key: usize) -> Vec<u8> {
        Spec::authority(cn(name), cn(name)).sign(Key::number(key), Key::number(key))
    }

    fn set<K: Kind>(kind: &K, configurations: &[(&str, &[u8])]) -> Configurations<K> {
        let configuration = |(id, root): &(&str, &[u8])| Configuration {
            id: (*id).into(),
            domain: Arc::default(),
            display_name: String::new(),
            kind: kind.clone(),
            authorities: vec![Authority {
                certificate: Arc::new(Certificate::from_der(root).expect("a certificate")),
                is_root: true,
                crl_url: None,
                delta_crl_url: None,
            }],
        };
        configurations.iter().map(configuration).collect()
    }

    fn snapshot(
        devices: Configurations<Device>,
        applications: Configurations<Application>,
    ) -> Snapshot {
        let none = Arc::default();
        Snapshot::new(3, Arc::new(devices), none, Arc::default(), Arc::default())
            .with_applications(applications)
    }

    fn chain(issuer: &str, issuer_key: usize) -> UnverifiedChain {
        let leaf = Spec::device(cn("l"), cn(issuer)).sign(Key::number(9), Key::number(issuer_key));
        UnverifiedChain::from_der(&[leaf]).expect("readable")
    }

    /// With one id for both kinds, each certificate is valid for its own kind only.
    #[test]
    fn accepts_a_certificate_for_its_kind_only() {
        let (d, a) = (root("D", 0), root("A", 1));
        let kind = Device { subject_field: SubjectField::SubjectDn, devices: Devices::Any };
        let trust = snapshot(set(&kind, &[("x", &d)]), set(&Application, &[("x", &a)]));
        let now = Timestamp(NOW);
        let application =
            |chain: &UnverifiedChain| judge_application(chain, &"x".into(), &trust, now);
        let code = |refused: Refusal| refused.code;

        let device = chain("D", 0);
        assert!(judge(&device, &trust, now).is_ok());
        assert_eq!(application(&device).map(drop).map_err(code), Err(Code::ChainUntrusted));
        let app = chain("A", 1);
        assert_eq!(application(&app).expect("accepted").generation(), 3);
        assert_eq!(judge(&app, &trust, now).map(drop).map_err(code), Err(Code::ChainUntrusted));
        for chain in [&device, &app] {
            assert_eq!(admit(&Arc::new(chain.clone()), &trust, now).verdict, Ok(()));
        }
        let stranger = chain("S", 2);
        assert_eq!(
            admit(&Arc::new(stranger), &trust, now).verdict.map_err(code),
            Err(Code::ChainUntrusted)
        );
    }

    #[test]
    fn decides_by_the_named_configuration() {
        let (a, b) = (root("A", 0), root("B", 1));
        let applications = set(&Application, &[("a", &a), ("b", &b)]);
        let trust = snapshot(Configurations::default(), applications);
        let decide = |chain: &UnverifiedChain, id: &str, at: i64| {
            judge_application(chain, &id.into(), &trust, Timestamp(at))
                .map(drop)
                .map_err(|r| r.code)
        };
        let (of_a, year) = (chain("A", 0), 366 * 86_400);
        assert_eq!(decide(&of_a, "a", NOW), Ok(()));
        assert_eq!(decide(&of_a, "b", NOW), Err(Code::ChainUntrusted));
        assert_eq!(decide(&of_a, "c", NOW), Err(Code::ChainUntrusted));
        // The authority's name with another key's signature.
        assert_eq!(decide(&chain("A", 1), "a", NOW), Err(Code::SignatureInvalid));
        assert_eq!(decide(&of_a, "a", NOW + 100 * year), Err(Code::AuthorityExpired));
    }
}
