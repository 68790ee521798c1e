//! The path of updates: the publisher and its sources.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::app::base::Base;
use crate::config::Config;
use crate::crl;
use crate::graph::Collection;
use crate::runtime::live::Writer;
use crate::runtime::publisher::{ConfigurationsInForce, GatewayChange, Publisher, Rules};
use crate::runtime::server_clocks::Kind;
use crate::trust::assembly::{Assembly, Update};

/// The inboxes of the publisher, and what it reports.
pub(super) struct Updates {
    pub(super) trust: mpsc::Sender<Update>,
    pub(super) gateway: mpsc::Sender<GatewayChange>,
    pub(super) in_force: watch::Receiver<ConfigurationsInForce>,
    pub(super) lists: crl::Handle,
}

impl Updates {
    /// Starts the publisher, which is the one writer, and the source of revocation lists.
    ///
    /// # Errors
    /// The settings of the source are not usable.
    pub(super) fn start(
        config: &Config,
        writer: Writer,
        base: &mut Base,
    ) -> Result<Self, crl::Error> {
        let (trust, updates) = mpsc::channel(256);
        let (gateway, own) = mpsc::channel(16);
        let (published, in_force) = watch::channel(ConfigurationsInForce::default());
        let rules = rules(config);
        let publisher = Publisher {
            assembly: Assembly::new(rules.lists).with_domain_order(rules.domains),
            writer,
            updates,
            own,
            in_force: published,
            lists: None,
            times: base.times.clone(),
        };
        base.tasks.spawn_until_stop(publisher.run());
        let metrics = crl::Metrics::default().with_trust_times(base.times.clone());
        metrics.register(&mut base.registry);
        let mut crl = config.crl.clone();
        crl.unsaved = base.unsaved.clone();
        crl.transport.network =
            crl.transport.network.with_clocks(Kind::CrlServer, base.server_clocks.clone());
        let (source, lists) = crl::Source::new(
            crl,
            in_force.clone(),
            trust.clone(),
            metrics,
            Arc::clone(&base.clock),
        )?;
        base.tasks.spawn(source.run(base.tasks.stopping()));
        Ok(Self { trust, gateway, in_force, lists })
    }
}

/// The rules of `config` for the publisher.
pub(super) fn rules(config: &Config) -> Rules {
    let of = |collection: Collection| {
        let sources = config.graph.iter().filter(move |source| source.collection == collection);
        sources.map(|source| Arc::clone(&source.source)).collect()
    };
    Rules {
        policy: Arc::clone(&config.policy),
        trust: Arc::new(config.trust.clone()),
        lists: config.lists.clone(),
        domains: of(Collection::MutualTlsOauth),
        application_domains: of(Collection::CertificateBasedApplication),
    }
}
