//! Writing the frames of lanes: entries are encoded where they are to lie, behind room for the head.

use bytes::Bytes;

use super::entry::{
    APPLIED, APPLIED_ROUTES, ASK, ASK_ROUTES, FLAG_EXPIRES, FLAG_IDS, FLAG_PUBLISHER, FLAG_RETAIN,
    FLAG_SHARE, GROWN, HEARTBEAT, HELLO, LEAVING, LET_GO, MESSAGE, MessageView, QUEUED, SHARED,
    TAPPED, WELCOME,
};
use super::{Kind, head};
use crate::cluster::types::put_text16;
use crate::cluster::{Epoch, ReplicaId};
use crate::codec::{CodecError, put_u32, put_u64};
use crate::{Delivery, SessionId};

/// Head, destination and sequence number.
const START: usize = 28;

/// A frame that is being filled.
#[derive(Debug)]
pub(crate) struct Pack {
    bytes: Vec<u8>,
    messages: u32,
}

impl Default for Pack {
    fn default() -> Self {
        Self::with_capacity(512)
    }
}

impl Pack {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut pack = Vec::with_capacity(bytes.max(START));
        pack.resize(START, 0);
        Self {
            bytes: pack,
            messages: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() <= START
    }

    /// Bytes so far, the head included.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Messages so far.
    pub(crate) fn messages(&self) -> u32 {
        self.messages
    }

    /// The frame.
    pub(crate) fn seal(mut self, origin: ReplicaId, to: ReplicaId, sequence: u64) -> Bytes {
        let kind = if self.messages > 0 {
            Kind::Messages
        } else {
            Kind::Control
        };
        let start = head(kind, origin)
            .into_iter()
            .chain(to.0.to_le_bytes())
            .chain(sequence.to_le_bytes());
        for (place, byte) in self.bytes.iter_mut().zip(start) {
            *place = byte;
        }
        Bytes::from(self.bytes)
    }

    /// One entry: what `write` refuses leaves nothing behind.
    fn entry(
        &mut self,
        tag: u8,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
    ) -> Result<(), CodecError> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[tag, 0, 0, 0, 0]);
        let written = write(&mut self.bytes).and_then(|()| {
            let len = self.bytes.len() - start - 5;
            u32::try_from(len).map_err(|_| CodecError::TooLong {
                field: "entry",
                len,
                max: u32::MAX as usize,
            })
        });
        match written {
            Ok(len) => {
                if let Some(place) = self.bytes.get_mut(start + 1..start + 5) {
                    place.copy_from_slice(&len.to_le_bytes());
                }
                Ok(())
            }
            Err(error) => {
                self.bytes.truncate(start);
                Err(error)
            }
        }
    }

    /// A control entry of fixed fields, which cannot be too long.
    fn fixed(&mut self, tag: u8, fields: &[u64]) {
        self.bytes.push(tag);
        put_u32(&mut self.bytes, 8 * fields.len() as u32);
        for field in fields {
            put_u64(&mut self.bytes, *field);
        }
    }

    fn pairs(&mut self, tag: u8, pairs: impl ExactSizeIterator<Item = (u64, u64)>) {
        let count = pairs.len() as u32;
        self.bytes.push(tag);
        put_u32(&mut self.bytes, 4 + 16 * count);
        put_u32(&mut self.bytes, count);
        for (one, other) in pairs {
            put_u64(&mut self.bytes, one);
            put_u64(&mut self.bytes, other);
        }
    }

    pub(crate) fn message(
        &mut self,
        share: Option<&str>,
        message: &MessageView<'_>,
    ) -> Result<(), CodecError> {
        let tag = if share.is_some() { SHARED } else { MESSAGE };
        self.entry(tag, |out| {
            if let Some(share) = share {
                put_text16(out, share, "shared filter")?;
            }
            put_message(out, message)
        })?;
        self.messages += 1;
        Ok(())
    }

    pub(crate) fn queued(
        &mut self,
        session: SessionId,
        seq: u64,
        delivery: &Delivery,
        message: &MessageView<'_>,
    ) -> Result<(), CodecError> {
        self.entry(QUEUED, |out| {
            put_u64(out, session.0);
            put_u64(out, seq);
            put_delivery(out, delivery)?;
            put_message(out, message)
        })?;
        self.messages += 1;
        Ok(())
    }

    pub(crate) fn let_go(&mut self, client_id: &str, epoch: Epoch) -> Result<(), CodecError> {
        self.entry(LET_GO, |out| {
            put_u64(out, epoch.0);
            put_text16(out, client_id, "client id")
        })
    }

    pub(crate) fn hello(&mut self, round: u64, versions: &[u64], failovers: u64) {
        self.bytes.push(HELLO);
        put_u32(&mut self.bytes, 8 * (2 + versions.len() as u32));
        put_u64(&mut self.bytes, round);
        for version in versions {
            put_u64(&mut self.bytes, *version);
        }
        put_u64(&mut self.bytes, failovers);
    }

    pub(crate) fn welcome(&mut self, round: u64, failovers: u64) {
        self.fixed(WELCOME, &[round, failovers]);
    }

    pub(crate) fn applied(&mut self, pairs: impl ExactSizeIterator<Item = (u64, u64)>) {
        self.pairs(APPLIED, pairs);
    }

    pub(crate) fn applied_routes(&mut self, version: u64) {
        self.fixed(APPLIED_ROUTES, &[version]);
    }

    pub(crate) fn ask(&mut self, pairs: impl ExactSizeIterator<Item = (u64, u64)>) {
        self.pairs(ASK, pairs);
    }

    pub(crate) fn ask_routes(&mut self, version: u64) {
        self.fixed(ASK_ROUTES, &[version]);
    }

    pub(crate) fn heartbeat(&mut self, lanes: impl ExactSizeIterator<Item = (u64, u64)>) {
        self.pairs(HEARTBEAT, lanes);
    }

    pub(crate) fn grown(&mut self, session: SessionId, tail: u64) {
        self.fixed(GROWN, &[session.0, tail]);
    }

    pub(crate) fn leaving(&mut self) {
        self.fixed(LEAVING, &[]);
    }
}

/// An entry of a frame of kind 5. What is refused leaves nothing behind.
pub(crate) fn put_tapped(
    out: &mut Vec<u8>,
    number: u64,
    message: &MessageView<'_>,
) -> Result<(), CodecError> {
    let start = out.len();
    out.extend_from_slice(&[TAPPED, 0, 0, 0, 0]);
    put_u64(out, number);
    let written = put_message(out, message).and_then(|()| {
        let len = out.len() - start - 5;
        u32::try_from(len).map_err(|_| CodecError::TooLong {
            field: "entry",
            len,
            max: u32::MAX as usize,
        })
    });
    match written {
        Ok(len) => {
            if let Some(place) = out.get_mut(start + 1..start + 5) {
                place.copy_from_slice(&len.to_le_bytes());
            }
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

fn put_message(out: &mut Vec<u8>, message: &MessageView<'_>) -> Result<(), CodecError> {
    let mut flags = message.qos as u8;
    for (set, flag) in [
        (message.retain, FLAG_RETAIN),
        (message.expires_at.is_some(), FLAG_EXPIRES),
        (message.publisher.is_some(), FLAG_PUBLISHER),
    ] {
        if set {
            flags |= flag;
        }
    }
    out.push(flags);
    put_u64(out, message.received_at);
    put_u64(out, message.id);
    if let Some(at) = message.expires_at {
        put_u64(out, at);
    }
    if let Some(publisher) = message.publisher {
        put_text16(out, publisher, "publisher")?;
    }
    put_text16(out, message.topic, "topic")?;
    crate::codec::put_len(out, message.properties.len(), "properties")?;
    out.extend_from_slice(message.properties);
    crate::codec::put_len(out, message.payload.len(), "payload")?;
    out.extend_from_slice(message.payload);
    Ok(())
}

fn put_delivery(out: &mut Vec<u8>, delivery: &Delivery) -> Result<(), CodecError> {
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
    out.push(flags);
    if let Some(share) = &delivery.share {
        put_text16(out, share, "shared filter")?;
    }
    if !delivery.subscription_ids.is_empty() {
        crate::codec::put_len(
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
