//! Histories of an authority: a complete list and a delta together equal the complete list of that time.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use anchorgate::trust::refusal::Code;
use anchorgate::trust::revocation::{CrlMode, Question, Revocations};
use anchorgate::x509::certificate::Certificate;
use anchorgate::x509::crl::{ListReader, RevocationList};
use anchorgate::x509::time::Timestamp;
use proptest::prelude::*;

use crate::support::crl_maker::{self, Ca, HOUR, List, NOW};
use crate::support::crl_model;

const DEVICES: u8 = 10;

static CA: LazyLock<Ca> = LazyLock::new(|| Ca::root("Root"));
static FLEET: LazyLock<Vec<Arc<Certificate>>> =
    LazyLock::new(|| (1..=DEVICES).map(|serial| CA.issue("device", &[serial], &[])).collect());

/// An action of an authority on a certificate.
#[derive(Debug, Clone, Copy)]
enum Action {
    Revoke(u8, u8),
    Hold(u8),
    Lift(u8),
}

fn action() -> impl Strategy<Value = Action> {
    let serial = || 1..=DEVICES;
    prop_oneof![
        (serial(), prop::sample::select(vec![0u8, 1, 3, 4, 5, 9]))
            .prop_map(|(s, r)| Action::Revoke(s, r)),
        serial().prop_map(Action::Hold),
        serial().prop_map(Action::Lift),
    ]
}

/// Reason by serial of the listed certificates.
type State = BTreeMap<u8, u8>;

const HOLD: u8 = 6;
const REMOVE: u8 = 8;

fn run(state: &mut State, actions: &[Action]) {
    for action in actions {
        match *action {
            // A revocation is final.
            Action::Revoke(serial, reason) => {
                let entry = state.entry(serial).or_insert(reason);
                if *entry == HOLD {
                    *entry = reason;
                }
            }
            Action::Hold(serial) => {
                state.entry(serial).or_insert(HOLD);
            }
            Action::Lift(serial) => {
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

/// RFC 5280 section 5.2.4: all changes since the base, by their final state.
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
            domain: "",
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

fn expected(state: &State) -> Vec<Option<Code>> {
    let code = |serial| match state.get(&serial) {
        None => None,
        Some(&HOLD) => Some(Code::CertificateOnHold),
        Some(_) => Some(Code::CertificateRevoked),
    };
    (1..=DEVICES).map(code).collect()
}

proptest! {
    #[test]
    fn signed_lists_match_the_model(input in prop::collection::vec(any::<u8>(), 3..200)) {
        crl_model::check(&input);
    }

    #[test]
    fn base_and_delta_equal_the_complete_list(
        before in prop::collection::vec(action(), 0..20),
        between in prop::collection::vec(action(), 0..10),
        after in prop::collection::vec(action(), 0..10),
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
        prop_assert_eq!(decisions(&[&full]), expected(&state));
        prop_assert_eq!(decisions(&[&base, &late]), expected(&state));
        prop_assert_eq!(decisions(&[&late, &early, &base]), expected(&state), "in any order");
        prop_assert_eq!(decisions(&[&base, &early]), expected(&second));
        // A newer complete list supersedes the older delta.
        prop_assert_eq!(decisions(&[&complete(&second, 11), &full, &early]), expected(&state));
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
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), size in 1usize..64) {
        let mut reader = ListReader::new(1 << 16);
        let fed = bytes.chunks(size).try_for_each(|piece| reader.feed(piece));
        if fed.is_ok() {
            let signers = [Arc::clone(&CA.certificate)];
            prop_assert!(reader.finish(&signers, NOW).is_err());
        }
    }

    #[test]
    fn damaged_lists_are_rejected(at in 0usize..10_000, flip in 1u8..=255, cut in any::<bool>()) {
        static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
            CA.list().number(3).scope(&[0x81, 1, 0xff]).revoke(&[5], Some(1)).revoke(&[6], None).sign()
        });
        let mut der = GOOD.clone();
        let at = at % der.len();
        if cut { der.truncate(at) } else { der[at] ^= flip }
        let signers = [Arc::clone(&CA.certificate)];
        prop_assert!(RevocationList::read(&der, &signers, NOW).is_err());
        // The verdict is the same in pieces.
        let mut reader = ListReader::new(1 << 16);
        let fed = der.chunks(3).try_for_each(|piece| reader.feed(piece));
        prop_assert!(fed.is_err() || reader.finish(&signers, NOW).is_err());
    }
}

#[test]
fn a_key_rollover_loses_no_revocation() {
    // One name, two keys: each key signs a list of its certificates; the new list also has those of the old.
    let (old, new) = (Ca::root("Root"), Ca::root("Root"));
    let device = old.issue("device", &[7], &[]);
    let ask = |lists: Vec<(&Ca, Vec<u8>)>, now: i64| {
        let lists = lists.iter().map(|(ca, der)| {
            let signers = std::slice::from_ref(&ca.certificate);
            Arc::new(RevocationList::read(der, signers, NOW).expect("a list"))
        });
        let question = Question {
            domain: "",
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
    // An entry in the new key's list counts while the old key's list is fresh and once it is stale.
    let at_once = ask(vec![(&old, clean_old()), (&new, by_new())], NOW.0);
    assert_eq!(at_once, Some(Code::CertificateRevoked));
    let later = ask(vec![(&old, clean_old()), (&new, by_new())], NOW.0 + HOUR);
    assert_eq!(later, Some(Code::CertificateRevoked));
}
