//! Whether the broker has started, lives, and should be given work.
//!
//! Three questions, because three things follow from the answers. *Started*: the other two are not asked before.
//! *Ready*: a balancer sends new clients here or elsewhere; the clients that are connected stay. *Live*: the process is
//! ended and started anew, which only helps against a defect of its own. So a Redis that is away makes a replica
//! unready and never dead.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::pulse::Pulses;

/// Looks at the threads' loops ([`super::pulse::BEAT`] apart) after which one that stands still keeps clients away.
const UNREADY_AFTER: u32 = 5;
/// The same after which it is not expected to move again.
const DEAD_AFTER: u32 = 30;

/// The state that the endpoints under `/health/` show. Shared; the core updates it.
#[derive(Debug, Default)]
pub struct Health {
    started: AtomicBool,
    draining: AtomicBool,
    store: Mutex<Option<String>>,
    cluster: Mutex<Option<String>>,
    overload: Mutex<Option<String>>,
    memory: Mutex<Option<String>>,
    pulses: Pulses,
}

impl Health {
    /// The listeners are open and the sessions recovered; in a cluster, its tables are loaded.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// The broker is stopping: no new work.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the broker is stopping.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
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

    /// Which bound is reached, so that new clients would be refused; `None`: there is room.
    pub fn set_overloaded(&self, why: Option<String>) {
        *self.overload.lock() = why;
    }

    /// How much memory is in use, when that is so much that new clients are refused; `None`: there is room.
    pub fn set_memory_short(&self, why: Option<String>) {
        *self.memory.lock() = why;
    }

    /// The loops whose moving is a condition of being ready and live.
    #[must_use]
    pub fn pulses(&self) -> &Pulses {
        &self.pulses
    }

    /// Whether the start is over.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Why the broker should not be given work; empty when it should.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.has_started() {
            reasons.push("starting".to_owned());
        }
        if self.draining.load(Ordering::Acquire) {
            reasons.push("draining".to_owned());
        }
        for (what, fault) in [
            ("store", &self.store),
            ("cluster", &self.cluster),
            ("overload", &self.overload),
            ("memory", &self.memory),
        ] {
            if let Some(fault) = &*fault.lock() {
                reasons.push(format!("{what}: {fault}"));
            }
        }
        reasons.extend(self.stalled(UNREADY_AFTER));
        reasons
    }

    /// Why the broker should be ended and started anew; empty when it should not.
    #[must_use]
    pub fn fatal_reasons(&self) -> Vec<String> {
        self.stalled(DEAD_AFTER)
    }

    fn stalled(&self, looks: u32) -> Vec<String> {
        let stalled = self.pulses.stalled(looks).into_iter();
        stalled.map(|words| format!("stalled: {words}")).collect()
    }
}
