//! Consumers share partitions, take over from each other, and what is full is full.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dunlin_sync::cluster::tap::{
    CHECKPOINT_MAX, CheckpointTooLong, Consumer, ConsumerOptions, DefinitionError, Event, TapBound,
    TapRequest, known, look,
};
use dunlin_sync::cluster::{AppendFate, Backplane, Reply, Request};

use crate::rig::{
    BOUND, RECEIVED_AT, Warehouse, append, append_many, appending, at, consume, join, make, options,
};
use crate::support::{LIMIT, RedisServer, ask, connect};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_that_is_not_there_cannot_be_read_and_one_that_is_can() {
    let server = RedisServer::start(&[]);
    let redis = connect(server.url());
    assert_eq!(known(&*redis, "t").await, Ok(None));
    make(&redis, 3).await;
    let definition = known(&*redis, "t").await.unwrap().unwrap();
    assert_eq!((definition.partitions, &*definition.filters[0]), (3, "#"));
    let mut fewer = definition.clone();
    fewer.partitions = 2;
    let refused = dunlin_sync::cluster::tap::define(&*redis, &fewer, 2, LIMIT).await;
    assert!(
        matches!(refused, Err(DefinitionError::Invalid { .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_appended_is_read_once_and_in_order() {
    let server = RedisServer::start(&[]);
    let redis = connect(server.url());
    make(&redis, 2).await;
    let mut expected = append_many(&redis, 7, 0, 1..500).await;
    expected.extend(append_many(&redis, 8, 1, 1..300).await);
    let mut consumer = join(&redis, 1).await;
    let mut warehouse = Warehouse::default();
    let all = expected.len();
    consume(&mut consumer, &mut warehouse, |warehouse| {
        warehouse.rows.len() >= all
    })
    .await;
    assert_eq!(warehouse.sorted(), expected);
    for origin in [7, 8] {
        let rows = warehouse.rows.iter().filter(|row| row.0 == origin);
        assert!(rows.is_sorted(), "a partition keeps its order");
    }
    consumer.leave().await;
    let lease = |consumer| {
        Request::Tap(TapRequest::Lease {
            of: at(0),
            consumer,
            epoch: 0,
            lease_ms: 1000,
            grace_ms: 0,
        })
    };
    // Given back at once; the checkpoint is there, and nothing is left.
    match ask(&redis, lease(9)).await {
        Reply::Tap(dunlin_sync::cluster::tap::TapReply::Leased {
            level, checkpoint, ..
        }) => {
            assert_eq!((level.messages, level.bytes), (0, 0));
            assert_eq!(checkpoint, Bytes::from_static(b"500"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_have_their_fair_share_and_take_over_from_the_dead() {
    let server = RedisServer::start(&[]);
    let redis = connect(server.url());
    make(&redis, 4).await;
    let mut one = join(&redis, 1).await;
    let mut other = join(&redis, 2).await;
    let until = tokio::time::Instant::now() + LIMIT;
    while one.held().count() != 2 || other.held().count() != 2 {
        assert!(tokio::time::Instant::now() < until, "no fair share");
        let step = Duration::from_millis(50);
        drop(tokio::time::timeout(step, one.next()).await);
        drop(tokio::time::timeout(step, other.next()).await);
    }
    // It has read, and dies before it has acknowledged.
    let expected = append_many(&redis, 7, 0, 1..100).await;
    let expected: Vec<_> = [expected, append_many(&redis, 7, 3, 100..200).await].concat();
    drop(other);
    let mut warehouse = Warehouse::default();
    consume(&mut one, &mut warehouse, |warehouse| {
        warehouse.rows.len() >= expected.len()
    })
    .await;
    assert_eq!(warehouse.sorted(), expected);
    let until = tokio::time::Instant::now() + LIMIT;
    while one.held().count() < 4 {
        drop(
            tokio::time::timeout_at(until, one.next())
                .await
                .expect("it takes over"),
        );
    }
}

/// Lets all of them go on until they have so many partitions each, and gives the batches that come to `heed`.
async fn until_shares(
    consumers: &mut [&mut Consumer],
    shares: &[usize],
    limit: Duration,
    mut heed: impl FnMut(usize, &mut Consumer, Event),
) {
    let until = tokio::time::Instant::now() + limit;
    loop {
        let mut found: Vec<usize> = consumers
            .iter()
            .map(|consumer| consumer.held().count())
            .collect();
        found.sort_unstable();
        if found == shares {
            return;
        }
        assert!(
            tokio::time::Instant::now() < until,
            "{found:?} instead of {shares:?}"
        );
        for (number, consumer) in consumers.iter_mut().enumerate() {
            let step = Duration::from_millis(10);
            while let Ok(event) = tokio::time::timeout(step, consumer.next()).await {
                heed(number, consumer, event.unwrap());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_partitions_are_two_one_and_one_for_three_consumers() {
    let server = RedisServer::start(&[]);
    let redis = connect(server.url());
    make(&redis, 4).await;
    let mut one = join(&redis, 1).await;
    until_shares(&mut [&mut one], &[4], LIMIT, |_, _, _| {}).await;
    let (mut other, mut third) = (join(&redis, 2).await, join(&redis, 3).await);
    let mut all = [&mut one, &mut other, &mut third];
    until_shares(&mut all, &[1, 1, 2], LIMIT, |_, _, _| {}).await;
    let mut fourth = join(&redis, 4).await;
    let mut all = [&mut one, &mut other, &mut third, &mut fourth];
    until_shares(&mut all, &[1, 1, 1, 1], LIMIT, |_, _, _| {}).await;
    one.leave().await;
    other.leave().await;
    let mut all = [&mut third, &mut fourth];
    until_shares(&mut all, &[2, 2], LIMIT, |_, _, _| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_from_outside_shows_who_has_what_and_takes_nothing() {
    let server = RedisServer::start(&[]);
    let redis = connect(server.url());
    assert!(look(&*redis, "t").await.unwrap().is_none());
    make(&redis, 2).await;
    let nobody = look(&*redis, "t").await.unwrap().unwrap();
    assert_eq!(nobody.consumers, []);
    assert_eq!(nobody.partitions.len(), 2);
    assert!(nobody.partitions.iter().all(|partition| {
        (partition.consumer, partition.oldest_at) == (None, None) && partition.level.messages == 0
    }));
    append_many(&redis, 7, 1, 1..300).await;
    let mut one = join(&redis, 5).await;
    let (mut epoch, mut assigned) = (0, 0);
    while epoch == 0 || assigned < 2 {
        match one.next().await.unwrap() {
            Event::Assigned { .. } => assigned += 1,
            Event::Batch(batch) => epoch = batch.epoch,
            // This machine was elsewhere for longer than the lease.
            Event::Lost { .. } => assigned -= 1,
            other @ Event::Acknowledged { .. } => panic!("{other:?}"),
        }
    }
    // In the middle of the first frame.
    one.acknowledge(1, epoch, 3, Bytes::new()).unwrap();
    while !matches!(one.next().await.unwrap(), Event::Acknowledged { .. }) {}
    for _ in 0..2 {
        let state = look(&*redis, "t").await.unwrap().unwrap();
        assert_eq!(state.definition.partitions, 2);
        assert_eq!(state.consumers, [5]);
        let of = state.partitions[1];
        assert_eq!((of.partition, of.consumer, of.epoch), (1, Some(5), epoch));
        assert_eq!((of.level.acknowledged, of.level.messages), (3, 297));
        assert!(of.level.bytes > 0);
        assert_eq!(of.oldest_at, Some(RECEIVED_AT + 3), "of the third one");
        assert!(of.lease_left <= options().lease && !of.lease_left.is_zero());
        assert_eq!(state.partitions[0].consumer, Some(5));
        assert_eq!(state.partitions[0].oldest_at, None);
    }
    one.leave().await;
    let left = look(&*redis, "t").await.unwrap().unwrap();
    assert_eq!(left.consumers, []);
    assert_eq!(left.partitions[1].consumer, None);
    assert_eq!(left.partitions[1].epoch, epoch);
    assert_eq!(left.partitions[1].level.messages, 297);
}

/// A consumer that stores and never says so: what it has given up is given again, what it has kept is not touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_acknowledged_in_time_is_handed_over_unless_it_must_be_worked_off() {
    let server = RedisServer::start(&[]);
    let redis = connect(server.url());
    make(&redis, 2).await;
    let mut expected = append_many(&redis, 7, 0, 1..200).await;
    expected.extend(append_many(&redis, 7, 1, 200..400).await);
    let backplane: Arc<dyn Backplane> = redis.clone();
    let slow = ConsumerOptions {
        hand_over: Duration::MAX,
        ..options()
    };
    let mut slow = Consumer::join(Arc::clone(&backplane), "t", 1, slow)
        .await
        .unwrap();
    let mut kept = Vec::new();
    while kept.len() < 2 {
        if let Event::Batch(batch) = slow.next().await.unwrap() {
            kept.push(batch);
        }
    }
    let mut quick = join(&redis, 2).await;
    // It must be told of the other one, and keeps both for longer than others would.
    let until = tokio::time::Instant::now() + Duration::from_millis(3_500);
    while tokio::time::Instant::now() < until {
        let step = Duration::from_millis(20);
        drop(tokio::time::timeout(step, slow.next()).await);
        drop(tokio::time::timeout(step, quick.next()).await);
    }
    assert_eq!((slow.held().count(), quick.held().count()), (2, 0));
    let mut warehouse = Warehouse::default();
    for batch in kept.drain(..) {
        warehouse.store(&batch);
        let (partition, epoch, upto) = (batch.partition, batch.epoch, batch.positions.end);
        slow.acknowledge(partition, epoch, upto, Bytes::new())
            .unwrap();
    }
    until_shares(
        &mut [&mut slow, &mut quick],
        &[1, 1],
        LIMIT,
        |_, _, event| {
            if let Event::Batch(batch) = event {
                warehouse.store(&batch);
            }
        },
    )
    .await;
    // The quick one reads and acknowledges nothing either, and gives up what a third one should have.
    let more = append_many(&redis, 8, 0, 400..500).await;
    expected.extend(more);
    expected.extend(append_many(&redis, 8, 1, 500..600).await);
    slow.leave().await;
    until_shares(&mut [&mut quick], &[2], LIMIT, |_, _, _| {}).await;
    let read = |held: dunlin_sync::cluster::tap::Held| held.read == held.level.tail;
    while !quick.held().all(read) {
        quick.next().await.unwrap();
    }
    let mut third = join(&redis, 3).await;
    let mut lost = Vec::new();
    until_shares(
        &mut [&mut quick, &mut third],
        &[1, 1],
        LIMIT,
        |number, consumer, event| match (number, event) {
            (0, Event::Lost { partition, .. }) => lost.push(partition),
            (1, Event::Batch(batch)) => {
                warehouse.store(&batch);
                let (partition, epoch, upto) = (batch.partition, batch.epoch, batch.positions.end);
                consumer
                    .acknowledge(partition, epoch, upto, Bytes::new())
                    .unwrap();
            }
            _ => {}
        },
    )
    .await;
    assert_eq!(lost.len(), 1, "one of the two was handed over");
    drop(quick);
    consume(&mut third, &mut warehouse, |warehouse| {
        warehouse.rows.len() >= expected.len()
    })
    .await;
    expected.sort_unstable();
    assert_eq!(warehouse.sorted(), expected, "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_lost_a_lease_can_acknowledge_nothing() {
    let server = RedisServer::start(&[]);
    let redis = connect(server.url());
    make(&redis, 1).await;
    append_many(&redis, 7, 0, 1..10).await;
    let mut consumer = join(&redis, 1).await;
    let batch = loop {
        if let Event::Batch(batch) = consumer.next().await.unwrap() {
            break batch;
        }
    };
    // Another one takes it, as if the lease had ended.
    let release = TapRequest::Release {
        of: at(0),
        epoch: batch.epoch,
    };
    ask(&redis, Request::Tap(release)).await;
    let lease = TapRequest::Lease {
        of: at(0),
        consumer: 2,
        epoch: 0,
        lease_ms: 60_000,
        grace_ms: 0,
    };
    ask(&redis, Request::Tap(lease)).await;
    consumer
        .acknowledge(
            0,
            batch.epoch,
            batch.positions.end,
            Bytes::from_static(b"mine"),
        )
        .unwrap();
    loop {
        if let Event::Lost { partition: 0, .. } = consumer.next().await.unwrap() {
            break;
        }
    }
    let read = TapRequest::Read {
        of: at(0),
        epoch: batch.epoch + 1,
        from: 1,
        max_bytes: 1000,
    };
    match ask(&redis, Request::Tap(read)).await {
        Reply::Tap(dunlin_sync::cluster::tap::TapReply::Read { level, .. }) => {
            assert_eq!((level.acknowledged, level.messages), (1, 9));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_bound_an_append_and_all_behind_it_are_refused_until_they_are_tried_again() {
    let server = RedisServer::start(&[]);
    let redis = connect(server.url());
    make(&redis, 1).await;
    let bound = TapBound {
        messages: 3,
        ..BOUND
    };
    let fates = |reply: Reply| match reply {
        Reply::Appended { seqs, .. } => seqs,
        other => panic!("{other:?}"),
    };
    let one = |number| vec![appending(number, None)];
    let two = |number| vec![appending(number, None), appending(number + 1, None)];
    let full = [AppendFate::Full; 2];
    assert_eq!(
        fates(ask(&redis, append(7, 0, 1, bound, two(1))).await),
        [AppendFate::At(1), AppendFate::At(2)]
    );
    assert_eq!(
        fates(ask(&redis, append(7, 0, 1, bound, two(3))).await),
        full
    );
    // There would be room for it, but it is behind what was refused.
    assert_eq!(
        fates(ask(&redis, append(7, 0, 1, bound, one(5))).await),
        [AppendFate::Full]
    );
    // Another replica's is not.
    assert_eq!(
        fates(ask(&redis, append(8, 0, 1, bound, one(1))).await),
        [AppendFate::At(3)]
    );
    assert_eq!(
        fates(ask(&redis, append(7, 0, 2, bound, two(6))).await),
        full
    );
    let mut consumer = join(&redis, 1).await;
    consume(&mut consumer, &mut Warehouse::default(), |warehouse| {
        warehouse.rows.len() == 3
    })
    .await;
    let mut again = fates(ask(&redis, append(7, 0, 3, bound, two(8))).await);
    let until = tokio::time::Instant::now() + LIMIT;
    let mut attempt = 3;
    while again == full {
        assert!(tokio::time::Instant::now() < until, "no room");
        attempt += 1;
        again = fates(ask(&redis, append(7, 0, attempt, bound, two(8))).await);
    }
    assert_eq!(again, [AppendFate::At(4), AppendFate::At(5)]);
    // A repetition of what was applied is none of this.
    assert_eq!(
        fates(ask(&redis, append(7, 0, 1, bound, two(8))).await),
        [AppendFate::Repeated; 2]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_is_stored_also_where_nothing_new_is_acknowledged() {
    let server = RedisServer::start(&[]);
    let redis = connect(server.url());
    make(&redis, 1).await;
    append_many(&redis, 7, 0, 1..10).await;
    let mut consumer = join(&redis, 1).await;
    let epoch = loop {
        if let Event::Assigned {
            epoch,
            level,
            checkpoint,
            ..
        } = consumer.next().await.unwrap()
        {
            assert_eq!((level.acknowledged, checkpoint.len()), (1, 0));
            break epoch;
        }
    };
    let long = Bytes::from(vec![7; CHECKPOINT_MAX + 1]);
    let refused = consumer.acknowledge(0, epoch, 1, long.clone());
    assert_eq!(refused, Err(CheckpointTooLong(CHECKPOINT_MAX + 1)));
    let first = consumer
        .acknowledge(0, epoch, 1, Bytes::from_static(b"first"))
        .unwrap();
    let second = consumer.acknowledge(0, epoch, 1, long.slice(1..)).unwrap();
    let mut told = Vec::new();
    let mut rows = 0;
    while told.len() < 2 || rows < 9 {
        match consumer.next().await.unwrap() {
            Event::Acknowledged {
                upto: 1, number, ..
            } => told.push(number),
            Event::Batch(batch) => rows += batch.rows().count(),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told, [first, second]);
    // As if the process had died: another one has what was stored last, and everything that was there.
    drop(consumer);
    let mut next = join(&redis, 2).await;
    loop {
        if let Event::Assigned {
            level, checkpoint, ..
        } = next.next().await.unwrap()
        {
            assert_eq!((level.acknowledged, level.messages), (1, 9));
            assert_eq!(checkpoint, long.slice(1..));
            break;
        }
    }
}
