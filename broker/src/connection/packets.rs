//! What each packet of a connected client means.

mod acknowledging;
mod publishing;
mod subscribing;

use std::rc::Rc;
use std::sync::Arc;

use dunlin_protocol::{
    Disconnect, FrameHeader, Packet, PacketId, PacketType, ReasonCode, Sender, decode,
    decode_publish, peek_frame,
};
use tokio::time::Instant;

use super::acks::{AckKind, Answer};
use super::close::Closing;
use super::run::Connection;
use super::traces::Traced;
use crate::auth::{Action, Decision, Who};
use crate::core::frames::{Incoming, Origin};
use crate::core::mount;
use crate::hub::directory::Routes;
use crate::hub::publish::Outcome;
use crate::hub::session::Subscription;

/// Operations after which a batch is handed to the store although more packets are at hand.
const OPS_MAX: usize = 4096;

/// Publishes in a row with the same receivers.
struct Run<'a> {
    publishes: Vec<Incoming<'a>>,
    acks: Vec<(AckKind, PacketId)>,
    /// Number and weight of the retained messages among them, of an MQTT 5 client.
    kept: (usize, u64),
    routes: Option<Rc<Routes>>,
    /// What the last of them was allowed to do, on the batch's `topic`; meaningful while there are `routes`.
    allowed: Option<Action>,
}

/// What the packets of one read come to.
pub(super) struct Batch<'a> {
    run: Run<'a>,
    outcome: Outcome,
    answers: Vec<Answer>,
    /// The answers wait until the operations are durable.
    durable: bool,
    /// PUBACKs in `run` and `answers`.
    pubacks: usize,
    /// The topic of the last publish that was taken, if it was spelt out: the next one often has the same.
    topic: &'a str,
    /// The same of a tenant's client: as it is inside.
    inside: Option<Arc<str>>,
    /// Packets that are expected from here on, by the size of the last one.
    expected: usize,
    pub(super) origin: Origin,
    now_ms: u64,
    packets: u64,
    /// By QoS.
    publishes: [u64; 3],
    publish_bytes: u64,
    /// Publishes that are traced.
    pub(super) traced: Vec<Traced>,
    /// New subscriptions that get retained messages.
    retained: Vec<(Box<str>, Subscription)>,
    /// The client is a tenant's.
    of_tenant: bool,
    /// Whether this replica was cut off, once looked at.
    pub(super) cut_off: Option<bool>,
}

impl Batch<'_> {
    /// Whether `topic` is the very slice that the last publish had: then it has been checked.
    fn knows<const OF_TENANT: bool>(&self, topic: &str) -> bool {
        let inside = || self.inside.as_deref();
        match OF_TENANT {
            false => std::ptr::eq(self.topic, topic),
            true => inside().is_some_and(|last| std::ptr::eq(last, topic)),
        }
    }
}

impl Connection {
    /// Handles all whole packets in `bytes`; gives back how many bytes they had.
    pub(super) fn process(&mut self, bytes: &[u8]) -> Result<usize, Closing> {
        let mut batch = self.batch();
        let mut consumed = 0;
        let mut result = Ok(());
        while result.is_ok() {
            let rest = bytes.get(consumed..).unwrap_or_default();
            match peek_frame(rest, self.hub.limits.max_packet_size) {
                Ok(Some(header)) if header.total_len <= rest.len() => {
                    let frame = rest.get(..header.total_len).unwrap_or_default();
                    consumed += header.total_len;
                    if batch.run.publishes.capacity() == 0 {
                        batch.expected = rest.len() / header.total_len.max(1);
                    }
                    result = self.packet(header, frame, &mut batch);
                }
                Ok(_) => break,
                Err(error) => result = Err(error.into()),
            }
            self.end_batch_if_full(&mut batch);
        }
        // What came before a violation has its effect.
        self.end_batch(&mut batch);
        self.hub.metrics.received(
            batch.packets,
            consumed as u64,
            batch.publishes,
            batch.publish_bytes,
        );
        if let Some(throttle) = &mut self.throttle
            && let Some(pause) = throttle.take(
                batch.publishes.iter().sum(),
                batch.publish_bytes,
                Instant::now(),
            )
        {
            self.hub.metrics.publishers_slowed.inc();
            if throttle.disconnects() && self.version.is_v5() {
                result = result.and(Err(violation(
                    ReasonCode::MESSAGE_RATE_TOO_HIGH,
                    "more was published within a second than may be",
                )));
            }
            self.pause_reading(pause);
        }
        if batch.of_tenant
            && let Some(tenant) = self.wake.about.tenant()
        {
            let messages: u64 = batch.publishes.iter().sum();
            if messages > 0
                && let Some(pause) = tenant.published(messages, batch.publish_bytes, Instant::now())
            {
                self.pause_reading(pause);
            }
        }
        result.map(|()| consumed)
    }

    pub(super) fn batch<'a>(&self) -> Batch<'a> {
        let now_us = self.hub.clock.now_us();
        Batch {
            run: Run {
                publishes: Vec::new(),
                acks: Vec::new(),
                kept: (0, 0),
                routes: None,
                allowed: None,
            },
            pubacks: 0,
            topic: "",
            inside: None,
            expected: 1,
            outcome: Outcome {
                has_place: self.version.is_v5(),
                ..Outcome::default()
            },
            answers: Vec::new(),
            durable: false,
            origin: Origin {
                received_at: now_us,
                publisher: Some(self.publisher().clone()),
            },
            now_ms: now_us / 1000,
            packets: 0,
            publishes: [0; 3],
            publish_bytes: 0,
            traced: Vec::new(),
            retained: Vec::new(),
            of_tenant: self.wake.about.tenant().is_some(),
            cut_off: None,
        }
    }

    // On the path of every packet, and called from one place.
    #[inline(always)]
    fn packet<'a>(
        &mut self,
        header: FrameHeader,
        frame: &'a [u8],
        batch: &mut Batch<'a>,
    ) -> Result<(), Closing> {
        batch.packets += 1;
        if header.first_byte >> 4 == PacketType::Publish as u8 {
            let publish = decode_publish(header, frame, self.version, Sender::Client, batch.topic)?;
            return self.publish(header, frame, publish, batch);
        }
        let packet = decode(frame, self.version, Sender::Client)?;
        self.end_run(batch);
        match packet {
            Packet::PubAck(ack) => self.puback(ack, batch),
            Packet::PubRec(ack) => self.pubrec(ack, batch),
            Packet::PubRel(ack) => self.pubrel(ack, batch),
            Packet::PubComp(ack) => self.pubcomp(ack, batch),
            Packet::Subscribe(subscribe) => self.subscribe(&subscribe, batch),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe, batch),
            Packet::PingReq => {
                self.local.extend(&[0xD0, 0]);
                Ok(())
            }
            Packet::Disconnect(disconnect) => Err(self.disconnect(&disconnect)),
            // [MQTT-3.1.0-2]
            Packet::Connect(_) => Err(violation(ReasonCode::PROTOCOL_ERROR, "a second CONNECT")),
            Packet::Auth(auth) => self.auth(&auth),
            _ => Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                "a packet that only a server sends",
            )),
        }
    }

    /// Whether the client may do something with a topic name or filter.
    fn may(&self, action: Action, topic: &str) -> Decision {
        if self.hub.auth.allows_all() && self.wake.about.is_plain() && !topic.starts_with('$') {
            let (Action::Subscribe { qos } | Action::Publish { qos, .. }) = action;
            return Decision::Granted(qos);
        }
        let who = Who {
            principal: &self.wake.about.principal(),
            client_id: mount::own(&self.session.client_id),
        };
        self.hub.auth.decide(who, action, topic)
    }

    /// Delivers the publishes collected so far.
    pub(super) fn end_run(&mut self, batch: &mut Batch<'_>) {
        let Some(routes) = batch.run.routes.take() else {
            return;
        };
        let before = batch.outcome.ops.len();
        let wanted = self.hub.publish_run(
            self.session.number,
            &batch.run.publishes,
            &batch.origin,
            &routes,
            &mut batch.outcome,
        );
        if !batch.traced.is_empty() {
            self.trace_routed(&mut batch.traced, &routes);
        }
        if let Some(identity) = &self.identity
            && let Some((key, topic)) = &identity.reports
        {
            let reports = batch.run.publishes.iter();
            for report in reports.filter(|publish| publish.topic.as_str() == topic) {
                let at_ms = batch.origin.received_at / 1000;
                self.hub.devices.report(key, at_ms, report.payload);
            }
        }
        batch.durable |= batch.outcome.ops.len() > before || !self.may_acknowledge();
        let reason = match wanted {
            true => ReasonCode::SUCCESS,
            false => ReasonCode::NO_MATCHING_SUBSCRIBERS,
        };
        let answers = batch
            .run
            .acks
            .drain(..)
            .map(|(kind, id)| Answer::Ack(kind, id, reason));
        batch.answers.extend(answers);
        batch.run.publishes.clear();
        batch.run.kept = (0, 0);
    }

    pub(super) fn end_batch_if_full(&mut self, batch: &mut Batch<'_>) {
        if batch.outcome.ops.len() >= OPS_MAX {
            self.end_batch(batch);
        }
    }

    /// Hands the operations to the store and lines the answers up behind them.
    pub(super) fn end_batch(&mut self, batch: &mut Batch<'_>) {
        self.end_run(batch);
        self.hub.count(std::mem::take(&mut batch.outcome.tally));
        self.publishing = batch.publishes != [0; 3];
        if let Some(behind) = batch.outcome.behind.take() {
            self.behind = Some(behind);
        }
        let ops = std::mem::take(&mut batch.outcome.ops);
        let barrier = std::mem::take(&mut batch.outcome.barrier);
        self.waiting |= batch.durable && self.publishing;
        self.submit(ops, batch.durable, barrier);
        if !batch.traced.is_empty() {
            self.trace_submitted(std::mem::take(&mut batch.traced), batch.durable);
        }
        for (filter, subscription) in batch.retained.drain(..) {
            self.retained_due
                .get_or_insert_default()
                .push((self.submitted, filter, subscription));
        }
        batch.durable = false;
        for answer in batch.answers.drain(..) {
            self.acks.push(self.submitted, answer);
        }
        batch.pubacks = 0;
    }

    fn answer(&mut self, packet: &Packet<'_>, batch: &mut Batch<'_>) -> Result<(), Closing> {
        let bytes = self.encode(packet)?;
        batch
            .answers
            .push(Answer::Encoded(bytes.into_boxed_slice()));
        Ok(())
    }

    fn encode(&self, packet: &Packet<'_>) -> Result<Vec<u8>, Closing> {
        let mut bytes = Vec::new();
        packet.encode(self.version, &mut bytes).map_err(|error| {
            violation(ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR, error.to_string())
        })?;
        Ok(bytes)
    }

    fn disconnect(&mut self, disconnect: &Disconnect<'_>) -> Closing {
        let asked = disconnect.properties.session_expiry_interval();
        if asked.is_some_and(|seconds| seconds > 0) && self.expiry_interval == 0 {
            return violation(
                ReasonCode::PROTOCOL_ERROR,
                "a session expiry interval in DISCONNECT after 0 in CONNECT",
            );
        }
        Closing::Disconnected {
            // [MQTT-3.14.4-3]: only reason 0x00 discards the will.
            will: disconnect.reason != ReasonCode::NORMAL_DISCONNECTION,
            expiry_interval: asked
                .map(|seconds| seconds.min(self.hub.live.load().max_session_expiry)),
        }
    }
}

fn violation(reason: ReasonCode, why: impl Into<String>) -> Closing {
    Closing::Violation(reason, why.into())
}
