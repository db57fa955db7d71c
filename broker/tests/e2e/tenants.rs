//! Tenants are apart by every road: topics, wildcards, shared groups, retained messages, wills, aliases, sessions, `$SYS`.

use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{broker::free_port, connecting::Connecting, *};

/// A broker with a listener for everybody and one for each of two tenants.
pub(crate) struct World {
    pub(crate) broker: Broker,
    /// Of nobody, of `acme`, of `b`.
    pub(crate) doors: [SocketAddr; 3],
    /// The same for WebSockets.
    webs: [SocketAddr; 3],
}

impl World {
    pub(crate) fn start(more: &str) -> Self {
        let ports = [free_port(), free_port()];
        let webs = [(); 3].map(|()| free_port());
        let web = |(port, tenant): (u16, &str)| {
            format!("[[listener]]\ntype = \"ws\"\naddress = \"127.0.0.1:{port}\"\n{tenant}\n")
        };
        let of = ["", "tenant = \"acme\"", "tenant = \"b\""];
        let all_webs: String = webs.into_iter().zip(of).map(web).collect();
        let listener = |port: u16, tenant: &str| {
            format!("[[listener]]\naddress = \"127.0.0.1:{port}\"\ntenant = \"{tenant}\"\n")
        };
        let config = format!(
            "[[listener]]\naddress = \"127.0.0.1:{{port}}\"\n{}{}{all_webs}\
             [store]\npath = \"{{dir}}/store\"\n[features]\nsys_interval = 1\n{more}\n",
            listener(ports[0], "acme"),
            listener(ports[1], "b"),
        );
        let broker = Broker::setup().config(&config).start();
        let own = broker.address();
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            broker,
            doors: [own, at(ports[0]), at(ports[1])],
            webs: webs.map(at),
        }
    }

    pub(crate) fn open(&self, door: usize, connecting: &Connecting) -> (Client, Received) {
        let (client, answer) = connecting.answer_at(self.doors[door]);
        assert_eq!(answer.reason(), ReasonCode::SUCCESS, "{answer:?}");
        (client, answer)
    }

    /// The same, over a WebSocket or not.
    fn enter(&self, door: usize, connecting: &Connecting, web: bool) -> Client {
        if !web {
            return self.open(door, connecting).0;
        }
        let client = Client::open_websocket(self.webs[door], connecting.version());
        let (client, answer) = connecting.answer_over(client);
        assert_eq!(answer.reason(), ReasonCode::SUCCESS, "{answer:?}");
        client
    }

    pub(crate) fn client(&self, door: usize, version: Version, id: &str) -> Client {
        self.open(door, &connect(version, id)).0
    }
}

const TENANTS: &str = "[[tenant]]\nname = \"acme\"\n[[tenant]]\nname = \"b\"\n";

fn codes(client: &mut Client, filter: &str) -> u8 {
    let options = SubscribeOptions::new(QoS::ExactlyOnce);
    client.subscribe_all(&[(filter, options)], &[])[0]
}

#[test]
fn one_client_id_is_a_client_of_its_own_in_each_tenant() {
    let world = World::start(TENANTS);
    let connecting = connect(Version::V5, "dev").persistent();
    let mut clients: Vec<_> = (0..3).map(|door| world.open(door, &connecting).0).collect();
    for client in &mut clients {
        client.subscribe("t/#", QoS::AtLeastOnce);
    }
    // Nobody was sent away.
    for (door, client) in clients.iter_mut().enumerate() {
        let body = format!("for {door}");
        client.publish("t/x", body.as_bytes(), QoS::AtLeastOnce);
        client.expect_message("t/x", body.as_bytes());
    }
    // Offline, each has its own session and its own queue; the id that is assigned shows no tenant.
    drop(clients);
    for door in 0..3 {
        let (mut publisher, answer) = world.open(door, &connect(Version::V5, ""));
        let assigned = answer.properties().assigned_client_identifier().unwrap();
        assert!(assigned.starts_with("auto-"), "{assigned}");
        publisher.publish("t/y", format!("later {door}").as_bytes(), QoS::AtLeastOnce);
    }
    for door in 0..3 {
        let (mut client, answer) = world.open(door, &connect(Version::V5, "dev").resume());
        assert!(answer.connack().session_present);
        client.expect_message("t/y", format!("later {door}").as_bytes());
        client.expect_silence();
    }
    // A newer connection of the same tenant takes over.
    let mut first = world.client(1, Version::V5, "single");
    let mut second = world.client(1, Version::V5, "single");
    first.expect_end(ReasonCode::SESSION_TAKEN_OVER);
    second.expect_silence();
}

#[test]
fn nobody_without_a_tenant_looks_into_one() {
    let world = World::start(TENANTS);
    connect(Version::V5, "$tenant/acme/dev")
        .refused(&world.broker, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    let mut outsider = world.client(0, Version::V5, "outsider");
    for filter in [
        "$tenant/acme/#",
        "$tenant/#",
        "$tenant$/acme/#",
        "$share/g/$tenant/acme/#",
        "$tenant/+/t",
    ] {
        assert_eq!(codes(&mut outsider, filter), 0x87, "{filter}");
    }
    for topic in ["$tenant/acme/t", "$tenant$/acme/$x"] {
        outsider.send(Packet::Publish(Publish {
            topic,
            qos: QoS::AtLeastOnce,
            packet_id: Some(id(9)),
            ..Publish::default()
        }));
        assert_eq!(outsider.next_answer().reason(), ReasonCode::NOT_AUTHORIZED);
    }
    connect(Version::V5, "willing")
        .will("$tenant/acme/t", b"", QoS::AtMostOnce, false)
        .refused(&world.broker, ReasonCode::NOT_AUTHORIZED);
    // A rule that names tenants lets somebody in: what it reads has the mount point in its name.
    let world = World::start(&format!(
        "{TENANTS}[[auth.rules]]\neffect = \"allow\"\nclients = [\"keeper\"]\ntopics = [\"$tenant/+/#\"]\n\
         [[auth.rules]]\neffect = \"allow\"\ntopics = [\"#\"]\n"
    ));
    let mut keeper = world.client(0, Version::V5, "keeper");
    assert_eq!(codes(&mut keeper, "$tenant/+/#"), 2);
    assert_eq!(codes(&mut keeper, "$tenant$/+/#"), 0x87);
    let mut outsider = world.client(0, Version::V5, "outsider");
    assert_eq!(codes(&mut outsider, "$tenant/+/#"), 0x87);
    let mut member = world.client(1, Version::V5, "member");
    member.publish("t", b"1", QoS::AtLeastOnce);
    keeper.expect_message("$tenant/acme/t", b"1");
    member.subscribe("in", QoS::AtLeastOnce);
    keeper.publish("$tenant/acme/in", b"2", QoS::AtLeastOnce);
    member.expect_message("in", b"2");
}

#[test]
fn an_operator_means_the_client_of_one_tenant() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    let broker = |args: &[&str], token: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_broker"));
        command.args(args).env("DUNLIN_ADMIN_TOKEN", token);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let token = broker(
        &["token", tokens.to_str().unwrap(), "operator", "--write"],
        "",
    );
    let address = format!("127.0.0.1:{}", free_port());
    let admin = format!("[admin]\nlisten = \"{address}\"\ntokens_file = {tokens:?}\n");
    let world = World::start(&format!("{TENANTS}{admin}"));
    let url = format!("http://{address}");
    let ask = |args: &[&str]| broker(&[args, &["--url", &url]].concat(), token.trim());
    let _connected: Vec<_> = (0..3)
        .map(|door| world.client(door, Version::V5, "dev"))
        .collect();
    let listed = |tenant: &str| {
        let shown = ask(&[
            "clients", "list", "--prefix", "dev", "--tenant", tenant, "--json",
        ]);
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        shown["clients"][0]["client_id"].as_str().map(str::to_owned)
    };
    for tenant in ["acme", "b", ""] {
        assert_eq!(listed(tenant).as_deref(), Some("dev"), "{tenant:?}");
    }
    ask(&["clients", "disconnect", "dev", "--tenant", "acme"]);
    wait_until("the client of acme has left", || listed("acme").is_none());
    assert!(listed("b").is_some() && listed("").is_some());
    for (target, banned) in [("client:$tenant/acme/dev", 1), ("client:dev", 0)] {
        ask(&["bans", "add", target, "--reason", "test"]);
        for door in 0..3 {
            let (_, answer) = connect(Version::V5, "dev").answer_at(world.doors[door]);
            let expected = match door == banned {
                true => ReasonCode::BANNED,
                false => ReasonCode::SUCCESS,
            };
            assert_eq!(answer.reason(), expected, "{target} at {door}");
        }
        ask(&["bans", "remove", target]);
    }
}

#[test]
fn a_tenant_sees_figures_of_its_own_under_sys() {
    let world = World::start(TENANTS);
    let mut member = world.client(1, Version::V5, "member");
    member.publish("t", b"1", QoS::AtLeastOnce);
    assert!(codes(&mut member, "$SYS/#") <= 2);
    let mut seen = std::collections::BTreeMap::new();
    wait_until("all figures of the tenant came", || {
        let received = member.receive();
        let publish = received.publish();
        let value = String::from_utf8(publish.payload.to_vec()).unwrap();
        seen.insert(publish.topic.to_owned(), value);
        let value = |name: &str| seen.get(name).map(String::as_str);
        value("$SYS/broker/clients/connected") == Some("1")
            && value("$SYS/broker/publish/messages/received") == Some("1")
    });
    // The version and the load of the whole broker are not a tenant's business.
    assert!(
        seen.keys()
            .all(|topic| !topic.contains("load") && !topic.contains("version")),
        "{seen:?}"
    );
    member.send(Packet::Publish(Publish {
        topic: "$SYS/broker/clients/connected",
        qos: QoS::AtLeastOnce,
        packet_id: Some(id(9)),
        ..Publish::default()
    }));
    assert_eq!(member.next_answer().reason(), ReasonCode::NOT_AUTHORIZED);
}

#[test]
fn aliases_in_both_directions_stand_for_the_tenants_own_topics() {
    let world = World::start(TENANTS);
    let asks = connect(Version::V5, "aliased").with(Property::TopicAliasMaximum(4));
    let (mut reader, _) = world.open(1, &asks);
    reader.subscribe("t/#", QoS::AtLeastOnce);
    let mut outsider = world.client(0, Version::V5, "outsider");
    outsider.subscribe("#", QoS::AtLeastOnce);
    let mut writer = world.client(1, Version::V5, "writer");
    let alias = [Property::TopicAlias(1)];
    writer.publish_with("t/long/name", b"1", QoS::AtLeastOnce, &alias);
    let first = reader.expect_message("t/long/name", b"1");
    let number = first.properties().topic_alias();
    writer.publish_with("", b"2", QoS::AtLeastOnce, &alias);
    let second = reader.expect_message("", b"2");
    assert!(number.is_some());
    assert_eq!(second.properties().topic_alias(), number);
    outsider.expect_silence();
}

#[test]
fn bounds_of_a_tenant_hold_for_all_of_its_clients_together() {
    let world = World::start(
        "[[tenant]]\nname = \"acme\"\nmax_connections = 2\nmax_retained = 1\nmax_sessions = 1\n[[tenant]]\nname = \"b\"\n",
    );
    let mut one = world.open(1, &connect(Version::V5, "one").persistent()).0;
    let refused = connect(Version::V5, "more")
        .persistent()
        .answer_at(world.doors[1])
        .1;
    assert_eq!(refused.reason(), ReasonCode::QUOTA_EXCEEDED);
    let two = world.client(1, Version::V5, "two");
    let refused = connect(Version::V5, "three").answer_at(world.doors[1]).1;
    assert_eq!(refused.reason(), ReasonCode::QUOTA_EXCEEDED);
    let _elsewhere = world.client(2, Version::V5, "three");
    two.disconnect();
    one.publish_retained("kept", b"1", QoS::AtLeastOnce);
    one.publish_retained("kept", b"2", QoS::AtLeastOnce);
    one.send(Packet::Publish(Publish {
        topic: "another",
        qos: QoS::AtLeastOnce,
        retain: true,
        packet_id: Some(id(900)),
        payload: b"3",
        ..Publish::default()
    }));
    assert_eq!(one.next_answer().reason(), ReasonCode::QUOTA_EXCEEDED);
    let _place = wait_for_place(&world);
}

/// A place that was given back can be taken again.
fn wait_for_place(world: &World) -> Client {
    let mut open = None;
    wait_until("the place of the client that left is free", || {
        let (client, answer) = connect(Version::V5, "four").answer_at(world.doors[1]);
        open = (answer.reason() == ReasonCode::SUCCESS).then_some(client);
        open.is_some()
    });
    open.expect("it was just seen")
}

// --- any filter against any topic, by any road

fn level() -> impl Strategy<Value = String> {
    // The Kelvin sign looks like a K, and is another letter; so is the full-width a.
    let words = [
        "a", "b", "", "..", "$x", "$tenant", "$tenant$", "acme", "K", "\u{212A}", "\u{FF41}",
        "a b", "%c",
    ];
    prop::sample::select(words.map(str::to_owned).to_vec())
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a topic", |topic| !topic.is_empty())
}

fn filter() -> impl Strategy<Value = String> {
    let wild = prop_oneof![3 => level(), 2 => Just("+".to_owned())];
    (prop::collection::vec(wild, 0..4), any::<bool>())
        .prop_map(|(mut levels, rest)| {
            if rest || levels.is_empty() {
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
        .prop_filter("a filter", |filter| !filter.is_empty())
}

#[derive(Debug, Clone, Copy)]
enum Road {
    Plain(QoS),
    Alias,
    Retained,
    Will,
}

fn road() -> impl Strategy<Value = Road> {
    prop_oneof![
        Just(Road::Plain(QoS::AtMostOnce)),
        Just(Road::Plain(QoS::AtLeastOnce)),
        Just(Road::Plain(QoS::ExactlyOnce)),
        Just(Road::Alias),
        Just(Road::Retained),
        Just(Road::Will),
    ]
}

fn take(world: &World, door: usize, (road, web): (Road, bool), topic: &str) {
    let mut publisher = world.enter(door, &connect(Version::V5, "publisher"), web);
    match road {
        Road::Plain(qos) => publisher.publish(topic, b"x", qos),
        Road::Alias => {
            let alias = [Property::TopicAlias(2)];
            publisher.publish_with(topic, b"x", QoS::AtLeastOnce, &alias);
            publisher.publish_with("", b"x", QoS::AtLeastOnce, &alias);
        }
        Road::Retained => publisher.publish_retained(topic, b"x", QoS::AtLeastOnce),
        Road::Will => {
            let willing =
                connect(Version::V5, "willing").will(topic, b"x", QoS::AtLeastOnce, false);
            world.enter(door, &willing, web).drop_connection();
            // It was published before a newer connection of the client is let in.
            world.client(door, Version::V5, "willing").disconnect();
        }
    }
    publisher.disconnect();
}

#[test]
fn what_is_published_in_a_tenant_is_seen_there_and_nowhere_else() {
    let world = World::start(TENANTS);
    let cases = std::cell::Cell::new(0);
    let mut config = Config::with_cases(48);
    config.failure_persistence = None;
    let strategy = (
        filter(),
        topic(),
        road(),
        0..3_usize,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    let outcome =
        TestRunner::new(config).run(&strategy, |(filter, topic, road, from, shared, v5, web)| {
            // What is said of the mount points to somebody outside has a test of its own.
            let reserved =
                |text: &str| matches!(text.split('/').next(), Some("$tenant" | "$tenant$"));
            prop_assume!(from != 0 || !reserved(&topic));
            prop_assume!(!reserved(&filter));
            let case = cases.get() + 1;
            cases.set(case);
            let version = if v5 { Version::V5 } else { Version::V311 };
            let marker = format!("marker/{case}");
            let mut readers: Vec<Client> = Vec::new();
            for door in 0..3 {
                let name = format!("reader-{case}");
                let mut reader = world.enter(door, &connect(version, &name), web);
                reader.subscribe(&marker, QoS::AtLeastOnce);
                let asked = match shared {
                    true => format!("$share/g{case}/{filter}"),
                    false => filter.clone(),
                };
                prop_assert!(codes(&mut reader, &asked) <= 2, "{}", asked);
                readers.push(reader);
            }
            take(&world, from, (road, web), &topic);
            let times = if matches!(road, Road::Alias) { 2 } else { 1 };
            for (door, mut reader) in readers.into_iter().enumerate() {
                let mut publisher = world.client(door, Version::V5, "marking");
                publisher.publish(&marker, b"end", QoS::AtLeastOnce);
                let levels = |text: &'static str| text.split('/').collect::<Vec<_>>();
                let (filter, topic) = (filter.clone().leak(), topic.clone().leak());
                let expected = match door == from && matches(&levels(filter), &levels(topic), true)
                {
                    true => times,
                    false => 0,
                };
                let mut seen = 0;
                loop {
                    let received = reader.receive();
                    let publish = received.publish();
                    reader.answer(&received);
                    match publish.topic {
                        end if end == marker => {
                            // The filter may match the marker too.
                            if publish.payload == b"end" {
                                break;
                            }
                        }
                        other => {
                            prop_assert_eq!(other, &*topic);
                            // A retained message of an earlier case is of the same tenant.
                            seen += u32::from(!publish.retain);
                        }
                    }
                }
                prop_assert_eq!(
                    seen,
                    expected,
                    "{} {} {:?} from {} at {}",
                    filter,
                    topic,
                    road,
                    from,
                    door
                );
                reader.drop_connection();
            }
            if matches!(road, Road::Retained) {
                let mut publisher = world.client(from, Version::V5, "clearing");
                publisher.publish_retained(&topic, b"", QoS::AtLeastOnce);
            }
            Ok(())
        });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
