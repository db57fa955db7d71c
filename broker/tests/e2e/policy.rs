//! A device reads and writes what its rules allow, and nothing else, by whatever road it tries.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{broker::free_port, connecting::Connecting, *};

const RULES: &str = "[[auth.rules]]\neffect = \"allow\"\nclients = [\"keeper\"]\ntopics = [\"#\", \"$x/#\"]\n\
    [[auth.rules]]\neffect = \"deny\"\ntopics = [\"dev/+/secret/#\"]\n\
    [[auth.rules]]\neffect = \"allow\"\ntopics = [\"dev/%c/#\", \"%c/own\"]\n\
    [[auth.rules]]\neffect = \"allow\"\naction = \"subscribe\"\ntopics = [\"cast/+\"]\n";

/// A broker with rules, and where its WebSockets are.
struct Guarded {
    broker: Broker,
    web: SocketAddr,
}

impl Guarded {
    /// Connects, by the one road or the other.
    fn enter(&self, connecting: &Connecting, version: Version, web: bool) -> (Client, Received) {
        connecting.answer_over(match web {
            true => Client::open_websocket(self.web, version),
            false => Client::open(self.broker.address(), version),
        })
    }

    fn open(&self, connecting: &Connecting, version: Version, web: bool) -> Client {
        let (client, answer) = self.enter(connecting, version, web);
        assert_eq!(answer.reason(), ReasonCode::SUCCESS, "{answer:?}");
        client
    }
}

fn guarded() -> Guarded {
    let web = free_port();
    let config = format!(
        "[[listener]]\naddress = \"127.0.0.1:{{port}}\"\nanonymous = true\n\
         [[listener]]\ntype = \"ws\"\naddress = \"127.0.0.1:{web}\"\nanonymous = true\n[store]\nkind = \"memory\"\n{RULES}"
    );
    let broker = Broker::setup().config(&config).start();
    let web = SocketAddr::from(([127, 0, 0, 1], web));
    Guarded { broker, web }
}

/// Client ids that try to be more than a name.
const IDS: [&str; 9] = ["a", "b", "a/b", "+", "#", "$x", "..", "\u{FF41}", "a/#"];
const WORDS: [&str; 9] = [
    "dev", "cast", "a", "b", "secret", "own", "..", "$x", "\u{FF41}",
];

/// What may be written, told without patterns.
fn may_write(id: &str, topic: &str) -> bool {
    let levels: Vec<&str> = topic.split('/').collect();
    let is_name = !id.contains(['/', '+', '#']);
    match levels.as_slice() {
        ["dev", _, "secret", ..] => false,
        ["dev", name, ..] => is_name && *name == id,
        [name, "own"] => is_name && *name == id && !id.starts_with('$'),
        _ => false,
    }
}

fn may_read(id: &str, topic: &str) -> bool {
    let levels: Vec<&str> = topic.split('/').collect();
    may_write(id, topic) || matches!(levels.as_slice(), ["cast", _])
}

/// Every topic of up to four levels that a filter of such words can tell apart.
fn all_topics() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut longest: Vec<String> = WORDS
        .iter()
        .chain(&["zz", ""])
        .map(|&word| word.to_owned())
        .collect();
    for _ in 0..3 {
        all.extend(longest.iter().filter(|topic| !topic.is_empty()).cloned());
        longest = longest
            .iter()
            .flat_map(|topic| {
                ["a", "b", "secret", "own", "zz", "", "\u{FF41}"]
                    .map(|word| format!("{topic}/{word}"))
            })
            .collect();
    }
    all.extend(longest);
    all
}

fn topic() -> impl Strategy<Value = String> {
    let word = || prop::sample::select(&WORDS[..]);
    prop_oneof![
        3 => (prop::sample::select(&IDS[..]), prop::collection::vec(word(), 0..3)).prop_map(|(id, rest)| {
            // What a client might hope that its name makes.
            let id = id.replace(['+', '#'], "x");
            [&["dev", &id][..], &rest].concat().join("/")
        }),
        2 => prop::collection::vec(word(), 1..4).prop_map(|levels| levels.join("/")),
        1 => prop::sample::select(&WORDS[..]).prop_map(|word| format!("cast/{word}")),
    ]
}

fn filter() -> impl Strategy<Value = String> {
    let level = || prop_oneof![4 => prop::sample::select(&WORDS[..]), 2 => Just("+")];
    let rest = prop_oneof![2 => Just(""), 1 => Just("/#")];
    prop_oneof![
        4 => (prop::sample::select(&["dev/a", "dev/b", "dev/+", "cast", "dev", "dev/a/secret"][..]), prop::option::of(level()), rest.clone())
            .prop_map(|(start, level, rest)| format!("{start}{}{rest}", level.map(|level| format!("/{level}")).unwrap_or_default())),
        2 => (prop::collection::vec(level(), 1..4), rest).prop_map(|(levels, rest)| levels.join("/") + rest),
        1 => Just("#".to_owned()),
    ]
}

#[derive(Debug, Clone, Copy)]
enum Road {
    Plain(QoS),
    Alias,
    Retained,
    Will,
}

/// Whether the device was told that it could write.
fn write(guarded: &Guarded, id: &str, version: Version, (road, web): (Road, bool), topic: &str) {
    let connecting = connect(version, id);
    if let Road::Will = road {
        let willing = connecting.will(topic, b"device", QoS::AtLeastOnce, false);
        let (client, answer) = guarded.enter(&willing, version, web);
        assert_eq!(
            answer.reason() == ReasonCode::SUCCESS,
            may_write(id, topic),
            "{answer:?}"
        );
        client.drop_connection();
        return guarded
            .open(&connect(version, id), version, web)
            .disconnect();
    }
    let mut client = guarded.open(&connecting, version, web);
    let (qos, retain) = match road {
        Road::Plain(qos) => (qos, false),
        Road::Retained => (QoS::AtLeastOnce, true),
        _ => (QoS::AtLeastOnce, false),
    };
    let alias = properties(&[Property::TopicAlias(1)]);
    let rounds: &[&str] = match road {
        Road::Alias if version.is_v5() => &[topic, "dev", ""],
        _ => &[topic],
    };
    for (number, name) in rounds.iter().enumerate() {
        // In between goes something else: what was allowed for one topic must not be for the next.
        let aliased = rounds.len() > 1 && *name != "dev";
        let packet_id = (qos > QoS::AtMostOnce).then(|| id_of(number));
        client.send(Packet::Publish(Publish {
            topic: name,
            qos,
            retain,
            packet_id,
            payload: b"device",
            properties: if aliased {
                alias.as_properties()
            } else {
                dunlin_protocol::Properties::EMPTY
            },
            ..Publish::default()
        }));
        if qos == QoS::AtMostOnce {
            continue;
        }
        let answer = client.next_answer();
        let allowed = *name != "dev" && may_write(id, topic);
        if version.is_v5() {
            assert_eq!(!answer.reason().is_error(), allowed, "{answer:?}");
        }
        if qos == QoS::ExactlyOnce && !answer.reason().is_error() {
            client.send(Packet::PubRel(Ack::new(id_of(number), ReasonCode::SUCCESS)));
            client.next_answer();
        }
    }
    client.disconnect();
}

fn id_of(number: usize) -> PacketId {
    id(u16::try_from(number).expect("a small number") + 1)
}

/// Messages until the marker, by topic and payload.
fn until_marker(client: &mut Client) -> BTreeSet<(String, Vec<u8>)> {
    let mut seen = BTreeSet::new();
    loop {
        let received = client.receive();
        client.answer(&received);
        let publish = received.publish();
        if publish.topic == "cast/marker" {
            return seen;
        }
        seen.insert((publish.topic.to_owned(), publish.payload.to_vec()));
    }
}

#[test]
fn a_device_neither_reads_nor_writes_outside_its_rules() {
    let guarded = guarded();
    let broker = &guarded.broker;
    let everything = all_topics();
    let mut config = Config::with_cases(64);
    config.failure_persistence = None;
    config.max_shrink_iters = 200;
    let road = prop_oneof![
        Just(Road::Plain(QoS::AtMostOnce)),
        Just(Road::Plain(QoS::AtLeastOnce)),
        Just(Road::Plain(QoS::ExactlyOnce)),
        Just(Road::Alias),
        Just(Road::Retained),
        Just(Road::Will),
    ];
    let device = (
        prop::sample::select(&IDS[..]),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    let strategy = (
        device,
        filter(),
        topic(),
        prop::collection::vec(topic(), 6),
        road,
    );
    let outcome = TestRunner::new(config).run(
        &strategy,
        |((id, v5, shared, away, web), filter, topic, topics, road)| {
            let version = if v5 { Version::V5 } else { Version::V311 };
            let levels: Vec<&str> = filter.split('/').collect();
            let wants = |topic: &str| matches(&levels, &topic.split('/').collect::<Vec<_>>(), true);
            let mut keeper = connect(Version::V5, "keeper").open(broker, false);
            // Half of what is there is retained, so that it comes with the subscription.
            for topic in &topics[..3] {
                keeper.publish_retained(topic, b"kept", QoS::AtLeastOnce);
            }

            // Reading: connected, or from the queue of a session that was away.
            let reading = connect(version, id);
            let reading = if away { reading.persistent() } else { reading };
            let (mut device, answer) = guarded.enter(&reading, version, web);
            prop_assert_eq!(answer.reason(), ReasonCode::SUCCESS);
            let asked = if shared {
                format!("$share/g/{filter}")
            } else {
                filter.clone()
            };
            let code =
                device.subscribe_all(&[(&asked, SubscribeOptions::new(QoS::AtLeastOnce))], &[])[0];
            let leaks = everything
                .iter()
                .find(|topic| wants(topic) && !may_read(id, topic));
            let granted = code < 0x80;
            prop_assert!(
                !granted || leaks.is_none(),
                "{} got {}, and with it {:?}",
                id,
                asked,
                leaks
            );
            device.subscribe("cast/marker", QoS::AtLeastOnce);
            if away {
                device.drop_connection();
                device = Client::open(broker.address(), version);
            }
            for topic in &topics {
                keeper.publish(topic, b"keeper", QoS::AtLeastOnce);
            }
            keeper.publish("cast/marker", b"", QoS::AtLeastOnce);
            if away {
                device.drop_connection();
                device = guarded.open(&connect(version, id).resume(), version, web);
            }
            for (seen, payload) in until_marker(&mut device) {
                prop_assert!(
                    granted && may_read(id, &seen) && wants(&seen),
                    "{} read {} by {}",
                    id,
                    seen,
                    asked
                );
                prop_assert!(payload == b"keeper" || payload == b"kept");
            }
            device.drop_connection();
            // Its session ends with this.
            connect(version, id).open(broker, false).disconnect();

            // Writing.
            let mut witness = connect(Version::V5, "keeper").open(broker, false);
            for filter in ["#", "$x/#"] {
                let options = SubscribeOptions {
                    retain_handling: RetainHandling::DoNotSend,
                    ..SubscribeOptions::new(QoS::AtLeastOnce)
                };
                witness.subscribe_with(filter, options, &[]);
            }
            write(&guarded, id, version, (road, web), &topic);
            witness.publish("cast/marker", b"", QoS::AtLeastOnce);
            let written = until_marker(&mut witness);
            let expected: BTreeSet<_> = may_write(id, &topic)
                .then(|| (topic.clone(), b"device".to_vec()))
                .into_iter()
                .collect();
            prop_assert_eq!(
                written,
                expected,
                "{} writes {} by {:?}, over a WebSocket: {}",
                id,
                topic,
                road,
                web
            );
            for topic in topics.iter().chain([&topic]) {
                witness.publish_retained(topic, b"", QoS::AtLeastOnce);
            }
            Ok(())
        },
    );
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

#[test]
fn two_topics_by_turns_one_by_its_alias_go_each_its_own_way() {
    let broker = Broker::start();
    let mut readers = ["one", "other"].map(|topic| {
        let mut reader = connect(Version::V5, topic).open(&broker, false);
        reader.subscribe(topic, QoS::AtMostOnce);
        reader
    });
    let mut writer = connect(Version::V5, "writer").open(&broker, false);
    let alias = properties(&[Property::TopicAlias(1)]);
    let mut bytes = Vec::new();
    for (topic, aliased) in [
        ("one", true),
        ("", true),
        ("other", false),
        ("", true),
        ("other", false),
    ] {
        let block = if aliased {
            alias.as_properties()
        } else {
            dunlin_protocol::Properties::EMPTY
        };
        let publish = Publish {
            topic,
            properties: block,
            ..Publish::default()
        };
        Packet::Publish(publish)
            .encode(Version::V5, &mut bytes)
            .unwrap();
    }
    writer.send_bytes(&bytes);
    for (reader, (topic, count)) in readers.iter_mut().zip([("one", 3), ("other", 2)]) {
        for _ in 0..count {
            reader.expect_message(topic, b"");
        }
        reader.expect_silence();
    }
}
