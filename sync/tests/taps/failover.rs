//! Another server takes over, and lacks the newest writes.

use bytes::Bytes;
use dunlin_sync::cluster::tap::Event;

use crate::proxy::{Proxy, Way};
use crate::rig::{Warehouse, append_many, consume, join, make};
use crate::support::{RedisServer, connect, until};

struct Pair {
    master: RedisServer,
    replica: RedisServer,
    replication: Proxy,
    front: Proxy,
}

impl Pair {
    async fn start() -> Self {
        let master = RedisServer::start(&["--repl-diskless-sync-delay", "0"]);
        let replication = Proxy::start(master.port).await;
        let replica = RedisServer::start(&[]);
        replica.cli(&["REPLICAOF", "127.0.0.1", &replication.port.to_string()]);
        let front = Proxy::start(master.port).await;
        let up = || {
            replica
                .cli(&["INFO", "replication"])
                .contains("master_link_status:up")
        };
        until(up, "the replica follows").await;
        Self {
            master,
            replica,
            replication,
            front,
        }
    }

    async fn stop_replication(&self) {
        let caught_up = || self.master.cli(&["WAIT", "1", "1000"]) == "1";
        until(caught_up, "the replica has caught up").await;
        self.replication.go(Way::BlackHole);
    }

    fn fail_over(&mut self) {
        self.front.go(Way::Cut);
        self.master.kill();
        self.replica.cli(&["REPLICAOF", "NO", "ONE"]);
        self.front.go(Way::To(self.replica.port));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failover_loses_is_stored_once_also_by_a_consumer_that_had_it() {
    let mut pair = Pair::start().await;
    let replicas = [connect(pair.front.url()), connect(pair.front.url())];
    let its = connect(pair.front.url());
    make(&replicas[0], 1).await;
    let mut consumer = join(&its, 1).await;
    let mut warehouse = Warehouse::default();
    let mut expected = Vec::new();
    for (redis, origin) in replicas.iter().zip(7..) {
        expected.extend(append_many(redis, origin, 0, 1..100).await);
    }
    let all = expected.len();
    consume(&mut consumer, &mut warehouse, |warehouse| {
        warehouse.rows.len() >= all
    })
    .await;
    pair.stop_replication().await;
    // Half of what is lost is stored before, with its checkpoint.
    for part in [100..150, 150..200] {
        for (redis, origin) in replicas.iter().zip(7..) {
            expected.extend(append_many(redis, origin, 0, part.clone()).await);
        }
        if part.start == 100 {
            let all = expected.len();
            consume(&mut consumer, &mut warehouse, |warehouse| {
                warehouse.rows.len() >= all
            })
            .await;
        }
    }
    pair.fail_over();
    for (redis, origin) in replicas.iter().zip(7..) {
        expected.extend(append_many(redis, origin, 0, 200..250).await);
    }
    let all = expected.len();
    consume(&mut consumer, &mut warehouse, |warehouse| {
        warehouse.rows.len() >= all
    })
    .await;
    expected.sort_unstable();
    assert_eq!(warehouse.sorted(), expected);
    for origin in [7, 8] {
        let rows = warehouse.rows.iter().filter(|row| row.0 == origin);
        assert!(rows.is_sorted(), "each replica's messages keep their order");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failover_loses_is_stored_once_also_when_the_consumer_dies_with_it() {
    let mut pair = Pair::start().await;
    let redis = connect(pair.front.url());
    make(&redis, 1).await;
    let mut warehouse = Warehouse::default();
    let mut expected = append_many(&redis, 7, 0, 1..50).await;
    {
        let its = connect(pair.front.url());
        let mut consumer = join(&its, 1).await;
        consume(&mut consumer, &mut warehouse, |warehouse| {
            warehouse.rows.len() >= 49
        })
        .await;
        pair.stop_replication().await;
        expected.extend(append_many(&redis, 7, 0, 50..90).await);
        consume(&mut consumer, &mut warehouse, |warehouse| {
            warehouse.rows.len() >= 60
        })
        .await;
    }
    pair.fail_over();
    expected.extend(append_many(&redis, 7, 0, 90..120).await);
    let its = connect(pair.front.url());
    let mut consumer = join(&its, 2).await;
    let all = expected.len();
    consume(&mut consumer, &mut warehouse, |warehouse| {
        warehouse.rows.len() >= all
    })
    .await;
    assert_eq!(
        warehouse.rows, expected,
        "in order, too: there is one publisher"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_again_too_late_for_its_place_comes_at_the_end() {
    let mut pair = Pair::start().await;
    let late_way = Proxy::start(pair.master.port).await;
    let redis = connect(pair.front.url());
    let late = connect(late_way.url());
    make(&redis, 1).await;
    let mut expected = append_many(&redis, 7, 0, 1..30).await;
    expected.extend(append_many(&late, 8, 0, 1..30).await);
    let its = connect(pair.front.url());
    let mut consumer = join(&its, 1).await;
    let mut warehouse = Warehouse::default();
    consume(&mut consumer, &mut warehouse, |warehouse| {
        warehouse.rows.len() >= 58
    })
    .await;
    pair.stop_replication().await;
    expected.extend(append_many(&redis, 7, 0, 30..60).await);
    expected.extend(append_many(&late, 8, 0, 30..60).await);
    late_way.go(Way::Cut);
    pair.fail_over();
    expected.extend(append_many(&redis, 7, 0, 60..90).await);
    // All but what only the one has that is cut off.
    consume(&mut consumer, &mut warehouse, |warehouse| {
        warehouse.rows.len() >= 118
    })
    .await;
    late_way.go(Way::To(pair.replica.port));
    expected.extend(append_many(&late, 8, 0, 60..90).await);
    let all = expected.len();
    consume(&mut consumer, &mut warehouse, |warehouse| {
        warehouse.rows.len() >= all
    })
    .await;
    expected.sort_unstable();
    assert_eq!(warehouse.sorted(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_a_failover_loses_is_written_again_also_without_progress() {
    let mut pair = Pair::start().await;
    let redis = connect(pair.front.url());
    make(&redis, 1).await;
    let its = connect(pair.front.url());
    let mut consumer = join(&its, 1).await;
    let mut checkpoint = Bytes::from_static(b"first");
    loop {
        match consumer.next().await.unwrap() {
            Event::Assigned { epoch, .. } => {
                consumer.acknowledge(0, epoch, 1, checkpoint).unwrap();
            }
            Event::Acknowledged {
                epoch, number: 1, ..
            } => {
                pair.stop_replication().await;
                checkpoint = Bytes::from_static(b"second");
                consumer.acknowledge(0, epoch, 1, checkpoint).unwrap();
            }
            Event::Acknowledged { .. } => break,
            other => panic!("{other:?}"),
        }
        checkpoint = Bytes::new();
    }
    pair.fail_over();
    // Its lease has ended with the old server.
    loop {
        if let Event::Assigned {
            level, checkpoint, ..
        } = consumer.next().await.unwrap()
        {
            assert_eq!(level.acknowledged, 1);
            assert_eq!(checkpoint, Bytes::from_static(b"second"));
            break;
        }
    }
}
