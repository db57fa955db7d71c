//! CONNECT and CONNACK: who is let in, and what a refusal looks like.

use std::collections::HashSet;

use crate::support::*;

/// A CONNECT without payload but a client id, with any name, level and flags.
fn raw_connect(name: &[u8], level: u8, flags: u8) -> Vec<u8> {
    let mut body = vec![0, name.len() as u8];
    body.extend_from_slice(name);
    body.extend_from_slice(&[level, flags, 0, 0]);
    if level >= 5 {
        body.push(0);
    }
    body.extend_from_slice(&[0, 3, b'r', b'a', b'w']);
    let mut frame = vec![0x10, body.len() as u8];
    frame.append(&mut body);
    frame
}

/// Sends bytes on a fresh connection and gives all that came back before the broker closed.
fn answer_to(broker: &Broker, bytes: &[u8]) -> Vec<u8> {
    let mut client = Client::open(broker.address(), Version::V5);
    client.send_bytes(bytes);
    client.read_to_close()
}

// [MQTT-3.1.0-1] v311 [MQTT-3.1.0-1] v5 [MQTT-3.14.0-1] v5
#[test]
fn a_first_packet_that_is_no_connect_closes_without_a_word() {
    let broker = Broker::start();
    let first_packets: [&[u8]; 8] = [
        b"\xC0\x00",
        b"\xE0\x00",
        b"\x30\x05\x00\x01ahi",
        b"\x82\x06\x00\x01\x00\x01a\x00",
        b"\xA2\x05\x00\x01\x00\x01a",
        b"\x40\x02\x00\x01",
        b"\xF0\x00",
        b"\x20\x02\x00\x00",
    ];
    for packet in first_packets {
        assert_eq!(answer_to(&broker, packet), b"", "after {packet:02x?}");
    }
}

// [MQTT-3.1.0-2] v311 [MQTT-3.1.0-2] v5 [MQTT-3.2.0-2] v5
#[test]
fn a_second_connect_is_a_protocol_error() {
    let broker = Broker::start();
    for version in BOTH {
        let first = connect(version, "twice");
        let mut client = first.open(&broker, false);
        client.send_bytes(&first.bytes());
        client.expect_end(ReasonCode::PROTOCOL_ERROR);
    }
}

// [MQTT-3.1.2-1] v311 [MQTT-3.1.2-1] v5
#[test]
fn a_wrong_protocol_name_is_not_accepted() {
    let broker = Broker::start();
    for (name, level) in [
        (&b"MQTX"[..], 4),
        (b"MQTX", 5),
        (b"mqtt", 4),
        (b"MQTTT", 5),
        (b"", 4),
        (b"MQIsdp", 4),
    ] {
        let answer = answer_to(&broker, &raw_connect(name, level, 2));
        let unsupported = if level == 5 { 0x84 } else { 1 };
        let refused = match answer.get(2..4) {
            None => answer.is_empty(),
            Some(codes) => answer[0] == 0x20 && codes == [0, unsupported],
        };
        assert!(refused, "to {name:?} {level}: {answer:02x?}");
    }
}

// [MQTT-3.1.2-2] v311 [MQTT-3.1.2-2] v5 [MQTT-3.2.2-4] v311 [MQTT-3.2.2-5] v311 [MQTT-3.2.2-6] v5 [MQTT-3.2.2-7] v5
// [MQTT-4.13.2-1] v5
#[test]
fn an_unknown_protocol_level_is_refused_in_the_form_of_its_client() {
    let broker = Broker::start();
    for level in [0, 1, 2, 3] {
        assert_eq!(
            answer_to(&broker, &raw_connect(b"MQTT", level, 2)),
            b"\x20\x02\x00\x01",
            "level {level}"
        );
    }
    for level in [6, 7, 127] {
        let answer = answer_to(&broker, &raw_connect(b"MQTT", level, 2));
        assert_eq!(
            (answer.first(), answer.get(2..4)),
            (Some(&0x20), Some(&[0, 0x84][..])),
            "level {level}"
        );
    }
}

// [MQTT-3.1.2-3] v311 [MQTT-3.1.2-3] v5 [MQTT-3.1.4-1] v311 [MQTT-3.1.4-1] v5
#[test]
fn connect_flags_that_contradict_themselves_are_refused() {
    let broker = Broker::start();
    let reserved = 0x03;
    let will_qos_without_will = 0x0A;
    let will_retain_without_will = 0x22;
    let will_qos_3 = 0x1E;
    for flags in [
        reserved,
        will_qos_without_will,
        will_retain_without_will,
        will_qos_3,
    ] {
        assert_eq!(
            answer_to(&broker, &raw_connect(b"MQTT", 4, flags)),
            b"",
            "flags {flags:02x}"
        );
        let answer = answer_to(&broker, &raw_connect(b"MQTT", 5, flags));
        let malformed = answer.first() == Some(&0x20) && answer.get(2..4) == Some(&[0, 0x81]);
        assert!(
            answer.is_empty() || malformed,
            "flags {flags:02x}: {answer:02x?}"
        );
    }
}

// [MQTT-3.2.0-1] v311 [MQTT-3.2.0-1] v5 [MQTT-3.2.2-1] v5 [MQTT-3.1.4-4] v311 [MQTT-3.1.4-5] v5 [MQTT-3.2.2-8] v5
// [MQTT-4.2.0-1] v5 [MQTT-7.1.1-1] v311
#[test]
fn an_accepted_connect_is_answered_with_success_first() {
    let broker = Broker::start();
    for version in BOTH {
        let (_client, answer) = connect(version, "first").answer(&broker);
        let body = answer.bytes().get(2..4);
        assert_eq!(
            (answer.bytes()[0], body),
            (0x20, Some(&[0, 0][..])),
            "{answer:?}"
        );
    }
}

// [MQTT-3.1.3-5] v311 [MQTT-3.1.3-5] v5 [MQTT-3.1.3-2] v311 [MQTT-3.1.3-2] v5
#[test]
fn client_ids_of_1_to_23_letters_and_digits_are_accepted() {
    let broker = Broker::start();
    let alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for version in BOTH {
        let mut open = Vec::new();
        for len in 1..=23 {
            let start = len * 39 % (alphabet.len() - 23);
            open.push(Client::new(&broker, version, &alphabet[start..start + len]));
        }
        // All of them are different clients: none has been taken over.
        for client in &mut open {
            client.expect_silence();
        }
    }
}

#[test]
fn long_and_foreign_client_ids_are_accepted() {
    let broker = Broker::start();
    for version in BOTH {
        for client_id in ["x".repeat(200), "Ünïcødé/#+ 温度 \u{FEFF}🐦".to_owned()] {
            Client::new(&broker, version, &client_id).disconnect();
        }
    }
}

// [MQTT-3.1.3-6] v311 [MQTT-3.1.3-6] v5 [MQTT-3.1.3-7] v5 [MQTT-3.2.2-16] v5
#[test]
fn an_empty_client_id_is_replaced_by_a_new_one() {
    let broker = Broker::start();
    let mut open = vec![
        connect(Version::V311, "").open(&broker, false),
        connect(Version::V311, "").open(&broker, false),
    ];
    let mut assigned = HashSet::new();
    for connecting in [
        connect(Version::V5, ""),
        connect(Version::V5, ""),
        connect(Version::V5, "").resume(),
    ] {
        let (client, answer) = connecting.accepted(&broker);
        let name = answer
            .properties()
            .assigned_client_identifier()
            .expect("an assigned client id");
        assert!(!name.is_empty());
        assert!(assigned.insert(name.to_owned()), "{name} was given twice");
        open.push(client);
    }
    for client in &mut open {
        client.expect_silence();
    }
}

// [MQTT-3.1.3-7] v5 [MQTT-3.1.3-2] v5
#[test]
fn an_assigned_client_id_names_the_session() {
    let broker = Broker::start();
    let (client, answer) = connect(Version::V5, "").expiry(60).accepted(&broker);
    let name = answer
        .properties()
        .assigned_client_identifier()
        .expect("an assigned client id")
        .to_owned();
    client.drop_connection();
    let (_client, answer) = connect(Version::V5, &name)
        .resume()
        .expiry(60)
        .accepted(&broker);
    assert!(answer.connack().session_present);
    assert_eq!(answer.properties().assigned_client_identifier(), None);
}

// [MQTT-3.1.3-8] v311 [MQTT-3.1.3-9] v311 [MQTT-3.2.2-4] v311 [MQTT-3.2.2-5] v311
#[test]
fn an_empty_client_id_without_clean_session_is_rejected_before_5_0() {
    let broker = Broker::start();
    connect(Version::V311, "")
        .resume()
        .refused(&broker, ReasonCode(2));
}

// [MQTT-3.1.3-8] v5
#[test]
fn an_empty_client_id_is_rejected_where_the_configuration_says_so() {
    let broker = Broker::setup()
        .set("features.allow_empty_client_id=false")
        .start();
    connect(Version::V5, "").refused(&broker, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    connect(Version::V311, "").refused(&broker, ReasonCode(2));
}

// [MQTT-3.1.4-5] v311 [MQTT-3.1.4-6] v5
#[test]
fn nothing_after_a_refused_connect_is_processed() {
    let broker = Broker::setup()
        .set("features.allow_empty_client_id=false")
        .start();
    for version in BOTH {
        let mut bytes = connect(version, "").bytes();
        let smuggled = Publish {
            topic: "smuggled",
            payload: b"in",
            retain: true,
            ..Publish::default()
        };
        Packet::Publish(smuggled)
            .encode(version, &mut bytes)
            .expect("a PUBLISH");
        let mut refused = Client::open(broker.address(), version);
        refused.send_bytes(&bytes);
        assert!(refused.receive().connack().reason != ReasonCode::SUCCESS);
        refused.expect_closed();
        let mut witness = Client::new(&broker, version, "witness");
        witness.subscribe("smuggled", QoS::AtMostOnce);
        witness.expect_silence();
    }
}

#[test]
fn packets_sent_before_the_connack_are_processed() {
    let broker = Broker::start();
    for version in BOTH {
        let mut bytes = connect(version, "eager").bytes();
        let publish = Publish {
            topic: "eager",
            payload: b"bird",
            qos: QoS::AtLeastOnce,
            packet_id: Some(id(9)),
            ..Publish::default()
        };
        Packet::Publish(publish)
            .encode(version, &mut bytes)
            .expect("a PUBLISH");
        let mut client = Client::open(broker.address(), version);
        client.send_bytes(&bytes);
        assert_eq!(client.receive().connack().reason, ReasonCode::SUCCESS);
        assert!(matches!(client.receive().packet(), Packet::PubAck(ack) if ack.packet_id == id(9)));
    }
}

#[test]
fn a_client_that_says_nothing_is_closed_after_the_connect_timeout() {
    let broker = Broker::setup().set("limits.connect_timeout_ms=200").start();
    let mut silent = Client::open(broker.address(), Version::V5);
    let mut half = Client::open(broker.address(), Version::V5);
    half.send_bytes(&raw_connect(b"MQTT", 5, 2)[..7]);
    assert_eq!(silent.read_to_close(), b"");
    assert_eq!(half.read_to_close(), b"");
    // One that has connected is not under that limit.
    let mut connected = Client::new(&broker, Version::V5, "connected");
    let mut silent = Client::open(broker.address(), Version::V5);
    assert_eq!(silent.read_to_close(), b"");
    connected.expect_silence();
}

// [MQTT-3.1.2-28] v5
#[test]
fn response_information_comes_only_when_asked_for() {
    let broker = Broker::setup()
        .set("features.response_information=true")
        .start();
    let (_client, answer) = connect(Version::V5, "unasked").accepted(&broker);
    assert_eq!(answer.properties().response_information(), None);
    let asked = connect(Version::V5, "no").with(Property::RequestResponseInformation(false));
    assert_eq!(
        asked
            .accepted(&broker)
            .1
            .properties()
            .response_information(),
        None
    );
    let asked = connect(Version::V5, "yes").with(Property::RequestResponseInformation(true));
    assert!(
        asked
            .accepted(&broker)
            .1
            .properties()
            .response_information()
            .is_some()
    );
}

#[test]
fn mqtt_3_1_is_spoken_too() {
    let broker = Broker::start();
    let mut client = Client::new(&broker, Version::V31, "old");
    client.subscribe("old/+", QoS::ExactlyOnce);
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        client.publish("old/timer", b"still here", qos);
        assert_eq!(
            client
                .expect_message("old/timer", b"still here")
                .publish()
                .qos,
            qos
        );
    }
    client.disconnect();
    let broker = Broker::setup().set("features.allow_mqtt31=false").start();
    connect(Version::V31, "old").refused(&broker, ReasonCode(1));
}

// [MQTT-3.12.4-1] v311 [MQTT-3.12.4-1] v5
#[test]
fn a_pingreq_is_answered() {
    let broker = Broker::start();
    for version in BOTH {
        let mut client = Client::new(&broker, version, "ping");
        for _ in 0..3 {
            client.send(Packet::PingReq);
            client.expect(Packet::PingResp);
        }
    }
}
