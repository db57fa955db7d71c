//! CPU per append, of this process and of Redis. Tiny as a test; in full with
//! `DUNLIN_FIGURES=1000000 cargo test --release -p dunlin-sync --test redis_backplane figures -- --nocapture`.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use dunlin_sync::cluster::redis::RedisBackplane;
use dunlin_sync::cluster::{AppendFate, Appending, Backplane, Bucket, ReplicaId, Reply, Request};
use dunlin_sync::records::{Expect, RecordKey, RecordPut, Table};

use crate::support::{RedisServer, ask, connect, head, record};
use crate::traffic::session;

/// Bytes of a message.
const SIZE: usize = 150;

/// Seconds of CPU that a process has used: from clock ticks, 10 ms each.
fn cpu(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

/// `per_call` requests of `per_request` messages in each call, eight calls under way.
async fn measure(total: usize, per_call: usize, per_request: usize, settle: bool) -> usize {
    let server = RedisServer::start(&[]);
    let redis = connect(server.url());
    let mut sessions = Vec::new();
    for n in 0..64 {
        sessions.push(session(&redis, &format!("client-{n}")).await);
    }
    let pid = server.pid().to_string();
    let (mine, its, begin) = (cpu("self"), cpu(&pid), Instant::now());
    let body = Bytes::from(vec![7; SIZE]);
    let (mut number, mut done, mut turn) = (0, 0, 0);
    let mut under_way = VecDeque::new();
    while done < total {
        while under_way.len() < 8 {
            let mut requests = Vec::new();
            for _ in 0..per_call {
                turn += 1;
                let session = sessions[turn % sessions.len()];
                let entries = (0..per_request)
                    .map(|_| {
                        number += 1;
                        Appending {
                            number,
                            once: None,
                            body: body.clone(),
                        }
                    })
                    .collect();
                requests.push(Request::Append {
                    session,
                    origin: ReplicaId(1),
                    max_messages: 1 << 40,
                    max_bytes: 1 << 50,
                    entries,
                });
            }
            let sessions: Vec<_> = (0..per_call)
                .map(|n| sessions[(turn - per_call + 1 + n) % sessions.len()])
                .collect();
            under_way.push_back((sessions, redis.execute(requests)));
        }
        let Some((sessions, replies)) = under_way.pop_front() else {
            break;
        };
        let mut settles = Vec::new();
        for (session, reply) in sessions.into_iter().zip(replies.await) {
            let Ok(Reply::Appended { seqs, .. }) = reply else {
                panic!("{reply:?}");
            };
            done += seqs.len();
            let dequeue = seqs
                .iter()
                .map(|fate| match fate {
                    AppendFate::At(seq) => *seq,
                    other => panic!("{other:?}"),
                })
                .collect();
            settles.push(Request::Settle {
                session,
                epoch: None,
                dequeue,
                release: vec![],
                inbound_put: vec![],
                inbound_delete: vec![],
            });
        }
        if settle {
            redis.execute(settles).await;
        }
    }
    let per = |seconds: f64| seconds * 1e6 / done as f64;
    println!(
        "{per_call} requests of {per_request} messages in a call{}: per message {:.2} µs here, {:.2} µs in redis, {:.2} µs of time",
        if settle { ", dequeued again" } else { "" },
        per(cpu("self") - mine),
        per(cpu(&pid) - its),
        per(begin.elapsed().as_secs_f64()),
    );
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_an_append_costs() {
    let total = std::env::var("DUNLIN_FIGURES")
        .ok()
        .and_then(|total| total.parse().ok())
        .unwrap_or(2000);
    for (per_call, per_request) in [(1, 1), (8, 1), (64, 1), (16, 8), (4, 64)] {
        assert!(measure(total, per_call, per_request, false).await >= total);
    }
    assert!(measure(total, 64, 1, true).await >= total);
}

#[tokio::test]
async fn what_an_idle_session_takes() {
    let server = RedisServer::start(&[]);
    let redis = connect(server.url());
    let used = || -> u64 {
        let info = server.cli(&["INFO", "memory"]);
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"));
        line.unwrap().trim().parse().unwrap()
    };
    // The scripts and the first of each bucket's keys do not count.
    claim_all(&redis, 0..5000).await;
    let before = used();
    claim_all(&redis, 5000..15_000).await;
    let each = (used() - before) / 10_000;
    println!("{each} bytes for each session of a client with an id of 12 bytes");
    assert!(each > 0);
}

async fn claim_all(redis: &RedisBackplane, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let client = format!("client-{n:05}");
        let claim = Request::Claim {
            client_id: client.as_str().into(),
            replica: ReplicaId(1),
            nonce: n,
            clean_start: false,
            expiry_interval: 3600,
            fresh: Bucket::of(&client).session(n + 1),
            record: record(0),
            will: None,
            will_grace_ms: 0,
            head: head(1),
        };
        assert!(matches!(ask(redis, claim).await, Reply::Claimed { .. }));
    }
}

/// A device of the registry with one key takes about so much.
const RECORD: usize = 300;

async fn put_records(redis: &RedisBackplane, numbers: std::ops::Range<usize>) -> usize {
    let mut buckets = std::collections::BTreeMap::<Bucket, Vec<RecordPut>>::new();
    let name = numbers.start as u64 + 1;
    for n in numbers {
        let key = RecordKey::new(Table::Device, format!("/device-{n:07}"));
        let put = RecordPut::set(key.clone(), vec![7; RECORD]).expecting(Expect::Absent);
        buckets.entry(key.bucket()).or_default().push(put);
    }
    let puts = buckets
        .into_iter()
        .map(|(bucket, puts)| Request::PutRecords {
            bucket,
            puts: puts.into(),
            name,
            head: head(1),
        });
    let mut done = 0;
    for reply in redis.execute(puts.collect()).await {
        let Ok(Reply::RecordsPut { outcomes, .. }) = reply else {
            panic!("{reply:?}");
        };
        done += outcomes.iter().filter(|it| it.revision().is_some()).count();
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_records_cost() {
    let total = std::env::var("DUNLIN_FIGURES")
        .ok()
        .and_then(|total| total.parse().ok())
        .unwrap_or(2000_usize);
    let server = RedisServer::start(&[]);
    let redis = connect(server.url());
    let used = || -> u64 {
        let info = server.cli(&["INFO", "memory"]);
        let mut lines = info.lines();
        let line = lines.find_map(|line| line.strip_prefix("used_memory:"));
        line.unwrap().trim().parse().unwrap()
    };
    put_records(&redis, 0..1).await;
    let pid = server.pid().to_string();
    let (before, its, begin) = (used(), cpu(&pid), Instant::now());
    let mut done = 1;
    while done < total {
        let until = (done + 4096).min(total);
        assert_eq!(put_records(&redis, done..until).await, until - done);
        done = until;
    }
    let each = |seconds: f64| seconds * 1e6 / done as f64;
    println!(
        "{done} records of {RECORD} bytes put, 4096 in a call: {:.2} µs each in redis, {:.2} µs of time; {} bytes each in its memory, with the names of the last minute",
        each(cpu(&pid) - its),
        each(begin.elapsed().as_secs_f64()),
        (used() - before) / done as u64,
    );
    let (its, begin) = (cpu(&pid), Instant::now());
    for first in (0..done).step_by(64) {
        let gets = (first..done.min(first + 64)).map(|n| {
            let key = RecordKey::new(Table::Device, format!("/device-{n:07}"));
            Request::GetRecords {
                bucket: key.bucket(),
                keys: vec![key],
            }
        });
        for reply in redis.execute(gets.collect()).await {
            let Ok(Reply::Records(found)) = reply else {
                panic!("no records: {reply:?}");
            };
            assert!(found[0].is_some(), "of those from {first} on");
        }
    }
    println!(
        "one record read in a request, 64 requests in a call: {:.2} µs each in redis, {:.2} µs of time",
        each(cpu(&pid) - its),
        each(begin.elapsed().as_secs_f64())
    );
}
