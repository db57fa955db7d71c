//! The entries of the frames on lanes.

use std::sync::Arc;

use dunlin_protocol::QoS;

use super::FrameError;
use crate::cluster::types::text16;
use crate::cluster::{BUCKETS, Epoch};
use crate::codec::{CodecError, Reader};
use crate::{Delivery, Message, MessageParts, SessionId};

pub(super) const MESSAGE: u8 = 1;
pub(super) const SHARED: u8 = 2;
pub(super) const QUEUED: u8 = 3;
pub(super) const TAPPED: u8 = 4;
pub(super) const HELLO: u8 = 32;
pub(super) const WELCOME: u8 = 33;
pub(super) const LET_GO: u8 = 34;
pub(super) const APPLIED: u8 = 35;
pub(super) const APPLIED_ROUTES: u8 = 36;
pub(super) const ASK: u8 = 37;
pub(super) const ASK_ROUTES: u8 = 38;
pub(super) const HEARTBEAT: u8 = 39;
pub(super) const GROWN: u8 = 40;
pub(super) const LEAVING: u8 = 41;

pub(super) const FLAG_RETAIN: u8 = 0b0000_0100;
pub(super) const FLAG_EXPIRES: u8 = 0b0000_1000;
pub(super) const FLAG_PUBLISHER: u8 = 0b0001_0000;
pub(super) const FLAG_SHARE: u8 = 0b0000_1000;
pub(super) const FLAG_IDS: u8 = 0b0001_0000;

/// An entry: tag (1), length of the rest (4), the rest.
#[derive(Clone, Debug)]
pub(crate) enum Entry<'a> {
    /// To the connected sessions there whose interest it matches; `share`: to one member of this group
    /// and to nobody else.
    Message {
        share: Option<&'a str>,
        message: MessageView<'a>,
    },
    /// Is in the queue of a session that is connected there.
    Queued {
        session: SessionId,
        seq: u64,
        delivery: Delivery,
        message: MessageView<'a>,
    },
    /// Is in a partition of a tap; the number that it has at its origin.
    Tapped {
        number: u64,
        message: MessageView<'a>,
    },
    /// A replica has loaded its tables and wants to be known; the versions that it has of the buckets, and
    /// the number of failovers after which it has written again what it had had acknowledged.
    Hello {
        round: u64,
        versions: Vec<u64>,
        failovers: u64,
    },
    /// The answer to a hello.
    Welcome { round: u64, failovers: u64 },
    /// A client is another's: the claim that ends.
    LetGo { client_id: &'a str, epoch: Epoch },
    /// (Bucket, version) that the origin has applied.
    Applied(Pairs<'a>),
    /// The version of the destination's routes that the origin has applied.
    AppliedRoutes(u64),
    /// (Bucket, version) that the origin waits for.
    Ask(Pairs<'a>),
    /// The version of its own routes that the origin waits for.
    AskRoutes(u64),
    /// (Replica, sequence number) of the origin's lanes.
    Heartbeat(Pairs<'a>),
    /// The queue of a session that is connected there reaches up to here.
    Grown { session: SessionId, tail: u64 },
    /// The origin is leaving.
    Leaving,
    /// A newer replica's.
    Unknown(u8),
}

/// The entries of a frame, in order. Ends after the first damage.
#[derive(Clone, Debug)]
pub(crate) struct Entries<'a> {
    left: &'a [u8],
}

impl<'a> Entries<'a> {
    pub(super) fn new(left: &'a [u8]) -> Self {
        Self { left }
    }

    /// How many there may be, for the memory that is set aside for them.
    pub(crate) fn guess(&self) -> usize {
        const TYPICAL: usize = 128;
        self.left.len() / TYPICAL + 1
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        let mut reader = Reader::new(self.left);
        let read = entry(&mut reader);
        self.left = if read.is_ok() { reader.rest() } else { &[] };
        Some(read.map_err(FrameError::from))
    }
}

fn entry<'a>(reader: &mut Reader<'a>) -> Result<Entry<'a>, CodecError> {
    let tag = reader.u8("tag of an entry")?;
    let len = reader.u32("length of an entry")? as usize;
    let mut body = Reader::new(reader.bytes(len, "entry")?);
    let body = &mut body;
    Ok(match tag {
        MESSAGE => Entry::Message {
            share: None,
            message: message(body)?,
        },
        SHARED => Entry::Message {
            share: Some(text16(body, "shared filter")?),
            message: message(body)?,
        },
        QUEUED => Entry::Queued {
            session: SessionId(body.u64("session")?),
            seq: body.u64("sequence number in the queue")?,
            delivery: delivery(body)?,
            message: message(body)?,
        },
        TAPPED => Entry::Tapped {
            number: body.u64("number of a message")?,
            message: message(body)?,
        },
        HELLO => hello(body)?,
        WELCOME => Entry::Welcome {
            round: body.u64("round")?,
            failovers: body.u64("number of failovers")?,
        },
        LET_GO => Entry::LetGo {
            epoch: Epoch(body.u64("epoch")?),
            client_id: text16(body, "client id")?,
        },
        APPLIED => Entry::Applied(Pairs::read(body)?),
        APPLIED_ROUTES => Entry::AppliedRoutes(body.u64("version of routes")?),
        ASK => Entry::Ask(Pairs::read(body)?),
        ASK_ROUTES => Entry::AskRoutes(body.u64("version of routes")?),
        HEARTBEAT => Entry::Heartbeat(Pairs::read(body)?),
        GROWN => Entry::Grown {
            session: SessionId(body.u64("session")?),
            tail: body.u64("tail of the queue")?,
        },
        LEAVING => Entry::Leaving,
        other => Entry::Unknown(other),
    })
}

fn hello<'a>(body: &mut Reader<'a>) -> Result<Entry<'a>, CodecError> {
    let round = body.u64("round")?;
    let versions = (0..BUCKETS)
        .map(|_| body.u64("version of a bucket"))
        .collect::<Result<_, _>>()?;
    Ok(Entry::Hello {
        round,
        versions,
        failovers: body.u64("number of failovers")?,
    })
}

/// Pairs of numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pairs<'a> {
    bytes: &'a [u8],
}

impl<'a> Pairs<'a> {
    fn read(body: &mut Reader<'a>) -> Result<Self, CodecError> {
        let count = body.u32("number of pairs")? as usize;
        Ok(Self {
            bytes: body.bytes(count.saturating_mul(16), "pairs")?,
        })
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = (u64, u64)> + 'a {
        let (pairs, _) = self.bytes.as_chunks::<16>();
        pairs.iter().map(|pair| {
            let both = u128::from_le_bytes(*pair);
            (both as u64, (both >> 64) as u64)
        })
    }
}

fn delivery(body: &mut Reader<'_>) -> Result<Delivery, CodecError> {
    let flags = body.u8("delivery flags")?;
    let qos = qos(flags)?;
    let share = match flags & FLAG_SHARE {
        0 => None,
        _ => Some(Arc::from(text16(body, "shared filter")?)),
    };
    let subscription_ids = match flags & FLAG_IDS {
        0 => Box::default(),
        _ => subscription_ids(body)?,
    };
    Ok(Delivery {
        qos,
        retain: flags & FLAG_RETAIN != 0,
        subscription_ids,
        share,
    })
}

fn subscription_ids(body: &mut Reader<'_>) -> Result<Box<[u32]>, CodecError> {
    const FIELD: &str = "subscription identifiers";
    let count = body.u32(FIELD)? as usize;
    // The bytes are there before the memory is spent.
    let mut ids = Reader::new(body.bytes(count.saturating_mul(4), FIELD)?);
    (0..count).map(|_| ids.u32(FIELD)).collect()
}

fn qos(flags: u8) -> Result<QoS, CodecError> {
    QoS::try_from(flags & 0b11).map_err(|_| CodecError::Unknown {
        field: "quality of service",
        found: u64::from(flags & 0b11),
    })
}

/// A message in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageView<'a> {
    pub(crate) topic: &'a str,
    pub(crate) properties: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) expires_at: Option<u64>,
    pub(crate) received_at: u64,
    pub(crate) publisher: Option<&'a str>,
    pub(crate) id: u64,
}

fn message<'a>(body: &mut Reader<'a>) -> Result<MessageView<'a>, CodecError> {
    let flags = body.u8("message flags")?;
    let received_at = body.u64("received_at")?;
    let id = body.u64("message id")?;
    let expires_at = match flags & FLAG_EXPIRES {
        0 => None,
        _ => Some(body.u64("expires_at")?),
    };
    let publisher = match flags & FLAG_PUBLISHER {
        0 => None,
        _ => Some(text16(body, "publisher")?),
    };
    let topic = text16(body, "topic")?;
    let len = body.u32("length of the properties")? as usize;
    let properties = body.bytes(len, "properties")?;
    let len = body.u32("length of the payload")? as usize;
    Ok(MessageView {
        topic,
        properties,
        payload: body.bytes(len, "payload")?,
        qos: qos(flags)?,
        retain: flags & FLAG_RETAIN != 0,
        expires_at,
        received_at,
        publisher,
        id,
    })
}

impl<'a> MessageView<'a> {
    /// With the publisher's name in a counted text.
    pub(crate) fn parts(&self, publisher: Option<Arc<str>>) -> MessageParts<'a> {
        MessageParts {
            topic: self.topic,
            properties: self.properties,
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            expires_at: self.expires_at,
            received_at: self.received_at,
            publisher,
            id: self.id,
        }
    }

    /// A message of its own.
    pub(crate) fn to_message(self) -> Arc<Message> {
        Arc::new(Message::new(self.parts(self.publisher.map(Arc::from))))
    }

    /// What a frame says of a stored message.
    pub(crate) fn of(message: &'a Message) -> Self {
        Self {
            topic: message.topic(),
            properties: message.properties(),
            payload: message.payload(),
            qos: message.qos(),
            retain: message.retain(),
            expires_at: message.expires_at(),
            received_at: message.received_at(),
            publisher: message.publisher(),
            id: message.id(),
        }
    }

    /// What a frame says of a message that is about to be sent.
    pub(crate) fn of_parts(parts: &'a MessageParts<'a>) -> Self {
        Self {
            topic: parts.topic,
            properties: parts.properties,
            payload: parts.payload,
            qos: parts.qos,
            retain: parts.retain,
            expires_at: parts.expires_at,
            received_at: parts.received_at,
            publisher: parts.publisher.as_deref(),
            id: parts.id,
        }
    }
}
