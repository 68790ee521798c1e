//! A running CRL source and the updates that it sends.

use std::sync::Arc;

use anchorgate::crl::{Config, Handle, Metrics, Source, Status};
use anchorgate::runtime::clock::Clock;
use anchorgate::runtime::publisher::ConfigurationsInForce;
use anchorgate::trust::assembly::{ListState, Update};
use anchorgate::trust::configurations::{
    Authority, Configuration, ConfigurationId, Configurations, Device, Devices,
};
use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::crl::RevocationList;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::crl_maker::{Ca, NOW};

pub fn anchors(ca: &Ca, crl: Option<&str>, delta: Option<&str>) -> Arc<Configurations<Device>> {
    Arc::new(Configurations::from_iter([Configuration {
        id: ConfigurationId::from("1"),
        domain: Arc::default(),
        display_name: "fleet".to_owned(),
        kind: Device { subject_field: SubjectField::SanDns, devices: Devices::Any },
        authorities: vec![Authority {
            certificate: Arc::clone(&ca.certificate),
            is_root: true,
            crl_url: crl.map(Into::into),
            delta_crl_url: delta.map(Into::into),
        }],
    }]))
}

/// A running source and the updates that it sends.
pub struct Running {
    pub handle: Handle,
    pub in_force: watch::Sender<ConfigurationsInForce>,
    pub updates: mpsc::Receiver<Update>,
    pub stop: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn in_force(generation: u64, configurations: Arc<Configurations<Device>>) -> ConfigurationsInForce {
    ConfigurationsInForce {
        generation,
        devices_loaded: true,
        configurations: configurations.into(),
        lists: None,
    }
}

pub fn start(config: Config, set: Arc<Configurations<Device>>) -> Running {
    start_at(config, set, Arc::new(|| NOW))
}

pub fn start_at(config: Config, set: Arc<Configurations<Device>>, clock: Clock) -> Running {
    let (in_force, watched) = watch::channel(in_force(1, set));
    let (sender, updates) = mpsc::channel(100);
    let (source, handle) =
        Source::new(config, watched, sender, Metrics::default(), clock).expect("a source");
    let stop = CancellationToken::new();
    tokio::spawn(source.run(stop.clone()));
    Running { handle, in_force, updates, stop }
}

impl Running {
    /// Replaces the configurations in force.
    pub fn put_in_force(&self, set: Arc<Configurations<Device>>) {
        let generation = self.in_force.borrow().generation + 1;
        self.in_force.send_replace(in_force(generation, set));
    }

    /// The next state of an address that has one list.
    pub async fn next(&mut self) -> ListState {
        let mut lists = self.lists().await;
        assert_eq!(lists.len(), 1, "{lists:?}");
        lists.remove(0)
    }

    pub async fn lists(&mut self) -> Vec<ListState> {
        match self.updates.recv().await.expect("the source runs") {
            Update::Lists { lists, .. } => lists,
            other => panic!("the source sent another kind of update: {other:?}"),
        }
    }

    /// Waits until an address has no list.
    pub async fn gone(&mut self) {
        let lists = self.lists().await;
        assert!(lists.is_empty(), "{lists:?}");
    }

    pub async fn list(&mut self) -> Arc<RevocationList> {
        match self.next().await {
            ListState::InForce(list) => list,
            other => panic!("{other:?}"),
        }
    }

    pub async fn unusable(&mut self) -> String {
        match self.next().await {
            ListState::Unusable { why, .. } => why,
            other => panic!("{other:?}"),
        }
    }

    pub async fn refresh(&self) -> Status {
        let mut all = self.handle.refresh(None).await.expect("the source runs");
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    /// Refreshes and returns the error.
    pub async fn error(&self) -> String {
        self.refresh().await.last_error.expect("a failure").error
    }

    pub fn is_silent(&mut self) -> bool {
        self.updates.try_recv().is_err()
    }
}

pub fn number(status: &Status) -> Option<&str> {
    status.list.as_ref().and_then(|list| list.number.as_deref())
}
