//! Another server takes over, and lacks the newest writes.

use std::sync::Arc;

use bytes::Bytes;
use dunlin_sync::SessionId;
use dunlin_sync::cluster::redis::RedisBackplane;
use dunlin_sync::cluster::{
    AppendFate, Appending, Backplane, BackplaneEvent, Bucket, Epoch, RELEASED_ENTRY, ReleaseEnd,
    ReplicaId, Reply, Request, Route, WillFate,
};
use dunlin_sync::records::{Expect, PutOutcome, RecordKey, RecordPut, Table};

use crate::proxy::{Proxy, Way};
use crate::support::{LIMIT, RedisServer, ask, cli, connect, head, record, until, wait_until};
use crate::traffic::{Publisher, append, own_numbers, session};

/// A master, a replica behind a proxy, and a proxy that leads clients to the master.
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
        let port = replication.port.to_string();
        replica.cli(&["REPLICAOF", "127.0.0.1", &port]);
        let front = Proxy::start(master.port).await;
        let pair = Self {
            master,
            replica,
            replication,
            front,
        };
        let up = || {
            pair.replica
                .cli(&["INFO", "replication"])
                .contains("master_link_status:up")
        };
        until(up, "the replica follows").await;
        pair
    }

    /// The replica has everything written so far, and gets nothing more.
    async fn stop_replication(&self) {
        assert_eq!(self.master.cli(&["WAIT", "1", "5000"]), "1");
        let offset = |info: &str| {
            let info = info.to_owned();
            info.lines()
                .find_map(|line| line.strip_prefix("master_repl_offset:"))
                .map(str::to_owned)
        };
        let same = || {
            offset(&self.master.cli(&["INFO", "replication"]))
                == offset(&self.replica.cli(&["INFO", "replication"]))
        };
        until(same, "the replica has caught up").await;
        self.replication.go(Way::BlackHole);
    }

    /// The master dies; the replica takes over.
    fn fail_over(&mut self) {
        self.front.go(Way::Cut);
        self.master.kill();
        self.replica.cli(&["REPLICAOF", "NO", "ONE"]);
        self.front.go(Way::To(self.replica.port));
    }
}

async fn failover_noticed(redis: &RedisBackplane) {
    until(|| redis.status().failovers > 0, "the failover is noticed").await;
}

fn settle(session: SessionId, dequeue: &[u64], release: &[u64]) -> Request {
    Request::Settle {
        session,
        epoch: None,
        dequeue: dequeue.to_vec(),
        release: release.to_vec(),
        inbound_put: Vec::new(),
        inbound_delete: Vec::new(),
    }
}

async fn queue(redis: &RedisBackplane, session: SessionId) -> Vec<(u64, String)> {
    let read = Request::ReadQueue {
        session,
        from: 0,
        limit: 1000,
    };
    match ask(redis, read).await {
        Reply::Queue(entries) => entries
            .into_iter()
            .map(|(seq, body)| (seq, String::from_utf8_lossy(&body).into_owned()))
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_that_a_failover_has_lost_are_written_again_in_order() {
    let mut pair = Pair::start().await;
    let redis: Vec<_> = (0..3).map(|_| connect(pair.front.url())).collect();
    let sessions = [session(&redis[0], "a").await, session(&redis[0], "b").await];
    let publishers: Vec<_> = (0u64..)
        .zip(&redis)
        .map(|(n, redis)| Publisher::start(redis, &sessions, 70 + n))
        .collect();
    for publisher in &publishers {
        publisher.goes_on(20).await;
    }
    pair.replication.go(Way::BlackHole);
    for publisher in &publishers {
        publisher.goes_on(100).await;
    }
    pair.fail_over();
    for (redis, publisher) in redis.iter().zip(publishers) {
        failover_noticed(redis).await;
        publisher.goes_on(20).await;
        let count = publisher.end(redis).await;
        assert!(count >= 140, "{count}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_goes_back_to_its_place_and_what_was_done_with_it_is_done_again() {
    let mut pair = Pair::start().await;
    let (one, two) = (connect(pair.front.url()), connect(pair.front.url()));
    let sid = session(&one, "c").await;
    ask(&one, append(sid, 1, 1)).await;
    pair.stop_replication().await;
    for number in 2..=6 {
        ask(&one, append(sid, 1, number)).await;
    }
    ask(&two, settle(sid, &[0, 2], &[3])).await;
    pair.fail_over();
    failover_noticed(&one).await;
    failover_noticed(&two).await;
    let released = String::from_utf8_lossy(RELEASED_ENTRY).into_owned();
    let expected = [(1, "1:2"), (3, &released), (4, "1:5"), (5, "1:6")];
    let expected: Vec<_> = expected.map(|(seq, body)| (seq, body.to_owned())).into();
    assert_eq!(queue(&one, sid).await, expected);
    let Reply::Session(Some(fields)) = ask(&one, Request::GetSession { session: sid }).await else {
        panic!("no session");
    };
    assert_eq!((fields.len, fields.bytes), (4, 11));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_entries_do_not_take_the_places_of_lost_ones() {
    let mut pair = Pair::start().await;
    let (slow, front) = (Proxy::start(pair.master.port).await, pair.front.url());
    let (early, late) = (connect(front), connect(slow.url()));
    let sid = session(&early, "c").await;
    pair.stop_replication().await;
    // One that comes late had these acknowledged; the session's owner knows their numbers.
    for number in 1..=3 {
        let reply = ask(&late, append(sid, 2, number)).await;
        assert!(
            matches!(reply, Reply::Appended { seqs, .. } if seqs == [AppendFate::At(number - 1)])
        );
    }
    slow.go(Way::Cut);
    pair.fail_over();
    failover_noticed(&early).await;
    let Reply::Appended { seqs, .. } = ask(&early, append(sid, 1, 1)).await else {
        panic!("not appended");
    };
    assert!(
        matches!(seqs[..], [AppendFate::At(seq)] if seq > 1000),
        "{seqs:?}"
    );
    // An acknowledgement of a lost entry hits nobody else's, and is remembered.
    ask(&early, settle(sid, &[1], &[])).await;
    let AppendFate::At(new) = seqs[0] else {
        panic!("not appended");
    };
    assert_eq!(queue(&early, sid).await, [(new, "1:1".to_owned())]);
    slow.go(Way::To(pair.replica.port));
    failover_noticed(&late).await;
    let expected = [(0, "2:1"), (2, "2:3"), (new, "1:1")].map(|(seq, body)| (seq, body.to_owned()));
    assert_eq!(queue(&early, sid).await, expected);
    // The queue works on across the gap.
    ask(&early, append(sid, 1, 2)).await;
    ask(&early, settle(sid, &[0, 2], &[])).await;
    assert_eq!(
        queue(&early, sid).await,
        [(new, "1:1".into()), (new + 1, "1:2".into())]
    );
    ask(&early, settle(sid, &[new, new + 1], &[])).await;
    assert_eq!(queue(&early, sid).await, []);
    ask(&early, append(sid, 1, 3)).await;
    assert_eq!(queue(&early, sid).await, [(new + 2, "1:3".into())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_lost_is_not_written_twice() {
    let mut pair = Pair::start().await;
    let redis = connect(pair.front.url());
    let sid = session(&redis, "c").await;
    let publisher = Publisher::start(&redis, &[sid], 7);
    publisher.goes_on(300).await;
    pair.fail_over();
    publisher.goes_on(300).await;
    publisher.end(&redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_and_epochs_survive() {
    let mut pair = Pair::start().await;
    let redis = connect(pair.front.url());
    pair.stop_replication().await;
    let sid = session(&redis, "c").await;
    let put = |client: &str, epoch| Request::PutRecord {
        session: Bucket::of(client).session(1),
        epoch: Epoch(epoch),
        record: record(1),
        head: head(1),
    };
    assert_eq!(ask(&redis, put("c", 1)).await, Reply::Version(2));
    pair.fail_over();
    failover_noticed(&redis).await;
    let Reply::Session(Some(fields)) = ask(&redis, Request::GetSession { session: sid }).await
    else {
        panic!("the session is lost");
    };
    assert_eq!((fields.epoch, fields.owner), (Epoch(1), ReplicaId(1)));
    let load = Request::LoadBucket {
        bucket: Bucket::of("c"),
    };
    let Reply::Bucket { sessions, .. } = ask(&redis, load).await else {
        panic!("not loaded");
    };
    assert_eq!(sessions, [(sid, record(1))]);
    // A new claim is above all that may have been drawn.
    let claim = Request::Claim {
        client_id: "c".into(),
        replica: ReplicaId(2),
        nonce: 2,
        clean_start: false,
        expiry_interval: 60,
        fresh: Bucket::of("c").session(2),
        record: record(0),
        will: None,
        will_grace_ms: 0,
        head: head(2),
    };
    let reply = ask(&redis, claim).await;
    let Reply::Claimed {
        epoch,
        session: Some(session),
        present: true,
        previous: (ReplicaId(1), Epoch(1)),
        ..
    } = reply
    else {
        panic!("{reply:?}");
    };
    assert!(epoch.0 > 1000 && epoch.0 < 1 << 32, "{epoch:?}");
    assert_eq!(session, sid);
    assert_eq!(ask(&redis, put("c", 1)).await, Reply::Fenced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_retained_message_wins_whoever_writes_first_again() {
    let mut pair = Pair::start().await;
    let slow = Proxy::start(pair.master.port).await;
    let (early, late) = (connect(pair.front.url()), connect(slow.url()));
    let put = |topic: &str, body: &'static str| Request::PutRetained {
        topic: topic.into(),
        body: Bytes::from(body),
        head: head(1),
    };
    // Not lost: an older write of the same topic must not come back.
    ask(&late, put("kept", "old")).await;
    ask(&early, put("kept", "new")).await;
    pair.stop_replication().await;
    // Lost: the later one wins, though it is written again first.
    ask(&late, put("lost", "old")).await;
    ask(&early, put("lost", "new")).await;
    ask(&late, put("since", "old")).await;
    ask(&late, put("only", "late")).await;
    slow.go(Way::Cut);
    pair.fail_over();
    failover_noticed(&early).await;
    ask(&early, put("since", "new")).await;
    slow.go(Way::To(pair.replica.port));
    failover_noticed(&late).await;
    for (topic, expected) in [
        ("kept", "new"),
        ("lost", "new"),
        ("since", "new"),
        ("only", "late"),
    ] {
        let load = Request::LoadBucket {
            bucket: Bucket::of(topic),
        };
        let Reply::Bucket {
            retained, version, ..
        } = ask(&early, load).await
        else {
            panic!("not loaded");
        };
        let found = retained.iter().find(|(found, _)| &**found == topic);
        assert_eq!(
            found.map(|(_, body)| &body[..]),
            Some(expected.as_bytes()),
            "{topic}"
        );
        assert!(
            version > 65_536 || topic == "kept",
            "versions go on above what was lost"
        );
    }
}

/// An append whose origin has had no answer, but which somebody has read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_before_a_failover_is_not_appended_again_after_it() {
    let mut pair = Pair::start().await;
    let reader = connect(pair.front.url());
    let sid = session(&reader, "c").await;
    ask(&reader, append(sid, 1, 1)).await;
    pair.stop_replication().await;
    {
        let origin = connect(pair.front.url());
        for number in 2..=4 {
            ask(&origin, append(sid, 1, number)).await;
        }
    }
    let read = queue(&reader, sid).await;
    assert_eq!(read.len(), 4);
    // Its client is done with one of them.
    ask(&reader, settle(sid, &[2], &[])).await;
    pair.fail_over();
    failover_noticed(&reader).await;
    assert_eq!(queue(&reader, sid).await, read[..1]);
    let entries: Vec<_> = read
        .iter()
        .map(|(seq, body)| (*seq, Bytes::from(body.clone())))
        .collect();
    for _ in 0..2 {
        let restore = Request::Restore {
            session: sid,
            entries: entries.clone(),
        };
        assert_eq!(ask(&reader, restore).await, Reply::Done);
    }
    let left = [read[0].clone(), read[1].clone(), read[3].clone()];
    assert_eq!(queue(&reader, sid).await, left);
    // The origin is back: what it had no answer to comes again, and something new.
    for (number, fate) in [(2, true), (3, true), (4, true), (5, false)] {
        let Reply::Appended { seqs, .. } = ask(&reader, append(sid, 1, number)).await else {
            panic!("an append has another answer");
        };
        assert_eq!(seqs == [AppendFate::Repeated], fate, "{number}: {seqs:?}");
    }
    let bodies: Vec<_> = queue(&reader, sid).await;
    let bodies: Vec<_> = bodies.into_iter().map(|(_, body)| body).collect();
    assert_eq!(bodies, ["1:1", "1:2", "1:4", "1:5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_empty_gets_the_newest_writes() {
    let mut server = RedisServer::start(&[]);
    let redis = connect(server.url());
    let join = |nonce| Request::Join {
        nonce,
        info: Bytes::new(),
        lease_ms: 60_000,
    };
    assert_eq!(
        ask(&redis, join(1)).await,
        Reply::Joined {
            replica: ReplicaId(1)
        }
    );
    let mut events = redis.listen(ReplicaId(1));
    let sid = session(&redis, "c").await;
    for number in 1..=20 {
        ask(&redis, append(sid, 1, number)).await;
    }
    ask(&redis, settle(sid, &[0, 1], &[])).await;
    let routes = Request::PutRoutes {
        replica: ReplicaId(1),
        version: 1,
        changes: vec![(
            "a".into(),
            Route {
                flags: 1,
                members: 0,
            },
        )],
        head: head(1),
    };
    ask(&redis, routes).await;
    server.kill();
    server.start_again();
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
    assert_eq!(
        own_numbers(&redis, sid, 1).await,
        (3..=20).collect::<Vec<_>>()
    );
    // What is new waits until every replica has written again what it had.
    let new = redis.execute(vec![append(sid, 1, 21)]);
    let renew = Request::Renew {
        replica: ReplicaId(1),
        lease_ms: 60_000,
        info: None,
    };
    let reply = ask(&redis, renew).await;
    assert!(
        matches!(reply, Reply::Renewed { alive: true, .. }),
        "{reply:?}"
    );
    assert_eq!(
        own_numbers(&redis, sid, 1).await,
        (3..=20).collect::<Vec<_>>()
    );
    redis.made_good(redis.failovers());
    assert!(matches!(new.await.as_slice(), [Ok(Reply::Appended { .. })]));
    assert_eq!(
        own_numbers(&redis, sid, 1).await,
        (3..=21).collect::<Vec<_>>()
    );
    let load = Request::LoadRoutes {
        replica: ReplicaId(1),
    };
    assert!(matches!(
        ask(&redis, load).await,
        Reply::Routes { version: 1, .. }
    ));
    let inbox = Request::Inbox {
        to: ReplicaId(1),
        frame: Bytes::from_static(b"x"),
    };
    assert_eq!(ask(&redis, inbox).await, Reply::Flag(true));
    let Reply::Joined { replica } = ask(&redis, join(2)).await else {
        panic!("not joined");
    };
    assert!(replica.0 > 1000, "no number is given twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_master_is_left() {
    let mut pair = Pair::start().await;
    let redis = connect(pair.front.url());
    let sid = session(&redis, "c").await;
    let publisher = Publisher::start(&redis, &[sid], 7);
    publisher.goes_on(50).await;
    pair.stop_replication().await;
    pair.replica.cli(&["REPLICAOF", "NO", "ONE"]);
    let port = pair.replica.port.to_string();
    pair.master.cli(&["REPLICAOF", "127.0.0.1", &port]);
    until(|| !redis.status().connected, "the connection is given up").await;
    pair.front.go(Way::To(pair.replica.port));
    publisher.goes_on(50).await;
    publisher.end(&redis).await;
    pair.master.kill();
}

/// One master, one replica, three Sentinels.
struct Watched {
    master: RedisServer,
    replica: RedisServer,
    replication: Proxy,
    sentinels: Vec<RedisServer>,
}

impl Watched {
    async fn start() -> Self {
        let master = RedisServer::start(&["--repl-diskless-sync-delay", "0"]);
        let replication = Proxy::start(master.port).await;
        let replica = RedisServer::start(&[]);
        let port = replication.port.to_string();
        replica.cli(&["REPLICAOF", "127.0.0.1", &port]);
        let config = format!(
            "sentinel monitor mymaster 127.0.0.1 {} 2\n\
             sentinel down-after-milliseconds mymaster 700\n\
             sentinel failover-timeout mymaster 6000\n",
            master.port
        );
        let sentinels: Vec<_> = (0..3)
            .map(|_| RedisServer::start_sentinel(&config))
            .collect();
        for sentinel in &sentinels {
            let sees_all = || {
                let master = sentinel.cli(&["SENTINEL", "MASTER", "mymaster"]);
                let field = |name: &str| {
                    let mut lines = master.lines().skip_while(|line| *line != name);
                    lines.nth(1).unwrap_or_default().to_owned()
                };
                field("num-slaves") == "1" && field("num-other-sentinels") == "2"
            };
            until(sees_all, "the sentinels see each other").await;
        }
        Self {
            master,
            replica,
            replication,
            sentinels,
        }
    }

    fn url(&self) -> String {
        let hosts: Vec<_> = self
            .sentinels
            .iter()
            .map(|s| format!("127.0.0.1:{}", s.port))
            .collect();
        format!("redis+sentinel://{}/mymaster", hosts.join(","))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_are_followed_through_a_failover_with_writes_in_flight() {
    let mut watched = Watched::start().await;
    let redis: Vec<_> = (0..2).map(|_| connect(watched.url())).collect();
    let sid = session(&redis[0], "c").await;
    assert_eq!(
        redis[0].status().masters,
        [format!("127.0.0.1:{}", watched.master.port)]
    );
    let mut events = redis[0].listen(ReplicaId(1));
    let publishers: Vec<_> = (0u64..)
        .zip(&redis)
        .map(|(n, redis)| Publisher::start(redis, &[sid], 7 + n))
        .collect();
    for publisher in &publishers {
        publisher.goes_on(50).await;
    }
    // The newest writes do not reach the replica.
    watched.replication.go(Way::BlackHole);
    for publisher in &publishers {
        publisher.goes_on(50).await;
    }
    watched.master.kill();
    for (redis, publisher) in redis.iter().zip(publishers) {
        failover_noticed(redis).await;
        assert_eq!(
            redis.status().masters,
            [format!("127.0.0.1:{}", watched.replica.port)]
        );
        publisher.goes_on(50).await;
        publisher.end(redis).await;
    }
    let mut listening = 0;
    while listening < 2 {
        let event = tokio::time::timeout(LIMIT, events.recv())
            .await
            .expect("no event in time");
        listening += u32::from(event == Some(BackplaneEvent::Listening));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_the_sentinels_have_left_is_not_written_to() {
    let watched = Watched::start().await;
    let redis = connect(watched.url());
    let sid = session(&redis, "c").await;
    let publisher = Publisher::start(&redis, &[sid], 7);
    publisher.goes_on(50).await;
    // Sentinels cannot reach it, so they promote the other; it itself goes on for a moment.
    wait_until(
        || watched.sentinels[0].cli(&["SENTINEL", "FAILOVER", "mymaster"]) == "OK",
        || "the failover begins".to_owned(),
    );
    failover_noticed(&redis).await;
    assert_eq!(
        redis.status().masters,
        [format!("127.0.0.1:{}", watched.replica.port)]
    );
    publisher.goes_on(50).await;
    publisher.end(&redis).await;
    assert_ne!(cli(watched.replica.port, &["DBSIZE"]), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_acknowledged_only_with_the_replicas_that_are_demanded() {
    let pair = Pair::start().await;
    let mut options = crate::support::options(pair.front.url());
    options.wait_replicas = Some((1, 100));
    let redis = crate::support::connect_with(options);
    let sid = session(&redis, "c").await;
    let publisher = Publisher::start(&redis, &[sid], 7);
    publisher.goes_on(50).await;
    pair.stop_replication_at_once();
    let starved =
        || matches!(redis.status().last_error, Some(error) if error.contains("only 0 replicas"));
    pair.master.cli(&["CLIENT", "KILL", "TYPE", "replica"]);
    until(starved, "the lack of replicas is known").await;
    let before = publisher.acknowledged();
    for _ in 0..50 {
        ask(&redis, Request::GetSession { session: sid }).await;
    }
    // The eight that were under way may have been confirmed, and only not been counted yet.
    let since = publisher.acknowledged() - before;
    assert!(since <= 8, "{since} acknowledged without a replica");
    pair.replication.go(Way::To(pair.master.port));
    publisher.goes_on(50).await;
    publisher.end(&redis).await;
}

impl Pair {
    fn stop_replication_at_once(&self) {
        self.replication.go(Way::Cut);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_counts_survive() {
    let mut pair = Pair::start().await;
    let redis = connect(pair.front.url());
    let sid = session(&redis, "c").await;
    let once = |number, count| Request::Append {
        session: sid,
        origin: ReplicaId(1),
        max_messages: 100,
        max_bytes: 10_000,
        entries: vec![Appending {
            number,
            once: Some((9, count)),
            body: Bytes::from(format!("1:{number}")),
        }],
    };
    pair.stop_replication().await;
    ask(&redis, once(1, 5)).await;
    pair.fail_over();
    failover_noticed(&redis).await;
    let Reply::Appended { seqs, .. } = ask(&redis, once(2, 5)).await else {
        panic!("not appended");
    };
    assert_eq!(seqs, [AppendFate::Repeated]);
    assert_eq!(own_numbers(&redis, sid, 1).await, [1]);
    let _: &Arc<RedisBackplane> = &redis;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_older_claim_had_acknowledged_counts_after_a_newer_one() {
    let mut pair = Pair::start().await;
    let slow = Proxy::start(pair.master.port).await;
    let (early, late) = (connect(pair.front.url()), connect(slow.url()));
    let sid = session(&late, "c").await;
    ask(&late, append(sid, 9, 1)).await;
    pair.stop_replication().await;
    let settle = |epoch, dequeue: &[u64], put: &[(u16, u64)], delete: &[u16]| Request::Settle {
        session: sid,
        epoch: Some(Epoch(epoch)),
        dequeue: dequeue.to_vec(),
        release: Vec::new(),
        inbound_put: put.to_vec(),
        inbound_delete: delete.to_vec(),
    };
    assert_eq!(
        ask(&late, settle(1, &[0], &[(1, 1), (2, 2)], &[])).await,
        Reply::Done
    );
    let put = Request::PutRecord {
        session: sid,
        epoch: Epoch(1),
        record: record(1),
        head: head(1),
    };
    ask(&late, put).await;
    slow.go(Way::Cut);
    pair.fail_over();
    failover_noticed(&early).await;
    let claim = Request::Claim {
        client_id: "c".into(),
        replica: ReplicaId(2),
        nonce: 2,
        clean_start: false,
        expiry_interval: 60,
        fresh: Bucket::of("c").session(2),
        record: record(0),
        will: None,
        will_grace_ms: 0,
        head: head(2),
    };
    let Reply::Claimed { epoch, fields, .. } = ask(&early, claim).await else {
        panic!("not claimed");
    };
    assert!(fields.tail > 1000, "above what may come back: {fields:?}");
    // Since then: one packet id is over, one is new.
    assert_eq!(
        ask(&early, settle(epoch.0, &[], &[(3, 3)], &[2])).await,
        Reply::Done
    );
    slow.go(Way::To(pair.replica.port));
    failover_noticed(&late).await;
    let Reply::Session(Some(fields)) = ask(&early, Request::GetSession { session: sid }).await
    else {
        panic!("no session");
    };
    assert_eq!((fields.inbound, fields.len), (vec![(1, 1), (3, 3)], 0));
    assert_eq!((fields.epoch, fields.head), (epoch, fields.tail));
    let load = Request::LoadBucket {
        bucket: Bucket::of("c"),
    };
    let Reply::Bucket { sessions, .. } = ask(&early, load).await else {
        panic!("not loaded");
    };
    assert_eq!(sessions, [(sid, record(1))]);
}

fn settle_ids(session: SessionId, epoch: Epoch, put: &[(u16, u64)], delete: &[u16]) -> Request {
    Request::Settle {
        session,
        epoch: Some(epoch),
        dequeue: Vec::new(),
        release: Vec::new(),
        inbound_put: put.to_vec(),
        inbound_delete: delete.to_vec(),
    }
}

async fn claim_again(redis: &RedisBackplane, client: &str) -> Epoch {
    let claim = Request::Claim {
        client_id: client.into(),
        replica: ReplicaId(2),
        nonce: 2,
        clean_start: false,
        expiry_interval: 60,
        fresh: Bucket::of(client).session(2),
        record: record(0),
        will: None,
        will_grace_ms: 0,
        head: head(2),
    };
    match ask(redis, claim).await {
        Reply::Claimed { epoch, .. } => epoch,
        other => panic!("not claimed: {other:?}"),
    }
}

async fn inbound(redis: &RedisBackplane, session: SessionId) -> Vec<(u16, u64)> {
    match ask(redis, Request::GetSession { session }).await {
        Reply::Session(Some(fields)) => fields.inbound,
        other => panic!("no session: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packet_ids_come_back_in_the_order_of_the_claims_whoever_comes_first() {
    let mut pair = Pair::start().await;
    let slow = Proxy::start(pair.master.port).await;
    let (second, first) = (connect(pair.front.url()), connect(slow.url()));
    let sid = session(&first, "c").await;
    pair.stop_replication().await;
    ask(
        &first,
        settle_ids(sid, Epoch(1), &[(0, 5), (7, 1), (8, 2)], &[]),
    )
    .await;
    let epoch = claim_again(&second, "c").await;
    ask(&second, settle_ids(sid, epoch, &[(8, 9)], &[0])).await;
    slow.go(Way::Cut);
    pair.fail_over();
    failover_noticed(&second).await;
    slow.go(Way::To(pair.replica.port));
    failover_noticed(&first).await;
    assert_eq!(inbound(&first, sid).await, [(7, 1), (8, 9)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_before_a_claim_that_is_still_there_is_not_done_again() {
    let mut pair = Pair::start().await;
    let (first, second) = (connect(pair.front.url()), connect(pair.front.url()));
    let sid = session(&first, "c").await;
    ask(&first, settle_ids(sid, Epoch(1), &[(7, 1)], &[])).await;
    let epoch = claim_again(&second, "c").await;
    ask(&second, settle_ids(sid, epoch, &[], &[7])).await;
    // It is killed: nobody repeats what it has done.
    drop(second);
    pair.stop_replication().await;
    pair.fail_over();
    failover_noticed(&first).await;
    assert_eq!(inbound(&first, sid).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_with_before_it_has_come_back_does_not_come_back() {
    let mut pair = Pair::start().await;
    let slow = Proxy::start(pair.master.port).await;
    let (one, two) = (connect(pair.front.url()), connect(slow.url()));
    let sid = session(&one, "c").await;
    pair.stop_replication().await;
    ask(&one, append(sid, 1, 1)).await;
    ask(&two, append(sid, 2, 1)).await;
    ask(&one, append(sid, 1, 2)).await;
    ask(&two, append(sid, 2, 2)).await;
    ask(&one, append(sid, 1, 3)).await;
    ask(&one, settle(sid, &[3], &[])).await;
    ask(&one, settle(sid, &[0, 1, 2], &[])).await;
    slow.go(Way::Cut);
    pair.fail_over();
    failover_noticed(&one).await;
    slow.go(Way::To(pair.replica.port));
    failover_noticed(&two).await;
    let left: Vec<u64> = queue(&one, sid)
        .await
        .into_iter()
        .map(|(seq, _)| seq)
        .collect();
    assert_eq!(left, [4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_on_two_servers_one_after_the_other_leave_the_places_of_entries_alone() {
    let mut pair = Pair::start().await;
    let one = connect(pair.front.url());
    let sid = session(&one, "c").await;
    pair.stop_replication().await;
    pair.fail_over();
    failover_noticed(&one).await;
    claim_again(&one, "c").await;
    // The next server has everything.
    let next = RedisServer::start(&[]);
    let port = pair.replica.port.to_string();
    next.cli(&["REPLICAOF", "127.0.0.1", &port]);
    let up = || {
        next.cli(&["INFO", "replication"])
            .contains("master_link_status:up")
    };
    until(up, "the next replica follows").await;
    assert_eq!(pair.replica.cli(&["WAIT", "1", "5000"]), "1");
    pair.front.go(Way::Cut);
    pair.replica.kill();
    next.cli(&["REPLICAOF", "NO", "ONE"]);
    pair.front.go(Way::To(next.port));
    until(|| one.status().failovers > 1, "the second is noticed").await;
    for number in 1..=3 {
        ask(&one, append(sid, 1, number)).await;
    }
    let before = queue(&one, sid).await;
    assert_eq!(before.len(), 3);
    ask(&one, settle(sid, &[before[0].0], &[])).await;
    ask(&one, settle(sid, &[before[1].0], &[])).await;
    assert_eq!(queue(&one, sid).await, before[2..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_come_back_before_their_session_wait_for_it() {
    let mut pair = Pair::start().await;
    let slow = Proxy::start(pair.master.port).await;
    let (maker, other) = (connect(slow.url()), connect(pair.front.url()));
    ask(&other, Request::Versions).await;
    pair.stop_replication().await;
    let sid = session(&maker, "c").await;
    ask(&maker, settle_ids(sid, Epoch(1), &[(5, 5)], &[])).await;
    for number in 1..=3 {
        ask(&other, append(sid, 2, number)).await;
    }
    let epoch = claim_again(&other, "c").await;
    slow.go(Way::Cut);
    pair.fail_over();
    failover_noticed(&other).await;
    slow.go(Way::To(pair.replica.port));
    failover_noticed(&maker).await;
    let Reply::Session(Some(fields)) = ask(&other, Request::GetSession { session: sid }).await
    else {
        panic!("the session is lost");
    };
    assert_eq!((fields.epoch, fields.inbound), (epoch, vec![(5, 5)]));
    ask(&other, append(sid, 2, 4)).await;
    assert_eq!(own_numbers(&other, sid, 2).await, [1, 2, 3, 4]);
    let keys = pair.replica.cli(&["--scan", "--pattern", "*:s:*"]);
    assert_eq!(pair.replica.cli(&["PTTL", keys.trim()]), "-1");
}

async fn wills(redis: &RedisBackplane, client: &str) -> Vec<Epoch> {
    let bucket = Bucket::of(client);
    match ask(redis, Request::Wills { bucket }).await {
        Reply::Wills(wills) => wills.into_iter().map(|(epoch, _)| epoch).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_will_of_a_lost_claim_comes_back_although_its_client_was_claimed_since() {
    let mut pair = Pair::start().await;
    let slow = Proxy::start(pair.master.port).await;
    let (second, first) = (connect(pair.front.url()), connect(slow.url()));
    pair.stop_replication().await;
    let claim = Request::Claim {
        client_id: "c".into(),
        replica: ReplicaId(1),
        nonce: 1,
        clean_start: false,
        expiry_interval: 0,
        fresh: Bucket::of("c").session(1),
        record: record(0),
        will: Some((0, Bytes::from_static(b"will"))),
        will_grace_ms: 60_000,
        head: head(1),
    };
    let Reply::Claimed { epoch, .. } = ask(&first, claim).await else {
        panic!("not claimed");
    };
    slow.go(Way::Cut);
    pair.fail_over();
    failover_noticed(&second).await;
    claim_again(&second, "c").await;
    assert_eq!(wills(&second, "c").await, []);
    slow.go(Way::To(pair.replica.port));
    failover_noticed(&first).await;
    assert_eq!(wills(&first, "c").await, [epoch]);
    // Its connection had ended with DISCONNECT, which comes late.
    let release = Request::Release {
        client_id: "c".into(),
        epoch,
        end: ReleaseEnd::Ends,
        will: WillFate::Dropped,
        head: head(1),
    };
    assert_eq!(ask(&first, release).await, Reply::Fenced);
    assert_eq!(wills(&first, "c").await, []);
}

fn put_record(name: u64, key: &str, body: Option<&'static str>, expect: Expect) -> Request {
    let key = RecordKey::new(Table::Serial, key);
    let put = match body {
        Some(body) => RecordPut::set(key.clone(), body),
        None => RecordPut::remove(key.clone()),
    };
    Request::PutRecords {
        bucket: key.bucket(),
        puts: vec![put.expecting(expect)].into(),
        name,
        head: head(1),
    }
}

/// The revision, or what was found instead.
async fn put(redis: &RedisBackplane, request: Request) -> PutOutcome {
    let Reply::RecordsPut { mut outcomes, .. } = ask(redis, request).await else {
        panic!("not put");
    };
    outcomes.remove(0)
}

async fn get_record(redis: &RedisBackplane, key: &str) -> Option<(u64, String)> {
    let key = RecordKey::new(Table::Serial, key);
    let get = Request::GetRecords {
        bucket: key.bucket(),
        keys: vec![key],
    };
    let Reply::Records(mut records) = ask(redis, get).await else {
        panic!("not read");
    };
    let record = records.remove(0)?;
    let text = String::from_utf8(record.value.to_vec()).unwrap();
    Some((record.revision, text))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_come_back_under_their_revisions_and_the_newest_wins() {
    let mut pair = Pair::start().await;
    let slow = Proxy::start(pair.master.port).await;
    let (early, late) = (connect(pair.front.url()), connect(slow.url()));
    let any = Expect::Any;
    put(&late, put_record(1, "kept", Some("old"), any)).await;
    put(&early, put_record(2, "kept", Some("new"), any)).await;
    put(&early, put_record(3, "gone", Some("there"), any)).await;
    pair.stop_replication().await;
    put(&late, put_record(4, "lost", Some("old"), any)).await;
    let newest = put(&early, put_record(5, "lost", Some("new"), any)).await;
    put(&late, put_record(6, "since", Some("old"), any)).await;
    let only = put(&late, put_record(7, "only", Some("late"), Expect::Absent)).await;
    put(&early, put_record(8, "gone", None, any)).await;
    slow.go(Way::Cut);
    pair.fail_over();
    failover_noticed(&early).await;
    put(&early, put_record(9, "since", Some("new"), any)).await;
    slow.go(Way::To(pair.replica.port));
    failover_noticed(&late).await;
    let (newest, only) = (newest.revision().unwrap(), only.revision().unwrap());
    assert_eq!(get_record(&early, "kept").await.unwrap().1, "new");
    assert_eq!(
        get_record(&early, "lost").await,
        Some((newest, "new".to_owned()))
    );
    assert_eq!(get_record(&early, "since").await.unwrap().1, "new");
    assert_eq!(
        get_record(&early, "only").await,
        Some((only, "late".to_owned()))
    );
    assert_eq!(get_record(&early, "gone").await, None);
    // Who was told the revision can go on from it, and nobody can make the record a second time.
    let again = put(&early, put_record(10, "only", Some("x"), Expect::Absent)).await;
    assert!(again.revision().is_none(), "{again:?}");
    let next = put(
        &early,
        put_record(11, "only", Some("y"), Expect::Revision(only)),
    )
    .await;
    assert!(
        next.revision().unwrap() > 65_536,
        "revisions go on above what was lost: {next:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_is_repeated_has_the_answer_of_the_first() {
    let server = RedisServer::start(&[]);
    let redis = connect(server.url());
    let first = put_record(1, "a", Some("1"), Expect::Absent);
    let made = put(&redis, first.clone()).await;
    let changed = put_record(
        2,
        "a",
        Some("2"),
        Expect::Revision(made.revision().unwrap()),
    );
    put(&redis, changed).await;
    assert_eq!(put(&redis, first).await, made);
    assert_eq!(get_record(&redis, "a").await.unwrap().1, "2");
}
