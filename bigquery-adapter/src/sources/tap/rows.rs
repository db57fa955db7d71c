//! A message of the tap as a row.

use std::ops::Range;

use dunlin_protocol::{Properties, QoS};
use dunlin_sync::cluster::tap::{Batch, Row as Tapped};
use dunlin_sync::publisher::Publisher;

use crate::row::{Delivery, Row, UserPropertiesBuf, write_message_id};
use crate::sinks::bigquery::partition::Messages;

/// Messages of one partition.
#[derive(Debug, Clone)]
pub struct TapMessages(pub(super) Batch);

/// The row of a message. Client id, tenant and device are those of the authenticated connection, its times are the broker's; the
/// topic is as the publisher knows it.
pub(super) fn row<'a>(tapped: &Tapped<'a>, pairs: &'a mut UserPropertiesBuf) -> Row<'a> {
    let properties = Properties::from_validated(tapped.properties);
    pairs.clear();
    for (key, value) in properties.user_properties() {
        pairs.push(key, value);
    }
    let publisher = tapped.publisher.map(Publisher::of);
    Row {
        received_at: i64::try_from(tapped.received_at).unwrap_or(i64::MAX),
        origin: Some(tapped.identity.0.0),
        number: tapped.identity.1,
        delivery: match tapped.qos {
            QoS::AtMostOnce => Delivery::AtMostOnce,
            QoS::AtLeastOnce => Delivery::AtLeastOnce(0),
            QoS::ExactlyOnce => Delivery::ExactlyOnce(0),
        },
        fingerprint: 0,
        retain: tapped.retain,
        topic: publisher.map_or(tapped.topic, |publisher| publisher.topic(tapped.topic)),
        payload: tapped.payload,
        client_id: publisher.map(|publisher| publisher.client_id),
        tenant: publisher.and_then(|publisher| publisher.tenant),
        device_id: publisher.and_then(|publisher| publisher.device),
        content_type: properties.content_type(),
        response_topic: properties.response_topic(),
        correlation_data: properties.correlation_data(),
        user_properties: pairs.as_properties(),
    }
}

impl Messages for TapMessages {
    fn positions(&self) -> Range<u64> {
        self.0.positions.clone()
    }

    fn gap(&self) -> Range<u64> {
        self.0.gap.clone()
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }

    fn each(&self, take: &mut dyn FnMut(u64, &str, &Row<'_>)) {
        let (mut pairs, mut id) = (UserPropertiesBuf::default(), String::new());
        for tapped in self.0.rows() {
            id.clear();
            // Writing to a String cannot fail.
            write_message_id(&mut id, tapped.identity.0.0, tapped.identity.1).unwrap_or_default();
            take(tapped.position, &id, &row(&tapped, &mut pairs));
        }
    }
}

#[cfg(test)]
mod tests {
    use dunlin_protocol::{PropertiesBuf, Property};
    use dunlin_sync::cluster::ReplicaId;

    use super::*;

    #[test]
    fn a_row_has_what_the_broker_knows_and_what_the_publisher_said() {
        let mut properties = PropertiesBuf::new();
        for property in [
            Property::UserProperty("site", "b"),
            Property::ContentType("application/json"),
            Property::UserProperty("site", "c"),
            Property::CorrelationData(&[1, 2]),
            Property::ResponseTopic("re/ply"),
        ] {
            properties.push(property).unwrap();
        }
        let tapped = Tapped {
            position: 9,
            identity: (ReplicaId(65_537), 4),
            publisher: Some("meter-7"),
            topic: "a/b",
            properties: properties.as_bytes(),
            payload: b"21.5",
            qos: QoS::ExactlyOnce,
            retain: true,
            expires_at: None,
            received_at: 1_763_683_200_000_001,
        };
        let mut pairs = UserPropertiesBuf::default();
        pairs.push("from", "before");
        let row = row(&tapped, &mut pairs);
        assert_eq!((row.origin, row.number), (Some(65_537), 4));
        assert_eq!((row.client_id, row.topic), (Some("meter-7"), "a/b"));
        assert_eq!(row.received_at, 1_763_683_200_000_001);
        assert_eq!((row.delivery.qos(), row.retain), (2, true));
        assert_eq!(row.content_type, Some("application/json"));
        assert_eq!(row.response_topic, Some("re/ply"));
        assert_eq!(row.correlation_data, Some(&[1, 2][..]));
        let pairs: Vec<_> = row.user_properties.iter().collect();
        assert_eq!(pairs, [("site", "b"), ("site", "c")]);
        assert_eq!((row.tenant, row.device_id), (None, None));
    }

    #[test]
    fn tenant_and_device_come_from_the_connection_and_the_topic_is_the_publishers() {
        let tapped = |publisher, topic| Tapped {
            position: 9,
            identity: (ReplicaId(1), 4),
            publisher: Some(publisher),
            topic,
            properties: &[],
            payload: b"{\"tenant\":\"evil\"}",
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at: None,
            received_at: 1,
        };
        let found = |publisher, topic| {
            let mut pairs = UserPropertiesBuf::default();
            let tapped = tapped(publisher, topic);
            let row = row(&tapped, &mut pairs);
            let texts = [row.client_id, row.tenant, row.device_id, Some(row.topic)];
            texts.map(|text| text.map(str::to_owned))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            found("$tenant/acme/m7\0acme/pump", "$tenant/acme/a/b"),
            [some("m7"), some("acme"), some("pump"), some("a/b")]
        );
        assert_eq!(
            found("m7\0/pump", "$tenant/acme/a/b"),
            [some("m7"), None, some("pump"), some("$tenant/acme/a/b")]
        );
    }
}
