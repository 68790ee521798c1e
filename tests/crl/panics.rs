//! A panic in the source of CRLs ends neither the process nor the refresh of lists.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anchorgate::crl::{Config, RefreshError};
use anchorgate::runtime::clock::Clock;

use crate::expired::{list, next};
use crate::support::crl_maker::{Ca, NOW};
use crate::support::crl_source::{anchors, number, start_at};
use crate::support::web::Web;

/// A clock that panics once after the flag is set.
fn failing_clock() -> (Arc<AtomicBool>, Clock) {
    let fails = Arc::new(AtomicBool::new(false));
    let clock = Arc::clone(&fails);
    let clock = Arc::new(move || {
        assert!(!clock.swap(false, Ordering::SeqCst), "the clock fails on purpose");
        NOW
    });
    (fails, clock)
}

#[tokio::test]
async fn the_source_starts_again_after_a_panic() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let url = web.url("/1.crl");
    web.put("/1.crl", ca.list().number(5).sign());
    let (fails, clock) = failing_clock();
    let mut running = start_at(Config::default(), anchors(&ca, Some(&url), None), clock);
    running.list().await;
    // Answered by the loop of the source, so that it is idle when the clock fails.
    running.refresh().await;

    for expected in ["6", "7"] {
        fails.store(true, Ordering::SeqCst);
        // The loop reads the clock first when it gets the command.
        let refused = running.handle.refresh(None).await;
        assert_eq!(refused.expect_err("the loop panics"), RefreshError::Stopped);
        assert!(!fails.load(Ordering::SeqCst));
        web.put("/1.crl", ca.list().number(expected.parse().expect("a number")).sign());
        let status = running.refresh().await;
        assert_eq!(number(&status), Some(expected), "{status:?}");
        assert_eq!(status.last_error, None);
        // The list in force is sent again, then the newer one.
        let sent = [running.list().await, running.list().await];
        let sent = sent.map(|list| list.number.map(|number| number.to_string()));
        assert_eq!(sent[1].as_deref(), Some(expected), "{sent:?}");
        assert_ne!(sent[0], sent[1]);
    }
}

#[tokio::test]
async fn a_fresh_list_decides_on_after_a_panic() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let url = web.url("/1.crl");
    web.put("/1.crl", list(&ca, 5, -9, 9).sign());
    let (fails, clock) = failing_clock();
    let mut running = start_at(Config::default(), anchors(&ca, Some(&url), None), clock);
    running.list().await;
    web.put("/1.crl", list(&ca, 6, -8, -2).sign());
    running.refresh().await;
    let both = (Some("6".to_owned()), Some("5".to_owned()));
    assert_eq!(next(&mut running).await, both);
    fails.store(true, Ordering::SeqCst);
    running.handle.refresh(None).await.expect_err("the loop panics");
    running.refresh().await;
    assert_eq!(next(&mut running).await, both);
}
