//! Histories of an authority: a complete list and a delta say what the complete list of that moment
//! would, and other implementations read from our lists what we do.

#[path = "support/crl_maker.rs"]
mod crl_maker;
#[path = "support/crl_model.rs"]
mod crl_model;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use anchorgate::trust::refusal::Code;
use anchorgate::trust::revocation::{CrlMode, Question, Revocations};
use anchorgate::x509::certificate::Certificate;
use anchorgate::x509::crl::{ListReader, RevocationList};
use anchorgate::x509::time::Timestamp;
use crl_maker::{Ca, HOUR, List, NOW};
use proptest::prelude::*;

const DEVICES: u8 = 10;

static CA: LazyLock<Ca> = LazyLock::new(|| Ca::root("Root"));
static FLEET: LazyLock<Vec<Arc<Certificate>>> =
    LazyLock::new(|| (1..=DEVICES).map(|serial| CA.issue("device", &[serial], &[])).collect());

/// What an authority does to a certificate.
#[derive(Debug, Clone, Copy)]
enum Act {
    Revoke(u8, u8),
    Hold(u8),
    Lift(u8),
}

fn act() -> impl Strategy<Value = Act> {
    let serial = || 1..=DEVICES;
    prop_oneof![
        (serial(), prop::sample::select(vec![0u8, 1, 3, 4, 5, 9]))
            .prop_map(|(s, r)| Act::Revoke(s, r)),
        serial().prop_map(Act::Hold),
        serial().prop_map(Act::Lift),
    ]
}

/// Reason by serial of what is listed.
type State = BTreeMap<u8, u8>;

const HOLD: u8 = 6;
const REMOVE: u8 = 8;

fn run(state: &mut State, acts: &[Act]) {
    for act in acts {
        match *act {
            // Revoked is for ever.
            Act::Revoke(serial, reason) => {
                let entry = state.entry(serial).or_insert(reason);
                if *entry == HOLD {
                    *entry = reason;
                }
            }
            Act::Hold(serial) => {
                state.entry(serial).or_insert(HOLD);
            }
            Act::Lift(serial) => {
                if state.get(&serial) == Some(&HOLD) {
                    state.remove(&serial);
                }
            }
        }
    }
}

fn complete(state: &State, number: u64) -> Vec<u8> {
    state.iter().fold(CA.list().number(number), |list, (s, r)| list.revoke(&[*s], Some(*r))).sign()
}

/// RFC 5280 section 5.2.4: all changes since the base, by their outcome.
fn delta(from: &State, to: &State, number: u64, base: u64) -> Vec<u8> {
    let mut list: List<'_> = CA.list().number(number).delta_to(base);
    for serial in 1..=DEVICES {
        match (from.get(&serial), to.get(&serial)) {
            (old, Some(new)) if old != Some(new) => list = list.revoke(&[serial], Some(*new)),
            (Some(_), None) => list = list.revoke(&[serial], Some(REMOVE)),
            _ => {}
        }
    }
    list.sign()
}

fn decisions(lists: &[&Vec<u8>]) -> Vec<Option<Code>> {
    let signers = [Arc::clone(&CA.certificate)];
    let read = |der: &&Vec<u8>| Arc::new(RevocationList::read(der, &signers, NOW).expect("a list"));
    let revocations = Revocations::new(lists.iter().map(read));
    let ask = |certificate: &Arc<Certificate>| {
        let question = Question {
            certificate,
            issuer: &CA.certificate.subject,
            issuer_key: CA.certificate.key,
            mode: CrlMode::Require,
            now: NOW,
            signer_is_trusted: &|_| false,
        };
        revocations.check(&question).err().map(|refusal| refusal.code)
    };
    FLEET.iter().map(ask).collect()
}

fn truth(state: &State) -> Vec<Option<Code>> {
    let code = |serial| match state.get(&serial) {
        None => None,
        Some(&HOLD) => Some(Code::CertificateOnHold),
        Some(_) => Some(Code::CertificateRevoked),
    };
    (1..=DEVICES).map(code).collect()
}

proptest! {
    #[test]
    fn signed_lists_say_what_the_model_says(input in prop::collection::vec(any::<u8>(), 3..200)) {
        crl_model::check(&input);
    }

    #[test]
    fn base_and_delta_equal_the_complete_list(
        before in prop::collection::vec(act(), 0..20),
        between in prop::collection::vec(act(), 0..10),
        after in prop::collection::vec(act(), 0..10),
    ) {
        let mut state = State::new();
        run(&mut state, &before);
        let first = state.clone();
        run(&mut state, &between);
        let second = state.clone();
        run(&mut state, &after);
        let base = complete(&first, 10);
        let (early, late) = (delta(&first, &second, 11, 10), delta(&first, &state, 12, 10));
        let full = complete(&state, 12);
        prop_assert_eq!(decisions(&[&full]), truth(&state));
        prop_assert_eq!(decisions(&[&base, &late]), truth(&state));
        prop_assert_eq!(decisions(&[&late, &early, &base]), truth(&state), "in any order");
        prop_assert_eq!(decisions(&[&base, &early]), truth(&second));
        // A complete list that came meanwhile makes the older delta void.
        prop_assert_eq!(decisions(&[&complete(&second, 11), &full, &early]), truth(&state));
    }

    #[test]
    fn large_sets_answer_exactly(
        serials in prop::collection::btree_set(prop::collection::vec(any::<u8>(), 1..21), 1..400),
        others in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..21), 0..100),
    ) {
        let plain = |digits: &Vec<u8>| crl_maker::unsigned(digits)[2..].to_vec();
        let listed: std::collections::BTreeSet<_> = serials.iter().map(plain).collect();
        let list = serials.iter().fold(CA.list(), |list, serial| list.revoke(serial, None)).sign();
        let list = RevocationList::read(&list, std::slice::from_ref(&CA.certificate), NOW);
        let list = list.expect("a list");
        prop_assert_eq!(list.entries(), serials.len());
        for serial in listed.iter().cloned().chain(others.iter().map(plain)) {
            let found = list.listed(&list.issuer, &serial).is_some();
            prop_assert_eq!(found, listed.contains(&serial), "{:02x?}", serial);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), size in 1usize..64) {
        let mut reader = ListReader::new(1 << 16);
        let fed = bytes.chunks(size).try_for_each(|piece| reader.feed(piece));
        if fed.is_ok() {
            let signers = [Arc::clone(&CA.certificate)];
            prop_assert!(reader.finish(&signers, NOW).is_err());
        }
    }

    #[test]
    fn no_damage_makes_a_list(at in 0usize..10_000, flip in 1u8..=255, cut in any::<bool>()) {
        static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
            CA.list().number(3).scope(&[0x81, 1, 0xff]).revoke(&[5], Some(1)).revoke(&[6], None).sign()
        });
        let mut der = GOOD.clone();
        let at = at % der.len();
        if cut { der.truncate(at) } else { der[at] ^= flip }
        let signers = [Arc::clone(&CA.certificate)];
        prop_assert!(RevocationList::read(&der, &signers, NOW).is_err());
        // However it is cut into pieces, the verdict is the same.
        let mut reader = ListReader::new(1 << 16);
        let fed = der.chunks(3).try_for_each(|piece| reader.feed(piece));
        prop_assert!(fed.is_err() || reader.finish(&signers, NOW).is_err());
    }
}

#[test]
fn a_key_rollover_loses_no_revocation() {
    // One name, two keys; each signs the list of what it issued, and the new one also an overlap.
    let (old, new) = (Ca::root("Root"), Ca::root("Root"));
    let device = old.issue("device", &[7], &[]);
    let ask = |lists: Vec<(&Ca, Vec<u8>)>, now: i64| {
        let lists = lists.iter().map(|(ca, der)| {
            let signers = std::slice::from_ref(&ca.certificate);
            Arc::new(RevocationList::read(der, signers, NOW).expect("a list"))
        });
        let question = Question {
            certificate: &device,
            issuer: &old.certificate.subject,
            issuer_key: old.certificate.key,
            mode: CrlMode::Require,
            now: Timestamp(now),
            signer_is_trusted: &|signer| signer.key == new.certificate.key,
        };
        Revocations::new(lists).check(&question).err().map(|refusal| refusal.code)
    };
    let by_old = || old.list().number(1).revoke(&[7], None).sign();
    let clean_old = || old.list().number(1).next_update(Some(NOW)).sign();
    let by_new = || new.list().number(1).revoke(&[7], None).sign();
    assert_eq!(ask(vec![(&old, by_old())], NOW.0), Some(Code::CertificateRevoked));
    assert_eq!(ask(vec![(&new, by_new())], NOW.0), Some(Code::CertificateRevoked));
    // While the old key's list is fresh it decides; once it is stale the new key's does.
    assert_eq!(ask(vec![(&old, clean_old()), (&new, by_new())], NOW.0), None);
    let later = ask(vec![(&old, clean_old()), (&new, by_new())], NOW.0 + HOUR);
    assert_eq!(later, Some(Code::CertificateRevoked));
}
