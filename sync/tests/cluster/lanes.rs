//! Messages between replicas.

use std::sync::Arc;
use std::time::Duration;

use dunlin_sync::Op;
use dunlin_sync::cluster::testing::ModelRedis;
use dunlin_sync::cluster::{EngineOptions, ReplicaId};
use dunlin_sync::testing::samples::message_on;

use crate::support::{Replica, Told, cluster, enqueue, options, pass, until, within};

fn relayed(payload: &str) -> Told {
    Told::Relayed("t".into(), None, payload.into())
}

#[tokio::test(start_paused = true)]
async fn what_is_relayed_reaches_the_other_replica_in_order_and_nobody_else() {
    let redis = ModelRedis::new(11);
    let replicas = cluster(&redis, 3).await;
    for n in 0..1000 {
        replicas[0].relay(replicas[1].id(), "t", &n.to_string());
    }
    until(|| replicas[1].told.has(&relayed("999"))).await;
    let got: Vec<_> = replicas[1]
        .told
        .all()
        .into_iter()
        .filter(|told| matches!(told, Told::Relayed(..)))
        .collect();
    let expected: Vec<_> = (0..1000).map(|n: u32| relayed(&n.to_string())).collect();
    assert_eq!(got, expected);
    for other in [&replicas[0], &replicas[2]] {
        assert_eq!(
            other.told.count(|told| matches!(told, Told::Relayed(..))),
            0
        );
    }
    let figures = replicas[0].store.figures();
    assert_eq!(figures.messages_out, 1000);
    assert!(figures.frames_out < 500, "{}", figures.frames_out);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_is_full_drops_what_is_new_and_counts_it() {
    let redis = ModelRedis::new(12);
    let one = Replica::start_with(
        &redis,
        EngineOptions {
            lane_bytes: 10_000,
            ..options(1)
        },
    )
    .await;
    let two = Replica::start(&redis, 2).await;
    redis.black_hole(one.link, Duration::from_secs(1));
    let payload = "x".repeat(1000);
    for _ in 0..100 {
        one.relay(two.id(), "t", &payload);
    }
    let dropped = one.store.figures().lane_dropped;
    assert!((80..100).contains(&dropped), "{dropped}");
    let told = 100 - dropped as usize;
    until(|| two.told.count(|told| matches!(told, Told::Relayed(..))) == told).await;
}

#[tokio::test(start_paused = true)]
async fn relays_through_the_inbox_come_once_even_when_the_connection_is_lost() {
    let redis = ModelRedis::new(13);
    let replicas = cluster(&redis, 2).await;
    let to = replicas[1].id();
    let mut outcomes = Vec::new();
    for n in 0..300 {
        if n % 50 == 25 {
            redis.cut(replicas[0].link);
            redis.heal(replicas[0].link);
        }
        let op = Op::Relay {
            to,
            share: None,
            message: message_on("t", n.to_string().as_bytes()),
        };
        outcomes.push(replicas[0].submit(vec![op], false));
        pass(Duration::from_millis(1)).await;
    }
    for outcome in outcomes {
        crate::support::within(outcome).await.unwrap().unwrap();
    }
    until(|| replicas[1].told.has(&relayed("299"))).await;
    let got: Vec<_> = replicas[1]
        .told
        .all()
        .into_iter()
        .filter(|told| matches!(told, Told::Relayed(..)))
        .collect();
    let expected: Vec<_> = (0..300).map(|n: u32| relayed(&n.to_string())).collect();
    assert_eq!(got, expected);
}

#[tokio::test(start_paused = true)]
async fn shared_messages_for_a_replica_that_is_not_there_go_to_another_member() {
    let redis = ModelRedis::new(14);
    let one = Replica::start(&redis, 1).await;
    let relay = || Op::Relay {
        to: ReplicaId(4711),
        share: Some(Arc::from("$share/g/t")),
        message: message_on("t", b"1"),
    };
    let again = Told::Redeliver("$share/g/t".into(), "1".into());
    let mut told = one.submit(vec![relay()], false);
    until(|| one.told.has(&again)).await;
    // Others are told, whoever handed it in is not before it is durable.
    one.commit(vec![Op::PutRetained(message_on("r", b"2"))])
        .await;
    pass(Duration::from_secs(5)).await;
    assert!(told.try_recv().is_err());
    one.told.let_go();
    within(told).await.unwrap().unwrap();

    // What is parked meanwhile, as this replica is cut off, is not given to a member a second time.
    let mut kept = one.keep(vec![relay(), Op::PutRetained(message_on("r", b"3"))]);
    until(|| one.told.count(|told| *told == again) == 2).await;
    redis.cut(one.link);
    pass(Duration::from_secs(60)).await;
    assert!(kept.try_recv().is_err());
    redis.heal(one.link);
    until(|| one.told.has(&Told::Resumed(false))).await;
    one.told.let_go();
    within(kept).await.unwrap().unwrap();
    assert_eq!(one.told.count(|told| *told == again), 2);
}

#[tokio::test(start_paused = true)]
async fn the_owner_of_a_queue_is_woken_with_the_message_itself() {
    let redis = ModelRedis::new(15);
    let replicas = cluster(&redis, 3).await;
    let claimed = replicas[0].claim("c", 60).await;
    let session = claimed.session.unwrap();
    let appended = replicas[1]
        .commit(vec![enqueue(session, "a"), enqueue(session, "b")])
        .await;
    assert!(appended.iter().all(dunlin_sync::Appended::is_elsewhere));
    until(|| replicas[0].told.has(&Told::Woken(session, 1, "b".into()))).await;
    assert!(replicas[0].told.has(&Told::Woken(session, 0, "a".into())));
    let here = replicas[0].commit(vec![enqueue(session, "c")]).await;
    assert_eq!(here[0].seq, 2);
    assert_eq!(
        replicas[2]
            .told
            .count(|told| matches!(told, Told::Woken(..))),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_missed_a_wake_is_told_to_look_at_its_queues() {
    let redis = ModelRedis::new(16);
    let replicas = cluster(&redis, 2).await;
    let claimed = replicas[0].claim("c", 60).await;
    let session = claimed.session.unwrap();
    redis.lose_frames(replicas[0].link, 1000);
    replicas[1].commit(vec![enqueue(session, "lost")]).await;
    pass(Duration::from_millis(20)).await;
    redis.lose_frames(replicas[0].link, 0);
    // Nothing more is sent there: the heartbeat says how many frames there were.
    until(|| replicas[0].told.has(&Told::LookAtQueues)).await;
    assert!(replicas[0].store.figures().gaps > 0);
}

#[tokio::test(start_paused = true)]
async fn shared_messages_stay_in_the_inbox_until_they_are_acknowledged() {
    let redis = ModelRedis::new(17);
    let replicas = cluster(&redis, 3).await;
    let share: Arc<str> = Arc::from("$share/g/t");
    let relay = |payload: &str, shared: bool| Op::Relay {
        to: replicas[1].id(),
        share: shared.then(|| Arc::clone(&share)),
        message: message_on("t", payload.as_bytes()),
    };
    let arrived =
        |payload: &str| Told::Relayed("t".into(), Some(share.to_string()), payload.into());
    replicas[0].commit(vec![relay("acknowledged", true)]).await;
    replicas[0].commit(vec![relay("plain", false)]).await;
    until(|| replicas[1].told.has(&arrived("acknowledged"))).await;
    replicas[1].told.let_go();
    pass(Duration::from_millis(100)).await;
    replicas[0]
        .commit(vec![relay("not acknowledged", true)])
        .await;
    until(|| replicas[1].told.has(&arrived("not acknowledged"))).await;
    pass(Duration::from_millis(100)).await;
    replicas[1].store.kill();
    redis.crash(replicas[1].link);
    let again = Told::Redeliver(share.to_string(), "not acknowledged".into());
    let count = || {
        [&replicas[0], &replicas[2]].map(|replica| {
            replica
                .told
                .count(|told| matches!(told, Told::Redeliver(..)))
        })
    };
    until(|| count().iter().sum::<usize>() > 0).await;
    assert!(replicas[0].told.has(&again) || replicas[2].told.has(&again));
    assert_eq!(count().iter().sum::<usize>(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_heir_has_not_made_durable_another_heir_finds() {
    let redis = ModelRedis::new(18);
    let replicas = cluster(&redis, 4).await;
    let relay = Op::Relay {
        to: replicas[1].id(),
        share: Some(Arc::from("$share/g/t")),
        message: message_on("t", b"inherited"),
    };
    replicas[0].commit(vec![relay]).await;
    until(|| !replicas[1].told.all().is_empty()).await;
    let again = Told::Redeliver("$share/g/t".into(), "inherited".into());
    let mut alive = vec![0, 2, 3];
    let mut dead = 1;
    for heirs in 1..=2 {
        replicas[dead].store.kill();
        redis.crash(replicas[dead].link);
        let told = || alive.iter().filter(|n| replicas[**n].told.has(&again));
        until(|| told().count() == 1).await;
        // It has it, and is still about to write it.
        pass(Duration::from_secs(3)).await;
        let heir = *told().next().expect("an heir");
        assert_eq!(replicas[heir].told.count(|told| *told == again), 1);
        if heirs == 2 {
            replicas[heir].told.let_go();
            until(|| replicas[heir].store.figures().reaping == 0).await;
        }
        alive.retain(|n| *n != heir);
        dead = heir;
    }
    // What was let go of is not found again.
    replicas[dead].store.kill();
    redis.crash(replicas[dead].link);
    until(|| replicas[alive[0]].store.figures().reaped > 0).await;
    pass(Duration::from_secs(20)).await;
    assert!(!replicas[alive[0]].told.has(&again));
}
