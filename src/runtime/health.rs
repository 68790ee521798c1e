//! Readiness of the process.
//!
//! Each part holds a latch and drops it when the part is ready.  A part that forgets to do so leaves the
//! process not ready, which is the safe failure.  The start is complete with the first trust in force, and
//! stays complete.  A warning does not change readiness: it names a part that
//! works and needs attention.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The parts that the process waits for, and warnings.
#[derive(Clone, Default)]
pub struct Ready {
    waiting: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    warnings: Arc<Mutex<BTreeMap<&'static str, String>>>,
    reached: Arc<Notify>,
    is_started: Arc<AtomicBool>,
}

/// Delays readiness until it is dropped.
#[must_use = "readiness is granted by dropping this"]
pub(crate) struct Latch {
    ready: Ready,
    part: &'static str,
}

impl Ready {
    /// Delays readiness until the latch is dropped.
    pub(crate) fn latch(&self, part: &'static str) -> Latch {
        *self.lock().entry(part).or_default() += 1;
        Latch { ready: self.clone(), part }
    }

    /// The parts that are not ready.  Empty if the process is ready.
    pub fn missing(&self) -> Vec<&'static str> {
        self.lock().keys().copied().collect()
    }

    /// Waits until the process is ready.
    pub async fn reached(&self) {
        loop {
            let mut reached = pin!(self.reached.notified());
            reached.as_mut().enable();
            if self.lock().is_empty() {
                return;
            }
            reached.await;
        }
    }

    /// Notes that the start is complete: trust is in force for the first time, or nothing is waited for.
    pub fn start(&self) {
        self.is_started.store(true, Ordering::Relaxed);
    }

    /// Returns true from the first [`Ready::start`] on.
    pub(crate) fn is_started(&self) -> bool {
        self.is_started.load(Ordering::Relaxed)
    }

    /// Sets the warning of a part, or removes it.
    pub(crate) fn warn(&self, part: &'static str, warning: Option<String>) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        match warning {
            Some(warning) => drop(warnings.insert(part, warning)),
            None => drop(warnings.remove(part)),
        }
    }

    /// The warnings by part.
    pub fn warnings(&self) -> BTreeMap<&'static str, String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, usize>> {
        // Each statement leaves the map consistent, so a poisoned lock is usable.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        let mut waiting = self.ready.lock();
        if let Some(count) = waiting.get_mut(self.part) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(self.part);
            }
            if waiting.is_empty() {
                self.ready.reached.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_does_not_change_readiness() {
        let ready = Ready::default();
        ready.warn("server_certificate", Some("expired".to_owned()));
        assert!(ready.missing().is_empty());
        assert_eq!(ready.warnings()["server_certificate"], "expired");
        ready.warn("server_certificate", None);
        assert!(ready.warnings().is_empty());
    }

    #[tokio::test]
    async fn waits_until_every_latch_is_dropped() {
        let ready = Ready::default();
        ready.reached().await;
        let (a, b) = (ready.latch("trust"), ready.latch("listeners"));
        let waiting = tokio::spawn(async move { ready.reached().await });
        drop(a);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(b);
        waiting.await.expect("no panic");
    }

    #[test]
    fn is_ready_when_every_latch_is_dropped() {
        let ready = Ready::default();
        let (a, b, c) = (ready.latch("trust"), ready.latch("trust"), ready.latch("listeners"));
        assert_eq!(ready.missing(), ["listeners", "trust"]);
        drop(a);
        drop(c);
        assert_eq!(ready.missing(), ["trust"]);
        drop(b);
        assert!(ready.missing().is_empty());
    }
}
