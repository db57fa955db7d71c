//! A PUBLISH as a row.

use std::time::SystemTime;

use dunlin_protocol::{Properties, Publish};

use super::error::ConnectionError;
use crate::row::{Delivery, Row, UserPropertiesBuf};
use crate::sinks::parquet::micros;

/// Topic aliases that the broker may use.
pub(super) const TOPIC_ALIASES: u16 = 64;

/// Names that the broker has given to topics on this connection: at most [`TOPIC_ALIASES`].
#[derive(Debug, Default)]
pub(super) struct Aliases(Vec<String>);

impl Aliases {
    /// The topic of a message.
    pub(super) fn resolve<'t>(
        &'t mut self,
        publish: &Publish<'t>,
    ) -> Result<&'t str, ConnectionError> {
        let Some(alias) = publish.properties.topic_alias() else {
            return Ok(publish.topic);
        };
        if alias == 0 || alias > TOPIC_ALIASES {
            return Err(ConnectionError::Protocol(
                "it used a topic alias above the maximum",
            ));
        }
        let index = usize::from(alias) - 1;
        if self.0.len() <= index {
            self.0.resize(index + 1, String::new());
        }
        let topic = self
            .0
            .get_mut(index)
            .ok_or(ConnectionError::Protocol("it used an unknown topic alias"))?;
        if !publish.topic.is_empty() {
            publish.topic.clone_into(topic);
        }
        if topic.is_empty() {
            return Err(ConnectionError::Protocol(
                "it used a topic alias that it has not given a topic",
            ));
        }
        Ok(topic)
    }
}

/// What is the same for all rows of a source, and memory that is used again.
#[derive(Debug)]
pub(super) struct RowMaker {
    client_id_property: Option<String>,
    pairs: UserPropertiesBuf,
}

impl RowMaker {
    pub(super) fn new(client_id_property: Option<String>) -> Self {
        Self {
            client_id_property,
            pairs: UserPropertiesBuf::default(),
        }
    }

    /// The row of a message.
    pub(super) fn row<'a>(
        &'a mut self,
        publish: &Publish<'a>,
        topic: &'a str,
        number: u64,
        delivery: Delivery,
        fingerprint: u64,
    ) -> Row<'a> {
        let properties = publish.properties;
        self.pairs.clear();
        let mut client_id = None;
        if !properties.is_empty() {
            for (key, value) in properties.user_properties() {
                self.pairs.push(key, value);
            }
            client_id = self
                .client_id_property
                .as_deref()
                .and_then(|name| only(properties, name));
        }
        Row {
            received_at: micros(SystemTime::now()),
            origin: None,
            number,
            delivery,
            fingerprint,
            retain: publish.retain,
            topic,
            payload: publish.payload,
            client_id,
            tenant: None,
            device_id: None,
            content_type: properties.content_type(),
            response_topic: properties.response_topic(),
            correlation_data: properties.correlation_data(),
            user_properties: self.pairs.as_properties(),
        }
    }
}

/// The value of a user property that occurs once. Twice: one of them is the publisher's own, and nobody knows which.
fn only<'a>(properties: Properties<'a>, name: &str) -> Option<&'a str> {
    let mut values = properties
        .user_properties()
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value);
    let first = values.next();
    if values.next().is_some() { None } else { first }
}

#[cfg(test)]
mod tests {
    use dunlin_protocol::{PropertiesBuf, Property};

    use super::*;

    fn with(properties: &[Property<'_>]) -> PropertiesBuf {
        let mut buf = PropertiesBuf::new();
        for property in properties {
            buf.push(*property).unwrap();
        }
        buf
    }

    #[test]
    fn every_field_of_a_message_reaches_its_column() {
        let properties = with(&[
            Property::ContentType("application/json"),
            Property::ResponseTopic("re/ply"),
            Property::CorrelationData(&[1, 2]),
            Property::UserProperty("a", "1"),
            Property::UserProperty("dunlin-client-id", "device-7"),
            Property::UserProperty("a", "2"),
        ]);
        let publish = Publish {
            retain: true,
            topic: "t",
            payload: b"{}",
            properties: properties.as_properties(),
            ..Publish::default()
        };
        let mut maker = RowMaker::new(Some("dunlin-client-id".to_owned()));
        let row = maker.row(&publish, "t", 5, Delivery::AtLeastOnce(3), 9);
        assert_eq!(
            (row.topic, row.payload, row.retain, row.number),
            ("t", b"{}".as_slice(), true, 5)
        );
        assert_eq!(row.client_id, Some("device-7"));
        assert_eq!(row.content_type, Some("application/json"));
        assert_eq!(row.response_topic, Some("re/ply"));
        assert_eq!(row.correlation_data, Some([1, 2].as_slice()));
        let pairs: Vec<_> = row.user_properties.iter().collect();
        assert_eq!(
            pairs,
            [("a", "1"), ("dunlin-client-id", "device-7"), ("a", "2")]
        );
    }

    #[test]
    fn a_client_id_is_taken_only_when_asked_for_and_unambiguous() {
        let once = with(&[Property::UserProperty("id", "x")]);
        let twice = with(&[
            Property::UserProperty("id", "x"),
            Property::UserProperty("id", "y"),
        ]);
        for (properties, name, expected) in [
            (&once, Some("id"), Some("x")),
            (&once, None, None),
            (&twice, Some("id"), None),
        ] {
            let publish = Publish {
                properties: properties.as_properties(),
                ..Publish::default()
            };
            let mut maker = RowMaker::new(name.map(str::to_owned));
            assert_eq!(
                maker
                    .row(&publish, "t", 1, Delivery::AtMostOnce, 0)
                    .client_id,
                expected
            );
        }
    }

    #[test]
    fn an_alias_stands_for_the_topic_it_was_last_given() {
        let alias = with(&[Property::TopicAlias(2)]);
        let mut aliases = Aliases::default();
        let publish = |topic| Publish {
            topic,
            properties: alias.as_properties(),
            ..Publish::default()
        };
        assert!(aliases.resolve(&publish("")).is_err());
        for (sent, meant) in [("a", "a"), ("", "a"), ("b", "b"), ("", "b")] {
            assert_eq!(aliases.resolve(&publish(sent)).unwrap(), meant);
        }
        let above = with(&[Property::TopicAlias(TOPIC_ALIASES + 1)]);
        assert!(
            aliases
                .resolve(&Publish {
                    topic: "a",
                    properties: above.as_properties(),
                    ..Publish::default()
                })
                .is_err()
        );
    }
}
