//! What comes from the broker.

use dunlin_protocol::{Ack, Packet, PacketId, QoS, Sender, decode, peek_frame};

use super::{Engine, Failure, Outcome, READ_BYTES, Role};
use crate::bench::plan::Shape;
use crate::bench::stamp::Stamp;

impl Engine {
    pub(super) fn on_readable(&mut self, number: usize) -> Outcome<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.read(number, &mut buffer);
        self.buffer = buffer;
        result
    }

    fn read(&mut self, number: usize, buffer: &mut [u8]) -> Outcome<()> {
        let Some(client) = self.clients.get_mut(number) else {
            return Ok(());
        };
        let count = match client
            .connection
            .read(buffer)
            .map_err(|error| Failure::Io("read", error))?
        {
            None => {
                if client.connection.has_records() {
                    self.mark(number);
                }
                return Ok(());
            }
            Some(0) => {
                return Err(Failure::Protocol(
                    "the broker closed a connection".to_owned(),
                ));
            }
            Some(count) => count,
        };
        let mut rest = buffer.get(..count).unwrap_or_default();
        let malformed =
            |problem| Failure::Protocol(format!("the broker sent a malformed packet: {problem}"));
        while let Some(header) = peek_frame(rest, READ_BYTES as u32).map_err(malformed)? {
            let Some((frame, after)) = rest.split_at_checked(header.total_len) else {
                break;
            };
            self.on_packet(
                number,
                decode(frame, self.version, Sender::Server).map_err(malformed)?,
            )?;
            rest = after;
        }
        if let Some(client) = self.clients.get_mut(number) {
            client.connection.part.clear();
            client.connection.part.extend_from_slice(rest);
            if client.connection.has_records() {
                self.mark(number);
            }
        }
        Ok(())
    }

    fn on_packet(&mut self, number: usize, packet: Packet<'_>) -> Outcome<()> {
        let Some(role) = self.clients.get(number).map(|client| client.role) else {
            return Ok(());
        };
        match (packet, role) {
            (Packet::Publish(publish), Role::Subscriber(subscriber)) => {
                self.on_delivery(subscriber, publish.payload)?;
                match (publish.qos, publish.packet_id) {
                    (QoS::AtLeastOnce, Some(id)) => self.acknowledge(number, 0x40, id),
                    (QoS::ExactlyOnce, Some(id)) => self.acknowledge(number, 0x50, id),
                    _ => {}
                }
            }
            // Between its SUBACK and the end of the same read.
            (Packet::Publish(_), Role::Lazy { .. }) => {}
            (Packet::PubRel(ack), Role::Subscriber(_)) => {
                self.acknowledge(number, 0x70, ack.packet_id)
            }
            (Packet::PubAck(ack), Role::Publisher(publisher)) => self.on_ack(publisher, &ack)?,
            (Packet::PubRec(ack), Role::Publisher(publisher)) => {
                self.on_ack(publisher, &ack)?;
                self.acknowledge(number, 0x62, ack.packet_id);
            }
            (Packet::PubComp(ack), Role::Publisher(publisher)) => {
                let known = self
                    .publishers
                    .get_mut(publisher)
                    .is_some_and(|one| one.completed(ack.packet_id));
                if !known {
                    return Err(Failure::Protocol("a PUBCOMP fits nothing".to_owned()));
                }
            }
            (Packet::ConnAck(connack), _) if connack.reason.0 == 0 => self.on_connected(number)?,
            (Packet::ConnAck(connack), _) => {
                return Err(Failure::Protocol(format!(
                    "CONNECT was refused: {}",
                    connack.reason
                )));
            }
            (Packet::SubAck(suback), _) => {
                if suback.reason_codes.first() != Some(&self.workload.qos) {
                    return Err(Failure::Protocol(format!(
                        "SUBSCRIBE was answered {:?}",
                        suback.reason_codes
                    )));
                }
                match role {
                    Role::Visitor => self.leave(number)?,
                    Role::Lazy { reads, .. } => self.fall_asleep(number, reads)?,
                    Role::Holder => {
                        if let Some(answered) = self.held.answered.get_mut(number) {
                            *answered += 1;
                        }
                    }
                    _ => self.on_ready(number),
                }
            }
            (Packet::PingResp, Role::Publisher(_)) => self.pongs += 1,
            (Packet::Disconnect(disconnect), _) => {
                return Err(Failure::Protocol(format!(
                    "the broker disconnected: {}",
                    disconnect.reason
                )));
            }
            (other, _) => {
                return Err(Failure::Protocol(format!(
                    "the broker sent an unexpected {:?}",
                    other.packet_type()
                )));
            }
        }
        Ok(())
    }

    #[inline]
    fn on_delivery(&mut self, subscriber: usize, payload: &[u8]) -> Outcome<()> {
        let stamp = Stamp::from_payload(payload).ok_or_else(|| {
            Failure::Protocol("a delivered message is not one of ours".to_owned())
        })?;
        if self.workload.shape == Shape::RetainRead {
            self.on_retained(stamp);
            return Ok(());
        }
        let publisher = stamp.publisher as usize;
        if self.flows.see(publisher.max(subscriber), stamp.sequence)
            && let Some(publisher) = self.publishers.get_mut(publisher)
        {
            publisher.delivered();
        }
        self.totals.delivered += 1;
        self.last_delivery_ns = self.now_ns;
        if let Some(latencies) = &mut self.latencies {
            latencies.record_ns(self.now_ns.saturating_sub(stamp.due_ns));
        }
        Ok(())
    }

    /// Retained messages come in any order.
    fn on_retained(&mut self, stamp: Stamp) {
        self.once.see(stamp.publisher as usize, stamp.sequence);
        self.totals.delivered += 1;
        self.last_delivery_ns = self.now_ns;
        if let Some(latencies) = &mut self.latencies {
            latencies.record_ns(self.now_ns);
        }
    }

    fn on_ack(&mut self, publisher: usize, ack: &Ack<'_>) -> Outcome<()> {
        let due_ns = self
            .publishers
            .get_mut(publisher)
            .and_then(|one| one.received(ack.packet_id))
            .ok_or_else(|| Failure::Protocol("an acknowledgement fits nothing".to_owned()))?;
        if let Some(latencies) = &mut self.ack_latencies {
            latencies.record_ns(self.now_ns.saturating_sub(due_ns));
        }
        if ack.reason.is_error() {
            return Err(Failure::Protocol(format!(
                "a message was refused: {}",
                ack.reason
            )));
        }
        if self.workload.ends_with_the_acknowledgement() {
            self.flows.see_next(publisher);
            if let Some(publisher) = self.publishers.get_mut(publisher) {
                publisher.delivered();
            }
            self.totals.delivered += 1;
            self.last_delivery_ns = self.now_ns;
            if let Some(latencies) = &mut self.latencies {
                latencies.record_ns(self.now_ns.saturating_sub(due_ns));
            }
        }
        Ok(())
    }

    /// PUBACK, PUBREC, PUBREL and PUBCOMP without reason are the same four bytes in all versions.
    #[inline]
    fn acknowledge(&mut self, number: usize, first_byte: u8, id: PacketId) {
        let [high, low] = id.get().to_be_bytes();
        if let Some(client) = self.clients.get_mut(number) {
            client
                .connection
                .out
                .extend_from_slice(&[first_byte, 2, high, low]);
        }
        self.mark(number);
    }
}
