//! One connection to the broker, from its first packet to its end.
//!
//! One task reads, writes and hears from the sink, whichever is possible: it never waits for the socket to take
//! acknowledgements before it reads on, and never reads on while too much waits for the sink. Not reading is how the
//! adapter slows the broker down; for QoS 1 and 2 the broker stops by itself at the receive maximum.

use dunlin_protocol::{
    Disconnect, Packet, PacketId, Properties, Publish, QoS, ReasonCode, RetainHandling, SubAck,
    Subscribe, SubscribeFiltersBuf, SubscribeOptions, Unsubscribe, UnsubscribeFiltersBuf, Version,
};
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::MqttSource;
use super::error::ConnectionError;
use super::link::{Connection, write_some};
use super::rows::RowMaker;
use super::session::{Release, Session, Verdict};
use crate::batch::Batch;
use crate::error::Code;
use crate::health::Part;
use crate::mqtt_client::{Accepted, WireError};
use crate::row::{Delivery, fingerprint};

/// Bytes of acknowledgements that may wait for the socket before nothing more is read.
const OUT_MAX: usize = 1 << 20;
const SUBSCRIBE_ID: PacketId = PacketId::MIN;
const UNSUBSCRIBE_ID: PacketId = PacketId::MAX;

impl MqttSource {
    /// Serves a connection until it ends; `Ok` after a shutdown.
    pub(super) async fn serve(
        &mut self,
        accepted: Accepted,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<(), ConnectionError> {
        let session_present = accepted.session_present;
        self.check_session(&accepted);
        let mut connection = Connection::new(accepted, self.version);
        self.session.connected(session_present);
        if !session_present {
            self.forget_session().await?;
        }
        self.subscribe(&mut connection, session_present)?;
        let result = self.exchange(&mut connection, shutdown).await;
        self.note_committed();
        match result {
            Err(ConnectionError::Wire(WireError::Closed)) => {
                Err(ConnectionError::Dropped(self.settings.client_id.clone()))
            }
            result => result,
        }
    }

    fn check_session(&mut self, accepted: &Accepted) {
        if let Some(granted) = accepted
            .session_expiry
            .filter(|granted| *granted < self.settings.session_expiry)
        {
            tracing::warn!(
                granted,
                wanted = self.settings.session_expiry,
                "the broker keeps the session for less time than asked for (seconds)"
            );
        }
        if !accepted.session_present && !self.subscribed.is_empty() {
            self.metrics.sessions_lost.inc();
            let (code, client_id) = (
                Code::SESSION_LOST.as_str(),
                self.settings.client_id.as_str(),
            );
            tracing::error!(
                code,
                client_id,
                "the broker no longer had the session: what was published since it ended is missing"
            );
            self.subscribed.clear();
        }
    }

    /// Nothing may be received in a new session before it is on record that the old one is gone: packet ids of the old
    /// one would be taken for those of the new one after a crash.
    async fn forget_session(&mut self) -> Result<(), ConnectionError> {
        let mut batch = Batch::default();
        let position = self.session.handle_reset();
        batch.push_session_reset(position);
        self.give(batch)?;
        while self.note_committed() < position {
            self.intake.changed().await?;
        }
        self.session.committed(position, |_| {});
        Ok(())
    }

    fn subscribe(
        &mut self,
        connection: &mut Connection,
        session_present: bool,
    ) -> Result<(), ConnectionError> {
        let stale: Vec<&String> = self
            .subscribed
            .iter()
            .filter(|filter| !self.settings.filters.contains(filter))
            .collect();
        if session_present && !stale.is_empty() {
            let mut filters = UnsubscribeFiltersBuf::new();
            for filter in &stale {
                filters.push(filter)?;
            }
            let (packet_id, properties) = (UNSUBSCRIBE_ID, Properties::EMPTY);
            let filters = filters.as_filters();
            connection.send(&Packet::Unsubscribe(Unsubscribe {
                packet_id,
                properties,
                filters,
            }))?;
        }
        // Before MQTT 5 every SUBSCRIBE brings all retained messages again.
        if session_present && !self.version.is_v5() && self.subscribed == self.settings.filters {
            self.subscribed_now()?;
            return Ok(());
        }
        let mut filters = SubscribeFiltersBuf::new();
        for filter in &self.settings.filters {
            filters.push(filter, options(self.settings.qos, self.version))?;
        }
        let (packet_id, properties) = (SUBSCRIBE_ID, Properties::EMPTY);
        connection.send(&Packet::Subscribe(Subscribe {
            packet_id,
            properties,
            filters: filters.as_filters(),
        }))
    }

    /// The broker has agreed to all filters.
    fn subscribed_now(&mut self) -> Result<(), ConnectionError> {
        self.health.set(Part::Source, None);
        self.metrics.connected.set(1);
        tracing::info!(broker = %self.settings.address, filters = ?self.settings.filters, "subscribed");
        if self.subscribed != self.settings.filters {
            self.subscribed.clone_from(&self.settings.filters);
            let mut batch = Batch::default();
            let position = self.session.handle_reset();
            batch.push_subscribed(position, self.subscribed.iter().map(String::as_str));
            self.give(batch)?;
        }
        Ok(())
    }

    async fn exchange(
        &mut self,
        connection: &mut Connection,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<(), ConnectionError> {
        let mut draining = false;
        // Something may have come together with the CONNACK.
        self.handle_packets(connection)?;
        loop {
            connection.unflushed |= !connection.out.is_empty();
            if draining && self.session.pending() == 0 {
                return connection.goodbye().await;
            }
            let readable = !draining && self.has_room() && connection.out.len() < OUT_MAX;
            if !readable {
                connection.unanswered = None;
            }
            tokio::select! {
                read = connection.inbox.fill(&mut connection.read), if readable => {
                    self.metrics.received_bytes.inc_by(read? as u64);
                    connection.unanswered = None;
                    self.handle_packets(connection)?;
                }
                written = write_some(&mut connection.write, &mut connection.out), if connection.unflushed => {
                    connection.unflushed = !written?;
                    connection.next_ping = connection.ping_time();
                }
                changed = self.intake.changed() => {
                    changed?;
                    self.acknowledge(connection)?;
                }
                () = sleep_until(connection.next_ping) => connection.ping()?,
                _ = shutdown.wait_for(|stop| *stop), if !draining => draining = true,
            }
        }
    }

    fn acknowledge(&mut self, connection: &mut Connection) -> Result<(), ConnectionError> {
        let position = self.note_committed();
        let (mut count, mut result) = (0, Ok(()));
        self.session.committed(position, |ack| {
            count += 1;
            if result.is_ok() {
                result = connection.acknowledge(ack);
            }
        });
        self.metrics.acknowledged.inc_by(count);
        self.metrics
            .queued
            .set(i64::try_from(self.session.pending()).unwrap_or(i64::MAX));
        result
    }

    /// Takes apart what has been read, and gives the sink one batch of it.
    fn handle_packets(&mut self, connection: &mut Connection) -> Result<(), ConnectionError> {
        let mut batch = Batch::default();
        let Connection {
            inbox,
            version,
            aliases,
            ..
        } = connection;
        let mut granted = None;
        let mut counts = Counts::default();
        while let Some(packet) = inbox.next(*version)? {
            match packet {
                Packet::Publish(publish) => {
                    let topic = aliases.resolve(&publish)?;
                    publish_row(
                        &mut self.session,
                        &mut self.rows,
                        &mut batch,
                        &mut counts,
                        &publish,
                        topic,
                    );
                }
                Packet::PubRel(release) => {
                    match self.session.handle_release(release.packet_id.get()) {
                        Release::Store => {
                            batch.push_released(self.session.position(), release.packet_id.get())
                        }
                        Release::Known => {}
                    }
                }
                Packet::SubAck(answer) => {
                    check_granted(&answer, &self.settings.filters, self.settings.qos)?;
                    granted = Some(());
                }
                Packet::UnsubAck(_) | Packet::PingResp => {}
                Packet::Disconnect(goodbye) => {
                    return Err(disconnected(&goodbye, &self.settings.client_id));
                }
                _ => {
                    return Err(ConnectionError::Protocol(
                        "it sent a packet that has no place here",
                    ));
                }
            }
        }
        self.metrics.received.inc_by(counts.received);
        self.metrics.duplicates.inc_by(counts.duplicates);
        self.metrics.redelivered.inc_by(counts.redelivered);
        self.give(batch)?;
        // What is known already may be answered when nothing is on its way to the sink.
        self.acknowledge(connection)?;
        granted.map_or(Ok(()), |()| self.subscribed_now())
    }
}

#[derive(Debug, Default)]
struct Counts {
    received: u64,
    duplicates: u64,
    redelivered: u64,
}

/// Adds a message's row to the batch, unless it is there already.
fn publish_row(
    session: &mut Session,
    rows: &mut RowMaker,
    batch: &mut Batch,
    counts: &mut Counts,
    publish: &Publish<'_>,
    topic: &str,
) {
    counts.received += 1;
    let print = fingerprint(topic, publish.payload);
    let id = publish.packet_id.map_or(0, PacketId::get);
    let (verdict, delivery) = match publish.qos {
        QoS::AtMostOnce => (
            Verdict::New(session.handle_at_most_once()),
            Delivery::AtMostOnce,
        ),
        QoS::AtLeastOnce => (
            session.handle_at_least_once(id, publish.dup, print),
            Delivery::AtLeastOnce(id),
        ),
        QoS::ExactlyOnce => (
            session.handle_exactly_once(id, print),
            Delivery::ExactlyOnce(id),
        ),
    };
    let number = match verdict {
        Verdict::New(number) => number,
        Verdict::Again(number) => {
            counts.redelivered += 1;
            number
        }
        Verdict::Known => {
            counts.duplicates += 1;
            return;
        }
    };
    batch.push_row(
        session.position(),
        &rows.row(publish, topic, number, delivery, print),
    );
}

/// Retained messages come once, when a subscription is new; and the retain flag stays as it was published.
fn options(qos: QoS, version: Version) -> SubscribeOptions {
    let options = SubscribeOptions::new(qos);
    if !version.is_v5() {
        return options;
    }
    SubscribeOptions {
        retain_as_published: true,
        retain_handling: RetainHandling::SendIfNew,
        ..options
    }
}

fn check_granted(
    answer: &SubAck<'_>,
    filters: &[String],
    wanted: QoS,
) -> Result<(), ConnectionError> {
    if answer.packet_id != SUBSCRIBE_ID || answer.reason_codes.len() != filters.len() {
        return Err(ConnectionError::Protocol(
            "its SUBACK does not answer our SUBSCRIBE",
        ));
    }
    for (filter, code) in filters.iter().zip(answer.reason_codes) {
        let reason = ReasonCode(*code);
        if reason.is_error() {
            return Err(ConnectionError::Subscription {
                filter: filter.clone(),
                reason,
            });
        }
        if *code < wanted as u8 {
            tracing::warn!(
                filter,
                granted = code,
                wanted = wanted as u8,
                "the broker grants a lower qos than asked for"
            );
        }
    }
    Ok(())
}

fn disconnected(goodbye: &Disconnect<'_>, client_id: &str) -> ConnectionError {
    if goodbye.reason == ReasonCode::SESSION_TAKEN_OVER {
        return ConnectionError::TakenOver(client_id.to_owned());
    }
    let text = goodbye
        .properties
        .reason_string()
        .unwrap_or_default()
        .to_owned();
    ConnectionError::Disconnected {
        reason: goodbye.reason,
        text,
    }
}
