//! Answers of Redis as replies.

use std::sync::Arc;

use bytes::Bytes;

use super::encode::Shape;
use super::resp::Value;
use crate::SessionId;
use crate::cluster::tap::{TapLevel, TapReply};
use crate::cluster::{
    AppendFate, DueItem, Epoch, OwnerEntry, RegistryEntry, ReplicaId, Reply, Route, SessionFields,
};
use crate::records::{PutOutcome, Record};

/// Reads the answer to a command of this shape; `None` if it is not an answer to it.
pub(super) fn decode(shape: Shape, value: Value) -> Option<Reply> {
    Some(match shape {
        Shape::Done => Reply::Done,
        Shape::DoneOrFenced => match value {
            Value::Int(0) => Reply::Fenced,
            _ => Reply::Done,
        },
        Shape::Flag => Reply::Flag(int(&value)? != 0),
        Shape::Numbers => Reply::Numbers(unsigned(&value)?),
        Shape::Version => Reply::Version(unsigned(&value)?),
        Shape::VersionOrFenced => match int(&value)? {
            -1 => Reply::Fenced,
            version => Reply::Version(u64::try_from(version).ok()?),
        },
        Shape::Versions => Reply::Versions(
            array(value)?
                .iter()
                .map(number_or_zero)
                .collect::<Option<_>>()?,
        ),
        Shape::OneVersion(_) => Reply::Version(number_or_zero(&value)?),
        Shape::Joined => Reply::Joined {
            replica: ReplicaId(unsigned(&value)?),
        },
        Shape::Renewed => renewed(value)?,
        Shape::Registry => registry(value)?,
        Shape::Claimed => claimed(value)?,
        Shape::Clients => Reply::Clients(array(value)?.iter().map(text).collect::<Option<_>>()?),
        Shape::Due => Reply::Due(array(value)?.iter().map(due).collect::<Option<_>>()?),
        Shape::Will => match value {
            Value::Nil => Reply::Will(None),
            value => Reply::Will(Some(will_body(value)?)),
        },
        Shape::Wills => Reply::Wills(
            pairs(value)?
                .map(|(epoch, body)| Some((Epoch(unsigned(&epoch)?), will_body(body)?)))
                .collect::<Option<_>>()?,
        ),
        Shape::Appended(count) => appended(value, count as usize)?,
        Shape::Queue => Reply::Queue(
            pairs(value)?
                .map(|(seq, body)| Some((unsigned(&seq)?, bulk(body)?)))
                .collect::<Option<_>>()?,
        ),
        Shape::Session => Reply::Session(session(value)?),
        Shape::Bucket => bucket(value)?,
        Shape::Routes => routes(value)?,
        Shape::InboxEntry => Reply::Flag(value != Value::Nil),
        Shape::Inbox => Reply::Inbox(inbox(value)?),
        Shape::TapAppended(count) => match value {
            Value::Int(-2) => Reply::Appended {
                owner: ReplicaId::default(),
                seqs: vec![AppendFate::Full; count as usize],
            },
            value => appended(value, count as usize)?,
        },
        Shape::RecordsPut(count) => records_put(value, count as usize)?,
        Shape::Records(count) => {
            let records = array(value)?
                .into_iter()
                .map(record)
                .collect::<Option<Vec<_>>>()?;
            if records.len() != count as usize {
                return None;
            }
            Reply::Records(records)
        }
        Shape::RecordKeys => {
            Reply::RecordKeys(array(value)?.iter().map(text).collect::<Option<_>>()?)
        }
        Shape::TapLeased => tap_leased(value)?,
        Shape::TapRead => tap_read(value)?,
        Shape::TapSeen => tap_seen(value)?,
        Shape::TapMembers => {
            let mut members = array(value)?
                .iter()
                .map(unsigned)
                .collect::<Option<Vec<_>>>()?;
            members.sort_unstable();
            Reply::Tap(TapReply::Members(members))
        }
        Shape::TapKnownBy => {
            let mut known = pairs(value)?
                .map(|(replica, revision)| {
                    Some((ReplicaId(unsigned(&replica)?), unsigned(&revision)?))
                })
                .collect::<Option<Vec<_>>>()?;
            known.sort_unstable();
            Reply::Tap(TapReply::KnownBy(known))
        }
    })
}

pub(super) fn array(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(values) => Some(values),
        Value::Nil => Some(Vec::new()),
        _ => None,
    }
}

fn fixed<const N: usize>(value: Value) -> Option<[Value; N]> {
    array(value)?.try_into().ok()
}

fn pairs(value: Value) -> Option<impl Iterator<Item = (Value, Value)>> {
    let mut values = array(value)?.into_iter();
    Some(std::iter::from_fn(move || {
        Some((values.next()?, values.next().unwrap_or(Value::Nil)))
    }))
}

pub(super) fn bulk(value: Value) -> Option<Bytes> {
    match value {
        Value::Bulk(bytes) => Some(bytes),
        _ => None,
    }
}

fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Int(int) => Some(*int),
        Value::Bulk(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

fn unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::Int(int) => u64::try_from(*int).ok(),
        Value::Bulk(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

fn number_or_zero(value: &Value) -> Option<u64> {
    match value {
        Value::Nil => Some(0),
        value => unsigned(value),
    }
}

fn text(value: &Value) -> Option<Arc<str>> {
    match value {
        Value::Bulk(bytes) => std::str::from_utf8(bytes).ok().map(Arc::from),
        _ => None,
    }
}

fn replicas(value: Value) -> Option<Vec<ReplicaId>> {
    let mut ids = array(value)?
        .iter()
        .map(|id| unsigned(id).map(ReplicaId))
        .collect::<Option<Vec<_>>>()?;
    ids.sort_unstable();
    Some(ids)
}

fn renewed(value: Value) -> Option<Reply> {
    let [alive, now_ms, live, lapsed, changed] = fixed(value)?;
    let alive = int(&alive)?;
    Some(Reply::Renewed {
        alive: alive > 0,
        lost: alive < 0,
        changed: int(&changed)? != 0,
        live: replicas(live)?,
        lapsed: replicas(lapsed)?,
        now_ms: unsigned(&now_ms)?,
    })
}

fn registry(value: Value) -> Option<Reply> {
    let mut entries = pairs(value)?
        .map(|(replica, info)| {
            let [replica, lease_ms] = fixed(replica)?;
            Some(RegistryEntry {
                replica: ReplicaId(unsigned(&replica)?),
                info: bulk(info)?,
                lease_ms: unsigned(&lease_ms)?,
            })
        })
        .collect::<Option<Vec<_>>>()?;
    entries.sort_by_key(|entry| entry.replica);
    Some(Reply::Registry(entries))
}

fn claimed(value: Value) -> Option<Reply> {
    let [
        epoch,
        sid,
        present,
        replica,
        old_epoch,
        will_epoch,
        will,
        record,
        fields,
    ] = fixed(value)?;
    let session = some_session(unsigned(&sid)?);
    let present = int(&present)? != 0;
    let will_epoch = unsigned(&will_epoch)?;
    Some(Reply::Claimed {
        epoch: Epoch(unsigned(&epoch)?),
        session,
        present,
        previous: (ReplicaId(unsigned(&replica)?), Epoch(unsigned(&old_epoch)?)),
        fields: self::session(fields)?.unwrap_or_default(),
        record: match present {
            true => Some(bulk(record)?),
            false => None,
        },
        old_will: match will_epoch {
            0 => None,
            epoch => Some((Epoch(epoch), bulk(will)?)),
        },
    })
}

fn some_session(number: u64) -> Option<SessionId> {
    (number != 0).then_some(SessionId(number))
}

fn due(value: &Value) -> Option<DueItem> {
    let text = text(value)?;
    let (kind, rest) = text.split_once(':')?;
    match kind {
        "s" => Some(DueItem::Session(SessionId(rest.parse().ok()?))),
        "w" => Some(DueItem::Will(Epoch(rest.parse().ok()?))),
        "r" => {
            let (code, key) = rest.split_once(':')?;
            let code = code.parse().ok()?;
            let key = Arc::from(key);
            Some(DueItem::Record { code, key })
        }
        _ => None,
    }
}

/// Revision (8), end (8), value.
fn record(value: Value) -> Option<Option<Record>> {
    if value == Value::Nil {
        return Some(None);
    }
    let bytes = bulk(value)?;
    let number = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    Some(Some(Record {
        revision: number(0)?,
        expires_at_ms: Some(number(8)?).filter(|end| *end != 0),
        value: bytes.slice(16..),
    }))
}

fn records_put(value: Value, count: usize) -> Option<Reply> {
    let mut values = array(value)?.into_iter();
    let version = unsigned(&values.next()?)?;
    let outcomes = values
        .map(|value| {
            Some(match value {
                Value::Int(revision) => PutOutcome::Done {
                    revision: u64::try_from(revision).ok()?,
                },
                found => PutOutcome::Conflict {
                    found: record(found)?,
                },
            })
        })
        .collect::<Option<Vec<_>>>()?;
    (outcomes.len() == count).then_some(Reply::RecordsPut { version, outcomes })
}

/// A stored will without its delay.
fn will_body(value: Value) -> Option<Bytes> {
    let body = bulk(value)?;
    (body.len() >= 4).then(|| body.slice(4..))
}

fn appended(value: Value, count: usize) -> Option<Reply> {
    let values = array(value)?;
    let Some((owner, fates)) = values.split_first() else {
        return Some(Reply::Appended {
            owner: ReplicaId::default(),
            seqs: vec![AppendFate::Gone; count],
        });
    };
    if let (Value::Int(first), [owner]) = (owner, fates) {
        let first = u64::try_from(*first).ok()?;
        return Some(Reply::Appended {
            owner: ReplicaId(unsigned(owner)?),
            seqs: (first..first.checked_add(count as u64)?)
                .map(AppendFate::At)
                .collect(),
        });
    }
    let seqs = fates
        .iter()
        .map(|fate| {
            Some(match int(fate)? {
                -1 => AppendFate::Repeated,
                -2 => AppendFate::Full,
                seq => AppendFate::At(u64::try_from(seq).ok()?),
            })
        })
        .collect::<Option<Vec<_>>>()?;
    if seqs.len() != count {
        return None;
    }
    Some(Reply::Appended {
        owner: ReplicaId(unsigned(owner)?),
        seqs,
    })
}

fn tap_leased(value: Value) -> Option<Reply> {
    if value == Value::Int(0) {
        return Some(Reply::Fenced);
    }
    let [
        epoch,
        tail,
        acknowledged,
        messages,
        bytes,
        dropped,
        checkpoint,
    ] = fixed(value)?;
    Some(Reply::Tap(TapReply::Leased {
        epoch: unsigned(&epoch)?,
        level: TapLevel {
            acknowledged: unsigned(&acknowledged)?,
            tail: unsigned(&tail)?,
            messages: unsigned(&messages)?,
            bytes: unsigned(&bytes)?,
            dropped: unsigned(&dropped)?,
        },
        checkpoint: bulk(checkpoint)?,
    }))
}

fn tap_read(value: Value) -> Option<Reply> {
    if value == Value::Int(0) {
        return Some(Reply::Fenced);
    }
    let mut values = array(value)?.into_iter();
    let mut number = || unsigned(&values.next()?);
    let level = TapLevel {
        tail: number()?,
        acknowledged: number()?,
        messages: number()?,
        bytes: number()?,
        dropped: number()?,
    };
    let mut frames = Vec::with_capacity(values.len() / 2);
    while let Some(last) = values.next() {
        frames.push((unsigned(&last)?, bulk(values.next()?)?));
    }
    Some(Reply::Tap(TapReply::Read { level, frames }))
}

fn tap_seen(value: Value) -> Option<Reply> {
    let mut values = array(value)?.into_iter();
    let mut number = || unsigned(&values.next()?);
    let (consumer, epoch, left_ms) = (number()?, number()?, number()?);
    let level = TapLevel {
        tail: number()?,
        acknowledged: number()?,
        messages: number()?,
        bytes: number()?,
        dropped: number()?,
    };
    let first = match values.next() {
        Some(last) => Some((unsigned(&last)?, bulk(values.next()?)?)),
        None => None,
    };
    Some(Reply::Tap(TapReply::Seen {
        consumer,
        epoch,
        left_ms,
        level,
        first,
    }))
}

fn little_endian(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// Fields of a session's hash; those of no concern here are passed over.
fn session(value: Value) -> Option<Option<SessionFields>> {
    let mut fields = SessionFields::default();
    let mut there = false;
    let mut gaps = Arc::from("");
    for (name, value) in pairs(value)? {
        there = true;
        let name = bulk(name)?;
        match &name[..] {
            b"ex" => fields.expiry_interval = u32::try_from(unsigned(&value)?).ok()?,
            b"ep" => fields.epoch = Epoch(unsigned(&value)?),
            b"ow" => fields.owner = ReplicaId(unsigned(&value)?),
            b"p" => {
                let packed = bulk(value)?;
                let mut numbers = packed.chunks_exact(8).filter_map(little_endian);
                fields.tail = numbers.next()?;
                fields.len = numbers.next()?;
                fields.bytes = numbers.next()?;
                fields.head = numbers.next()?;
            }
            b"j" => gaps = text(&value)?,
            [b'i', id @ ..] => {
                let id = std::str::from_utf8(id).ok()?.parse().ok()?;
                fields.inbound.push((id, little_endian(&bulk(value)?)?));
            }
            _ => {}
        }
    }
    fields.inbound.sort_unstable();
    fields.head = behind_gaps(fields.head, &gaps)?;
    Some(there.then_some(fields))
}

/// Where the first entry is, if a gap (`from:by;…`) begins at the head.
fn behind_gaps(mut head: u64, gaps: &str) -> Option<u64> {
    for gap in gaps.split_terminator(';') {
        let (from, by) = gap.split_once(':')?;
        if from.parse() == Ok(head) {
            head = head.checked_add(by.parse().ok()?)?;
        }
    }
    Some(head)
}

fn bucket(value: Value) -> Option<Reply> {
    let [version, retained, sessions, owners] = fixed(value)?;
    Some(Reply::Bucket {
        version: number_or_zero(&version)?,
        retained: pairs(retained)?
            .map(|(topic, body)| Some((text(&topic)?, bulk(body)?)))
            .collect::<Option<_>>()?,
        sessions: pairs(sessions)?
            .map(|(session, record)| Some((SessionId(unsigned(&session)?), bulk(record)?)))
            .collect::<Option<_>>()?,
        owners: pairs(owners)?
            .map(|(client, owner)| owner_entry(&client, &owner))
            .filter(|entry| !matches!(entry, Some(OwnerEntry { session: None, .. })))
            .collect::<Option<_>>()?,
    })
}

/// `replica:epoch:session`, and what a repeated claim is answered with.
fn owner_entry(client: &Value, owner: &Value) -> Option<OwnerEntry> {
    let owner = text(owner)?;
    let mut parts = owner.split(':').map(|part| part.parse::<u64>().ok());
    Some(OwnerEntry {
        client_id: text(client)?,
        replica: ReplicaId(parts.next()??),
        epoch: Epoch(parts.next()??),
        session: some_session(parts.next()??),
    })
}

fn routes(value: Value) -> Option<Reply> {
    let [version, routes] = fixed(value)?;
    Some(Reply::Routes {
        version: number_or_zero(&version)?,
        routes: pairs(routes)?
            .map(|(filter, route)| {
                let route = bulk(route)?;
                let [flags, low, high] = route[..].try_into().ok()?;
                let members = u16::from_le_bytes([low, high]);
                Some((text(&filter)?, Route { flags, members }))
            })
            .collect::<Option<_>>()?,
    })
}

/// Entries of a stream: `[[position, [field, frame]], …]`.
pub(super) fn inbox(value: Value) -> Option<Vec<((u64, u64), Bytes)>> {
    array(value)?
        .into_iter()
        .map(|entry| {
            let [position, fields] = fixed(entry)?;
            let position = text(&position)?;
            let (ms, n) = position.split_once('-')?;
            let [_, frame] = fixed(fields)?;
            Some(((ms.parse().ok()?, n.parse().ok()?), bulk(frame)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk_of(text: &str) -> Value {
        Value::Bulk(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn an_append_without_a_session_is_gone_for_every_entry() {
        let reply = decode(Shape::Appended(2), Value::Array(Vec::new()));
        let expected = Reply::Appended {
            owner: ReplicaId(0),
            seqs: vec![AppendFate::Gone; 2],
        };
        assert_eq!(reply, Some(expected));
    }

    #[test]
    fn an_answer_with_the_wrong_number_of_fates_makes_no_sense() {
        let value = Value::Array(vec![bulk_of("3"), Value::Int(7)]);
        assert_eq!(decode(Shape::Appended(2), value), None);
    }

    #[test]
    fn foreign_data_makes_no_sense_and_does_no_harm() {
        let shapes = [
            Shape::Flag,
            Shape::Version,
            Shape::Versions,
            Shape::Renewed,
            Shape::Registry,
            Shape::Claimed,
            Shape::Due,
            Shape::Bucket,
            Shape::Routes,
            Shape::Inbox,
            Shape::Queue,
        ];
        for shape in shapes {
            let value = Value::Array(vec![bulk_of("x"), bulk_of("y"), bulk_of("z")]);
            assert_eq!(decode(shape, value), None, "{shape:?}");
        }
    }
}
