//! Members of shared groups whose sessions end with their connections.

use std::rc::Rc;
use std::time::Duration;

use dunlin_protocol::{Packet, QoS};

use super::{Take, pause};
use crate::client::{Conn, Event, Hello};
use crate::plan::Random;
use crate::world::World;

/// Comes and goes, often with messages that it has not acknowledged: others get them then.
pub(super) async fn member(world: Rc<World>, n: usize, filters: Vec<String>, take: Take) {
    let mut random = Random::of(world.plan.seed, "member", n);
    while !world.over.get() {
        if let Some((conn, _replica)) = world.connect(&mut random) {
            life(&world, &mut random, n, conn, &filters, take).await;
        }
        pause(&mut random, 2_000).await;
    }
}

async fn life(
    world: &World,
    random: &mut Random,
    n: usize,
    mut conn: Conn,
    filters: &[String],
    take: Take,
) {
    let client = format!("b{n}");
    let hello = Hello {
        client_id: &client,
        clean_start: true,
        window: if random.chance(300) { 1 } else { 0 },
        ..Hello::default()
    };
    if conn.hello(&hello).await.is_none() {
        return;
    }
    conn.subscribe(filters, QoS::AtLeastOnce).await;
    world.note(&format!("{client} is connected"));
    let leaves = tokio::time::Instant::now()
        + Duration::from_millis(random.below(world.plan.members_stay_ms));
    let sloppy = random.chance(500);
    while !world.over.get() && tokio::time::Instant::now() < leaves {
        match conn.event_within(Duration::from_millis(200)).await {
            Some(Event::Publish {
                topic,
                payload,
                qos,
                id,
                ..
            }) => {
                // It goes without a word of what it has got, and has done nothing with it.
                if sloppy && random.chance(100) {
                    world.note(&format!("{client} goes with {payload}"));
                    return;
                }
                world.note(&format!("{client} gets {payload} as {id}"));
                take(world, &client, &topic, &payload);
                if qos > QoS::AtMostOnce {
                    conn.ack(Packet::PubAck, id).await;
                }
            }
            Some(Event::Closed | Event::Disconnect(_)) => return,
            _ => {}
        }
    }
}
