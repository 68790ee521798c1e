//! A panic in the source of CRLs ends neither the process nor the refresh of lists.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anchorgate::crl::{Config, RefreshError};

use crate::support::crl_maker::{Ca, NOW};
use crate::support::crl_source::{anchors, number, start_at};
use crate::support::web::Web;

#[tokio::test]
async fn the_source_starts_again_after_a_panic() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let url = web.url("/1.crl");
    web.put("/1.crl", ca.list().number(5).sign());
    let fails = Arc::new(AtomicBool::new(false));
    let clock = Arc::clone(&fails);
    let clock = Arc::new(move || {
        assert!(!clock.swap(false, Ordering::SeqCst), "the clock fails on purpose");
        NOW
    });
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
