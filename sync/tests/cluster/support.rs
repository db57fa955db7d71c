//! Replicas over one model of Redis, in one thread and in virtual time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dunlin_protocol::QoS;
use dunlin_sync::cluster::testing::ModelRedis;
use dunlin_sync::cluster::{
    ClaimRequest, Claimed, Cluster, ClusterEvents, ClusterStore, EngineOptions, Epoch, Held,
    Relayed, ReleaseRequest, ReplicaId, Route, SessionEntry, TakenWill,
};
use dunlin_sync::testing::samples::message_on;
use dunlin_sync::{
    Appended, Batch, Committed, Delivery, Message, MessageParts, Op, SessionId, Store, StoreError,
    SubscriptionRecord, WillRecord,
};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Longest wait for anything, in virtual time.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// What a broker was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Relayed(String, Option<String>, String),
    Woken(SessionId, u64, String),
    Grown(SessionId, u64),
    LookAtQueues,
    QueuesRestored,
    Session(SessionId, String, Vec<String>),
    Owned(SessionId, ReplicaId),
    SessionGone(SessionId),
    Retained(String, String),
    RetainedGone(String),
    Routes(ReplicaId, Vec<(String, u8)>),
    Gone(ReplicaId),
    LetGo(String, Epoch),
    Fenced(SessionId),
    Will(String, Epoch),
    Redeliver(String, String),
    Suspended,
    Resumed(bool),
}

#[derive(Default)]
pub(crate) struct Recorder(Mutex<Vec<Told>>, Mutex<Vec<Held>>);

impl Recorder {
    fn note(&self, told: Told) {
        self.0.lock().push(told);
    }

    pub(crate) fn all(&self) -> Vec<Told> {
        self.0.lock().clone()
    }

    pub(crate) fn count(&self, which: impl Fn(&Told) -> bool) -> usize {
        self.0.lock().iter().filter(|told| which(told)).count()
    }

    /// Everything that is held is acknowledged.
    pub(crate) fn let_go(&self) {
        self.1.lock().clear();
    }

    pub(crate) fn has(&self, told: &Told) -> bool {
        self.0.lock().contains(told)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl ClusterEvents for Recorder {
    fn relayed(&self, messages: &[Relayed<'_>]) {
        for relayed in messages {
            self.note(Told::Relayed(
                relayed.message.topic.to_owned(),
                relayed.share.map(str::to_owned),
                text(relayed.message.payload),
            ));
        }
    }

    fn relayed_held(&self, messages: &[Relayed<'_>], held: Held) {
        self.relayed(messages);
        self.1.lock().push(held);
    }

    fn woken(&self, appended: Appended) {
        let payload = text(appended.message.payload());
        self.note(Told::Woken(appended.session, appended.seq, payload));
    }

    fn queue_grown(&self, session: SessionId, tail: u64) {
        self.note(Told::Grown(session, tail));
    }

    fn queues_may_have_grown(&self) {
        self.note(Told::LookAtQueues);
    }

    fn queues_restored(&self) {
        self.note(Told::QueuesRestored);
    }

    fn session_changed(&self, entry: &SessionEntry) {
        let filters = entry
            .subscriptions
            .iter()
            .map(|sub| sub.filter.to_string())
            .collect();
        self.note(Told::Session(
            entry.id,
            entry.client_id.to_string(),
            filters,
        ));
    }

    fn session_owned(&self, session: SessionId, owner: ReplicaId) {
        self.note(Told::Owned(session, owner));
    }

    fn session_deleted(&self, session: SessionId) {
        self.note(Told::SessionGone(session));
    }

    fn retained_changed(&self, message: Arc<Message>) {
        self.note(Told::Retained(
            message.topic().to_owned(),
            text(message.payload()),
        ));
    }

    fn retained_deleted(&self, topic: &str) {
        self.note(Told::RetainedGone(topic.to_owned()));
    }

    fn routes_changed(&self, replica: ReplicaId, changes: &[(Arc<str>, Route)]) {
        let changes = changes
            .iter()
            .map(|(filter, route)| (filter.to_string(), route.flags))
            .collect();
        self.note(Told::Routes(replica, changes));
    }

    fn replica_gone(&self, replica: ReplicaId) {
        self.note(Told::Gone(replica));
    }

    fn let_go(&self, client_id: &str, epoch: Epoch) {
        self.note(Told::LetGo(client_id.to_owned(), epoch));
    }

    fn fenced(&self, session: SessionId) {
        self.note(Told::Fenced(session));
    }

    fn will_due(&self, will: TakenWill) {
        let epoch = Epoch(will.record.epoch);
        self.note(Told::Will(will.record.client_id.to_string(), epoch));
    }

    fn redeliver(&self, share: &str, message: Arc<Message>, held: Held) {
        self.note(Told::Redeliver(share.to_owned(), text(message.payload())));
        self.1.lock().push(held);
    }

    fn suspended(&self, _: &str) {
        self.note(Told::Suspended);
    }

    fn resumed(&self, anew: bool) {
        self.note(Told::Resumed(anew));
    }
}

/// One replica.
pub(crate) struct Replica {
    pub(crate) store: Arc<ClusterStore>,
    pub(crate) told: Arc<Recorder>,
    /// What the faults of the model call it.
    pub(crate) link: usize,
}

struct Report(oneshot::Sender<Outcome>);

/// What became of a batch.
pub(crate) type Outcome = Result<Vec<Appended>, StoreError>;

impl Committed for Report {
    fn committed(self: Box<Self>, appended: Vec<Appended>) {
        self.0.send(Ok(appended)).ok();
    }

    fn failed(self: Box<Self>, error: &StoreError) {
        self.0.send(Err(error.clone())).ok();
    }
}

pub(crate) fn options(seed: u64) -> EngineOptions {
    EngineOptions {
        seed,
        ..EngineOptions::default()
    }
}

impl Replica {
    pub(crate) async fn open(redis: &ModelRedis, options: EngineOptions) -> Self {
        let backplane = redis.connect();
        let link = backplane.number();
        let store = ClusterStore::open(Arc::new(backplane), options, Handle::current())
            .await
            .unwrap();
        Self {
            store: Arc::new(store),
            told: Arc::default(),
            link,
        }
    }

    pub(crate) async fn start(redis: &ModelRedis, seed: u64) -> Self {
        Self::start_with(redis, options(seed)).await
    }

    pub(crate) async fn start_with(redis: &ModelRedis, options: EngineOptions) -> Self {
        let replica = Self::open(redis, options).await;
        let events: Arc<dyn ClusterEvents> = Arc::clone(&replica.told) as _;
        within(replica.store.start(events)).await.unwrap();
        replica
    }

    pub(crate) fn id(&self) -> ReplicaId {
        self.store.replica()
    }

    /// Submits without waiting.
    pub(crate) fn submit(&self, ops: Vec<Op>, barrier: bool) -> oneshot::Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        let mut batch = Batch::with_callback(ops, Box::new(Report(sender)));
        batch.barrier = barrier;
        self.store.submit(batch);
        receiver
    }

    /// Submits what is to be kept if it has to wait for long.
    pub(crate) fn keep(&self, ops: Vec<Op>) -> oneshot::Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        let mut batch = Batch::with_callback(ops, Box::new(Report(sender)));
        batch.keep = true;
        self.store.submit(batch);
        receiver
    }

    pub(crate) async fn commit(&self, ops: Vec<Op>) -> Vec<Appended> {
        within(self.submit(ops, false)).await.unwrap().unwrap()
    }

    /// Commits, and waits for the other replicas.
    pub(crate) async fn commit_all(&self, ops: Vec<Op>) -> Vec<Appended> {
        within(self.submit(ops, true)).await.unwrap().unwrap()
    }

    pub(crate) async fn claim(&self, client: &str, expiry_interval: u32) -> Claimed {
        within(self.store.claim(claim(client, expiry_interval)))
            .await
            .unwrap()
    }

    pub(crate) fn relay(&self, to: ReplicaId, topic: &str, payload: &str) {
        let message = message_on(topic, payload.as_bytes());
        let message = MessageParts {
            topic: message.topic(),
            properties: &[],
            payload: message.payload(),
            qos: QoS::AtMostOnce,
            retain: false,
            expires_at: None,
            received_at: 1,
            publisher: Some(Arc::from("publisher")),
            id: 1,
        };
        self.store.relay(
            to,
            &[Relayed {
                message,
                share: None,
            }],
        );
    }
}

/// `replicas` that know each other.
pub(crate) async fn cluster(redis: &ModelRedis, replicas: u64) -> Vec<Replica> {
    let mut all = Vec::new();
    for seed in 1..=replicas {
        all.push(Replica::start(redis, seed).await);
    }
    all
}

pub(crate) fn claim(client: &str, expiry_interval: u32) -> ClaimRequest {
    ClaimRequest {
        client_id: Arc::from(client),
        clean_start: false,
        expiry_interval,
        will: None,
    }
}

pub(crate) fn claim_with_will(client: &str, expiry_interval: u32, delay: u32) -> ClaimRequest {
    ClaimRequest {
        will: Some(WillRecord {
            client_id: Arc::from(client),
            session: None,
            epoch: 0,
            delay,
            due_at: None,
            expiry_interval: None,
            message: message_on("wills", client.as_bytes()),
        }),
        ..claim(client, expiry_interval)
    }
}

pub(crate) fn release(client: &str, claimed: &Claimed, expiry_interval: Option<u32>) -> Op {
    Op::ReleaseClaim(ReleaseRequest {
        client_id: Arc::from(client),
        epoch: claimed.epoch,
        session: claimed.session,
        expiry_interval,
        will_due_in: None,
    })
}

pub(crate) fn enqueue(session: SessionId, payload: &str) -> Op {
    Op::Enqueue {
        session,
        delivery: Delivery::plain(QoS::AtLeastOnce),
        message: message_on("t", payload.as_bytes()),
        once: None,
    }
}

pub(crate) fn retained(topic: &str, payload: &str) -> Op {
    Op::PutRetained(message_on(topic, payload.as_bytes()))
}

pub(crate) fn subscribe(session: SessionId, filter: &str) -> Op {
    Op::PutSubscription(
        session,
        SubscriptionRecord {
            filter: filter.into(),
            options: 1,
            identifier: None,
        },
    )
}

pub(crate) fn route(filter: &str, flags: u8, stamp: u64) -> Op {
    Op::PutRoute {
        filter: Arc::from(filter),
        route: Route { flags, members: 0 },
        stamp,
    }
}

/// Waits for a future, but not for ever.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LIMIT, future).await.unwrap()
}

/// Waits until something is so.
pub(crate) async fn until(what: impl Fn() -> bool) {
    within(async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Lets time pass.
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}
