//! CPU time per message of two replicas and their Redis: engine, client and server, without a broker.
//!
//! `cargo bench -p dunlin-sync --bench cluster`; as a test it runs with few messages. Needs `redis-server`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that meets the unexpected has to stop, and says what it measured"
)]

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dunlin_protocol::QoS;
use dunlin_sync::cluster::redis::{RedisBackplane, RedisOptions};
use dunlin_sync::cluster::{
    ClaimRequest, Cluster, ClusterEvents, ClusterStore, EngineOptions, Epoch, Held, Relayed,
    ReplicaId, Route, SessionEntry, TakenWill,
};
use dunlin_sync::{
    Appended, Batch, Committed, Delivery, Message, MessageParts, Op, SessionId, Store, StoreError,
};
use parking_lot::Mutex;
use tokio::runtime::Runtime;

/// Messages in a batch: what one read of a busy publisher brings.
const BATCH: usize = 8;
/// Batches under way.
const WINDOW: u64 = 128;
const SESSIONS: usize = 1000;
const PAYLOAD: usize = 64;

struct Redis(Child, u16);

impl Redis {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--save",
                "",
                "--bind",
                "127.0.0.1",
            ])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed: install it with scripts/deps");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(child, port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// What a broker would do: settles what it was woken with.
#[derive(Default)]
struct Receiver {
    got: AtomicU64,
    acked: Mutex<Vec<Op>>,
}

impl Receiver {
    fn appended(&self, session: SessionId, seq: u64) {
        self.got.fetch_add(1, Ordering::Relaxed);
        self.acked.lock().push(Op::Dequeue { session, seq });
    }
}

impl ClusterEvents for Receiver {
    fn relayed(&self, messages: &[Relayed<'_>]) {
        self.got.fetch_add(messages.len() as u64, Ordering::Relaxed);
    }
    fn woken(&self, appended: Appended) {
        self.appended(appended.session, appended.seq);
    }
    fn queue_grown(&self, _: SessionId, _: u64) {}
    fn queues_may_have_grown(&self) {}
    fn session_changed(&self, _: &SessionEntry) {}
    fn session_owned(&self, _: SessionId, _: ReplicaId) {}
    fn session_deleted(&self, _: SessionId) {}
    fn retained_changed(&self, _: Arc<Message>) {}
    fn retained_deleted(&self, _: &str) {}
    fn routes_changed(&self, _: ReplicaId, _: &[(Arc<str>, Route)]) {}
    fn replica_gone(&self, _: ReplicaId) {}
    fn let_go(&self, _: &str, _: Epoch) {}
    fn fenced(&self, _: SessionId) {}
    fn will_due(&self, _: TakenWill) {}
    fn redeliver(&self, _: &str, _: Arc<Message>, _: Held) {}
    fn suspended(&self, _: &str) {}
    fn resumed(&self, _: bool) {}
}

struct Done(Arc<AtomicU64>);

impl Committed for Done {
    fn committed(self: Box<Self>, _: Vec<Appended>) {
        self.0.fetch_add(1, Ordering::Release);
    }
    fn failed(self: Box<Self>, error: &StoreError) {
        panic!("{error}");
    }
}

struct Pair {
    runtime: Runtime,
    redis: Redis,
    from: Arc<ClusterStore>,
    to: Arc<ClusterStore>,
    receiver: Arc<Receiver>,
}

impl Pair {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let redis = Redis::start();
        let receiver: Arc<Receiver> = Arc::default();
        let open = |seed, events: Arc<Receiver>| {
            let handle = runtime.handle().clone();
            let url = format!("redis://127.0.0.1:{}", redis.1);
            let backplane = RedisBackplane::start(RedisOptions::new(url), handle.clone()).unwrap();
            let options = EngineOptions {
                seed,
                ..EngineOptions::default()
            };
            runtime.block_on(async move {
                let store = ClusterStore::open(Arc::new(backplane), options, handle).await;
                let store = Arc::new(store.unwrap());
                store.start(events).await.unwrap();
                store
            })
        };
        let from = open(1, Arc::default());
        let to = open(2, Arc::clone(&receiver));
        Self {
            runtime,
            redis,
            from,
            to,
            receiver,
        }
    }

    /// CPU time so far, in microseconds: this process, Redis.
    fn cpu(&self) -> (u64, u64) {
        (
            cpu_us("/proc/self/stat"),
            cpu_us(&format!("/proc/{}/stat", self.redis.0.id())),
        )
    }

    fn measure(&self, name: &str, messages: u64, send: impl Fn(u64)) {
        self.receiver.got.store(0, Ordering::Relaxed);
        let (us, redis) = self.cpu();
        let began = Instant::now();
        send(messages);
        let limit = Instant::now() + Duration::from_secs(60);
        while self.receiver.got.load(Ordering::Relaxed) < messages {
            assert!(Instant::now() < limit, "{name}: not everything has come");
            self.settle();
            std::thread::sleep(Duration::from_millis(1));
        }
        self.settle();
        let took = began.elapsed();
        let (us, redis) = (self.cpu().0 - us, self.cpu().1 - redis);
        let each = |us: u64| us as f64 / messages as f64;
        println!(
            "{name}: {messages} messages in {} ms, CPU per message {:.2} µs (both replicas {:.2}, redis {:.2})",
            took.as_millis(),
            each(us + redis),
            each(us),
            each(redis)
        );
    }

    fn settle(&self) {
        let acked = std::mem::take(&mut *self.receiver.acked.lock());
        let mut acked = acked.into_iter().peekable();
        while acked.peek().is_some() {
            let ops = acked.by_ref().take(BATCH).collect();
            self.to.submit(Batch::new(ops));
        }
    }

    /// Submits batches and keeps so many under way.
    fn submit(&self, messages: u64, op: impl Fn(u64) -> Op) {
        let done: Arc<AtomicU64> = Arc::default();
        let batches = messages / BATCH as u64;
        for batch in 0..batches {
            while batch - done.load(Ordering::Acquire) >= WINDOW {
                self.settle();
                std::thread::sleep(Duration::from_micros(50));
            }
            let first = batch * BATCH as u64;
            let ops = (first..first + BATCH as u64).map(&op).collect();
            let done = Box::new(Done(Arc::clone(&done)));
            self.from.submit(Batch::with_callback(ops, done));
        }
    }
}

/// User and system time of a process.
fn cpu_us(path: &str) -> u64 {
    let stat = std::fs::read_to_string(path).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields.get(at).unwrap().parse::<u64>().unwrap();
    (ticks(11) + ticks(12)) * 10_000
}

fn message(qos: QoS) -> Arc<Message> {
    Arc::new(Message::new(parts(qos, &[b'x'; PAYLOAD])))
}

fn parts(qos: QoS, payload: &[u8]) -> MessageParts<'_> {
    MessageParts {
        topic: "fleet/device/0123456789/telemetry",
        properties: &[],
        payload,
        qos,
        retain: false,
        expires_at: None,
        received_at: 1_700_000_000_000_000,
        publisher: Some(Arc::from("device-0123456789")),
        id: 1,
    }
}

fn main() {
    let full = std::env::args().any(|arg| arg == "--bench");
    let messages: u64 = if full { 400_000 } else { 800 };
    let pair = Pair::new();
    let sessions: Vec<SessionId> = (0..SESSIONS)
        .map(|n| {
            let claim = pair.to.claim(ClaimRequest {
                client_id: Arc::from(format!("client-{n}")),
                clean_start: true,
                expiry_interval: 3600,
                will: None,
            });
            pair.runtime.block_on(claim).unwrap().session.unwrap()
        })
        .collect();
    pair.measure("qos 1 to persistent sessions", messages, |messages| {
        pair.submit(messages, |n| Op::Enqueue {
            session: sessions[n as usize % SESSIONS],
            delivery: Delivery::plain(QoS::AtLeastOnce),
            message: message(QoS::AtLeastOnce),
            once: None,
        });
    });
    let to = pair.to.replica();
    pair.measure("qos 1 to clean sessions", messages, |messages| {
        pair.submit(messages, |_| Op::Relay {
            to,
            share: None,
            message: message(QoS::AtLeastOnce),
        });
    });
    pair.measure("qos 0", messages, |messages| {
        let payload = [b'x'; PAYLOAD];
        let relayed: Vec<Relayed<'_>> = (0..BATCH)
            .map(|_| Relayed {
                message: parts(QoS::AtMostOnce, &payload),
                share: None,
            })
            .collect();
        for sent in 0..messages / BATCH as u64 {
            // As fast as they are received: what exceeds the lane would be dropped.
            while sent * BATCH as u64 > pair.receiver.got.load(Ordering::Relaxed) + 8000 {
                std::thread::sleep(Duration::from_micros(50));
            }
            pair.from.relay(to, &relayed);
        }
    });
    println!("{:?}", pair.from.figures());
    println!("{:?}", pair.to.figures());
}
