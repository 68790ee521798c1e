//! Questions about certificates of one authority, answered from its lists.

use anchorgate::trust::refusal::{Code, Refusal};
use anchorgate::trust::revocation::{CrlMode, Question, Revocations};
use anchorgate::x509::certificate::Certificate;
use anchorgate::x509::crl::RevocationList;
use anchorgate::x509::time::Timestamp;

use super::crl_maker::{Ca, NOW};

pub fn read(ca: &Ca, der: &[u8]) -> RevocationList {
    RevocationList::read(der, std::slice::from_ref(&ca.certificate), NOW).expect("a list")
}

pub fn check_at(
    revocations: &Revocations,
    ca: &Ca,
    certificate: &Certificate,
    now: Timestamp,
) -> Result<(), Refusal> {
    revocations.check(&Question {
        domain: "",
        certificate,
        issuer: &ca.certificate.subject,
        issuer_key: ca.certificate.key,
        mode: CrlMode::Require,
        now,
        signer_is_trusted: &|_| false,
    })
}

pub fn code(result: Result<(), Refusal>) -> Option<Code> {
    result.err().map(|refusal| refusal.code)
}
