//! Rows of a broker with tenants: each has its tenant, and the topic as its publisher knows it.

use std::process::Command;

use crate::support::{Setup, free_port, wait_for};
use crate::world::World;

struct Place {
    dir: tempfile::TempDir,
    /// Where clients of `acme` come in.
    acme: u16,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            acme: free_port(),
        }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn world(&self) -> World {
        World::start_with(|port| {
            let text = format!(
                "[[tenant]]\nname = \"acme\"\n[[listener]]\naddress = \"127.0.0.1:{port}\"\n\
                 [[listener]]\naddress = \"127.0.0.1:{}\"\ntenant = \"acme\"\n",
                self.acme
            );
            vec!["--config".to_owned(), self.file("dunlin.toml", &text)]
        })
    }

    /// Clients of `acme` and of nobody publish to the same topics.
    fn publish(&self, world: &World) {
        for port in [self.acme, world.broker_port] {
            for topic in ["line/1", "$line/1"] {
                publish(port, topic);
            }
        }
        // What looks like a mount point is part of the topic.
        publish(self.acme, "$tenant/acme/line/1");
        publish(self.acme, "$tenant$/acme/$line/1");
    }
}

fn publish(port: u16, topic: &str) {
    let done = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-V", "5"])
        .args([
            "-i",
            "m",
            "-q",
            "1",
            "-t",
            topic,
            "-m",
            "{\"tenant\": \"evil\"}",
        ])
        .status()
        .unwrap();
    assert!(done.success(), "{topic}");
}

fn all_is_stored(world: &World) {
    wait_for("everything to be acknowledged", || {
        (world.messages_left() == 0).then_some(())
    });
}

#[test]
fn topics_of_tenants_that_begin_with_a_dollar_are_rows_as_their_clients_know_them() {
    let place = Place::new();
    let world = place.world();
    let config = place.file(
        "adapter.toml",
        "[tap]\nfilters = [\"#\", \"$line/#\", \"$tenant/+/#\", \"$tenant$/+/#\"]\n",
    );
    let url = world.redis_url();
    let setup = Setup::new("mqtt://127.0.0.1:1").and(&["--source", "tap", "--redis", &url]);
    let setup = setup.and(&["--config", &config, "--set", "tap.partitions=6"]);
    let adapter = setup.start_ready();
    place.publish(&world);
    all_is_stored(&world);
    assert!(adapter.terminate().success());
    let found = setup.sql(
        "select tenant, client_id, topic, count(*) from messages where topic != 'probe' and topic[:4] != '$SYS' \
         group by all order by tenant nulls last, topic",
    );
    let expected = [
        "('acme', 'm', '$line/1', 1)",
        "('acme', 'm', '$tenant$/acme/$line/1', 1)",
        "('acme', 'm', '$tenant/acme/line/1', 1)",
        "('acme', 'm', 'line/1', 1)",
        "(None, 'm', '$line/1', 1)",
        "(None, 'm', 'line/1', 1)",
    ];
    assert_eq!(found, expected.join("\n"));
}

#[test]
fn a_rule_for_such_topics_gets_those_of_tenants_and_of_all_others() {
    let place = Place::new();
    let world = place.world();
    let rules = place.file(
        "rules.toml",
        "[[rule]]\ntopic = \"$line/{line}\"\ntable = \"lines\"\n\
         columns = { tenant = \"tenant\", line = \"topic.line\" }\n",
    );
    let adapter = world.adapter().and(&["--rules", &rules]).start_ready();
    place.publish(&world);
    all_is_stored(&world);
    assert!(adapter.terminate().success());
    assert_eq!(world.count("lines"), 2);
    let of_acme = |row: &Vec<u8>| row.windows(4).any(|bytes| bytes == b"acme");
    let rows = world.rows("lines");
    assert_eq!(rows.iter().filter(|row| of_acme(row)).count(), 1);
    // The rest are messages, of which no rule is for those that begin with a dollar.
    let topics: Vec<_> = world
        .rows("messages")
        .iter()
        .filter(|row| row.windows(6).any(|bytes| bytes == b"line/1"))
        .map(of_acme)
        .collect();
    assert_eq!(topics.len(), 2);
    assert_eq!(topics.iter().filter(|of_acme| **of_acme).count(), 1);
}
