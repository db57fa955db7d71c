//! A client that sends and expects single packets, or any bytes.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Instant,
};

use dunlin_protocol::{
    Ack, Packet, Publish, QoS, ReasonCode, Subscribe, SubscribeFiltersBuf, SubscribeOptions,
    Unsubscribe, UnsubscribeFiltersBuf, Version, peek_frame,
};

use super::{
    Broker, LIMIT, Received, connect, id,
    websocket::{self, Opcode, WebSocket},
};

/// One connection to the broker, driven step by step by a test.
pub(crate) struct Client {
    stream: TcpStream,
    version: Version,
    unread: Vec<u8>,
    /// Over a WebSocket: what has come of a frame that is not whole.
    frames: Option<Vec<u8>>,
    /// Messages that came while an answer was awaited; they are next.
    set_aside: VecDeque<Received>,
    next_id: u16,
}

impl Client {
    /// Opens a socket and says nothing.
    pub(crate) fn open(address: SocketAddr, version: Version) -> Self {
        let stream = TcpStream::connect(address).expect("the broker accepts a connection");
        Self::over(stream, version, None)
    }

    fn over(stream: TcpStream, version: Version, frames: Option<Vec<u8>>) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream
            .set_write_timeout(Some(LIMIT))
            .expect("a write limit");
        Self {
            stream,
            version,
            unread: Vec::new(),
            frames,
            set_aside: VecDeque::new(),
            next_id: 1,
        }
    }

    /// Opens a WebSocket and says nothing.
    pub(crate) fn open_websocket(address: SocketAddr, version: Version) -> Self {
        let stream = WebSocket::open(address).into_stream();
        Self::over(stream, version, Some(Vec::new()))
    }

    /// Connects with a clean session.
    pub(crate) fn new(broker: &Broker, version: Version, client_id: &str) -> Self {
        connect(version, client_id).open(broker, false)
    }

    /// The version that the client speaks.
    pub(crate) const fn version(&self) -> Version {
        self.version
    }

    /// A packet identifier that this client has not used yet.
    pub(crate) fn next_id(&mut self) -> u16 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    // --- bytes

    /// Sends bytes as they are.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        assert!(self.try_send_bytes(bytes), "the broker reads");
    }

    /// Sends bytes that the broker may refuse to read to the end.
    pub(crate) fn try_send_bytes(&mut self, bytes: &[u8]) -> bool {
        match &self.frames {
            None => self.stream.write_all(bytes).is_ok(),
            Some(_) => {
                let frame = websocket::frame(Opcode::Binary, bytes);
                self.stream.write_all(&frame).is_ok()
            }
        }
    }

    /// Sends a packet.
    pub(crate) fn send(&mut self, packet: Packet<'_>) {
        let mut out = Vec::new();
        packet
            .encode(self.version, &mut out)
            .expect("the packet can be written");
        self.send_bytes(&out);
    }

    /// Breaks the connection without a DISCONNECT.
    pub(crate) fn drop_connection(self) {
        // The broker may have been first.
        drop(self.stream.shutdown(Shutdown::Both));
    }

    /// Takes the next packet.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Received {
        match self.next() {
            Some(received) => received,
            None => panic!("the broker closed the connection instead of sending a packet"),
        }
    }

    /// Takes the next packet; `None` when the broker closes.
    pub(crate) fn next(&mut self) -> Option<Received> {
        self.set_aside
            .pop_front()
            .or_else(|| self.next_from_socket())
    }

    /// Takes the next packet that is no PUBLISH; messages before it are set aside, for they may come at any time.
    #[track_caller]
    pub(crate) fn next_answer(&mut self) -> Received {
        loop {
            match self.next_from_socket() {
                Some(received) if matches!(received.packet(), Packet::Publish(_)) => {
                    self.set_aside.push_back(received);
                }
                Some(received) => return received,
                None => panic!("the broker closed the connection instead of answering"),
            }
        }
    }

    fn next_from_socket(&mut self) -> Option<Received> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(header) =
                peek_frame(&self.unread, u32::MAX).expect("a remaining length in good form")
                && self.unread.len() >= header.total_len
            {
                let rest = self.unread.split_off(header.total_len);
                let frame = std::mem::replace(&mut self.unread, rest);
                return Some(Received::new(frame, self.version));
            }
            if !self.read_more(deadline) {
                assert!(
                    self.unread.is_empty(),
                    "closed within a packet: {:02x?}",
                    self.unread
                );
                return None;
            }
        }
    }

    /// Reads what there is; false when the broker has closed.
    fn read_more(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(
            !left.is_zero(),
            "nothing from the broker within {LIMIT:?}; unread: {:02x?}",
            self.unread
        );
        self.stream
            .set_read_timeout(Some(left))
            .expect("a read limit");
        let mut chunk = [0; 16_384];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(count) => {
                let bytes = chunk.get(..count).unwrap_or_default();
                match &mut self.frames {
                    None => self.unread.extend_from_slice(bytes),
                    Some(frames) => {
                        frames.extend_from_slice(bytes);
                        while let Some((opcode, payload)) = websocket::take_frame(frames) {
                            match opcode {
                                Opcode::Binary => self.unread.extend_from_slice(&payload),
                                // What came before it is still to be taken.
                                Opcode::Close => drop(self.stream.shutdown(Shutdown::Both)),
                                other => panic!("{other:?} where MQTT was expected"),
                            }
                        }
                    }
                }
                true
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => true,
                ErrorKind::ConnectionReset
                | ErrorKind::BrokenPipe
                | ErrorKind::ConnectionAborted => false,
                other => panic!("reading from the broker: {other}: {error}"),
            },
        }
    }

    /// Takes whatever bytes come until the broker closes.
    pub(crate) fn read_to_close(&mut self) -> Vec<u8> {
        let deadline = Instant::now() + LIMIT;
        while self.read_more(deadline) {}
        std::mem::take(&mut self.unread)
    }

    // --- expectations

    /// The next packet has to be this one.
    #[track_caller]
    pub(crate) fn expect(&mut self, packet: Packet<'_>) {
        let received = self.receive();
        assert_eq!(received.packet(), packet);
    }

    /// The next packet that is no message has to be this one.
    #[track_caller]
    pub(crate) fn expect_answer(&mut self, packet: Packet<'_>) {
        let received = self.next_answer();
        assert_eq!(received.packet(), packet);
    }

    /// The broker has to close without sending anything more.
    #[track_caller]
    pub(crate) fn expect_closed(&mut self) {
        if let Some(packet) = self.next() {
            panic!("the broker sent {packet:?} where it had to close");
        }
    }

    /// The broker has to end the connection: in 5.0 with a DISCONNECT that says `reason`, in older versions by closing.
    #[track_caller]
    pub(crate) fn expect_end(&mut self, reason: ReasonCode) {
        if self.version.is_v5() {
            let received = self.receive();
            assert!(
                matches!(received.packet(), Packet::Disconnect(_)),
                "{received:?}"
            );
            assert_eq!(received.reason(), reason, "{received:?}");
        }
        self.expect_closed();
    }

    /// The broker has nothing to say before the answer to a PINGREQ.
    #[track_caller]
    pub(crate) fn expect_silence(&mut self) {
        self.send(Packet::PingReq);
        self.expect(Packet::PingResp);
    }

    /// The next packet has to be a PUBLISH with this topic and payload. It is answered as its QoS asks.
    #[track_caller]
    pub(crate) fn expect_message(&mut self, topic: &str, payload: &[u8]) -> Received {
        let received = self.expect_unanswered(topic, payload);
        self.answer(&received);
        received
    }

    /// The next packet has to be a PUBLISH with this topic and payload. It is not answered.
    #[track_caller]
    pub(crate) fn expect_unanswered(&mut self, topic: &str, payload: &[u8]) -> Received {
        let received = self.receive();
        let publish = received.publish();
        assert_eq!(
            (publish.topic, String::from_utf8_lossy(publish.payload)),
            (topic, String::from_utf8_lossy(payload)),
            "{publish:?}"
        );
        received
    }

    /// Carries the exchange that a PUBLISH began to its end.
    #[track_caller]
    pub(crate) fn answer(&mut self, received: &Received) {
        let publish = received.publish();
        let Some(packet_id) = publish.packet_id else {
            return;
        };
        if publish.qos == QoS::AtLeastOnce {
            self.send(Packet::PubAck(Ack::new(packet_id, ReasonCode::SUCCESS)));
        } else {
            self.send(Packet::PubRec(Ack::new(packet_id, ReasonCode::SUCCESS)));
            self.expect_answer(Packet::PubRel(Ack::new(packet_id, ReasonCode::SUCCESS)));
            self.send(Packet::PubComp(Ack::new(packet_id, ReasonCode::SUCCESS)));
        }
    }

    // --- exchanges

    /// Subscribes to one filter; the QoS has to be granted.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, filter: &str, qos: QoS) {
        self.subscribe_with(filter, SubscribeOptions::new(qos), &[]);
    }

    /// Subscribes to one filter with options and properties; the QoS has to be granted.
    #[track_caller]
    pub(crate) fn subscribe_with(
        &mut self,
        filter: &str,
        options: SubscribeOptions,
        list: &[dunlin_protocol::Property<'_>],
    ) {
        let codes = self.subscribe_all(&[(filter, options)], list);
        assert_eq!(
            codes,
            [options.qos as u8],
            "the subscription to {filter} was not granted"
        );
    }

    /// Subscribes to several filters and gives the codes of the SUBACK.
    #[track_caller]
    pub(crate) fn subscribe_all(
        &mut self,
        filters: &[(&str, SubscribeOptions)],
        list: &[dunlin_protocol::Property<'_>],
    ) -> Vec<u8> {
        let packet_id = id(self.next_id());
        let block = super::properties(list);
        let mut buffer = SubscribeFiltersBuf::new();
        for (filter, options) in filters {
            buffer
                .push(filter, *options)
                .expect("the filter can be written");
        }
        self.send(Packet::Subscribe(Subscribe {
            packet_id,
            properties: block.as_properties(),
            filters: buffer.as_filters(),
        }));
        let received = self.next_answer();
        match received.packet() {
            Packet::SubAck(suback) => {
                assert_eq!(suback.packet_id, packet_id);
                suback.reason_codes.to_vec()
            }
            other => panic!("a SUBACK was expected, not {other:?}"),
        }
    }

    /// Unsubscribes and gives the codes of the UNSUBACK (none in versions before 5.0).
    #[track_caller]
    pub(crate) fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let packet_id = id(self.next_id());
        let mut buffer = UnsubscribeFiltersBuf::new();
        for filter in filters {
            buffer.push(filter).expect("the filter can be written");
        }
        self.send(Packet::Unsubscribe(Unsubscribe {
            packet_id,
            properties: dunlin_protocol::Properties::EMPTY,
            filters: buffer.as_filters(),
        }));
        let received = self.next_answer();
        match received.packet() {
            Packet::UnsubAck(unsuback) => {
                assert_eq!(unsuback.packet_id, packet_id);
                unsuback.reason_codes.to_vec()
            }
            other => panic!("an UNSUBACK was expected, not {other:?}"),
        }
    }

    /// Publishes and carries the exchange to its end; the broker has to take the message.
    #[track_caller]
    pub(crate) fn publish(&mut self, topic: &str, payload: &[u8], qos: QoS) {
        self.publish_packet(Publish {
            topic,
            payload,
            qos,
            ..Publish::default()
        });
    }

    /// Publishes a retained message and carries the exchange to its end.
    #[track_caller]
    pub(crate) fn publish_retained(&mut self, topic: &str, payload: &[u8], qos: QoS) {
        self.publish_packet(Publish {
            topic,
            payload,
            qos,
            retain: true,
            ..Publish::default()
        });
    }

    /// Publishes with properties and carries the exchange to its end.
    #[track_caller]
    pub(crate) fn publish_with(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: QoS,
        list: &[dunlin_protocol::Property<'_>],
    ) {
        let block = super::properties(list);
        self.publish_packet(Publish {
            topic,
            payload,
            qos,
            properties: block.as_properties(),
            ..Publish::default()
        });
    }

    /// Publishes a packet as it is, but for its identifier, and carries the exchange to its end.
    #[track_caller]
    pub(crate) fn publish_packet(&mut self, publish: Publish<'_>) {
        if publish.qos == QoS::AtMostOnce {
            self.send(Packet::Publish(publish));
            return;
        }
        let packet_id = id(self.next_id());
        self.send(Packet::Publish(Publish {
            packet_id: Some(packet_id),
            ..publish
        }));
        if publish.qos == QoS::AtLeastOnce {
            self.expect_ack(packet_id.get(), Packet::PubAck);
            return;
        }
        self.expect_ack(packet_id.get(), Packet::PubRec);
        self.send(Packet::PubRel(Ack::new(packet_id, ReasonCode::SUCCESS)));
        self.expect_answer(Packet::PubComp(Ack::new(packet_id, ReasonCode::SUCCESS)));
    }

    /// The next packet has to be this acknowledgement, with Success or No matching subscribers.
    #[track_caller]
    fn expect_ack(&mut self, packet_id: u16, wanted: impl Fn(Ack<'static>) -> Packet<'static>) {
        let received = self.next_answer();
        let good = [ReasonCode::SUCCESS, ReasonCode::NO_MATCHING_SUBSCRIBERS]
            .map(|reason| wanted(Ack::new(id(packet_id), reason)));
        assert!(
            good.contains(&received.packet()),
            "{received:?} where {:?} was expected",
            good[0]
        );
    }

    /// Ends the connection as a client should; the broker has to close.
    #[track_caller]
    pub(crate) fn disconnect(mut self) {
        self.send(Packet::Disconnect(dunlin_protocol::Disconnect::default()));
        self.expect_closed();
    }
}
