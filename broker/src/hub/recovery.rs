//! At start: everything the store holds comes back, and what was due meanwhile happens.

use std::sync::Arc;

use dunlin_protocol::{PacketId, SubscribeOptions};
use dunlin_sync::{Op, RecoveredSession, StoreError, WillRecord};

use super::Hub;
use super::attach::{expires_at, session_record};
use super::session::{Session, Subscription, Will};
use super::timers::Timer;
use crate::core::outbound::Outbound;

impl Hub {
    /// Takes over what the store holds. A session whose client was connected when the broker died
    /// lost its connection now: its expiry and its will's delay count from here.
    pub(super) fn recover(self: &Arc<Self>) -> Result<(), StoreError> {
        let recovered = self.store.recover()?;
        let now_ms = self.clock.now_ms();
        {
            let mut retained = self.retained.write();
            for message in recovered.retained {
                retained.set(message);
            }
        }
        let mut ops = Vec::new();
        for session in recovered.sessions {
            self.recover_session(session, now_ms, &mut ops);
        }
        for will in recovered.wills {
            self.recover_will(will, now_ms);
        }
        if !ops.is_empty() {
            self.submit(ops);
        }
        Ok(())
    }

    fn recover_session(
        self: &Arc<Self>,
        recovered: RecoveredSession,
        now_ms: u64,
        ops: &mut Vec<Op>,
    ) {
        let record = recovered.record;
        if record.expiry_interval == 0 {
            ops.push(Op::DeleteSession(record.id));
            return;
        }
        let outbound = Outbound::recovered(
            record.id,
            recovered.queue_head,
            recovered.queue_tail,
            recovered.queue_len,
            recovered.queue_bytes,
            u32::from(self.limits.max_inflight),
        );
        let number = self
            .next_session
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let session = Arc::new(Session::with_outbound(
            number,
            record.client_id.clone(),
            Some(record.id),
            outbound,
        ));
        let disconnected_at = record.disconnected_at.unwrap_or(now_ms);
        {
            let mut state = session.lock();
            state.epoch = record.epoch;
            state.expiry_interval = record.expiry_interval;
            for id in recovered.inbound_qos2.into_iter().filter_map(PacketId::new) {
                let _fresh = state.inbound.insert(id);
            }
            for subscription in &recovered.subscriptions {
                if let Ok(options) = SubscribeOptions::from_byte(subscription.options) {
                    let kept = Subscription {
                        options,
                        identifier: subscription.identifier,
                    };
                    state
                        .subscriptions
                        .insert(subscription.filter.clone(), kept);
                }
            }
            if record.disconnected_at.is_none() {
                ops.extend(session_record(&session, &state, Some(disconnected_at)));
            }
            state.expiry_timer = expires_at(disconnected_at, record.expiry_interval)
                .map(|end| self.timers.arm(end, Timer::SessionExpiry(session.clone())));
        }
        self.insert_session(&session);
        let subscriptions = session.lock().subscriptions.clone();
        for (filter, subscription) in subscriptions {
            self.directory.subscribe(&session, &filter, subscription);
        }
    }

    /// A will whose client was connected is due after its delay from now; of a session that was not
    /// stored, at once: it ended with its connection.
    fn recover_will(self: &Arc<Self>, record: WillRecord, now_ms: u64) {
        let will = Box::new(Will {
            delay: record.delay,
            expiry: record.expiry_interval,
            message: record.message,
        });
        let stored = record.session.and_then(|id| self.stored_session(id));
        let (session, due) = match stored {
            Some(session) => {
                let expiry_interval = session.lock().expiry_interval;
                let due = record
                    .due_at
                    .unwrap_or(now_ms + u64::from(record.delay.min(expiry_interval)) * 1000);
                (session, due)
            }
            None => {
                let number = self
                    .next_session
                    .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                (
                    Arc::new(Session::new(number, record.client_id, None)),
                    now_ms,
                )
            }
        };
        let mut state = session.lock();
        state.will = Some(will);
        state.will_timer = Some(self.timers.arm(due, Timer::Will(session.clone())));
    }
}
