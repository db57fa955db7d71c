//! Redis, a broker, and BigQuery: gRPC and REST by servers in this process.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use prost::Message as _;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::fake::Fake;
use crate::rest::Rest;
use crate::support::{Process, Publisher, Setup, free_port, wait_for};

/// Fields of `messages` that matter here, by their numbers in the default table.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Stored {
    #[prost(string, optional, tag = "2")]
    pub(crate) topic: Option<String>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(crate) payload: Option<Vec<u8>>,
    #[prost(string, optional, tag = "7")]
    pub(crate) client_id: Option<String>,
    #[prost(string, optional, tag = "8")]
    pub(crate) message_id: Option<String>,
}

/// All that an adapter needs.
pub(crate) struct World {
    dir: TempDir,
    redis: Option<Process>,
    broker: Option<Process>,
    pub(crate) redis_port: u16,
    pub(crate) broker_port: u16,
    pub(crate) fake: Fake,
    pub(crate) rest: Rest,
    grpc_url: String,
    rest_url: String,
    _runtime: Runtime,
}

impl World {
    /// Starts everything but adapters.
    pub(crate) fn start() -> Self {
        Self::start_with(|port| vec!["--listen".to_owned(), format!("127.0.0.1:{port}")])
    }

    /// The same; the broker is given these arguments. Anybody must be able to connect to the port in clear.
    pub(crate) fn start_with(arguments: impl FnOnce(u16) -> Vec<String>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (fake, rest) = (Fake::default(), Rest::new("p/datasets/d"));
        let bind = || runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (grpc, http) = (bind(), bind());
        let grpc_url = format!("http://{}", grpc.local_addr().unwrap());
        let rest_url = format!("http://{}/bigquery/v2", http.local_addr().unwrap());
        runtime.spawn(fake.clone().serve(grpc));
        runtime.spawn(rest.clone().serve(http));
        let mut world = Self {
            dir: tempfile::tempdir().unwrap(),
            redis: None,
            broker: None,
            redis_port: free_port(),
            broker_port: free_port(),
            fake,
            rest,
            grpc_url,
            rest_url,
            _runtime: runtime,
        };
        world.start_redis();
        let arguments = arguments(world.broker_port);
        world.start_broker(&arguments);
        world
    }

    fn log(&self, name: &str) -> File {
        let path = self.dir.path().join(name);
        File::options()
            .create(true)
            .append(true)
            .open(path)
            .unwrap()
    }

    fn spawn(&self, command: &mut Command, log: &str) -> Process {
        let command = command.stdin(Stdio::null());
        Process::start(command.stdout(self.log(log)).stderr(self.log(log)))
    }

    pub(crate) fn start_redis(&mut self) {
        let mut command = Command::new("redis-server");
        let port = self.redis_port.to_string();
        command
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
            .arg(self.dir.path());
        self.redis = Some(self.spawn(&mut command, "redis.log"));
        let port = self.redis_port;
        wait_for("redis", || TcpStream::connect(("127.0.0.1", port)).ok());
    }

    pub(crate) fn kill_redis(&mut self) {
        self.redis.take().unwrap().kill();
    }

    fn start_broker(&mut self, arguments: &[String]) {
        let adapter = Path::new(env!("CARGO_BIN_EXE_bigquery-adapter"));
        let binary = adapter.with_file_name("broker");
        assert!(
            binary.exists(),
            "{} is missing: cargo build -p dunlin-broker",
            binary.display()
        );
        let mut command = Command::new(binary);
        command
            .args(arguments)
            .args(["--no-ops", "--redis", &self.redis_url()]);
        self.broker = Some(self.spawn(&mut command, "broker.log"));
        self.wait_broker();
    }

    /// It takes clients when it has joined the cluster.
    fn wait_broker(&self) {
        wait_for("the broker to take clients", || {
            let arguments = ["-t", "probe", "-n", "-q", "1", "-i", "probe"];
            let mut command = self.mosquitto_pub(&arguments);
            let output = command.stderr(Stdio::null()).status().unwrap();
            output.success().then_some(())
        });
    }

    pub(crate) fn redis_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.redis_port)
    }

    fn mosquitto_pub(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("mosquitto_pub");
        command
            .args(["-h", "127.0.0.1", "-V", "5", "-p"])
            .arg(self.broker_port.to_string())
            .args(arguments);
        command
    }

    /// The most memory that the broker has had.
    pub(crate) fn broker_peak_mib(&self) -> u64 {
        self.broker.as_ref().unwrap().peak_mib()
    }

    /// Publishes once, with these arguments.
    pub(crate) fn publish(&self, arguments: &[&str]) {
        assert!(self.mosquitto_pub(arguments).status().unwrap().success());
    }

    /// A publisher of lines.
    pub(crate) fn publisher(&self, client: &str, topic: &str, qos: &str) -> Publisher {
        let arguments = ["-i", client, "-t", topic, "-q", qos, "-l"];
        Publisher::over(&mut self.mosquitto_pub(&arguments))
    }

    /// An adapter from the tap of this name to the BigQuery of the test.
    pub(crate) fn adapter(&self) -> Setup {
        let dead = self.dir.path().join("dead").display().to_string();
        let settings = [
            ("adapter.source", "tap"),
            ("adapter.sink", "bigquery"),
            ("redis.url", &self.redis_url()),
            ("tap.lease_ms", "2000"),
            ("tap.partitions", "6"),
            ("bigquery.project", "p"),
            ("bigquery.dataset", "d"),
            ("bigquery.credentials", "none"),
            ("bigquery.endpoint", &self.grpc_url),
            ("bigquery.rest_endpoint", &self.rest_url),
            ("bigquery.dead_letter_directory", &dead),
            ("bigquery.rows", "100"),
            ("bigquery.age_ms", "20"),
            ("shutdown.timeout_seconds", "20"),
        ];
        settings
            .iter()
            .fold(Setup::new("mqtt://127.0.0.1:1"), |setup, (key, value)| {
                setup.and(&["--set", &format!("{key}={value}")])
            })
    }

    /// Rows of a table as they were encoded.
    pub(crate) fn rows(&self, table: &str) -> Vec<Vec<u8>> {
        let state = self.fake.state();
        let rows = state
            .tables
            .get(&format!("projects/p/datasets/d/tables/{table}"));
        rows.cloned().unwrap_or_default()
    }

    pub(crate) fn count(&self, table: &str) -> usize {
        let state = self.fake.state();
        let rows = state
            .tables
            .get(&format!("projects/p/datasets/d/tables/{table}"));
        rows.map_or(0, Vec::len)
    }

    /// How often each (client, payload) is in `messages`, and the payloads of each client in the order of its rows.
    pub(crate) fn by_client(&self) -> BTreeMap<String, Vec<u64>> {
        let mut clients: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for row in self.rows("messages") {
            let row = Stored::decode(row.as_slice()).unwrap();
            if row.topic.as_deref() == Some("probe") {
                continue;
            }
            let text = String::from_utf8(row.payload.unwrap_or_default()).unwrap();
            let rows = clients
                .entry(row.client_id.unwrap_or_default())
                .or_default();
            rows.push(text.parse().unwrap());
        }
        clients
    }

    /// Each client's numbers are there once, from 0 on, in order.
    #[track_caller]
    pub(crate) fn assert_exactly(&self, sent: &[(String, u64)]) {
        assert_once(self.by_client(), sent);
    }

    /// Nothing of the tap is left in Redis.
    pub(crate) fn messages_left(&self) -> u64 {
        let mut left = 0;
        for partition in 0..6 {
            let key = format!("dunlin:{{warehouse.{partition}t}}:log");
            let output = Command::new("redis-cli")
                .args(["-p", &self.redis_port.to_string(), "xlen", &key])
                .output()
                .unwrap();
            left += String::from_utf8_lossy(&output.stdout)
                .trim()
                .parse::<u64>()
                .unwrap_or(0);
        }
        left
    }
}

#[track_caller]
fn assert_once(mut found: BTreeMap<String, Vec<u64>>, sent: &[(String, u64)]) {
    for (client, count) in sent {
        let numbers = found.remove(client).unwrap_or_default();
        let expected: Vec<u64> = (0..*count).collect();
        if numbers == expected {
            continue;
        }
        let mut seen = BTreeMap::new();
        for number in &numbers {
            *seen.entry(*number).or_insert(0) += 1;
        }
        let missing: Vec<u64> = expected
            .iter()
            .copied()
            .filter(|n| !seen.contains_key(n))
            .collect();
        let twice: Vec<u64> = seen
            .iter()
            .filter(|(_, times)| **times > 1)
            .map(|(n, _)| *n)
            .collect();
        panic!(
            "{client}: {} rows of {count}; missing {:?} ({}), more than once {:?} ({})",
            numbers.len(),
            missing.get(..missing.len().min(20)),
            missing.len(),
            twice.get(..twice.len().min(20)),
            twice.len()
        );
    }
    assert!(found.is_empty(), "rows of nobody: {:?}", found.keys());
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log =
                std::fs::read_to_string(self.dir.path().join("broker.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines
                .get(lines.len().saturating_sub(15)..)
                .unwrap_or_default();
            eprintln!("the end of the broker's log:\n{}", end.join("\n"));
        }
        // The broker before its Redis.
        drop(self.broker.take());
    }
}

/// Publishes numbers from 0 on until told to stop; gives how many.
pub(crate) struct Load {
    clients: Vec<(String, u32, std::thread::JoinHandle<u64>)>,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Load {
    pub(crate) fn start(world: &World, clients: &[(&str, &str)]) -> Self {
        let stop = std::sync::Arc::<std::sync::atomic::AtomicBool>::default();
        let clients = clients.iter().map(|(client, qos)| {
            let topic = format!("load/{client}");
            let mut publisher = world.publisher(client, &topic, qos);
            let stop = std::sync::Arc::clone(&stop);
            let process = publisher.id();
            let thread = std::thread::spawn(move || {
                let mut sent = 0_u64;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    for _ in 0..4 {
                        publisher.line(&sent.to_string());
                        sent += 1;
                    }
                    // A pace, so that the load lasts as long as the faults.
                    std::thread::sleep(Duration::from_millis(20));
                }
                publisher.finish();
                sent
            });
            ((*client).to_owned(), process, thread)
        });
        Self {
            clients: clients.collect(),
            stop,
        }
    }

    /// Waits until everything is acknowledged.
    pub(crate) fn finish(mut self) -> Vec<(String, u64)> {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let clients = std::mem::take(&mut self.clients).into_iter();
        clients
            .map(|(client, _, thread)| (client, thread.join().unwrap()))
            .collect()
    }
}

impl Drop for Load {
    /// A test that has failed leaves no publisher behind.
    fn drop(&mut self) {
        for (_, process, _) in &self.clients {
            drop(
                Command::new("kill")
                    .args(["-9", &process.to_string()])
                    .status(),
            );
        }
    }
}
