//! Redis is away, slow, full, forbidden, or behind a link that swallows everything.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dunlin_sync::cluster::redis::RedisBackplane;
use dunlin_sync::cluster::{
    AppendFate, Appending, Backplane, BackplaneError, BackplaneEvent, ReplicaId, Reply, Request,
};
use tokio::sync::mpsc;

use crate::proxy::{Proxy, Way};
use crate::support::{
    LIMIT, RedisServer, ask, ask_all, connect, connect_with, head, options, until,
};
use crate::traffic::{Publisher, append, own_numbers, session};

const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

async fn event(events: &mut mpsc::Receiver<BackplaneEvent>) -> BackplaneEvent {
    tokio::time::timeout(LIMIT, events.recv())
        .await
        .expect("no event in time")
        .expect("the events have ended")
}

/// Skips others.
async fn wait_for(events: &mut mpsc::Receiver<BackplaneEvent>, wanted: &BackplaneEvent) {
    while event(events).await != *wanted {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_restarted_redis_loses_and_doubles_nothing() {
    let mut server = RedisServer::start(&DURABLE);
    let redis = connect(server.url());
    let sessions = [session(&redis, "a").await, session(&redis, "b").await];
    let publisher = Publisher::start(&redis, &sessions, 7);
    for _ in 0..3 {
        publisher.goes_on(200).await;
        server.kill();
        server.start_again();
    }
    publisher.goes_on(200).await;
    let count = publisher.end(&redis).await;
    let status = redis.status();
    assert!(count > 800 && status.reconnects >= 3, "{count} {status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_wait_for_redis_to_come() {
    let mut server = RedisServer::start(&[]);
    let url = server.url();
    server.kill();
    let redis = connect(url);
    let waiting = tokio::spawn({
        let redis = Arc::clone(&redis);
        async move { ask(&redis, Request::Numbers { count: 1 }).await }
    });
    until(|| redis.status().last_error.is_some(), "a failure is known").await;
    assert!(!redis.status().connected);
    until(|| redis.status().pending == 1, "one request waits").await;
    server.start_again();
    assert_eq!(waiting.await.unwrap(), Reply::Numbers(1));
    assert!(redis.status().connected);
}

#[tokio::test]
async fn closing_answers_what_has_no_answer() {
    let mut server = RedisServer::start(&[]);
    let redis = connect(server.url());
    ask(&redis, Request::Registry).await;
    server.kill();
    let waiting = redis.execute(vec![Request::Registry]);
    redis.close().await;
    assert_eq!(waiting.await, [Err(BackplaneError::Closed)]);
    let late = ask_all(&redis, vec![Request::Registry]).await;
    assert_eq!(late, [Err(BackplaneError::Closed)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_swallows_everything_is_replaced() {
    let server = RedisServer::start(&[]);
    let proxy = Proxy::start(server.port).await;
    let mut options = options(proxy.url());
    options.answer_timeout = Duration::from_millis(400);
    options.connect_timeout = Duration::from_millis(200);
    let redis = connect_with(options);
    let sid = session(&redis, "c").await;
    let mut events = redis.listen(ReplicaId(1));
    wait_for(&mut events, &BackplaneEvent::Listening).await;
    let publisher = Publisher::start(&redis, &[sid], 7);
    publisher.goes_on(100).await;
    proxy.go(Way::BlackHole);
    wait_for(&mut events, &BackplaneEvent::Deaf).await;
    until(|| !redis.status().connected, "the loss is noticed").await;
    proxy.go(Way::To(server.port));
    wait_for(&mut events, &BackplaneEvent::Listening).await;
    publisher.goes_on(100).await;
    publisher.end(&redis).await;
    assert_eq!(redis.status().failovers, 0, "it is the same server");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_for_a_channel_is_not_repeated() {
    let server = RedisServer::start(&[]);
    let proxy = Proxy::start(server.port).await;
    let redis = connect(proxy.url());
    ask(&redis, Request::Registry).await;
    proxy.go(Way::Cut);
    until(|| !redis.status().connected, "the loss is noticed").await;
    let publish = Request::Publish {
        to: None,
        frame: Bytes::from_static(b"DN"),
    };
    assert_eq!(
        ask_all(&redis, vec![publish]).await,
        [Err(BackplaneError::Lost)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inbox_goes_on_where_it_was_after_a_cut() {
    let server = RedisServer::start(&[]);
    let (writer, proxy) = (connect(server.url()), Proxy::start(server.port).await);
    let reader = connect(proxy.url());
    let join = Request::Join {
        nonce: 1,
        info: Bytes::new(),
        lease_ms: 60_000,
    };
    let replica = match ask(&writer, join).await {
        Reply::Joined { replica } => replica,
        other => panic!("{other:?}"),
    };
    let mut events = reader.listen(replica);
    let mut got = 0u64;
    for round in 0..5u64 {
        for n in 0..20 {
            let frame = Bytes::from((round * 20 + n).to_string());
            ask(&writer, Request::Inbox { to: replica, frame }).await;
            if n == 10 {
                proxy.go(Way::Cut);
                proxy.go(Way::To(server.port));
            }
        }
        while got < (round + 1) * 20 {
            if let BackplaneEvent::Inbox(_, frame) = event(&mut events).await {
                assert_eq!(frame, got.to_string());
                got += 1;
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_and_a_right_one_works() {
    let server = RedisServer::start(&["--requirepass", "right"]);
    for (url, word) in [
        (server.url(), "NOAUTH"),
        (
            format!("redis://:wrong@127.0.0.1:{}", server.port),
            "WRONGPASS",
        ),
    ] {
        let redis = connect(url);
        until(|| redis.status().last_error.is_some(), "a failure is known").await;
        let error = redis.status().last_error.unwrap();
        assert!(
            error.contains(word) && error.contains("password"),
            "{error}"
        );
        assert!(!redis.status().connected);
    }
    let redis = connect(format!("redis://default:right@127.0.0.1:{}", server.port));
    assert_eq!(
        ask(&redis, Request::Numbers { count: 1 }).await,
        Reply::Numbers(1)
    );
}

#[tokio::test]
async fn a_command_that_the_account_may_not_use_waits_for_the_operator() {
    let server = RedisServer::start(&[]);
    server.cli(&[
        "ACL", "SETUSER", "me", "on", ">pw", "~*", "&*", "+@all", "-evalsha",
    ]);
    let redis = connect(format!("redis://me:pw@127.0.0.1:{}", server.port));
    let waiting = redis.execute(vec![Request::Numbers { count: 1 }]);
    let forbidden = || matches!(redis.status().last_error, Some(error) if error.contains("NOPERM"));
    until(forbidden, "the refusal is known").await;
    server.cli(&["ACL", "SETUSER", "me", "+evalsha"]);
    assert_eq!(waiting.await, [Ok(Reply::Numbers(1))]);
}

#[tokio::test]
async fn scripts_that_redis_has_forgotten_are_brought_again() {
    let server = RedisServer::start(&[]);
    let redis = connect(server.url());
    let sid = session(&redis, "c").await;
    let mut expected = Vec::new();
    for round in 0..3 {
        server.cli(&["SCRIPT", "FLUSH"]);
        let numbers = round * 50 + 1..=round * 50 + 50;
        expected.extend(numbers.clone());
        ask_all(
            &redis,
            numbers.map(|number| append(sid, 3, number)).collect(),
        )
        .await;
    }
    assert_eq!(own_numbers(&redis, sid, 3).await, expected);
}

fn big(session: dunlin_sync::SessionId, number: u64, size: usize) -> Request {
    Request::Append {
        session,
        origin: ReplicaId(5),
        max_messages: 1_000_000,
        max_bytes: 1 << 40,
        entries: vec![Appending {
            number,
            once: None,
            body: Bytes::from(vec![number as u8; size]),
        }],
    }
}

/// Appends of 20 kB until Redis is full, all at once; returns what becomes of them.
async fn fill(
    redis: &Arc<RedisBackplane>,
    sid: dunlin_sync::SessionId,
) -> Vec<dunlin_sync::cluster::Replies> {
    let waiting = (1..=400).map(|number| redis.execute(vec![big(sid, number, 20_000)]));
    let waiting = waiting.collect();
    until(|| redis.status().full, "redis is full").await;
    waiting
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_full_what_frees_memory_overtakes_and_then_all_goes_on_in_order() {
    let server = RedisServer::start(&["--maxmemory", "6mb", "--maxmemory-policy", "noeviction"]);
    let redis = connect(server.url());
    let sid = session(&redis, "c").await;
    let waiting = fill(&redis, sid).await;
    // Drains the queue while the appends wait.
    let (mut next, mut epoch) = (0, None);
    while next < 400 {
        let read = Request::ReadQueue {
            session: sid,
            from: next,
            limit: 50,
        };
        let Reply::Queue(entries) = ask(&redis, read).await else {
            panic!("no queue");
        };
        for (seq, body) in &entries {
            assert_eq!((*seq, body[0]), (next, (next + 1) as u8), "in order");
            next += 1;
        }
        let dequeue = entries.iter().map(|(seq, _)| *seq).collect();
        let settle = Request::Settle {
            session: sid,
            epoch: epoch.take(),
            dequeue,
            release: vec![],
            inbound_put: vec![],
            inbound_delete: vec![],
        };
        assert_eq!(ask(&redis, settle).await, Reply::Done);
    }
    for (number, replies) in waiting.into_iter().enumerate() {
        let reply = replies.await.pop().unwrap().unwrap();
        let expected = Reply::Appended {
            owner: ReplicaId(1),
            seqs: vec![AppendFate::At(number as u64)],
        };
        assert_eq!(reply, expected);
    }
    until(|| !redis.status().full, "redis is not full any more").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_goes_on_while_redis_is_full() {
    let server = RedisServer::start(&["--maxmemory", "6mb", "--maxmemory-policy", "noeviction"]);
    let redis = connect(server.url());
    let sid = session(&redis, "c").await;
    let waiting = fill(&redis, sid).await;
    session(&redis, "other").await;
    let retained = redis.execute(vec![Request::PutRetained {
        topic: "t".into(),
        body: Bytes::from_static(b"1"),
        head: head(1),
    }]);
    let delete = redis.execute(vec![Request::DeleteRetained {
        topic: "t".into(),
        head: head(1),
    }]);
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(retained.await, [Ok(Reply::Version(1))]);
    assert_eq!(
        delete.await,
        [Ok(Reply::Version(2))],
        "not before what it deletes"
    );
    drop(waiting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_comes_and_goes_does_not_change_the_order() {
    let server = RedisServer::start(&["--maxmemory-policy", "noeviction"]);
    let redis = connect(server.url());
    let sessions = [session(&redis, "a").await, session(&redis, "b").await];
    let publisher = Publisher::start(&redis, &sessions, 7);
    for _ in 0..10 {
        server.cli(&["CONFIG", "SET", "maxmemory", "1mb"]);
        until(|| redis.status().full, "redis is full").await;
        server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
        publisher.goes_on(50).await;
    }
    publisher.end(&redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_of_changes_that_replace_each_other_stays() {
    let server = RedisServer::start(&["--maxmemory-policy", "noeviction"]);
    let redis = connect(server.url());
    let put = |n: u64| Request::PutRetained {
        topic: "t".into(),
        body: Bytes::from(n.to_string()),
        head: head(1),
    };
    ask(&redis, put(0)).await;
    for round in 1..=20u64 {
        server.cli(&["CONFIG", "SET", "maxmemory", "1mb"]);
        let first = redis.execute((0..50).map(|n| put(round * 100 + n)).collect());
        server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
        let second = redis.execute((50..100).map(|n| put(round * 100 + n)).collect());
        for reply in first.await.into_iter().chain(second.await) {
            assert!(matches!(reply, Ok(Reply::Version(_))), "{reply:?}");
        }
        let load = Request::LoadBucket {
            bucket: dunlin_sync::cluster::Bucket::of("t"),
        };
        let Reply::Bucket { retained, .. } = ask(&redis, load).await else {
            panic!("not loaded");
        };
        assert_eq!(retained[0].1, (round * 100 + 99).to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_not_write_is_waited_for() {
    let server = RedisServer::start(&[]);
    let redis = connect(server.url());
    let sid = session(&redis, "c").await;
    let publisher = Publisher::start(&redis, &[sid], 7);
    publisher.goes_on(50).await;
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let refused =
        || matches!(redis.status().last_error, Some(error) if error.contains("NOREPLICAS"));
    until(refused, "the refusal is known").await;
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    publisher.goes_on(50).await;
    publisher.end(&redis).await;
}

/// Requests that were on their way, on two ways of being away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_abandoned_gets_no_answer_and_no_effect_later() {
    let server = RedisServer::start(&[]);
    let put = |body: &'static str| Request::PutRetained {
        topic: "t".into(),
        body: Bytes::from(body),
        head: head(1),
    };
    for way in [Way::BlackHole, Way::Cut] {
        let proxy = Proxy::start(server.port).await;
        let (redis, other) = (connect(proxy.url()), connect(server.url()));
        ask(&redis, put("before")).await;
        proxy.go(way);
        let waiting = redis.execute(vec![put("stale")]);
        let frame = redis.execute(vec![Request::Publish {
            to: None,
            frame: Bytes::from_static(b"DN"),
        }]);
        ask(&other, put("newer")).await;
        redis.abandon();
        let lost = tokio::time::timeout(LIMIT, waiting).await;
        assert_eq!(lost.expect("told at once"), [Err(BackplaneError::Lost)]);
        assert_eq!(frame.await, [Err(BackplaneError::Lost)]);
        let later = redis.execute(vec![Request::Numbers { count: 1 }]);
        // What the proxy still held is gone with its connection.
        proxy.go(Way::Cut);
        proxy.go(Way::To(server.port));
        assert!(matches!(later.await[..], [Ok(Reply::Numbers(_))]));
        let load = Request::LoadBucket {
            bucket: dunlin_sync::cluster::Bucket::of("t"),
        };
        let Reply::Bucket { retained, .. } = ask(&redis, load).await else {
            panic!("not loaded");
        };
        assert_eq!(&retained[0].1[..], b"newer");
    }
}

#[tokio::test]
async fn abandoning_is_possible_before_redis_was_ever_there() {
    let mut server = RedisServer::start(&[]);
    let url = server.url();
    server.kill();
    let redis = connect(url);
    let early = redis.execute(vec![Request::Numbers { count: 1 }]);
    redis.abandon();
    assert_eq!(early.await, [Err(BackplaneError::Lost)]);
    let later = redis.execute(vec![Request::Numbers { count: 1 }]);
    server.start_again();
    assert_eq!(later.await, [Ok(Reply::Numbers(1))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_forgotten_while_it_becomes_known_what_redis_is() {
    let server = RedisServer::start(&[]);
    for _ in 0..50 {
        let redis = connect(server.url());
        // At any moment of connecting.
        let mut asked = Vec::new();
        while !redis.status().connected {
            asked.push(redis.execute(vec![Request::Registry]));
            tokio::task::yield_now().await;
        }
        for answer in asked {
            let answer = tokio::time::timeout(LIMIT, answer).await;
            let answer = answer.expect("a request is forgotten");
            assert!(matches!(answer[..], [Ok(Reply::Registry(_))]), "{answer:?}");
        }
    }
}
