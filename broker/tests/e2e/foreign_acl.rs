//! Access files of mosquitto mean here what they mean there: the same file, the same clients, mosquitto beside the broker.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{broker::free_port, foreign::add_user, *};

/// mosquitto, ended when it goes out of scope.
struct Mosquitto {
    child: Child,
    address: SocketAddr,
}

impl Mosquitto {
    fn start(dir: &Path) -> Self {
        let port = free_port();
        let config = format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\npassword_file {0}/users\nacl_file {0}/acl\nmax_queued_messages 0\n",
            dir.display()
        );
        let file = dir.join("mosquitto.conf");
        std::fs::write(&file, config).expect("a file can be written");
        let mut command = Command::new("mosquitto");
        let child = command
            .arg("-c")
            .arg(&file)
            .stderr(Stdio::null())
            .stdout(Stdio::null());
        let child = child.spawn().expect("mosquitto is installed");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        wait_until("mosquitto listens", || TcpStream::connect(address).is_ok());
        Self { child, address }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ended");
    }
}

const WORDS: [&str; 5] = ["a", "b", "ann", "c1", "c"];

/// Every topic that is tried.
fn topics() -> Vec<String> {
    let mut topics = vec!["t".to_owned(), "$x/a".to_owned(), "$x/b".to_owned()];
    for one in WORDS {
        topics.push(format!("t/{one}"));
        for other in WORDS {
            topics.push(format!("t/{one}/{other}"));
        }
    }
    topics
}

fn filter() -> impl Strategy<Value = String> {
    let level = || prop_oneof![3 => prop::sample::select(&WORDS[..]), 1 => Just("+")];
    let rest = prop_oneof![Just(""), Just("/#")];
    prop_oneof![
        8 => (level(), prop::option::of(level()), rest).prop_map(|(one, other, rest)| {
            format!("t/{one}{}{rest}", other.map(|other| format!("/{other}")).unwrap_or_default())
        }),
        1 => Just("t/#".to_owned()),
        1 => Just("$x/#".to_owned()),
        1 => Just("$x/a".to_owned()),
        1 => Just("+/a".to_owned()),
    ]
}

fn access() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["", "read ", "write ", "readwrite ", "deny "][..])
}

fn lines(word: &'static str) -> impl Strategy<Value = String> {
    let line =
        (access(), filter()).prop_map(move |(access, filter)| format!("{word} {access}{filter}\n"));
    prop::collection::vec(line, 0..4).prop_map(|lines| lines.concat())
}

fn patterns() -> impl Strategy<Value = String> {
    let names = prop::sample::select(&["t/%c", "t/%u/#", "t/%c/%u", "t/a/x%c", "t/%c/#"][..]);
    let pattern = prop_oneof![2 => names.prop_map(str::to_owned), 1 => filter()];
    let line =
        (access(), pattern).prop_map(|(access, pattern)| format!("pattern {access}{pattern}\n"));
    prop::collection::vec(line, 0..4).prop_map(|lines| lines.concat())
}

/// What everybody may do, so that a client knows when all that it gets has come.
const MARKER: &str = "topic readwrite marker\n";

fn file() -> impl Strategy<Value = String> {
    (lines("topic"), lines("topic"), lines("topic"), patterns()).prop_map(|(nobody, ann, bob, patterns)| {
        format!(
            "# one of many\n{MARKER}{nobody}\n{patterns}user ann\n{MARKER}{ann}user bob\n{MARKER}{bob}\
             user keeper\n{MARKER}topic t/#\ntopic $x/#\ntopic +/a\n"
        )
    })
}

fn open(address: SocketAddr, user: Option<&str>, id: &str) -> Client {
    let mut connecting = connect(Version::V311, id);
    if let Some(user) = user {
        connecting = connecting.username(user).password(b"secret");
    }
    let (client, answer) = connecting.answer_at(address);
    assert_eq!(answer.reason(), ReasonCode::SUCCESS, "{answer:?}");
    client
}

/// Topics of messages until the marker.
fn until_marker(client: &mut Client) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    loop {
        let received = client.receive();
        client.answer(&received);
        match received.publish().topic {
            "marker" => return seen,
            topic => seen.insert(topic.to_owned()),
        };
    }
}

/// What a client may read of all topics through a filter.
fn readable(address: SocketAddr, user: Option<&str>, id: &str, filter: &str) -> BTreeSet<String> {
    let mut reader = open(address, user, id);
    reader.subscribe("marker", QoS::AtLeastOnce);
    let options = SubscribeOptions::new(QoS::AtLeastOnce);
    // Where nothing may be read, the one refuses and the other stays silent.
    let _code = reader.subscribe_all(&[(filter, options)], &[]);
    let mut keeper = open(address, Some("keeper"), "keeper");
    for topic in topics() {
        keeper.publish(&topic, b"x", QoS::AtMostOnce);
    }
    keeper.publish("marker", b"", QoS::AtLeastOnce);
    until_marker(&mut reader)
}

/// What a client may write of all topics.
fn writable(address: SocketAddr, user: Option<&str>, id: &str) -> BTreeSet<String> {
    let mut keeper = open(address, Some("keeper"), "keeper");
    for filter in ["t/#", "$x/#", "marker"] {
        keeper.subscribe(filter, QoS::AtLeastOnce);
    }
    // One connection for each: mosquitto 2.0.11 closes that of a client that goes on after a refusal.
    for topic in topics().iter().map(String::as_str).chain(["marker"]) {
        let mut writer = open(address, user, id);
        writer.publish(topic, b"x", QoS::AtLeastOnce);
        writer.drop_connection();
    }
    until_marker(&mut keeper)
}

#[test]
fn an_access_file_means_the_same_as_in_mosquitto() {
    let mut config = Config::with_cases(6);
    config.failure_persistence = None;
    config.max_shrink_iters = 3;
    let outcome = TestRunner::new(config).run(&(file(), filter(), filter()), |(text, one, other)| {
        let setup = Broker::setup();
        for user in ["ann", "bob", "keeper"] {
            add_user(&setup.dir().join("users"), user, "secret");
        }
        std::fs::write(setup.dir().join("acl"), &text).unwrap();
        let broker = setup
            .config(
                "[[listener]]\naddress = \"127.0.0.1:{port}\"\nanonymous = true\n[store]\nkind = \"memory\"\n\
                 [auth]\nusers = \"{dir}/users\"\nacl_file = \"{dir}/acl\"\n",
            )
            .start();
        let mosquitto = Mosquitto::start(broker.dir());
        let (here, there) = (broker.address(), mosquitto.address);
        for user in [None, Some("ann"), Some("bob")] {
            for id in ["c1", "c", "a+b"] {
                prop_assert_eq!(writable(here, user, id), writable(there, user, id), "{:?} {} writes:\n{}", user, id, text);
                for filter in ["t/#", &one, &other] {
                    let (ours, theirs) = (readable(here, user, id, filter), readable(there, user, id, filter));
                    prop_assert_eq!(ours, theirs, "{:?} {} reads {}:\n{}", user, id, filter, text);
                }
            }
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
