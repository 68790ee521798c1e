//! Which configurations and authorities can matter for a chain, found by name and key identifier.

use std::collections::HashMap;

use crate::trust::configurations::AnchorSet;
use crate::x509::certificate::Certificate;
use crate::x509::name::Name;

/// Where an authority stands in an [`AnchorSet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Index of the configuration.
    pub configuration: usize,
    /// Index of the authority in it.
    pub authority: usize,
}

/// Authorities by subject name.  Built once for an anchor set, so that the cost of a decision grows
/// with the namesakes of an issuer and not with all configurations.
#[derive(Debug, Default)]
pub struct Index {
    by_subject: HashMap<Box<[u8]>, Vec<Place>>,
}

impl Index {
    /// The index of `anchors`.
    pub fn of(anchors: &AnchorSet) -> Self {
        let mut by_subject: HashMap<Box<[u8]>, Vec<Place>> = HashMap::new();
        for (configuration, it) in anchors.configurations.iter().enumerate() {
            for (authority, certificate) in
                it.authorities.iter().map(|a| &a.certificate).enumerate()
            {
                let name = certificate.subject.canonical();
                let place = Place { configuration, authority };
                match by_subject.get_mut(name) {
                    Some(places) => places.push(place),
                    None => {
                        by_subject.insert(name.into(), vec![place]);
                    }
                }
            }
        }
        Self { by_subject }
    }

    /// Every authority of that name, by configuration.
    pub fn named(&self, name: &Name) -> &[Place] {
        self.by_subject.get(name.canonical()).map_or(&[], Vec::as_slice)
    }

    /// The authorities of that name in one configuration.
    pub fn named_in(&self, configuration: usize, name: &Name) -> &[Place] {
        let places = self.named(name);
        let start = places.partition_point(|p| p.configuration < configuration);
        let end = places.partition_point(|p| p.configuration <= configuration);
        &places[start..end]
    }

    /// Configurations with an authority that may have issued one of `certificates`: first those
    /// where the key identifiers agree or are absent, then those where only the name does.
    pub fn candidates<'a>(
        &self,
        anchors: &AnchorSet,
        certificates: impl Iterator<Item = &'a Certificate>,
    ) -> Vec<usize> {
        let (mut likely, mut unlikely) = (Vec::new(), Vec::new());
        for certificate in certificates {
            for place in self.named(&certificate.issuer) {
                let authority =
                    &anchors.configurations[place.configuration].authorities[place.authority];
                match key_ids_agree(certificate, &authority.certificate) {
                    Some(false) => unlikely.push(place.configuration),
                    _ => likely.push(place.configuration),
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

/// Whether the authorityKeyIdentifier of `certificate` names the key of `issuer`; `None` where one of
/// them does not say.  A hint for the order of search, never a decision: the signature decides.
pub fn key_ids_agree(certificate: &Certificate, issuer: &Certificate) -> Option<bool> {
    let wanted = certificate.authority_key_id.as_ref()?.key_id.as_ref()?;
    Some(wanted == issuer.subject_key_id.as_ref()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::trust::configurations::{Authority, Configuration, Devices, Kind};
    use crate::trust::subject::SubjectField;
    use crate::x509::test_certificates::{Key, Spec, cn};

    fn read(der: &[u8]) -> Certificate {
        Certificate::from_der(der).expect("a certificate")
    }

    fn configuration(roots: &[(&str, usize)]) -> Configuration {
        let authority = |(name, own): &(&str, usize)| {
            let key = Key::number(*own);
            let der = Spec::authority(cn(name), cn(name)).key_ids(key, key).sign(key, key);
            let certificate = Arc::new(read(&der));
            Authority { certificate, is_root: true, crl_url: None, delta_crl_url: None }
        };
        Configuration {
            id: "c".into(),
            display_name: String::new(),
            kind: Kind::Devices(SubjectField::SubjectDn),
            devices: Devices::Any,
            authorities: roots.iter().map(authority).collect(),
        }
    }

    #[test]
    fn key_identifiers_put_the_right_configuration_first() {
        let configurations = vec![
            configuration(&[("Root", 1), ("Else", 4)]),
            configuration(&[("Other", 2)]),
            configuration(&[("Other", 2), ("ROOT ", 3)]),
        ];
        let anchors = AnchorSet { configurations, skipped: Vec::new() };
        let index = Index::of(&anchors);
        let candidates = |leaf: &Spec| {
            let leaf = read(&leaf.sign(Key::number(9), Key::number(3)));
            index.candidates(&anchors, [&leaf].into_iter())
        };
        let leaf = Spec::device(cn("d"), cn("root"));
        assert_eq!(candidates(&leaf), [0, 2]);
        assert_eq!(candidates(&leaf.key_ids(Key::number(9), Key::number(3))), [2, 0]);
        assert_eq!(candidates(&Spec::device(cn("d"), cn("Nobody"))), [0; 0]);
        let root = read(&Spec::device(cn("root"), cn("x")).sign(Key::number(9), Key::number(9)));
        assert_eq!(index.named_in(2, &root.subject).len(), 1);
        assert!(index.named_in(1, &root.subject).is_empty());
    }
}
