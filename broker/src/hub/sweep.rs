//! Housekeeping: due timers, `$SYS`, figures that are read off now and then.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Hub;
use super::detach::Ending;
use super::timers::{TICK, Timer};
use crate::core::mount;
use crate::hash::RandomState;

/// How often gauges are brought up to date.
const GAUGES: Duration = Duration::from_secs(1);

/// Starts the housekeeping; it ends with the hub.
pub(super) fn spawn(hub: &Arc<Hub>) {
    let weak = Arc::downgrade(hub);
    hub.runtime.spawn(run(weak));
}

async fn run(weak: Weak<Hub>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut gauges_due = Duration::ZERO;
    let mut sys_due = Duration::ZERO;
    loop {
        ticks.tick().await;
        let Some(hub) = weak.upgrade() else { return };
        hub.fire_timers();
        hub.end_expired(hub.clock.now_ms() / 1000);
        let uptime = hub.clock.uptime();
        if uptime >= gauges_due {
            gauges_due = uptime + GAUGES;
            hub.remove_expired_retained();
            hub.update_gauges();
            hub.write_owed();
        }
        let interval = Duration::from_secs(u64::from(hub.features.sys_interval));
        if !interval.is_zero() && uptime >= sys_due {
            sys_due = uptime + interval;
            hub.publish_sys();
        }
    }
}

impl Hub {
    pub(crate) fn fire_timers(self: &Arc<Self>) {
        for timer in self.timers.due(self.clock.now_ms()) {
            match timer {
                Timer::SessionExpiry(session) => {
                    let expired = {
                        let mut state = session.lock();
                        state.expiry_timer = None;
                        !state.is_connected()
                    };
                    if expired {
                        self.metrics.session_expired();
                        self.end_session(&session, Ending::Expired);
                    }
                }
                Timer::Will(session) => {
                    let will = {
                        let mut state = session.lock();
                        state.will_timer = None;
                        if state.is_connected() {
                            None
                        } else {
                            state.will.take()
                        }
                    };
                    if let Some(will) = will {
                        self.publish_will(&session, &will);
                    }
                }
            }
        }
    }

    fn update_gauges(&self) {
        let connected = self.connected_len();
        let stored = self.stored_len();
        let sessions = self.sessions_len();
        let (retained, retained_bytes) = {
            let retained = self.retained.read();
            (retained.len(), retained.bytes())
        };
        self.metrics.set_gauges(&crate::ops::metrics::Gauges {
            connections: connected,
            sessions,
            sessions_stored: stored,
            subscriptions: self.directory.len(),
            shared_groups: self.directory.groups_len(),
            retained,
            retained_bytes,
            store_pending_bytes: self.pending_bytes(),
            congested: self.congested.load(Ordering::Relaxed),
        });
        self.metrics.set_limits(&self.live.load());
        self.update_tenants();
    }

    fn update_tenants(&self) {
        if !self.tenants.are_there() {
            return;
        }
        let mut queued: HashMap<Box<str>, u64, RandomState> = HashMap::default();
        if self.tenants.count_queues() {
            for shard in &self.shards {
                let sessions: Vec<_> = shard.sessions.lock().values().cloned().collect();
                for session in sessions {
                    if let Some((tenant, _)) = mount::split(&session.client_id) {
                        let (_, bytes) = session.lock().delivering.outbound.queued();
                        *queued.entry(tenant.into()).or_default() += bytes;
                    }
                }
            }
        }
        let retained = self.retained.read();
        self.tenants.show(&queued, |name| retained.of_tenant(name));
    }

    /// What a tenant sees of the broker: its own figures, under the names that those of the whole broker have.
    fn publish_tenants(self: &Arc<Self>) {
        for tenant in self.tenants.all() {
            if tenant.connections() == 0 {
                continue;
            }
            let (retained, bytes) = self.retained.read().of_tenant(&tenant.mount.name);
            let [publishes, publish_bytes] = tenant.published_so_far();
            for (name, value) in [
                ("clients/connected", tenant.connections() as u64),
                ("clients/stored", tenant.sessions() as u64),
                ("retained messages/count", retained as u64),
                ("store/messages/bytes", bytes),
                ("publish/messages/received", publishes),
                ("publish/bytes/received", publish_bytes),
            ] {
                if let Ok(topic) = tenant.mount.topic(&format!("$SYS/broker/{name}")) {
                    self.publish_own(&topic, value.to_string().as_bytes());
                }
            }
        }
    }

    fn publish_sys(self: &Arc<Self>) {
        for (topic, value) in self.metrics.sys_topics(self.clock.uptime()) {
            self.publish_own(&topic, value.as_bytes());
        }
        self.publish_tenants();
    }
}
