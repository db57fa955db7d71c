//! What goes wrong, and when.

use std::rc::Rc;
use std::time::Duration;

use crate::plan::Random;
use crate::world::{Replica, World};

const MOST_CUT_MS: u64 = 20_000;

/// Causes the plan's faults one after the other, and mends everything at the end.
pub(crate) fn spawn(world: &Rc<World>) {
    if world.plan.faults == 0 {
        return;
    }
    let cause = cause(world.clone());
    world.spawn(cause);
}

async fn cause(world: Rc<World>) {
    let mut random = Random::of(world.plan.seed, "faults", 0);
    for _ in 0..world.plan.faults {
        tokio::time::sleep(Duration::from_millis(random.below(3_000))).await;
        one(&world, &mut random).await;
        if world.plan.failovers {
            // The next one finds the last one made good.
            tokio::time::sleep(Duration::from_secs(25)).await;
        }
    }
    // A killed replica's lease must end, and clients must find their way.
    tokio::time::sleep(Duration::from_secs(20)).await;
}

fn say(world: &World, what: String) {
    world.note(&what);
    world
        .faults
        .borrow_mut()
        .push(format!("{} ms: {what}", world.now()));
}

/// What cuts a replica off from Redis often cuts its clients off from it: they go on elsewhere, while it
/// cannot tell anybody yet that they have gone.
fn sever_some(world: &Rc<World>, victim: &Replica, random: &mut Random) {
    if random.chance(500) {
        say(
            world,
            format!("the clients of replica {} are cut off", victim.backplane),
        );
        world.sever(victim);
    }
}

async fn one(world: &Rc<World>, random: &mut Random) {
    let replicas = world.replicas();
    let Some(victim) = replicas
        .get(random.below(replicas.len() as u64) as usize)
        .cloned()
    else {
        return;
    };
    let number = victim.backplane;
    let ms = |random: &mut Random, most: u64| Duration::from_millis(1 + random.below(most));
    // What a failover has lost is kept by the replicas: one that dies at the same time takes it along, and
    // no promise covers both at once.
    let kind = match random.below(10) {
        0..=7 if world.plan.failovers => 10,
        kind => kind,
    };
    match kind {
        0..=3 => {
            say(world, format!("SIGKILL of replica {number}"));
            world.kill(&victim);
            let after = ms(random, 10_000);
            let world = world.clone();
            world.clone().spawn(async move {
                tokio::time::sleep(after).await;
                world.start_replica().await;
            });
        }
        4 | 5 => {
            let length = ms(random, MOST_CUT_MS);
            say(
                world,
                format!("replica {number} is cut off from Redis for {length:?}"),
            );
            victim.troubled.set(true);
            world.model.cut(number);
            sever_some(world, &victim, random);
            let world = world.clone();
            world.clone().spawn(async move {
                tokio::time::sleep(length).await;
                world.model.heal(number);
                world.note(&format!("replica {number} is healed"));
            });
        }
        6 => {
            let length = ms(random, MOST_CUT_MS);
            say(
                world,
                format!("nothing moves between replica {number} and Redis for {length:?}"),
            );
            victim.troubled.set(true);
            world.model.black_hole(number, length);
            sever_some(world, &victim, random);
        }
        7 => {
            let length = ms(random, 8_000);
            say(world, format!("Redis restarts and is away for {length:?}"));
            for replica in &replicas {
                replica.troubled.set(true);
            }
            world.model.restart(length);
        }
        10 => {
            let length = ms(random, 8_000);
            let lost = random.below(60) as usize;
            say(
                world,
                format!("Redis fails over within {length:?} and loses its newest {lost} writes"),
            );
            for replica in &replicas {
                replica.troubled.set(true);
            }
            world.model.fail_over(length, lost);
        }
        8 => {
            let length = ms(random, 2_000);
            say(world, format!("Redis does nothing for {length:?}"));
            world.model.stall(length);
        }
        _ => {
            let jump = random.below(20_000) as i64 - 10_000;
            say(world, format!("the clock of Redis jumps by {jump} ms"));
            world.model.jump_clock(jump);
        }
    }
}
