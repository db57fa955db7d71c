//! Records: changes are told to every replica, or that it has missed some; acknowledged ones stay.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use dunlin_sync::Store;
use dunlin_sync::cluster::testing::ModelRedis;
use dunlin_sync::records::{
    Expect, PutOutcome, Record, RecordChange, RecordKey, RecordListener, RecordPut, Records, Table,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::support::{Replica, cluster, pass, within};

/// Seeds of the storm.
const SEEDS: u64 = 24;
/// What is done in one.
const STEPS: u32 = 200;

fn key(name: &str) -> RecordKey {
    RecordKey::new(Table::Device, name)
}

#[derive(Default)]
struct Heard(Mutex<Vec<RecordChange>>);

impl RecordListener for Heard {
    fn changed(&self, change: &RecordChange) {
        self.0.lock().push(change.clone());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_put_everywhere_has_been_told_to_all_listeners() {
    let redis = ModelRedis::new(1);
    let replicas = cluster(&redis, 4).await;
    let heard: Vec<Arc<Heard>> = replicas.iter().map(|_| Arc::default()).collect();
    for (replica, heard) in replicas.iter().zip(&heard) {
        let listener: Arc<dyn RecordListener> = heard.clone();
        replica.store.records().listen(&listener);
    }
    redis.set_latency(Duration::from_millis(3), Duration::from_millis(40));
    for turn in 0..30_usize {
        let records = replicas[turn % 4].store.records();
        let put = RecordPut::set(key(&format!("d{}", turn % 3)), turn.to_string()).hinting(7);
        let done = within(records.put_everywhere(vec![put.clone()]))
            .await
            .unwrap();
        let expected = RecordChange::Changed {
            key: put.key,
            revision: done[0].revision().unwrap(),
            hint: 7,
        };
        for heard in &heard {
            assert!(heard.0.lock().contains(&expected), "turn {turn}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_ends_is_cleared_away_and_that_is_told() {
    let redis = ModelRedis::new(1);
    let replicas = cluster(&redis, 2).await;
    let heard = Arc::new(Heard::default());
    let listener: Arc<dyn RecordListener> = heard.clone();
    replicas[1].store.records().listen(&listener);
    let records = replicas[0].store.records();
    let end = redis.now_ms() + 5_000;
    let put = RecordPut::set(key("a"), "1").until(Some(end));
    within(records.put_everywhere(vec![put])).await.unwrap();
    assert_eq!(heard.0.lock().len(), 1);
    pass(Duration::from_secs(10)).await;
    assert_eq!(within(records.get(vec![key("a")])).await.unwrap(), [None]);
    assert_eq!(heard.0.lock().len(), 2, "{:?}", heard.0.lock());
}

/// What a replica keeps of what it has read, as whoever reads through a cache should.
#[derive(Default)]
struct Cache(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    records: HashMap<RecordKey, Option<Record>>,
    changes: HashMap<RecordKey, u64>,
    missed: u64,
}

impl Kept {
    fn age(&self, key: &RecordKey) -> (u64, u64) {
        (self.changes.get(key).copied().unwrap_or(0), self.missed)
    }
}

impl RecordListener for Cache {
    fn changed(&self, change: &RecordChange) {
        let mut kept = self.0.lock();
        kept.records.retain(|key, _| !change.concerns(key));
        match change {
            RecordChange::Changed { key, .. } => {
                *kept.changes.entry(key.clone()).or_default() += 1;
            }
            RecordChange::Missed { .. } => kept.missed += 1,
        }
    }
}

impl Cache {
    async fn read(self: Arc<Self>, records: Arc<dyn Records>, key: RecordKey) {
        let before = self.0.lock().age(&key);
        if let Ok(mut got) = records.get(vec![key.clone()]).await {
            let mut kept = self.0.lock();
            // What was under way when a change was told may be old.
            if kept.age(&key) == before {
                kept.records.insert(key, got.remove(0));
            }
        }
    }
}

fn count(record: Option<&Record>) -> u64 {
    let text = record.map_or("0", |record| std::str::from_utf8(&record.value).unwrap());
    text.parse().unwrap()
}

/// Adds one to a record, by comparison.
async fn increment(
    records: Arc<dyn Records>,
    key: RecordKey,
    acknowledged: Arc<Mutex<BTreeMap<RecordKey, u64>>>,
) {
    let Ok(mut got) = records.get(vec![key.clone()]).await else {
        return;
    };
    let found = got.remove(0);
    let expect = match &found {
        Some(record) => Expect::Revision(record.revision),
        None => Expect::Absent,
    };
    let next = count(found.as_ref()) + 1;
    let put = RecordPut::set(key.clone(), next.to_string()).expecting(expect);
    if let Ok(done) = records.put(vec![put]).await
        && matches!(done[..], [PutOutcome::Done { .. }])
    {
        *acknowledged.lock().entry(key).or_default() += 1;
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Between two failovers, so that what the first has lost is written again before the second.
const BETWEEN_FAILOVERS: Duration = Duration::from_secs(10);

fn fault(
    redis: &ModelRedis,
    replica: &Replica,
    random: &mut Random,
    failed_over: &mut Option<Instant>,
) {
    let link = replica.link;
    let length = Duration::from_millis(100 + random.below(2_500));
    match random.below(5) {
        0 => redis.cut(link),
        1 => redis.lose_frames(link, 400),
        2 => redis.black_hole(link, length),
        3 => return redis.restart(Duration::from_millis(200 + random.below(800))),
        _ => {
            let now = Instant::now();
            if failed_over.is_some_and(|at| now < at + BETWEEN_FAILOVERS) {
                return;
            }
            *failed_over = Some(now);
            let lost = random.below(12) as usize;
            return redis.fail_over(Duration::from_millis(300), lost);
        }
    }
    let redis = redis.clone();
    tokio::spawn(async move {
        tokio::time::sleep(length).await;
        redis.heal(link);
        redis.lose_frames(link, 0);
    });
}

async fn storm(seed: u64) -> u64 {
    let redis = ModelRedis::new(seed);
    redis.keep_history(64);
    let replicas = cluster(&redis, 3).await;
    redis.set_latency(Duration::from_millis(1), Duration::from_millis(5));
    let caches: Vec<Arc<Cache>> = replicas.iter().map(|_| Arc::default()).collect();
    for (replica, cache) in replicas.iter().zip(&caches) {
        let listener: Arc<dyn RecordListener> = cache.clone();
        replica.store.records().listen(&listener);
    }
    let acknowledged = Arc::default();
    let mut random = Random(seed);
    let mut failed_over = None;
    let keys: Vec<_> = (0..6).map(|n| key(&format!("device-{n}"))).collect();
    for _ in 0..STEPS {
        let at = random.below(3) as usize;
        let records = replicas[at].store.records();
        let key = keys[random.below(6) as usize].clone();
        match random.below(20) {
            0 => fault(&redis, &replicas[at], &mut random, &mut failed_over),
            1..10 => {
                tokio::spawn(increment(records, key, Arc::clone(&acknowledged)));
            }
            _ => {
                tokio::spawn(Arc::clone(&caches[at]).read(records, key));
            }
        }
        pass(Duration::from_millis(random.below(300))).await;
    }
    pass(Duration::from_secs(60)).await;
    let truth = within(replicas[0].store.records().get(keys.clone()))
        .await
        .unwrap();
    let acknowledged = acknowledged.lock().clone();
    for (key, record) in keys.iter().zip(&truth) {
        let counted = count(record.as_ref());
        let told = acknowledged.get(key).copied().unwrap_or(0);
        assert!(
            counted >= told,
            "seed {seed}: {key:?} is {counted}, and {told} increments were acknowledged"
        );
        for (n, cache) in caches.iter().enumerate() {
            if let Some(kept) = cache.0.lock().records.get(key) {
                assert_eq!(
                    kept, record,
                    "seed {seed}: replica {n} was not told of a change of {key:?}"
                );
            }
        }
    }
    acknowledged.values().sum()
}

#[tokio::test(start_paused = true)]
async fn while_connections_break_and_redis_fails_over_no_change_is_lost_and_no_cache_stays_old() {
    let mut acknowledged = 0;
    for seed in 1..=SEEDS {
        acknowledged += storm(seed).await;
    }
    assert!(acknowledged > SEEDS * 20, "{acknowledged} increments");
}
