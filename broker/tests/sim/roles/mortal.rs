//! Who has a will.

use std::rc::Rc;
use std::time::Duration;

use super::pause;
use crate::client::{Event, Hello};
use crate::oracle::Fate;
use crate::plan::Random;
use crate::world::World;

/// Lives with a will, and ends in one way or another.
pub(super) async fn mortal(world: Rc<World>, n: usize, waiting: usize) {
    let mut random = Random::of(world.plan.seed, "mortal", n);
    while world.ready.get() < waiting {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let client = format!("x{n}");
    let topic = format!("will/x{n}");
    for life in 1..=world.plan.lives_each {
        let Some((mut conn, replica)) = world.connect(&mut random) else {
            pause(&mut random, 500).await;
            continue;
        };
        let last = life == world.plan.lives_each;
        let delay = if random.chance(500) { 0 } else { 2 };
        let will = format!("x{n} {life}");
        let hello = Hello {
            client_id: &client,
            expiry: if random.chance(500) { 60 } else { 0 },
            will: Some((&topic, &will, delay)),
            ..Hello::default()
        };
        let greeted = conn.hello(&hello).await.is_some();
        world.note(&format!(
            "{client} begins life {life} on replica {}: {greeted}, delay {delay}",
            replica.backplane
        ));
        if !greeted {
            // It may have been taken, or not.
            world.oracle.borrow_mut().life(&will, Fate::AtMost(1));
            pause(&mut random, 1_000).await;
            continue;
        }
        let dies = tokio::time::Instant::now() + Duration::from_millis(random.below(8_000));
        let mut broken = false;
        while tokio::time::Instant::now() < dies && !broken {
            if let Some(Event::Closed | Event::Disconnect(_)) =
                conn.event_within(Duration::from_millis(300)).await
            {
                broken = true;
            }
        }
        world.note(&format!("{client} ends life {life}, broken {broken}"));
        if !broken && random.chance(300) {
            conn.goodbye().await;
            // DISCONNECT has no answer: if the replica dies before Redis knows, the will is published.
            tokio::time::sleep(Duration::from_secs(10)).await;
            let quiet = replica.is_alive() && !replica.troubled.get();
            let fate = if quiet {
                Fate::Exactly(0)
            } else {
                Fate::AtMost(1)
            };
            world.oracle.borrow_mut().life(&will, fate);
        } else {
            drop(conn);
            // A client that is back within the delay has no will published.
            let fate = if delay == 0 || last {
                Fate::Exactly(1)
            } else {
                Fate::AtMost(1)
            };
            world.oracle.borrow_mut().life(&will, fate);
        }
        pause(&mut random, 4_000).await;
    }
}
