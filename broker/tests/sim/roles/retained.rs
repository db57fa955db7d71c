//! Who sets retained messages, and who reads them.

use std::rc::Rc;

use dunlin_protocol::{Packet, QoS};

use super::pause;
use crate::client::{Event, Hello, PATIENCE};
use crate::plan::Random;
use crate::world::World;

/// Sets a retained message again and again.
pub(super) async fn writer(world: Rc<World>, n: usize) {
    let mut random = Random::of(world.plan.seed, "writer", n);
    let client = format!("rw{n}");
    let topic = format!("kept/{n}");
    let mut version = 1;
    while version <= 10 {
        let Some((mut conn, replica)) = world.connect(&mut random) else {
            pause(&mut random, 500).await;
            continue;
        };
        let hello = Hello {
            client_id: &client,
            clean_start: true,
            ..Hello::default()
        };
        if conn.hello(&hello).await.is_none() {
            pause(&mut random, 1_000).await;
            continue;
        }
        while version <= 10 {
            conn.publish(
                &topic,
                &version.to_string(),
                QoS::AtLeastOnce,
                1,
                (false, true),
            )
            .await;
            match conn.event(PATIENCE).await {
                Event::PubAck(..) => {
                    world.note(&format!(
                        "{client} has set version {version} on replica {}",
                        replica.backplane
                    ));
                    world.oracle.borrow_mut().retained.insert(n, version);
                    version += 1;
                }
                _ => break,
            }
            pause(&mut random, 1_500).await;
        }
        pause(&mut random, 500).await;
    }
}

/// Subscribes on any replica: what was acknowledged before must come.
pub(super) async fn reader(world: Rc<World>, n: usize, reader: usize) {
    let mut random = Random::of(world.plan.seed, "reader", n * 100 + reader);
    let client = format!("rr{n}-{reader}");
    for _ in 0..8 {
        pause(&mut random, 3_000).await;
        let Some((mut conn, replica)) = world.connect(&mut random) else {
            continue;
        };
        let hello = Hello {
            client_id: &client,
            clean_start: true,
            ..Hello::default()
        };
        if conn.hello(&hello).await.is_none() {
            continue;
        }
        let due = world.oracle.borrow().retained.get(&n).copied().unwrap_or(0);
        conn.subscribe(&[format!("kept/{n}")], QoS::AtLeastOnce)
            .await;
        let mut acknowledged = false;
        let mut newest = 0;
        let end = loop {
            if acknowledged && newest >= due {
                break true;
            }
            match conn.event_within(PATIENCE).await {
                Some(Event::SubAck(_)) => acknowledged = true,
                Some(Event::Publish { payload, id, .. }) => {
                    newest = newest.max(payload.parse().unwrap_or(0));
                    conn.ack(Packet::PubAck, id).await;
                }
                Some(Event::Closed | Event::Disconnect(_)) => break true,
                Some(_) => {}
                None => break false,
            }
        };
        if !end && acknowledged && replica.is_alive() {
            world.oracle.borrow_mut().breach(format!(
                "{client} subscribed on replica {} and got version {newest} of kept/{n}, although {due} had been acknowledged",
                replica.backplane
            ));
        }
        world.note(&format!(
            "{client} has read {newest} on replica {}",
            replica.backplane
        ));
    }
}
