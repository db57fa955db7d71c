//! What a message costs one broker, without sockets and in one thread, so that instructions can be counted (`make instructions`).
//!
//! `hot_paths SCENARIO ROUNDS` goes through a scenario so many times: two runs with different numbers of rounds tell what a round costs. Without
//! arguments, as `cargo test` and `cargo bench` call it, each scenario runs for a moment. Every scenario fails unless everything
//! that was published has arrived and is acknowledged.
#![allow(clippy::print_stdout, reason = "names are for standard output")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that fails must stop"
)]

use std::sync::Arc;

use dunlin_broker::config::{features::Features, limits::Limits};
use dunlin_broker::hub::HubConfig;
use dunlin_broker::testing::InProcess;
use dunlin_protocol::{
    Ack, Connect, Packet, PacketId, Properties, PropertiesBuf, Property, Publish, QoS, ReasonCode,
    Sender, Subscribe, SubscribeFiltersBuf, SubscribeOptions, Version, decode, peek_frame,
};
use dunlin_sync::MemoryStore;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Messages that a publisher sends at once: the broker reads them together, as it does under load.
const BATCH: u16 = 50;
const PIPE: usize = 256 << 10;
const PAYLOAD: [u8; 64] = [b'x'; 64];

struct Scenario {
    name: &'static str,
    /// What a round is.
    counts: &'static str,
    shape: Shape,
}

#[derive(Clone, Copy)]
enum Shape {
    /// A publisher of a batch with this QoS, and so many subscribers.
    Publish {
        version: Version,
        qos: QoS,
        subscribers: usize,
        /// Topics that the publisher goes through in turn.
        topics: u16,
        /// Subscriptions of others, which match nothing.
        others: u16,
        properties: bool,
    },
    /// CONNECT, SUBSCRIBE, and the end of the connection.
    Visit,
}

const PLAIN: Shape = publish(Version::V311, QoS::AtMostOnce, 1);

const fn publish(version: Version, qos: QoS, subscribers: usize) -> Shape {
    Shape::Publish {
        version,
        qos,
        subscribers,
        topics: 1,
        others: 0,
        properties: false,
    }
}

const SCENARIOS: [Scenario; 8] = [
    Scenario {
        name: "one-qos0",
        counts: "50 messages, QoS 0, to one subscriber",
        shape: PLAIN,
    },
    Scenario {
        name: "one-qos1",
        counts: "50 messages, QoS 1, to one subscriber, acknowledged",
        shape: publish(Version::V311, QoS::AtLeastOnce, 1),
    },
    Scenario {
        name: "one-qos2",
        counts: "50 messages, QoS 2, to one subscriber, acknowledged",
        shape: publish(Version::V311, QoS::ExactlyOnce, 1),
    },
    Scenario {
        name: "fan-out-qos0",
        counts: "50 messages, QoS 0, to 50 subscribers",
        shape: publish(Version::V311, QoS::AtMostOnce, 50),
    },
    Scenario {
        name: "fan-out-qos1",
        counts: "50 messages, QoS 1, to 50 subscribers, acknowledged",
        shape: publish(Version::V311, QoS::AtLeastOnce, 50),
    },
    Scenario {
        name: "properties-qos1",
        counts: "50 messages of MQTT 5 with three properties, QoS 1, to one subscriber",
        shape: Shape::Publish {
            version: Version::V5,
            qos: QoS::AtLeastOnce,
            subscribers: 1,
            topics: 1,
            others: 0,
            properties: true,
        },
    },
    Scenario {
        name: "many-topics-qos0",
        counts: "50 messages with 20,000 topics in turn, which no cache holds, beside 1,000 subscriptions of others",
        shape: Shape::Publish {
            version: Version::V311,
            qos: QoS::AtMostOnce,
            subscribers: 1,
            topics: 20_000,
            others: 1_000,
            properties: false,
        },
    },
    Scenario {
        name: "visit",
        counts: "a connection with a subscription that comes and goes",
        shape: Shape::Visit,
    },
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [list] if list == "list" => {
            for scenario in &SCENARIOS {
                println!("{}", scenario.name);
            }
        }
        [name, rounds] => {
            let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
            run(
                scenario.expect("a scenario of that name"),
                rounds.parse().expect("a number of rounds"),
            );
        }
        _ => {
            for scenario in &SCENARIOS {
                run(scenario, 2);
                println!("{:<18} a round is {}", scenario.name, scenario.counts);
            }
        }
    }
}

fn run(scenario: &Scenario, rounds: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let broker = start();
        match scenario.shape {
            Shape::Visit => visit(&broker, rounds).await,
            shape => messages(&broker, shape, rounds).await,
        }
    });
}

fn start() -> InProcess {
    let config = HubConfig {
        limits: Limits {
            max_inflight: u16::MAX,
            receive_maximum: u16::MAX,
            ..Limits::default()
        },
        features: Features {
            sys_interval: 0,
            ..Features::default()
        },
        ..HubConfig::default()
    };
    let store = Arc::new(MemoryStore::new().unwrap());
    InProcess::start(config, store).unwrap()
}

async fn visit(broker: &InProcess, rounds: u32) {
    for _ in 0..rounds {
        let mut client = Client::connect(broker, Version::V311, "visitor").await;
        client.subscribe("a/b", QoS::AtMostOnce).await;
        client.leave().await;
    }
}

async fn messages(broker: &InProcess, shape: Shape, rounds: u32) {
    let Shape::Publish {
        version,
        qos,
        subscribers,
        topics,
        others,
        properties,
    } = shape
    else {
        return;
    };
    let mut other = Client::connect(broker, version, "other").await;
    for number in 0..others {
        other
            .subscribe(&format!("o{number}/+/c"), QoS::AtMostOnce)
            .await;
    }
    let mut receivers = Vec::new();
    for number in 0..subscribers {
        let mut receiver = Client::connect(broker, version, &format!("s{number}")).await;
        receiver.subscribe("sensors/#", qos).await;
        receivers.push(receiver);
    }
    let mut publisher = Client::connect(broker, version, "publisher").await;
    let batches: Vec<Vec<u8>> = (0..topics.div_ceil(BATCH))
        .map(|batch| encoded(version, qos, properties, batch * BATCH, topics))
        .collect();
    for batch in batches.iter().cycle().take(rounds as usize) {
        publisher.pipe.write_all(batch).await.unwrap();
        let answered = match qos {
            QoS::AtMostOnce => 0,
            _ => u32::from(BATCH),
        };
        let receive = receivers
            .iter_mut()
            .map(|receiver| receiver.until(u32::from(BATCH)));
        tokio::join!(publisher.until(answered), join_all(receive));
    }
}

/// A batch with the topics from `first` on, of so many.
fn encoded(version: Version, qos: QoS, properties: bool, first: u16, topics: u16) -> Vec<u8> {
    let mut three = PropertiesBuf::new();
    if properties {
        three.push(Property::ContentType("text/plain")).unwrap();
        three.push(Property::ResponseTopic("answers/here")).unwrap();
        three
            .push(Property::UserProperty("unit", "degree"))
            .unwrap();
    }
    let mut bytes = Vec::new();
    for number in 0..BATCH {
        let topic = format!("sensors/kitchen/t{}", (first + number) % topics);
        let publish = Publish {
            qos,
            topic: &topic,
            packet_id: (qos > QoS::AtMostOnce)
                .then(|| PacketId::new(number + 1))
                .flatten(),
            properties: three.as_properties(),
            payload: &PAYLOAD,
            ..Publish::default()
        };
        Packet::Publish(publish)
            .encode(version, &mut bytes)
            .unwrap();
    }
    bytes
}

/// A client that answers as it must, and counts.
struct Client {
    pipe: DuplexStream,
    version: Version,
    read: Vec<u8>,
    write: Vec<u8>,
}

impl Client {
    async fn connect(broker: &InProcess, version: Version, id: &str) -> Self {
        let (pipe, _served) = broker.connect(PIPE).unwrap();
        let mut client = Self {
            pipe,
            version,
            read: Vec::with_capacity(PIPE),
            write: Vec::with_capacity(PIPE),
        };
        client.put(&Packet::Connect(Connect::new(version, id)));
        client.send().await;
        client.read_some().await;
        client.read.clear();
        client
    }

    async fn subscribe(&mut self, filter: &str, qos: QoS) {
        let mut filters = SubscribeFiltersBuf::new();
        let options = SubscribeOptions {
            qos,
            ..SubscribeOptions::default()
        };
        filters.push(filter, options).unwrap();
        let subscribe = Subscribe {
            packet_id: PacketId::new(1).unwrap(),
            properties: Properties::EMPTY,
            filters: filters.as_filters(),
        };
        self.put(&Packet::Subscribe(subscribe));
        self.send().await;
        self.read_some().await;
        self.read.clear();
    }

    /// Until so many exchanges have ended.
    async fn until(&mut self, wanted: u32) {
        let mut ended = 0;
        while ended < wanted {
            self.read_some().await;
            ended += self.answer();
            self.send().await;
        }
        assert_eq!(ended, wanted);
        assert!(self.read.is_empty(), "nothing but what was wanted came");
    }

    /// Answers everything that is whole; how many exchanges that ends.
    fn answer(&mut self) -> u32 {
        let read = std::mem::take(&mut self.read);
        let (mut rest, mut ended) = (&read[..], 0);
        while let Some(header) = peek_frame(rest, u32::MAX).unwrap() {
            let Some((packet, behind)) = rest.split_at_checked(header.total_len) else {
                break;
            };
            rest = behind;
            // PUBLISH at QoS 0: the client is to cost little.
            if packet.first().is_some_and(|first| first & 0xf6 == 0x30) {
                ended += 1;
                continue;
            }
            let ack = |packet_id| Ack::new(packet_id, ReasonCode::SUCCESS);
            match decode(packet, self.version, Sender::Server).unwrap() {
                Packet::Publish(publish) => match (publish.qos, publish.packet_id) {
                    (QoS::AtLeastOnce, Some(id)) => {
                        self.put(&Packet::PubAck(ack(id)));
                        ended += 1;
                    }
                    (QoS::ExactlyOnce, Some(id)) => self.put(&Packet::PubRec(ack(id))),
                    _ => ended += 1,
                },
                Packet::PubRel(rel) => {
                    self.put(&Packet::PubComp(ack(rel.packet_id)));
                    ended += 1;
                }
                Packet::PubRec(rec) => self.put(&Packet::PubRel(ack(rec.packet_id))),
                Packet::PubAck(_) | Packet::PubComp(_) => ended += 1,
                other => panic!("unexpected: {other:?}"),
            }
        }
        let left = rest.len();
        let whole = read.len() - left;
        self.read = read;
        self.read.drain(..whole);
        ended
    }

    async fn leave(mut self) {
        self.pipe.shutdown().await.unwrap();
        self.read.clear();
        while self.pipe.read_buf(&mut self.read).await.unwrap() > 0 {}
    }

    fn put(&mut self, packet: &Packet<'_>) {
        packet.encode(self.version, &mut self.write).unwrap();
    }

    async fn send(&mut self) {
        if !self.write.is_empty() {
            self.pipe.write_all(&self.write).await.unwrap();
            self.write.clear();
        }
    }

    async fn read_some(&mut self) {
        let count = self.pipe.read_buf(&mut self.read).await.unwrap();
        assert!(count > 0, "the broker has closed the connection");
    }
}
