//! As many topics as there are messages: nothing in broker and adapter grows with them.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;

use prost::Message as _;

use crate::support::wait_for;
use crate::world::{Stored, World};

/// PUBLISHes that wait for their PUBACKs.
const WINDOW: u32 = 1_000;
/// MiB, of a process that has up to 8 MiB of each of six partitions in memory, and their rows. Without optimisation.
const ADAPTER_MIB: u64 = 300;
/// MiB, of a broker without subscribers.
const BROKER_MIB: u64 = 200;

fn topics() -> u32 {
    let topics = std::env::var("TOPICS").ok();
    topics
        .and_then(|topics| topics.parse().ok())
        .unwrap_or(30_000)
}

fn topic(number: u32) -> String {
    format!("fleet/{}/{}/{number:07}", number % 7, number % 1_000)
}

/// Publishes one message to each topic with QoS 1, and waits for all acknowledgements.
fn publish(port: u16, client: &str, numbers: std::ops::Range<u32>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut connect = b"\0\x04MQTT\x04\x02\0\0\0".to_vec();
    connect.push(u8::try_from(client.len()).unwrap());
    connect.extend_from_slice(client.as_bytes());
    let mut packet = vec![0x10, u8::try_from(connect.len()).unwrap()];
    packet.append(&mut connect);
    stream.write_all(&packet).unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    let (acknowledged, acknowledgements) = mpsc::sync_channel(WINDOW as usize);
    let mut answers = stream.try_clone().unwrap();
    let count = numbers.end - numbers.start;
    let reader = std::thread::spawn(move || {
        let mut left = count;
        let mut buffer = [0; 4 * 1_024];
        let mut have = 0;
        while left > 0 {
            let read = answers.read(&mut buffer[have..]).unwrap();
            assert!(read > 0, "the broker has closed the connection");
            have += read;
            // Nothing but PUBACKs comes, of four bytes each.
            let whole = have / 4;
            assert!(
                buffer[..whole * 4]
                    .chunks(4)
                    .all(|puback| puback[0] == 0x40)
            );
            buffer.copy_within(whole * 4..have, 0);
            have -= whole * 4;
            let whole = u32::try_from(whole).unwrap();
            left -= whole;
            acknowledged.send(whole).unwrap();
        }
    });
    let mut under_way = 0;
    let mut packets = Vec::new();
    for number in numbers {
        if under_way == WINDOW {
            stream.write_all(&packets).unwrap();
            packets.clear();
            under_way -= acknowledgements.recv().unwrap();
        }
        let (topic, payload) = (topic(number), number.to_string());
        let length = 2 + topic.len() + 2 + payload.len();
        packets.extend_from_slice(&[0x32, u8::try_from(length).unwrap()]);
        packets.extend_from_slice(&u16::try_from(topic.len()).unwrap().to_be_bytes());
        packets.extend_from_slice(topic.as_bytes());
        packets.extend_from_slice(&u16::try_from(number % 60_000 + 1).unwrap().to_be_bytes());
        packets.extend_from_slice(payload.as_bytes());
        under_way += 1;
    }
    stream.write_all(&packets).unwrap();
    reader.join().unwrap();
    stream.write_all(&[0xe0, 0]).unwrap();
}

#[test]
fn as_many_topics_as_messages_are_rows_and_take_no_memory() {
    let world = World::start();
    let setup = world.adapter().and(&["--set", "bigquery.rows=2000"]);
    let adapter = setup.start_ready();
    let (topics, started) = (topics(), std::time::Instant::now());
    std::thread::scope(|scope| {
        for (client, quarter) in ["p", "q", "r", "s"].into_iter().zip(0..) {
            let port = world.broker_port;
            let numbers = topics / 4 * quarter..topics / 4 * (quarter + 1);
            scope.spawn(move || publish(port, client, numbers));
        }
    });
    let (sent, published) = (topics / 4 * 4, started.elapsed());
    wait_for("all rows", || {
        (world.count("messages") >= sent as usize && world.messages_left() == 0).then_some(())
    });
    let stored = started.elapsed();
    let mut found: HashSet<String> = HashSet::new();
    for row in world.rows("messages") {
        let row = Stored::decode(row.as_slice()).unwrap();
        let topic = row.topic.unwrap();
        if topic != "probe" {
            assert!(found.insert(topic), "a message is there twice");
        }
    }
    assert_eq!(found.len(), sent as usize);
    assert!((0..sent).all(|number| found.contains(&topic(number))));
    let (adapter_mib, broker_mib) = (adapter.peak_mib(), world.broker_peak_mib());
    println!(
        "{sent} topics: published in {published:?}, stored after {stored:?}; at most {adapter_mib} MiB in the adapter, {broker_mib} MiB in the broker"
    );
    assert!(
        adapter_mib < ADAPTER_MIB,
        "{adapter_mib} MiB in the adapter"
    );
    assert!(broker_mib < BROKER_MIB, "{broker_mib} MiB in the broker");
    assert!(adapter.terminate().success());
    setup.assert_log_has_only(&[]);
}
