//! Blocks of properties: building, reading, and bytes that nobody has validated.

use dunlin_protocol::{
    DecodeError, EncodeError, Properties, PropertiesBuf, Property, PropertyContext, PropertyId,
    QoS, Sender,
};
use proptest::prelude::*;

/// One of each, with values that show which getter reads what.
fn one_of_each() -> Vec<Property<'static>> {
    vec![
        Property::PayloadFormatIndicator(1),
        Property::MessageExpiryInterval(2),
        Property::ContentType("content"),
        Property::ResponseTopic("response"),
        Property::CorrelationData(&[0, 255]),
        Property::SubscriptionIdentifier(268_435_455),
        Property::SessionExpiryInterval(u32::MAX),
        Property::AssignedClientIdentifier("assigned"),
        Property::ServerKeepAlive(13),
        Property::AuthenticationMethod("method"),
        Property::AuthenticationData(&[22]),
        Property::RequestProblemInformation(false),
        Property::WillDelayInterval(18),
        Property::RequestResponseInformation(true),
        Property::ResponseInformation("information"),
        Property::ServerReference("reference"),
        Property::ReasonString("reason"),
        Property::ReceiveMaximum(33),
        Property::TopicAliasMaximum(34),
        Property::TopicAlias(35),
        Property::MaximumQoS(QoS::AtLeastOnce),
        Property::RetainAvailable(false),
        Property::UserProperty("name", "value"),
        Property::MaximumPacketSize(39),
        Property::WildcardSubscriptionAvailable(false),
        Property::SubscriptionIdentifierAvailable(true),
        Property::SharedSubscriptionAvailable(false),
    ]
}

fn buf(properties: &[Property<'_>]) -> PropertiesBuf {
    let mut buf = PropertiesBuf::new();
    for &property in properties {
        buf.push(property).expect("a property that fits");
    }
    buf
}

#[test]
fn every_property_is_read_as_it_was_written() {
    let all = one_of_each();
    assert_eq!(
        all.iter().map(Property::id).collect::<Vec<_>>(),
        PropertyId::ALL
    );
    let buf = buf(&all);
    let properties = buf.as_properties();
    assert_eq!(properties.iter().collect::<Vec<_>>(), all);
    assert_eq!(properties.payload_format_indicator(), Some(1));
    assert_eq!(properties.message_expiry_interval(), Some(2));
    assert_eq!(properties.content_type(), Some("content"));
    assert_eq!(properties.response_topic(), Some("response"));
    assert_eq!(properties.correlation_data(), Some(&[0, 255][..]));
    assert_eq!(
        properties.subscription_identifiers().collect::<Vec<_>>(),
        [268_435_455]
    );
    assert_eq!(properties.session_expiry_interval(), Some(u32::MAX));
    assert_eq!(properties.assigned_client_identifier(), Some("assigned"));
    assert_eq!(properties.server_keep_alive(), Some(13));
    assert_eq!(properties.authentication_method(), Some("method"));
    assert_eq!(properties.authentication_data(), Some(&[22][..]));
    assert_eq!(properties.request_problem_information(), Some(false));
    assert_eq!(properties.will_delay_interval(), Some(18));
    assert_eq!(properties.request_response_information(), Some(true));
    assert_eq!(properties.response_information(), Some("information"));
    assert_eq!(properties.server_reference(), Some("reference"));
    assert_eq!(properties.reason_string(), Some("reason"));
    assert_eq!(properties.receive_maximum(), Some(33));
    assert_eq!(properties.topic_alias_maximum(), Some(34));
    assert_eq!(properties.topic_alias(), Some(35));
    assert_eq!(properties.maximum_qos(), Some(QoS::AtLeastOnce));
    assert_eq!(properties.retain_available(), Some(false));
    assert_eq!(
        properties.user_properties().collect::<Vec<_>>(),
        [("name", "value")]
    );
    assert_eq!(properties.maximum_packet_size(), Some(39));
    assert_eq!(properties.wildcard_subscription_available(), Some(false));
    assert_eq!(properties.subscription_identifier_available(), Some(true));
    assert_eq!(properties.shared_subscription_available(), Some(false));
}

#[test]
fn an_empty_block_has_nothing() {
    let properties = Properties::EMPTY;
    assert!(properties.is_empty());
    assert_eq!(properties.iter().count(), 0);
    assert_eq!(properties.topic_alias(), None);
    assert_eq!(properties.user_properties().count(), 0);
    assert_eq!(properties.subscription_identifiers().count(), 0);
}

#[test]
fn properties_that_repeat_keep_their_order() {
    let buf = buf(&[
        Property::UserProperty("b", "1"),
        Property::SubscriptionIdentifier(7),
        Property::UserProperty("a", "2"),
        Property::SubscriptionIdentifier(3),
        Property::UserProperty("b", "1"),
    ]);
    let properties = buf.as_properties();
    assert_eq!(
        properties.user_properties().collect::<Vec<_>>(),
        [("b", "1"), ("a", "2"), ("b", "1")]
    );
    assert_eq!(
        properties.subscription_identifiers().collect::<Vec<_>>(),
        [7, 3]
    );
}

#[test]
fn copying_raw_properties_drops_what_is_left_out_and_alters_nothing() {
    let source = buf(&[
        Property::UserProperty("b", "1"),
        Property::TopicAlias(5),
        Property::ContentType("text"),
        Property::UserProperty("a", "2"),
    ]);
    let mut copy = PropertiesBuf::new();
    for raw in source
        .as_properties()
        .raw_iter()
        .filter(|raw| raw.id != PropertyId::TopicAlias)
    {
        copy.push_raw(raw);
    }
    let expected = buf(&[
        Property::UserProperty("b", "1"),
        Property::ContentType("text"),
        Property::UserProperty("a", "2"),
    ]);
    assert_eq!(copy, expected);
    copy.clear();
    assert!(copy.is_empty());
    copy.extend(source.as_properties());
    assert_eq!(copy, source);
    assert_eq!(copy.into_bytes(), source.as_bytes());
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_the_block_as_it_was() {
    let long = "x".repeat(65_536);
    let mut block = buf(&[Property::TopicAlias(1)]);
    let before = block.clone();
    let too_long = Err(EncodeError::FieldTooLong {
        field: "content type",
        len: 65_536,
    });
    assert_eq!(block.push(Property::ContentType(&long)).map(drop), too_long);
    assert!(
        block
            .push(Property::CorrelationData(long.as_bytes()))
            .is_err()
    );
    assert!(block.push(Property::UserProperty(&long, "")).is_err());
    assert!(block.push(Property::UserProperty("", &long)).is_err());
    assert!(block.push(Property::SubscriptionIdentifier(0)).is_err());
    assert!(
        block
            .push(Property::SubscriptionIdentifier(268_435_456))
            .is_err()
    );
    assert_eq!(block, before);
    assert!(block.push(Property::ContentType(&long[..65_535])).is_ok());
}

#[test]
fn parse_takes_a_block_without_its_length() {
    let (context, sender) = (PropertyContext::Publish, Sender::Client);
    let block = buf(&[Property::TopicAlias(1), Property::UserProperty("a", "b")]);
    assert_eq!(
        Properties::parse(block.as_bytes(), context, sender),
        Ok(block.as_properties())
    );
    let error = DecodeError::PropertyMisplaced {
        property: PropertyId::TopicAlias,
        context: PropertyContext::SubAck,
    };
    assert_eq!(
        Properties::parse(block.as_bytes(), PropertyContext::SubAck, Sender::Server),
        Err(error)
    );
}

/// All that can be done with a block.
pub(crate) fn read_everything(properties: Properties<'_>) {
    let mut read = properties.iter().count() + properties.raw_iter().count();
    read += properties.raw_iter().filter_map(|raw| raw.value()).count();
    read += properties.subscription_identifiers().count() + properties.user_properties().count();
    read += usize::from(properties.payload_format_indicator().is_some());
    read += usize::from(properties.message_expiry_interval().is_some());
    read += usize::from(properties.content_type().is_some());
    read += usize::from(properties.correlation_data().is_some());
    read += usize::from(properties.topic_alias().is_some());
    read += usize::from(properties.maximum_qos().is_some());
    read += usize::from(properties.retain_available().is_some());
    read += usize::from(properties.authentication_data().is_some());
    read += format!("{properties:?}").len();
    assert!(read >= 2, "at least the brackets");
}

proptest! {
    #[test]
    fn bytes_that_nobody_validated_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        read_everything(Properties::from_validated(&bytes));
    }

    /// Bytes that begin like properties, so that more than the first byte is looked at.
    #[test]
    fn blocks_that_are_cut_or_altered_never_panic(
        which in prop::collection::vec(0..27usize, 1..6),
        cut in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let all = one_of_each();
        let block = buf(&which.iter().map(|&i| all[i]).collect::<Vec<_>>());
        let bytes = block.as_bytes();
        read_everything(Properties::from_validated(&bytes[..cut.index(bytes.len())]));
        let mut altered = bytes.to_vec();
        let at = at.index(altered.len());
        altered[at] = byte;
        read_everything(Properties::from_validated(&altered));
        // What passes validation can be read to its end.
        for context in [PropertyContext::Publish, PropertyContext::ConnAck, PropertyContext::Auth] {
            if let Ok(properties) = Properties::parse(&altered, context, Sender::Server) {
                let read: usize = properties.raw_iter().map(|raw| raw.bytes.len()).sum();
                prop_assert_eq!(read, altered.len());
                prop_assert_eq!(properties.iter().count(), properties.raw_iter().count());
            }
        }
    }
}
