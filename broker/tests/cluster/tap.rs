//! Taps: what is acknowledged is in them, once, whoever dies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dunlin_sync::cluster::Backplane;
use dunlin_sync::cluster::redis::{RedisBackplane, RedisOptions};
use dunlin_sync::cluster::tap::{Consumer, ConsumerOptions, Definition, Event, define};

use crate::{
    rig::{Cluster, Redis, connect_again},
    support::*,
};

const NAME: &str = "warehouse";
const LIMIT: Duration = Duration::from_secs(60);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

fn backplane(redis: &str) -> Arc<dyn Backplane> {
    let handle = tokio::runtime::Handle::current();
    let redis = RedisBackplane::start(RedisOptions::new(redis), handle).expect("good options");
    Arc::new(redis)
}

fn url(redis: &Redis) -> String {
    format!("redis://{}", redis.address())
}

fn make(redis: &Redis, change: impl FnOnce(&mut Definition)) {
    let mut definition = Definition::new(NAME, ["tapped/#"]);
    change(&mut definition);
    let url = url(redis);
    runtime().block_on(async {
        define(&*backplane(&url), &definition, 7, LIMIT)
            .await
            .expect("every replica knows of the tap");
    });
}

/// What a sink stores in one step: rows, and the next position of each partition.
#[derive(Debug, Default)]
struct Warehouse {
    next: BTreeMap<u16, u64>,
    /// (Client, topic, payload), in the order of storing.
    rows: Vec<(String, String, String)>,
    identities: BTreeSet<(u64, u64)>,
}

/// Consumers that live for so many batches each, one after the other, in a thread.
struct Reader {
    thread: Option<JoinHandle<Warehouse>>,
    stop: Arc<AtomicBool>,
    rows: Arc<AtomicUsize>,
}

impl Reader {
    fn start(redis: &Redis, batches_each: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let rows = Arc::new(AtomicUsize::new(0));
        let (stops, counts, url) = (stop.clone(), rows.clone(), url(redis));
        let thread = std::thread::spawn(move || {
            let mut warehouse = Warehouse::default();
            let mut number = 1;
            while !stops.load(Ordering::Acquire) {
                number += 1;
                let life = live(&url, number, batches_each, &mut warehouse, &stops, &counts);
                runtime().block_on(life);
            }
            warehouse
        });
        Self {
            thread: Some(thread),
            stop,
            rows,
        }
    }

    fn wait_for(&self, rows: usize) {
        wait_until("the warehouse has all rows", || {
            self.rows.load(Ordering::Acquire) >= rows
        });
    }

    fn end(mut self) -> Warehouse {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().expect("ended once");
        thread.join().expect("the reader does not panic")
    }
}

/// One consumer, which dies without a word: its leases end by themselves.
async fn live(
    url: &str,
    number: u64,
    batches: usize,
    warehouse: &mut Warehouse,
    stop: &AtomicBool,
    rows: &AtomicUsize,
) {
    let options = ConsumerOptions {
        lease: Duration::from_millis(1_000),
        ..ConsumerOptions::default()
    };
    let mut consumer = Consumer::join(backplane(url), NAME, number, options)
        .await
        .expect("there is a tap");
    let mut left = batches;
    while left > 0 && !stop.load(Ordering::Acquire) {
        let step = Duration::from_millis(100);
        let Ok(event) = tokio::time::timeout(step, consumer.next()).await else {
            continue;
        };
        let Event::Batch(batch) = event.expect("nobody closes it") else {
            continue;
        };
        let next = warehouse.next.entry(batch.partition).or_default();
        for row in batch.rows().filter(|row| row.position >= *next) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            warehouse.rows.push((
                row.publisher.unwrap_or_default().to_owned(),
                row.topic.to_owned(),
                text(row.payload),
            ));
            let identity = (row.identity.0.0, row.identity.1);
            assert!(warehouse.identities.insert(identity), "{identity:?} twice");
        }
        *next = (*next).max(batch.positions.end);
        rows.store(warehouse.rows.len(), Ordering::Release);
        left -= 1;
        // The last batch of a life is stored and not acknowledged.
        if left > 0 {
            let (partition, epoch, upto) = (batch.partition, batch.epoch, batch.positions.end);
            consumer
                .acknowledge(partition, epoch, upto, Bytes::new())
                .expect("a short checkpoint");
        }
    }
}

fn exactly_once<'a>(payload: &'a [u8], packet_id: u16, dup: bool) -> Packet<'a> {
    Packet::Publish(Publish {
        dup,
        qos: QoS::ExactlyOnce,
        topic: "tapped/twice",
        packet_id: Some(id(packet_id)),
        payload,
        ..Publish::default()
    })
}

#[test]
fn what_is_acknowledged_is_in_the_warehouse_once_while_replicas_readers_and_redis_die() {
    let redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut cluster = Cluster::setup(3).with_faults().start_over(redis);
    make(&cluster.redis, |definition| definition.partitions = 3);
    let reader = Reader::start(&cluster.redis, 7);
    let publisher = connect(Version::V5, "publisher").persistent();
    let mut expected = Vec::new();
    for round in 0..4 {
        let replica = round % 3;
        let mut sender = connect_again(&cluster.replicas[replica], &publisher);
        let clean = format!("clean{round}");
        let mut other = cluster.clean((replica + 1) % 3, &clean);
        for n in 0..25 {
            let payload = format!("{round} {n}");
            sender.publish("tapped/twice", payload.as_bytes(), QoS::ExactlyOnce);
            other.publish("tapped/once", payload.as_bytes(), QoS::AtLeastOnce);
            other.publish("elsewhere", payload.as_bytes(), QoS::AtLeastOnce);
            expected.push(("publisher".into(), "tapped/twice".into(), payload.clone()));
            expected.push((clean.clone(), "tapped/once".into(), payload));
        }
        // Its replica dies with a publish under way, which is sent again elsewhere.
        let payload = format!("{round} again");
        sender.send(exactly_once(payload.as_bytes(), 999, false));
        if round % 2 == 0 {
            sender.receive();
        }
        cluster.replicas[replica].kill9();
        let next = (replica + 1) % 3;
        let mut sender = connect_again(&cluster.replicas[next], &publisher);
        sender.send(exactly_once(payload.as_bytes(), 999, true));
        let ack = Ack::new(id(999), ReasonCode::SUCCESS);
        sender.expect(Packet::PubRec(ack));
        sender.send(Packet::PubRel(ack));
        sender.expect(Packet::PubComp(ack));
        expected.push(("publisher".into(), "tapped/twice".into(), payload));
        if round == 2 {
            cluster.redis.kill9();
            cluster.redis.start_again();
        }
        cluster.start_again(replica);
    }
    reader.wait_for(expected.len());
    let mut warehouse = reader.end();
    let in_order: Vec<_> = warehouse
        .rows
        .iter()
        .filter(|row| row.0 == "publisher")
        .cloned()
        .collect();
    let sent: Vec<_> = expected
        .iter()
        .filter(|row| row.0 == "publisher")
        .cloned()
        .collect();
    assert_eq!(in_order, sent, "one publisher's rows, in its order");
    warehouse.rows.sort_unstable();
    expected.sort_unstable();
    assert_eq!(warehouse.rows, expected);
    println!(
        "{} published and acknowledged, {} rows, 0 lost, 0 repeated, 0 out of order",
        expected.len(),
        warehouse.rows.len()
    );
}

#[test]
fn a_full_tap_slows_its_publishers_down_and_nobody_else() {
    let cluster = Cluster::start(2);
    make(&cluster.redis, |definition| definition.max_messages = 30);
    let payloads: Vec<String> = (0..60).map(|n| n.to_string()).collect();
    let publish = |replica: usize, client: &'static str| {
        let mut sender = cluster.clean(replica, client);
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let (count, payloads) = (acknowledged.clone(), payloads.clone());
        let thread = std::thread::spawn(move || {
            for payload in payloads {
                sender.publish("tapped/x", payload.as_bytes(), QoS::AtLeastOnce);
                count.fetch_add(1, Ordering::AcqRel);
            }
        });
        (thread, acknowledged)
    };
    let (one, of_one) = publish(0, "one");
    let (two, of_two) = publish(1, "two");
    let both = || of_one.load(Ordering::Acquire) + of_two.load(Ordering::Acquire);
    wait_until("the tap is full", || both() == 30);
    // Those whose messages go elsewhere notice nothing.
    let mut other = cluster.clean(0, "other");
    for _ in 0..100 {
        other.publish("elsewhere", b"x", QoS::AtLeastOnce);
    }
    // QoS 0 does not wait: it is left out.
    other.publish("tapped/x", b"at most once", QoS::AtMostOnce);
    other.publish("elsewhere", b"behind it", QoS::AtLeastOnce);
    assert_eq!(both(), 30, "what does not fit is not acknowledged");
    let begun = Instant::now();
    let reader = Reader::start(&cluster.redis, usize::MAX);
    one.join().expect("all of its messages are acknowledged");
    two.join().expect("all of its messages are acknowledged");
    reader.wait_for(120);
    let warehouse = reader.end();
    assert!(begun.elapsed() < LIMIT);
    for client in ["one", "two"] {
        let rows = warehouse.rows.iter().filter(|row| row.0 == client);
        let got: Vec<_> = rows.map(|row| row.2.clone()).collect();
        assert_eq!(got, payloads, "each one's in order");
    }
    assert_eq!(warehouse.rows.len(), 120);
}

#[test]
fn nobody_sees_the_definition_of_a_tap_nor_can_write_one() {
    let cluster = Cluster::start(1);
    make(&cluster.redis, |_| {});
    let mut client = cluster.clean(0, "client");
    client.subscribe("#", QoS::AtLeastOnce);
    client.expect_silence();
    // A wildcard in a topic is an error of the protocol. [MQTT-3.3.2-2]
    client.send(Packet::Publish(Publish {
        topic: "#tap/warehouse",
        payload: b"x",
        retain: true,
        ..Publish::default()
    }));
    client.expect_end(ReasonCode::TOPIC_NAME_INVALID);
}
