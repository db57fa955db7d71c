//! A connection that may break at any moment: everything that touches it says whether it still stands.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use dunlin_protocol::{
    Packet, QoS, ReasonCode, Subscribe, SubscribeFiltersBuf, SubscribeOptions, Version, peek_frame,
};

use super::{LIMIT, Received, connecting::Connecting};

/// The connection is gone.
#[derive(Debug)]
pub(crate) struct Closed;

/// How long one look at the socket lasts.
const LOOK: Duration = Duration::from_millis(50);

/// One MQTT 5 connection to a broker that may be killed.
pub(crate) struct Link {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Link {
    /// Connects; `None` when the broker is not there just now, or, if it `may_be_refused`, says that it cannot take a
    /// connection for the time being. `session_present`: the broker must still know the session.
    pub(crate) fn open_at(
        address: SocketAddr,
        connecting: &Connecting,
        session_present: bool,
        may_be_refused: bool,
    ) -> Option<Self> {
        let Ok(stream) = TcpStream::connect_timeout(&address, LIMIT) else {
            // It is being started again.
            std::thread::sleep(Duration::from_millis(5));
            return None;
        };
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(LOOK)).ok()?;
        stream.set_write_timeout(Some(LIMIT)).ok()?;
        let mut link = Self {
            stream,
            unread: Vec::new(),
        };
        link.stream.write_all(&connecting.bytes()).ok()?;
        let received = link.receive().ok()?;
        let connack = received.connack();
        let for_now = [ReasonCode::SERVER_UNAVAILABLE, ReasonCode::SERVER_BUSY];
        if may_be_refused && for_now.contains(&connack.reason) {
            std::thread::sleep(Duration::from_millis(50));
            return None;
        }
        assert_eq!(connack.reason, ReasonCode::SUCCESS, "{connack:?}");
        assert!(
            connack.session_present || !session_present,
            "the broker has forgotten a session"
        );
        Some(link)
    }

    /// Subscribes to one filter; the QoS has to be granted. For a session that gets no messages yet.
    pub(crate) fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<(), Closed> {
        let packet_id = super::id(1);
        let mut buffer = SubscribeFiltersBuf::new();
        buffer
            .push(filter, SubscribeOptions::new(qos))
            .expect("the filter can be written");
        self.send(Packet::Subscribe(Subscribe {
            packet_id,
            properties: dunlin_protocol::Properties::EMPTY,
            filters: buffer.as_filters(),
        }))?;
        let received = self.receive()?;
        match received.packet() {
            Packet::SubAck(suback) => assert_eq!(suback.reason_codes, [qos as u8]),
            other => panic!("a SUBACK was expected, not {other:?}"),
        }
        Ok(())
    }

    /// Sends a packet.
    pub(crate) fn send(&mut self, packet: Packet<'_>) -> Result<(), Closed> {
        let mut bytes = Vec::new();
        packet
            .encode(Version::V5, &mut bytes)
            .expect("the packet can be written");
        self.stream.write_all(&bytes).map_err(|_| Closed)
    }

    /// Takes the next packet, which must come within the limit of all waiting.
    pub(crate) fn receive(&mut self) -> Result<Received, Closed> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(received) = self.receive_soon()? {
                return Ok(received);
            }
            assert!(
                Instant::now() < deadline,
                "nothing from the broker within {LIMIT:?}"
            );
        }
    }

    /// Takes the next packet; `None` when there is none just now.
    pub(crate) fn receive_soon(&mut self) -> Result<Option<Received>, Closed> {
        loop {
            let header =
                peek_frame(&self.unread, u32::MAX).expect("a remaining length in good form");
            if let Some(header) = header.filter(|header| self.unread.len() >= header.total_len) {
                let rest = self.unread.split_off(header.total_len);
                let frame = std::mem::replace(&mut self.unread, rest);
                return Ok(Some(Received::new(frame, Version::V5)));
            }
            let mut chunk = [0; 16_384];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Closed),
                Ok(count) => self
                    .unread
                    .extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {
                        return Ok(None);
                    }
                    _ => return Err(Closed),
                },
            }
        }
    }
}
