//! Ways out of one's own topics that are not topics at all: bytes that are no text, odd names of groups, properties that name
//! topics, attributes that are more than a word, figures of others.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;

use base64ct::{Base64UrlUnpadded, Encoding};
use ring::hmac;

use crate::support::{broker::free_port, *};
use crate::tenants::World;

const TENANTS: &str = "[[tenant]]\nname = \"acme\"\n[[tenant]]\nname = \"b\"\n";

/// A text as MQTT has it; what it is, the test says.
fn text(bytes: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(bytes.len())
        .expect("short")
        .to_be_bytes()
        .to_vec();
    out.extend_from_slice(bytes);
    out
}

/// A packet of less than 128 bytes.
fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let len = u8::try_from(body.len()).expect("short");
    assert!(len < 128);
    [&[first, len][..], &body].concat()
}

fn connect_packet(
    version: Version,
    client_id: &[u8],
    will: Option<&[u8]>,
    user: Option<&[u8]>,
) -> Vec<u8> {
    let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
    let flags = 2 | if will.is_some() { 4 } else { 0 } | if user.is_some() { 0x80 } else { 0 };
    let mut body = [
        &b"\0\x04MQTT"[..],
        &[if version.is_v5() { 5 } else { 4 }, flags, 0, 0],
        properties,
    ]
    .concat();
    body.extend(text(client_id));
    if let Some(topic) = will {
        body.extend_from_slice(properties);
        body.extend(text(topic));
        body.extend(text(b"will"));
    }
    body.extend(user.map(text).unwrap_or_default());
    packet(0x10, &[&body])
}

/// What is no text: U+0000, and the ways to write it, `/`, `#` and `$` longer than they are, halves of characters.
const NO_TEXT: [&[u8]; 10] = [
    b"a\0",
    b"\0",
    b"$tenant/b\0/t",
    b"a\0/../b",
    b"a\xC0\x80",
    b"a\xC0\xAFb",
    b"\xC0\xA3",
    b"\xE0\x80\xA4tenant/b/t",
    b"a\xED\xA0\x80",
    b"\xF4\x90\x80\x80",
];

#[test]
fn what_is_no_text_names_nothing_and_ends_the_connection() {
    let port = free_port();
    let world = World::start(&format!(
        "{TENANTS}[[listener]]\ntype = \"ws\"\naddress = \"127.0.0.1:{port}\"\ntenant = \"acme\"\n"
    ));
    let web = SocketAddr::from(([127, 0, 0, 1], port));
    let mut witnesses: Vec<Client> = (0..3)
        .map(|door| {
            let mut witness = world.client(door, Version::V5, "witness");
            witness.subscribe("#", QoS::AtMostOnce);
            witness
        })
        .collect();
    let mut refused = 0;
    for version in BOTH {
        let properties: &[u8] = if version.is_v5() { &[0] } else { &[] };
        for bytes in NO_TEXT {
            let name = text(bytes);
            let response = [&[(name.len() + 1) as u8, 0x08][..], &name].concat();
            let mut packets = vec![
                packet(0x30, &[&name, properties, b"x"]),
                packet(0x31, &[&name, properties, b"x"]),
                packet(0x32, &[&name, b"\0\x01", properties, b"x"]),
                packet(0x82, &[b"\0\x01", properties, &name, b"\0"]),
                packet(
                    0x82,
                    &[
                        b"\0\x01",
                        properties,
                        &text(&[b"$share/g/", bytes].concat()),
                        b"\0",
                    ],
                ),
                packet(
                    0x82,
                    &[
                        b"\0\x01",
                        properties,
                        &text(&[b"$share/", bytes, b"/t"].concat()),
                        b"\0",
                    ],
                ),
                packet(0xA2, &[b"\0\x01", properties, &name]),
            ];
            if version.is_v5() {
                // A response topic.
                packets.push(packet(0x30, &[&text(b"t"), &response, b"x"]));
            }
            for door in [Some(world.doors[1]), Some(world.doors[0]), None] {
                let open = || match door {
                    Some(address) => Client::open(address, version),
                    None => Client::open_websocket(web, version),
                };
                for bytes in &packets {
                    let (mut client, answer) = connect(version, "liar").answer_over(open());
                    assert_eq!(answer.reason(), ReasonCode::SUCCESS);
                    client.send_bytes(bytes);
                    client.expect_end(ReasonCode::MALFORMED_PACKET);
                    refused += 1;
                }
                for connect in [
                    connect_packet(version, bytes, None, None),
                    connect_packet(version, b"liar", Some(bytes), None),
                    connect_packet(version, b"liar", None, Some(bytes)),
                ] {
                    let mut client = open();
                    client.send_bytes(&connect);
                    if version.is_v5() {
                        assert_eq!(client.receive().reason(), ReasonCode::MALFORMED_PACKET);
                    }
                    client.expect_closed();
                    refused += 1;
                }
            }
        }
    }
    println!("{refused} refused");
    for witness in &mut witnesses {
        witness.expect_silence();
    }
}

#[test]
fn odd_groups_of_shared_subscriptions_reach_nothing_of_others() {
    let world = World::start(TENANTS);
    let options = SubscribeOptions::new(QoS::AtMostOnce);
    let topics = [
        "t",
        "acme/t",
        "$x/t",
        "$tenant/b/t",
        "$tenant$/b/$x/t",
        "$share/g/t",
        "g/t",
    ];
    for version in BOTH {
        for door in 0..3 {
            // Before MQTT 5 a filter without a group, or of none, is one of the topics that begin so.
            let plain = [
                "$share/",
                "$share/g",
                "$share/g/",
                "$share//t",
                "$share/+/t",
                "$share/#",
            ];
            let plain = plain.into_iter().filter(|_| !version.is_v5());
            let shared = [
                "$share/$tenant/b/#",
                "$share/$tenant$/b/#",
                "$share/../$tenant/b/#",
                "$share/g/../$tenant/b/#",
                "$share/g/$share/h/#",
                "$share/g/$share/h/$tenant/b/#",
                "$share/g//#",
                "$SHARE/g/#",
                "$share/ /#",
                "$share/g/+/b/#",
                "$share/$share/#",
                "$share/%t/#",
            ];
            for share in shared.into_iter().chain(plain) {
                let mut reader = world.client(door, version, "odd");
                let code = reader.subscribe_all(&[(share, options)], &[])[0];
                reader.subscribe("end", QoS::AtMostOnce);
                for from in 0..3 {
                    let mut writer = world.client(from, Version::V5, "writer");
                    for topic in topics {
                        if from == 0 && topic.starts_with("$tenant") {
                            continue;
                        }
                        writer.publish(topic, from.to_string().as_bytes(), QoS::AtMostOnce);
                    }
                    writer.expect_silence();
                    writer.disconnect();
                }
                let mut writer = world.client(door, Version::V5, "writer");
                writer.publish("end", b"", QoS::AtMostOnce);
                loop {
                    let received = reader.receive();
                    let publish = received.publish();
                    if publish.topic == "end" && publish.payload.is_empty() {
                        break;
                    }
                    // What it gets is of its own tenant, and a topic that somebody there has named.
                    assert!(code < 0x80, "{share} of {door}: {publish:?}");
                    assert_eq!(
                        publish.payload,
                        door.to_string().as_bytes(),
                        "{share}: {publish:?}"
                    );
                    assert!(topics.contains(&publish.topic), "{share}: {publish:?}");
                }
                reader.drop_connection();
            }
            if !version.is_v5() {
                continue;
            }
            // No group, or no filter: it ends the connection or is refused, and is never a filter of its own.
            for share in [
                "$share/",
                "$share/g",
                "$share/g/",
                "$share//t",
                "$share/+/t",
                "$share/#",
                "$share/g#/t",
            ] {
                let mut reader = world.client(door, version, "odd");
                let filter = text(share.as_bytes());
                reader.send_bytes(&packet(0x82, &[b"\0\x01\0", &filter, b"\0"]));
                if let Some(answer) = reader.next() {
                    match answer.packet() {
                        Packet::SubAck(suback) => {
                            assert!(suback.reason_codes[0] >= 0x80, "{share}")
                        }
                        _ => assert!(answer.reason().is_error(), "{share}: {answer:?}"),
                    }
                }
            }
        }
    }
}

#[test]
fn a_response_topic_is_carried_and_not_acted_upon() {
    let rules = "[[auth.rules]]\neffect = \"allow\"\nclients = [\"keeper\"]\ntopics = [\"#\"]\n\
        [[auth.rules]]\neffect = \"allow\"\ntopics = [\"dev/%c/#\"]\n";
    let world = World::start(&format!("{TENANTS}{rules}"));
    for door in 0..3 {
        let mut keeper = world.client(door, Version::V5, "keeper");
        keeper.subscribe("#", QoS::AtLeastOnce);
        let mut device = world.client(door, Version::V5, "a");
        let other = (door + 1) % 3;
        let mut stranger = world.client(other, Version::V5, "keeper");
        stranger.subscribe("#", QoS::AtLeastOnce);
        for forbidden in [
            "dev/b/secret",
            "$tenant/b/x",
            "$tenant$/acme/$SYS/x",
            "$SYS/broker/x",
            "../b",
        ] {
            let answer = [
                Property::ResponseTopic(forbidden),
                Property::CorrelationData(b"7"),
            ];
            for retain in [false, true] {
                let block = properties(&answer);
                device.publish_packet(Publish {
                    topic: "dev/a/ask",
                    payload: b"?",
                    qos: QoS::AtLeastOnce,
                    retain,
                    properties: block.as_properties(),
                    ..Publish::default()
                });
                let received = keeper.expect_message("dev/a/ask", b"?");
                assert_eq!(received.properties().response_topic(), Some(forbidden));
                assert_eq!(received.properties().correlation_data(), Some(&b"7"[..]));
            }
            // The device may not read there for having named it.
            let options = SubscribeOptions::new(QoS::AtMostOnce);
            let refused = device.subscribe_all(&[(forbidden, options)], &[]);
            assert_eq!(refused, [0x87], "{forbidden}");
        }
        keeper.expect_silence();
        stranger.expect_silence();
        device.publish_packet(Publish {
            topic: "dev/a/ask",
            retain: true,
            qos: QoS::AtLeastOnce,
            ..Publish::default()
        });
        keeper.expect_message("dev/a/ask", b"");
        keeper.disconnect();
        stranger.disconnect();
    }
}

/// A token with this attribute, as its issuer would make it.
fn token(secret: &str, site: &serde_json::Value) -> String {
    let encode = |bytes: &[u8]| Base64UrlUnpadded::encode_string(bytes);
    let claims = serde_json::json!({ "sub": "device", "site": site });
    let signed = format!(
        "{}.{}",
        encode(br#"{"alg":"HS256"}"#),
        encode(claims.to_string().as_bytes())
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", encode(signature.as_ref()))
}

#[test]
fn an_attribute_that_is_more_than_a_word_opens_nothing() {
    const SECRET: &str = "a secret of 32 bytes, or some more";
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    let mut file = std::fs::File::options();
    file.create(true).write(true).mode(0o600);
    let written = file
        .open(&secret)
        .and_then(|mut file| file.write_all(SECRET.as_bytes()));
    written.expect("a file");
    let config = format!(
        "[[listener]]\naddress = \"127.0.0.1:{{port}}\"\n[store]\nkind = \"memory\"\n[auth]\nanonymous = true\nmethods = [\"jwt\"]\n\
         [auth.jwt]\nsecret_file = {secret:?}\nrequire_expiry = false\nattribute_claims = [\"site\"]\n\
         [[auth.rules]]\neffect = \"allow\"\nclients = [\"keeper\"]\ntopics = [\"#\", \"$x/#\"]\n\
         [[auth.rules]]\neffect = \"allow\"\ntopics = [\"site/%{{site}}/#\", \"%{{site}}/own\", \"pre-%{{site}}/x\"]\n"
    );
    let broker = Broker::setup().config(&config).start();
    let sites = [
        "x", "+", "#", "/", "x/y", "x/#", "+/x", "..", "", "x\0", "\0", "$x", "%c", "%{site}",
        "\u{FF0B}", "\u{212A}",
    ];
    let mut keeper = Client::new(&broker, Version::V5, "keeper");
    for filter in ["#", "$x/#"] {
        keeper.subscribe(filter, QoS::AtMostOnce);
    }
    let words = [
        "x", "y", "..", "", "$x", "%c", "%{site}", "\u{FF0B}", "K", "\u{212A}",
    ];
    for site in sites.into_iter().map(Some).chain([None]) {
        let claim = site.map_or(serde_json::Value::Null, serde_json::Value::from);
        for version in BOTH {
            let connecting = connect(version, "device").username("unused");
            let connecting = connecting.password(token(SECRET, &claim).as_bytes());
            let mut device = connecting.open(&broker, false);
            // What a word opens is what has that very word in that place; nothing else opens anything.
            let is_word = |word: &str| {
                site == Some(word) && !word.is_empty() && !word.contains(['/', '+', '#', '\0'])
            };
            let mut expected = Vec::new();
            for word in words {
                for (topic, may) in [
                    (format!("site/{word}/data"), is_word(word)),
                    (format!("site/{word}"), is_word(word)),
                    (
                        format!("{word}/own"),
                        is_word(word) && !word.starts_with('$'),
                    ),
                    (format!("pre-{word}/x"), is_word(word)),
                    (format!("site/x/{word}/data"), is_word("x")),
                ] {
                    device.publish(&topic, b"device", QoS::AtMostOnce);
                    if may {
                        expected.push(topic);
                    }
                }
            }
            device.expect_silence();
            keeper.publish("end", b"", QoS::AtMostOnce);
            for topic in &expected {
                keeper.expect_message(topic, b"device");
            }
            keeper.expect_message("end", b"");
            let options = SubscribeOptions::new(QoS::AtMostOnce);
            for filter in [
                "#",
                "+/#",
                "site/#",
                "site/+/#",
                "site/+/data",
                "+/own",
                "$x/#",
                "$x/own",
            ] {
                let code = device.subscribe_all(&[(filter, options)], &[])[0];
                assert!(code >= 0x80, "{site:?} got {filter}");
            }
            for word in words {
                let filter = format!("site/{word}/#");
                let code = device.subscribe_all(&[(&filter, options)], &[])[0];
                assert_eq!(code < 0x80, is_word(word), "{site:?} {filter}");
            }
            device.disconnect();
        }
    }
}

#[test]
fn nobody_sees_the_figures_of_another_tenant() {
    let world = World::start(TENANTS);
    // Of acme three are connected, of b two, of nobody one.
    let mut readers: Vec<Client> = (0..3)
        .map(|door| world.client(door, Version::V5, "reader"))
        .collect();
    let _more = [
        world.client(1, Version::V5, "one"),
        world.client(1, Version::V5, "two"),
        world.client(2, Version::V5, "one"),
    ];
    let options = SubscribeOptions::new(QoS::AtMostOnce);
    for (door, reader) in readers.iter_mut().enumerate() {
        let other = ["b", "b", "acme"][door];
        let roads = [
            format!("$tenant$/{other}/$SYS/#"),
            format!("$tenant/{other}/$SYS/#"),
            format!("$share/g/$tenant$/{other}/$SYS/#"),
            format!("$SYS/../$tenant$/{other}/$SYS/#"),
            "+/broker/#".to_owned(),
            "+/+/$SYS/#".to_owned(),
            "#".to_owned(),
        ];
        for road in &roads {
            // Granted in a tenant, where these are names as any others.
            let code = reader.subscribe_all(&[(road, options)], &[])[0];
            assert!(
                door > 0 || code == 0x87 || !road.contains("$tenant") || road.starts_with("$SYS"),
                "{road}"
            );
        }
        let own = reader.subscribe_all(&[("$SYS/broker/clients/connected", options)], &[])[0];
        assert!(own < 0x80);
    }
    // Published every second: when two came, those of the others would have come, too.
    for (reader, connected) in readers.iter_mut().zip(["6", "3", "2"]) {
        let mut seen = 0;
        while seen < 2 {
            let received = reader.receive();
            let publish = received.publish();
            assert_eq!(
                publish.topic, "$SYS/broker/clients/connected",
                "{publish:?}"
            );
            seen += usize::from(publish.payload == connected.as_bytes());
        }
    }
}
