//! Changed rules reach every connection of the cluster, and every session that is resumed.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::{rig::Cluster, support::*};

const BEFORE: &str = "topic readwrite open/#\ntopic readwrite secret/#\n";
const AFTER: &str = "topic readwrite open/#\n";

/// Puts a file in place as editors and Kubernetes do.
fn put(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).expect("a file can be written");
    std::fs::rename(&new, file).expect("a file can be renamed");
}

#[test]
fn a_changed_access_file_reaches_every_connection_of_three_replicas() {
    const EACH: usize = 40;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("acl");
    put(&file, BEFORE);
    let cluster = Cluster::setup(3)
        .set(&format!("auth.acl_file={}", file.display()))
        .set("watch_files_ms=100")
        .start();
    let away = connect(Version::V5, "away").persistent();
    let mut sleeper = cluster.open(0, &away, false);
    sleeper.subscribe("secret/#", QoS::AtLeastOnce);
    sleeper.subscribe("open/#", QoS::AtLeastOnce);
    sleeper.drop_connection();
    let willing = connect(Version::V5, "willing").will("secret/will", b"", QoS::AtLeastOnce, false);
    let mut willing = cluster.open(2, &willing, false);
    let (mut readers, mut others) = (Vec::new(), Vec::new());
    for replica in 0..3 {
        for number in 0..EACH {
            let mut reader = cluster.clean(replica, &format!("reader-{replica}-{number}"));
            reader.subscribe("secret/+", QoS::AtLeastOnce);
            readers.push(reader);
        }
        let mut other = cluster.clean(replica, &format!("other-{replica}"));
        other.subscribe("open/x", QoS::AtLeastOnce);
        others.push(other);
    }
    let mut publisher = cluster.clean(1, "publisher");
    for topic in ["secret/x", "open/x"] {
        publisher.publish(topic, b"before", QoS::AtLeastOnce);
    }
    for reader in &mut readers {
        reader.expect_message("secret/x", b"before");
    }

    let changed = Instant::now();
    put(&file, AFTER);
    for reader in &mut readers {
        reader.expect_end(ReasonCode::NOT_AUTHORIZED);
    }
    willing.expect_end(ReasonCode::NOT_AUTHORIZED);
    let took = changed.elapsed();
    println!(
        "{} connections of three replicas were told after {took:?}",
        readers.len() + 1
    );
    assert!(took < Duration::from_secs(10), "{took:?}");

    publisher.send(Packet::Publish(Publish {
        topic: "secret/x",
        qos: QoS::AtLeastOnce,
        packet_id: Some(id(700)),
        ..Publish::default()
    }));
    assert_eq!(publisher.next_answer().reason(), ReasonCode::NOT_AUTHORIZED);
    publisher.publish("open/x", b"after", QoS::AtLeastOnce);
    for other in &mut others {
        other.expect_message("open/x", b"before");
        other.expect_message("open/x", b"after");
    }
    // What waited for it is sent as far as it may be read still, on another replica too.
    let mut sleeper = cluster.open(1, &away.resume(), true);
    sleeper.expect_message("open/x", b"before");
    sleeper.expect_message("open/x", b"after");
    sleeper.expect_silence();
    // The subscription itself is gone: it is not there again when the rules are as they were.
    put(&file, BEFORE);
    wait_until("publishing is allowed again", || {
        publisher.send(Packet::Publish(Publish {
            topic: "secret/x",
            qos: QoS::AtLeastOnce,
            packet_id: Some(id(701)),
            ..Publish::default()
        }));
        !publisher.next_answer().reason().is_error()
    });
    publisher.publish("open/x", b"last", QoS::AtLeastOnce);
    sleeper.expect_message("open/x", b"last");
    sleeper.expect_silence();
}
