//! Tables and barriers.

use std::time::Duration;

use dunlin_sync::cluster::testing::ModelRedis;
use dunlin_sync::cluster::{Cluster, ReplicaId, Route};

use crate::support::{Replica, Told, cluster, pass, retained, route, subscribe, until};

#[tokio::test(start_paused = true)]
async fn a_lone_replica_is_ready_and_may_acknowledge() {
    let redis = ModelRedis::new(1);
    let replica = Replica::start(&redis, 1).await;
    assert!(replica.store.may_acknowledge());
    replica.commit_all(vec![retained("a", "1")]).await;
    assert!(replica.told.has(&Told::Retained("a".into(), "1".into())));
    replica.commit_all(vec![route("x/#", 1, 1)]).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_told_after_a_barrier_is_known_to_all() {
    let redis = ModelRedis::new(2);
    let replicas = cluster(&redis, 4).await;
    let claimed = replicas[0].claim("c", 60).await;
    let session = claimed.session.unwrap();
    for turn in 0..20 {
        let from = &replicas[turn % 4];
        let text = turn.to_string();
        from.commit_all(vec![retained("a/b", &text)]).await;
        for replica in &replicas {
            assert!(
                replica
                    .told
                    .has(&Told::Retained("a/b".into(), text.clone())),
                "turn {turn}"
            );
        }
        let filter = format!("f/{turn}");
        from.commit_all(vec![route(&filter, Route::ACKNOWLEDGED, turn as u64 + 1)])
            .await;
        for replica in replicas.iter().filter(|other| other.id() != from.id()) {
            let change = vec![(filter.clone(), Route::ACKNOWLEDGED)];
            assert!(replica.told.has(&Told::Routes(from.id(), change)));
        }
        replicas[0]
            .commit_all(vec![subscribe(session, &filter)])
            .await;
        for replica in &replicas {
            let last = replica
                .told
                .all()
                .into_iter()
                .rfind(|told| matches!(told, Told::Session(..)));
            let Some(Told::Session(id, client, filters)) = last else {
                panic!("turn {turn}: {last:?}");
            };
            assert_eq!((id, client.as_str()), (session, "c"));
            assert!(filters.contains(&filter));
        }
    }
    assert!(replicas[0].store.figures().barriers > 0);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_joins_later_is_told_everything_that_is_there() {
    let redis = ModelRedis::new(3);
    let one = Replica::start(&redis, 1).await;
    let claimed = one.claim("c", 60).await;
    let session = claimed.session.unwrap();
    let mut ops: Vec<_> = (0..500)
        .map(|n| retained(&format!("t/{n}"), &n.to_string()))
        .collect();
    ops.push(subscribe(session, "$share/g/a"));
    ops.push(route("r/#", 1, 1));
    one.commit_all(ops).await;
    let two = Replica::start(&redis, 2).await;
    for n in 0..500 {
        let told = Told::Retained(format!("t/{n}"), n.to_string());
        assert!(two.told.has(&told));
    }
    assert!(two.told.has(&Told::Session(
        session,
        "c".into(),
        vec!["$share/g/a".into()]
    )));
    assert!(
        two.told
            .has(&Told::Routes(one.id(), vec![("r/#".into(), 1)]))
    );
}

#[tokio::test(start_paused = true)]
async fn replicas_that_start_together_all_become_ready() {
    let redis = ModelRedis::new(4);
    let (a, b, c, d, e) = tokio::join!(
        Replica::start(&redis, 1),
        Replica::start(&redis, 2),
        Replica::start(&redis, 3),
        Replica::start(&redis, 4),
        Replica::start(&redis, 5)
    );
    for replica in [&a, &b, &c, &d, &e] {
        assert!(replica.store.may_acknowledge());
    }
    c.commit_all(vec![retained("x", "y")]).await;
    for replica in [&a, &b, &c, &d, &e] {
        assert!(replica.told.has(&Told::Retained("x".into(), "y".into())));
    }
}

#[tokio::test(start_paused = true)]
async fn announcements_that_were_lost_are_made_up_for() {
    let redis = ModelRedis::new(5);
    let replicas = cluster(&redis, 3).await;
    // Half of all frames to one replica are lost, those of acknowledgements too.
    redis.lose_frames(replicas[1].link, 500);
    redis.lose_frames(replicas[2].link, 300);
    for n in 0..50 {
        let from = &replicas[n % 3];
        let text = n.to_string();
        from.commit_all(vec![
            retained(&format!("t/{}", n % 7), &text),
            route(&format!("r/{n}"), 2, n as u64 + 1),
        ])
        .await;
        for replica in &replicas {
            let told = Told::Retained(format!("t/{}", n % 7), text.clone());
            assert!(replica.told.has(&told), "{n}");
        }
    }
    assert!(replicas[1].store.figures().reloads > 0);
}

#[tokio::test(start_paused = true)]
async fn of_one_filter_only_the_newest_change_counts() {
    let redis = ModelRedis::new(6);
    let replicas = cluster(&redis, 2).await;
    replicas[0].commit_all(vec![route("f", 2, 10)]).await;
    replicas[0].commit_all(vec![route("f", 0, 9)]).await;
    replicas[0].commit_all(vec![route("g", 0, 12)]).await;
    replicas[0].commit_all(vec![route("g", 1, 11)]).await;
    let late = Replica::start(&redis, 3).await;
    let routes = late
        .told
        .all()
        .into_iter()
        .filter(|told| matches!(told, Told::Routes(..)))
        .collect::<Vec<_>>();
    assert_eq!(
        routes,
        [Told::Routes(replicas[0].id(), vec![("f".into(), 2)])]
    );
}

#[tokio::test(start_paused = true)]
async fn batches_without_a_barrier_overtake_those_that_wait() {
    let redis = ModelRedis::new(7);
    let replicas = cluster(&redis, 2).await;
    // The other one hears nothing for a while.
    redis.lose_frames(replicas[1].link, 1000);
    let mut waits = replicas[0].submit(vec![retained("a", "1")], true);
    replicas[0].commit(vec![retained("b", "2")]).await;
    assert!(waits.try_recv().is_err(), "told before all knew");
    redis.lose_frames(replicas[1].link, 0);
    crate::support::within(waits).await.unwrap().unwrap();
    assert!(
        replicas[1]
            .told
            .has(&Told::Retained("a".into(), "1".into()))
    );
}

#[tokio::test(start_paused = true)]
async fn a_barrier_waits_for_a_dead_replica_only_until_its_lease_has_lapsed() {
    let redis = ModelRedis::new(8);
    let replicas = cluster(&redis, 3).await;
    replicas[2].store.kill();
    redis.crash(replicas[2].link);
    let before = tokio::time::Instant::now();
    replicas[0].commit_all(vec![retained("a", "1")]).await;
    let waited = before.elapsed();
    assert!(waited > Duration::from_secs(3), "{waited:?}");
    assert!(waited < Duration::from_secs(9), "{waited:?}");
    assert!(
        replicas[1]
            .told
            .has(&Told::Retained("a".into(), "1".into()))
    );
}

#[tokio::test(start_paused = true)]
async fn owners_of_sessions_with_shared_subscriptions_are_known() {
    let redis = ModelRedis::new(9);
    let replicas = cluster(&redis, 2).await;
    let claimed = replicas[0].claim("c", 60).await;
    let session = claimed.session.unwrap();
    replicas[0]
        .commit_all(vec![subscribe(session, "$share/g/t")])
        .await;
    replicas[0]
        .commit(vec![crate::support::release("c", &claimed, Some(60))])
        .await;
    until(|| replicas[1].told.has(&Told::Owned(session, ReplicaId(0)))).await;
    replicas[1].claim("c", 60).await;
    let owned = Told::Owned(session, replicas[1].id());
    until(|| replicas[0].told.has(&owned)).await;
}

#[tokio::test(start_paused = true)]
async fn tables_that_nobody_announces_are_compared_now_and_then() {
    let redis = ModelRedis::new(10);
    let replicas = cluster(&redis, 2).await;
    redis.lose_frames(replicas[1].link, 1000);
    replicas[0].commit(vec![retained("a", "1")]).await;
    pass(Duration::from_millis(50)).await;
    redis.lose_frames(replicas[1].link, 0);
    until(|| {
        replicas[1]
            .told
            .has(&Told::Retained("a".into(), "1".into()))
    })
    .await;
}
