//! A newer list that has expired already when it arrives.

use std::sync::Arc;

use anchorgate::crl::Config;
use anchorgate::trust::assembly::{Assembly, ListState, Update};
use anchorgate::trust::refusal::Code;
use anchorgate::trust::revocation::CrlMode;
use anchorgate::x509::time::Timestamp;

use crate::judge::{decide, read, snapshot};
use crate::support::crl_maker::{Ca, HOUR, List, NOW};
use crate::support::crl_source::{Running, anchors, start};
use crate::support::web::Web;

/// A list from `this` to `next`, in hours from now.
pub fn list(ca: &Ca, number: u64, this: i64, next: i64) -> List<'_> {
    let at = |hours: i64| Timestamp(NOW.0 + hours * HOUR);
    ca.list().number(number).this_update(at(this)).next_update(Some(at(next)))
}

/// Numbers of the newest list and of the earlier one that decides, if there is one.
pub async fn next(running: &mut Running) -> (Option<String>, Option<String>) {
    let number = |list: &anchorgate::x509::crl::RevocationList| list.number.map(|n| n.to_string());
    match running.next().await {
        ListState::InForce(list) => (number(&list), None),
        ListState::Expired { newest, earlier } => (number(&newest), number(&earlier)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_fresh_list_decides_on_when_an_expired_one_arrives() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let url = web.url("/1.crl");
    web.put("/1.crl", list(&ca, 5, -9, 9).sign());
    let mut running = start(Config::default(), anchors(&ca, Some(&url), None));
    let of =
        |newest: &str, earlier: Option<&str>| (Some(newest.to_owned()), earlier.map(str::to_owned));
    assert_eq!(next(&mut running).await, of("5", None));
    for (list, expected) in [
        (list(&ca, 6, -8, -2), of("6", Some("5"))),
        (list(&ca, 7, -7, -1), of("7", Some("5"))),
        // A fresh list ends that.
        (list(&ca, 8, -6, 1), of("8", None)),
        (list(&ca, 9, -5, -1), of("9", Some("8"))),
        // Without a fresh one, there is nothing to keep.
        (list(&ca, 10, -4, -3), of("10", Some("8"))),
    ] {
        web.put("/1.crl", list.sign());
        assert_eq!(running.refresh().await.last_error, None);
        assert_eq!(next(&mut running).await, expected);
    }
    // The newest list still counts: no older one replaces it.
    web.put("/1.crl", list(&ca, 9, -3, 9).sign());
    let error = running.error().await;
    assert!(error.contains("cRLNumber 9 is below 10"), "{error}");
}

#[test]
fn entries_of_both_lists_count_and_the_fresh_one_ends_at_its_next_update() {
    let ca = Ca::root("Root");
    let of_both = |earlier: Option<&List<'_>>, newest: &List<'_>| {
        let newest = read(&ca, newest);
        let state = match earlier {
            None => ListState::InForce(newest),
            Some(earlier) => ListState::Expired { newest, earlier: read(&ca, earlier) },
        };
        let mut assembly = Assembly::default();
        assembly.apply(Update::Lists {
            address: Arc::from("http://ca.example/1.crl"),
            lists: vec![state],
        });
        assembly.build(&snapshot(&[&ca], &[], CrlMode::Require))
    };
    let earlier = list(&ca, 5, -9, 9).revoke(&[5], None);
    let newest = list(&ca, 6, -8, -2).revoke(&[6], None);
    let both = of_both(Some(&earlier), &newest);
    let device = |serial: u8| ca.issue("device", &[serial], &[]);
    for (serial, expected) in
        [(4, None), (5, Some(Code::CertificateRevoked)), (6, Some(Code::CertificateRevoked))]
    {
        assert_eq!(decide(&both, &[&device(serial)], NOW), expected, "{serial}");
    }
    let after = Timestamp(NOW.0 + 9 * HOUR + 1);
    assert_eq!(decide(&both, &[&device(4)], after), Some(Code::CrlStale));
    assert_eq!(decide(&of_both(None, &newest), &[&device(4)], NOW), Some(Code::CrlStale));
    // A hold that the expired list lifted stays.
    let held = list(&ca, 5, -9, 9).revoke(&[7], Some(6));
    let both = of_both(Some(&held), &newest);
    assert_eq!(decide(&both, &[&device(7)], NOW), Some(Code::CertificateOnHold));
}

/// The issuer has said until when its newest data is good.
#[test]
fn a_later_list_of_another_address_ends_an_earlier_one() {
    let ca = Ca::root("Root");
    let mut assembly = Assembly::default();
    let expired = ListState::Expired {
        newest: read(&ca, &list(&ca, 11, -8, -2)),
        earlier: read(&ca, &list(&ca, 10, -9, 9)),
    };
    assembly.apply(Update::Lists { address: "http://a.example/1".into(), lists: vec![expired] });
    let device = ca.issue("device", &[4], &[]);
    let later = Timestamp(NOW.0 + HOUR + 1);
    let before = assembly.build(&snapshot(&[&ca], &[], CrlMode::Require));
    assert_eq!(decide(&before, &[&device], later), None);
    let newest = ListState::InForce(read(&ca, &list(&ca, 12, -7, 1)));
    assembly.apply(Update::Lists { address: "http://b.example/1".into(), lists: vec![newest] });
    let both = assembly.build(&before);
    assert_eq!(decide(&both, &[&device], NOW), None);
    assert_eq!(decide(&both, &[&device], later), Some(Code::CrlStale));
}
