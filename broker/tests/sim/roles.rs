//! What the clients do.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use dunlin_protocol::{Packet, QoS};

use crate::client::{Conn, Event, Hello, PATIENCE};
use crate::oracle::{Fate, Window};
use crate::plan::Random;
use crate::world::{Replica, World};

/// Publishes that a publisher has under way.
const WINDOW: usize = 6;
const WILL_RECEIVERS: usize = 2;

pub(crate) fn spawn_all(world: &Rc<World>) {
    let plan = world.plan.clone();
    let mut waiting = 0;
    for n in 0..plan.subscribers {
        waiting += 1;
        let group = n % plan.groups;
        let qos = if n % 3 == 0 {
            QoS::AtLeastOnce
        } else {
            QoS::ExactlyOnce
        };
        let client = format!("s{n}");
        world
            .oracle
            .borrow_mut()
            .receiver(&client, group, qos == QoS::ExactlyOnce);
        let filters = vec![format!("g{group}/#")];
        spawn_persistent(world, n, client, filters, qos, take_message);
    }
    for n in 0..plan.members {
        waiting += 1;
        let filters = vec!["$share/pool/g0/#".to_owned()];
        spawn_persistent(
            world,
            100 + n,
            format!("m{n}"),
            filters,
            QoS::ExactlyOnce,
            take_shared,
        );
    }
    for n in 0..WILL_RECEIVERS {
        waiting += 1;
        let client = format!("w{n}");
        world.oracle.borrow_mut().will_receiver(&client);
        let filters = vec!["will/#".to_owned()];
        spawn_persistent(world, 200 + n, client, filters, QoS::ExactlyOnce, take_will);
    }
    for n in 0..plan.clean_subscribers {
        let role = clean_subscriber(world.clone(), n, n % plan.groups);
        tokio::task::spawn_local(role);
    }
    for n in 0..plan.publishers {
        let role = publisher(world.clone(), n, n % plan.groups, waiting);
        world.spawn(role);
    }
    for n in 0..plan.mortals {
        let role = mortal(world.clone(), n, waiting);
        world.spawn(role);
    }
    for n in 0..plan.retained {
        world.spawn(retained_writer(world.clone(), n));
        for reader in 0..2 {
            world.spawn(retained_reader(world.clone(), n, reader));
        }
    }
    for n in 0..plan.idlers {
        world.spawn(idler(world.clone(), n));
    }
}

type Take = fn(&World, &str, &str, &str);

fn take_message(world: &World, client: &str, _topic: &str, payload: &str) {
    if let Some((publisher, number)) = parse(payload) {
        world
            .oracle
            .borrow_mut()
            .received(client, publisher, number, world.now());
    }
}

fn take_shared(world: &World, _client: &str, _topic: &str, payload: &str) {
    if let Some((publisher, number)) = parse(payload) {
        world.oracle.borrow_mut().received_shared(publisher, number);
    }
}

fn take_will(world: &World, client: &str, _topic: &str, payload: &str) {
    world.oracle.borrow_mut().received_will(client, payload);
}

fn parse(payload: &str) -> Option<(usize, u32)> {
    let (publisher, number) = payload.split_once(' ')?;
    Some((publisher.parse().ok()?, number.parse().ok()?))
}

async fn pause(random: &mut Random, most_ms: u64) {
    tokio::time::sleep(Duration::from_millis(1 + random.below(most_ms))).await;
}

fn spawn_persistent(
    world: &Rc<World>,
    n: usize,
    client: String,
    filters: Vec<String>,
    qos: QoS,
    take: Take,
) {
    let role = persistent_subscriber(world.clone(), n, client, filters, qos, take);
    tokio::task::spawn_local(role);
}

/// Keeps a session that gets everything of its filters, over all connections.
async fn persistent_subscriber(
    world: Rc<World>,
    n: usize,
    client: String,
    filters: Vec<String>,
    qos: QoS,
    take: Take,
) {
    let mut random = Random::of(world.plan.seed, "subscriber", n);
    let mut subscribed = false;
    // QoS 2: what came and is not released.
    let mut held: BTreeMap<u16, String> = BTreeMap::new();
    while !world.over.get() {
        let Some((mut conn, replica)) = world.connect(&mut random) else {
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
        let from = world.now();
        world.note(&format!("{client} is connected, present {present}"));
        if subscribed && !present {
            world
                .oracle
                .borrow_mut()
                .breach(format!("{client}: its session is lost"));
        }
        if !present {
            held.clear();
        }
        if !subscribed {
            conn.subscribe(&filters, qos).await;
        }
        // Now and then the client itself goes and comes back.
        let longest = if random.chance(250) { 60_000 } else { 20_000 };
        let leaves =
            tokio::time::Instant::now() + Duration::from_millis(2_000 + random.below(longest));
        while !world.over.get() && tokio::time::Instant::now() < leaves {
            let Some(event) = conn.event_within(Duration::from_millis(500)).await else {
                continue;
            };
            match event {
                Event::SubAck(_) if !subscribed => {
                    subscribed = true;
                    world.ready.set(world.ready.get() + 1);
                }
                Event::Publish {
                    topic,
                    payload,
                    qos,
                    dup,
                    id,
                    ..
                } => {
                    world.note(&format!("{client} gets {payload} as {id}, dup {dup}"));
                    match qos {
                        QoS::AtMostOnce => take(&world, &client, &topic, &payload),
                        QoS::AtLeastOnce => {
                            take(&world, &client, &topic, &payload);
                            conn.ack(Packet::PubAck, id).await;
                        }
                        QoS::ExactlyOnce => {
                            match held.get(&id) {
                                None => {
                                    take(&world, &client, &topic, &payload);
                                    held.insert(id, payload);
                                }
                                Some(before) if *before == payload && dup => {}
                                Some(before) => world.oracle.borrow_mut().breach(format!(
                                    "{client} got {payload} as {id} (dup {dup}), which stands for {before} until its release"
                                )),
                            }
                            conn.ack(Packet::PubRec, id).await;
                        }
                    }
                }
                Event::PubRel(id) => {
                    world.note(&format!("{client} is to release {id}"));
                    held.remove(&id);
                    conn.ack(Packet::PubComp, id).await;
                }
                Event::Closed | Event::Disconnect(_) => break,
                _ => {}
            }
        }
        drop(conn);
        if !replica.troubled.get() {
            world.oracle.borrow_mut().stayed(&client, from, world.now());
        }
        pause(&mut random, 1_500).await;
    }
}

/// Connects again and again with a session that ends with its connection.
async fn clean_subscriber(world: Rc<World>, n: usize, group: usize) {
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flight {
    Published(u32),
    Received(u32),
}

/// Publishes its messages in order, resends what is not acknowledged, and ends when all are.
async fn publisher(world: Rc<World>, n: usize, group: usize, waiting: usize) {
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

/// Lives with a will, and ends in one way or another.
async fn mortal(world: Rc<World>, n: usize, waiting: usize) {
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

/// Sets a retained message again and again.
async fn retained_writer(world: Rc<World>, n: usize) {
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
async fn retained_reader(world: Rc<World>, n: usize, reader: usize) {
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

/// Connects, pings and goes; client ids are used twice, so that they are taken over.
async fn idler(world: Rc<World>, n: usize) {
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
