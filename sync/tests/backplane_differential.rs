//! The model of Redis against the real one: the same requests, drawn by a seed, get the same answers and the same
//! announcements.
//!
//! `DIFFERENTIAL_SEEDS` (16) seeds are tried, from `DIFFERENTIAL_SEED` (1) on.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dunlin_sync::SessionId;
use dunlin_sync::cluster::redis::{RedisBackplane, RedisOptions};
use dunlin_sync::cluster::testing::ModelRedis;
use dunlin_sync::cluster::{
    AppendFate, Appending, Backplane, BackplaneEvent, Bucket, DueItem, Epoch, Head, RELEASED_ENTRY,
    ReleaseEnd, ReplicaId, Reply, Request, Route, WillFate,
};
use dunlin_sync::records::{Expect, PutOutcome, RecordKey, RecordPut, Table};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Requests of one seed.
const STEPS: u32 = 500;
/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(30);
/// Longer than any run: what is not due at once is not due.
const LONG_MS: u64 = 600_000;

// --- a real server

struct Server {
    child: Child,
    url: String,
    _dir: TempDir,
}

impl Server {
    fn start() -> Self {
        for _ in 0..5 {
            if let Some(server) = Self::try_start() {
                return server;
            }
        }
        panic!("redis-server does not start; `make deps` installs it");
    }

    fn try_start() -> Option<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port")
            .port();
        let dir = tempfile::tempdir().expect("a directory");
        let mut child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--dir"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts; `make deps` installs it");
        let deadline = Instant::now() + LIMIT;
        loop {
            if child.try_wait().expect("its state").is_some() {
                return None;
            }
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(Self {
                    child,
                    url: format!("redis://127.0.0.1:{port}"),
                    _dir: dir,
                });
            }
            assert!(Instant::now() < deadline, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

// --- one of the two

/// A backplane of a replica, and what it hears.
struct Side {
    backplane: Box<dyn Backplane>,
    events: Option<mpsc::Receiver<BackplaneEvent>>,
}

impl Side {
    async fn ask(&self, request: Request) -> Reply {
        let answer = self.backplane.execute(vec![request.clone()]);
        let answer = tokio::time::timeout(LIMIT, answer)
            .await
            .unwrap_or_else(|_| panic!("no answer to {request:?}"))
            .remove(0);
        answer.unwrap_or_else(|error| panic!("{request:?}: {error}"))
    }

    async fn listen(&mut self, replica: ReplicaId) {
        self.events = Some(self.backplane.listen(replica));
        loop {
            if self.event().await == BackplaneEvent::Listening {
                return;
            }
        }
    }

    async fn event(&mut self) -> BackplaneEvent {
        let events = self.events.as_mut().expect("it listens");
        tokio::time::timeout(LIMIT, events.recv())
            .await
            .expect("an event comes")
            .expect("the channel stands")
    }

    /// The frames of the channels up to this one.
    async fn frames_until(&mut self, mark: &Bytes) -> Vec<Bytes> {
        let mut frames = Vec::new();
        loop {
            if let BackplaneEvent::Frame(frame) = self.event().await {
                if frame == *mark {
                    return frames;
                }
                frames.push(frame);
            }
        }
    }
}

// --- what may differ

/// Which cases an answer is of: a comparison that never meets one of them shows nothing about it.
fn cases(reply: &Reply) -> Vec<&'static str> {
    match reply {
        Reply::Fenced => vec!["fenced"],
        Reply::Appended { seqs, .. } => seqs
            .iter()
            .map(|fate| match fate {
                AppendFate::At(_) => "appended",
                AppendFate::Repeated => "repeated",
                AppendFate::Full => "full",
                AppendFate::Gone => "gone",
            })
            .collect(),
        Reply::Claimed {
            present, old_will, ..
        } => {
            let mut cases = vec![if *present { "resumed" } else { "new" }];
            cases.extend(old_will.as_ref().map(|_| "old will"));
            cases
        }
        Reply::Due(due) => due
            .iter()
            .map(|item| match item {
                DueItem::Session(_) => "session due",
                DueItem::Will(_) => "will due",
                DueItem::Record { .. } => "record due",
            })
            .collect(),
        Reply::RecordsPut { outcomes, .. } => outcomes
            .iter()
            .map(|outcome| match outcome {
                PutOutcome::Done { revision: 0 } => "nothing to remove",
                PutOutcome::Done { .. } => "put",
                PutOutcome::Conflict { found: None } => "missing",
                PutOutcome::Conflict { .. } => "conflict",
            })
            .collect(),
        Reply::Records(records) if records.iter().any(Option::is_some) => vec!["record"],
        Reply::Flag(true) => vec!["yes"],
        Reply::Flag(false) => vec!["no"],
        Reply::Will(Some(_)) => vec!["will"],
        Reply::Queue(entries) if entries.iter().any(|(_, body)| body == RELEASED_ENTRY) => {
            vec!["released"]
        }
        Reply::Session(Some(fields)) if fields.tail > fields.head + fields.len => {
            vec!["dequeued out of order"]
        }
        _ => Vec::new(),
    }
}

const CASES: [&str; 24] = [
    "appended",
    "conflict",
    "missing",
    "nothing to remove",
    "put",
    "record",
    "record due",
    "dequeued out of order",
    "fenced",
    "full",
    "gone",
    "new",
    "no",
    "old will",
    "released",
    "repeated",
    "resumed",
    "session due",
    "expired",
    "not expired",
    "will",
    "will due",
    "yes",
    "announced",
];

/// Takes out of an answer what Redis does not promise: orders of sets and hashes, its clock.
fn normal(reply: Reply) -> Reply {
    match reply {
        Reply::Renewed {
            alive,
            lost,
            changed,
            live,
            lapsed,
            ..
        } => Reply::Renewed {
            alive,
            lost,
            changed,
            live,
            lapsed,
            now_ms: 0,
        },
        Reply::Registry(mut entries) => {
            for entry in &mut entries {
                entry.lease_ms = u64::from(entry.lease_ms > 0);
            }
            Reply::Registry(entries)
        }
        Reply::Clients(mut clients) => {
            clients.sort();
            Reply::Clients(clients)
        }
        Reply::Due(mut due) => {
            due.sort_by_key(|item| match item {
                DueItem::Session(session) => (0, session.0, None),
                DueItem::Will(epoch) => (1, epoch.0, None),
                DueItem::Record { code, key } => (2, u64::from(*code), Some(Arc::clone(key))),
            });
            Reply::Due(due)
        }
        Reply::RecordKeys(mut keys) => {
            keys.sort();
            Reply::RecordKeys(keys)
        }
        Reply::Wills(mut wills) => {
            wills.sort();
            Reply::Wills(wills)
        }
        Reply::Bucket {
            version,
            mut retained,
            mut sessions,
            mut owners,
        } => {
            retained.sort();
            sessions.sort();
            owners.sort_by(|one, other| one.client_id.cmp(&other.client_id));
            Reply::Bucket {
                version,
                retained,
                sessions,
                owners,
            }
        }
        Reply::Routes {
            version,
            mut routes,
        } => {
            routes.sort_by(|one, other| one.0.cmp(&other.0));
            Reply::Routes { version, routes }
        }
        // Positions are times: only their order counts.
        Reply::Inbox(frames) => Reply::Inbox(
            (0..)
                .zip(frames)
                .map(|(n, (_, frame))| ((0, n), frame))
                .collect(),
        ),
        Reply::Claimed {
            epoch,
            session,
            present,
            previous,
            mut fields,
            record,
            old_will,
        } => {
            fields.inbound.sort_unstable();
            Reply::Claimed {
                epoch,
                session,
                present,
                previous,
                fields,
                record,
                old_will,
            }
        }
        Reply::Session(mut fields) => {
            if let Some(fields) = &mut fields {
                fields.inbound.sort_unstable();
            }
            Reply::Session(fields)
        }
        other => other,
    }
}

// --- requests by a seed

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[usize::try_from(self.below(list.len() as u64)).expect("an index")].clone()
    }

    fn bytes(&mut self) -> Bytes {
        let len = 1 + self.below(40);
        // Never a hole's own mark, which no encoded entry is.
        let mut bytes = vec![1];
        bytes.extend((0..len).map(|_| self.next() as u8));
        bytes.into()
    }
}

/// Draws requests that have something to do with each other.
struct Draw {
    random: Random,
    replicas: Vec<ReplicaId>,
    clients: Vec<Arc<str>>,
    topics: Vec<Arc<str>>,
    sessions: Vec<SessionId>,
    next_session: u64,
    next_nonce: u64,
    /// By replica: appends and versions of routes.
    next_append: u64,
    next_routes: Vec<u64>,
    next_count: u64,
}

impl Draw {
    fn new(seed: u64, replicas: Vec<ReplicaId>) -> Self {
        let long = "x".repeat(65_535);
        let names = ["a", "client", "ü/∑", "with:colon", "sp ace\u{1}", &long];
        Self {
            random: Random(seed),
            next_routes: vec![1; replicas.len()],
            replicas,
            clients: names.iter().copied().map(Arc::from).collect(),
            topics: ["t", "a/b/c", "{b1}", "ü", &long]
                .iter()
                .copied()
                .map(Arc::from)
                .collect(),
            sessions: Vec::new(),
            next_session: 1,
            next_nonce: 1,
            next_append: 1,
            next_count: 1,
        }
    }

    fn head(&mut self) -> Head {
        let mut head = *b"DN\x01\x01\0\0\0\0\0\0\0\0";
        head[4] = self.random.next() as u8;
        head
    }

    fn replica(&mut self) -> ReplicaId {
        if self.random.one_in(20) {
            return ReplicaId(99);
        }
        self.known_replica()
    }

    fn known_replica(&mut self) -> ReplicaId {
        let replicas = self.replicas.clone();
        self.random.pick(&replicas)
    }

    fn client(&mut self) -> Arc<str> {
        let clients = self.clients.clone();
        self.random.pick(&clients)
    }

    /// Of a client, or another one: whatever is in it.
    fn bucket(&mut self) -> Bucket {
        if self.random.one_in(5) {
            let topics = self.topics.clone();
            return Bucket::of(&self.random.pick(&topics));
        }
        Bucket::of(&self.client())
    }

    fn session(&mut self) -> SessionId {
        let sessions = self.sessions.clone();
        if sessions.is_empty() || self.random.one_in(30) {
            return SessionId(1_000_000 + self.random.below(512));
        }
        // Mostly the newest ones: those live.
        let from = sessions.len().saturating_sub(8);
        self.random.pick(&sessions[from..])
    }

    fn epoch(&mut self) -> Epoch {
        if self.random.one_in(8) {
            return self.foreign_epoch();
        }
        Epoch(1 + self.random.below(24))
    }

    /// Of what is put without a claim: no claim gets that far.
    fn foreign_epoch(&mut self) -> Epoch {
        Epoch(1_000_000 + self.random.below(3))
    }

    fn record(&mut self) -> Bytes {
        let mut record = vec![1, u8::from(self.random.one_in(2))];
        record.extend_from_slice(&self.random.bytes());
        record.into()
    }

    fn seqs(&mut self) -> Vec<u64> {
        let mut seqs: Vec<u64> = (0..self.random.below(5))
            .map(|_| self.random.below(30))
            .collect();
        seqs.sort_unstable();
        seqs.dedup();
        seqs
    }

    fn nonce(&mut self) -> u64 {
        self.next_nonce += 1;
        self.next_nonce
    }

    fn claim(&mut self) -> Request {
        let client_id = self.client();
        let fresh = Bucket::of(&client_id).session(self.next_session);
        self.next_session += 1;
        let expiry_interval = self.random.pick(&[0, 100, 100, u32::MAX]);
        if expiry_interval > 0 {
            self.sessions.push(fresh);
        }
        Request::Claim {
            client_id,
            replica: self.replica(),
            nonce: self.nonce(),
            clean_start: self.random.one_in(4),
            expiry_interval,
            fresh,
            record: self.record(),
            will: self
                .random
                .one_in(2)
                .then(|| (self.random.pick(&[0, 0, 50]), self.random.bytes())),
            will_grace_ms: self.random.pick(&[0, LONG_MS]),
            head: self.head(),
        }
    }

    fn release(&mut self) -> Request {
        Request::Release {
            client_id: self.client(),
            epoch: self.epoch(),
            end: match self.random.below(4) {
                0 => ReleaseEnd::Ends,
                1 => ReleaseEnd::Waits { expiry_interval: 0 },
                2 => ReleaseEnd::Waits {
                    expiry_interval: u32::MAX,
                },
                _ => ReleaseEnd::Waits {
                    expiry_interval: 500,
                },
            },
            will: match self.random.below(3) {
                0 => WillFate::Dropped,
                1 => WillFate::DueIn(0),
                _ => WillFate::DueIn(LONG_MS),
            },
            head: self.head(),
        }
    }

    fn append(&mut self) -> Request {
        let entries = (0..1 + self.random.below(4))
            .map(|_| {
                self.next_append += 1;
                let again = self.random.below(4);
                self.next_count += 1;
                Appending {
                    number: self.next_append - if again == 0 { again } else { 0 },
                    once: self.random.one_in(3).then(|| {
                        let publisher = self.random.pick(&[1, 2, u64::MAX - 7]);
                        let high = self.random.pick(&[0, 1 << 40, u64::MAX << 20]);
                        (publisher, high + self.next_count % 50)
                    }),
                    body: self.random.bytes(),
                }
            })
            .collect();
        Request::Append {
            session: self.session(),
            origin: self.replica(),
            max_messages: self.random.pick(&[3, 20, 1_000]),
            max_bytes: self.random.pick(&[100, 100_000]),
            entries,
        }
    }

    fn settle(&mut self) -> Request {
        let mut ids: Vec<u16> = (0..self.random.below(4))
            .map(|_| self.random.below(6) as u16 + 1)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let forget = ids.split_off(ids.len() / 2);
        Request::Settle {
            session: self.session(),
            epoch: if self.random.one_in(3) {
                Some(self.epoch())
            } else {
                None
            },
            dequeue: self.seqs(),
            release: self.seqs(),
            inbound_put: ids.into_iter().map(|id| (id, self.random.next())).collect(),
            inbound_delete: forget,
        }
    }

    fn routes(&mut self) -> Request {
        let at = usize::try_from(self.random.below(self.replicas.len() as u64)).expect("an index");
        let mut version = self.next_routes[at];
        if version > 1 && self.random.one_in(5) {
            version -= 1;
        } else {
            self.next_routes[at] += 1;
        }
        let mut filters = self.topics.clone();
        filters.truncate(1 + usize::try_from(self.random.below(4)).expect("a count"));
        Request::PutRoutes {
            replica: self.replicas[at],
            version,
            changes: filters
                .into_iter()
                .map(|filter| {
                    let route = Route {
                        flags: self.random.below(16) as u8,
                        members: self.random.next() as u16,
                    };
                    (filter, route)
                })
                .collect(),
            head: self.head(),
        }
    }

    fn record_key(&mut self) -> RecordKey {
        let table = self.random.pick(&[Table::Device, Table::Serial]);
        let names = ["a", "d-1", "with:colon", "ü/∑"];
        RecordKey::new(table, self.random.pick(&names))
    }

    /// Of one bucket, each once.
    fn puts(&mut self) -> Request {
        let first = self.record_key();
        let mut keys = vec![first.clone()];
        if self.random.one_in(3) {
            let table = match first.table {
                Table::Device => Table::Serial,
                _ => Table::Device,
            };
            keys.push(RecordKey::new(table, Arc::clone(&first.key)));
        }
        let puts = keys.into_iter().map(|key| RecordPut {
            key,
            value: (!self.random.one_in(4)).then(|| self.random.bytes()),
            expect: match self.random.below(6) {
                0 => Expect::Absent,
                1 => Expect::Revision(self.random.below(200)),
                _ => Expect::Any,
            },
            // Over on both, or on none: their clocks differ.
            expires_at_ms: self.random.pick(&[None, None, Some(1), Some(1 << 52)]),
            hint: self.random.next() as u8,
        });
        Request::PutRecords {
            bucket: first.bucket(),
            puts: puts.collect(),
            name: self.nonce(),
            head: self.head(),
        }
    }

    /// What begins as a message does: with an end that is over on both, on none, or without one. Their clocks differ.
    fn message(&mut self) -> Bytes {
        let mut body = vec![1, self.random.pick(&[0, 8, 8, 12])];
        body.extend([7; 16]);
        let ends: u64 = self.random.pick(&[1, 1 << 52]);
        body.extend(ends.to_le_bytes());
        body.extend_from_slice(&self.random.bytes());
        body.into()
    }

    fn of_records(&mut self) -> Request {
        let key = self.record_key();
        match self.random.below(8) {
            0..4 => self.puts(),
            4 => Request::GetRecords {
                bucket: key.bucket(),
                keys: vec![key.clone(), key],
            },
            5 => Request::RecordKeys {
                bucket: key.bucket(),
                table: key.table,
            },
            6 => Request::Due {
                bucket: key.bucket(),
                limit: 1_000,
            },
            _ => Request::ExpireRecord {
                key,
                head: self.head(),
            },
        }
    }

    fn next(&mut self) -> Request {
        let limit = 1_000;
        if self.random.one_in(8) {
            return self.of_records();
        }
        match self.random.below(60) {
            0..10 => self.claim(),
            10..14 => self.release(),
            14 => Request::Orphan {
                client_id: self.client(),
                replica: self.replica(),
                head: self.head(),
            },
            15 => Request::Owned {
                bucket: self.bucket(),
                replica: self.replica(),
                limit,
            },
            16 | 17 => Request::Due {
                bucket: self.bucket(),
                limit,
            },
            18 => Request::Expire {
                session: self.session(),
                head: self.head(),
            },
            19 => Request::GetWill {
                bucket: self.bucket(),
                epoch: self.epoch(),
            },
            20 => Request::PutWill {
                bucket: self.bucket(),
                epoch: self.foreign_epoch(),
                delay: 7,
                body: self.random.bytes(),
            },
            21 => Request::Wills {
                bucket: self.bucket(),
            },
            22 => Request::DeleteWill {
                bucket: self.bucket(),
                epoch: self.foreign_epoch(),
            },
            23 => {
                let client_id = self.client();
                let session = Bucket::of(&client_id).session(self.next_session);
                self.next_session += 1;
                self.sessions.push(session);
                Request::PutSession {
                    session,
                    client_id,
                    expiry_interval: 50,
                    epoch: self.foreign_epoch(),
                    record: self.record(),
                    head: self.head(),
                }
            }
            24 | 25 => Request::PutRecord {
                session: self.session(),
                epoch: self.epoch(),
                record: self.record(),
                head: self.head(),
            },
            26 => Request::DeleteSession {
                session: self.session(),
                epoch: self
                    .random
                    .one_in(2)
                    .then(|| Epoch(1 + self.random.below(24))),
                head: self.head(),
            },
            27..37 => self.append(),
            37..42 => self.settle(),
            42 | 43 => Request::ReadQueue {
                session: self.session(),
                from: self.random.below(10),
                limit: self.random.pick(&[1, 3, 1_000]),
            },
            44 => Request::GetSession {
                session: self.session(),
            },
            45 | 46 => {
                let topics = self.topics.clone();
                Request::PutRetained {
                    topic: self.random.pick(&topics),
                    body: self.message(),
                    head: self.head(),
                }
            }
            47 => {
                let topics = self.topics.clone();
                let topic = self.random.pick(&topics);
                let head = self.head();
                match self.random.one_in(2) {
                    true => Request::DeleteRetained { topic, head },
                    false => Request::ExpireRetained { topic, head },
                }
            }
            48 => Request::Versions,
            49 | 50 => Request::LoadBucket {
                bucket: self.bucket(),
            },
            51 | 52 => self.routes(),
            53 => Request::LoadRoutes {
                replica: self.replica(),
            },
            54 => Request::Inbox {
                to: self.replica(),
                frame: self.random.bytes(),
            },
            55 => Request::ReadInbox {
                replica: self.replica(),
                after: (0, 0),
                limit: self.random.pick(&[1, 100]),
            },
            56 => Request::Publish {
                to: self.random.one_in(2).then(|| self.replicas[0]),
                frame: self.random.bytes(),
            },
            57 => self.register(),
            58 => Request::Numbers {
                count: 1 + self.random.below(5),
            },
            _ => Request::Lead {
                replica: self.replica(),
                lease_ms: LONG_MS,
            },
        }
    }

    fn register(&mut self) -> Request {
        match self.random.below(6) {
            0 => Request::Join {
                nonce: self.nonce(),
                info: self.random.bytes(),
                lease_ms: LONG_MS,
            },
            // One that has joined: for Redis it has lost whoever is not there and was not reaped.
            1 | 2 => Request::Renew {
                replica: self.known_replica(),
                lease_ms: LONG_MS,
                info: self.random.one_in(2).then(|| self.random.bytes()),
            },
            3 => Request::Registry,
            4 => Request::Reap {
                replica: self.replica(),
                force: false,
            },
            // One that joined later, or nobody: those that are listened to stay.
            _ => {
                let replica = ReplicaId(3 + self.random.below(4));
                if self.random.one_in(2) {
                    Request::DropReplica {
                        replica,
                        from: self.random.one_in(2).then_some((0, 0)),
                    }
                } else {
                    Request::Reap {
                        replica,
                        force: true,
                    }
                }
            }
        }
    }
}

// --- the comparison

struct Pair {
    model: Side,
    real: Side,
    history: Vec<String>,
    met: BTreeSet<&'static str>,
    seed: u64,
}

impl Pair {
    async fn ask(&mut self, request: Request) -> Reply {
        let mut line = format!("{request:?}");
        line.truncate(400);
        self.history.push(line);
        let removes = matches!(request, Request::ExpireRetained { .. });
        let model = normal(self.model.ask(request.clone()).await);
        let real = normal(self.real.ask(request).await);
        if model != real {
            let from = self.history.len().saturating_sub(12);
            panic!(
                "DIFFERENTIAL_SEED={} after {} requests, of which the last are\n  {}\nthe model says {model:?}\nRedis says     {real:?}",
                self.seed,
                self.history.len(),
                self.history[from..].join("\n  "),
            );
        }
        self.met.extend(cases(&model));
        if removes {
            self.met.insert(match model {
                Reply::Flag(true) => "expired",
                _ => "not expired",
            });
        }
        model
    }

    async fn compare_frames(&mut self) {
        let mark = Bytes::from(format!("mark {}", self.history.len()));
        self.ask(Request::Publish {
            to: None,
            frame: mark.clone(),
        })
        .await;
        let model = self.model.frames_until(&mark).await;
        let real = self.real.frames_until(&mark).await;
        assert_eq!(
            model.len(),
            real.len(),
            "seed {}: announcements of {:#?}",
            self.seed,
            self.history
        );
        if !model.is_empty() {
            self.met.insert("announced");
        }
        for (n, (model, real)) in (0..).zip(model.iter().zip(&real)) {
            assert_eq!(
                model, real,
                "seed {}: announcement {n} of {:#?}",
                self.seed, self.history
            );
        }
    }
}

async fn run(seed: u64, url: &str) -> BTreeSet<&'static str> {
    let model = ModelRedis::new(seed);
    let mut options = RedisOptions::new(url);
    options.prefix = format!("differential-{seed}");
    let real = RedisBackplane::start(options, Handle::current()).expect("good options");
    let mut pair = Pair {
        model: Side {
            backplane: Box::new(model.connect()),
            events: None,
        },
        real: Side {
            backplane: Box::new(real),
            events: None,
        },
        history: Vec::new(),
        met: BTreeSet::new(),
        seed,
    };
    let mut replicas = Vec::new();
    for nonce in [u64::MAX, u64::MAX - 1] {
        let join = Request::Join {
            nonce,
            info: Bytes::from_static(b"info"),
            lease_ms: LONG_MS,
        };
        let Reply::Joined { replica } = pair.ask(join).await else {
            panic!("no number");
        };
        replicas.push(replica);
    }
    pair.model.listen(replicas[0]).await;
    pair.real.listen(replicas[0]).await;
    let mut draw = Draw::new(seed, replicas);
    let mut last = None;
    for step in 0..STEPS {
        let request = match last.take() {
            // As after a lost connection.
            Some(request) if draw.random.one_in(6) => request,
            // Chance alone hardly ever looks before somebody claims the session again.
            Some(Request::Release {
                client_id,
                end: ReleaseEnd::Waits { expiry_interval: 0 },
                ..
            }) if !draw.random.one_in(8) => Request::Due {
                bucket: Bucket::of(&client_id),
                limit: 1000,
            },
            _ => draw.next(),
        };
        last = Some(request.clone());
        pair.ask(request).await;
        if step % 50 == 49 {
            pair.compare_frames().await;
        }
    }
    // Everything that is there.
    for bucket in Bucket::all() {
        pair.ask(Request::LoadBucket { bucket }).await;
        pair.ask(Request::Wills { bucket }).await;
        for table in [Table::Device, Table::Serial] {
            pair.ask(Request::RecordKeys { bucket, table }).await;
        }
    }
    for session in draw.sessions {
        pair.ask(Request::GetSession { session }).await;
        pair.ask(Request::ReadQueue {
            session,
            from: 0,
            limit: 10_000,
        })
        .await;
    }
    pair.ask(Request::Versions).await;
    pair.real.backplane.close().await;
    pair.met
}

fn environment(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[tokio::test]
async fn the_model_and_redis_give_the_same_answers_and_announcements() {
    let server = Server::start();
    let first = environment("DIFFERENTIAL_SEED", 1);
    let mut met = BTreeSet::new();
    for seed in first..first + environment("DIFFERENTIAL_SEEDS", 24) {
        met.extend(run(seed, &server.url).await);
    }
    let missed: Vec<_> = CASES.iter().filter(|case| !met.contains(*case)).collect();
    assert!(missed.is_empty(), "never met: {missed:?}");
}
