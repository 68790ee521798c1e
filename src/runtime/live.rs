//! The live cell: updates publish to it, and requests read from it.
//!
//! One cell holds all state that changes while the process runs, so a reader never sees half a change.
//! A request loads it once and uses that value throughout.

use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;

use crate::runtime::hosts::ServedHosts;
use crate::token::keys::SigningKeys;
use crate::token::policy::TokenPolicy;
use crate::trust::snapshot::Snapshot;

/// The state in force.
#[derive(Clone)]
pub struct Active {
    /// Anchors, revocation sets and policy.
    pub trust: Arc<Snapshot>,
    /// The keys that sign tokens, and the keys published to verify them.
    pub keys: Arc<SigningKeys>,
    /// The issuer, and the clients with their terms.
    pub policy: Arc<TokenPolicy>,
    /// TLS configurations of the listeners.
    pub tls: Arc<ListenerTls>,
}

/// The TLS configurations of the listeners.  They outlive trust updates: a change of an anchor or a
/// revocation list does not discard session tickets.
pub struct ListenerTls {
    /// Token plane: requests a client certificate.
    pub token: Arc<ServerConfig>,
    /// Directory plane: requests a client certificate, which tokens may be bound to, and requires none.
    pub directory: Arc<ServerConfig>,
    /// Public plane: requests no client certificate.
    pub public: Arc<ServerConfig>,
    /// Hosts that requests may be for.
    pub hosts: Arc<ServedHosts>,
}

/// The reading half of the cell.
#[derive(Clone)]
pub struct Live {
    cell: Arc<ArcSwapOption<Active>>,
}

/// A reader that does not keep the cell alive, for values inside the cell, such as the verifier in a TLS
/// configuration.
#[derive(Clone)]
pub struct WeakLive {
    cell: Weak<ArcSwapOption<Active>>,
}

/// The writing half of the cell.  It is not `Clone`, because two writers could overwrite each other.
pub struct Writer {
    live: Live,
}

impl Live {
    /// Creates the cell with the state that `first` builds.  `first` may keep its reader, but reading
    /// from it returns `None` until this function returns.
    ///
    /// # Errors
    /// The error of `first`.
    pub fn start<E>(
        first: impl FnOnce(&WeakLive) -> Result<Active, E>,
    ) -> Result<(Self, Writer), E> {
        let cell = Arc::new(ArcSwapOption::empty());
        let active = first(&WeakLive { cell: Arc::downgrade(&cell) })?;
        cell.store(Some(Arc::new(active)));
        let live = Self { cell };
        Ok((live.clone(), Writer { live }))
    }

    /// The state in force.
    #[allow(clippy::expect_used, reason = "the message is a proof")]
    pub fn current(&self) -> Arc<Active> {
        self.cell
            .load_full()
            .expect("proof: `start` stores a value before it returns, and no code clears it")
    }

    /// Returns a reader that does not keep the cell alive.
    pub fn downgrade(&self) -> WeakLive {
        WeakLive { cell: Arc::downgrade(&self.cell) }
    }
}

impl WeakLive {
    /// The state in force; `None` during the start and after the cell was dropped.
    pub fn current(&self) -> Option<Arc<Active>> {
        self.cell.upgrade()?.load_full()
    }
}

impl Writer {
    /// The state in force.
    pub fn current(&self) -> Arc<Active> {
        self.live.current()
    }

    /// Puts `active` in force and returns the previous state.
    pub fn publish(&mut self, active: Active) -> Option<Arc<Active>> {
        self.live.cell.swap(Some(Arc::new(active)))
    }
}
