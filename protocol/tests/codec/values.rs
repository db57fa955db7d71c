//! The small values: versions, QoS, identifiers, reason codes, subscription options.

use dunlin_protocol::{
    InvalidQoS, PacketId, PacketType, PropertyContext, PropertyId, QoS, ReasonCode, RetainHandling,
    Sender, SubscribeOptions, Version,
};

#[test]
fn versions_know_their_level_and_name() {
    let versions = [
        (Version::V31, 3, "MQIsdp"),
        (Version::V311, 4, "MQTT"),
        (Version::V5, 5, "MQTT"),
    ];
    for (version, level, name) in versions {
        assert_eq!((version.level(), version.protocol_name()), (level, name));
        assert_eq!(version.is_v5(), level == 5);
    }
    assert_eq!(Version::V311.to_string(), "3.1.1");
}

#[test]
fn qos_is_a_number_from_0_to_2() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        assert_eq!(QoS::try_from(u8::from(qos)), Ok(qos));
    }
    assert_eq!(QoS::try_from(3), Err(InvalidQoS(3)));
    assert!(QoS::AtMostOnce < QoS::AtLeastOnce && QoS::AtLeastOnce < QoS::ExactlyOnce);
}

#[test]
fn a_packet_identifier_is_never_0() {
    assert_eq!(PacketId::new(0), None);
    assert_eq!(PacketId::new(1), Some(PacketId::MIN));
    assert_eq!(PacketId::new(65_535).map(PacketId::get), Some(65_535));
    assert_eq!(PacketId::MAX.to_string(), "65535");
}

#[test]
fn reason_codes_have_the_names_of_the_specification() {
    assert_eq!(ReasonCode::MALFORMED_PACKET.name(), "Malformed Packet");
    assert_eq!(
        ReasonCode::SESSION_TAKEN_OVER.to_string(),
        "0x8e Session taken over"
    );
    assert_eq!(ReasonCode(0x7F).name(), "Unknown reason code");
    let named = (0..=255)
        .map(ReasonCode)
        .filter(|reason| reason.name() != "Unknown reason code")
        .count();
    assert_eq!(named, 43);
    let errors = (0..=255)
        .map(ReasonCode)
        .filter(|reason| reason.is_error())
        .count();
    assert_eq!(errors, 128);
}

#[test]
fn every_named_reason_code_belongs_into_some_packet_and_no_other_does() {
    let packets = (1..=15).filter_map(|nibble: u8| PacketType::from_first_byte(nibble << 4));
    let packets: Vec<_> = packets.collect();
    assert_eq!(packets.len(), 15);
    for reason in (0..=255).map(ReasonCode) {
        let somewhere = packets.iter().any(|&packet| {
            reason.is_allowed_in(packet, Sender::Client)
                || reason.is_allowed_in(packet, Sender::Server)
        });
        assert_eq!(
            somewhere,
            reason.name() != "Unknown reason code",
            "{reason:?}"
        );
    }
}

#[test]
fn return_codes_of_mqtt_3_are_0_to_5() {
    for reason in (0..=255).map(ReasonCode) {
        let code = reason.connack_v3();
        assert!(code <= 5);
        assert_eq!(code != 0, reason.is_error(), "{reason:?}");
    }
}

#[test]
fn subscription_options_are_a_byte() {
    let mut valid = 0;
    for byte in 0..=255 {
        if let Ok(options) = SubscribeOptions::from_byte(byte) {
            assert_eq!(options.to_byte(), byte);
            valid += 1;
        }
    }
    // Three values of QoS and of retain handling, two flags.
    assert_eq!(valid, 3 * 3 * 2 * 2);
    let all = SubscribeOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    assert_eq!(all.to_byte(), 0b0010_1110);
    assert_eq!(SubscribeOptions::new(QoS::AtLeastOnce).to_byte(), 1);
}

#[test]
fn properties_know_where_they_belong() {
    assert_eq!(PropertyId::ALL.len(), 27);
    assert!(PropertyId::ALL.is_sorted());
    for byte in 0..=255 {
        assert_eq!(
            PropertyId::from_byte(byte).is_some(),
            PropertyId::ALL.iter().any(|&id| id as u8 == byte)
        );
    }
    assert!(PropertyId::TopicAlias.belongs_in(PropertyContext::Publish));
    assert!(!PropertyId::TopicAlias.belongs_in(PropertyContext::Will));
    assert!(PropertyId::UserProperty.may_repeat_in(PropertyContext::Auth));
    assert!(PropertyId::SubscriptionIdentifier.may_repeat_in(PropertyContext::Publish));
    assert!(!PropertyId::SubscriptionIdentifier.may_repeat_in(PropertyContext::Subscribe));
}
