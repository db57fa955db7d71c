//! The model's own promises: order, repetition, and what each fault does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{ModelBackplane, ModelRedis};
use crate::SessionId;
use crate::cluster::{
    AppendFate, Appending, Backplane, BackplaneError, BackplaneEvent, Bucket, Epoch, ReplicaId,
    Reply, Request,
};

const HEAD: [u8; 12] = *b"DN\x01\x01\x01\0\0\0\0\0\0\0";

async fn ask(backplane: &ModelBackplane, request: Request) -> Reply {
    backplane.execute(vec![request]).await.remove(0).unwrap()
}

async fn join(backplane: &ModelBackplane, nonce: u64) -> ReplicaId {
    let request = Request::Join {
        nonce,
        info: Bytes::new(),
        lease_ms: 6000,
    };
    match ask(backplane, request).await {
        Reply::Joined { replica } => replica,
        other => panic!("{other:?}"),
    }
}

fn claim(client: &str, replica: ReplicaId, nonce: u64) -> Request {
    let bucket = Bucket::of(client);
    Request::Claim {
        client_id: Arc::from(client),
        replica,
        nonce,
        clean_start: false,
        expiry_interval: 100,
        fresh: bucket.session(nonce),
        record: Bytes::from_static(&[1, 0, 0, 0, 0, 0, 0, 0]),
        will: None,
        will_grace_ms: 1000,
        head: HEAD,
    }
}

async fn session_of(backplane: &ModelBackplane, request: Request) -> (SessionId, Epoch) {
    match ask(backplane, request).await {
        Reply::Claimed {
            session: Some(session),
            epoch,
            ..
        } => (session, epoch),
        other => panic!("{other:?}"),
    }
}

fn append(session: SessionId, origin: ReplicaId, number: u64) -> Request {
    Request::Append {
        session,
        origin,
        max_messages: 1_000_000,
        max_bytes: 1 << 30,
        entries: vec![Appending {
            number,
            once: None,
            body: Bytes::from(number.to_string()),
        }],
    }
}

fn settle(session: SessionId, epoch: Epoch, dequeue: Vec<u64>) -> Request {
    Request::Settle {
        session,
        epoch: Some(epoch),
        dequeue,
        release: Vec::new(),
        inbound_put: Vec::new(),
        inbound_delete: Vec::new(),
    }
}

fn queue_of(redis: &ModelRedis, session: SessionId) -> Vec<(u64, String)> {
    let request = Request::ReadQueue {
        session,
        from: 0,
        limit: 1_000_000,
    };
    match redis.execute(&request) {
        Reply::Queue(entries) => entries
            .into_iter()
            .map(|(seq, body)| (seq, String::from_utf8(body.to_vec()).unwrap()))
            .collect(),
        other => panic!("{other:?}"),
    }
}

fn retained(topic: &str, body: &str) -> Request {
    Request::PutRetained {
        topic: Arc::from(topic),
        body: Bytes::from(body.to_owned()),
        head: HEAD,
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_takes_both_ways_of_the_latency() {
    let redis = ModelRedis::new(1);
    redis.set_latency(Duration::from_millis(3), Duration::ZERO);
    let backplane = redis.connect();
    let began = Instant::now();
    ask(&backplane, Request::Numbers { count: 4 }).await;
    assert_eq!(began.elapsed(), Duration::from_millis(6));
    let second = ask(&backplane, Request::Numbers { count: 1 }).await;
    assert_eq!(second, Reply::Numbers(5));
}

#[tokio::test(start_paused = true)]
async fn appends_survive_cuts_once_each_and_in_order() {
    for seed in 0..50 {
        let redis = ModelRedis::new(seed);
        redis.set_latency(Duration::from_millis(1), Duration::from_millis(4));
        let backplane = redis.connect();
        let replica = join(&backplane, 1).await;
        let (session, _) = session_of(&backplane, claim("c", replica, 2)).await;
        let mut answers = Vec::new();
        for number in 1..=200 {
            answers.push(backplane.execute(vec![append(session, replica, number)]));
            if number % 20 == seed % 20 {
                tokio::time::sleep(Duration::from_millis(seed % 7)).await;
                redis.cut(0);
                redis.heal(0);
            }
        }
        for answer in answers {
            answer.await.remove(0).unwrap();
        }
        let bodies: Vec<_> = queue_of(&redis, session);
        let expected: Vec<_> = (1..=200).map(|n: u64| (n - 1, n.to_string())).collect();
        assert_eq!(bodies, expected, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_under_way_when_the_connection_breaks_is_lost_and_said_so() {
    let redis = ModelRedis::new(3);
    redis.set_latency(Duration::from_millis(5), Duration::ZERO);
    let backplane = redis.connect();
    join(&backplane, 1).await;
    let answer = backplane.execute(vec![Request::Publish {
        to: None,
        frame: Bytes::from_static(b"x"),
    }]);
    tokio::time::sleep(Duration::from_millis(1)).await;
    redis.cut(0);
    assert_eq!(answer.await, vec![Err(BackplaneError::Lost)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_abandoned_does_not_take_effect_later() {
    for seed in 0..40 {
        let redis = ModelRedis::new(seed);
        redis.set_late_ghosts(true);
        redis.set_latency(Duration::from_millis(5), Duration::ZERO);
        let backplane = redis.connect();
        join(&backplane, 1).await;
        if seed % 2 == 0 {
            redis.cut(0);
        }
        let given_up = backplane.execute(vec![retained("t", "old"), retained("u", "old")]);
        tokio::time::sleep(Duration::from_millis(1)).await;
        backplane.abandon();
        assert_eq!(given_up.await, vec![Err(BackplaneError::Lost); 2]);
        for topic in ["t", "u"] {
            redis.execute(&retained(topic, "newer"));
        }
        redis.heal(0);
        ask(&backplane, Request::Versions).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        for topic in ["t", "u"] {
            let load = Request::LoadBucket {
                bucket: Bucket::of(topic),
            };
            let Reply::Bucket { retained, .. } = redis.execute(&load) else {
                panic!("no bucket");
            };
            assert_eq!(retained[0].1, Bytes::from_static(b"newer"), "seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_is_noticed_by_the_watchdog_and_outlived() {
    let redis = ModelRedis::new(3);
    let backplane = redis.connect();
    let replica = join(&backplane, 1).await;
    let (session, _) = session_of(&backplane, claim("c", replica, 2)).await;
    redis.black_hole(0, Duration::from_secs(20));
    let began = Instant::now();
    ask(&backplane, append(session, replica, 1)).await;
    assert!(began.elapsed() >= Duration::from_secs(20));
    assert_eq!(backplane.status().reconnects, 1);
    assert_eq!(queue_of(&redis, session).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn while_full_what_frees_memory_overtakes_what_needs_it() {
    let redis = ModelRedis::new(3);
    let backplane = redis.connect();
    let replica = join(&backplane, 1).await;
    let (session, epoch) = session_of(&backplane, claim("c", replica, 2)).await;
    ask(&backplane, append(session, replica, 1)).await;
    redis.set_full(true);
    let first = backplane.execute(vec![append(session, replica, 2)]);
    let second = backplane.execute(vec![append(session, replica, 3)]);
    assert_eq!(
        ask(&backplane, settle(session, epoch, vec![0])).await,
        Reply::Done
    );
    assert!(backplane.status().full);
    assert!(queue_of(&redis, session).is_empty());
    redis.set_full(false);
    for (answer, seq) in [(first, 1), (second, 2)] {
        let reply = answer.await.remove(0).unwrap();
        assert!(
            matches!(&reply, Reply::Appended { seqs, .. } if seqs == &[AppendFate::At(seq)]),
            "{reply:?}"
        );
    }
}

async fn next(events: &mut tokio::sync::mpsc::Receiver<BackplaneEvent>) -> BackplaneEvent {
    events.recv().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_listener_hears_channels_and_inbox_and_when_it_is_deaf() {
    let redis = ModelRedis::new(3);
    let one = redis.connect();
    let other = redis.connect();
    let replica = join(&one, 1).await;
    let mut events = one.listen(replica);
    assert_eq!(next(&mut events).await, BackplaneEvent::Listening);
    ask(&other, retained("t", "body")).await;
    let BackplaneEvent::Frame(frame) = next(&mut events).await else {
        panic!("no frame");
    };
    assert!(frame.ends_with(b"\x01body"));
    let inbox = Request::Inbox {
        to: replica,
        frame: Bytes::from_static(b"one"),
    };
    assert_eq!(ask(&other, inbox.clone()).await, Reply::Flag(true));
    let BackplaneEvent::Inbox(position, frame) = next(&mut events).await else {
        panic!("no frame of the inbox");
    };
    assert_eq!(frame, Bytes::from_static(b"one"));
    redis.cut(0);
    assert_eq!(next(&mut events).await, BackplaneEvent::Deaf);
    ask(&other, inbox).await;
    redis.heal(0);
    assert_eq!(next(&mut events).await, BackplaneEvent::Listening);
    let BackplaneEvent::Inbox(later, _) = next(&mut events).await else {
        panic!("the inbox was not read on");
    };
    assert!(later > position);
}

#[tokio::test(start_paused = true)]
async fn a_failover_that_loses_the_tail_is_repaired_by_both_rings() {
    for seed in 0..100 {
        let redis = ModelRedis::new(seed);
        redis.keep_history(64);
        let owner = redis.connect();
        let origin = redis.connect();
        let replica = join(&owner, 1).await;
        let other = join(&origin, 2).await;
        let (session, epoch) = session_of(&owner, claim("c", replica, 3)).await;
        for number in 1..=20 {
            ask(&origin, append(session, other, number)).await;
            if number % 3 == 0 {
                ask(&owner, settle(session, epoch, vec![number - 1])).await;
            }
        }
        let expected = queue_of(&redis, session);
        let lost = usize::try_from(seed % 30).unwrap();
        redis.fail_over(Duration::from_millis(100), lost);
        // Each is back at its own time: the order of the two replays is anybody's.
        let (first, second) = if seed % 2 == 0 {
            (&owner, &origin)
        } else {
            (&origin, &owner)
        };
        ask(first, Request::Versions).await;
        ask(second, Request::Versions).await;
        assert_eq!(
            queue_of(&redis, session),
            expected,
            "seed {seed}, lost {lost}"
        );
        assert_eq!(owner.status().failovers, 1);
        let (_, again) = session_of(&owner, claim("c", other, 4)).await;
        assert!(again > epoch);
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_retained_message_is_not_written_again_over_a_newer_one() {
    for first in [0, 1] {
        let redis = ModelRedis::new(first as u64);
        redis.keep_history(64);
        let backplanes = [redis.connect(), redis.connect()];
        ask(&backplanes[0], retained("t", "older")).await;
        ask(&backplanes[1], retained("t", "newer")).await;
        redis.fail_over(Duration::from_millis(10), 2);
        ask(&backplanes[first], Request::Versions).await;
        ask(&backplanes[1 - first], Request::Versions).await;
        let load = Request::LoadBucket {
            bucket: Bucket::of("t"),
        };
        let Reply::Bucket { retained, .. } = redis.execute(&load) else {
            panic!("no bucket");
        };
        assert_eq!(retained[0].1, Bytes::from_static(b"newer"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    async fn run(seed: u64) -> (u64, Vec<(u64, String)>, Duration) {
        let redis = ModelRedis::new(seed);
        redis.set_latency(Duration::from_millis(1), Duration::from_millis(9));
        let began = Instant::now();
        let backplanes = [redis.connect(), redis.connect(), redis.connect()];
        let replica = join(&backplanes[0], 1).await;
        let (session, _) = session_of(&backplanes[0], claim("c", replica, 2)).await;
        let mut answers = Vec::new();
        for number in 1..100 {
            for (at, backplane) in backplanes.iter().enumerate() {
                let origin = ReplicaId(10 + at as u64);
                answers.push(backplane.execute(vec![append(session, origin, number)]));
            }
            if number % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(3)).await;
                redis.cut(1);
                redis.heal(1);
            }
        }
        for answer in answers {
            answer.await.remove(0).unwrap();
        }
        (redis.requests(), queue_of(&redis, session), began.elapsed())
    }
    assert_eq!(run(7).await, run(7).await);
    assert_ne!(run(7).await.1, run(8).await.1);
}
