//! Who publishes, and counts what is acknowledged.

use std::rc::Rc;
use std::time::Duration;

use dunlin_protocol::{Packet, QoS};

use super::pause;
use crate::client::{Event, Hello, PATIENCE};
use crate::plan::Random;
use crate::world::World;

/// Publishes that a publisher has under way.
const WINDOW: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flight {
    Published(u32),
    Received(u32),
}

/// Publishes its messages in order, resends what is not acknowledged, and ends when all are.
pub(super) async fn publisher(world: Rc<World>, n: usize, group: usize, waiting: usize) {
    let mut random = Random::of(world.plan.seed, "publisher", n);
    let qos = if n.is_multiple_of(2) {
        QoS::ExactlyOnce
    } else {
        QoS::AtLeastOnce
    };
    world
        .oracle
        .borrow_mut()
        .publisher(n, group, qos == QoS::ExactlyOnce);
    while world.ready.get() < waiting {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let client = format!("p{n}");
    let topic = format!("g{group}/p{n}");
    let mut next = 1;
    let mut next_id = 1;
    // By order of sending: (packet id, state).
    let mut flights: Vec<(u16, Flight)> = Vec::new();
    let mut known = false;
    // Messages come in bursts.
    let each = world.plan.span_ms / u64::from(world.plan.messages_each);
    let mut burst_at = tokio::time::Instant::now() + Duration::from_millis(random.below(each));
    while next <= world.plan.messages_each || !flights.is_empty() {
        let Some((mut conn, _replica)) = world.connect(&mut random) else {
            pause(&mut random, 500).await;
            continue;
        };
        let hello = Hello {
            client_id: &client,
            expiry: 7_200,
            ..Hello::default()
        };
        let Some(present) = conn.hello(&hello).await else {
            pause(&mut random, 1_000).await;
            continue;
        };
        world.note(&format!("{client} is connected, present {present}"));
        if known && !present {
            world
                .oracle
                .borrow_mut()
                .breach(format!("{client}: its session is lost"));
        }
        known = true;
        for (id, flight) in &flights {
            match flight {
                Flight::Published(number) => {
                    world.oracle.borrow_mut().sent_again(n, *number);
                    let payload = format!("{n} {number}");
                    conn.publish(&topic, &payload, qos, *id, (true, false))
                        .await;
                }
                Flight::Received(_) => conn.ack(Packet::PubRel, *id).await,
            }
        }
        let leaves = tokio::time::Instant::now() + Duration::from_millis(random.below(12_000));
        let mut waits_since = tokio::time::Instant::now();
        loop {
            if flights.is_empty() && next > world.plan.messages_each {
                break;
            }
            let mut burst = 0;
            if tokio::time::Instant::now() >= burst_at {
                burst = 1 + random.below(WINDOW as u64);
                burst_at = tokio::time::Instant::now()
                    + Duration::from_millis(random.below(2 * burst * each));
            }
            while burst > 0 && flights.len() < WINDOW && next <= world.plan.messages_each {
                burst -= 1;
                world.oracle.borrow_mut().sent(n, next, world.now());
                let payload = format!("{n} {next}");
                conn.publish(&topic, &payload, qos, next_id, (false, false))
                    .await;
                flights.push((next_id, Flight::Published(next)));
                next += 1;
                next_id = next_id % 60_000 + 1;
            }
            let patience = Duration::from_millis(1 + random.below(400));
            let event = conn.event_within(patience).await;
            if event.is_some() {
                waits_since = tokio::time::Instant::now();
            }
            match event {
                None if tokio::time::Instant::now() > leaves => break,
                None if waits_since.elapsed() > PATIENCE => break,
                None => {}
                Some(Event::PubAck(id, reason)) => {
                    settle(&world, n, &mut flights, id, |flight, world| match flight {
                        Flight::Published(number) if !reason.is_error() => {
                            world
                                .oracle
                                .borrow_mut()
                                .acknowledged(n, number, world.now());
                            None
                        }
                        other => Some(other),
                    });
                }
                Some(Event::PubRec(id, reason)) if !reason.is_error() => {
                    settle(&world, n, &mut flights, id, |flight, world| match flight {
                        Flight::Published(number) => {
                            world
                                .oracle
                                .borrow_mut()
                                .acknowledged(n, number, world.now());
                            Some(Flight::Received(number))
                        }
                        other => Some(other),
                    });
                    conn.ack(Packet::PubRel, id).await;
                }
                Some(Event::PubComp(id)) => {
                    settle(&world, n, &mut flights, id, |flight, _| match flight {
                        Flight::Received(_) => None,
                        other => Some(other),
                    });
                }
                Some(Event::Closed | Event::Disconnect(_)) => break,
                Some(_) => {}
            }
        }
        drop(conn);
        pause(&mut random, 800).await;
    }
}

fn settle(
    world: &World,
    n: usize,
    flights: &mut Vec<(u16, Flight)>,
    id: u16,
    step: impl FnOnce(Flight, &World) -> Option<Flight>,
) {
    let Some(index) = flights.iter().position(|(held, _)| *held == id) else {
        return;
    };
    world.note(&format!("p{n}: answer to {id}"));
    match step(flights[index].1, world) {
        Some(flight) => flights[index].1 = flight,
        None => {
            flights.remove(index);
        }
    }
}
