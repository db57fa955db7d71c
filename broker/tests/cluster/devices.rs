//! Devices of the registry, connected to three replicas: what changes in the registry reaches all their connections.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use base64ct::{Base64UrlUnpadded, Encoding};
use dunlin_broker::registry::{
    Credential, Device, DeviceKey, PolicyAction, PolicyEffect, PolicyRule, Registry, Shown, State,
};
use dunlin_sync::Store;
use dunlin_sync::cluster::redis::{RedisBackplane, RedisOptions};
use dunlin_sync::cluster::{ClusterStore, EngineOptions};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use tokio::runtime::Runtime;

use crate::{
    rig::{Cluster, cluster::ClusterSetup},
    support::{connecting::Connecting, *},
};

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

/// A device's key pair.
struct Pair(KeyPair);

impl Pair {
    fn new() -> Self {
        Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key"))
    }

    fn credential(&self, id: &str) -> Credential {
        Credential {
            id: id.to_owned(),
            shown: Shown::key_from_pem(&self.0.public_key_pem()).expect("a good key"),
            not_before: None,
            expires_at: None,
        }
    }

    fn token(&self, claims: &str) -> String {
        let random = SystemRandom::new();
        let der = self.0.serialize_der();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random);
        let pair = pair.expect("a key of ring's");
        let encode = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
        let signed = format!(
            "{}.{}",
            encode(r#"{"alg":"ES256","typ":"JWT"}"#),
            encode(claims)
        );
        let signature = pair.sign(&random, signed.as_bytes()).expect("signed");
        let signature = Base64UrlUnpadded::encode_string(signature.as_ref());
        format!("{signed}.{signature}")
    }

    /// A connection with a token of the plain form.
    fn connect(&self, client_id: &str) -> Connecting {
        let (from, until) = (now(), now() + 3_600);
        let token = self.token(&format!(r#"{{"iat":{from},"exp":{until}}}"#));
        connect(Version::V5, client_id)
            .username("pump")
            .password(token.as_bytes())
    }
}

/// Somebody else who writes to the registry: a store over the same Redis.
struct Administrator {
    runtime: Runtime,
    registry: Arc<Registry>,
    _store: Arc<ClusterStore>,
}

impl Administrator {
    fn new(cluster: &Cluster) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let url = format!("redis://{}", cluster.redis.address());
        let handle = runtime.handle().clone();
        let backplane = RedisBackplane::start(RedisOptions::new(url), handle.clone());
        let backplane = Arc::new(backplane.expect("good options"));
        let opening = ClusterStore::open(backplane, EngineOptions::default(), handle);
        let store = Arc::new(runtime.block_on(opening).expect("Redis answers"));
        Self {
            registry: Arc::new(Registry::new(store.records())),
            runtime,
            _store: store,
        }
    }

    fn create(&self, device: Device) {
        let key = DeviceKey::new(None, "pump").expect("a name");
        let made = self.runtime.block_on(self.registry.create(&key, device));
        made.expect("it is new");
    }

    /// What the device has reported, when that is there.
    fn states(&self) -> Vec<Vec<u8>> {
        let key = DeviceKey::new(None, "pump").expect("a name");
        let mut states = Vec::new();
        wait_until("a report of the device is kept", || {
            let found = self.runtime.block_on(self.registry.states(&key));
            states = found.expect("it can be read");
            !states.is_empty()
        });
        states.into_iter().map(|state| state.data).collect()
    }

    fn change(&self, change: impl Fn(&mut Device)) {
        let key = DeviceKey::new(None, "pump").expect("a name");
        let changed = self.registry.change(&key, None, now(), |device| {
            change(device);
            Ok(())
        });
        self.runtime.block_on(changed).expect("it is there");
    }
}

fn setup() -> ClusterSetup {
    Cluster::setup(3)
        .set("auth.registry=true")
        .set("auth.anonymous=true")
        .set("auth.default=deny")
}

fn cluster() -> Cluster {
    setup().start()
}

fn expect_end(client: &mut Client) {
    loop {
        match client.next().expect("not closed without a word").packet() {
            Packet::Disconnect(packet) => {
                assert_eq!(packet.reason, ReasonCode::NOT_AUTHORIZED, "{packet:?}");
                client.expect_closed();
                return;
            }
            Packet::Publish(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_device_that_is_blocked_is_off_all_replicas_and_may_come_back_when_it_is_not() {
    let cluster = cluster();
    let administrator = Administrator::new(&cluster);
    let pair = Pair::new();
    let mut device = Device::new(now());
    device.credentials.push(pair.credential("first"));
    administrator.create(device);
    let open = || -> Vec<Client> {
        (0..3)
            .map(|n| cluster.open(n, &pair.connect(&format!("pump/{n}")), false))
            .collect()
    };
    let mut longest = std::time::Duration::ZERO;
    for _ in 0..5 {
        let mut clients = open();
        let begin = Instant::now();
        administrator.change(|device| device.state = State::Blocked);
        for client in &mut clients {
            expect_end(client);
        }
        longest = longest.max(begin.elapsed());
        for replica in &cluster.replicas {
            pair.connect("pump")
                .refused(replica, ReasonCode::NOT_AUTHORIZED);
        }
        administrator.change(|device| device.state = State::Active);
    }
    println!(
        "revocation: blocked in the registry to the end of three connections on three replicas: {longest:?} at the longest of 5"
    );
}

#[test]
fn a_credential_that_is_removed_ends_its_connections_and_not_those_of_the_other_one() {
    let cluster = cluster();
    let administrator = Administrator::new(&cluster);
    let (old, new) = (Pair::new(), Pair::new());
    let mut device = Device::new(now());
    device.credentials.push(old.credential("old"));
    administrator.create(device);
    let mut first = cluster.open(0, &old.connect("pump/0"), false);
    new.connect("pump/1")
        .refused(&cluster.replicas[1], ReasonCode::BAD_USER_NAME_OR_PASSWORD);
    administrator.change(|device| device.credentials.push(new.credential("new")));
    let mut second = cluster.open(1, &new.connect("pump/1"), false);
    first.expect_silence();
    administrator.change(|device| device.credentials.retain(|it| it.id != "old"));
    expect_end(&mut first);
    second.expect_silence();
    old.connect("pump/0")
        .refused(&cluster.replicas[0], ReasonCode::BAD_USER_NAME_OR_PASSWORD);
    // A key says who signed, not for which device.
    new.connect("another").refused(
        &cluster.replicas[2],
        ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
    );
}

#[test]
fn a_replica_that_has_missed_the_change_makes_up_for_it() {
    let cluster = setup().with_faults().start();
    let administrator = Administrator::new(&cluster);
    let pair = Pair::new();
    let mut device = Device::new(now());
    device.credentials.push(pair.credential("only"));
    administrator.create(device);
    let mut client = cluster.open(1, &pair.connect("pump"), false);
    cluster.proxies[1].cut();
    administrator.change(|device| device.state = State::Blocked);
    cluster.proxies[1].heal();
    expect_end(&mut client);
}

#[test]
fn a_token_of_iot_core_is_taken_as_it_is() {
    let cluster = cluster();
    let administrator = Administrator::new(&cluster);
    let pair = Pair::new();
    let mut device = Device::new(now());
    device.credentials.push(pair.credential("rsa-or-ec"));
    administrator.create(device);
    let name = "projects/plant/locations/europe-west1/registries/pumps/devices/pump";
    let with = |claims: String| {
        connect(Version::V311, name)
            .username("unused")
            .password(pair.token(&claims).as_bytes())
    };
    let (past, soon) = (now() - 60, now() + 3_600);
    let good = format!(r#"{{"aud":"plant","iat":{past},"exp":{soon}}}"#);
    cluster.open(0, &with(good), false);
    for wrong in [
        format!(r#"{{"aud":"another","iat":{past},"exp":{soon}}}"#),
        format!(
            r#"{{"aud":"plant","iat":{},"exp":{}}}"#,
            past - 7_200,
            past - 3_600
        ),
        format!(r#"{{"aud":"plant","iat":{past},"exp":{}}}"#, past + 200_000),
    ] {
        let refused = with(wrong).answer(&cluster.replicas[0]).1;
        assert_eq!(refused.connack().reason.0, 5, "not authorized: {refused:?}");
    }
}

#[test]
fn a_device_has_its_own_topics_and_those_of_no_other() {
    let cluster = cluster();
    let administrator = Administrator::new(&cluster);
    let pair = Pair::new();
    let mut device = Device::new(now());
    device.credentials.push(pair.credential("only"));
    administrator.create(device);
    let mut client = cluster.open(0, &pair.connect("pump"), false);
    let filters = [
        ("/devices/pump/config", 1),
        ("/devices/pump/commands/#", 1),
        ("/devices/pump/commands/reboot", 1),
        ("/devices/pump/#", 0x87),
        ("/devices/+/config", 0x87),
        ("/devices/valve/config", 0x87),
        ("/devices/pump/events", 0x87),
        ("#", 0x87),
        ("$share/g//devices/+/commands/#", 0x87),
        ("$share/g//devices/pump/commands/#", 1),
        ("$SYS/#", 0x87),
    ];
    for (filter, expected) in filters {
        let options = SubscribeOptions::new(QoS::AtLeastOnce);
        let codes = client.subscribe_all(&[(filter, options)], &[]);
        assert_eq!(codes, [expected], "{filter}");
    }
    let topics = [
        ("/devices/pump/events", true),
        ("/devices/pump/events/alarm", true),
        ("/devices/pump/state", true),
        ("/devices/pump/config", false),
        ("/devices/valve/state", false),
        ("/devices/pump/../valve/state", false),
        ("/devices/pump", false),
        ("devices/pump/state", false),
    ];
    for (topic, allowed) in topics {
        let packet_id = client.next_id();
        client.send(Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic,
            packet_id: Some(id(packet_id)),
            properties: properties(&[]).as_properties(),
            payload: b"x",
        }));
        let reason = client.next_answer().reason();
        assert_eq!(reason != ReasonCode::NOT_AUTHORIZED, allowed, "{topic}");
    }
    assert_eq!(administrator.states(), [b"x"], "what it reports is kept");
}

#[test]
fn rules_that_are_changed_reach_the_connections_on_all_replicas() {
    let cluster = cluster();
    let administrator = Administrator::new(&cluster);
    let pair = Pair::new();
    let mut device = Device::new(now());
    device.credentials.push(pair.credential("only"));
    administrator.create(device);
    let mut clients: Vec<Client> = (0..3)
        .map(|n| {
            let mut client = cluster.open(n, &pair.connect(&format!("pump/{n}")), false);
            client.subscribe("/devices/pump/config", QoS::AtLeastOnce);
            client
        })
        .collect();
    let begin = Instant::now();
    administrator.change(|device| {
        device.policy = Some(vec![PolicyRule {
            effect: PolicyEffect::Allow,
            action: PolicyAction::Any,
            topics: vec!["site/%{place}/#".to_owned()],
        }]);
        let place = ("place".to_owned(), "north".to_owned());
        device.attributes.extend([place]);
    });
    for client in &mut clients {
        expect_end(client);
    }
    println!(
        "rules: changed in the registry to the end of three subscribers on three replicas: {:?}",
        begin.elapsed()
    );
    let mut client = cluster.open(1, &pair.connect("pump"), false);
    client.subscribe("site/north/x", QoS::AtMostOnce);
    let options = SubscribeOptions::new(QoS::AtMostOnce);
    let codes = client.subscribe_all(&[("site/south/x", options)], &[]);
    assert_eq!(codes, [0x87]);
}
