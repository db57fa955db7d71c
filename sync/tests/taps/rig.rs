//! Appending to a tap, and a warehouse that knows up to where it has stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dunlin_protocol::QoS;
use dunlin_sync::cluster::redis::RedisBackplane;
use dunlin_sync::cluster::tap::{
    Batch, Consumer, ConsumerOptions, Definition, Event, TapBound, TapPartition, TapRequest, define,
};
use dunlin_sync::cluster::{AppendFate, Appending, Backplane, ReplicaId, Reply, Request};
use dunlin_sync::{Message, MessageParts};

use crate::support::{LIMIT, ask};

pub(crate) const BOUND: TapBound = TapBound {
    messages: 1_000_000,
    bytes: 1 << 30,
    drop_oldest: false,
};

pub(crate) fn at(partition: u16) -> TapPartition {
    TapPartition {
        tap: "t".into(),
        partition,
    }
}

/// When messages were accepted, less their numbers.
pub(crate) const RECEIVED_AT: u64 = 1_700_000_000_000_000;

/// An entry of a frame as replicas write them: tag, length, number, message.
pub(crate) fn entry(number: u64, payload: &[u8]) -> Bytes {
    let message = Message::new(MessageParts {
        topic: "a/b",
        properties: &[],
        payload,
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: None,
        received_at: RECEIVED_AT + number,
        publisher: Some("p".into()),
        id: 0,
    });
    let mut rest = number.to_le_bytes().to_vec();
    rest.push(message.qos() as u8 | 16);
    rest.extend_from_slice(&message.received_at().to_le_bytes());
    rest.extend_from_slice(&0_u64.to_le_bytes());
    rest.extend_from_slice(&[1, 0, b'p', 3, 0]);
    rest.extend_from_slice(b"a/b\0\0\0\0");
    rest.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    rest.extend_from_slice(payload);
    let mut body = vec![4];
    body.extend_from_slice(&(rest.len() as u32).to_le_bytes());
    body.extend_from_slice(&rest);
    body.into()
}

pub(crate) fn appending(number: u64, once: Option<(u64, u64)>) -> Appending {
    Appending {
        number,
        once,
        body: entry(number, &number.to_le_bytes()),
    }
}

pub(crate) fn append(
    origin: u64,
    partition: u16,
    attempt: u32,
    bound: TapBound,
    entries: Vec<Appending>,
) -> Request {
    Request::Tap(TapRequest::Append {
        to: at(partition),
        origin: ReplicaId(origin),
        attempt,
        bound,
        entries: Arc::new(entries),
    })
}

/// What was acknowledged, by (origin, number).
pub(crate) async fn append_many(
    redis: &RedisBackplane,
    origin: u64,
    partition: u16,
    numbers: std::ops::Range<u64>,
) -> Vec<(u64, u64)> {
    let mut acknowledged = Vec::new();
    for chunk in numbers.collect::<Vec<_>>().chunks(7) {
        let entries = chunk.iter().map(|n| appending(*n, None)).collect();
        let reply = ask(redis, append(origin, partition, 1, BOUND, entries)).await;
        let Reply::Appended { seqs, .. } = reply else {
            panic!("{reply:?}");
        };
        assert!(
            seqs.iter().all(|fate| matches!(fate, AppendFate::At(_))),
            "{seqs:?}"
        );
        acknowledged.extend(chunk.iter().map(|n| (origin, *n)));
    }
    acknowledged
}

pub(crate) async fn make(redis: &RedisBackplane, partitions: u16) {
    let mut definition = Definition::new("t", ["#"]);
    definition.partitions = partitions;
    define(redis, &definition, 1, LIMIT).await.unwrap();
}

pub(crate) fn options() -> ConsumerOptions {
    ConsumerOptions {
        lease: Duration::from_millis(1500),
        grace: Duration::from_millis(2000),
        ..ConsumerOptions::default()
    }
}

pub(crate) async fn join(redis: &Arc<RedisBackplane>, id: u64) -> Consumer {
    let backplane: Arc<dyn Backplane> = redis.clone();
    Consumer::join(backplane, "t", id, options()).await.unwrap()
}

/// Rows in the order in which they were stored, and the next position of each partition.
#[derive(Debug, Default)]
pub(crate) struct Warehouse {
    pub(crate) rows: Vec<(u64, u64)>,
    pub(crate) next: BTreeMap<u16, u64>,
}

impl Warehouse {
    /// Stores what is new of a batch, in one step.
    pub(crate) fn store(&mut self, batch: &Batch) {
        let next = self.next.entry(batch.partition).or_default();
        for row in batch.rows() {
            assert_eq!(row.payload, row.identity.1.to_le_bytes());
            if row.position >= *next {
                *next = row.position + 1;
                self.rows.push((row.identity.0.0, row.identity.1));
            }
        }
    }

    pub(crate) fn sorted(&self) -> Vec<(u64, u64)> {
        let mut rows = self.rows.clone();
        rows.sort_unstable();
        rows
    }
}

/// Consumes until `enough`.
pub(crate) async fn consume(
    consumer: &mut Consumer,
    warehouse: &mut Warehouse,
    mut enough: impl FnMut(&Warehouse) -> bool,
) {
    let until = tokio::time::Instant::now() + LIMIT;
    while !enough(warehouse) {
        let event = tokio::time::timeout_at(until, consumer.next())
            .await
            .unwrap_or_else(|_| {
                panic!(
                    "only {} rows, {:?}, {:?}",
                    warehouse.rows.len(),
                    warehouse.next,
                    consumer.held().collect::<Vec<_>>()
                )
            })
            .unwrap();
        if let Event::Batch(batch) = event {
            warehouse.store(&batch);
            let upto = batch.positions.end;
            consumer
                .acknowledge(
                    batch.partition,
                    batch.epoch,
                    upto,
                    Bytes::from(upto.to_string()),
                )
                .unwrap();
        }
    }
}
