//! What clients acknowledge: PUBACK, PUBREC, PUBREL and PUBCOMP.

use dunlin_protocol::{Ack, ReasonCode};
use dunlin_sync::Op;

use super::{Batch, violation};
use crate::connection::acks::{AckKind, Answer};
use crate::connection::close::Closing;
use crate::connection::run::Connection;
use crate::core::outbound::Acked;

impl Connection {
    pub(super) fn puback(&mut self, ack: Ack<'_>, batch: &mut Batch<'_>) -> Result<(), Closing> {
        let acked = self.acknowledge(batch, |delivering| delivering.puback(ack.packet_id));
        match acked {
            Acked::WrongKind => Err(violation(
                ReasonCode::PROTOCOL_ERROR,
                format!(
                    "PUBACK for packet id {}, which is not in flight at QoS 1",
                    ack.packet_id.get()
                ),
            )),
            Acked::Config(version) => {
                // One that it refuses has not arrived.
                if let Some(identity) = &self.identity
                    && let Some((device, _)) = &identity.reports
                    && !ack.reason.is_error()
                {
                    self.hub.devices.acknowledged(device, version);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn pubrec(&mut self, ack: Ack<'_>, batch: &mut Batch<'_>) -> Result<(), Closing> {
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
            Acked::Done | Acked::Config(_) => return Ok(()),
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

    pub(super) fn pubrel(&mut self, ack: Ack<'_>, batch: &mut Batch<'_>) -> Result<(), Closing> {
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

    pub(super) fn pubcomp(&mut self, ack: Ack<'_>, batch: &mut Batch<'_>) -> Result<(), Closing> {
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
}
