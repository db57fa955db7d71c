//! What the clients do.

mod clean;
mod idler;
mod member;
mod mortal;
mod persistent;
mod publisher;
mod retained;

use std::rc::Rc;
use std::time::Duration;

use dunlin_protocol::QoS;

use self::persistent::Subscriber;
use crate::plan::Random;
use crate::world::World;

const WILL_RECEIVERS: usize = 2;
/// The shared group whose members all have persistent sessions and QoS 2, as its publishers do.
pub(crate) const POOL: &str = "pool";
/// The one with members of all kinds.
pub(crate) const MIXED: &str = "mixed";

pub(crate) fn spawn_all(world: &Rc<World>) {
    let plan = world.plan.clone();
    let subscribers = subscribers(world);
    let waiting = subscribers.len();
    for subscriber in subscribers {
        tokio::task::spawn_local(subscriber.live(world.clone()));
    }
    for n in 0..plan.clean_members {
        let member = member::member(world.clone(), n, mixed_filters(), take_mixed);
        tokio::task::spawn_local(member);
    }
    for n in 0..plan.clean_subscribers {
        let role = clean::subscriber(world.clone(), n, n % plan.groups);
        tokio::task::spawn_local(role);
    }
    for n in 0..plan.publishers {
        let role = publisher::publisher(world.clone(), n, n % plan.groups, waiting);
        world.spawn(role);
    }
    for n in 0..plan.mortals {
        let role = mortal::mortal(world.clone(), n, waiting);
        world.spawn(role);
    }
    for n in 0..plan.retained {
        world.spawn(retained::writer(world.clone(), n));
        for reader in 0..2 {
            world.spawn(retained::reader(world.clone(), n, reader));
        }
    }
    for n in 0..plan.idlers {
        world.spawn(idler::idler(world.clone(), n));
    }
}

fn mixed_filters() -> Vec<String> {
    vec![
        format!("$share/{MIXED}/g1/#"),
        format!("$share/{MIXED}/g2/#"),
    ]
}

/// Persistent sessions.
fn subscribers(world: &World) -> Vec<Subscriber> {
    let plan = &world.plan;
    let mut oracle = world.oracle.borrow_mut();
    let mut all = Vec::new();
    let plain = |stream, client, filters, qos, take| Subscriber {
        stream,
        client,
        filters,
        qos,
        window: 0,
        stays: 20_000,
        slowness: 0,
        take,
    };
    for n in 0..plan.subscribers {
        let group = n % plan.groups;
        let qos = if n % 3 == 0 {
            QoS::AtLeastOnce
        } else {
            QoS::ExactlyOnce
        };
        let client = format!("s{n}");
        oracle.receiver(&client, group, qos == QoS::ExactlyOnce);
        let filters = vec![format!("g{group}/#")];
        all.push(plain(n, client, filters, qos, take_message as Take));
    }
    oracle.shared_group(POOL, &[0], true);
    for n in 0..plan.members {
        let filters = vec![format!("$share/{POOL}/g0/#")];
        let client = format!("m{n}");
        all.push(Subscriber {
            window: if n % 2 == 0 { 0 } else { plan.members_window },
            slowness: plan.members_slowness_ms,
            stays: plan.members_stay_ms,
            ..plain(100 + n, client, filters, QoS::ExactlyOnce, take_pool)
        });
    }
    oracle.shared_group(MIXED, &[1, 2], false);
    // One that is full at once and takes its time, and one that is quick.
    for (n, qos, window, slowness) in [(0, QoS::AtLeastOnce, 1, 500), (1, QoS::ExactlyOnce, 0, 0)] {
        let filters = mixed_filters();
        all.push(Subscriber {
            window,
            stays: plan.members_stay_ms,
            slowness,
            ..plain(300 + n, format!("v{n}"), filters, qos, take_mixed)
        });
    }
    for n in 0..WILL_RECEIVERS {
        let client = format!("w{n}");
        oracle.will_receiver(&client);
        let filters = vec!["will/#".to_owned()];
        all.push(plain(200 + n, client, filters, QoS::ExactlyOnce, take_will));
    }
    all
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

fn take_pool(world: &World, client: &str, _topic: &str, payload: &str) {
    take_shared(world, POOL, client, payload);
}

fn take_mixed(world: &World, client: &str, _topic: &str, payload: &str) {
    take_shared(world, MIXED, client, payload);
}

fn take_shared(world: &World, share: &'static str, client: &str, payload: &str) {
    if let Some((publisher, number)) = parse(payload) {
        let mut oracle = world.oracle.borrow_mut();
        oracle.received_shared(share, client, publisher, number);
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
