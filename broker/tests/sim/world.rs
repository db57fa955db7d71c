//! The cluster, its clients and the clock of one run.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dunlin_broker::hub::HubConfig;
use dunlin_broker::testing::InProcess;
use dunlin_sync::cluster::engine::{ClusterStore, EngineOptions};
use dunlin_sync::cluster::testing::ModelRedis;
use tokio::task::{AbortHandle, LocalSet};

use crate::client::{Conn, Severed};
use crate::oracle::{Ms, Oracle};
use crate::plan::{Plan, Random};
use crate::records::{Book, Ear};
use crate::{faults, records, roles, tap};

/// Longest run, in virtual time.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Unix time at which every run begins.
const EPOCH_US: u64 = 1_800_000_000_000_000;
/// Bytes in a pipe between client and replica.
const PIPE: usize = 16 << 10;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ended {
    pub(crate) broken: Vec<String>,
    pub(crate) faults: Vec<String>,
    pub(crate) digest: u64,
    published: u64,
    acknowledged: u64,
    delivered: u64,
    duplicates: u64,
    connects: u64,
    changes: u64,
}

impl Ended {
    pub(crate) fn add(&mut self, other: &Self) {
        self.published += other.published;
        self.acknowledged += other.acknowledged;
        self.delivered += other.delivered;
        self.duplicates += other.duplicates;
        self.connects += other.connects;
        self.changes += other.changes;
        self.digest ^= other.digest;
        self.faults.extend(other.faults.iter().cloned());
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} published, {} acknowledged, {} delivered to persistent sessions, {} delivered again at QoS 1, {} changes of records, {} connects, {} faults, 0 lost, 0 repeated at QoS 2, 0 out of order (digest {:016x})",
            self.published,
            self.acknowledged,
            self.delivered,
            self.duplicates,
            self.changes,
            self.connects,
            self.faults.len(),
            self.digest
        )
    }
}

pub(crate) struct Replica {
    pub(crate) backplane: usize,
    broker: RefCell<Option<InProcess>>,
    store: Arc<ClusterStore>,
    connections: RefCell<Vec<AbortHandle>>,
    severed: Rc<Severed>,
    /// What it is told of records.
    pub(crate) ear: Arc<Ear>,
    /// It was cut off from Redis at some time.
    pub(crate) troubled: Cell<bool>,
}

impl Replica {
    pub(crate) fn is_alive(&self) -> bool {
        self.broker.borrow().is_some()
    }

    pub(crate) fn store(&self) -> &ClusterStore {
        &self.store
    }
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) model: ModelRedis,
    pub(crate) oracle: RefCell<Oracle>,
    pub(crate) records: RefCell<Book>,
    replicas: RefCell<Vec<Rc<Replica>>>,
    digest: Cell<u64>,
    /// What is noted is shown too.
    traces: bool,
    started: tokio::time::Instant,
    connects: Cell<u64>,
    pub(crate) faults: RefCell<Vec<String>>,
    /// Roles that have not finished what they have to do.
    pub(crate) busy: Cell<usize>,
    /// Everything is over: roles end.
    pub(crate) over: Cell<bool>,
    /// Subscribers that are ready.
    pub(crate) ready: Cell<usize>,
}

impl World {
    /// Virtual time since the start, in milliseconds; never 0.
    pub(crate) fn now(&self) -> Ms {
        self.started.elapsed().as_millis() as u64 + 1
    }

    /// Adds to what makes two runs the same.
    pub(crate) fn note(&self, text: &str) {
        let mut digest = self.digest.get() ^ self.now();
        for byte in text.bytes() {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.digest.set(digest);
        if self.traces {
            eprintln!("{:>8} {text}", self.now());
        }
    }

    pub(crate) fn replicas(&self) -> Vec<Rc<Replica>> {
        self.replicas
            .borrow()
            .iter()
            .filter(|replica| replica.is_alive())
            .cloned()
            .collect()
    }

    /// Starts a replica; clients find it when it has joined.
    pub(crate) async fn start_replica(self: &Rc<Self>) {
        let backplane = self.model.connect();
        let number = backplane.number();
        let options = EngineOptions {
            seed: self
                .plan
                .seed
                .wrapping_mul(1_000)
                .wrapping_add(number as u64),
            // A store that is dropped at the end has nobody left who could answer.
            close_patience: Duration::ZERO,
            ..EngineOptions::default()
        };
        let store = ClusterStore::open(
            Arc::new(backplane),
            options,
            tokio::runtime::Handle::current(),
        );
        let Ok(store) = store.await else {
            self.note(&format!("replica {number} could not open"));
            return;
        };
        let store = Arc::new(store);
        let mut config = HubConfig {
            started_at_us: Some(EPOCH_US + self.now() * 1000),
            ..HubConfig::default()
        };
        config.features.sys_interval = 0;
        config.planted_early_acknowledgement = self.plan.planted_early_acknowledgement;
        let broker = InProcess::start_shared(config, store.clone()).expect("a hub");
        if broker.hub().join().await.is_err() {
            self.note(&format!("replica {number} could not join"));
            return;
        }
        self.note(&format!("replica {number} has joined"));
        let ear = Ear::listen(&*store, self.now());
        self.replicas.borrow_mut().push(Rc::new(Replica {
            backplane: number,
            broker: RefCell::new(Some(broker)),
            store,
            connections: RefCell::default(),
            severed: Rc::default(),
            ear,
            troubled: Cell::new(false),
        }));
    }

    /// SIGKILL: nothing more leaves it, neither to Redis nor to its clients.
    pub(crate) fn kill(&self, replica: &Replica) {
        self.note(&format!("replica {} is killed", replica.backplane));
        self.model.crash(replica.backplane);
        replica.store.kill();
        for connection in replica.connections.borrow_mut().drain(..) {
            connection.abort();
        }
        drop(replica.broker.borrow_mut().take());
    }

    /// The network between a replica and its clients breaks, once: both ends see their connections closed.
    pub(crate) fn sever(&self, replica: &Replica) {
        replica.severed.now();
    }

    /// A pipe to a replica that is alive.
    pub(crate) fn connect(&self, random: &mut Random) -> Option<(Conn, Rc<Replica>)> {
        let replicas = self.replicas();
        let replica = replicas
            .get(random.below(replicas.len() as u64) as usize)?
            .clone();
        let (stream, task) = replica.broker.borrow().as_ref()?.connect(PIPE)?;
        let mut connections = replica.connections.borrow_mut();
        connections.retain(|connection| !connection.is_finished());
        connections.push(task.abort_handle());
        drop(connections);
        self.connects.set(self.connects.get() + 1);
        let conn = Conn::new(stream, Rc::clone(&replica.severed));
        Some((conn, replica))
    }

    pub(crate) fn spawn(self: &Rc<Self>, role: impl Future<Output = ()> + 'static) {
        self.busy.set(self.busy.get() + 1);
        let world = self.clone();
        tokio::task::spawn_local(async move {
            role.await;
            world.busy.set(world.busy.get() - 1);
        });
    }
}

/// Runs a plan to its end.
pub(crate) fn run(plan: &Plan) -> Ended {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let local = LocalSet::new();
    let ended = local.block_on(&runtime, live(plan.clone()));
    drop(local);
    ended
}

async fn live(plan: Plan) -> Ended {
    let model = ModelRedis::new(plan.seed);
    model.set_latency(Duration::from_micros(300), Duration::from_micros(700));
    if plan.failovers {
        model.keep_history(200);
    }
    if plan.planted_no_epoch_check {
        model.skip_epoch_checks(true);
    }
    if plan.planted_lost_records {
        model.skip_record_replays(true);
    }
    let world = Rc::new(World {
        model,
        oracle: RefCell::new(Oracle::new(plan.faults == 0)),
        records: RefCell::default(),
        replicas: RefCell::default(),
        digest: Cell::new(plan.seed),
        traces: std::env::var_os("SIM_TRACE").is_some(),
        started: tokio::time::Instant::now(),
        connects: Cell::new(0),
        faults: RefCell::default(),
        busy: Cell::new(0),
        over: Cell::new(false),
        ready: Cell::new(0),
        plan,
    });
    for _ in 0..world.plan.replicas {
        world.start_replica().await;
    }
    let _defines = tap::make(&world).await;
    roles::spawn_all(&world);
    records::spawn(&world);
    tap::spawn(&world);
    faults::spawn(&world);
    let finished = async {
        // First what the roles have to do, then what is under way.
        while world.busy.get() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if world.oracle.borrow().is_complete() {
                break;
            }
        }
        // What comes too much comes now.
        tokio::time::sleep(Duration::from_secs(30)).await;
        records::end(&world).await;
    };
    let in_time = tokio::time::timeout(LONGEST, finished).await.is_ok();
    world.over.set(true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for replica in world.replicas() {
        world.kill(&replica);
    }
    // Tasks that were aborted end.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut oracle = world.oracle.borrow_mut();
    let mut broken = oracle.verdict();
    if !in_time {
        broken.push(format!(
            "{} clients have not finished within {LONGEST:?} of virtual time",
            world.busy.get()
        ));
    }
    let (published, acknowledged, delivered) = oracle.counts();
    Ended {
        broken,
        faults: world.faults.borrow().clone(),
        digest: world.digest.get(),
        published,
        acknowledged,
        delivered,
        duplicates: oracle.duplicates,
        connects: world.connects.get(),
        changes: world.records.borrow().changes(),
    }
}
