//! Index of the authorities of a set of configurations by subject name.

use std::collections::HashMap;

use crate::trust::configurations::Configurations;
use crate::x509::certificate::Certificate;
use crate::x509::name::Name;

/// Position of an authority in [`Configurations`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AuthorityPosition {
    /// Index of the configuration.
    pub configuration: usize,
    /// Index of the authority in the configuration.
    pub authority: usize,
}

/// Authorities by subject name.
///
/// The index is built once for a list of configurations.  The cost of a decision depends on the number of
/// authorities with the name of an issuer, not on the number of configurations.
#[derive(Debug, Default)]
pub(crate) struct Index {
    by_subject: HashMap<Box<[u8]>, Vec<AuthorityPosition>>,
}

impl Index {
    /// Builds the index of a list.
    pub(crate) fn of<K>(list: &Configurations<K>) -> Self {
        let mut by_subject: HashMap<Box<[u8]>, Vec<AuthorityPosition>> = HashMap::new();
        for (configuration, it) in list.configurations.iter().enumerate() {
            for (authority, certificate) in
                it.authorities.iter().map(|a| &a.certificate).enumerate()
            {
                let name = certificate.subject.canonical();
                let position = AuthorityPosition { configuration, authority };
                match by_subject.get_mut(name) {
                    Some(positions) => positions.push(position),
                    None => {
                        by_subject.insert(name.into(), vec![position]);
                    }
                }
            }
        }
        Self { by_subject }
    }

    /// Returns the authorities with this subject name, sorted by configuration.
    fn by_name(&self, name: &Name) -> &[AuthorityPosition] {
        self.by_subject.get(name.canonical()).map_or(&[], Vec::as_slice)
    }

    /// Returns the authorities with this subject name in one configuration.
    pub(crate) fn by_name_in(&self, configuration: usize, name: &Name) -> &[AuthorityPosition] {
        let positions = self.by_name(name);
        let start = positions.partition_point(|p| p.configuration < configuration);
        let end = positions.partition_point(|p| p.configuration <= configuration);
        &positions[start..end]
    }

    /// Returns the configurations with an authority that may have issued one of `certificates`.
    /// Configurations where the key identifiers agree or are absent come first.  Those where only
    /// the name agrees follow.
    pub(crate) fn candidates<'a, K>(
        &self,
        list: &Configurations<K>,
        certificates: impl Iterator<Item = &'a Certificate>,
    ) -> Vec<usize> {
        let (mut likely, mut unlikely) = (Vec::new(), Vec::new());
        for certificate in certificates {
            for position in self.by_name(&certificate.issuer) {
                let authority =
                    &list.configurations[position.configuration].authorities[position.authority];
                match key_ids_agree(certificate, &authority.certificate) {
                    Some(false) => unlikely.push(position.configuration),
                    _ => likely.push(position.configuration),
                }
            }
        }
        likely.sort_unstable();
        likely.dedup();
        unlikely.sort_unstable();
        unlikely.dedup();
        unlikely.retain(|configuration| likely.binary_search(configuration).is_err());
        likely.append(&mut unlikely);
        likely
    }
}

/// Compares the authorityKeyIdentifier of `certificate` with the subjectKeyIdentifier of `issuer`.
/// Returns `None` if one of them is absent.  The result only orders the search.  The signature
/// decides.
pub(crate) fn key_ids_agree(certificate: &Certificate, issuer: &Certificate) -> Option<bool> {
    let wanted = certificate.authority_key_id.as_ref()?.key_id.as_ref()?;
    Some(wanted == issuer.subject_key_id.as_ref()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::trust::configurations::{Authority, Configuration, Device, Devices};
    use crate::trust::subject::SubjectField;
    use crate::x509::test_certificates::{Key, Spec, cn};

    fn read(der: &[u8]) -> Certificate {
        Certificate::from_der(der).expect("a certificate")
    }

    fn configuration(roots: &[(&str, usize)]) -> Configuration<Device> {
        let authority = |(name, own): &(&str, usize)| {
            let key = Key::number(*own);
            let der = Spec::authority(cn(name), cn(name)).key_ids(key, key).sign(key, key);
            let certificate = Arc::new(read(&der));
            Authority { certificate, is_root: true, crl_url: None, delta_crl_url: None }
        };
        Configuration {
            id: "c".into(),
            domain: Arc::default(),
            display_name: String::new(),
            kind: Device { subject_field: SubjectField::SubjectDn, devices: Devices::Any },
            authorities: roots.iter().map(authority).collect(),
        }
    }

    #[test]
    fn key_identifiers_order_the_configurations() {
        let configurations = [
            configuration(&[("Root", 1), ("Else", 4)]),
            configuration(&[("Other", 2)]),
            configuration(&[("Other", 2), ("ROOT ", 3)]),
        ];
        let anchors = Configurations::from_iter(configurations);
        let index = Index::of(&anchors);
        let candidates = |leaf: &Spec| {
            let leaf = read(&leaf.sign(Key::number(9), Key::number(3)));
            index.candidates(&anchors, [&leaf].into_iter())
        };
        let leaf = Spec::device(cn("d"), cn("root"));
        assert_eq!(candidates(&leaf), [0, 2]);
        assert_eq!(candidates(&leaf.key_ids(Key::number(9), Key::number(3))), [2, 0]);
        assert_eq!(candidates(&Spec::device(cn("d"), cn("Unknown"))), [0; 0]);
        let root = read(&Spec::device(cn("root"), cn("x")).sign(Key::number(9), Key::number(9)));
        assert_eq!(index.by_name_in(2, &root.subject).len(), 1);
        assert!(index.by_name_in(1, &root.subject).is_empty());
    }
}
