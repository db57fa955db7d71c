//! The runs.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::adapter::{Process, Setup};
use crate::emulator::{DATASET, PROJECT};
use crate::oracle::Verdict;
use crate::rig::{Cluster, Proxy};
use crate::support::fleet::{Fleet, FleetSetup, Random, chaos_seed, environment};
use crate::support::wait_until;
use crate::warehouse::Warehouse;

const REPLICAS: usize = 2;
const ADAPTERS: usize = 2;
const PARTITIONS: usize = 4;
/// Of an adapter's partitions, in milliseconds.
const LEASE: u64 = 2_000;
/// Of a replica, in milliseconds.
const REPLICA_LEASE: u64 = 6_000;

/// An adapter, and the network around it.
struct Adapter {
    setup: Setup,
    process: Option<Process>,
    redis: Proxy,
    grpc: Proxy,
    rest: Proxy,
}

impl Adapter {
    fn new(redis: SocketAddr, warehouse: &Warehouse, dir: &TempDir) -> Self {
        let [redis, grpc, rest] = [redis, warehouse.grpc, warehouse.rest].map(Proxy::start);
        let dead = dir.path().join("dead").display().to_string();
        let settings = [
            ("adapter.source", "tap".to_owned()),
            ("adapter.sink", "bigquery".to_owned()),
            ("redis.url", format!("redis://{}", redis.address())),
            ("tap.lease_ms", LEASE.to_string()),
            ("tap.partitions", PARTITIONS.to_string()),
            ("bigquery.project", PROJECT.to_owned()),
            ("bigquery.dataset", DATASET.to_owned()),
            ("bigquery.credentials", "none".to_owned()),
            ("bigquery.endpoint", format!("http://{}", grpc.address())),
            (
                "bigquery.rest_endpoint",
                format!("http://{}/bigquery/v2", rest.address()),
            ),
            ("bigquery.dead_letter_directory", dead),
            ("bigquery.rows", "100".to_owned()),
            ("bigquery.age_ms", "20".to_owned()),
            ("shutdown.timeout_seconds", "20".to_owned()),
        ];
        let setup = Setup::new("mqtt://127.0.0.1:1");
        let setup = settings.iter().fold(setup, |setup, (key, value)| {
            setup.and(&["--set", &format!("{key}={value}")])
        });
        Self {
            setup,
            process: None,
            redis,
            grpc,
            rest,
        }
    }

    fn start(&mut self) {
        if self.process.is_none() {
            self.process = Some(self.setup.start());
        }
    }

    #[track_caller]
    fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        assert!(process.is_running(), "an adapter has ended by itself");
        process.kill();
    }

    /// Drained and ended; it has not complained of a defect.
    #[track_caller]
    fn end(mut self) {
        assert!(self.process.take().unwrap().terminate().success());
        let log = self.setup.log();
        let bad = |line: &&str| line.contains("\"level\":\"ERROR\"") || line.contains("panicked");
        let bad: Vec<_> = log.lines().filter(bad).collect();
        assert!(bad.is_empty(), "{}", bad.join("\n"));
    }
}

/// Everything. The fields end in this order: adapters before what they need.
struct World {
    adapters: Vec<Adapter>,
    cluster: Cluster,
    warehouse: Warehouse,
    _dir: TempDir,
}

impl World {
    fn start(warehouse: Warehouse) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::setup(REPLICAS).with_faults().start();
        let redis = cluster.redis.address();
        let mut adapters: Vec<_> = (0..ADAPTERS)
            .map(|_| Adapter::new(redis, &warehouse, &dir))
            .collect();
        adapters.iter_mut().for_each(Adapter::start);
        // The tap is there before the first message.
        adapters
            .iter()
            .for_each(|adapter| adapter.setup.wait_ready());
        Self {
            adapters,
            cluster,
            warehouse,
            _dir: dir,
        }
    }

    /// A connection between two of them, and what to call it.
    fn some_network(&self, random: &mut Random) -> (&Proxy, String) {
        let adapter = below(random, ADAPTERS);
        let of_adapter = &self.adapters[adapter];
        match random.below(8) {
            0..3 => {
                let replica = below(random, REPLICAS);
                let proxy = &self.cluster.proxies[replica];
                (proxy, format!("broker {replica} - Redis"))
            }
            3..5 => (&of_adapter.redis, format!("adapter {adapter} - Redis")),
            5..7 => (&of_adapter.grpc, format!("adapter {adapter} - appends")),
            _ => (&of_adapter.rest, format!("adapter {adapter} - tables")),
        }
    }

    /// A process dies while a connection is broken, and both come back.
    fn kill(&mut self, random: &mut Random) -> String {
        let (proxy, network) = self.some_network(random);
        let fault = match random.below(3) {
            0 => {
                proxy.lose_an_answer();
                "an answer is lost"
            }
            1 => {
                proxy.cut();
                "cut"
            }
            // What has been sent into it arrives late: also from somebody who has died meanwhile.
            _ => {
                proxy.black_hole();
                "late"
            }
        };
        thread::sleep(Duration::from_millis(random.below(60)));
        let victim = match random.below(5) {
            which @ 0..2 => {
                self.cluster.replicas[which as usize].kill9();
                format!("broker {which}")
            }
            which @ 2..4 => {
                self.adapters[which as usize - 2].kill();
                format!("adapter {}", which - 2)
            }
            _ => {
                self.adapters.iter_mut().for_each(Adapter::kill);
                "both adapters".to_owned()
            }
        };
        // Sometimes for longer than an adapter's lease, or a replica's.
        let longer = match random.below(12) {
            0..2 => LEASE,
            2 => REPLICA_LEASE,
            _ => 0,
        };
        thread::sleep(Duration::from_millis(longer + random.below(300)));
        for adapter in &self.adapters {
            adapter.redis.heal();
            adapter.grpc.heal();
            adapter.rest.heal();
        }
        self.cluster.proxies.iter().for_each(Proxy::heal);
        self.adapters.iter_mut().for_each(Adapter::start);
        if let Some(replica) = victim.strip_prefix("broker ") {
            self.cluster.start_again(replica.parse().unwrap());
        }
        format!("{victim}; {network}: {fault}")
    }

    /// Numbers of Redis about all partitions of the tap: of messages given a position, of those still there.
    fn tap(&self) -> (usize, usize) {
        let partition = |partition| {
            let key = |part| format!("dunlin:{{warehouse.{partition}t}}:{part}");
            let script = "local p = redis.call('HGET', KEYS[1], 'p'); return p and (struct.unpack('<I8', p)) - 1 or 0";
            let given = self.cluster.redis.ask(&["EVAL", script, "1", &key("tap")]);
            let left = self.cluster.redis.ask(&["XLEN", &key("log")]);
            let number = |text: String| text.parse::<usize>().unwrap();
            (number(given), number(left))
        };
        (0..PARTITIONS)
            .map(partition)
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Everything in the tap is stored: within a time that grows with what there is, as long as rows come.
    fn wait_for_the_tap(&self) {
        let mut before = (usize::MAX, 0);
        while before.0 > 0 {
            wait_until("rows come until the tap is empty", || {
                let now = (self.tap().1, self.warehouse.count());
                let moves = now.0 == 0 || now.1 > before.1;
                if moves {
                    before = now;
                }
                moves
            });
        }
    }
}

fn below(random: &mut Random, bound: usize) -> usize {
    random.below(bound as u64) as usize
}

fn kills(default: u64, pause: Duration, what: &str, warehouse: Warehouse) {
    let kills = environment("CHAOS_KILLS").unwrap_or(default);
    let what = format!("{kills} kills of brokers and adapters over {what}");
    let mut random = Random(chaos_seed(&what));
    let mut world = World::start(warehouse);
    let fleet = Fleet::start(FleetSetup {
        subscribers: 0,
        may_be_refused: true,
        pause,
        ..FleetSetup::new("kills", world.cluster.balancer.address(), 0)
    });
    for kill in 1..=kills {
        world.warehouse.misbehave(&mut random);
        // Kills hit what writes: rows have come since the last one.
        let before = world.warehouse.count();
        wait_until("rows", || world.warehouse.count() > before);
        fleet.wait_for_more(1);
        thread::sleep(Duration::from_millis(random.below(300)));
        let fault = world.kill(&mut random);
        eprintln!(
            "chaos: kill {kill} ({fault}), {} acknowledged, {} rows",
            fleet.acknowledged(),
            world.warehouse.count()
        );
    }
    world.warehouse.behave();
    let sent = fleet.finish_publishing();
    world.wait_for_the_tap();
    for adapter in world.adapters.drain(..) {
        adapter.end();
    }
    let (taken, left) = world.tap();
    assert_eq!(left, 0, "messages are left in the tap");
    let rows = world.warehouse.rows();
    let verdict = Verdict::of("kills", &sent, taken, &rows);
    let streams = world.warehouse.streams();
    let streams = streams.map_or_else(String::new, |streams| format!(" ({streams} streams)"));
    verdict.check(&format!("{what}{streams}"));
}

#[test]
fn chaos_brokers_and_adapters_killed_neither_lose_nor_repeat_a_row() {
    let warehouse = Warehouse::strict();
    kills(6, Duration::from_millis(4), "a strict server", warehouse);
}

#[test]
fn chaos_brokers_and_adapters_killed_neither_lose_nor_repeat_a_row_of_the_emulator() {
    let warehouse = Warehouse::emulator();
    kills(4, Duration::from_millis(10), "the emulator", warehouse);
}
