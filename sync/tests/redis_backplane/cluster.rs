//! A Redis Cluster: slots that move, a master that dies.

use bytes::Bytes;
use dunlin_sync::SessionId;
use dunlin_sync::cluster::{Backplane, BackplaneEvent, Bucket, ReplicaId, Reply, Request};

use crate::support::{LIMIT, RedisServer, ask, cli, connect, free_port, head, until};
use crate::traffic::{Publisher, session};

/// Three masters with a third of the slots each, and as many replicas of the first as wanted.
struct Cluster {
    nodes: Vec<RedisServer>,
}

impl Cluster {
    async fn start(replicas: usize) -> Self {
        let nodes: Vec<_> = (0..3 + replicas)
            .map(|_| {
                let bus = free_port().to_string();
                RedisServer::start(&[
                    "--cluster-enabled",
                    "yes",
                    "--cluster-node-timeout",
                    "1000",
                    "--cluster-port",
                    &bus,
                    "--repl-diskless-sync-delay",
                    "0",
                    "--appendonly",
                    "no",
                ])
            })
            .collect();
        let cluster = Self { nodes };
        let first = &cluster.nodes[0];
        for (n, node) in cluster.nodes.iter().enumerate() {
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]);
            let bus = node.cli(&["CONFIG", "GET", "cluster-port"]);
            let bus = bus.lines().nth(1).unwrap();
            first.cli(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), bus]);
        }
        let ranges = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];
        for (node, (from, to)) in cluster.nodes.iter().zip(ranges) {
            assert_eq!(node.cli(&["CLUSTER", "ADDSLOTSRANGE", from, to]), "OK");
        }
        cluster.wait_for_agreement().await;
        for replica in cluster.nodes.iter().skip(3) {
            assert_eq!(replica.cli(&["CLUSTER", "REPLICATE", &cluster.id(0)]), "OK");
            let up = || {
                replica
                    .cli(&["INFO", "replication"])
                    .contains("master_link_status:up")
            };
            until(up, "the replica follows").await;
        }
        cluster
    }

    async fn wait_for_agreement(&self) {
        for node in &self.nodes {
            let ok = || {
                let info = node.cli(&["CLUSTER", "INFO"]);
                let nodes = format!("cluster_known_nodes:{}", self.nodes.len());
                info.contains("cluster_state:ok") && info.contains(&nodes)
            };
            until(ok, "the cluster is whole").await;
        }
    }

    fn id(&self, node: usize) -> String {
        self.nodes[node].cli(&["CLUSTER", "MYID"])
    }

    fn url(&self) -> String {
        format!(
            "redis+cluster://127.0.0.1:{},127.0.0.1:{}",
            self.nodes[1].port, self.nodes[2].port
        )
    }

    fn master_of(&self, slot: usize) -> usize {
        [5461, 10923, 16384]
            .iter()
            .position(|end| slot < *end)
            .unwrap()
    }

    /// Moves a slot key by key, as `redis-cli --cluster reshard` does.
    fn move_slot(&self, slot: usize, from: usize, to: usize) {
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        let (source, target) = (from.cli(&["CLUSTER", "MYID"]), to.cli(&["CLUSTER", "MYID"]));
        let slot = slot.to_string();
        assert_eq!(
            to.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]),
            "OK"
        );
        assert_eq!(
            from.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]),
            "OK"
        );
        loop {
            let keys = from.cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"]);
            if keys.is_empty() {
                break;
            }
            let port = to.port.to_string();
            let said = from.cli(&["MIGRATE", "127.0.0.1", &port, &keys, "0", "5000"]);
            assert!(matches!(&said[..], "OK" | "NOKEY"), "{said}");
        }
        for node in [to, from] {
            assert_eq!(
                node.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]),
                "OK"
            );
        }
    }
}

/// Slot of a bucket, in the words of Redis.
fn slot_of(cluster: &Cluster, bucket: Bucket) -> usize {
    let key = format!("dunlin:{{b{}}}:version", bucket.0);
    cluster.nodes[0]
        .cli(&["CLUSTER", "KEYSLOT", &key])
        .parse()
        .unwrap()
}

/// A client for each of the masters.
fn clients(cluster: &Cluster) -> Vec<String> {
    (0..3)
        .map(|master| {
            (0..)
                .map(|n| format!("client-{n}"))
                .find(|name| cluster.master_of(slot_of(cluster, Bucket::of(name))) == master)
                .unwrap()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_over_several_masters_and_a_moved_slot() {
    let cluster = Cluster::start(0).await;
    // A node of a cluster behind a plain URL is noticed.
    let redis = connect(cluster.nodes[0].url());
    let join = Request::Join {
        nonce: 1,
        info: Bytes::new(),
        lease_ms: 60_000,
    };
    let Reply::Joined { replica } = ask(&redis, join).await else {
        panic!("not joined");
    };
    until(
        || redis.status().masters.len() == 3,
        "all masters are connected",
    )
    .await;
    let mut events = redis.listen(replica);
    let mut next = async || {
        tokio::time::timeout(LIMIT, events.recv())
            .await
            .expect("no event in time")
            .unwrap()
    };
    assert_eq!(next().await, BackplaneEvent::Listening);
    for to in [None, Some(replica)] {
        let frame = Bytes::from_static(b"DN frame");
        ask(
            &redis,
            Request::Publish {
                to,
                frame: frame.clone(),
            },
        )
        .await;
        assert_eq!(next().await, BackplaneEvent::Frame(frame));
    }
    let inbox = Request::Inbox {
        to: replica,
        frame: Bytes::from_static(b"in"),
    };
    assert_eq!(ask(&redis, inbox).await, Reply::Flag(true));
    assert!(matches!(next().await, BackplaneEvent::Inbox(_, frame) if &frame[..] == b"in"));

    let clients = clients(&cluster);
    let mut sessions: Vec<SessionId> = Vec::new();
    for client in &clients {
        sessions.push(session(&redis, client).await);
        next().await;
    }
    let put = Request::PutRetained {
        topic: clients[1].as_str().into(),
        body: Bytes::from_static(b"r"),
        head: head(1),
    };
    assert_eq!(ask(&redis, put).await, Reply::Version(2));
    assert!(
        matches!(next().await, BackplaneEvent::Frame(_)),
        "announced by every master"
    );
    let Reply::Versions(versions) = ask(&redis, Request::Versions).await else {
        panic!("no versions");
    };
    assert_eq!((versions.len(), versions.iter().sum::<u64>()), (256, 4));
    drop(events);

    let publisher = Publisher::start(&redis, &sessions, 7);
    publisher.goes_on(50).await;
    for (client, from) in clients.iter().zip(0..) {
        let slot = slot_of(&cluster, Bucket::of(client));
        tokio::task::block_in_place(|| cluster.move_slot(slot, from, (from + 1) % 3));
        publisher.goes_on(50).await;
    }
    let load = Request::LoadBucket {
        bucket: Bucket::of(&clients[1]),
    };
    let Reply::Bucket { retained, .. } = ask(&redis, load).await else {
        panic!("not loaded");
    };
    assert_eq!(retained.len(), 1);
    publisher.end(&redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_of_a_cluster_dies_and_its_replica_takes_over() {
    let mut cluster = Cluster::start(1).await;
    let redis = connect(cluster.url());
    let clients = clients(&cluster);
    let mut sessions = Vec::new();
    for client in &clients {
        sessions.push(session(&redis, client).await);
    }
    let mut events = redis.listen(ReplicaId(1));
    let publishers: Vec<_> = (0u64..)
        .zip(&sessions)
        .map(|(n, session)| Publisher::start(&redis, &[*session], 70 + n))
        .collect();
    for publisher in &publishers {
        publisher.goes_on(50).await;
    }
    cluster.nodes[0].kill();
    // The other masters go on meanwhile.
    publishers[1].goes_on(50).await;
    publishers[2].goes_on(50).await;
    let replica = cluster.nodes[3].port;
    let promoted = || cli(replica, &["ROLE"]).starts_with("master");
    until(promoted, "the replica is promoted").await;
    for publisher in publishers {
        publisher.goes_on(50).await;
        publisher.end(&redis).await;
    }
    let failover = async {
        while let Some(event) = events.recv().await {
            if event == BackplaneEvent::Failover {
                return;
            }
        }
        panic!("the events have ended");
    };
    tokio::time::timeout(LIMIT, failover)
        .await
        .expect("no failover is told");
    let masters = redis.status().masters;
    assert!(
        masters.contains(&format!("127.0.0.1:{replica}")),
        "{masters:?}"
    );
    assert_eq!(masters.len(), 3);
}
