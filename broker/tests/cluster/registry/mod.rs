//! A device of the registry in a cluster, and those who administer it.

mod bans;
mod changes;
mod configs;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64ct::{Base64UrlUnpadded, Encoding};
use dunlin_broker::registry::{Credential, Device, DeviceKey, Registry, Shown};
use dunlin_sync::Store;
use dunlin_sync::cluster::redis::{RedisBackplane, RedisOptions};
use dunlin_sync::cluster::{ClusterStore, EngineOptions};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    rig::{Cluster, cluster::ClusterSetup},
    support::{broker::executable, connecting::Connecting, *},
};

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

fn pump() -> DeviceKey {
    DeviceKey::new(None, "pump").expect("a name")
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
        self.connect_as("pump", Version::V5, client_id)
    }

    /// The same for the device of this name.
    fn connect_as(&self, name: &str, version: Version, client_id: &str) -> Connecting {
        let (from, until) = (now(), now() + 3_600);
        let token = self.token(&format!(r#"{{"iat":{from},"exp":{until}}}"#));
        connect(version, client_id)
            .username(name)
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

    fn create(&self, key: &DeviceKey, device: Device) {
        let made = self.runtime.block_on(self.registry.create(key, device));
        made.expect("it is new");
    }

    /// What the device has reported, when that is there.
    fn states(&self) -> Vec<Vec<u8>> {
        let mut states = Vec::new();
        wait_until("a report of the device is kept", || {
            let found = self.runtime.block_on(self.registry.states(&pump()));
            states = found.expect("it can be read");
            !states.is_empty()
        });
        states.into_iter().map(|state| state.data).collect()
    }

    fn change(&self, change: impl Fn(&mut Device)) {
        let key = pump();
        let changed = self.registry.change(&key, None, now(), |device| {
            change(device);
            Ok(())
        });
        self.runtime.block_on(changed).expect("it is there");
    }
}

/// The broker's own commands, by which an operator asks a replica.
struct Operator {
    token: String,
    folder: TempDir,
}

impl Operator {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tokens");
        let mut command = Command::new(executable());
        let made = command
            .arg("token")
            .arg(&file)
            .args(["operator", "--write"]);
        let made = made.output().expect("the broker runs");
        assert!(made.status.success(), "{made:?}");
        Self {
            token: String::from_utf8(made.stdout)
                .expect("text")
                .trim()
                .to_owned(),
            folder,
        }
    }

    /// Has the replicas administered.
    fn of(&self, setup: ClusterSetup) -> ClusterSetup {
        let file = self.folder.path().join("tokens");
        setup
            .set("admin.listen=127.0.0.1:0")
            .set(&format!("admin.tokens_file={}", file.display()))
            .set("log.format=json")
    }

    fn url(replica: &Broker) -> String {
        let log = replica.log();
        let mut lines = log.lines().rev();
        let line = lines.find(|line| line.contains(r#""message":"administration""#));
        let line: Value = serde_json::from_str(line.expect("it is administered")).expect("JSON");
        let at = |place: &Value| place["address"].as_str().map(|at| format!("http://{at}"));
        at(&line)
            .or_else(|| at(&line["fields"]))
            .expect("an address")
    }

    /// Has a replica remove something, and is back as soon as that is answered.
    #[track_caller]
    fn delete(&self, replica: &Broker, path: &str) {
        let url = Self::url(replica);
        let address = url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).expect("it is administered");
        let token = &self.token;
        let request = format!(
            "DELETE {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect("it answers");
        assert_eq!(&status, b"HTTP/1.1 200", "{path}");
    }

    /// Asks a replica; the answer is JSON, or nothing.
    #[track_caller]
    fn ask(&self, replica: &Broker, arguments: &[&str]) -> Value {
        let mut command = Command::new(executable());
        command
            .args(arguments)
            .arg("--json")
            .env("DUNLIN_ADMIN_URL", Self::url(replica))
            .env("DUNLIN_ADMIN_TOKEN", &self.token);
        let output = command.output().expect("the broker runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }
}

/// Three replicas, and the device `pump` with one key.
struct World {
    pair: Pair,
    administrator: Option<Administrator>,
    operator: Operator,
    cluster: Cluster,
}

impl World {
    fn start() -> Self {
        Self::with(setup())
    }

    fn with(setup: ClusterSetup) -> Self {
        let operator = Operator::new();
        let cluster = operator.of(setup).start();
        let administrator = Administrator::new(&cluster);
        let world = Self {
            pair: Pair::new(),
            administrator: Some(administrator),
            operator,
            cluster,
        };
        world.add(&pump());
        world
    }

    /// One more device of the same key.
    fn add(&self, key: &DeviceKey) {
        let mut device = Device::new(now());
        device.credentials.push(self.pair.credential("only"));
        self.administrator().create(key, device);
    }

    fn administrator(&self) -> &Administrator {
        self.administrator.as_ref().expect("it is there")
    }

    /// From now on replicas may be started: one that joins waits for all that have opened the store, and the administrator, who is no
    /// replica, never answers.
    fn without_administrator(mut self) -> Self {
        self.administrator = None;
        self
    }

    /// Connects the device.
    fn open(&self, replica: usize, client_id: &str) -> Client {
        self.cluster
            .open(replica, &self.pair.connect(client_id), false)
    }

    fn replica(&self, replica: usize) -> &Broker {
        &self.cluster.replicas[replica]
    }

    /// What an operator is told by a replica.
    #[track_caller]
    fn ask(&self, replica: usize, arguments: &[&str]) -> Value {
        self.operator.ask(self.replica(replica), arguments)
    }
}

fn setup() -> ClusterSetup {
    Cluster::setup(3)
        .set("auth.registry=true")
        .set("auth.anonymous=true")
        .set("auth.default=deny")
}

/// The connection ends as that of a device that may not be there.
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
