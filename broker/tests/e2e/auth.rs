//! Who may come in, and what they may do.

use crate::support::{foreign::add_user, *};

/// A broker with a password file: user `bird`, password `secret`.
fn guarded(rules: &str) -> Broker {
    let default = if rules.is_empty() { "allow" } else { "deny" };
    let setup = Broker::setup();
    add_user(&setup.dir().join("users"), "bird", "secret");
    setup
        .config(&format!(
            "[[listener]]\naddress = \"127.0.0.1:{{port}}\"\n\n[store]\npath = \"{{dir}}/store\"\n\n\
             [auth]\nanonymous = false\nusers = \"{{dir}}/users\"\ndefault = \"{default}\"\n{rules}"
        ))
        .start()
}

// [MQTT-3.1.4-2] v5 [MQTT-3.2.2-7] v5 [MQTT-3.2.2-5] v311 [MQTT-3.1.2-17] v5 [MQTT-3.1.2-19] v5
#[test]
fn a_wrong_password_is_refused_and_the_right_one_accepted() {
    let broker = guarded("");
    for version in BOTH {
        let (bad_password, not_authorized) = if version.is_v5() {
            (
                ReasonCode::BAD_USER_NAME_OR_PASSWORD,
                ReasonCode::NOT_AUTHORIZED,
            )
        } else {
            (ReasonCode(4), ReasonCode(5))
        };
        let named = |user: &str| connect(version, "someone").username(user);
        named("bird")
            .password(b"wrong")
            .refused(&broker, bad_password);
        named("cat")
            .password(b"secret")
            .refused(&broker, bad_password);
        named("bird").refused(&broker, bad_password);
        connect(version, "anonymous").refused(&broker, not_authorized);
        named("bird")
            .password(b"secret")
            .open(&broker, false)
            .disconnect();
    }
}

// [MQTT-3.3.5-2] v311
#[test]
fn rules_bind_publishers_and_subscribers() {
    let broker = guarded(
        "\n[[auth.rules]]\neffect = \"allow\"\naction = \"publish\"\ntopics = [\"up/%c/#\"]\n\n\
         [[auth.rules]]\neffect = \"allow\"\naction = \"subscribe\"\ntopics = [\"down/#\"]\n",
    );
    for (version, refusal) in [(Version::V311, 0x80), (Version::V5, 0x87)] {
        let mut client = connect(version, "nest")
            .username("bird")
            .password(b"secret")
            .open(&broker, false);
        let options = SubscribeOptions::new(QoS::AtLeastOnce);
        assert_eq!(
            client.subscribe_all(
                &[("down/+", options), ("up/#", options), ("#", options)],
                &[]
            ),
            [1, refusal, refusal]
        );
        client.publish("up/nest/egg", b"1", QoS::AtLeastOnce);
        client.send(Packet::Publish(Publish {
            topic: "up/other/egg",
            qos: QoS::AtLeastOnce,
            packet_id: Some(id(50)),
            ..Publish::default()
        }));
        match client.next() {
            Some(answer) if version.is_v5() => {
                assert_eq!(answer.reason(), ReasonCode::NOT_AUTHORIZED)
            }
            // 3.1.1 knows no refusal: a positive answer, or the end of the connection.
            Some(answer) => assert_eq!(
                answer.packet(),
                Packet::PubAck(Ack::new(id(50), ReasonCode::SUCCESS))
            ),
            None => assert!(!version.is_v5(), "a 5.0 client is told"),
        }
    }
}

// [MQTT-4.12.0-1] v5 [MQTT-4.12.0-4] v5
#[test]
fn an_unknown_authentication_method_is_refused() {
    let broker = Broker::start();
    connect(Version::V5, "scram")
        .with(Property::AuthenticationMethod("SCRAM-SHA-1"))
        .with(Property::AuthenticationData(b"n,,n=user"))
        .refused(&broker, ReasonCode::BAD_AUTHENTICATION_METHOD);
}

// [MQTT-4.12.0-6] v5
#[test]
fn an_auth_packet_without_a_method_in_connect_is_a_protocol_error() {
    let broker = Broker::start();
    let mut client = Client::new(&broker, Version::V5, "unasked");
    let block = properties(&[Property::AuthenticationMethod("SCRAM-SHA-1")]);
    client.send(Packet::Auth(Auth {
        reason: ReasonCode::RE_AUTHENTICATE,
        properties: block.as_properties(),
    }));
    client.expect_end(ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn a_password_without_a_user_name_is_allowed_in_5_0_only() {
    let broker = Broker::start();
    connect(Version::V5, "token")
        .password(b"token")
        .open(&broker, false)
        .disconnect();
    // In 3.1.1 the flags contradict each other: no CONNACK at all.
    let mut client = Client::open(broker.address(), Version::V311);
    client.send_bytes(b"\x10\x12\x00\x04MQTT\x04\x42\x00\x00\x00\x01a\x00\x03abc");
    client.expect_closed();
}

// [MQTT-4.3.3-9] v5
#[test]
fn a_packet_id_whose_message_was_refused_stands_for_a_new_one() {
    let broker = guarded("\n[[auth.rules]]\neffect = \"allow\"\ntopics = [\"allowed\"]\n");
    let mut client = connect(Version::V5, "retry")
        .username("bird")
        .password(b"secret")
        .open(&broker, false);
    client.subscribe("allowed", QoS::AtLeastOnce);
    for (topic, reason) in [
        ("forbidden", ReasonCode::NOT_AUTHORIZED),
        ("allowed", ReasonCode::SUCCESS),
    ] {
        client.send(Packet::Publish(Publish {
            topic,
            qos: QoS::ExactlyOnce,
            packet_id: Some(id(5)),
            ..Publish::default()
        }));
        let answer = client.next_answer();
        assert!(
            matches!(answer.packet(), Packet::PubRec(ack) if ack.packet_id == id(5)),
            "{answer:?}"
        );
        assert_eq!(answer.reason(), reason);
    }
    client.send(Packet::PubRel(Ack::new(id(5), ReasonCode::SUCCESS)));
    client.expect_answer(Packet::PubComp(Ack::new(id(5), ReasonCode::SUCCESS)));
    client.expect_message("allowed", b"");
}
