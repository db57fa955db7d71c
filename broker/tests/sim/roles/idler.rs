//! Who does nothing but come and go.

use std::rc::Rc;
use std::time::Duration;

use dunlin_protocol::Packet;

use super::pause;
use crate::client::{Event, Hello, PATIENCE};
use crate::plan::Random;
use crate::world::World;

/// Connects, pings and goes; client ids are used twice, so that they are taken over.
pub(super) async fn idler(world: Rc<World>, n: usize) {
    let mut random = Random::of(world.plan.seed, "idler", n);
    let client = format!("i{}", n / 2);
    for _ in 0..3 {
        pause(&mut random, 6_000).await;
        let Some((mut conn, _replica)) = world.connect(&mut random) else {
            continue;
        };
        let hello = Hello {
            client_id: &client,
            clean_start: random.chance(500),
            expiry: if random.chance(500) { 30 } else { 0 },
            ..Hello::default()
        };
        if conn.hello(&hello).await.is_none() {
            continue;
        }
        let stays = tokio::time::Instant::now() + Duration::from_millis(random.below(5_000));
        while tokio::time::Instant::now() < stays {
            conn.send(&Packet::PingReq).await;
            if conn.event(PATIENCE).await != Event::Pong {
                break;
            }
            pause(&mut random, 1_000).await;
        }
        if random.chance(500) {
            conn.goodbye().await;
        }
    }
}
