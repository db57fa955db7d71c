//! Which configuration a device has acknowledged, and when it was seen.

use dunlin_broker::registry::DeviceKey;
use serde_json::Value;

use super::{World, setup};
use crate::support::*;

const TOPIC: &str = "/devices/pump/config";

impl World {
    /// Sets a configuration by one replica; gives back its version.
    fn configure(&self, replica: usize, text: &str) -> u64 {
        let set = self.ask(replica, &["devices", "config", "pump", "--text", text]);
        set["version"].as_u64().expect("a version")
    }

    /// What a replica says of the configuration.
    fn config(&self, replica: usize) -> Value {
        self.ask(replica, &["devices", "config", "pump"])
    }

    fn acknowledged(&self, replica: usize) -> Option<u64> {
        self.config(replica)["acknowledged_version"].as_u64()
    }

    /// Waits until all replicas say that this version is the one that was acknowledged.
    #[track_caller]
    fn wait_acknowledged(&self, version: u64) {
        for replica in 0..3 {
            wait_until("the acknowledgement is noted", || {
                let found = self.acknowledged(replica);
                assert!(found <= Some(version), "{found:?}: {version} at the most");
                found == Some(version)
            });
        }
        assert!(self.config(0)["acknowledged_at"].is_u64());
    }

    /// When whatever was acknowledged and seen before has been noted, by every replica.
    fn settle(&self) {
        for replica in 0..3 {
            let key = DeviceKey::new(None, &format!("marker-{replica}")).expect("a name");
            self.add(&key);
            let id = key.id();
            self.ask(0, &["devices", "config", id, "--text", "x"]);
            let connecting = self.pair.connect_as(id, Version::V5, id);
            let mut client = self.cluster.open(replica, &connecting, false);
            let topic = format!("/devices/{id}/config");
            client.subscribe(&topic, QoS::AtLeastOnce);
            client.expect_message(&topic, b"x");
            client.disconnect();
            wait_until("what came later is noted", || {
                let noted = self.ask(0, &["devices", "show", id]);
                noted["config"]["acknowledged_version"].is_u64()
                    && noted["last_seen"]["disconnected_at"].is_u64()
            });
            self.ask(0, &["devices", "remove", id]);
        }
    }
}

#[test]
fn what_a_device_acknowledges_is_noted_wherever_it_is_and_wherever_it_was_set() {
    let world = World::start();
    let mut live = world.open(1, "pump/live");
    live.subscribe(TOPIC, QoS::AtLeastOnce);
    assert_eq!(world.configure(0, "one"), 1);
    let got = live.expect_unanswered(TOPIC, b"one");
    let told: Vec<_> = got.properties().user_properties().collect();
    assert_eq!(told, [("config-version", "1")]);
    assert_eq!(world.acknowledged(2), None);
    live.answer(&got);
    world.wait_acknowledged(1);
    let shown = world.ask(2, &["devices", "show", "pump"]);
    assert_eq!(shown["config"]["acknowledged_version"], 1, "{shown}");
    let listed = world.ask(1, &["devices", "list"]);
    assert_eq!(listed[0]["config"]["acknowledged_version"], 1, "{listed}");

    // Retained, for one that comes later, of an older version of MQTT.
    live.disconnect();
    assert_eq!(world.configure(2, "two"), 2);
    let old = world.pair.connect_as("pump", Version::V311, "pump");
    let mut later = world.cluster.open(0, &old, false);
    later.subscribe(TOPIC, QoS::AtLeastOnce);
    later.expect_message(TOPIC, b"two");
    world.wait_acknowledged(2);
}

#[test]
fn a_version_that_is_replaced_on_the_way_is_not_taken_for_the_newer_one() {
    let world = World::start();
    let mut live = world.open(1, "pump/live");
    live.subscribe(TOPIC, QoS::AtLeastOnce);
    // The third has the bytes of the first.
    world.configure(0, "same");
    let first = live.expect_unanswered(TOPIC, b"same");
    world.configure(2, "other");
    let second = live.expect_unanswered(TOPIC, b"other");
    world.configure(0, "same");
    let third = live.expect_unanswered(TOPIC, b"same");
    live.answer(&first);
    world.wait_acknowledged(1);
    // Out of order: the highest stays.
    live.answer(&third);
    world.wait_acknowledged(3);
    live.answer(&second);
    world.settle();
    assert_eq!(world.acknowledged(1), Some(3));
}

#[test]
fn what_waited_for_a_device_that_was_away_is_noted_version_by_version() {
    let world = World::start();
    let persistent = || world.pair.connect("pump").persistent();
    let mut away = world.cluster.open(0, &persistent(), false);
    away.subscribe(TOPIC, QoS::AtLeastOnce);
    away.drop_connection();
    world.configure(1, "one");
    world.configure(2, "two");
    let mut back = world.cluster.open(1, &persistent().resume(), true);
    let first = back.expect_unanswered(TOPIC, b"one");
    back.expect_unanswered(TOPIC, b"two");
    back.answer(&first);
    world.wait_acknowledged(1);
    back.drop_connection();
    let mut again = world.cluster.open(2, &persistent().resume(), true);
    let second = again.expect_message(TOPIC, b"two");
    assert!(second.publish().dup);
    world.wait_acknowledged(2);
}

#[test]
fn a_device_that_takes_its_configuration_at_qos_0_acknowledges_nothing() {
    let world = World::start();
    world.configure(0, "one");
    let mut careless = world.open(1, "pump/careless");
    careless.subscribe(TOPIC, QoS::AtMostOnce);
    careless.expect_message(TOPIC, b"one");
    world.configure(0, "two");
    careless.expect_message(TOPIC, b"two");
    careless.expect_silence();
    world.settle();
    assert_eq!(world.acknowledged(1), None);
}

#[test]
fn a_tenants_device_acknowledges_its_own_configuration() {
    let world = World::with(setup().tables("[[tenant]]\nname = \"acme\"\n"));
    let key = DeviceKey::new(Some("acme"), "pump").expect("a name");
    world.add(&key);
    world.configure(0, "for the pump of nobody");
    let of_acme = ["devices", "config", "pump", "--tenant", "acme"];
    world.ask(2, &[&of_acme[..], &["--text", "for that of acme"]].concat());
    let connecting = world.pair.connect_as("acme/pump", Version::V5, "pump");
    let mut client = world.cluster.open(1, &connecting, false);
    client.subscribe(TOPIC, QoS::AtLeastOnce);
    client.expect_message(TOPIC, b"for that of acme");
    wait_until("the acknowledgement is noted", || {
        world.ask(0, &of_acme)["acknowledged_version"] == 1
    });
    assert_eq!(world.acknowledged(0), None, "that is another device");
}

#[test]
fn when_a_device_was_seen_is_said_by_the_connection_that_was_made_last() {
    let world = World::start();
    let seen = |replica| world.ask(replica, &["devices", "show", "pump"])["last_seen"].clone();
    assert!(seen(0).is_null());
    let first = world.open(0, "pump/first");
    wait_until("it is noted", || seen(2)["connected_at"].is_u64());
    let noted = seen(2);
    assert!(noted["disconnected_at"].is_null(), "{noted}");
    let address = noted["address"].as_str().unwrap_or_default();
    assert!(address.starts_with("127.0.0.1:"), "{noted}");
    // Another one comes, elsewhere, and the first one leaves.
    let second = world.open(1, "pump/second");
    wait_until("the second is noted", || {
        seen(0)["replica"] != noted["replica"]
    });
    let newer = seen(0);
    first.disconnect();
    world.settle();
    assert_eq!(seen(0), newer);
    second.disconnect();
    wait_until("it is noted that it left", || {
        seen(2)["disconnected_at"].is_u64()
    });
    assert_eq!(seen(2)["address"], newer["address"]);
    // What is left over of its connection is not noted of a device that is gone.
    let third = world.open(2, "pump/third");
    world.ask(0, &["devices", "remove", "pump"]);
    drop(third);
    world.settle();
    world.add(&super::pump());
    assert!(seen(0).is_null(), "{}", seen(0));
}

#[test]
fn a_replica_that_stops_takes_leave_for_its_devices() {
    let mut world = World::start();
    let seen = |world: &World| world.ask(0, &["devices", "show", "pump"])["last_seen"].clone();
    let mut client = world.open(1, "pump");
    wait_until("it is noted", || seen(&world)["connected_at"].is_u64());
    let status = world.cluster.replicas[1].terminate();
    assert!(status.success(), "{status}");
    client.expect_end(ReasonCode::SERVER_SHUTTING_DOWN);
    assert!(seen(&world)["disconnected_at"].is_u64(), "{}", seen(&world));
}
