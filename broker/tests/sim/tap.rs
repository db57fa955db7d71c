//! A tap of everything that publishers send, its consumers, and the warehouse that they store it in.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dunlin_sync::cluster::tap::{Batch, Consumer, ConsumerOptions, Definition, Event, define};
use dunlin_sync::cluster::testing::ModelBackplane;

use crate::plan::Random;
use crate::world::World;

const NAME: &str = "warehouse";
const CONSUMERS: usize = 2;
const PARTITIONS: u16 = 3;

/// Rows, and for each partition the next position: both change in one step.
#[derive(Debug, Default)]
pub(crate) struct Warehouse {
    next: BTreeMap<u16, u64>,
    /// How often each message of each publisher is there.
    pub(crate) rows: BTreeMap<(usize, u32), u32>,
    /// By replica and number there.
    identities: BTreeMap<(u64, u64), (usize, u32)>,
    newest: BTreeMap<usize, u32>,
    pub(crate) broken: Vec<String>,
}

impl Warehouse {
    fn store(&mut self, batch: &Batch, mut note: impl FnMut(&str)) {
        let next = self.next.entry(batch.partition).or_default();
        for row in batch.rows() {
            let payload = std::str::from_utf8(row.payload).unwrap_or_default();
            let (publisher, number) = payload
                .split_once(' ')
                .and_then(|(publisher, number)| {
                    Some((publisher.parse().ok()?, number.parse().ok()?))
                })
                .expect("only what publishers send matches");
            if row.publisher != Some(format!("p{publisher}").as_str()) {
                let text = format!("the row of {payload:?} says publisher {:?}", row.publisher);
                self.broken.push(text);
            }
            if row.position < *next {
                continue;
            }
            *next = row.position + 1;
            note(&format!(
                "stored {payload} at {} of {}",
                row.position, batch.partition
            ));
            let identity = (row.identity.0.0, row.identity.1);
            if let Some(known) = self.identities.insert(identity, (publisher, number)) {
                self.broken.push(format!(
                    "the warehouse got {identity:?} twice: {known:?} and then {payload} at {} of partition {}",
                    row.position, batch.partition
                ));
            }
            let rows = self.rows.entry((publisher, number)).or_default();
            *rows += 1;
            let newest = self.newest.entry(publisher).or_default();
            if *rows == 1 && number < *newest {
                self.broken.push(format!(
                    "the warehouse got message {number} of publisher {publisher} after {newest}"
                ));
            }
            *newest = number.max(*newest);
        }
    }
}

/// Makes the tap; every replica knows of it when this ends. Whoever made it stays: a failover that loses the
/// definition would be made good by nobody else.
pub(crate) async fn make(world: &World) -> ModelBackplane {
    let mut definition = Definition::new(
        NAME,
        (0..world.plan.groups).map(|group| format!("g{group}/#")),
    );
    definition.partitions = PARTITIONS;
    let backplane = world.model.connect();
    define(&backplane, &definition, 1, Duration::from_secs(60))
        .await
        .expect("a tap");
    backplane
}

pub(crate) fn spawn(world: &Rc<World>) {
    for n in 0..CONSUMERS {
        tokio::task::spawn_local(consumer(world.clone(), n));
    }
}

/// Lives again and again.
async fn consumer(world: Rc<World>, n: usize) {
    let mut random = Random::of(world.plan.seed, "tap", n);
    while !world.over.get() {
        life(&world, &mut random).await;
        tokio::time::sleep(Duration::from_millis(random.below(3_000))).await;
    }
}

async fn life(world: &Rc<World>, random: &mut Random) {
    let backplane = world.model.connect();
    let number = backplane.number();
    let options = ConsumerOptions {
        idle: Duration::from_millis(500),
        lease: Duration::from_secs(5),
        ..ConsumerOptions::default()
    };
    let join = Consumer::join(Arc::new(backplane), NAME, random.next(), options);
    let Ok(Ok(mut consumer)) = tokio::time::timeout(Duration::from_secs(30), join).await else {
        return;
    };
    let length = match world.plan.faults {
        0 => 3_600_000,
        _ => 2_000 + random.below(40_000),
    };
    let ends = tokio::time::Instant::now() + Duration::from_millis(length);
    let mut lives = true;
    while lives && !world.over.get() {
        let event = tokio::select! {
            event = consumer.next() => event.expect("nobody closes the backplane"),
            () = tokio::time::sleep_until(ends) => break,
            () = tokio::time::sleep(Duration::from_secs(1)) => continue,
        };
        let Event::Batch(batch) = event else { continue };
        // Storing takes its time; it may be killed before and after.
        tokio::time::sleep(Duration::from_millis(random.below(30))).await;
        lives = world.plan.faults == 0 || !random.chance(10);
        if !lives && random.chance(500) {
            break;
        }
        let store = |text: &str| world.note(text);
        world.oracle.borrow_mut().warehouse.store(&batch, store);
        if !lives {
            break;
        }
        let checkpoint = Bytes::from(batch.positions.end.to_string());
        let (partition, epoch, upto) = (batch.partition, batch.epoch, batch.positions.end);
        consumer
            .acknowledge(partition, epoch, upto, checkpoint)
            .expect("a short checkpoint");
    }
    world.note(&format!("consumer {number} is killed"));
    world.model.crash(number);
}
