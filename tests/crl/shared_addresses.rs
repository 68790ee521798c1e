//! Addresses that several authorities name, and addresses whose authorities change.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anchorgate::trust::configurations::{Configuration, ConfigurationId, Configurations, Device};
use anchorgate::trust::refusal::Code;
use anchorgate::trust::revocation::ListPolicy;
use anchorgate::x509::certificate::{Certificate, Fingerprint};
use anchorgate::x509::time::Timestamp;
use aws_lc_rs::digest::{SHA256, digest};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::seen_addresses::{World, anchors, device};
use crate::support::crl_maker::{Ca, HOUR, NOW};
use crate::support::web::Web;

const GONE: Option<Code> = Some(Code::CertificateRevoked);

fn begin(set: Configurations<Device>, directory: &Path) -> World {
    World::start(set, Some(directory), ListPolicy::default())
}

/// Takes the server away.
fn close(web: &Web) {
    web.pages.lock().expect("no panic").clear();
}

fn numbers(world: &World) -> Vec<Option<String>> {
    let statuses = world.handle.status().into_iter();
    statuses.map(|status| status.list.and_then(|list| list.number)).collect()
}

/// Writes a copy as an earlier version did, whose key was the address alone.
fn write_earlier_copy(directory: &Path, url: &str, list: &[u8]) {
    let metadata = format!(
        r#"{{"address":"{url}","validators":{{"etag":null,"last_modified":null}},"fetched":{}}}"#,
        NOW.0 - 60
    );
    let length = u32::try_from(metadata.len()).expect("short").to_be_bytes();
    let mut copy = [list, metadata.as_bytes(), &length].concat();
    let sum = digest(&SHA256, &copy);
    copy.extend_from_slice(sum.as_ref());
    copy.extend_from_slice(b"agcrl\x00\x01\n");
    std::fs::write(directory.join(format!("{}.crl", Fingerprint::of(url.as_bytes()))), copy)
        .expect("room");
}

fn copies(directory: &Path) -> usize {
    let files = std::fs::read_dir(directory).expect("readable");
    let is_copy = |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "crl");
    files.map(|file| file.expect("an entry").path()).filter(is_copy).count()
}

/// Any device can name the address of another issuer's list.
#[tokio::test]
async fn a_list_of_another_issuer_at_the_address_blocks_none() {
    let (alpha, beta, web) = (Ca::root("Alpha"), Ca::root("Beta"), Web::start().await);
    let url = web.url("/1");
    let folder = tempfile::tempdir().expect("a folder");
    let set = || anchors(&[&alpha, &beta], None);
    let mut world = begin(set(), folder.path());
    let devices = [&alpha, &beta].map(|ca| device(ca, 4, &[&url]));
    let revoked = [&alpha, &beta].map(|ca| device(ca, 9, &[&url]));
    web.put("/1", beta.list().number(5).revoke(&[9], None).sign());
    assert!(devices.iter().all(|device| world.judge(device).is_some()), "the first decisions");
    world.publish().await;
    let verdicts = |world: &World| {
        let judge = |device: &Arc<Certificate>| world.judge(device);
        (devices.each_ref().map(judge), revoked.each_ref().map(judge))
    };
    let (of_alpha, gone) = (Some(Code::CrlMissing), Some(Code::CertificateRevoked));
    assert_eq!(verdicts(&world), ([of_alpha, None], [of_alpha, gone]));
    // The list of Alpha is older than that of Beta, and comes into force beside it.
    let hour_ago = Timestamp(NOW.0 - 2 * HOUR);
    web.put("/1", alpha.list().number(1).this_update(hour_ago).revoke(&[9], None).sign());
    let statuses = world.handle.refresh(Some(&url)).await.expect("a known address");
    assert_eq!(statuses.len(), 2, "one for each issuer");
    assert!(statuses.iter().all(|status| status.address == url && status.list.is_some()));
    world.publish().await;
    assert_eq!(verdicts(&world), ([None, None], [gone, gone]));
    world.stop().await;

    // Both lists survive a restart without the server.
    web.pages.lock().expect("no panic").clear();
    let mut world = begin(set(), folder.path());
    world.publish().await;
    assert_eq!(verdicts(&world), ([None, None], [gone, gone]));
    world.stop().await;
}

/// The list of an address is the same whether a directory or a certificate names the address.
#[tokio::test]
async fn a_list_stays_in_force_when_a_directory_begins_or_ceases_to_name_its_address() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let url = web.url("/1");
    let folder = tempfile::tempdir().expect("a folder");
    let [good, revoked, later] = [4, 9, 7].map(|serial| device(&ca, serial, &[&url]));
    web.put("/1", ca.list().number(10).revoke(&[9], None).sign());
    let mut world = begin(anchors(&[&ca], None), folder.path());
    world.judge(&good);
    world.publish().await;
    close(&web);
    world.put_in_force(anchors(&[&ca], Some(&url))).await;
    let judge = |world: &World| [&good, &revoked, &later].map(|device| world.judge(device));
    assert_eq!(judge(&world), [None, GONE, None]);

    // The directory's address gets a newer list, and the directory no longer names it.
    web.put("/1", ca.list().number(11).revoke(&[9], None).revoke(&[7], None).sign());
    world.handle.refresh(Some(&url)).await.expect("a known address");
    world.publish().await;
    assert_eq!(judge(&world), [None, GONE, GONE]);
    close(&web);
    world.put_in_force(anchors(&[&ca], None)).await;
    world.judge(&good);
    assert_eq!(judge(&world), [None, GONE, GONE]);
    world.stop().await;

    let mut world = begin(anchors(&[&ca], None), folder.path());
    world.judge(&good);
    world.publish().await;
    assert_eq!(judge(&world), [None, GONE, GONE], "after a restart");
    world.stop().await;
}

#[tokio::test]
async fn a_copy_of_an_earlier_version_is_used_and_renamed() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let url = web.url("/1");
    let folder = tempfile::tempdir().expect("a folder");
    let [good, revoked] = [4, 9].map(|serial| device(&ca, serial, &[&url]));
    write_earlier_copy(folder.path(), &url, &ca.list().number(1).revoke(&[9], None).sign());
    for by_directory in [Some(&*url), None] {
        let mut world = begin(anchors(&[&ca], by_directory), folder.path());
        world.judge(&good);
        world.publish().await;
        assert_eq!([&good, &revoked].map(|device| world.judge(device)), [None, GONE]);
        assert!(world.handle.status()[0].kept);
        let of_address = folder.path().join(format!("{}.crl", Fingerprint::of(url.as_bytes())));
        assert!(!of_address.exists());
        assert_eq!(copies(folder.path()), 1);
        world.stop().await;
    }
}

#[tokio::test]
async fn of_two_copies_the_newer_one_is_used() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let url = web.url("/1");
    let folder = tempfile::tempdir().expect("a folder");
    let revoked = device(&ca, 9, &[&url]);
    web.put("/1", ca.list().number(11).revoke(&[9], None).sign());
    for number in [10, 12] {
        let mut world = begin(anchors(&[&ca], Some(&url)), folder.path());
        world.publish().await;
        world.stop().await;
        close(&web);
        write_earlier_copy(folder.path(), &url, &ca.list().number(number).sign());
        let mut world = begin(anchors(&[&ca], Some(&url)), folder.path());
        world.publish().await;
        assert_eq!(world.judge(&revoked), (number < 11).then_some(GONE).flatten());
        assert_eq!(copies(folder.path()), 1);
        world.stop().await;
    }
}

/// The disk is full when a newer list arrives.
#[tokio::test]
async fn a_copy_of_an_earlier_version_does_not_bring_an_older_list_back() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let url = web.url("/1");
    let folder = tempfile::tempdir().expect("a folder");
    let [good, revoked] = [4, 9].map(|serial| device(&ca, serial, &[&url]));
    write_earlier_copy(folder.path(), &url, &ca.list().number(10).sign());
    let mut world = begin(anchors(&[&ca], None), folder.path());
    world.judge(&good);
    world.publish().await;
    assert_eq!([&good, &revoked].map(|device| world.judge(device)), [None, None]);
    let of_address = Fingerprint::of(url.as_bytes());
    let obstacle = folder.path().join(format!("{of_address}.crl.new"));
    std::fs::create_dir(&obstacle).expect("made");
    web.put("/1", ca.list().number(11).revoke(&[9], None).sign());
    world.handle.refresh(None).await.expect("the source runs");
    world.publish().await;
    assert_eq!([&good, &revoked].map(|device| world.judge(device)), [None, GONE]);
    world.stop().await;
    std::fs::remove_dir(&obstacle).expect("empty");

    close(&web);
    let mut world = begin(anchors(&[&ca], None), folder.path());
    world.put_in_force(anchors(&[&ca], None)).await;
    let verdicts = [&good, &revoked].map(|device| world.judge(device));
    assert_eq!(verdicts, [Some(Code::CrlMissing); 2]);
    world.stop().await;
}

/// A list by the new key of an authority takes the place of the list by the old one.
#[tokio::test]
async fn an_authority_that_changes_its_key_has_one_list_at_its_address() {
    let (old, new, web) = (Ca::root("Root"), Ca::root("Root"), Web::start().await);
    let url = web.url("/1");
    let folder = tempfile::tempdir().expect("a folder");
    let hour_ago = Timestamp(NOW.0 - 2 * HOUR);
    let set = || anchors(&[&old, &new], None);
    let mut world = begin(set(), folder.path());
    let devices = [&old, &new].map(|ca| device(ca, 4, &[&url]));
    web.put("/1", old.list().number(5).this_update(hour_ago).sign());
    assert!(devices.iter().all(|device| world.judge(device).is_some()), "the first decisions");
    world.publish().await;
    assert_eq!(world.judge(&devices[0]), None);
    web.put("/1", new.list().number(1).sign());
    let statuses = world.handle.refresh(Some(&url)).await.expect("a known address");
    assert!(statuses.iter().all(|status| status.last_error.is_none()), "{statuses:?}");
    world.publish().await;
    assert_eq!(world.judge(&devices[1]), None);
    assert_eq!(numbers(&world), [Some("1".to_owned())]);
    assert_eq!(copies(folder.path()), 1);
    world.stop().await;
}

/// An authority of one trust domain does not end the list of another one that has its name.
#[tokio::test]
async fn authorities_of_two_domains_with_one_name_have_a_list_each() {
    let (one, two, web) = (Ca::root("Root"), Ca::root("Root"), Web::start().await);
    let url = web.url("/1");
    let folder = tempfile::tempdir().expect("a folder");
    let of_domain = |ca: &Ca, domain: &str| Configuration {
        id: ConfigurationId::from(domain),
        domain: domain.into(),
        ..Configuration::clone(&anchors(&[ca], Some(&url)).configurations[0])
    };
    let set = || Configurations::from_iter([of_domain(&one, "one"), of_domain(&two, "two")]);
    let hour_ago = Timestamp(NOW.0 - 2 * HOUR);
    web.put("/1", one.list().number(5).this_update(hour_ago).revoke(&[9], None).sign());
    let mut world = begin(set(), folder.path());
    world.publish().await;
    web.put("/1", two.list().number(6).revoke(&[9], None).sign());
    world.handle.refresh(Some(&url)).await.expect("a known address");
    world.publish().await;
    let devices: Vec<Arc<Certificate>> =
        [(&one, 4), (&one, 9), (&two, 4), (&two, 9)].map(|(ca, n)| device(ca, n, &[&url])).into();
    let verdicts =
        |world: &World| devices.iter().map(|device| world.judge(device)).collect::<Vec<_>>();
    assert_eq!(verdicts(&world), [None, GONE, None, GONE]);
    world.stop().await;
    close(&web);
    let mut world = begin(set(), folder.path());
    world.publish().await;
    assert_eq!(verdicts(&world), [None, GONE, None, GONE], "after a restart");
    world.stop().await;
}

#[tokio::test]
async fn an_indirect_list_is_held_once_for_all_authorities_of_its_address() {
    let [alpha, beta, gamma] = ["Alpha", "Beta", "Gamma"].map(Ca::root);
    let web = Web::start().await;
    let url = web.url("/1");
    let folder = tempfile::tempdir().expect("a folder");
    // indirectCRL.
    web.put("/1", gamma.list().number(1).scope(&[0x84, 1, 0xff]).sign());
    let mut world = begin(anchors(&[&alpha, &beta, &gamma], None), folder.path());
    for ca in [&alpha, &beta] {
        world.judge(&device(ca, 4, &[&url]));
    }
    world.publish().await;
    world.put_in_force(anchors(&[&alpha, &beta, &gamma], None)).await;
    world.handle.refresh(Some(&url)).await.expect("a known address");
    let statuses = world.handle.status();
    assert_eq!(statuses.len(), 1, "{statuses:?}");
    assert_eq!(statuses[0].authorities, ["CN=Alpha", "CN=Beta"]);
    assert_eq!(numbers(&world), [Some("1".to_owned())]);
    assert_eq!(copies(folder.path()), 1);
    world.stop().await;
}

#[tokio::test]
async fn the_metrics_of_an_address_are_those_of_all_its_lists() {
    let (alpha, beta, web) = (Ca::root("Alpha"), Ca::root("Beta"), Web::start().await);
    let url = web.url("/1");
    let both = || anchors(&[&alpha, &beta], Some(&url));
    let mut world = World::start(both(), None, ListPolicy::default());
    let mut registry = Registry::default();
    world.metrics.register(&mut registry);
    let value = |name: &str| {
        let mut text = String::new();
        encode(&mut text, &registry).expect("text");
        let series = format!("crl_{name}{{address=\"{url}\"}} ");
        let mut values = text.lines().filter_map(|line| line.strip_prefix(&series));
        values.next().map(|value| value.parse::<i64>().expect("a number"))
    };
    let list = |ca: &Ca, entries: u8, hours: i64| {
        let list = ca.list().number(1).next_update(Some(Timestamp(NOW.0 + hours * HOUR)));
        (1..=entries).fold(list, |list, serial| list.revoke(&[serial], None)).sign()
    };
    for (ca, entries, hours) in [(&alpha, 2, 1), (&beta, 3, 2)] {
        web.put("/1", list(ca, entries, hours));
        world.handle.refresh(None).await.expect("a refresh");
    }
    let values = || (value("entries"), value("next_update_timestamp_seconds"));
    assert_eq!(values(), (Some(5), Some(NOW.0 + HOUR)));
    world.put_in_force(anchors(&[&beta], Some(&url))).await;
    assert_eq!(values(), (Some(3), Some(NOW.0 + 2 * HOUR)));
    assert!(world.handle.status().iter().all(|status| status.authorities == ["CN=Beta"]));
    world.stop().await;
}

/// Lines of the log, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").write(line)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A device can cause it at each retry.
#[tokio::test]
async fn a_rejected_list_is_an_error_only_if_a_list_is_in_force() {
    let (alpha, beta, web) = (Ca::root("Alpha"), Ca::root("Beta"), Web::start().await);
    let set = anchors(&[&alpha, &beta], None);
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let mut world = World::start(set, None, ListPolicy::default());
    let url = web.url("/1");
    web.put("/1", beta.list().number(1).sign());
    world.judge(&device(&alpha, 4, &[&url]));
    world.publish().await;
    let lines = || String::from_utf8(log.0.lock().expect("no panic").clone()).expect("text");
    assert!(lines().contains("CRL rejected; the address has no list in force"), "{}", lines());
    assert!(!lines().contains("ERROR"), "{}", lines());
    web.put("/1", alpha.list().number(1).sign());
    world.handle.refresh(None).await.expect("a refresh");
    web.put("/1", beta.list().number(2).sign());
    world.handle.refresh(None).await.expect("a refresh");
    assert!(lines().contains("CRL rejected; the old list stays in force"), "{}", lines());
    world.stop().await;
}
