//! Trouble with Redis itself.

use std::sync::Arc;
use std::time::Duration;

use dunlin_sync::cluster::Cluster;
use dunlin_sync::cluster::testing::ModelRedis;
use dunlin_sync::{Op, Store};
use tokio::time::Instant;

use crate::support::{Replica, Told, cluster, enqueue, pass, retained, route, until, within};

#[tokio::test(start_paused = true)]
async fn what_was_submitted_while_redis_restarts_is_committed_once_and_in_order() {
    let redis = ModelRedis::new(51);
    let replicas = cluster(&redis, 3).await;
    let session = replicas[0].claim("c", 600).await.session.unwrap();
    let mut outcomes = Vec::new();
    for n in 0..600 {
        if n == 200 {
            redis.restart(Duration::from_secs(1));
        }
        let from = &replicas[n % 3];
        outcomes.push(from.submit(vec![enqueue(session, &format!("{}:{n}", n % 3))], false));
        pass(Duration::from_millis(3)).await;
    }
    for outcome in outcomes {
        within(outcome).await.unwrap().unwrap();
    }
    let queue = replicas[0].store.read_queue(session, 0, 10_000, usize::MAX);
    let texts: Vec<String> = within(queue)
        .await
        .unwrap()
        .iter()
        .map(|entry| {
            let message = entry.message.as_ref().unwrap();
            String::from_utf8_lossy(message.payload()).into_owned()
        })
        .collect();
    assert_eq!(texts.len(), 600);
    for replica in 0..3 {
        let prefix = format!("{replica}:");
        let numbers: Vec<usize> = texts
            .iter()
            .filter_map(|text| text.strip_prefix(&prefix)?.parse().ok())
            .collect();
        assert_eq!(numbers.len(), 200);
        assert!(numbers.is_sorted());
    }
    until(|| {
        replicas
            .iter()
            .all(|replica| replica.store.may_acknowledge())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn after_a_failover_that_loses_the_newest_writes_all_tables_agree() {
    for seed in 0..20 {
        let redis = ModelRedis::new(seed);
        redis.keep_history(10_000);
        let replicas = cluster(&redis, 3).await;
        for n in 0..60 {
            if n == 40 {
                redis.fail_over(Duration::from_millis(300), 25);
            }
            let from = &replicas[n % 3];
            drop(from.submit(
                vec![
                    retained(&format!("t/{}", n % 5), &n.to_string()),
                    route(&format!("r/{}", n % 4), 1 + (n % 3) as u8, n as u64 + 1),
                ],
                n % 2 == 0,
            ));
            pass(Duration::from_millis(7)).await;
        }
        for replica in &replicas {
            replica.commit_all(vec![retained("last", "x")]).await;
        }
        until(|| {
            replicas
                .iter()
                .all(|replica| replica.store.may_acknowledge())
        })
        .await;
        pass(Duration::from_secs(2)).await;
        let last = |told: &[Told], topic: &str| {
            told.iter().rev().find_map(|told| match told {
                Told::Retained(name, payload) if name == topic => Some(payload.clone()),
                _ => None,
            })
        };
        let first = replicas[0].told.all();
        for n in 0..5 {
            let topic = format!("t/{n}");
            let expected = last(&first, &topic);
            assert!(expected.is_some());
            for replica in &replicas[1..] {
                assert_eq!(
                    last(&replica.told.all(), &topic),
                    expected,
                    "seed {seed}, topic {topic}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_frees_memory_goes_on_while_redis_is_full() {
    let redis = ModelRedis::new(53);
    let replicas = cluster(&redis, 2).await;
    let session = replicas[0].claim("c", 600).await.session.unwrap();
    replicas[0]
        .commit((0..50).map(|n| enqueue(session, &n.to_string())).collect())
        .await;
    redis.set_full(true);
    let mut held = Vec::new();
    for n in 50..100 {
        held.push(replicas[0].submit(vec![enqueue(session, &n.to_string())], false));
        // Acknowledgements of the client come with publishes of others.
        let seq = n - 50;
        held.push(replicas[0].submit(vec![Op::Dequeue { session, seq }], false));
        pass(Duration::from_millis(5)).await;
    }
    let left = || async {
        let queue = replicas[1].store.read_queue(session, 0, 1000, usize::MAX);
        within(queue).await.unwrap().len()
    };
    within(async {
        while left().await > 0 {
            pass(Duration::from_millis(50)).await;
        }
    })
    .await;
    redis.set_full(false);
    for outcome in held {
        within(outcome).await.unwrap().unwrap();
    }
    assert_eq!(left().await, 50);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    let run = |seed: u64| async move {
        let redis = ModelRedis::new(seed);
        redis.set_latency(Duration::from_micros(300), Duration::from_micros(200));
        let replicas = cluster(&redis, 3).await;
        let session = replicas[0].claim("c", 600).await.session.unwrap();
        redis.lose_frames(replicas[1].link, 100);
        for n in 0..100 {
            let from = &replicas[n % 3];
            drop(from.submit(
                vec![enqueue(session, "x"), retained(&format!("t/{n}"), "y")],
                n % 5 == 0,
            ));
            from.relay(replicas[(n + 1) % 3].id(), "t", &n.to_string());
            if n == 50 {
                redis.cut(replicas[2].link);
            }
            if n == 60 {
                redis.heal(replicas[2].link);
            }
            pass(Duration::from_millis(2)).await;
        }
        pass(Duration::from_secs(10)).await;
        replicas
            .iter()
            .map(|replica| (replica.told.all(), redis.requests()))
            .collect::<Vec<_>>()
    };
    for seed in [1, 7] {
        let (one, other) = (run(seed).await, run(seed).await);
        assert!(one == other, "two runs of seed {seed} differ");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_after_a_failover_finds_what_the_other_replicas_had_acknowledged() {
    for seed in 0..30 {
        let redis = ModelRedis::new(500 + seed);
        redis.set_latency(Duration::from_micros(500), Duration::from_micros(400));
        redis.keep_history(10_000);
        let replicas = cluster(&redis, 3).await;
        let old = replicas[0].claim("c", 600).await;
        let session = old.session.unwrap();
        let mut last = Vec::new();
        for n in 0..20 {
            let from = &replicas[n % 3];
            last = from.commit(vec![enqueue(session, &n.to_string())]).await;
        }
        assert!(!last.is_empty());
        redis.fail_over(Duration::from_millis(200 + seed * 20), 15);
        let claiming = replicas[1].store.claim(crate::support::claim("c", 600));
        let claimed = within(claiming).await.unwrap();
        assert!(claimed.present && claimed.took_over, "seed {seed}");
        let queue = replicas[1].store.read_queue(session, 0, 1000, usize::MAX);
        assert_eq!(within(queue).await.unwrap().len(), 20, "seed {seed}");
        assert_eq!(claimed.queue_len, 20, "seed {seed}");
        for replica in &replicas {
            until(|| replica.told.has(&Told::QueuesRestored)).await;
        }
        until(|| {
            replicas
                .iter()
                .all(|replica| replica.store.may_acknowledge())
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_longer_than_the_lease_nobody_is_reaped_who_comes_back() {
    for seed in 0..10 {
        let redis = ModelRedis::new(600 + seed);
        redis.set_latency(Duration::from_micros(500), Duration::from_micros(400));
        let replicas = cluster(&redis, 4).await;
        let ids: Vec<_> = replicas.iter().map(|replica| replica.id()).collect();
        pass(Duration::from_secs(10)).await;
        redis.restart(Duration::from_secs(15));
        pass(Duration::from_secs(14)).await;
        assert!(
            replicas
                .iter()
                .all(|replica| !replica.store.may_acknowledge())
        );
        until(|| {
            replicas
                .iter()
                .all(|replica| replica.store.may_acknowledge())
        })
        .await;
        pass(Duration::from_secs(10)).await;
        let now: Vec<_> = replicas.iter().map(|replica| replica.id()).collect();
        assert_eq!(now, ids, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_replica_is_cleared_away_after_though_redis_stalls_again_and_again() {
    for seed in 0..20 {
        let redis = ModelRedis::new(650 + seed);
        redis.set_latency(Duration::from_micros(500), Duration::from_micros(400));
        let replicas = cluster(&redis, 4).await;
        let ids: Vec<_> = replicas.iter().map(|replica| replica.id()).collect();
        replicas[0].store.kill();
        redis.crash(replicas[0].link);
        // As a Redis with a file does whose disk is busy.
        for _ in 0..11 {
            redis.stall(Duration::from_millis(1800 + seed * 30));
            pass(Duration::from_millis(2800)).await;
        }
        for replica in &replicas[1..] {
            assert!(replica.told.has(&Told::Gone(ids[0])), "seed {seed}");
            assert!(!replica.told.has(&Told::Suspended), "seed {seed}");
        }
        pass(Duration::from_secs(10)).await;
        let now: Vec<_> = replicas.iter().map(|replica| replica.id()).collect();
        assert_eq!(now, ids, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_reads_a_queue_over_a_failover_gets_everything_once_and_in_order() {
    for seed in 0..60 {
        let redis = ModelRedis::new(700 + seed);
        redis.set_latency(Duration::from_micros(500), Duration::from_micros(900));
        redis.keep_history(10_000);
        let replicas = cluster(&redis, 3).await;
        let session = replicas[1].claim("c", 600).await.session.unwrap();
        let store = Arc::clone(&replicas[1].store);
        let reader = tokio::spawn(async move {
            let (mut from, mut got) = (0, Vec::new());
            while got.len() < 120 {
                let read = store.read_queue(session, from, 1000, usize::MAX);
                for entry in within(read).await.unwrap() {
                    from = entry.seq + 1;
                    let message = entry.message.expect("it is not released");
                    got.push(String::from_utf8_lossy(message.payload()).into_owned());
                }
                pass(Duration::from_micros(300)).await;
            }
            pass(Duration::from_secs(5)).await;
            let more = store.read_queue(session, from, 1000, usize::MAX);
            assert!(within(more).await.unwrap().is_empty(), "something twice");
            got
        });
        let mut outcomes = Vec::new();
        for n in 0..60 {
            for replica in [0, 2] {
                let text = format!("{replica} {n}");
                outcomes.push(replicas[replica].submit(vec![enqueue(session, &text)], false));
            }
            if n == 30 {
                redis.fail_over(
                    Duration::from_millis(100 + seed * 30),
                    2 + seed as usize % 25,
                );
            }
            pass(Duration::from_micros(700)).await;
        }
        for outcome in outcomes {
            within(outcome).await.unwrap().expect("it is durable");
        }
        let got = within(reader).await.unwrap();
        for replica in [0, 2] {
            let own: Vec<_> = got
                .iter()
                .filter(|text| text.starts_with(&format!("{replica} ")))
                .cloned()
                .collect();
            let expected: Vec<_> = (0..60).map(|n| format!("{replica} {n}")).collect();
            assert_eq!(own, expected, "seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_joins_after_a_failover_waits_for_members_whose_lease_has_lapsed() {
    let redis = ModelRedis::new(57);
    redis.keep_history(10_000);
    let one = Replica::start(&redis, 1).await;
    let session = one.claim("c", 600).await.session.unwrap();
    one.commit(vec![enqueue(session, "lost")]).await;
    redis.cut(0);
    redis.fail_over(Duration::from_millis(100), 1);
    pass(Duration::from_secs(8)).await;
    let joining = async {
        let two = Replica::start(&redis, 2).await;
        (two, Instant::now())
    };
    let healing = async {
        pass(Duration::from_secs(2)).await;
        redis.heal(0);
        Instant::now()
    };
    let ((two, ready), healed) = within(async { tokio::join!(joining, healing) }).await;
    assert!(ready > healed);
    let session = two.claim("c", 600).await.session.unwrap();
    let queue = two.store.read_queue(session, 0, 10, usize::MAX);
    assert_eq!(within(queue).await.unwrap().len(), 1);

    // Those who are dead are not waited for longer than for a lease.
    redis.crash(0);
    redis.crash(1);
    redis.fail_over(Duration::from_millis(100), 0);
    pass(Duration::from_secs(8)).await;
    within(Replica::start(&redis, 3)).await;
}
