//! Records for tests.

use std::sync::Arc;

use dunlin_protocol::QoS;

use crate::{
    Delivery, Message, MessageParts, Op, SessionId, SessionRecord, SubscriptionRecord, WillRecord,
};

/// A message on topic `t` with this payload.
#[must_use]
pub fn message(text: &str) -> Arc<Message> {
    message_on("t", text.as_bytes())
}

/// A message with little but a topic and a payload.
#[must_use]
pub fn message_on(topic: &str, payload: &[u8]) -> Arc<Message> {
    Arc::new(Message::new(MessageParts {
        topic,
        properties: &[],
        payload,
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: None,
        received_at: 1_700_000_000_000_000,
        publisher: None,
        id: 1,
    }))
}

/// A message of which every part is set.
#[must_use]
pub fn full_message(topic: &str, payload: &[u8]) -> Arc<Message> {
    Arc::new(Message::new(MessageParts {
        topic,
        properties: &[1, 1, 38, 0, 1, b'k', 0, 1, b'v'],
        payload,
        qos: QoS::ExactlyOnce,
        retain: true,
        expires_at: Some(1_800_000_000_000),
        received_at: 1_700_000_000_123_456,
        publisher: Some(Arc::from("sensor-ü")),
        id: u64::MAX,
    }))
}

/// A delivery of which every part is set.
#[must_use]
pub fn full_delivery() -> Delivery {
    Delivery {
        qos: QoS::ExactlyOnce,
        retain: true,
        subscription_ids: Box::new([1, 268_435_455]),
        share: Some(Arc::from("$share/group/a/+/#")),
    }
}

/// An enqueue at QoS 1.
#[must_use]
pub fn enqueue(session: SessionId, text: &str) -> Op {
    enqueue_message(session, message(text))
}

/// An enqueue at QoS 1 of this message.
#[must_use]
pub fn enqueue_message(session: SessionId, message: Arc<Message>) -> Op {
    Op::Enqueue {
        session,
        delivery: Delivery::plain(QoS::AtLeastOnce),
        message,
        once: None,
    }
}

/// A session of a connected client.
#[must_use]
pub fn session(id: SessionId, client: &str) -> SessionRecord {
    SessionRecord {
        id,
        client_id: Arc::from(client),
        expiry_interval: 3600,
        disconnected_at: None,
        epoch: 1,
    }
}

/// A subscription without an identifier.
#[must_use]
pub fn subscription(filter: &str, options: u8) -> SubscriptionRecord {
    SubscriptionRecord {
        filter: filter.into(),
        options,
        identifier: None,
    }
}

/// A will of which every part is set.
#[must_use]
pub fn will(client: &str, session: Option<SessionId>) -> WillRecord {
    WillRecord {
        client_id: Arc::from(client),
        session,
        epoch: 3,
        delay: 30,
        due_at: Some(1_750_000_000_000),
        expiry_interval: Some(60),
        message: full_message("will/topic", b"gone"),
    }
}
