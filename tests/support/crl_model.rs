//! Compares signed revocation lists with a naive model.
//!
//! Every byte string stands for a complete list and up to two deltas, or for one list with some bytes
//! changed before it was signed.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use anchorgate::trust::refusal::Code;
use anchorgate::trust::revocation::{CrlMode, Question, Revocations};
use anchorgate::x509::certificate::Certificate;
use anchorgate::x509::crl::{CrlError, ListReader, RevocationList};
use anchorgate::x509::time::Timestamp;

use super::crl_maker::{self, Ca, List, NOW, extension, sequence, time, tlv};

static CA: LazyLock<Ca> = LazyLock::new(|| Ca::ed25519("Root"));

/// Serials of every width that the implementation stores separately, including adjacent values.
static SERIALS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut all = vec![vec![0], vec![1], vec![0x7f], vec![0, 0x80], vec![0, 0xff]];
    for width in [7, 8, 9, 15, 16, 17, 19, 20] {
        all.push([&[1], &vec![0; width - 1][..]].concat());
        all.push([&[1], &vec![0; width - 2][..], &[1]].concat());
        all.push([&[0, 0x80], &vec![0xff; width - 1][..]].concat());
    }
    all
});
/// Irregular serials: too wide, or negative.
static ODD: LazyLock<Vec<Vec<u8>>> =
    LazyLock::new(|| vec![vec![0x80], vec![0xff], vec![1; 21], [&[0x80], &[0; 20][..]].concat()]);

static FLEET: LazyLock<Vec<Arc<Certificate>>> =
    LazyLock::new(|| SERIALS.iter().map(|serial| CA.issue("device", serial, &[])).collect());

const HOLD: u8 = 6;
const REMOVE: u8 = 8;
const REASONS: [u8; 8] = [0, 1, 4, 5, HOLD, HOLD, REMOVE, 9];

/// Serial to reason.  Of several reasons the most severe counts: revoked, then on hold, then removed.
type Reasons = BTreeMap<Vec<u8>, u8>;

fn rank(reason: u8) -> u8 {
    match reason {
        HOLD => 1,
        REMOVE => 2,
        _ => 0,
    }
}

/// A complete list or a delta, with the reasons that its entries amount to.
#[derive(Default)]
struct Plan {
    /// cRLNumber, relative to the number of the complete list.
    number: u64,
    /// BaseCRLNumber, relative to the number of the complete list.
    base: u64,
    expired: bool,
    reasons: Reasons,
    entries: Vec<u8>,
}

impl Plan {
    fn add(&mut self, serial: &[u8], reason: u8) {
        let coded = extension(&[0x55, 0x1d, 21], false, &[10, 1, reason]);
        let coded = if reason == 0 { Vec::new() } else { tlv(0x30, &coded) };
        self.entries.extend(sequence(&[&tlv(0x02, serial), &time(NOW), &coded]));
        let entry = self.reasons.entry(serial.to_vec()).or_insert(reason);
        if rank(reason) < rank(*entry) {
            *entry = reason;
        }
    }
}

/// cRLNumber of the complete list.
const NUMBER: u64 = 100;

/// Reads `input` as three plans, builds the lists, and compares them with the model.
///
/// # Panics
/// Panics if a decision differs from the model.
pub fn check(input: &[u8]) {
    let Some((&[mode, size, many], input)) = input.split_first_chunk() else { return };
    if mode & 1 != 0 {
        return patched(input, usize::from(size));
    }
    let many = u64::from(many) * 8;
    let mut plans: [Plan; 3] = Default::default();
    for (at, plan) in plans.iter_mut().enumerate().skip(1) {
        // No two deltas of one number: which of them decides is not specified.
        plan.number = u64::from(mode >> (at * 2) & 1) * 2 + at as u64 - 1;
        plan.base = u64::from(mode >> (at * 2 + 1) & 1);
        plan.expired = size >> at & 1 != 0;
    }
    for entry in input.chunks_exact(2).take(400) {
        let [which, what] = [entry[0], entry[1]];
        let all = SERIALS.len() + ODD.len();
        let number = usize::from(what >> 3) % all;
        let serial = SERIALS.get(number).or_else(|| ODD.get(number - SERIALS.len()));
        let reason = REASONS[usize::from(what & 7)];
        plans[usize::from(which) % 3].add(serial.expect("one of them"), reason);
    }
    plans[0].entries.extend(crl_maker::many(0, many));

    let complete = List { entries: plans[0].entries.clone(), ..CA.list() };
    let base = read(&complete.number(NUMBER).sign(), usize::from(size));
    let Ok(base) = base else {
        let removes = plans[0].reasons.values().any(|reason| *reason == REMOVE);
        // The model knows a removal only if all entries of the serial are removals; a more severe
        // entry may hide one.
        assert!(removes || has_hidden_removal(&plans[0].entries), "{base:?}");
        return;
    };
    assert!(plans[0].reasons.values().all(|reason| *reason != REMOVE), "a removal from nothing");
    for index in [0, many.saturating_sub(1)] {
        let listed = base.listed(&base.issuer, &crl_maker::serial(index)).is_some();
        assert_eq!(listed, index < many, "entry {index} of {many}");
    }
    assert!(base.listed(&base.issuer, &crl_maker::serial(many)).is_none());
    let mut lists = vec![Arc::new(base)];
    for plan in &plans[1..] {
        let list = List { entries: plan.entries.clone(), ..CA.list() };
        let next_update = Timestamp(NOW.0 + if plan.expired { -1 } else { 1 });
        let list = list.next_update(Some(next_update));
        let der = list.number(NUMBER + plan.number).delta_to(NUMBER + plan.base).sign();
        lists.push(Arc::new(read(&der, usize::from(size)).expect("a good delta")));
    }
    for (list, plan) in lists.iter().zip(&plans) {
        for serial in SERIALS.iter().chain(&*ODD) {
            let listed = list.listed(&list.issuer, serial).map(|reason| reason as u8);
            let class = |reason: Option<u8>| reason.map(rank);
            assert_eq!(class(listed), class(plan.reasons.get(serial).copied()), "{serial:02x?}");
        }
    }
    let revocations = Revocations::new(lists);
    for (certificate, serial) in FLEET.iter().zip(&*SERIALS) {
        let question = Question {
            domain: "",
            certificate,
            issuer: &CA.certificate.subject,
            issuer_key: CA.certificate.key,
            mode: CrlMode::Require,
            now: NOW,
            signer_is_trusted: &|_| false,
        };
        let decided = revocations.check(&question).err().map(|refusal| refusal.code);
        assert_eq!(decided, expected(&plans, serial), "{serial:02x?}");
    }
}

/// The decision by RFC 5280 sections 5.2.4 and 6.3.3.  In addition, an unusable delta never makes a
/// certificate good again.
fn expected(plans: &[Plan; 3], serial: &[u8]) -> Option<Code> {
    let code = |reason: u8| match reason {
        HOLD => Code::CertificateOnHold,
        _ => Code::CertificateRevoked,
    };
    let base = plans[0].reasons.get(serial).copied();
    let mut later: Vec<&Plan> = plans[1..].iter().filter(|plan| plan.number > 0).collect();
    later.sort_by_key(|plan| std::cmp::Reverse(plan.number));
    let combined = later.iter().position(|plan| plan.base == 0 && !plan.expired);
    let merged = match combined.and_then(|at| later[at].reasons.get(serial).copied()) {
        Some(REMOVE) if base == Some(HOLD) => None,
        Some(REMOVE) | None => base,
        changed => changed,
    };
    let not_combined = &later[..combined.unwrap_or(later.len())];
    let mut in_later = not_combined.iter().filter_map(|plan| plan.reasons.get(serial).copied());
    merged.or_else(|| in_later.find(|reason| *reason != REMOVE)).map(code)
}

/// True if any entry has the reason removeFromCRL.
fn has_hidden_removal(entries: &[u8]) -> bool {
    let reason = extension(&[0x55, 0x1d, 21], false, &[10, 1, REMOVE]);
    entries.windows(reason.len()).any(|window| window == reason)
}

/// Checks a signed list with patched bytes: it is read without a panic, with the same result in pieces
/// as whole.
fn patched(patches: &[u8], size: usize) {
    let list = CA.list().number(NUMBER).revoke(&[5], Some(1)).revoke(&[6], None);
    let der = list.scope(&tlv(0x81, &[0xff])).sign_changed(|tbs| {
        for patch in patches.chunks_exact(3) {
            let at = usize::from(u16::from_be_bytes([patch[0], patch[1]])) % tbs.len();
            tbs[at] = patch[2];
        }
    });
    let (whole, pieces) = (read(&der, der.len()), read(&der, size));
    assert_eq!(whole.is_ok(), pieces.is_ok(), "{whole:?} / {pieces:?}");
    if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
        for serial in SERIALS.iter().chain(&*ODD) {
            let listed = whole.listed(&whole.issuer, serial);
            assert_eq!(listed, pieces.listed(&pieces.issuer, serial));
        }
    }
}

fn read(der: &[u8], size: usize) -> Result<RevocationList, CrlError> {
    let mut reader = ListReader::new(1 << 24);
    for piece in der.chunks(size.max(1)) {
        reader.feed(piece)?;
    }
    reader.finish(std::slice::from_ref(&CA.certificate), NOW)
}
