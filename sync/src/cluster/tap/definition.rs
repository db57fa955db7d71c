//! What a tap takes, and how every replica comes to know of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dunlin_protocol::{QoS, topic};
use tokio::time::Instant;

use super::{TapBound, TapReply, TapRequest};
use crate::cluster::frame::{Kind, head};
use crate::cluster::types::{put_text16, text16};
use crate::cluster::{Backplane, BackplaneError, Bucket, ReplicaId, Reply, Request};
use crate::codec::{CodecError, Reader, put_u32, put_u64};
use crate::{Message, MessageError, MessageParts};

/// What the keys of definitions in the table of retained messages begin with: no topic has a `#`.
const KEY: &str = "#tap/";
/// Version of the stored form.
const VERSION: u8 = 1;
/// Longest name.
const NAME_MAX: usize = 64;
/// Most partitions.
const PARTITIONS_MAX: u16 = 1024;
/// Most filters.
const FILTERS_MAX: usize = 1024;
/// Time between two looks whether all replicas know.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What happens when a partition is at its bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Publishers of what matches are not acknowledged until there is room.
    #[default]
    Slow,
    /// The oldest messages go, and are counted.
    DropOldest,
}

/// A tap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// 1 to 64 of `a-z`, `0-9`, `_` and `-`.
    pub name: Arc<str>,
    /// Topic filters, at least one; no shared ones.
    pub filters: Vec<Box<str>>,
    /// How many partitions, 1 to 1,024. May grow, and does not shrink.
    pub partitions: u16,
    /// What happens at the bound.
    pub when_full: WhenFull,
    /// Bound of each partition: messages.
    pub max_messages: u64,
    /// Bound of each partition: bytes.
    pub max_bytes: u64,
    /// Which version of the definition; [`define`] draws it.
    pub revision: u64,
}

/// Why a tap cannot be made, or is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// It makes no sense.
    #[error("the tap {name:?}: {reason}")]
    Invalid {
        /// Its name.
        name: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Redis refuses.
    #[error("the tap cannot be written: {0}")]
    Refused(BackplaneError),
    /// The answer makes no sense.
    #[error("the tap cannot be read: {0}")]
    Damaged(String),
    /// Replicas do not say that they know of it.
    #[error("{} replicas have not applied the tap within {} ms: {replicas:?}", replicas.len(), waited.as_millis())]
    Unknown {
        /// They.
        replicas: Vec<u64>,
        /// How long was waited.
        waited: Duration,
    },
}

impl Definition {
    /// A tap with one partition and bounds of 10 million messages and 4 GiB.
    #[must_use]
    pub fn new(name: &str, filters: impl IntoIterator<Item = impl Into<Box<str>>>) -> Self {
        Self {
            name: Arc::from(name),
            filters: filters.into_iter().map(Into::into).collect(),
            partitions: 1,
            when_full: WhenFull::Slow,
            max_messages: 10_000_000,
            max_bytes: 4 << 30,
            revision: 0,
        }
    }

    /// Refuses what makes no sense.
    ///
    /// # Errors
    ///
    /// Says what.
    pub fn check(&self) -> Result<(), DefinitionError> {
        let invalid = |reason: String| {
            Err(DefinitionError::Invalid {
                name: self.name.to_string(),
                reason,
            })
        };
        let named = self
            .name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        if !named || !(1..=NAME_MAX).contains(&self.name.len()) {
            return invalid(format!(
                "a name has 1 to {NAME_MAX} of the characters a-z, 0-9, _ and -"
            ));
        }
        if !(1..=PARTITIONS_MAX).contains(&self.partitions) {
            return invalid(format!(
                "it has {} partitions, and there can be 1 to {PARTITIONS_MAX}",
                self.partitions
            ));
        }
        if !(1..=FILTERS_MAX).contains(&self.filters.len()) {
            return invalid(format!(
                "it has {} filters, and there can be 1 to {FILTERS_MAX}",
                self.filters.len()
            ));
        }
        if self.max_messages == 0 || self.max_bytes == 0 {
            return invalid("its bounds must be above 0".to_owned());
        }
        for filter in &self.filters {
            if let Err(error) = topic::check_filter(filter) {
                return invalid(format!("{filter:?} is no topic filter: {error}"));
            }
            if filter.starts_with("$share/") {
                return invalid(format!(
                    "{filter:?} is shared: a tap has partitions instead"
                ));
            }
        }
        Ok(())
    }

    /// The bound as it goes along with appends.
    #[must_use]
    pub fn bound(&self) -> TapBound {
        TapBound {
            messages: self.max_messages,
            bytes: self.max_bytes,
            drop_oldest: self.when_full == WhenFull::DropOldest,
        }
    }

    /// The partition of a publisher: all of its messages are in one.
    #[must_use]
    pub fn partition_of(&self, client_id: &str) -> u16 {
        let hash = xxhash_rust::xxh3::xxh3_64(client_id.as_bytes());
        (hash % u64::from(self.partitions.max(1))) as u16
    }

    /// The definition in a message of the table of retained messages; `None`: it is a message.
    ///
    /// # Errors
    ///
    /// It is a definition, and cannot be read.
    pub fn of_message(message: &Message) -> Option<Result<Self, MessageError>> {
        let name = name_of(message.topic())?;
        Some(Self::decode(name, message.payload()).map_err(MessageError::from))
    }

    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let mut out = vec![VERSION, u8::from(self.when_full == WhenFull::DropOldest)];
        out.extend_from_slice(&self.partitions.to_le_bytes());
        for number in [self.max_messages, self.max_bytes, self.revision] {
            put_u64(&mut out, number);
        }
        put_u32(&mut out, self.filters.len() as u32);
        for filter in &self.filters {
            put_text16(&mut out, filter, "topic filter")?;
        }
        Ok(out)
    }

    fn decode(name: &str, bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8("version of a tap")?;
        if version != VERSION {
            return Err(CodecError::Unknown {
                field: "version of a tap",
                found: u64::from(version),
            });
        }
        let when_full = match reader.u8("what a tap does when it is full")? {
            0 => WhenFull::Slow,
            _ => WhenFull::DropOldest,
        };
        let partitions = reader.u16("partitions of a tap")?;
        let max_messages = reader.u64("bound in messages")?;
        let max_bytes = reader.u64("bound in bytes")?;
        let revision = reader.u64("revision of a tap")?;
        let count = reader.u32("number of filters")? as usize;
        let mut filters = Vec::with_capacity(count.min(reader.left() / 2));
        for _ in 0..count {
            filters.push(Box::from(text16(&mut reader, "topic filter")?));
        }
        Ok(Self {
            name: Arc::from(name),
            filters,
            partitions,
            when_full,
            max_messages,
            max_bytes,
            revision,
        })
    }
}

/// The tap that a key in the table of retained messages is of; `None`: it is a topic.
#[must_use]
pub fn name_of(key: &str) -> Option<&str> {
    key.strip_prefix(KEY)
}

pub(super) async fn ask(
    backplane: &dyn Backplane,
    request: Request,
) -> Result<Reply, DefinitionError> {
    let answers = backplane.execute(vec![request]).await;
    let answer = answers.into_iter().next();
    answer
        .unwrap_or(Err(BackplaneError::Closed))
        .map_err(DefinitionError::Refused)
}

/// The tap of this name, if there is one.
///
/// # Errors
///
/// Redis refuses, or what is there cannot be read.
pub async fn known(
    backplane: &dyn Backplane,
    name: &str,
) -> Result<Option<Definition>, DefinitionError> {
    let key = format!("{KEY}{name}");
    let bucket = Bucket::of(&key);
    let reply = ask(backplane, Request::LoadBucket { bucket }).await?;
    let Reply::Bucket { retained, .. } = reply else {
        return Err(DefinitionError::Damaged(format!("{reply:.60?}")));
    };
    let Some((_, body)) = retained.iter().find(|(topic, _)| **topic == *key) else {
        return Ok(None);
    };
    let message =
        Message::decode(body).map_err(|error| DefinitionError::Damaged(error.to_string()))?;
    match Definition::of_message(&message) {
        Some(Ok(definition)) => Ok(Some(definition)),
        Some(Err(error)) => Err(DefinitionError::Damaged(error.to_string())),
        None => Ok(None),
    }
}

/// Makes a tap, or changes it; resolves when every replica whose lease runs appends to it. `revision` is a random number.
///
/// Dropping the future may leave it made.
///
/// # Errors
///
/// It makes no sense, it would have fewer partitions than it has, Redis refuses, or a replica has not said within `patience` that it
/// knows. In the last case it is there, and the replica appends to it as soon as it can.
pub async fn define(
    backplane: &dyn Backplane,
    definition: &Definition,
    revision: u64,
    patience: Duration,
) -> Result<(), DefinitionError> {
    definition.check()?;
    let before = known(backplane, &definition.name).await?;
    if let Some(before) = before.filter(|before| before.partitions > definition.partitions) {
        return Err(DefinitionError::Invalid {
            name: definition.name.to_string(),
            reason: format!(
                "it has {} partitions and cannot have fewer: what lies in the others would not be read. Take another name, \
                 or remove it when it is empty",
                before.partitions
            ),
        });
    }
    let mut definition = definition.clone();
    definition.revision = revision;
    put(backplane, &definition).await?;
    until_known(backplane, &definition, patience).await
}

async fn put(backplane: &dyn Backplane, definition: &Definition) -> Result<(), DefinitionError> {
    let damaged = |error: &dyn std::fmt::Display| DefinitionError::Damaged(error.to_string());
    let key = format!("{KEY}{}", definition.name);
    let payload = definition.encode().map_err(|error| damaged(&error))?;
    let message = Message::new(MessageParts {
        topic: &key,
        properties: &[],
        payload: &payload,
        qos: QoS::AtLeastOnce,
        retain: true,
        expires_at: None,
        received_at: 0,
        publisher: None,
        id: 0,
    });
    let mut body = Vec::new();
    message
        .encode_into(&mut body)
        .map_err(|error| damaged(&error))?;
    let request = Request::PutRetained {
        topic: Arc::from(key),
        body: Bytes::from(body),
        head: head(Kind::Table, ReplicaId(0)),
    };
    ask(backplane, request).await.map(drop)
}

async fn until_known(
    backplane: &dyn Backplane,
    definition: &Definition,
    patience: Duration,
) -> Result<(), DefinitionError> {
    let until = Instant::now() + patience;
    loop {
        let registry = ask(backplane, Request::Registry).await?;
        let request = TapRequest::WhoKnows {
            tap: Arc::clone(&definition.name),
        };
        let known_by = ask(backplane, Request::Tap(request)).await?;
        let (Reply::Registry(replicas), Reply::Tap(TapReply::KnownBy(known_by))) =
            (registry, known_by)
        else {
            return Err(DefinitionError::Damaged("the register".to_owned()));
        };
        let knows = |replica: ReplicaId| known_by.contains(&(replica, definition.revision));
        let lacking: Vec<u64> = replicas
            .iter()
            .filter(|entry| entry.lease_ms > 0 && !knows(entry.replica))
            .map(|entry| entry.replica.0)
            .collect();
        if lacking.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(DefinitionError::Unknown {
                replicas: lacking,
                waited: patience,
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Removes a tap: nothing more is appended. What its partitions hold stays until it is removed by hand.
///
/// # Errors
///
/// Redis refuses.
pub async fn undefine(backplane: &dyn Backplane, name: &str) -> Result<(), DefinitionError> {
    let request = Request::DeleteRetained {
        topic: Arc::from(format!("{KEY}{name}")),
        head: head(Kind::Table, ReplicaId(0)),
    };
    ask(backplane, request).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_whose_names_differ_in_a_letter_are_spread_over_the_partitions() {
        let mut definition = Definition::new("t", ["#"]);
        definition.partitions = 4;
        let mut counts = [0_u32; 4];
        for number in 0..1_000 {
            counts[usize::from(definition.partition_of(&format!("d{number}")))] += 1;
        }
        assert!(counts.iter().all(|count| *count > 200), "{counts:?}");
        let few: std::collections::BTreeSet<u16> = (b'a'..=b'j')
            .map(|letter| definition.partition_of(&char::from(letter).to_string()))
            .collect();
        assert_eq!(few.len(), 4);
    }
}
