//! Being cut off, stopping in time, being taken for dead.

use std::sync::Arc;
use std::time::Duration;

use dunlin_sync::cluster::testing::ModelRedis;
use dunlin_sync::cluster::{Cluster, ReplicaId};
use dunlin_sync::testing::samples::message_on;
use dunlin_sync::{Op, Store, StoreError};

use crate::support::{
    Replica, Told, claim, claim_with_will, cluster, enqueue, pass, release, retained, route, until,
    within,
};

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_cut_off_stops_before_its_lease_ends() {
    let redis = ModelRedis::new(41);
    let replicas = cluster(&redis, 2).await;
    redis.black_hole(replicas[0].link, Duration::from_millis(4700));
    pass(Duration::from_secs(2)).await;
    assert!(replicas[0].store.may_acknowledge(), "too early");
    let held = replicas[0].submit(vec![retained("a", "1")], false);
    pass(Duration::from_millis(2600)).await;
    assert!(!replicas[0].store.may_acknowledge());
    assert!(replicas[0].told.has(&Told::Suspended));
    let refused = replicas[0].store.claim(claim("c", 0)).await.unwrap_err();
    assert!(refused.to_string().contains("lease"), "{refused}");
    let failed = within(held).await.unwrap().unwrap_err();
    assert!(matches!(failed, StoreError::Cluster { .. }), "{failed}");
    let late = within(replicas[0].submit(vec![retained("a", "2")], false)).await;
    assert!(matches!(late, Ok(Err(StoreError::Cluster { .. }))));
    until(|| replicas[0].told.has(&Told::Resumed(false))).await;
    assert!(replicas[0].store.may_acknowledge());
    replicas[0].commit_all(vec![retained("a", "3")]).await;
    assert_eq!(replicas[0].store.figures().suspended, 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_given_up_does_not_take_effect_later() {
    let redis = ModelRedis::new(42);
    let replicas = cluster(&redis, 2).await;
    redis.cut(replicas[0].link);
    let old = replicas[0].submit(vec![retained("a", "old")], false);
    assert!(within(old).await.unwrap().is_err());
    assert!(replicas[0].told.has(&Told::Suspended));
    // Its publisher has gone elsewhere.
    replicas[1].commit(vec![retained("a", "new")]).await;
    redis.heal(replicas[0].link);
    until(|| replicas[0].store.may_acknowledge()).await;
    pass(Duration::from_secs(5)).await;
    let late = Replica::start(&redis, 3).await;
    assert!(late.told.has(&Told::Retained("a".into(), "new".into())));
    assert!(
        !replicas[1]
            .told
            .has(&Told::Retained("a".into(), "old".into()))
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_kept_takes_effect_once_and_in_order_when_the_lease_runs_again() {
    for seed in 0..40 {
        let redis = ModelRedis::new(4400 + seed);
        redis.set_latency(Duration::from_micros(500), Duration::from_micros(400));
        let replicas = cluster(&redis, 2).await;
        let claimed = replicas[1].claim("receiver", 600).await;
        let session = claimed.session.expect("a persistent session");
        // Some of it takes effect, and the answer is lost.
        let mut outcomes = Vec::new();
        for n in 0..20 {
            if n == 10 {
                match seed % 2 {
                    0 => redis.black_hole(replicas[0].link, Duration::from_secs(5)),
                    _ => redis.cut(replicas[0].link),
                }
            }
            outcomes.push(replicas[0].keep(vec![enqueue(session, &n.to_string())]));
            if seed % 3 == 0 {
                pass(Duration::from_micros(200)).await;
            }
        }
        let given_up = replicas[0].submit(vec![enqueue(session, "given up")], false);
        assert!(within(given_up).await.unwrap().is_err());
        assert!(replicas[0].told.has(&Told::Suspended));
        assert!(replicas[0].store.pending_bytes() > 0);
        // What comes meanwhile waits behind it.
        for n in 20..25 {
            outcomes.push(replicas[0].keep(vec![enqueue(session, &n.to_string())]));
        }
        redis.heal(replicas[0].link);
        for outcome in outcomes {
            within(outcome).await.unwrap().expect("it is durable");
        }
        assert!(replicas[0].told.has(&Told::Resumed(false)));
        assert_eq!(replicas[0].store.pending_bytes(), 0);
        let entries = replicas[1]
            .store
            .read_queue(session, 0, 100, 1 << 20)
            .await
            .unwrap();
        let bodies: Vec<_> = entries
            .iter()
            .filter_map(|entry| entry.message.as_ref())
            .map(|message| String::from_utf8_lossy(message.payload()).into_owned())
            .filter(|body| body != "given up")
            .collect();
        let expected: Vec<_> = (0..25).map(|n| n.to_string()).collect();
        assert_eq!(bodies, expected, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_fails_when_the_replica_was_taken_for_dead() {
    let redis = ModelRedis::new(4500);
    let replicas = cluster(&redis, 2).await;
    redis.cut(replicas[0].link);
    let kept = replicas[0].keep(vec![retained("a", "kept")]);
    let id = replicas[0].id();
    until(|| replicas[1].told.has(&Told::Gone(id))).await;
    redis.heal(replicas[0].link);
    assert!(within(kept).await.unwrap().is_err());
    until(|| replicas[0].told.has(&Told::Resumed(true))).await;
    assert_eq!(replicas[0].store.pending_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_comes_back_owes_the_ends_of_connections_and_its_routes() {
    for seed in 0..20 {
        let redis = ModelRedis::new(4200 + seed);
        redis.set_latency(Duration::from_micros(500), Duration::from_micros(400));
        let replicas = cluster(&redis, 2).await;
        let ends = replicas[0].claim("ends", 600).await;
        let under_way = replicas[0].claim("under way", 600).await;
        replicas[0].claim("stays", 600).await;
        replicas[0]
            .commit_all(vec![route("goes", 2, 1), route("old", 2, 2)])
            .await;
        redis.black_hole(replicas[0].link, Duration::from_millis(4300 + seed * 20));
        let mut failed = vec![
            replicas[0].submit(vec![release("under way", &under_way, Some(600))], false),
            replicas[0].submit(vec![route("goes", 0, 3)], true),
        ];
        let ghost = replicas[0].store.claim(claim("ghost", 600));
        until(|| replicas[0].told.has(&Told::Suspended)).await;
        failed.push(replicas[0].submit(vec![release("ends", &ends, Some(600))], false));
        failed.push(replicas[0].submit(vec![route("new", 1, 4)], true));
        for outcome in failed {
            assert!(within(outcome).await.unwrap().is_err());
        }
        assert!(within(ghost).await.is_err());
        until(|| replicas[0].told.has(&Told::Resumed(false))).await;
        for client in ["ends", "under way", "ghost"] {
            let claimed = replicas[1].claim(client, 600).await;
            assert!(!claimed.took_over, "{client}, seed {seed}");
        }
        assert!(replicas[1].claim("stays", 600).await.took_over);
        let late = Replica::start(&redis, 9).await;
        let mut routes: Vec<_> = late
            .told
            .all()
            .into_iter()
            .filter_map(|told| match told {
                Told::Routes(id, routes) if id == replicas[0].id() => Some(routes),
                _ => None,
            })
            .flatten()
            .collect();
        routes.sort();
        assert_eq!(routes, [("new".to_owned(), 1), ("old".to_owned(), 2)]);
        replicas[0].commit_all(vec![route("more", 1, 5)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_was_taken_for_dead_joins_anew() {
    let redis = ModelRedis::new(43);
    let replicas = cluster(&redis, 3).await;
    let before = replicas[0].id();
    replicas[0].claim("mine", 0).await;
    replicas[0].commit_all(vec![route("f", 2, 1)]).await;
    redis.cut(replicas[0].link);
    let held = replicas[0].submit(vec![retained("a", "1")], true);
    until(|| replicas[1].told.has(&Told::Gone(before))).await;
    // Its client is free.
    let claimed = replicas[1].claim("mine", 0).await;
    assert!(!claimed.took_over);
    redis.heal(replicas[0].link);
    let failed = within(held).await.unwrap().unwrap_err();
    assert!(matches!(failed, StoreError::Cluster { .. }), "{failed}");
    until(|| replicas[0].told.has(&Told::Resumed(true))).await;
    assert_ne!(replicas[0].id(), before);
    assert!(replicas[0].store.may_acknowledge());
    replicas[0]
        .commit_all(vec![retained("b", "2"), route("g", 2, 2)])
        .await;
    for other in &replicas[1..] {
        assert!(other.told.has(&Told::Retained("b".into(), "2".into())));
        let routes = vec![("g".to_owned(), 2)];
        assert!(other.told.has(&Told::Routes(replicas[0].id(), routes)));
    }
    // Messages between them flow.
    replicas[1].relay(replicas[0].id(), "t", "hello");
    let hello = Told::Relayed("t".into(), None, "hello".into());
    until(|| replicas[0].told.has(&hello)).await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_replica_leaves_its_sessions_wills_and_shared_messages_to_the_others() {
    let redis = ModelRedis::new(44);
    let replicas = cluster(&redis, 3).await;
    let dead = replicas[0].id();
    let claimed = within(replicas[0].store.claim(claim_with_will("c", 60, 2)))
        .await
        .unwrap();
    let session = claimed.session.unwrap();
    replicas[0].commit_all(vec![route("f", 2, 1)]).await;
    replicas[0].store.kill();
    redis.crash(replicas[0].link);
    replicas[1]
        .commit(vec![
            enqueue(session, "kept"),
            Op::Relay {
                to: dead,
                share: Some(Arc::from("$share/g/t")),
                message: message_on("t", b"shared"),
            },
        ])
        .await;
    let due = Told::Will("c".into(), claimed.epoch);
    let again = Told::Redeliver("$share/g/t".into(), "shared".into());
    until(|| replicas[1..].iter().any(|replica| replica.told.has(&due))).await;
    until(|| replicas[1..].iter().any(|replica| replica.told.has(&again))).await;
    for replica in &replicas[1..] {
        until(|| replica.told.has(&Told::Gone(dead))).await;
    }
    let resumed = replicas[2].claim("c", 60).await;
    assert!(resumed.present && !resumed.took_over);
    assert_eq!(resumed.queue_len, 1);
    let late = Replica::start(&redis, 9).await;
    assert_eq!(
        late.told
            .count(|told| matches!(told, Told::Routes(id, _) if *id == dead)),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn who_dies_while_clearing_away_leaves_that_too() {
    for stop in 0..40 {
        let redis = ModelRedis::new(400 + stop);
        redis.set_latency(Duration::from_millis(3), Duration::from_millis(2));
        let replicas = cluster(&redis, 4).await;
        let mut due = Vec::new();
        for client in ["a", "b", "c", "d"] {
            let claimed = within(replicas[0].store.claim(claim_with_will(client, 60, 0)))
                .await
                .unwrap();
            due.push(Told::Will(client.into(), claimed.epoch));
        }
        replicas[0].store.kill();
        redis.crash(replicas[0].link);
        // The one that sweeps dies in the middle of it.
        until(|| {
            replicas[1..]
                .iter()
                .any(|other| other.store.figures().reaping > 0)
        })
        .await;
        pass(Duration::from_millis(stop)).await;
        if let Some(reaper) = replicas[1..]
            .iter()
            .find(|other| other.store.figures().reaping > 0)
        {
            reaper.store.kill();
            redis.crash(reaper.link);
        }
        for told in &due {
            until(|| replicas[1..].iter().any(|other| other.told.has(told))).await;
        }
        let claimed = replicas[1..]
            .iter()
            .find(|other| other.store.may_acknowledge())
            .unwrap()
            .claim("a", 60)
            .await;
        assert!(claimed.present && !claimed.took_over, "stop {stop}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_leaves_is_gone_at_once_and_has_committed_everything() {
    let redis = ModelRedis::new(45);
    let replicas = cluster(&redis, 2).await;
    let leaving = replicas[0].id();
    let session = replicas[0].claim("c", 60).await.session.unwrap();
    let outcomes: Vec<_> = (0..100)
        .map(|n| replicas[0].submit(vec![enqueue(session, &n.to_string())], false))
        .collect();
    let before = tokio::time::Instant::now();
    within(replicas[0].store.leave(Duration::from_secs(10))).await;
    for outcome in outcomes {
        outcome.await.unwrap().unwrap();
    }
    until(|| replicas[1].told.has(&Told::Gone(leaving))).await;
    assert!(before.elapsed() < Duration::from_secs(1));
    let claimed = replicas[1].claim("c", 60).await;
    assert!(!claimed.took_over);
    assert_eq!(claimed.queue_len, 100);
    let late = within(replicas[0].submit(vec![], false)).await.unwrap();
    assert!(matches!(late, Err(StoreError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn leaving_ends_after_its_patience_when_redis_is_away() {
    let redis = ModelRedis::new(46);
    let replicas = cluster(&redis, 2).await;
    redis.cut(replicas[0].link);
    let held = replicas[0].submit(vec![retained("a", "1")], false);
    let before = tokio::time::Instant::now();
    within(replicas[0].store.leave(Duration::from_secs(3))).await;
    assert!(before.elapsed() <= Duration::from_millis(3100));
    assert!(within(held).await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_second_start_is_refused() {
    let redis = ModelRedis::new(47);
    let replica = Replica::start(&redis, 1).await;
    let events: Arc<dyn dunlin_sync::cluster::ClusterEvents> = Arc::clone(&replica.told) as _;
    assert!(within(replica.store.start(events)).await.is_err());
    assert_ne!(replica.id(), ReplicaId(0));
}

#[tokio::test(start_paused = true)]
async fn a_jump_of_the_clock_of_redis_takes_nobody_for_dead() {
    let redis = ModelRedis::new(47);
    let replicas = cluster(&redis, 3).await;
    let claimed = replicas[1].claim("c", 600).await;
    for jump in [30_000, -10_000, 30_000] {
        pass(Duration::from_millis(2_300)).await;
        redis.jump_clock(jump);
        pass(Duration::from_millis(700)).await;
        // Whoever is alive is waited for, whatever its lease is said to be.
        replicas[0].commit(vec![retained("a", "1")]).await;
        for replica in &replicas {
            assert!(replica.store.may_acknowledge());
        }
        redis.lose_frames(replicas[2].link, 1000);
        let held = replicas[0].submit(vec![retained("a", &jump.to_string())], true);
        pass(Duration::from_millis(500)).await;
        redis.lose_frames(replicas[2].link, 0);
        within(held).await.unwrap().expect("it is durable");
        let told = Told::Retained("a".into(), jump.to_string());
        assert!(replicas[2].told.has(&told), "jump by {jump} ms");
        pass(Duration::from_secs(20)).await;
    }
    for replica in &replicas {
        assert_eq!(replica.store.figures().rejoined, 0);
        assert_eq!(replica.store.figures().suspended, 0);
    }
    assert_eq!(redis.census().replicas, 3);
    let session = claimed.session.expect("a persistent session");
    replicas[1]
        .commit(vec![enqueue(session, "still its own")])
        .await;
    assert_eq!(redis.census().owned, 1);
}
