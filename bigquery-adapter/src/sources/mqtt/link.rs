//! The connection's own state: what is to be written, when the next sign of life is due.

use std::time::Duration;

use bytes::BytesMut;
use dunlin_protocol::{Ack as AckPacket, Disconnect, Packet, PacketId, ReasonCode, Version};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::error::ConnectionError;
use super::rows::Aliases;
use super::session::Ack;
use crate::mqtt_client::{Accepted, Inbox, ReadHalf, WireError, WriteHalf};

/// Signs of life when the broker wants none.
const PING_ANYWAY: u16 = 60;

/// What belongs to the connection and not to the source.
pub(super) struct Connection {
    pub(super) read: ReadHalf,
    pub(super) write: WriteHalf,
    pub(super) inbox: Inbox,
    pub(super) out: BytesMut,
    /// There is something to write or to flush.
    pub(super) unflushed: bool,
    pub(super) version: Version,
    pub(super) aliases: Aliases,
    keep_alive: u16,
    pub(super) next_ping: Instant,
    /// When a ping was sent that has had no answer, nor anything else since.
    pub(super) unanswered: Option<Instant>,
    /// Bytes of a packet, before they are in `out`.
    scratch: Vec<u8>,
}

impl Connection {
    pub(super) fn new(accepted: Accepted, version: Version) -> Self {
        let mut connection = Self {
            read: accepted.read,
            write: accepted.write,
            inbox: accepted.inbox,
            out: BytesMut::new(),
            unflushed: false,
            version,
            aliases: Aliases::default(),
            keep_alive: if accepted.keep_alive == 0 {
                PING_ANYWAY
            } else {
                accepted.keep_alive
            },
            next_ping: Instant::now(),
            unanswered: None,
            scratch: Vec::new(),
        };
        connection.next_ping = connection.ping_time();
        connection
    }

    /// [MQTT-3.1.2-23]: the client sends something at least once in every keep alive. Three quarters leave room.
    pub(super) fn ping_time(&self) -> Instant {
        Instant::now() + Duration::from_secs(u64::from(self.keep_alive)) * 3 / 4
    }

    pub(super) fn ping(&mut self) -> Result<(), ConnectionError> {
        let limit = Duration::from_secs(u64::from(self.keep_alive)) / 2;
        if self.unanswered.is_some_and(|since| since.elapsed() > limit) {
            return Err(ConnectionError::Silent(self.keep_alive));
        }
        self.unanswered.get_or_insert_with(Instant::now);
        self.next_ping = self.ping_time();
        self.send(&Packet::PingReq)
    }

    pub(super) fn acknowledge(&mut self, ack: Ack) -> Result<(), ConnectionError> {
        let (Ack::PubAck(id) | Ack::PubRec(id) | Ack::PubComp(id) | Ack::PubCompUnknown(id)) = ack;
        let id = PacketId::new(id).ok_or(ConnectionError::Protocol("it used the packet id 0"))?;
        let success = AckPacket::new(id, ReasonCode::SUCCESS);
        self.send(&match ack {
            Ack::PubAck(_) => Packet::PubAck(success),
            Ack::PubRec(_) => Packet::PubRec(success),
            Ack::PubComp(_) => Packet::PubComp(success),
            Ack::PubCompUnknown(_) => {
                Packet::PubComp(AckPacket::new(id, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND))
            }
        })
    }

    pub(super) fn send(&mut self, packet: &Packet<'_>) -> Result<(), ConnectionError> {
        self.scratch.clear();
        packet.encode(self.version, &mut self.scratch)?;
        self.out.extend_from_slice(&self.scratch);
        Ok(())
    }

    /// Sends what is left and ends the connection in order; the session stays with the broker.
    pub(super) async fn goodbye(&mut self) -> Result<(), ConnectionError> {
        self.send(&Packet::Disconnect(Disconnect::default()))?;
        let sent = async {
            self.write.write_all(&self.out).await?;
            self.write.flush().await?;
            self.write.shutdown().await
        };
        sent.await.map_err(WireError::Io)?;
        Ok(())
    }
}

/// Writes some of `out`, or flushes when nothing is left of it; whether everything is on its way now. Cancel safe.
pub(super) async fn write_some(
    write: &mut WriteHalf,
    out: &mut BytesMut,
) -> Result<bool, WireError> {
    if out.is_empty() {
        write.flush().await?;
        return Ok(true);
    }
    match write.write_buf(out).await? {
        0 => Err(WireError::Closed),
        _ => Ok(false),
    }
}
