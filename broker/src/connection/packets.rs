//! What each packet of a connected client means.

use std::rc::Rc;
use std::sync::Arc;

use dunlin_protocol::{
    Ack, Disconnect, Packet, PacketId, Properties, Publish, QoS, ReasonCode, Sender, SubAck,
    Subscribe, UnsubAck, Unsubscribe, decode, peek_frame,
};
use dunlin_sync::Op;
use tokio::time::Instant;

use super::acks::{AckKind, Answer};
use super::close::Closing;
use super::run::Connection;
use crate::auth::Action;
use crate::core::frames::{Forwarded, Incoming, Origin, Topic};
use crate::core::inbound::Admitted;
use crate::core::outbound::Acked;
use crate::hub::directory::Routes;
use crate::hub::publish::Outcome;
use crate::hub::session::Subscription;

/// Operations after which a batch is handed to the store although more packets are at hand.
const OPS_MAX: usize = 4096;

/// Publishes in a row with the same receivers.
struct Run<'a> {
    publishes: Vec<Incoming<'a>>,
    acks: Vec<(AckKind, PacketId)>,
    routes: Option<Rc<Routes>>,
}

/// What the packets of one read come to.
struct Batch<'a> {
    run: Run<'a>,
    outcome: Outcome,
    answers: Vec<Answer>,
    /// The answers wait until the operations are durable.
    durable: bool,
    origin: Origin,
    now_ms: u64,
    packets: u64,
    publishes: u64,
    publish_bytes: u64,
    /// New subscriptions that get retained messages.
    retained: Vec<(Box<str>, Subscription)>,
}

impl Connection {
    /// Handles all whole packets in `bytes`; gives back how many bytes they had.
    pub(super) fn process(&mut self, bytes: &[u8]) -> Result<usize, Closing> {
        let now_us = self.hub.clock.now_us();
        let mut batch = Batch {
            run: Run {
                publishes: Vec::new(),
                acks: Vec::new(),
                routes: None,
            },
            outcome: Outcome::default(),
            answers: Vec::new(),
            durable: false,
            origin: Origin {
                received_at: now_us,
                publisher: Some(self.session.client_id.clone()),
            },
            now_ms: now_us / 1000,
            packets: 0,
            publishes: 0,
            publish_bytes: 0,
            retained: Vec::new(),
        };
        let mut consumed = 0;
        let mut result = Ok(());
        while result.is_ok() {
            let rest = bytes.get(consumed..).unwrap_or_default();
            match peek_frame(rest, self.hub.limits.max_packet_size) {
                Ok(Some(header)) if header.total_len <= rest.len() => {
                    let frame = rest.get(..header.total_len).unwrap_or_default();
                    consumed += header.total_len;
                    result = self.packet(frame, &mut batch);
                }
                Ok(_) => break,
                Err(error) => result = Err(error.into()),
            }
            if batch.outcome.ops.len() >= OPS_MAX {
                self.end_batch(&mut batch);
            }
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
            && let Some(pause) = throttle.take(batch.publishes, Instant::now())
        {
            self.pause_reading(pause);
        }
        result.map(|()| consumed)
    }

    fn packet<'a>(&mut self, frame: &'a [u8], batch: &mut Batch<'a>) -> Result<(), Closing> {
        batch.packets += 1;
        let packet = decode(frame, self.version, Sender::Client)?;
        if let Packet::Publish(publish) = packet {
            return self.publish(publish, batch);
        }
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
            Packet::Auth(_) => Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                "AUTH without an authentication method in CONNECT",
            )),
            _ => Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                "a packet that only a server sends",
            )),
        }
    }

    fn publish<'a>(&mut self, publish: Publish<'a>, batch: &mut Batch<'a>) -> Result<(), Closing> {
        batch.publishes += 1;
        batch.publish_bytes += publish.payload.len() as u64;
        let topic = self.resolve_topic(&publish)?;
        self.check_publish(&publish, topic.as_str())?;
        let kind = match publish.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(AckKind::PubAck),
            QoS::ExactlyOnce => Some(AckKind::PubRec),
        };
        let ack = kind.zip(publish.packet_id);
        let mut once = None;
        if let Some((_, id)) = ack {
            match self.admit(publish.qos, id, batch)? {
                Some(count) => once = count,
                None => return Ok(()),
            }
        }
        let action = Action::Publish {
            qos: publish.qos,
            retain: publish.retain,
        };
        let name = topic.as_str();
        if name.starts_with("$SYS")
            || !self
                .hub
                .auth
                .allows(&self.principal, &self.session.client_id, action, name)
        {
            self.end_run(batch);
            return self.refuse_publish(ack, ReasonCode::NOT_AUTHORIZED, batch);
        }
        let kept = publish.retain && !publish.payload.is_empty();
        if kept
            && self.version.is_v5()
            && ack.is_some()
            && !self.hub.may_retain(name, publish.payload.len())
        {
            self.end_run(batch);
            self.hub.metrics.retained_refused(1);
            return self.refuse_publish(ack, ReasonCode::QUOTA_EXCEEDED, batch);
        }
        let routes = self.hub.directory.routes(name);
        if batch
            .run
            .routes
            .as_ref()
            .is_some_and(|same| !Rc::ptr_eq(same, &routes))
        {
            self.end_run(batch);
        }
        batch.run.routes = Some(routes);
        let (properties, expiry) = match publish.properties.is_empty() {
            true => (Forwarded::Borrowed(&[][..]), None),
            false => Forwarded::from_publish(publish.properties),
        };
        batch.run.publishes.push(Incoming {
            topic,
            qos: publish.qos,
            retain: publish.retain,
            properties,
            expiry,
            payload: publish.payload,
            once,
        });
        batch.run.acks.extend(ack);
        Ok(())
    }

    /// [MQTT-3.3.2-8] [MQTT-3.3.2-9]: an alias is set by a publish that has a topic too, and is good for
    /// this connection only.
    fn resolve_topic<'a>(&mut self, publish: &Publish<'a>) -> Result<Topic<'a>, Closing> {
        let alias = if publish.properties.is_empty() {
            None
        } else {
            publish.properties.topic_alias()
        };
        let Some(alias) = alias else {
            return Ok(Topic::Borrowed(publish.topic));
        };
        let max = self.hub.limits.topic_alias_maximum;
        if alias > max {
            return Err(violation(
                ReasonCode::TOPIC_ALIAS_INVALID,
                format!("topic alias {alias} is above the maximum of {max}"),
            ));
        }
        let index = usize::from(alias);
        if publish.topic.is_empty() {
            let known = self.aliases.get(index).and_then(Option::as_ref);
            return known
                .map(|topic| Topic::Alias(topic.clone()))
                .ok_or_else(|| {
                    violation(
                        ReasonCode::PROTOCOL_ERROR,
                        format!("topic alias {alias} stands for no topic"),
                    )
                });
        }
        if self.aliases.len() <= index {
            self.aliases.resize(index + 1, None);
        }
        if let Some(slot) = self.aliases.get_mut(index) {
            *slot = Some(Arc::from(publish.topic));
        }
        Ok(Topic::Borrowed(publish.topic))
    }

    fn check_publish(&self, publish: &Publish<'_>, topic: &str) -> Result<(), Closing> {
        let (limits, features) = (&self.hub.limits, &self.hub.features);
        if publish.retain && !features.retain_available {
            return Err(violation(
                ReasonCode::RETAIN_NOT_SUPPORTED,
                "retained messages are switched off",
            ));
        }
        if publish.qos as u8 > features.maximum_qos {
            return Err(violation(
                ReasonCode::QOS_NOT_SUPPORTED,
                format!(
                    "QoS {} is above the maximum of {}",
                    publish.qos as u8, features.maximum_qos
                ),
            ));
        }
        let levels_max = usize::from(limits.max_topic_levels);
        if topic.len() >= levels_max && topic.split('/').count() > levels_max {
            return Err(violation(
                ReasonCode::TOPIC_NAME_INVALID,
                format!("the topic has more than {levels_max} levels"),
            ));
        }
        Ok(())
    }

    /// Counts a QoS 1 or 2 publish against the Receive Maximum; `None` if it is a repetition of a
    /// QoS 2 publish that was taken before. Gives back by what a repetition elsewhere is known.
    #[expect(
        clippy::option_option,
        reason = "taken or not, and if so, counted or not"
    )]
    fn admit(
        &mut self,
        qos: QoS,
        id: PacketId,
        batch: &mut Batch<'_>,
    ) -> Result<Option<Option<(u64, u64)>>, Closing> {
        if self.version.is_v5() {
            let pending = batch
                .run
                .acks
                .iter()
                .filter(|(kind, _)| *kind == AckKind::PubAck)
                .count()
                + batch
                    .answers
                    .iter()
                    .filter(|answer| matches!(answer, Answer::Ack(AckKind::PubAck, ..)))
                    .count();
            let open = self.acks.publishes() + pending + self.inbound_open;
            let max = usize::from(self.hub.limits.receive_maximum);
            if open >= max && !(qos == QoS::ExactlyOnce && self.repeats(id)) {
                // [MQTT-3.3.4-9]
                return Err(violation(
                    ReasonCode::RECEIVE_MAXIMUM_EXCEEDED,
                    format!("more than {max} publishes are not acknowledged"),
                ));
            }
        }
        if qos != QoS::ExactlyOnce {
            return Ok(Some(None));
        }
        let admitted = {
            let mut state = self.session.lock();
            let admitted = state.inbound.insert(id);
            self.inbound_open = state.inbound.len();
            admitted
        };
        if admitted == Admitted::Held {
            self.end_run(batch);
            batch
                .answers
                .push(Answer::Ack(AckKind::PubRec, id, ReasonCode::SUCCESS));
            return Ok(None);
        }
        let Some(session) = self.session.store_id else {
            return Ok(Some(None));
        };
        let count = match admitted {
            Admitted::Unsure(count) => count,
            _ => self.next_inbound_count(),
        };
        if admitted == Admitted::Fresh {
            batch.outcome.ops.push(Op::PutInboundQos2 {
                session,
                packet_id: id.get(),
                count,
            });
        }
        batch.durable = true;
        Ok(Some(Some((session.0, count))))
    }

    /// Rises with every QoS 2 publish of the session, over all its connections.
    fn next_inbound_count(&mut self) -> u64 {
        self.inbound_count += 1;
        let epoch = self.session.lock().epoch;
        epoch << 32 | self.inbound_count
    }

    fn repeats(&self, id: PacketId) -> bool {
        self.session.lock().inbound.contains(id)
    }

    /// A publish that the client may not send: an MQTT 5 client is told in the acknowledgement, an
    /// older one gets a plain acknowledgement [MQTT-3.3.5-2 of 3.1.1].
    fn refuse_publish(
        &mut self,
        ack: Option<(AckKind, PacketId)>,
        reason: ReasonCode,
        batch: &mut Batch<'_>,
    ) -> Result<(), Closing> {
        self.hub.metrics.publish_refused();
        let Some((kind, id)) = ack else { return Ok(()) };
        if kind == AckKind::PubRec && self.version.is_v5() {
            // The exchange ends with this PUBREC.
            let mut state = self.session.lock();
            state.inbound.remove(id);
            self.inbound_open = state.inbound.len();
            if let Some(session) = self.session.store_id {
                batch.outcome.ops.push(Op::DeleteInboundQos2 {
                    session,
                    packet_id: id.get(),
                });
            }
        }
        batch.answers.push(Answer::Ack(kind, id, reason));
        Ok(())
    }

    /// Delivers the publishes collected so far.
    fn end_run(&mut self, batch: &mut Batch<'_>) {
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
    }

    /// Hands the operations to the store and lines the answers up behind them.
    fn end_batch(&mut self, batch: &mut Batch<'_>) {
        self.end_run(batch);
        self.hub.count(std::mem::take(&mut batch.outcome.tally));
        self.publishing = batch.publishes > 0;
        if let Some(behind) = batch.outcome.behind.take() {
            self.behind = Some(behind);
        }
        let ops = std::mem::take(&mut batch.outcome.ops);
        let barrier = std::mem::take(&mut batch.outcome.barrier);
        self.submit(ops, batch.durable, barrier);
        for (filter, subscription) in batch.retained.drain(..) {
            self.retained_due
                .push((self.submitted, filter, subscription));
        }
        batch.durable = false;
        for answer in batch.answers.drain(..) {
            self.acks.push(self.submitted, answer);
        }
    }

    fn puback(&mut self, ack: Ack<'_>, batch: &mut Batch<'_>) -> Result<(), Closing> {
        let acked = self.acknowledge(batch, |delivering| delivering.puback(ack.packet_id));
        match acked {
            Acked::WrongKind => Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                format!(
                    "PUBACK for packet id {}, which is not in flight at QoS 1",
                    ack.packet_id.get()
                ),
            )),
            _ => Ok(()),
        }
    }

    fn pubrec(&mut self, ack: Ack<'_>, batch: &mut Batch<'_>) -> Result<(), Closing> {
        let acked = self.acknowledge(batch, |delivering| {
            delivering.pubrec(ack.packet_id, ack.reason)
        });
        let reason = match acked {
            Acked::WrongKind => {
                return Err(violation(
                    ReasonCode::PROTOCOL_ERROR,
                    format!(
                        "PUBREC for packet id {}, which is not in flight at QoS 2",
                        ack.packet_id.get()
                    ),
                ));
            }
            Acked::Done => return Ok(()),
            Acked::Unknown if ack.reason.is_error() => return Ok(()),
            Acked::Unknown => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            Acked::Release => {
                // PUBREL makes the client forget the id: that it may be sent must be durable first.
                batch.durable |= self.session.store_id.is_some();
                ReasonCode::SUCCESS
            }
        };
        batch
            .answers
            .push(Answer::Ack(AckKind::PubRel, ack.packet_id, reason));
        Ok(())
    }

    fn pubrel(&mut self, ack: Ack<'_>, batch: &mut Batch<'_>) -> Result<(), Closing> {
        let held = {
            let mut state = self.session.lock();
            let held = state.inbound.remove(ack.packet_id);
            self.inbound_open = state.inbound.len();
            held
        };
        if held && let Some(session) = self.session.store_id {
            // Durable before PUBCOMP: the client may use the id for another message from then on.
            batch.outcome.ops.push(Op::DeleteInboundQos2 {
                session,
                packet_id: ack.packet_id.get(),
            });
            batch.durable = true;
        }
        let reason = if held {
            ReasonCode::SUCCESS
        } else {
            ReasonCode::PACKET_IDENTIFIER_NOT_FOUND
        };
        batch
            .answers
            .push(Answer::Ack(AckKind::PubComp, ack.packet_id, reason));
        Ok(())
    }

    fn pubcomp(&mut self, ack: Ack<'_>, batch: &mut Batch<'_>) -> Result<(), Closing> {
        match self.acknowledge(batch, |delivering| delivering.pubcomp(ack.packet_id)) {
            Acked::WrongKind => Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                format!(
                    "PUBCOMP for packet id {}, which was not released",
                    ack.packet_id.get()
                ),
            )),
            _ => Ok(()),
        }
    }

    /// An acknowledgement makes room in the window: what waits is sent under the same lock.
    fn acknowledge(
        &mut self,
        batch: &mut Batch<'_>,
        act: impl FnOnce(&mut crate::core::session::Delivering) -> Acked,
    ) -> Acked {
        let mut state = self.session.lock();
        let acked = act(&mut state.delivering);
        state
            .delivering
            .pump(batch.now_ms, &mut batch.outcome.tally);
        batch.outcome.ops.append(&mut state.delivering.ops);
        acked
    }

    fn subscribe(
        &mut self,
        subscribe: &Subscribe<'_>,
        batch: &mut Batch<'_>,
    ) -> Result<(), Closing> {
        let identifier = subscribe.properties.subscription_identifiers().next();
        if identifier.is_some() && !self.hub.features.subscription_identifiers {
            return Err(violation(
                ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED,
                "subscription identifiers are switched off",
            ));
        }
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        for (filter, options) in subscribe.filters.iter() {
            let mut options = options;
            options.qos = options
                .qos
                .min(QoS::try_from(self.hub.features.maximum_qos).unwrap_or(QoS::ExactlyOnce));
            let reason = match self.refuses_subscription(filter, options.qos) {
                Some(reason) => reason,
                None => {
                    let before = batch.outcome.ops.len();
                    let subscription = Subscription {
                        options,
                        identifier,
                    };
                    let (reason, retained) = self.hub.clone().subscribe(
                        &self.session,
                        filter,
                        subscription,
                        &mut batch.outcome.ops,
                    );
                    if batch.outcome.ops.len() > before {
                        batch.durable = true;
                        batch.outcome.barrier = true;
                    }
                    if retained {
                        batch.retained.push((Box::from(filter), subscription));
                    }
                    reason
                }
            };
            codes.push(match self.version.is_v5() {
                false if reason.is_error() => 0x80,
                _ => reason.0,
            });
        }
        let suback = SubAck {
            packet_id: subscribe.packet_id,
            properties: Properties::EMPTY,
            reason_codes: &codes,
        };
        self.answer(&Packet::SubAck(suback), batch)
    }

    fn refuses_subscription(&self, filter: &str, qos: QoS) -> Option<ReasonCode> {
        let features = &self.hub.features;
        let shared = filter.starts_with("$share/");
        if shared && !features.shared_subscriptions {
            return Some(ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED);
        }
        if !features.wildcard_subscriptions && filter.contains(['+', '#']) {
            return Some(ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED);
        }
        if !self.hub.auth.allows(
            &self.principal,
            &self.session.client_id,
            Action::Subscribe { qos },
            filter,
        ) {
            return Some(match features.reveal_refusals {
                true => ReasonCode::NOT_AUTHORIZED,
                false => ReasonCode::UNSPECIFIED_ERROR,
            });
        }
        None
    }

    fn unsubscribe(
        &mut self,
        unsubscribe: &Unsubscribe<'_>,
        batch: &mut Batch<'_>,
    ) -> Result<(), Closing> {
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        for filter in unsubscribe.filters.iter() {
            let before = batch.outcome.ops.len();
            let reason = self
                .hub
                .unsubscribe(&self.session, filter, &mut batch.outcome.ops);
            batch.durable |= batch.outcome.ops.len() > before;
            codes.push(reason.0);
        }
        let reason_codes = if self.version.is_v5() {
            &codes[..]
        } else {
            &[]
        };
        let unsuback = UnsubAck {
            packet_id: unsubscribe.packet_id,
            properties: Properties::EMPTY,
            reason_codes,
        };
        self.answer(&Packet::UnsubAck(unsuback), batch)
    }

    fn answer(&mut self, packet: &Packet<'_>, batch: &mut Batch<'_>) -> Result<(), Closing> {
        let mut bytes = Vec::new();
        packet.encode(self.version, &mut bytes).map_err(|error| {
            violation(ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR, error.to_string())
        })?;
        batch
            .answers
            .push(Answer::Encoded(bytes.into_boxed_slice()));
        Ok(())
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
            expiry_interval: asked.map(|seconds| seconds.min(self.hub.limits.max_session_expiry)),
        }
    }
}

fn violation(reason: ReasonCode, why: impl Into<String>) -> Closing {
    Closing::Violation(reason, why.into())
}
