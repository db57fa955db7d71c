//! A published message as it is held, shared and stored.

use std::sync::Arc;

use bytes::Bytes;
use dunlin_protocol::QoS;
use thiserror::Error;

use crate::codec::{CodecError, Reader, put_len, put_text, put_u64};

/// Version byte of the binary form.
const VERSION: u8 = 1;

const FLAG_RETAIN: u8 = 0b0000_0100;
const FLAG_EXPIRES: u8 = 0b0000_1000;
const FLAG_PUBLISHER: u8 = 0b0001_0000;
const FLAGS_KNOWN: u8 = 0b0001_1111;

/// What a message weighs beside its text: the struct, two reference counts and an allocation header.
const OVERHEAD: usize = 160;

/// Why bytes are not a message, or a message cannot be written.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the stored form of a message is damaged or foreign: {0}")]
pub struct MessageError(pub(crate) CodecError);

impl From<CodecError> for MessageError {
    fn from(error: CodecError) -> Self {
        Self(error)
    }
}

/// What a [`Message`] is made from; the texts are copied.
#[derive(Clone, Debug)]
pub struct MessageParts<'a> {
    /// Topic name, at most 65,535 bytes; not checked against the grammar here.
    pub topic: &'a str,
    /// MQTT 5 property bytes that are forwarded as they are, without their length prefix: no topic
    /// alias, no message expiry, no subscription identifier.
    pub properties: &'a [u8],
    /// Application payload.
    pub payload: &'a [u8],
    /// Quality of service it was published with.
    pub qos: QoS,
    /// Whether it was published with the retain flag.
    pub retain: bool,
    /// Unix time in milliseconds after which nobody gets it any more.
    pub expires_at: Option<u64>,
    /// Unix time in microseconds at which the broker read it.
    pub received_at: u64,
    /// Who has published it, see [`publisher`](crate::publisher); `None` for the broker's own messages.
    pub publisher: Option<Arc<str>>,
    /// Number of the message in this run of the process.
    pub id: u64,
}

/// One published message: immutable, shared as `Arc<Message>`.
///
/// Topic, properties and payload lie behind each other in one allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    body: Bytes,
    topic_len: usize,
    /// Where the payload begins in `body`.
    payload_at: usize,
    qos: QoS,
    retain: bool,
    expires_at: Option<u64>,
    received_at: u64,
    publisher: Option<Arc<str>>,
    id: u64,
}

impl Message {
    /// Copies the parts into one message.
    #[must_use]
    pub fn new(parts: MessageParts<'_>) -> Self {
        let payload_at = parts.topic.len() + parts.properties.len();
        let mut body = Vec::with_capacity(payload_at + parts.payload.len());
        body.extend_from_slice(parts.topic.as_bytes());
        body.extend_from_slice(parts.properties);
        body.extend_from_slice(parts.payload);
        Self {
            body: Bytes::from(body),
            topic_len: parts.topic.len(),
            payload_at,
            qos: parts.qos,
            retain: parts.retain,
            expires_at: parts.expires_at,
            received_at: parts.received_at,
            publisher: parts.publisher,
            id: parts.id,
        }
    }

    /// The topic name. Its UTF-8 is checked anew on each call (a few nanoseconds): keep the result.
    #[must_use]
    pub fn topic(&self) -> &str {
        let bytes = self.body.get(..self.topic_len).unwrap_or_default();
        // The bytes came from a `str` or were checked when they were decoded.
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Raw MQTT 5 property bytes to forward, without their length prefix.
    #[must_use]
    pub fn properties(&self) -> &[u8] {
        self.body
            .get(self.topic_len..self.payload_at)
            .unwrap_or_default()
    }

    /// The application payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.body.get(self.payload_at..).unwrap_or_default()
    }

    /// The payload as a counted slice of the message's allocation.
    #[must_use]
    pub fn payload_bytes(&self) -> Bytes {
        self.body.slice(self.payload_at.min(self.body.len())..)
    }

    /// Quality of service it was published with.
    #[must_use]
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// Whether it was published with the retain flag.
    #[must_use]
    pub fn retain(&self) -> bool {
        self.retain
    }

    /// Unix time in milliseconds after which nobody gets it any more.
    #[must_use]
    pub fn expires_at(&self) -> Option<u64> {
        self.expires_at
    }

    /// Unix time in microseconds at which the broker read it.
    #[must_use]
    pub fn received_at(&self) -> u64 {
        self.received_at
    }

    /// Client id of the publisher.
    #[must_use]
    pub fn publisher(&self) -> Option<&str> {
        self.publisher.as_deref()
    }

    /// Number of the message in the run of the process that read it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Bytes of memory that the message weighs, the same after a restart.
    #[must_use]
    pub fn size(&self) -> usize {
        Self::size_of(self.body.len(), self.publisher())
    }

    /// The same of a message whose topic, properties and payload have so many bytes together.
    #[must_use]
    pub fn size_of(body: usize, publisher: Option<&str>) -> usize {
        body + publisher.map_or(0, str::len) + OVERHEAD
    }

    /// Appends the binary form to `out`.
    ///
    /// # Errors
    ///
    /// A part longer than `u32::MAX` bytes; `out` may then hold an incomplete form.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), MessageError> {
        out.push(VERSION);
        out.push(self.flags());
        put_u64(out, self.received_at);
        put_u64(out, self.id);
        if let Some(at) = self.expires_at {
            put_u64(out, at);
        }
        if let Some(publisher) = &self.publisher {
            put_text(out, publisher, "publisher")?;
        }
        put_len(out, self.topic_len, "topic")?;
        put_len(out, self.payload_at - self.topic_len, "properties")?;
        put_len(out, self.body.len() - self.payload_at, "payload")?;
        out.extend_from_slice(&self.body);
        Ok(())
    }

    fn flags(&self) -> u8 {
        let mut flags = self.qos as u8;
        for (set, flag) in [
            (self.retain, FLAG_RETAIN),
            (self.expires_at.is_some(), FLAG_EXPIRES),
            (self.publisher.is_some(), FLAG_PUBLISHER),
        ] {
            if set {
                flags |= flag;
            }
        }
        flags
    }

    /// When the message in a binary form expires, if it does and that can be read at all: what `expire_retained.lua` looks at.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn expiry_of(bytes: &[u8]) -> Option<u64> {
        let (flags, times) = match bytes {
            [VERSION, flags, times @ ..] => (flags, times),
            _ => return None,
        };
        let at = times.get(16..24)?.try_into().ok()?;
        (flags & FLAG_EXPIRES != 0).then(|| u64::from_le_bytes(at))
    }

    /// The topic in a binary form, if that can be read at all.
    pub(crate) fn topic_of(bytes: &[u8]) -> Option<&str> {
        let mut reader = Reader::new(bytes);
        reader.u8("message version").ok()?;
        let flags = reader.u8("message flags").ok()?;
        reader.bytes(16, "times").ok()?;
        if flags & FLAG_EXPIRES != 0 {
            reader.u64("expires_at").ok()?;
        }
        if flags & FLAG_PUBLISHER != 0 {
            reader.text("publisher").ok()?;
        }
        let topic_len = reader.u32("topic length").ok()? as usize;
        reader.bytes(8, "lengths").ok()?;
        std::str::from_utf8(reader.bytes(topic_len, "topic").ok()?).ok()
    }

    /// Reads the binary form, which must end exactly with `bytes`.
    ///
    /// # Errors
    ///
    /// Torn bytes, an unknown version or flag, a topic that is not UTF-8.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8("message version")?;
        if version != VERSION {
            return Err(unknown("message version", version));
        }
        let flags = reader.u8("message flags")?;
        if flags & !FLAGS_KNOWN != 0 {
            return Err(unknown("message flags", flags));
        }
        let qos = QoS::try_from(flags & 0b11).map_err(|_| unknown("message qos", flags & 0b11))?;
        let received_at = reader.u64("received_at")?;
        let id = reader.u64("message id")?;
        let expires_at = match flags & FLAG_EXPIRES {
            0 => None,
            _ => Some(reader.u64("expires_at")?),
        };
        let publisher = match flags & FLAG_PUBLISHER {
            0 => None,
            _ => Some(Arc::from(reader.text("publisher")?)),
        };
        let topic_len = reader.u32("topic length")? as usize;
        let properties_len = reader.u32("properties length")? as usize;
        let payload_len = reader.u32("payload length")? as usize;
        let body = reader.rest();
        check_body(body, topic_len, properties_len, payload_len)?;
        Ok(Self {
            body: Bytes::copy_from_slice(body),
            topic_len,
            payload_at: topic_len + properties_len,
            qos,
            retain: flags & FLAG_RETAIN != 0,
            expires_at,
            received_at,
            publisher,
            id,
        })
    }
}

/// The body must be exactly as long as its three parts, and its topic UTF-8.
fn check_body(
    body: &[u8],
    topic_len: usize,
    properties_len: usize,
    payload_len: usize,
) -> Result<(), CodecError> {
    let mut reader = Reader::new(body);
    let topic = reader.bytes(topic_len, "topic")?;
    std::str::from_utf8(topic).map_err(|_| CodecError::NotUtf8("topic"))?;
    reader.bytes(properties_len, "properties")?;
    reader.bytes(payload_len, "payload")?;
    reader.end()
}

fn unknown(field: &'static str, found: u8) -> MessageError {
    MessageError(CodecError::Unknown {
        field,
        found: u64::from(found),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_message() -> impl Strategy<Value = Message> {
        let texts = (".{0,40}", proptest::option::of("[a-z0-9]{0,30}"));
        let bodies = (
            proptest::collection::vec(any::<u8>(), 0..40),
            proptest::collection::vec(any::<u8>(), 0..400),
        );
        let rest = (
            0u8..3,
            any::<bool>(),
            proptest::option::of(any::<u64>()),
            any::<u64>(),
            any::<u64>(),
        );
        (texts, bodies, rest).prop_map(
            |((topic, publisher), (properties, payload), (qos, retain, expires_at, at, id))| {
                Message::new(MessageParts {
                    topic: &topic,
                    properties: &properties,
                    payload: &payload,
                    qos: QoS::try_from(qos).unwrap(),
                    retain,
                    expires_at,
                    received_at: at,
                    publisher: publisher.map(Arc::from),
                    id,
                })
            },
        )
    }

    fn encoded(message: &Message) -> Vec<u8> {
        let mut out = Vec::new();
        message.encode_into(&mut out).unwrap();
        out
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes_to_the_same_message(message in any_message()) {
            let back = Message::decode(&encoded(&message)).unwrap();
            prop_assert_eq!(back.size(), message.size());
            prop_assert_eq!(back, message);
        }

        #[test]
        fn any_cut_of_the_binary_form_is_an_error(message in any_message(), cut in any::<prop::sample::Index>()) {
            let bytes = encoded(&message);
            let cut = cut.index(bytes.len());
            prop_assert!(Message::decode(&bytes[..cut]).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _unused = Message::decode(&bytes);
        }
    }

    #[test]
    fn an_unknown_version_is_named() {
        let error = Message::decode(&[9, 0, 0]).unwrap_err();
        assert!(
            error.to_string().contains("message version is 9"),
            "{error}"
        );
    }

    #[test]
    fn bytes_after_the_payload_are_refused() {
        let message = Message::new(MessageParts {
            topic: "a",
            properties: &[],
            payload: b"x",
            qos: QoS::AtMostOnce,
            retain: false,
            expires_at: None,
            received_at: 1,
            publisher: None,
            id: 1,
        });
        let mut bytes = encoded(&message);
        bytes.push(0);
        let error = Message::decode(&bytes).unwrap_err();
        assert!(error.to_string().contains("1 bytes follow"), "{error}");
    }
}
