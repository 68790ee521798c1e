//! The saved registry: restarts, damage and age.

use super::*;
use std::path::Path;

#[tokio::test]
async fn starts_from_disk_without_the_directory() {
    let mut rig = Rig::with(&[device(1, true), device(2, false)], |_| {}).await;
    let saved = rig.folder.path().join("devices");
    let start = Instant::now();
    while !saved.exists() {
        assert!(start.elapsed() < TIME_LIMIT, "not written");
        sleep(Duration::from_millis(10)).await;
    }
    rig.restart(|rig| rig.replies("1", Reply::Bytes(vec![])), |_| {}).await;
    let status = rig.until(|status| status.failures > 0).await;
    assert!(status.loaded && status.from_disk);
    assert_eq!((status.content.known, status.content.disabled), (2, 1));
    assert_eq!((rig.standing(1), rig.standing(2)), (Standing::Enabled, Standing::Disabled));
    // Only the changes since then are requested.
    rig.requested();
    rig.ends_with("1", &[json!({ "id": "o1", "accountEnabled": false })], Some(2));
    rig.sync().await;
    assert_eq!((rig.requested(), rig.standing(1)), (vec!["1".to_owned()], Standing::Disabled));
    assert!(!rig.status().from_disk);

    // The saved devices of another directory are not used.
    let (other, folder) = (Misbehaving::start().await, Arc::clone(&rig.folder));
    let mut rig = Rig::start(other, folder, |_| {}, |_| {});
    rig.until(|status| status.failures > 0).await;
    assert!(!rig.status().loaded && rig.in_force().is_none());
}

#[tokio::test]
async fn a_damaged_file_is_reported_and_not_used() {
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    std::fs::write(folder.path().join("devices"), "anchorgate devices/1 x\nx").expect("written");
    let mut rig = Rig::start(Misbehaving::start().await, folder, |_| {}, |_| {});
    rig.until(|status| status.failures > 0).await;
    assert!(!rig.status().loaded && rig.in_force().is_none());
    rig.ends_with("", &[device(1, true)], Some(1));
    rig.ends_with("1", &[], Some(1));
    rig.sync().await;
    assert_eq!(rig.standing(1), Standing::Enabled);
}

/// Damages the newest saved version, and restarts without the directory.
#[tokio::test]
async fn the_journal_keeps_older_devices_from_admitting_disabled_ones() {
    let mut rig = Rig::with(&[device(1, true), device(2, true), device(3, true)], |_| {}).await;
    let folder = rig.folder.path().to_owned();
    let first = until_saved(&folder, &[]).await;
    let disabled = json!({ "id": "o1", "accountEnabled": false });
    rig.ends_with("1", &[disabled, removed(2)], Some(2));
    rig.ends_with("2", &[], Some(2));
    rig.sync().await;
    assert_eq!((rig.standing(1), rig.standing(2)), (Standing::Disabled, Standing::Unknown));
    let newest = until_saved(&folder, &first).await;
    assert_eq!(std::fs::read(folder.join("devices.1")).expect("the previous version"), first);

    let mut damaged = newest;
    *damaged.last_mut().expect("bytes") ^= 1;
    std::fs::write(folder.join("devices"), damaged).expect("written");
    rig.restart(|_| {}, |_| {}).await;
    let status = rig.until(|status| status.failures > 0).await;
    assert!(status.loaded && status.from_disk);
    let standings = [1, 2, 3].map(|n| rig.standing(n));
    assert_eq!(standings, [Standing::Disabled, Standing::Unknown, Standing::Enabled]);

    // The journal is damaged as well: no device is in force.
    std::fs::write(folder.join("devices.journal"), "garbage").expect("written");
    rig.restart(|_| {}, |_| {}).await;
    rig.until(|status| status.failures > 0).await;
    assert!(rig.in_force().is_none());
}

/// Waits until the saved file differs from `before`, and returns it.
async fn until_saved(folder: &Path, before: &[u8]) -> Vec<u8> {
    let start = Instant::now();
    loop {
        match std::fs::read(folder.join("devices")) {
            Ok(bytes) if bytes != before => return bytes,
            _ => assert!(start.elapsed() < TIME_LIMIT, "not written"),
        }
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn outdated_devices_are_withdrawn_by_policy() {
    let short = |config: &mut Config| {
        config.max_age = Duration::from_millis(300);
        config.too_old = TooOld::Refuse;
    };
    let mut rig = Rig::with(&[device(1, true)], short).await;
    rig.replies("1", Reply::status(500));
    rig.until(|status| status.too_old).await;
    let start = Instant::now();
    while rig.in_force().is_some() {
        assert!(start.elapsed() < TIME_LIMIT, "still in force");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(matches!(rig.in_force, Some(Registry::Withdrawn(_))));
    assert!(rig.metric("graph_devices_too_old{source=\"hub\"} 1"));
    rig.ends_with("1", &[], Some(1));
    rig.sync().await;
    assert_eq!(
        rig.standing(1),
        Standing::Enabled,
        "in force after a successful poll without changes"
    );

    // Saved devices that are too old do not come into force.
    rig.restart(
        |rig| {
            rig.clock.store(NOW + 3600, Ordering::Relaxed);
            rig.replies("1", Reply::status(500));
        },
        short,
    )
    .await;
    rig.until(|status| status.too_old && status.failures > 0).await;
    assert!(rig.in_force().is_none());
    rig.ends_with("1", &[], Some(1));
    rig.sync().await;
    assert_eq!(rig.standing(1), Standing::Enabled);
}
