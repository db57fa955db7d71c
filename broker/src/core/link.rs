//! The sending side of one connection: encodes publishes into the bytes that wait for the client.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::hash::RandomState;
use bytes::Bytes;
use dunlin_protocol::{
    Ack, EncodeError, Packet, PacketId, Properties, PropertiesBuf, Property, Publish, QoS,
    ReasonCode, Version,
};
use dunlin_sync::{Delivery, Message};

use super::device_config;
use super::frames::{remaining_expiry, version};
use super::mount::Mount;
use super::out_buffer::{OutBuffer, SHARE_FROM};

/// What the client said in CONNECT about what it can take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkOptions {
    pub(crate) version: Version,
    /// Longest packet that the client takes, in bytes. [MQTT-3.1.2-24]
    pub(crate) max_packet: u32,
    /// Bytes that may wait before QoS 0 is dropped and QoS 1 and 2 stay in their queue.
    pub(crate) outbox_bytes: usize,
    /// Topic aliases that may be used towards the client.
    pub(crate) aliases: u16,
}

/// A publish as it is to be written.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) topic: &'a str,
    pub(crate) properties: &'a [u8],
    pub(crate) expiry: Option<u32>,
    pub(crate) payload: Payload<'a>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) packet_id: Option<PacketId>,
    pub(crate) subscription_ids: &'a [u32],
}

#[derive(Clone, Debug)]
pub(crate) enum Payload<'a> {
    Borrowed(&'a [u8]),
    /// Not copied when it is large.
    Shared(&'a Message),
}

impl Payload<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Shared(message) => message.payload(),
        }
    }

    fn shared(&self) -> Option<Bytes> {
        match self {
            Self::Shared(message) if message.payload().len() >= SHARE_FROM => {
                Some(message.payload_bytes())
            }
            _ => None,
        }
    }
}

/// The packet is longer than the client takes, or not for it; nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Looks once more at what goes to a client. Topics are as they are inside.
pub(crate) trait Gate: Send + std::fmt::Debug {
    /// Whether a message of this topic may go to the client.
    fn lets(&mut self, topic: &str) -> bool;

    /// The client has got a subscription that it may have as a whole.
    fn granted(&mut self, filter: &str);
}

/// What few connections have.
#[derive(Debug, Default)]
struct Extra {
    /// Taken off every topic.
    mount: Option<Arc<Mount>>,
    gate: Option<Box<dyn Gate>>,
    /// The gate is for all messages, and not for those alone that come out of a stored queue.
    gate_for_all: bool,
    /// Where the configuration comes of the device that the client is.
    config: Option<Box<str>>,
}

#[derive(Debug)]
struct Aliases {
    max: u16,
    by_topic: HashMap<Arc<str>, u16, RandomState>,
}

/// Bytes for one connected client.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) v5: bool,
    pub(crate) max_packet: u32,
    pub(crate) out: OutBuffer,
    outbox_bytes: usize,
    aliases: Option<Box<Aliases>>,
    extra: Option<Box<Extra>>,
}

impl Link {
    pub(crate) fn new(options: LinkOptions, mount: Option<Arc<Mount>>) -> Self {
        Self {
            v5: options.version.is_v5(),
            max_packet: options.max_packet,
            out: OutBuffer::default(),
            outbox_bytes: options.outbox_bytes,
            aliases: (options.aliases > 0).then(|| {
                Box::new(Aliases {
                    max: options.aliases,
                    by_topic: HashMap::default(),
                })
            }),
            extra: mount.map(|mount| {
                Box::new(Extra {
                    mount: Some(mount),
                    ..Extra::default()
                })
            }),
        }
    }

    /// Where the client's topics are mounted.
    pub(crate) fn mount(&self) -> Option<&Arc<Mount>> {
        self.extra.as_ref()?.mount.as_ref()
    }

    /// From now on `gate` is asked: for what comes out of the stored queue, or `for_all` messages.
    pub(crate) fn set_gate(&mut self, gate: Box<dyn Gate>, for_all: bool) {
        let extra = self.extra.get_or_insert_default();
        extra.gate_for_all |= for_all;
        extra.gate = Some(gate);
    }

    /// The client is a device whose configuration comes on this topic: of what it gets there is to be known when it acknowledges it.
    pub(crate) fn set_config_topic(&mut self, topic: &str) {
        self.extra.get_or_insert_default().config = Some(topic.into());
    }

    fn config_topic(&self) -> Option<&str> {
        self.extra.as_ref()?.config.as_deref()
    }

    /// Which version of the client's configuration a publish brings; `None`: it is something else.
    pub(crate) fn config_version(
        &self,
        publish: &Outgoing<'_>,
        publisher: Option<&str>,
    ) -> Option<NonZeroU64> {
        let mine = self.config_topic()? == publish.topic;
        mine.then(|| device_config::version_in(publish.properties, publisher))?
    }

    /// The same of a kept message. Who is no device does not look at its topic.
    pub(crate) fn config_version_of(&self, message: &Message) -> Option<NonZeroU64> {
        let mine = self.config_topic()? == message.topic();
        mine.then(|| device_config::version_in(message.properties(), message.publisher()))?
    }

    /// The client has got a subscription that it may have as a whole.
    pub(crate) fn granted(&mut self, filter: &str) {
        if let Some(gate) = self.extra.as_mut().and_then(|extra| extra.gate.as_mut()) {
            gate.granted(filter);
        }
    }

    /// Whether a message of this topic may go to the client at all. Nobody is routed what is another tenant's; if it
    /// happened, it would end here.
    pub(crate) fn is_for(&mut self, topic: &str) -> bool {
        let Some(extra) = &mut self.extra else {
            return true;
        };
        let mine = extra.mount.as_ref().is_none_or(|mount| mount.owns(topic));
        mine && match &mut extra.gate {
            Some(gate) if extra.gate_for_all => gate.lets(topic),
            _ => true,
        }
    }

    /// Whether a message of this topic that waited in a stored queue may still go to the client.
    pub(crate) fn lets(&mut self, topic: &str) -> bool {
        match self.extra.as_mut().and_then(|extra| extra.gate.as_mut()) {
            Some(gate) => gate.lets(topic),
            None => true,
        }
    }

    /// Whether `bytes` more may wait. A single packet longer than the bound may, when it is alone.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.out.is_empty() || self.fits(bytes)
    }

    /// Whether `bytes` more are within the bound.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        self.out.len() + bytes <= self.outbox_bytes
    }

    /// Whether publishes of these topics may be copied from their common encoding.
    pub(crate) fn takes_common_form<'t>(&self, mut topics: impl Iterator<Item = &'t str>) -> bool {
        self.aliases.is_none()
            && self.extra.as_ref().is_none_or(|extra| {
                let config = extra.config.as_deref();
                !extra.gate_for_all
                    && config.is_none_or(|config| topics.all(|topic| topic != config))
            })
    }

    /// Writes a publish.
    pub(crate) fn publish(&mut self, publish: &Outgoing<'_>) -> Result<(), TooLarge> {
        let mut topic = publish.topic;
        if self.extra.is_some() {
            if !self.is_for(topic) {
                return Err(TooLarge);
            }
            if let Some(mount) = self.mount() {
                topic = mount.own(topic).ok_or(TooLarge)?;
            }
        }
        let Some(aliases) = &mut self.aliases else {
            return self.write(publish, topic, None);
        };
        if let Some(alias) = aliases.by_topic.get(topic).copied() {
            return self.write(publish, "", Some(alias));
        }
        if aliases.by_topic.len() >= usize::from(aliases.max) {
            return self.write(publish, topic, None);
        }
        let alias = aliases.by_topic.len() as u16 + 1;
        self.write(publish, topic, Some(alias))?;
        if let Some(aliases) = &mut self.aliases {
            aliases.by_topic.insert(Arc::from(topic), alias);
        }
        Ok(())
    }

    /// Writes a kept message. `now_ms` is Unix time in milliseconds.
    pub(crate) fn publish_message(
        &mut self,
        message: &Message,
        delivery: &Delivery,
        packet_id: Option<PacketId>,
        dup: bool,
        now_ms: u64,
    ) -> Result<(), TooLarge> {
        self.publish(&Outgoing {
            topic: message.topic(),
            properties: message.properties(),
            expiry: remaining_expiry(message, now_ms),
            payload: Payload::Shared(message),
            qos: delivery.qos,
            retain: delivery.retain,
            dup,
            packet_id,
            subscription_ids: &delivery.subscription_ids,
        })
    }

    fn write(
        &mut self,
        publish: &Outgoing<'_>,
        topic: &str,
        alias: Option<u16>,
    ) -> Result<(), TooLarge> {
        let properties = match self.v5 {
            true => properties(publish, alias).map_err(|_| TooLarge)?,
            false => PropertiesBuf::default(),
        };
        let payload = publish.payload.bytes();
        let packet = Publish {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic,
            packet_id: publish.packet_id,
            properties: properties.as_properties(),
            payload: &[],
        };
        let tail = self.out.tail();
        let start = tail.len();
        let layout = packet.encode_without_payload(version(self.v5), payload.len(), tail);
        if !layout.is_ok_and(|layout| layout.len <= self.max_packet as usize) {
            tail.truncate(start);
            return Err(TooLarge);
        }
        match publish.payload.shared() {
            Some(shared) => {
                let header = tail.len() - start;
                self.out.appended(header);
                self.out.share(shared);
            }
            None => {
                tail.extend_from_slice(payload);
                let written = tail.len() - start;
                self.out.appended(written);
            }
        }
        Ok(())
    }

    /// Writes a PUBREL. Its encoding cannot fail: it has no text.
    pub(crate) fn pubrel(&mut self, packet_id: PacketId) {
        let tail = self.out.tail();
        let start = tail.len();
        if Packet::PubRel(Ack::new(packet_id, ReasonCode::SUCCESS))
            .encode(version(self.v5), tail)
            .is_err()
        {
            tail.truncate(start);
        }
        let written = tail.len() - start;
        self.out.appended(written);
    }
}

/// The properties of an MQTT 5 publish; those of the publisher last, unaltered and in their order.
fn properties(publish: &Outgoing<'_>, alias: Option<u16>) -> Result<PropertiesBuf, EncodeError> {
    let mut properties = PropertiesBuf::default();
    if let Some(seconds) = publish.expiry {
        properties.push(Property::MessageExpiryInterval(seconds))?;
    }
    if let Some(alias) = alias {
        properties.push(Property::TopicAlias(alias))?;
    }
    for id in publish.subscription_ids {
        properties.push(Property::SubscriptionIdentifier(*id))?;
    }
    properties.extend(Properties::from_validated(publish.properties));
    Ok(properties)
}
