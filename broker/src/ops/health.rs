//! Whether the broker lives, and whether it should be given work.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// The state that `/health/ready` shows. Shared; the core updates it.
#[derive(Debug, Default)]
pub struct Health {
    started: AtomicBool,
    draining: AtomicBool,
    store: Mutex<Option<String>>,
    cluster: Mutex<Option<String>>,
}

impl Health {
    /// The listeners are open and the sessions recovered.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// The broker is stopping: no new work.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// The store cannot write, and why. True when this is the first time, false when it was known.
    pub fn set_store_failed(&self, why: &str) -> bool {
        self.store.lock().replace(why.to_owned()).is_none()
    }

    /// Why this replica cannot keep its promises now; `None`: it can.
    pub fn set_cluster_suspended(&self, why: Option<&str>) {
        *self.cluster.lock() = why.map(str::to_owned);
    }

    /// The store can write again.
    pub fn set_store_well(&self) {
        *self.store.lock() = None;
    }

    /// Why the broker should not be given work; empty when it should.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.started.load(Ordering::Acquire) {
            reasons.push("starting".to_owned());
        }
        if self.draining.load(Ordering::Acquire) {
            reasons.push("draining".to_owned());
        }
        if let Some(fault) = &*self.store.lock() {
            reasons.push(format!("store: {fault}"));
        }
        if let Some(fault) = &*self.cluster.lock() {
            reasons.push(format!("cluster: {fault}"));
        }
        reasons
    }
}
