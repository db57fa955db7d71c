//! PUBLISH: what a client may publish, and what becomes of it.

use std::rc::Rc;
use std::sync::Arc;

use dunlin_protocol::{FrameHeader, PacketId, Publish, QoS, ReasonCode};
use dunlin_sync::{Message, Op};

use super::{Batch, violation};
use crate::auth::Action;
use crate::connection::acks::{AckKind, Answer};
use crate::connection::close::Closing;
use crate::connection::held::acknowledged;
use crate::connection::run::Connection;
use crate::core::frames::{Forwarded, Incoming, Received, Topic};
use crate::core::inbound::Admitted;
use crate::core::mount;

/// Publishes of one read that are made room for at once.
const PLACES_MAX: usize = 64;

impl Connection {
    pub(super) fn publish<'a>(
        &mut self,
        header: FrameHeader,
        packet: &'a [u8],
        publish: Publish<'a>,
        batch: &mut Batch<'a>,
    ) -> Result<(), Closing> {
        if let Some(publishes) = batch.publishes.get_mut(publish.qos as usize) {
            *publishes += 1;
        }
        batch.publish_bytes += publish.payload.len() as u64;
        let topic = self.resolve_topic(&publish)?;
        self.check_publish(&publish, topic.as_str(), batch)?;
        if let Some(ack) = acknowledged(&publish)
            && self.must_hold(batch)
        {
            return self.hold(packet, ack, topic, batch);
        }
        let received = Received {
            packet,
            header_len: header.header_len as u8,
            v5: self.version.is_v5(),
            mounted: batch.of_tenant,
        };
        match batch.of_tenant {
            false => self.take::<false>(publish, topic, Some(received), batch),
            true => self.take::<true>(publish, topic, Some(received), batch),
        }
    }

    /// A publish that was held.
    pub(in super::super) fn take_publish<'a>(
        &mut self,
        publish: Publish<'a>,
        topic: Topic<'a>,
        batch: &mut Batch<'a>,
    ) -> Result<(), Closing> {
        match batch.of_tenant {
            false => self.take::<false>(publish, topic, None, batch),
            true => self.take::<true>(publish, topic, None, batch),
        }
    }

    /// Twice, so that the clients that are no tenant's pay for none.
    #[inline(always)]
    fn take<'a, const OF_TENANT: bool>(
        &mut self,
        publish: Publish<'a>,
        mut topic: Topic<'a>,
        received: Option<Received<'a>>,
        batch: &mut Batch<'a>,
    ) -> Result<(), Closing> {
        let mut mounted_from_packet = false;
        if OF_TENANT {
            mounted_from_packet = matches!(topic, Topic::Borrowed(_));
            topic = Topic::Alias(self.mounted(topic.as_str())?);
        }
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
        // Whoever subscribes while a run is read does so after its bytes were read.
        let mut as_before = batch.run.routes.is_some()
            && batch.knows::<OF_TENANT>(name)
            && batch.run.allowed == Some(action);
        if !as_before && !self.may_publish(action, name, OF_TENANT) {
            self.end_run(batch);
            return self.refuse_publish(ack, ReasonCode::NOT_AUTHORIZED, batch);
        }
        if publish.retain && !publish.payload.is_empty() && self.version.is_v5() {
            if !self.may_keep(&publish, name, batch) {
                self.end_run(batch);
                return self.refuse_publish(ack, ReasonCode::QUOTA_EXCEEDED, batch);
            }
            as_before &= batch.run.routes.is_some();
        }
        if OF_TENANT && ack.is_some() && self.tenant_is_full() {
            self.end_run(batch);
            return self.refuse_publish(ack, ReasonCode::QUOTA_EXCEEDED, batch);
        }
        if !as_before {
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
            batch.run.allowed = Some(action);
        }
        if self.hub.tracer.is_some() {
            self.trace(&publish, topic.as_str(), batch);
        }
        let (properties, expiry) = match publish.properties.is_empty() {
            true => (Forwarded::Borrowed(&[][..]), None),
            false => Forwarded::from_publish(publish.properties),
        };
        let spelt_out = match &topic {
            Topic::Borrowed(topic) => {
                batch.topic = topic;
                true
            }
            // `topic`, or `inside` where all topics are mounted, and the run's routes belong together.
            Topic::Alias(inside) => {
                batch.topic = "";
                if OF_TENANT {
                    batch.inside = Some(inside.clone());
                }
                mounted_from_packet
            }
        };
        let unaltered = spelt_out && matches!(properties, Forwarded::Borrowed(_));
        if batch.run.publishes.capacity() == 0 {
            let places = batch.expected.clamp(1, PLACES_MAX);
            batch.run.publishes.reserve(places);
        }
        batch.run.publishes.push(Incoming {
            topic,
            qos: publish.qos,
            retain: publish.retain,
            properties,
            expiry,
            payload: publish.payload,
            once,
            held: None,
            received: received.filter(|_| unaltered),
        });
        batch.pubacks += usize::from(kind == Some(AckKind::PubAck));
        batch.run.acks.extend(ack);
        Ok(())
    }

    /// Whether a retained message finds its place, so that the acknowledgement can tell. One of QoS 0, which has none, is looked at
    /// again when it is kept.
    #[inline(never)]
    fn may_keep(&mut self, publish: &Publish<'_>, inside: &str, batch: &mut Batch<'_>) -> bool {
        let properties = match publish.properties.is_empty() {
            true => 0,
            false => {
                let (forwarded, _) = Forwarded::from_publish(publish.properties);
                forwarded.as_bytes().len()
            }
        };
        let body = inside.len() + properties + publish.payload.len();
        let size = Message::size_of(body, Some(self.publisher()));
        let mut room = self.hub.may_retain(inside, size, batch.run.kept);
        if room.is_err() && !batch.run.publishes.is_empty() {
            // Those before it may keep less, or give up what was kept.
            self.end_run(batch);
            room = self.hub.may_retain(inside, size, (0, 0));
        }
        if let Err(full) = &room
            && publish.packet_id.is_some()
        {
            self.hub.refuse_retained(full);
            return false;
        }
        batch.run.kept.0 += 1;
        batch.run.kept.1 += size as u64;
        true
    }

    /// Whether so much waits for the client's tenant that nothing more is taken for it.
    #[cold]
    fn tenant_is_full(&self) -> bool {
        let full = self.wake.about.tenant().filter(|tenant| tenant.is_full());
        full.is_some_and(|tenant| tenant.refuse().is_error())
    }

    /// The topic of a tenant's client as it is inside. The one before is remembered, as most clients have few topics.
    #[cold]
    fn mounted(&mut self, own: &str) -> Result<Arc<str>, Closing> {
        let last = self
            .identity
            .as_ref()
            .and_then(|identity| identity.mounted.as_ref());
        if let Some(last) = last
            && mount::own(last) == own
        {
            return Ok(last.clone());
        }
        let inside = match self.wake.about.tenant() {
            Some(tenant) => tenant.mount.topic(own).map_err(|_| {
                violation(
                    ReasonCode::TOPIC_NAME_INVALID,
                    "the topic is too long for a tenant's client",
                )
            })?,
            None => Arc::from(own),
        };
        if let Some(identity) = &mut self.identity {
            identity.mounted = Some(inside.clone());
        }
        Ok(inside)
    }

    /// `name` is as it is inside.
    fn may_publish(&self, action: Action, name: &str, of_tenant: bool) -> bool {
        // What looks like a mount point of somebody without a tenant is part of the topic.
        let own = if of_tenant { mount::own(name) } else { name };
        !own.starts_with("$SYS") && self.may(action, own).is_allowed()
    }

    /// [MQTT-3.3.2-7] [MQTT-3.3.2-12]: an alias is set by a publish that has a topic too, and is good for
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

    fn check_publish(
        &self,
        publish: &Publish<'_>,
        topic: &str,
        batch: &Batch<'_>,
    ) -> Result<(), Closing> {
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
        if topic.len() >= levels_max
            && !batch.knows::<false>(topic)
            && topic.split('/').count() > levels_max
        {
            return Err(violation(
                ReasonCode::TOPIC_NAME_INVALID,
                format!("the topic has more than {levels_max} levels"),
            ));
        }
        Ok(())
    }

    /// [MQTT-3.3.4-9]
    pub(in super::super) fn check_receive_maximum(
        &self,
        qos: QoS,
        id: PacketId,
        batch: &Batch<'_>,
    ) -> Result<(), Closing> {
        if self.version.is_v5() {
            let open = self.acks.publishes() + batch.pubacks + self.inbound_open + self.held_len();
            let max = usize::from(self.hub.limits.receive_maximum);
            if open >= max && !(qos == QoS::ExactlyOnce && self.repeats(id)) {
                return Err(violation(
                    ReasonCode::RECEIVE_MAXIMUM_EXCEEDED,
                    format!("more than {max} publishes are not acknowledged"),
                ));
            }
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
        self.check_receive_maximum(qos, id, batch)?;
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
        batch.pubacks += usize::from(kind == AckKind::PubAck);
        batch.answers.push(Answer::Ack(kind, id, reason));
        Ok(())
    }
}
