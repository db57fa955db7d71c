//! Subscribers whose sessions outlive their connections.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use dunlin_protocol::{Packet, QoS};

use super::{Take, pause};
use crate::client::{Conn, Event, Hello};
use crate::plan::Random;
use crate::world::World;

/// What a subscriber is like.
pub(super) struct Subscriber {
    /// Its random numbers.
    pub(super) stream: usize,
    pub(super) client: String,
    pub(super) filters: Vec<String>,
    pub(super) qos: QoS,
    /// Messages that it takes before it acknowledges the first; 0: as many as the replica will send.
    pub(super) window: u16,
    /// Milliseconds at the most for which it stays connected, beside a tenth of that.
    pub(super) stays: u64,
    /// Milliseconds at the most between a message and its acknowledgement.
    pub(super) slowness: u64,
    pub(super) take: Take,
}

impl Subscriber {
    /// Keeps a session that gets everything of its filters, over all connections.
    pub(super) async fn live(self, world: Rc<World>) {
        let mut random = Random::of(world.plan.seed, "subscriber", self.stream);
        let client = &self.client;
        let mut subscribed = false;
        // QoS 2: what came and is not released.
        let mut held: BTreeMap<u16, String> = BTreeMap::new();
        while !world.over.get() {
            let Some((mut conn, replica)) = world.connect(&mut random) else {
                pause(&mut random, 500).await;
                continue;
            };
            let hello = Hello {
                client_id: client,
                expiry: 7_200,
                window: self.window,
                ..Hello::default()
            };
            let Some(present) = conn.hello(&hello).await else {
                pause(&mut random, 1_000).await;
                continue;
            };
            let from = world.now();
            world.note(&format!("{client} is connected, present {present}"));
            if subscribed && !present {
                let text = format!("{client}: its session is lost");
                world.oracle.borrow_mut().breach(text);
            }
            if !present {
                held.clear();
            }
            if !subscribed {
                conn.subscribe(&self.filters, self.qos).await;
            }
            // Now and then the client itself goes and comes back.
            let longest = self.stays * if random.chance(250) { 3 } else { 1 };
            let stays = Duration::from_millis(self.stays / 10 + random.below(longest));
            let leaves = tokio::time::Instant::now() + stays;
            while !world.over.get() && tokio::time::Instant::now() < leaves {
                let Some(event) = conn.event_within(Duration::from_millis(200)).await else {
                    continue;
                };
                match event {
                    Event::SubAck(_) if !subscribed => {
                        subscribed = true;
                        world.ready.set(world.ready.get() + 1);
                    }
                    Event::Closed | Event::Disconnect(_) => break,
                    event => {
                        self.event(&world, &mut random, &mut conn, &mut held, event)
                            .await;
                    }
                }
            }
            drop(conn);
            if !replica.troubled.get() {
                world.oracle.borrow_mut().stayed(client, from, world.now());
            }
            pause(&mut random, 1_500).await;
        }
    }

    async fn event(
        &self,
        world: &World,
        random: &mut Random,
        conn: &mut Conn,
        held: &mut BTreeMap<u16, String>,
        event: Event,
    ) {
        let client = &self.client;
        match event {
            Event::Publish {
                topic,
                payload,
                qos,
                dup,
                id,
                ..
            } => {
                world.note(&format!("{client} gets {payload} as {id}, dup {dup}"));
                match held.get(&id).filter(|_| qos == QoS::ExactlyOnce) {
                    None => (self.take)(world, client, &topic, &payload),
                    Some(before) if *before == payload && dup => {}
                    Some(before) => world.oracle.borrow_mut().breach(format!(
                        "{client} got {payload} as {id} (dup {dup}), which stands for {before} until its release"
                    )),
                }
                if qos == QoS::ExactlyOnce {
                    held.entry(id).or_insert(payload);
                }
                if self.slowness > 0 {
                    pause(random, self.slowness).await;
                }
                match qos {
                    QoS::AtMostOnce => {}
                    QoS::AtLeastOnce => conn.ack(Packet::PubAck, id).await,
                    QoS::ExactlyOnce => conn.ack(Packet::PubRec, id).await,
                }
            }
            Event::PubRel(id) => {
                world.note(&format!("{client} is to release {id}"));
                held.remove(&id);
                conn.ack(Packet::PubComp, id).await;
            }
            _ => {}
        }
    }
}
