//! The walk-through of `docs/provisioning.md` as it stands there, with another port.

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::broker::Broker;

/// The blocks of the walk-through: what kind, and the text.
fn blocks() -> Vec<(String, String)> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/provisioning.md");
    let text = std::fs::read_to_string(file).unwrap();
    let section = text
        .split("\n## A walk-through over MQTT\n")
        .nth(1)
        .unwrap();
    let section = section.split("\n## ").next().unwrap();
    let parts = section.split("\n```").skip(1).step_by(2);
    let split = |part: &str| {
        let (kind, text) = part.split_once('\n').unwrap();
        (kind.to_owned(), text.to_owned())
    };
    parts.map(split).collect()
}

fn sh(folder: &Path, commands: &str) -> Output {
    let mut command = Command::new("sh");
    command.args(["-euc", commands]).current_dir(folder);
    command.output().unwrap()
}

#[test]
fn the_documented_walk_through_ends_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let blocks = blocks();
    let kinds: Vec<&str> = blocks.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["sh", "toml", "sh", "sh"]);
    let run = |text: &str| {
        let done = sh(at, text);
        assert!(done.status.success(), "{text}\n{done:?}");
    };
    run(&blocks[0].1);
    // The broker of the test is started elsewhere.
    let mut config = blocks[1].1.replace("0.0.0.0:8883", "127.0.0.1:0");
    for name in [
        "server.pem",
        "server.key",
        "clients-ca.pem",
        "line-ca.pem",
        "devices-ca.pem",
        "devices-ca.key",
    ] {
        let whole = at.join(name);
        config = config.replace(&format!("\"{name}\""), &format!("{whole:?}"));
    }
    let broker = Broker::start(at, &config);
    let port = broker.addresses.values().next().unwrap().port();
    let here = |text: &str| text.replace("-p 8883", &format!("-p {port}"));
    run(&here(&blocks[2].1));
    run(&here(&blocks[3].1));
    let forged = blocks[3].1.replace("device.pem", "line-1.pem");
    let refused = sh(at, &here(&forged.replace("device.key", "line-1.key")));
    let said = [refused.stdout, refused.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(
        said.contains("Publish 1 failed: Not authorized."),
        "{said}\n{}",
        broker.log()
    );
}
