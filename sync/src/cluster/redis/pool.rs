//! What the connections of one backplane share: options, routing, and how it is.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};

use super::connect::{Access, ConnectError, Server};
use super::encode::{Encoder, Shape};
use super::job::{Batch, Early, Job, Outcome, Whose};
use super::link;
use super::names::Names;
use super::node::{Handback, Node};
use super::options::{RedisError, RedisOptions};
use super::ring::Kept;
use super::sentinel::Sentinels;
use super::url::{Address, Mode, Url};
use crate::cluster::{BackplaneError, BackplaneStatus, Request};

/// Where commands go.
#[derive(Default)]
pub(super) struct Routes {
    pub(super) nodes: Vec<Arc<Node>>,
    /// Index into `nodes` by slot; empty: everything goes to the first.
    pub(super) slots: Vec<u16>,
    /// Jobs are being dealt out anew: they gather in `held`.
    pub(super) paused: bool,
    pub(super) held: Vec<Job>,
    /// Requests from before it was known what Redis is.
    early: Vec<Early>,
    next_order: u64,
    /// Jobs up to this one were given up.
    abandoned: u64,
    closed: bool,
}

impl Routes {
    pub(super) fn node_of(&self, slot: u16) -> Option<&Arc<Node>> {
        let index = self.slots.get(usize::from(slot)).copied().unwrap_or(0);
        self.nodes
            .get(usize::from(index))
            .or_else(|| self.nodes.first())
    }
}

/// Shared by the tasks of a backplane.
pub(super) struct Core {
    pub(super) options: RedisOptions,
    pub(super) url: Url,
    pub(super) access: Access,
    pub(super) handle: Handle,
    /// Known as soon as it is known what Redis is.
    names: OnceLock<Names>,
    pub(super) routes: Mutex<Routes>,
    pub(super) closed: watch::Sender<bool>,
    /// Counts servers that were met anew.
    pub(super) failovers: watch::Sender<u64>,
    /// How often Redis was emptied while it ran.
    pub(super) emptied: AtomicU64,
    /// Somebody listens, and says when failovers are made good.
    pub(super) gated: AtomicBool,
    /// So many of them are.
    pub(super) made_good: AtomicU64,
    /// Something speaks for another distribution of slots.
    pub(super) topology: Notify,
    sentinels: Sentinels,
    last_error: Mutex<Option<String>>,
}

impl Core {
    pub(super) fn new(options: RedisOptions, handle: Handle) -> Result<Arc<Self>, RedisError> {
        let url = Url::parse(&options.url)?;
        if options.prefix.is_empty() || options.prefix.contains(['{', '}']) {
            return Err(RedisError::Prefix(options.prefix));
        }
        let access = Access::new(&options, &url)?;
        let addresses = url.addresses.clone();
        Ok(Arc::new(Self {
            options,
            url,
            access,
            handle,
            names: OnceLock::new(),
            routes: Mutex::default(),
            closed: watch::Sender::new(false),
            failovers: watch::Sender::new(0),
            emptied: AtomicU64::new(0),
            gated: AtomicBool::new(false),
            made_good: AtomicU64::new(0),
            topology: Notify::new(),
            sentinels: Sentinels::new(addresses),
            last_error: Mutex::new(None),
        }))
    }

    /// Pauses between attempts.
    pub(super) fn pauses(&self) -> ExponentialBackoff {
        ExponentialBuilder::new()
            .with_min_delay(self.options.backoff_min)
            .with_max_delay(self.options.backoff_max)
            .with_jitter()
            .without_max_times()
            .build()
    }

    /// Finds out what Redis is, and starts the connections. Returns when it is closed.
    pub(super) async fn run(self: Arc<Self>) {
        let mut closed = self.closed.subscribe();
        tokio::select! {
            () = self.work() => {}
            _ = closed.wait_for(|closed| *closed) => {}
        }
        self.end();
    }

    async fn work(self: &Arc<Self>) {
        match &self.url.mode {
            Mode::Sentinel(_) => {
                let node = self.open_single(None);
                self.follow_sentinels(&node).await;
            }
            Mode::Cluster => self.open_cluster().await,
            Mode::Single => match self.is_cluster().await {
                true => self.open_cluster().await,
                false => {
                    self.open_single(self.url.addresses.first().cloned());
                    std::future::pending::<()>().await;
                }
            },
        }
    }

    /// Asks the server until it has answered.
    async fn is_cluster(&self) -> bool {
        let mut pauses = self.pauses();
        loop {
            match self.ask_what_it_is().await {
                Ok(cluster) => return cluster,
                Err(error) => {
                    tracing::warn!("no connection to redis: {error}");
                    self.failed(error.to_string());
                }
            }
            let pause = pauses.next().unwrap_or(self.options.backoff_max);
            tokio::time::sleep(pause).await;
        }
    }

    async fn ask_what_it_is(&self) -> Result<bool, ConnectError> {
        let Some(address) = self.url.addresses.first() else {
            return Ok(false);
        };
        let mut wire = self.access.connect(address).await?;
        match self
            .in_time(&wire.address.clone(), Server::of(&mut wire))
            .await
        {
            // A node of a cluster need not be a master to say where the masters are.
            Err(ConnectError::NotMaster { cluster: true, .. }) => Ok(true),
            Err(error) => Err(error),
            Ok(server) => Ok(server.cluster),
        }
    }

    pub(super) async fn in_time<T>(
        &self,
        address: &str,
        work: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        tokio::time::timeout(self.options.connect_timeout, work)
            .await
            .unwrap_or_else(|_| Err(ConnectError::Timeout(address.to_owned())))
    }

    fn open_single(self: &Arc<Self>, address: Option<Address>) -> Arc<Node> {
        let node = self.start_node(address);
        self.begin(false, vec![Arc::clone(&node)], Vec::new());
        node
    }

    pub(super) fn start_node(self: &Arc<Self>, address: Option<Address>) -> Arc<Node> {
        let node = Arc::new(Node::new(address));
        let link = link::run(Arc::clone(self), Arc::clone(&node));
        drop(self.handle.spawn(link));
        node
    }

    /// It is known what Redis is: requests can be encoded.
    pub(super) fn begin(&self, cluster: bool, nodes: Vec<Arc<Node>>, slots: Vec<u16>) {
        let names = self
            .names
            .get_or_init(|| Names::new(&self.options.prefix, cluster));
        // Whoever finds nodes finds names.
        let mut routes = self.routes.lock();
        routes.nodes = nodes;
        routes.slots = slots;
        let early = std::mem::take(&mut routes.early);
        let jobs = early
            .into_iter()
            .flat_map(|early| jobs_of(names, &early.request, &early.batch, early.index))
            .collect();
        deal(&mut routes, jobs);
    }

    /// For requests, when it is known what Redis is.
    pub(super) fn names(&self) -> Option<&Names> {
        self.names.get()
    }

    pub(super) fn encoder(&self) -> Encoder<'_> {
        Encoder(
            self.names
                .get_or_init(|| Names::new(&self.options.prefix, false)),
        )
    }

    /// Takes requests in.
    pub(super) fn submit(&self, requests: Vec<Request>) -> oneshot::Receiver<Vec<Outcome>> {
        let mut routes = self.routes.lock();
        if routes.nodes.is_empty() {
            return submit_early(&mut routes, requests);
        }
        drop(routes);
        let encoder = self.encoder();
        let commands: Vec<_> = requests
            .iter()
            .map(|request| encoder.encode(request))
            .collect();
        let count = commands.iter().map(Vec::len).sum();
        let (batch, told) = Batch::new(requests.len(), count);
        let mut jobs = Vec::with_capacity(count);
        for (index, commands) in commands.into_iter().enumerate() {
            for command in commands {
                let batch = Arc::clone(&batch);
                jobs.push(Job::new(command, Whose::Call { batch, index }));
            }
        }
        self.route(jobs);
        told
    }

    /// Sends jobs to where their slots are.
    pub(super) fn route(&self, jobs: Vec<Job>) {
        let mut routes = self.routes.lock();
        deal(&mut routes, jobs);
    }

    /// Gives up everything that has no answer.
    pub(super) fn abandon(&self) {
        let mut routes = self.routes.lock();
        routes.abandoned = routes.next_order;
        let last = routes.abandoned;
        let early = std::mem::take(&mut routes.early);
        let held = std::mem::take(&mut routes.held);
        let nodes = routes.nodes.clone();
        drop(routes);
        for early in early {
            let lost = Err(BackplaneError::Lost);
            early.batch.answer(early.index, Shape::Done, lost);
        }
        for job in held {
            job.finish(Err(BackplaneError::Lost));
        }
        for node in nodes {
            node.abandon(last);
        }
    }

    /// All connect anew, and write again what was acknowledged lately.
    pub(super) fn lost_everything(&self) {
        self.emptied.fetch_add(1, Ordering::AcqRel);
        for node in &self.routes.lock().nodes {
            node.moved.store(true, Ordering::Release);
            node.wake.notify_one();
        }
    }

    /// So many failovers were made good by all replicas: appends go on.
    pub(super) fn made_good(&self, failovers: u64) {
        self.made_good.fetch_max(failovers, Ordering::AcqRel);
        for node in &self.routes.lock().nodes {
            node.wake.notify_one();
        }
    }

    /// The master's address, in the words of the Sentinels.
    pub(super) async fn master(&self) -> Result<Address, ConnectError> {
        let name = match &self.url.mode {
            Mode::Sentinel(name) => name,
            _ => "",
        };
        self.sentinels.master(&self.access, name).await
    }

    /// Has the connection made anew when the Sentinels name another master.
    async fn follow_sentinels(&self, node: &Node) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let at = node.at.lock().clone();
            if !node.connected.load(Ordering::Acquire) {
                continue;
            }
            if let (Some(at), Ok(master)) = (at, self.master().await)
                && at != master.to_string()
            {
                tracing::warn!(from = at, to = %master, "the sentinels name another master");
                node.moved.store(true, Ordering::Release);
                node.wake.notify_one();
            }
        }
    }

    /// Remembers the last failure, for the status.
    pub(super) fn failed(&self, error: String) {
        *self.last_error.lock() = Some(error);
    }

    pub(super) fn status(&self) -> BackplaneStatus {
        let routes = self.routes.lock();
        let nodes = &routes.nodes;
        let sum = |of: fn(&Node) -> u64| nodes.iter().map(|node| of(node)).sum::<u64>();
        let connected = |node: &Arc<Node>| node.connected.load(Ordering::Acquire);
        BackplaneStatus {
            connected: !nodes.is_empty() && nodes.iter().all(connected),
            full: nodes.iter().any(|node| node.full.load(Ordering::Acquire)),
            last_error: self.last_error.lock().clone(),
            reconnects: sum(|node| node.reconnects.load(Ordering::Relaxed)),
            failovers: *self.failovers.borrow(),
            pending: sum(Node::pending) + (routes.early.len() + routes.held.len()) as u64,
            masters: nodes
                .iter()
                .filter(|node| connected(node))
                .filter_map(|node| node.at.lock().clone())
                .collect(),
            ping_us: nodes
                .iter()
                .map(|node| node.ping_us.load(Ordering::Relaxed))
                .max()
                .unwrap_or(0),
            memory_used: sum(|node| node.memory().0),
            memory_limit: sum(|node| node.memory().1),
            memory_per_mille: nodes
                .iter()
                .filter_map(|node| per_mille(node.memory()))
                .max()
                .unwrap_or(0),
        }
    }

    /// Answers what no connection has taken.
    fn end(&self) {
        let mut routes = self.routes.lock();
        routes.closed = true;
        routes.early.clear();
        let held = std::mem::take(&mut routes.held);
        drop(routes);
        for job in held {
            job.finish(Err(BackplaneError::Closed));
        }
    }
}

/// Keeps requests until it is known what Redis is. Under the lock under which that becomes known: none
/// may come too late to be dealt out.
/// Used of allowed memory in thousandths; `None` without a bound.
fn per_mille((used, limit): (u64, u64)) -> Option<u32> {
    let share = used.saturating_mul(1000).checked_div(limit)?;
    Some(u32::try_from(share).unwrap_or(u32::MAX))
}

fn submit_early(routes: &mut Routes, requests: Vec<Request>) -> oneshot::Receiver<Vec<Outcome>> {
    let (batch, told) = Batch::new(requests.len(), requests.len());
    if routes.closed {
        // Nobody tells the batch anything any more: that says that it is closed.
        return told;
    }
    for (index, request) in requests.into_iter().enumerate() {
        let batch = Arc::clone(&batch);
        routes.early.push(Early {
            request,
            batch,
            index,
        });
    }
    told
}

/// Jobs of one request.
fn jobs_of(names: &Names, request: &Request, batch: &Arc<Batch>, index: usize) -> Vec<Job> {
    let commands = Encoder(names).encode(request);
    batch.expect(commands.len().saturating_sub(1));
    commands
        .into_iter()
        .map(|command| {
            let batch = Arc::clone(batch);
            Job::new(command, Whose::Call { batch, index })
        })
        .collect()
}

/// Numbers jobs and hands them to the nodes of their slots.
pub(super) fn deal(routes: &mut Routes, mut jobs: Vec<Job>) {
    for job in &mut jobs {
        routes.next_order += 1;
        job.order = routes.next_order;
    }
    if routes.closed {
        for job in jobs {
            job.finish(Err(BackplaneError::Closed));
        }
    } else if routes.paused {
        routes.held.append(&mut jobs);
    } else if routes.slots.is_empty() {
        if let Some(node) = routes.nodes.first() {
            node.push(jobs);
        }
    } else {
        spread(routes, jobs);
    }
}

/// Hands numbered jobs to the nodes of their slots.
fn spread(routes: &Routes, jobs: Vec<Job>) {
    let mut by_node: Vec<Vec<Job>> = Vec::new();
    by_node.resize_with(routes.nodes.len(), Vec::new);
    for job in jobs {
        if let Some(jobs) = share_of(&routes.slots, job.command.slot, &mut by_node) {
            jobs.push(job);
        }
    }
    for (node, jobs) in routes.nodes.iter().zip(by_node) {
        if !jobs.is_empty() {
            node.push(jobs);
        }
    }
}

/// Deals out what connections have given back, over other slots: jobs in their order, and kept writes to
/// the masters that have their slots now.
pub(super) fn deal_again(
    routes: &mut Routes,
    back: Handback,
    (old, nodes): (&[Arc<Node>], Vec<Arc<Node>>),
    slots: Vec<u16>,
) {
    let before = std::mem::replace(&mut routes.slots, slots);
    routes.nodes = nodes;
    routes.paused = false;
    let mut jobs = back.jobs;
    jobs.append(&mut routes.held);
    jobs.sort_by_key(|job| job.order);
    let (abandoned, jobs): (Vec<_>, Vec<_>) = jobs
        .into_iter()
        .partition(|job| job.order <= routes.abandoned);
    for job in abandoned {
        job.finish(Err(BackplaneError::Lost));
    }
    let mut shares: Vec<(Vec<Job>, Vec<Kept>, Vec<Kept>)> = Vec::new();
    shares.resize_with(routes.nodes.len(), Default::default);
    for job in jobs {
        if let Some(share) = share_of(&routes.slots, job.command.slot, &mut shares) {
            share.0.push(job);
        }
    }
    for kept in back.kept {
        let slot = kept.command.slot;
        let was = before
            .get(usize::from(slot))
            .and_then(|index| old.get(usize::from(*index)));
        let stays = match (was, routes.node_of(slot)) {
            (Some(was), Some(is)) => Arc::ptr_eq(was, is),
            _ => false,
        };
        if let Some(share) = share_of(&routes.slots, slot, &mut shares) {
            match stays {
                true => share.1.push(kept),
                false => share.2.push(kept),
            }
        }
    }
    for (node, (jobs, kept, adopted)) in routes.nodes.iter().zip(shares) {
        node.resume(jobs, kept, adopted);
    }
}

/// What belongs to the master of a slot; to any, if the slot has none now.
fn share_of<'a, T>(slots: &[u16], slot: u16, shares: &'a mut [T]) -> Option<&'a mut T> {
    let index = slots.get(usize::from(slot)).copied().unwrap_or(0);
    match usize::from(index) < shares.len() {
        true => shares.get_mut(usize::from(index)),
        false => shares.first_mut(),
    }
}
