//! A run of publishes that go to the same subscribers, encoded once for each form in which they
//! leave: (protocol, QoS, retain as published).
//!
//! A read of a socket brings many packets; those in a row with the same receivers make one run, so that
//! a subscriber costs one lock and (at QoS 0) one copy for the whole run. Packet ids are patched in
//! place in each subscriber's copy. A packet that leaves in the form in which it came is not encoded, but copied.

use std::cell::OnceCell;
use std::sync::Arc;

use dunlin_protocol::{
    PacketId, Properties, PropertiesBuf, Property, PropertyId, PublishLayout, QoS, Version,
    copy_publish_into, encode_publish_into,
};
use dunlin_sync::cluster::Held;
use dunlin_sync::{Message, MessageParts};

use super::{mount, out_buffer};

/// A topic: a slice of the read buffer, or what a topic alias stood for.
#[derive(Clone, Debug)]
pub(crate) enum Topic<'a> {
    Borrowed(&'a str),
    /// Or as it is inside, of a tenant's client ([`mount`]).
    Alias(Arc<str>),
}

impl Topic<'_> {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(topic) => topic,
            Self::Alias(topic) => topic,
        }
    }
}

/// The properties of a publish that are forwarded, without topic alias, subscription identifiers
/// and message expiry (which is counted down).
#[derive(Clone, Debug)]
pub(crate) enum Forwarded<'a> {
    Borrowed(&'a [u8]),
    Owned(Vec<u8>),
}

impl<'a> Forwarded<'a> {
    /// [MQTT-3.3.2-17]: user properties go on unaltered and in their order; so do the others.
    pub(crate) fn from_publish(properties: Properties<'a>) -> (Self, Option<u32>) {
        let mut expiry = None;
        let mut altered = false;
        for property in properties.iter() {
            match property {
                Property::MessageExpiryInterval(seconds) => {
                    expiry = Some(seconds);
                    altered = true;
                }
                Property::TopicAlias(_) | Property::SubscriptionIdentifier(_) => altered = true,
                _ => {}
            }
        }
        if !altered {
            return (Self::Borrowed(properties.as_bytes()), None);
        }
        let mut kept = PropertiesBuf::default();
        for property in properties.raw_iter() {
            if !matches!(
                property.id,
                PropertyId::MessageExpiryInterval
                    | PropertyId::TopicAlias
                    | PropertyId::SubscriptionIdentifier
            ) {
                kept.push_raw(property);
            }
        }
        (Self::Owned(kept.into_bytes()), expiry)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// The packet that a publish came in. Its topic is spelt out, and all its properties are forwarded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) packet: &'a [u8],
    /// Bytes of its fixed header.
    pub(crate) header_len: u8,
    pub(crate) v5: bool,
    /// It came from a tenant's client: the topic that is spelt out has no mount point.
    pub(crate) mounted: bool,
}

/// One publish on its way to its subscribers.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    pub(crate) topic: Topic<'a>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) properties: Forwarded<'a>,
    /// Message expiry in seconds, counted from now.
    pub(crate) expiry: Option<u32>,
    pub(crate) payload: &'a [u8],
    /// Publisher and its count, where a repetition must be noticed wherever it is made.
    pub(crate) once: Option<(u64, u64)>,
    /// Keeps it in this replica's inbox while it is not acknowledged.
    pub(crate) held: Option<Held>,
    /// For receivers of the same version and QoS.
    pub(crate) received: Option<Received<'a>>,
}

impl<'a> Incoming<'a> {
    /// Unix time in milliseconds after which nobody gets it any more.
    pub(crate) fn expires_at(&self, origin: &Origin) -> Option<u64> {
        let seconds = self.expiry?;
        Some(origin.received_at / 1000 + u64::from(seconds) * 1000)
    }

    /// A stored message as a publish of its own (a will, a retransmission to another subscriber).
    pub(crate) fn from_message(message: &'a Message, expiry: Option<u32>) -> Self {
        Self {
            topic: Topic::Borrowed(message.topic()),
            qos: message.qos(),
            retain: message.retain(),
            properties: Forwarded::Borrowed(message.properties()),
            expiry,
            payload: message.payload(),
            once: None,
            held: None,
            received: None,
        }
    }
}

/// What all messages of a run have in common when they must be kept.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// Unix time in microseconds at which the run was read.
    pub(crate) received_at: u64,
    pub(crate) publisher: Option<Arc<str>>,
}

/// Where a message of a variant lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// Offset of the packet id from `start`; 0 when the message leaves at QoS 0.
    pub(crate) packet_id_at: u32,
}

/// The run in one form.
#[derive(Debug, Default)]
pub(crate) struct Variant {
    pub(crate) bytes: Vec<u8>,
    pub(crate) marks: Vec<Mark>,
    pub(crate) longest: u32,
    /// No message of the run carries a packet id.
    pub(crate) all_qos0: bool,
}

impl Drop for Variant {
    fn drop(&mut self) {
        out_buffer::give_back(std::mem::take(&mut self.bytes));
    }
}

const FORMS: usize = 12;

/// A run and its encodings, made when first asked for.
pub(crate) struct Frames<'r, 'a> {
    run: &'r [Incoming<'a>],
    origin: &'r Origin,
    variants: [OnceCell<Variant>; FORMS],
    /// The same for clients of tenants: without the mount point.
    mounted: OnceCell<Box<[OnceCell<Variant>; FORMS]>>,
    messages: OnceCell<Box<[OnceCell<Arc<Message>>]>>,
}

impl<'r, 'a> Frames<'r, 'a> {
    pub(crate) fn new(run: &'r [Incoming<'a>], origin: &'r Origin) -> Self {
        Self {
            run,
            origin,
            variants: [const { OnceCell::new() }; FORMS],
            mounted: OnceCell::new(),
            messages: OnceCell::new(),
        }
    }

    /// When the run was read, Unix time in milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.origin.received_at / 1000
    }

    pub(crate) fn origin(&self) -> &'r Origin {
        self.origin
    }

    pub(crate) fn run(&self) -> &'r [Incoming<'a>] {
        self.run
    }

    /// The run as a subscriber gets it that was granted `granted`.
    pub(crate) fn variant(&self, v5: bool, granted: QoS, retain_as_published: bool) -> &Variant {
        let form = usize::from(v5) * 6 + granted as usize * 2 + usize::from(retain_as_published);
        self.variants[form].get_or_init(|| self.encode(v5, granted, retain_as_published, false))
    }

    /// The same for a client of the tenant that all topics of the run belong to.
    pub(crate) fn mounted(&self, v5: bool, granted: QoS, retain_as_published: bool) -> &Variant {
        let form = usize::from(v5) * 6 + granted as usize * 2 + usize::from(retain_as_published);
        let variants = self
            .mounted
            .get_or_init(|| Box::new([const { OnceCell::new() }; FORMS]));
        variants[form].get_or_init(|| self.encode(v5, granted, retain_as_published, true))
    }

    fn encode(&self, v5: bool, granted: QoS, retain_as_published: bool, mounted: bool) -> Variant {
        let mut variant = Variant {
            bytes: out_buffer::pooled(),
            marks: Vec::with_capacity(self.run.len()),
            longest: 0,
            all_qos0: true,
        };
        let mut expiring = PropertiesBuf::default();
        for publish in self.run {
            let qos = publish.qos.min(granted);
            let retain = publish.retain && retain_as_published;
            let start = variant.bytes.len();
            let topic = match mounted {
                true => mount::own(publish.topic.as_str()),
                false => publish.topic.as_str(),
            };
            let layout = match &publish.received {
                // What came from a tenant's client has no mount point in it.
                Some(received)
                    if received.v5 == v5 && qos == publish.qos && received.mounted == mounted =>
                {
                    copy_publish_into(
                        &mut variant.bytes,
                        received.packet,
                        usize::from(received.header_len),
                        qos,
                        retain,
                        topic,
                    )
                }
                _ => {
                    let properties = if v5 {
                        with_expiry(&mut expiring, publish.properties.as_bytes(), publish.expiry)
                    } else {
                        &[]
                    };
                    encode_publish_into(
                        &mut variant.bytes,
                        version(v5),
                        false,
                        qos,
                        retain,
                        topic,
                        placeholder(qos),
                        properties,
                        publish.payload,
                    )
                    .unwrap_or(PublishLayout {
                        start,
                        packet_id_at: None,
                        len: 0,
                    })
                }
            };
            variant.all_qos0 &= qos == QoS::AtMostOnce;
            variant.longest = variant.longest.max(layout.len as u32);
            variant.marks.push(Mark {
                start: start as u32,
                end: (start + layout.len) as u32,
                packet_id_at: layout.packet_id_at.map_or(0, |at| (at - start) as u32),
            });
        }
        variant
    }

    /// The `index`th publish as a message that can be kept; made once.
    pub(crate) fn message(&self, index: usize) -> Arc<Message> {
        let messages = self
            .messages
            .get_or_init(|| self.run.iter().map(|_| OnceCell::new()).collect());
        messages[index]
            .get_or_init(|| Arc::new(keep(&self.run[index], self.origin)))
            .clone()
    }
}

/// A publish as a message that outlives the read buffer.
pub(crate) fn keep(publish: &Incoming<'_>, origin: &Origin) -> Message {
    Message::new(MessageParts {
        topic: publish.topic.as_str(),
        properties: publish.properties.as_bytes(),
        payload: publish.payload,
        qos: publish.qos,
        retain: publish.retain,
        expires_at: publish.expires_at(origin),
        received_at: origin.received_at,
        publisher: origin.publisher.clone(),
        id: next_message_id(),
    })
}

/// Numbers messages in this run of the process, in blocks per thread so that no counter is shared
/// on the publish path.
fn next_message_id() -> u64 {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, Ordering};
    const BLOCK: u64 = 1 << 16;
    static BLOCKS: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static NEXT: Cell<u64> = const { Cell::new(0) };
    }
    NEXT.with(|next| {
        let mut id = next.get();
        if id.is_multiple_of(BLOCK) {
            id = BLOCKS.fetch_add(1, Ordering::Relaxed) * BLOCK;
        }
        next.set(id + 1);
        id
    })
}

/// [MQTT-3.3.2-6]: the expiry that is sent is what is left of the received one.
pub(crate) fn remaining_expiry(message: &Message, now_ms: u64) -> Option<u32> {
    let left = message.expires_at()?.saturating_sub(now_ms).div_ceil(1000);
    Some(u32::try_from(left).unwrap_or(u32::MAX))
}

/// Whether nobody may get the message any more. [MQTT-3.3.2-5]
pub(crate) fn is_expired(message: &Message, now_ms: u64) -> bool {
    message.expires_at().is_some_and(|at| at <= now_ms)
}

/// `properties` with the expiry in front, if there is one.
fn with_expiry<'p>(
    scratch: &'p mut PropertiesBuf,
    properties: &'p [u8],
    expiry: Option<u32>,
) -> &'p [u8] {
    let Some(seconds) = expiry else {
        return properties;
    };
    scratch.clear();
    if scratch
        .push(Property::MessageExpiryInterval(seconds))
        .is_err()
    {
        // Four bytes always fit.
        return properties;
    }
    scratch.extend(Properties::from_validated(properties));
    scratch.as_properties().as_bytes()
}

pub(crate) fn version(v5: bool) -> Version {
    if v5 { Version::V5 } else { Version::V311 }
}

/// A packet id to be patched over.
pub(crate) fn placeholder(qos: QoS) -> Option<PacketId> {
    match qos {
        QoS::AtMostOnce => None,
        _ => PacketId::new(1),
    }
}

#[cfg(test)]
mod tests {
    use dunlin_protocol::{Publish, Sender, decode_publish, peek_frame};
    use proptest::prelude::*;

    use super::*;

    const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

    fn properties(which: u8) -> PropertiesBuf {
        let mut properties = PropertiesBuf::default();
        for (bit, property) in [
            Property::ContentType("text/plain"),
            Property::UserProperty("key", "value"),
            Property::MessageExpiryInterval(60),
            Property::TopicAlias(3),
        ]
        .into_iter()
        .enumerate()
        {
            if which >> bit & 1 == 1 {
                properties.push(property).unwrap();
            }
        }
        properties
    }

    proptest! {
        #[test]
        fn a_packet_that_is_copied_leaves_as_if_it_had_been_encoded(
            v5: bool, dup: bool, retain: bool, qos in 0..3_usize, which in 0..16_u8, topic in "[a-z]{1,9}(/[a-z]{0,9}){0,3}",
            payload in proptest::collection::vec(any::<u8>(), 0..300), packet_id in 1..=u16::MAX,
        ) {
            let qos = LEVELS[qos];
            let properties = properties(which);
            let mut packet = Vec::new();
            let sent = Publish {
                dup: dup && qos != QoS::AtMostOnce,
                qos,
                retain,
                topic: &topic,
                packet_id: placeholder(qos).and(PacketId::new(packet_id)),
                properties: properties.as_properties(),
                payload: &payload,
            };
            sent.encode(version(v5), &mut packet).unwrap();
            let header = peek_frame(&packet, u32::MAX).unwrap().unwrap();
            let publish = decode_publish(header, &packet, version(v5), Sender::Client, "").unwrap();
            let (forwarded, expiry) = Forwarded::from_publish(publish.properties);
            let unaltered = matches!(forwarded, Forwarded::Borrowed(_));
            prop_assert_eq!(unaltered, !v5 || which & 0b1100 == 0);
            let incoming = |received| Incoming {
                topic: Topic::Borrowed(publish.topic),
                qos,
                retain,
                properties: forwarded.clone(),
                expiry,
                payload: publish.payload,
                once: None,
                held: None,
                received,
            };
            let received = Received { packet: &packet, header_len: header.header_len as u8, v5, mounted: false };
            let (copied, encoded) = ([incoming(unaltered.then_some(received))], [incoming(None)]);
            let origin = Origin { received_at: 0, publisher: None };
            let (copied, encoded) = (Frames::new(&copied, &origin), Frames::new(&encoded, &origin));
            for (to_v5, granted, as_published) in [false, true].into_iter().flat_map(|to_v5| {
                LEVELS.into_iter().flat_map(move |granted| [(to_v5, granted, false), (to_v5, granted, true)])
            }) {
                let [mut one, mut other] = [&copied, &encoded].map(|frames| {
                    let variant = frames.variant(to_v5, granted, as_published);
                    (variant.bytes.clone(), variant.marks[0], variant.longest, variant.all_qos0)
                });
                for (bytes, mark, ..) in [&mut one, &mut other] {
                    // Where it lies is told alike; what is there is patched for each receiver.
                    let at = mark.packet_id_at as usize;
                    prop_assert_eq!(at == 0, qos.min(granted) == QoS::AtMostOnce);
                    if at > 0 {
                        bytes[at..at + 2].copy_from_slice(&[0xAB, 0xCD]);
                    }
                }
                prop_assert_eq!(&one.0, &other.0);
                prop_assert_eq!((one.1.start, one.1.end, one.1.packet_id_at), (other.1.start, other.1.end, other.1.packet_id_at));
                prop_assert_eq!((one.2, one.3), (other.2, other.3));
            }
        }
    }
}
