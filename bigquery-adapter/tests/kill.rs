//! The promise that everything rests on: kill the adapter at any moment, as often as you like, and no acknowledged message
//! is missing; at QoS 2 none is there twice.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use support::{Mosquitto, Random, Setup, wait_for};

/// Publishes numbered messages until told to stop; returns how many, all of them acknowledged by the broker.
fn publish(broker: &Mosquitto, qos: &str, stop: &Arc<AtomicBool>) -> thread::JoinHandle<u64> {
    let mut publisher = broker.publisher(&["-q", qos, "-t", &format!("kill/q{qos}"), "-l"]);
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..20 {
                publisher.line(&format!("{{\"n\":{sent}}}"));
                sent += 1;
            }
            // A pace, so that the load lasts as long as the kills.
            thread::sleep(Duration::from_millis(15));
        }
        publisher.finish();
        sent
    })
}

#[test]
fn kill_9_loses_nothing_and_repeats_nothing_of_qos_2() {
    let kills: u64 = std::env::var("CHAOS_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok())
        .unwrap_or(20);
    let mut random = Random::new();
    let broker = Mosquitto::start();
    let setup = Setup::new(&broker.url()).and(&[
        "--filter",
        "kill/#",
        "--qos",
        "2",
        "--set",
        "parquet.roll_ms=60",
    ]);
    // The session must exist before the first message.
    drop(setup.start_ready());
    let stop = Arc::new(AtomicBool::new(false));
    let (once, twice) = (publish(&broker, "1", &stop), publish(&broker, "2", &stop));
    for kill in 0..kills {
        let adapter = setup.start();
        // Every other time it is killed wherever it happens to be, beginning with its start; else under load.
        if kill % 2 == 0 {
            setup.wait_ready();
        }
        thread::sleep(Duration::from_millis(random.below(250)));
        adapter.kill();
    }
    stop.store(true, Ordering::Relaxed);
    let sent = [once.join().unwrap(), twice.join().unwrap()];
    let adapter = setup.start_ready();
    let counts = "select qos, count(*), count(distinct payload), count(distinct message_id) from messages group by qos order by qos";
    let different = "select count(distinct payload) from messages where qos = ";
    wait_for("all messages to be in the warehouse", || {
        thread::sleep(Duration::from_millis(300));
        let found = [1, 2].map(|qos| setup.sql(&format!("{different}{qos}")));
        (found == sent.map(|sent| format!("({sent},)"))).then_some(())
    });
    assert!(adapter.terminate().success());
    println!("sent {sent:?}, found:\n{}", setup.sql(counts));
    let exact = setup.sql("select count(*), count(distinct payload), count(distinct message_id) from messages where qos = 2");
    let n = sent[1];
    assert_eq!(
        exact,
        format!("({n}, {n}, {n})"),
        "QoS 2 is not exactly once"
    );
    let least = setup.sql(
        "select count(distinct payload), count(distinct message_id) from messages where qos = 1",
    );
    let n = sent[0];
    assert_eq!(
        least,
        format!("({n}, {n})"),
        "QoS 1: a message sent again has another id, or one is missing"
    );
    setup.assert_log_has_only(&["the last commit before the adapter ended was unfinished"]);
    assert!(n > 100, "there was no load");
}
