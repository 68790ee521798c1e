//! The judge's decision on a generated chain, and a comparison with webpki.

use std::sync::Arc;

use anchorgate::trust::configurations::{
    Authority, Configuration, Configurations, Device, Devices,
};
use anchorgate::trust::judge::devices::{UnverifiedChain, judge};
use anchorgate::trust::refusal::Refusal;
use anchorgate::trust::snapshot::Snapshot;
use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::certificate::Certificate;
use anchorgate::x509::time::Timestamp;

use super::mutants::Mutant;
use super::test_certificates::NOW;

/// The judge's decision on this chain, with its root as the only anchor.
pub fn ours(mutant: &Mutant) -> Result<(), Refusal> {
    let root = Certificate::from_der(&mutant.root)?;
    let authority = Authority {
        certificate: Arc::new(root),
        is_root: true,
        crl_url: None,
        delta_crl_url: None,
    };
    let configuration = Configuration {
        id: "fleet".into(),
        domain: Arc::default(),
        display_name: String::new(),
        kind: Device { subject_field: SubjectField::SubjectDn, devices: Devices::Any },
        authorities: vec![authority],
    };
    let anchors = Configurations::from_iter([configuration]);
    let (anchors, none) = (Arc::new(anchors), Arc::default());
    let snapshot = Snapshot::new(1, anchors, none, Arc::default(), Arc::default());
    let chain = UnverifiedChain::from_der(&mutant.chain)?;
    judge(&chain, &snapshot, Timestamp(NOW)).map(|_| ())
}

/// Returns an error if webpki rejects a path that the judge accepts and that uses only features webpki
/// supports.  In service that is a refusal; here it is a defect of one of the two.
pub fn agree(mutant: &Mutant) -> Result<(), String> {
    match ours(mutant) {
        Err(refusal) if refusal.detail.contains("rustls-webpki rejects") => {
            Err(format!("{}: {:?}: {refusal}", mutant.seed, mutant.changes))
        }
        _ => Ok(()),
    }
}
