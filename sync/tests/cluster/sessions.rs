//! Claims of client ids, queues, wills.

use std::time::Duration;

use dunlin_sync::cluster::testing::ModelRedis;
use dunlin_sync::cluster::{Cluster, EngineOptions};
use dunlin_sync::{Op, Store};

use crate::support::{
    Replica, Told, claim, claim_with_will, cluster, enqueue, options, pass, release, subscribe,
    until, within,
};

#[tokio::test(start_paused = true)]
async fn a_session_is_taken_over_with_everything_and_the_old_connection_goes() {
    let redis = ModelRedis::new(21);
    let replicas = cluster(&redis, 2).await;
    let old = replicas[0].claim("c", 60).await;
    assert!(!old.present && !old.took_over);
    let session = old.session.unwrap();
    replicas[0]
        .commit(vec![
            subscribe(session, "a/+"),
            subscribe(session, "b/#"),
            enqueue(session, "1"),
            enqueue(session, "2"),
            Op::PutInboundQos2 {
                session,
                packet_id: 7,
                count: 3,
            },
        ])
        .await;
    replicas[0]
        .commit(vec![Op::Dequeue { session, seq: 0 }])
        .await;
    let new = replicas[1].claim("c", 60).await;
    assert!(new.present && new.took_over);
    assert_eq!(new.session, Some(session));
    assert!(new.epoch > old.epoch);
    let filters: Vec<_> = new.subscriptions.iter().map(|sub| &*sub.filter).collect();
    assert_eq!(filters, ["a/+", "b/#"]);
    assert_eq!((new.queue_head, new.queue_tail, new.queue_len), (1, 2, 1));
    assert_eq!(new.inbound, [(7, 3)]);
    until(|| replicas[0].told.has(&Told::LetGo("c".into(), old.epoch))).await;
    // The old one cannot change anything any more.
    replicas[0]
        .commit(vec![Op::Dequeue { session, seq: 1 }])
        .await;
    let queue = replicas[1].store.read_queue(session, 0, 10, usize::MAX);
    assert_eq!(within(queue).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_has_not_heard_of_the_takeover_is_fenced() {
    let redis = ModelRedis::new(22);
    let replicas = cluster(&redis, 2).await;
    let old = replicas[0].claim("c", 60).await;
    let session = old.session.unwrap();
    replicas[0].commit(vec![enqueue(session, "1")]).await;
    redis.lose_frames(replicas[0].link, 1000);
    replicas[1].claim("c", 60).await;
    replicas[0]
        .commit(vec![Op::Dequeue { session, seq: 0 }])
        .await;
    assert!(replicas[0].told.has(&Told::Fenced(session)));
    let queue = replicas[1].store.read_queue(session, 0, 10, usize::MAX);
    assert_eq!(within(queue).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_takeover_that_was_not_heard_of_is_found_by_looking_at_the_claims() {
    let redis = ModelRedis::new(23);
    let replicas = cluster(&redis, 2).await;
    // A clean session: nothing it does is fenced by Redis.
    let old = replicas[0].claim("c", 0).await;
    replicas[0].claim("stays", 0).await;
    assert_eq!(old.session, None);
    redis.lose_frames(replicas[0].link, 1000);
    replicas[1].claim("c", 0).await;
    pass(Duration::from_millis(20)).await;
    redis.lose_frames(replicas[0].link, 0);
    until(|| replicas[0].told.has(&Told::LetGo("c".into(), old.epoch))).await;
    assert_eq!(
        replicas[0]
            .told
            .count(|told| matches!(told, Told::LetGo(..))),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn claims_of_one_client_by_many_replicas_leave_one_owner() {
    let redis = ModelRedis::new(24);
    let replicas = cluster(&redis, 4).await;
    let claims = replicas.iter().map(|replica| replica.claim("c", 60));
    let claims = futures_util::future::join_all(claims).await;
    let mut epochs: Vec<_> = claims.iter().map(|claimed| claimed.epoch).collect();
    let last = *epochs.iter().max().unwrap();
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!(epochs.len(), 4);
    for (replica, claimed) in replicas.iter().zip(&claims) {
        let let_go = Told::LetGo("c".into(), claimed.epoch);
        if claimed.epoch == last {
            assert!(!replica.told.has(&let_go));
        } else {
            until(|| replica.told.has(&let_go)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_submitted_before_a_claim_of_the_same_replica_is_not_fenced() {
    let redis = ModelRedis::new(25);
    let replica = Replica::start(&redis, 1).await;
    let old = replica.claim("c", 60).await;
    let session = old.session.unwrap();
    replica
        .commit((0..10).map(|n| enqueue(session, &n.to_string())).collect())
        .await;
    let ops = (0..5).map(|seq| Op::Dequeue { session, seq }).collect();
    let dequeued = replica.submit(ops, false);
    let new = replica.claim("c", 60).await;
    within(dequeued).await.unwrap().unwrap();
    assert_eq!((new.queue_head, new.queue_len), (5, 5));
    assert_eq!(
        replica.told.count(|told| matches!(told, Told::Fenced(_))),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_nobody_waits_for_is_released() {
    let redis = ModelRedis::new(26);
    let replicas = cluster(&redis, 2).await;
    drop(replicas[0].store.claim(claim("c", 60)));
    pass(Duration::from_millis(100)).await;
    let claimed = replicas[1].claim("c", 60).await;
    assert!(claimed.present && !claimed.took_over);
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_refused_when_redis_does_not_answer_in_time() {
    let redis = ModelRedis::new(27);
    let replica = Replica::start_with(
        &redis,
        EngineOptions {
            claim_timeout: Duration::from_secs(2),
            ..options(1)
        },
    )
    .await;
    redis.black_hole(replica.link, Duration::from_secs(3));
    let before = tokio::time::Instant::now();
    let refused = replica.store.claim(claim("c", 60)).await.unwrap_err();
    assert!(refused.to_string().contains("2000 ms"), "{refused}");
    assert!(before.elapsed() <= Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_when_its_time_has_come_and_all_are_told() {
    let redis = ModelRedis::new(28);
    let replicas = cluster(&redis, 2).await;
    let claimed = replicas[0].claim("c", 5).await;
    let session = claimed.session.unwrap();
    replicas[0]
        .commit(vec![release("c", &claimed, Some(5))])
        .await;
    pass(Duration::from_secs(4)).await;
    assert!(!replicas[1].told.has(&Told::SessionGone(session)));
    for replica in &replicas {
        until(|| replica.told.has(&Told::SessionGone(session))).await;
    }
    assert!(!replicas[1].claim("c", 5).await.present);
}

#[tokio::test(start_paused = true)]
async fn a_will_is_due_after_its_delay_once() {
    let redis = ModelRedis::new(29);
    let replicas = cluster(&redis, 3).await;
    let claimed = within(replicas[0].store.claim(claim_with_will("c", 60, 3)))
        .await
        .unwrap();
    let release = dunlin_sync::cluster::ReleaseRequest {
        client_id: "c".into(),
        epoch: claimed.epoch,
        session: claimed.session,
        expiry_interval: Some(60),
        will_due_in: Some(3000),
    };
    replicas[0].commit(vec![Op::ReleaseClaim(release)]).await;
    let due = Told::Will("c".into(), claimed.epoch);
    let count = || {
        replicas
            .iter()
            .map(|replica| replica.told.count(|told| *told == due))
            .sum::<usize>()
    };
    pass(Duration::from_secs(2)).await;
    assert_eq!(count(), 0);
    until(|| count() == 1).await;
    let leader = replicas
        .iter()
        .find(|replica| replica.told.has(&due))
        .unwrap();
    leader
        .commit(vec![Op::DeleteWillOf {
            client_id: "c".into(),
            epoch: claimed.epoch,
        }])
        .await;
    pass(Duration::from_secs(15)).await;
    assert_eq!(count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_will_that_was_not_published_is_due_again() {
    let redis = ModelRedis::new(30);
    let replica = Replica::start(&redis, 1).await;
    let claimed = within(replica.store.claim(claim_with_will("c", 0, 0)))
        .await
        .unwrap();
    let release = dunlin_sync::cluster::ReleaseRequest {
        client_id: "c".into(),
        epoch: claimed.epoch,
        session: None,
        expiry_interval: None,
        will_due_in: Some(0),
    };
    replica.commit(vec![Op::ReleaseClaim(release)]).await;
    let due = Told::Will("c".into(), claimed.epoch);
    until(|| replica.told.count(|told| *told == due) == 2).await;
}

#[tokio::test(start_paused = true)]
async fn the_will_of_a_connection_that_a_claim_ends_is_the_claimers_to_publish() {
    let redis = ModelRedis::new(31);
    let replicas = cluster(&redis, 2).await;
    let old = within(replicas[0].store.claim(claim_with_will("c", 0, 30)))
        .await
        .unwrap();
    let new = replicas[1].claim("c", 0).await;
    let will = new.old_will.unwrap();
    assert_eq!(will.record.epoch, old.epoch.0);
    assert_eq!(will.record.message.payload(), b"c");
}

#[tokio::test(start_paused = true)]
async fn a_queue_at_its_bound_drops_what_is_new() {
    let redis = ModelRedis::new(32);
    let replica = Replica::start_with(
        &redis,
        EngineOptions {
            queue_max_messages: 3,
            ..options(1)
        },
    )
    .await;
    let session = replica.claim("c", 60).await.session.unwrap();
    let appended = replica
        .commit((0..5).map(|n| enqueue(session, &n.to_string())).collect())
        .await;
    let seqs: Vec<_> = appended.iter().map(|done| done.seq).collect();
    assert_eq!(seqs, [0, 1, 2, u64::MAX, u64::MAX]);
    assert_eq!(replica.store.figures().queue_full, 2);
}

#[tokio::test(start_paused = true)]
async fn a_qos_2_publish_that_another_replica_repeats_is_queued_once() {
    let redis = ModelRedis::new(33);
    let replicas = cluster(&redis, 2).await;
    let publisher = replicas[0].claim("publisher", 60).await.session.unwrap();
    let receiver = replicas[1].claim("receiver", 60).await.session.unwrap();
    let publish = |count| {
        let Op::Enqueue {
            delivery, message, ..
        } = enqueue(receiver, "m")
        else {
            unreachable!()
        };
        vec![
            Op::PutInboundQos2 {
                session: publisher,
                packet_id: 1,
                count,
            },
            Op::Enqueue {
                session: receiver,
                delivery,
                message,
                once: Some((publisher.0, count)),
            },
        ]
    };
    replicas[0].commit(publish(1)).await;
    let again = replicas[1].claim("publisher", 60).await;
    assert_eq!(again.inbound, [(1, 1)]);
    replicas[1].commit(publish(1)).await;
    replicas[1].commit(publish(2)).await;
    let queue = replicas[1].store.read_queue(receiver, 0, 10, usize::MAX);
    assert_eq!(within(queue).await.unwrap().len(), 2);
    until(|| {
        replicas[1]
            .told
            .count(|told| matches!(told, Told::Grown(..)))
            > 0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_of_receivers_wait_a_little_for_company() {
    let redis = ModelRedis::new(34);
    redis.set_latency(Duration::from_micros(100), Duration::ZERO);
    let replica = Replica::start(&redis, 1).await;
    let session = replica.claim("c", 60).await.session.unwrap();
    replica
        .commit((0..40).map(|n| enqueue(session, &n.to_string())).collect())
        .await;
    let rounds = replica.store.figures().rounds;
    let before = tokio::time::Instant::now();
    let mut outcomes = Vec::new();
    for seq in 0..20 {
        outcomes.push(replica.submit(vec![Op::Dequeue { session, seq }], false));
        tokio::task::yield_now().await;
    }
    for outcome in outcomes {
        within(outcome).await.unwrap().unwrap();
    }
    assert_eq!(replica.store.figures().rounds, rounds + 1);
    assert!(before.elapsed() < Duration::from_millis(10));
    // Whatever somebody waits for takes them along at once.
    let dequeue = replica.submit(vec![Op::Dequeue { session, seq: 20 }], false);
    replica.commit(vec![enqueue(session, "more")]).await;
    within(dequeue).await.unwrap().unwrap();
    assert_eq!(replica.store.figures().rounds, rounds + 2);
}
