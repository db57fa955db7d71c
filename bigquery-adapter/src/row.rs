//! One message as a row, and its form in the journal.
//!
//! A row borrows: from the read buffer of the source while it is encoded, from the journal segment while it is
//! turned into columns. Between the two it is bytes, so that a message on its way costs one copy and no allocation
//! of its own.

use crate::encoding::{Reader, put_bytes, put_option, put_varint};
use crate::error::EncodingError;

/// How the source delivered the message, with what is needed to know it again when it is sent a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// QoS 0: never sent again.
    AtMostOnce,
    /// QoS 1, under this packet id.
    AtLeastOnce(u16),
    /// QoS 2, under this packet id, which stays taken until the row's release.
    ExactlyOnce(u16),
}

impl Delivery {
    /// The QoS as a number, 0 to 2.
    #[must_use]
    pub const fn qos(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce(_) => 1,
            Self::ExactlyOnce(_) => 2,
        }
    }

    const fn packet_id(self) -> u16 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce(id) | Self::ExactlyOnce(id) => id,
        }
    }
}

/// One message, as it will be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Row<'a> {
    /// Microseconds since 1970-01-01 UTC, when the adapter read the message from its source.
    pub received_at: i64,
    /// The replica that accepted the message, where it comes from a tap; then the number is the replica's.
    pub origin: Option<u64>,
    /// Number of the message within its warehouse. Two rows with one number are one message that the source sent
    /// twice (as far as that can be known).
    pub number: u64,
    /// How it came.
    pub delivery: Delivery,
    /// See [`fingerprint`].
    pub fingerprint: u64,
    /// The retain flag, as published.
    pub retain: bool,
    /// Topic name.
    pub topic: &'a str,
    /// Body.
    pub payload: &'a [u8],
    /// Client id of the publisher, where the broker vouches for it.
    pub client_id: Option<&'a str>,
    /// Its tenant, where the broker knows one.
    pub tenant: Option<&'a str>,
    /// The id of its device in the broker's registry, where it has one.
    pub device_id: Option<&'a str>,
    /// Property of the same name.
    pub content_type: Option<&'a str>,
    /// Property of the same name.
    pub response_topic: Option<&'a str>,
    /// Property of the same name.
    pub correlation_data: Option<&'a [u8]>,
    /// User properties in their order; names may repeat.
    pub user_properties: UserProperties<'a>,
}

/// User properties: encoded pairs, read by [`UserProperties::iter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserProperties<'a> {
    count: u64,
    bytes: &'a [u8],
}

impl<'a> UserProperties<'a> {
    /// The pairs in their order.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut reader = Reader::new(self.bytes);
        (0..self.count).map_while(move |_| Some((reader.text().ok()?, reader.text().ok()?)))
    }
}

/// Collects user properties; cleared and used again for every message.
#[derive(Debug, Default)]
pub struct UserPropertiesBuf {
    count: u64,
    bytes: Vec<u8>,
}

impl UserPropertiesBuf {
    /// Forgets all pairs and keeps the memory.
    pub fn clear(&mut self) {
        self.count = 0;
        self.bytes.clear();
    }

    /// Adds a pair at the end.
    pub fn push(&mut self, key: &str, value: &str) {
        self.count += 1;
        put_bytes(&mut self.bytes, key.as_bytes());
        put_bytes(&mut self.bytes, value.as_bytes());
    }

    /// All pairs.
    #[must_use]
    pub fn as_properties(&self) -> UserProperties<'_> {
        UserProperties {
            count: self.count,
            bytes: &self.bytes,
        }
    }
}

/// Writes the id of a message: who numbered it, and the number.
///
/// # Errors
/// When `out` fails.
pub fn write_message_id(
    out: &mut impl std::fmt::Write,
    origin: u64,
    number: u64,
) -> std::fmt::Result {
    write!(out, "{origin:08x}-{number:016x}")
}

/// Tells one message from another that carries the same packet id: a checksum each of topic and payload.
///
/// Not a secret and not collision-proof against somebody who tries; it only ever decides between two messages of
/// the same session and packet id.
#[must_use]
pub fn fingerprint(topic: &str, payload: &[u8]) -> u64 {
    (u64::from(crc32fast::hash(topic.as_bytes())) << 32) | u64::from(crc32fast::hash(payload))
}

/// The part of a row that says which message it is: all that has to be read to keep the [ledger](crate::ledger).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// See [`Row::origin`].
    pub origin: Option<u64>,
    /// See [`Row::number`].
    pub number: u64,
    /// See [`Row::delivery`].
    pub delivery: Delivery,
    /// See [`fingerprint`].
    pub fingerprint: u64,
}

impl Identity {
    /// Reads the identity of an encoded row and leaves the rest unread.
    ///
    /// # Errors
    /// When the bytes do not begin like a row.
    pub fn decode(row: &[u8]) -> Result<Self, EncodingError> {
        Head::read(&mut Reader::new(row)).map(|head| head.identity)
    }
}

/// When an encoded row was received, see [`Row::received_at`]; the rest is left unread.
pub(crate) fn received_at(row: &[u8]) -> Result<i64, EncodingError> {
    Head::read(&mut Reader::new(row)).map(|head| head.received_at)
}

/// The fixed-size beginning of an encoded row.
struct Head {
    received_at: i64,
    identity: Identity,
    retain: bool,
    /// Tenant and device are at the end.
    known: bool,
}

impl Head {
    fn read(reader: &mut Reader<'_>) -> Result<Self, EncodingError> {
        let received_at = i64::from_le_bytes(reader.array()?);
        let number = u64::from_le_bytes(reader.array()?);
        let fingerprint = u64::from_le_bytes(reader.array()?);
        let packet_id = u16::from_le_bytes(reader.array()?);
        let [flags] = reader.array()?;
        let delivery = match flags & 0b11 {
            0 => Delivery::AtMostOnce,
            1 => Delivery::AtLeastOnce(packet_id),
            2 => Delivery::ExactlyOnce(packet_id),
            _ => {
                return Err(EncodingError::Value {
                    what: "qos",
                    found: 3,
                });
            }
        };
        let origin = if flags & 0b1000 == 0 {
            None
        } else {
            Some(u64::from_le_bytes(reader.array()?))
        };
        Ok(Self {
            received_at,
            identity: Identity {
                origin,
                number,
                delivery,
                fingerprint,
            },
            retain: flags & 0b100 != 0,
            known: flags & 0b1_0000 != 0,
        })
    }
}

impl<'a> Row<'a> {
    /// Appends the row's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.received_at.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.fingerprint.to_le_bytes());
        out.extend_from_slice(&self.delivery.packet_id().to_le_bytes());
        let tapped = u8::from(self.origin.is_some());
        let known = u8::from(self.is_of_known());
        out.push(self.delivery.qos() | (u8::from(self.retain) << 2) | (tapped << 3) | (known << 4));
        if let Some(origin) = self.origin {
            out.extend_from_slice(&origin.to_le_bytes());
        }
        put_bytes(out, self.topic.as_bytes());
        put_bytes(out, self.payload);
        put_option(out, self.client_id.map(str::as_bytes));
        put_option(out, self.content_type.map(str::as_bytes));
        put_option(out, self.response_topic.map(str::as_bytes));
        put_option(out, self.correlation_data);
        put_varint(out, self.user_properties.count);
        put_bytes(out, self.user_properties.bytes);
        if self.is_of_known() {
            put_option(out, self.tenant.map(str::as_bytes));
            put_option(out, self.device_id.map(str::as_bytes));
        }
    }

    /// Whether the broker knows more of the publisher than its client id.
    fn is_of_known(&self) -> bool {
        self.tenant.is_some() || self.device_id.is_some()
    }

    /// Reads a row that [`Row::encode`] has written, all of `bytes`.
    ///
    /// # Errors
    /// When the bytes are not such a row.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, EncodingError> {
        let mut reader = Reader::new(bytes);
        let Head {
            received_at,
            identity,
            retain,
            known,
        } = Head::read(&mut reader)?;
        let mut row = Self {
            received_at,
            origin: identity.origin,
            number: identity.number,
            delivery: identity.delivery,
            fingerprint: identity.fingerprint,
            retain,
            topic: reader.text()?,
            payload: reader.bytes()?,
            client_id: reader.option_text()?,
            tenant: None,
            device_id: None,
            content_type: reader.option_text()?,
            response_topic: reader.option_text()?,
            correlation_data: reader.option()?,
            user_properties: UserProperties {
                count: reader.varint()?,
                bytes: reader.bytes()?,
            },
        };
        if known {
            row.tenant = reader.option_text()?;
            row.device_id = reader.option_text()?;
        }
        reader.end()?;
        if row.user_properties.iter().count() as u64 != row.user_properties.count {
            return Err(EncodingError::Short { wanted: 1, left: 0 });
        }
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_row_reads_back_as_it_was_written(
            received_at in any::<i64>(), origin in any::<Option<u64>>(), number in any::<u64>(), qos in 0u8..3, id in 1u16.., retain in any::<bool>(),
            topic in ".{0,40}", payload in proptest::collection::vec(any::<u8>(), 0..300),
            text in proptest::option::of(".{0,20}"), tenant in proptest::option::of(".{0,20}"), device in proptest::option::of(".{0,20}"), data in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
            pairs in proptest::collection::vec((".{0,10}", ".{0,10}"), 0..5),
        ) {
            let mut properties = UserPropertiesBuf::default();
            for (key, value) in &pairs {
                properties.push(key, value);
            }
            let delivery = [Delivery::AtMostOnce, Delivery::AtLeastOnce(id), Delivery::ExactlyOnce(id)][usize::from(qos)];
            let row = Row {
                received_at, origin, number, delivery, retain, fingerprint: fingerprint(&topic, &payload), topic: &topic,
                payload: &payload, client_id: text.as_deref(), tenant: tenant.as_deref(), device_id: device.as_deref(), content_type: None, response_topic: text.as_deref(),
                correlation_data: data.as_deref(), user_properties: properties.as_properties(),
            };
            let mut bytes = Vec::new();
            row.encode(&mut bytes);
            let read = Row::decode(&bytes).unwrap();
            prop_assert_eq!(&read, &row);
            let back: Vec<_> = read.user_properties.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            prop_assert_eq!(back, pairs);
            for end in 0..bytes.len() {
                prop_assert!(Row::decode(&bytes[..end]).is_err(), "{} of {} bytes were taken for a row", end, bytes.len());
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(row) = Row::decode(&bytes) {
                prop_assert!(row.user_properties.iter().count() <= bytes.len());
            }
        }
    }
}
