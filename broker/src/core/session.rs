//! The delivery state of one session: what goes to its client, now or later.
//!
//! Pure: the time is handed in, bytes come out in [`Link::out`], changes of the store in
//! [`Delivering::ops`]. Whoever holds the session's lock may deliver; only the session's own
//! connection acknowledges, attaches and detaches.

use std::sync::Arc;

use dunlin_protocol::{PacketId, QoS, ReasonCode};
use dunlin_sync::{Appended, Delivery, Message, Op, QueueEntry};

use super::frames::{Frames, Mark};
use super::link::{Link, Outgoing, Payload};
use super::out_buffer::SHARE_FROM;
use super::outbound::{Acked, More, Outbound, QueueBounds, Shared, Tally};

/// How the subscriptions that match want a run delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The highest granted QoS of the matching subscriptions. [MQTT-3.3.4-2]
    pub(crate) qos: QoS,
    pub(crate) retain_as_published: bool,
    /// All identifiers of the matching subscriptions. [MQTT-3.3.4-3]
    pub(crate) subscription_ids: Box<[u32]>,
    /// The `$share/group/filter` that chose this session.
    pub(crate) share: Option<Arc<str>>,
}

impl Wanted {
    /// How a publish of `qos` and `retain` is delivered.
    pub(crate) fn delivery(&self, qos: QoS, retain: bool) -> Delivery {
        Delivery {
            qos: self.qos.min(qos),
            retain: retain && self.retain_as_published,
            subscription_ids: self.subscription_ids.clone(),
            share: self.share.clone(),
        }
    }
}

/// Delivery state of a session; see the module's head.
#[derive(Debug)]
pub(crate) struct Delivering {
    pub(crate) outbound: Outbound,
    pub(crate) link: Option<Link>,
    /// Changes that the session's connection is to write to the store.
    pub(crate) ops: Vec<Op>,
}

impl Delivering {
    pub(crate) fn new(outbound: Outbound) -> Self {
        Self {
            outbound,
            link: None,
            ops: Vec::new(),
        }
    }

    /// Delivers what of a run does not go through the stored queue: all of it to a session that is
    /// not stored, QoS 0 to a stored one.
    pub(crate) fn deliver_run(
        &mut self,
        frames: &Frames<'_, '_>,
        wanted: &Wanted,
        bounds: &QueueBounds,
        tally: &mut Tally,
    ) {
        let Some(link) = &mut self.link else { return };
        let shared = wanted.share.is_some() && wanted.qos > QoS::AtMostOnce;
        let topics = frames.run().iter().map(|publish| publish.topic.as_str());
        if !wanted.subscription_ids.is_empty() || !link.takes_common_form(topics) || shared {
            return self.deliver_singly(frames, wanted, bounds, tally);
        }
        let variant = match link.mount() {
            None => frames.variant(link.v5, wanted.qos, wanted.retain_as_published),
            Some(mount) => {
                let mut run = frames.run().iter();
                if !run.all(|publish| mount.owns(publish.topic.as_str())) {
                    return self.deliver_singly(frames, wanted, bounds, tally);
                }
                frames.mounted(link.v5, wanted.qos, wanted.retain_as_published)
            }
        };
        if variant.longest > link.max_packet || variant.longest as usize >= SHARE_FROM {
            return self.deliver_singly(frames, wanted, bounds, tally);
        }
        if variant.all_qos0 && link.fits(variant.bytes.len()) {
            link.out.extend(&variant.bytes);
            let messages = variant.marks.len() as u64;
            tally.sent(QoS::AtMostOnce, messages, variant.bytes.len());
            return;
        }
        for (index, mark) in variant.marks.iter().enumerate() {
            let Some(bytes) = variant.bytes.get(mark.start as usize..mark.end as usize) else {
                continue;
            };
            if mark.packet_id_at == 0 {
                send_qos0(link, bytes, tally);
            } else if !self.outbound.is_stored() {
                let publish = &frames.run()[index];
                if self.outbound.is_clear() && link.has_room(bytes.len()) {
                    let qos = wanted.qos.min(publish.qos);
                    let id = self.outbound.take_place(qos, None);
                    send_patched(link, bytes, *mark, id);
                    tally.sent(qos, 1, bytes.len());
                } else {
                    let delivery = wanted.delivery(publish.qos, publish.retain);
                    self.outbound
                        .wait(frames.message(index), delivery, None, bounds, tally);
                }
            }
        }
    }

    fn deliver_singly(
        &mut self,
        frames: &Frames<'_, '_>,
        wanted: &Wanted,
        bounds: &QueueBounds,
        tally: &mut Tally,
    ) {
        let Some(link) = &mut self.link else { return };
        for (index, publish) in frames.run().iter().enumerate() {
            let qos = publish.qos.min(wanted.qos);
            if qos > QoS::AtMostOnce && self.outbound.is_stored() {
                continue;
            }
            if !link.is_for(publish.topic.as_str()) {
                tally.withheld += 1;
                continue;
            }
            let large = publish.payload.len() >= SHARE_FROM;
            let message = (large
                || qos > QoS::AtMostOnce && (wanted.share.is_some() || !self.outbound.is_clear()))
            .then(|| frames.message(index));
            let ready = link.has_room(publish.payload.len())
                && (qos == QoS::AtMostOnce || self.outbound.is_clear());
            if !ready {
                match message {
                    Some(message) if qos > QoS::AtMostOnce => {
                        self.outbound.wait(
                            message,
                            wanted.delivery(publish.qos, publish.retain),
                            publish.held.clone(),
                            bounds,
                            tally,
                        );
                    }
                    None if qos > QoS::AtMostOnce => {
                        let delivery = wanted.delivery(publish.qos, publish.retain);
                        let held = publish.held.clone();
                        self.outbound
                            .wait(frames.message(index), delivery, held, bounds, tally);
                    }
                    _ => tally.dropped_outbox += 1,
                }
                continue;
            }
            let before = link.out.len();
            let delivery = wanted.delivery(publish.qos, publish.retain);
            let mut outgoing = Outgoing {
                topic: publish.topic.as_str(),
                properties: publish.properties.as_bytes(),
                expiry: publish.expiry,
                payload: match &message {
                    Some(message) if large => Payload::Shared(message),
                    _ => Payload::Borrowed(publish.payload),
                },
                qos,
                retain: delivery.retain,
                dup: false,
                packet_id: None,
                subscription_ids: &wanted.subscription_ids,
            };
            let longest = publish.payload.len()
                + publish.topic.as_str().len()
                + publish.properties.as_bytes().len()
                + 64
                + 5 * wanted.subscription_ids.len();
            // The place in the window is taken only for a packet that is certain to be written.
            if qos > QoS::AtMostOnce && longest > link.max_packet as usize {
                let message = message.unwrap_or_else(|| frames.message(index));
                let held = publish.held.clone();
                self.outbound.wait(message, delivery, held, bounds, tally);
                continue;
            }
            if qos > QoS::AtMostOnce {
                let more = match (&message, &wanted.share) {
                    (Some(message), Some(_)) => Some(More::Shared(Shared {
                        message: message.clone(),
                        delivery: delivery.clone(),
                        held: publish.held.clone(),
                    })),
                    _ => {
                        let publisher = frames.origin().publisher.as_deref();
                        link.config_version(&outgoing, publisher).map(More::Config)
                    }
                };
                outgoing.packet_id = Some(self.outbound.take_place(qos, more.map(Box::new)));
            }
            match link.publish(&outgoing) {
                Ok(()) => {
                    tally.sent(qos, 1, link.out.len() - before);
                }
                Err(_) => tally.too_large += 1,
            }
        }
    }

    /// Delivers one kept message to a session that is not stored, or at QoS 0. `false`: the link
    /// has no room for a QoS 0 message now.
    pub(crate) fn deliver_message(
        &mut self,
        message: &Arc<Message>,
        delivery: Delivery,
        now_ms: u64,
        bounds: &QueueBounds,
        tally: &mut Tally,
    ) -> bool {
        let Some(link) = &mut self.link else {
            return false;
        };
        if delivery.qos > QoS::AtMostOnce {
            self.outbound
                .wait(message.clone(), delivery, None, bounds, tally);
            self.outbound.pump(link, now_ms, &mut self.ops, tally);
            return true;
        }
        if !link.has_room(message.payload().len()) {
            return false;
        }
        let before = link.out.len();
        match link.publish_message(message, &delivery, None, false, now_ms) {
            Ok(()) => {
                tally.sent(QoS::AtMostOnce, 1, link.out.len() - before);
            }
            Err(_) => tally.too_large += 1,
        }
        true
    }

    /// A message of this stored session is durable.
    pub(crate) fn appended(
        &mut self,
        appended: Appended,
        now_ms: u64,
        bounds: &QueueBounds,
        tally: &mut Tally,
    ) {
        self.outbound.appended(
            appended.seq,
            appended.message,
            appended.delivery,
            self.link.is_some(),
            bounds,
        );
        self.pump(now_ms, tally);
    }

    /// Takes what was read from the stored queue; see [`Outbound::refill`].
    pub(crate) fn refill(
        &mut self,
        entries: Vec<QueueEntry>,
        tail: u64,
        exhausted: bool,
        now_ms: u64,
        tally: &mut Tally,
    ) {
        self.outbound.refill(entries, tail, exhausted);
        self.pump(now_ms, tally);
    }

    /// Sends what there is room for.
    pub(crate) fn pump(&mut self, now_ms: u64, tally: &mut Tally) {
        if let Some(link) = &mut self.link {
            self.outbound.pump(link, now_ms, &mut self.ops, tally);
        }
    }

    pub(crate) fn puback(&mut self, id: PacketId) -> Acked {
        self.outbound.puback(id, &mut self.ops)
    }

    pub(crate) fn pubrec(&mut self, id: PacketId, reason: ReasonCode) -> Acked {
        self.outbound.pubrec(id, reason, &mut self.ops)
    }

    pub(crate) fn pubcomp(&mut self, id: PacketId) -> Acked {
        self.outbound.pubcomp(id, &mut self.ops)
    }
}

fn send_qos0(link: &mut Link, bytes: &[u8], tally: &mut Tally) {
    if link.has_room(bytes.len()) {
        link.out.extend(bytes);
        tally.sent(QoS::AtMostOnce, 1, bytes.len());
    } else {
        tally.dropped_outbox += 1;
    }
}

fn send_patched(link: &mut Link, bytes: &[u8], mark: Mark, id: PacketId) {
    let tail = link.out.tail();
    let at = tail.len() + mark.packet_id_at as usize;
    tail.extend_from_slice(bytes);
    if let Some(place) = tail.get_mut(at..at + 2) {
        place.copy_from_slice(&id.get().to_be_bytes());
    }
    link.out.appended(bytes.len());
}
