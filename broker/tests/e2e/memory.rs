//! All queues together stay within the memory there is.

use crate::support::*;

/// Less than the bounds of the queues and write buffers of forty clients allow together.
const MEMORY: u64 = 128 << 20;
const PAYLOAD: usize = 16 << 10;
const MESSAGES: usize = 18_000;

#[test]
fn clients_that_do_not_read_cannot_use_up_the_memory_and_the_others_are_served() {
    let broker = Broker::setup()
        .memory()
        .set(&format!("limits.max_memory={MEMORY}"))
        .allow_log(" WARN ")
        .allow_log("\"level\":\"WARN\"")
        .start();
    let _deaf: Vec<_> = (0..40)
        .map(|n| {
            let mut deaf = Client::new(&broker, Version::V5, &format!("deaf-{n}"));
            deaf.subscribe("flood", QoS::AtLeastOnce);
            deaf
        })
        .collect();
    let publisher = std::thread::spawn({
        let address = broker.address();
        move || {
            let mut bytes = Vec::new();
            let publish = Publish {
                topic: "flood",
                payload: &[b'x'; PAYLOAD],
                ..Publish::default()
            };
            Packet::Publish(Publish {
                qos: QoS::AtLeastOnce,
                packet_id: Some(id(1)),
                ..publish
            })
            .encode(Version::V5, &mut bytes)
            .expect("a PUBLISH");
            let (mut client, _) = connect(Version::V5, "flood").answer_at(address);
            for _ in 0..MESSAGES {
                // The same packet id again and again: each is acknowledged before the next.
                client.send_bytes(&bytes);
                if client.next().is_none() {
                    return;
                }
            }
        }
    });
    wait_until("memory is short", || {
        broker.log().contains("memory is short")
    });
    wait_until("there is memory again", || {
        broker.log().contains("there is memory again")
    });
    let mut reader = Client::new(&broker, Version::V5, "reader");
    reader.subscribe("served", QoS::AtLeastOnce);
    reader.publish("served", b"still", QoS::AtLeastOnce);
    reader.expect_message("served", b"still");
    let peak = broker.memory_peak();
    assert!(
        peak < MEMORY,
        "{} of {} MiB were used",
        peak >> 20,
        MEMORY >> 20
    );
    drop(reader);
    drop(broker);
    publisher.join().expect("the publisher ends");
}
