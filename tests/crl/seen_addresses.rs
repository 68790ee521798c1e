//! Lists at addresses that certificates name: recorded by one decision, fetched, and used by later ones.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anchorgate::crl::{self, AddressRecord, Config, Metrics, Source};
use anchorgate::runtime::clock::Clock;
use anchorgate::runtime::publisher::ConfigurationsInForce;
use anchorgate::trust::assembly::{Assembly, Update};
use anchorgate::trust::configurations::{
    Authority, Configuration, ConfigurationId, Configurations, Device, Devices,
};
use anchorgate::trust::judge::devices::{UnverifiedChain, judge};
use anchorgate::trust::refusal::Code;
use anchorgate::trust::revocation::{AuthorityPolicy, CrlMode, ListPolicy, Selector};
use anchorgate::trust::snapshot::Snapshot;
use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::certificate::Certificate;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::expired::list;
use crate::support::crl_maker::{Ca, NOW, extension, tlv};
use crate::support::web::{Page, Web};

const POINTS: &[u8] = &[0x55, 0x1d, 31];
const FRESHEST: &[u8] = &[0x55, 0x1d, 46];
const ALT_NAME: &[u8] = &[0x55, 0x1d, 17];

/// A distributionPoint with these addresses.
pub fn full_name(addresses: &[&str]) -> Vec<u8> {
    let names: Vec<u8> = addresses.iter().flat_map(|a| tlv(0x86, a.as_bytes())).collect();
    tlv(0xa0, &tlv(0xa0, &names))
}

/// The value of cRLDistributionPoints or freshestCRL with one point.
pub fn points(addresses: &[&str]) -> Vec<u8> {
    tlv(0x30, &tlv(0x30, &full_name(addresses)))
}

/// A device certificate that names these CRL addresses.
pub fn device(ca: &Ca, serial: u8, addresses: &[&str]) -> Arc<Certificate> {
    device_with(ca, serial, &[extension(POINTS, false, &points(addresses))])
}

pub fn device_with(ca: &Ca, serial: u8, extensions: &[Vec<u8>]) -> Arc<Certificate> {
    let name = tlv(0x30, &tlv(0x82, b"device.example"));
    let alt = extension(ALT_NAME, false, &name);
    ca.issue("device", &[serial], &[&[alt], extensions].concat())
}

pub fn anchors(cas: &[&Ca], crl: Option<&str>) -> Configurations<Device> {
    let authority = |ca: &&Ca| Authority {
        certificate: Arc::clone(&ca.certificate),
        is_root: true,
        crl_url: crl.map(Into::into),
        delta_crl_url: None,
    };
    let configuration = Configuration {
        id: ConfigurationId::from("1"),
        domain: Arc::default(),
        display_name: String::new(),
        kind: Device { subject_field: SubjectField::SanDns, devices: Devices::Any },
        authorities: cas.iter().map(authority).collect(),
    };
    Configurations::from_iter([configuration])
}

fn in_force(set: Configurations<Device>, generation: u64) -> ConfigurationsInForce {
    let configurations = Arc::new(set).into();
    ConfigurationsInForce { generation, devices_loaded: true, configurations, lists: None }
}

/// The parts of a gateway that matter here: the judge, the CRL source and the snapshot in force.
pub struct World {
    trust: Snapshot,
    record: Arc<AddressRecord>,
    assembly: Assembly,
    updates: mpsc::Receiver<Update>,
    in_force: watch::Sender<ConfigurationsInForce>,
    pub handle: crl::Handle,
    pub metrics: Metrics,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl World {
    pub fn start(
        set: Configurations<Device>,
        directory: Option<&Path>,
        policy: ListPolicy,
    ) -> Self {
        let record = Arc::new(AddressRecord::default());
        let config = Config {
            directory: directory.map(Into::into),
            address_record: Some(Arc::clone(&record)),
            policy: policy.clone(),
            ..Config::default()
        };
        let (in_force, watched) = watch::channel(in_force(set.clone(), 1));
        let (sender, updates) = mpsc::channel(100);
        let clock: Clock = Arc::new(|| NOW);
        let metrics = Metrics::default();
        let (source, handle) =
            Source::new(config, watched, sender, metrics.clone(), clock).expect("a source");
        let stop = CancellationToken::new();
        let running = tokio::spawn(source.run(stop.clone()));
        let mut assembly = Assembly::new(policy);
        assembly.apply(Update::Configurations { source: "directory".into(), set });
        let trust =
            Snapshot::nothing(Arc::default()).with_address_observer(Some(Arc::clone(&record) as _));
        let trust = assembly.build(&trust);
        Self { trust, record, assembly, updates, in_force, handle, metrics, stop, running }
    }

    pub fn judge(&self, certificate: &Certificate) -> Option<Code> {
        let chain = UnverifiedChain::from_der(&[certificate.der()]).expect("readable");
        judge(&chain, &self.trust, NOW).err().map(|refusal| refusal.code)
    }

    /// Puts the next list in force.
    pub async fn publish(&mut self) {
        let update = tokio::time::timeout(Duration::from_secs(10), self.updates.recv()).await;
        self.assembly.apply(update.expect("in time").expect("the source runs"));
        self.trust = self.assembly.build(&self.trust);
    }

    /// Puts configurations in force, and what the source sends before it has processed them.
    pub async fn put_in_force(&mut self, set: Configurations<Device>) {
        let generation = self.in_force.borrow().generation + 1;
        self.in_force.send_replace(in_force(set.clone(), generation));
        self.assembly.apply(Update::Configurations { source: "directory".into(), set });
        self.handle.wait_until_attempted(generation).await.expect("the source runs");
        while let Ok(update) = self.updates.try_recv() {
            self.assembly.apply(update);
        }
        self.trust = self.assembly.build(&self.trust);
    }

    /// Number of addresses that decisions recorded.
    fn recorded(&self) -> usize {
        self.record.all().len()
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.running.await.expect("no panic");
    }
}

pub fn requests_for(web: &Web, path: &str) -> usize {
    let asked = web.asked.lock().expect("no panic");
    asked.iter().filter(|head| head.starts_with(&format!("get {path} "))).count()
}

#[tokio::test]
async fn partitions_named_by_certificates_are_fetched_and_survive_a_restart() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let [one, two] = ["/1", "/2"].map(|path| web.url(path));
    let partition = |at: &str, serial| {
        ca.list().number(1).scope(&full_name(&[at])).revoke(&[serial], None).sign()
    };
    web.put("/1", partition(&one, 9));
    web.put("/2", partition(&two, 8));
    let ldap = "ldap://ca.example/cn=ca";
    let [in_one, in_two] = [&one, &two].map(|at| device(&ca, 4, &[ldap, at]));
    let [revoked, elsewhere] =
        [(&one, 9), (&two, 5)].map(|(at, serial)| device(&ca, serial, &[ldap, at]));

    let folder = tempfile::tempdir().expect("a folder");
    let begin = || World::start(anchors(&[&ca], None), Some(folder.path()), ListPolicy::default());
    let mut world = begin();
    assert_eq!(world.judge(&in_one), Some(Code::CrlMissing), "the first decision");
    assert_eq!(
        world.judge(&in_one),
        Some(Code::CrlMissing),
        "a decision does not wait for the fetch"
    );
    world.publish().await;
    assert_eq!(world.judge(&in_one), None);
    assert_eq!(world.judge(&revoked), Some(Code::CertificateRevoked));
    assert_eq!(requests_for(&web, "/2"), 0);
    assert_eq!(world.judge(&in_two), Some(Code::CrlMissing), "the other partition is not loaded");
    world.publish().await;
    assert_eq!([world.judge(&in_two), world.judge(&elsewhere)], [None, None]);
    assert_eq!([requests_for(&web, "/1"), requests_for(&web, "/2")], [1, 1]);
    world.stop().await;

    // The server is gone; what was sighted is known, and its lists are on disk.
    web.pages.lock().expect("no panic").clear();
    let mut world = begin();
    world.publish().await;
    world.publish().await;
    let verdicts = [&in_one, &in_two, &revoked, &elsewhere].map(|device| world.judge(device));
    assert_eq!(verdicts, [None, None, Some(Code::CertificateRevoked), None]);
    // Recorded addresses are dropped with their anchor.
    world.put_in_force(anchors(&[&Ca::root("Other")], None)).await;
    assert!(world.handle.status().is_empty());
}

#[tokio::test]
async fn addresses_of_untrusted_certificates_are_not_fetched() {
    let (ca, stranger, web) = (Ca::root("Root"), Ca::root("Root"), Web::start().await);
    let (good, bad) = (web.url("/good"), web.url("/bad"));
    web.put("/good", ca.list().number(1).sign());
    let mut world = World::start(anchors(&[&ca], None), None, ListPolicy::default());
    assert_eq!(world.judge(&device(&stranger, 1, &[&bad])), Some(Code::SignatureInvalid));
    assert_eq!(world.recorded(), 0);
    assert_eq!(
        world.judge(&device(&ca, 1, &["file:///etc/passwd"])),
        None,
        "not an address that can be fetched"
    );
    let broken = device_with(&ca, 2, &[extension(POINTS, false, &[0x30, 0])]);
    assert_eq!(world.judge(&broken), Some(Code::CertificateMalformed));
    assert_eq!(world.judge(&device(&ca, 1, &[&good])), Some(Code::CrlMissing));
    world.publish().await;
    assert_eq!(world.judge(&device(&ca, 1, &[&good])), None);
    let addresses: Vec<_> = world.handle.status().into_iter().map(|s| s.address).collect();
    assert_eq!(addresses, [good]);
    assert_eq!(web.asked(), 1);
}

#[tokio::test]
async fn the_addresses_of_one_point_are_alternatives() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let [dead, not_a_list, live] = ["/dead", "/html", "/live"].map(|path| web.url(path));
    web.put("/html", b"<html>".to_vec());
    let version = |tag: &str, list| Page {
        status: 200,
        headers: vec![format!("ETag: \"{tag}\"")],
        body: list,
    };
    web.put_page("/live", version("1", ca.list().number(1).scope(&full_name(&[&live])).sign()));
    let addresses = ["ldap://ca.example/x", &*dead, &*not_a_list, &*live];
    let mut world = World::start(anchors(&[&ca], None), None, ListPolicy::default());
    let [good, revoked] = [4, 7].map(|serial| device(&ca, serial, &addresses));
    assert_eq!(world.judge(&good), Some(Code::CrlMissing));
    world.publish().await;
    assert_eq!(world.judge(&good), None);
    // The next fetch begins with the address that returned the list, and with its version of it.
    web.put_page("/live", version("2", ca.list().number(2).revoke(&[7], None).sign()));
    world.handle.refresh(None).await.expect("a refresh");
    world.publish().await;
    assert_eq!([world.judge(&good), world.judge(&revoked)], [None, Some(Code::CertificateRevoked)]);
    let asked = ["/dead", "/html", "/live"].map(|path| requests_for(&web, path));
    assert_eq!(asked, [1, 1, 2]);
    let last = web.asked.lock().expect("no panic").last().cloned().expect("a request");
    assert!(last.contains("if-none-match: \"1\""), "{last}");
    // The other addresses are asked when it has no list any more.
    web.pages.lock().expect("no panic").remove("/live");
    web.put("/dead", ca.list().number(3).sign());
    world.handle.refresh(None).await.expect("a refresh");
    world.publish().await;
    assert_eq!(world.judge(&revoked), None);
}

#[tokio::test]
async fn freshest_crl_is_read_from_certificates_and_lists() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let [base, delta] = ["/base", "/delta"].map(|path| web.url(path));
    web.put("/delta", ca.list().number(2).delta_to(1).revoke(&[7], None).sign());
    let by_list = ca.list().number(1).extension(FRESHEST, false, &points(&[&delta])).sign();
    let at_base = extension(POINTS, false, &points(&[&base]));
    let freshest = extension(FRESHEST, false, &points(&[&delta]));
    for (list, extensions) in [
        (by_list, vec![at_base.clone()]),
        (ca.list().number(1).sign(), vec![at_base.clone(), freshest]),
    ] {
        web.put("/base", list);
        let mut world = World::start(anchors(&[&ca], None), None, ListPolicy::default());
        let [good, revoked] = [4, 7].map(|serial| device_with(&ca, serial, &extensions));
        assert_eq!(world.judge(&good), Some(Code::CrlMissing));
        world.publish().await;
        world.publish().await;
        assert_eq!(world.judge(&good), None);
        assert_eq!(world.judge(&revoked), Some(Code::CertificateRevoked));
    }
}

#[tokio::test]
async fn the_delta_of_a_list_that_had_expired_is_fetched() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let [base, delta] = ["/base", "/delta"].map(|path| web.url(path));
    web.put("/base", list(&ca, 1, -9, 9).sign());
    web.put("/delta", ca.list().number(3).delta_to(1).revoke(&[7], None).sign());
    let mut world = World::start(anchors(&[&ca], Some(&base)), None, ListPolicy::default());
    world.publish().await;
    let expired = list(&ca, 2, -8, -2).extension(FRESHEST, false, &points(&[&delta])).sign();
    web.put("/base", expired);
    world.handle.refresh(None).await.expect("a refresh");
    world.publish().await;
    world.publish().await;
    assert_eq!(world.judge(&device(&ca, 7, &[&base])), Some(Code::CertificateRevoked));
}

#[tokio::test]
async fn configured_addresses_and_modes_take_precedence() {
    let (ca, web) = (Ca::root("Root"), Web::start().await);
    let [by_directory, own] = ["/directory", "/own"].map(|path| web.url(path));
    web.put("/directory", ca.list().number(1).sign());
    web.put("/own", ca.list().number(1).sign());
    let from_own = device(&ca, 4, &[&own]);
    let mut world = World::start(anchors(&[&ca], Some(&by_directory)), None, ListPolicy::default());
    world.publish().await;
    assert_eq!(world.judge(&from_own), None);
    assert_eq!(world.recorded(), 0, "the directory's list is sufficient");

    // The list covers only some certificates: the certificate's own address is recorded as well.
    let scope = full_name(&["http://ca.example/elsewhere"]);
    web.put("/directory", ca.list().number(1).scope(&scope).sign());
    let mut world = World::start(anchors(&[&ca], Some(&by_directory)), None, ListPolicy::default());
    world.publish().await;
    assert_eq!(world.judge(&from_own), Some(Code::CrlMissing));
    world.publish().await;
    assert_eq!(world.judge(&from_own), None);

    // An address without a list does not prevent the recording of another one.
    let [bad, more] = ["/bad", "/more"].map(|path| web.url(path));
    web.put("/bad", b"<html>".to_vec());
    web.put("/more", ca.list().number(1).scope(&full_name(&[&more])).sign());
    web.put("/own", ca.list().number(1).scope(&full_name(&[&own])).sign());
    let mut world = World::start(anchors(&[&ca], Some(&by_directory)), None, ListPolicy::default());
    world.publish().await;
    assert_eq!(world.judge(&device(&ca, 4, &[&bad])), Some(Code::CrlMissing));
    world.publish().await;
    assert_eq!(world.judge(&device(&ca, 4, &[&bad])), Some(Code::CrlMissing));
    let in_more = device(&ca, 4, &[&more]);
    assert_eq!(world.judge(&in_more), Some(Code::CrlMissing));
    world.publish().await;
    assert_eq!(world.judge(&in_more), None);

    web.put("/own", ca.list().number(1).sign());
    let mode = |mode| ListPolicy {
        authorities: vec![AuthorityPolicy {
            selector: Selector { sha256: Some(ca.certificate.fingerprint), ..Selector::default() },
            mode: Some(mode),
            ..AuthorityPolicy::default()
        }],
        ..ListPolicy::default()
    };
    let world = World::start(anchors(&[&ca], None), None, mode(CrlMode::Off));
    assert_eq!(world.judge(&from_own), None);
    assert_eq!(world.recorded(), 0, "nothing is recorded in mode off");
    let mut world = World::start(anchors(&[&ca], None), None, mode(CrlMode::IfAvailable));
    assert_eq!(world.judge(&from_own), None, "if-available accepts a missing list");
    web.put("/own", ca.list().number(2).revoke(&[4], None).sign());
    world.publish().await;
    assert_eq!(world.judge(&from_own), Some(Code::CertificateRevoked));
}
