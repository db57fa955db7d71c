//! Packets that the specifications forbid end the connection, with the reason that they name.

use crate::support::*;

/// Sends bytes on an open connection; the broker has to end it.
fn ends(broker: &Broker, version: Version, bytes: &[u8], reason: ReasonCode) {
    let mut client = Client::new(broker, version, "malformed");
    client.send_bytes(bytes);
    if version.is_v5() {
        let received = client.receive();
        assert!(
            matches!(received.packet(), Packet::Disconnect(_)),
            "to {bytes:02x?}: {received:?}"
        );
        assert_eq!(received.reason(), reason, "to {bytes:02x?}: {received:?}");
    }
    client.expect_closed();
}

// [MQTT-4.8.0-1] v311 [MQTT-2.2.2-2] v311 [MQTT-4.13.1-1] v5 [MQTT-4.13.2-1] v5 [MQTT-3.14.4-1] v5 [MQTT-3.14.4-2] v5
// [MQTT-3.14.2-1] v5 [MQTT-3.6.1-1] v311 [MQTT-3.8.1-1] v311 [MQTT-3.10.1-1] v311 [MQTT-3.14.1-1] v311
// [MQTT-3.3.1-4] v311 [MQTT-3.8.3-4] v311 [MQTT-3.8.3-3] v311 [MQTT-3.10.3-2] v311 [MQTT-1.5.3-1] v311
// [MQTT-1.5.3-2] v311 [MQTT-2.3.1-1] v311 [MQTT-3.3.2-2] v311 [MQTT-4.7.3-1] v311
#[test]
fn malformed_packets_end_a_3_1_1_connection() {
    let broker = Broker::start();
    let cases: [&[u8]; 24] = [
        b"\x36\x05\x00\x01a\x00\x01",           // PUBLISH, QoS 3
        b"\x32\x05\x00\x01a\x00\x00",           // PUBLISH, packet id 0
        b"\x30\x03\x00\x01\x00",                // PUBLISH, U+0000 in the topic
        b"\x30\x04\x00\x02\xC3\x28",            // PUBLISH, ill-formed UTF-8
        b"\x30\x05\x00\x03\xED\xA0\x80",        // PUBLISH, a surrogate
        b"\x30\x05\x00\x03a/#",                 // PUBLISH, wildcard
        b"\x30\x05\x00\x03a/+",                 // PUBLISH, wildcard
        b"\x30\x02\x00\x00",                    // PUBLISH, empty topic
        b"\x30\x01\x00",                        // PUBLISH, cut short
        b"\x38\x05\x00\x01ahi",                 // PUBLISH, DUP with QoS 0
        b"\x60\x02\x00\x01",                    // PUBREL, flags
        b"\x41\x02\x00\x01",                    // PUBACK, flags
        b"\x80\x06\x00\x01\x00\x01a\x00",       // SUBSCRIBE, flags
        b"\x82\x02\x00\x01",                    // SUBSCRIBE, no filter
        b"\x82\x06\x00\x01\x00\x01a\x03",       // SUBSCRIBE, QoS 3
        b"\x82\x06\x00\x01\x00\x01a\x04",       // SUBSCRIBE, reserved bit
        b"\x82\x09\x00\x01\x00\x03a/#\x00\x00", // SUBSCRIBE, trailing byte
        b"\xA0\x05\x00\x01\x00\x01a",           // UNSUBSCRIBE, flags
        b"\xA2\x02\x00\x01",                    // UNSUBSCRIBE, no filter
        b"\xE1\x00",                            // DISCONNECT, flags
        b"\xC1\x00",                            // PINGREQ, flags
        b"\x00\x00",                            // reserved type
        b"\xF0\x00",                            // AUTH, which 3.1.1 does not have
        b"\x30\xFF\xFF\xFF\xFF\x01",            // a remaining length of five bytes
    ];
    for bytes in cases {
        ends(&broker, Version::V311, bytes, ReasonCode::MALFORMED_PACKET);
    }
}

// [MQTT-3.6.1-1] v5 [MQTT-3.8.1-1] v5 [MQTT-3.10.1-1] v5 [MQTT-3.14.1-1] v5 [MQTT-3.15.1-1] v5 [MQTT-2.1.3-1] v5
// [MQTT-3.3.1-4] v5 [MQTT-3.8.3-5] v5 [MQTT-1.5.4-1] v5 [MQTT-1.5.4-2] v5 [MQTT-1.5.5-1] v5 [MQTT-4.13.1-1] v5
#[test]
fn malformed_packets_end_a_5_0_connection_with_0x81() {
    let broker = Broker::start();
    let cases: [&[u8]; 20] = [
        b"\x36\x06\x00\x01a\x00\x01\x00",     // PUBLISH, QoS 3
        b"\x30\x04\x00\x01\x00\x00",          // PUBLISH, U+0000 in the topic
        b"\x30\x05\x00\x02\xC3\x28\x00",      // PUBLISH, ill-formed UTF-8
        b"\x30\x05\x00\x01a\x81\x00",         // PUBLISH, property length not minimal
        b"\x30\x06\x00\x01a\x05\x01\x01",     // PUBLISH, property length beyond the packet
        b"\x30\x06\x00\x01a\x02\x7F\x01",     // PUBLISH, unknown property
        b"\x30\x01\x00",                      // PUBLISH, cut short
        b"\x60\x02\x00\x01",                  // PUBREL, flags
        b"\x41\x02\x00\x01",                  // PUBACK, flags
        b"\x40\x01\x00",                      // PUBACK, cut short
        b"\x80\x07\x00\x01\x00\x00\x01a\x00", // SUBSCRIBE, flags
        b"\x82\x07\x00\x01\x00\x00\x01a\x40", // SUBSCRIBE, reserved bit
        b"\xA0\x06\x00\x01\x00\x00\x01a",     // UNSUBSCRIBE, flags
        b"\xE1\x00",                          // DISCONNECT, flags
        b"\xC1\x00",                          // PINGREQ, flags
        b"\xC0\x01\x00",                      // PINGREQ, trailing byte
        b"\xF1\x00",                          // AUTH, flags
        b"\x00\x00",                          // reserved type
        b"\x30\x80\x80\x80\x80\x01",          // a remaining length of five bytes
        b"\x30\x84\x00\x00\x01a\x00",         // a remaining length not minimal
    ];
    for bytes in cases {
        ends(&broker, Version::V5, bytes, ReasonCode::MALFORMED_PACKET);
    }
}

// [MQTT-3.8.3-2] v5 [MQTT-3.10.3-2] v5 [MQTT-3.3.2-14] v5 [MQTT-4.12.0-6] v5 [MQTT-4.13.1-1] v5
#[test]
fn protocol_errors_end_a_5_0_connection_with_their_reason() {
    let broker = Broker::start();
    let cases: [(&[u8], ReasonCode); 14] = [
        (b"\x82\x03\x00\x01\x00", ReasonCode::PROTOCOL_ERROR), // SUBSCRIBE, no filter
        (b"\xA2\x03\x00\x01\x00", ReasonCode::PROTOCOL_ERROR), // UNSUBSCRIBE, no filter
        (
            b"\x30\x08\x00\x01a\x04\x01\x00\x01\x00",
            ReasonCode::PROTOCOL_ERROR,
        ), // a property twice
        (b"\x30\x06\x00\x01a\x02\x01\x02", ReasonCode::PROTOCOL_ERROR), // payload format 2
        (
            b"\x30\x09\x00\x01a\x05\x11\x00\x00\x00\x01",
            ReasonCode::MALFORMED_PACKET,
        ), // session expiry in PUBLISH
        (
            b"\x30\x08\x00\x01a\x04\x08\x00\x01#",
            ReasonCode::PROTOCOL_ERROR,
        ), // response topic with wildcard
        (b"\x30\x03\x00\x00\x00", ReasonCode::PROTOCOL_ERROR), // empty topic, no alias
        (b"\x30\x06\x00\x03a/#\x00", ReasonCode::TOPIC_NAME_INVALID), // wildcard in a topic
        (
            b"\x82\x09\x00\x01\x02\x0B\x00\x00\x01a\x00",
            ReasonCode::PROTOCOL_ERROR,
        ), // subscription identifier 0
        (b"\xF0\x00", ReasonCode::PROTOCOL_ERROR),             // AUTH without a method
        (b"\xF0\x02\x18\x00", ReasonCode::PROTOCOL_ERROR),     // AUTH without a method
        (b"\xD0\x00", ReasonCode::PROTOCOL_ERROR),             // PINGRESP from a client
        (b"\x20\x03\x00\x00\x00", ReasonCode::PROTOCOL_ERROR), // CONNACK from a client
        (b"\x90\x04\x00\x01\x00\x00", ReasonCode::PROTOCOL_ERROR), // SUBACK from a client
    ];
    for (bytes, reason) in cases {
        ends(&broker, Version::V5, bytes, reason);
    }
}

#[test]
fn a_broker_goes_on_after_any_bad_client() {
    let broker = Broker::start();
    let mut good = Client::new(&broker, Version::V5, "good");
    for first in 0..=255_u8 {
        let mut bad = Client::open(broker.address(), Version::V5);
        bad.try_send_bytes(&[first, 4, 0, 1, 0xFF, 0xFE]);
        bad.drop_connection();
    }
    good.expect_silence();
}
