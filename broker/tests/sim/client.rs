//! The client's end of a pipe to a replica: packets in and out, no state of a session.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use dunlin_protocol::{
    Ack, Connect, Disconnect, Packet, PacketId, PropertiesBuf, Property, Publish, QoS, ReasonCode,
    Sender, Subscribe, SubscribeFiltersBuf, SubscribeOptions, Version, Will, decode, peek_frame,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;

/// How long a client waits for an answer before it gives its connection up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What comes from a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    ConnAck {
        present: bool,
        reason: ReasonCode,
    },
    Publish {
        topic: String,
        payload: String,
        qos: QoS,
        retain: bool,
        dup: bool,
        id: u16,
    },
    PubAck(u16, ReasonCode),
    PubRec(u16, ReasonCode),
    PubRel(u16),
    PubComp(u16),
    SubAck(Vec<u8>),
    Disconnect(ReasonCode),
    /// The pipe has ended, or nothing came in time.
    Closed,
    Pong,
}

/// How a client connects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hello<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) clean_start: bool,
    pub(crate) expiry: u32,
    /// Topic, payload and delay.
    pub(crate) will: Option<(&'a str, &'a str, u32)>,
    /// Receive Maximum; 0: nothing is said of it.
    pub(crate) window: u16,
}

/// Breaks the network between a replica and its clients. Those are woken in the order in which they wait, so that
/// a seed gives the same run (a watch channel would draw the order by chance).
#[derive(Default)]
pub(crate) struct Severed {
    times: Cell<u64>,
    told: Notify,
}

impl Severed {
    pub(crate) fn now(&self) {
        self.times.set(self.times.get() + 1);
        self.told.notify_waiters();
    }
}

pub(crate) struct Conn {
    stream: DuplexStream,
    unread: Vec<u8>,
    severed: Rc<Severed>,
    /// How often the network had broken when the client connected.
    before: u64,
}

fn id(id: u16) -> PacketId {
    PacketId::new(id).expect("packet ids begin at 1")
}

impl Conn {
    pub(crate) fn new(stream: DuplexStream, severed: Rc<Severed>) -> Self {
        Self {
            stream,
            unread: Vec::new(),
            before: severed.times.get(),
            severed,
        }
    }

    /// Connects; gives back whether the session was there. `None`: refused, or the pipe broke.
    pub(crate) async fn hello(&mut self, hello: &Hello<'_>) -> Option<bool> {
        let mut properties = PropertiesBuf::default();
        properties
            .push(Property::SessionExpiryInterval(hello.expiry))
            .expect("four bytes");
        if hello.window > 0 {
            properties
                .push(Property::ReceiveMaximum(hello.window))
                .expect("two bytes");
        }
        let mut will_properties = PropertiesBuf::default();
        if let Some((_, _, delay)) = hello.will {
            will_properties
                .push(Property::WillDelayInterval(delay))
                .expect("four bytes");
        }
        let will = hello.will.map(|(topic, payload, _)| Will {
            topic,
            payload: payload.as_bytes(),
            qos: QoS::ExactlyOnce,
            retain: false,
            properties: will_properties.as_properties(),
        });
        self.send(&Packet::Connect(Connect {
            version: Version::V5,
            clean_start: hello.clean_start,
            keep_alive: 0,
            properties: properties.as_properties(),
            client_id: hello.client_id,
            will,
            username: None,
            password: None,
        }))
        .await;
        match self.event(PATIENCE).await {
            Event::ConnAck {
                present,
                reason: ReasonCode::SUCCESS,
            } => Some(present),
            _ => None,
        }
    }

    /// Sends a packet; a broken pipe shows at the next [`Self::event`].
    pub(crate) async fn send(&mut self, packet: &Packet<'_>) {
        let mut out = Vec::new();
        packet
            .encode(Version::V5, &mut out)
            .expect("the packet can be written");
        let _broken = self.stream.write_all(&out).await.is_err();
    }

    pub(crate) async fn publish(
        &mut self,
        topic: &str,
        payload: &str,
        qos: QoS,
        packet_id: u16,
        flags: (bool, bool),
    ) {
        let (dup, retain) = flags;
        self.send(&Packet::Publish(Publish {
            dup,
            qos,
            retain,
            topic,
            packet_id: (qos > QoS::AtMostOnce).then(|| id(packet_id)),
            payload: payload.as_bytes(),
            ..Publish::default()
        }))
        .await;
    }

    pub(crate) async fn subscribe(&mut self, filters: &[String], qos: QoS) {
        let mut buffer = SubscribeFiltersBuf::new();
        for filter in filters {
            buffer
                .push(filter, SubscribeOptions::new(qos))
                .expect("the filter can be written");
        }
        let properties = PropertiesBuf::default();
        self.send(&Packet::Subscribe(Subscribe {
            packet_id: id(1),
            properties: properties.as_properties(),
            filters: buffer.as_filters(),
        }))
        .await;
    }

    pub(crate) async fn ack(
        &mut self,
        packet: fn(Ack<'static>) -> Packet<'static>,
        packet_id: u16,
    ) {
        self.send(&packet(Ack::new(id(packet_id), ReasonCode::SUCCESS)))
            .await;
    }

    pub(crate) async fn goodbye(mut self) {
        let properties = PropertiesBuf::default();
        self.send(&Packet::Disconnect(Disconnect {
            reason: ReasonCode::NORMAL_DISCONNECTION,
            properties: properties.as_properties(),
        }))
        .await;
        // What the replica does with it is done when it has closed its end.
        while self.event(PATIENCE).await != Event::Closed {}
    }

    /// The next packet. Cancel safe: what was read stays.
    pub(crate) async fn event(&mut self, patience: Duration) -> Event {
        self.event_within(patience).await.unwrap_or(Event::Closed)
    }

    /// As [`Self::event`], but `None` when nothing came in time.
    pub(crate) async fn event_within(&mut self, patience: Duration) -> Option<Event> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            if let Some(event) = self.next_whole() {
                return Some(event);
            }
            if self.severed.times.get() != self.before {
                return Some(Event::Closed);
            }
            let mut chunk = [0; 4096];
            let read = tokio::select! {
                biased;
                () = self.severed.told.notified() => return Some(Event::Closed),
                read = self.stream.read(&mut chunk) => read,
                () = tokio::time::sleep_until(deadline) => return None,
            };
            match read {
                Ok(count) if count > 0 => self.unread.extend_from_slice(&chunk[..count]),
                _ => return Some(Event::Closed),
            }
        }
    }

    fn next_whole(&mut self) -> Option<Event> {
        let header = peek_frame(&self.unread, u32::MAX).expect("frames of a broker")?;
        if self.unread.len() < header.total_len {
            return None;
        }
        let rest = self.unread.split_off(header.total_len);
        let frame = std::mem::replace(&mut self.unread, rest);
        let packet = decode(&frame, Version::V5, Sender::Server).expect("packets of a broker");
        Some(match packet {
            Packet::ConnAck(connack) => Event::ConnAck {
                present: connack.session_present,
                reason: connack.reason,
            },
            Packet::Publish(publish) => Event::Publish {
                topic: publish.topic.to_owned(),
                payload: String::from_utf8_lossy(publish.payload).into_owned(),
                qos: publish.qos,
                retain: publish.retain,
                dup: publish.dup,
                id: publish.packet_id.map_or(0, PacketId::get),
            },
            Packet::PubAck(ack) => Event::PubAck(ack.packet_id.get(), ack.reason),
            Packet::PubRec(ack) => Event::PubRec(ack.packet_id.get(), ack.reason),
            Packet::PubRel(ack) => Event::PubRel(ack.packet_id.get()),
            Packet::PubComp(ack) => Event::PubComp(ack.packet_id.get()),
            Packet::SubAck(suback) => Event::SubAck(suback.reason_codes.to_vec()),
            Packet::Disconnect(disconnect) => Event::Disconnect(disconnect.reason),
            Packet::PingResp => Event::Pong,
            other => panic!("a replica sent {other:?}"),
        })
    }
}
