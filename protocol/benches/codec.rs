//! Nanoseconds for a packet, decoded and encoded.
//!
//! `cargo bench -p dunlin-protocol` measures; a test of `tests/codec` runs the same code once, so that it cannot rot.
//! Each figure is the best of several rounds: what the code takes when nothing disturbs it.
#![allow(clippy::print_stdout, reason = "figures are for standard output")]

use std::hint::black_box;
use std::time::Instant;

use dunlin_protocol::topic::matches;
use dunlin_protocol::{
    Ack, Packet, PacketId, PropertiesBuf, Property, Publish, QoS, ReasonCode, Sender, Version,
    decode, encode_publish_into, peek_frame,
};

const TOPIC: &str = "sensors/kitchen/temperature";
const PAYLOAD: &[u8] = &[b'x'; 64];

struct Bench {
    rounds: usize,
    iterations: u32,
}

impl Bench {
    fn run(&self, name: &str, mut work: impl FnMut()) {
        let mut best = f64::INFINITY;
        for _ in 0..self.rounds {
            let start = Instant::now();
            for _ in 0..self.iterations {
                work();
            }
            best = best.min(start.elapsed().as_nanos() as f64 / f64::from(self.iterations));
        }
        println!("{name:<44} {best:>8.1} ns");
    }
}

fn main() {
    run(15, 400_000);
}

/// Everything, `rounds` times `iterations` times.
pub(crate) fn run(rounds: usize, iterations: u32) {
    let bench = Bench { rounds, iterations };
    let properties = three_properties();
    let plain = publish(&PropertiesBuf::new());
    let rich = publish(&properties);
    println!(
        "PUBLISH, QoS 1, topic of {} bytes, payload of {}",
        TOPIC.len(),
        PAYLOAD.len()
    );
    for (name, version, buf) in [
        ("3.1.1", Version::V311, &PropertiesBuf::new()),
        ("5.0", Version::V5, &PropertiesBuf::new()),
        ("5.0 with three properties", Version::V5, &properties),
    ] {
        publishes(&bench, name, version, buf);
    }
    others(&bench);
    second_opinion(&bench, plain.as_slice(), rich.as_slice());
}

fn publishes(bench: &Bench, name: &str, version: Version, properties: &PropertiesBuf) {
    let mut bytes = Vec::new();
    let packet = Packet::Publish(Publish {
        qos: QoS::AtLeastOnce,
        topic: TOPIC,
        packet_id: PacketId::new(7),
        properties: properties.as_properties(),
        payload: PAYLOAD,
        ..Publish::default()
    });
    packet.encode(version, &mut bytes).expect("a valid packet");
    bench.run(&format!("{name}: find its end and decode"), || {
        let bytes = black_box(&bytes[..]);
        let header = peek_frame(bytes, 1_048_576)
            .expect("a good header")
            .expect("a whole one");
        black_box(
            decode(&bytes[..header.total_len], version, Sender::Client).expect("a valid packet"),
        );
    });
    let mut out = Vec::with_capacity(1024);
    bench.run(&format!("{name}: encode"), || {
        out.clear();
        let (topic, payload, properties) = black_box((TOPIC, PAYLOAD, properties.as_bytes()));
        let (qos, id) = (QoS::AtLeastOnce, PacketId::new(7));
        let layout = encode_publish_into(
            &mut out, version, false, qos, false, topic, id, properties, payload,
        );
        black_box(layout.expect("a valid packet"));
    });
}

fn others(bench: &Bench) {
    let mut bytes = Vec::new();
    let ack = Packet::PubAck(Ack::new(PacketId::MIN, ReasonCode::SUCCESS));
    bench.run("PUBACK: encode", || {
        bytes.clear();
        black_box(&ack)
            .encode(Version::V5, &mut bytes)
            .expect("a valid packet");
    });
    bench.run("PUBACK: decode", || {
        black_box(decode(black_box(&bytes), Version::V5, Sender::Client).expect("a valid packet"));
    });
    bench.run("topic match, three levels, one wildcard", || {
        black_box(matches(
            black_box("sensors/+/temperature"),
            black_box(TOPIC),
        ));
    });
}

/// The same bytes through mqttbytes, for comparison in the same run.
fn second_opinion(bench: &Bench, v5: &[u8], v5_rich: &[u8]) {
    use mqttbytes::v5::read;
    for (name, bytes) in [("5.0", v5), ("5.0 with three properties", v5_rich)] {
        let mut buffer = bytes::BytesMut::with_capacity(64 * 1024);
        bench.run(&format!("mqttbytes, {name}: copy in and decode"), || {
            buffer.extend_from_slice(black_box(bytes));
            black_box(read(&mut buffer, 1_048_576).expect("a valid packet"));
        });
    }
}

fn publish(properties: &PropertiesBuf) -> Vec<u8> {
    let mut out = Vec::new();
    let (qos, id) = (QoS::AtLeastOnce, PacketId::new(7));
    let bytes = properties.as_bytes();
    encode_publish_into(
        &mut out,
        Version::V5,
        false,
        qos,
        false,
        TOPIC,
        id,
        bytes,
        PAYLOAD,
    )
    .expect("a valid packet");
    out
}

fn three_properties() -> PropertiesBuf {
    let mut properties = PropertiesBuf::new();
    let three = [
        Property::MessageExpiryInterval(60),
        Property::ContentType("application/json"),
        Property::UserProperty("unit", "celsius"),
    ];
    for property in three {
        properties.push(property).expect("a short property");
    }
    properties
}
