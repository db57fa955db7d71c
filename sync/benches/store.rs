//! What the embedded store costs: `cargo bench -p dunlin-sync [-- <directory to write in>]`.
//!
//! A driver thread plays many submitters, each with a persistent session of its own and one batch
//! under way: queue some messages, dequeue those of the batch before. Reported per message queued
//! and dequeued: wall time, CPU of the store's writer thread, of the engine's background threads
//! and of the whole process.
//!
//! Without `--bench` (as a test) everything runs once with small numbers.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark that meets the unexpected has to stop, and its output is its purpose"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use dunlin_sync::testing::{Driver, samples};
use dunlin_sync::{
    Appended, Batch, Committed, Durability, EmbeddedOptions, EmbeddedStore, MemoryStore, Message,
    Op, SessionId, Store, StoreError,
};

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let full = arguments.iter().any(|argument| argument == "--bench");
    let root = arguments
        .iter()
        .find(|argument| !argument.starts_with('-'))
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let bench = Bench { full, root };
    bench.groups();
    bench.fan_out();
    bench.reopening();
}

struct Bench {
    full: bool,
    root: PathBuf,
}

impl Bench {
    fn scale(&self, full: usize, tiny: usize) -> usize {
        if self.full { full } else { tiny }
    }

    fn directory(&self) -> tempfile::TempDir {
        tempfile::tempdir_in(&self.root).unwrap()
    }

    fn groups(&self) {
        println!("QoS 1 through persistent sessions, 150-byte payload: queue and dequeue");
        println!(
            "{:<10} {:>10} {:>6} {:>10} {:>9} {:>9} {:>9} {:>9}",
            "store",
            "submitters",
            "batch",
            "messages/s",
            "writer µs",
            "engine µs",
            "all µs",
            "rounds/s"
        );
        for (name, durability) in [
            ("always", Some(Durability::Always)),
            (
                "interval",
                Some(Durability::Interval(Duration::from_millis(100))),
            ),
            ("os", Some(Durability::Os)),
            ("memory", None),
        ] {
            for (submitters, batch, messages) in [
                (1, 1, 20_000),
                (10, 1, 100_000),
                (100, 1, 600_000),
                (1000, 1, 600_000),
                (100, 16, 2_000_000),
            ] {
                let directory = self.directory();
                let store = open(directory.path(), durability);
                let messages = self.scale(messages, 50 * batch);
                let submitters = self.scale(submitters, submitters.min(10));
                let run = Run::new(store, submitters, batch);
                let cost = run.measure(messages);
                println!("{name:<10} {submitters:>10} {batch:>6} {cost}");
            }
        }
    }

    /// One message to ten queues: stored once (one `Arc`) or as ten copies (ten `Arc`s).
    fn fan_out(&self) {
        println!("\none message to 10 queues and out again, writer µs per queue");
        println!("{:>8} {:>10} {:>10}", "bytes", "same", "copies");
        for size in [100, 500, 1000, 2000, 4000, 16_000] {
            let mut costs = Vec::new();
            for same in [true, false] {
                let directory = self.directory();
                let driver = Driver::new(open(directory.path(), Some(Durability::Os)));
                let ids: Vec<_> = (0..10)
                    .map(|n| driver.new_session(&n.to_string()))
                    .collect();
                let messages = self.scale(10_000_000 / (size + 500), 20);
                let body = vec![7; size];
                let cpu = Cpu::now();
                for n in 0..messages as u64 {
                    let message = samples::message_on("sensors/hall/3/temperature", &body);
                    let ops = ids.iter().map(|id| {
                        let message = if same {
                            Arc::clone(&message)
                        } else {
                            copy(&message)
                        };
                        samples::enqueue_message(*id, message)
                    });
                    driver.store().submit(Batch::new(ops.collect()));
                    let done = ids.iter().map(|session| Op::Dequeue {
                        session: *session,
                        seq: n,
                    });
                    driver.store().submit(Batch::new(done.collect()));
                    while driver.store().pending_bytes() > 4 << 20 {
                        std::thread::yield_now();
                    }
                }
                driver.commit(Vec::new());
                costs.push(cpu.elapsed().writer / (messages * 10) as f64);
            }
            println!("{size:>8} {:>10.2} {:>10.2}", costs[0], costs[1]);
        }
    }

    fn reopening(&self) {
        let messages = self.scale(1_000_000, 1000);
        let sessions = self.scale(1000, 10);
        let directory = self.directory();
        let store = open(directory.path(), Some(Durability::Os));
        let driver = Driver::new(store);
        let ids: Vec<_> = (0..sessions)
            .map(|n| driver.new_session(&n.to_string()))
            .collect();
        let message = samples::message_on("sensors/hall/3/temperature", &[7; 150]);
        for _ in 0..messages / sessions {
            let ops = ids
                .iter()
                .map(|id| samples::enqueue_message(*id, Arc::clone(&message)));
            driver.commit(ops.collect());
        }
        driver.store().close().unwrap();
        drop(driver);
        let before = resident_mib();
        let start = Instant::now();
        let store = open(directory.path(), Some(Durability::Os));
        let took = start.elapsed();
        let recovered = store.recover().unwrap();
        let queued: u64 = recovered
            .sessions
            .iter()
            .map(|session| session.queue_len)
            .sum();
        println!(
            "\nreopening with {queued} queued messages in {sessions} sessions: {took:.2?}, resident {before:.0} MiB before and {:.0} MiB after",
            resident_mib()
        );
        assert_eq!(queued as usize, messages / sessions * sessions);
    }
}

fn copy(message: &Arc<Message>) -> Arc<Message> {
    Arc::new(Message::clone(message))
}

fn open(path: &Path, durability: Option<Durability>) -> Arc<dyn Store> {
    let Some(durability) = durability else {
        return Arc::new(MemoryStore::new().unwrap());
    };
    let options = EmbeddedOptions {
        durability,
        ..EmbeddedOptions::default()
    };
    Arc::new(EmbeddedStore::open(path.join("store"), &options).unwrap())
}

/// Tells the driver that a submitter may go on.
struct Ready {
    submitter: usize,
    sender: SyncSender<(usize, u64)>,
}

impl Committed for Ready {
    fn committed(self: Box<Self>, appended: Vec<Appended>) {
        let first = appended.first().map_or(0, |done| done.seq);
        self.sender.try_send((self.submitter, first)).ok();
    }

    fn failed(self: Box<Self>, error: &StoreError) {
        panic!("{error}");
    }
}

struct Run {
    store: Arc<dyn Store>,
    sessions: Vec<SessionId>,
    batch: usize,
    message: Arc<Message>,
    sender: SyncSender<(usize, u64)>,
    receiver: Receiver<(usize, u64)>,
}

impl Run {
    fn new(store: Arc<dyn Store>, submitters: usize, batch: usize) -> Self {
        let driver = Driver::new(Arc::clone(&store));
        let sessions = (0..submitters)
            .map(|n| driver.new_session(&n.to_string()))
            .collect();
        let (sender, receiver) = sync_channel(2 * submitters);
        Self {
            store,
            sessions,
            batch,
            message: samples::message_on("sensors/hall/3/temperature", &[7; 150]),
            sender,
            receiver,
        }
    }

    fn submit(&self, submitter: usize, done: Option<u64>) {
        let session = self.sessions[submitter];
        let mut ops = Vec::with_capacity(2 * self.batch);
        for n in 0..self.batch as u64 {
            ops.push(samples::enqueue_message(session, Arc::clone(&self.message)));
            if let Some(first) = done {
                ops.push(Op::Dequeue {
                    session,
                    seq: first + n,
                });
            }
        }
        let ready = Ready {
            submitter,
            sender: self.sender.clone(),
        };
        self.store
            .submit(Batch::with_callback(ops, Box::new(ready)));
    }

    fn measure(&self, messages: usize) -> Cost {
        let batches = messages / self.batch;
        let cpu = Cpu::now();
        let start = Instant::now();
        let watch = self.store.watch();
        let mut rounds = 0_u64;
        let mut submitted = 0;
        for submitter in 0..self.sessions.len() {
            self.submit(submitter, None);
            submitted += 1;
        }
        let mut last = 0;
        for _ in 0..batches.max(submitted) {
            let (submitter, first) = self.receiver.recv().unwrap();
            let durable = *watch.borrow();
            rounds += u64::from(durable != last);
            last = durable;
            if submitted < batches {
                self.submit(submitter, Some(first));
                submitted += 1;
            }
        }
        let wall = start.elapsed().as_secs_f64();
        let cpu = cpu.elapsed();
        let messages = (submitted * self.batch) as f64;
        Cost {
            rate: messages / wall,
            writer: cpu.writer / messages,
            engine: cpu.engine / messages,
            all: cpu.all / messages,
            rounds: rounds as f64 / wall,
        }
    }
}

struct Cost {
    rate: f64,
    writer: f64,
    engine: f64,
    all: f64,
    rounds: f64,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:>10.0} {:>9.2} {:>9.2} {:>9.2} {:>9.0}",
            self.rate, self.writer, self.engine, self.all, self.rounds
        )
    }
}

/// CPU time in µs of this process's threads, by name.
#[derive(Default)]
struct Cpu {
    writer: f64,
    engine: f64,
    all: f64,
}

impl Cpu {
    fn now() -> Self {
        let mut cpu = Self::default();
        for task in fs::read_dir("/proc/self/task").unwrap() {
            let task = task.unwrap().path();
            // A thread may end between the two.
            let (Ok(name), Ok(times)) = (
                fs::read_to_string(task.join("comm")),
                fs::read_to_string(task.join("schedstat")),
            ) else {
                continue;
            };
            let nanos: f64 = times.split(' ').next().unwrap().parse().unwrap();
            let micros = nanos / 1000.0;
            cpu.all += micros;
            if ["store-writer\n", "store-memory\n"].contains(&name.as_str()) {
                cpu.writer += micros;
            } else if name.starts_with("fjall") {
                cpu.engine += micros;
            }
        }
        cpu
    }

    fn elapsed(&self) -> Self {
        let now = Self::now();
        Self {
            writer: now.writer - self.writer,
            engine: now.engine - self.engine,
            all: now.all - self.all,
        }
    }
}

fn resident_mib() -> f64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / f64::from(1 << 20)
}
