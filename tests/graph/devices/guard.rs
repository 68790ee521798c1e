//! The removal guard.

use super::*;

#[tokio::test]
async fn an_empty_enumeration_waits_for_approval() {
    let mut rig = Rig::with(&[device(1, true), device(2, true)], |_| {}).await;
    rig.replies("1", Reply::status(410));
    rig.ends_with("", &[], Some(2));
    rig.ends_with("2", &[], Some(2));
    rig.sync().await;
    let held = rig.status().held_back.expect("held back");
    assert_eq!((held.changes.removed, held.changes.before), (2, 2));
    assert!(rig.metric("graph_devices_held_back{source=\"hub\"} 1"));
    assert_eq!(rig.standing(1), Standing::Enabled);
    // An empty delta does not release it, and a restart holds it back again.
    rig.sync().await;
    assert!(rig.status().held_back.is_some());
    rig.restart(
        |rig| {
            rig.replies("1", Reply::status(410));
            rig.ends_with("", &[], Some(2));
            rig.ends_with("2", &[], Some(2));
        },
        |_| {},
    )
    .await;
    rig.until(|status| status.held_back.is_some()).await;
    assert_eq!(rig.standing(2), Standing::Enabled);
    // Some devices return, so that the removals are within the limit.
    rig.ends_with("2", &[device(1, true)], Some(3));
    rig.ends_with("3", &[removed(1)], Some(4));
    rig.sync().await;
    assert_eq!(rig.status().held_back, None);
    assert_eq!((rig.standing(1), rig.standing(2)), (Standing::Enabled, Standing::Unknown));
    // An explicit removal of the last device is applied.
    rig.sync().await;
    assert_eq!((rig.status().held_back, rig.standing(1)), (None, Standing::Unknown));
    let nothing = rig.devices().approve("0").await;
    assert!(matches!(nothing, Err(HandleError::NothingHeld)));
}

#[tokio::test]
async fn more_removals_than_are_allowed_wait_for_approval() {
    let all: Vec<_> = (0..202).map(|n| device(n, true)).collect();
    let gone = |numbers: std::ops::Range<usize>| numbers.map(removed).collect::<Vec<_>>();
    let rig = Rig::with(&all, |_| {}).await;
    rig.ends_with("1", &gone(100..201), Some(2));
    rig.ends_with("2", &gone(201..202), Some(3));
    rig.ends_with("3", &[], Some(3));
    rig.sync().await;
    assert!(rig.status().held_back.is_none(), "half may be removed");
    rig.sync().await;
    assert_eq!((rig.status().held_back, rig.status().content.known), (None, 100), "one of 101");

    let mut rig = Rig::with(&all, |_| {}).await;
    rig.ends_with("1", &gone(100..202), Some(2));
    rig.ends_with("2", &[], Some(2));
    rig.sync().await;
    assert_eq!(rig.status().held_back.expect("more than half").changes.removed, 102);
    assert_eq!(rig.standing(150), Standing::Enabled);
    let digest = rig.status().held_back.expect("held back").digest;
    let other = rig.devices().approve("0").await;
    let held = digest.clone();
    assert!(matches!(other, Err(HandleError::OtherHeld { held: h, .. }) if h == held));
    let difference = rig.devices().approve(&digest).await.expect("it was held back");
    assert_eq!(difference.removed, 102);
    assert_eq!((rig.standing(150), rig.standing(9)), (Standing::Unknown, Standing::Enabled));
    rig.sync().await;
    assert_eq!(rig.status().held_back, None);

    let mut rig = Rig::with(&all, |config| config.guard = false).await;
    rig.ends_with("1", &gone(0..202), Some(2));
    rig.sync().await;
    assert_eq!(rig.standing(150), Standing::Unknown);
}
