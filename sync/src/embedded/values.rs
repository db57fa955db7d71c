//! Binary form of the records; each begins with a version byte.

use std::sync::Arc;

use dunlin_protocol::QoS;

use crate::codec::{CodecError, Reader, opt_u64, put_len, put_opt_u64, put_text, put_u32, put_u64};
use crate::{
    Delivery, Message, MessageError, SessionId, SessionRecord, SubscriptionRecord, WillRecord,
};

const VERSION: u8 = 1;

const INLINE: u8 = 1;
const SHARED: u8 = 2;
const RELEASED: u8 = 3;

const FLAG_RETAIN: u8 = 0b0000_0100;
const FLAG_SHARE: u8 = 0b0000_1000;
const FLAG_IDS: u8 = 0b0001_0000;
const FLAGS_KNOWN: u8 = 0b0001_1111;

/// A queue entry as stored.
pub(crate) enum StoredEntry<'a> {
    /// The message is part of the entry.
    Inline {
        delivery: Delivery,
        weight: u32,
        message: &'a [u8],
    },
    /// The message is in `bodies`.
    Shared {
        delivery: Delivery,
        weight: u32,
        body: u64,
    },
    Released,
}

impl StoredEntry<'_> {
    /// [`Message::size`] of the entry's message.
    pub(crate) fn weight(&self) -> u32 {
        match self {
            Self::Inline { weight, .. } | Self::Shared { weight, .. } => *weight,
            Self::Released => 0,
        }
    }
}

fn version(reader: &mut Reader<'_>) -> Result<(), CodecError> {
    match reader.u8("record version")? {
        VERSION => Ok(()),
        found => Err(unknown("record version", found)),
    }
}

fn unknown(field: &'static str, found: u8) -> CodecError {
    CodecError::Unknown {
        field,
        found: u64::from(found),
    }
}

pub(crate) fn put_inline(
    out: &mut Vec<u8>,
    delivery: &Delivery,
    message: &Message,
) -> Result<(), MessageError> {
    out.clear();
    put_delivery(out, INLINE, delivery, message)?;
    message.encode_into(out)
}

pub(crate) fn put_shared(
    out: &mut Vec<u8>,
    delivery: &Delivery,
    message: &Message,
    body: u64,
) -> Result<(), MessageError> {
    out.clear();
    put_delivery(out, SHARED, delivery, message)?;
    put_u64(out, body);
    Ok(())
}

/// The whole value of a released entry.
pub(crate) const RELEASED_ENTRY: [u8; 2] = [VERSION, RELEASED];

fn put_delivery(
    out: &mut Vec<u8>,
    kind: u8,
    delivery: &Delivery,
    message: &Message,
) -> Result<(), CodecError> {
    let mut flags = delivery.qos as u8;
    for (set, flag) in [
        (delivery.retain, FLAG_RETAIN),
        (delivery.share.is_some(), FLAG_SHARE),
        (!delivery.subscription_ids.is_empty(), FLAG_IDS),
    ] {
        if set {
            flags |= flag;
        }
    }
    out.extend_from_slice(&[VERSION, kind, flags]);
    put_len(out, message.size(), "message")?;
    if let Some(share) = &delivery.share {
        put_text(out, share, "shared filter")?;
    }
    if !delivery.subscription_ids.is_empty() {
        put_len(
            out,
            delivery.subscription_ids.len(),
            "subscription identifiers",
        )?;
        for id in &delivery.subscription_ids {
            put_u32(out, *id);
        }
    }
    Ok(())
}

pub(crate) fn entry(bytes: &[u8]) -> Result<StoredEntry<'_>, CodecError> {
    let mut reader = Reader::new(bytes);
    version(&mut reader)?;
    let kind = reader.u8("entry kind")?;
    if kind == RELEASED {
        reader.end()?;
        return Ok(StoredEntry::Released);
    }
    let (delivery, weight) = read_delivery(&mut reader)?;
    match kind {
        INLINE => Ok(StoredEntry::Inline {
            delivery,
            weight,
            message: reader.rest(),
        }),
        SHARED => {
            let body = reader.u64("body number")?;
            reader.end()?;
            Ok(StoredEntry::Shared {
                delivery,
                weight,
                body,
            })
        }
        found => Err(unknown("entry kind", found)),
    }
}

fn read_delivery(reader: &mut Reader<'_>) -> Result<(Delivery, u32), CodecError> {
    let flags = reader.u8("delivery flags")?;
    if flags & !FLAGS_KNOWN != 0 {
        return Err(unknown("delivery flags", flags));
    }
    let qos = QoS::try_from(flags & 0b11).map_err(|_| unknown("delivery qos", flags & 0b11))?;
    let weight = reader.u32("message size")?;
    let share = match flags & FLAG_SHARE {
        0 => None,
        _ => Some(Arc::from(reader.text("shared filter")?)),
    };
    let subscription_ids = match flags & FLAG_IDS {
        0 => Box::default(),
        _ => read_ids(reader)?,
    };
    let delivery = Delivery {
        qos,
        retain: flags & FLAG_RETAIN != 0,
        subscription_ids,
        share,
    };
    Ok((delivery, weight))
}

fn read_ids(reader: &mut Reader<'_>) -> Result<Box<[u32]>, CodecError> {
    const FIELD: &str = "subscription identifiers";
    let count = reader.u32(FIELD)? as usize;
    // The bytes are there before the memory is spent.
    let mut ids = Reader::new(reader.bytes(count.saturating_mul(4), FIELD)?);
    (0..count).map(|_| ids.u32(FIELD)).collect()
}

pub(crate) fn put_session(out: &mut Vec<u8>, record: &SessionRecord) -> Result<(), CodecError> {
    out.clear();
    out.push(VERSION);
    put_text(out, &record.client_id, "client id")?;
    put_u32(out, record.expiry_interval);
    put_opt_u64(out, record.disconnected_at);
    put_u64(out, record.epoch);
    Ok(())
}

pub(crate) fn session(id: SessionId, bytes: &[u8]) -> Result<SessionRecord, CodecError> {
    let mut reader = Reader::new(bytes);
    version(&mut reader)?;
    let record = SessionRecord {
        id,
        client_id: Arc::from(reader.text("client id")?),
        expiry_interval: reader.u32("expiry interval")?,
        disconnected_at: opt_u64(&mut reader, "disconnected_at")?,
        epoch: reader.u64("epoch")?,
    };
    reader.end()?;
    Ok(record)
}

pub(crate) fn put_subscription(
    out: &mut Vec<u8>,
    record: &SubscriptionRecord,
) -> Result<(), CodecError> {
    out.clear();
    out.extend_from_slice(&[VERSION, record.options]);
    put_opt_u64(out, record.identifier.map(u64::from));
    put_text(out, &record.filter, "topic filter")
}

pub(crate) fn subscription(bytes: &[u8]) -> Result<SubscriptionRecord, CodecError> {
    let mut reader = Reader::new(bytes);
    version(&mut reader)?;
    let options = reader.u8("subscription options")?;
    let identifier = opt_u32(&mut reader, "subscription identifier")?;
    let filter = Box::from(reader.text("topic filter")?);
    reader.end()?;
    Ok(SubscriptionRecord {
        filter,
        options,
        identifier,
    })
}

fn opt_u32(reader: &mut Reader<'_>, field: &'static str) -> Result<Option<u32>, CodecError> {
    opt_u64(reader, field)?
        .map(|value| {
            u32::try_from(value).map_err(|_| CodecError::Unknown {
                field,
                found: value,
            })
        })
        .transpose()
}

pub(crate) fn put_will(out: &mut Vec<u8>, will: &WillRecord) -> Result<(), MessageError> {
    out.clear();
    out.push(VERSION);
    put_text(out, &will.client_id, "client id")?;
    put_opt_u64(out, will.session.map(|session| session.0));
    put_u64(out, will.epoch);
    put_u32(out, will.delay);
    put_opt_u64(out, will.due_at);
    put_opt_u64(out, will.expiry_interval.map(u64::from));
    will.message.encode_into(out)
}

pub(crate) fn will(bytes: &[u8]) -> Result<WillRecord, MessageError> {
    let mut reader = Reader::new(bytes);
    version(&mut reader)?;
    Ok(WillRecord {
        client_id: Arc::from(reader.text("client id")?),
        session: opt_u64(&mut reader, "will session")?.map(SessionId),
        epoch: reader.u64("epoch")?,
        delay: reader.u32("will delay")?,
        due_at: opt_u64(&mut reader, "due_at")?,
        expiry_interval: opt_u32(&mut reader, "message expiry")?,
        message: Arc::new(Message::decode(reader.rest())?),
    })
}
