//! Publishes that come while this replica is cut off.
//!
//! Others do not wait for a replica without a lease: it may have missed subscriptions that were acknowledged since.
//! QoS 1 and 2 publishes that are read meanwhile are kept as they came, and matched when its tables are whole again.
//! The session of such a publisher ends with its connection: one that outlives it is sent away.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Duration;

use dunlin_protocol::{Packet, PacketId, Publish, QoS, Sender, decode};

use super::close::Closing;
use super::packets::Batch;
use super::run::Connection;
use crate::core::frames::Topic;
use crate::hub::Hub;

/// How long nothing is read when the lease has ended and it is not said yet what becomes of it.
const UNDECIDED_PAUSE: Duration = Duration::from_millis(20);

/// What is held for one connection, oldest first. Its bytes count as pending ones of the hub.
pub(super) struct Held {
    hub: Arc<Hub>,
    publishes: VecDeque<HeldPublish>,
    bytes: usize,
}

struct HeldPublish {
    packet: Box<[u8]>,
    /// What its topic alias stood for.
    alias: Option<Arc<str>>,
    received_at: u64,
}

impl Held {
    fn push(&mut self, publish: HeldPublish) {
        const BASE: usize = 64;
        let bytes = BASE + publish.packet.len();
        self.bytes += bytes;
        self.hub.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.publishes.push_back(publish);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.hub.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Connection {
    /// Publishes that are held.
    pub(super) fn held_len(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.publishes.len())
    }

    /// Whether a QoS 1 or 2 publish of this batch is to be held. It is enough to look once: whoever subscribes after
    /// that does so after the bytes were read.
    pub(super) fn must_hold(&self, batch: &mut Batch<'_>) -> bool {
        self.held.is_some() || *batch.cut_off.get_or_insert_with(|| self.hub.is_cut_off())
    }

    pub(super) fn hold(
        &mut self,
        packet: &[u8],
        (qos, id): (QoS, PacketId),
        topic: Topic<'_>,
        batch: &mut Batch<'_>,
    ) -> Result<(), Closing> {
        self.check_receive_maximum(qos, id, batch)?;
        self.waiting = true;
        let held = self.held.get_or_insert_with(|| {
            Box::new(Held {
                hub: self.hub.clone(),
                publishes: VecDeque::new(),
                bytes: 0,
            })
        });
        held.push(HeldPublish {
            packet: packet.into(),
            alias: match topic {
                Topic::Alias(topic) => Some(topic),
                // It is mounted when it is taken.
                Topic::Borrowed(_) => None,
            },
            received_at: batch.origin.received_at,
        });
        Ok(())
    }

    /// Publishes what is held, if that is possible now.
    pub(super) fn release_held(&mut self) -> Result<(), Closing> {
        if self.held.is_none() || self.hub.is_cut_off() {
            return Ok(());
        }
        let Some(held) = self.held.take() else {
            return Ok(());
        };
        let mut batch = self.batch();
        for publish in &held.publishes {
            if batch.origin.received_at != publish.received_at {
                self.end_run(&mut batch);
                batch.origin.received_at = publish.received_at;
            }
            self.publish_held(publish, &mut batch)?;
            self.end_batch_if_full(&mut batch);
        }
        self.end_batch(&mut batch);
        Ok(())
    }

    fn publish_held<'a>(
        &mut self,
        held: &'a HeldPublish,
        batch: &mut Batch<'a>,
    ) -> Result<(), Closing> {
        let Packet::Publish(publish) = decode(&held.packet, self.version, Sender::Client)? else {
            return Ok(());
        };
        let topic = match &held.alias {
            Some(topic) => Topic::Alias(topic.clone()),
            None => Topic::Borrowed(publish.topic),
        };
        self.take_publish(publish, topic, batch)
    }

    /// Before the task sleeps: whoever ends the wait wakes it, unless it has ended already.
    pub(super) fn expect_release(&mut self, cx: &Context<'_>) {
        if self.held.is_none() {
            return;
        }
        if !self.hub.is_cut_off() {
            cx.waker().wake_by_ref();
        } else if !self.hub.known.is_suspended() && !self.is_paused() {
            self.pause_reading(UNDECIDED_PAUSE);
            cx.waker().wake_by_ref();
        }
    }
}

/// Whether a publish waits for an acknowledgement, and under which packet id.
pub(super) fn acknowledged(publish: &Publish<'_>) -> Option<(QoS, PacketId)> {
    (publish.qos > QoS::AtMostOnce)
        .then_some(publish.qos)
        .zip(publish.packet_id)
}
