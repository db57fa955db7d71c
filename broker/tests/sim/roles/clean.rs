//! Subscribers whose sessions end with their connections.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use dunlin_protocol::{Packet, QoS};

use super::{parse, pause};
use crate::client::{Conn, Event, Hello};
use crate::oracle::Window;
use crate::plan::Random;
use crate::world::{Replica, World};

/// Connects again and again with a session that ends with its connection.
pub(super) async fn subscriber(world: Rc<World>, n: usize, group: usize) {
    let mut random = Random::of(world.plan.seed, "clean", n);
    while !world.over.get() {
        if let Some((conn, replica)) = world.connect(&mut random) {
            clean_life(&world, &mut random, n, group, conn, &replica).await;
        }
        pause(&mut random, 1_000).await;
    }
}

async fn clean_life(
    world: &World,
    random: &mut Random,
    n: usize,
    group: usize,
    mut conn: Conn,
    replica: &Replica,
) {
    let client = format!("c{n}");
    let hello = Hello {
        client_id: &client,
        clean_start: true,
        ..Hello::default()
    };
    if conn.hello(&hello).await.is_none() {
        return;
    }
    conn.subscribe(&[format!("g{group}/#")], QoS::AtLeastOnce)
        .await;
    let mut window = Window {
        group,
        from: 0,
        to: 0,
        troubled: false,
        got: BTreeMap::new(),
    };
    let leaves = tokio::time::Instant::now() + Duration::from_millis(5_000 + random.below(60_000));
    while !world.over.get() && tokio::time::Instant::now() < leaves {
        match conn.event_within(Duration::from_millis(500)).await {
            None => {}
            Some(Event::SubAck(_)) => window.from = world.now(),
            Some(Event::Publish {
                payload, qos, id, ..
            }) => {
                world.note(&format!("{client} gets {payload}"));
                if let Some(message) = parse(&payload) {
                    *window.got.entry(message).or_default() += 1;
                }
                if qos > QoS::AtMostOnce {
                    conn.ack(Packet::PubAck, id).await;
                }
            }
            Some(Event::Closed | Event::Disconnect(_)) => break,
            Some(_) => {}
        }
    }
    window.to = world.now();
    window.troubled = replica.troubled.get();
    if window.from > 0 {
        world.oracle.borrow_mut().window(window);
    }
}
