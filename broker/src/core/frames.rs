//! A run of publishes that go to the same subscribers, encoded once for each form in which they
//! leave: (protocol, QoS, retain as published).
//!
//! A read of a socket brings many packets; those in a row with the same topic make one run, so that
//! a subscriber costs one lock and (at QoS 0) one copy for the whole run. Packet ids are patched in
//! place in each subscriber's copy.

use std::cell::OnceCell;
use std::sync::Arc;

use dunlin_protocol::{
    PacketId, Properties, PropertiesBuf, Property, PropertyId, PublishLayout, QoS, Version,
    encode_publish_into,
};
use dunlin_sync::cluster::Held;
use dunlin_sync::{Message, MessageParts};

use super::out_buffer;

/// A topic: a slice of the read buffer, or what a topic alias stood for.
#[derive(Clone, Debug)]
pub(crate) enum Topic<'a> {
    Borrowed(&'a str),
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
    messages: OnceCell<Box<[OnceCell<Arc<Message>>]>>,
}

impl<'r, 'a> Frames<'r, 'a> {
    pub(crate) fn new(run: &'r [Incoming<'a>], origin: &'r Origin) -> Self {
        Self {
            run,
            origin,
            variants: [const { OnceCell::new() }; FORMS],
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
        self.variants[form].get_or_init(|| self.encode(v5, granted, retain_as_published))
    }

    fn encode(&self, v5: bool, granted: QoS, retain_as_published: bool) -> Variant {
        let mut variant = Variant {
            bytes: out_buffer::pooled(),
            marks: Vec::with_capacity(self.run.len()),
            longest: 0,
            all_qos0: true,
        };
        let mut expiring = PropertiesBuf::default();
        for publish in self.run {
            let qos = publish.qos.min(granted);
            let properties = if v5 {
                with_expiry(&mut expiring, publish.properties.as_bytes(), publish.expiry)
            } else {
                &[]
            };
            let start = variant.bytes.len();
            let layout = encode_publish_into(
                &mut variant.bytes,
                version(v5),
                false,
                qos,
                publish.retain && retain_as_published,
                publish.topic.as_str(),
                placeholder(qos),
                properties,
                publish.payload,
            );
            let layout = layout.unwrap_or(PublishLayout {
                start,
                packet_id_at: None,
                len: 0,
            });
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
