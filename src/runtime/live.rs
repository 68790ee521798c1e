//! Where the two flows meet: requests read here what updates publish here.
//!
//! One cell holds everything that can change while the process runs, so that no reader ever sees half
//! a change.  A request loads it once and uses that one value throughout.

use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;

use crate::token::keys::SigningKeys;
use crate::trust::snapshot::Snapshot;

/// What is in force.
#[derive(Clone)]
pub struct Active {
    /// Anchors, revocation sets and policy.
    pub trust: Arc<Snapshot>,
    /// What signs tokens, and what is published to verify them.
    pub keys: Arc<SigningKeys>,
    /// The edge's TLS configurations.
    pub tls: Arc<EdgeTls>,
}

/// The TLS configurations of the listeners.  They outlive trust updates: an anchor or a revocation
/// list that changes does not throw away session tickets.
pub struct EdgeTls {
    /// For the token plane: a client certificate is asked for.
    pub token: Arc<ServerConfig>,
    /// For the directory plane: one is asked for, for tokens that are bound to it, and none demanded.
    pub directory: Arc<ServerConfig>,
    /// For the public plane: none is asked for.
    pub public: Arc<ServerConfig>,
}

/// The readers' half of the cell.
#[derive(Clone)]
pub struct Live {
    cell: Arc<ArcSwapOption<Active>>,
}

/// A reader that does not keep the cell alive: for what the cell itself holds, such as the verifier
/// inside a TLS configuration.
#[derive(Clone)]
pub struct WeakLive {
    cell: Weak<ArcSwapOption<Active>>,
}

/// The one writer's half.  Not `Clone`: read, change and publish from two places could lose a change.
pub struct Writer {
    live: Live,
}

impl Live {
    /// Makes the cell.  `first` builds what is in force at the start; it may keep the reader it is
    /// given but not read from it.
    ///
    /// # Errors
    /// Those of `first`.
    pub fn start<E>(
        first: impl FnOnce(&WeakLive) -> Result<Active, E>,
    ) -> Result<(Self, Writer), E> {
        let cell = Arc::new(ArcSwapOption::empty());
        let active = first(&WeakLive { cell: Arc::downgrade(&cell) })?;
        cell.store(Some(Arc::new(active)));
        let live = Self { cell };
        Ok((live.clone(), Writer { live }))
    }

    /// What is in force now.
    #[allow(clippy::expect_used, reason = "the message is a proof")]
    pub fn current(&self) -> Arc<Active> {
        self.cell.load_full().expect("proof: `start` stores before it returns, and nothing empties")
    }

    /// A reader that does not keep the cell alive.
    pub fn downgrade(&self) -> WeakLive {
        WeakLive { cell: Arc::downgrade(&self.cell) }
    }
}

impl WeakLive {
    /// What is in force now; `None` before the start and after the end.
    pub fn current(&self) -> Option<Arc<Active>> {
        self.cell.upgrade()?.load_full()
    }
}

impl Writer {
    /// What is in force now.
    pub fn current(&self) -> Arc<Active> {
        self.live.current()
    }

    /// Puts `active` in force and returns what it replaces.
    pub fn publish(&mut self, active: Active) -> Option<Arc<Active>> {
        self.live.cell.swap(Some(Arc::new(active)))
    }
}
